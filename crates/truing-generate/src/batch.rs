//! Many completions at once: groups of completions of a prompt, decoded side by side; a place that becomes free is taken by
//! the next.
//!
//! A prompt is read once for its whole group. Token in, token out: nothing is turned into text and back. A
//! completion's tokens depend on prompt, options and indices alone, not on what else runs beside it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use truing_model::{DecodingWeights, Engine, SampleStep, SampledToken, Sampler};
use truing_text::{ChatRenderer, StreamDecoder, Tokenizer};
use truing_types::{ExcludedTokens, FinishReason, ReasoningMarks, SamplingOptions, TokenId};

use crate::{GenerateError, StopTexts, mark_tokens};

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

/// A prompt, and how its completions are sampled.
#[derive(Debug, Clone)]
pub struct Job {
    /// The prompt as the model sees it.
    pub prompt: Vec<TokenId>,
    /// Completions wanted.
    pub n_samples: usize,
    /// How they are sampled.
    pub options: Arc<SamplingOptions>,
    /// Of one of many completions: with the options' seed and its index in the group these decide what is sampled. Without
    /// them the seed decides alone.
    pub seed_indices: Option<Vec<u64>>,
}

impl Job {
    fn sampler(&self, sample_idx: usize) -> Result<Sampler, GenerateError> {
        Ok(match &self.seed_indices {
            Some(indices) => Sampler::keyed(&self.options, &[indices, &[sample_idx as u64][..]].concat())?,
            None => Sampler::new(&self.options)?,
        })
    }

    /// Tokens that a cache must hold.
    fn capacity(&self, context_length: usize) -> usize {
        (self.prompt.len() + self.options.max_new_tokens).min(context_length)
    }
}

/// A completion on its way.
struct Running<C> {
    job_idx: usize,
    sample_idx: usize,
    options: Arc<SamplingOptions>,
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

/// A prompt that has been read, and whose group is not yet wholly begun.
struct ReadPrompt<E: Engine> {
    job_idx: usize,
    job: Job,
    cache: E::Cache,
    logits: E::Logits,
    n_begun: usize,
}

/// A completion that has ended, or why there is none.
#[derive(Debug)]
pub struct Finished {
    /// The job, as [`DecodingLoop::admit`] numbered it.
    pub job_idx: usize,
    /// The completion's index in its group. A job whose prompt cannot be read fails once, at index 0.
    pub sample_idx: usize,
    /// The completion.
    pub result: Result<SampledCompletion, GenerateError>,
}

/// How a [`DecodingLoop`] decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodingOptions {
    /// Most completions that are decoded side by side.
    pub max_batch: usize,
    /// The weights that new tokens are multiplied with. Prompts are always read with the weights themselves.
    pub weights: DecodingWeights,
    /// Read a prompt only from where it differs from the one before it.
    pub shares_beginnings: bool,
}

/// Continuous batching: jobs are admitted at any time, every step samples one token of each running completion, and the
/// place of one that ends is taken by the next. A completion's tokens depend on its job alone, not on what runs beside it.
///
/// [`sample`] and [`LocalChat`](crate::LocalChat) drive it until nothing is left; a server admits as requests arrive.
pub struct DecodingLoop<'a, E: Engine> {
    tokenizer: &'a Tokenizer,
    ids: SampledIds<'a>,
    options: DecodingOptions,
    n_admitted: usize,
    waiting: VecDeque<(usize, Job)>,
    prompt: Option<ReadPrompt<E>>,
    read_before: Option<(Vec<TokenId>, E::Cache)>,
    running: Vec<Running<E::Cache>>,
}

