//! Sections of settings that every recipe of a training stage has, under the names of transformers and TRL. In a recipe
//! their keys are in the one flat table; each recipe has its own defaults.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_model::{
    ComputeDtype, DecoderSpec, EngineMemory, ParameterSpec, SaveDtype, TrainableSpec, ZeroStage,
};
use truing_train::{OptimizerConfig, Schedule, ScheduleKind};
use truing_types::{Communicator, Groups, alternatives};

use crate::checks::{require, require_positive, require_share, require_steps};
use crate::ranks::gather_dealt;
use crate::{Machine, RunError};

const GIB: f64 = (1_u64 << 30) as f64;
/// Share of the machine's available memory that a run takes by default.
const DEFAULT_MEMORY_SHARE: f64 = 0.8;

/// Length of the run, and the learning rate by step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleSettings {
    /// Epochs over the data.
    #[schemars(extend("x-decides" = "length"))]
    pub num_train_epochs: f64,
    /// Number of steps. It replaces `num_train_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "length"))]
    pub max_steps: Option<u64>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning-rate schedule after warm-up.
    pub lr_scheduler_type: ScheduleKind,
    /// Warm-up as a fraction of the optimiser steps.
    pub warmup_ratio: f64,
    /// Warm-up in optimiser steps. It replaces `warmup_ratio`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Final learning rate as a fraction of `learning_rate`.
    pub min_lr_ratio: f64,
    /// Fraction of the optimiser steps in which the `wsd` schedule decays.
    pub decay_ratio: f64,
}

/// AdamW, clipping, and what it does not train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OptimizerSettings {
    /// Decoupled weight decay; norms and biases are excluded.
    pub weight_decay: f64,
    /// Decay rate of Adam's first moment.
    pub adam_beta1: f64,
    /// Decay rate of Adam's second moment.
    pub adam_beta2: f64,
    /// Added to the square root of Adam's second moment.
    pub adam_epsilon: f64,
    /// Maximum gradient norm (clipping); 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Prefixes of the names of parameters that are not trained, for instance `model.embed_tokens`.
    pub freeze: Vec<String>,
}

/// What is evaluated, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationSettings {
    /// Fraction of the training rows that is held out for evaluation. Equal rows stay together.
    pub eval_fraction: f64,
    /// Steps between evaluations; 0 turns them off. Default: at the end of each epoch; in GRPO only at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub eval_steps: Option<u64>,
    /// Also evaluate before the first step.
    #[schemars(extend("x-decides" = "outcome"))]
    pub eval_on_start: bool,
}

/// What is saved, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointSettings {
    /// Steps between checkpoints. Default: at the end of each epoch; in GRPO 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub save_steps: Option<u64>,
    /// Number of newest checkpoints to keep.
    #[schemars(extend("x-decides" = "nothing"))]
    pub save_total_limit: usize,
    /// Also keep the checkpoint with the best evaluation.
    #[schemars(extend("x-decides" = "nothing"))]
    pub keep_best: bool,
    /// Save the best checkpoint as the model, not the last one.
    #[schemars(extend("x-decides" = "outcome"))]
    pub load_best_model_at_end: bool,
    /// Number format of the saved model. Checkpoints are always exact. In `"bf16"` and `"f16"` a weight that training
    /// moved by less than half the format's spacing is saved as it was.
    #[schemars(extend("x-decides" = "outcome"))]
    pub save_dtype: SaveDtype,
}

/// What a run may use of the machine, and how its ranks share the work. Never changes a result, except for the order in
/// which sums over ranks are rounded, and for the rounding of another device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceSettings {
    /// CPU threads. Default: one per available core.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub threads: Option<usize>,
    /// What the models compute on: `"cpu"`, or `"cuda:0"` for the first GPU (docs/gpu.md). `--device` overrides it.
    /// Default: `"cpu"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub device: Option<String>,
    /// Number format that matrices are multiplied in, `"f32"` or `"bf16"`; weights, gradients and the optimiser's state
    /// are in f32. `--compute-dtype` overrides it. Default: `"f32"`.
    #[serde(skip_serializing_if = "is_default_dtype")]
    pub compute_dtype: Option<ComputeDtype>,
    /// Memory budget in GiB, on a GPU of its own memory. Default: 80 % of what is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub memory_gib: Option<f64>,
    /// States that several ranks divide between them (ZeRO, DeepSpeed's `zero_optimization.stage`): 1 the optimiser's
    /// states, 2 gradients as well, 3 parameters as well; 0 none. With 2 and 3 sums over packs are rounded in another
    /// order.
    #[serde(default)]
    #[schemars(extend("x-decides" = "nothing"))]
    pub zero_stage: ZeroStage,
    /// Ranks that divide the tokens of each pack between them (Ulysses sequence parallelism): activations take as many
    /// times less memory on each. It must divide the number of ranks and the attention heads, and divide the key heads
    /// or be a multiple of them. 1 is data parallelism alone.
    #[schemars(extend("x-decides" = "nothing"))]
    pub sequence_parallel_size: usize,
}

