//! The bytes of one device.
//!
//! The states are divided over all `N` devices by ZeRO, the tokens of a pack over the `S` devices of a sequence group:
//!
//! ```text
//! parameters   bytes P / N (stage 3), else bytes P
//! gradients    bytes P / N (stages 2, 3), else bytes P
//! optimizer    (master + moments) P / N (stages 1 to 3), else (master + moments) P
//! gathered     (1 + prefetched) P_layer + V h (stage 3), and the gradients of a layer and of the head (stages 2, 3)
//! per token    of T / S tokens: a segment's input h; what a layer saves; workspace; buffers of Ulysses
//! ```
//!
//! The result is an [`EngineMemory`], so that [`plan_segments`](crate::plan_segments) chooses k and what is kept for a
//! cluster as it does for one device.

use serde::Serialize;
use truing_model::{DecoderSpec, EngineMemory, HeadKind, ParameterSpec, TrainableSpec};

use super::{Assumptions, ClusterConfig, Degrees, LayerActivations, ZeroStage, key_heads_per_device};
use crate::SegmentChoice;

/// Bytes of the normaliser of attention of a token and head, and of a logit: float32.
const FLOAT_BYTES: u64 = 4;

/// Numbers of elements, counted once for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSizes {
    /// All parameters, adapters included.
    pub elements: u64,
    /// Those that learn.
    pub trainable: u64,
    /// Parameters of one layer, the largest.
    pub layer: u64,
    /// Those of it that learn.
    pub trainable_of_layer: u64,
    /// The largest parameter outside of the layers: embedding or head.
    pub outside: u64,
    /// The largest of those that learn.
    pub trainable_outside: u64,
}

impl ModelSizes {
    /// Counts.
    #[must_use]
    pub fn of(spec: &DecoderSpec, trainable: &TrainableSpec) -> Self {
        let adapters = trainable.lora.as_ref().map_or_else(Vec::new, |lora| spec.lora_parameters(lora));
        let parameters: Vec<ParameterSpec> = spec.parameters().into_iter().chain(adapters).collect();
        let mut sizes = Self {
            elements: 0,
            trainable: 0,
            layer: 0,
            trainable_of_layer: 0,
            outside: 0,
            trainable_outside: 0,
        };
        let mut layers = vec![(0, 0); spec.n_layers];
        for parameter in &parameters {
            let elements = parameter.n_elements() as u64;
            let learning = if trainable.is_trainable(parameter) { elements } else { 0 };
            sizes.elements += elements;
            sizes.trainable += learning;
            if let Some(layer) = parameter.layer {
                layers[layer].0 += elements;
                layers[layer].1 += learning;
            } else {
                sizes.outside = sizes.outside.max(elements);
                sizes.trainable_outside = sizes.trainable_outside.max(learning);
            }
        }
        sizes.layer = layers.iter().map(|layer| layer.0).max().unwrap_or(0);
        sizes.trainable_of_layer = layers.iter().map(|layer| layer.1).max().unwrap_or(0);
        sizes
    }
}

/// What a device needs, as a linear model of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In the planner's form. `fixed_bytes` includes `gathered_bytes`, the workspace includes the exchange.
    pub engine: EngineMemory,
    /// Layers and heads that are whole for a while.
    pub gathered_bytes: u64,
    /// Send and receive buffers of Ulysses, per token of the device.
    pub exchange_bytes_per_token: u64,
    /// Keys and values of the sequences that the device decodes at once, and their logits; alive while nothing trains.
    pub rollout_bytes: u64,
}

impl DeviceMemory {
    /// Counts the bytes of a device.
    #[must_use]
    pub fn of(config: &ClusterConfig, spec: &DecoderSpec, sizes: &ModelSizes, degrees: &Degrees) -> Self {
        let assumed = &config.assumptions;
        let n_devices = degrees.n_devices() as u64;
        let sharded = |elements: u64, from: ZeroStage| {
            if degrees.zero_stage >= from { elements.div_ceil(n_devices) } else { elements }
        };
        let gathered_bytes = gathered_bytes(assumed, sizes, degrees);
        let per_token = PerToken::of(assumed, spec, degrees.sequence);
        let optimizer = assumed.master_bytes + assumed.moment_bytes;
        let cache_bytes_per_token = 2 * (spec.kv_width() * spec.n_layers) as u64 * assumed.activation_bytes;
        let engine = EngineMemory {
            parameter_bytes: sharded(sizes.elements, ZeroStage::Parameters) * assumed.parameter_bytes,
            gradient_bytes: sharded(sizes.trainable, ZeroStage::Gradients) * assumed.gradient_bytes,
            optimizer_bytes: sharded(sizes.trainable, ZeroStage::Optimizer) * optimizer,
            segment_input_bytes_per_token: per_token.input,
            attention_bytes_per_token: per_token.attention,
            layer_bytes_per_token: per_token.layer,
            workspace_bytes_per_token: per_token.workspace + per_token.exchange,
            head_bytes_per_token: per_token.head,
            head_fixed_bytes: logits_bytes(assumed, spec),
            cache_bytes_per_token,
            fixed_bytes: (assumed.fixed_gb * 1e9) as u64 + gathered_bytes,
            ..EngineMemory::default()
        };
        let rollout_bytes = config.rollouts.as_ref().map_or(0, |rollouts| {
            let cache = rollouts.tokens_per_sequence as u64 * cache_bytes_per_token;
            rollouts.sequences_per_device as u64 * (cache + spec.vocab_size as u64 * FLOAT_BYTES)
        });
        Self { engine, gathered_bytes, exchange_bytes_per_token: per_token.exchange, rollout_bytes }
    }

