//! Every decision of a run of a text encoder that can be made before work starts. A step is a number of samples, or as
//! many as hold some tokens; it is cut into packs by what fits in memory.

use std::path::PathBuf;

use serde_json::json;
use truing_data::{SourceRange, epoch_order};
use truing_model::{ComputeDtype, EncoderSpec, Engine, EngineMemory, TrainableSpec};
use truing_run::Machine;
use truing_run::folder::DecisiveOf;
use truing_store::Digest;
use truing_train::planner::OTHER;
use truing_train::{Amount, MemoryPart, PlanError, PlanRow, Schedule, SegmentPlan};
use truing_types::Seed;

use super::{
    CheckpointSettings, EvaluationSettings, OptimizerSettings, ResourceSettings, RunPlan, RunSettings,
    ScheduleSettings, StepPacks, ranks, steps::memory_rows,
};
use crate::{StageError, StagePlan};

/// Tokens of a pack where the loss is a sum over samples and packs cost nothing.
const TOKENS_PER_PACK: u64 = 4096;

/// A run as it will be.
#[derive(Debug)]
pub struct EncoderPlan {
    settings: EncoderSettings,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Optimiser steps of the run.
    pub n_steps: u64,
    /// Which layers save their activations; the others are computed again.
    pub segments: SegmentPlan,
    /// Most tokens of a pack; a sample is never cut.
    pub tokens_per_pack: u64,
    /// Predicted peak memory.
    pub peak_bytes: u64,
    /// What it may be.
    pub budget_bytes: u64,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Digest of everything that decides the weights.
    pub digest: Digest,
    /// Samples of every step of every epoch, in training order.
    epochs: Vec<Vec<Vec<u32>>>,
    lengths: SampleLengths,
    n_parameters: u64,
    n_ranks: usize,
    memory: EngineMemory,
    sizes: Sizes,
}

/// Settings of a run of an encoder, from any recipe.
#[derive(Debug, Clone)]
pub(crate) struct EncoderSettings {
    pub(crate) output_dir: PathBuf,
    /// The model's name or path in the recipe.
    pub(crate) model_name: String,
    /// The whole recipe as TOML.
    pub(crate) recipe: String,
    /// The settings of a recipe's text that decide the weights.
    pub(crate) decisive_of: DecisiveOf,
    pub(crate) seed: u64,
    pub(crate) step_size: StepSize,
    pub(crate) schedule: ScheduleSettings,
    pub(crate) optimizer: OptimizerSettings,
    pub(crate) evaluation: EvaluationSettings,
    pub(crate) checkpoint: CheckpointSettings,
    pub(crate) resources: ResourceSettings,
    pub(crate) logging_steps: u64,
    pub(crate) trainable: TrainableSpec,
}

/// How many samples an optimiser step has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepSize {
    /// This many.
    Samples(usize),
    /// As many as hold this many tokens.
    Tokens(u64),
}

/// Samples as the planner sees them.
#[derive(Debug)]
pub(crate) struct SampleLengths {
    /// What one is called: `triplet`, `text`.
    pub(crate) unit: &'static str,
    /// Tokens of each sample that is trained on, over all its texts.
    pub(crate) train: Vec<u64>,
    /// Of each that is evaluated on; empty for none.
    pub(crate) eval: Vec<u64>,
    /// The sources of the first, each a range of samples.
    pub(crate) sources: Vec<SourceRange>,
    /// Texts that lost their end.
    pub(crate) n_cut: usize,
}

