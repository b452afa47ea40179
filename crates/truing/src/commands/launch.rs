//! `truing launch`: several processes of this program on this machine, which find each other over TCP or are started by
//! `mpirun`.

mod local;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;

use crate::Context;
use crate::outcome::{Hinted, Outcome};
use crate::ranks::mpi;
use crate::ranks::transport::{Transport, no_mpi};

/// Arguments of `truing launch`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Number of processes. They share the threads of this machine.
    #[arg(long = "processes", short = 'n', value_name = "N")]
    n_processes: NonZeroUsize,
    /// What carries the messages between the processes. Default: `mpi` in a build with MPI, else `tcp`.
    #[arg(long, value_name = "TRANSPORT")]
    transport: Option<Transport>,
    /// An argument for `mpirun`, for instance `--mpirun=--allow-run-as-root`. May be given several times.
    #[arg(long = "mpirun", value_name = "ARGUMENT", allow_hyphen_values = true)]
    mpirun_arguments: Vec<String>,
    /// The training command and its arguments, without `truing`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Starts the processes and ends with the exit status of the first one that fails.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let of_environment = Transport::of_environment(context.environment.transport.as_deref())?;
    let default = if mpi::IS_THERE { Transport::Mpi } else { Transport::Tcp };
    let transport = arguments.transport.or(of_environment).unwrap_or(default);
    anyhow::ensure!(
        transport == Transport::Mpi || arguments.mpirun_arguments.is_empty(),
        "`--mpirun` needs `--transport mpi`: over `{}` no `mpirun` is started",
        transport.name()
    );
    match transport {
        Transport::Tcp => local::run(arguments.n_processes.get(), &arguments.command, context),
        Transport::Mpi => run_mpirun(arguments, context),
    }
}

/// Becomes `mpirun`.
fn run_mpirun(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    if !mpi::IS_THERE {
        return Err(no_mpi());
    }
    let Some(mpirun) = context.environment.find_program(&["mpirun"]) else {
        let source = anyhow::anyhow!("`mpirun` is in no folder of PATH");
        let hint = "it is part of OpenMPI, for instance of Debian's package openmpi-bin; `--transport tcp` needs none"
            .to_owned();
        return Err(anyhow::Error::new(Hinted { source, hint }));
    };
    let program = std::env::current_exe().context("this program's file cannot be found")?;
    let n_processes = arguments.n_processes.get();
    let mut command = Command::new(mpirun);
    // Processes share all cores instead of one each, and there may be more of them than cores.
    command.args(["--bind-to", "none", "--oversubscribe", "-n", &n_processes.to_string()]);
    command.args(&arguments.mpirun_arguments).arg(program).args(&arguments.command);
    command.env("TRUING_THREADS", threads_of_each(n_processes, context));
    start(&mut command)
}

/// How many threads each of several processes computes with.
fn threads_of_each(n_processes: usize, context: &Context) -> String {
    (context.n_threads / n_processes).max(1).to_string()
}

/// Replaces this process, so that signals and the exit status pass through.
#[cfg(unix)]
fn start(command: &mut Command) -> anyhow::Result<Outcome> {
    use std::os::unix::process::CommandExt as _;
    Err(command.exec()).context("`mpirun` cannot be started")
}

#[cfg(not(unix))]
fn start(_: &mut Command) -> anyhow::Result<Outcome> {
    anyhow::bail!("`truing launch --transport mpi` needs a Unix system")
}
