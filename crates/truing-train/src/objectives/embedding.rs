//! Losses of text embeddings, on triplets of an anchor, a text that belongs to it and one that does not.
//!
//! ```text
//! triplet          max(0, d(a, p) - d(a, n) + margin)
//! multiple         -log softmax_j(scale cos(a_i, c_j))[p_i], c = all positives, then all negatives of the step,
//! negatives        without those of a_i's own group
//! ```
//!
//! The triplet loss is that of Schroff et al., "FaceNet" (arXiv 1503.03832), with the distances and default margin of
//! sentence-transformers' `TripletLoss`; the in-batch negatives are those of Henderson et al. (arXiv 1705.00652), van
//! den Oord et al.'s InfoNCE (1807.03748), with the default scale of its `MultipleNegativesRankingLoss`. Numerators and
//! denominators stay apart: both losses are means over the step's triplets. Everything runs in f64: it is little beside
//! the encoder.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use truing_model::{HeadGradient, HeadOutput, HeadRequest};
use truing_types::PackedBatch;

use super::{Objective, SequenceHead, TrainingPack, WeightedSum};

/// Added to every difference before the Euclidean norm, as `torch.nn.functional.pairwise_distance` does.
const PAIRWISE_EPS: f64 = 1e-6;
/// Norms are not taken to be smaller, as `torch.nn.functional.cosine_similarity` does.
const SHORTEST: f64 = 1e-8;

/// How far two vectors are apart, under sentence-transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingDistance {
    /// `1 - cos`.
    #[default]
    Cosine,
    /// Euclidean distance.
    Euclidean,
}

/// What is learnt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmbeddingLoss {
    /// Each triplet for itself.
    Triplet {
        /// How distances are measured.
        distance: EmbeddingDistance,
        /// By how much the negative shall be farther away than the positive.
        margin: f64,
    },
    /// Every anchor against the positives and negatives of the whole step: the others are negatives for nothing. Those
    /// known to be of the anchor's own group are left out, or it would be taught to flee its like.
    MultipleNegativesRanking {
        /// Factor on the cosines before the softmax.
        scale: f64,
    },
}

/// What kinds a triplet's texts are of, where that is known: equal numbers are the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TripletGroups {
    /// Of anchor and positive.
    pub anchor: Option<u64>,
    /// Of the negative.
    pub negative: Option<u64>,
}

/// Texts of triplets.
#[derive(Debug, Clone, PartialEq)]
pub struct TripletPack {
    /// Three texts a triplet, one after the other: anchor, positive, negative.
    pub batch: PackedBatch,
    /// What kinds they are of `[n_triplets]`.
    pub groups: Vec<TripletGroups>,
}

impl TrainingPack for TripletPack {
    fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

/// Vectors of triplets, three a triplet: anchor, positive, negative `[3 n_triplets, width]`.
#[derive(Debug, Clone, Copy)]
pub struct TripletVectors<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Length of a vector.
    pub width: usize,
    /// What kinds they are of `[n_triplets]`.
    pub groups: &'a [TripletGroups],
}

/// Names of what is measured, the loss first.
const METRICS: [&str; 4] = ["loss", "accuracy", "margin", "active"];

impl<'a> TripletVectors<'a> {
    /// All vectors of the triplets of `groups`.
    #[must_use]
    pub fn of(values: &'a [f32], groups: &'a [TripletGroups]) -> Self {
        Self { values, width: values.len() / (3 * groups.len()).max(1), groups }
    }

    /// Number of triplets.
    #[must_use]
    pub fn n_triplets(&self) -> usize {
        self.values.len() / (3 * self.width)
    }

    fn vector(&self, idx: usize) -> &[f32] {
        &self.values[idx * self.width..][..self.width]
    }

    /// Places of the candidates of an anchor: positives, then negatives.
    fn candidate(&self, j: usize) -> usize {
        let n = self.n_triplets();
        if j < n { 3 * j + 1 } else { 3 * (j - n) + 2 }
    }

    /// Whether candidate `j` is one of an anchor's own kind, but not its positive.
    fn is_of_own_kind(&self, anchor: usize, j: usize) -> bool {
        let n = self.n_triplets();
        let kind = if j < n { self.groups[j].anchor } else { self.groups[j - n].negative };
        j != anchor && kind.is_some() && kind == self.groups[anchor].anchor
    }
}

