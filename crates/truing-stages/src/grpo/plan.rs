//! Every decision of a policy run that can be made before work starts, checked and printable.

use std::collections::BTreeSet;

use serde_json::json;
use truing_model::{ComputeDtype, DecoderSpec, DecodingWeights, Engine, ModelSpec, TrainableSpec};
use truing_run::checks::{require_output_dir, require_space};
use truing_run::inputs::resume_key;
use truing_run::settings;
use truing_run::{Machine, RunError};
use truing_store::Digest;
use truing_train::{Amount, MemoryPlan, OptimizerConfig, PlanRow, Schedule, StepShape, plan_segments};

use super::memory::{StepBytes, largest_pack, longest_prompt};
use super::{GrpoConfig, GrpoInputs, inputs};
use crate::training::plan::{check_sampling, check_trainable};
use crate::training::ranks;
use crate::{StageError, StagePlan};

/// A run as it will be.
#[derive(Debug)]
pub struct GrpoPlan {
    /// The settings.
    pub config: GrpoConfig,
    /// What learns.
    pub trainable: TrainableSpec,
    /// Learning rate by update.
    pub schedule: Schedule,
    /// Optimiser without what changes by update.
    pub optimizer: OptimizerConfig,
    /// Steps of the run: each samples, scores and updates.
    pub n_steps: u64,
    /// Memory, and the segments that fit into it.
    pub memory: MemoryPlan,
    /// What a step holds beside what the policy's training needs.
    pub step_bytes: StepBytes,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Digest of everything that decides the weights.
    pub digest: Digest,
    n_parameters: u64,
    n_trainable: u64,
    n_prompts: usize,
    n_eval_prompts: usize,
    n_ranks: usize,
    sources: String,
}

impl GrpoPlan {
    /// Makes the plan, or says why there is none. It opens no file but the reward model's headers.
    ///
    /// # Errors
    /// When a setting is invalid or the memory does not suffice.
    pub fn resolve<E: Engine>(
        config: GrpoConfig,
        inputs: &GrpoInputs,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        check(&config, !inputs.eval.is_empty())?;
        check_with_model(&config, &inputs.model.spec)?;
        config.resources.check_planned_ranks(machine)?;
        check_sources(&config, inputs)?;
        check_rows(&config, inputs)?;
        let spec = &inputs.model.spec;
        let trainable = config.trainable();
        let (n_parameters, n_trainable) = check_trainable(spec, &trainable)?;
        let n_prompts = inputs.prompts.len();
        let steps = config.schedule.num_train_epochs * n_prompts as f64 / config.prompts_per_step as f64;
        let n_steps = config.schedule.max_steps.unwrap_or((steps.ceil() as u64).max(1));
        let n_threads = config.resources.n_threads(machine);
        let budget_bytes = config.resources.budget_bytes(machine);
        let mut step_bytes = StepBytes::new::<E>(&config, inputs)?;
        let model = ModelSpec::from(spec.clone());
        let whole = E::memory(&model, &trainable, ComputeDtype::default());
        let parameters = model.parameters_with(&trainable)?;
        let n_dividing = config.resources.sequence_parallel_size;
        let mut engine = config
            .resources
            .on_rank(whole, &parameters, &trainable, machine)
            .in_sequence_group(spec, n_dividing);
        if step_bytes.decoding > 0 {
            step_bytes.decoding += ranks::gathered_bytes(&config.resources, machine, whole.parameter_bytes);
        }
        engine.fixed_bytes += machine.resident_bytes + step_bytes.lasting();
        let tokens_per_pack = largest_pack(&config, inputs);
        let tokens = tokens_per_pack as f64;
        let longest = longest_prompt(inputs) + config.max_completion_length;
        let shape = StepShape { tokens, loss_tokens: tokens, attention_pairs: tokens * longest as f64 / 2.0 };
        let memory = plan_segments(
            &engine,
            spec.n_layers,
            tokens_per_pack.div_ceil(n_dividing) as u64,
            budget_bytes,
            config.layers_per_segment.0,
            truing_train::StepFlops::attention_share(spec, &shape),
        )
        .map_err(|source| StageError::DoesNotFit {
            source,
            hints: vec!["a smaller `max_tokens_per_pack`, or a `[lora]` table, takes less".into()],
        })?;
        let n_updates = n_steps * config.updates_per_step();
        let plan = Self {
            digest: resume_key::<E>(&config, &inputs.record, Some(inputs.prompts_digest())),
            schedule: config.schedule.schedule(n_updates),
            optimizer: config.optimizer.config(),
            trainable,
            n_steps,
            memory,
            step_bytes,
            n_threads,
            n_parameters,
            n_trainable,
            n_prompts,
            n_eval_prompts: inputs.eval.len(),
            n_ranks: machine.n_ranks,
            sources: inputs::sources(&inputs.prompts).iter().map(|s| &**s).collect::<Vec<_>>().join(", "),
            config,
        };
        check_sampling(plan.peak_bytes(), &plan.memory)?;
        Ok(plan)
    }

