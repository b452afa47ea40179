//! Ranks as processes, over TCP: no launcher's library, nothing but sockets.
//!
//! The ranks meet at rank 0's address, where the control channel is set up ([`ControlChannel`](crate::ControlChannel)).
//! Over it they learn where every other rank listens, and then connect each with each. A pair has one connection, a
//! *link*. On the sending side a thread writes what is queued (`over_tcp/link.rs`), so that a rank can send and receive
//! at once. Collectives are those of `transfers.rs`; they run one after another, each on the thread of its caller.
//!
//! Covered: strangers and ranks of other jobs at the door (a token in every first line); ranks that come late, twice or
//! never; ranks that call collectives of their groups in different orders. Not covered: encryption. Values and the
//! token are sent as they are, so the network between the hosts has to be one that is trusted.

mod communicator;
mod door;
mod job;
mod link;
mod mesh;
mod places;

use std::io;
use std::time::Duration;

use truing_types::CommunicationError;

use crate::control::named;
use crate::{ControlError, JobToken, Launcher};

pub use job::TcpJob;

/// How a rank takes part in a job over TCP. All ranks have the same `job`, `token` and `n_bytes_at_once`.
#[derive(Debug, Clone)]
pub struct TcpOptions {
    /// This host's name, for messages, and to count the ranks of one host.
    pub host: String,
    /// This process's number there, for messages.
    pub process: u32,
    /// What all ranks must have in common, for instance the program's version. Another job's ranks are refused.
    pub job: String,
    /// What only the job's ranks know; empty where every rank that comes belongs to the job.
    pub token: JobToken,
    /// How long the ranks wait for each other at the start.
    pub join_within: Duration,
    /// After this time without a byte from a rank that has to send, a collective is
    /// [`Overdue`](truing_types::CommunicationError::Overdue). `None`: it waits as long as the other ranks work.
    pub longest_wait: Option<Duration>,
    /// Bytes that are queued at once. Longer messages are sent in pieces.
    pub n_bytes_at_once: usize,
    /// How long a collective whose link broke waits before it returns the error. The control channel names the lost
    /// rank in this time, and its `on_loss` ends the process.
    pub farewell: Duration,
}

impl TcpOptions {
    /// Two minutes to join, no limit for collectives, pieces of 256 KiB, 8 seconds for the control channel to name a
    /// lost rank.
    #[must_use]
    pub fn new(host: String, process: u32, job: String, token: JobToken) -> Self {
        let [join_within, farewell] = [120, 8].map(Duration::from_secs);
        Self {
            host,
            process,
            job,
            token,
            join_within,
            longest_wait: None,
            n_bytes_at_once: 1 << 18,
            farewell,
        }
    }
}

/// Why there are no ranks over TCP.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The launcher says no place where the ranks can meet.
    #[error(
        "{launcher} started {world_size} processes, but `MASTER_ADDR` and `MASTER_PORT`, where they can meet, \
         are not set"
    )]
    NoAddress {
        /// What started the processes.
        launcher: Launcher,
        /// How many.
        world_size: usize,
    },
    /// Another rank's host does not let this one connect.
    #[error("rank {rank} cannot be reached at {address} within {seconds} s")]
    Unreachable {
        /// Which.
        rank: usize,
        /// Where.
        address: String,
        /// How long it was tried.
        seconds: u64,
        /// What the last attempt ended with.
        source: io::Error,
    },
    /// What listens at another rank's address is not that rank.
    #[error("rank {rank} does not answer at {address}: another program listens there, or the rank has ended")]
    NoAnswer {
        /// Which.
        rank: usize,
        /// Where.
        address: String,
    },
    /// Other ranks did not connect to this one.
    #[error("no link with {} within {seconds} s: is a firewall between the hosts?", named(ranks))]
    Unlinked {
        /// Which.
        ranks: Vec<usize>,
        /// How long this rank waited.
        seconds: u64,
    },
    /// A connection or thread of this process cannot be set up.
    #[error("the links between the ranks cannot be set up")]
    Setup(#[source] io::Error),
    /// The ranks cannot exchange the names of their hosts, or do not end together.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
    /// The control channel cannot be set up.
    #[error(transparent)]
    Control(#[from] ControlError),
}
