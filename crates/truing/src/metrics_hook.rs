//! Sends a run's metrics to a command of the user, for instance to an experiment tracker: one JSON object per line on
//! its standard input.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use serde_json::json;
use truing_parallel::Rendezvous;
use truing_types::{Event, EventSink};

use crate::environment::JOB_TOKEN;

/// The variable that tells the command the run's folder.
const RUN_VARIABLE: &str = "TRUING_RUN";

/// Why the command did not take all metrics.
pub(crate) type HookError = Rc<RefCell<Option<String>>>;

/// The running command. It never slows the run down: lines wait in memory until it reads them. When the run ends, its
/// input is closed and it is waited for.
pub(crate) struct MetricsHook {
    lines: Option<Sender<String>>,
    writer: Option<JoinHandle<Result<(), String>>>,
    error: HookError,
}

impl MetricsHook {
    /// Starts the command in a shell. Its output goes to stderr.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub(crate) fn start(command: &str, folder: &Path) -> io::Result<(Self, HookError)> {
        let child = Command::new("sh")
            .args(["-c", command])
            .env(RUN_VARIABLE, folder)
            // The command is no rank of the job, and a `truing` in it runs as one process.
            .env_remove(Rendezvous::LAUNCHED)
            .env_remove(JOB_TOKEN)
            .stdin(Stdio::piped())
            .stdout(io::stderr())
            .spawn()?;
        let (lines, received) = channel();
        let writer = std::thread::spawn(move || feed(child, &received));
        let error = HookError::default();
        Ok((Self { lines: Some(lines), writer: Some(writer), error: Rc::clone(&error) }, error))
    }
}

/// Writes lines until there are no more, then waits for the command.
fn feed(mut child: Child, lines: &Receiver<String>) -> Result<(), String> {
    let mut written = Ok(());
    if let Some(mut input) = child.stdin.take() {
        written = lines.iter().try_for_each(|line| input.write_all(line.as_bytes()));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match written {
        _ if !status.success() => Err(format!("it ended with {status}")),
        Err(error) => Err(format!("it stopped reading: {error}")),
        Ok(()) => Ok(()),
    }
}

impl EventSink for MetricsHook {
    fn emit(&mut self, event: Event) {
        if let (Event::Metrics { step, values }, Some(lines)) = (event, &self.lines) {
            // A command that has ended is reported at the end of the run.
            let _ = lines.send(format!("{}\n", json!({ "step": step, "metrics": values })));
        }
    }
}

impl Drop for MetricsHook {
    fn drop(&mut self) {
        self.lines = None;
        let result = self.writer.take().map(JoinHandle::join);
        *self.error.borrow_mut() = match result {
            Some(Ok(Err(reason))) => Some(reason),
            Some(Err(_)) => Some("its writer failed".to_owned()),
            Some(Ok(Ok(()))) | None => None,
        };
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn every_metric_reaches_the_command_and_its_failure_is_told() {
        let run = |command: &str, folder: &Path| {
            let (mut hook, error) = MetricsHook::start(command, folder).unwrap();
            for step in 1..=2 {
                hook.emit(Event::Metrics { step, values: [("loss".to_owned(), 0.5)].into() });
                hook.emit(Event::Note("not a metric".into()));
            }
            drop(hook);
            error.take()
        };
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(run("cat > \"$TRUING_RUN/seen.jsonl\"", folder.path()), None);
        let seen = std::fs::read_to_string(folder.path().join("seen.jsonl")).unwrap();
        assert_eq!(
            seen,
            "{\"step\":1,\"metrics\":{\"loss\":0.5}}\n{\"step\":2,\"metrics\":{\"loss\":0.5}}\n"
        );
        let failed = run("cat > /dev/null; exit 3", folder.path()).unwrap();
        assert!(failed.contains('3'), "{failed}");
        assert!(run("no-such-command-of-truing", folder.path()).is_some());
    }
}
