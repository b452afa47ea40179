//! What a cluster is and what is assumed of it: the settings of `cluster.toml`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ClusterError;

/// Largest number of hosts, devices, or sequences that may be asked for; products of sizes stay inside 64 bits.
const LARGEST_COUNT: usize = 1 << 16;
/// Longest sequence.
const LONGEST_SEQUENCE: usize = 1 << 24;
/// Bytes of a number at most.
const MOST_BYTES: u64 = 64;
/// Largest rate in any unit.
const LARGEST_RATE: f64 = 1e9;

/// A cluster and the training that is planned on it. Rates are inputs: take them from the data sheet, or better,
/// measure them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Number of hosts.
    pub hosts: usize,
    /// Devices of a host. Required.
    pub devices_per_host: usize,
    /// The device.
    pub device: DeviceConfig,
    /// The links between devices.
    pub links: LinkConfig,
    /// What is trained on.
    pub training: TrainingShape,
    /// Degrees that are fixed; the planner chooses the others.
    pub degrees: FixedDegrees,
    /// Completions that are sampled before a step, for reinforcement learning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<RolloutShape>,
    /// Everything that is assumed.
    pub assumptions: Assumptions,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceConfig {
    /// What it is called. Only printed.
    pub name: String,
    /// Memory in GB (10^9 bytes). Required.
    pub memory_gb: f64,
    /// Peak rate of matrix products in the format of the activations, in TFLOP/s, without sparsity. Required.
    pub tflops: f64,
    /// Bandwidth of the memory in GB/s. Required.
    pub memory_gb_per_sec: f64,
}

/// Links, each as the bandwidth of one device in one direction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// To devices of the same host, in GB/s. Required where a host has several devices.
    pub within_host_gb_per_sec: f64,
    /// A device's share of its host's network, in GB/s. Required where there are several hosts.
    pub between_hosts_gb_per_sec: f64,
}

/// What is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingShape {
    /// Tokens of a sequence: of a pack, where samples are packed.
    pub sequence_length: usize,
    /// Tokens of a sample, where a sequence is a pack of shorter samples, which do not attend to each other. Default:
    /// `sequence_length`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_length: Option<usize>,
    /// Sequences of an optimiser step, over all devices.
    pub sequences_per_step: usize,
    /// Share of the tokens that carry loss: the head runs on these alone.
    pub loss_share: f64,
    /// Numbers of sequences that a group may compute at once.
    pub micro_batches: Vec<usize>,
}

/// Degrees that are fixed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FixedDegrees {
    /// Groups that train on different sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<usize>,
    /// Devices that share the tokens of a sequence (Ulysses).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<usize>,
    /// ZeRO stage, 0 to 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_stage: Option<u8>,
    /// Layers per activation checkpoint (k).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_per_segment: Option<usize>,
}

/// Completions that a device samples at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutShape {
    /// Sequences that a device decodes at once.
    pub sequences_per_device: usize,
    /// Tokens of a sequence, prompt and completion.
    pub tokens_per_sequence: usize,
}

/// What a layer saves for its backward pass, where it saves everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerActivations {
    /// Results of matrix products and of attention, as truing's engines do: norms and the activation function are
    /// computed again.
    #[default]
    Products,
    /// 34 bytes per token and unit of hidden size in 16 bits (Korthikanti et al. 2022, arXiv 2205.05198), without the
    /// scores of attention, which FlashAttention does not save.
    Megatron,
}

/// Everything that is neither given nor counted. Each can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Assumptions {
    /// Bytes of a weight that is computed with. 2 is bf16.
    pub parameter_bytes: u64,
    /// Bytes of an accumulated gradient.
    pub gradient_bytes: u64,
    /// Bytes of a gradient of the layer in its backward pass, where gradients are sharded.
    pub layer_gradient_bytes: u64,
    /// Bytes of a gradient that is sent to other devices.
    pub sent_gradient_bytes: u64,
    /// Bytes of the master weight beside the weight that is computed with; 0 where there is none.
    pub master_bytes: u64,
    /// Bytes of the optimiser's moments of a weight: AdamW's two in float32 take 8.
    pub moment_bytes: u64,
    /// Bytes of a value of the activations.
    pub activation_bytes: u64,
    /// What a layer saves that saves everything.
    pub layer_activations: LayerActivations,
    /// Layers that are gathered ahead of the one that runs, with ZeRO-3.
    pub prefetched_layers: u64,
    /// Piece of the float32 logits that the head holds at a time, in MiB.
    pub logits_chunk_mib: u64,
    /// What runtime, communication library and fragmentation take, in GB.
    pub fixed_gb: f64,
    /// Share of the device's memory that may be planned with.
    pub usable_memory: f64,
    /// Share of the peak rate that the products attain, attention included.
    pub compute_utilisation: f64,
    /// Share of the memory's bandwidth that the optimiser attains.
    pub memory_utilisation: f64,
    /// Share of the links' bandwidth that collectives attain.
    pub link_utilisation: f64,
    /// Share of the time of computing behind which parameters and gradients are exchanged.
    pub overlap_parameters: f64,
    /// Share of the time of computing behind which Ulysses exchanges heads.
    pub overlap_exchange: f64,
    /// Whether gathered data enter a host once, over the links of all its devices, and are shared inside it. Otherwise
    /// each device receives all of it over its own link.
    pub one_copy_per_host: bool,
    /// Latency of a collective in microseconds, times the binary logarithm of its devices.
    pub latency_microsecs: f64,
    /// Where the search for the least number of devices ends.
    pub most_devices: usize,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            hosts: 1,
            devices_per_host: 0,
            device: DeviceConfig::default(),
            links: LinkConfig::default(),
            training: TrainingShape::default(),
            degrees: FixedDegrees::default(),
            rollouts: None,
            assumptions: Assumptions::default(),
        }
    }
}