    /// Tokens of the device that has most of a pack: sequences may cross devices, so lengths need not divide.
    #[must_use]
    pub fn tokens(config: &ClusterConfig, degrees: &Degrees) -> u64 {
        (config.training.sequence_length * degrees.micro_batch).div_ceil(degrees.sequence) as u64
    }

    /// What stays while completions are sampled, with their keys and values. The phases of a step give back what the
    /// next one does not need, so that the most of both counts, not the sum.
    #[must_use]
    pub fn sampling_bytes(&self) -> u64 {
        let engine = &self.engine;
        match self.rollout_bytes {
            0 => 0,
            rollouts => {
                engine.parameter_bytes
                    + engine.gradient_bytes
                    + engine.optimizer_bytes
                    + engine.fixed_bytes
                    + engine.head_fixed_bytes
                    + rollouts
            }
        }
    }
}

/// Layers and heads that are whole for a while: weights with ZeRO-3, gradients before they are reduced with ZeRO-2 and
/// ZeRO-3.
fn gathered_bytes(assumed: &Assumptions, sizes: &ModelSizes, degrees: &Degrees) -> u64 {
    if degrees.n_devices() == 1 {
        return 0;
    }
    let weights = match degrees.zero_stage {
        ZeroStage::Parameters => {
            ((1 + assumed.prefetched_layers) * sizes.layer + sizes.outside) * assumed.parameter_bytes
        }
        _ => 0,
    };
    let gradients = match degrees.zero_stage {
        ZeroStage::Replicated | ZeroStage::Optimizer => 0,
        ZeroStage::Gradients | ZeroStage::Parameters => {
            sizes.trainable_of_layer * assumed.layer_gradient_bytes
                + sizes.trainable_outside * assumed.gradient_bytes
        }
    };
    weights + gradients
}

/// Logits that the head holds at a time, and never all: at least those of one token. A head of few outputs needs none.
fn logits_bytes(assumed: &Assumptions, spec: &DecoderSpec) -> u64 {
    match spec.head {
        HeadKind::LanguageModel => (assumed.logits_chunk_mib << 20).max(spec.vocab_size as u64 * FLOAT_BYTES),
        HeadKind::Score { .. } => 0,
    }
}

/// Bytes per token of a device.
struct PerToken {
    input: u64,
    attention: u64,
    layer: u64,
    workspace: u64,
    exchange: u64,
    head: u64,
}

impl PerToken {
    fn of(assumed: &Assumptions, spec: &DecoderSpec, sequence_degree: usize) -> Self {
        let value = assumed.activation_bytes;
        let (hidden, inner) = (spec.hidden_size as u64, spec.intermediate_size as u64);
        let (q, heads) = (spec.q_width() as u64, spec.n_heads as u64);
        // A device has all rows of its key heads: per token of its own share that many times the degree.
        let kv = (key_heads_per_device(spec, sequence_degree) * sequence_degree * spec.head_dim) as u64;
        let is_shared = sequence_degree > 1;
        // The attention's result is kept by heads, for its own backward, and by rows, for the output projection's.
        let both_layouts = if is_shared { q } else { 0 };
        let layer = match assumed.layer_activations {
            // x, x_mid; q, attention; k, v; gate, up; the normaliser
            LayerActivations::Products => {
                (2 * hidden + 2 * q + 2 * kv + 2 * inner + both_layouts) * value + heads * FLOAT_BYTES
            }
            LayerActivations::Megatron => (17 * hidden + both_layouts) * value,
        };
        Self {
            input: hidden * value,
            attention: q * value + heads * FLOAT_BYTES,
            layer,
            // The stream's gradient, and the larger of two: the feed-forward's activation (or a norm and its gradient)
            // with two of the stream's width; attention's gradients.
            workspace: (hidden + (inner.max(2 * hidden) + 2 * hidden).max(4 * q + 2 * kv)) * value,
            exchange: if is_shared { 2 * (q + 2 * kv) * value } else { 0 },
            // The stream, target rows, normed rows, their gradient.
            head: 4 * hidden * value,
        }
    }
}