impl<'a, E: Engine> DecodingLoop<'a, E> {
    /// A loop with nothing to do yet.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, ids: SampledIds<'a>, options: DecodingOptions) -> Self {
        Self {
            tokenizer,
            ids,
            options,
            n_admitted: 0,
            waiting: VecDeque::new(),
            prompt: None,
            read_before: None,
            running: Vec::new(),
        }
    }

    /// Adds a job behind those that wait; returns its number, counted from 0.
    pub fn admit(&mut self, job: Job) -> usize {
        let job_idx = self.n_admitted;
        self.n_admitted += 1;
        if job.n_samples > 0 {
            self.waiting.push_back((job_idx, job));
        }
        job_idx
    }

    /// Drops a job with all of its completions; nothing of it will finish.
    pub fn cancel(&mut self, job_idx: usize) {
        self.waiting.retain(|(idx, _)| *idx != job_idx);
        self.running.retain(|one| one.job_idx != job_idx);
        self.prompt = self.prompt.take().filter(|read| read.job_idx != job_idx);
    }

    /// Whether nothing waits and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.prompt.is_none() && self.waiting.is_empty()
    }

    /// Begins completions while there is room, then samples one token of each; returns those that have ended.
    ///
    /// # Errors
    /// When the engine fails: what was on its way is lost.
    pub fn step(&mut self, engine: &mut E) -> Result<Vec<Finished>, GenerateError> {
        let context_length = engine.spec().decoder()?.max_position_embeddings;
        let mut finished = self.begin(engine, context_length)?;
        let mut still_running = Vec::with_capacity(self.running.len());
        for one in self.running.drain(..) {
            if one.is_over(context_length) {
                let (job_idx, sample_idx) = (one.job_idx, one.sample_idx);
                finished.push(Finished { job_idx, sample_idx, result: one.finish() });
            } else {
                still_running.push(one);
            }
        }
        self.running = still_running;
        if self.running.is_empty() {
            return Ok(finished);
        }
        let tokens: Vec<TokenId> =
            self.running.iter().filter_map(|one| one.history.last().copied()).collect();
        let mut caches: Vec<&mut E::Cache> = self.running.iter_mut().map(|one| &mut one.cache).collect();
        let logits = engine.extend_each(&mut caches, &tokens, self.options.weights)?;
        let rows = self.running.iter_mut().enumerate();
        let mut steps: Vec<SampleStep<'_>> = rows
            .map(|(row, one)| SampleStep { row, sampler: &mut one.sampler, history: &one.history })
            .collect();
        let sampled = engine.sample(&logits, self.ids.excluded, &mut steps)?;
        let end_tokens = self.ids.end;
        self.running.par_iter_mut().zip(sampled).for_each(|(one, sampled)| one.take_in(sampled, end_tokens));
        Ok(finished)
    }

    /// Fills the places that are free; returns jobs that cannot be begun.
    fn begin(&mut self, engine: &mut E, context_length: usize) -> Result<Vec<Finished>, GenerateError> {
        let mut failed = Vec::new();
        while self.running.len() < self.options.max_batch.max(1) {
            let mut reading = match self.prompt.take() {
                Some(read) => read,
                None => {
                    let Some((job_idx, job)) = self.waiting.pop_front() else { break };
                    if let Err(error) = check(&job, context_length) {
                        failed.push(Finished { job_idx, sample_idx: 0, result: Err(error) });
                        continue;
                    }
                    let shares = self.options.shares_beginnings;
                    let capacity = if shares { context_length } else { job.capacity(context_length) };
                    read(engine, job_idx, job, capacity, self.read_before.take())?
                }
            };
            let next = begin(engine, self.tokenizer, self.ids, &reading)?;
            self.running.push(next);
            reading.n_begun += 1;
            if reading.n_begun < reading.job.n_samples {
                self.prompt = Some(reading);
            } else if self.options.shares_beginnings {
                self.read_before = Some((reading.job.prompt, reading.cache));
            }
        }
        Ok(failed)
    }
}