    /// Memory that no phase of a step gives back.
    fn lasting_bytes(&self) -> u64 {
        let memory = &self.memory.memory;
        memory.parameter_bytes
            + memory.gradient_bytes
            + memory.optimizer_bytes
            + memory.fixed_bytes
            + memory.head_fixed_bytes
    }

    /// Memory while completions are sampled: everything that stays, the caches, and what decoding works in.
    #[must_use]
    pub fn generating_bytes(&self) -> u64 {
        self.lasting_bytes() - self.step_bytes.top_token + self.step_bytes.cache + self.step_bytes.decoding
    }

    /// The most memory of the run, as planned: that of the phase of a step which needs the most. Each gives back what
    /// the next one does not need.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let comparing = self.lasting_bytes() + self.step_bytes.comparing;
        self.memory.chosen.peak_bytes.max(self.generating_bytes()).max(comparing)
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        json!({
            "peak_bytes": self.peak_bytes(),
            "budget_bytes": self.memory.budget_bytes,
            "layers_per_segment": self.memory.chosen.segments.layers_per_segment,
            "n_steps": self.n_steps,
            "reference_bytes": self.step_bytes.reference,
            "cache_bytes": self.step_bytes.cache,
        })
    }
}

impl StagePlan for GrpoPlan {
    /// The plan as lines.
    fn table(&self) -> Vec<PlanRow> {
        let row = PlanRow::new;
        let config = &self.config;
        let mut rows = vec![
            row("parameters of the model", Amount::Count(self.n_parameters)),
            row("trainable parameters", Amount::Count(self.n_trainable)),
            row("prompts", Amount::Count(self.n_prompts as u64)),
            row("prompts to evaluate on", Amount::Count(self.n_eval_prompts as u64)),
            row(
                "completions of a step",
                Amount::Count((config.prompts_per_step * config.num_generations) as u64),
            ),
            row("updates of a step", Amount::Count(config.updates_per_step())),
            row("steps", Amount::Count(self.n_steps)),
        ];
        if let Some(judge) = &config.judge {
            let n_completions = config.prompts_per_step * config.num_generations;
            let n_calls = n_completions * judge.verdict.n_calls_per_completion();
            rows.push(row("judge calls per step", Amount::Count(n_calls as u64)));
            let n_calls_at_most = n_calls * judge.verdict.max_attempts;
            rows.push(row(
                "judge calls per step (max., with retries)",
                Amount::Count(n_calls_at_most as u64),
            ));
        }
        rows.extend(ranks::rows(&config.resources, self.n_ranks));
        if let Some(rollouts) = &config.rollouts {
            rows.push(row("rollout servers", Amount::Count(rollouts.servers.len() as u64)));
        }
        rows.extend(self.memory.table());
        rows.extend([
            row("of which reference model", Amount::Bytes(self.step_bytes.reference)),
            row("of which int8 rollout weights", Amount::Bytes(self.step_bytes.quantized)),
            row(
                "of which top-k log-probabilities of the reference",
                Amount::Bytes(self.step_bytes.top_token),
            ),
            row("KV cache during generation", Amount::Bytes(self.step_bytes.cache)),
            row("total during generation", Amount::Bytes(self.generating_bytes())),
        ]);
        rows
    }

