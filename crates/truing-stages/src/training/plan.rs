//! Every decision of a training run that can be made before work starts, checked and printable.

use serde_json::json;
use truing_data::{Packing, PackingReport, PackingStrategy, epoch_order};
use truing_model::{
    ComputeDtype, DecoderSpec, Engine, EngineError, LoraSpec, ModelFiles, ParameterSpec, TrainableSpec,
};
use truing_run::checks::{DiskSpace, require_output_dir};
use truing_run::inputs::resume_key;
use truing_run::{Machine, Recipe, RunError, recipe, settings};
use truing_store::Digest;
use truing_train::{
    Amount, MemoryPart, MemoryPlan, OptimizerConfig, PlanError, PlanRow, Schedule, SegmentChoice, StepFlops,
    StepShape, TrainError, plan_segments,
};
use truing_types::{Seed, StageName};

use super::{
    BesideTraining, EvaluationSettings, LoraConfig, PackingMode, RunPlan, RunSettings, StepPacks,
    TrainingConfig, TrainingData, TrainingInputs, ranks,
    steps::{memory_rows, with_named},
    time,
};
use crate::{StageError, StagePlan};

/// The part of a plan's memory that a step needs while it samples, or while a teacher computes.
const SAMPLING: &str = "during sampling, in place of activations";

/// A run as it will be.
#[derive(Debug)]
pub struct TrainingPlan {
    /// The settings.
    pub config: TrainingConfig,
    /// What learns.
    pub trainable: TrainableSpec,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Optimiser without what changes by step.
    pub optimizer: OptimizerConfig,
    /// Packs of each epoch in training order; the last may be begun only.
    pub epochs: Vec<Packing>,
    /// Packs of an optimiser step over all ranks; an epoch's last step may have fewer.
    pub packs_per_step: usize,
    /// Optimiser steps of the run.
    pub n_steps: u64,
    /// Samples of each pack to evaluate on; empty for none.
    pub eval_packs: Vec<Vec<u32>>,
    /// Memory, and the segments that fit into it.
    pub memory: MemoryPlan,
    /// Memory of what a step does beside training.
    pub beside: BesideTraining,
    /// A mean optimiser step.
    pub step_shape: StepShape,
    /// Its operations.
    pub step_flops: StepFlops,
    /// What it takes at the machine's rates, where they are known.
    pub step_secs: Option<f64>,
    /// What the reference takes before the first step, where the rate is known; 0 without a reference.
    pub before_secs: Option<f64>,
    /// What the run saves, and the room for it.
    pub disk: DiskSpace,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Digest of everything that decides the weights.
    pub digest: Digest,
    n_parameters: u64,
    n_trainable: u64,
    n_ranks: usize,
}

