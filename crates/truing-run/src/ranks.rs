//! What the ranks of one run do together: work of the first rank alone, and lists whose items were dealt to all.
//!
//! Messages are CBOR: numbers keep their bits.

use std::error::Error;

use serde::Serialize;
use serde::de::DeserializeOwned;
use truing_model::{EngineError, ParameterStore};
use truing_types::{CommunicationError, Communicator, Rank, in_dealt_order, with_causes};

use crate::RunError;

const FIRST: Rank = Rank(0);

/// Whether this is the rank that writes the run's folder.
pub fn is_first(communicator: &dyn Communicator) -> bool {
    communicator.rank() == FIRST
}

/// Does some work on the first rank alone and gives its result to every rank, its error too. No rank returns before
/// the work is done.
///
/// # Errors
/// That of the work, as [`RunError::OtherRank`] on other ranks; or when a peer is lost.
pub fn on_first_rank<T: Serialize + DeserializeOwned, E: Error + From<RunError>>(
    communicator: &dyn Communicator,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    if communicator.world_size() == 1 {
        return work();
    }
    if !is_first(communicator) {
        let mut message = Vec::new();
        communicator.broadcast_bytes(&mut message, FIRST).map_err(RunError::from)?;
        let result: Result<T, String> = decode(&message, FIRST)?;
        return result.map_err(|reason| RunError::OtherRank { rank: FIRST.0, reason }.into());
    }
    let result = work();
    // A result that cannot be sent is an error of every rank.
    let (result, mut message) = match result.and_then(|value| Ok((encode(&Ok::<&T, String>(&value))?, value)))
    {
        Ok((message, value)) => (Ok(value), message),
        Err(error) => {
            let message = encode(&Err::<(), String>(with_causes(&error)))?;
            (Err(error), message)
        }
    };
    communicator.broadcast_bytes(&mut message, FIRST).map_err(RunError::from)?;
    result
}

/// [`on_first_rank`] for work that reads tensors of `store`: meanwhile the other ranks send their parts of what is
/// sharded.
///
/// # Errors
/// As [`on_first_rank`].
pub fn on_first_rank_reading<T: Serialize + DeserializeOwned, E: Error + From<RunError>>(
    communicator: &dyn Communicator,
    store: &impl ParameterStore,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let failed = |error: EngineError| E::from(RunError::from(error));
    if !is_first(communicator) {
        store.serve_reads().map_err(failed)?;
    }
    on_first_rank(communicator, || {
        let result = work();
        store.finish_reads().map_err(failed)?;
        result
    })
}

/// Gathers items that were dealt to the ranks (see [`truing_types::dealt`]), in their order, on every rank.
///
/// # Errors
/// When an item cannot be sent or a peer is lost.
pub fn gather_dealt<T: Serialize + DeserializeOwned>(
    communicator: &dyn Communicator,
    mine: Vec<T>,
) -> Result<Vec<T>, RunError> {
    if communicator.world_size() == 1 {
        return Ok(mine);
    }
    let messages = communicator.all_gather_bytes(&encode(&mine)?)?;
    let by_rank = messages.iter().enumerate().map(|(rank, message)| decode(message, Rank(rank)));
    Ok(in_dealt_order(by_rank.collect::<Result<Vec<Vec<T>>, _>>()?))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes)
        .map_err(|error| RunError::Message { reason: error.to_string() })?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], rank: Rank) -> Result<T, RunError> {
    ciborium::from_reader(bytes)
        .map_err(|_| CommunicationError::Malformed { rank: rank.0, n_bytes: bytes.len() }.into())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use truing_parallel::{Solo, thread_world};
    use truing_types::dealt;

    /// What every rank of a world of some size finds.
    fn on_ranks<T: Send>(n_ranks: usize, work: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let work = &work;
            let ranks = thread_world(n_ranks).into_iter();
            let ranks: Vec<_> = ranks.map(|rank| scope.spawn(move || work(&rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn the_first_rank_works_alone_and_all_get_its_result() {
        for n_ranks in 1..4 {
            let found = on_ranks(n_ranks, |communicator| {
                on_first_rank(communicator, || {
                    assert_eq!(communicator.rank().0, 0);
                    Ok::<_, RunError>((7_u64, Some("x".to_owned()), f64::NEG_INFINITY))
                })
                .unwrap()
            });
            assert_eq!(found, vec![(7, Some("x".to_owned()), f64::NEG_INFINITY); n_ranks]);
        }
    }

    #[test]
    fn an_error_of_the_first_rank_reaches_all_with_its_causes() {
        let found = on_ranks(3, |communicator| {
            let failed = || {
                let source = std::io::Error::other("the disk is gone");
                Err::<u8, _>(RunError::Write { path: "metrics.jsonl".into(), source })
            };
            on_first_rank(communicator, failed).unwrap_err().to_string()
        });
        assert_eq!(found[0], "metrics.jsonl: cannot be written");
        let elsewhere = "rank 0 failed: metrics.jsonl: cannot be written: the disk is gone";
        assert_eq!(found[1..], [elsewhere, elsewhere]);
    }

    #[test]
    fn dealt_items_come_back_in_their_order_with_their_bits() {
        let item = |i: usize| (vec![i as f32 * 0.1, f32::INFINITY, -0.0], i as f64 / 3.0, format!("{i}"));
        for n_ranks in 1..4 {
            let found = on_ranks(n_ranks, |communicator| {
                gather_dealt(communicator, dealt(5, communicator).map(item).collect()).unwrap()
            });
            assert_eq!(found, vec![(0..5).map(item).collect::<Vec<_>>(); n_ranks]);
        }
        assert!(gather_dealt::<u8>(&Solo, Vec::new()).unwrap().is_empty());
    }
}
