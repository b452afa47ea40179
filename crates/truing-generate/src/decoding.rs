//! The decoding loop over one running sequence.

use std::ops::ControlFlow;

use truing_model::{DecodingWeights, Engine, SampleStep, SampledToken, Sampler};
use truing_types::{FinishReason, SamplingOptions, TokenId};

use crate::{GenerateError, SampledIds};

/// One running sequence: an engine's cache and the tokens in it.
pub struct Session<E: Engine> {
    cache: E::Cache,
    /// The tokens that the cache holds.
    tokens: Vec<TokenId>,
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
}

impl<E: Engine> Session<E> {
    /// An empty sequence with room for the model's whole context.
    ///
    /// # Errors
    /// When the model does not decode, or the device has no room.
    pub fn new(engine: &mut E) -> Result<Self, GenerateError> {
        let context_length = engine.spec().decoder()?.max_position_embeddings;
        Ok(Self { cache: engine.new_cache(context_length)?, tokens: Vec::new(), context_length })
    }

    /// The tokens read so far.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
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
        let shared = self.tokens.iter().zip(prompt).take_while(|(held, wanted)| held == wanted).count();
        let shared = shared.min(prompt.len() - 1);
        engine.truncate_cache(&mut self.cache, shared)?;
        self.tokens.truncate(shared);
        let logits = self.extend(engine, &prompt[shared..], DecodingWeights::F32)?;
        Ok((logits, shared))
    }

    fn extend(
        &mut self,
        engine: &mut E,
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<E::Logits, GenerateError> {
        match engine.extend(&mut self.cache, tokens, weights) {
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

/// Reads a prompt and samples tokens, multiplied with `weights`, until one that ends a reply, `max_new_tokens`, the end
/// of the context, or until `on_token` stops it.
///
/// # Errors
/// When an option lies outside its range, the prompt is empty or too long, or the engine fails.
pub fn generate<E: Engine>(
    engine: &mut E,
    session: &mut Session<E>,
    prompt: &[TokenId],
    options: &SamplingOptions,
    ids: &SampledIds,
    weights: DecodingWeights,
    on_token: &mut dyn FnMut(SampledToken) -> Result<ControlFlow<()>, GenerateError>,
) -> Result<Generated, GenerateError> {
    let mut sampler = Sampler::new(options)?;
    let (mut logits, n_reused_tokens) = session.read(engine, prompt)?;
    let mut generated = Generated {
        tokens: Vec::new(),
        log_probs: Vec::new(),
        finish_reason: FinishReason::Length,
        n_reused_tokens,
    };
    loop {
        let position = session.tokens.len() - 1;
        let step = SampleStep { row: 0, sampler: &mut sampler, history: &session.tokens, allowed: None };
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
        let is_full = session.tokens.len() + 1 >= session.context_length;
        if generated.tokens.len() >= options.max_new_tokens || is_full {
            return Ok(generated);
        }
        logits = session.extend(engine, &[sampled.token], weights)?;
    }
}
