//! Every decision of a policy run that can be made before work starts, checked and printable.

use std::collections::BTreeSet;

use serde_json::json;
use truing_model::{ComputeDtype, DecoderSpec, DecodingWeights, Engine, ModelFiles, TrainableSpec};
use truing_reward::{Rewards, is_source};
use truing_run::inputs::resume_key;
use truing_run::settings;
use truing_run::{Machine, RunError};
use truing_store::Digest;
use truing_train::completion_packs::{self as packs, GroupSizes};
use truing_train::{Amount, MemoryPlan, OptimizerConfig, PlanRow, Schedule, StepShape, plan_segments};

use super::{GrpoConfig, GrpoInputs, KlKind, inputs};
use crate::training::plan::check_trainable;
use crate::{StageError, StagePlan};

/// Tokens of a block of cached keys and values.
const CACHE_BLOCK: usize = 64;
/// Lengths of prompts that packs are planned with.
const MOST_LENGTHS: usize = 16;
/// Bytes of a logit while a token is sampled.
const LOGIT_BYTES: u64 = 4;
/// Bytes of one of the reference's top tokens with its log-probability.
const TOP_TOKEN_BYTES: u64 = 8;

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
    /// Steps of the run: each draws, scores and learns.
    pub n_steps: u64,
    /// Memory, and the segments that fit into it.
    pub memory: MemoryPlan,
    /// The frozen reference beside the policy; 0 where it is the policy without its adapters, or none is needed.
    pub reference_bytes: u64,
    /// The 8-bit copy of the policy that completions are drawn with; 0 where there is none.
    pub compressed_bytes: u64,
    /// The reference's top tokens of a step.
    pub top_token_bytes: u64,
    /// Keys and values while completions are drawn. Not at the same time as activations.
    pub cache_bytes: u64,
    /// What decoding works in, and its logits, beside the keys and values.
    pub decoding_bytes: u64,
    /// What policy and reference work in while they are compared, where the reference is a model of its own.
    pub comparing_bytes: u64,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Digest of everything that decides the weights.
    pub digest: Digest,
    n_parameters: u64,
    n_trainable: u64,
    n_prompts: usize,
    n_eval_prompts: usize,
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
        let reference_bytes =
            if loads_reference(&config, inputs) { frozen_bytes::<E>(spec.clone()) } else { 0 };
        let reward_model_bytes = match &config.reward_model {
            Some(reward_model) => frozen_bytes::<E>(ModelFiles::open(&reward_model.model_name_or_path)?.spec),
            None => 0,
        };
        let judge_bytes =
            match config.judge.as_ref().and_then(|judge| judge.model.model_name_or_path.as_ref()) {
                Some(path) => frozen_bytes::<E>(ModelFiles::open(path)?.spec),
                None => 0,
            };
        let n_completions = config.prompts_per_step * config.num_generations;
        let n_targets = match config.kl() {
            KlKind::ExactTopK => n_completions * config.max_completion_length,
            KlKind::K3 | KlKind::None => 0,
        };
        // Updates share the top tokens of the completions; those of fine-tuning data are asked for anew for each.
        let n_ptx_targets = inputs.ptx.as_ref().map_or(0, |data| {
            let most = (0..data.n_samples()).map(|i| data.sample(i).n_loss_tokens()).max().unwrap_or(0);
            most * config.ptx_samples_per_update
        });
        let k = config.kl_top_k.min(spec.vocab_size) as u64;
        let top_token_bytes = (n_targets + n_ptx_targets) as u64 * k * TOP_TOKEN_BYTES;
        let longest_prompt = inputs.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        let longest = longest_prompt + config.max_completion_length;
        let n_running = config.generation_batch_size.min(n_completions);
        let mut engine = E::memory(&spec.clone().into(), &trainable, ComputeDtype::default());
        // A prompt's blocks are shared by its completions, but for the last one, which each copies to write on. The
        // prompt that the next completions continue is held beside the running ones.
        let blocks = |n_tokens: usize| n_tokens.div_ceil(CACHE_BLOCK) * CACHE_BLOCK;
        // Held-out prompts may have fewer completions each.
        let n_of_prompt = match inputs.eval.is_empty() {
            true => config.num_generations,
            false => config.num_generations.min(config.eval_num_generations),
        };
        let n_prompts_running = n_running.div_ceil(n_of_prompt) + 1;
        let n_cached = n_prompts_running * blocks(longest_prompt)
            + n_running * blocks(config.max_completion_length + CACHE_BLOCK - 1);
        let cache_bytes = n_cached as u64 * engine.cache_bytes_per_token;
        // The running completions have a row of logits each; so has the prompt that the next ones continue.
        let n_rows = (longest_prompt as u64).min(engine.tokens_per_prompt_piece).max(n_running as u64);
        let decoding_bytes = n_rows * engine.forward_bytes_per_token
            + longest_prompt as u64 * engine.forward_bytes_per_key
            + (n_running as u64 + 1) * spec.vocab_size as u64 * LOGIT_BYTES;
        let compressed_bytes = match config.rollout_weights {
            DecodingWeights::F32 => 0,
            DecodingWeights::Int8 => engine.compressed_bytes,
        };
        let models_bytes = reference_bytes + reward_model_bytes + judge_bytes + compressed_bytes;
        engine.fixed_bytes += machine.resident_bytes + models_bytes + top_token_bytes;
        let tokens_per_pack = largest_pack(&config, inputs) as u64;
        // Both keep what they work in until all packs are compared.
        let comparing_bytes = match loads_reference(&config, inputs) {
            true => {
                let of_token = engine.forward_bytes_per_token + engine.forward_bytes_per_key;
                2 * of_token * tokens_per_pack
            }
            false => 0,
        };
        let tokens = tokens_per_pack as f64;
        let shape = StepShape { tokens, loss_tokens: tokens, attention_pairs: tokens * longest as f64 / 2.0 };
        let memory = plan_segments(
            &engine,
            spec.n_layers,
            tokens_per_pack,
            budget_bytes,
            config.layers_per_segment.0,
            truing_train::StepFlops::attention_share(spec, &shape),
        )
        .map_err(|source| StageError::DoesNotFit {
            source,
            hints: vec!["a smaller `max_tokens_per_pack`, or a `[lora]` table, takes less".into()],
        })?;
        let n_updates = n_steps * config.updates_per_step();
        Ok(Self {
            digest: resume_key::<E>(&config, &inputs.record, Some(inputs.prompts_digest())),
            schedule: config.schedule.schedule(n_updates),
            optimizer: config.optimizer.config(),
            trainable,
            n_steps,
            memory,
            reference_bytes,
            compressed_bytes,
            top_token_bytes,
            cache_bytes,
            decoding_bytes,
            comparing_bytes,
            n_threads,
            n_parameters,
            n_trainable,
            n_prompts,
            n_eval_prompts: inputs.eval.len(),
            sources: inputs::sources(&inputs.prompts).iter().map(|s| &**s).collect::<Vec<_>>().join(", "),
            config,
        })
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

    /// Memory while completions are drawn: everything that stays, the caches, and what decoding works in.
    #[must_use]
    pub fn generating_bytes(&self) -> u64 {
        self.lasting_bytes() - self.top_token_bytes + self.cache_bytes + self.decoding_bytes
    }

    /// The most memory of the run, as planned: that of the phase of a step which needs the most. Each gives back what the
    /// next one does not need.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let comparing = self.lasting_bytes() + self.comparing_bytes;
        self.memory.chosen.peak_bytes.max(self.generating_bytes()).max(comparing)
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        json!({
            "peak_bytes": self.peak_bytes(),
            "budget_bytes": self.memory.budget_bytes,
            "layers_per_segment": self.memory.chosen.segments.layers_per_segment,
            "n_steps": self.n_steps,
            "reference_bytes": self.reference_bytes,
            "cache_bytes": self.cache_bytes,
        })
    }
}

