//! No sandbox: this system has none that we know.

use super::messages::{ChildSpec, Output, SETUP_FAILED, SandboxError};
use std::path::Path;

pub(super) fn run(_program: &Path, _spec: &ChildSpec, _input: &str) -> Result<Output, SandboxError> {
    Err(SandboxError::Unavailable("programs are run on Linux only".to_owned()))
}

/// Refuses.
#[must_use]
pub fn child_main(_argument: &str) -> i32 {
    SETUP_FAILED
}