impl EmbeddingLoss {
    /// Whether the loss of a triplet depends on the other triplets of its step.
    #[must_use]
    pub fn couples_triplets(&self) -> bool {
        matches!(self, Self::MultipleNegativesRanking { .. })
    }

    /// Sums over the triplets: the loss; whether the positive is nearer than the negative; by
    /// how much in the loss's distance (cosine for in-batch negatives); whether the triplet has a gradient.
    #[must_use]
    pub fn measure(&self, vectors: TripletVectors<'_>) -> [WeightedSum; 4] {
        let mut sums = [WeightedSum::default(); 4];
        let losses: Vec<f64> = match self {
            Self::Triplet { .. } => {
                (0..vectors.n_triplets()).map(|i| self.triplet_loss(vectors, i)).collect()
            }
            Self::MultipleNegativesRanking { scale } => {
                Cosines::of(vectors).anchors().map(|cosines| cross_entropy(cosines, *scale).0).collect()
            }
        };
        let distance = self.distance();
        for (i, loss) in losses.into_iter().enumerate() {
            let [anchor, positive, negative] = [0, 1, 2].map(|k| vectors.vector(3 * i + k));
            let lead = distance.between(anchor, negative) - distance.between(anchor, positive);
            let shares = [loss, f64::from(u8::from(lead > 0.0)), lead, f64::from(u8::from(loss > 0.0))];
            for (sum, share) in sums.iter_mut().zip(shares) {
                sum.numerator += share;
                sum.denominator += 1.0;
            }
        }
        sums
    }

    /// The gradient of the loss, a mean over `denominator` triplets, with respect to every vector.
    #[must_use]
    pub fn gradient(&self, vectors: TripletVectors<'_>, denominator: f64) -> Vec<f32> {
        let mut gradient = vec![0.0_f64; vectors.values.len()];
        match self {
            Self::Triplet { distance, .. } => {
                for i in 0..vectors.n_triplets() {
                    if self.triplet_loss(vectors, i) > 0.0 {
                        let [anchor, positive, negative] = [3 * i, 3 * i + 1, 3 * i + 2];
                        distance.add_gradient(vectors, anchor, positive, 1.0, &mut gradient);
                        distance.add_gradient(vectors, anchor, negative, -1.0, &mut gradient);
                    }
                }
            }
            Self::MultipleNegativesRanking { scale } => {
                let cosines = Cosines::of(vectors);
                for (i, cosines_of_anchor) in cosines.anchors() {
                    let (_, probabilities) = cross_entropy((i, cosines_of_anchor), *scale);
                    for (j, probability) in probabilities.into_iter().enumerate() {
                        if cosines_of_anchor[j] == LEFT_OUT {
                            continue;
                        }
                        let factor = scale * (probability - f64::from(u8::from(i == j)));
                        let candidate = vectors.candidate(j);
                        cosines.add_gradient(vectors, (3 * i, candidate), (i, j), factor, &mut gradient);
                    }
                }
            }
        }
        gradient.into_iter().map(|g| (g / denominator) as f32).collect()
    }

    fn distance(&self) -> EmbeddingDistance {
        match self {
            Self::Triplet { distance, .. } => *distance,
            Self::MultipleNegativesRanking { .. } => EmbeddingDistance::Cosine,
        }
    }

    /// Of one triplet; 0 for other losses.
    fn triplet_loss(&self, vectors: TripletVectors<'_>, i: usize) -> f64 {
        let Self::Triplet { distance, margin } = self else { return 0.0 };
        let [anchor, positive, negative] = [0, 1, 2].map(|k| vectors.vector(3 * i + k));
        let hinge = distance.between(anchor, positive) - distance.between(anchor, negative) + margin;
        // Not `max`, which would hide a value that is not a number.
        if hinge < 0.0 { 0.0 } else { hinge }
    }
}

/// The objective: a loss on the vectors of an encoder, or of a pooled decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedding {
    /// The loss.
    pub loss: EmbeddingLoss,
    /// Where the vectors come from.
    pub head: SequenceHead,
}

impl Embedding {
    /// Vectors of all texts of some packs `[3 n_triplets, width]`.
    fn values(&self, outputs: &[HeadOutput]) -> Vec<f32> {
        outputs.iter().flat_map(|output| self.head.values(output)).copied().collect()
    }
}

