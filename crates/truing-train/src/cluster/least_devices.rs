//! The least number of devices: for a plan, and as the table behind the report's claim.
//!
//! The report (2.2) says that a model of more than 70 billion parameters at 16K tokens takes 40 devices with k-layer
//! checkpointing and 128 without. It states neither degrees nor number formats nor what the 128 compute, so the claim
//! cannot be derived. The table shows which combinations give which numbers.

use serde::Serialize;
use truing_model::{DecoderSpec, TrainableSpec};

use super::fit::{check, fit, legal_degrees};
use super::time::Model;
use super::{
    Assumptions, ClusterConfig, ClusterError, Degrees, DeviceMemory, LayerActivations, ModelSizes, ZeroStage,
};
use crate::{SegmentChoice, SegmentPlan};

/// The numbers of devices that the report names: without k-layer checkpointing, and with it.
pub const REPORT_DEVICES: [usize; 2] = [128, 40];
/// Layers per segment of the table's columns.
const COLUMNS: [usize; 5] = [1, 2, 4, 8, 10];

/// The least number of devices that is enough, and how they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastDevices {
    /// How many.
    pub n_devices: usize,
    /// The degrees that need the fewest bytes of them.
    pub degrees: Degrees,
    /// What a device then needs.
    pub peak_bytes: u64,
}

/// The numbers of devices to look at: those of one host, then whole hosts.
fn device_counts(config: &ClusterConfig) -> impl Iterator<Item = usize> {
    let (per_host, most) = (config.devices_per_host, config.assumptions.most_devices);
    let has_network = config.links.between_hosts_gb_per_sec > 0.0;
    let n_hosts = if has_network { most / per_host } else { 1 };
    (1..per_host).chain((1..=n_hosts).map(move |hosts| hosts * per_host)).filter(move |&n| n <= most)
}

/// The least number of devices, as far as the search goes; by the smallest micro-batch.
///
/// # Errors
/// When a setting is out of its range, or the model does not allow a degree that is fixed.
pub fn least_devices(
    config: &ClusterConfig,
    spec: &DecoderSpec,
    trainable: &TrainableSpec,
) -> Result<Option<LeastDevices>, ClusterError> {
    check(config, spec)?;
    let sizes = ModelSizes::of(spec, trainable);
    Ok(search(config, Model { spec, trainable, sizes: &sizes }))
}

/// [`least_devices`] of settings that were checked.
pub(super) fn search(config: &ClusterConfig, model: Model<'_>) -> Option<LeastDevices> {
    let mut config = config.clone();
    config.training.micro_batches = vec![config.smallest_micro_batch()];
    device_counts(&config).find_map(|n_devices| {
        let fitting = legal_degrees(&config, model.spec, n_devices).into_iter().filter_map(|degrees| {
            let (memory, plan) = fit(&config, model, &degrees).ok()?;
            let peak_bytes = plan.chosen.peak_bytes.max(memory.sampling_bytes());
            Some(LeastDevices { n_devices, degrees, peak_bytes })
        });
        fitting.min_by_key(|least| least.peak_bytes)
    })
}

/// The least number of devices by what a layer saves, the bytes of a gradient, the sequence degree and k.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeastDevicesTable {
    /// k of each column; `None` where all layers keep their activations.
    pub columns: Vec<Option<usize>>,
    /// The rows.
    pub rows: Vec<LeastDevicesRow>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeastDevicesRow {
    /// What a layer saves that saves everything.
    pub layer_activations: LayerActivations,
    /// Weight, gradient, master weight and moments of a parameter, in bytes.
    pub state_bytes: u64,
    /// Sequence degree.
    pub sequence: usize,
    /// The least number of devices in each column; `None` where none up to the limit is enough.
    pub least: Vec<Option<usize>>,
}

impl LeastDevicesTable {
    /// The rows and columns that give this number of devices.
    pub fn cells(&self, n_devices: usize) -> impl Iterator<Item = (&LeastDevicesRow, Option<usize>)> {
        self.rows.iter().flat_map(move |row| {
            let of_row = row.least.iter().zip(&self.columns);
            of_row.filter(move |(least, _)| **least == Some(n_devices)).map(move |(_, column)| (row, *column))
        })
    }
}

/// Counts the table with ZeRO-3, the smallest micro-batch and whole hosts, for sequence degrees of at most a host. All
/// other assumptions are those of the configuration.
///
/// # Errors
/// When a setting is out of its range, or the model does not allow a degree that is fixed.
pub fn least_devices_table(
    config: &ClusterConfig,
    spec: &DecoderSpec,
    trainable: &TrainableSpec,
) -> Result<LeastDevicesTable, ClusterError> {
    check(config, spec)?;
    let sizes = ModelSizes::of(spec, trainable);
    let ks = COLUMNS.into_iter().filter(|&k| k < spec.n_layers);
    let columns: Vec<Option<usize>> = std::iter::once(None).chain(ks.map(Some)).collect();
    let degrees =
        spec.sequence_parallel_sizes().into_iter().filter(|&degree| degree <= config.devices_per_host);
    let degrees: Vec<usize> = degrees.collect();
    let mut rows = Vec::new();
    for layer_activations in [LayerActivations::Products, LayerActivations::Megatron] {
        for gradient_bytes in [2, 4] {
            let assumptions = Assumptions { layer_activations, gradient_bytes, ..config.assumptions.clone() };
            let state_bytes = assumptions.parameter_bytes
                + gradient_bytes
                + assumptions.master_bytes
                + assumptions.moment_bytes;
            let config = ClusterConfig { assumptions, ..config.clone() };
            for &sequence in &degrees {
                let least = |&column: &Option<usize>| {
                    let segments = match column {
                        None => SegmentPlan::keep_everything(spec.n_layers),
                        Some(k) => SegmentPlan::checkpoint(spec.n_layers, k),
                    };
                    least_for(&config, spec, &sizes, sequence, segments)
                };
                let least = columns.iter().map(least).collect();
                rows.push(LeastDevicesRow { layer_activations, state_bytes, sequence, least });
            }
        }
    }
    Ok(LeastDevicesTable { columns, rows })
}

/// The least whole hosts' devices for one sequence degree and one cut of the layers.
fn least_for(
    config: &ClusterConfig,
    spec: &DecoderSpec,
    sizes: &ModelSizes,
    sequence: usize,
    segments: SegmentPlan,
) -> Option<usize> {
    let per_host = config.devices_per_host;
    let whole_hosts = device_counts(config).filter(|n| n.is_multiple_of(per_host));
    whole_hosts.filter(|n| n.is_multiple_of(sequence)).find(|n_devices| {
        let degrees = Degrees {
            data: n_devices / sequence,
            sequence,
            zero_stage: ZeroStage::Parameters,
            micro_batch: config.smallest_micro_batch(),
        };
        let memory = DeviceMemory::of(config, spec, sizes, &degrees);
        let tokens = DeviceMemory::tokens(config, &degrees);
        let peak_bytes = SegmentChoice::of(&memory.engine, segments, tokens).peak_bytes;
        peak_bytes.max(memory.sampling_bytes()) <= config.usable_bytes()
    })
}
