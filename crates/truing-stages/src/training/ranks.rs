//! What a plan says of a run on several ranks.

use truing_model::{ComputeDtype, Engine, EngineError, ModelSpec, TrainableSpec};
use truing_run::Machine;
use truing_run::settings::ResourceSettings;
use truing_train::{Amount, PlanRow};

/// The ranks and what they shard, before the memory of one of them. Nothing of a single rank.
pub(crate) fn rows(resources: &ResourceSettings, n_ranks: usize) -> Vec<PlanRow> {
    if n_ranks <= 1 {
        return Vec::new();
    }
    let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
    vec![count("ranks", n_ranks as u64), count("ZeRO stage", u64::from(resources.zero_stage.number()))]
}

/// Bytes that decoding gathers of parameters that are sharded.
pub(crate) fn gathered_bytes<E: Engine>(
    resources: &ResourceSettings,
    model: &ModelSpec,
    trainable: &TrainableSpec,
    machine: &Machine,
) -> Result<u64, EngineError> {
    let whole = E::memory(model, trainable, ComputeDtype::default());
    let parameters = model.parameters_with(trainable)?;
    let on_rank = resources.on_rank(whole, &parameters, trainable, machine);
    Ok(whole.parameter_bytes.saturating_sub(on_rank.parameter_bytes))
}
