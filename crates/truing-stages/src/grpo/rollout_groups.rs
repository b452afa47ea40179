//! Sampling and scoring: the groups of a step, and the completions of an evaluation.

use truing_generate::{SampleRequest, SampledCompletion, SampledIds, opened_thought};
use truing_model::{DecodingWeights, Engine};
use truing_reward::{Completion, ScoredCompletion};
use truing_statistics::mean_and_sample_deviation;
use truing_types::{Event, ReasoningMark, SamplingOptions, TextStart, Unscored, UnscoredReason};

use super::Prompt;
use super::running::Running;
use crate::StageError;
use crate::sampling::Sampling;

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
    pub(super) fn has_credit(&self) -> bool {
        self.rewards().iter().flatten().count() >= 2
    }

    /// Whether all its rewards are equal.
    pub(super) fn is_all_equal(&self) -> bool {
        are_equal(&self.rewards().into_iter().flatten().collect::<Vec<_>>())
    }

    pub(super) fn mean_reward(&self) -> Option<f64> {
        let rewards: Vec<f64> = self.rewards().into_iter().flatten().collect();
        mean_and_sample_deviation(&rewards).map(|(mean, _)| mean)
    }
}

/// Whether all rewards of a group are equal.
pub(super) fn are_equal(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

/// What completions are sampled for. Each phase has random numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SamplingPhase {
    Train { step: u64, round: u64 },
    Evaluate,
}

impl<E: Engine> Running<'_, E> {
    /// Samples completions of this rank's prompts; `None` when the stop flag was seen.
    pub(super) fn sample_completions(
        &mut self,
        prompts: &[&Prompt],
        prompt_indices: &[u32],
        phase: SamplingPhase,
    ) -> Result<Option<Vec<Vec<SampledCompletion>>>, StageError> {
        let config = &self.plan.config;
        let (temperature, n_samples, indices) = match phase {
            SamplingPhase::Train { step, round } => {
                (config.temperature, config.num_generations, vec![0, step, round])
            }
            SamplingPhase::Evaluate => (config.eval_temperature, config.eval_num_generations, vec![1]),
        };
        let options = SamplingOptions {
            max_new_tokens: config.max_completion_length,
            temperature,
            top_k: config.top_k,
            top_p: config.top_p,
            min_p: config.min_p,
            seed: config.seed,
            stop: config.stop.clone(),
            ..SamplingOptions::default()
        };
        let requests: Vec<SampleRequest> = prompts
            .iter()
            .zip(prompt_indices)
            .map(|(prompt, &prompt_idx)| SampleRequest {
                prompt: prompt.tokens.clone(),
                n_samples,
                seed_indices: indices.iter().copied().chain([u64::from(prompt_idx)]).collect(),
            })
            .collect();
        if let Some(reference) = &mut self.reference {
            reference.release_working_memory();
        }
        if let (SamplingPhase::Train { step, round }, true) = (phase, self.rollout_servers.is_some()) {
            return self.sample_on_servers(prompts, prompt_indices, options, (step, round));
        }
        let ids =
            SampledIds { end: self.end_tokens.as_slice().into(), excluded: self.policy.excluded.clone() };
        let (weights, phase) = match phase {
            SamplingPhase::Train { step, .. } => (
                config.rollout_quantization,
                format!("step {step} of {}: sampling rollouts", self.plan.n_steps),
            ),
            SamplingPhase::Evaluate => (DecodingWeights::F32, "evaluating".to_owned()),
        };
        let sampling = Sampling {
            tokenizer: self.inputs.renderer.tokenizer(),
            ids: &ids,
            options,
            max_batch: config.generation_batch_size,
            weights,
            prompt_lookup_num_tokens: config.prompt_lookup_num_tokens,
            phase,
        };
        let (engine, world_size) = (self.trainer.engine_mut(), self.groups.world.world_size());
        Ok(sampling.run(engine, &requests, &mut *self.events, self.stop, world_size)?)
    }

    /// Scores each completion of each of this rank's prompts, all in one go: a judge may be asked about many at a time.
    pub(super) fn score(
        &mut self,
        prompts: &[&Prompt],
        sampled: &[Vec<SampledCompletion>],
    ) -> Vec<Vec<ScoredCompletion>> {
        let asked: Vec<Completion<'_>> = prompts
            .iter()
            .zip(sampled)
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
            .zip(sampled)
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
            Some(reason) => Some(without_text(completion, reason)),
        };
        sampled.iter().map(|completions| completions.iter().filter_map(&mut of_one).collect()).collect()
    }
}

/// A completion that no server gave, or whose tokens could not be turned into text: no reward looks at it.
fn without_text(completion: &SampledCompletion, reason: &str) -> ScoredCompletion {
    let unscored = match completion.tokens.is_empty() {
        true => Unscored::new(UnscoredReason::RolloutFailed, reason),
        false => Unscored::new(UnscoredReason::Failed, format!("the completion has no text: {reason}")),
    };
    ScoredCompletion { parts: [("text".to_owned(), Err(unscored.clone()))].into(), total: Err(unscored) }
}
