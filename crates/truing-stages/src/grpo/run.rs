//! The work: load, then sample, score, compute advantages, and update step by step, with evaluations and checkpoints;
//! save.

use std::collections::BTreeMap;

use truing_eval::held_out::HeldOutScores;
use truing_generate::{SampledCompletion, end_tokens, excluded_tokens, marks_of};
use truing_model::{Engine, EngineOptions, SaveOptions, TrainableSpec};
use truing_reward::ScoredCompletion;
use truing_run::folder::{OpenedRun, RunOutline};
use truing_run::ranks::gather_dealt;
use truing_run::record::{EVALUATION_PREFIX, RunRecord};
use truing_run::{Ended, Recipe, model, recipe};
use truing_statistics::mean_and_sample_deviation;
use truing_store::CommittedDirectory;
use truing_train::Trainer;
use truing_train::checkpoint::{self, TrainerState};
use truing_train::completion_packs::SampledPolicy;
use truing_types::{Event, EventSink, Groups, Seed, dealt};

use super::failures::Looked;
use super::memory::loads_reference;
use super::rollout_groups::SamplingPhase;
use super::rollout_servers::RolloutServers;
use super::running::Running;
use super::state::PromptState;
use super::tally::Metrics;
use super::watch::Watch;
use super::{GrpoConfig, GrpoInputs, GrpoPlan, Prompt};
use crate::rewards::{OpenedRewards, RewardResources};
use crate::{RunContext, StageError, TrainedModel};

const GIB: f64 = (1_u64 << 30) as f64;

/// The work of [`GrpoStage`](super::GrpoStage).
pub(super) fn run<E: Engine + 'static>(
    plan: &GrpoPlan,
    inputs: &GrpoInputs,
    context: RunContext<'_>,
) -> Result<Ended<TrainedModel>, StageError> {
    let RunContext { start, groups, probe, events, stop, chat_models, sandbox_program } = context;
    let config = &plan.config;
    let groups = &config.resources.groups(groups)?;
    let world = &*groups.world;
    // In the order of `GrpoStage::chat_models`.
    let mut chat_models = chat_models.into_iter();
    let judge = config.judge.as_ref().and_then(|_| chat_models.next());
    let servers = chat_models.map(|opened| opened.model).collect();
    let rollout_servers = config.rollouts.as_ref().map(|rollouts| RolloutServers::new(rollouts, servers));
    let recipe = config.to_toml();
    let outline = RunOutline {
        output_dir: &config.output_dir,
        recipe: &recipe,
        decisive_of: recipe::decisive_of::<GrpoConfig>,
        inputs: &inputs.record,
        digest: plan.digest,
        n_steps: plan.n_steps,
        plan: plan.to_json(),
        skipped: inputs.skipped.iter().collect(),
    };
    let (folder, checkpoint) = match outline.open(start, world, events)? {
        OpenedRun::Finished(trained) => return Ok(Ended::Finished(trained)),
        OpenedRun::Open { folder, checkpoint } => (folder, checkpoint),
    };
    let (engine, reference) = load_models::<E>(plan, inputs, groups, events)?;
    let marks = marks_of(inputs.renderer.tokenizer()).with(&config.reasoning_marks);
    let resources = RewardResources {
        render: inputs.renderer.options().clone(),
        marks: marks.clone(),
        n_threads: plan.n_threads,
        sandbox_program,
    };
    let OpenedRewards { rewards, judge_counts } =
        OpenedRewards::open::<E>(config.rewards(), judge, resources, events)?;
    let judge_counts = judge_counts.map(|counts| {
        let now = counts.snapshot();
        (counts, now)
    });
    let mut trainer = Trainer::new(engine, plan.memory.chosen.segments, plan.optimizer, plan.schedule)?
        .dividing_packs(groups.sequence.world_size() > 1);
    let (state, prompts) = begin(plan, &mut trainer, checkpoint.as_ref(), events)?;
    let record = RunRecord::open(folder, &state, &[HeldOutScores::FILE_NAME], world)?;
    let spec = &inputs.model.spec;
    let end_tokens = end_tokens(&spec.eos_token_ids, &inputs.renderer);
    let excluded = excluded_tokens(inputs.renderer.tokenizer(), spec.vocab_size, &end_tokens);
    let running = Running {
        rollout_servers,
        rewards,
        judge_counts,
        end_tokens,
        policy: SampledPolicy { temperature: config.temperature, excluded },
        plan,
        inputs,
        groups,
        probe,
        events,
        stop,
        record,
        trainer,
        reference,
        state,
        prompts,
        marks,
        watch: Watch::default(),
    };
    running.train()
}

