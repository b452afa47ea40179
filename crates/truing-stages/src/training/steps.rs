//! What a run needs of a plan, for any kind of model and batches.

use std::borrow::Cow;
use std::path::Path;

use truing_model::TrainableSpec;
use truing_run::checks::DiskSpace;
use truing_run::folder::DecisiveOf;
use truing_store::Digest;
use truing_train::planner::OTHER;
use truing_train::{Amount, MemoryPart, OptimizerConfig, PlanRow, Schedule, SegmentPlan};

use super::{CheckpointSettings, EvaluationSettings, ResourceSettings, ScheduleSettings};

/// The packs of an optimiser step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPacks<'a> {
    /// Samples of each pack.
    pub packs: Cow<'a, [Vec<u32>]>,
    /// Epochs done once the step is.
    pub epochs_done: f64,
    /// Whether it is its epoch's last.
    pub ends_epoch: bool,
}

impl<'a> StepPacks<'a> {
    /// The packs of optimiser step `step`, counted from 1 over all `epochs`. `n_steps_of` counts the steps of an epoch,
    /// `packs_of` gives the packs of its step with the given index.
    pub(crate) fn of_step<T>(
        step: u64,
        epochs: &'a [T],
        n_steps_of: impl Fn(&T) -> u64,
        packs_of: impl Fn(&'a T, usize) -> Cow<'a, [Vec<u32>]>,
    ) -> Self {
        let mut before = 0;
        for (idx, epoch) in epochs.iter().enumerate() {
            let n_steps = n_steps_of(epoch);
            if step <= before + n_steps {
                let in_epoch = step - before;
                return Self {
                    packs: packs_of(epoch, in_epoch as usize - 1),
                    epochs_done: idx as f64 + in_epoch as f64 / n_steps as f64,
                    ends_epoch: in_epoch == n_steps,
                };
            }
            before += n_steps;
        }
        Self { packs: Cow::Borrowed(&[]), epochs_done: epochs.len() as f64, ends_epoch: true }
    }
}

/// Rows of a plan: what is held at the peak, part by part, then their sum and the budget.
pub(crate) fn memory_rows(parts: &[MemoryPart], budget_bytes: u64) -> Vec<PlanRow> {
    let sums = [("peak", MemoryPart::total(parts)), ("budget", budget_bytes)];
    let rows = parts.iter().map(|part| (part.name, part.bytes)).chain(sums);
    rows.map(|(name, bytes)| PlanRow::new(name, Amount::Bytes(bytes))).collect()
}

/// The parts of a plan whose fixed bytes contain `named`: these become parts of their own.
pub(crate) fn with_named(mut parts: Vec<MemoryPart>, named: &[MemoryPart]) -> Vec<MemoryPart> {
    let named_bytes = MemoryPart::total(named);
    for part in parts.iter_mut().filter(|part| part.name == OTHER) {
        part.bytes -= named_bytes;
    }
    parts.extend(named.iter().filter(|part| part.bytes > 0));
    parts
}

/// What a run trains and how, where it writes, and how often it logs, evaluates and saves.
#[derive(Debug, Clone)]
pub struct RunSettings<'a> {
    /// Folder of the run.
    pub output_dir: &'a Path,
    /// What is saved there, where it is much.
    pub disk: Option<&'a DiskSpace>,
    /// The whole recipe as TOML.
    pub recipe: Cow<'a, str>,
    /// The settings of a recipe's text that decide the weights.
    pub decisive_of: DecisiveOf,
    /// The model's name or path in the recipe.
    pub model_name: &'a str,
    /// The run's seed.
    pub seed: u64,
    /// What is evaluated, and when.
    pub evaluation: &'a EvaluationSettings,
    /// What is saved, and when.
    pub checkpoint: &'a CheckpointSettings,
    /// How the ranks share the work.
    pub resources: &'a ResourceSettings,
    /// Steps between lines of metrics.
    pub logging_steps: u64,
    /// With LoRA: save the whole model.
    pub merge_adapter: bool,
    /// Tokens that a pack can hold, where packs are to be filled.
    pub pack_capacity: Option<u32>,
    /// What learns.
    pub trainable: &'a TrainableSpec,
    /// Which segments save their activations.
    pub segments: SegmentPlan,
    /// Optimiser without what changes by step.
    pub optimizer: OptimizerConfig,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// What the schedule is of, for runs of any length.
    pub schedule_settings: &'a ScheduleSettings,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Digest of everything that decides the weights.
    pub digest: Digest,
}

/// A plan as a training run sees it.
pub trait RunPlan {
    /// What the run trains and how, where it writes, and how often.
    fn settings(&self) -> RunSettings<'_>;
    /// Optimiser steps of the run.
    fn n_steps(&self) -> u64;
    /// `plan.json` of the run directory.
    fn to_json(&self) -> serde_json::Value;
    /// The packs of one step, counted from 1.
    fn packs_of(&self, step: u64) -> StepPacks<'_>;
    /// Steps of an evaluation, each as packs. An objective that couples packs sees those of a step together.
    fn eval_steps(&self) -> Vec<Vec<Vec<u32>>>;

    /// Tokens from one step (counted from 1) to the end of the run.
    fn tokens_from(&self, step: u64, lengths: &[u32]) -> u64 {
        let tokens_of = |step| {
            let packs = self.packs_of(step).packs;
            packs.iter().flatten().map(|&sample| u64::from(lengths[sample as usize])).sum::<u64>()
        };
        (step..=self.n_steps()).map(tokens_of).sum()
    }
}
