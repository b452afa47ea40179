//! Every decision of a policy run that can be made before work starts, checked and printable.

use std::collections::BTreeSet;

use serde_json::json;
use truing_model::{ComputeDtype, Engine, ModelSpec, TrainableSpec};
use truing_run::Machine;
use truing_run::checks::DiskSpace;
use truing_run::inputs::resume_key;
use truing_store::Digest;
use truing_train::{
    Amount, MemoryPart, MemoryPlan, OptimizerConfig, PlanRow, Schedule, StepShape, plan_segments,
};

use super::check::{check, check_with_model, disk_space};
use super::memory::{StepBytes, TOP_TOKENS, largest_pack, longest_prompt};
use super::time::StepSecs;
use super::{GrpoConfig, GrpoInputs, inputs};
use crate::training::plan::{check_sampling, check_trainable};
use crate::training::ranks;
use crate::training::steps::{memory_rows, with_named};
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
    /// What a step takes at the machine's rates, where they are known.
    pub step_secs: Option<StepSecs>,
    /// What the run saves, and the room for it.
    pub disk: DiskSpace,
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
        let learning = (&trainable, &memory.chosen.segments);
        let plan = Self {
            step_secs: StepSecs::new::<E>(&config, inputs, learning, machine),
            disk: disk_space(&config, n_parameters, n_trainable),
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
        self.memory.memory.lasting_bytes()
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
        self.memory.chosen.peak_bytes.max(self.generating_bytes()).max(self.comparing_bytes())
    }

    /// Memory while policy and reference are compared.
    fn comparing_bytes(&self) -> u64 {
        self.lasting_bytes() + self.step_bytes.comparing
    }

    /// What is held at the peak, part by part; together [`Self::peak_bytes`].
    #[must_use]
    pub fn memory_parts(&self) -> Vec<MemoryPart> {
        let of_step = &self.step_bytes;
        let (generating, comparing) = (self.generating_bytes(), self.comparing_bytes());
        if self.memory.chosen.peak_bytes >= generating.max(comparing) {
            return with_named(self.memory.parts(), &of_step.lasting_parts());
        }
        let mut parts = with_named(self.memory.lasting_parts(), &of_step.lasting_parts());
        if generating >= comparing {
            // The reference is asked after completions are sampled.
            parts.retain(|part| part.name != TOP_TOKENS);
            parts.push(MemoryPart::new("KV cache", of_step.cache));
            parts.push(MemoryPart::new("decoding", of_step.decoding));
        } else {
            parts.push(MemoryPart::new("comparing policy and reference", of_step.comparing));
        }
        parts
    }

    /// `plan.json` of the run directory.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "peak_bytes": self.peak_bytes(),
            "budget_bytes": self.memory.budget_bytes,
            "layers_per_segment": self.memory.chosen.segments.layers_per_segment,
            "n_steps": self.n_steps,
            "reference_bytes": self.step_bytes.reference,
            "cache_bytes": self.step_bytes.cache,
            "parts": self.memory_parts(),
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
        rows.extend(memory_rows(&self.memory_parts(), self.memory.budget_bytes));
        rows.extend([
            row("KV cache during generation", Amount::Bytes(self.step_bytes.cache)),
            row("total during generation", Amount::Bytes(self.generating_bytes())),
        ]);
        rows.extend(self.step_secs.iter().flat_map(|secs| secs.rows(self.n_steps)));
        rows.extend(self.disk.rows());
        rows
    }

    fn warnings(&self) -> Vec<String> {
        self.disk.warning().into_iter().collect()
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
