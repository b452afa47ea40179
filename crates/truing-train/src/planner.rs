//! Which k: the report's formula, and the planner that counts bytes.
//!
//! The formula (report 2.2) weighs one segment's activations against the saved inputs, in units of
//! `hidden` per token: `k n + ceil(L / k)`. It knows neither the sequence length nor the memory there is. The
//! byte planner does: from an engine's [`EngineMemory`], the largest pack and a budget it takes, of all ways
//! to cut the layers, to keep the last segments, and to keep the others' attention results or not, the one
//! that computes the least twice.

use serde::{Deserialize, Serialize};
use truing_model::engine::EngineMemory;
use truing_model::{DecoderSpec, HeadKind, ParameterRole, ParameterSpec, TrainableSpec};

use crate::segments::SegmentPlan;

/// Cost of k layers a segment by the report's formula, in units of `hidden` per token: `k n + ceil(L / k)`.
#[must_use]
pub fn formula_cost(n_activations: usize, n_layers: usize, layers_per_segment: usize) -> usize {
    layers_per_segment * n_activations + n_layers.div_ceil(layers_per_segment)
}

/// The k with the least [`formula_cost`]; the smaller k where two cost the same.
#[must_use]
pub fn layers_per_segment_by_formula(n_activations: usize, n_layers: usize) -> usize {
    (1..=n_layers).min_by_key(|&k| formula_cost(n_activations, n_layers, k)).unwrap_or(1)
}

/// How many layers a segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayersPerSegment {
    /// The planner chooses, and keeps as many last segments as fit.
    #[default]
    Auto,
    /// This many, and only the last segment keeps its activations.
    Fixed(usize),
}

/// A run that does not fit, and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Even the smallest way needs more than there is.
    #[error(
        "at least {} are needed for packs of {tokens_per_pack} tokens, but the budget is {}",
        mebibytes(*needed_bytes),
        mebibytes(*budget_bytes)
    )]
    DoesNotFit {
        /// Peak of the smallest way to run.
        needed_bytes: u64,
        /// What may be used.
        budget_bytes: u64,
        /// Tokens of the largest pack.
        tokens_per_pack: u64,
        /// The largest pack that would fit; `None` where not even one token would.
        fitting_tokens_per_pack: Option<u64>,
    },
    /// More layers a segment than the model has, or none.
    #[error("a segment of {found} layers was requested, but the model has {n_layers}")]
    LayersPerSegment {
        /// The request.
        found: usize,
        /// The model's.
        n_layers: usize,
    },
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// One way to cut the layers, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentChoice {
    /// The way.
    pub segments: SegmentPlan,
    /// Saved inputs and kept activations at their largest.
    pub activation_bytes: u64,
    /// Everything at its largest.
    pub peak_bytes: u64,
}

/// The bytes of a run, part by part, and the chosen segments.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// What the engine said.
    pub memory: EngineMemory,
    /// Tokens of the largest pack.
    pub tokens_per_pack: u64,
    /// What may be used.
    pub budget_bytes: u64,
    /// The chosen way.
    pub chosen: SegmentChoice,
    /// Every k in order: plain checkpointing, which keeps the last segment only; for the chosen k what was chosen.
    pub by_layers_per_segment: Vec<SegmentChoice>,
}

/// The part of [`MemoryPlan::parts`] for all fixed bytes that have no part of their own.
pub const OTHER: &str = "other";

/// Bytes of one part of the predicted memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPart {
    /// What it is for.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

impl MemoryPart {
    /// A part.
    #[must_use]
    pub fn new(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes }
    }

    /// The bytes of all parts together.
    #[must_use]
    pub fn total(parts: &[Self]) -> u64 {
        parts.iter().map(|part| part.bytes).sum()
    }
}

/// What a pack needs at one moment of a step, beside what lasts.
#[derive(Debug, Clone, Copy)]
struct Moment {
    activations: u64,
    /// What the head needs by token; what it works in lasts.
    head: u64,
    workspace: u64,
}

