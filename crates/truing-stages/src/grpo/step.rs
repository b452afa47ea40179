//! One step: choose prompts, sample groups, score, learn, log.

use truing_ask::chat;
use truing_generate::SampledCompletion;
use truing_model::Engine;
use truing_reward::ScoredCompletion;
use truing_run::ranks::{gather_dealt, on_first_rank};
use truing_run::rollouts;
use truing_train::completion_columns::Columns;
use truing_types::{Rollout, Seed, dealt};

use super::Prompt;
use super::failures::Looked;
use super::rollout_groups::{Group, SamplingPhase};
use super::rollout_servers;
use super::running::Running;
use super::state::PromptState;
use super::tally::{self, Metrics};
use crate::StageError;

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

/// The groups that a step has sampled.
#[derive(Debug, Default)]
struct SampledGroups {
    all: Vec<Group>,
    /// Indices of those that are trained on.
    used: Vec<usize>,
    /// Indices of the others.
    left_out: Vec<usize>,
    /// Whether no completion has a reward.
    is_unscored: bool,
    /// Seconds.
    generating: f64,
    scoring: f64,
}

impl<E: Engine> Running<'_, E> {
    /// One whole step; `None` if it was interrupted, and then nothing has changed.
    pub(super) fn step(&mut self) -> Result<Option<StepRecord>, StageError> {
        let (plan, inputs) = (self.plan, self.inputs);
        let config = &plan.config;
        let step = self.state.step + 1;
        let started = self.probe.elapsed_secs();
        let mut prompt_state = self.prompts.clone();
        let Some(sampled) = self.sample_groups(step, &mut prompt_state)? else { return Ok(None) };
        let SampledGroups { all, used, left_out, is_unscored, generating, scoring } = sampled;
        let before = self.probe.elapsed_secs();
        let mut metrics = tally::of_groups(&all, config.pass_reward);
        if config.rollouts.is_some() {
            let completions = all.iter().flat_map(|group| &group.completions);
            metrics.extend(rollout_servers::metrics(completions, self.state.step));
        }
        let used: Vec<&Group> = used.into_iter().map(|idx| &all[idx]).collect();
        let n_used = used.iter().filter(|group| group.has_credit()).count();
        metrics.insert("groups_used".into(), n_used as f64);
        self.watch.has_signal = false;
        let Some(columns) = self.learn(&used, &mut metrics)? else { return Ok(None) };
        let updating = self.probe.elapsed_secs() - before;
        if let Some((counts, before)) = &mut self.judge_counts {
            let now = counts.snapshot();
            let (names, mut sums): (Vec<String>, Vec<f64>) =
                chat::count_metrics("judge", before, &now).into_iter().unzip();
            self.groups.world.all_reduce_sum_f64(&mut sums)?;
            metrics.extend(names.into_iter().zip(sums));
            *before = now;
        }
        if config.keep_rollouts {
            on_first_rank(&*self.groups.world, || {
                let left_out = left_out.iter().map(|&idx| &all[idx]);
                let kept = self.rollouts(step, used.iter().copied().chain(left_out), &columns);
                rollouts::write(self.record.path(), step, &kept)
            })?;
        }
        let n_sampled: usize = all.iter().flat_map(|group| &group.completions).map(|c| c.tokens.len()).sum();
        let secs = self.probe.elapsed_secs() - started;
        for (name, value) in [
            ("step_time", secs),
            ("step_time/generating", generating),
            ("step_time/scoring", scoring),
            ("step_time/updating", updating),
            ("tokens_per_second", n_sampled as f64 / secs.max(1e-9)),
            ("tokens_per_second/generating", n_sampled as f64 / generating.max(1e-9)),
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
        let n_tokens = (n_sampled + n_prompts) as u64;
        Ok(Some(StepRecord { metrics, prompts: prompt_state, n_tokens, is_unscored, has_signal }))
    }

    /// Samples and scores the groups of a step, in several rounds where groups of equal rewards are replaced; `None` if
    /// it was interrupted.
    fn sample_groups(
        &mut self,
        step: u64,
        prompt_state: &mut PromptState,
    ) -> Result<Option<SampledGroups>, StageError> {
        let (config, inputs) = (&self.plan.config, self.inputs);
        let mut sampled = SampledGroups { is_unscored: true, ..SampledGroups::default() };
        let is_dynamic = config.dynamic_sampling.unwrap_or(false);
        let n_rounds = if is_dynamic { config.max_resample_rounds } else { 1 };
        for round in 0..n_rounds {
            let wanted = config.prompts_per_step - sampled.used.len();
            let seed = Seed(config.seed);
            let prompt_indices = prompt_state.choose(wanted, inputs.prompts.len(), seed, config.curriculum);
            let mine: Vec<u32> =
                dealt(prompt_indices.len(), &*self.groups.world).map(|i| prompt_indices[i]).collect();
            let prompts: Vec<&Prompt> =
                mine.iter().map(|&prompt_idx| &inputs.prompts[prompt_idx as usize]).collect();
            let before = self.probe.elapsed_secs();
            let phase = SamplingPhase::Train { step, round: round as u64 };
            let Some(completions) = self.sample_completions(&prompts, &mine, phase)? else { return Ok(None) };
            let between = self.probe.elapsed_secs();
            let scored = self.score(&prompts, &completions);
            if self.is_stopped()? {
                // A judge may have been interrupted: completions that are unscored for that reason alone are not
                // trained on.
                return Ok(None);
            }
            sampled.scoring += self.probe.elapsed_secs() - between;
            sampled.generating += between - before;
            // From here on every rank knows the groups of all.
            let groups: Vec<(Vec<SampledCompletion>, Vec<ScoredCompletion>)> =
                gather_dealt(&*self.groups.world, completions.into_iter().zip(scored).collect())?;
            let origin = |prompt_idx: u32| &inputs.prompts[prompt_idx as usize].origin;
            let all_scored = prompt_indices.iter().zip(&groups).flat_map(|(&prompt_idx, (_, scored))| {
                scored.iter().map(move |scored| (origin(prompt_idx), scored))
            });
            let unscoring = self.look_at(Looked::Step(step), all_scored)?;
            sampled.is_unscored &= unscoring.is_total();
            prompt_state.n_completions += unscoring.n_completions() as u64;
            unscoring.add_to(&mut prompt_state.unscored);
            for (&prompt, (completions, scored)) in prompt_indices.iter().zip(groups) {
                let group = Group { prompt, completions, scored };
                let rewards: Vec<f64> = group.rewards().into_iter().flatten().collect();
                if !rewards.is_empty() {
                    let passed = rewards.iter().filter(|&&reward| reward >= config.pass_reward).count();
                    prompt_state.pass_rates.insert(prompt, passed as f64 / rewards.len() as f64);
                }
                let mean = group.mean_reward();
                let is_outside =
                    config.min_group_reward.is_some_and(|least| mean.is_none_or(|mean| mean < least))
                        || config.max_group_reward.is_some_and(|most| mean.is_none_or(|mean| mean > most));
                let is_used = !(is_outside || is_dynamic && group.is_all_equal());
                if is_used {
                    sampled.used.push(sampled.all.len())
                } else {
                    sampled.left_out.push(sampled.all.len())
                }
                sampled.all.push(group);
            }
            // Drawing again does not help where nothing can be scored.
            if sampled.used.len() >= config.prompts_per_step || unscoring.is_total() {
                break;
            }
        }
        Ok(Some(sampled))
    }

    /// The step's completions for the disk: those that were trained on, then those of groups that were left out.
    fn rollouts<'g>(
        &self,
        step: u64,
        groups: impl Iterator<Item = &'g Group>,
        columns: &Columns,
    ) -> Vec<Rollout> {
        let mut kept = Vec::new();
        for (prompt_idx, group) in groups.enumerate() {
            let prompt = &self.inputs.prompts[group.prompt as usize];
            for (sample_idx, (completion, scored)) in group.completions.iter().zip(&group.scored).enumerate()
            {
                let idx = kept.len();
                let sum = |column| {
                    let part = columns.part(column, idx);
                    let sum = part.iter().map(|&value: &f32| f64::from(value)).sum::<f64>();
                    (!part.is_empty()).then_some((sum, part.len() as f64))
                };
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
                    weights_version: completion.weights_version,
                    rewards: parts()
                        .filter_map(|(name, part)| Some((name.clone(), *part.as_ref().ok()?)))
                        .collect(),
                    unscored: parts()
                        .filter_map(|(name, part)| Some((name.clone(), part.as_ref().err()?.to_string())))
                        .collect(),
                    reward: scored.total.as_ref().ok().copied(),
                    advantage: sum(&columns.advantages).map(|(sum, n)| sum / n),
                    kl: sum(&columns.kl).map(|(sum, _)| sum),
                });
            }
        }
        kept
    }
}
