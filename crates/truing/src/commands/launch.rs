//! `truing launch`: several processes of this program, started by `mpirun`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;

use crate::Context;
use crate::outcome::{Hinted, Outcome};

/// Arguments of `truing launch`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Number of processes. They share the threads of this machine.
    #[arg(long = "processes", short = 'n', value_name = "N")]
    n_processes: NonZeroUsize,
    /// An argument for `mpirun`, for instance `--mpirun=--allow-run-as-root`. May be given several times.
    #[arg(long = "mpirun", value_name = "ARGUMENT", allow_hyphen_values = true)]
    mpirun_arguments: Vec<String>,
    /// The training command and its arguments, without `truing`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes `mpirun`, whose exit status is that of the first process that fails.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    if !cfg!(feature = "mpi") {
        let source = anyhow::anyhow!("this program has no MPI");
        let hint = "`cargo build --release -p truing --features mpi` builds it with MPI".to_owned();
        return Err(anyhow::Error::new(Hinted { source, hint }));
    }
    let Some(mpirun) = context.environment.find_program(&["mpirun"]) else {
        let source = anyhow::anyhow!("`mpirun` is in no folder of PATH");
        let hint = "it is part of OpenMPI, for instance of Debian's package openmpi-bin".to_owned();
        return Err(anyhow::Error::new(Hinted { source, hint }));
    };
    let program = std::env::current_exe().context("this program's file cannot be found")?;
    let n_processes = arguments.n_processes.get();
    let mut command = Command::new(mpirun);
    // Processes share all cores instead of one each, and there may be more of them than cores.
    command.args(["--bind-to", "none", "--oversubscribe", "-n", &n_processes.to_string()]);
    command.args(&arguments.mpirun_arguments).arg(program).args(&arguments.command);
    command.env("TRUING_THREADS", (context.n_threads / n_processes).max(1).to_string());
    start(&mut command)
}

/// Replaces this process, so that signals and the exit status pass through.
#[cfg(unix)]
fn start(command: &mut Command) -> anyhow::Result<Outcome> {
    use std::os::unix::process::CommandExt as _;
    Err(command.exec()).context("`mpirun` cannot be started")
}

#[cfg(not(unix))]
fn start(_: &mut Command) -> anyhow::Result<Outcome> {
    anyhow::bail!("`truing launch` needs a Unix system")
}
