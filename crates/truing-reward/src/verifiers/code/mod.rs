//! 1 when a Python program passes the tests of its row, 0 when it fails one or breaks a limit. Both run in the
//! [`sandbox`](crate::sandbox).
//!
//! Rows are read as HumanEval's (`prompt`, `test`, `entry_point`; Chen et al. 2021, arXiv 2107.03374) or as MBPP's
//! (`test_list`, `test_setup_code`; Austin et al. 2021, arXiv 2108.07732); tests may also be functions `test_...`.
//!
//! The tests run in an interpreter of their own, which asks the program for results through pipes: `tests.py`
//! there, `program.py` here, `codec.py` between them. The program is in another process that never receives a
//! test and can neither read nor signal the first. What comes over is built anew from built-in types, so
//! comparing it runs nothing of the program's; the tests' built-in functions, modules and the prompt's helpers
//! are the real ones. Whatever a program does, it only ever gives answers.
//!
//! Not covered: arguments are handed over by value, so what a program changes in them is seen only where it returns
//! nothing; attributes that are lists are copies; exceptions of the program's own classes and classes that the tests
//! define cannot cross; where tests compare two objects of the program's own classes, these classes say whether they
//! are equal.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use truing_types::{Unscored, UnscoredReason};

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};
use crate::sandbox::{Ending, Launcher, Limits};

/// Settings of [`Code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CodeConfig {
    /// Column with the tests: a string, or a list of strings. Default: `test` or `test_list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tests_column: Option<String>,
    /// Column with code that runs before the tests, if the row has it.
    pub setup_column: String,
    /// Column with the name of the function, if the row has it. It is passed to the tests' `check`.
    pub entry_point_column: String,
    /// Column with the beginning of the program, for rows with an entry point (as in HumanEval).
    pub prompt_column: String,
    /// The Python interpreter: a path, or a name such as `python3.12`. Its folder decides nothing.
    #[schemars(extend("x-decides" = "name"))]
    pub interpreter: String,
    /// Resource limits of a program.
    pub limits: Limits,
    /// Run even if this machine allows neither namespaces nor Landlock. Programs can then read and write files, and
    /// reach the process that tests them.
    pub allow_unsandboxed: bool,
    /// A program that exceeds a limit is unscored instead of getting 0. A policy can learn to exploit this.
    pub limits_are_unscored: bool,
    /// Number of programs that run in parallel.
    #[schemars(extend("x-decides" = "nothing"))]
    pub workers: usize,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self {
            tests_column: None,
            setup_column: "test_setup_code".into(),
            entry_point_column: "entry_point".into(),
            prompt_column: "prompt".into(),
            interpreter: "python3".into(),
            limits: Limits::default(),
            allow_unsandboxed: false,
            limits_are_unscored: false,
            workers: 2,
        }
    }
}

/// Runs programs with tests.
#[derive(Debug)]
pub struct Code {
    config: CodeConfig,
    launcher: Launcher,
    /// Found when first needed.
    python: Option<Result<PathBuf, String>>,
}

const PROGRAM: &str = concat!(include_str!("codec.py"), include_str!("program.py"));
const TESTS: &str = concat!(include_str!("codec.py"), include_str!("tests.py"));
/// What the tests' process has to say always fits.
const MIN_OUTPUT_BYTES: usize = 8 << 10;

/// What the tests' process says.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Passed(IgnoredAny),
    Failed(IgnoredAny),
    BadRow(String),
}

impl Code {
    /// `program` is the binary that answers to [`CHILD_COMMAND`](crate::sandbox::CHILD_COMMAND).
    ///
    /// # Errors
    /// When a limit or `workers` is 0.
    pub fn new(config: CodeConfig, program: PathBuf) -> Result<Self, RewardError> {
        let limits = &config.limits;
        for (key, is_zero) in [
            ("workers", config.workers == 0),
            ("limits.wall_millis", limits.wall_millis == 0),
            ("limits.cpu_secs", limits.cpu_secs == 0),
            ("limits.memory_bytes", limits.memory_bytes == 0),
            ("limits.processes", limits.processes == 0),
        ] {
            if is_zero {
                let reason = "is 0, expected at least 1".to_owned();
                return Err(RewardError::BadSetting { reward: "code", key, reason });
            }
        }
        let output_bytes = limits.output_bytes.max(MIN_OUTPUT_BYTES);
        let mut launcher = Launcher::new(program, Limits { output_bytes, ..limits.clone() });
        launcher.allow_unsandboxed = config.allow_unsandboxed;
        Ok(Self { config, launcher, python: None })
    }

