//! A channel beside the collectives that notices ranks which died, panicked, stopped or went silent, and tells all others.
//!
//! Plain TCP, no collective: rank 0 listens, the others connect and stay connected. Every side sends a beat at a regular
//! interval from a thread of its own, so a rank that computes or writes a checkpoint for minutes still beats. A closed connection is
//! noticed at once, silence after [`ControlOptions::silence`]. Rank 0 passes on what it notices. The policy is fail-stop:
//! the caller's function gets the [`Loss`], says it and ends the process.
//!
//! Covered: a process that is killed, ends with an error, panics, or is stopped (`SIGSTOP`, a frozen or lost host, a cut
//! network). Not covered: a rank whose threads live but whose work hangs; that takes a limit on the collectives themselves.

pub(crate) mod joining;
pub(crate) mod message;
mod watch;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use truing_types::Rank;

use message::Message;
pub(crate) use watch::OnLoss;
use watch::{Beats, Link, Shared};

/// A text that only the ranks of one job know, so that nobody else takes part in it. It is sent over the network as it
/// is, and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JobToken(String);

impl JobToken {
    /// The token with this text. Control characters are sent as spaces.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().replace(|c: char| c.is_control(), " "))
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

impl fmt::Debug for JobToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JobToken(..)")
    }
}

/// How a rank takes part in a [`ControlChannel`].
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// This rank.
    pub rank: Rank,
    /// Number of ranks.
    pub world_size: usize,
    /// What messages call this rank, for instance its host and process.
    pub name: String,
    /// What all ranks must have in common, for instance a digest of program and recipe. Another job's ranks are refused.
    pub job: String,
    /// What only the job's ranks know; empty where every rank that comes belongs to the job.
    pub token: JobToken,
    /// How long the ranks wait for each other at the start.
    pub join_within: Duration,
    /// The time between two beats.
    pub beat: Duration,
    /// The time without a beat after which a rank counts as lost. Several beats long.
    pub silence: Duration,
}

impl ControlOptions {
    /// A beat every second, lost after 5 seconds of silence, two minutes to join.
    #[must_use]
    pub fn new(rank: Rank, world_size: usize, name: String, job: String) -> Self {
        let [join_within, beat, silence] = [120, 1, 5].map(Duration::from_secs);
        Self { rank, world_size, name, job, token: JobToken::default(), join_within, beat, silence }
    }
}

/// Why the ranks did not find each other.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Rank 0 cannot listen.
    #[error("rank 0 cannot listen at {address}")]
    Bind {
        /// Where.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// Rank 0 does not answer.
    #[error("rank 0 cannot be reached at {address} within {seconds} s")]
    Unreachable {
        /// Where.
        address: String,
        /// How long it was tried.
        seconds: u64,
        /// What the last attempt ended with.
        source: io::Error,
    },
    /// Ranks did not come.
    #[error("{} did not come within {seconds} s", named(ranks))]
    Missing {
        /// Which.
        ranks: Vec<usize>,
        /// How long rank 0 waited.
        seconds: u64,
    },
    /// Rank 0 does not start the job.
    #[error("{reason}")]
    Refused {
        /// Why not.
        reason: String,
    },
    /// Rank 0 has started the job with other processes.
    #[error("the job has started with all its ranks: rank {rank} was started late or twice")]
    Late {
        /// This rank.
        rank: usize,
    },
    /// Something accepts connections where rank 0 should be, and says nothing.
    #[error("rank 0 at {address} accepts a connection, but says nothing for {seconds} s")]
    Speechless {
        /// Where.
        address: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Rank 0 went away before all ranks were there, or what listens in its place is no rank.
    #[error("rank 0 ended before the job started, or another program listens in its place")]
    Ended,
    /// A connection or thread of this process cannot be set up.
    #[error("the control channel cannot be set up")]
    Setup(#[source] io::Error),
}

/// "rank 1" or "ranks 1, 2", for messages.
pub(crate) fn named(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
    format!("{noun} {}", numbers.join(", "))
}

/// How a rank was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It said that it ends with this exit status.
    Ended {
        /// The status, not 0.
        status: u8,
    },
    /// It panicked.
    Panicked,
    /// Its connection closed without a word: it was killed, or crashed.
    Closed,
    /// Its connection is open, but no beat comes: it is stopped, or its host or network is gone.
    Silent,
}

/// A rank that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub rank: Rank,
    /// Its [`ControlOptions::name`].
    pub name: String,
    /// How.
    pub cause: Cause,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} ({}) ", self.rank.0, self.name)?;
        match self.cause {
            Cause::Ended { status } => write!(formatter, "ended with status {status}"),
            Cause::Panicked => formatter.write_str("panicked"),
            Cause::Closed => formatter.write_str("is gone: it was killed or crashed"),
            Cause::Silent => formatter.write_str("is silent: it is stopped, or its host cannot be reached"),
        }
    }
}

/// The place where rank 0 waits for the others. Made first, so that its address can be told to them.
#[derive(Debug)]
pub struct ControlListener(pub(crate) TcpListener);

