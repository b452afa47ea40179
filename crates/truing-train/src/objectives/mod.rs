//! Objectives: a loss as numerators over denominators, and its closed-form gradient with respect to what the
//! engine's head hands back. One file each; the trainer knows none of them by name.

mod classification;
mod embedding;
mod policy;
mod preference;
mod reward;
mod sft;

pub use classification::{Classification, ClassificationPack, OutputPart, PartKind, PartTarget, Target};
pub use embedding::{EmbeddingDistance, EmbeddingLoss, TripletGroups, TripletPack, TripletVectors};
pub use policy::{Aggregation, KlInLoss, Policy, PolicyPack, PolicyPackKind, RatioLevel};
pub use preference::{
    Preference, PreferenceLoss, PreferencePack, ResponseLogProbs, ResponsePair, response_log_probs,
};
pub use reward::{MseDenominator, Reward, RewardPack, RewardPair};
pub use sft::Sft;

use std::collections::BTreeMap;

use truing_model::{HeadGradient, HeadOutput, HeadRequest};
use truing_types::PackedBatch;

/// A weighted mean in the making: sums over tokens, packs and ranks stay apart until one division.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WeightedSum {
    /// Sum of weight times value.
    pub numerator: f64,
    /// Sum of weights.
    pub denominator: f64,
}

/// A pack to learn from: the tokens, and whatever an objective knows of its sequences beside them.
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

    /// The pack cut into the smallest packs that make sense alone, to find the rows that break a number. Empty
    /// where it cannot be cut.
    fn pieces(&self, _pack: &Self::Pack) -> Vec<Self::Pack> {
        Vec::new()
    }
}

/// A loss on what an encoder makes of texts: vectors, or the outputs of its output layer `[n_sequences, width]`.
/// Numerators and denominators are summed as those of an [`Objective`].
pub trait EncoderObjective {
    /// What it learns from.
    type Pack: TrainingPack;

    /// Whether the loss of a pack depends on the others of the step, so that all vectors must be known at once.
    fn couples_packs(&self) -> bool {
        false
    }

    /// One pack's share of the step's denominator of each part, known before any forward pass. Always the same number of
    /// parts.
    fn denominators(&self, pack: &Self::Pack) -> Vec<f64>;

    /// The gradient of the loss with respect to every value of some packs' texts. A pack never divides by a part's
    /// denominator that it has no share in.
    fn gradient(&self, packs: &[Self::Pack], values: &[f32], denominators: &[f64]) -> Vec<f32>;

    /// Names of what [`measure`](Self::measure) returns.
    fn metric_names(&self) -> Vec<&str>;

    /// The packs' share of each metric, in the order of the names.
    fn measure(&self, packs: &[Self::Pack], values: &[f32]) -> Vec<WeightedSum>;

    /// The loss as a whole, from the means of the metrics. The first metric where there is one part.
    fn loss(&self, means: &BTreeMap<String, f64>) -> f64 {
        self.metric_names().first().and_then(|name| means.get(*name)).copied().unwrap_or(f64::NAN)
    }
}
