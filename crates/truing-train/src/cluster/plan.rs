//! The plan: every legal combination of degrees with the best k for each, its bytes and its time; the fastest first.

use truing_model::{DecoderSpec, TrainableSpec};

use super::config::bad;
use super::least_devices::{LeastDevices, search};
use super::time::{Model, n_rounds, pack_shape};
use super::{
    ClusterConfig, ClusterError, Degrees, DeviceBytes, DeviceMemory, ModelSizes, StepTime, ZeroStage,
    check_sequence_degree,
};
use crate::{LayersPerSegment, MemoryPlan, PlanError, SegmentChoice, SegmentPlan, StepFlops, plan_segments};

/// Activations of a device above this are a mistake in the sizes; below, no product overflows.
const MOST_BYTES: f64 = (1_u64 << 60) as f64;

/// One way to run that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterChoice {
    /// The degrees.
    pub degrees: Degrees,
    /// k, and what is kept: the least that is computed again within the memory.
    pub segments: SegmentPlan,
    /// Packs that a group computes one after the other in a step.
    pub packs_per_step: usize,
    /// The bytes of a device at its peak.
    pub bytes: DeviceBytes,
    /// The bytes of a device at each moment that may be the peak.
    pub moments: [DeviceBytes; 3],
    /// The time of a step.
    pub time: StepTime,
    /// Tokens per second of the whole cluster.
    pub tokens_per_sec: f64,
    /// Operations that the step needs without recomputation, as a share of what the devices could do in its time at
    /// their peak rate (model FLOPs utilisation).
    pub flops_utilisation: f64,
}

impl ClusterChoice {
    fn of(
        config: &ClusterConfig,
        model: Model<'_>,
        degrees: Degrees,
        memory: &DeviceMemory,
        chosen: &SegmentChoice,
    ) -> Self {
        let training = &config.training;
        let tokens = DeviceMemory::tokens(config, &degrees);
        let time = StepTime::of(config, model, &degrees, &chosen.segments);
        let secs = time.total();
        // Where the last packs of a step are missing, their devices wait.
        let n_packs = (n_rounds(config, &degrees) * degrees.data * degrees.micro_batch) as f64;
        let done = training.sequences_per_step as f64 / n_packs;
        let needed = (time.compute() - time.recomputation) * config.assumptions.compute_utilisation;
        Self {
            degrees,
            segments: chosen.segments,
            packs_per_step: n_rounds(config, &degrees),
            bytes: DeviceBytes::of(memory, chosen, tokens),
            moments: DeviceBytes::moments(memory, chosen, tokens),
            time,
            tokens_per_sec: (training.sequences_per_step * training.sequence_length) as f64 / secs,
            flops_utilisation: done * needed / secs,
        }
    }

    /// What takes most of the step, and what takes most of the memory.
    #[must_use]
    pub fn binds(&self) -> (&'static str, &'static str) {
        let time = &self.time;
        let parts = [
            ("compute", time.compute()),
            ("communication", time.exposed()),
            ("the optimizer", time.optimizer),
        ];
        let (part, _) =
            parts.into_iter().fold(parts[0], |most, part| if part.1 > most.1 { part } else { most });
        let (term, _) = self.bytes.terms().into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
        (part, term)
    }
}

/// What the plan would be with one input changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Variation {
    /// The change.
    pub what: &'static str,
    /// The fastest way then; `None` where nothing fits.
    pub best: Option<ClusterChoice>,
    /// The least number of devices then.
    pub least_devices: Option<usize>,
}

/// The plan of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPlan {
    /// The parameters of the model.
    pub sizes: ModelSizes,
    /// Bytes of a device that may be used.
    pub usable_bytes: u64,
    /// Legal combinations of degrees, those that do not fit included.
    pub n_combinations: usize,
    /// Every combination that fits, with its best segments, the fastest first; at least one.
    pub choices: Vec<ClusterChoice>,
    /// Every k for the first choice, as the planner of one device lists them.
    pub by_layers_per_segment: Vec<SegmentChoice>,
    /// The least number of devices; `None` where none up to the limit is enough.
    pub least_devices: Option<LeastDevices>,
    /// What would change the answer.
    pub variations: Vec<Variation>,
}

