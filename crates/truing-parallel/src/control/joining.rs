//! How the ranks find each other: every one says hello to rank 0, which lets all start at once or refuses all.

use std::collections::BTreeMap;
use std::io::{self, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::Duration;

use truing_types::Rank;

use super::message::{Message, Unread};
use super::{ControlError, ControlOptions, JobToken};

/// The time between two looks for a connection, or two attempts to make one.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one attempt to connect, or a stranger who says nothing, may take.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(1);

/// A rank at the other end of a connection.
pub(super) struct Peer {
    pub(super) rank: usize,
    pub(super) name: String,
    pub(super) reader: BufReader<TcpStream>,
    /// Where it waits for links, as this rank sees it.
    pub(super) links: SocketAddr,
}

/// Rank 0: accepts connections until every rank is here, and lets them start.
pub(super) fn accept_all(
    listener: &TcpListener,
    options: &ControlOptions,
) -> Result<Vec<Peer>, ControlError> {
    listener.set_nonblocking(true).map_err(ControlError::Setup)?;
    let mut peers = BTreeMap::new();
    let found = gather(listener, options, &mut peers);
    let message = match &found {
        Ok(()) => {
            let links = peers.values().map(|peer: &Peer| peer.links).collect();
            Message::Start { name: options.name.clone(), links }
        }
        Err(error) => Message::Refused { reason: error.to_string() },
    };
    for peer in peers.values() {
        // A rank that is gone already will be missed when it should beat.
        let _ = message.write(peer.reader.get_ref());
    }
    found.map(|()| peers.into_values().collect())
}

fn gather(
    listener: &TcpListener,
    options: &ControlOptions,
    peers: &mut BTreeMap<usize, Peer>,
) -> Result<(), ControlError> {
    let mut left = options.join_within;
    while peers.len() + 1 < options.world_size {
        let Some(reader) = next_connection(listener, &mut left).map_err(ControlError::Setup)? else {
            let ranks = (1..options.world_size).filter(|rank| !peers.contains_key(rank)).collect();
            return Err(ControlError::Missing { ranks, seconds: options.join_within.as_secs() });
        };
        welcome(reader, options, peers)?;
    }
    Ok(())
}

/// Waits for the next connection to a listener that does not block. `left` is the time that remains to wait; `None`
/// once it is over.
pub(crate) fn next_connection(
    listener: &TcpListener,
    left: &mut Duration,
) -> io::Result<Option<BufReader<TcpStream>>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some(reader) = prepared(stream, ATTEMPT)? {
                    return Ok(Some(reader));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let Some(rest) = left.checked_sub(PAUSE) else { return Ok(None) };
                *left = rest;
                thread::sleep(PAUSE);
            }
            // A connection that ended before it was accepted.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes a rank in. A connection that does not speak this protocol is dropped.
fn welcome(
    mut reader: BufReader<TcpStream>,
    options: &ControlOptions,
    peers: &mut BTreeMap<usize, Peer>,
) -> Result<(), ControlError> {
    let hello = Message::read_first(&mut reader);
    let Ok(Message::Hello { rank, world_size, job, token, link_port, name }) = hello else { return Ok(()) };
    let Ok(address) = reader.get_ref().peer_addr() else { return Ok(()) };
    let reason = if JobToken::new(token) != options.token {
        Some(format!("rank {rank} ({name}) belongs to another job: its token differs from that of rank 0"))
    } else if world_size != options.world_size {
        Some(format!(
            "rank {rank} ({name}) was started as one of {world_size} ranks, rank 0 as one of {}",
            options.world_size
        ))
    } else if job != options.job {
        Some(format!("rank {rank} ({name}) belongs to another job: {job:?}, rank 0 to {:?}", options.job))
    } else if let Some(earlier) = peers.get(&rank).filter(|earlier| !is_gone(earlier.reader.get_ref())) {
        Some(format!("rank {rank} came twice: {} and {name}", earlier.name))
    } else if rank == 0 || rank >= world_size {
        Some(format!("{name} is rank {rank}, expected 1 to {}", world_size - 1))
    } else {
        None
    };
    let Some(reason) = reason else {
        let links = SocketAddr::new(address.ip().to_canonical(), link_port);
        peers.insert(rank, Peer { rank, name, reader, links });
        return Ok(());
    };
    let _ = Message::Refused { reason: reason.clone() }.write(reader.get_ref());
    Err(ControlError::Refused { reason })
}

/// Whether the other side, which has nothing to say now, has hung up. A rank that was started again after that is not
/// there twice.
fn is_gone(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = matches!(&looked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    !waits || stream.set_nonblocking(false).is_err()
}

/// Sets a connection's options; `None` if it is gone already.
pub(crate) fn prepared(stream: TcpStream, timeout: Duration) -> io::Result<Option<BufReader<TcpStream>>> {
    // A listener that does not block may hand on that property.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // Fails where the other side has hung up.
    Ok(stream.set_nodelay(true).is_ok().then(|| BufReader::new(stream)))
}

/// Any other rank: says hello to rank 0, which is at the other end of `stream`, and waits for the start. Returns rank
/// 0, and where the ranks from 1 on wait for links.
pub(super) fn join(
    stream: TcpStream,
    link_port: u16,
    options: &ControlOptions,
) -> Result<(Peer, Vec<SocketAddr>), ControlError> {
    let address = stream.peer_addr().map_err(|_| ControlError::Ended)?;
    // Rank 0 waits as long for the last rank, and then says what it misses.
    let timeout = options.join_within + ATTEMPT * 5;
    let prepared = prepared(stream, timeout).map_err(ControlError::Setup)?;
    let mut reader = prepared.ok_or(ControlError::Ended)?;
    let ControlOptions { rank: Rank(rank), world_size, job, token, name, .. } = options.clone();
    let hello = Message::Hello { rank, world_size, job, token: token.into_text(), link_port, name };
    hello.write(reader.get_ref()).map_err(|_| ControlError::Ended)?;
    match Message::read(&mut reader) {
        Ok(Message::Start { name, links }) if links.len() + 1 == world_size => {
            Ok((Peer { rank: 0, name, reader, links: address }, links))
        }
        Ok(Message::Refused { reason }) => Err(ControlError::Refused { reason }),
        Ok(Message::Late) => Err(ControlError::Late { rank }),
        Ok(_) | Err(Unread::Closed) => Err(ControlError::Ended),
        Err(Unread::Silent) => {
            let (address, seconds) = (address.to_string(), timeout.as_secs());
            Err(ControlError::Speechless { address, seconds })
        }
    }
}

/// Answers a connection that came after the start: a rank that was started late or twice, or a stranger.
pub(crate) fn answer_late(stream: TcpStream) {
    let Ok(Some(mut reader)) = prepared(stream, ATTEMPT) else { return };
    if matches!(Message::read_first(&mut reader), Ok(Message::Hello { .. })) {
        // It may be gone.
        let _ = Message::Late.write(reader.get_ref());
    }
}

/// Whether a connection has the same address at both ends. On one host that happens, rarely, where nobody listens yet:
/// the system gives the caller the very port that it calls.
fn is_with_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(other)) if own == other)
}

/// Connects to an address where nobody may listen yet.
///
/// # Errors
/// What the last attempt within the time ended with.
pub(crate) fn connect(host: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
    let mut left = within;
    loop {
        let (source, spent, pause) = match (host, port).to_socket_addrs() {
            Ok(addresses) => match attempt(addresses) {
                Ok(stream) => return Ok(stream),
                Err((source, spent)) => (source, spent + PAUSE, PAUSE),
            },
            // A name that is not known yet comes up no sooner if it is looked up fifty times a second.
            Err(source) => (source, ATTEMPT, ATTEMPT),
        };
        let Some(rest) = left.checked_sub(spent) else { return Err(source) };
        left = rest;
        thread::sleep(pause);
    }
}

/// Connects to the first of these addresses that takes a connection. Otherwise: what the last one ended with, and how
/// long those took that did not answer.
fn attempt(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, (io::Error, Duration)> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let mut spent = Duration::ZERO;
    for address in addresses {
        match TcpStream::connect_timeout(&address, ATTEMPT) {
            Ok(stream) if is_with_itself(&stream) => last = ErrorKind::ConnectionRefused.into(),
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
        if last.kind() == ErrorKind::TimedOut {
            spent += ATTEMPT;
        }
    }
    Err((last, spent))
}