impl Objective for Embedding {
    type Pack = TripletPack;

    fn request<'a>(&self, pack: &'a TripletPack) -> HeadRequest<'a> {
        self.head.request(&pack.batch)
    }

    fn couples_packs(&self) -> bool {
        self.loss.couples_triplets()
    }

    fn denominators(&self, pack: &TripletPack, _request: &HeadRequest<'_>) -> Vec<f64> {
        vec![pack.groups.len() as f64]
    }

    fn gradient(
        &self,
        pack: &TripletPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        let vectors = TripletVectors::of(self.head.values(output), &pack.groups);
        self.head.gradient(self.loss.gradient(vectors, denominators[0]))
    }

    fn gradients_of_step(
        &self,
        packs: &[TripletPack],
        outputs: &[HeadOutput],
        denominators: &[f64],
    ) -> Vec<HeadGradient> {
        let (values, groups) = (self.values(outputs), groups(packs));
        let gradient = self.loss.gradient(TripletVectors::of(&values, &groups), denominators[0]);
        let mut rest = &gradient[..];
        let of_pack = |output: &HeadOutput| {
            let (mine, after) = rest.split_at(self.head.values(output).len());
            rest = after;
            self.head.gradient(mine.to_vec())
        };
        outputs.iter().map(of_pack).collect()
    }

    fn metric_names(&self) -> Vec<&str> {
        METRICS.to_vec()
    }

    fn measure(
        &self,
        pack: &TripletPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        self.loss.measure(TripletVectors::of(self.head.values(output), &pack.groups)).to_vec()
    }

    fn measure_step(&self, packs: &[TripletPack], outputs: &[HeadOutput]) -> Vec<WeightedSum> {
        let (values, groups) = (self.values(outputs), groups(packs));
        self.loss.measure(TripletVectors::of(&values, &groups)).to_vec()
    }
}

fn groups(packs: &[TripletPack]) -> Vec<TripletGroups> {
    packs.iter().flat_map(|pack| pack.groups.iter().copied()).collect()
}

impl EmbeddingDistance {
    /// The distance of two vectors.
    #[must_use]
    pub fn between(self, a: &[f32], b: &[f32]) -> f64 {
        match self {
            Self::Cosine => 1.0 - dot(a, b) / (norm(a) * norm(b)),
            Self::Euclidean => differences(a, b).map(|d| d * d).sum::<f64>().sqrt(),
        }
    }

    /// Adds `factor` times the gradient of the distance of vectors `i` and `j`.
    fn add_gradient(
        self,
        vectors: TripletVectors<'_>,
        i: usize,
        j: usize,
        factor: f64,
        gradient: &mut [f64],
    ) {
        let (a, b) = (vectors.vector(i), vectors.vector(j));
        match self {
            Self::Cosine => {
                let (norm_a, norm_b) = (norm(a), norm(b));
                let cosine = dot(a, b) / (norm_a * norm_b);
                add_cosine_gradient(vectors, (i, j), (cosine, norm_a, norm_b), -factor, gradient);
            }
            Self::Euclidean => {
                let distance = self.between(a, b);
                if distance > 0.0 {
                    let [at_i, at_j] = [i, j].map(|k| k * vectors.width);
                    for (k, difference) in differences(a, b).enumerate() {
                        gradient[at_i + k] += factor * difference / distance;
                        gradient[at_j + k] -= factor * difference / distance;
                    }
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt().max(SHORTEST)
}

fn differences<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b) + PAIRWISE_EPS)
}

/// Adds `factor` times the gradient of `cos(a, b)`: `(b / |b| - cos a / |a|) / |a|` at a, and the same at b.
fn add_cosine_gradient(
    vectors: TripletVectors<'_>,
    (i, j): (usize, usize),
    (cosine, norm_i, norm_j): (f64, f64, f64),
    factor: f64,
    gradient: &mut [f64],
) {
    for (at, other, norm_at, norm_other) in [(i, j, norm_i, norm_j), (j, i, norm_j, norm_i)] {
        let range: Range<usize> = at * vectors.width..(at + 1) * vectors.width;
        let towards = factor / (norm_at * norm_other);
        let back = factor * cosine / (norm_at * norm_at);
        let values = vectors.vector(at).iter().zip(vectors.vector(other));
        for (g, (&own, &other)) in gradient[range].iter_mut().zip(values) {
            *g += towards * f64::from(other) - back * f64::from(own);
        }
    }
}

/// In place of the cosine of a candidate that is no negative: its share of a softmax is 0.
const LEFT_OUT: f64 = f64::NEG_INFINITY;

/// Cosines of every anchor with every candidate `[n_triplets, 2 n_triplets]`, and all norms.
struct Cosines {
    values: Vec<f64>,
    n_candidates: usize,
    norms: Vec<f64>,
}

impl Cosines {
    fn of(vectors: TripletVectors<'_>) -> Self {
        let n = vectors.n_triplets();
        let norms: Vec<f64> = (0..3 * n).map(|i| norm(vectors.vector(i))).collect();
        let mut values = Vec::with_capacity(2 * n * n);
        for i in 0..n {
            values.extend((0..2 * n).map(|j| {
                if vectors.is_of_own_kind(i, j) {
                    return LEFT_OUT;
                }
                let candidate = vectors.candidate(j);
                let product = dot(vectors.vector(3 * i), vectors.vector(candidate));
                product / (norms[3 * i] * norms[candidate])
            }));
        }
        Self { values, n_candidates: 2 * n, norms }
    }

