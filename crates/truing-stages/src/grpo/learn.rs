//! Learning from the groups of a step: compare with the reference, compute advantages, update the policy.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use rand_chacha::rand_core::Rng;
use truing_generate::SampledCompletion;
use truing_model::{Adapters, Engine, EngineError, TopLogProbs};
use truing_reward::shaping::Shaped;
use truing_run::record::break_if_alone;
use truing_statistics::mean_and_sample_deviation;
use truing_train::completion_columns::{Columns, ComparedTargets, policy_pack};
use truing_train::completion_packs::{self as packs, CompletionPack, Sequence};
use truing_train::{KlInLoss, KlInReward, Policy, PolicyPack, ScoredRollout, TrainError};
use truing_types::{Event, FinishReason, Seed, all_gather_dealt, dealt};

use super::KlKind;
use super::rollout_groups::Group;
use super::rollout_servers::ImportanceSamplingMode;
use super::running::Running;
use super::tally::Metrics;
use crate::StageError;

/// The packs of a minibatch, each with its range in the columns.
type PacksOfPart = Vec<(PolicyPack, Range<usize>)>;

impl<E: Engine> Running<'_, E> {
    /// Compares with the reference, credits, and updates the policy; `None` if it was interrupted before the first
    /// update.
    pub(super) fn learn(
        &mut self,
        groups: &[&Group],
        metrics: &mut Metrics,
    ) -> Result<Option<Columns>, StageError> {
        let sequences = self.sequences(groups);
        let is_anything_trained = sequences.iter().any(|of_group| !of_group.is_empty());
        let mut columns = Columns::new(groups.iter().map(|group| group.completions.len()).sum());
        let Some(packs) = self.compare_all(groups.len(), &sequences, &mut columns)? else {
            return Ok(None);
        };
        let rewards = self.shape(groups, metrics);
        let mut at = 0;
        for (group, sequences) in groups.iter().zip(&sequences) {
            let of_group: Vec<f64> =
                rewards[at..at + group.completions.len()].iter().flatten().copied().collect();
            at += group.completions.len();
            self.watch.has_signal |=
                !sequences.is_empty() && of_group.windows(2).any(|pair| pair[0] != pair[1]);
        }
        self.compute_advantages(groups, &rewards, &mut columns);
        self.weigh(groups, &mut columns);
        self.measure(groups, &columns, metrics);
        let parts = packs.into_iter().map(|part| {
            let filled = part.into_iter().map(|(mut pack, range)| {
                columns.fill(&mut pack, &range);
                pack
            });
            filled.collect()
        });
        let mut parts: Vec<Vec<PolicyPack>> = parts.collect();
        if is_anything_trained && !self.update(&mut parts, metrics)? {
            return Ok(None);
        }
        Ok(Some(columns))
    }

    /// The completions that are trained on, by group.
    fn sequences<'g>(&self, groups: &[&'g Group]) -> Vec<Vec<Sequence<'g>>>
    where
        Self: 'g,
    {
        let config = &self.plan.config;
        let masks = config.mask_truncated_completions.unwrap_or(false);
        let mut sequences: Vec<Vec<Sequence<'_>>> = Vec::new();
        let mut n_completions = 0;
        for (group_idx, group) in groups.iter().enumerate() {
            let prompt = &self.inputs.prompts[group.prompt as usize];
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
        sequences
    }

    /// Computes the log-probabilities of policy and reference for all packs of the step, into `columns`: the packs of
    /// this rank by minibatch, with their ranges in the columns. `None` if it was interrupted.
    fn compare_all(
        &mut self,
        n_groups: usize,
        sequences: &[Vec<Sequence<'_>>],
        columns: &mut Columns,
    ) -> Result<Option<Vec<PacksOfPart>>, StageError> {
        let plan = self.plan;
        let config = &plan.config;
        let step = self.state.step + 1;
        let per_part = n_groups.div_ceil(config.minibatches).max(1);
        let mut parts: Vec<PacksOfPart> = Vec::new();
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
            let (mut references, mut compared) = (Vec::new(), Vec::new());
            for pack_idx in dealt(packs.len(), &*self.groups.data) {
                if break_if_alone(self.stop, self.groups.world.world_size()).is_break() {
                    return Ok(None);
                }
                let (of_pack, reference) = self.compare(&packs[pack_idx])?;
                n_done += packs[pack_idx].completions.len() as u64;
                self.events.emit(Event::Progress { done: n_done, note: String::new() });
                compared.push(of_pack);
                references.push((pack_idx, reference));
            }
            self.trainer.engine_mut().join_others()?;
            // Every rank has the columns of all packs, and keeps the packs that its sequence group has compared.
            let mut references = references.into_iter().peekable();
            let mut mine = Vec::new();
            let compared = all_gather_dealt(&*self.groups.data, compared)?;
            for (pack_idx, (pack, compared)) in packs.into_iter().zip(compared).enumerate() {
                let range = columns.append(&pack, &compared);
                if let Some((_, reference)) = references.next_if(|(mine, _)| *mine == pack_idx) {
                    mine.push((policy_pack(pack, reference), range));
                }
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
        Ok(Some(parts))
    }

    /// What policy and reference say of a pack, and the reference's top tokens where the update needs them.
    fn compare(
        &mut self,
        pack: &CompletionPack,
    ) -> Result<(ComparedTargets, Option<TopLogProbs>), StageError> {
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
                (reference_log_probs, _) = self.ask_reference(|engine, adapters| {
                    packs::log_probs(engine, &pack.batch, policy, None, adapters)
                })?;
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

    /// The rewards that are trained on, of all completions in order.
    fn shape(&self, groups: &[&Group], metrics: &mut Metrics) -> Vec<Option<f64>> {
        let config = &self.plan.config;
        let Some(shaping) = config.shaping.as_ref().filter(|shaping| !shaping.is_nothing()) else {
            return groups.iter().flat_map(|group| group.rewards()).collect();
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
        if let Some((mean, deviation)) = mean_and_sample_deviation(&values) {
            metrics.insert("shaped_reward".into(), mean);
            metrics.insert("shaped_reward/std".into(), deviation);
        }
        shaped
    }

    /// Whether a completion's reward enters the mean of its group. One that was cut off and carries no loss does, as in
    /// TRL, but not where the KL is part of the outcome: its KL is not computed, so that its outcome would lack what
    /// the others' have.
    fn enters_mean(&self, completion: &SampledCompletion) -> bool {
        let config = &self.plan.config;
        let options = config.advantages();
        let has_kl = options.kl_in_reward == KlInReward::InOutcome && options.kl_coefficient != 0.0;
        let is_masked = config.mask_truncated_completions.unwrap_or(false)
            && completion.finish_reason == FinishReason::Length;
        !(has_kl && is_masked)
    }

    fn compute_advantages(&self, groups: &[&Group], rewards: &[Option<f64>], columns: &mut Columns) {
        let mut next = 0;
        let mut rollouts = Vec::new();
        for group in groups {
            let of_group = group.completions.iter().map(|completion| {
                let reward = rewards[next].filter(|_| self.enters_mean(completion));
                let kl = columns.part(&columns.kl, next).to_vec();
                next += 1;
                ScoredRollout { reward, kl, n_tokens: completion.tokens.len() }
            });
            rollouts.push(of_group.collect::<Vec<_>>());
        }
        let advantages = self.plan.config.advantages().assign(&rollouts);
        for (idx, advantages) in advantages.into_iter().flatten().enumerate() {
            let range = columns.range(idx);
            if let Some(advantages) = advantages.filter(|advantages| advantages.len() == range.len()) {
                columns.advantages[range].copy_from_slice(&advantages);
            }
        }
    }

    /// Truncated importance weights of what a server or the int8 copy has sampled: how much likelier the policy
    /// itself makes each token, or the whole completion, at most `importance_sampling_cap` (Ionides 2008; for
    /// samplers of another precision, Yao et al. 2025).
    fn weigh(&self, groups: &[&Group], columns: &mut Columns) {
        let config = &self.plan.config;
        let mode = config.importance_sampling_mode();
        if mode == ImportanceSamplingMode::None {
            return;
        }
        columns.importance_weights = vec![1.0; columns.old_log_probs.len()];
        for (idx, completion) in groups.iter().flat_map(|group| &group.completions).enumerate() {
            let range = columns.range(idx);
            let trained = &columns.old_log_probs[range.clone()];
            let weights = importance_weights(
                mode,
                trained,
                self.sampling_log_probs(completion),
                config.importance_sampling_cap,
            );
            for (weight, found) in columns.importance_weights[range].iter_mut().zip(weights) {
                *weight = found;
            }
        }
    }

    /// Log-probabilities of a completion under the tempered policy that it was sampled from, nothing cut off.
    fn sampling_log_probs<'a>(&self, completion: &'a SampledCompletion) -> &'a [f32] {
        if self.plan.config.temperature == 1.0 {
            &completion.log_probs
        } else {
            &completion.sampling_log_probs
        }
    }

    /// KL, and how far the sampler was from the trainer.
    fn measure(&self, groups: &[&Group], columns: &Columns, metrics: &mut Metrics) {
        let config = &self.plan.config;
        let kl: Vec<f64> = columns.kl.iter().map(|&kl| kl.into()).collect();
        if let Some((mean, _)) = mean_and_sample_deviation(&kl) {
            metrics.insert("kl".into(), mean);
        }
        if !config.knows_sampling_policy() {
            return;
        }
        let completions = groups.iter().flat_map(|group| &group.completions);
        let log_ratios: Vec<f64> = completions
            .enumerate()
            .flat_map(|(idx, completion)| {
                let sampled = self.sampling_log_probs(completion);
                let trained = columns.part(&columns.old_log_probs, idx);
                sampled.iter().zip(trained).map(|(&sampled, &trained)| f64::from(trained - sampled))
            })
            .collect();
        let differences: Vec<f64> = log_ratios.iter().map(|log_ratio| log_ratio.abs()).collect();
        if let Some((mean, _)) = mean_and_sample_deviation(&differences) {
            let most = differences.iter().copied().fold(0.0, f64::max);
            metrics.insert("sampling/sampling_logp_difference/mean".into(), mean);
            metrics.insert("sampling/sampling_logp_difference/max".into(), most);
        }
        // KL(sampler, trainer) by the k3 estimator on the sampler's tokens, which is never negative.
        let kl: Vec<f64> = log_ratios.iter().map(|log_ratio| log_ratio.exp_m1() - log_ratio).collect();
        if let Some((mean, _)) = mean_and_sample_deviation(&kl) {
            metrics.insert("sampling/mismatch_kl".into(), mean);
        }
        let weights: Vec<f64> = columns.importance_weights.iter().map(|&weight| weight.into()).collect();
        if let Some((mean, _)) = mean_and_sample_deviation(&weights) {
            let most = weights.iter().copied().fold(0.0, f64::max);
            let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
            metrics.insert("sampling/importance_sampling_ratio/min".into(), least);
            metrics.insert("sampling/importance_sampling_ratio/mean".into(), mean);
            metrics.insert("sampling/importance_sampling_ratio/max".into(), most);
            let cap = f64::from(config.importance_sampling_cap as f32);
            let n_truncated = weights.iter().filter(|&&weight| weight >= cap).count();
            let share = n_truncated as f64 / weights.len() as f64;
            metrics.insert("sampling/importance_sampling_ratio/truncated".into(), share);
        }
    }

    /// All updates of the step. False if it was interrupted before the first; later the step is finished, so that the
    /// weights always stand at a step's border.
    fn update(&mut self, parts: &mut [Vec<PolicyPack>], metrics: &mut Metrics) -> Result<bool, StageError> {
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
            for part in &mut *parts {
                let n_packs = part.len();
                part.extend(self.ptx_packs(first_update + n_updates)?);
                let (events, stop, groups) = (&mut *self.events, self.stop, self.groups);
                let result = self.trainer.step(part, &objective, &*groups.data, &mut |_| {
                    n_done += 1;
                    events.emit(Event::Progress { done: n_done, note: String::new() });
                    match n_updates {
                        0 => break_if_alone(stop, groups.world.world_size()),
                        _ => ControlFlow::Continue(()),
                    }
                });
                part.truncate(n_packs);
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
        let sampled: Vec<u32> = (0..config.ptx_samples_per_update)
            .map(|_| (generator.next_u64() % data.n_samples() as u64) as u32)
            .collect();
        for pack_idx in dealt(sampled.len(), &*self.groups.data) {
            let batch = data.batch(&[sampled[pack_idx]])?;
            let top = self.ask_reference(|engine, adapters| {
                packs::top_log_probs(engine, &batch, policy, k, adapters)
            })?;
            packs.push(packs::ptx_pack(batch, top));
        }
        self.trainer.engine_mut().join_others()?;
        Ok(packs)
    }
}

/// The importance weight of each token of a completion: the ratio of its probabilities, or the product of those of
/// all tokens, at most `cap`.
fn importance_weights(mode: ImportanceSamplingMode, trained: &[f32], sampled: &[f32], cap: f64) -> Vec<f32> {
    let log_ratio = |(&trained, &sampled): (&f32, &f32)| f64::from(trained) - f64::from(sampled);
    let log_ratios = trained.iter().zip(sampled).map(log_ratio);
    let truncated = |log_ratio: f64| log_ratio.exp().min(cap) as f32;
    match mode {
        ImportanceSamplingMode::TokenTruncate => log_ratios.map(truncated).collect(),
        ImportanceSamplingMode::SequenceTruncate => vec![truncated(log_ratios.sum()); trained.len()],
        ImportanceSamplingMode::None => vec![1.0; trained.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_weights_are_ratios_of_tokens_or_of_the_completion_up_to_the_cap() {
        let check = |mode, cap: f64, expected: [f32; 3]| {
            // Ratios of 2, 1/2 and 4.
            let (trained, sampled) = ([-1.0, -2.0, -0.5], [-1.693_147_2, -1.306_852_8, -1.886_294_4]);
            let found = importance_weights(mode, &trained, &sampled, cap);
            let is_near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
            assert!(found.len() == 3 && found.iter().zip(&expected).all(is_near), "{mode:?}: {found:?}");
        };
        check(ImportanceSamplingMode::TokenTruncate, f64::INFINITY, [2.0, 0.5, 4.0]);
        check(ImportanceSamplingMode::TokenTruncate, 2.0, [2.0, 0.5, 2.0]);
        check(ImportanceSamplingMode::SequenceTruncate, f64::INFINITY, [4.0; 3]);
        check(ImportanceSamplingMode::SequenceTruncate, 2.0, [2.0; 3]);
        check(ImportanceSamplingMode::None, 2.0, [1.0; 3]);
    }
}