/// Bytes of the weights of a model that does not learn.
fn frozen_bytes<E: Engine>(spec: DecoderSpec) -> u64 {
    E::memory(&spec.into(), &TrainableSpec::frozen(), ComputeDtype::default()).parameter_bytes
}

impl StagePlan for GrpoPlan {
    /// The plan as lines.
    fn rows(&self) -> Vec<PlanRow> {
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
            let n_calls_at_most = n_calls * judge.verdict.most_replies;
            rows.push(row(
                "judge calls per step (max., with retries)",
                Amount::Count(n_calls_at_most as u64),
            ));
        }
        rows.extend(self.memory.rows());
        rows.extend([
            row("of which reference model", Amount::Bytes(self.reference_bytes)),
            row("of which int8 rollout weights", Amount::Bytes(self.compressed_bytes)),
            row("of which top-k log-probabilities of the reference", Amount::Bytes(self.top_token_bytes)),
            row("KV cache during generation", Amount::Bytes(self.cache_bytes)),
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

/// Tokens of the largest pack to plan for. A pack holds whole completions, and often the next one, or the next prompt with its
/// first completion, leaves a part of the budget unused. Which part depends on the lengths: those of the prompts are known,
/// and the completions are taken to be all of one length between half of the most and the most.
fn largest_pack(config: &GrpoConfig, inputs: &GrpoInputs) -> usize {
    let mut prompts: Vec<usize> = inputs.prompts.iter().map(|prompt| prompt.tokens.len()).collect();
    prompts.sort_unstable();
    let longest = prompts.last().copied().unwrap_or(0);
    prompts.dedup();
    // Of many lengths, a few that are spread over all of them.
    let step = prompts.len().div_ceil(MOST_LENGTHS).max(1);
    let lengths = prompts.into_iter().rev().step_by(step);
    let most = config.max_completion_length;
    let completions = (0..=4).map(|eighths| (most - most * eighths / 8).max(1));
    lengths
        .flat_map(|prompt| {
            completions.clone().map(move |completion| GroupSizes {
                // An update has packs of its own.
                n_groups: config.prompts_per_step.div_ceil(config.minibatches.max(1)),
                n_completions: config.num_generations,
                prompt,
                completion,
            })
        })
        .map(|sizes| packs::largest_pack(sizes, config.max_tokens_per_pack, config.share_prompts))
        .max()
        .unwrap_or(0)
        // A completion that fits into no pack has one of its own.
        .max(if config.max_tokens_per_pack < longest + most { longest + most } else { 0 })
}

/// Whether the reference is a model of its own. New adapters switched off give it; those of an adapter that is trained
/// further do not, for its policy began with them.
pub(super) fn loads_reference(config: &GrpoConfig, inputs: &GrpoInputs) -> bool {
    config.needs_reference() && (config.lora.is_none() || inputs.model.adapter.is_some())
}

/// Refuses an entry of a reward's `sources` that means no source of the run: its rows would silently get no reward.
fn check_sources(config: &GrpoConfig, inputs: &GrpoInputs) -> Result<(), StageError> {
    let configured =
        config.data.iter().chain(&config.eval_data).map(|source| config.data_dir.join(&source.path));
    // Where a source is a folder, rows name its files.
    let files = configured.filter(|path| !path.is_dir());
    let mut known: BTreeSet<String> = files.map(|path| path.to_string_lossy().into_owned()).collect();
    known.extend(inputs::sources(&inputs.prompts).into_iter().map(|source| source.to_string()));
    known.extend(inputs::sources(&inputs.eval).into_iter().map(|source| source.to_string()));
    let rewards =
        config.reward.iter().flat_map(|reward| &reward.sources).map(|entry| ("reward.sources", entry));
    let judge = config.judge.iter().flat_map(|judge| &judge.sources).map(|entry| ("judge.sources", entry));
    match rewards.chain(judge).find(|(_, entry)| !known.iter().any(|path| is_source(path, entry))) {
        None => Ok(()),
        Some((key, entry)) => {
            let expected = format!(
                "the name of a file of `data` or `eval_data`, or the end of its path in whole folders: {}",
                known.into_iter().collect::<Vec<_>>().join(", ")
            );
            Err(RunError::BadSetting { key, found: entry.clone(), expected }.into())
        }
    }
}

/// Refuses rows that a reward is meant for and will never score.
fn check_rows(config: &GrpoConfig, inputs: &GrpoInputs) -> Result<(), StageError> {
    for reward in &config.reward {
        for prompt in inputs.prompts.iter().chain(&inputs.eval) {
            reward.check_row(&prompt.row.columns, &prompt.origin)?;
        }
    }
    Ok(())
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
    check_trainable(spec, &config.trainable()).map(drop)
}

/// Checks the settings that no other step looks at, without model and data. `has_eval` says whether there is anything to
/// evaluate on, as far as is known.
pub(super) fn check(config: &GrpoConfig, has_eval: bool) -> Result<(), StageError> {
    let bad = |key, found: String, expected: &str| {
        Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
    };
    if config.output_dir.as_os_str().is_empty() {
        let expected = "a folder for the run";
        return Err(RunError::MissingSetting { key: "output_dir", expected }.into());
    }
    if config.reward.is_empty() && config.reward_model.is_none() && config.judge.is_none() {
        let expected = "at least one [[reward]] table, for instance with `kind = { math_answer = {} }`, a [reward_model] or a [judge]";
        return Err(RunError::MissingSetting { key: "reward", expected }.into());
    }
    Rewards::check(&config.reward)?;
    if let Some(judge) = &config.judge {
        judge.verdict.check()?;
        judge.model.check("judge.model")?;
    }
    if let Some(shaping) = &config.shaping {
        shaping.check()?;
    }
    let positive = |value: f64| value.is_finite() && value > 0.0;
    let not_negative = |value: f64| value.is_finite() && value >= 0.0;
    settings::check(
        &config.schedule,
        &config.optimizer,
        &config.evaluation,
        &config.checkpoint,
        &config.resources,
        has_eval,
    )?;
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
        return bad(key, found.to_string(), &format!("at least {least}"));
    }
    let numbers = [
        ("beta", config.beta.unwrap_or_default()),
        ("ptx_coefficient", config.ptx_coefficient),
        ("epsilon", config.epsilon.unwrap_or_default()),
        ("epsilon_high", config.epsilon_high.unwrap_or_default()),
        ("advantage_epsilon", config.advantage_epsilon),
        ("eval_temperature", f64::from(config.eval_temperature)),
    ];
    if let Some((key, found)) = numbers.into_iter().find(|(_, found)| !not_negative(*found)) {
        return bad(key, found.to_string(), "0 or more");
    }
    let shares = [("min_p", f64::from(config.min_p)), ("top_p", f64::from(config.top_p))];
    if let Some((key, found)) = shares.into_iter().find(|(_, found)| !(0.0..=1.0).contains(found)) {
        return bad(key, found.to_string(), "a share from 0 to 1");
    }
    match config {
        c if !positive(f64::from(c.temperature)) => bad(
            "temperature",
            c.temperature.to_string(),
            "a number above 0: with greedy decoding all completions of a group are equal and every advantage is 0",
        ),
        // An infinite cap is none.
        c if c.importance_sampling_cap.is_nan() || c.importance_sampling_cap <= 0.0 => {
            bad("importance_sampling_cap", c.importance_sampling_cap.to_string(), "a number above 0")
        }
        c if c.rollout_weights == DecodingWeights::Int8 && !c.knows_drawn_policy() => bad(
            "rollout_weights",
            "int8".into(),
            "`temperature = 1`, or no `top_k`, `top_p` and `min_p`: the policy's probabilities are not kept otherwise",
        ),
        c if c.minibatches > c.prompts_per_step => {
            bad("minibatches", c.minibatches.to_string(), "at most `prompts_per_step`: a group is not cut")
        }
        c if c.ptx_coefficient != 0.0 && c.ptx_data.is_empty() => {
            bad("ptx_coefficient", c.ptx_coefficient.to_string(), "[[ptx_data]] beside it")
        }
        c if c.lora.as_ref().is_some_and(|lora| lora.rank == 0) => bad("lora.rank", "0".into(), "at least 1"),
        GrpoConfig { lora: Some(lora), .. } if !positive(f64::from(lora.alpha)) => {
            bad("lora.alpha", lora.alpha.to_string(), "a number above 0")
        }
        c if c.merge_adapter && c.lora.is_none() => {
            bad("merge_adapter", "true".into(), "a [lora] table beside it")
        }
        _ => Ok(()),
    }
}
