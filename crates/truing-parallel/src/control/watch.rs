//! The running channel: beats go out, and somebody listens to every connection.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use truing_types::Rank;

use super::message::{Message, Unread};
use super::{Cause, Loss};

/// What happens when a rank is lost.
pub(crate) type OnLoss = Box<dyn Fn(&Loss) + Send + Sync>;

/// The way to one other rank.
pub(super) struct Link {
    rank: usize,
    name: String,
    stream: Mutex<TcpStream>,
}

impl Link {
    pub(super) fn new(rank: usize, name: String, stream: TcpStream) -> Self {
        Self { rank, name, stream: Mutex::new(stream) }
    }

    /// Sends a message. A rank that does not take it is noticed by whoever listens to it.
    fn send(&self, message: &Message) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = message.write(&stream);
    }

    fn shut_down(&self, how: Shutdown) {
        // It may be closed already.
        let _ = self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown(how);
    }
}

/// What the threads of a channel share.
pub(super) struct Shared {
    me: usize,
    links: Vec<Link>,
    /// This rank has left, or a loss was reported.
    is_over: AtomicBool,
    on_loss: OnLoss,
}

impl Shared {
    pub(super) fn new(me: usize, links: Vec<Link>, on_loss: OnLoss) -> Self {
        Self { me, links, is_over: AtomicBool::new(false), on_loss }
    }

    /// Listens to one connection until its rank leaves or is lost.
    pub(super) fn watch(&self, index: usize, mut reader: BufReader<TcpStream>) {
        let Link { rank, name, .. } = &self.links[index];
        let cause = loop {
            match Message::read(&mut reader) {
                Ok(Message::Beat) => {}
                Ok(Message::Left { status: 0 }) => return,
                Ok(Message::Left { status }) => break Cause::Ended { status },
                Ok(Message::Panicked) => break Cause::Panicked,
                Ok(Message::Lost { rank, cause, name }) => {
                    return self.report(&Loss { rank: Rank(rank), name, cause });
                }
                Err(Unread::Silent) => break Cause::Silent,
                // The others belong to the start: what speaks here is no rank any more.
                Ok(_) | Err(Unread::Closed) => break Cause::Closed,
            }
        };
        self.report(&Loss { rank: Rank(*rank), name: name.clone(), cause });
    }

    /// Passes the first loss on to the other ranks, if this is rank 0, and to the caller.
    fn report(&self, loss: &Loss) {
        if self.is_over.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.me == 0 {
            let Loss { rank: Rank(rank), name, cause } = loss.clone();
            let message = Message::Lost { rank, cause, name };
            self.links.iter().filter(|link| link.rank != rank).for_each(|link| link.send(&message));
        }
        (self.on_loss)(loss);
    }

    /// Leaves with a last message. After a loss, or a second time, nothing is said.
    pub(super) fn part(&self, message: &Message) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            self.links.iter().for_each(|link| link.send(message));
        }
        self.links.iter().for_each(|link| link.shut_down(Shutdown::Write));
    }

    /// Leaves without a word, unless this rank has left already.
    pub(super) fn close(&self) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            self.links.iter().for_each(|link| link.shut_down(Shutdown::Both));
        }
    }
}

/// The thread that beats; it ends when this is dropped.
pub(super) struct Beats {
    _stop: Sender<()>,
}

impl Beats {
    pub(super) fn start(shared: &Arc<Shared>, interval: Duration) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let shared = Arc::clone(shared);
        thread::Builder::new().name("control-beats".to_owned()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                shared.links.iter().for_each(|link| link.send(&Message::Beat));
            }
        })?;
        Ok(Self { _stop: stop })
    }
}