impl ClusterPlan {
    /// Makes the plan, or says why there is none. Pure: it opens no file.
    ///
    /// # Errors
    /// When a setting is out of its range, a degree is not legal, or nothing fits.
    pub fn resolve(
        config: &ClusterConfig,
        spec: &DecoderSpec,
        trainable: &TrainableSpec,
    ) -> Result<Self, ClusterError> {
        check(config, spec)?;
        let sizes = ModelSizes::of(spec, trainable);
        let model = Model { spec, trainable, sizes: &sizes };
        let least_devices = search(config, model);
        let choices = choices(config, model).map_err(|error| match error {
            ClusterError::DoesNotFit { needed_bytes, usable_bytes, degrees, .. } => {
                let least_devices = least_devices.map(|least| least.n_devices);
                ClusterError::DoesNotFit { needed_bytes, usable_bytes, degrees, least_devices }
            }
            other => other,
        })?;
        let of_best = fit(config, model, &choices[0].degrees);
        Ok(Self {
            usable_bytes: config.usable_bytes(),
            n_combinations: legal_degrees(config, spec, config.n_devices()).len(),
            by_layers_per_segment: of_best
                .map_or_else(|_| Vec::new(), |(_, plan)| plan.by_layers_per_segment),
            choices,
            least_devices,
            variations: variations(config, model),
            sizes,
        })
    }

    /// The fastest way.
    #[must_use]
    pub fn best(&self) -> &ClusterChoice {
        &self.choices[0]
    }
}

/// Checks the settings, alone and with the model.
pub(super) fn check(config: &ClusterConfig, spec: &DecoderSpec) -> Result<(), ClusterError> {
    config.check()?;
    let (n_heads, n_kv_heads, n_layers) = (spec.n_heads, spec.n_kv_heads, spec.n_layers);
    if n_heads == 0 || n_kv_heads == 0 || n_layers == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        return Err(ClusterError::NoHeads { n_heads, n_kv_heads, n_layers });
    }
    if let Some(degree) = config.degrees.sequence {
        check_sequence_degree(spec, degree)?;
    }
    if let Some(k) = config.degrees.layers_per_segment
        && k > n_layers
    {
        let expected = format!("at most the model's {n_layers} layers");
        return Err(bad("degrees.layers_per_segment", k, expected));
    }
    let training = &config.training;
    let most_tokens = training.micro_batches.iter().max().map_or(0, |most| most * training.sequence_length);
    let width = spec.hidden_size + spec.q_width() + spec.kv_width() + spec.intermediate_size;
    let bytes =
        most_tokens as f64 * (8 * width * n_layers) as f64 * config.assumptions.activation_bytes as f64;
    if bytes > MOST_BYTES {
        let expected = "fewer tokens: the activations of a model of this size are not countable";
        return Err(bad("training.sequence_length", training.sequence_length, expected));
    }
    Ok(())
}

/// All degrees that use this many devices.
pub(super) fn legal_degrees(config: &ClusterConfig, spec: &DecoderSpec, n_devices: usize) -> Vec<Degrees> {
    let (fixed, training) = (&config.degrees, &config.training);
    let mut micro_batches = training.micro_batches.clone();
    micro_batches.sort_unstable();
    micro_batches.dedup();
    // One device has nothing to share: all stages are the same.
    let is_useful = |stage: ZeroStage| n_devices > 1 || stage == ZeroStage::Replicated;
    let stages: Vec<ZeroStage> = match fixed.zero_stage {
        Some(number) => ZeroStage::ALL.into_iter().filter(|stage| stage.number() == number).collect(),
        None => ZeroStage::ALL.into_iter().filter(|&stage| is_useful(stage)).collect(),
    };
    let mut all = Vec::new();
    for sequence in
        spec.sequence_parallel_sizes().into_iter().filter(|&degree| n_devices.is_multiple_of(degree))
    {
        let data = n_devices / sequence;
        if fixed.sequence.is_some_and(|degree| degree != sequence)
            || fixed.data.is_some_and(|degree| degree != data)
        {
            continue;
        }
        for &micro_batch in &micro_batches {
            let has_token_each = micro_batch * training.sequence_length >= sequence;
            if has_token_each && data * micro_batch <= training.sequences_per_step {
                let degrees = |zero_stage| Degrees { data, sequence, zero_stage, micro_batch };
                all.extend(stages.iter().copied().map(degrees));
            }
        }
    }
    all
}

