//! What rank 0 says to those who come after the start.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::ControlListener;
use crate::control::joining::answer_late;

/// The time between two looks for somebody.
const LOOK: Duration = Duration::from_millis(100);

/// A thread that tells ranks which come late or twice that the job has started. It ends when this is dropped.
pub(super) struct Door {
    _close: Sender<()>,
}

impl Door {
    /// Keeps the door where the ranks have met. The listener does not block.
    pub(super) fn keep(listener: ControlListener) -> io::Result<Self> {
        let (close, closed) = channel::<()>();
        thread::Builder::new().name("door".to_owned()).spawn(move || {
            while closed.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                while let Ok((stream, _)) = listener.0.accept() {
                    answer_late(stream);
                }
            }
        })?;
        Ok(Self { _close: close })
    }
}
