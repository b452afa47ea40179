//! 1 when a Python program passes the tests of its row, 0 when it fails one or breaks a limit. It runs in the
//! [`sandbox`](crate::sandbox).
//!
//! Rows are read as HumanEval's (`prompt`, `test`, `entry_point`; Chen et al. 2021, arXiv 2107.03374) or as MBPP's
//! (`test_list`, `test_setup_code`; Austin et al. 2021, arXiv 2108.07732). The program counts as passing only when a
//! word that it is not told comes back after the last test, so leaving early does not help. Not covered: a program
//! that searches its interpreter's frames for that word.

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction};
use crate::sandbox::{Ending, Launcher, Limits, SandboxError};

/// Settings of [`Code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodeConfig {
    /// The Python interpreter.
    pub interpreter: String,
    /// What a program may use.
    pub limits: Limits,
    /// Run with limits and seccomp only where this machine allows no namespaces. Programs can then read and write
    /// files.
    pub allow_unsandboxed: bool,
    /// A broken limit leaves the completion without a reward instead of giving 0.
    pub limits_are_unscored: bool,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self {
            interpreter: "python3".into(),
            limits: Limits::default(),
            allow_unsandboxed: false,
            limits_are_unscored: false,
        }
    }
}

/// Runs programs with tests.
#[derive(Debug)]
pub struct Code {
    config: CodeConfig,
    launcher: Launcher,
    python: Result<PathBuf, String>,
}

/// Reads code, tests and the word from its input. What the code prints goes nowhere; only the word comes back.
const RUNNER: &str = r#"
import json, os, sys
row = json.loads(sys.stdin.read())
answer = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
word = row.pop("word")
space = {"__name__": "program"}
exec(compile(row["code"], "program", "exec"), space)
exec(compile(row["tests"], "tests", "exec"), space)
os.write(answer, word.encode())
"#;

impl Code {
    /// `program` is the binary that answers to [`crate::sandbox::CHILD_COMMAND`].
    #[must_use]
    pub fn new(config: CodeConfig, program: PathBuf) -> Self {
        let question = "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')";
        let found = Command::new(&config.interpreter).args(["-I", "-c", question]).output();
        let mut lines = Vec::new();
        let python = match found {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                lines = text.lines().map(PathBuf::from).collect();
                lines.first().cloned().ok_or_else(|| "it does not say where it is".to_owned())
            }
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut readable: Vec<PathBuf> = lines.into_iter().skip(1).collect();
        readable.dedup();
        readable.retain(|path| !path.starts_with("/usr") && path.parent().is_some());
        let launcher = Launcher { program, limits: config.limits.clone(), readable, is_isolated: true };
        Self { config, launcher, python }
    }

    fn score_one(&mut self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        let (code, tests) = assemble(completion)?;
        let unscored = Unscored::new;
        let python = self.python.as_ref().map_err(|error| {
            unscored(
                UnscoredReason::NoSandbox,
                format!("`interpreter`, {}: {error}", self.config.interpreter),
            )
        })?;
        let command =
            [&python.to_string_lossy(), "-I", "-B", "-c", RUNNER].map(|argument| argument.to_string());
        let hasher = RandomState::new();
        let word = format!("{:016x}{:016x}", hasher.hash_one(0), hasher.hash_one(1));
        let input = json!({ "code": code, "tests": tests, "word": word }).to_string();
        let mut result = self.launcher.run(&command, &input);
        if self.config.allow_unsandboxed && matches!(result, Err(SandboxError::Unavailable(_))) {
            self.launcher.is_isolated = false;
            result = self.launcher.run(&command, &input);
        }
        let output = result.map_err(|error| unscored(UnscoredReason::NoSandbox, error.to_string()))?;
        match output.ending {
            Ending::Succeeded if output.stdout == word => Ok(1.0),
            Ending::TimedOut | Ending::Killed if self.config.limits_are_unscored => Err(unscored(
                UnscoredReason::LimitReached,
                format!("the program ended as {:?}", output.ending),
            )),
            _ => Ok(0.0),
        }
    }
}

impl RewardFunction for Code {
    fn name(&self) -> &str {
        "code"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        completions.iter().map(|completion| self.score_one(completion)).collect()
    }
}

/// The program and its tests.
fn assemble(completion: &Completion<'_>) -> Result<(String, String), Unscored> {
    let column = |name: &str| completion.columns.get(name).and_then(Value::as_str);
    let code = extract_code(completion.text);
    if let (Some(test), Some(entry_point)) = (column("test"), column("entry_point")) {
        let is_whole = code.lines().any(|line| line.starts_with(&format!("def {entry_point}(")));
        // Imports and helpers of the prompt hold for a program that repeats its function as well.
        let prompt = column("prompt").unwrap_or_default();
        let code = match is_whole {
            true => {
                format!("{}\n{code}", prompt.split(&format!("def {entry_point}(")).next().unwrap_or_default())
            }
            false => format!("{prompt}{code}"),
        };
        return Ok((code, format!("{test}\ncheck({entry_point})\n")));
    }
    let detail = |what: &str| format!("{}: {what}", completion.origin);
    let Some(tests) = completion.columns.get("test_list") else {
        let what = "the row has neither `test` with `entry_point` nor `test_list`";
        return Err(Unscored::new(UnscoredReason::MissingReference, detail(what)));
    };
    let lines: Option<Vec<&str>> = tests
        .as_array()
        .and_then(|tests| tests.iter().map(Value::as_str).collect())
        .filter(|tests: &Vec<_>| !tests.is_empty());
    let Some(lines) = lines else {
        let what = format!("`test_list` is {tests}, expected a list of texts");
        return Err(Unscored::new(UnscoredReason::BadReference, detail(&what)));
    };
    Ok((code, format!("{}\n{}\n", column("test_setup_code").unwrap_or_default(), lines.join("\n"))))
}

/// What stands in the last closed fence that is not marked as another language; otherwise the whole text.
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