/// When a device needs the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeakMoment {
    /// All inputs of segments and kept layers are alive.
    EndOfForward,
    /// A segment has been computed again.
    Recomputing,
    /// Completions are sampled.
    Sampling,
}

impl PeakMoment {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::EndOfForward => "at the end of the forward pass",
            Self::Recomputing => "while a segment is recomputed",
            Self::Sampling => "while completions are sampled",
        }
    }
}

/// The bytes of a device at its peak, term by term; they add up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceBytes {
    /// When.
    pub moment: PeakMoment,
    /// Weights, or the device's share of them.
    pub parameters: u64,
    /// Accumulated gradients, or the share of them.
    pub gradients: u64,
    /// Master weights and moments, or the share of them.
    pub optimizer: u64,
    /// Layers and heads that are whole for a while.
    pub gathered: u64,
    /// What recomputed segments leave behind.
    pub segment_inputs: u64,
    /// Layers that keep everything for the backward pass.
    pub kept_layers: u64,
    /// Layers of the segment that was computed again.
    pub recomputed_layers: u64,
    /// What a layer works in.
    pub workspace: u64,
    /// Send and receive buffers of Ulysses.
    pub exchange: u64,
    /// What the head works in, and its piece of the logits.
    pub head: u64,
    /// Keys and values of running sequences with their logits.
    pub kv_cache: u64,
    /// Runtime, libraries, fragmentation.
    pub fixed: u64,
}

impl DeviceBytes {
    /// The terms at the moment of one way's peak. Their sum is its `peak_bytes`, or what sampling needs where that is
    /// more.
    #[must_use]
    pub fn of(memory: &DeviceMemory, choice: &SegmentChoice, tokens: u64) -> Self {
        let [first, others @ ..] = Self::moments(memory, choice, tokens);
        others
            .into_iter()
            .fold(first, |most, moment| if moment.total() > most.total() { moment } else { most })
    }

    /// The terms of one way to cut the layers at each moment that may be its peak, in the order of [`PeakMoment`].
    /// Where nothing is recomputed or sampled, that moment holds no more than the states and a layer's workspace.
    #[must_use]
    pub fn moments(memory: &DeviceMemory, choice: &SegmentChoice, tokens: u64) -> [Self; 3] {
        let (engine, segments) = (&memory.engine, &choice.segments);
        let (n_inputs, n_kept) = (segments.n_recomputed() as u64, segments.n_kept_layers() as u64);
        let k = segments.layers_per_segment as u64;
        let attention = if segments.keeps_attention { engine.attention_bytes_per_token * k } else { 0 };
        let input = (engine.segment_input_bytes_per_token + attention) * tokens;
        let layer = engine.layer_bytes_per_token * tokens;
        let exchange = memory.exchange_bytes_per_token * tokens;
        let workspace = engine.workspace_bytes_per_token * tokens;
        let head = engine.head_bytes_per_token * tokens;
        let states = Self {
            moment: PeakMoment::Sampling,
            parameters: engine.parameter_bytes,
            gradients: engine.gradient_bytes,
            optimizer: engine.optimizer_bytes,
            gathered: memory.gathered_bytes,
            segment_inputs: 0,
            kept_layers: 0,
            recomputed_layers: 0,
            workspace: 0,
            exchange: 0,
            head: engine.head_fixed_bytes,
            kv_cache: 0,
            fixed: engine.fixed_bytes - memory.gathered_bytes,
        };
        // As in `SegmentChoice::of`: the head and a layer's workspace are not alive at once.
        let runs_head = head > workspace;
        let end_of_forward = Self {
            moment: PeakMoment::EndOfForward,
            segment_inputs: n_inputs * input,
            kept_layers: n_kept * layer,
            workspace: if runs_head { 0 } else { workspace - exchange },
            exchange: if runs_head { 0 } else { exchange },
            head: states.head + if runs_head { head } else { 0 },
            ..states
        };
        let recomputing = Self {
            moment: PeakMoment::Recomputing,
            segment_inputs: n_inputs.saturating_sub(1) * input,
            recomputed_layers: if n_inputs == 0 { 0 } else { k * layer },
            workspace: workspace - exchange,
            exchange,
            ..states
        };
        let sampling = Self { kv_cache: memory.rollout_bytes, ..states };
        [end_of_forward, recomputing, sampling]
    }

    /// The peak.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.terms().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Every term with its name.
    #[must_use]
    pub fn terms(&self) -> [(&'static str, u64); 12] {
        [
            ("parameters", self.parameters),
            ("gradients", self.gradients),
            ("optimizer states", self.optimizer),
            ("gathered layers and head", self.gathered),
            ("inputs of segments", self.segment_inputs),
            ("saved activations", self.kept_layers),
            ("recomputed activations", self.recomputed_layers),
            ("workspace of a layer", self.workspace),
            ("exchange buffers", self.exchange),
            ("head and logits", self.head),
            ("KV cache", self.kv_cache),
            ("fixed", self.fixed),
        ]
    }
}