impl Default for TrainingShape {
    fn default() -> Self {
        Self {
            sequence_length: 4096,
            sample_length: None,
            sequences_per_step: 128,
            loss_share: 1.0,
            micro_batches: vec![1, 2, 4, 8],
        }
    }
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            parameter_bytes: 2,
            gradient_bytes: 2,
            layer_gradient_bytes: 4,
            sent_gradient_bytes: 2,
            master_bytes: 4,
            moment_bytes: 8,
            activation_bytes: 2,
            layer_activations: LayerActivations::Products,
            prefetched_layers: 1,
            logits_chunk_mib: 32,
            fixed_gb: 5.0,
            usable_memory: 0.92,
            compute_utilisation: 0.45,
            memory_utilisation: 0.8,
            link_utilisation: 0.8,
            overlap_parameters: 0.8,
            overlap_exchange: 0.0,
            one_copy_per_host: true,
            latency_microsecs: 10.0,
            most_devices: 1024,
        }
    }
}

impl Assumptions {
    /// The format of `truing-cpu`: everything in float32, the weights are their own master, nothing is fixed.
    #[must_use]
    pub fn cpu() -> Self {
        Self {
            parameter_bytes: 4,
            gradient_bytes: 4,
            layer_gradient_bytes: 4,
            sent_gradient_bytes: 4,
            master_bytes: 0,
            moment_bytes: 8,
            activation_bytes: 4,
            fixed_gb: 0.0,
            ..Self::default()
        }
    }
}

impl ClusterConfig {
    /// Devices of the cluster.
    #[must_use]
    pub fn n_devices(&self) -> usize {
        self.hosts * self.devices_per_host
    }

    /// Bytes of a device that may be planned with.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        (self.device.memory_gb * 1e9 * self.assumptions.usable_memory) as u64
    }

    /// The smallest micro-batch.
    #[must_use]
    pub fn smallest_micro_batch(&self) -> usize {
        self.training.micro_batches.iter().copied().min().unwrap_or(1)
    }

    /// Checks every setting without the model.
    ///
    /// # Errors
    /// For the first setting that is out of its range.
    pub fn check(&self) -> Result<(), ClusterError> {
        let count = |key, found| in_range(key, found, 1, LARGEST_COUNT);
        count("hosts", self.hosts)?;
        count("devices_per_host", self.devices_per_host)?;
        if self.n_devices() > LARGEST_COUNT {
            return Err(bad("hosts", self.hosts, format!("at most {LARGEST_COUNT} devices in all")));
        }
        self.check_rates()?;
        let training = &self.training;
        let length = |key, found| in_range(key, found, 1, LONGEST_SEQUENCE);
        length("training.sequence_length", training.sequence_length)?;
        if let Some(found) = training.sample_length {
            in_range("training.sample_length", found, 1, training.sequence_length)?;
        }
        count("training.sequences_per_step", training.sequences_per_step)?;
        share("training.loss_share", training.loss_share)?;
        if training.micro_batches.is_empty() {
            return Err(bad("training.micro_batches", "empty", "at least one number"));
        }
        for &found in &training.micro_batches {
            in_range("training.micro_batches", found, 1, training.sequences_per_step)?;
        }
        self.check_degrees()?;
        if let Some(rollouts) = &self.rollouts {
            count("rollouts.sequences_per_device", rollouts.sequences_per_device)?;
            length("rollouts.tokens_per_sequence", rollouts.tokens_per_sequence)?;
        }
        self.assumptions.check()
    }

    fn check_rates(&self) -> Result<(), ClusterError> {
        let (device, links) = (&self.device, &self.links);
        let mut rates = vec![
            ("device.memory_gb", device.memory_gb),
            ("device.tflops", device.tflops),
            ("device.memory_gb_per_sec", device.memory_gb_per_sec),
        ];
        if self.devices_per_host > 1 {
            rates.push(("links.within_host_gb_per_sec", links.within_host_gb_per_sec));
        }
        if self.hosts > 1 {
            rates.push(("links.between_hosts_gb_per_sec", links.between_hosts_gb_per_sec));
        }
        let is_rate = |value: f64| value.is_finite() && value > 0.0 && value <= LARGEST_RATE;
        for (key, value) in rates {
            if !is_rate(value) {
                return Err(bad(key, value, "a number above 0, which has no default"));
            }
        }
        for (key, value) in [
            ("links.within_host_gb_per_sec", links.within_host_gb_per_sec),
            ("links.between_hosts_gb_per_sec", links.between_hosts_gb_per_sec),
        ] {
            if value != 0.0 && !is_rate(value) {
                return Err(bad(key, value, "a number above 0, or 0 where there is no such link"));
            }
        }
        Ok(())
    }

    fn check_degrees(&self) -> Result<(), ClusterError> {
        let FixedDegrees { data, sequence, zero_stage, layers_per_segment } = &self.degrees;
        let n_devices = self.n_devices();
        for (key, degree) in [("degrees.data", data), ("degrees.sequence", sequence)] {
            if let Some(found) = degree
                && (*found == 0 || !n_devices.is_multiple_of(*found))
            {
                return Err(bad(key, found, format!("a divisor of the {n_devices} devices")));
            }
        }
        if let (Some(data), Some(sequence)) = (data, sequence)
            && data * sequence != n_devices
        {
            let expected = format!("{}: all {n_devices} devices are used", n_devices / sequence);
            return Err(bad("degrees.data", data, expected));
        }
        if let Some(found) = zero_stage {
            in_range("degrees.zero_stage", usize::from(*found), 0, 3)?;
        }
        if *layers_per_segment == Some(0) {
            return Err(bad("degrees.layers_per_segment", 0, "at least 1"));
        }
        Ok(())
    }
}

