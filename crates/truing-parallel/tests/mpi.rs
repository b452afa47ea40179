//! The conformance suite, and failures, on ranks that `mpirun` starts. This program starts itself under it: `mpi rank
//! BEHAVIOUR`. Where there is no `mpirun`, it says how many checks it left out. `cargo test -p truing-parallel --features mpi
//! --test mpi -- --long` also sends more than 2^31 bytes, which takes 9 GiB of memory.
#![allow(clippy::print_stdout, reason = "a test program of its own")]
#![allow(clippy::exit, reason = "ranks end with a status")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::io::ErrorKind;
use std::process::{Command, ExitCode, Output};
use std::thread;
use std::time::{Duration, Instant};

use truing_conformance::communicator::{self, CHECKS};
use truing_parallel::{Cause, Launcher, Loss, MpiError, MpiJob, MpiOptions, MpiWorld, Rendezvous};
use truing_types::{CommunicationError, Rank};

/// A job that has not ended by then waits for the faulty rank, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(120);
/// What the faulty rank does; the status of a rank that notices is 75.
const FAILURES: [&str; 5] = ["panic", "abort", "status", "overdue", "stop"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, behaviour, ..] = &arguments[..]
        && first == "rank"
    {
        return work(behaviour);
    }
    let worlds = [1, 2, 3, 4];
    match Command::new("mpirun").arg("--version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let n_left_out = worlds.len() * 3 * CHECKS.len() + FAILURES.len();
            println!("skipped {n_left_out} checks: mpirun is not installed");
            return ExitCode::SUCCESS;
        }
        found => assert!(found.unwrap().status.success(), "mpirun --version"),
    }
    for n_ranks in worlds {
        for behaviour in ["conform", "conform in pieces", "job"] {
            let output = mpirun(n_ranks, behaviour);
            let said = text(&output);
            assert!(output.status.success(), "{behaviour}, {n_ranks} ranks: {said}");
            let n_done = said.matches("passed all checks").count();
            assert_eq!(n_done, n_ranks, "{said}");
        }
        println!("{} checks on {n_ranks} ranks over MPI, three times", CHECKS.len());
    }
    if arguments.iter().any(|argument| argument == "--long") {
        let output = mpirun(2, "long");
        assert!(output.status.success(), "{}", text(&output));
        println!("a message of more than 2^31 bytes over MPI");
    }
    for behaviour in FAILURES {
        let started = Instant::now();
        let output = mpirun(3, behaviour);
        let took = started.elapsed();
        assert!(!output.status.success(), "{behaviour}: {}", text(&output));
        assert!(took < LIMIT, "{behaviour}: {took:?}");
        println!("{behaviour}: the job ended with {} after {:.1} s", output.status, took.as_secs_f64());
    }
    ExitCode::SUCCESS
}

/// Runs this program on some ranks.
fn mpirun(n_ranks: usize, behaviour: &str) -> Output {
    Command::new("mpirun")
        .args(["--oversubscribe", "--allow-run-as-root", "-n", &n_ranks.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["rank", behaviour])
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What one rank does. Collectives are called from the main thread, MPI from its own.
fn work(behaviour: &str) -> ExitCode {
    if ["job", "stop"].contains(&behaviour) {
        return work_in_job(behaviour);
    }
    let mut options = MpiOptions::default();
    match behaviour {
        "conform in pieces" => options.n_bytes_at_once = 1000,
        "overdue" => options.longest_wait = Some(Duration::from_secs(2)),
        _ => {}
    }
    let mpi = MpiWorld::start(options).unwrap();
    let world = mpi.communicator();
    let is_faulty = world.rank() == Rank(1);
    world.barrier().unwrap();
    match behaviour {
        "conform" | "conform in pieces" => {
            assert!(matches!(MpiWorld::start(options), Err(MpiError::AlreadyInitialised)));
            communicator::run_all(&*world);
            // From another thread as well.
            thread::scope(|scope| scope.spawn(|| communicator::run_all(&*world)).join()).unwrap();
            mpi.finish().unwrap();
            let lost = CommunicationError::PeerLost { operation: "barrier" };
            assert_eq!(world.barrier(), Err(lost));
            println!("rank {} passed all checks", world.rank().0);
            return ExitCode::SUCCESS;
        }
        "long" => {
            // Longer than MPI's counts allow.
            let n_bytes = |rank: usize| if rank == 1 { (1 << 31) + 5 } else { 3 };
            let all = world.all_gather_bytes(&vec![1; n_bytes(world.rank().0)]).unwrap();
            let is_whole = |(rank, bytes): (usize, &Vec<u8>)| {
                bytes.len() == n_bytes(rank) && bytes.iter().all(|byte| *byte == 1)
            };
            assert!(all.iter().enumerate().all(is_whole));
            mpi.finish().unwrap();
            return ExitCode::SUCCESS;
        }
        "panic" if is_faulty => panic!("on purpose"),
        "abort" if is_faulty => std::process::abort(),
        "status" if is_faulty => return ExitCode::from(3),
        "overdue" if is_faulty => thread::sleep(LIMIT * 3),
        _ => {}
    }
    // The others wait for the faulty rank: until the launcher ends them, or their patience does.
    let error = world.barrier().unwrap_err();
    assert_eq!(error, CommunicationError::Overdue { operation: "barrier", seconds: 2 });
    ExitCode::from(75)
}

/// A job as the program starts it: it ends in order, or one rank stops and the others hear it.
fn work_in_job(behaviour: &str) -> ExitCode {
    let place = Rendezvous::from_variables(&std::env::vars().collect()).unwrap().unwrap();
    assert_eq!((place.launcher, place.has_mpi), (Launcher::OpenMpi, true));
    let on_loss = |loss: &Loss| {
        assert_eq!((loss.rank, loss.cause), (Rank(1), Cause::Silent));
        println!("{loss}");
        std::process::exit(75)
    };
    let job = MpiJob::start(&place, "here", std::process::id(), "test", on_loss).unwrap();
    assert_eq!(job.n_on_host(), place.world_size);
    let world = job.world();
    communicator::run_all(&*world);
    if behaviour == "stop" {
        if world.rank() == Rank(1) {
            let myself = std::process::id().to_string();
            Command::new("kill").args(["-STOP", &myself]).status().unwrap();
        }
        world.barrier().unwrap();
        unreachable!("a rank is stopped");
    }
    job.finish().unwrap();
    println!("rank {} passed all checks", world.rank().0);
    ExitCode::SUCCESS
}
