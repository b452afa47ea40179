//! Many completions at once: groups of completions of a prompt, decoded side by side, refilled as they end.
//!
//! A prompt is read once for its whole group. Token in, token out: nothing is turned into text and back. A
//! completion's tokens depend on prompt, options and indices alone, not on what else runs beside it.

use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use truing_model::Engine;
use truing_text::{ChatRenderer, StreamDecoder, Tokenizer};
use truing_types::{ExcludedTokens, FinishReason, ReasoningMarks, SamplingOptions, TokenId};

use crate::{GenerateError, Sampler, StopTexts, mark_tokens};

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Why the tokens could not be turned into text, where that is so. The completion then ends with the token that could
    /// not ([`FinishReason::Cancelled`]), and `text` is what came before it.
    pub text_error: Option<String>,
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

/// The rows of a head that are never sampled: ids that the tokenizer cannot decode, unless they end a reply.
///
/// Whoever computes the probabilities of what was sampled has to leave out the same rows
/// ([`truing_model::HeadRequest::LogProbs`]).
#[must_use]
pub fn excluded_tokens(tokenizer: &Tokenizer, vocab_size: usize, end_tokens: &[TokenId]) -> ExcludedTokens {
    let ids = tokenizer.ids_without_token(vocab_size).into_iter();
    ExcludedTokens::of(ids.filter(|id| !end_tokens.contains(id)))
}

/// Tokens that a reply ends with, and those that are never sampled.
#[derive(Debug, Clone, Copy)]
pub struct SampledIds<'a> {
    /// Tokens that end a reply ([`end_tokens`]).
    pub end: &'a [TokenId],
    /// Tokens that are never sampled ([`excluded_tokens`]).
    pub excluded: &'a ExcludedTokens,
}

/// A prompt, and how its completions are drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) prompt: &'a [TokenId],
    pub(crate) n_samples: usize,
    pub(crate) options: &'a SamplingOptions,
    /// Of one of many completions: with the options' seed and its place in the group these decide what is drawn. Of a reply
    /// the seed decides alone.
    pub(crate) seed_indices: Option<&'a [u64]>,
}

impl Job<'_> {
    fn sampler(&self, place: usize) -> Result<Sampler, GenerateError> {
        match self.seed_indices {
            Some(indices) => Sampler::keyed(self.options, &[indices, &[place as u64]].concat()),
            None => Sampler::new(self.options),
        }
    }

    /// Tokens that a cache must hold.
    fn capacity(&self, context_length: usize) -> usize {
        (self.prompt.len() + self.options.max_new_tokens).min(context_length)
    }
}

/// A completion on its way.
struct Running<'a, C> {
    job_idx: usize,
    sample_idx: usize,
    options: &'a SamplingOptions,
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
    text_error: Option<String>,
    finish_reason: Option<FinishReason>,
    failure: Option<GenerateError>,
}

