//! The plan: every legal combination of degrees with the best k for each, its bytes and its time; the fastest first.

use truing_model::{DecoderSpec, TrainableSpec};

use super::fit::{check, fit, legal_degrees};
use super::least_devices::{LeastDevices, search};
use super::time::{Model, n_rounds};
use super::{ClusterConfig, ClusterError, Degrees, DeviceBytes, DeviceMemory, ModelSizes, StepTime};
use crate::{SegmentChoice, SegmentPlan};

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
