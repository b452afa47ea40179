//! The samples of a round of prompts: every model, every decoding setting, every seed. It ends early where the budget
//! is reached, and leaves out a model that keeps failing.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use truing_ask::OpenChatModel;
use truing_ask::judging::{Asker, BYTES_PER_TOKEN, NOT_ASKED, RetryPolicy};
use truing_run::rows::{prompt_text, text_key};
use truing_stages::StageError;
use truing_types::{
    ChatError, ChatReply, ChatRequest, ChatResult, Conversation, EventSink, FinishReason, Seed,
};

use super::candidate::{Candidate, Fate, PromptWork};
use super::config::{RespondConfig, RespondModel};
use super::plan::{SourcePrompt, estimated_tokens};
use super::refusal::is_refusal;

/// Why there is no response once the budget is reached.
const OVER_BUDGET: &str = "the budget was reached";

/// A reply, or what becomes of the sample without one, and why.
type Sampled = Result<ChatReply, (Fate, String)>;

/// One of the samples of a model for each prompt.
#[derive(Debug, Clone, Copy)]
struct Slot {
    decoding: usize,
    /// Its place among the samples of all models for a prompt. It is added to the seed, so that no two requests are
    /// equal.
    place: usize,
}

/// The models that respond, with what they have cost.
pub(super) struct Sampler<'a> {
    config: &'a RespondConfig,
    models: &'a [OpenChatModel],
    names: Vec<String>,
    decoding_names: Vec<String>,
    /// Models that are asked no more, because they kept failing.
    is_given_up: Vec<bool>,
    spent: f64,
    is_over_budget: bool,
}

impl<'a> Sampler<'a> {
    /// `models` are those of `[[model]]`, in their order.
    pub(super) fn new(config: &'a RespondConfig, models: &'a [OpenChatModel]) -> Self {
        Self {
            config,
            models,
            names: config.model.iter().map(RespondModel::name).collect(),
            decoding_names: config.decoding_names(),
            is_given_up: vec![false; models.len()],
            spent: 0.0,
            is_over_budget: false,
        }
    }

    /// What the samples have cost; `None` where no price is given.
    pub(super) fn cost(&self) -> Option<f64> {
        self.config.model.iter().any(|model| model.cost(0, 0).is_some()).then_some(self.spent)
    }

    /// Whether nothing more may be spent.
    pub(super) fn is_over_budget(&self) -> bool {
        self.is_over_budget
    }

    /// Samples all responses to some prompts. `phase` names the round, for progress.
    ///
    /// # Errors
    /// When a model refuses every request. What was answered is kept.
    pub(super) fn sample(
        &mut self,
        prompts: &[&SourcePrompt],
        phase: &str,
        events: &mut dyn EventSink,
    ) -> Result<Vec<PromptWork>, StageError> {
        let mut works: Vec<PromptWork> = prompts.iter().map(|_| PromptWork::new(Vec::new())).collect();
        for model in 0..self.models.len() {
            let slots = self.slots(model);
            let mut sampled = self.ask(model, prompts, &slots, phase, events)?.into_iter();
            for (prompt, work) in prompts.iter().zip(&mut works) {
                let first_seed = self.first_seed(&prompt.row.prompt);
                let of_prompt = slots.iter().zip(&mut sampled);
                let candidates = of_prompt.map(|(slot, one)| self.candidate(model, *slot, first_seed, one));
                work.candidates.extend(candidates);
            }
        }
        Ok(works)
    }

    /// The samples of a model for one prompt.
    fn slots(&self, model: usize) -> Vec<Slot> {
        let decoding = self.config.decoding.iter().enumerate();
        let decodings: Vec<usize> =
            decoding.flat_map(|(idx, decoding)| std::iter::repeat_n(idx, decoding.n)).collect();
        let first = model * decodings.len();
        decodings.into_iter().enumerate().map(|(i, decoding)| Slot { decoding, place: first + i }).collect()
    }

    /// The seed of a prompt's first sample. It depends on the text and not on the row's place, so that a prompt keeps
    /// its replies when rows are added before it. It leaves room below 2^31, which some servers take no seed above.
    fn first_seed(&self, prompt: &Conversation) -> u64 {
        let key = text_key(&prompt_text(prompt));
        u64::from(Seed(self.config.seed).generator("responses", &[key]).next_u32() >> 2)
    }