impl TrainingPlan {
    /// Makes the plan, or says why there is none. Pure: it opens no file.
    ///
    /// # Errors
    /// When a setting is invalid, samples do not fit, or the memory does not suffice.
    pub fn resolve<E: Engine, I: TrainingInputs>(
        config: TrainingConfig,
        inputs: &I,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        let model = inputs.model().spec();
        let (spec, train) = (model.decoder()?, inputs.train());
        check(&config, inputs.eval().is_some())?;
        check_with_model(&config, spec)?;
        config.resources.check_planned_ranks(machine)?;
        if train.lengths().is_empty() {
            return Err(RunError::BadSetting {
                key: if config.evaluation.eval_fraction > 0.0 { "eval_fraction" } else { "data" },
                found: if config.evaluation.eval_fraction > 0.0 {
                    config.evaluation.eval_fraction.to_string()
                } else {
                    "empty".into()
                },
                expected: "at least one row to train on; equal rows are held out together".into(),
            }
            .into());
        }
        let trainable = config.trainable();
        let (n_parameters, n_trainable) = check_trainable(spec, &trainable)?;
        let packs_per_step = packs_per_step(&config)?;
        let (seed, lengths) = (Seed(config.seed), train.lengths());
        let (epochs, n_steps) = config.schedule.epochs(
            |epoch| {
                let visits = epoch_order(train.sources(), seed, epoch);
                Packing::of_epoch(&lengths, &visits, config.max_length, strategy(&config), seed, epoch)
            },
            |epoch| epoch.packs.len().div_ceil(packs_per_step) as u64,
        )?;
        let eval_packs = inputs.eval().map_or(Ok(Vec::new()), |eval| pack_in_order(&config, eval))?;
        let largest_of = |packing: &Packing| {
            packing.packs.iter().map(|pack| pack.iter().map(|&i| u64::from(lengths[i as usize])).sum()).max()
        };
        let largest_pack: u64 = epochs.iter().filter_map(largest_of).max().unwrap_or(0);

        let n_threads = config.resources.n_threads(machine);
        let budget_bytes = config.resources.budget_bytes(machine);
        let mut beside = inputs.beside_training::<E>(&config, packs_per_step);
        if beside.sampling_bytes > 0 {
            let whole = E::memory(&model, &trainable, ComputeDtype::default());
            beside.sampling_bytes += ranks::gathered_bytes(&config.resources, machine, whole.parameter_bytes);
        }
        let n_dividing = config.resources.sequence_parallel_size;
        let memory_of = |trainable: &TrainableSpec| {
            let memory = E::memory(&model, trainable, ComputeDtype::default());
            let parameters = model.parameters_with(trainable)?;
            let mut memory = config
                .resources
                .on_rank(memory, &parameters, trainable, machine)
                .in_sequence_group(spec, n_dividing);
            memory.fixed_bytes += machine.resident_bytes + beside.lasting_bytes();
            Ok::<_, EngineError>(memory)
        };
        let layers = config.layers_per_segment.0;
        let largest_share = largest_pack.div_ceil(n_dividing as u64);
        let step_shape = mean_step(train, &epochs, packs_per_step);
        let attention_share = StepFlops::attention_share(spec, &step_shape);
        let plan_memory = |trainable: &TrainableSpec| {
            let memory = memory_of(trainable)?;
            let planned =
                plan_segments(&memory, spec.n_layers, largest_share, budget_bytes, layers, attention_share);
            Ok::<_, EngineError>(planned)
        };
        let memory = plan_memory(&trainable)?.map_err(|error| {
            let adapters = TrainableSpec { lora: Some(default_lora()), frozen: Vec::new() };
            let fits_with_lora = trainable.lora.is_none() && matches!(plan_memory(&adapters), Ok(Ok(_)));
            does_not_fit(error, fits_with_lora, n_dividing)
        })?;
        let step_flops = StepFlops::of(spec, &trainable, &step_shape, &memory.chosen.segments);
        check_sampling(memory.memory.lasting_bytes() + beside.sampling_bytes, &memory)?;
        let step = (&step_shape, &step_flops);
        Ok(Self {
            step_secs: time::of_step::<E, I>(&config, inputs, spec, step, machine),
            before_secs: time::before_steps(&config, inputs, spec, machine),
            disk: disk_space(&config, n_parameters, n_trainable),
            digest: resume_key::<E>(&config, inputs.record(), inputs.samples_digest()),
            schedule: config.schedule.schedule(n_steps),
            optimizer: config.optimizer.config(),
            trainable,
            epochs,
            packs_per_step,
            n_steps,
            eval_packs,
            memory,
            step_shape,
            step_flops,
            beside,
            n_threads,
            n_parameters,
            n_trainable,
            n_ranks: machine.n_ranks,
            config,
        })
    }

    /// The most memory of the run, as planned.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.memory.chosen.peak_bytes.max(self.sampling_peak_bytes())
    }

    /// The same while completions are sampled or a teacher computes.
    fn sampling_peak_bytes(&self) -> u64 {
        self.memory.memory.lasting_bytes() + self.beside.sampling_bytes
    }

    /// What is held at the peak, part by part; together [`Self::peak_bytes`].
    #[must_use]
    pub fn memory_parts(&self) -> Vec<MemoryPart> {
        let lasting = &self.beside.lasting;
        if self.sampling_peak_bytes() <= self.memory.chosen.peak_bytes {
            return with_named(self.memory.parts(), lasting);
        }
        let mut parts = with_named(self.memory.lasting_parts(), lasting);
        parts.push(MemoryPart::new(SAMPLING, self.beside.sampling_bytes));
        parts
    }

    /// What packing makes of the first epoch.
    #[must_use]
    pub fn packing(&self) -> &PackingReport {
        &self.epochs[0].report
    }

    /// The best way for every k, for a table.
    #[must_use]
    pub fn by_layers_per_segment(&self) -> &[SegmentChoice] {
        &self.memory.by_layers_per_segment
    }
}

