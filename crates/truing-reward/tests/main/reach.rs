//! What a sandboxed program can do to other processes and to memory that no limit counts: nothing, with namespaces and
//! without. Each attempt is made by a real program, and first outside of the sandbox, where it has to get through.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "says why a test was skipped, and what was found"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use truing_reward::sandbox::{Ending, Launcher, Level, Limits, Output};

use crate::sandbox::{child, has, lacking};

/// Makes system calls by number and says what came of each: `[result, errno]`. What was created is removed again.
const MAKE_CALLS: &str = r"
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
request = json.load(sys.stdin)
memory = ctypes.create_string_buffer(4096)
reader, writer = os.pipe()
words = {'memory': ctypes.addressof(memory), 'parent': os.getppid(), 'own': os.getpid(), 'pipe': reader}
words.update(request['words'])
found, kept = {}, []
for name, number, *arguments in request['calls']:
    values = []
    for argument in arguments:
        if isinstance(argument, str) and argument.startswith('text:'):
            kept.append(ctypes.create_string_buffer(argument[5:].encode()))
            argument = ctypes.addressof(kept[-1])
        values.append(ctypes.c_long(words.get(argument, argument)))
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *values)
    found[name] = [result, ctypes.get_errno()]
    undo = request['undo'].get(name)
    if undo and result >= 0:
        libc.syscall(*(ctypes.c_long(result if part == 'result' else part) for part in undo))
print(json.dumps(found))
";

/// The interpreter, and the folders that it needs.
struct Python {
    program: String,
    readable: Vec<PathBuf>,
}

impl Python {
    fn find() -> Option<Self> {
        Self::of("python3")
    }

