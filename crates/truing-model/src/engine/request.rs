//! What a head is asked, what it answers, and the gradient that comes back.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use truing_types::{ExcludedTokens, PackedBatch, TargetTokens, TokenId};

use crate::encoder::{EncoderSpec, Pooling};

/// Per-target results of the language-model head, on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenLogProbs {
    /// Natural logarithm of each target's probability `[n_targets]`.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution that each target was drawn from, in nats `[n_targets]`.
    pub entropies: Vec<f32>,
    /// Whether the target was the most likely token `[n_targets]`.
    pub is_argmax: Vec<bool>,
}

impl TokenLogProbs {
    /// Room for `n_targets` results.
    #[must_use]
    pub fn with_len(n_targets: usize) -> Self {
        Self {
            log_probs: vec![0.0; n_targets],
            entropies: vec![0.0; n_targets],
            is_argmax: vec![false; n_targets],
        }
    }
}

/// The most likely tokens of a distribution at some rows, renormalised over themselves, on the host. The report's exact KL
/// is taken over them (report 2.1: the reference model's top 500).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostTopLogProbs {
    /// Tokens of a row; at most the vocabulary.
    pub k: usize,
    /// Tokens by falling logit, the lower id first among equals `[n_rows, k]`.
    pub tokens: Vec<TokenId>,
    /// Their log-probabilities; their probabilities sum to 1 over a row `[n_rows, k]`.
    pub log_probs: Vec<f32>,
}

/// A handle to the most likely tokens at some rows. They are the largest object of a GRPO step (4 kB a target at the report's
/// 500), so an engine may leave them where it computed them. Cheap to clone.
#[derive(Debug, Clone)]
pub enum TopLogProbs {
    /// On the host: from an engine that computes there, or from elsewhere, for instance a server.
    Host(Arc<HostTopLogProbs>),
    /// Where the engine that made it left it. Only engines of the same kind can read it.
    Device(Arc<dyn DeviceTopLogProbs>),
}

/// Top log-probabilities in the memory of a device.
pub trait DeviceTopLogProbs: Any + std::fmt::Debug + Send + Sync {
    /// Number of rows.
    fn n_rows(&self) -> usize;
    /// For the engine to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

impl TopLogProbs {
    /// The values, where they are on the host.
    #[must_use]
    pub fn host(&self) -> Option<&HostTopLogProbs> {
        match self {
            Self::Host(values) => Some(values),
            Self::Device(_) => None,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        match self {
            Self::Host(values) => values.tokens.len() / values.k.max(1),
            Self::Device(values) => values.n_rows(),
        }
    }
}

/// Values on the host are compared; of a device, whether it is the same object.
impl PartialEq for TopLogProbs {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(one), Self::Host(other)) => one == other,
            (Self::Device(one), Self::Device(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl From<HostTopLogProbs> for TopLogProbs {
    fn from(values: HostTopLogProbs) -> Self {
        Self::Host(Arc::new(values))
    }
}

/// Which divergence of the model's distribution p from a reference q is computed, both renormalised over the tokens of the
/// reference.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Divergence {
    /// `KL(p, q) = sum p (log p - log q)`.
    #[default]
    ReverseKl,
    /// `KL(q, p)`.
    ForwardKl,
    /// `beta KL(q, m) + (1 - beta) KL(p, m)` with the mixture `m = beta q + (1 - beta) p`: the generalised Jensen-Shannon
    /// divergence of GKD (arXiv 2306.13649).
    JensenShannon {
        /// Weight of the reference in the mixture, between 0 and 1.
        beta: f64,
    },
}

/// A reference that the model is compared with at each target's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Its log-probabilities `[n_targets, k]`.
    pub top: TopLogProbs,
    /// What is computed.
    pub divergence: Divergence,
}

/// For the reverse KL, that of the report.
impl From<TopLogProbs> for Reference {
    fn from(top: TopLogProbs) -> Self {
        Self { top, divergence: Divergence::default() }
    }
}

/// What the head is asked about the hidden states of a batch.
#[derive(Debug, Clone)]
pub enum HeadRequest<'a> {
    /// The language-model head: log-probabilities of targets, with logits divided by a temperature.
    LogProbs {
        /// The targets. A row may predict several.
        targets: Cow<'a, TargetTokens>,
        /// Divides the logits; 1 is the model itself.
        temperature: f32,
        /// Rows of the head that take no part: the distribution, its entropy, KL and gradients are over all others.
        excluded: ExcludedTokens,
        /// Asks for the divergence from this reference at each target's row as well `[n_targets, k]`.
        reference: Option<Reference>,
    },
    /// The head of a reward model or a classifier.
    Scores {
        /// Rows to score, usually each sequence's last.
        rows: Cow<'a, [u32]>,
    },
    /// One vector for every sequence: the final norm, pooling, then the encoder's output layer where it has one.
    Vectors {
        /// Where each sequence begins, and where the last one ends `[n_sequences + 1]`.
        cumulative_lengths: Cow<'a, [u32]>,
        /// How the hidden states of a sequence become a vector.
        pooling: Pooling,
        /// Whether vectors are divided by their Euclidean norm.
        is_normalized: bool,
    },
}

impl<'a> HeadRequest<'a> {
    /// Log-probabilities under the model itself: over every row of the head, at temperature 1.
    #[must_use]
    pub fn log_probs(targets: &'a TargetTokens) -> Self {
        Self::LogProbs {
            targets: Cow::Borrowed(targets),
            temperature: 1.0,
            excluded: ExcludedTokens::none(),
            reference: None,
        }
    }