impl Moment {
    /// The two moments that the peak can be at. At the end of the forward pass the inputs of all recomputed segments
    /// and all kept layers are alive, beside the head or a layer's workspace. Later, when the last recomputed segment
    /// has been computed again, its own layers are, and the inputs before it.
    fn both(memory: &EngineMemory, segments: &SegmentPlan, tokens_per_pack: u64) -> [Self; 2] {
        let (n_inputs, n_kept) = (segments.n_recomputed() as u64, segments.n_kept_layers() as u64);
        let input = memory.segment_input_bytes_per_token * tokens_per_pack;
        let layer = memory.layer_bytes_per_token * tokens_per_pack;
        let workspace = memory.workspace_bytes_per_token * tokens_per_pack;
        let head = memory.head_bytes_per_token * tokens_per_pack;
        let attention = if segments.keeps_attention {
            memory.attention_bytes_per_token * tokens_per_pack * segments.layers_per_segment as u64
        } else {
            0
        };
        // The head and a layer's workspace are not alive at once.
        let runs_head = head > workspace;
        let after_forward = Self {
            activations: n_inputs * (input + attention) + n_kept * layer,
            head: if runs_head { head } else { 0 },
            workspace: if runs_head { 0 } else { workspace },
        };
        let recomputing = Self {
            activations: match n_inputs {
                0 => 0,
                n => (n - 1) * (input + attention) + segments.layers_per_segment as u64 * layer,
            },
            head: 0,
            workspace,
        };
        [after_forward, recomputing]
    }

    fn total(&self) -> u64 {
        self.activations + self.head + self.workspace
    }
}

impl SegmentChoice {
    /// Counts the bytes of one way.
    #[must_use]
    pub fn of(memory: &EngineMemory, segments: SegmentPlan, tokens_per_pack: u64) -> Self {
        let moments = Moment::both(memory, &segments, tokens_per_pack);
        Self {
            segments,
            activation_bytes: moments[0].activations.max(moments[1].activations),
            peak_bytes: memory.lasting_bytes() + moments[0].total().max(moments[1].total()),
        }
    }

    /// Forward passes of one layer that are made a second time; attention is `attention_share` of one.
    #[must_use]
    pub fn recomputed_layers(&self, attention_share: f64) -> f64 {
        let share = if self.segments.keeps_attention { 1.0 - attention_share } else { 1.0 };
        self.segments.n_recomputed_layers() as f64 * share
    }

    /// Whether this way should be taken rather than the other, given what fits: the least computed twice, then
    /// the lower peak, then the smaller k.
    fn rank(&self, budget_bytes: u64, attention_share: f64) -> (bool, u64, u64, usize) {
        let recomputed = (self.recomputed_layers(attention_share) * 1e6) as u64;
        let does_not_fit = self.peak_bytes > budget_bytes;
        // Among ways that do not fit only the peak counts.
        let first = if does_not_fit { self.peak_bytes } else { recomputed };
        (does_not_fit, first, self.peak_bytes, self.segments.layers_per_segment)
    }
}

