//! Processes of a control channel that are killed, stopped, panic or end with an error: the others end and name the
//! rank. `scripts/kill-ranks.py` checks how soon. This program starts itself as the ranks:
//! `control rank RANK WORLD_SIZE PORT BEHAVIOUR`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program of its own")]
#![allow(clippy::exit, reason = "ranks end with a status")]
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod ranks;

use std::io::Read as _;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use truing_parallel::{ControlChannel, ControlListener, ControlOptions, Loss};
use truing_types::Rank;

use ranks::Ranks;

/// The status of a rank that ends because another one was lost.
const LOST: i32 = 75;
/// A rank that has not ended by then hangs, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "rank") {
        return work(&arguments[1..]);
    }
    for (what, rank, behaviour, signal, words, status) in CASES {
        let took = lose(*rank, behaviour, *signal, words, *status);
        println!("{what}: the job ended after {:.1} s", took.as_secs_f64());
    }
    finish_in_order();
    println!("ranks that finish: no loss");
    ExitCode::SUCCESS
}

/// What happens, to which rank, how it behaves, which signal it gets, what the others say, and its own status if it has one.
type Case = (&'static str, usize, &'static str, Option<&'static str>, &'static str, Option<i32>);
const CASES: &[Case] = &[
    ("rank 2 killed", 2, "work", Some("KILL"), "is gone: it was killed or crashed", None),
    ("rank 0 killed", 0, "work", Some("KILL"), "is gone: it was killed or crashed", None),
    ("rank 1 stopped", 1, "work", Some("STOP"), "is silent: it is stopped", None),
    ("rank 0 stopped", 0, "work", Some("STOP"), "is silent: it is stopped", None),
    ("rank 2 panics", 2, "panic", None, "panicked", Some(101)),
    ("rank 0 panics", 0, "panic", None, "panicked", Some(101)),
    ("rank 1 ends with status 3", 1, "status", None, "ended with status 3", Some(3)),
    ("rank 1 leaves from another thread", 1, "farewell", None, "ended with status 130", Some(130)),
    ("rank 0 leaves from another thread", 0, "farewell", None, "ended with status 130", Some(130)),
    ("rank 1 ends without leaving", 1, "exit", None, "is gone: it was killed or crashed", Some(0)),
];

/// Three ranks, of which one is lost. Returns the time from then until the others have ended.
fn lose(rank: usize, behaviour: &str, signal: Option<&str>, words: &str, status: Option<i32>) -> Duration {
    let mut ranks = start(3, |of| if of == rank { behaviour } else { "work" });
    ranks.wait_until_joined();
    let lost = Instant::now();
    ranks.disturb(rank, signal);
    for other in (0..3).filter(|other| *other != rank) {
        let (found, said) = ranks.end_of(other, lost + LIMIT);
        assert_eq!(found, Some(LOST), "rank {other}: {said}");
        let expected = format!("rank {rank} (test rank {rank}) {words}");
        assert!(said.contains(&expected), "rank {other} says {said:?}, expected {expected:?}");
    }
    let took = lost.elapsed();
    if let Some(status) = status {
        assert_eq!(ranks.end_of(rank, lost + LIMIT).0, Some(status));
    }
    took
}

fn finish_in_order() {
    let mut ranks = start(3, |rank| ["finish", "finish", "finish late"][rank]);
    ranks.wait_until_joined();
    (0..3).for_each(|rank| ranks.disturb(rank, None));
    let limit = Instant::now() + LIMIT;
    for rank in 0..3 {
        assert_eq!(ranks.end_of(rank, limit), (Some(0), String::new()), "rank {rank}");
    }
}

/// Starts the ranks of a job, each with its behaviour.
fn start<'a>(n_ranks: usize, behaviour: impl Fn(usize) -> &'a str) -> Ranks {
    // Free a moment ago; rank 0 takes it at once.
    let listener = ControlListener::bind("127.0.0.1:0").unwrap();
    let port = listener.address().unwrap().port().to_string();
    drop(listener);
    Ranks::start(n_ranks, |rank, command| {
        command.args(["rank", &rank.to_string(), &n_ranks.to_string(), &port, behaviour(rank)]);
    })
}

/// What one rank does.
fn work(arguments: &[String]) -> ExitCode {
    let [rank, world_size, port, behaviour] = arguments else { panic!("{arguments:?}") };
    let (rank, world_size, port) =
        (rank.parse().unwrap(), world_size.parse().unwrap(), port.parse().unwrap());
    let options = ControlOptions::new(Rank(rank), world_size, format!("test rank {rank}"), "test".into());
    let on_loss = |loss: &Loss| {
        eprintln!("{loss}");
        std::process::exit(LOST);
    };
    let channel = if rank == 0 {
        let listener = ControlListener::bind(("127.0.0.1", port)).unwrap();
        ControlChannel::listen(listener, &options, on_loss)
    } else {
        ControlChannel::connect(("127.0.0.1", port), &options, on_loss)
    };
    let channel = channel.unwrap();
    println!("joined");
    if behaviour != "work" {
        std::io::stdin().read_to_string(&mut String::new()).unwrap();
    }
    match behaviour.as_str() {
        "panic" => panic!("on purpose"),
        "status" => {
            channel.leave(3);
            ExitCode::from(3)
        }
        "exit" => std::process::exit(0),
        "farewell" => {
            let farewell = channel.farewell();
            thread::spawn(move || farewell.say(130)).join().unwrap();
            std::process::exit(130)
        }
        "finish" => {
            channel.leave(0);
            ExitCode::SUCCESS
        }
        "finish late" => {
            // Longer than the silence that counts as a loss: the others have left in order.
            thread::sleep(Duration::from_secs(6));
            channel.leave(0);
            ExitCode::SUCCESS
        }
        _ => loop {
            thread::sleep(Duration::from_secs(1));
        },
    }
}
