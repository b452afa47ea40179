//! How a command ends, and its exit status.

use std::io;

/// Everything asked for was done.
pub(crate) const FINE: u8 = 0;
/// A finding or a negative result.
pub(crate) const FINDING: u8 = 1;
/// The work could not be done.
pub(crate) const ERROR: u8 = 2;
/// A pipeline waits for a file from people, or a rank ends because another one was lost; `EX_TEMPFAIL` of sysexits.h:
/// try again later.
pub(crate) const WAITING: u8 = 75;
/// Stopped by Ctrl-C or a termination signal, as shells count it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// How a command ended when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for was done.
    Fine,
    /// It was done, and the answer is no: a check fails, a plan cannot fit.
    Finding,
    /// A pipeline did what it can and waits for people.
    Waiting,
    /// The user stopped it; what was done is saved.
    Interrupted,
    /// It started other processes, and this is the status of the first that failed.
    Status(u8),
}

impl Outcome {
    /// The exit status.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Fine => FINE,
            Self::Finding => FINDING,
            Self::Waiting => WAITING,
            Self::Interrupted => INTERRUPTED,
            Self::Status(status) => status,
        }
    }
}

/// An error with advice on what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{source:#}")]
pub(crate) struct Hinted {
    /// What went wrong.
    pub(crate) source: anyhow::Error,
    /// What to do, in one sentence.
    pub(crate) hint: String,
}

/// An error that another process prints.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct SaidElsewhere {
    /// What it prints.
    pub(crate) reason: String,
}

/// Adds advice to an error.
pub(crate) trait WithHint<T> {
    /// The same result; an error carries `hint`, printed on a line of its own.
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Hinted { source: error.into(), hint: hint() }))
    }
}

/// Whether the reader of our output went away, as in `truing ... | head -1`. That is no error.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_found_below_other_errors() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::new(pipe).context("writing the plan")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }

    #[test]
    fn a_hint_stays_beside_the_error_it_explains() {
        let error =
            Err::<(), _>(io::Error::other("no such model")).hint(|| "give --model".into()).unwrap_err();
        assert_eq!(error.to_string(), "no such model");
        assert_eq!(error.downcast_ref::<Hinted>().unwrap().hint, "give --model");
    }
}
