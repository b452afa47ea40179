//! The processes of one run. Without a launcher there is one; under `truing launch`, torchrun, `mpirun` or `srun` a
//! training run has several, over TCP or over MPI (feature `mpi`).
//!
//! Rank 0 alone prints and writes. The others end silently when rank 0 has said why.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use truing_parallel::{Farewell, Rendezvous, Solo};
use truing_stages::Machine;
use truing_types::{Communicator, Groups};

use crate::outcome::{self, Outcome};
use crate::{Context, interrupt, machine};

mod ending;
#[cfg_attr(feature = "mpi", path = "ranks/mpi.rs")]
#[cfg_attr(not(feature = "mpi"), path = "ranks/no_mpi.rs")]
pub(crate) mod mpi;
mod tcp;
pub(crate) mod transport;

use transport::Transport;

/// This process among the others of its job.
trait Job {
    /// All ranks.
    fn world(&self) -> Arc<dyn Communicator>;
    /// Ranks on this host.
    fn n_on_host(&self) -> usize;
    /// A handle that tells the other ranks that a signal ends this process.
    fn farewell(&self) -> Farewell;
    /// Ends after success; waits for the others.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
    /// Ends after a failure: tells the others the exit status.
    fn fail(self: Box<Self>, status: u8);
}

/// What a rank knows before it joins the others.
struct Launched<'a> {
    place: &'a Rendezvous,
    /// This host's name.
    host: &'a str,
    /// The program and its version, the same on all ranks.
    program: &'a str,
    /// The token that all ranks of the job have, or nothing.
    token: &'a str,
    /// The process of `truing launch`, where it started this one.
    launcher_process: Option<u32>,
    /// How long the ranks wait for each other, where it is given.
    join_within: Option<Duration>,
}

/// How long a rank that fails waits for rank 0 to say the same first.
const FIRST_SAYS_IT: Duration = Duration::from_secs(1);

/// The ranks of a run.
pub(crate) struct Ranks {
    job: Option<Box<dyn Job>>,
    groups: Groups,
    /// What a plan is made for.
    n_planned: usize,
}

impl Ranks {
    /// A single process.
    pub(crate) fn solo() -> Self {
        Self::planned(1)
    }

    /// A single process that plans a run on `n_ranks`.
    pub(crate) fn planned(n_ranks: usize) -> Self {
        Self { job: None, groups: Solo::groups(), n_planned: n_ranks }
    }

    /// Joins the ranks that a launcher started; a single process where there is no launcher. `trains`: whether the
    /// stage can run on several ranks.
    pub(crate) fn start(trains: bool, context: &Context) -> anyhow::Result<Self> {
        let Some(place) = context.place.as_ref().filter(|place| place.world_size > 1) else {
            return Ok(Self::solo());
        };
        if !trains {
            return Err(refusal(place));
        }
        let job = start(place, context)?;
        let farewell = job.farewell();
        interrupt::before_end(move || farewell.say(outcome::INTERRUPTED));
        let groups = Groups::new(job.world(), 1)?;
        let n_planned = groups.world.world_size();
        Ok(Self { job: Some(job), groups, n_planned })
    }

    /// The communicators.
    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Whether this is rank 0.
    pub(crate) fn is_first(&self) -> bool {
        truing_run::ranks::is_first(&*self.groups.world)
    }

    /// Does some work on rank 0 before the others do it, so that they find what it downloaded.
    pub(crate) fn first_before_others<T>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if self.is_first() {
            let result = work()?;
            self.groups.world.barrier()?;
            return Ok(result);
        }
        self.groups.world.barrier()?;
        work()
    }

    /// The machine as every rank has to see it, so that all make the same plan: this rank's share of the smallest.
    pub(crate) fn machine(&self, n_threads: usize) -> Machine {
        let machine = machine::for_stages(n_threads, machine::measure_step_gigaflops());
        let mine = Machine { n_ranks: self.n_planned, ..machine };
        let Some(job) = &self.job else { return mine };
        let n_on_host = job.n_on_host() as u64;
        let share = Machine { available_bytes: mine.available_bytes / n_on_host, ..mine };
        // A rank that is lost here is an error of the next collective.
        self.smallest(share).unwrap_or(share)
    }

    fn smallest(&self, mine: Machine) -> anyhow::Result<Machine> {
        let Machine { n_threads, available_bytes, resident_bytes, gigaflops, .. } = mine;
        let numbers = (n_threads as u64, available_bytes, resident_bytes, gigaflops.unwrap_or(f64::INFINITY));
        let all = truing_run::ranks::gather_dealt(&*self.groups.world, vec![numbers])?;
        let rates = all.iter().map(|numbers| numbers.3).fold(f64::INFINITY, f64::min);
        Ok(Machine {
            n_threads: all.iter().map(|numbers| numbers.0 as usize).min().unwrap_or(n_threads),
            available_bytes: all.iter().map(|numbers| numbers.1).min().unwrap_or(available_bytes),
            resident_bytes: all.iter().map(|numbers| numbers.2).max().unwrap_or(resident_bytes),
            gigaflops: rates.is_finite().then_some(rates),
            ..mine
        })
    }

    /// Checks that all ranks were given the same program, recipe, model and data, which `content_key` digests.
    pub(crate) fn check_same(
        &self,
        content_key: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        if self.job.is_none() {
            return Ok(());
        }
        let mine = format!("{} {}", env!("CARGO_PKG_VERSION"), content_key()?);
        let all = self.groups.world.all_gather_bytes(mine.as_bytes())?;
        let differs = |rank: &usize| all[*rank] != all[0];
        let others: Vec<String> = (1..all.len()).filter(differs).map(|rank| rank.to_string()).collect();
        anyhow::ensure!(
            others.is_empty(),
            "ranks with another program, recipe, model or data than rank 0: {}",
            others.join(", ")
        );
        Ok(())
    }

    /// Ends the run: waits for the others after success, and tells them of a failure.
    pub(crate) fn end(self, ended: anyhow::Result<Outcome>) -> anyhow::Result<Outcome> {
        let is_first = self.is_first();
        let Some(job) = self.job else { return ended };
        if ended.is_ok() {
            job.finish()?;
            return ended;
        }
        if !is_first {
            // If rank 0 fails as well, its failure ends this process in the meantime.
            std::thread::sleep(FIRST_SAYS_IT);
        }
        job.fail(outcome::ERROR);
        ended
    }
}

/// Joins the other ranks over the transport that was asked for, or that the launcher and this program have in common.
fn start(place: &Rendezvous, context: &Context) -> anyhow::Result<Box<dyn Job>> {
    let environment = &context.environment;
    let asked = Transport::of_environment(environment.transport.as_deref())?;
    let transport = Transport::choose(asked, place, mpi::IS_THERE)?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_owned());
    let launched = Launched {
        place,
        host: host.trim(),
        program: concat!("truing ", env!("CARGO_PKG_VERSION")),
        token: environment.job_token()?,
        launcher_process: environment
            .of_launcher
            .get(Rendezvous::LAUNCHED)
            .and_then(|process| process.parse().ok()),
        join_within: environment.join_within()?,
    };
    match transport {
        Transport::Tcp => tcp::start(&launched),
        Transport::Mpi => mpi::start(&launched),
    }
}

/// Why something that is one process cannot be started by this launcher.
pub(crate) fn refusal(place: &Rendezvous) -> anyhow::Error {
    let Rendezvous { launcher, world_size, .. } = place;
    anyhow::anyhow!(
        "{launcher} started {world_size} processes, but this command runs as one: \
         only training runs on several ranks"
    )
}