/// Samples all completions, at most `max_batch` at a time. `on_done` gets each as it ends (request, index in the
/// group, completion) and may cancel the rest; the function then returns `None`.
///
/// # Errors
/// When an option lies outside its range, a prompt is empty or leaves no room, or the engine fails.
pub fn sample<E: Engine>(
    engine: &mut E,
    tokenizer: &Tokenizer,
    requests: &[SampleRequest],
    options: &SamplingOptions,
    ids: SampledIds<'_>,
    decoding: DecodingOptions,
    on_done: &mut dyn FnMut(usize, usize, &SampledCompletion) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<SampledCompletion>>>, GenerateError> {
    let mut done: Vec<Vec<Option<SampledCompletion>>> =
        requests.iter().map(|request| vec![None; request.n_samples]).collect();
    let options = Arc::new(options.clone());
    let mut decoding = DecodingLoop::new(tokenizer, ids, decoding);
    for SampleRequest { prompt, n_samples, seed_indices } in requests {
        decoding.admit(Job {
            prompt: prompt.clone(),
            n_samples: *n_samples,
            options: Arc::clone(&options),
            seed_indices: Some(seed_indices.clone()),
        });
    }
    while !decoding.is_idle() {
        for Finished { job_idx, sample_idx, result } in decoding.step(engine)? {
            let completion = result?;
            if on_done(job_idx, sample_idx, &completion).is_break() {
                return Ok(None);
            }
            done[job_idx][sample_idx] = Some(completion);
        }
    }
    Ok(Some(done.into_iter().map(|group| group.into_iter().flatten().collect()).collect()))
}

/// Whether a job can be begun at all.
fn check(job: &Job, context_length: usize) -> Result<(), GenerateError> {
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
    job: Job,
    capacity: usize,
    before: Option<(Vec<TokenId>, E::Cache)>,
) -> Result<ReadPrompt<E>, GenerateError> {
    let (mut cache, n_shared) = match before {
        Some((tokens, mut cache)) => {
            let n_alike = tokens.iter().zip(&job.prompt).take_while(|(one, other)| one == other).count();
            // The last token is always read: its logits are what the completion begins with.
            let n_shared = n_alike.min(job.prompt.len() - 1);
            engine.truncate_cache(&mut cache, n_shared)?;
            (cache, n_shared)
        }
        None => (engine.new_cache(capacity)?, 0),
    };
    let logits = engine.extend(&mut cache, &job.prompt[n_shared..], DecodingWeights::F32)?;
    Ok(ReadPrompt { job_idx, job, cache, logits, n_begun: 0 })
}

/// Begins the next completion of a prompt, with its first token.
fn begin<E: Engine>(
    engine: &mut E,
    tokenizer: &Tokenizer,
    ids: SampledIds<'_>,
    read: &ReadPrompt<E>,
) -> Result<Running<E::Cache>, GenerateError> {
    let job = &read.job;
    let mut sampler = job.sampler(read.n_begun)?;
    let step = SampleStep { row: 0, sampler: &mut sampler, history: &job.prompt };
    let first = engine.sample(&read.logits, ids.excluded, &mut [step])?.pop().flatten();
    let mut running = Running {
        job_idx: read.job_idx,
        sample_idx: read.n_begun,
        options: Arc::clone(&job.options),
        cache: engine.fork_cache(&read.cache)?,
        sampler,
        history: job.prompt.clone(),
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
    };
    running.take_in(first, ids.end);
    Ok(running)
}

impl<C> Running<C> {
    /// Takes the next token; none where the logits were no distribution.
    fn take_in(&mut self, sampled: Option<SampledToken>, end_tokens: &[TokenId]) {
        let Some(sampled) = sampled else {
            self.failure = Some(GenerateError::NotANumber { position: self.history.len() - 1 });
            return;
        };
        self.history.push(sampled.token);
        self.log_probs.push(sampled.log_prob);
        self.sampling_log_probs.push(sampled.sampling_log_prob);
        if end_tokens.contains(&sampled.token) {
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
        if found {
            self.finish_reason = Some(FinishReason::StopText);
        } else if self.log_probs.len() >= self.options.max_new_tokens {
            self.finish_reason = Some(FinishReason::Length);
        }
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
