//! Ranks of a control channel that do not fit together: one clear error on every rank.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use truing_parallel::{Cause, ControlChannel, ControlError, ControlListener, ControlOptions, Loss};
use truing_types::Rank;

fn options(rank: usize, world_size: usize) -> ControlOptions {
    let mut options = ControlOptions::new(Rank(rank), world_size, format!("process {rank}"), "job".into());
    options.join_within = Duration::from_secs(20);
    options
}

/// What rank 0 and the others, each with its options, end with; a rank that has joined waits for the others to join.
fn join(
    first: &ControlOptions,
    others: &[ControlOptions],
) -> (Option<ControlError>, Vec<Option<ControlError>>) {
    let listener = ControlListener::bind("127.0.0.1:0").unwrap();
    let port = listener.address().unwrap().port();
    thread::scope(|scope| {
        let others: Vec<_> = others
            .iter()
            .map(|options| scope.spawn(move || ControlChannel::connect(("127.0.0.1", port), options, |_| ())))
            .collect();
        let first = ControlChannel::listen(listener, first, |_| ());
        let others: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
        // Nobody leaves before all have joined.
        (ended(first), others.into_iter().map(ended).collect())
    })
}

fn ended(joined: Result<ControlChannel, ControlError>) -> Option<ControlError> {
    joined.map(|channel| channel.leave(0)).err()
}

/// What every rank ends with, as text; nothing where it joined.
fn texts(first: &ControlOptions, others: &[ControlOptions]) -> Vec<String> {
    let (first, others) = join(first, others);
    let text = |error: Option<ControlError>| error.map_or(String::new(), |error| error.to_string());
    [first].into_iter().chain(others).map(text).collect()
}

#[test]
fn ranks_find_each_other_in_any_order() {
    assert_eq!(texts(&options(0, 1), &[]), [""]);
    assert_eq!(texts(&options(0, 4), &[options(3, 4), options(1, 4), options(2, 4)]), [""; 4]);
}

#[test]
fn a_rank_that_does_not_come_is_named_on_every_rank() {
    let mut first = options(0, 4);
    first.join_within = Duration::from_secs(3);
    let expected = "ranks 1, 3 did not come within 3 s";
    assert_eq!(texts(&first, &[options(2, 4)]), [expected; 2]);
}

#[test]
fn a_rank_that_comes_twice_is_named_on_every_rank() {
    let mut second = options(1, 3);
    second.name = "process 9".into();
    let found = texts(&options(0, 3), &[options(1, 3), second]);
    let either = ["rank 1 came twice: process 1 and process 9", "rank 1 came twice: process 9 and process 1"];
    assert!(either.contains(&found[0].as_str()), "{found:?}");
    assert_eq!(found, vec![found[0].clone(); 3]);
}

#[test]
fn a_rank_that_was_started_again_takes_the_place_of_its_first_process() {
    let listener = ControlListener::bind("127.0.0.1:0").unwrap();
    let address = listener.address().unwrap();
    // They wait for the listener in this order.
    let come = |rank: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        let hello = format!("truing-control-2\t{rank}\t3\tjob\t\t0\tprocess {rank}\n");
        stream.write_all(hello.as_bytes()).unwrap();
        stream
    };
    drop(come(1));
    let others = [come(1), come(2)];
    let first = ControlChannel::listen(listener, &options(0, 3), |_| ()).unwrap();
    for other in others {
        let mut line = String::new();
        BufReader::new(other).read_line(&mut line).unwrap();
        assert!(line.starts_with("start\tprocess 0\t"), "{line:?}");
    }
    first.leave(0);
}

#[test]
fn ranks_of_another_job_are_refused() {
    let mut other = options(1, 2);
    other.job = "recipe b".into();
    let expected = "rank 1 (process 1) belongs to another job: \"recipe b\", rank 0 to \"job\"";
    assert_eq!(texts(&options(0, 2), &[other]), [expected; 2]);
    let expected = "rank 1 (process 1) was started as one of 3 ranks, rank 0 as one of 2";
    assert_eq!(texts(&options(0, 2), &[options(1, 3)]), [expected; 2]);
    let expected = "process 0 is rank 0, expected 1 to 1";
    assert_eq!(texts(&options(0, 2), &[options(0, 2)]), [expected; 2]);
}

#[test]
fn a_stranger_is_no_rank() {
    let listener = ControlListener::bind("127.0.0.1:0").unwrap();
    let port = listener.address().unwrap().port();
    let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    thread::scope(|scope| {
        let other = options(1, 2);
        let other = scope.spawn(move || ControlChannel::connect(("127.0.0.1", port), &other, |_| ()));
        let first = ControlChannel::listen(listener, &options(0, 2), |_| ());
        let other = other.join().unwrap();
        assert!(ended(first).is_none() && ended(other).is_none());
    });
}

#[test]
fn rank_0_that_cannot_be_reached_is_an_error() {
    let free = ControlListener::bind("127.0.0.1:0").unwrap().address().unwrap().port();
    let mut other = options(1, 2);
    other.join_within = Duration::from_millis(100);
    let error = ended(ControlChannel::connect(("127.0.0.1", free), &other, |_| ())).unwrap();
    assert_eq!(error.to_string(), format!("rank 0 cannot be reached at 127.0.0.1:{free} within 0 s"));
}

#[test]
fn an_address_in_use_is_an_error() {
    let listener = ControlListener::bind("127.0.0.1:0").unwrap();
    let error = ControlListener::bind(listener.address().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("rank 0 cannot listen at 127.0.0.1:"), "{error}");
}

#[test]
fn a_status_reaches_every_rank_and_ranks_that_finish_are_no_loss() {
    let listener = ControlListener::bind("127.0.0.1:0").unwrap();
    let port = listener.address().unwrap().port();
    let (losses, found) = channel::<(usize, Loss)>();
    let report = |rank: usize| {
        let losses = losses.clone();
        move |loss: &Loss| losses.send((rank, loss.clone())).unwrap()
    };
    thread::scope(|scope| {
        let others: Vec<_> = [1, 2, 3]
            .map(|rank| {
                let (options, report) = (options(rank, 4), report(rank));
                scope.spawn(move || ControlChannel::connect(("127.0.0.1", port), &options, report).unwrap())
            })
            .into_iter()
            .collect();
        let first = ControlChannel::listen(listener, &options(0, 4), report(0)).unwrap();
        let mut others: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
        others.remove(0).leave(0);
        others.remove(0).leave(3);
        let loss = Loss { rank: Rank(2), name: "process 2".into(), cause: Cause::Ended { status: 3 } };
        let mut reports: Vec<_> =
            (0..2).map(|_| found.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
        reports.sort_by_key(|(rank, _)| *rank);
        assert_eq!(reports, [(0, loss.clone()), (3, loss)]);
        first.leave(75);
        others.remove(0).leave(75);
        assert!(found.try_recv().is_err());
    });
}