/// Chooses the segments: the least computed twice within the budget. `attention_share` is attention's share of
/// a layer's forward operations, between 0 and 1 ([`StepFlops::attention_share`]).
///
/// # Errors
/// When nothing fits, with what would; when the k asked for is no number of layers of this model.
pub fn plan_segments(
    memory: &EngineMemory,
    n_layers: usize,
    tokens_per_pack: u64,
    budget_bytes: u64,
    layers_per_segment: LayersPerSegment,
    attention_share: f64,
) -> Result<MemoryPlan, PlanError> {
    let (ks, keeps_more) = match layers_per_segment {
        LayersPerSegment::Auto => (1..=n_layers, true),
        LayersPerSegment::Fixed(k) if (1..=n_layers).contains(&k) => (k..=k, false),
        LayersPerSegment::Fixed(found) => return Err(PlanError::LayersPerSegment { found, n_layers }),
    };
    let choice = |layers_per_segment, n_kept, keeps_attention| {
        let segments = SegmentPlan { n_layers, layers_per_segment, n_kept, keeps_attention };
        SegmentChoice::of(memory, segments, tokens_per_pack)
    };
    // Keeping every segment is the same for all k; it stands for k = L alone.
    let most_kept = |k: usize| if keeps_more { (n_layers.div_ceil(k) - 1).max(1) } else { 1 };
    let chosen = ks
        .clone()
        .flat_map(|k| (1..=most_kept(k)).map(move |n_kept| (k, n_kept)))
        .flat_map(|(k, n_kept)| {
            let may_keep_attention = keeps_more && k < n_layers;
            (0..=u8::from(may_keep_attention)).map(move |keeps| choice(k, n_kept, keeps == 1))
        })
        .min_by_key(|choice| choice.rank(budget_bytes, attention_share));
    let by_layers_per_segment: Vec<SegmentChoice> = ks.map(|k| choice(k, 1, false)).collect();
    match chosen {
        Some(chosen) if chosen.peak_bytes <= budget_bytes => Ok(MemoryPlan {
            memory: *memory,
            tokens_per_pack,
            budget_bytes,
            chosen,
            by_layers_per_segment: by_layers_per_segment
                .into_iter()
                .map(|plain| {
                    let is_chosen_k = plain.segments.layers_per_segment == chosen.segments.layers_per_segment;
                    if is_chosen_k { chosen } else { plain }
                })
                .collect(),
        }),
        smallest => {
            let needed = |tokens: u64| {
                let peak = |c: &SegmentChoice| SegmentChoice::of(memory, c.segments, tokens).peak_bytes;
                by_layers_per_segment.iter().map(peak).min().unwrap_or(u64::MAX)
            };
            Err(PlanError::DoesNotFit {
                needed_bytes: smallest.map_or(0, |choice| choice.peak_bytes),
                budget_bytes,
                tokens_per_pack,
                fitting_tokens_per_pack: largest_fitting(tokens_per_pack, |t| needed(t) <= budget_bytes),
            })
        }
    }
}

/// The largest number below `limit` that fits, where every smaller number fits as well.
fn largest_fitting(limit: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut fitting, mut too_large) = (0, limit);
    while too_large - fitting > 1 {
        let middle = fitting + (too_large - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            too_large = middle;
        }
    }
    (fitting > 0).then_some(fitting)
}

/// A mean optimiser step, as far as its operations depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StepShape {
    /// Real tokens.
    pub tokens: f64,
    /// Tokens that carry loss.
    pub loss_tokens: f64,
    /// Sum over sequences of `length (length + 1) / 2`: the pairs that causal attention looks at.
    pub attention_pairs: f64,
}

/// Floating-point operations of one optimiser step, part by part. A multiply-add counts as two.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepFlops {
    /// The projections, forward and backward.
    pub layers: f64,
    /// Attention, forward and backward.
    pub attention: f64,
    /// The head over the loss tokens, forward and backward.
    pub head: f64,
    /// Forward passes made a second time.
    pub recomputed: f64,
}