impl ControlListener {
    /// Listens at an address; port 0 is any free port.
    ///
    /// # Errors
    /// When the address is not this host's or is in use.
    pub fn bind(address: impl ToSocketAddrs + fmt::Debug) -> Result<Self, ControlError> {
        TcpListener::bind(&address)
            .map(Self)
            .map_err(|source| ControlError::Bind { address: format!("{address:?}"), source })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> Result<SocketAddr, ControlError> {
        self.0.local_addr().map_err(ControlError::Setup)
    }
}

/// This rank's connections. It must end with [`ControlChannel::leave`]: dropping it is a loss for the other ranks, a panic if
/// the thread is panicking.
pub struct ControlChannel {
    shared: Arc<Shared>,
    /// Dropping it ends the beats.
    _beats: Beats,
}

impl ControlChannel {
    /// Rank 0: waits until all others are here. `on_loss` is called once at most, on a thread of the channel.
    ///
    /// # Errors
    /// When ranks do not come, come twice, or belong to another job. Those that came get the same error. A rank that
    /// was started again, after its first process hung up, has come once.
    pub fn listen(
        listener: ControlListener,
        options: &ControlOptions,
        on_loss: impl Fn(&Loss) + Send + Sync + 'static,
    ) -> Result<Self, ControlError> {
        Self::accept(&listener, options, Box::new(on_loss))
    }

    /// [`listen`](Self::listen) with a listener that is used further.
    pub(crate) fn accept(
        listener: &ControlListener,
        options: &ControlOptions,
        on_loss: OnLoss,
    ) -> Result<Self, ControlError> {
        let peers = joining::accept_all(&listener.0, options)?;
        Self::start(peers, options, on_loss)
    }

    /// Every other rank: connects to rank 0, which may come later, and waits until all are there.
    ///
    /// # Errors
    /// When rank 0 cannot be reached or does not start the job.
    pub fn connect(
        address: (&str, u16),
        options: &ControlOptions,
        on_loss: impl Fn(&Loss) + Send + Sync + 'static,
    ) -> Result<Self, ControlError> {
        let stream = reach_first(address, options)?;
        Self::join(stream, 0, options, Box::new(on_loss)).map(|(channel, _)| channel)
    }

    /// [`connect`](Self::connect) over a connection with rank 0 that is there already. `link_port` is where this rank
    /// waits for links. Returns where the ranks from 1 on do, as rank 0 sees them.
    pub(crate) fn join(
        stream: TcpStream,
        link_port: u16,
        options: &ControlOptions,
        on_loss: OnLoss,
    ) -> Result<(Self, Vec<SocketAddr>), ControlError> {
        let (first, links) = joining::join(stream, link_port, options)?;
        Ok((Self::start(vec![first], options, on_loss)?, links))
    }

    fn start(
        peers: Vec<joining::Peer>,
        options: &ControlOptions,
        on_loss: OnLoss,
    ) -> Result<Self, ControlError> {
        let mut links = Vec::new();
        let mut readers = Vec::new();
        for peer in peers {
            let stream = peer.reader.get_ref();
            stream.set_read_timeout(Some(options.silence)).map_err(ControlError::Setup)?;
            let writer = stream.try_clone().map_err(ControlError::Setup)?;
            writer.set_write_timeout(Some(options.silence)).map_err(ControlError::Setup)?;
            links.push(Link::new(peer.rank, peer.name, writer));
            readers.push(peer.reader);
        }
        let shared = Arc::new(Shared::new(options.rank.0, links, on_loss));
        for (index, reader) in readers.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let watch = move || shared.watch(index, reader);
            let name = format!("control-{index}");
            thread::Builder::new().name(name).spawn(watch).map_err(ControlError::Setup)?;
        }
        let beats = Beats::start(&shared, options.beat).map_err(ControlError::Setup)?;
        Ok(Self { shared, _beats: beats })
    }

    /// A handle that reports this rank's exit from a thread that does not own the channel.
    #[must_use]
    pub fn farewell(&self) -> Farewell {
        Farewell(Arc::downgrade(&self.shared))
    }

    /// Tells the others that this rank ends with an exit status. A status other than 0 ends the job.
    pub fn leave(self, status: u8) {
        self.shared.part(&Message::Left { status });
    }
}

/// Reports a rank's exit from any thread, such as the signal handler's, just before the process ends.
#[derive(Clone)]
pub struct Farewell(Weak<Shared>);

impl Farewell {
    /// Tells the others that this rank ends with an exit status, unless it has left, or another one is lost.
    pub fn say(&self, status: u8) {
        if let Some(shared) = self.0.upgrade() {
            shared.part(&Message::Left { status });
        }
    }
}

/// Connects to rank 0, which may not listen yet.
pub(crate) fn reach_first(
    (host, port): (&str, u16),
    options: &ControlOptions,
) -> Result<TcpStream, ControlError> {
    joining::connect(host, port, options.join_within).map_err(|source| {
        let (address, seconds) = (format!("{host}:{port}"), options.join_within.as_secs());
        ControlError::Unreachable { address, seconds, source }
    })
}

impl Drop for ControlChannel {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.part(&Message::Panicked);
        } else {
            self.shared.close();
        }
    }
}