    /// Asks a model for all samples of some prompts, prompt by prompt.
    fn ask(
        &mut self,
        model: usize,
        prompts: &[&SourcePrompt],
        slots: &[Slot],
        phase: &str,
        events: &mut dyn EventSink,
    ) -> Result<Vec<Sampled>, StageError> {
        let none = |fate: Fate, reason: &str| {
            Ok((0..prompts.len() * slots.len()).map(|_| Err((fate, reason.to_owned()))).collect())
        };
        if self.is_over_budget {
            return none(Fate::NotSampled, OVER_BUDGET);
        }
        if self.is_given_up[model] {
            return none(Fate::Failed, NOT_ASKED);
        }
        let requests = prompts.iter().flat_map(|prompt| self.requests(prompt, slots)).collect();
        let (config, price, spent_before) = (self.config, &self.config.model[model], self.spent);
        let asked = |place: usize| &prompts[place / slots.len()].row.prompt;
        // In the order of the requests: the sum does not depend on which reply came first.
        let spent = |results: &[ChatResult]| {
            let replies = results.iter().enumerate();
            spent_before
                + replies
                    .filter_map(|(i, result)| Some(cost(price, asked(i), result.as_ref().ok()?)))
                    .sum::<f64>()
        };
        let budget = config.budget.unwrap_or(f64::INFINITY);
        let most: Vec<f64> = (0..prompts.len() * slots.len())
            .map(|place| {
                let decoding = &config.decoding[slots[place % slots.len()].decoding];
                highest_cost(price, asked(place), decoding.max_new_tokens)
            })
            .collect();
        let n_next = |results: &[ChatResult]| n_in_budget(budget - spent(results), &most[results.len()..]);
        let phase = format!("{phase}: {}", self.names[model]);
        let results = self.asker(model).replies_in_parts(&phase, requests, &n_next, events)?;
        self.spent = spent(&results);
        let is_over_budget = self.spent >= budget;
        self.is_over_budget = is_over_budget;
        let is_broken_off = results.iter().any(|result| matches!(result, Err(ChatError::BrokenOff)));
        self.is_given_up[model] = is_broken_off && !is_over_budget;
        let reason = |error: ChatError| match error {
            ChatError::BrokenOff if is_over_budget => (Fate::NotSampled, OVER_BUDGET.to_owned()),
            ChatError::BrokenOff => (Fate::Failed, NOT_ASKED.to_owned()),
            error => (Fate::Failed, error.to_string()),
        };
        Ok(results.into_iter().map(|result| result.map_err(reason)).collect())
    }

    fn asker(&self, model: usize) -> Asker<'_> {
        let retries =
            RetryPolicy { max_attempts: 1, max_failures_in_a_row: self.config.max_failures_in_a_row };
        Asker::new(&self.names[model], &self.models[model], retries)
    }

    fn requests(&self, prompt: &SourcePrompt, slots: &[Slot]) -> Vec<ChatRequest> {
        let first_seed = self.first_seed(&prompt.row.prompt);
        let request = |slot: &Slot| ChatRequest {
            conversation: prompt.row.prompt.clone(),
            sampling: self.config.decoding[slot.decoding].sampling(first_seed + slot.place as u64),
        };
        slots.iter().map(request).collect()
    }

    fn candidate(&self, model: usize, slot: Slot, first_seed: u64, sampled: Sampled) -> Candidate {
        let finish_reason = sampled.as_ref().ok().map(|reply| reply.finish_reason);
        let (reply, fate, reason) = match sampled {
            Ok(reply) => {
                let fate = fate_of(&reply);
                (reply, fate, None)
            }
            Err((fate, reason)) => (ChatReply::default(), fate, Some(reason)),
        };
        Candidate {
            is_refusal: finish_reason == Some(FinishReason::Refusal) || is_refusal(&reply.text),
            content: reply.text,
            reasoning: reply.reasoning,
            model: self.names[model].clone(),
            decoding: self.decoding_names[slot.decoding].clone(),
            seed: first_seed + slot.place as u64,
            finish_reason,
            n_tokens: reply.n_completion_tokens,
            score: None,
            rewards: BTreeMap::new(),
            unscored: None,
            fate,
            reason,
            duplicate_of: None,
            rouge_l: None,
        }
    }

    /// Reports the number of requests to each model.
    pub(super) fn note_counts(&self, events: &mut dyn EventSink) {
        (0..self.models.len()).for_each(|model| self.asker(model).note_counts(events));
    }
}