impl EncoderPlan {
    /// Makes the plan, or says why there is none. Pure: it opens no file. `couples_packs`: the loss wants a step's
    /// packs to be few.
    ///
    /// # Errors
    /// When the memory does not suffice.
    pub(crate) fn resolve<E: Engine>(
        settings: EncoderSettings,
        spec: &EncoderSpec,
        lengths: SampleLengths,
        couples_packs: bool,
        digest: Digest,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        settings.resources.check_not_divided("the packs of an encoder are not divided over ranks")?;
        let (epochs, n_steps) = settings.schedule.epochs(
            |epoch| {
                let order = epoch_order(&lengths.sources, Seed(settings.seed), epoch);
                Ok::<_, StageError>(steps_of(settings.step_size, &order, &lengths.train))
            },
            |steps| steps.len() as u64,
        )?;
        let model = spec.clone().into();
        let memory = E::memory(&model, &settings.trainable, ComputeDtype::default());
        let memory = settings.resources.on_rank(memory, &spec.parameters(), &settings.trainable, machine);
        let budget_bytes = settings.resources.budget_bytes(machine);
        let sizes = Sizes { n_layers: spec.n_layers as u64, resident_bytes: machine.resident_bytes };
        let largest_sample = lengths.train.iter().chain(&lengths.eval).copied().max().unwrap_or(0);
        let tokens_of = |step: &Vec<u32>| step.iter().map(|&i| lengths.train[i as usize]).sum::<u64>();
        let largest_step = epochs.iter().flatten().map(tokens_of).max().unwrap_or(0);
        let wanted = if couples_packs { largest_step } else { largest_step.min(TOKENS_PER_PACK) };
        let wanted = wanted.max(largest_sample);
        let plans = [SegmentPlan::keep_everything(spec.n_layers), SegmentPlan::checkpoint(spec.n_layers, 1)];
        let Some((segments, tokens_per_pack)) = plans.into_iter().find_map(|segments| {
            let fitting = sizes.fitting_tokens(&memory, &segments, budget_bytes);
            (fitting >= largest_sample).then_some((segments, fitting.min(wanted)))
        }) else {
            let fitting = sizes.fitting_tokens(&memory, &plans[1], budget_bytes);
            let source = PlanError::DoesNotFit {
                needed_bytes: sizes.peak_bytes(&memory, &plans[1], largest_sample),
                budget_bytes,
                tokens_per_pack: largest_sample,
                fitting_tokens_per_pack: Some(fitting).filter(|&tokens| tokens > 0),
            };
            // A pack holds at least one sample.
            let hint = format!(
                "the longest {} has {largest_sample} tokens; shorter ones would need less",
                lengths.unit
            );
            return Err(StageError::DoesNotFit { source, hints: vec![hint] });
        };
        Ok(Self {
            schedule: settings.schedule.schedule(n_steps),
            n_steps,
            segments,
            tokens_per_pack,
            peak_bytes: sizes.peak_bytes(&memory, &segments, tokens_per_pack),
            budget_bytes,
            n_threads: settings.resources.n_threads(machine),
            digest,
            epochs,
            n_parameters: spec.n_parameters() as u64,
            n_ranks: machine.n_ranks,
            memory,
            sizes,
            lengths,
            settings,
        })
    }

    /// What is held at the peak, part by part; together [`Self::peak_bytes`].
    #[must_use]
    pub fn memory_parts(&self) -> Vec<MemoryPart> {
        self.sizes.parts(&self.memory, &self.segments, self.tokens_per_pack)
    }

    fn cut_into_packs(&self, samples: &[u32], lengths: &[u64]) -> Vec<Vec<u32>> {
        within(self.tokens_per_pack, samples, lengths)
    }
}

impl RunPlan for EncoderPlan {
    fn settings(&self) -> RunSettings<'_> {
        let settings = &self.settings;
        RunSettings {
            output_dir: &settings.output_dir,
            disk: None,
            recipe: settings.recipe.as_str().into(),
            decisive_of: settings.decisive_of,
            model_name: &settings.model_name,
            seed: settings.seed,
            evaluation: &settings.evaluation,
            checkpoint: &settings.checkpoint,
            resources: &settings.resources,
            logging_steps: settings.logging_steps,
            merge_adapter: false,
            pack_capacity: None,
            trainable: &settings.trainable,
            segments: self.segments,
            optimizer: settings.optimizer.config(),
            schedule: self.schedule,
            schedule_settings: &settings.schedule,
            n_threads: self.n_threads,
            digest: self.digest,
        }
    }

    fn n_steps(&self) -> u64 {
        self.n_steps
    }

    fn packs_of(&self, step: u64) -> StepPacks<'_> {
        StepPacks::of_step(
            step,
            &self.epochs,
            |steps| steps.len() as u64,
            |steps, idx| self.cut_into_packs(&steps[idx], &self.lengths.train).into(),
        )
    }

    fn eval_steps(&self) -> Vec<Vec<Vec<u32>>> {
        let eval = &self.lengths.eval;
        let all: Vec<u32> = (0..eval.len() as u32).collect();
        let steps = steps_of(self.settings.step_size, &all, eval);
        steps.iter().map(|step| self.cut_into_packs(step, eval)).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "peak_bytes": self.peak_bytes,
            "budget_bytes": self.budget_bytes,
            "reason": self.summary(),
            "n_steps": self.n_steps,
            "parts": self.memory_parts(),
        })
    }
}

