//! The decoding loop over one running sequence.

use std::ops::ControlFlow;

use truing_model::{DecodingWeights, Engine, EngineError, SampleStep, SampledToken, Sampler};
use truing_types::{FinishReason, SamplingOptions, TokenId};

use crate::prompt_lookup::look_up;
use crate::{DraftCounts, GenerateError, SampledIds};

/// One running sequence: an engine's cache and the tokens in it.
pub struct Session<E: Engine> {
    cache: E::Cache,
    /// The tokens that the cache holds.
    tokens: Vec<TokenId>,
    /// Of these, the last ones that are drafted and not sampled yet.
    n_drafted: usize,
    context_length: usize,
}

/// What was sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The tokens as sampled, an end token included.
    pub tokens: Vec<TokenId>,
    /// Log-probability of each under the model, before temperature and cuts `[n_tokens]`.
    pub log_probs: Vec<f32>,
    /// Why it ended. [`FinishReason::StopText`] is for the caller to say, who sees texts.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt that the cache already held.
    pub n_reused_tokens: usize,
    /// What was drafted.
    pub drafts: DraftCounts,
}

/// How the tokens after a prompt are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepOptions {
    /// The weights that new tokens are multiplied with. Prompts are always read with the weights themselves.
    pub weights: DecodingWeights,
    /// Most tokens that are drafted in a step, as in
    /// [`DecodingOptions`](crate::DecodingOptions::prompt_lookup_num_tokens).
    pub prompt_lookup_num_tokens: usize,
}

impl<E: Engine> Session<E> {
    /// An empty sequence with room for the model's whole context.
    ///
    /// # Errors
    /// When the model does not decode, or the device has no room.
    pub fn new(engine: &mut E) -> Result<Self, GenerateError> {
        let context_length = engine.spec().decoder()?.max_position_embeddings;
        let cache = engine.new_cache(context_length)?;
        Ok(Self { cache, tokens: Vec::new(), n_drafted: 0, context_length })
    }

    /// The tokens read so far.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens[..self.tokens.len() - self.n_drafted]
    }

    /// Makes the sequence equal to `prompt` and returns the logits after it (one row), and how many of its
    /// tokens did not have to be read again.
    ///
    /// # Errors
    /// When the prompt is empty or leaves no room, or the engine fails.
    pub fn read(&mut self, engine: &mut E, prompt: &[TokenId]) -> Result<(E::Logits, usize), GenerateError> {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if prompt.len() >= self.context_length {
            return Err(GenerateError::ContextOverflow {
                n_prompt_tokens: prompt.len(),
                context_length: self.context_length,
            });
        }
        // The last token is always read: its logits are wanted.
        let shared = self.tokens().iter().zip(prompt).take_while(|(held, wanted)| held == wanted).count();
        let shared = shared.min(prompt.len() - 1);
        self.truncate(engine, shared)?;
        let result = engine.extend(&mut self.cache, &prompt[shared..], DecodingWeights::F32);
        Ok((self.extended(engine, &prompt[shared..], result)?, shared))
    }

    /// Forgets all tokens after the first `n_tokens`, and the draft.
    fn truncate(&mut self, engine: &mut E, n_tokens: usize) -> Result<(), GenerateError> {
        engine.truncate_cache(&mut self.cache, n_tokens)?;
        self.tokens.truncate(n_tokens);
        self.n_drafted = 0;
        Ok(())
    }

    /// Whether a sampled token is the next drafted one, which then counts as read.
    fn accept(&mut self, token: TokenId) -> bool {
        let is_next = self.n_drafted > 0 && self.tokens[self.tokens.len() - self.n_drafted] == token;
        self.n_drafted -= usize::from(is_next);
        is_next
    }

    /// Forgets the draft, then reads a sampled token and at most `n_drafted` tokens of a new draft; the logits after
    /// each of them.
    fn step(
        &mut self,
        engine: &mut E,
        token: TokenId,
        n_drafted: usize,
        weights: DecodingWeights,
    ) -> Result<E::Logits, GenerateError> {
        let n_read = self.tokens().len();
        if self.n_drafted > 0 {
            self.truncate(engine, n_read)?;
        }
        self.tokens.push(token);
        let new = [&[token][..], look_up(&self.tokens, n_drafted)].concat();
        self.tokens.pop();
        let result = engine.extend_each_by(&mut [&mut self.cache], &[&new], weights);
        let logits = self.extended(engine, &new, result)?;
        self.n_drafted = new.len() - 1;
        Ok(logits)
    }

    /// Records the result of an extension of the cache.
    fn extended(
        &mut self,
        engine: &mut E,
        tokens: &[TokenId],
        result: Result<E::Logits, EngineError>,
    ) -> Result<E::Logits, GenerateError> {
        match result {
            Ok(logits) => {
                self.tokens.extend_from_slice(tokens);
                Ok(logits)
            }
            Err(error) => {
                // What a failed call left behind is unknown.
                engine.truncate_cache(&mut self.cache, self.tokens.len())?;
                Err(error.into())
            }
        }
    }
}

/// Reads a prompt and samples tokens until one that ends a reply, `max_new_tokens`, the end of the context, or until
/// `on_token` stops it.
///
/// # Errors
/// When an option lies outside its range, the prompt is empty or too long, or the engine fails.
pub fn generate<E: Engine>(
    engine: &mut E,
    session: &mut Session<E>,
    prompt: &[TokenId],
    options: &SamplingOptions,
    ids: &SampledIds,
    steps: StepOptions,
    on_token: &mut dyn FnMut(SampledToken) -> Result<ControlFlow<()>, GenerateError>,
) -> Result<Generated, GenerateError> {
    let mut sampler = Sampler::new(options)?;
    let (mut logits, n_reused_tokens) = session.read(engine, prompt)?;
    let mut generated = Generated {
        tokens: Vec::new(),
        log_probs: Vec::new(),
        finish_reason: FinishReason::Length,
        n_reused_tokens,
        drafts: DraftCounts::default(),
    };
    let mut row = 0;
    loop {
        let position = session.tokens().len() - 1;
        let step = SampleStep { row, sampler: &mut sampler, history: session.tokens(), allowed: None };
        let sampled = engine.sample(&logits, &ids.excluded, &mut [step])?.pop().flatten();
        let sampled = sampled.ok_or(GenerateError::NotANumber { position })?;
        generated.tokens.push(sampled.token);
        generated.log_probs.push(sampled.log_prob);
        if ids.end.contains(&sampled.token) {
            generated.finish_reason = FinishReason::EndOfTurn;
            return Ok(generated);
        }
        if on_token(sampled)?.is_break() {
            generated.finish_reason = FinishReason::Cancelled;
            return Ok(generated);
        }
        let n_left = options.max_new_tokens.saturating_sub(generated.tokens.len());
        let n_free = session.context_length.saturating_sub(session.tokens().len() + 1);
        if n_left == 0 || n_free == 0 {
            return Ok(generated);
        }
        if session.accept(sampled.token) {
            generated.drafts.n_accepted += 1;
            row += 1;
            continue;
        }
        let n_drafted = steps.prompt_lookup_num_tokens.min(n_left - 1).min(n_free);
        logits = session.step(engine, sampled.token, n_drafted, steps.weights)?;
        generated.drafts.n_drafted += session.n_drafted as u64;
        row = 0;
    }
}