    /// Every anchor's number, which is also its positive's place, and cosines.
    fn anchors(&self) -> impl Iterator<Item = (usize, &[f64])> {
        self.values.chunks_exact(self.n_candidates.max(1)).enumerate()
    }

    fn add_gradient(
        &self,
        vectors: TripletVectors<'_>,
        (anchor, candidate): (usize, usize),
        (i, j): (usize, usize),
        factor: f64,
        gradient: &mut [f64],
    ) {
        let cosine = self.values[i * self.n_candidates + j];
        let facts = (cosine, self.norms[anchor], self.norms[candidate]);
        add_cosine_gradient(vectors, (anchor, candidate), facts, factor, gradient);
    }
}

/// `(-log softmax[i], softmax)` of the scaled cosines.
fn cross_entropy((i, cosines): (usize, &[f64]), scale: f64) -> (f64, Vec<f64>) {
    let largest = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probabilities: Vec<f64> = cosines.iter().map(|c| (scale * (c - largest)).exp()).collect();
    let total: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|p| *p /= total);
    (total.ln() - scale * (cosines[i] - largest), probabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSSES: [EmbeddingLoss; 4] = [
        EmbeddingLoss::Triplet { distance: EmbeddingDistance::Cosine, margin: 0.5 },
        EmbeddingLoss::Triplet { distance: EmbeddingDistance::Euclidean, margin: 5.0 },
        EmbeddingLoss::MultipleNegativesRanking { scale: 20.0 },
        EmbeddingLoss::MultipleNegativesRanking { scale: 1.0 },
    ];

    fn numbers(n: usize, phase: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 1.7 + phase).sin() + 0.1).collect()
    }

    /// The second and fifth are of a kind, and so is the fourth's negative.
    const GROUPS: [TripletGroups; 5] = [
        TripletGroups { anchor: None, negative: None },
        TripletGroups { anchor: Some(1), negative: Some(2) },
        TripletGroups { anchor: Some(3), negative: None },
        TripletGroups { anchor: Some(4), negative: Some(1) },
        TripletGroups { anchor: Some(1), negative: None },
    ];

    /// As many triplets as there are, of kinds or not.
    fn triplets(values: &[f32], width: usize, has_kinds: bool) -> TripletVectors<'_> {
        const UNKNOWN: [TripletGroups; 5] = [TripletGroups { anchor: None, negative: None }; 5];
        let n = values.len() / (3 * width);
        let groups = if has_kinds { &GROUPS[..n] } else { &UNKNOWN[..n] };
        TripletVectors { values, width, groups }
    }

    fn mean_loss(loss: &EmbeddingLoss, vectors: TripletVectors<'_>) -> f64 {
        let [sum, ..] = loss.measure(vectors);
        sum.numerator / sum.denominator
    }

    #[test]
    fn gradients_match_finite_differences() {
        let width = 7;
        for (loss, has_kinds) in LOSSES.into_iter().flat_map(|loss| [(loss, false), (loss, true)]) {
            let values = numbers(5 * 3 * width, 0.3);
            let gradient = loss.gradient(triplets(&values, width, has_kinds), 5.0);
            assert!(gradient.iter().any(|g| g.abs() > 1e-3), "{loss:?} has a gradient");
            for i in 0..values.len() {
                let step = 2e-3_f32;
                let at = |offset: f32| {
                    let mut moved = values.clone();
                    moved[i] += offset;
                    (f64::from(moved[i]), mean_loss(&loss, triplets(&moved, width, has_kinds)))
                };
                let ((above, high), (below, low)) = (at(step), at(-step));
                let slope = (high - low) / (above - below);
                let error = (slope - f64::from(gradient[i])).abs();
                assert!(error < 1e-4 * (1.0 + slope.abs()), "{loss:?}[{i}]: {} and {slope}", gradient[i]);
            }
        }
    }

    #[test]
    fn values_are_those_worked_out_by_hand() {
        // Anchor (1, 0), positive (0, 1), negative (1, 0).
        let vectors = triplets(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 2, false);
        let check = |loss: EmbeddingLoss, expected: f64| {
            let [found, accuracy, lead, active] = loss.measure(vectors);
            assert!((found.numerator - expected).abs() < 1e-5, "{loss:?}: {}", found.numerator);
            assert_eq!((accuracy.numerator, active.numerator, found.denominator), (0.0, 1.0, 1.0));
            assert!(lead.numerator < -0.99);
        };
        check(EmbeddingLoss::Triplet { distance: EmbeddingDistance::Cosine, margin: 0.25 }, 1.25);
        let euclidean = EmbeddingLoss::Triplet { distance: EmbeddingDistance::Euclidean, margin: 5.0 };
        check(euclidean, 5.0 + 2.0_f64.sqrt());
        check(EmbeddingLoss::MultipleNegativesRanking { scale: 2.0 }, (1.0 + 2.0_f64.exp()).ln());
    }

    #[test]
    fn texts_of_the_anchor_s_kind_are_no_negatives() {
        let (values, width) = (numbers(5 * 3 * 7, 0.3), 7);
        let loss = EmbeddingLoss::MultipleNegativesRanking { scale: 3.0 };
        let vectors = triplets(&values, width, true);
        let cosine = |i: usize, candidate: usize| {
            let (a, b) = (vectors.vector(3 * i), vectors.vector(candidate));
            dot(a, b) / (norm(a) * norm(b))
        };
        // Places of positives and negatives that each anchor is compared with.
        let all: Vec<usize> = (0..5).flat_map(|k| [3 * k + 1, 3 * k + 2]).collect();
        let without = |left_out: &[usize]| -> Vec<usize> {
            all.iter().copied().filter(|place| !left_out.contains(place)).collect()
        };
        let compared = [all.clone(), without(&[13, 11]), all.clone(), all.clone(), without(&[4, 11])];
        let of_anchor = |(i, places): (usize, &Vec<usize>)| {
            let total: f64 = places.iter().map(|&place| (3.0 * cosine(i, place)).exp()).sum();
            total.ln() - 3.0 * cosine(i, 3 * i + 1)
        };
        let expected = compared.iter().enumerate().map(of_anchor).sum::<f64>() / 5.0;
        let found = mean_loss(&loss, vectors);
        assert!((found - expected).abs() < 1e-12, "{found} and {expected}");
        assert!(found < mean_loss(&loss, triplets(&values, width, false)));
    }

    #[test]
    fn a_triplet_that_is_learnt_has_neither_loss_nor_gradient() {
        let values = [1.0, 0.0, 1.0, 0.0, -1.0, 0.0];
        let vectors = triplets(&values, 2, false);
        let loss = EmbeddingLoss::Triplet { distance: EmbeddingDistance::Cosine, margin: 1.0 };
        let [found, accuracy, _, active] = loss.measure(vectors);
        assert_eq!((found.numerator, accuracy.numerator, active.numerator), (0.0, 1.0, 0.0));
        assert_eq!(loss.gradient(vectors, 1.0), [0.0; 6]);
    }

    #[test]
    fn a_broken_vector_is_not_hidden() {
        let values = [f32::NAN, 0.0, 1.0, 0.0, -1.0, 0.0];
        for loss in LOSSES {
            assert!(mean_loss(&loss, triplets(&values, 2, false)).is_nan(), "{loss:?}");
        }
    }
}