/// What becomes of a reply by its form.
fn fate_of(reply: &ChatReply) -> Fate {
    match reply.finish_reason {
        FinishReason::Length => Fate::Cut,
        FinishReason::ContentFilter => Fate::Filtered,
        FinishReason::ToolCalls => Fate::ToolCalls,
        FinishReason::Cancelled => Fate::Failed,
        FinishReason::EndOfTurn | FinishReason::StopText | FinishReason::Refusal => {
            if reply.text.trim().is_empty() { Fate::Empty } else { Fate::NotSelected }
        }
    }
}

/// The highest cost of a reply, by the estimate of the prompt's tokens.
fn highest_cost(model: &RespondModel, prompt: &Conversation, max_new_tokens: usize) -> f64 {
    model.cost(estimated_tokens(prompt), max_new_tokens as u64).unwrap_or_default()
}

/// How many of the next samples are requested together where `left` of the budget is left: those before which less than
/// that is spent even if every sample before them costs as much as it can (`most`). So none is requested that would
/// not be requested if they were sampled one after the other, and a run that continues requests the same ones.
fn n_in_budget(left: f64, most: &[f64]) -> usize {
    let mut spent = 0.0;
    let is_in = |cost: &&f64| {
        let is_in = spent < left;
        spent += **cost;
        is_in
    };
    most.iter().take_while(is_in).count()
}

/// What a reply costs. Tokens that the server does not tell are estimated.
fn cost(model: &RespondModel, prompt: &Conversation, reply: &ChatReply) -> f64 {
    let bytes = reply.text.len() + reply.reasoning.as_ref().map_or(0, String::len);
    let counted = |n: usize, estimated: u64| if n > 0 { n as u64 } else { estimated };
    let n_prompt_tokens = counted(reply.n_prompt_tokens, estimated_tokens(prompt));
    let n_completion_tokens = counted(reply.n_completion_tokens, (bytes as u64).div_ceil(BYTES_PER_TOKEN));
    model.cost(n_prompt_tokens, n_completion_tokens).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_reply_decides_whether_it_can_be_used() {
        let fate = |text: &str, finish_reason| {
            fate_of(&ChatReply { text: text.into(), finish_reason, ..ChatReply::default() })
        };
        for (text, finish_reason, expected) in [
            ("Yes.", FinishReason::EndOfTurn, Fate::NotSelected),
            ("Yes.", FinishReason::StopText, Fate::NotSelected),
            ("I can't help.", FinishReason::Refusal, Fate::NotSelected),
            (" \n", FinishReason::EndOfTurn, Fate::Empty),
            ("", FinishReason::Refusal, Fate::Empty),
            ("Yes, bec", FinishReason::Length, Fate::Cut),
            ("Yes, bec", FinishReason::ContentFilter, Fate::Filtered),
            ("", FinishReason::ToolCalls, Fate::ToolCalls),
            ("Yes", FinishReason::Cancelled, Fate::Failed),
        ] {
            assert_eq!(fate(text, finish_reason), expected, "{text:?} {finish_reason:?}");
        }
    }

    #[test]
    fn as_many_are_requested_together_as_fit_the_budget_at_their_highest_cost() {
        for (left, expected) in
            [(9.0, 3), (6.5, 3), (6.0, 2), (4.1, 2), (4.0, 1), (0.5, 1), (0.0, 0), (-1.0, 0)]
        {
            assert_eq!(n_in_budget(left, &[4.0, 2.0, 1.0]), expected, "{left}");
        }
        assert_eq!(n_in_budget(f64::INFINITY, &[4.0; 5]), 5);
        assert_eq!(n_in_budget(1.0, &[0.0; 5]), 5, "what costs nothing");
    }

    #[test]
    fn tokens_that_a_server_does_not_tell_are_estimated() {
        let model = RespondModel {
            price_per_million_prompt_tokens: Some(1e6),
            price_per_million_completion_tokens: Some(10.0 * 1e6),
            ..RespondModel::default()
        };
        let told = ChatReply { n_prompt_tokens: 3, n_completion_tokens: 2, ..ChatReply::default() };
        assert_eq!(cost(&model, &Conversation::default(), &told), 23.0);
        let silent =
            ChatReply { text: "12345".into(), reasoning: Some("678".into()), ..ChatReply::default() };
        assert_eq!(cost(&model, &Conversation::default(), &silent), 20.0);
        assert_eq!(cost(&RespondModel::default(), &Conversation::default(), &told), 0.0);
    }
}