    fn score_one(&self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        let unscored =
            |reason, detail: String| Unscored::new(reason, format!("{}: {detail}", completion.origin));
        let python =
            self.python.as_ref().map_or_else(|| Err("it was not looked for".to_owned()), Clone::clone);
        let python = python.map_err(|error| {
            unscored(
                UnscoredReason::NoSandbox,
                format!("`interpreter`, {}: {error}", self.config.interpreter),
            )
        })?;
        let input = assemble(&self.config, completion)?.to_string();
        let command = |script: &str| {
            [&python.to_string_lossy(), "-I", "-B", "-c", script].map(|argument| argument.to_string())
        };
        let output = self.launcher.run_pair(&command(TESTS), &command(PROGRAM), &input);
        let output = output.map_err(|error| unscored(UnscoredReason::NoSandbox, error.to_string()))?;
        let broken = || {
            let detail = format!("no verdict ({:?}): {}", output.ending, output.stderr.trim());
            Err(unscored(UnscoredReason::Failed, detail))
        };
        // An interpreter that did not even start says nothing of the program.
        let Some(verdict) = output.stdout.strip_prefix("ready\n") else { return broken() };
        match (output.ending, serde_json::from_str(verdict)) {
            (Ending::Succeeded, Ok(Verdict::Passed(_))) => Ok(1.0),
            (Ending::Succeeded, Ok(Verdict::Failed(_))) | (Ending::PeerLeft, _) => Ok(0.0),
            (Ending::Succeeded, Ok(Verdict::BadRow(reason))) => {
                Err(unscored(UnscoredReason::BadReference, reason))
            }
            (Ending::TimedOut | Ending::Killed, _) if self.config.limits_are_unscored => {
                let detail = format!("the program ended as {:?}", output.ending);
                Err(unscored(UnscoredReason::LimitReached, detail))
            }
            (Ending::TimedOut | Ending::Killed, _) => Ok(0.0),
            (Ending::Succeeded | Ending::Failed, _) => broken(),
        }
    }
}

impl RewardFunction for Code {
    fn name(&self) -> &str {
        "code"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        if self.python.is_none() {
            self.python = Some(find_python(&self.config.interpreter, &mut self.launcher));
        }
        let (code, next) = (&*self, AtomicUsize::new(0));
        let work = || {
            let mut scored = Vec::new();
            while let Some((i, completion)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                completions.get(i).map(|completion| (i, completion))
            } {
                scored.push((i, code.score_one(completion)));
            }
            scored
        };
        let mut scored: BTreeMap<usize, Result<f64, Unscored>> = thread::scope(|scope| {
            let workers = self.config.workers.min(completions.len());
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        let lost = || Err(Unscored::new(UnscoredReason::Failed, "the worker thread failed"));
        (0..completions.len()).map(|i| scored.remove(&i).unwrap_or_else(lost)).collect()
    }

    /// Whether the row has tests; they are not run.
    fn check_row(&mut self, completion: &Completion<'_>) -> Result<(), Unscored> {
        assemble(&self.config, completion).map(|_| ())
    }
}

/// Asks the interpreter where it is, in the sandbox, and lets the launcher's programs read what it needs.
///
/// A script that only starts an interpreter, as pyenv's are, needs processes of its own, which the sandbox does not
/// allow: it is run outside, and the interpreter that it starts is asked in the sandbox.
pub(crate) fn find_python(interpreter: &str, launcher: &mut Launcher) -> Result<PathBuf, String> {
    let mut path = located(interpreter)?;
    if is_script(&path) {
        let found = Command::new(&path).args(["-I", "-c", "import sys; print(sys.executable)"]).output();
        let output = found.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    }
    // Its limits are not those of the programs.
    let mut probe = Launcher::new(launcher.program.clone(), Limits::default());
    probe.allow_unsandboxed = launcher.allow_unsandboxed;
    probe.readable = prefixes(&path);
    let question = "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')";
    let command = [&path.to_string_lossy(), "-I", "-B", "-c", question].map(ToString::to_string);
    let output = probe.run(&command, "").map_err(|error| error.to_string())?;
    if output.ending != Ending::Succeeded {
        let said = output.stderr.trim();
        return Err(format!("in the sandbox it ended as {:?}: {said}", output.ending));
    }
    let mut paths = output.stdout.lines().map(PathBuf::from);
    let python = paths.next().ok_or("it does not say where it is")?;
    for path in probe.readable.into_iter().chain(paths) {
        if is_to_be_opened(&path) && !launcher.readable.contains(&path) {
            launcher.readable.push(path);
        }
    }
    Ok(python)
}

/// The path of a program: the one given, or the first of its name in `PATH`.
fn located(program: &str) -> Result<PathBuf, String> {
    let given = Path::new(program);
    if given.components().count() > 1 {
        return std::path::absolute(given).map_err(|error| error.to_string());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(given));
    found.find(|path| path.is_file()).ok_or_else(|| "there is no such program in `PATH`".to_owned())
}

fn is_script(path: &Path) -> bool {
    let mut beginning = [0; 2];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut beginning));
    read.is_ok() && &beginning == b"#!"
}

