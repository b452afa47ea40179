//! A running completion: its tokens, its text, and why it ends.

use std::sync::Arc;

use truing_model::{SampledToken, Sampler};
use truing_text::{StreamDecoder, Tokenizer};
use truing_types::{AllowedTokens, FinishReason, ReasoningMarks, SamplingOptions, TokenId};

use crate::grammar::GrammarState;
use crate::job::{Job, SampledCompletion};
use crate::prompt_lookup::look_up;
use crate::{DraftCounts, GenerateError, StopTexts, mark_tokens};

/// A running completion.
pub(crate) struct Running<C> {
    pub(crate) job_idx: usize,
    pub(crate) sample_idx: usize,
    options: Arc<SamplingOptions>,
    pub(crate) cache: C,
    pub(crate) sampler: Sampler,
    /// Prompt and completion.
    pub(crate) history: Vec<TokenId>,
    n_prompt: usize,
    /// Tokens of the prompt that did not have to be read.
    pub(crate) n_reused: usize,
    log_probs: Vec<f32>,
    sampling_log_probs: Vec<f32>,
    pub(crate) n_top_log_probs: usize,
    /// At the last position.
    pub(crate) top_log_probs: Vec<(TokenId, f32)>,
    grammar: Option<GrammarState>,
    /// The only tokens that may come next.
    pub(crate) allowed: Option<AllowedTokens>,
    end: Option<Arc<[TokenId]>>,
    decoder: StreamDecoder,
    stops: StopTexts,
    text: String,
    /// The text that the last token completed.
    pub(crate) new_text: String,
    text_error: Option<String>,
    pub(crate) drafts: DraftCounts,
    finish_reason: Option<FinishReason>,
    pub(crate) failure: Option<GenerateError>,
}

impl<C> Running<C> {
    /// A completion without a token yet; `place` is its job and its index in the group.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        job: &Job,
        place: (usize, usize),
        cache: C,
        sampler: Sampler,
    ) -> Result<Self, GenerateError> {
        let decoder = StreamDecoder::new(tokenizer, !job.keeps_special_tokens)
            .keeping(mark_tokens(tokenizer, &ReasoningMarks::default()));
        Ok(Self {
            job_idx: place.0,
            sample_idx: place.1,
            options: Arc::clone(&job.options),
            cache,
            sampler,
            history: job.prompt.clone(),
            n_prompt: job.prompt.len(),
            n_reused: 0,
            log_probs: Vec::new(),
            sampling_log_probs: Vec::new(),
            n_top_log_probs: job.n_top_log_probs,
            top_log_probs: Vec::new(),
            grammar: job.grammar.as_ref().map(|grammar| grammar.begin()).transpose()?,
            allowed: None,
            end: job.end.clone(),
            decoder,
            stops: StopTexts::new(&job.options.stop),
            text: String::new(),
            new_text: String::new(),
            text_error: None,
            drafts: DraftCounts::default(),
            finish_reason: None,
            failure: None,
        })
    }

    /// At most `n` tokens that may follow, taken from prompt and completion; not more than may still be sampled after
    /// the next one, nor than the context has room for.
    pub(crate) fn draft(&self, n: usize, context_length: usize) -> &[TokenId] {
        let n_left = self.options.max_new_tokens.saturating_sub(self.log_probs.len() + 1);
        let n_free = context_length.saturating_sub(self.history.len());
        look_up(&self.history, n.min(n_left).min(n_free))
    }

    /// Asks the grammar what may come next.
    pub(crate) fn find_allowed(&mut self) {
        let Some(grammar) = &mut self.grammar else { return };
        match grammar.allowed() {
            Ok(allowed) => self.allowed = Some(allowed),
            Err(error) => self.failure = Some(error),
        }
    }

    /// Takes the next token; none where the logits were no distribution.
    pub(crate) fn take_in(&mut self, sampled: Option<SampledToken>, end_tokens: &[TokenId]) {
        self.new_text.clear();
        if self.failure.is_some() {
            return;
        }
        let Some(sampled) = sampled else {
            self.failure = Some(GenerateError::NotANumber { position: self.history.len() - 1 });
            return;
        };
        self.history.push(sampled.token);
        self.log_probs.push(sampled.log_prob);
        self.sampling_log_probs.push(sampled.sampling_log_prob);
        if self.end.as_deref().unwrap_or(end_tokens).contains(&sampled.token) {
            self.finish_reason = Some(FinishReason::EndOfTurn);
            return;
        }
        let piece = match self.decoder.push(sampled.token) {
            Ok(piece) => piece,
            Err(error) => {
                self.text_error = Some(error.to_string());
                self.finish_reason = Some(FinishReason::Cancelled);
                return;
            }
        };
        let (decided, found) = self.stops.push(&piece);
        self.text.push_str(&decided);
        self.new_text = decided;
        if found {
            self.finish_reason = Some(FinishReason::StopText);
            return;
        }
        match self.grammar.as_mut().map(|grammar| grammar.accept(sampled.token)) {
            Some(Err(error)) => self.failure = Some(error),
            Some(Ok(is_complete)) if is_complete => self.finish_reason = Some(FinishReason::EndOfTurn),
            _ if self.log_probs.len() >= self.options.max_new_tokens => {
                self.finish_reason = Some(FinishReason::Length);
            }
            _ => {}
        }
    }

    pub(crate) fn is_over(&self, context_length: usize) -> bool {
        self.failure.is_some() || self.finish_reason.is_some() || self.history.len() >= context_length
    }

    pub(crate) fn finish(mut self) -> Result<SampledCompletion, GenerateError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let mut finish_reason = self.finish_reason.unwrap_or(FinishReason::Length);
        if self.text_error.is_none() && finish_reason != FinishReason::StopText {
            match self.decoder.finish() {
                Ok(last) => {
                    // The last bytes may still complete a stop text.
                    let (decided, found) = self.stops.push(&last);
                    self.text.push_str(&decided);
                    if found {
                        finish_reason = FinishReason::StopText;
                    } else {
                        self.text.push_str(&self.stops.finish());
                    }
                }
                Err(error) => self.text_error = Some(error.to_string()),
            }
        }
        Ok(SampledCompletion {
            tokens: self.history.split_off(self.n_prompt),
            text: self.text,
            log_probs: self.log_probs,
            sampling_log_probs: self.sampling_log_probs,
            finish_reason,
            text_error: self.text_error,
            drafts: self.drafts,
            weights_version: None,
        })
    }
}