impl StagePlan for EncoderPlan {
    /// The plan as lines.
    fn table(&self) -> Vec<PlanRow> {
        let row = PlanRow::new;
        let unit = self.lengths.unit;
        let count = |name: &str, n: usize| PlanRow::new(name, Amount::Count(n as u64));
        let n_of_an_epoch = self.epochs.first().map_or(0, |steps| steps.iter().map(Vec::len).sum());
        let mut rows = vec![
            row("parameters of the model", Amount::Count(self.n_parameters)),
            count(&format!("{unit}s of an epoch"), n_of_an_epoch),
            count(&format!("{unit}s to evaluate on"), self.lengths.eval.len()),
            count("texts that are cut", self.lengths.n_cut),
            row("tokens of the largest pack", Amount::Count(self.tokens_per_pack)),
        ];
        rows.extend(ranks::rows(&self.settings.resources, self.n_ranks));
        rows.extend(memory_rows(&self.memory_parts(), self.budget_bytes));
        rows.push(row("steps", Amount::Count(self.n_steps)));
        rows
    }

    /// In one sentence.
    fn summary(&self) -> String {
        let kept = match self.segments.n_recomputed_layers() {
            0 => "activations are kept",
            _ => "layers are recomputed because their activations do not fit in memory",
        };
        let size = match self.settings.step_size {
            StepSize::Samples(n) => format!("{n} {}s", self.lengths.unit),
            StepSize::Tokens(n) => format!("at most {n} tokens"),
        };
        format!("{} steps of {size}; {kept}", self.n_steps)
    }
}

fn steps_of(size: StepSize, samples: &[u32], lengths: &[u64]) -> Vec<Vec<u32>> {
    match size {
        StepSize::Samples(n) => samples.chunks(n).map(<[u32]>::to_vec).collect(),
        StepSize::Tokens(n) => within(n, samples, lengths),
    }
}

/// Samples in their order, cut so that each part has at most `n_tokens`, or one sample.
fn within(n_tokens: u64, samples: &[u32], lengths: &[u64]) -> Vec<Vec<u32>> {
    let mut parts: Vec<Vec<u32>> = Vec::new();
    let mut room = 0;
    for &sample in samples {
        let length = lengths[sample as usize];
        match parts.last_mut() {
            Some(part) if length <= room => {
                part.push(sample);
                room -= length;
            }
            _ => {
                parts.push(vec![sample]);
                room = n_tokens.saturating_sub(length);
            }
        }
    }
    parts
}

/// What a pack's memory follows from.
#[derive(Debug)]
struct Sizes {
    n_layers: u64,
    resident_bytes: u64,
}

impl Sizes {
    fn activation_bytes_per_token(&self, memory: &EngineMemory, segments: &SegmentPlan) -> u64 {
        match segments.n_recomputed_layers() {
            0 => self.n_layers * memory.layer_bytes_per_token,
            // One layer at a time is computed again.
            _ => self.n_layers * memory.segment_input_bytes_per_token + memory.layer_bytes_per_token,
        }
    }

    /// What is held while packs of so many tokens are trained on, part by part.
    fn parts(&self, memory: &EngineMemory, segments: &SegmentPlan, tokens: u64) -> Vec<MemoryPart> {
        let activations = self.activation_bytes_per_token(memory, segments) * tokens;
        [
            ("parameters", memory.parameter_bytes),
            ("gradients", memory.gradient_bytes),
            ("optimizer", memory.optimizer_bytes),
            ("activations", activations),
            ("head", memory.head_fixed_bytes + memory.head_bytes_per_token * tokens),
            ("workspace of a layer", memory.workspace_bytes_per_token * tokens),
            (OTHER, memory.fixed_bytes + self.resident_bytes),
        ]
        .map(|(name, bytes)| MemoryPart::new(name, bytes))
        .to_vec()
    }

    fn fitting_tokens(&self, memory: &EngineMemory, segments: &SegmentPlan, budget_bytes: u64) -> u64 {
        let fixed = self.peak_bytes(memory, segments, 0);
        let per_token = self.peak_bytes(memory, segments, 1) - fixed;
        budget_bytes.saturating_sub(fixed) / per_token
    }

    fn peak_bytes(&self, memory: &EngineMemory, segments: &SegmentPlan, tokens: u64) -> u64 {
        MemoryPart::total(&self.parts(memory, segments, tokens))
    }
}
