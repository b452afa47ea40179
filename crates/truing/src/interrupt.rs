//! Ctrl-C and termination. For a run, the first asks for a stop between steps and the second ends the process;
//! for a conversation, it breaks off the reply that is being written, or ends the process where none is.

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
            end_process();
        }
        // Nobody reads stderr: the flag is set all the same.
        let _ = writeln!(std::io::stderr(), "\n{promise} (again: stop at once)");
    })?;
    Ok(flag)
}

/// Ctrl-C during a conversation.
///
/// # Errors
/// When the process already has a handler.
pub(crate) fn for_replies() -> anyhow::Result<ReplyInterrupt> {
    let interrupt = ReplyInterrupt::default();
    let seen = interrupt.clone();
    ctrlc::set_handler(move || {
        if !seen.is_replying.load(Ordering::SeqCst) || seen.is_interrupted.swap(true, Ordering::SeqCst) {
            end_process();
        }
    })?;
    Ok(interrupt)
}

/// Whether a reply is being written, and whether it was broken off.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyInterrupt {
    is_replying: Arc<AtomicBool>,
    is_interrupted: Arc<AtomicBool>,
}

/// A reply that is being written, until dropped.
pub(crate) struct RunningReply<'a>(&'a ReplyInterrupt);

impl ReplyInterrupt {
    /// A reply begins.
    pub(crate) fn begin(&self) -> RunningReply<'_> {
        self.is_interrupted.store(false, Ordering::SeqCst);
        self.is_replying.store(true, Ordering::SeqCst);
        RunningReply(self)
    }
}

impl RunningReply<'_> {
    /// Whether the user broke it off.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.0.is_interrupted.load(Ordering::SeqCst)
    }
}

impl Drop for RunningReply<'_> {
    fn drop(&mut self) {
        self.0.is_replying.store(false, Ordering::SeqCst);
    }
}

#[expect(clippy::exit, reason = "the user asks for exactly this, from a signal handler's thread")]
fn end_process() -> ! {
    std::process::exit(i32::from(INTERRUPTED));
}