/// A prompt that has been read, whose group is not yet wholly begun.
struct ReadPrompt<C> {
    job_idx: usize,
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
    ids: SampledIds<'_>,
    max_batch: usize,
    on_done: &mut dyn FnMut(usize, usize, &SampledCompletion) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<SampledCompletion>>>, GenerateError>
where
    E::Cache: Send,
{
    let mut done: Vec<Vec<Option<SampledCompletion>>> =
        requests.iter().map(|request| vec![None; request.n_samples]).collect();
    let jobs: Vec<Job<'_>> = requests
        .iter()
        .map(|SampleRequest { prompt, n_samples, seed_indices }| Job {
            prompt,
            n_samples: *n_samples,
            options,
            seed_indices: Some(seed_indices),
        })
        .collect();
    let mut failure = None;
    let flow =
        decode(engine, tokenizer, &jobs, ids, max_batch, false, &mut |i, place, result| match result {
            Ok(completion) => {
                let flow = on_done(i, place, &completion);
                done[i][place] = Some(completion);
                flow
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
    match failure {
        Some(error) => Err(error),
        None if flow.is_break() => Ok(None),
        None => Ok(Some(done.into_iter().map(|group| group.into_iter().flatten().collect()).collect())),
    }
}

/// Draws the completions of all jobs side by side, at most `max_batch` at a time. `on_done` gets each completion, or why
/// there is none, with its job and place; a job whose prompt cannot be read fails once, at place 0. With
/// `shares_beginnings` a prompt is read from where it differs from the one read before it.
///
/// # Errors
/// When the engine fails: what was on its way is lost.
pub(crate) fn decode<E: Engine>(
    engine: &mut E,
    tokenizer: &Tokenizer,
    jobs: &[Job<'_>],
    ids: SampledIds<'_>,
    max_batch: usize,
    shares_beginnings: bool,
    on_done: &mut dyn FnMut(usize, usize, Result<SampledCompletion, GenerateError>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, GenerateError>
where
    E::Cache: Send,
{
    let context_length = engine.spec().max_position_embeddings;
    let largest = jobs.iter().map(|job| job.capacity(context_length)).max().unwrap_or(0);
    let wanted = jobs.iter().enumerate().filter(|(_, job)| job.n_samples > 0);
    let mut waiting = wanted.collect::<Vec<_>>().into_iter();
    let mut prompt: Option<ReadPrompt<E::Cache>> = None;
    let mut read_before: Option<(usize, E::Cache)> = None;
    let mut running: Vec<Running<'_, E::Cache>> = Vec::new();
    loop {
        while running.len() < max_batch.max(1) {
            if prompt.is_none() {
                let Some((job_idx, job)) = waiting.next() else { break };
                if let Err(error) = check(job, context_length) {
                    if on_done(job_idx, 0, Err(error)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    continue;
                }
                let capacity = if shares_beginnings { largest } else { job.capacity(context_length) };
                let before = read_before.take().map(|(before, cache)| (jobs[before].prompt, cache));
                let mut read = read(engine, job_idx, job, capacity, before)?;
                ids.excluded.mask(&mut read.logits);
                prompt = Some(read);
            }
            let Some(read) = &mut prompt else { break };
            let job = &jobs[read.job_idx];
            let mut next = begin(engine, tokenizer, read, job)?;
            next.take_in(&read.logits, ids.end);
            read.n_begun += 1;
            if read.n_begun == job.n_samples {
                let finished = prompt.take();
                read_before = finished.filter(|_| shares_beginnings).map(|read| (read.job_idx, read.cache));
            }
            running.push(next);
        }
        let mut still_running = Vec::with_capacity(running.len());
        for one in running {
            if one.is_over(context_length) {
                let (job_idx, sample_idx) = (one.job_idx, one.sample_idx);
                if on_done(job_idx, sample_idx, one.finish()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            } else {
                still_running.push(one);
            }
        }
        running = still_running;
        if running.is_empty() {
            if prompt.is_none() && waiting.len() == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            continue;
        }
        let tokens: Vec<TokenId> = running.iter().filter_map(|one| one.history.last().copied()).collect();
        let mut caches: Vec<&mut E::Cache> = running.iter_mut().map(|one| &mut one.cache).collect();
        let mut logits = engine.extend_each(&mut caches, &tokens)?;
        let vocab_size = logits.len() / running.len();
        running.par_iter_mut().zip(logits.par_chunks_mut(vocab_size)).for_each(|(one, logits)| {
            ids.excluded.mask(logits);
            one.take_in(logits, ids.end);
        });
    }
}

/// Whether a job can be begun at all.
fn check(job: &Job<'_>, context_length: usize) -> Result<(), GenerateError> {
    let n_prompt_tokens = job.prompt.len();
    if n_prompt_tokens == 0 {
        return Err(GenerateError::EmptyPrompt);
    }
    if n_prompt_tokens >= context_length {
        return Err(GenerateError::ContextOverflow { n_prompt_tokens, context_length });
    }
    job.sampler(0).map(|_| ())
}

/// Reads a prompt; of the one that was read before only the beginning that they share is taken over.
fn read<E: Engine>(
    engine: &mut E,
    job_idx: usize,
    job: &Job<'_>,
    capacity: usize,
    before: Option<(&[TokenId], E::Cache)>,
) -> Result<ReadPrompt<E::Cache>, GenerateError> {
    let (mut cache, n_shared) = match before {
        Some((tokens, mut cache)) => {
            let n_alike = tokens.iter().zip(job.prompt).take_while(|(one, other)| one == other).count();
            // The last token is always read: its logits are what the completion begins with.
            let n_shared = n_alike.min(job.prompt.len() - 1);
            engine.truncate_cache(&mut cache, n_shared);
            (cache, n_shared)
        }
        None => (engine.new_cache(capacity), 0),
    };
    let logits = engine.extend(&mut cache, &job.prompt[n_shared..])?;
    Ok(ReadPrompt { job_idx, cache, logits, n_begun: 0 })
}

fn begin<'a, E: Engine>(
    engine: &E,
    tokenizer: &Tokenizer,
    read: &ReadPrompt<E::Cache>,
    job: &Job<'a>,
) -> Result<Running<'a, E::Cache>, GenerateError> {
    Ok(Running {
        job_idx: read.job_idx,
        sample_idx: read.n_begun,
        options: job.options,
        cache: engine.fork_cache(&read.cache),
        sampler: job.sampler(read.n_begun)?,
        history: job.prompt.to_vec(),
        n_prompt: job.prompt.len(),
        log_probs: Vec::new(),
        sampling_log_probs: Vec::new(),
        decoder: StreamDecoder::new(tokenizer, true)
            .keeping(mark_tokens(tokenizer, &ReasoningMarks::default())),
        stops: StopTexts::new(&job.options.stop),
        text: String::new(),
        text_error: None,
        finish_reason: None,
        failure: None,
    })
}

impl<C> Running<'_, C> {
    /// Draws the next token out of the logits after the last one.
    fn take_in(&mut self, logits: &[f32], end_tokens: &[TokenId]) {
        self.failure = self.try_to_take_in(logits, end_tokens).err();
    }

    fn try_to_take_in(&mut self, logits: &[f32], end_tokens: &[TokenId]) -> Result<(), GenerateError> {
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
        let piece = match self.decoder.push(drawn.token) {
            Ok(piece) => piece,
            Err(error) => {
                self.text_error = Some(error.to_string());
                self.finish_reason = Some(FinishReason::Cancelled);
                return Ok(());
            }
        };
        let (decided, found) = self.stops.push(&piece);
        self.text.push_str(&decided);
        if found {
            self.finish_reason = Some(FinishReason::StopText);
        } else if self.log_probs.len() >= self.options.max_new_tokens {
            self.finish_reason = Some(FinishReason::Length);
        }
        Ok(())
    }

    fn is_over(&self, context_length: usize) -> bool {
        self.failure.is_some() || self.finish_reason.is_some() || self.history.len() >= context_length
    }

    fn finish(mut self) -> Result<SampledCompletion, GenerateError> {
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
        })
    }
}
