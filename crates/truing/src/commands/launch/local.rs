//! Processes of this program that find each other over TCP, on the loopback of this machine.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use truing_parallel::Rendezvous;

use super::threads_of_each;
use crate::children::{ask_to_stop, own_group};
use crate::environment::JOB_TOKEN;
use crate::outcome::{ERROR, FINE, Outcome};
use crate::printer::Printer;
use crate::ranks::transport::{TRANSPORT_VARIABLE, Transport};
use crate::{Context, interrupt};

/// The processes are looked at this often.
const LOOK: Duration = Duration::from_millis(20);
/// After one process has failed, the others have this time to notice, to say which rank is lost, and to end. A rank
/// that is stopped notices nothing, so it is ended then.
const GRACE: Duration = Duration::from_secs(2);
/// After rank 0 has ended well the others, which have done their part before, have this time to end.
const LEAVING: Duration = Duration::from_secs(5);
/// Bytes of the job's token.
const N_TOKEN: usize = 16;

/// Starts the processes, watches them, and ends them all when one fails. Ctrl-C asks rank 0 to stop, which all ranks do
/// together; a second one ends them at once.
pub(super) fn run(n_processes: usize, arguments: &[OsString], context: &Context) -> anyhow::Result<Outcome> {
    let n_signals = interrupt::count();
    let program = std::env::current_exe().context("this program's file cannot be found")?;
    let port = free_port().context("no port is free on the loopback")?;
    let token = random_token().context("the system gives no random bytes")?;
    let size = n_processes.to_string();
    let mut processes = Processes::default();
    for rank in 0..n_processes {
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null());
        // Those of a launcher around this one describe this process, not its children.
        for name in Rendezvous::VARIABLES {
            command.env_remove(name);
        }
        let rank = rank.to_string();
        command.envs([
            ("RANK", &rank),
            ("LOCAL_RANK", &rank),
            ("WORLD_SIZE", &size),
            ("LOCAL_WORLD_SIZE", &size),
        ]);
        command.env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string()).env("MASTER_PORT", port.to_string());
        command.env(Rendezvous::LAUNCHED, std::process::id().to_string());
        command.env(JOB_TOKEN, &token).env(TRANSPORT_VARIABLE, Transport::Tcp.name());
        command.env("TRUING_THREADS", threads_of_each(n_processes, context));
        own_group(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start rank {rank}"))?;
        processes.0.push((child, None));
    }
    Ok(processes.wait(&n_signals, context.printer)?)
}

