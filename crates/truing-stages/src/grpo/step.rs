//! One step: choose prompts, draw groups, score, compare with the reference, credit, learn, log.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rand_chacha::rand_core::Rng;
use truing_ask::chat;
use truing_generate::{
    DecodingOptions, SampleRequest, SampledCompletion, SampledIds, opened_thought, sample,
};
use truing_model::{Adapters, DecodingWeights, Engine, EngineError, TopLogProbs};
use truing_reward::shaping::Shaped;
use truing_reward::{Completion, ScoredCompletion};
use truing_run::ranks::{gather_dealt, on_first_rank};
use truing_run::record::break_if_alone;
use truing_train::completion_packs::{self as packs, CompletionPack, Sequence};
use truing_train::{KlInLoss, KlReading, Policy, PolicyPack, PolicyPackKind, ScoredRollout, TrainError};
use truing_types::{
    Event, FinishReason, ReasoningMark, Rollout, SamplingOptions, Seed, TextStart, Unscored, UnscoredReason,
    all_gather_dealt, dealt,
};

use super::failures::Looked;
use super::run::Running;
use super::state::PromptState;
use super::tally::{self, Metrics};
use super::{KlKind, Prompt, rollouts};
use crate::StageError;

/// The completions of one prompt.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Place among the run's prompts.
    pub(super) prompt: u32,
    pub(super) completions: Vec<SampledCompletion>,
    pub(super) scored: Vec<ScoredCompletion>,
}

impl Group {
    pub(super) fn rewards(&self) -> Vec<Option<f64>> {
        self.scored.iter().map(|scored| scored.total.as_ref().ok().copied()).collect()
    }

    /// Whether there are rewards to be compared.
    fn has_credit(&self) -> bool {
        self.rewards().iter().flatten().count() >= 2
    }

    fn is_all_equal(&self) -> bool {
        let rewards: Vec<f64> = self.rewards().into_iter().flatten().collect();
        rewards.windows(2).all(|pair| pair[0] == pair[1])
    }

    fn mean_reward(&self) -> Option<f64> {
        let rewards: Vec<f64> = self.rewards().into_iter().flatten().collect();
        tally::mean_and_deviation(&rewards).map(|(mean, _)| mean)
    }
}

/// What a step leaves behind.
pub(super) struct StepRecord {
    pub(super) metrics: Metrics,
    pub(super) prompts: PromptState,
    pub(super) n_tokens: u64,
    /// Whether no completion has a reward.
    pub(super) is_unscored: bool,
    /// Whether some group has different rewards.
    pub(super) has_signal: bool,
}

/// Everything a step knows of one completion, by its place in the step.
#[derive(Debug, Clone, Default)]
struct Compared {
    /// Log-probabilities under the policy at the step's beginning; empty where the completion carries no loss.
    old_log_probs: Vec<f32>,
    /// Under the reference, where the sampled estimator needs them.
    reference_log_probs: Vec<f32>,
    kl: Vec<f32>,
    /// Weights for what was drawn from the 8-bit copy, truncated; empty where the policy itself drew.
    importance_weights: Vec<f32>,
    advantages: Vec<f32>,
}

/// What is drawn for: each has its own random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Train { step: u64, round: u64 },
    Evaluate,
}

/// A pack of completions, and the reference's top tokens where the update needs them.
type ComparedPack = (CompletionPack, Option<TopLogProbs>);