/// What an interpreter has to read to start: the folder above its own, at each link that leads to it, and that of the
/// interpreter that its virtual environment is made from.
fn prefixes(interpreter: &Path) -> Vec<PathBuf> {
    const MAX_LINKS: usize = 16;
    let mut found: Vec<PathBuf> = Vec::new();
    let mut path = interpreter.to_path_buf();
    for _ in 0..MAX_LINKS {
        let prefix = path.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        let made_from = std::fs::read_to_string(prefix.join("pyvenv.cfg")).unwrap_or_default();
        let homes = made_from.lines().filter_map(|line| line.split_once('='));
        let homes = homes.filter(|(key, _)| key.trim() == "home").map(|(_, home)| PathBuf::from(home.trim()));
        found.extend(homes.filter_map(|home| home.parent().map(Path::to_path_buf)));
        found.push(prefix);
        let Ok(target) = std::fs::read_link(&path) else { break };
        // A relative link is read from its folder.
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    found.extend(
        interpreter.canonicalize().ok().and_then(|path| Some(path.parent()?.parent()?.to_path_buf())),
    );
    found.retain(|path| is_to_be_opened(path));
    found.sort();
    found.dedup();
    found
}

/// Whether a folder is more than what every program may read, and not everything.
fn is_to_be_opened(path: &Path) -> bool {
    !path.starts_with("/usr") && path.parent().is_some() && path.is_absolute() && path.is_dir()
}

/// The input of the tests' process: the program, the tests, and the columns of the row.
fn assemble(config: &CodeConfig, completion: &Completion<'_>) -> Result<Value, Unscored> {
    let text = |name: &str| completion.columns.get(name).and_then(Value::as_str);
    let tests = tests(config, completion)?;
    let setup = text(&config.setup_column).unwrap_or_default();
    let entry_point = text(&config.entry_point_column);
    let code = extract_code(completion.text);
    let head = entry_point.map(|name| format!("def {name}("));
    let begun = text(&config.prompt_column).zip(head.as_deref()).and_then(|(prompt, head)| {
        let at = if prompt.starts_with(head) { 0 } else { prompt.find(&format!("\n{head}"))? + 1 };
        Some((prompt, &prompt[..at], head))
    });
    let (prompt, code) = match begun {
        // Imports and helpers of the prompt hold for a program that repeats its function as well.
        Some((prompt, before, head)) if code.lines().any(|line| line.starts_with(head)) => {
            (prompt, format!("{before}\n{code}"))
        }
        Some((prompt, ..)) => (prompt, format!("{prompt}{code}")),
        None => ("", code),
    };
    Ok(json!({
        "code": code, "tests": format!("{setup}\n{tests}\n"), "prompt": prompt, "entry_point": entry_point
    }))
}

/// The tests as one text.
fn tests(config: &CodeConfig, completion: &Completion<'_>) -> Result<String, Unscored> {
    let detail = |what: &str| format!("{}: {what}", completion.origin);
    let names: Vec<&str> = match &config.tests_column {
        Some(name) => vec![name],
        None => vec!["test", "test_list"],
    };
    let Some((name, tests)) =
        names.iter().find_map(|name| completion.columns.get(*name).map(|tests| (name, tests)))
    else {
        let what = format!("the row has no `{}`", names.join("` and no `"));
        return Err(Unscored::new(UnscoredReason::MissingReference, detail(&what)));
    };
    let lines: Option<Vec<&str>> = match tests {
        Value::String(text) => Some(vec![text]),
        Value::Array(tests) => tests.iter().map(Value::as_str).collect(),
        _ => None,
    };
    match lines.map(|lines| lines.join("\n")).filter(|text| !text.trim().is_empty()) {
        Some(text) => Ok(text),
        None => {
            let what = format!("`{name}` is {tests}, expected a text or a list of texts");
            Err(Unscored::new(UnscoredReason::BadReference, detail(&what)))
        }
    }
}

/// The text of the last closed fence that is not marked as another language; otherwise the whole text.
fn extract_code(text: &str) -> String {
    let mut last = None;
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let language = language.trim().to_lowercase();
                open = Some((matches!(language.as_str(), "" | "python" | "py" | "python3"), String::new()));
            }
            (Some(_), Some(_)) => {
                if let Some((true, code)) = open.take() {
                    last = Some(code);
                }
            }
            (Some((_, code)), None) => {
                code.push_str(line);
                code.push('\n');
            }
            (None, None) => {}
        }
    }
    last.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_python_fence_is_the_program() {
        let check = |text: &str, expect: &str| assert_eq!(extract_code(text), expect);
        check("x = 1", "x = 1");
        check("First:\n```python\na\n```\nBetter:\n```py\nb\n```\n```sh\nls\n```", "b\n");
        check("```json\n{}\n```", "```json\n{}\n```");
    }
}