/// Loads the policy, and the frozen model where it is another one.
fn load_models<E: Engine>(
    plan: &GrpoPlan,
    inputs: &GrpoInputs,
    groups: &Groups,
    events: &mut dyn EventSink,
) -> Result<(E, Option<E>), StageError> {
    let options = EngineOptions::with_threads(plan.n_threads, Seed(plan.config.seed));
    let sharded = EngineOptions { zero_stage: plan.config.resources.zero_stage, ..options };
    let load =
        |trainable: &TrainableSpec, options: &EngineOptions, phase: &str, events: &mut dyn EventSink| {
            model::announce_and_load::<E>(&inputs.model, trainable, options, groups, phase, events)
        };
    let policy = load(&plan.trainable, &sharded, "loading the model", events)?;
    // The exchanges of two sharded engines would mix: the reference is whole on every rank.
    let reference = match loads_reference(&plan.config, inputs) {
        true => Some(load(&TrainableSpec::frozen(), &options, "loading the reference", events)?),
        false => None,
    };
    Ok((policy, reference))
}

/// The state that a run begins with: the initial one, or that of `checkpoint`, whose weights are then the trainer's.
fn begin<E: Engine>(
    plan: &GrpoPlan,
    trainer: &mut Trainer<E>,
    checkpoint: Option<&CommittedDirectory>,
    events: &mut dyn EventSink,
) -> Result<(TrainerState, PromptState), StageError> {
    let config = &plan.config;
    let Some(directory) = checkpoint else {
        let mut state = TrainerState::start(config.seed, plan.digest);
        state.is_evaluation_due = config.evaluation.eval_on_start;
        return Ok((state, PromptState::default()));
    };
    let state = checkpoint::restore(trainer.engine_mut(), directory)?;
    let prompts = PromptState::read(directory)?;
    trainer.resume_at(state.step * config.updates_per_step());
    events.emit(Event::Note(format!("resuming after step {} of {}", state.step, plan.n_steps)));
    Ok((state, prompts))
}

impl<E: Engine> Running<'_, E> {
    fn train(mut self) -> Result<Ended<TrainedModel>, StageError> {
        let config = &self.plan.config;
        if self.state.is_evaluation_due && !self.evaluate()? {
            return self.interrupted();
        }
        while self.state.step < self.plan.n_steps {
            if self.is_stopped()? {
                return self.interrupted();
            }
            let stepped = self.step();
            let Some(record) = self.save_if_unscored(stepped)? else { return self.interrupted() };
            let before = (self.state.clone(), self.prompts.clone());
            self.state.step += 1;
            self.state.n_tokens += record.n_tokens;
            self.state.epoch = record.prompts.position as f64 / self.inputs.prompts.len() as f64;
            self.prompts = record.prompts;
            // A step without anything to learn from still moves the schedule on.
            self.trainer.resume_at(self.state.step * config.updates_per_step());
            let mut metrics = record.metrics;
            metrics.insert("num_tokens".into(), self.state.n_tokens as f64);
            if let Some(bytes) = self.probe.peak_resident_bytes() {
                metrics.insert("peak_memory_gib".into(), bytes as f64 / GIB);
            }
            self.log(metrics)?;
            self.take_down(record.is_unscored, record.has_signal, before)?;
            let step = self.state.step;
            let is_last = step == self.plan.n_steps;
            if (is_last || config.evaluation.eval_steps.is_some_and(|every| step.is_multiple_of(every)))
                && !self.evaluate()?
            {
                return self.interrupted();
            }
            if !is_last
                && config.checkpoint.save_steps.is_some_and(|every| step.is_multiple_of(every))
                && !self.watch.is_in_doubt()
            {
                self.save_checkpoint()?;
            }
        }
        self.finish()
    }

    fn log(&mut self, values: Metrics) -> Result<(), StageError> {
        Ok(self.record.log(self.state.step, values, &mut *self.events)?)
    }

    /// Samples and scores on the held-out prompts; false when it was stopped.
    fn evaluate(&mut self) -> Result<bool, StageError> {
        let (config, inputs) = (&self.plan.config, self.inputs);
        if inputs.eval.is_empty() || !config.evaluation.is_on() {
            return Ok(true);
        }
        self.state.is_evaluation_due = true;
        let indices: Vec<u32> = dealt(inputs.eval.len(), &*self.groups.world).map(|i| i as u32).collect();
        let prompts: Vec<&Prompt> = indices.iter().map(|&idx| &inputs.eval[idx as usize]).collect();
        let Some(sampled) = self.sample_completions(&prompts, &indices, SamplingPhase::Evaluate)? else {
            return Ok(false);
        };
        let scored = self.score(&prompts, &sampled);
        if self.is_stopped()? {
            // What a judge was not asked any more is no finding.
            return Ok(false);
        }
        let (sampled, scored): (Vec<_>, Vec<_>) =
            gather_dealt(&*self.groups.world, sampled.into_iter().zip(scored).collect())?.into_iter().unzip();
        let of_rows = inputs
            .eval
            .iter()
            .zip(&scored)
            .flat_map(|(prompt, scored)| scored.iter().map(move |scored| (&prompt.origin, scored)));
        let looked = self.look_at(Looked::Evaluation, of_rows);
        self.save_if_unscored(looked)?;
        let Evaluation { by_prompt, passed_by_prompt, mean, metrics } =
            Evaluation::of(config, &inputs.eval, &sampled, &scored);
        for (measure, values) in
            [(HeldOutScores::REWARD, by_prompt), (HeldOutScores::PASS_RATE, passed_by_prompt)]
        {
            let step = self.state.step;
            let held_out = HeldOutScores { step, measure: measure.to_owned(), values, weights: Vec::new() };
            self.record.log_evaluation(HeldOutScores::FILE_NAME, &held_out)?;
        }
        self.log(metrics)?;
        // The trainer's state knows losses, of which the lowest is the best; it notes only finite ones.
        let is_best = self.state.note_evaluation(mean.map_or(f64::NAN, |reward| -reward));
        if is_best
            && (config.checkpoint.keep_best || config.checkpoint.load_best_model_at_end)
            && self.state.step > 0
        {
            self.save_checkpoint()?;
        }
        Ok(true)
    }

    fn interrupted(mut self) -> Result<Ended<TrainedModel>, StageError> {
        self.events.emit(Event::PhaseFinished);
        self.save_checkpoint()?;
        Ok(Ended::Interrupted { step: Some(self.state.step) })
    }

    fn finish(mut self) -> Result<Ended<TrainedModel>, StageError> {
        let config = &self.plan.config;
        let nothing_learnt = self.nothing_learnt()?;
        if config.checkpoint.load_best_model_at_end {
            self.record.restore_best(self.trainer.engine_mut(), &self.state, &mut *self.events)?;
        }
        let (inputs, engine) = (self.inputs, self.trainer.engine());
        let model = self.record.save_model(engine, &mut *self.events, |staged| {
            let files = inputs.renderer.tokenizer().files();
            let options = SaveOptions {
                dtype: config.checkpoint.save_dtype,
                ..model::save_options(&inputs.model, &files)
            };
            let base_model = model::base_of(&inputs.model, &config.model_name_or_path);
            model::save_model(engine, staged.path(), &options, &base_model, config.merge_adapter)
        })?;
        self.remove_rollout_weights()?;
        // A run ends with the evaluation of its model.
        for text in nothing_learnt.clone().into_iter().chain(self.not_learnt_from()) {
            self.events.emit(Event::Warning(text));
        }
        Ok(Ended::Finished(self.record.end(model, nothing_learnt, self.state.step)?))
    }
}

