//! Objectives: a loss as numerators over denominators, and its closed-form gradient with respect to what the
//! engine's head hands back. One file each; the trainer knows none of them by name.

mod classification;
mod distillation;
mod embedding;
mod policy;
mod preference;
mod reward;
mod sft;

pub use classification::{Classification, ClassificationPack, OutputPart, PartKind, PartTarget, Target};
pub use distillation::{Distillation, DistillationPack};
pub use embedding::{
    Embedding, EmbeddingDistance, EmbeddingLoss, TripletGroups, TripletPack, TripletVectors,
};
pub use policy::{Aggregation, KlInLoss, Policy, PolicyPack, PolicyPackKind, RatioLevel};
pub use preference::{
    Preference, PreferenceLoss, PreferencePack, ResponseLogProbs, ResponsePair, response_log_probs,
};
pub use reward::{MseDenominator, Reward, RewardPack, RewardPair};
pub use sft::Sft;

use std::borrow::Cow;
use std::collections::BTreeMap;

use truing_model::{EncoderSpec, HeadGradient, HeadOutput, HeadRequest, Pooling};
use truing_types::PackedBatch;

/// A weighted mean in the making: sums over tokens, packs and ranks stay apart until one division.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WeightedSum {
    /// Sum of weight times value.
    pub numerator: f64,
    /// Sum of weights.
    pub denominator: f64,
}

impl WeightedSum {
    /// Adds another sum.
    pub fn add(&mut self, other: Self) {
        self.numerator += other.numerator;
        self.denominator += other.denominator;
    }
}

/// A training pack: the tokens, and what an objective needs to know of its sequences.
pub trait TrainingPack {
    /// The tokens.
    fn batch(&self) -> &PackedBatch;
}

impl TrainingPack for PackedBatch {
    fn batch(&self) -> &PackedBatch {
        self
    }
}

/// A loss made of one or several parts, `sum_p c_p numerator_p / denominator_p`. Numerators and denominators are
/// summed over the whole optimiser step (every pack of every rank) before one division each, so that the
/// gradient does not depend on how the step was cut.
pub trait Objective {
    /// What it learns from.
    type Pack: TrainingPack;

    /// What it asks the head about a pack.
    fn request<'a>(&self, pack: &'a Self::Pack) -> HeadRequest<'a>;

    /// One pack's share of the step's denominator of each part, known before any forward pass. Always the same
    /// number of parts.
    fn denominators(&self, pack: &Self::Pack, request: &HeadRequest<'_>) -> Vec<f64>;

    /// The gradient of the loss with respect to what the head hands back, where it does not depend on that; the
    /// head then runs once. `None` where it does.
    fn constant_gradient(
        &self,
        _pack: &Self::Pack,
        _request: &HeadRequest<'_>,
        _denominators: &[f64],
    ) -> Option<HeadGradient> {
        None
    }

    /// The same where it depends on it. Asked only when [`constant_gradient`](Self::constant_gradient) gave
    /// `None`. A pack never divides by a part's denominator that it has no share in.
    fn gradient(
        &self,
        pack: &Self::Pack,
        request: &HeadRequest<'_>,
        output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient;

    /// Names of what [`measure`](Self::measure) returns.
    fn metric_names(&self) -> Vec<&str>;

    /// One pack's share of each metric, in the order of the names.
    fn measure(&self, pack: &Self::Pack, request: &HeadRequest<'_>, output: &HeadOutput) -> Vec<WeightedSum>;

    /// The loss as a whole, from the means of the metrics. The first metric where there is one part.
    fn loss(&self, means: &BTreeMap<String, f64>) -> f64 {
        self.metric_names().first().and_then(|name| means.get(*name)).copied().unwrap_or(f64::NAN)
    }

    /// Whether the loss of a pack depends on the other packs of its step, as with in-batch negatives. The trainer then
    /// runs all packs forward first, and asks [`gradients_of_step`](Self::gradients_of_step) and
    /// [`measure_step`](Self::measure_step) about all of them.
    fn couples_packs(&self) -> bool {
        false
    }

    /// The gradient of each pack of a step, with what the head answered about every one of them.
    fn gradients_of_step(
        &self,
        packs: &[Self::Pack],
        outputs: &[HeadOutput],
        denominators: &[f64],
    ) -> Vec<HeadGradient> {
        let both = packs.iter().zip(outputs);
        both.map(|(pack, output)| self.gradient(pack, &self.request(pack), output, denominators)).collect()
    }

    /// The share of each metric of all packs of a step together.
    fn measure_step(&self, packs: &[Self::Pack], outputs: &[HeadOutput]) -> Vec<WeightedSum> {
        let mut sums = vec![WeightedSum::default(); self.metric_names().len()];
        for (pack, output) in packs.iter().zip(outputs) {
            for (sum, share) in sums.iter_mut().zip(self.measure(pack, &self.request(pack), output)) {
                sum.add(share);
            }
        }
        sums
    }

    /// The pack cut into the smallest packs that make sense alone, to find the rows that break a number. Empty
    /// where it cannot be cut.
    fn pieces(&self, _pack: &Self::Pack) -> Vec<Self::Pack> {
        Vec::new()
    }
}

/// Where the values of a whole sequence come from: a reward model's or classifier's score at the last token, or the
/// vector of an encoder or a pooled decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SequenceHead {
    /// The score head at the last token of each sequence.
    #[default]
    LastTokenScores,
    /// The pooled vector, or what an encoder's output layer makes of it.
    Vectors {
        /// How hidden states become a vector.
        pooling: Pooling,
        /// Whether vectors are divided by their Euclidean norm.
        is_normalized: bool,
    },
}

impl SequenceHead {
    /// Vectors as an encoder was made to give them.
    #[must_use]
    pub fn of_encoder(spec: &EncoderSpec) -> Self {
        Self::Vectors { pooling: spec.pooling, is_normalized: spec.is_normalized }
    }

    /// What the head is asked about a batch.
    #[must_use]
    pub fn request(self, batch: &PackedBatch) -> HeadRequest<'_> {
        match self {
            Self::LastTokenScores => {
                let last_rows = batch.cumulative_lengths().iter().skip(1).map(|end| end - 1);
                HeadRequest::Scores { rows: Cow::Owned(last_rows.collect()) }
            }
            Self::Vectors { pooling, is_normalized } => HeadRequest::pooled(batch, pooling, is_normalized),
        }
    }

    /// The values of all sequences `[n_sequences, width]`.
    #[must_use]
    pub fn values(self, output: &HeadOutput) -> &[f32] {
        match self {
            Self::LastTokenScores => &output.scores,
            Self::Vectors { .. } => &output.vectors,
        }
    }

    /// A gradient with respect to the values.
    #[must_use]
    pub fn gradient(self, values: Vec<f32>) -> HeadGradient {
        match self {
            Self::LastTokenScores => HeadGradient { scores: values, ..HeadGradient::default() },
            Self::Vectors { .. } => HeadGradient { vectors: values, ..HeadGradient::default() },
        }
    }
}