impl RunPlan for TrainingPlan {
    fn settings(&self) -> RunSettings<'_> {
        let config = &self.config;
        RunSettings {
            output_dir: &config.output_dir,
            disk: Some(&self.disk),
            recipe: config.to_toml().into(),
            decisive_of: recipe::decisive_of::<TrainingConfig>,
            model_name: &config.model_name_or_path,
            seed: config.seed,
            evaluation: &config.evaluation,
            checkpoint: &config.checkpoint,
            resources: &config.resources,
            logging_steps: config.logging_steps,
            merge_adapter: config.merge_adapter,
            pack_capacity: Some(config.max_length),
            trainable: &self.trainable,
            segments: self.memory.chosen.segments,
            optimizer: self.optimizer,
            schedule: self.schedule,
            schedule_settings: &config.schedule,
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
            |epoch| epoch.packs.len().div_ceil(self.packs_per_step) as u64,
            |epoch, idx| {
                let first = idx * self.packs_per_step;
                epoch.packs[first..(first + self.packs_per_step).min(epoch.packs.len())].into()
            },
        )
    }

    fn eval_steps(&self) -> Vec<Vec<Vec<u32>>> {
        self.eval_packs.iter().map(|pack| vec![pack.clone()]).collect()
    }

    fn to_json(&self) -> serde_json::Value {
        let segments = self.memory.chosen.segments;
        json!({
            "peak_bytes": self.peak_bytes(),
            "budget_bytes": self.memory.budget_bytes,
            "layers_per_segment": segments.layers_per_segment,
            "n_recomputed_layers": segments.n_recomputed_layers(),
            "reason": self.summary(),
            "n_steps": self.n_steps,
            "flops_per_step": self.step_flops.total(),
            "parts": self.memory_parts(),
        })
    }
}

impl StagePlan for TrainingPlan {
    /// The plan as lines: model, data, memory, work.
    fn table(&self) -> Vec<PlanRow> {
        let row = PlanRow::new;
        let packing = self.packing();
        let tokens_of_largest = match self.config.resources.sequence_parallel_size {
            1 => "tokens of the largest pack",
            _ => "tokens of the largest pack, on each rank of its group",
        };
        let mut rows = vec![
            row("parameters of the model", Amount::Count(self.n_parameters)),
            row("trainable parameters", Amount::Count(self.n_trainable)),
            row("sequences of an epoch", Amount::Count(packing.n_sequences as u64)),
            row("tokens of an epoch", Amount::Count(packing.n_tokens)),
            row("packs of an epoch", Amount::Count(packing.n_packs as u64)),
            row("utilisation, packed", Amount::Share(packing.utilisation)),
            row("utilisation without packing (padded)", Amount::Share(packing.padded_utilisation)),
            row("evaluation packs", Amount::Count(self.eval_packs.len() as u64)),
            row(tokens_of_largest, Amount::Count(self.memory.tokens_per_pack)),
        ];
        rows.extend(ranks::rows(&self.config.resources, self.n_ranks));
        let parts = self.memory_parts();
        rows.extend(memory_rows(&parts, self.memory.budget_bytes));
        // Where it is not at the peak, it is not one of its parts.
        if self.beside.sampling_bytes > 0 && parts.iter().all(|part| part.name != SAMPLING) {
            rows.push(row(SAMPLING, Amount::Bytes(self.beside.sampling_bytes)));
        }
        rows.extend([
            row("tokens of a step", Amount::Count(self.step_shape.tokens.round() as u64)),
            row("loss tokens of a step", Amount::Count(self.step_shape.loss_tokens.round() as u64)),
            row("FLOPs per step", Amount::Flops(self.step_flops.total())),
            row("of which recomputed", Amount::Flops(self.step_flops.recomputed)),
            row("steps", Amount::Count(self.n_steps)),
        ]);
        if let Some(secs) = self.before_secs.filter(|&secs| secs > 0.0) {
            rows.push(row("time of the reference pass", Amount::Seconds(secs)));
        }
        if let (Some(before), Some(secs)) = (self.before_secs, self.step_secs) {
            let of_step = match self.config.stage {
                StageName::Distill => "time of a step, completions of full length",
                _ => "time of a step",
            };
            rows.push(row(of_step, Amount::Seconds(secs)));
            rows.push(row("time of the run", Amount::Seconds(before + secs * self.n_steps as f64)));
        }
        rows.extend(self.disk.rows());
        rows
    }

    fn warnings(&self) -> Vec<String> {
        self.disk.warning().into_iter().collect()
    }