/// What an evaluation says in numbers.
struct Evaluation {
    /// Mean reward of each prompt.
    by_prompt: Vec<Option<f64>>,
    /// Share of the completions of each prompt that pass.
    passed_by_prompt: Vec<Option<f64>>,
    /// Mean reward of all completions.
    mean: Option<f64>,
    metrics: Metrics,
}

impl Evaluation {
    fn of(
        config: &GrpoConfig,
        prompts: &[Prompt],
        sampled: &[Vec<SampledCompletion>],
        scored: &[Vec<ScoredCompletion>],
    ) -> Self {
        let mut by_category: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let (mut by_prompt, mut passed_by_prompt) = (Vec::new(), Vec::new());
        let pass_rate = |rewards: &[f64]| {
            let n_passed = rewards.iter().filter(|&&reward| reward >= config.pass_reward).count();
            n_passed as f64 / rewards.len() as f64
        };
        let mut n_unscored = 0;
        for (prompt, scored) in prompts.iter().zip(scored) {
            let rewards: Vec<f64> =
                scored.iter().filter_map(|one| one.total.as_ref().ok().copied()).collect();
            n_unscored += scored.len() - rewards.len();
            by_prompt.push(mean_and_sample_deviation(&rewards).map(|(mean, _)| mean));
            passed_by_prompt.push((!rewards.is_empty()).then(|| pass_rate(&rewards)));
            let category = prompt.category(config.category_column.as_deref());
            by_category.entry(category).or_default().extend(rewards);
        }
        let mut metrics = Metrics::new();
        let mut put = |name: String, rewards: &[f64]| {
            if let Some((mean, _)) = mean_and_sample_deviation(rewards) {
                metrics.insert(format!("{EVALUATION_PREFIX}reward{name}"), mean);
                metrics.insert(format!("{EVALUATION_PREFIX}pass_rate{name}"), pass_rate(rewards));
            }
        };
        let all: Vec<f64> = by_category.values().flatten().copied().collect();
        put(String::new(), &all);
        for (category, rewards) in &by_category {
            put(format!("/{category}"), rewards);
        }
        if n_unscored > 0 {
            metrics.insert(format!("{EVALUATION_PREFIX}unscored"), n_unscored as f64);
        }
        let lengths: Vec<f64> = sampled.iter().flatten().map(|one| one.tokens.len() as f64).collect();
        if let Some((mean, _)) = mean_and_sample_deviation(&lengths) {
            metrics.insert(format!("{EVALUATION_PREFIX}completions/mean_length"), mean);
        }
        metrics.insert(format!("{EVALUATION_PREFIX}samples"), by_prompt.len() as f64);
        let mean = mean_and_sample_deviation(&all).map(|(mean, _)| mean);
        Self { by_prompt, passed_by_prompt, mean, metrics }
    }
}