/// A port that is free now. Rank 0 takes it in a moment.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Keeps processes of other users and other jobs out.
fn random_token() -> io::Result<String> {
    let mut bytes = [0_u8; N_TOKEN];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The processes by rank, with their status once they have ended. Those that still run are killed in the end.
#[derive(Default)]
struct Processes(Vec<(Child, Option<ExitStatus>)>);

impl Processes {
    /// Waits until all have ended. The outcome is that of the first one that failed.
    fn wait(&mut self, n_signals: &AtomicUsize, printer: Printer) -> io::Result<Outcome> {
        let (mut failed, mut n_passed_on) = (None, 0);
        let mut first_ended: Option<Instant> = None;
        loop {
            if let Some(status) = self.look(failed.is_none(), printer)?
                && failed.is_none()
            {
                failed = Some((status, Instant::now()));
            }
            if self.0.iter().all(|(_, status)| status.is_some()) {
                return Ok(failed.map_or(Outcome::Fine, |(status, _)| Outcome::Status(status)));
            }
            if failed.is_some_and(|(_, since)| since.elapsed() >= GRACE) {
                self.kill_all();
            }
            if failed.is_none()
                && self.0[0].1.is_some()
                && first_ended.get_or_insert_with(Instant::now).elapsed() >= LEAVING
            {
                self.kill_remaining(printer);
                return Ok(Outcome::Fine);
            }
            match n_signals.load(Ordering::SeqCst) {
                n if n == n_passed_on => {}
                1 => {
                    n_passed_on = 1;
                    // Once it has ended its number may be that of another process.
                    if let (child, None) = &mut self.0[0] {
                        ask_to_stop(child);
                    }
                }
                _ => {
                    self.kill_all();
                    return Ok(Outcome::Interrupted);
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Notes who has ended, and returns the status of one that has just failed. `may_say`: whether an end by a signal
    /// is said, which nobody but the system has seen.
    fn look(&mut self, may_say: bool, printer: Printer) -> io::Result<Option<u8>> {
        let mut failed = None;
        for (rank, (child, ended)) in self.0.iter_mut().enumerate() {
            if ended.is_some() {
                continue;
            }
            let Some(status) = child.try_wait()? else { continue };
            *ended = Some(status);
            if may_say && status.code().is_none() {
                printer.note(format_args!("rank {rank} (process {}) ended by {status}", child.id()));
            }
            let code = code_of(status);
            if code != FINE && failed.is_none() {
                failed = Some(code);
            }
        }
        Ok(failed)
    }

    /// Ends the processes that do not end themselves after the job has succeeded: they are stopped.
    fn kill_remaining(&mut self, printer: Printer) {
        for (rank, (child, _)) in self.0.iter().enumerate().filter(|(_, (_, ended))| ended.is_none()) {
            let process = child.id();
            printer.note(format_args!(
                "rank {rank} (process {process}) did its part and is killed: it does not end"
            ));
        }
        self.kill_all();
    }

    fn kill_all(&mut self) {
        for (child, _) in self.0.iter_mut().filter(|(_, ended)| ended.is_none()) {
            // It may have just ended.
            let _ = child.kill();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
        for (child, _) in self.0.iter_mut().filter(|(_, ended)| ended.is_none()) {
            let _ = child.wait();
        }
    }
}

/// The exit status of a process, as shells count it: 128 and the signal that ended it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| signal_of(status).map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(ERROR)
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use truing_parallel::ControlOptions;
    use truing_types::Rank;

    use super::*;

    /// The time without a heartbeat after which a rank is lost, and the time that the others then have.
    #[test]
    fn a_lost_rank_ends_the_job_within_ten_seconds() {
        let options = ControlOptions::new(Rank(0), 2, String::new(), String::new());
        assert!(options.silence + options.beat + GRACE < Duration::from_secs(10));
    }

    /// Runs a script of the shell as each rank.
    fn outcome_of(scripts: &[&str], n_signals: usize) -> Outcome {
        let start = |script: &&str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", *script]);
            own_group(&mut command);
            (command.spawn().expect("a shell"), None)
        };
        let mut processes = Processes(scripts.iter().map(start).collect());
        processes.wait(&AtomicUsize::new(n_signals), Printer::new(true, true)).expect("an outcome")
    }

    #[test]
    fn the_outcome_is_that_of_the_first_process_that_fails() {
        assert_eq!(outcome_of(&["exit 0", "exit 0"], 0), Outcome::Fine);
        // The other one is killed then.
        assert_eq!(outcome_of(&["exec sleep 1000", "exit 3"], 0), Outcome::Status(3));
        assert_eq!(outcome_of(&["exec sleep 1000", "kill -TERM $$"], 0), Outcome::Status(128 + 15));
    }

    #[test]
    fn a_process_that_does_not_notice_is_ended() {
        assert_eq!(outcome_of(&["exit 75", "kill -STOP $$; sleep 1000"], 0), Outcome::Status(75));
    }

    #[test]
    fn a_process_that_is_stopped_after_the_job_is_done_does_not_keep_it() {
        assert_eq!(outcome_of(&["exit 0", "kill -STOP $$; sleep 1000"], 0), Outcome::Fine);
    }

    #[test]
    fn signals_are_passed_to_the_first_process_and_then_to_all() {
        let saves = "trap 'exit 130' INT; while :; do sleep 0.1; done";
        assert_eq!(outcome_of(&[saves, "sleep 1; exit 130"], 1), Outcome::Status(130));
        assert_eq!(outcome_of(&["exec sleep 1000", "exec sleep 1000"], 2), Outcome::Interrupted);
    }
}
