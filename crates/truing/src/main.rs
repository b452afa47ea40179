//! The command line of `truing`: arguments in, results out. Only this crate prints, reads the environment and
//! the clock, and decides exit statuses. What the commands do lives in the library crates.

mod asking;
mod children;
mod commands;
mod environment;
mod interrupt;
mod local_engine;
mod machine;
mod metrics_hook;
mod outcome;
mod printer;
mod progress;
mod quickstart;
mod ranks;
mod recorder;
#[cfg(test)]
mod reference;
mod rendering;
mod table;
mod time_left;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use truing_model::ComputeDtype;
use truing_parallel::{Launcher, Rendezvous};

use commands::Command;
use environment::Environment;
use local_engine::DeviceChoice;
use outcome::Outcome;
use printer::Printer;

/// What every command is given besides its own arguments.
pub(crate) struct Context {
    /// Where results and progress go.
    pub(crate) printer: Printer,
    /// The environment, read once.
    pub(crate) environment: Environment,
    /// Threads of the pool that computes.
    pub(crate) n_threads: usize,
    /// Settings of the device on the command line.
    pub(crate) device: DeviceChoice,
    /// The place of this process among those that a launcher started.
    pub(crate) place: Option<Rendezvous>,
}

/// Aligns language models: prompt selection, SFT, reward models, DPO, GRPO; with checks of correctness.
///
/// Exit status: 0 success; 1 a finding or negative result (a check that fails, a plan that does not fit); 2 an error;
/// 75 a pipeline waits for a file from people, or another rank of the job was lost; 130 interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "truing",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\
                  \n  truing quickstart\
                  \n  truing sft recipes/tiny.toml --plan\
                  \n  truing sft recipes/tiny.toml\
                  \n  truing chat --model runs/tiny/model"
)]
pub(crate) struct Cli {
    /// CPU threads. Default: all that this process may use. It never changes a result.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// What models compute on: `cpu`, or `cuda:0` for the first GPU, `cuda` for one GPU a process (docs/gpu.md).
    /// Default: the recipe's `device`, else `cpu`.
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<String>,
    /// Number format that matrices are multiplied in, `f32` or `bf16`; weights are kept in f32. Default: the recipe's
    /// `compute_dtype`, else `f32`.
    #[arg(long, global = true, value_name = "FORMAT", value_parser = compute_dtype)]
    compute_dtype: Option<ComputeDtype>,
    /// Folder of libtorch_cpu.so, or a Python environment with torch. Default: the environment's TORCH_LIB.
    #[arg(long, global = true, value_name = "FOLDER")]
    torch_lib: Option<PathBuf>,
    /// Print no progress and no notes, only results and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Before anything else, since the sandbox's child must have one thread.
    if let Some(status) = sandbox_child() {
        return status;
    }
    truing_kernels::return_large_buffers_when_freed();
    // From the first moment on a signal ends the process with the status of an interruption.
    let handled = interrupt::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut refusal) => {
            commands::suggest_setting(&mut refusal);
            // Printing fails only where nobody reads; the exit status is still right.
            let _ = refusal.print();
            return ExitCode::from(if refusal.use_stderr() { outcome::ERROR } else { outcome::FINE });
        }
    };
    std::panic::set_hook(Box::new(printer::print_panic));
    std::panic::catch_unwind(|| run(&cli, handled)).unwrap_or(ExitCode::from(outcome::ERROR))
}

/// A number format by its name.
fn compute_dtype(name: &str) -> Result<ComputeDtype, String> {
    let mut known = [ComputeDtype::F32, ComputeDtype::Bf16].into_iter();
    known.find(|dtype| dtype.to_string() == name).ok_or_else(|| "expected `f32` or `bf16`".to_owned())
}

/// The hidden command with which this binary starts itself to run code that a model wrote.
fn sandbox_child() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != truing_reward::sandbox::CHILD_COMMAND {
        return None;
    }
    let argument = arguments.next()?.into_string().ok()?;
    let status = truing_reward::sandbox::child_main(&argument);
    Some(ExitCode::from(u8::try_from(status).unwrap_or(outcome::ERROR)))
}

fn run(cli: &Cli, handled: anyhow::Result<()>) -> ExitCode {
    let environment = Environment::read();
    let place = place_of(&cli.command, &environment);
    let rank = place.as_ref().ok().and_then(Option::as_ref).map_or(0, |place| place.rank);
    let printer = Printer::new(cli.quiet, environment.no_color).of_rank(rank);
    let outcome = handled.and(place).and_then(|place| start(cli, environment, printer, place));
    match outcome {
        Ok(outcome) => ExitCode::from(outcome.status()),
        Err(error) if outcome::is_broken_pipe(&error) => ExitCode::from(outcome::FINE),
        Err(error) if error.is::<outcome::SaidElsewhere>() => ExitCode::from(outcome::ERROR),
        Err(error) => {
            printer.print_error(&error);
            ExitCode::from(outcome::ERROR)
        }
    }
}

/// The place of this process among those that a launcher started. Variables that contradict each other are an error of
/// commands that have several ranks; the others run as one process, unless `truing launch` or MPI's launcher started
/// more.
fn place_of(command: &Command, environment: &Environment) -> anyhow::Result<Option<Rendezvous>> {
    let place = Rendezvous::from_variables(&environment.of_launcher);
    if command.runs_on_ranks() {
        return Ok(place?);
    }
    match place.ok().flatten() {
        Some(place) if place.world_size > 1 && (place.has_mpi || place.launcher == Launcher::Truing) => {
            Err(ranks::refusal(&place))
        }
        _ => Ok(None),
    }
}

fn start(
    cli: &Cli,
    environment: Environment,
    printer: Printer,
    place: Option<Rendezvous>,
) -> anyhow::Result<Outcome> {
    let n_threads = match cli.threads.or(environment.n_threads) {
        Some(0) => anyhow::bail!("`--threads` is 0, expected at least 1"),
        Some(n_threads) => n_threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global()?;
    let device = DeviceChoice {
        device: cli.device.clone(),
        torch_lib: cli.torch_lib.clone(),
        compute_dtype: cli.compute_dtype,
        #[cfg(feature = "torch")]
        local_rank: place.as_ref().and_then(|place| place.local_rank).unwrap_or(0),
    };
    local_engine::choose(&device, &environment)?;
    let mut context = Context { printer, environment, n_threads, device, place };
    cli.command.run(&mut context)
}
