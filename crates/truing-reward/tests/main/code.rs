//! The reward for code, with a real interpreter: right and wrong programs, and every trick we know.
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "says why a test was skipped, and what was found"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use truing_reward::sandbox::{Level, Limits};
use truing_reward::verifiers::code::{Code, CodeConfig};
use truing_reward::{Completion, RewardConfig, RewardFunction as _, Rewards};
use truing_types::{Conversation, FinishReason, RowOrigin, Unscored, UnscoredReason};

use crate::sandbox::{child, has, lacking};

/// Scores pairs of a text and a row, all at once.
fn score_all(program: &Path, config: CodeConfig, pairs: &[(&str, &Value)]) -> Vec<Result<f64, Unscored>> {
    let origin = RowOrigin { source: "code.jsonl".into(), line: 1 };
    let prompt = Conversation::default();
    let completions: Vec<Completion<'_>> = pairs
        .iter()
        .map(|&(text, columns)| Completion {
            prompt: &prompt,
            text,
            n_tokens: 1,
            finish_reason: FinishReason::EndOfTurn,
            columns: columns.as_object().unwrap(),
            origin: &origin,
        })
        .collect();
    Code::new(config, program.to_owned()).unwrap().score(&completions)
}

fn score_with(program: &Path, config: CodeConfig, text: &str, columns: &Value) -> Result<f64, Unscored> {
    score_all(program, config, &[(text, columns)]).remove(0)
}

fn score(text: &str, columns: &Value) -> Result<f64, Unscored> {
    score_with(&child(), quick(), text, columns)
}

/// Short of processor time only, so that a busy machine changes nothing.
fn quick() -> CodeConfig {
    let limits = Limits { wall_millis: 60_000, cpu_secs: 1, ..Limits::default() };
    CodeConfig { limits, ..CodeConfig::default() }
}

fn is_ready() -> bool {
    let has_python = Command::new("python3").arg("--version").output().is_ok_and(|out| out.status.success());
    if !has_python {
        eprintln!("skipped: there is no python3");
    }
    has_python && has(Level::Namespaces)
}

/// What an interpreter runs when it starts, such as a `sitecustomize.py` beside it, runs inside of the sandbox, also
/// when it is only asked where it is.
#[test]
fn the_interpreter_is_looked_at_in_the_sandbox_too() {
    if !is_ready() {
        return;
    }
    // Programs have a `/tmp` of their own.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let environment = folder.path().join("environment");
    let run = |program: &Path, arguments: &[&str]| Command::new(program).args(arguments).output().unwrap();
    let made =
        run(Path::new("python3"), &["-m", "venv", "--without-pip", &environment.display().to_string()]);
    if !made.status.success() {
        eprintln!("skipped: there is no module venv");
        return;
    }
    let interpreter = environment.join("bin/python3");
    let asked = ["-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"];
    let packages = String::from_utf8(run(&interpreter, &asked).stdout).unwrap();
    let escaped = folder.path().join("escaped");
    let writes = format!("try:\n    open({escaped:?}, 'w').write('x')\nexcept OSError:\n    pass\n");
    std::fs::write(Path::new(packages.trim()).join("sitecustomize.py"), writes).unwrap();
    let config = CodeConfig { interpreter: interpreter.display().to_string(), ..quick() };
    let found = score_with(&child(), config, "def f(): return 1", &asserts(&["assert f() == 1"]));
    assert!(!escaped.exists() && found == Ok(1.0), "{found:?}");
    run(&interpreter, &["-I", "-c", ""]);
    assert!(escaped.exists(), "it would write outside of it");
}

fn asserts(lines: &[&str]) -> Value {
    json!({ "test_list": lines })
}

#[test]
fn tests_decide() {
    if !is_ready() {
        return;
    }
    let columns = asserts(&["assert double(2) == 4", "assert double('ab') == 'abab'"]);
    let right = "def double(x):\n    return 2 * x\n";
    let check = |text: &str, expect: f64| assert_eq!(score(text, &columns), Ok(expect), "{text}");
    check(right, 1.0);
    check(&format!("Here:\n```python\n{right}```\n"), 1.0);
    check(&format!("{right}print('x' * 10_000_000)"), 1.0);
    check(&format!("{right}import sys; sys.stdin.read()"), 1.0);
    check("def double(x):\n    return x\n", 0.0);
    check("def double(x):\n    return 4\n", 0.0);
    check("def triple(x):\n    return 4\n", 0.0);
    check("not Python", 0.0);
    check("", 0.0);
}