    /// The chosen k and why, in one sentence.
    fn summary(&self) -> String {
        let segments = self.memory.chosen.segments;
        let (k, n_layers) = (segments.layers_per_segment, segments.n_layers);
        match segments.n_recomputed_layers() {
            0 => format!("the activations of all {n_layers} layers fit in memory: no recomputation"),
            n => format!(
                "k = {k}: {n} of {n_layers} layers are recomputed; recomputing fewer would exceed the memory budget"
            ),
        }
    }
}

/// Refuses a run whose memory outside of training, while completions are sampled and compared, exceeds the budget.
pub(crate) fn check_sampling(needed_bytes: u64, plan: &MemoryPlan) -> Result<(), StageError> {
    if needed_bytes <= plan.budget_bytes {
        return Ok(());
    }
    Err(StageError::DoesNotFit {
        source: PlanError::DoesNotFit {
            needed_bytes,
            budget_bytes: plan.budget_bytes,
            tokens_per_pack: plan.tokens_per_pack,
            fitting_tokens_per_pack: None,
        },
        hints: vec!["a smaller `generation_batch_size` takes less while completions are sampled".into()],
    })
}

/// The adapters that are offered where full fine-tuning does not fit.
fn default_lora() -> LoraSpec {
    let LoraConfig { rank, alpha, targets } = LoraConfig::default();
    LoraSpec { rank, alpha, targets }
}

/// `n_dividing`: ranks that divide a pack between them.
fn does_not_fit(source: PlanError, fits_with_lora: bool, n_dividing: usize) -> StageError {
    let mut hints = Vec::new();
    if let PlanError::DoesNotFit { fitting_tokens_per_pack, .. } = source {
        if let Some(tokens) = fitting_tokens_per_pack {
            hints.push(format!("`max_length = {}` would fit", tokens * n_dividing as u64));
        }
        if fits_with_lora {
            hints.push("a `[lora]` table would fit".to_owned());
        }
    }
    StageError::DoesNotFit { source, hints }
}

/// Checks the settings that no other step looks at, without model and data. `has_eval` says whether there is anything
/// to evaluate on, as far as is known.
pub(crate) fn check(config: &TrainingConfig, has_eval: bool) -> Result<(), StageError> {
    let bad = |key, found: String, expected: &str| {
        Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
    };
    require_output_dir(&config.output_dir, "a folder for the run")?;
    settings::check(
        &config.schedule,
        &config.optimizer,
        &config.evaluation,
        &config.checkpoint,
        &config.resources,
        has_eval,
    )?;
    let positive = |value: f64| value.is_finite() && value > 0.0;
    packs_per_step(config)?;
    match config {
        c if c.logging_steps == 0 => bad("logging_steps", "0".into(), "at least 1"),
        c if c.lora.as_ref().is_some_and(|lora| lora.rank == 0) => bad("lora.rank", "0".into(), "at least 1"),
        TrainingConfig { lora: Some(lora), .. } if !positive(f64::from(lora.alpha)) => {
            bad("lora.alpha", lora.alpha.to_string(), "a number above 0")
        }
        c if c.merge_adapter && c.lora.is_none() => {
            bad("merge_adapter", "true".into(), "a [lora] table, which this setting requires")
        }
        TrainingConfig { evaluation: EvaluationSettings { eval_steps: Some(steps @ 1..), .. }, .. }
            if !has_eval =>
        {
            bad(
                "eval_steps",
                steps.to_string(),
                "evaluation data, which this setting requires: `eval_fraction` or [[eval_data]]",
            )
        }
        _ => Ok(()),
    }
}

/// Checks the settings that depend on the model.
pub(crate) fn check_with_model(config: &TrainingConfig, spec: &DecoderSpec) -> Result<(), StageError> {
    let context = spec.max_position_embeddings;
    if config.max_length as usize > context {
        return Err(RunError::BadSetting {
            key: "max_length",
            found: config.max_length.to_string(),
            expected: format!("at most the model's context of {context} tokens"),
        }
        .into());
    }
    config.resources.check_heads(spec)?;
    check_trainable(spec, &config.trainable()).map(drop)
}

/// What a run saves, by the model as it is on disk. `None` where the recipe does not fit it, which reading the inputs
/// reports: the head of a reward model or a classifier is still another one here.
pub(crate) fn disk_space_by_model(config: &TrainingConfig) -> Result<Option<DiskSpace>, StageError> {
    let spec = ModelFiles::open(config.model_name_or_path.as_ref())?.spec;
    let counted = check_trainable(&spec, &config.trainable()).ok();
    Ok(counted.map(|(n_parameters, n_trainable)| disk_space(config, n_parameters, n_trainable)))
}

