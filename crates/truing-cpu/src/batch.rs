//! [`DeviceBatch`]: tokens, positions and spans as the layers want them.

use std::ops::Range;

use truing_kernels::{AttentionSpan, spans_of};
use truing_types::{PackedBatch, TokenId};

use crate::ulysses::{PackRows, SequenceGroup};

/// A batch on the device.
#[derive(Debug, Clone)]
pub struct DeviceBatch {
    /// Of this rank's rows.
    pub(crate) tokens: Vec<TokenId>,
    /// Of this rank's rows.
    pub(crate) positions: Vec<u32>,
    /// Which rows those are. Everything below is about all rows of the pack.
    pub(crate) rows: PackRows,
    /// Where each sequence's tokens lie.
    pub(crate) spans: Vec<AttentionSpan>,
    /// Where sequences continue others and keys are copied; `None` where every token is one key in its place.
    pub(crate) key_runs: Option<Vec<KeyRun>>,
}

/// Neighbouring sequences whose attention is computed together: their keys are copied, every prefix before each of its
/// continuations, and the copies of a run live no longer than its attention. A run has no more keys than the batch has
/// tokens, or a single sequence: so the memory of the copies does not grow with the number of continuations of a
/// prefix.
#[derive(Debug, Clone)]
pub(crate) struct KeyRun {
    /// Tokens of the batch.
    pub(crate) queries: Range<usize>,
    /// The sequences, counted from the run's first query and key.
    pub(crate) spans: Vec<AttentionSpan>,
    /// The token of the batch behind each key.
    pub(crate) key_tokens: Vec<u32>,
}

impl KeyRun {
    fn of(batch: &PackedBatch) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for (sequence_idx, prefix) in batch.prefixes().iter().enumerate() {
            let queries = batch.sequence_range(sequence_idx);
            let prefix = prefix.map(|prefix| batch.sequence_range(prefix as usize)).unwrap_or_default();
            let n_keys = prefix.len() + queries.len();
            let has_room = |run: &&mut Self| run.key_tokens.len() + n_keys <= batch.n_tokens();
            let run = match runs.last_mut().filter(has_room) {
                Some(run) => run,
                None => {
                    let empty = queries.start..queries.start;
                    runs.push(Self { queries: empty, spans: Vec::new(), key_tokens: Vec::new() });
                    let last = runs.len() - 1;
                    &mut runs[last]
                }
            };
            let (first_query, first_key) = (queries.start - run.queries.start, run.key_tokens.len());
            run.spans.push(AttentionSpan {
                queries: first_query..first_query + queries.len(),
                keys: first_key..first_key + n_keys,
            });
            run.queries.end = queries.end;
            run.key_tokens.extend(prefix.chain(queries).map(|token| token as u32));
        }
        runs
    }
}

impl DeviceBatch {
    pub(crate) fn of(batch: &PackedBatch, group: &SequenceGroup) -> Self {
        let has_prefixes = batch.prefixes().iter().any(Option::is_some);
        let rows = group.own_rows(batch.n_tokens());
        Self {
            tokens: batch.tokens()[rows.own.clone()].to_vec(),
            positions: batch.positions()[rows.own.clone()].to_vec(),
            rows,
            spans: spans_of(batch.cumulative_lengths()),
            key_runs: has_prefixes.then(|| KeyRun::of(batch)),
        }
    }

    /// Tokens of this rank.
    pub(crate) fn n_tokens(&self) -> usize {
        self.tokens.len()
    }
}
