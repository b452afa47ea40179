//! Ctrl-C and termination. Before a run begins they end the process with [`INTERRUPTED`]. For a run, the first asks for a
//! stop between steps and the second ends the process; for a conversation, it stops the reply that is being written,
//! or ends the process where none is. A command that only watches other processes counts them and passes them on. A rank
//! whose process ends tells the others, which end too.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::outcome::INTERRUPTED;

/// What a signal does.
enum Response {
    /// Ends the process: nothing is lost.
    End,
    /// Sets the flag of a run, and says on stderr what will happen; the second one ends the process.
    Stop { flag: Arc<AtomicBool>, promise: &'static str },
    /// Stops a reply.
    Reply(ReplyInterrupt),
    /// Is counted.
    Count(Arc<AtomicUsize>),
}

static RESPONSE: Mutex<Response> = Mutex::new(Response::End);

/// Work to do before a signal ends the process.
static BEFORE_END: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Handles Ctrl-C and termination from here on.
///
/// # Errors
/// When the process already has a handler.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| match &*RESPONSE.lock().unwrap_or_else(PoisonError::into_inner) {
        Response::End => end_process(),
        Response::Stop { flag, promise } => {
            if flag.swap(true, Ordering::SeqCst) {
                end_process();
            }
            // Nobody reads stderr: the flag is set all the same.
            let _ = writeln!(std::io::stderr(), "\n{promise} (again: stop at once)");
        }
        Response::Reply(interrupt) => {
            let is_replying = interrupt.is_replying.load(Ordering::SeqCst);
            if !is_replying || interrupt.is_interrupted.swap(true, Ordering::SeqCst) {
                end_process();
            }
        }
        Response::Count(n_signals) => {
            n_signals.fetch_add(1, Ordering::SeqCst);
        }
    })?;
    Ok(())
}

fn respond(response: Response) {
    *RESPONSE.lock().unwrap_or_else(PoisonError::into_inner) = response;
}

/// Registers work to do before a signal ends the process. It replaces what was registered before.
pub(crate) fn before_end(work: impl Fn() + Send + 'static) {
    *BEFORE_END.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(work));
}

/// A flag that Ctrl-C sets. `promise` says on stderr what will happen before the command ends. A second Ctrl-C ends the
/// process at once; a resume finds what was saved last.
pub(crate) fn stop_flag(promise: &'static str) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    respond(Response::Stop { flag: Arc::clone(&flag), promise });
    flag
}

/// The number of signals from now on. They do nothing else.
pub(crate) fn count() -> Arc<AtomicUsize> {
    let n_signals = Arc::new(AtomicUsize::new(0));
    respond(Response::Count(Arc::clone(&n_signals)));
    n_signals
}

/// Ctrl-C during a conversation.
pub(crate) fn for_replies() -> ReplyInterrupt {
    let interrupt = ReplyInterrupt::default();
    respond(Response::Reply(interrupt.clone()));
    interrupt
}

/// Whether a reply is being written, and whether it was interrupted.
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
    /// Whether the user interrupted it.
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
    if let Some(work) = &*BEFORE_END.lock().unwrap_or_else(PoisonError::into_inner) {
        work();
    }
    std::process::exit(i32::from(INTERRUPTED));
}