#[test]
fn values_of_every_kind_come_over() {
    if !is_ready() {
        return;
    }
    let same = "def same(x): return x";
    let class = "class Box:\n    def __init__(self, n): self.n = n\n    def __len__(self): return self.n\n    \
                 def grow(self): self.n += 1; return self\n    def __eq__(self, other): return self.n == other.n\n";
    let twice = "def twice(f, x): return f(f(x))\ndef add(x): return x + 1";
    let pair =
        "import collections\nPair = collections.namedtuple('Pair', 'x y')\ndef pair(): return Pair(1, 2)";
    let half = "from fractions import Fraction\ndef half(): return Fraction(1, 2)";
    let catch = "def catch():\n    try: fail()\n    except KeyError as error: return error.args[0]\n\
                 assert catch() == 'k'";
    let cases = [
        (same, "assert same([1, (2.5, None), {'a': {3}}, b'x']) == [1, (2.5, None), {'a': {3}}, b'x']"),
        (same, "assert same(10 ** 5000) == 10 ** 5000"),
        (same, "assert str(same(float('inf'))) == 'inf' and same(1 + 2j) == 1 + 2j"),
        (same, "assert list(same(x * x for x in range(3))) == [0, 1, 4]"),
        (same, "assert same(int) is int"),
        (half, "assert half() * 2 == 1 and str(half()) == '1/2'"),
        ("def squares(n):\n    for i in range(n): yield i * i", "assert list(squares(3)) == [0, 1, 4]"),
        (twice, "assert twice(lambda x: x + 1, 1) == 3"),
        (twice, "assert twice(lambda x: add(x), 1) == 3"),
        (twice, "assert twice(add, 1) == 3"),
        ("def put(xs, x): xs.append(x)", "assert [put(xs := [1], 2), xs] == [None, [1, 2]]"),
        (pair, "assert pair().y == 2 and pair() == (1, 2)"),
        (class, "assert len(Box(2).grow()) == 3"),
        (class, "assert Box(1) == Box(1)"),
        (class, "assert isinstance(Box(1), Box)"),
        ("def fail(): raise KeyError('k')", catch),
        // A program's only function may be called like a built-in one.
        ("def sum(a, b): return a - b", "assert sum(3, 1) == 2"),
        ("import math", "assert math.floor(2.5) == 2"),
    ];
    for (program, test) in cases {
        // The same test turned round must fail, or it proves nothing.
        let (columns, turned) = (asserts(&[test]), asserts(&[&test.replacen("assert ", "assert not ", 1)]));
        let found = score_all(&child(), quick(), &[(program, &columns), (program, &turned)]);
        assert_eq!(found, [Ok(1.0), Ok(0.0)], "{program} {test}");
    }
}