    /// What is run, in one sentence.
    fn summary(&self) -> String {
        let config = &self.config;
        format!(
            "{} steps of {} prompts x {} completions from {}",
            self.n_steps, config.prompts_per_step, config.num_generations, self.sources
        )
    }
}

/// Refuses an entry of a reward's `sources` that means no source of the run: its rows would silently get no reward.
fn check_sources(config: &GrpoConfig, inputs: &GrpoInputs) -> Result<(), StageError> {
    let configured =
        config.data.iter().chain(&config.eval_data).map(|source| source.in_folder(&config.data_dir).path);
    // Where a source is a folder, rows name its files.
    let files = configured.filter(|path| !path.is_dir());
    let mut known: BTreeSet<String> = files.map(|path| path.to_string_lossy().into_owned()).collect();
    known.extend(inputs::sources(&inputs.prompts).into_iter().map(|source| source.to_string()));
    known.extend(inputs::sources(&inputs.eval).into_iter().map(|source| source.to_string()));
    Ok(config.rewards().check_sources(&known, "`data` or `eval_data`")?)
}

/// Refuses rows that a reward applies to and will never score.
fn check_rows(config: &GrpoConfig, inputs: &GrpoInputs) -> Result<(), StageError> {
    let mut prompts = inputs.prompts.iter().chain(&inputs.eval);
    prompts.try_for_each(|prompt| config.rewards().check_row(&prompt.row.columns, &prompt.origin))
}

/// Checks the settings that depend on the model.
pub(super) fn check_with_model(config: &GrpoConfig, spec: &DecoderSpec) -> Result<(), StageError> {
    let context = spec.max_position_embeddings;
    if config.max_prompt_length + config.max_completion_length > context {
        return Err(RunError::BadSetting {
            key: "max_completion_length",
            found: config.max_completion_length.to_string(),
            expected: format!("with `max_prompt_length` at most the model's context of {context} tokens"),
        }
        .into());
    }
    config.resources.check_heads(spec)?;
    let (n_parameters, n_trainable) = check_trainable(spec, &config.trainable())?;
    let is_adapter = config.lora.is_some();
    let saves = config.checkpoint.saves_before_end();
    let needed =
        config.checkpoint.disk_bytes(n_parameters, n_trainable, is_adapter, config.merge_adapter, saves);
    let of_rollouts = config.rollouts.as_ref().map_or(0, |rollouts| rollouts.disk_bytes(n_parameters));
    Ok(require_space(&config.output_dir, needed + of_rollouts)?)
}

/// Checks numbers against their smallest and largest values.
fn check_numbers(config: &GrpoConfig) -> Result<(), RunError> {
    let bad = |key, found, expected| RunError::BadSetting { key, found, expected };
    let counts = [
        ("num_generations", config.num_generations, 2),
        ("prompts_per_step", config.prompts_per_step, 1),
        ("max_prompt_length", config.max_prompt_length, 1),
        ("max_completion_length", config.max_completion_length, 1),
        ("generation_batch_size", config.generation_batch_size, 1),
        ("kl_top_k", config.kl_top_k, 1),
        ("num_iterations", config.num_iterations, 1),
        ("minibatches", config.minibatches, 1),
        ("max_tokens_per_pack", config.max_tokens_per_pack, 2),
        ("max_resample_rounds", config.max_resample_rounds, 1),
        ("eval_num_generations", config.eval_num_generations, 1),
        ("max_unscored_steps", config.max_unscored_steps, 1),
        ("ptx_samples_per_update", config.ptx_samples_per_update, 1),
    ];
    if let Some((key, found, least)) = counts.into_iter().find(|(_, found, least)| found < least) {
        return Err(bad(key, found.to_string(), format!("at least {least}")));
    }
    let numbers = [
        ("beta", config.beta.unwrap_or_default()),
        ("ptx_coefficient", config.ptx_coefficient),
        ("epsilon", config.epsilon.unwrap_or_default()),
        ("epsilon_high", config.epsilon_high.unwrap_or_default()),
        ("advantage_epsilon", config.advantage_epsilon),
        ("eval_temperature", f64::from(config.eval_temperature)),
    ];
    if let Some((key, found)) = numbers.into_iter().find(|(_, found)| !(found.is_finite() && *found >= 0.0)) {
        return Err(bad(key, found.to_string(), "0 or more".into()));
    }
    let shares = [("min_p", f64::from(config.min_p)), ("top_p", f64::from(config.top_p))];
    if let Some((key, found)) = shares.into_iter().find(|(_, found)| !(0.0..=1.0).contains(found)) {
        return Err(bad(key, found.to_string(), "a share from 0 to 1".into()));
    }
    Ok(())
}

