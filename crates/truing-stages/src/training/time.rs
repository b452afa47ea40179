//! What a run takes at the rates of the machine, for its plan.

use truing_model::{DecoderSpec, Engine};
use truing_run::Machine;
use truing_train::{StepFlops, StepShape};
use truing_types::StageName;

use super::{TrainingConfig, TrainingData, TrainingInputs};

/// Seconds that the machine's ranks take together for operations; `None` where no rate was measured.
pub(crate) fn secs_of(flops: f64, machine: &Machine) -> Option<f64> {
    machine.gigaflops.map(|rate| flops / (rate * 1e9 * machine.n_ranks.max(1) as f64))
}

/// Seconds of a step; `None` where a rate is missing, or where a server does a part of it.
pub(super) fn of_step<E: Engine, I: TrainingInputs>(
    config: &TrainingConfig,
    inputs: &I,
    spec: &DecoderSpec,
    (shape, flops): (&StepShape, &StepFlops),
    machine: &Machine,
) -> Option<f64> {
    // The reference point of KTO: the policy's log-probabilities of as many responses.
    let compared = match reference_passes(config) {
        2 => StepFlops::of_forward(spec, shape),
        _ => 0.0,
    };
    let training = secs_of(flops.total() + compared, machine)?;
    Some(training + inputs.beside_secs::<E>(config, shape, machine)?)
}

/// Seconds before the first step: the log-probabilities of all data under the reference. 0 where there is none.
pub(super) fn before_steps<I: TrainingInputs>(
    config: &TrainingConfig,
    inputs: &I,
    spec: &DecoderSpec,
    machine: &Machine,
) -> Option<f64> {
    let n_passes = reference_passes(config);
    if n_passes == 0 {
        return Some(0.0);
    }
    let mut all = StepShape::default();
    for data in [Some(inputs.train()), inputs.eval()].into_iter().flatten() {
        for sample in 0..data.lengths().len() {
            let shape = data.shape(sample);
            all.tokens += shape.tokens;
            all.loss_tokens += shape.loss_tokens;
            all.attention_pairs += shape.attention_pairs;
        }
    }
    secs_of(f64::from(n_passes) * StepFlops::of_forward(spec, &all), machine)
}

/// How often the reference reads the data: for KTO also with the responses of other prompts.
fn reference_passes(config: &TrainingConfig) -> u32 {
    let loss = config.preference.clone().unwrap_or_default().loss;
    match config.stage {
        StageName::Dpo if loss.is_unpaired() => 2,
        StageName::Dpo if loss.uses_reference() => 1,
        _ => 0,
    }
}