#[test]
fn no_trick_passes() {
    if !is_ready() {
        return;
    }
    let columns = asserts(&["assert secret(3) == 'needle-' + '5f1c9a'", "assert abs(secret(0) - 1) < 9"]);
    let tricks = [
        ("leaves early", "import sys; sys.exit(0)"),
        ("leaves early in a call", "def secret(x):\n    import sys; sys.exit(0)"),
        ("ends the process", "import os; os._exit(0)"),
        ("ends the process in a call", "def secret(x):\n    import os; os._exit(0)"),
        (
            "ends it by a signal",
            "def secret(x):\n    import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        ),
        (
            "ends all others",
            "import os, signal\nfor p in (-1, 0, 1, 2, 3, 4, os.getppid()):\
             \n    try: os.kill(p, signal.SIGINT)\n    except OSError: pass",
        ),
        (
            "replaces AssertionError",
            "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {'__new__': lambda *a: None})",
        ),
        (
            "replaces built-in functions",
            "import builtins\nbuiltins.abs = builtins.exec = builtins.compile = lambda *a: 0\n\
             def abs(x): return 0\ndef secret(x): return 0",
        ),
        (
            "equals everything",
            "class Yes(str):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\
             \n    def __abs__(self): return 0\n    def __lt__(self, o): return True\n    __hash__ = None\n\
             def secret(x): return Yes()",
        ),
        (
            "equals everything as an object",
            "class Yes:\n    def __eq__(self, o): return True\n    def __sub__(self, o): return self\
             \n    def __abs__(self): return 0\n    def __lt__(self, o): return True\n\
             def secret(x): return Yes()",
        ),
        ("prints the verdict", "def secret(x):\n    print('{\"passed\": true}', flush=True)"),
        (
            "writes the verdict everywhere",
            "import os\ndef secret(x):\n    for fd in range(64):\
             \n        try: os.write(fd, b'{\"passed\": true}\\n')\n        except OSError: pass\
             \n    os._exit(0)",
        ),
        (
            "answers before it is asked",
            "import os\nfor fd in range(64):\n    try: os.write(fd, b'{\"value\": true}\\n' * 9)\
             \n    except OSError: pass",
        ),
        (
            "answers out of form",
            "import os\nfor fd in range(64):\n    try: os.write(fd, \
             b'[]\\n{}\\n{\"value\": [\"object\"]}\\n')\n    except OSError: pass",
        ),
        (
            "hands over names",
            "import os\nfor fd in range(64):\n    try: os.write(fd, b'{\"value\": null}\\n\
             {\"value\": [\"dict\", [[\"secret\", 1], [\"abs\", 1], [\"__builtins__\", [\"dict\", []]]]]}\\n')\
             \n    except OSError: pass",
        ),
        ("ends the tests' loop", "def secret(x): raise StopIteration"),
        ("asserts itself", "def secret(x): raise AssertionError"),
        (
            "reads memory",
            "import re\ndef secret(x):\n    for name in ('/proc/self/mem', '/proc/self/environ', \
             '/proc/self/cmdline', '/proc/1/environ', '/proc/2/fd/0'):\n        try:\
             \n            found = re.search('needle-[0-9a-f]{6}', open(name, errors='replace').read())\
             \n            if found: return found.group()\n        except OSError: pass",
        ),
        (
            "reads its descriptors",
            "import os, re\ndef secret(x):\n    for fd in range(64):\
             \n        try: os.set_blocking(fd, False); text = os.read(fd, 1 << 16).decode(errors='replace')\
             \n        except OSError: continue\n        found = re.search('needle-[0-9a-f]{6}', text)\
             \n        if found: return found.group()",
        ),
        (
            "searches frames and objects",
            "import gc, re, sys\ndef secret(x):\
             \n    seen = [repr(o)[:100000] for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]\
             \n    frame = sys._getframe()\n    while frame:\
             \n        seen += [repr(frame.f_locals), repr(frame.f_globals)]\n        frame = frame.f_back\
             \n    found = re.search('needle-. [+] .[0-9a-f]{6}', ' '.join(seen))\
             \n    return eval(found.group()) if found else None",
        ),
        (
            "leaves files for the tests",
            "import os\nfor name in ('json.py', 'ast.py', 'sitecustomize.py', 'decimal.py'):\
             \n    open('/tmp/' + name, 'w').write('import os; os.write(1, b\\'{\"passed\": true}\\'); \
             os._exit(0)')",
        ),
        (
            "changes its parent's limits",
            "import os, resource\nfor p in (1, 2, 3, 4):\
             \n    try: resource.prlimit(p, resource.RLIMIT_NOFILE, (0, 0))\
             \n    except (OSError, ValueError): pass",
        ),
        ("forks", "import os\nwhile True: os.fork()"),
        ("starts a process", "import subprocess\nsubprocess.run(['/bin/true'])"),
        ("takes memory", "x = bytearray(4 << 30)"),
        ("takes time", "while True: pass"),
        ("takes time in a call", "def secret(x):\n    while True: pass"),
        ("talks to the network", "import socket; socket.socket()"),
        ("writes to the system", "open('/usr/x', 'w')"),
        ("reads the users", "open('/etc/passwd')"),
    ];
    // What all of them lack: the one program that knows.
    let knows = "def secret(x): return 'needle-5f1c9a' if x else 3";
    assert_eq!(score(knows, &columns), Ok(1.0));
    let loop_over =
        asserts(&["assert all(answer == 'needle-' + '5f1c9a' for answer in map(secret, [3, 4]))"]);
    assert_eq!(score(knows, &loop_over), Ok(1.0));
    let programs = tricks.map(|(_, trick)| format!("def secret(x): return 2\n{trick}\n"));
    // None fails for being no Python at all.
    let compiled: Vec<String> =
        programs.iter().map(|program| format!("compile({}, 'trick', 'exec')", json!(program))).collect();
    let nothing = asserts(&["assert True"]);
    let pairs: Vec<_> = compiled.iter().map(|program| (program.as_str(), &nothing)).collect();
    assert!(score_all(&child(), quick(), &pairs).iter().all(|found| *found == Ok(1.0)));
    for columns in [&columns, &loop_over] {
        let pairs: Vec<_> = programs.iter().map(|program| (program.as_str(), columns)).collect();
        for ((name, _), found) in tricks.iter().zip(score_all(&child(), quick(), &pairs)) {
            assert_eq!(found, Ok(0.0), "{name}");
        }
    }
}

#[test]
fn threads_are_counted() {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        eprintln!("skipped: the kernel does not count the superuser's threads");
        return;
    }
    if !is_ready() {
        return;
    }
    let many = "import threading, time\ndef f():\n    threading.stack_size(1 << 16)\n    n = 0\n    try:\n        \
                while n < 99: threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); n += 1\n    \
                except RuntimeError: pass\n    return n\n";
    let columns = asserts(&["assert 4 < f() < 20"]);
    let limits = Limits { processes: 20, ..quick().limits };
    assert_eq!(score_with(&child(), CodeConfig { limits, ..quick() }, many, &columns), Ok(1.0));
}

