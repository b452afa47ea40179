//! The time of a step on one device, term by term, from operations, bytes and the given rates.
//!
//! Collectives are counted as rings (Thakur et al. 2005): gathering or scattering `V` bytes over `n` devices moves
//! `V (n - 1) / n` through each, an all-reduce twice that. What is exchanged while something is computed is hidden
//! up to the assumed share of that time.

use serde::Serialize;
use truing_model::{DecoderSpec, TrainableSpec};

use super::{ClusterConfig, Degrees, DeviceMemory, ModelSizes, ZeroStage, key_heads_per_device};
use crate::{SegmentPlan, StepFlops, StepShape};

/// Seconds of an optimiser step, term by term.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct StepTime {
    /// The projections of the layers, forward and backward.
    pub layers: f64,
    /// Attention, forward and backward.
    pub attention: f64,
    /// The head, forward and backward.
    pub head: f64,
    /// Forward passes made a second time.
    pub recomputation: f64,
    /// All-to-all of Ulysses.
    pub exchange: f64,
    /// All-gather of parameters.
    pub gather: f64,
    /// All-reduce or reduce-scatter of gradients.
    pub reduce: f64,
    /// Of the three, what is hidden behind computing.
    pub hidden: f64,
    /// The optimiser's pass over the states.
    pub optimizer: f64,
}

impl StepTime {
    /// The step.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.compute() + self.exposed() + self.optimizer
    }

    /// All matrix products.
    #[must_use]
    pub fn compute(&self) -> f64 {
        self.layers + self.attention + self.head + self.recomputation
    }

    /// Communication that is waited for.
    #[must_use]
    pub fn exposed(&self) -> f64 {
        self.exchange + self.gather + self.reduce - self.hidden
    }

    /// Every term with its name; what is hidden is negative, so that they add up to the step.
    #[must_use]
    pub fn terms(&self) -> [(&'static str, f64); 9] {
        [
            ("layers", self.layers),
            ("attention", self.attention),
            ("head", self.head),
            ("recomputation", self.recomputation),
            ("all-to-all of heads", self.exchange),
            ("all-gather of parameters", self.gather),
            ("reduction of gradients", self.reduce),
            ("hidden behind compute", -self.hidden),
            ("optimizer", self.optimizer),
        ]
    }
}

/// A model, and what of it learns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model<'a> {
    pub(super) spec: &'a DecoderSpec,
    pub(super) trainable: &'a TrainableSpec,
    pub(super) sizes: &'a ModelSizes,
}

/// Packs that a group computes one after the other in a step.
pub(super) fn n_rounds(config: &ClusterConfig, degrees: &Degrees) -> usize {
    config.training.sequences_per_step.div_ceil(degrees.data * degrees.micro_batch)
}

/// A pack of a group.
pub(super) fn pack_shape(config: &ClusterConfig, degrees: &Degrees) -> StepShape {
    let training = &config.training;
    let tokens = (training.sequence_length * degrees.micro_batch) as f64;
    let sample_length = training.sample_length.unwrap_or(training.sequence_length) as f64;
    StepShape {
        tokens,
        loss_tokens: tokens * training.loss_share,
        // `length (length + 1) / 2` pairs of each of `tokens / length` samples.
        attention_pairs: tokens * (sample_length + 1.0) / 2.0,
    }
}

impl StepTime {
    /// The time of one way to run.
    pub(super) fn of(
        config: &ClusterConfig,
        model: Model<'_>,
        degrees: &Degrees,
        segments: &SegmentPlan,
    ) -> Self {
        let assumed = &config.assumptions;
        let rounds = n_rounds(config, degrees) as f64;
        let flops = StepFlops::of(model.spec, model.trainable, &pack_shape(config, degrees), segments);
        let rate = config.device.tflops * 1e12 * assumed.compute_utilisation * degrees.sequence as f64;
        let secs = |flops: f64| rounds * flops / rate;
        let mut time = Self {
            layers: secs(flops.layers),
            attention: secs(flops.attention),
            head: secs(flops.head),
            recomputation: secs(flops.recomputed),
            optimizer: optimizer_secs(config, model.sizes, degrees),
            ..Self::default()
        };
        let exchange = exchange_secs(config, model.spec, degrees, segments);
        let traffic = StateTraffic::of(config, model, degrees, segments);
        let (each_round, once) = (traffic.each_round, traffic.once);
        time.exchange = rounds * exchange;
        time.gather = rounds * each_round.gather + once.gather;
        time.reduce = rounds * each_round.reduce + once.reduce;
        // What is exchanged once a step can only hide behind the last round.
        let compute = time.compute() / rounds;
        let hidden_exchange = exchange.min(assumed.overlap_exchange * compute);
        let room = assumed.overlap_parameters * compute;
        let hidden_states = each_round.total().min(room);
        time.hidden = rounds * (hidden_exchange + hidden_states) + once.total().min(room - hidden_states);
        time
    }
}

/// The optimiser reads and writes the states of what it owns, reads the gradient and writes the weight.
fn optimizer_secs(config: &ClusterConfig, sizes: &ModelSizes, degrees: &Degrees) -> f64 {
    let assumed = &config.assumptions;
    let owned = match degrees.zero_stage {
        ZeroStage::Replicated => sizes.trainable,
        _ => sizes.trainable.div_ceil(degrees.n_devices() as u64),
    };
    let bytes =
        2 * (assumed.master_bytes + assumed.moment_bytes) + assumed.gradient_bytes + assumed.parameter_bytes;
    (owned * bytes) as f64 / (config.device.memory_gb_per_sec * 1e9 * assumed.memory_utilisation)
}

