//! Ranks over TCP, as threads with sockets on the loopback: the conformance suite, ranks that are lost, and visitors
//! who do not belong to the job.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use truing_conformance::communicator;
use truing_parallel::{
    Cause, ControlError, JobToken, Launcher, Loss, Rendezvous, TcpError, TcpJob, TcpOptions,
};
use truing_types::{CommunicationError, Rank};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn place(rank: usize, world_size: usize, port: u16) -> Rendezvous {
    Rendezvous {
        launcher: Launcher::Torchrun,
        rank,
        world_size,
        local_rank: Some(rank),
        n_on_host: Some(world_size),
        job: None,
        address: Some(("127.0.0.1".to_owned(), port)),
        has_mpi: false,
    }
}

fn options() -> TcpOptions {
    let mut options = TcpOptions::new("here".into(), 7, "test".into(), JobToken::new("secret"));
    options.join_within = Duration::from_secs(20);
    options.farewell = Duration::from_millis(100);
    options
}

/// Joins as one rank of a job, and sends what it loses.
fn join(
    rank: usize,
    world_size: usize,
    port: u16,
    options: &TcpOptions,
    losses: Sender<(usize, Loss)>,
) -> Result<TcpJob, TcpError> {
    let report = move |loss: &Loss| losses.send((rank, loss.clone())).unwrap();
    TcpJob::start(&place(rank, world_size, port), options, report)
}

/// Runs `body` on every rank of a job, each in a thread of its own; the results in rank order. No rank may be lost.
fn on_every_rank<T: Send>(
    world_size: usize,
    options: &TcpOptions,
    body: impl Fn(TcpJob) -> T + Sync,
) -> Vec<T> {
    let port = free_port();
    let (losses, lost) = channel();
    let found = thread::scope(|scope| {
        let body = &body;
        let start = |rank: usize| {
            let losses = losses.clone();
            scope.spawn(move || body(join(rank, world_size, port, options, losses).unwrap()))
        };
        // The last one first: all wait for rank 0.
        let ranks: Vec<_> = (0..world_size).rev().map(start).collect();
        let mut found: Vec<T> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        found.reverse();
        found
    });
    assert_eq!(lost.try_iter().next(), None, "a rank was lost");
    found
}

#[test]
fn worlds_over_tcp_conform() {
    for world_size in [1, 2, 3, 4] {
        on_every_rank(world_size, &options(), |job| {
            assert_eq!(job.n_on_host(), world_size);
            communicator::run_all(&*job.world());
            job.finish().unwrap();
        });
    }
}

#[test]
fn messages_in_pieces_arrive_whole() {
    for n_bytes_at_once in [1000, 65_536] {
        on_every_rank(3, &TcpOptions { n_bytes_at_once, ..options() }, |job| {
            communicator::run_all(&*job.world());
            job.finish().unwrap();
        });
    }
}

/// More than the queues and the sockets' buffers hold, from every rank to every other at once.
#[test]
fn ranks_that_all_send_much_do_not_wait_for_each_other() {
    on_every_rank(4, &options(), |job| {
        let world = job.world();
        let (rank, n_block) = (world.rank().0, 1 << 20);
        let send: Vec<f32> = (0..4 * n_block).map(|i| (i / n_block * 10 + rank) as f32).collect();
        let mut receive = vec![0.0; send.len()];
        world.all_to_all(&send, &mut receive).unwrap();
        let is_right = |(i, value): (usize, &f32)| *value == (rank * 10 + i / n_block) as f32;
        assert!(receive.iter().enumerate().all(is_right));
        job.finish().unwrap();
    });
}

#[test]
fn collectives_may_be_called_from_any_thread_and_end_with_the_job() {
    on_every_rank(2, &options(), |job| {
        let world = job.world();
        thread::scope(|scope| scope.spawn(|| communicator::run_all(&*world)).join()).unwrap();
        job.finish().unwrap();
        let lost = CommunicationError::PeerLost { operation: "barrier" };
        assert_eq!(world.barrier(), Err(lost));
    });
}

#[test]
fn groups_used_in_different_orders_are_an_error_and_not_a_hang() {
    let noticed = Barrier::new(2);
    let found = on_every_rank(2, &options(), |job| {
        let world = job.world();
        let group = world.split(0).unwrap();
        let found = if world.rank() == Rank(0) { world.barrier() } else { group.barrier() };
        // Neither leaves before both have found it.
        noticed.wait();
        job.fail(0);
        found.unwrap_err()
    });
    let other = |rank| CommunicationError::OtherGroup { operation: "barrier", rank };
    assert_eq!(found, [other(1), other(0)]);
}

#[test]
fn a_wait_can_have_a_limit() {
    let options = TcpOptions { longest_wait: Some(Duration::from_secs(3)), ..options() };
    let given_up = Barrier::new(2);
    let found = on_every_rank(2, &options, |job| {
        let world = job.world();
        let found = if world.rank() == Rank(0) { world.barrier() } else { Ok(()) };
        given_up.wait();
        job.fail(0);
        found
    });
    let overdue = CommunicationError::Overdue { operation: "barrier", seconds: 3 };
    assert_eq!(found, [Err(overdue), Ok(())]);
}