/// Whether a number format is the default one: a recipe that names it is the same as one that does not.
fn is_default_dtype(dtype: &Option<ComputeDtype>) -> bool {
    dtype.is_none_or(|dtype| dtype == ComputeDtype::F32)
}

impl Default for ResourceSettings {
    fn default() -> Self {
        Self {
            threads: None,
            device: None,
            compute_dtype: None,
            memory_gib: None,
            zero_stage: ZeroStage::default(),
            sequence_parallel_size: 1,
        }
    }
}

impl ScheduleSettings {
    /// Whether runs of `before` and of `now` updates have the same learning rate in each of these updates, which are
    /// counted from 1.
    #[must_use]
    pub fn has_same_rates(&self, mut updates: RangeInclusive<u64>, before: u64, now: u64) -> bool {
        let (before, now) = (self.schedule(before), self.schedule(now));
        // In bits, since the question is whether weights can be bit-equal.
        updates.all(|n| before.learning_rate(n).to_bits() == now.learning_rate(n).to_bits())
    }

    /// The learning rate by step of a run of `n_steps` optimiser steps.
    #[must_use]
    pub fn schedule(&self, n_steps: u64) -> Schedule {
        let share = |ratio: f64| (ratio * n_steps as f64).ceil() as u64;
        Schedule {
            kind: self.lr_scheduler_type,
            peak: self.learning_rate,
            min_ratio: self.min_lr_ratio,
            warmup_steps: self.warmup_steps.unwrap_or_else(|| share(self.warmup_ratio)).min(n_steps),
            decay_steps: match self.lr_scheduler_type {
                ScheduleKind::Wsd => share(self.decay_ratio),
                _ => 0,
            },
            total_steps: n_steps,
        }
    }

    /// As many epochs as the run needs, and its number of optimiser steps. `make_epoch` makes the epoch of an index,
    /// `n_steps_of` counts its optimiser steps. The last epoch may be used in part.
    ///
    /// # Errors
    /// The error of `make_epoch`.
    pub fn epochs<T, E>(
        &self,
        mut make_epoch: impl FnMut(u64) -> Result<T, E>,
        n_steps_of: impl Fn(&T) -> u64,
    ) -> Result<(Vec<T>, u64), E> {
        let (mut epochs, mut n_steps) = (Vec::new(), 0);
        loop {
            let is_enough = match self.max_steps {
                Some(max_steps) => n_steps >= max_steps,
                None => epochs.len() as f64 >= self.num_train_epochs,
            };
            if is_enough && !epochs.is_empty() {
                break;
            }
            let epoch = make_epoch(epochs.len() as u64)?;
            n_steps += n_steps_of(&epoch);
            epochs.push(epoch);
        }
        let n_whole = self.num_train_epochs as usize;
        let whole: u64 = epochs.iter().take(n_whole).map(&n_steps_of).sum();
        let in_part = epochs.get(n_whole).map_or(0, &n_steps_of);
        let rest = (self.num_train_epochs.fract() * in_part as f64).round() as u64;
        Ok((epochs, self.max_steps.unwrap_or((whole + rest).max(1))))
    }

    fn check(&self) -> Result<(), RunError> {
        if self.max_steps.is_none() {
            require_positive("num_train_epochs", self.num_train_epochs)?;
        }
        require_steps("max_steps", self.max_steps)?;
        require_positive("learning_rate", self.learning_rate)?;
        require_share("warmup_ratio", self.warmup_ratio)?;
        require_share("min_lr_ratio", self.min_lr_ratio)?;
        require_share("decay_ratio", self.decay_ratio)
    }
}

