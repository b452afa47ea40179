//! Ctrl-C and termination: the first asks for a stop between steps, the second stops at once.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::outcome::INTERRUPTED;

/// A flag that Ctrl-C sets. `promise` says on stderr what will happen before the command ends. A second Ctrl-C
/// ends the process at once; whatever was saved last is what a resume finds.
///
/// # Errors
/// When the process already has a handler.
pub(crate) fn stop_flag(promise: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::SeqCst) {
            #[expect(clippy::exit, reason = "a second Ctrl-C asks for exactly this")]
            std::process::exit(i32::from(INTERRUPTED));
        }
        let _ = writeln!(std::io::stderr(), "\n{promise} (again: stop at once)");
    })?;
    Ok(flag)
}