impl<E: Engine> Running<'_, E> {
    /// Draws completions of this rank's prompts; `None` when the stop flag was seen.
    pub(super) fn draw(
        &mut self,
        prompts: &[&Prompt],
        places: &[u32],
        purpose: Purpose,
    ) -> Result<Option<Vec<Vec<SampledCompletion>>>, StageError> {
        let config = &self.plan.config;
        let (temperature, n_samples, indices) = match purpose {
            Purpose::Train { step, round } => {
                (config.temperature, config.num_generations, vec![0, step, round])
            }
            Purpose::Evaluate => (config.eval_temperature, config.eval_num_generations, vec![1]),
        };
        let options = SamplingOptions {
            max_new_tokens: config.max_completion_length,
            temperature,
            top_k: config.top_k,
            top_p: config.top_p,
            min_p: config.min_p,
            repetition_penalty: 1.0,
            seed: config.seed,
            stop: config.stop.clone(),
        };
        let requests: Vec<SampleRequest> = prompts
            .iter()
            .zip(places)
            .map(|(prompt, &place)| SampleRequest {
                prompt: prompt.tokens.clone(),
                n_samples,
                seed_indices: indices.iter().copied().chain([u64::from(place)]).collect(),
            })
            .collect();
        let weights = match purpose {
            Purpose::Train { .. } => config.rollout_weights,
            Purpose::Evaluate => DecodingWeights::F32,
        };
        // Keys and values take the place of the last step's activations.
        self.trainer.engine_mut().release_working_memory();
        if let Some(reference) = &mut self.reference {
            reference.release_working_memory();
        }
        let (events, stop, world_size) = (&mut *self.events, self.stop, self.communicator.world_size());
        let mut done = 0;
        let total = (requests.len() * n_samples) as u64;
        let phase = match purpose {
            Purpose::Train { step, .. } => format!("step {step} of {}: sampling rollouts", self.plan.n_steps),
            Purpose::Evaluate => "evaluating".to_owned(),
        };
        events.emit(Event::PhaseStarted { phase, total: Some(total) });
        let drawn = sample(
            self.trainer.engine_mut(),
            self.inputs.renderer.tokenizer(),
            &requests,
            &options,
            SampledIds { end: &self.end_tokens, excluded: &self.policy.excluded },
            DecodingOptions { max_batch: config.generation_batch_size, weights, shares_beginnings: false },
            &mut |_, _, _| {
                done += 1;
                events.emit(Event::Progress { done, note: String::new() });
                break_if_alone(stop, world_size)
            },
        )?;
        events.emit(Event::PhaseFinished);
        // And activations that of keys and values.
        self.trainer.engine_mut().release_working_memory();
        Ok(drawn)
    }

    /// Scores each completion of each of this rank's prompts, all in one go: a judge may be asked about many at a time.
    pub(super) fn score(
        &mut self,
        prompts: &[&Prompt],
        drawn: &[Vec<SampledCompletion>],
    ) -> Vec<Vec<ScoredCompletion>> {
        let asked: Vec<Completion<'_>> = prompts
            .iter()
            .zip(drawn)
            .flat_map(|(prompt, completions)| {
                let with_text = completions.iter().filter(|completion| completion.text_error.is_none());
                with_text.map(|completion| Completion {
                    prompt: &prompt.row.prompt,
                    text: &completion.text,
                    n_tokens: completion.tokens.len(),
                    finish_reason: completion.finish_reason,
                    columns: &prompt.row.columns,
                    origin: &prompt.origin,
                })
            })
            .collect();
        if self.judge_counts.is_some() {
            self.events.emit(Event::PhaseStarted { phase: "asking the judge".into(), total: None });
        }
        let tokenizer = self.inputs.renderer.tokenizer();
        let opened: Vec<Option<ReasoningMark>> =
            prompts.iter().map(|prompt| opened_thought(tokenizer, &self.marks, &prompt.tokens)).collect();
        let starts: Vec<TextStart<'_>> = opened
            .iter()
            .zip(drawn)
            .flat_map(|(opened, completions)| {
                let n_asked = completions.iter().filter(|one| one.text_error.is_none()).count();
                std::iter::repeat_n(TextStart::after(opened.as_ref()), n_asked)
            })
            .collect();
        let mut scored = self.rewards.score_after(&asked, &starts).into_iter();
        if self.judge_counts.is_some() {
            self.events.emit(Event::PhaseFinished);
        }
        let mut of_one = |completion: &SampledCompletion| match &completion.text_error {
            None => scored.next(),
            Some(reason) => Some(without_text(reason)),
        };
        drawn.iter().map(|completions| completions.iter().filter_map(&mut of_one).collect()).collect()
    }

    /// One whole step; `None` if it was interrupted, and then nothing has changed.
    pub(super) fn step(&mut self) -> Result<Option<StepRecord>, StageError> {
        let (plan, inputs) = (self.plan, self.inputs);
        let config = &plan.config;
        let step = self.state.step + 1;
        let started = self.probe.elapsed_secs();
        let mut prompt_state = self.prompts.clone();
        let (mut used, mut all): (Vec<Group>, Vec<Group>) = (Vec::new(), Vec::new());
        let mut left_out: Vec<Group> = Vec::new();
        let mut is_unscored = true;
        let (mut generating, mut scoring) = (0.0, 0.0);
        let is_dynamic = config.dynamic_sampling.unwrap_or(false);
        let n_rounds = if is_dynamic { config.max_resample_rounds } else { 1 };
        for round in 0..n_rounds {
            let wanted = config.prompts_per_step - used.len();
            let seed = Seed(config.seed);
            let places = prompt_state.choose(wanted, inputs.prompts.len(), seed, config.curriculum);
            let mine: Vec<u32> = dealt(places.len(), self.communicator).map(|i| places[i]).collect();
            let prompts: Vec<&Prompt> = mine.iter().map(|&place| &inputs.prompts[place as usize]).collect();
            let before = self.probe.elapsed_secs();
            let purpose = Purpose::Train { step, round: round as u64 };
            let Some(drawn) = self.draw(&prompts, &mine, purpose)? else { return Ok(None) };
            let between = self.probe.elapsed_secs();
            let scored = self.score(&prompts, &drawn);
            if self.is_stopped()? {
                // A judge may have been interrupted: completions that are unscored for that reason alone are not
                // trained on.
                return Ok(None);
            }
            scoring += self.probe.elapsed_secs() - between;
            generating += between - before;
            // From here on every rank knows the groups of all.
            let groups: Vec<(Vec<SampledCompletion>, Vec<ScoredCompletion>)> =
                gather_dealt(self.communicator, drawn.into_iter().zip(scored).collect())?;
            let origin = |place: u32| &inputs.prompts[place as usize].origin;
            let all_scored = places
                .iter()
                .zip(&groups)
                .flat_map(|(&place, (_, scored))| scored.iter().map(move |scored| (origin(place), scored)));
            let unscoring = self.look_at(Looked::Step(step), all_scored)?;
            is_unscored &= unscoring.is_total();
            unscoring.add_to(&mut prompt_state);
            for (&prompt, (completions, scored)) in places.iter().zip(groups) {
                let group = Group { prompt, completions, scored };
                let rewards: Vec<f64> = group.rewards().into_iter().flatten().collect();
                if !rewards.is_empty() {
                    let passed = rewards.iter().filter(|&&reward| reward >= config.pass_reward).count();
                    prompt_state.pass_rates.insert(prompt, passed as f64 / rewards.len() as f64);
                }
                all.push(group.clone());
                let mean = group.mean_reward();
                let is_outside =
                    config.min_group_reward.is_some_and(|least| mean.is_none_or(|mean| mean < least))
                        || config.max_group_reward.is_some_and(|most| mean.is_none_or(|mean| mean > most));
                let is_used = !(is_outside || is_dynamic && group.is_all_equal());
                if is_used { used.push(group) } else { left_out.push(group) }
            }
            // Drawing again does not help where nothing can be scored.
            if used.len() >= config.prompts_per_step || unscoring.is_total() {
                break;
            }
        }
        let before = self.probe.elapsed_secs();
        let mut metrics = tally::of_groups(&all, config.pass_reward);
        let n_used = used.iter().filter(|group| group.has_credit()).count();
        metrics.insert("groups_used".into(), n_used as f64);
        self.watch.has_signal = false;
        let Some(compared) = self.learn(&used, &mut metrics)? else { return Ok(None) };
        let updating = self.probe.elapsed_secs() - before;
        if let Some((counts, before)) = &mut self.judge_counts {
            let now = counts.snapshot();
            let (names, mut sums): (Vec<String>, Vec<f64>) =
                chat::count_metrics("judge", before, &now).into_iter().unzip();
            self.communicator.all_reduce_sum_f64(&mut sums)?;
            metrics.extend(names.into_iter().zip(sums));
            *before = now;
        }
        if config.keep_rollouts {
            on_first_rank(self.communicator, || {
                let kept = self.rollouts(step, &used, &left_out, &compared);
                rollouts::write(self.record.path(), step, &kept)
            })?;
        }
        let n_drawn: usize = all.iter().flat_map(|group| &group.completions).map(|c| c.tokens.len()).sum();
        let secs = self.probe.elapsed_secs() - started;
        for (name, value) in [
            ("step_time", secs),
            ("step_time/generating", generating),
            ("step_time/scoring", scoring),
            ("step_time/updating", updating),
            ("tokens_per_second", n_drawn as f64 / secs.max(1e-9)),
            ("tokens_per_second/generating", n_drawn as f64 / generating.max(1e-9)),
            ("epoch", prompt_state.position as f64 / inputs.prompts.len() as f64),
        ] {
            metrics.insert(name.into(), value);
        }
        let n_prompts: usize = all
            .iter()
            .map(|group| group.completions.len() * inputs.prompts[group.prompt as usize].tokens.len())
            .sum();
        let has_signal = self.watch.has_signal;
        prompt_state.n_scored_steps += u64::from(!is_unscored);
        prompt_state.n_unscored_steps += u64::from(is_unscored);
        prompt_state.n_learnt_steps += u64::from(has_signal);
        let n_tokens = (n_drawn + n_prompts) as u64;
        Ok(Some(StepRecord { metrics, prompts: prompt_state, n_tokens, is_unscored, has_signal }))
    }

    /// Compares with the reference, credits, and updates the policy; `None` if it was interrupted before the first
    /// update.
    fn learn(
        &mut self,
        groups: &[Group],
        metrics: &mut Metrics,
    ) -> Result<Option<Vec<Compared>>, StageError> {
        let (plan, inputs) = (self.plan, self.inputs);
        let config = &plan.config;
        let step = self.state.step + 1;
        let masks = config.mask_truncated_completions.unwrap_or(false);
        let mut sequences: Vec<Vec<Sequence<'_>>> = Vec::new();
        let mut n_completions = 0;
        for (group_idx, group) in groups.iter().enumerate() {
            let prompt = &inputs.prompts[group.prompt as usize];
            let rewards = group.rewards();
            let has_credit = (0..rewards.len())
                .filter(|&i| rewards[i].is_some() && self.enters_mean(&group.completions[i]))
                .count()
                >= 2;
            let takes_part = |i: usize| {
                let is_cut = group.completions[i].finish_reason == FinishReason::Length;
                has_credit && rewards[i].is_some() && !(masks && is_cut)
            };
            let of_group = (0..group.completions.len()).filter(|&i| takes_part(i)).map(|i| Sequence {
                prompt: &prompt.tokens,
                completion: &group.completions[i].tokens,
                origin: &prompt.origin,
                idx: n_completions + i,
                group: group_idx,
            });
            sequences.push(of_group.collect());
            n_completions += group.completions.len();
        }
        let mut compared = vec![Compared::default(); n_completions];
        let per_part = groups.len().div_ceil(config.minibatches).max(1);
        let mut parts: Vec<Vec<ComparedPack>> = Vec::new();
        let n_trained = sequences.iter().map(Vec::len).sum::<usize>() as u64;
        self.events.emit(Event::PhaseStarted {
            phase: format!("step {step} of {}: computing log-probabilities", plan.n_steps),
            total: Some(n_trained),
        });
        let mut n_done = 0;
        for part in sequences.chunks(per_part) {
            let flat: Vec<Sequence<'_>> = part.iter().flatten().copied().collect();
            let packs = packs::pack(&flat, config.max_tokens_per_pack, config.share_prompts)?;
            if packs.is_empty() {
                continue;
            }
            let (mut mine, mut said) = (Vec::new(), Vec::new());
            for place in dealt(packs.len(), self.communicator) {
                if break_if_alone(self.stop, self.communicator.world_size()).is_break() {
                    return Ok(None);
                }
                let pack = packs[place].clone();
                let (of_pack, reference) = self.compare(&pack)?;
                n_done += pack.completions.len() as u64;
                self.events.emit(Event::Progress { done: n_done, note: String::new() });
                said.push(of_pack);
                mine.push((pack, reference));
            }
            // Every rank knows what was said of all completions, and keeps the packs that it has compared.
            for (pack, said) in packs.iter().zip(all_gather_dealt(self.communicator, said)?) {
                take_down(pack, &said, &mut compared);
            }
            parts.push(mine);
        }
        if let Some(reference) = &mut self.reference {
            reference.release_working_memory();
        }
        self.events.emit(Event::PhaseFinished);
        if self.is_stopped()? {
            return Ok(None);
        }
        let rewards = self.shape(groups, metrics);
        let mut at = 0;
        for (group, sequences) in groups.iter().zip(&sequences) {
            let of_group: Vec<f64> =
                rewards[at..at + group.completions.len()].iter().flatten().copied().collect();
            at += group.completions.len();
            self.watch.has_signal |=
                !sequences.is_empty() && of_group.windows(2).any(|pair| pair[0] != pair[1]);
        }
        self.credit(groups, &rewards, &mut compared);
        self.weigh(groups, &mut compared);
        self.measure(groups, &compared, metrics);
        if n_trained > 0 && !self.update(&parts, &compared, metrics)? {
            return Ok(None);
        }
        Ok(Some(compared))
    }

    /// What policy and reference say of a pack, as [`take_down`] reads it, and the reference's top tokens where the update
    /// needs them.
    fn compare(&mut self, pack: &CompletionPack) -> Result<(Vec<f32>, Option<TopLogProbs>), StageError> {
        let config = &self.plan.config;
        let (policy, k) = (&self.policy.clone(), config.kl_top_k);
        let (mut top, mut reference_log_probs) = (None, Vec::new());
        match config.kl() {
            KlKind::ExactTopK => {
                top = Some(self.ask_reference(|engine, adapters| {
                    packs::top_log_probs(engine, &pack.batch, policy, k, adapters)
                })?);
            }
            KlKind::K3 => {
                let said = self.ask_reference(|engine, adapters| {
                    packs::log_probs(engine, &pack.batch, policy, None, adapters)
                })?;
                reference_log_probs = said.0;
            }
            KlKind::None => {}
        }
        let engine = self.trainer.engine_mut();
        let (log_probs, mut kl) =
            packs::log_probs(engine, &pack.batch, policy, top.as_ref(), Adapters::Enabled)?;
        if config.kl() == KlKind::K3 {
            let k3 = |(&reference, &policy): (&f32, &f32)| {
                let log_ratio = reference - policy;
                log_ratio.exp_m1() - log_ratio
            };
            kl = reference_log_probs.iter().zip(&log_probs).map(k3).collect();
        }
        let is_needed = matches!(config.policy().kl, KlInLoss::Exact(_));
        let top = top.filter(|_| is_needed);
        Ok(([log_probs, kl, reference_log_probs].concat(), top))
    }

    /// Asks the frozen model: a second engine, or the policy without its adapters.
    fn ask_reference<R>(
        &mut self,
        ask: impl FnOnce(&mut E, Adapters) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        match &mut self.reference {
            Some(reference) => ask(reference, Adapters::Enabled),
            None => ask(self.trainer.engine_mut(), Adapters::Disabled),
        }
    }

    /// The rewards that are learnt from, of all completions in order.
    fn shape(&self, groups: &[Group], metrics: &mut Metrics) -> Vec<Option<f64>> {
        let config = &self.plan.config;
        let Some(shaping) = config.shaping.as_ref().filter(|shaping| !shaping.is_nothing()) else {
            return groups.iter().flat_map(Group::rewards).collect();
        };
        let completions: Vec<Shaped<'_>> = groups
            .iter()
            .enumerate()
            .flat_map(|(group_idx, group)| {
                let origin = &self.inputs.prompts[group.prompt as usize].origin;
                group.scored.iter().zip(&group.completions).map(move |(scored, completion)| Shaped {
                    scored,
                    n_tokens: completion.tokens.len(),
                    source: &origin.source,
                    group: group_idx,
                })
            })
            .collect();
        let shaped = shaping.shape(&self.rewards, &completions, config.pass_reward);
        let values: Vec<f64> = shaped.iter().copied().flatten().collect();
        if let Some((mean, deviation)) = tally::mean_and_deviation(&values) {
            metrics.insert("shaped_reward".into(), mean);
            metrics.insert("shaped_reward/std".into(), deviation);
        }
        shaped
    }

    /// Whether a completion's reward enters the mean of its group. One that was cut off and carries no loss does, as in TRL,
    /// but not where the KL is part of the outcome: its KL is not computed, so that its outcome would lack what the
    /// others' have.
    fn enters_mean(&self, completion: &SampledCompletion) -> bool {
        let config = &self.plan.config;
        let credit = config.credit();
        let has_kl = credit.kl_reading == KlReading::InOutcome && credit.kl_coefficient != 0.0;
        let is_masked = config.mask_truncated_completions.unwrap_or(false)
            && completion.finish_reason == FinishReason::Length;
        !(has_kl && is_masked)
    }

    fn credit(&self, groups: &[Group], rewards: &[Option<f64>], compared: &mut [Compared]) {
        let mut next = 0;
        let mut rollouts = Vec::new();
        for group in groups {
            let of_group = group.completions.iter().map(|completion| {
                let reward = rewards[next].filter(|_| self.enters_mean(completion));
                let known = &compared[next];
                next += 1;
                ScoredRollout { reward, kl: known.kl.clone(), n_tokens: completion.tokens.len() }
            });
            rollouts.push(of_group.collect::<Vec<_>>());
        }
        let advantages = self.plan.config.credit().assign(&rollouts);
        for (known, advantages) in compared.iter_mut().zip(advantages.into_iter().flatten()) {
            known.advantages = advantages.unwrap_or_default();
        }
    }

    /// Truncated importance weights of what the 8-bit copy has drawn: how much likelier the policy itself makes each
    /// token, at most `importance_sampling_cap` (Ionides 2008; for samplers of another precision, Yao et al. 2025).
    fn weigh(&self, groups: &[Group], compared: &mut [Compared]) {
        let config = &self.plan.config;
        if config.rollout_weights == DecodingWeights::F32 {
            return;
        }
        for (completion, known) in groups.iter().flat_map(|group| &group.completions).zip(compared) {
            let pairs = known.old_log_probs.iter().zip(self.drawn_log_probs(completion));
            let weight = |(&policy, &drawn): (&f32, &f32)| {
                (f64::from(policy) - f64::from(drawn)).exp().min(config.importance_sampling_cap) as f32
            };
            known.importance_weights = pairs.map(weight).collect();
        }
    }

    /// Log-probabilities of a completion under the tempered policy that it was drawn from, nothing cut off.
    fn drawn_log_probs<'a>(&self, completion: &'a SampledCompletion) -> &'a [f32] {
        if self.plan.config.temperature == 1.0 {
            &completion.log_probs
        } else {
            &completion.sampling_log_probs
        }
    }

    /// KL, and how far the sampler was from the trainer.
    fn measure(&self, groups: &[Group], compared: &[Compared], metrics: &mut Metrics) {
        let config = &self.plan.config;
        let kl: Vec<f64> = compared.iter().flat_map(|known| &known.kl).map(|&kl| f64::from(kl)).collect();
        if let Some((mean, _)) = tally::mean_and_deviation(&kl) {
            metrics.insert("kl".into(), mean);
        }
        if !config.knows_drawn_policy() {
            return;
        }
        let completions = groups.iter().flat_map(|group| &group.completions);
        let differences: Vec<f64> = completions
            .zip(compared)
            .flat_map(|(completion, known)| {
                let drawn = self.drawn_log_probs(completion);
                drawn.iter().zip(&known.old_log_probs).map(|(&a, &b)| f64::from((a - b).abs()))
            })
            .collect();
        if let Some((mean, _)) = tally::mean_and_deviation(&differences) {
            let most = differences.iter().copied().fold(0.0, f64::max);
            metrics.insert("sampling/sampling_logp_difference/mean".into(), mean);
            metrics.insert("sampling/sampling_logp_difference/max".into(), most);
        }
        let weights: Vec<f64> = compared
            .iter()
            .flat_map(|known| &known.importance_weights)
            .map(|&weight| weight.into())
            .collect();
        if let Some((mean, _)) = tally::mean_and_deviation(&weights) {
            let most = weights.iter().copied().fold(0.0, f64::max);
            let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
            metrics.insert("sampling/importance_sampling_ratio/min".into(), least);
            metrics.insert("sampling/importance_sampling_ratio/mean".into(), mean);
            metrics.insert("sampling/importance_sampling_ratio/max".into(), most);
        }
    }

    /// All updates of the step. False if it was interrupted before the first; later the step is finished, so that the
    /// weights always stand at a step's border.
    fn update(
        &mut self,
        parts: &[Vec<ComparedPack>],
        compared: &[Compared],
        metrics: &mut Metrics,
    ) -> Result<bool, StageError> {
        let config = &self.plan.config;
        let objective = Policy { excluded: self.policy.excluded.clone(), ..config.policy() };
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        let mut add = |name: &str, value: f64| {
            if value.is_finite() {
                let sum = sums.entry(name.to_owned()).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
        };
        let step = self.state.step + 1;
        let first_update = self.state.step * config.updates_per_step();
        let mut n_updates = 0;
        let n_packs: usize = parts.iter().map(Vec::len).sum();
        self.events.emit(Event::PhaseStarted {
            phase: format!("step {step} of {}: updating the policy", self.plan.n_steps),
            total: Some((n_packs * config.num_iterations) as u64),
        });
        let mut n_done = 0;
        for _ in 0..config.num_iterations {
            for part in parts {
                let mut packs: Vec<PolicyPack> = part
                    .iter()
                    .map(|(pack, reference)| policy_pack(pack, reference.clone(), compared))
                    .collect();
                packs.extend(self.ptx_packs(first_update + n_updates)?);
                let (events, stop, communicator) = (&mut *self.events, self.stop, self.communicator);
                let result = self.trainer.step(&packs, &objective, communicator, &mut |_| {
                    n_done += 1;
                    events.emit(Event::Progress { done: n_done, note: String::new() });
                    match n_updates {
                        0 => break_if_alone(stop, communicator.world_size()),
                        _ => ControlFlow::Continue(()),
                    }
                });
                let outcome = match result {
                    Ok(outcome) => outcome,
                    Err(TrainError::BrokenOff) => return Ok(false),
                    Err(error) => return Err(error.into()),
                };
                n_updates += 1;
                outcome.measures.means.iter().for_each(|(name, &value)| add(name, value));
                add("loss", outcome.measures.loss);
                add("grad_norm", outcome.grad_norm);
                add("learning_rate", outcome.learning_rate);
            }
        }
        self.events.emit(Event::PhaseFinished);
        for (name, (sum, n)) in sums {
            let is_absent = name == "kl_loss" && objective.kl == KlInLoss::None;
            // The KL before the updates is the one that the rewards were given with.
            if !(is_absent || name == "kl") {
                metrics.insert(name, sum / n);
            }
        }
        Ok(true)
    }

    fn ptx_packs(&mut self, update: u64) -> Result<Vec<PolicyPack>, StageError> {
        let (config, inputs) = (&self.plan.config, self.inputs);
        let Some(data) = &inputs.ptx else { return Ok(Vec::new()) };
        let mut generator = Seed(config.seed).generator("ptx", &[update]);
        let (policy, k) = (&self.policy.clone(), config.kl_top_k);
        let mut packs = Vec::new();
        let drawn: Vec<u32> = (0..config.ptx_samples_per_update)
            .map(|_| (generator.next_u64() % data.n_samples() as u64) as u32)
            .collect();
        for place in dealt(drawn.len(), self.communicator) {
            let batch = data.batch(&[drawn[place]])?;
            let top = self.ask_reference(|engine, adapters| {
                packs::top_log_probs(engine, &batch, policy, k, adapters)
            })?;
            packs.push(packs::ptx_pack(batch, top));
        }
        Ok(packs)
    }

    /// The step's completions for the disk: those that were learnt from, then those of groups that were left out.
    fn rollouts(&self, step: u64, used: &[Group], left_out: &[Group], compared: &[Compared]) -> Vec<Rollout> {
        let mut compared = compared.iter();
        let mut kept = Vec::new();
        for (prompt_idx, group) in used.iter().chain(left_out).enumerate() {
            let prompt = &self.inputs.prompts[group.prompt as usize];
            for (sample_idx, (completion, scored)) in group.completions.iter().zip(&group.scored).enumerate()
            {
                let known = compared.next().cloned().unwrap_or_default();
                let sum = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
                let has_part = !known.old_log_probs.is_empty() && !known.advantages.is_empty();
                let parts = || scored.parts.iter();
                kept.push(Rollout {
                    step,
                    prompt_idx,
                    sample_idx,
                    origin: prompt.origin.clone(),
                    prompt: prompt.row.prompt.messages.clone(),
                    prompt_tokens: prompt.tokens.clone(),
                    tokens: completion.tokens.clone(),
                    text: completion.text.clone(),
                    finish_reason: completion.finish_reason,
                    log_probs: completion.log_probs.clone(),
                    sampling_log_probs: completion.sampling_log_probs.clone(),
                    rewards: parts()
                        .filter_map(|(name, part)| Some((name.clone(), *part.as_ref().ok()?)))
                        .collect(),
                    unscored: parts()
                        .filter_map(|(name, part)| Some((name.clone(), part.as_ref().err()?.to_string())))
                        .collect(),
                    reward: scored.total.as_ref().ok().copied(),
                    advantage: has_part.then(|| sum(&known.advantages) / known.advantages.len() as f64),
                    kl: (!known.kl.is_empty()).then(|| sum(&known.kl)),
                });
            }
        }
        kept
    }
}