impl StepFlops {
    /// All parts.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.layers + self.attention + self.head + self.recomputed
    }

    /// Attention's share of a layer's forward operations in a step of this shape.
    #[must_use]
    pub fn attention_share(spec: &DecoderSpec, shape: &StepShape) -> f64 {
        let is_matrix = |p: &ParameterSpec| p.role == ParameterRole::Matrix;
        let projections: usize =
            spec.parameters().iter().filter(|p| is_matrix(p)).map(ParameterSpec::n_elements).sum();
        let attention = 2.0 * attention_product(spec, shape);
        attention / (attention + 2.0 * projections as f64 * shape.tokens).max(1.0)
    }

    /// Weights that a token is multiplied with: the projections, and the head where the token has logits.
    #[must_use]
    pub fn n_multiplied(spec: &DecoderSpec) -> f64 {
        let (projections, head) = n_weights(spec);
        projections + head
    }

    /// FLOPs of a forward pass that saves nothing.
    #[must_use]
    pub fn of_forward(spec: &DecoderSpec, shape: &StepShape) -> f64 {
        let (projections, head) = n_weights(spec);
        2.0 * projections * shape.tokens
            + 2.0 * attention_product(spec, shape)
            + 2.0 * head * shape.loss_tokens
    }

    /// Counts the FLOPs of a step.
    ///
    /// A matrix of `p` weights costs `2 p` a token forward, `2 p` for the gradient at its input, and `2 p`
    /// for its own gradient where it learns. Attention costs two products over its pairs forward and five
    /// backward (scores are computed again). Norms, rotations and the optimiser are left out: they are bound
    /// by memory, not by operations.
    #[must_use]
    pub fn of(
        spec: &DecoderSpec,
        trainable: &TrainableSpec,
        shape: &StepShape,
        segments: &SegmentPlan,
    ) -> Self {
        let adapters = trainable.lora.as_ref().map_or_else(Vec::new, |lora| spec.lora_parameters(lora));
        let parameters: Vec<ParameterSpec> = spec.parameters().into_iter().chain(adapters).collect();
        let count = |keep: &dyn Fn(&ParameterSpec) -> bool| -> f64 {
            parameters.iter().filter(|p| keep(p)).map(|p| p.n_elements() as f64).sum()
        };
        let is_projection = |p: &ParameterSpec| {
            matches!(p.role, ParameterRole::Matrix | ParameterRole::LoraA | ParameterRole::LoraB)
        };
        let projections = count(&is_projection);
        let learning = count(&|p| is_projection(p) && trainable.is_trainable(p));
        let head_role = head_role(spec);
        let is_head = |p: &ParameterSpec| p.role == head_role;
        let head = count(&is_head);
        let learning_head = count(&|p| is_head(p) && trainable.is_trainable(p));
        let product = attention_product(spec, shape);
        let attention_again = if segments.keeps_attention { 0.0 } else { 2.0 * product };
        let again = 2.0 * projections * shape.tokens + attention_again;
        Self {
            layers: (4.0 * projections + 2.0 * learning) * shape.tokens,
            attention: 7.0 * product,
            head: (4.0 * head + 2.0 * learning_head) * shape.loss_tokens,
            recomputed: again * segments.n_recomputed_layers() as f64 / spec.n_layers as f64,
        }
    }
}

/// The role of the parameter that gives logits or scores.
fn head_role(spec: &DecoderSpec) -> ParameterRole {
    match spec.head {
        HeadKind::Score { .. } => ParameterRole::Score,
        HeadKind::LanguageModel if spec.tie_word_embeddings => ParameterRole::Embedding,
        HeadKind::LanguageModel => ParameterRole::Head,
    }
}

/// Weights of the projections and of the head, without adapters.
fn n_weights(spec: &DecoderSpec) -> (f64, f64) {
    let parameters = spec.parameters();
    let count = |role: ParameterRole| -> f64 {
        parameters.iter().filter(|p| p.role == role).map(|p| p.n_elements() as f64).sum()
    };
    (count(ParameterRole::Matrix), count(head_role(spec)))
}

/// Operations of one product of attention (queries with keys, or weights with values) over all layers.
fn attention_product(spec: &DecoderSpec, shape: &StepShape) -> f64 {
    2.0 * shape.attention_pairs * spec.q_width() as f64 * spec.n_layers as f64
}

/// A value with its unit, so that the caller decides how to print it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Bytes of memory.
    Bytes(u64),
    /// Money, in the currency of the prices that a recipe gives.
    Cost(f64),
    /// A plain number of things.
    Count(u64),
    /// Floating-point operations.
    Flops(f64),
    /// Seconds.
    Seconds(f64),
    /// A part of a whole, between 0 and 1.
    Share(f64),
    /// No number: it cannot be resolved with so many items.
    NotResolvedWith(u64),
    /// No number, and why.
    Unknown(&'static str),
}

/// One line of a printed plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRow {
    /// What it is.
    pub name: String,
    /// How much.
    pub amount: Amount,
}

impl PlanRow {
    /// A line.
    #[must_use]
    pub fn new(name: impl Into<String>, amount: Amount) -> Self {
        Self { name: name.into(), amount }
    }
}

