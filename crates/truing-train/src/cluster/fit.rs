//! Which degrees a model and a number of devices allow, and whether a device has the memory for them.

use truing_model::DecoderSpec;

use super::config::bad;
use super::time::{Model, pack_shape};
use super::{ClusterConfig, ClusterError, Degrees, DeviceMemory, ZeroStage, check_sequence_degree};
use crate::{LayersPerSegment, MemoryPlan, PlanError, StepFlops, plan_segments};

/// Activations of a device above this are a mistake in the sizes; below, no product overflows.
const MOST_BYTES: f64 = (1_u64 << 60) as f64;

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