impl OptimizerSettings {
    /// The optimiser without what changes by step.
    #[must_use]
    pub fn config(&self) -> OptimizerConfig {
        OptimizerConfig {
            beta1: self.adam_beta1 as f32,
            beta2: self.adam_beta2 as f32,
            epsilon: self.adam_epsilon as f32,
            weight_decay: self.weight_decay as f32,
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
        }
    }

    fn check(&self) -> Result<(), RunError> {
        require(self.weight_decay.is_finite() && self.weight_decay >= 0.0, || {
            ("weight_decay", self.weight_decay.to_string(), "0 or more")
        })?;
        for (key, beta) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            require((0.0..1.0).contains(&beta), || (key, beta.to_string(), "0 or more and less than 1"))?;
        }
        require_positive("adam_epsilon", self.adam_epsilon)?;
        require(!self.max_grad_norm.is_nan() && self.max_grad_norm >= 0.0, || {
            ("max_grad_norm", self.max_grad_norm.to_string(), "0 or more")
        })
    }
}

impl EvaluationSettings {
    /// Whether there are evaluations at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.eval_steps != Some(0)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`RunError::BadSetting`] naming the key.
    pub fn check(&self) -> Result<(), RunError> {
        require((0.0..1.0).contains(&self.eval_fraction), || {
            ("eval_fraction", self.eval_fraction.to_string(), "0 or more and less than 1")
        })
    }
}

impl CheckpointSettings {
    /// Whether the recipe asks for checkpoints before the run ends; an interrupted run saves one in any case.
    #[must_use]
    pub fn saves_before_end(&self) -> bool {
        self.save_steps.is_some() || self.keep_best || self.load_best_model_at_end
    }

    /// Bytes of the model that the run saves, and of a checkpoint where it `saves` some. A checkpoint has weights and
    /// both moments in float32. Of an adapter it has what learns alone, and so has the model unless it is merged.
    #[must_use]
    pub fn disk_bytes(
        &self,
        n_parameters: u64,
        n_trainable: u64,
        is_adapter: bool,
        is_merged: bool,
        saves: bool,
    ) -> u64 {
        let n_saved = |is_whole: bool| if is_whole { n_parameters } else { n_trainable };
        let of_value = match self.save_dtype {
            SaveDtype::F32 => 4,
            SaveDtype::Bf16 | SaveDtype::F16 => 2,
        };
        let checkpoint = if saves { 4 * n_saved(!is_adapter) + 8 * n_trainable } else { 0 };
        checkpoint + of_value * n_saved(!is_adapter || is_merged)
    }

    fn check(&self, has_eval: bool) -> Result<(), RunError> {
        require_steps("save_steps", self.save_steps)?;
        require(self.save_total_limit > 0, || ("save_total_limit", "0".into(), "at least 1"))?;
        for (key, is_set) in
            [("keep_best", self.keep_best), ("load_best_model_at_end", self.load_best_model_at_end)]
        {
            let expected = "evaluations: `eval_fraction` or `eval_data`, and `eval_steps` other than 0";
            require(has_eval || !is_set, || (key, "true".into(), expected))?;
        }
        Ok(())
    }
}

impl ResourceSettings {
    /// Threads to compute with.
    #[must_use]
    pub fn n_threads(&self, machine: &Machine) -> usize {
        self.threads.unwrap_or(machine.n_threads)
    }

    /// Bytes that the process may hold at its peak.
    #[must_use]
    pub fn budget_bytes(&self, machine: &Machine) -> u64 {
        match self.memory_gib {
            Some(gib) => (gib * GIB) as u64,
            None => machine.resident_bytes + (machine.available_bytes as f64 * DEFAULT_MEMORY_SHARE) as u64,
        }
    }

    /// What an engine needs on one of the machine's ranks.
    #[must_use]
    pub fn on_rank(
        &self,
        memory: EngineMemory,
        parameters: &[ParameterSpec],
        trainable: &TrainableSpec,
        machine: &Machine,
    ) -> EngineMemory {
        memory.on_rank(parameters, trainable, self.zero_stage, machine.n_ranks)
    }

