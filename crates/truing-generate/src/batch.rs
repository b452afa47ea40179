//! Many completions at once: groups of completions of a prompt, decoded side by side, refilled as they end.
//!
//! A prompt is read once for its whole group. Token in, token out: nothing is turned into text and back. A
//! completion's tokens depend on prompt, options and indices alone, not on what else runs beside it.

use std::ops::ControlFlow;

use rayon::prelude::*;
use truing_model::Engine;
use truing_text::{ChatRenderer, StreamDecoder, Tokenizer};
use truing_types::{FinishReason, SamplingOptions, TokenId};

use crate::{GenerateError, Sampler, StopTexts};

/// A prompt and how many completions of it are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRequest {
    /// The prompt as the model sees it.
    pub prompt: Vec<TokenId>,
    /// Completions to draw.
    pub n_samples: usize,
    /// With the options' seed and the completion's place in its group, these decide what is drawn: for instance
    /// the step and the row.
    pub seed_indices: Vec<u64>,
}

/// One completion.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledCompletion {
    /// The tokens as drawn, an end token included.
    pub tokens: Vec<TokenId>,
    /// The text without end token, and up to a stop text.
    pub text: String,
    /// Log-probability of each token under the model: temperature 1, nothing cut off `[n_tokens]`.
    pub log_probs: Vec<f32>,
    /// The same under the distribution it was drawn from `[n_tokens]`.
    pub sampling_log_probs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Tokens that end a reply, ascending: the model's end-of-sequence tokens, the tokenizer's, and the token that ends a
/// turn in the template.
#[must_use]
pub fn end_tokens(eos_token_ids: &[TokenId], renderer: &ChatRenderer) -> Vec<TokenId> {
    let mut end_tokens = eos_token_ids.to_vec();
    end_tokens.extend(renderer.tokenizer().eos());
    end_tokens.extend(renderer.end_of_turn());
    end_tokens.sort_unstable();
    end_tokens.dedup();
    end_tokens
}

/// A completion on its way.
struct Running<C> {
    request_idx: usize,
    sample_idx: usize,
    cache: C,
    sampler: Sampler,
    /// Prompt and completion.
    history: Vec<TokenId>,
    n_prompt: usize,
    log_probs: Vec<f32>,
    sampling_log_probs: Vec<f32>,
    decoder: StreamDecoder,
    stops: StopTexts,
    text: String,
    finish_reason: Option<FinishReason>,
}

/// A prompt that has been read, whose group is not yet wholly begun.
struct ReadPrompt<C> {
    request_idx: usize,
    cache: C,
    logits: Vec<f32>,
    n_begun: usize,
}