impl Assumptions {
    fn check(&self) -> Result<(), ClusterError> {
        let bytes = |key, found: u64, least: u64| match found {
            found if (least..=MOST_BYTES).contains(&found) => Ok(()),
            found => Err(bad(key, found, format!("{least} to {MOST_BYTES}"))),
        };
        bytes("assumptions.parameter_bytes", self.parameter_bytes, 1)?;
        bytes("assumptions.gradient_bytes", self.gradient_bytes, 1)?;
        bytes("assumptions.layer_gradient_bytes", self.layer_gradient_bytes, 1)?;
        bytes("assumptions.sent_gradient_bytes", self.sent_gradient_bytes, 1)?;
        bytes("assumptions.master_bytes", self.master_bytes, 0)?;
        bytes("assumptions.moment_bytes", self.moment_bytes, 0)?;
        bytes("assumptions.activation_bytes", self.activation_bytes, 1)?;
        bytes("assumptions.prefetched_layers", self.prefetched_layers, 0)?;
        for (key, value) in [
            ("assumptions.usable_memory", self.usable_memory),
            ("assumptions.compute_utilisation", self.compute_utilisation),
            ("assumptions.memory_utilisation", self.memory_utilisation),
            ("assumptions.link_utilisation", self.link_utilisation),
        ] {
            share(key, value)?;
        }
        for (key, value) in [
            ("assumptions.overlap_parameters", self.overlap_parameters),
            ("assumptions.overlap_exchange", self.overlap_exchange),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(bad(key, value, "0 to 1"));
            }
        }
        if self.overlap_parameters + self.overlap_exchange > 1.0 {
            let expected = format!("at most {}: both together at most 1", 1.0 - self.overlap_parameters);
            return Err(bad("assumptions.overlap_exchange", self.overlap_exchange, expected));
        }
        for (key, value) in [
            ("assumptions.fixed_gb", self.fixed_gb),
            ("assumptions.latency_microsecs", self.latency_microsecs),
        ] {
            if !(0.0..=LARGEST_RATE).contains(&value) {
                return Err(bad(key, value, "a number of 0 or more"));
            }
        }
        in_range("assumptions.logits_chunk_mib", self.logits_chunk_mib as usize, 1, 1 << 20)?;
        in_range("assumptions.most_devices", self.most_devices, 1, LARGEST_COUNT)
    }
}

pub(super) fn bad(key: &'static str, found: impl ToString, expected: impl Into<String>) -> ClusterError {
    ClusterError::BadSetting { key, found: found.to_string(), expected: expected.into() }
}

fn in_range(key: &'static str, found: usize, least: usize, most: usize) -> Result<(), ClusterError> {
    match found {
        found if (least..=most).contains(&found) => Ok(()),
        found => Err(bad(key, found, format!("{least} to {most}"))),
    }
}

fn share(key: &'static str, value: f64) -> Result<(), ClusterError> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(()),
        false => Err(bad(key, value, "a number above 0, at most 1")),
    }
}