/// The bytes of a device, and the segments that fit into it; or the least that it needs.
pub(super) fn fit(
    config: &ClusterConfig,
    model: Model<'_>,
    degrees: &Degrees,
) -> Result<(DeviceMemory, MemoryPlan), u64> {
    let memory = DeviceMemory::of(config, model.spec, model.sizes, degrees);
    let layers = config.degrees.layers_per_segment.map_or(LayersPerSegment::Auto, LayersPerSegment::Fixed);
    let attention_share = StepFlops::attention_share(model.spec, &pack_shape(config, degrees));
    let (tokens, usable) = (DeviceMemory::tokens(config, degrees), config.usable_bytes());
    let sampling = memory.sampling_bytes();
    match plan_segments(&memory.engine, model.spec.n_layers, tokens, usable, layers, attention_share) {
        Ok(plan) if sampling <= usable => Ok((memory, plan)),
        Ok(_) => Err(sampling),
        Err(PlanError::DoesNotFit { needed_bytes, .. }) => Err(needed_bytes.max(sampling)),
        Err(PlanError::LayersPerSegment { .. }) => Err(u64::MAX),
    }
}

/// Every way that fits, the fastest first; of equally fast ones that with fewer bytes.
fn choices(config: &ClusterConfig, model: Model<'_>) -> Result<Vec<ClusterChoice>, ClusterError> {
    let mut fitting = Vec::new();
    let mut smallest: Option<(u64, Degrees)> = None;
    for degrees in legal_degrees(config, model.spec, config.n_devices()) {
        match fit(config, model, &degrees) {
            Ok((memory, plan)) => {
                fitting.push(ClusterChoice::of(config, model, degrees, &memory, &plan.chosen));
            }
            Err(needed_bytes) if smallest.is_none_or(|(least, _)| needed_bytes < least) => {
                smallest = Some((needed_bytes, degrees));
            }
            Err(_) => {}
        }
    }
    if fitting.is_empty() {
        return Err(match smallest {
            Some((needed_bytes, degrees)) => ClusterError::DoesNotFit {
                needed_bytes,
                usable_bytes: config.usable_bytes(),
                degrees,
                least_devices: None,
            },
            None => ClusterError::NoDegrees {
                n_devices: config.n_devices(),
                working: config
                    .degrees
                    .sequence
                    .map_or_else(|| model.spec.sequence_parallel_sizes(), |degree| vec![degree]),
                micro_batch: config.smallest_micro_batch(),
                sequences_per_step: config.training.sequences_per_step,
            },
        });
    }
    fitting.sort_by(|a, b| {
        let by_time = a.time.total().total_cmp(&b.time.total());
        by_time.then(a.bytes.total().cmp(&b.bytes.total()))
    });
    Ok(fitting)
}

/// The plan again with one input changed at a time.
fn variations(config: &ClusterConfig, model: Model<'_>) -> Vec<Variation> {
    let mut changed: Vec<(&'static str, ClusterConfig)> = Vec::new();
    let mut change = |what, is_possible: bool, change: &dyn Fn(&mut ClusterConfig)| {
        if is_possible {
            let mut config = config.clone();
            change(&mut config);
            changed.push((what, config));
        }
    };
    let has_network = config.links.between_hosts_gb_per_sec > 0.0;
    change("twice the rate between hosts", config.hosts > 1, &|c| c.links.between_hosts_gb_per_sec *= 2.0);
    change("twice the rate within a host", config.devices_per_host > 1, &|c| {
        c.links.within_host_gb_per_sec *= 2.0;
    });
    change("twice the rate of computing", true, &|c| c.device.tflops *= 2.0);
    change("a quarter more memory", true, &|c| c.device.memory_gb *= 1.25);
    change("twice the hosts", has_network && config.degrees.data.is_none(), &|c| c.hosts *= 2);
    change("twice the sequences per step", true, &|c| c.training.sequences_per_step *= 2);
    change("half the sequence length", config.training.sequence_length > 1, &|c| {
        let training = &mut c.training;
        training.sequence_length /= 2;
        training.sample_length = training.sample_length.map(|length| length.min(training.sequence_length));
        training.sequences_per_step *= 2;
    });
    let plan_of = |(what, config): (&'static str, ClusterConfig)| Variation {
        what,
        best: choices(&config, model).ok().and_then(|choices| choices.into_iter().next()),
        least_devices: search(&config, model).map(|least| least.n_devices),
    };
    changed.into_iter().map(plan_of).collect()
}