/// Draws all completions, at most `max_batch` at a time. `on_done` hears of each as it ends (request, place in the
/// group, completion) and may break off; then there is no result.
///
/// # Errors
/// When an option lies outside its range, a prompt is empty or leaves no room, or the engine fails.
pub fn sample<E: Engine>(
    engine: &mut E,
    tokenizer: &Tokenizer,
    requests: &[SampleRequest],
    options: &SamplingOptions,
    end_tokens: &[TokenId],
    max_batch: usize,
    on_done: &mut dyn FnMut(usize, usize, &SampledCompletion) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<SampledCompletion>>>, GenerateError>
where
    E::Cache: Send,
{
    let mut done: Vec<Vec<Option<SampledCompletion>>> =
        requests.iter().map(|request| vec![None; request.n_samples]).collect();
    let wanted = requests.iter().enumerate().filter(|(_, request)| request.n_samples > 0);
    let mut waiting = wanted.collect::<Vec<_>>().into_iter();
    let mut prompt: Option<ReadPrompt<E::Cache>> = None;
    let mut running: Vec<Running<E::Cache>> = Vec::new();
    loop {
        while running.len() < max_batch.max(1) {
            if prompt.is_none() {
                let Some((request_idx, request)) = waiting.next() else { break };
                prompt = Some(read(engine, request_idx, request, options)?);
            }
            let Some(read) = &mut prompt else { break };
            let request = &requests[read.request_idx];
            let mut next = begin(engine, tokenizer, read, request, options)?;
            next.take_in(&read.logits, options, end_tokens)?;
            read.n_begun += 1;
            if read.n_begun == request.n_samples {
                prompt = None;
            }
            running.push(next);
        }
        let context = engine.spec().max_position_embeddings;
        let mut still_running = Vec::with_capacity(running.len());
        for one in running {
            if one.is_over(context) {
                let (request_idx, sample_idx) = (one.request_idx, one.sample_idx);
                let completion = one.finish()?;
                if on_done(request_idx, sample_idx, &completion).is_break() {
                    return Ok(None);
                }
                done[request_idx][sample_idx] = Some(completion);
            } else {
                still_running.push(one);
            }
        }
        running = still_running;
        if running.is_empty() {
            if prompt.is_none() && waiting.len() == 0 {
                break;
            }
            continue;
        }
        let tokens: Vec<TokenId> = running.iter().filter_map(|one| one.history.last().copied()).collect();
        let mut caches: Vec<&mut E::Cache> = running.iter_mut().map(|one| &mut one.cache).collect();
        let logits = engine.extend_each(&mut caches, &tokens)?;
        let vocab_size = logits.len() / running.len();
        running
            .par_iter_mut()
            .zip(logits.par_chunks(vocab_size))
            .try_for_each(|(one, logits)| one.take_in(logits, options, end_tokens))?;
    }
    Ok(Some(done.into_iter().map(|group| group.into_iter().flatten().collect()).collect()))
}

fn read<E: Engine>(
    engine: &mut E,
    request_idx: usize,
    request: &SampleRequest,
    options: &SamplingOptions,
) -> Result<ReadPrompt<E::Cache>, GenerateError> {
    let (n_prompt, context_length) = (request.prompt.len(), engine.spec().max_position_embeddings);
    if n_prompt == 0 {
        return Err(GenerateError::EmptyPrompt);
    }
    if n_prompt >= context_length {
        return Err(GenerateError::ContextOverflow { n_prompt_tokens: n_prompt, context_length });
    }
    let mut cache = engine.new_cache((n_prompt + options.max_new_tokens).min(context_length));
    let logits = engine.extend(&mut cache, &request.prompt)?;
    Ok(ReadPrompt { request_idx, cache, logits, n_begun: 0 })
}

fn begin<E: Engine>(
    engine: &E,
    tokenizer: &Tokenizer,
    read: &ReadPrompt<E::Cache>,
    request: &SampleRequest,
    options: &SamplingOptions,
) -> Result<Running<E::Cache>, GenerateError> {
    let mut indices = request.seed_indices.clone();
    indices.push(read.n_begun as u64);
    Ok(Running {
        request_idx: read.request_idx,
        sample_idx: read.n_begun,
        cache: engine.fork_cache(&read.cache),
        sampler: Sampler::keyed(options, &indices)?,
        history: request.prompt.clone(),
        n_prompt: request.prompt.len(),
        log_probs: Vec::new(),
        sampling_log_probs: Vec::new(),
        decoder: StreamDecoder::new(tokenizer, true),
        stops: StopTexts::new(&options.stop),
        text: String::new(),
        finish_reason: None,
    })
}

impl<C> Running<C> {
    /// Draws the next token out of the logits after the last one.
    fn take_in(
        &mut self,
        logits: &[f32],
        options: &SamplingOptions,
        end_tokens: &[TokenId],
    ) -> Result<(), GenerateError> {
        let position = self.history.len() - 1;
        let drawn = self.sampler.draw_after(logits, &self.history);
        let drawn = drawn.ok_or(GenerateError::NotANumber { position })?;
        self.history.push(drawn.token);
        self.log_probs.push(drawn.log_prob);
        self.sampling_log_probs.push(drawn.sampling_log_prob);
        if end_tokens.contains(&drawn.token) {
            self.finish_reason = Some(FinishReason::EndOfTurn);
            return Ok(());
        }
        let (decided, found) = self.stops.push(&self.decoder.push(drawn.token)?);
        self.text.push_str(&decided);
        if found {
            self.finish_reason = Some(FinishReason::StopText);
        } else if self.log_probs.len() >= options.max_new_tokens {
            self.finish_reason = Some(FinishReason::Length);
        }
        Ok(())
    }

    fn is_over(&self, context_length: usize) -> bool {
        self.finish_reason.is_some() || self.history.len() >= context_length
    }

    fn finish(mut self) -> Result<SampledCompletion, GenerateError> {
        let mut finish_reason = self.finish_reason.unwrap_or(FinishReason::Length);
        if finish_reason != FinishReason::StopText {
            // The last bytes may still complete a stop text.
            let (decided, found) = self.stops.push(&self.decoder.finish()?);
            self.text.push_str(&decided);
            if found {
                finish_reason = FinishReason::StopText;
            } else {
                self.text.push_str(&self.stops.finish());
            }
        }
        Ok(SampledCompletion {
            tokens: self.history.split_off(self.n_prompt),
            text: self.text,
            log_probs: self.log_probs,
            sampling_log_probs: self.sampling_log_probs,
            finish_reason,
        })
    }
}
