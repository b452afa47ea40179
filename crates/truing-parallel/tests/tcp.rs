//! The conformance suite, and ranks that are lost in the middle of a collective, on processes that meet over TCP. This
//! program starts itself as the ranks, with torchrun's variables: `tcp rank BEHAVIOUR`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program of its own")]
#![allow(clippy::exit, reason = "ranks end with a status")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod ranks;

use std::io::Read as _;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use truing_conformance::communicator::{self, CHECKS};
use truing_parallel::{JobToken, Loss, Rendezvous, TcpJob, TcpOptions};
use truing_types::Rank;

use ranks::Ranks;

/// The status of a rank that ends because another one was lost.
const LOST: i32 = 75;
/// A rank that has not ended by then hangs, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, behaviour] = &arguments[..]
        && first == "rank"
    {
        return work(behaviour);
    }
    for n_ranks in [1, 2, 3, 4] {
        let mut ranks = start(n_ranks, |_| "conform");
        let limit = Instant::now() + PATIENCE;
        for rank in 0..n_ranks {
            assert_eq!(ranks.end_of(rank, limit), (Some(0), String::new()), "rank {rank} of {n_ranks}");
        }
        println!("{} checks on {n_ranks} ranks over TCP", CHECKS.len());
    }
    for (what, rank, behaviour, signal, words) in CASES {
        let took = lose(*rank, behaviour, *signal, words);
        println!("{what}: the job ended after {:.1} s", took.as_secs_f64());
    }
    ExitCode::SUCCESS
}

/// What happens, to which rank, how it behaves, which signal it gets, and what the others say.
type Case = (&'static str, usize, &'static str, Option<&'static str>, &'static str);
const CASES: &[Case] = &[
    ("rank 2 killed", 2, "work", Some("KILL"), "is gone: it was killed or crashed"),
    ("rank 0 killed", 0, "work", Some("KILL"), "is gone: it was killed or crashed"),
    ("rank 1 stopped", 1, "work", Some("STOP"), "is silent: it is stopped"),
    ("rank 0 stopped", 0, "work", Some("STOP"), "is silent: it is stopped"),
    ("rank 1 panics", 1, "panic", None, "panicked"),
    ("rank 1 ends with status 3", 1, "status", None, "ended with status 3"),
    ("rank 1 ends without leaving", 1, "exit", None, "is gone: it was killed or crashed"),
];

/// Three ranks that run collectives, of which one is lost. Returns the time from then until the others have ended.
fn lose(rank: usize, behaviour: &str, signal: Option<&str>, words: &str) -> Duration {
    let mut ranks = start(3, |of| if of == rank { behaviour } else { "work" });
    ranks.wait_until_joined();
    let lost = Instant::now();
    ranks.disturb(rank, signal);
    for other in (0..3).filter(|other| *other != rank) {
        let (found, said) = ranks.end_of(other, lost + PATIENCE);
        assert_eq!(found, Some(LOST), "rank {other}: {said}");
        let expected = format!("rank {rank} (test rank {rank}, process ");
        assert!(said.contains(&expected) && said.contains(words), "rank {other} says {said:?}");
    }
    lost.elapsed()
}

/// Starts the ranks of a job, each with its behaviour.
fn start<'a>(n_ranks: usize, behaviour: impl Fn(usize) -> &'a str) -> Ranks {
    // Free a moment ago; rank 0 takes it at once.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let size = n_ranks.to_string();
    Ranks::start(n_ranks, |rank, command| {
        command
            .args(["rank", behaviour(rank)])
            .env_clear()
            .envs([("RANK", &rank.to_string()), ("WORLD_SIZE", &size), ("LOCAL_WORLD_SIZE", &size)])
            .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str())]);
    })
}

/// What one rank does.
fn work(behaviour: &str) -> ExitCode {
    let place = Rendezvous::from_variables(&std::env::vars().collect()).unwrap().unwrap();
    let host = format!("test rank {}", place.rank);
    let options = TcpOptions::new(host, std::process::id(), "test".into(), JobToken::new("token"));
    let on_loss = |loss: &Loss| {
        eprintln!("{loss}");
        std::process::exit(LOST);
    };
    let job = TcpJob::start(&place, &options, on_loss).unwrap();
    let world = job.world();
    assert_eq!((world.rank(), world.world_size()), (Rank(place.rank), place.world_size));
    if behaviour == "conform" {
        communicator::run_all(&*world);
        job.finish().unwrap();
        return ExitCode::SUCCESS;
    }
    println!("joined");
    if behaviour == "work" {
        // The lost rank is missed in the middle of a collective. It is named before the collective gives up.
        let mut values = vec![1.0; 100_000];
        while world.all_reduce_sum(&mut values).is_ok() {
            values.fill(1.0);
        }
        eprintln!("rank {} lost its links before it heard why", place.rank);
        return ExitCode::FAILURE;
    }
    std::io::stdin().read_to_string(&mut String::new()).unwrap();
    match behaviour {
        "panic" => panic!("on purpose"),
        "status" => {
            job.fail(3);
            ExitCode::from(3)
        }
        _ => std::process::exit(0),
    }
}
