//! The links of one rank with all others: how they are made, and how messages of collectives use them.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use truing_types::CommunicationError;

use super::link::{Broken, Link};
use super::{TcpError, TcpOptions};
use crate::JobToken;
use crate::control::joining::{connect, next_connection, prepared};
use crate::control::message::Message;
use crate::transfers::Wire;

/// All links of a rank.
pub(super) struct Mesh {
    /// By rank of the world; none with the rank itself.
    links: Vec<Option<Link>>,
    /// Held during a collective: those of one rank run one after another.
    turn: Mutex<()>,
    /// A link broke, or the rank has left: no message can follow.
    is_over: AtomicBool,
    longest_wait: Option<Duration>,
    farewell: Duration,
}

/// What a rank knows before it has links.
pub(super) struct Unlinked<'a> {
    pub(super) me: usize,
    pub(super) world_size: usize,
    /// Where ranks above this one connect to.
    pub(super) listener: &'a TcpListener,
    /// The addresses of the ranks below this one, in rank order.
    pub(super) below: Vec<SocketAddr>,
    pub(super) options: &'a TcpOptions,
}

impl Unlinked<'_> {
    /// Connects to the ranks below this one, and waits for those above it. No rank waits for an answer before it
    /// accepts, so the order in which ranks come here does not matter.
    pub(super) fn link(&self) -> Result<Mesh, TcpError> {
        let mut streams = BTreeMap::new();
        for (rank, address) in self.below.iter().enumerate() {
            streams.insert(rank, self.call(rank, *address)?);
        }
        self.accept(&mut streams)?;
        for (rank, address) in self.below.iter().enumerate() {
            let answer = streams.get_mut(&rank).map(Message::read);
            if answer != Some(Ok(Message::Linked)) {
                return Err(TcpError::NoAnswer { rank, address: address.to_string() });
            }
        }
        let TcpOptions { longest_wait, farewell, .. } = *self.options;
        let start = |rank: usize| {
            let reader = streams.remove(&rank);
            reader.map(|reader| Link::start(rank, reader, longest_wait)).transpose()
        };
        let links: Result<Vec<_>, _> = (0..self.world_size).map(start).collect();
        let links = links.map_err(TcpError::Setup)?;
        Ok(Mesh { links, turn: Mutex::new(()), is_over: AtomicBool::new(false), longest_wait, farewell })
    }

    /// Connects to a rank and says who calls.
    fn call(&self, rank: usize, address: SocketAddr) -> Result<BufReader<TcpStream>, TcpError> {
        let within = self.options.join_within;
        let stream = connect(&address.ip().to_string(), address.port(), within).map_err(|source| {
            let (address, seconds) = (address.to_string(), within.as_secs());
            TcpError::Unreachable { rank, address, seconds, source }
        })?;
        let no_answer = || TcpError::NoAnswer { rank, address: address.to_string() };
        let reader = prepared(stream, within).map_err(TcpError::Setup)?.ok_or_else(no_answer)?;
        let token = self.options.token.clone().into_text();
        let link = Message::Link { from: self.me, to: rank, token };
        link.write(reader.get_ref()).map_err(|_| no_answer())?;
        Ok(reader)
    }

    /// Waits for the links with the ranks above this one.
    fn accept(&self, streams: &mut BTreeMap<usize, BufReader<TcpStream>>) -> Result<(), TcpError> {
        self.listener.set_nonblocking(true).map_err(TcpError::Setup)?;
        let mut left = self.options.join_within;
        while streams.len() + 1 < self.world_size {
            let Some(reader) = next_connection(self.listener, &mut left).map_err(TcpError::Setup)? else {
                let above = self.me + 1..self.world_size;
                let ranks = above.filter(|rank| !streams.contains_key(rank)).collect();
                return Err(TcpError::Unlinked { ranks, seconds: self.options.join_within.as_secs() });
            };
            self.welcome(reader, streams);
        }
        Ok(())
    }

    /// Takes a link. A connection that does not show the job's token, or of a rank that is linked already, is closed; a
    /// rank that wants to join the job hears that it comes too late.
    fn welcome(&self, mut reader: BufReader<TcpStream>, streams: &mut BTreeMap<usize, BufReader<TcpStream>>) {
        match Message::read_first(&mut reader) {
            Ok(Message::Link { from, to, token }) => {
                let is_awaited =
                    (self.me + 1..self.world_size).contains(&from) && !streams.contains_key(&from);
                let is_ours = to == self.me && JobToken::new(token) == self.options.token;
                if is_awaited && is_ours && Message::Linked.write(reader.get_ref()).is_ok() {
                    streams.insert(from, reader);
                }
            }
            Ok(Message::Hello { .. }) => {
                // It may be gone.
                let _ = Message::Late.write(reader.get_ref());
            }
            _ => {}
        }
    }
}

impl Mesh {
    /// Waits for this rank's turn to run a collective.
    ///
    /// # Errors
    /// After a link has broken, or the rank has left.
    pub(super) fn turn(&self, operation: &'static str) -> Result<MutexGuard<'_, ()>, CommunicationError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over.load(Ordering::SeqCst) {
            return Err(CommunicationError::PeerLost { operation });
        }
        Ok(turn)
    }

    /// Ends after the last collective: what is queued is still written.
    pub(super) fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.links.iter().flatten().for_each(Link::close);
    }

    /// Ends after a failure: the other ranks find their links lost.
    pub(super) fn shut_down(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.links.iter().flatten().for_each(Link::shut_down);
    }

    fn link(&self, rank: usize) -> &Link {
        self.links[rank].as_ref().expect("a rank sends nothing to itself")
    }

    /// Ends the mesh after the link with `rank` has broken; the error of the collective. After a loss it waits, so that
    /// the control channel can end this process first.
    fn end_after(&self, broken: Broken, rank: usize, operation: &'static str) -> CommunicationError {
        self.is_over.store(true, Ordering::SeqCst);
        match broken {
            Broken::Lost => {
                // The control channel says which rank is lost and why, and ends this process.
                thread::sleep(self.farewell);
                CommunicationError::PeerLost { operation }
            }
            Broken::Silent => {
                let seconds = self.longest_wait.unwrap_or_default().as_secs();
                CommunicationError::Overdue { operation, seconds }
            }
            Broken::Other => CommunicationError::OtherGroup { operation, rank },
        }
    }
}

impl Wire for Mesh {
    /// An empty message is not sent: both sides know its length.
    fn swap(
        &self,
        tag: u32,
        (to, send): (usize, &[u8]),
        (from, receive): (usize, &mut [u8]),
        operation: &'static str,
    ) -> Result<(), CommunicationError> {
        if !send.is_empty() {
            self.link(to).send(tag, send).map_err(|broken| self.end_after(broken, to, operation))?;
        }
        if !receive.is_empty() {
            self.link(from)
                .receive(tag, receive)
                .map_err(|broken| self.end_after(broken, from, operation))?;
        }
        Ok(())
    }
}