/// Seconds of all all-to-alls of a pack. A layer sends queries, keys and values to their heads, and the result back;
/// the backward pass does the same with gradients, and a layer that is computed again does it once more.
fn exchange_secs(
    config: &ClusterConfig,
    spec: &DecoderSpec,
    degrees: &Degrees,
    segments: &SegmentPlan,
) -> f64 {
    let kv = key_heads_per_device(spec, degrees.sequence) * degrees.sequence * spec.head_dim;
    let values = (2 * (spec.q_width() + kv)) as f64;
    let tokens = DeviceMemory::tokens(config, degrees) as f64;
    let bytes = tokens * values * config.assumptions.activation_bytes as f64;
    let n_passes = 2 * spec.n_layers + segments.n_recomputed_layers();
    let links = Links { config };
    n_passes as f64 * (links.all_to_all_secs(bytes, degrees) + 2.0 * links.latency_secs(degrees.sequence))
}

/// Seconds of a phase's exchange of states.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    gather: f64,
    reduce: f64,
}

impl Traffic {
    fn total(self) -> f64 {
        self.gather + self.reduce
    }
}

/// What is exchanged of parameters and gradients, for each pack and once a step.
struct StateTraffic {
    each_round: Traffic,
    once: Traffic,
}

impl StateTraffic {
    fn of(config: &ClusterConfig, model: Model<'_>, degrees: &Degrees, segments: &SegmentPlan) -> Self {
        let (assumed, n_layers) = (&config.assumptions, model.spec.n_layers);
        let (links, n_devices) = (Links { config }, degrees.n_devices());
        let secs = |elements: u64, bytes: u64, n_calls: usize| {
            links.gather_secs((elements * bytes) as f64, n_devices)
                + n_calls as f64 * links.latency_secs(n_devices)
        };
        let reduce = secs(model.sizes.trainable, assumed.sent_gradient_bytes, n_layers);
        let new_weights = secs(model.sizes.trainable, assumed.parameter_bytes, n_layers);
        let (each_round, once) = match degrees.zero_stage {
            // An all-reduce is both.
            ZeroStage::Replicated => (Traffic::default(), Traffic { gather: 0.0, reduce: 2.0 * reduce }),
            ZeroStage::Optimizer => (Traffic::default(), Traffic { gather: new_weights, reduce }),
            ZeroStage::Gradients => {
                (Traffic { gather: 0.0, reduce }, Traffic { gather: new_weights, reduce: 0.0 })
            }
            ZeroStage::Parameters => {
                let (elements, n_calls) = gathered_elements(model, segments);
                let gather = secs(elements, assumed.parameter_bytes, n_calls);
                (Traffic { gather, reduce }, Traffic::default())
            }
        };
        Self { each_round, once }
    }
}

/// What ZeRO-3 gathers for a pack, and in how many calls. A layer is gathered for its forward and for its backward
/// pass; a segment that is computed again needs each layer but its last once more. The rest (embedding, head, norm) is
/// gathered once, a tied embedding twice.
fn gathered_elements(model: Model<'_>, segments: &SegmentPlan) -> (u64, usize) {
    let (sizes, n_layers) = (model.sizes, segments.n_layers);
    let again = segments.n_recomputed() * (segments.layers_per_segment - 1);
    let n_calls = 2 * n_layers + again;
    let rest = sizes.elements.saturating_sub(n_layers as u64 * sizes.layer);
    let times = if model.spec.tie_word_embeddings { 2 } else { 1 };
    (n_calls as u64 * sizes.layer + times * rest, n_calls)
}

/// The links with their rates.
#[derive(Clone, Copy)]
struct Links<'a> {
    config: &'a ClusterConfig,
}

impl Links<'_> {
    fn within(self, bytes: f64) -> f64 {
        let config = self.config;
        bytes / (config.links.within_host_gb_per_sec * 1e9 * config.assumptions.link_utilisation)
    }

    fn between(self, bytes: f64) -> f64 {
        let config = self.config;
        bytes / (config.links.between_hosts_gb_per_sec * 1e9 * config.assumptions.link_utilisation)
    }

    fn latency_secs(self, n_devices: usize) -> f64 {
        self.config.assumptions.latency_microsecs * 1e-6 * f64::from(n_devices.next_power_of_two().ilog2())
    }

    /// Gathers `bytes` in all on every device, or reduces and scatters them.
    fn gather_secs(self, bytes: f64, n_devices: usize) -> f64 {
        if n_devices == 1 {
            return 0.0;
        }
        let part = |n: usize| bytes * (n - 1) as f64 / n as f64;
        let per_host = self.config.devices_per_host;
        let n_hosts = n_devices.div_ceil(per_host);
        if n_hosts == 1 {
            self.within(part(n_devices))
        } else if self.config.assumptions.one_copy_per_host {
            // Each device fetches its share of what the host lacks; a host of one device has no links inside.
            let inside = if per_host == 1 { 0.0 } else { self.within(part(n_devices)) };
            inside.max(self.between(part(n_hosts) / per_host as f64))
        } else {
            self.between(part(n_devices))
        }
    }

    /// A device has `bytes` to divide evenly over the devices of its sequence group, itself included.
    fn all_to_all_secs(self, bytes: f64, degrees: &Degrees) -> f64 {
        let (degree, per_host) = (degrees.sequence, self.config.devices_per_host);
        if degree == 1 {
            return 0.0;
        }
        let to = |n: usize| bytes * n as f64 / degree as f64;
        let is_inside = degrees.n_devices() <= per_host || per_host.is_multiple_of(degree);
        if is_inside {
            self.within(to(degree - 1))
        } else if per_host > 1 && degree.is_multiple_of(per_host) {
            self.within(to(per_host - 1)).max(self.between(to(degree - per_host)))
        } else {
            // The group lies across hosts: all is counted at the slower rate.
            self.between(to(degree - 1))
        }
    }
}