    /// The vectors of a batch, pooled as the encoder was made.
    #[must_use]
    pub fn vectors(batch: &'a PackedBatch, spec: &EncoderSpec) -> Self {
        Self::pooled(batch, spec.pooling, spec.is_normalized)
    }

    /// The vectors of a batch.
    #[must_use]
    pub fn pooled(batch: &'a PackedBatch, pooling: Pooling, is_normalized: bool) -> Self {
        let cumulative_lengths = Cow::Borrowed(batch.cumulative_lengths());
        Self::Vectors { cumulative_lengths, pooling, is_normalized }
    }

    /// Rows of the hidden states that the results belong to, one each. Of vectors the first of each sequence.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        match self {
            Self::LogProbs { targets, .. } => &targets.rows,
            Self::Scores { rows } => rows,
            Self::Vectors { cumulative_lengths, .. } => {
                cumulative_lengths.split_last().map_or(&[], |(_, starts)| starts)
            }
        }
    }

    /// The targets, of log-probabilities.
    #[must_use]
    pub fn targets(&self) -> Option<&TargetTokens> {
        match self {
            Self::LogProbs { targets, .. } => Some(targets),
            Self::Scores { .. } | Self::Vectors { .. } => None,
        }
    }
}

/// What the head answers, on the host. Lists that were not asked for are empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadOutput {
    /// Per target.
    pub tokens: TokenLogProbs,
    /// Divergence from the reference at each target's row, in nats, never negative `[n_targets]`.
    pub kl: Vec<f32>,
    /// The score head `[n_rows, n_outputs]`; a reward model has one output.
    pub scores: Vec<f32>,
    /// One vector for every sequence, or the outputs of the encoder's output layer `[n_sequences, width]`.
    pub vectors: Vec<f32>,
}

/// The gradient of a loss with respect to a [`HeadOutput`]. An empty list is a gradient of zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadGradient {
    /// With respect to each log-probability `[n_targets]`.
    pub log_probs: Vec<f32>,
    /// With respect to each divergence `[n_targets]`.
    pub kl: Vec<f32>,
    /// With respect to each score `[n_rows, n_outputs]`.
    pub scores: Vec<f32>,
    /// With respect to each number of the vectors `[n_sequences, width]`.
    pub vectors: Vec<f32>,
}