/// A completion whose tokens could not be turned into text: no reward looks at it.
fn without_text(reason: &str) -> ScoredCompletion {
    let unscored = Unscored::new(UnscoredReason::Failed, format!("the completion has no text: {reason}"));
    ScoredCompletion { parts: [("text".to_owned(), Err(unscored.clone()))].into(), total: Err(unscored) }
}

/// Takes down what was said of a pack's completions: lists of one number a target, log-probabilities under the policy, then
/// KL and log-probabilities under the reference where there are any.
fn take_down(pack: &CompletionPack, said: &[f32], compared: &mut [Compared]) {
    let n_targets: usize = pack.completions.iter().map(|&(_, n)| n).sum();
    let mut lists = said.chunks_exact(n_targets.max(1));
    let [log_probs, kl, reference] = [(); 3].map(|()| lists.next().unwrap_or(&[]));
    let mut start = 0;
    for &(idx, n_targets) in &pack.completions {
        let range = start..start + n_targets;
        let part = |values: &[f32]| values.get(range.clone()).map_or_else(Vec::new, <[f32]>::to_vec);
        compared[idx] = Compared {
            old_log_probs: part(log_probs),
            reference_log_probs: part(reference),
            kl: part(kl),
            importance_weights: Vec::new(),
            advantages: Vec::new(),
        };
        start += n_targets;
    }
}

fn policy_pack(pack: &CompletionPack, reference: Option<TopLogProbs>, compared: &[Compared]) -> PolicyPack {
    let join = |values: fn(&Compared) -> &Vec<f32>| -> Vec<f32> {
        pack.completions.iter().flat_map(|&(idx, _)| values(&compared[idx]).iter().copied()).collect()
    };
    let places = pack.completions.iter().enumerate();
    PolicyPack {
        kind: PolicyPackKind::Rollouts,
        batch: pack.batch.clone(),
        completions: places.flat_map(|(place, &(_, n))| std::iter::repeat_n(place as u32, n)).collect(),
        advantages: join(|known| &known.advantages),
        old_log_probs: join(|known| &known.old_log_probs),
        reference_log_probs: join(|known| &known.reference_log_probs),
        importance_weights: join(|known| &known.importance_weights),
        reference,
    }
}
