//! The one batch shape. Everything a model ever sees is a [`PackedBatch`]: no batch dimension, no padding,
//! no attention mask (report 2.2, "packing on batch").

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A token's index in the vocabulary.
pub type TokenId = u32;

/// Where a training row came from, so that every message can name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowOrigin {
    /// The file as the user named it.
    pub source: Arc<str>,
    /// Line of the file, counted from 1 (row number for Parquet).
    pub line: u64,
}

impl std::fmt::Display for RowOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

/// One sequence ready to be packed.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedSample {
    /// Token ids `[length]`.
    pub tokens: Vec<TokenId>,
    /// Loss weight of each token *as a target*, `[length]`; 0 carries no loss. The first is never used.
    pub loss_weights: Vec<f32>,
    /// The row it was made from.
    pub origin: RowOrigin,
}

impl TokenizedSample {
    /// Sum of the weights that can carry loss: the sample's share of the step's denominator.
    #[must_use]
    pub fn loss_weight(&self) -> f64 {
        self.loss_weights.iter().skip(1).map(|&w| f64::from(w)).sum()
    }
}

/// Sequences joined into one row and kept apart by their cumulative lengths.
///
/// Positions restart at 0 in every sequence. `cumulative_lengths` (FlashAttention's `cu_seqlens`) is
/// `[0, l1, l1 + l2, ...]`. Built only through [`PackedBatch::new`] or [`PackedBatch::from_samples`], so the
/// invariants hold: at least one sequence, no empty sequence, all per-token vectors equally long.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedBatch {
    tokens: Vec<TokenId>,
    positions: Vec<u32>,
    cumulative_lengths: Vec<u32>,
    loss_weights: Vec<f32>,
    origins: Vec<RowOrigin>,
    /// Sequence that each sequence continues `[n_sequences]`.
    prefixes: Vec<Option<u32>>,
}

/// A batch that cannot be built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// No sequences were given.
    #[error("a packed batch needs at least one sequence")]
    NoSequences,
    /// A sequence without tokens.
    #[error("sequence {index} of the pack is empty")]
    EmptySequence {
        /// Its place in the pack.
        index: usize,
    },
    /// A prefix that is not an earlier sequence without a prefix of its own.
    #[error(
        "sequence {index} continues sequence {prefix}, which is not an earlier sequence without a prefix of its own"
    )]
    BadPrefix {
        /// Its place in the pack.
        index: usize,
        /// The sequence named as its prefix.
        prefix: usize,
    },
    /// The tokens and loss weights differ in number.
    #[error("sequence {index} has {tokens} tokens but {weights} loss weights")]
    LengthMismatch {
        /// Its place in the pack.
        index: usize,
        /// Number of tokens.
        tokens: usize,
        /// Number of loss weights.
        weights: usize,
    },
}

/// The tokens of a batch that carry loss, with the hidden rows that predict them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TargetTokens {
    /// Row of the hidden states that predicts each target, `[n_targets]`.
    pub rows: Vec<u32>,
    /// The token to be predicted, `[n_targets]`.
    pub tokens: Vec<TokenId>,
    /// Its loss weight, `[n_targets]`.
    pub weights: Vec<f32>,
}