#[test]
fn a_rank_that_fails_is_named_and_ends_the_collectives_of_the_others() {
    let port = free_port();
    let started = &Barrier::new(3);
    let found: Vec<_> = thread::scope(|scope| {
        let start = |rank: usize| {
            scope.spawn(move || {
                let (losses, lost) = channel();
                let job = join(rank, 3, port, &options(), losses).unwrap();
                started.wait();
                if rank == 1 {
                    job.fail(3);
                    return None;
                }
                let error = job.world().barrier().unwrap_err();
                // A rank that leaves before it has heard of the loss would not pass it on.
                let (_, loss) = lost.recv_timeout(Duration::from_secs(60)).unwrap();
                job.fail(75);
                Some((error, loss.rank, loss.cause))
            })
        };
        let ranks = [start(0), start(1), start(2)];
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let error = CommunicationError::PeerLost { operation: "barrier" };
    let expected = Some((error, Rank(1), Cause::Ended { status: 3 }));
    assert_eq!(found, [expected.clone(), None, expected]);
}

/// What all ranks end with that join with their options, as text.
fn refusals(of_ranks: &[(usize, TcpOptions)], world_size: usize) -> Vec<String> {
    let port = free_port();
    let (losses, _found) = channel();
    thread::scope(|scope| {
        let start = |(rank, options): &(usize, TcpOptions)| {
            let (rank, options, losses) = (*rank, options.clone(), losses.clone());
            scope.spawn(move || join(rank, world_size, port, &options, losses).err().unwrap().to_string())
        };
        let ranks: Vec<_> = of_ranks.iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_rank_without_the_token_of_the_job_is_refused_and_the_token_is_not_said() {
    let stranger = TcpOptions { token: JobToken::new("other"), process: 9, ..options() };
    let expected = "rank 1 (here, process 9) belongs to another job: its token differs from that of rank 0";
    assert_eq!(refusals(&[(0, options()), (1, stranger)], 2), [expected; 2]);
    assert_eq!(format!("{:?}", options().token), "JobToken(..)");
}

#[test]
fn ranks_that_come_twice_or_never_are_named_on_every_rank() {
    let twice = refusals(&[(0, options()), (1, options()), (1, options())], 3);
    assert_eq!(twice, ["rank 1 came twice: here, process 7 and here, process 7"; 3]);
    let impatient = TcpOptions { join_within: Duration::from_secs(3), ..options() };
    let never = refusals(&[(0, impatient), (2, options())], 3);
    assert_eq!(never, ["rank 1 did not come within 3 s"; 2]);
}

#[test]
fn a_rank_that_comes_after_the_start_gets_an_error_and_the_job_continues() {
    let port = free_port();
    let (losses, found) = channel();
    thread::scope(|scope| {
        let other = losses.clone();
        let other = scope.spawn(move || join(1, 2, port, &options(), other).unwrap());
        let first = join(0, 2, port, &options(), losses.clone()).unwrap();
        let other = other.join().unwrap();
        let late = join(1, 2, port, &options(), losses.clone()).err().unwrap();
        assert!(matches!(late, TcpError::Control(ControlError::Late { rank: 1 })), "{late}");
        let expected = "the job has started with all its ranks: rank 1 was started late or twice";
        assert_eq!(late.to_string(), expected);
        let world = other.world();
        let other = scope.spawn(move || {
            world.barrier().unwrap();
            other.finish().unwrap();
        });
        first.world().barrier().unwrap();
        first.finish().unwrap();
        other.join().unwrap();
    });
    assert!(found.try_recv().is_err(), "nobody was lost");
}

#[test]
fn strangers_at_the_door_are_no_ranks() {
    let port = free_port();
    let (losses, _found) = channel();
    thread::scope(|scope| {
        let first = losses.clone();
        let first = scope.spawn(move || join(0, 2, port, &options(), first).unwrap());
        // One who speaks another protocol, and one who hangs up.
        let reach = || loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                return stream;
            }
            thread::yield_now();
        };
        let mut stranger = reach();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        drop(reach());
        let other = join(1, 2, port, &options(), losses.clone()).unwrap();
        let first = first.join().unwrap();
        // A link that does not know the token, after the start, gets no answer.
        let mut linked = reach();
        linked.write_all(b"truing-link-1\t1\t0\tguess\n").unwrap();
        let mut answer = String::new();
        assert_eq!(BufReader::new(linked).read_line(&mut answer).unwrap_or(0), 0, "{answer}");
        let other = scope.spawn(move || other.finish().unwrap());
        first.finish().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_launcher_without_an_address_is_named() {
    let place = Rendezvous { address: None, launcher: Launcher::Slurm, ..place(0, 2, 1) };
    let error = TcpJob::start(&place, &options(), |_| ()).err().unwrap();
    let expected =
        "srun started 2 processes, but `MASTER_ADDR` and `MASTER_PORT`, where they can meet, are not set";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_address_that_is_in_use_is_an_error_of_rank_0() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = TcpJob::start(&place(0, 2, port), &options(), |_| ()).err().unwrap();
    assert_eq!(error.to_string(), format!("rank 0 cannot listen at 127.0.0.1:{port}"));
}
