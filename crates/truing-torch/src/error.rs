//! What goes wrong between this crate and libtorch.

use std::path::PathBuf;

use truing_model::EngineError;

/// A libtorch that could not be found or used, or an operator that failed.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// No candidate was taken. The message names each with its reason.
    #[error("no usable libtorch was found{}", list(.0))]
    NotFound(Vec<Rejected>),
    /// An operator was called with other arguments than its schema says. Nothing was passed to libtorch.
    #[error("`{operator}`: {reason}")]
    Arguments {
        /// The operator, for instance `aten::mm`.
        operator: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// An operator or a function of libtorch failed.
    #[error("`{operator}` failed: {message}")]
    Failed {
        /// The operator, or the function of the C interface.
        operator: &'static str,
        /// libtorch's message, where it provides one (2.13 and later; 2.11 and 2.12 print it to the standard error
        /// stream).
        message: String,
    },
    /// A device that this libtorch does not have.
    #[error("no device `{device}`: {reason}")]
    NoDevice {
        /// The device asked for.
        device: String,
        /// Why there is none.
        reason: String,
    },
}

/// A place where libtorch was looked for, and why it was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Where the place was given, for instance `TORCH_LIB`.
    pub origin: String,
    /// The place; empty where none was named.
    pub path: PathBuf,
    /// Why it was not taken.
    pub reason: String,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.as_os_str().is_empty() {
            return write!(f, "{}: {}", self.origin, self.reason);
        }
        write!(f, "{} `{}`: {}", self.origin, self.path.display(), self.reason)
    }
}

fn list(rejected: &[Rejected]) -> String {
    rejected.iter().map(|candidate| format!("; {candidate}")).collect()
}

impl From<TorchError> for EngineError {
    fn from(error: TorchError) -> Self {
        Self::Device(error.to_string())
    }
}
