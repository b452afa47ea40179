//! What a step takes at the rates of the machine, for the plan. All completions are taken to be of full length.
//! Rewards, evaluations and groups that are sampled again are not counted.

use truing_model::{ComputeDtype, Engine, TrainableSpec};
use truing_run::{Machine, Recipe as _};
use truing_train::{Amount, Decoding, PlanRow, SegmentPlan, StepFlops, StepShape};

use super::{GrpoConfig, GrpoInputs, KlKind};
use crate::sampling::bytes_per_weight;
use crate::training::time::secs_of;

/// Seconds of the parts of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSecs {
    /// Sampling the completions; `None` where servers do it.
    pub sampling: Option<f64>,
    /// The log-probabilities of policy and reference.
    pub comparing: f64,
    /// All updates.
    pub updating: f64,
}

impl StepSecs {
    /// Estimates them; `None` where a rate was not measured.
    pub(super) fn new<E: Engine>(
        config: &GrpoConfig,
        inputs: &GrpoInputs,
        (trainable, segments): (&TrainableSpec, &SegmentPlan),
        machine: &Machine,
    ) -> Option<Self> {
        let spec = &inputs.model.spec;
        let (gigaflops, gigabytes_per_second) = (machine.gigaflops?, machine.gigabytes_per_second?);
        let shape = shape_of_step(config, inputs);
        // Without a KL divergence the reference reads the fine-tuning data alone.
        let n_passes = if config.kl() == KlKind::None { 1.0 } else { 2.0 };
        let n_updates = config.updates_per_step() as f64;
        let of_completions = StepFlops::of(spec, trainable, &shape, segments).total();
        let ptx = ptx_of_update(config, inputs);
        // The reference reads the fine-tuning data of each update first.
        let of_ptx =
            StepFlops::of(spec, trainable, &ptx, segments).total() + StepFlops::of_forward(spec, &ptx);
        let n_ranks = machine.n_ranks.max(1) as f64;
        let n_prompts = config.prompts_per_step as f64 / n_ranks;
        let decoding = Decoding {
            n_prompts,
            prompt_tokens: mean(inputs, |prompt| prompt),
            n_completions: n_prompts * config.num_generations as f64,
            completion_tokens: config.max_completion_length as f64,
            n_running: config.generation_batch_size,
            bytes_per_weight: bytes_per_weight(config.rollout_quantization, config.device().1),
            cache_bytes_per_token: E::memory(
                &spec.clone().into(),
                &TrainableSpec::frozen(),
                ComputeDtype::default(),
            )
            .cache_bytes_per_token,
        };
        let is_here = config.rollouts.is_none();
        Some(Self {
            sampling: is_here.then(|| decoding.secs(spec, gigaflops, gigabytes_per_second)),
            comparing: secs_of(n_passes * StepFlops::of_forward(spec, &shape), machine)?,
            updating: secs_of(config.num_iterations as f64 * of_completions + n_updates * of_ptx, machine)?,
        })
    }

    /// The whole step, where all of it is known.
    #[must_use]
    pub fn total(&self) -> Option<f64> {
        Some(self.sampling? + self.comparing + self.updating)
    }

    /// Lines of the plan of a run of `n_steps`.
    pub(super) fn rows(&self, n_steps: u64) -> Vec<PlanRow> {
        let amount = |secs: Option<f64>| secs.map_or(Amount::Unknown("servers sample"), Amount::Seconds);
        let of_run = self.total().map(|secs| secs * n_steps as f64);
        vec![
            PlanRow::new("time of sampling, completions of full length", amount(self.sampling)),
            PlanRow::new("time of log-probabilities", Amount::Seconds(self.comparing)),
            PlanRow::new("time of updates", Amount::Seconds(self.updating)),
            PlanRow::new("time of a step, without rewards", amount(self.total())),
            PlanRow::new("time of the run", amount(of_run)),
        ]
    }
}

/// The mean over the prompts of what `of` makes of their tokens.
fn mean(inputs: &GrpoInputs, of: impl Fn(f64) -> f64) -> f64 {
    let sum: f64 = inputs.prompts.iter().map(|prompt| of(prompt.tokens.len() as f64)).sum();
    sum / inputs.prompts.len().max(1) as f64
}

/// The packs of a step of mean prompts. A prompt that its completions share is counted once, as if a group were never
/// divided over packs.
fn shape_of_step(config: &GrpoConfig, inputs: &GrpoInputs) -> StepShape {
    let (n_prompts, n) = (config.prompts_per_step as f64, config.num_generations as f64);
    let completion = config.max_completion_length as f64;
    let prompt = mean(inputs, |prompt| prompt);
    let of_prompt = mean(inputs, |prompt| prompt * (prompt + 1.0) / 2.0);
    let n_prompt_copies = if config.share_prompts { 1.0 } else { n };
    let of_completion = completion * prompt + completion * (completion + 1.0) / 2.0;
    StepShape {
        tokens: n_prompts * (n_prompt_copies * prompt + n * completion),
        loss_tokens: n_prompts * n * completion,
        attention_pairs: n_prompts * (n_prompt_copies * of_prompt + n * of_completion),
    }
}

/// The fine-tuning data of an update.
fn ptx_of_update(config: &GrpoConfig, inputs: &GrpoInputs) -> StepShape {
    let Some(data) = &inputs.ptx else { return StepShape::default() };
    let share = config.ptx_samples_per_update as f64 / data.n_samples().max(1) as f64;
    let mut shape = StepShape::default();
    for sample in (0..data.n_samples()).map(|idx| data.sample(idx)) {
        let length = sample.tokens().len() as f64;
        shape.tokens += share * length;
        shape.loss_tokens += share * sample.n_loss_tokens() as f64;
        shape.attention_pairs += share * length * (length + 1.0) / 2.0;
    }
    shape
}