#[test]
fn helpers_and_modules_of_the_tests_are_their_own() {
    if !is_ready() {
        return;
    }
    let columns = json!({
        "prompt": "def value(x):\n    return x * x - 2\n\ndef root():\n    \"\"\"A root of value.\"\"\"\n",
        "test": "def check(candidate):\n    assert math.fabs(value(candidate())) < 1e-3\n",
        "entry_point": "root",
    });
    let right = "    return 2 ** 0.5\n";
    assert_eq!(score(right, &columns), Ok(1.0));
    assert_eq!(score("    return 2\n", &columns), Ok(0.0));
    let fakes = "def value(x): return 0\nclass math:\n    fabs = lambda x: 0\ndef root():\n    return 2\n";
    assert_eq!(score(fakes, &columns), Ok(0.0));
    assert_eq!(
        score(&format!("import math\n{}", fakes.replace("return 2", "return 2 ** 0.5")), &columns),
        Ok(1.0)
    );
    let functions =
        json!({"tests": "def test_one():\n    assert f(1) == 1\ndef test_two():\n    assert f(2) == 1\n"});
    let config = CodeConfig { tests_column: Some("tests".into()), ..quick() };
    let with_functions = |text: &str| score_with(&child(), config.clone(), text, &functions);
    assert_eq!(with_functions("def f(x): return 1"), Ok(1.0));
    assert_eq!(with_functions("def f(x): return x"), Ok(0.0));
}

#[test]
fn what_is_not_the_programs_fault_is_unscored() {
    if !is_ready() {
        return;
    }
    let right = "def f(x):\n    return x\n";
    let reason = |columns: Value| score(right, &columns).unwrap_err();
    assert_eq!(
        reason(json!({})).to_string(),
        "missing_reference: code.jsonl:1: the row has no `test` and no `test_list`"
    );
    for tests in [json!(3), json!([]), json!([1])] {
        let unscored = reason(json!({ "test_list": tests }));
        assert_eq!(unscored.reason, UnscoredReason::BadReference, "{unscored}");
    }
    for tests in ["assert f(", "import no_such_module", "class A: pass\nf(A())", "import sys; sys.exit(0)"] {
        let unscored = reason(asserts(&[tests]));
        assert_eq!(unscored.reason, UnscoredReason::BadReference, "{tests}: {unscored}");
    }
    let columns = asserts(&["assert f(1) == 1"]);
    let of = |config: CodeConfig, text: &str| {
        score_with(&child(), config, text, &columns).map_err(|error| error.reason)
    };
    let strict = CodeConfig { limits_are_unscored: true, ..quick() };
    assert_eq!(of(strict.clone(), "while True: pass"), Err(UnscoredReason::LimitReached));
    assert_eq!(of(strict.clone(), "import os; os.abort()"), Err(UnscoredReason::LimitReached));
    assert_eq!(of(strict, "import os; os._exit(1)"), Ok(0.0));
    let absent = CodeConfig { interpreter: "no-such-interpreter".into(), ..CodeConfig::default() };
    assert_eq!(of(absent, right), Err(UnscoredReason::NoSandbox));
    let starved = Limits { memory_bytes: 4 << 20, ..Limits::default() };
    let starved = of(CodeConfig { limits: starved, ..CodeConfig::default() }, right);
    assert_eq!(starved, Err(UnscoredReason::Failed));
}