    /// The groups of a run's ranks: `sequence_parallel_size` consecutive ranks hold the rows of the same packs. Every
    /// rank calls.
    ///
    /// # Errors
    /// When a rank was given another size or ZeRO stage than rank 0, or the size does not divide the number of ranks,
    /// on every rank; when a peer is lost.
    pub fn groups(&self, ranks: &Groups) -> Result<Groups, RunError> {
        self.check_same(&*ranks.world)?;
        self.check_ranks(ranks.world.world_size())?;
        Ok(ranks.with_sequence_size(self.sequence_parallel_size)?)
    }

    /// Refuses ranks that would share the work in different ways. The digest of the recipe leaves these settings out,
    /// since they decide no result.
    fn check_same(&self, world: &dyn Communicator) -> Result<(), RunError> {
        let mine = (u64::from(self.zero_stage.number()), self.sequence_parallel_size as u64);
        let all = gather_dealt(world, vec![mine])?;
        for (rank, other) in all.iter().enumerate() {
            for (key, first, other) in
                [("zero_stage", all[0].0, other.0), ("sequence_parallel_size", all[0].1, other.1)]
            {
                if other != first {
                    let found = format!("{other} on rank {rank}");
                    return Err(RunError::BadSetting {
                        key,
                        found,
                        expected: format!("{first}, as on rank 0"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks that `n_ranks` can be divided into sequence groups.
    ///
    /// # Errors
    /// [`RunError::BadSetting`] with the number of ranks.
    pub fn check_ranks(&self, n_ranks: usize) -> Result<(), RunError> {
        if n_ranks.is_multiple_of(self.sequence_parallel_size) {
            return Ok(());
        }
        Err(self.bad_sequence_parallel_size(format!(
            "a divisor of the number of ranks, which is {n_ranks} (`truing launch -n`, `truing plan --ranks`)"
        )))
    }

    /// [`check_ranks`](Self::check_ranks) of the machine that a plan is for. A plan for one rank is allowed with any
    /// size: it need not know the number of ranks of the run.
    ///
    /// # Errors
    /// As [`check_ranks`](Self::check_ranks).
    pub fn check_planned_ranks(&self, machine: &Machine) -> Result<(), RunError> {
        if machine.n_ranks == 1 { Ok(()) } else { self.check_ranks(machine.n_ranks) }
    }

    /// Checks that the packs of a model can be divided over the ranks of a sequence group.
    ///
    /// # Errors
    /// [`RunError::BadSetting`] naming the sizes that the model's heads allow.
    pub fn check_heads(&self, spec: &DecoderSpec) -> Result<(), RunError> {
        let working = spec.sequence_parallel_sizes();
        if working.contains(&self.sequence_parallel_size) {
            return Ok(());
        }
        let (n_heads, n_kv_heads) = (spec.n_heads, spec.n_kv_heads);
        Err(self.bad_sequence_parallel_size(format!(
            "{} for the model's {n_heads} attention heads and {n_kv_heads} key heads",
            alternatives(&working)
        )))
    }

    /// Refuses sequence groups in a run that has none. `why` ends the sentence "expected 1, since ...".
    ///
    /// # Errors
    /// [`RunError::BadSetting`].
    pub fn check_not_divided(&self, why: &str) -> Result<(), RunError> {
        match self.sequence_parallel_size {
            1 => Ok(()),
            _ => Err(self.bad_sequence_parallel_size(format!("1, since {why}"))),
        }
    }

    fn bad_sequence_parallel_size(&self, expected: String) -> RunError {
        let found = self.sequence_parallel_size.to_string();
        RunError::BadSetting { key: "sequence_parallel_size", found, expected }
    }

    fn check(&self) -> Result<(), RunError> {
        require(self.threads != Some(0), || ("threads", "0".into(), "at least 1"))?;
        require(self.sequence_parallel_size > 0, || {
            ("sequence_parallel_size", "0".into(), "at least 1; 1 is data parallelism alone")
        })?;
        self.memory_gib.map_or(Ok(()), |gib| require_positive("memory_gib", gib))
    }
}

/// Checks all sections. `has_eval` says whether there is anything to evaluate on.
///
/// # Errors
/// [`RunError::BadSetting`] naming the key, what was found and what was expected.
pub fn check(
    schedule: &ScheduleSettings,
    optimizer: &OptimizerSettings,
    evaluation: &EvaluationSettings,
    checkpoint: &CheckpointSettings,
    resources: &ResourceSettings,
    has_eval: bool,
) -> Result<(), RunError> {
    schedule.check()?;
    optimizer.check()?;
    evaluation.check()?;
    checkpoint.check(has_eval && evaluation.is_on())?;
    resources.check()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use truing_parallel::{Solo, thread_world};

    use super::*;

    #[test]
    fn sequence_groups_have_to_divide_the_ranks() {
        let settings =
            |sequence_parallel_size| ResourceSettings { sequence_parallel_size, ..Default::default() };
        assert_eq!(settings(1).groups(&Solo::groups()).unwrap().sequence.world_size(), 1);
        assert_eq!(
            settings(2).groups(&Solo::groups()).err().unwrap().to_string(),
            "`sequence_parallel_size` is 2: expected a divisor of the number of ranks, which is 1 \
             (`truing launch -n`, `truing plan --ranks`)"
        );
        assert!(settings(0).check().is_err());
    }

    #[test]
    fn ranks_with_other_settings_than_rank_0_are_refused_on_every_rank() {
        let of_stage = |zero_stage| ResourceSettings { zero_stage, ..Default::default() };
        let of_size =
            |sequence_parallel_size| ResourceSettings { sequence_parallel_size, ..Default::default() };
        for (settings, expected) in [
            (
                [of_stage(ZeroStage::Gradients), of_stage(ZeroStage::Parameters)],
                "`zero_stage` is 3 on rank 1: expected 2, as on rank 0",
            ),
            ([of_size(2), of_size(1)], "`sequence_parallel_size` is 1 on rank 1: expected 2, as on rank 0"),
        ] {
            let errors: Vec<String> = thread::scope(|scope| {
                let ranks: Vec<_> = thread_world(2)
                    .into_iter()
                    .zip(settings)
                    .map(|(rank, settings)| {
                        scope.spawn(move || {
                            let ranks = Groups::new(Arc::new(rank), 1).unwrap();
                            settings.groups(&ranks).err().unwrap().to_string()
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            assert_eq!(errors, [expected; 2]);
        }
    }

    #[test]
    fn rates_of_runs_of_two_lengths_are_compared_up_to_a_step() {
        let settings = |lr_scheduler_type, warmup_steps| ScheduleSettings {
            num_train_epochs: 1.0,
            max_steps: None,
            learning_rate: 1e-3,
            lr_scheduler_type,
            warmup_ratio: 0.1,
            warmup_steps,
            min_lr_ratio: 0.0,
            decay_ratio: 0.1,
        };
        let constant = settings(ScheduleKind::Constant, Some(5));
        assert!(constant.has_same_rates(1..=100, 100, 200));
        assert!(
            !settings(ScheduleKind::Constant, None).has_same_rates(1..=100, 100, 200),
            "warm-up is longer"
        );
        assert!(!settings(ScheduleKind::Cosine, Some(5)).has_same_rates(1..=7, 100, 200));
        // Of 100 steps the last 10 decay, and the first of these is at the peak.
        let wsd = settings(ScheduleKind::Wsd, Some(5));
        assert_eq!([91, 92].map(|n| wsd.has_same_rates(1..=n, 100, 200)), [true, false]);
        assert!(!wsd.has_same_rates(92..=92, 100, 200));
    }

    #[test]
    fn a_run_needs_room_for_what_it_saves() {
        let settings = CheckpointSettings {
            save_steps: None,
            save_total_limit: 2,
            keep_best: false,
            load_best_model_at_end: false,
            save_dtype: SaveDtype::Bf16,
        };
        let bytes =
            |is_adapter, is_merged, saves| settings.disk_bytes(1000, 10, is_adapter, is_merged, saves);
        // 1,000 parameters of which 10 learn: a model in two bytes a number, a checkpoint in four, and two moments in
        // four.
        assert_eq!(bytes(false, false, false), 2000);
        assert_eq!(bytes(false, false, true), 2000 + 4000 + 80);
        assert_eq!(bytes(true, false, true), 20 + 40 + 80);
        assert_eq!(bytes(true, true, true), 2000 + 40 + 80);
        assert!(!settings.saves_before_end());
        assert!(CheckpointSettings { save_steps: Some(1), ..settings.clone() }.saves_before_end());
        let in_full = CheckpointSettings { save_dtype: SaveDtype::F32, ..settings };
        assert_eq!(in_full.disk_bytes(1000, 10, false, false, false), 4000);
    }
}
