//! A job of several processes: the links of the ranks with the control channel beside them.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use truing_types::{Communicator, Rank};

use super::communicator::TcpCommunicator;
use super::door::Door;
use super::mesh::{Mesh, Unlinked};
use super::{TcpError, TcpOptions, places};
use crate::control::{OnLoss, reach_first};
use crate::{ControlChannel, ControlOptions, Farewell, Loss, Rendezvous};

/// The status with which a rank leaves that does not come to work.
const NOT_STARTED: u8 = 2;

/// This process as a rank of a job. It must end with [`TcpJob::finish`] or [`TcpJob::fail`]; dropping it is a loss for
/// the other ranks, a panic if the thread is panicking.
pub struct TcpJob {
    // The first to be dropped: the other ranks hear why this one ends.
    channel: ControlChannel,
    world: Arc<TcpCommunicator>,
    mesh: Arc<Mesh>,
    n_on_host: usize,
    /// Rank 0 keeps it.
    _door: Option<Door>,
}

impl TcpJob {
    /// Joins the other ranks at the address that the launcher agreed on. `on_loss` is called once at most, when a rank
    /// is lost, and ends the process.
    ///
    /// # Errors
    /// When the launcher names no address, when ranks do not come, come twice or belong to another job, or when two of
    /// them cannot connect. Rank 0 and all ranks that came get the same error, unless it is about a connection of their
    /// own.
    pub fn start(
        place: &Rendezvous,
        options: &TcpOptions,
        on_loss: impl Fn(&Loss) + Send + Sync + 'static,
    ) -> Result<Self, TcpError> {
        let &Rendezvous { launcher, rank, world_size, .. } = place;
        let Some((host, port)) = &place.address else {
            return Err(TcpError::NoAddress { launcher, world_size });
        };
        let start = Start {
            rank,
            world_size,
            address: (host.as_str(), *port),
            is_on_one_host: place.n_on_host == Some(world_size),
            options,
        };
        let on_loss: OnLoss = Box::new(on_loss);
        if rank == 0 { start.first(on_loss) } else { start.other(on_loss) }
    }

    /// All ranks.
    #[must_use]
    pub fn world(&self) -> Arc<dyn Communicator> {
        Arc::<TcpCommunicator>::clone(&self.world)
    }

    /// Number of ranks on this host, which share its cores and memory.
    #[must_use]
    pub fn n_on_host(&self) -> usize {
        self.n_on_host
    }

    /// A handle that reports this rank's exit from a thread that does not own the job.
    #[must_use]
    pub fn farewell(&self) -> Farewell {
        self.channel.farewell()
    }

    /// Ends after success: waits for all ranks. Later collectives fail.
    ///
    /// # Errors
    /// When a rank does not come to the end.
    pub fn finish(self) -> Result<(), TcpError> {
        self.world.barrier()?;
        self.mesh.close();
        self.channel.leave(0);
        Ok(())
    }

    /// Ends after a failure: the others hear the status, with which the process must end now.
    pub fn fail(self, status: u8) {
        self.channel.leave(status);
        self.mesh.shut_down();
    }
}

/// What a rank starts with.
struct Start<'a> {
    rank: usize,
    world_size: usize,
    /// Where rank 0 is.
    address: (&'a str, u16),
    is_on_one_host: bool,
    options: &'a TcpOptions,
}

impl Start<'_> {
    fn control(&self) -> ControlOptions {
        let TcpOptions { host, process, job, token, join_within, .. } = self.options.clone();
        let name = format!("{host}, process {process}");
        let control = ControlOptions::new(Rank(self.rank), self.world_size, name, job);
        ControlOptions { token, join_within, ..control }
    }

    /// Rank 0: the others come here, first to join, then to link.
    fn first(&self, on_loss: OnLoss) -> Result<TcpJob, TcpError> {
        let (host, port) = self.address;
        let listener = places::listen_first(host, port, self.is_on_one_host, self.options.join_within)?;
        let channel = ControlChannel::accept(&listener, &self.control(), on_loss)?;
        let mut job = self.link(channel, &listener.0, Vec::new())?;
        job._door = Some(Door::keep(listener).map_err(TcpError::Setup)?);
        Ok(job)
    }

    /// Any other rank: reaches rank 0, and listens on the way there for the ranks above it.
    fn other(&self, on_loss: OnLoss) -> Result<TcpJob, TcpError> {
        let control = self.control();
        let stream = reach_first(self.address, &control)?;
        let first = stream.peer_addr().map_err(TcpError::Setup)?;
        let own = stream.local_addr().map_err(TcpError::Setup)?;
        let own = places::of_other(self.address.0, own.ip(), self.is_on_one_host);
        let (listener, port) = listen(own).map_err(TcpError::Setup)?;
        let (channel, links) = ControlChannel::join(stream, port, &control, on_loss)?;
        let others = links.into_iter().map(|seen| places::as_seen_from(first.ip(), seen));
        let below = [first].into_iter().chain(others).take(self.rank).collect();
        self.link(channel, &listener, below)
    }

    /// Makes the links, now that all ranks are here. A rank without them leaves, and the others hear it.
    fn link(
        &self,
        channel: ControlChannel,
        listener: &TcpListener,
        below: Vec<SocketAddr>,
    ) -> Result<TcpJob, TcpError> {
        let &Self { rank: me, world_size, options, .. } = self;
        let mesh = match (Unlinked { me, world_size, listener, below, options }).link() {
            Ok(mesh) => Arc::new(mesh),
            Err(error) => {
                channel.leave(NOT_STARTED);
                return Err(error);
            }
        };
        let world = TcpCommunicator::world(me, world_size, Arc::clone(&mesh), options.n_bytes_at_once);
        let hosts = world.all_gather_bytes(options.host.as_bytes())?;
        let n_on_host = hosts.iter().filter(|host| **host == options.host.as_bytes()).count();
        Ok(TcpJob { channel, world: Arc::new(world), mesh, n_on_host, _door: None })
    }
}

/// Listens at any free port.
fn listen(ip: IpAddr) -> std::io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((ip, 0))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}
