//! Processes of a test program that starts itself as the ranks of a job.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The ranks of a job. Those that are left are killed in the end.
pub(crate) struct Ranks(Vec<Child>);

impl Ranks {
    /// Starts this program once for each rank; `prepare` gives a rank its arguments and variables.
    pub(crate) fn start(n_ranks: usize, prepare: impl Fn(usize, &mut Command)) -> Self {
        let program = std::env::current_exe().unwrap();
        let start = |rank: usize| {
            let mut command = Command::new(&program);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            prepare(rank, &mut command);
            command.spawn().unwrap()
        };
        Self((0..n_ranks).map(start).collect())
    }

    /// Waits until every rank has printed that it has joined.
    pub(crate) fn wait_until_joined(&mut self) {
        for rank in &mut self.0 {
            let mut line = String::new();
            BufReader::new(rank.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "joined\n");
        }
    }

    /// Sends a signal to a rank that has joined, or lets it do what it shall, now that all have.
    pub(crate) fn disturb(&mut self, rank: usize, signal: Option<&str>) {
        let child = &mut self.0[rank];
        match signal {
            Some(signal) => {
                let arguments = [format!("-{signal}"), child.id().to_string()];
                assert!(Command::new("kill").args(arguments).status().unwrap().success());
            }
            None => drop(child.stdin.take()),
        }
    }

    /// Waits for the end of a rank: its status, and what it said on stderr.
    pub(crate) fn end_of(&mut self, rank: usize, until: Instant) -> (Option<i32>, String) {
        let child = &mut self.0[rank];
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "rank {rank} still runs");
            thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (child.wait().unwrap().code(), said)
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for rank in &mut self.0 {
            // It may have ended.
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}