#[test]
fn code_is_refused_without_isolation_unless_told() {
    if !is_ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bare = lacking(&folder, "no-namespaces no-landlock");
    let (right, columns) = ("def f(x):\n    return x\n", asserts(&["assert f(1) == 1"]));
    let unscored = score_with(&bare, quick(), right, &columns).unwrap_err();
    assert_eq!(unscored.reason, UnscoredReason::NoSandbox);
    assert!(unscored.detail.contains("namespaces: ") && unscored.detail.contains("Landlock: "), "{unscored}");
    let told = CodeConfig { allow_unsandboxed: true, ..quick() };
    assert_eq!(score_with(&bare, told.clone(), right, &columns), Ok(1.0));
    assert_eq!(score_with(&bare, told, "import os; os._exit(0)", &columns), Ok(0.0));
    if has(Level::Landlock) {
        let folder = tempfile::tempdir().unwrap();
        let landlock = lacking(&folder, "no-namespaces");
        assert_eq!(score_with(&landlock, quick(), right, &columns), Ok(1.0));
        let reads = "def f(x):\n    return len(open('/etc/passwd').read()) > 0\n";
        assert_eq!(score_with(&landlock, quick(), reads, &columns), Ok(0.0));
    }
}

#[test]
fn a_recipe_asks_for_code() {
    let recipe = json!([{"kind": {"code": {"tests_column": "unit", "limits": {"wall_millis": 60000}}}}]);
    let configs: Vec<RewardConfig> = serde_json::from_value(recipe).unwrap();
    let mut rewards = Rewards::new(&configs, Some(&child())).unwrap();
    let none = json!([{"kind": {"code": {"workers": 0}}}]);
    let none: Vec<RewardConfig> = serde_json::from_value(none).unwrap();
    assert_eq!(
        Rewards::check(&none).unwrap_err().to_string(),
        "reward `code`: `workers` is 0, expected at least 1"
    );
    if !is_ready() {
        return;
    }
    let columns = json!({"unit": "assert f(2) == 3"});
    let (origin, prompt) = (RowOrigin { source: "code.jsonl".into(), line: 1 }, Conversation::default());
    let completion = Completion {
        prompt: &prompt,
        text: "def f(x): return x + 1",
        n_tokens: 1,
        finish_reason: FinishReason::EndOfTurn,
        columns: columns.as_object().unwrap(),
        origin: &origin,
    };
    let scored = rewards.score(&[completion, Completion { text: "f = 1", ..completion }, completion]);
    let totals: Vec<_> = scored.into_iter().map(|scored| scored.total).collect();
    assert_eq!(totals, [Ok(1.0), Ok(0.0), Ok(1.0)]);
}

#[test]
fn canonical_solutions_pass_and_broken_ones_fail() {
    let Some(shared) = std::env::var_os("TRUING_TEST_SHARED").map(PathBuf::from) else {
        eprintln!("skipped: TRUING_TEST_SHARED is not set");
        return;
    };
    if !is_ready() {
        return;
    }
    let limits = Limits { wall_millis: 60_000, ..Limits::default() };
    let patient = CodeConfig { limits, ..CodeConfig::default() };
    for (file, solution) in [("humaneval.jsonl", "canonical_solution"), ("mbpp.jsonl", "code")] {
        let text = std::fs::read_to_string(shared.join("data/code").join(file)).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let broken = if file == "mbpp.jsonl" { "pass" } else { "    return NotImplemented\n" };
        let right = rows.iter().map(|row| (row[solution].as_str().unwrap(), row));
        // Wrong ones cost as much; a part of them will do.
        let pairs: Vec<_> = right.chain(rows.iter().step_by(10).map(|row| (broken, row))).collect();
        let mut wrong = Vec::new();
        for (i, found) in score_all(&child(), patient.clone(), &pairs).into_iter().enumerate() {
            let expect = if i < rows.len() { 1.0 } else { 0.0 };
            if found != Ok(expect) {
                wrong.push(format!("{file} {}: {found:?}, not {expect}", pairs[i].1["task_id"]));
            }
        }
        println!("{file}: {} of {} right", pairs.len() - wrong.len(), pairs.len());
        assert_eq!(wrong, Vec::<String>::new());
    }
}