impl PackedBatch {
    /// Packs `(tokens, loss weights, origin)` sequences in the order given.
    ///
    /// # Errors
    /// When there is no sequence, an empty one, or lengths differ.
    pub fn new<'a>(
        sequences: impl IntoIterator<Item = (&'a [TokenId], &'a [f32], RowOrigin)>,
    ) -> Result<Self, BatchError> {
        Self::with_prefixes(
            sequences.into_iter().map(|(tokens, weights, origin)| (tokens, weights, origin, None)),
        )
    }

    /// Packs `(tokens, loss weights, origin, prefix)` sequences in the order given. A sequence with a prefix goes
    /// on where that earlier sequence of the pack ends: it sees all of it, its positions follow on, and its first
    /// token is predicted by the prefix's last row. So the prompt of a group of completions is computed once.
    ///
    /// # Errors
    /// As [`PackedBatch::new`], and when a prefix is not an earlier sequence that has none itself.
    pub fn with_prefixes<'a>(
        sequences: impl IntoIterator<Item = (&'a [TokenId], &'a [f32], RowOrigin, Option<usize>)>,
    ) -> Result<Self, BatchError> {
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            cumulative_lengths: vec![0],
            loss_weights: Vec::new(),
            origins: Vec::new(),
            prefixes: Vec::new(),
        };
        for (index, (tokens, weights, origin, prefix)) in sequences.into_iter().enumerate() {
            if tokens.is_empty() {
                return Err(BatchError::EmptySequence { index });
            }
            if tokens.len() != weights.len() {
                return Err(BatchError::LengthMismatch {
                    index,
                    tokens: tokens.len(),
                    weights: weights.len(),
                });
            }
            let start = match prefix {
                None => 0,
                Some(prefix) if batch.prefixes.get(prefix) == Some(&None) => {
                    batch.sequence_range(prefix).len()
                }
                Some(prefix) => return Err(BatchError::BadPrefix { index, prefix }),
            } as u32;
            batch.prefixes.push(prefix.map(|prefix| prefix as u32));
            batch.tokens.extend_from_slice(tokens);
            batch.positions.extend(start..start + tokens.len() as u32);
            batch.loss_weights.extend_from_slice(weights);
            batch.cumulative_lengths.push(batch.tokens.len() as u32);
            batch.origins.push(origin);
        }
        if batch.origins.is_empty() { Err(BatchError::NoSequences) } else { Ok(batch) }
    }

    /// Packs tokenized samples in the order given.
    ///
    /// # Errors
    /// As [`PackedBatch::new`].
    pub fn from_samples<'a>(
        samples: impl IntoIterator<Item = &'a TokenizedSample>,
    ) -> Result<Self, BatchError> {
        Self::new(samples.into_iter().map(|s| (&s.tokens[..], &s.loss_weights[..], s.origin.clone())))
    }

    /// Token ids `[total]`.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Position of each token inside its own sequence `[total]`.
    #[must_use]
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// `[n_sequences + 1]`, starting with 0 and ending with the total.
    #[must_use]
    pub fn cumulative_lengths(&self) -> &[u32] {
        &self.cumulative_lengths
    }

    /// Loss weight of each token as a target `[total]`.
    #[must_use]
    pub fn loss_weights(&self) -> &[f32] {
        &self.loss_weights
    }

    /// The row behind each sequence `[n_sequences]`.
    #[must_use]
    pub fn origins(&self) -> &[RowOrigin] {
        &self.origins
    }

    /// The earlier sequence that each one continues `[n_sequences]`.
    #[must_use]
    pub fn prefixes(&self) -> &[Option<u32>] {
        &self.prefixes
    }

    /// Number of real tokens; there are no others.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Number of sequences.
    #[must_use]
    pub fn n_sequences(&self) -> usize {
        self.origins.len()
    }

    /// Length of the longest sequence, its prefix included.
    #[must_use]
    pub fn longest_sequence(&self) -> usize {
        self.positions.iter().max().map_or(0, |&last| last as usize + 1)
    }

    /// Token range of one sequence.
    #[must_use]
    pub fn sequence_range(&self, sequence_idx: usize) -> std::ops::Range<usize> {
        self.cumulative_lengths[sequence_idx] as usize..self.cumulative_lengths[sequence_idx + 1] as usize
    }

    /// The tokens that carry loss. A sequence's first token has no predecessor and is never a target, unless the
    /// sequence has a prefix, whose last row predicts it.
    #[must_use]
    pub fn targets(&self) -> TargetTokens {
        let mut targets = TargetTokens::default();
        for (sequence_idx, prefix) in self.prefixes.iter().enumerate() {
            let range = self.sequence_range(sequence_idx);
            for t in range.clone() {
                let row = match prefix {
                    _ if t > range.start => t - 1,
                    Some(prefix) => self.sequence_range(*prefix as usize).end - 1,
                    None => continue,
                };
                let weight = self.loss_weights[t];
                if weight != 0.0 {
                    targets.rows.push(row as u32);
                    targets.tokens.push(self.tokens[t]);
                    targets.weights.push(weight);
                }
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(line: u64) -> RowOrigin {
        RowOrigin { source: "t".into(), line }
    }

    #[test]
    fn positions_restart_and_first_tokens_are_never_targets() {
        let batch = PackedBatch::new([
            (&[5, 6, 7][..], &[1.0, 1.0, 0.0][..], origin(1)),
            (&[8][..], &[1.0][..], origin(2)),
            (&[9, 10][..], &[0.0, 0.5][..], origin(3)),
        ])
        .unwrap();
        assert_eq!(batch.positions(), [0, 1, 2, 0, 0, 1]);
        assert_eq!(batch.cumulative_lengths(), [0, 3, 4, 6]);
        assert_eq!(batch.longest_sequence(), 3);
        assert_eq!(batch.sequence_range(2), 4..6);
        let targets = batch.targets();
        assert_eq!(targets.rows, [0, 4]);
        assert_eq!(targets.tokens, [6, 10]);
        assert_eq!(targets.weights, [1.0, 0.5]);
    }

    #[test]
    fn a_prefix_is_gone_on_from_by_several() {
        let batch = PackedBatch::with_prefixes([
            (&[5, 6, 7][..], &[0.0, 0.0, 0.0][..], origin(1), None),
            (&[8, 9][..], &[1.0, 0.5][..], origin(1), Some(0)),
            (&[10][..], &[2.0][..], origin(1), Some(0)),
        ])
        .unwrap();
        assert_eq!(batch.positions(), [0, 1, 2, 3, 4, 3]);
        assert_eq!(batch.longest_sequence(), 5);
        let targets = batch.targets();
        assert_eq!((targets.rows, targets.tokens), (vec![2, 3, 2], vec![8, 9, 10]));
        let chained = PackedBatch::with_prefixes([
            (&[5][..], &[0.0][..], origin(1), None),
            (&[8][..], &[1.0][..], origin(1), Some(0)),
            (&[9][..], &[1.0][..], origin(1), Some(1)),
        ]);
        assert_eq!(chained, Err(BatchError::BadPrefix { index: 2, prefix: 1 }));
    }

    #[test]
    fn broken_sequences_are_refused() {
        assert_eq!(PackedBatch::new([]), Err(BatchError::NoSequences));
        assert_eq!(
            PackedBatch::new([(&[][..], &[][..], origin(1))]),
            Err(BatchError::EmptySequence { index: 0 })
        );
        assert_eq!(
            PackedBatch::new([(&[1][..], &[][..], origin(1))]),
            Err(BatchError::LengthMismatch { index: 0, tokens: 1, weights: 0 })
        );
    }
}