impl MemoryPlan {
    /// What is held at the peak of training, part by part: together [`SegmentChoice::peak_bytes`] of the chosen way.
    #[must_use]
    pub fn parts(&self) -> Vec<MemoryPart> {
        let [end_of_forward, recomputing] =
            Moment::both(&self.memory, &self.chosen.segments, self.tokens_per_pack);
        self.parts_at(if recomputing.total() > end_of_forward.total() { recomputing } else { end_of_forward })
    }

    /// What is held through all of a run, whatever a step does: the same parts without activations.
    #[must_use]
    pub fn lasting_parts(&self) -> Vec<MemoryPart> {
        self.parts_at(Moment { activations: 0, head: 0, workspace: 0 })
    }

    fn parts_at(&self, moment: Moment) -> Vec<MemoryPart> {
        let memory = &self.memory;
        [
            ("parameters", memory.parameter_bytes),
            ("gradients", memory.gradient_bytes),
            ("optimizer", memory.optimizer_bytes),
            ("activations", moment.activations),
            // It keeps what it works in once it has run.
            ("head", moment.head + memory.head_fixed_bytes),
            ("workspace of a layer", moment.workspace),
            (OTHER, memory.fixed_bytes),
        ]
        .map(|(name, bytes)| MemoryPart::new(name, bytes))
        .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of the method's section 4: n, L, best k, cost, and the costs of some other k.
    #[test]
    fn the_formula_gives_the_published_table() {
        for (n, n_layers, k, cost, others) in [
            (17, 80, 2, 74, &[(1, 97), (3, 78)][..]),
            (10, 80, 3, 57, &[(1, 90), (2, 60), (4, 60)]),
            (4, 80, 4, 36, &[(1, 84), (5, 36), (6, 38), (3, 39)]),
            (1, 80, 8, 18, &[(1, 81), (9, 18), (10, 18), (7, 19)]),
            (17, 28, 1, 45, &[(2, 48)]),
            (17, 32, 1, 49, &[(2, 50)]),
            (17, 64, 2, 66, &[]),
            (17, 126, 3, 93, &[]),
            (100, 4, 1, 104, &[]),
        ] {
            assert_eq!(layers_per_segment_by_formula(n, n_layers), k, "n = {n}, L = {n_layers}");
            assert_eq!(formula_cost(n, n_layers, k), cost);
            for &(other, expected) in others {
                assert_eq!(formula_cost(n, n_layers, other), expected, "n = {n}, k = {other}");
            }
        }
    }

    fn memory() -> EngineMemory {
        EngineMemory {
            parameter_bytes: 1000,
            gradient_bytes: 1000,
            optimizer_bytes: 2000,
            segment_input_bytes_per_token: 1,
            attention_bytes_per_token: 1,
            layer_bytes_per_token: 10,
            workspace_bytes_per_token: 5,
            forward_bytes_per_token: 0,
            forward_bytes_per_key: 0,
            tokens_per_prompt_piece: 0,
            head_bytes_per_token: 3,
            head_fixed_bytes: 50,
            cache_bytes_per_token: 0,
            quantized_bytes: 0,
            fixed_bytes: 100,
        }
    }

    #[test]
    fn with_room_nothing_is_computed_twice() {
        let plan = plan_segments(&memory(), 30, 100, 1 << 40, LayersPerSegment::Auto, 0.0).unwrap();
        assert_eq!(plan.chosen.segments, SegmentPlan::keep_everything(30));
        assert_eq!(plan.chosen.activation_bytes, 30 * 10 * 100);
        assert_eq!(plan.chosen.peak_bytes, 4100 + 50 + 30_000 + 500);
        assert_eq!(plan.by_layers_per_segment.len(), 30);
    }

    #[test]
    fn a_smaller_budget_recomputes_more_layers_and_never_breaks_the_budget() {
        let mut last = 0;
        for budget in (0..44).map(|n| 36_000 - n * 500) {
            let plan = plan_segments(&memory(), 30, 100, budget, LayersPerSegment::Auto, 0.0).unwrap();
            assert!(plan.chosen.peak_bytes <= budget);
            let recomputed = plan.chosen.segments.n_recomputed_layers();
            assert!(recomputed >= last, "budget {budget}");
            last = recomputed;
        }
        assert!(last > 20);
    }

    #[test]
    fn the_parts_of_a_plan_sum_to_its_peak() {
        let larger_head = EngineMemory { head_bytes_per_token: 40, ..memory() };
        let mut moments = std::collections::BTreeSet::new();
        for memory in [memory(), larger_head] {
            for k in [LayersPerSegment::Auto, LayersPerSegment::Fixed(1), LayersPerSegment::Fixed(10)] {
                for budget in [14_000, 20_000, 1 << 40] {
                    let Ok(plan) = plan_segments(&memory, 30, 100, budget, k, 0.2) else { continue };
                    let parts = plan.parts();
                    assert_eq!(MemoryPart::total(&parts), plan.chosen.peak_bytes, "{parts:?}");
                    assert_eq!(MemoryPart::total(&plan.lasting_parts()), memory.lasting_bytes());
                    let is_held = |name: &str| parts.iter().any(|part| part.name == name && part.bytes > 50);
                    moments.insert((is_held("head"), is_held("workspace of a layer")));
                }
            }
        }
        assert_eq!(moments.into_iter().collect::<Vec<_>>(), [(false, true), (true, false)]);
    }

    #[test]
    fn no_other_way_within_the_budget_recomputes_fewer_layers() {
        let budget = 20_000;
        let plan = plan_segments(&memory(), 30, 100, budget, LayersPerSegment::Auto, 0.0).unwrap();
        for k in 1..=30 {
            for n_kept in 1..=30_usize.div_ceil(k) {
                let segments =
                    SegmentPlan { n_layers: 30, layers_per_segment: k, n_kept, keeps_attention: false };
                let other = SegmentChoice::of(&memory(), segments, 100);
                let chosen = plan.chosen.segments.n_recomputed_layers();
                assert!(other.peak_bytes > budget || segments.n_recomputed_layers() >= chosen);
            }
        }
    }

    #[test]
    fn attention_results_are_kept_where_attention_is_much_of_a_layer() {
        let chosen = |budget, share| {
            let plan = plan_segments(&memory(), 30, 100, budget, LayersPerSegment::Auto, share).unwrap();
            assert!(plan.chosen.peak_bytes <= budget);
            plan.chosen
        };
        let (short, long) = (chosen(13_000, 0.03), chosen(13_000, 0.4));
        assert!(long.segments.keeps_attention);
        assert!(long.recomputed_layers(0.4) < short.recomputed_layers(0.4));
        // Where everything fits there is nothing to be kept in addition.
        assert_eq!(chosen(1 << 40, 0.4).segments.n_recomputed_layers(), 0);
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let error = plan_segments(&memory(), 30, 1000, 14_000, LayersPerSegment::Auto, 0.0).unwrap_err();
        let PlanError::DoesNotFit { needed_bytes, fitting_tokens_per_pack: Some(tokens), .. } = error else {
            panic!("{error:?}");
        };
        assert!(needed_bytes > 14_000);
        assert!(plan_segments(&memory(), 30, tokens, 14_000, LayersPerSegment::Auto, 0.0).is_ok());
        let nothing = plan_segments(&memory(), 30, 1000, 4000, LayersPerSegment::Auto, 0.0).unwrap_err();
        assert!(matches!(nothing, PlanError::DoesNotFit { fitting_tokens_per_pack: None, .. }));
    }

    #[test]
    fn a_k_that_the_user_fixed_is_kept() {
        let plan = plan_segments(&memory(), 30, 100, 20_000, LayersPerSegment::Fixed(4), 0.0).unwrap();
        assert_eq!(plan.chosen.segments, SegmentPlan::checkpoint(30, 4));
        for k in [0, 31] {
            let error = plan_segments(&memory(), 30, 100, 20_000, LayersPerSegment::Fixed(k), 0.0);
            assert_eq!(error, Err(PlanError::LayersPerSegment { found: k, n_layers: 30 }));
        }
    }
}