    fn of(program: &str) -> Option<Self> {
        let question = "import ctypes, sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')";
        let output = Command::new(program).args(["-I", "-c", question]).output().ok();
        let Some(output) = output.filter(|output| output.status.success()) else {
            eprintln!("skipped: there is no {program} with ctypes");
            return None;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        let program = lines.next().unwrap().to_owned();
        let readable = lines.map(PathBuf::from).filter(|path| !path.starts_with("/usr")).collect();
        Some(Self { program, readable })
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Vec<String> {
        let fixed = [self.program.as_str(), "-I", "-B", "-c", script];
        fixed.iter().chain(arguments).map(|part| (*part).to_owned()).collect()
    }

    fn outside(&self, script: &str, arguments: &[&str], input: &str) -> (bool, String) {
        use std::io::Write as _;
        let command = self.command(script, arguments);
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

/// The levels of this machine, with a sandbox at each. The folder has to outlive them.
fn sandboxes(python: &Python, folder: &tempfile::TempDir) -> Vec<(Level, Launcher)> {
    let limits = Limits { wall_millis: 60_000, ..Limits::default() };
    let mut found = Vec::new();
    if has(Level::Namespaces) {
        found.push((Level::Namespaces, Launcher::new(child(), limits.clone())));
    }
    if has(Level::Landlock) {
        let launcher = Launcher::new(lacking(folder, "no-namespaces"), limits);
        assert_eq!(launcher.isolation().level, Level::Landlock);
        found.push((Level::Landlock, launcher));
    }
    for (_, launcher) in &mut found {
        launcher.readable.clone_from(&python.readable);
    }
    found
}

/// A process of this user that waits to be reached.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn limits(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/limits", self.id())).unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Name, number and arguments of each attempt. Where nothing refuses a call, the kernel allows it, or finds an argument
/// wrong.
fn attempts() -> Vec<Value> {
    let create = libc::IPC_CREAT | 0o600;
    vec![
        // Limits, priority, scheduling and processors of another process
        json!(["read limits", libc::SYS_prlimit64, "victim", libc::RLIMIT_NOFILE, 0, "memory"]),
        json!(["read limits of the parent", libc::SYS_prlimit64, "parent", libc::RLIMIT_NOFILE, 0, "memory"]),
        json!(["lower limits", libc::SYS_prlimit64, "other", libc::RLIMIT_CPU, "memory", 0]),
        json!(["sched_setaffinity", libc::SYS_sched_setaffinity, "other", 8, 1]),
        json!(["sched_setscheduler", libc::SYS_sched_setscheduler, "other", 0, 1]),
        json!(["sched_setparam", libc::SYS_sched_setparam, "other", 1]),
        json!(["sched_setattr", libc::SYS_sched_setattr, "other", 1, 0]),
        json!(["setpriority", libc::SYS_setpriority, 0, "other", 0]),
        json!(["setpriority of a group", libc::SYS_setpriority, libc::PRIO_PGRP, "other", 0]),
        json!(["ioprio_set", libc::SYS_ioprio_set, 1, "other", 0x6000]),
        json!(["ioprio_set of a user", libc::SYS_ioprio_set, 3, "other", 0x6000]),
        json!(["get_robust_list", libc::SYS_get_robust_list, "victim", "memory", "memory"]),
        json!(["migrate_pages", libc::SYS_migrate_pages, "other", 0, 0, 0]),
        json!(["move_pages", libc::SYS_move_pages, "other", 0, 0, 0, 0, 0]),
        json!(["PR_SCHED_CORE", libc::SYS_prctl, libc::PR_SCHED_CORE, 99, 0, 0, 0]),
        // Signals
        json!(["kill", libc::SYS_kill, "victim", 0]),
        json!(["kill the group", libc::SYS_kill, 0, 0]),
        json!(["tgkill", libc::SYS_tgkill, "victim", "victim", 0]),
        json!(["tkill", libc::SYS_tkill, "victim", 0]),
        json!(["pidfd_open", libc::SYS_pidfd_open, "victim", 0]),
        json!(["F_SETOWN", libc::SYS_fcntl, "pipe", libc::F_SETOWN, "victim"]),
        json!(["F_SETOWN_EX", libc::SYS_fcntl, "pipe", 15, "memory"]),
        json!(["F_SETSIG", libc::SYS_fcntl, "pipe", 10, 0]),
        json!(["FIOASYNC", libc::SYS_ioctl, "pipe", 0x5452, "memory"]),
        json!(["PR_SET_PDEATHSIG", libc::SYS_prctl, libc::PR_SET_PDEATHSIG, 0, 0, 0, 0]),
        // Shared memory, semaphores and queues
        json!(["shmget", libc::SYS_shmget, libc::IPC_PRIVATE, 4096, create]),
        json!(["shmat", libc::SYS_shmat, -1, 0, 0]),
        json!(["shmdt", libc::SYS_shmdt, 1]),
        json!(["shmctl", libc::SYS_shmctl, -1, libc::IPC_STAT, "memory"]),
        json!(["msgget", libc::SYS_msgget, libc::IPC_PRIVATE, create]),
        json!(["msgsnd", libc::SYS_msgsnd, -1, "memory", 0, 0]),
        json!(["msgrcv", libc::SYS_msgrcv, -1, "memory", 0, 0, 0]),
        json!(["msgctl", libc::SYS_msgctl, -1, libc::IPC_STAT, "memory"]),
        json!(["semget", libc::SYS_semget, libc::IPC_PRIVATE, 1, create]),
        json!(["semop", libc::SYS_semop, -1, "memory", 1]),
        json!(["semtimedop", libc::SYS_semtimedop, -1, "memory", 1, 0]),
        json!(["semctl", libc::SYS_semctl, -1, 0, libc::IPC_STAT, "memory"]),
        json!(["mq_open", libc::SYS_mq_open, "text:no-such-queue", 0, 0, 0]),
        json!(["mq_unlink", libc::SYS_mq_unlink, "text:no-such-queue"]),
        json!(["memfd_create", libc::SYS_memfd_create, "text:memory", 0]),
        json!(["memfd_secret", libc::SYS_memfd_secret, 99]),
        // Files that others use
        json!(["F_SETLEASE", libc::SYS_fcntl, "pipe", libc::F_SETLEASE, libc::F_UNLCK]),
        json!(["F_NOTIFY", libc::SYS_fcntl, "pipe", libc::F_NOTIFY, 0]),
        json!(["inotify_init1", libc::SYS_inotify_init1, 0]),
        json!(["statmount", 457, 0, 0, 0, 0]),
        json!(["listmount", 458, 0, 0, 0, 0]),
        json!(["sync", libc::SYS_syncfs, -1]),
    ]
}

/// `other` is a process number that no process has: what gets through changes nothing.
fn request(victim: &Victim) -> String {
    let remove = |call: i64| json!([call, "result", libc::IPC_RMID, 0]);
    let undo = json!({
        "shmget": remove(libc::SYS_shmctl),
        "msgget": remove(libc::SYS_msgctl),
        "semget": [libc::SYS_semctl, "result", 0, libc::IPC_RMID],
    });
    let words = json!({ "victim": victim.id(), "other": 4_194_303 });
    json!({ "calls": attempts(), "undo": undo, "words": words }).to_string()
}

fn ran(output: &Output) -> &str {
    assert_eq!(output.ending, Ending::Succeeded, "{output:?}");
    output.stdout.trim()
}

#[test]
fn no_call_reaches_another_process_or_uncounted_memory() {
    let Some(python) = Python::find() else { return };
    let victim = Victim::start();
    let request = request(&victim);
    let refused = [libc::EPERM, libc::ENOSYS];
    type Answers = BTreeMap<String, (i64, i32)>;
    let (is_done, text) = python.outside(MAKE_CALLS, &[], &request);
    assert!(is_done, "{text}");
    let outside: Answers = serde_json::from_str(&text).unwrap();
    // This kernel may lack a call; all others get through, so a refusal inside is the sandbox's.
    let lacking: Vec<&String> = outside
        .iter()
        .filter(|(_, (result, errno))| *result < 0 && refused.contains(errno))
        .map(|(name, _)| name)
        .collect();
    println!("{} attempts, not possible here outside of a sandbox: {lacking:?}", outside.len());
    assert!(4 * lacking.len() <= outside.len(), "{lacking:?}");
    let folder = tempfile::tempdir().unwrap();
    for (level, launcher) in sandboxes(&python, &folder) {
        let output = launcher.run(&python.command(MAKE_CALLS, &[]), &request).unwrap();
        let inside: Answers = serde_json::from_str(ran(&output)).unwrap();
        assert_eq!(inside.len(), attempts().len());
        for (name, (result, errno)) in inside {
            assert!(result == -1 && errno == libc::EPERM, "{level:?}, {name}: {result}, errno {errno}");
        }
    }
}

#[test]
fn another_process_keeps_its_limits() {
    let Some(python) = Python::find() else { return };
    let lower = "import resource, sys\nresource.prlimit(int(sys.argv[1]), resource.RLIMIT_NOFILE, (3, 3))";
    let folder = tempfile::tempdir().unwrap();
    for (level, launcher) in sandboxes(&python, &folder) {
        let victim = Victim::start();
        let (id, before) = (victim.id().to_string(), victim.limits());
        let output = launcher.run(&python.command(lower, &[&id]), "").unwrap();
        assert_eq!(output.ending, Ending::Failed, "{level:?}: {output:?}");
        assert!(output.stderr.contains("PermissionError"), "{level:?}: {output:?}");
        assert_eq!(victim.limits(), before, "{level:?}");
        let (is_done, _) = python.outside(lower, &[&id], "");
        assert!(is_done && victim.limits() != before, "outside of the sandbox it works");
    }
}

#[test]
fn no_signal_is_sent_by_way_of_a_descriptor() {
    let Some(python) = Python::find() else { return };
    // A pipe tells its owner by a signal that it can be read; most programs end by that signal.
    let send = "import fcntl, os, sys\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\n\
                fcntl.fcntl(r, fcntl.F_SETOWN, int(sys.argv[1]))\nos.write(w, b'x')";
    let folder = tempfile::tempdir().unwrap();
    for (level, launcher) in sandboxes(&python, &folder) {
        let mut victim = Victim::start();
        let id = victim.id().to_string();
        let output = launcher.run(&python.command(send, &[&id]), "").unwrap();
        assert_eq!(output.ending, Ending::Failed, "{level:?}: {output:?}");
        assert!(victim.is_alive(), "{level:?}");
        let (is_done, _) = python.outside(send, &[&id], "");
        assert!(is_done, "{level:?}");
        assert!(!victim.0.wait().unwrap().success(), "outside of the sandbox it ends the process");
    }
}

#[test]
fn no_memory_is_held_beside_the_address_space() {
    let Some(python) = Python::find() else { return };
    // Attach, write, detach: the segment stays, the address space is free again. A file in memory is the same.
    let hold = r"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
held, size = 0, 64 << 20
for _ in range(8):
    segment = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
    if segment < 0: break
    at = libc.shmat(segment, None, 0)
    ctypes.memset(at, 1, size)
    libc.shmdt(ctypes.c_void_p(at))
    libc.shmctl(segment, 0, None)
    held += size
for _ in range(8):
    try: file = os.memfd_create('held')
    except OSError: break
    held += os.write(file, b'1' * (1 << 20))
print(held)
";
    let folder = tempfile::tempdir().unwrap();
    for (level, launcher) in sandboxes(&python, &folder) {
        let output = launcher.run(&python.command(hold, &[]), "").unwrap();
        assert_eq!(ran(&output), "0", "{level:?}");
    }
}

#[test]
fn files_keep_their_attributes_and_length() {
    let Some(python) = Python::find() else { return };
    let change = r"
import os, sys
path, done = sys.argv[1], []
for name, change in [
    ('chmod', lambda: os.chmod(path, 0o600)),
    ('chown', lambda: os.chown(path, os.getuid(), -1)),
    ('utime', lambda: os.utime(path, (1, 1))),
    ('truncate', lambda: os.truncate(path, 0)),
    ('open and truncate', lambda: os.open(path, os.O_RDONLY | os.O_TRUNC)),
    ('open for neither', lambda: os.open(path, 3 | os.O_TRUNC)),
    ('xattr', lambda: os.setxattr(path, 'user.truing', b'1')),
    ('write', lambda: open(path, 'a').close()),
    ('remove', lambda: os.remove(path)),
]:
    try:
        change()
        done.append(name)
    except OSError:
        pass
print(done)
";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights");
    let write = || {
        std::fs::write(&file, "weights").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    };
    let state = |path: &Path| {
        let metadata = path.metadata().unwrap();
        (metadata.permissions().mode(), metadata.len(), metadata.modified().unwrap())
    };
    for (level, mut launcher) in sandboxes(&python, &folder) {
        write();
        let before = state(&file);
        // Also where the program may read the file.
        launcher.readable.push(folder.path().to_owned());
        let output = launcher.run(&python.command(change, &[file.to_str().unwrap()]), "").unwrap();
        assert_eq!(ran(&output), "[]", "{level:?}");
        assert_eq!(state(&file), before, "{level:?}");
        let null = launcher.run(&python.command("import os; os.chmod('/dev/null', 0o666)", &[]), "").unwrap();
        assert_eq!(null.ending, Ending::Failed, "{level:?}: the device is the machine's");
    }
    write();
    let (is_done, done) = python.outside(change, &[file.to_str().unwrap()], "");
    assert!(is_done && done.contains("'chmod', 'chown', 'utime', 'truncate'"), "{done}");
    assert!(!file.exists(), "outside of the sandbox they work");
}

#[test]
fn a_small_tmp_holds_few_files() {
    let Some(python) = Python::find() else { return };
    if !has(Level::Namespaces) {
        return;
    }
    let many = "import os\nn = 0\ntry:\n    while n < 20000: os.close(os.open(f'/tmp/{n}', os.O_CREAT)); n += 1\n\
                except OSError: pass\nprint(n)";
    let folder = tempfile::tempdir().unwrap();
    let (_, launcher) = sandboxes(&python, &folder).remove(0);
    let output = launcher.run(&python.command(many, &[]), "").unwrap();
    let n: usize = ran(&output).parse().unwrap();
    assert!((1000..5000).contains(&n), "{n}");
}

#[test]
fn ordinary_programs_still_work() {
    // One with NumPy, where the tests are given one.
    let program = std::env::var("TRUING_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let Some(python) = Python::of(&program) else { return };
    let work = r"
import array, collections, concurrent.futures, contextlib, copy, ctypes, dataclasses, datetime, decimal, fractions
import functools, hashlib, heapq, io, itertools, json, math, mmap, multiprocessing, os, random, re, resource, select
import signal, statistics, string, struct, subprocess, sys, tempfile, textwrap, threading, time, typing, zlib
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(lambda n: n * n, range(10))) == 285
lock = threading.Lock()
with lock: pass
assert resource.getrlimit(resource.RLIMIT_AS)[0] > 0
assert resource.prlimit(0, resource.RLIMIT_NOFILE)[0] > 0
assert resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)[0] > 0
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
os.sched_setaffinity(0, os.sched_getaffinity(0))
assert os.nice(0) == os.getpriority(os.PRIO_PROCESS, 0)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 3)(3, 1, 2)
ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
assert list(numbers) == [1, 2, 3]
memory = mmap.mmap(-1, 1 << 20)
memory[:2] = b'ab'
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
signal.raise_signal(signal.SIGALRM)
os.kill(os.getpid(), 0)
reader, writer = os.pipe()
os.set_blocking(reader, False)
assert not os.isatty(reader) and not sys.stdout.isatty()
os.write(writer, b'x')
assert select.select([reader], [], [], 1)[0] == [reader]
open('/dev/null', 'w').write('x')
assert len(open('/dev/urandom', 'rb').read(4)) == 4
assert hashlib.sha256(b'').hexdigest().startswith('e3b0') and zlib.crc32(b'a') and decimal.Decimal('0.1')
time.sleep(0.001)
try:
    import numpy
    assert numpy.linalg.det(numpy.eye(50)) == 1 and (numpy.ones((200, 200)) @ numpy.ones((200, 200))).sum() > 0
    print('numpy', numpy.__version__)
except ImportError:
    print('no numpy')
if sys.argv[1] == 'Namespaces':
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'file')
        open(path, 'w').write('text')
        os.chmod(path, 0o600)
        os.truncate(path, 2)
        assert open(path).read() == 'te'
";
    let folder = tempfile::tempdir().unwrap();
    for (level, launcher) in sandboxes(&python, &folder) {
        let output = launcher.run(&python.command(work, &[&format!("{level:?}")]), "").unwrap();
        println!("{level:?}: {}", ran(&output));
    }
}