/// What a run with so many parameters saves.
fn disk_space(config: &TrainingConfig, n_parameters: u64, n_trainable: u64) -> DiskSpace {
    let is_adapter = config.lora.is_some();
    let saves = config.checkpoint.saves_before_end() || config.schedule.num_train_epochs > 1.0;
    let needed =
        config.checkpoint.disk_bytes(n_parameters, n_trainable, is_adapter, config.merge_adapter, saves);
    DiskSpace { path: config.output_dir.clone(), needed }
}

/// Checks that every name means something, and counts the parameters: all, and those that learn.
pub(crate) fn check_trainable(
    spec: &DecoderSpec,
    trainable: &TrainableSpec,
) -> Result<(u64, u64), StageError> {
    let mut parameters = spec.parameters();
    check_frozen(&parameters, &trainable.frozen, "model.embed_tokens")?;
    if let Some(lora) = &trainable.lora {
        for target in spec.stored_targets(&lora.targets) {
            let one = LoraSpec { targets: vec![target.clone()], ..lora.clone() };
            if spec.lora_parameters(&one).is_empty() {
                return Err(EngineError::UnknownLoraTarget { target }.into());
            }
        }
        parameters.extend(spec.lora_parameters(lora));
    }
    let count = |parameters: &mut dyn Iterator<Item = &ParameterSpec>| -> u64 {
        parameters.map(|parameter| parameter.n_elements() as u64).sum()
    };
    let n_trainable = count(&mut parameters.iter().filter(|parameter| trainable.is_trainable(parameter)));
    match n_trainable {
        0 => Err(TrainError::NothingLearns.into()),
        _ => Ok((count(&mut parameters.iter()), n_trainable)),
    }
}

/// Refuses a prefix that no parameter's name begins with. `example` is one that does.
pub(crate) fn check_frozen(
    parameters: &[ParameterSpec],
    frozen: &[String],
    example: &str,
) -> Result<(), RunError> {
    let is_unknown =
        |prefix: &&String| !parameters.iter().any(|parameter| parameter.name.starts_with(prefix.as_str()));
    frozen.iter().find(is_unknown).map_or(Ok(()), |prefix| {
        Err(RunError::BadSetting {
            key: "freeze",
            found: format!("`{prefix}`"),
            expected: format!("the beginning of a parameter's name, for instance `{example}`"),
        })
    })
}

pub(crate) fn packs_per_step(config: &TrainingConfig) -> Result<usize, StageError> {
    let n_packs = match config.tokens_per_step {
        Some(tokens) => tokens.div_ceil(u64::from(config.max_length)) as usize,
        None => config.packs_per_step,
    };
    if n_packs > 0 {
        return Ok(n_packs);
    }
    let (key, expected) = match config.tokens_per_step {
        Some(_) => ("tokens_per_step", "at least 1".to_owned()),
        None => ("packs_per_step", "at least 1".to_owned()),
    };
    Err(RunError::BadSetting { key, found: "0".into(), expected }.into())
}

fn strategy(config: &TrainingConfig) -> PackingStrategy {
    match config.packing {
        PackingMode::BestFitDecreasing => PackingStrategy::BestFitDecreasing,
        PackingMode::None => PackingStrategy::OneSequence,
    }
}

/// Packs for evaluation: every sample once.
fn pack_in_order(config: &TrainingConfig, data: &impl TrainingData) -> Result<Vec<Vec<u32>>, StageError> {
    let visits: Vec<u32> = (0..data.lengths().len() as u32).collect();
    let packing = Packing::of_epoch(
        &data.lengths(),
        &visits,
        config.max_length,
        strategy(config),
        Seed(config.seed),
        0,
    )?;
    Ok(packing.packs)
}

/// The mean step of the first epoch.
fn mean_step(data: &impl TrainingData, epochs: &[Packing], packs_per_step: usize) -> StepShape {
    let Some(epoch) = epochs.first() else { return StepShape::default() };
    let mut sum = StepShape::default();
    for &sample in epoch.packs.iter().flatten() {
        let shape = data.shape(sample as usize);
        sum.tokens += shape.tokens;
        sum.loss_tokens += shape.loss_tokens;
        sum.attention_pairs += shape.attention_pairs;
    }
    let n_steps = epoch.packs.len().div_ceil(packs_per_step).max(1) as f64;
    StepShape {
        tokens: sum.tokens / n_steps,
        loss_tokens: sum.loss_tokens / n_steps,
        attention_pairs: sum.attention_pairs / n_steps,
    }
}