/// Checks the settings that no other step looks at, without model and data. `has_eval` says whether there is anything
/// to evaluate on, as far as is known.
pub(super) fn check(config: &GrpoConfig, has_eval: bool) -> Result<(), StageError> {
    require_output_dir(&config.output_dir, "a folder for the run")?;
    if config.rewards().is_empty() {
        let expected = "at least one [[reward]] table, for instance with `kind = { math_answer = {} }`, a \
                        [reward_model] or a [judge]";
        return Err(RunError::MissingSetting { key: "reward", expected }.into());
    }
    config.rewards().check()?;
    if let Some(shaping) = &config.shaping {
        shaping.check()?;
    }
    settings::check(
        &config.schedule,
        &config.optimizer,
        &config.evaluation,
        &config.checkpoint,
        &config.resources,
        has_eval,
    )?;
    check_numbers(config)?;
    if let Some(rollouts) = &config.rollouts {
        rollouts.check(config)?;
    }
    check_dependencies(config)
}

/// Checks settings that need others, and numbers whose limits the error explains.
fn check_dependencies(config: &GrpoConfig) -> Result<(), StageError> {
    let bad = |key, found: String, expected: &str| {
        Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
    };
    match config {
        c if !(c.temperature.is_finite() && c.temperature > 0.0) => bad(
            "temperature",
            c.temperature.to_string(),
            "a number above 0: with greedy decoding all completions of a group are equal and every advantage is 0",
        ),
        // An infinite cap is none.
        c if c.importance_sampling_cap.is_nan() || c.importance_sampling_cap <= 0.0 => {
            bad("importance_sampling_cap", c.importance_sampling_cap.to_string(), "a number above 0")
        }
        c if c.rollout_quantization == DecodingWeights::Int8 && !c.knows_sampling_policy() => bad(
            "rollout_quantization",
            "int8".into(),
            "`temperature = 1`, or no `top_k`, `top_p` and `min_p`: the policy's probabilities are not kept otherwise",
        ),
        c if c.minibatches > c.prompts_per_step => {
            bad("minibatches", c.minibatches.to_string(), "at most `prompts_per_step`: groups are not split")
        }
        c if c.ptx_coefficient != 0.0 && c.ptx_data.is_empty() => bad(
            "ptx_coefficient",
            c.ptx_coefficient.to_string(),
            "a [[ptx_data]] table, which this setting requires",
        ),
        c if c.lora.as_ref().is_some_and(|lora| lora.rank == 0) => bad("lora.rank", "0".into(), "at least 1"),
        GrpoConfig { lora: Some(lora), .. } if !(lora.alpha.is_finite() && lora.alpha > 0.0) => {
            bad("lora.alpha", lora.alpha.to_string(), "a number above 0")
        }
        c if c.merge_adapter && c.lora.is_none() => {
            bad("merge_adapter", "true".into(), "a [lora] table, which this setting requires")
        }
        _ => Ok(()),
    }
}
