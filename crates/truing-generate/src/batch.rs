//! Many completions at once: groups of completions of a prompt, decoded side by side; a place that becomes free is
//! taken by the next (continuous batching).
//!
//! A prompt is read once for its whole group. Token in, token out: nothing is turned into text and back. A
//! completion's tokens depend on prompt, options and indices alone, not on what else runs beside it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use rayon::prelude::*;
use truing_model::{DecodingWeights, Engine, SampleStep, top_log_probs};
use truing_text::{ChatRenderer, Tokenizer};
use truing_types::{ExcludedTokens, SamplingOptions, TokenId};

use crate::GenerateError;
use crate::job::{Job, SampledCompletion};
use crate::prefix_cache::{PROMPT_PIECE, PrefixCache, read_piece};
use crate::prompt_lookup::Fed;
use crate::running::Running;

/// A prompt and how many completions of it are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRequest {
    /// The prompt as the model sees it.
    pub prompt: Vec<TokenId>,
    /// Completions to draw.
    pub n_samples: usize,
    /// With the options' seed and the completion's place in its group, these decide what is sampled: for instance
    /// the step and the row.
    pub seed_indices: Vec<u64>,
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
/// Log-probabilities of sampled tokens have to be computed without the same rows
/// ([`truing_model::HeadRequest::LogProbs`]).
#[must_use]
pub fn excluded_tokens(tokenizer: &Tokenizer, vocab_size: usize, end_tokens: &[TokenId]) -> ExcludedTokens {
    let ids = tokenizer.ids_without_token(vocab_size).into_iter();
    ExcludedTokens::of(ids.filter(|id| !end_tokens.contains(id)))
}

/// Tokens that a reply ends with, and those that are never sampled.
#[derive(Debug, Clone, Default)]
pub struct SampledIds {
    /// Tokens that end a reply ([`end_tokens`]).
    pub end: Arc<[TokenId]>,
    /// Tokens that are never sampled ([`excluded_tokens`]).
    pub excluded: ExcludedTokens,
}

/// A prompt during prefill, or after it while completions of its group have not started.
struct ReadPrompt<E: Engine> {
    job_idx: usize,
    job: Job,
    cache: E::Cache,
    /// Tokens that the cache holds.
    n_read: usize,
    /// Of these, how many did not have to be read.
    n_reused: usize,
    /// After the last token.
    logits: Option<E::Logits>,
    n_begun: usize,
}

/// A completion that has ended, or why there is none.
#[derive(Debug)]
pub struct Finished {
    /// The job, as [`DecodingLoop::admit`] numbered it.
    pub job_idx: usize,
    /// The completion's index in its group. A job whose prompt cannot be read fails once, at index 0.
    pub sample_idx: usize,
    /// Tokens of the prompt that did not have to be read, because an earlier prompt began with them.
    pub n_reused_tokens: usize,
    /// The completion.
    pub result: Result<SampledCompletion, GenerateError>,
}

/// One token of a completion, as it is sampled.
#[derive(Debug)]
pub struct TokenSampled<'a> {
    /// The job, as [`DecodingLoop::admit`] numbered it.
    pub job_idx: usize,
    /// The completion's index in its group.
    pub sample_idx: usize,
    /// The token.
    pub token: TokenId,
    /// The text that it completes; empty while a character or a stop string may be incomplete.
    pub text: &'a str,
    /// Log-probability of the token under the model: temperature 1, nothing cut off.
    pub log_prob: f32,
    /// The most likely tokens at this position, as many as the job wants, with their log-probabilities under the model.
    pub top_log_probs: &'a [(TokenId, f32)],
}

/// How a [`DecodingLoop`] reads prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptReading {
    /// Each at once, with room for its completion alone.
    Whole,
    /// In pieces of [`PROMPT_PIECE`] tokens, between which running completions are continued. Beginnings are kept, up
    /// to this many tokens, for prompts that begin the same. A completion's bits do not depend on what is kept.
    InPieces {
        /// Most tokens that are kept.
        max_cached_tokens: usize,
    },
}

/// How a [`DecodingLoop`] decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodingOptions {
    /// Most completions that are decoded side by side.
    pub max_batch: usize,
    /// The weights that new tokens are multiplied with. Prompts are always read with the weights themselves.
    pub weights: DecodingWeights,
    /// How prompts are read.
    pub prompts: PromptReading,
    /// Most tokens that are drafted for each completion in a step: what followed the last time that its last tokens
    /// occurred in the prompt or the completion. They are checked at once. No token and no log-probability depends on
    /// it, in any bit, where the engine's decoding is independent of the batch. 0 drafts nothing.
    pub prompt_lookup_num_tokens: usize,
}

/// Pieces of prompts that are read in a step in which nothing else runs.
const PIECES_WHEN_IDLE: usize = 4;

/// Continuous batching: jobs are admitted at any time, every step samples one token of each running completion, or
/// several where tokens are drafted, and the place of one that ends is taken by the next. A completion's tokens depend
/// on its job alone, not on what runs beside it.
///
/// [`sample`] and [`LocalChat`](crate::LocalChat) drive it until nothing is left; a server admits as requests arrive.
pub struct DecodingLoop<E: Engine> {
    tokenizer: Tokenizer,
    ids: SampledIds,
    options: DecodingOptions,
    n_admitted: usize,
    waiting: VecDeque<(usize, Job)>,
    prompt: Option<ReadPrompt<E>>,
    prefixes: PrefixCache<E>,
    running: Vec<Running<E::Cache>>,
}

impl<E: Engine> DecodingLoop<E> {
    /// A loop with nothing to do yet.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, ids: SampledIds, options: DecodingOptions) -> Self {
        let max_cached_tokens = match options.prompts {
            PromptReading::Whole => 0,
            PromptReading::InPieces { max_cached_tokens } => max_cached_tokens,
        };
        Self {
            tokenizer: tokenizer.clone(),
            ids,
            options,
            n_admitted: 0,
            waiting: VecDeque::new(),
            prompt: None,
            prefixes: PrefixCache::new(max_cached_tokens),
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

    /// Drops everything that waits or runs, and every beginning that is kept: after a failure of the engine, or a
    /// change of its weights.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.prompt = None;
        self.running.clear();
        self.prefixes = PrefixCache::new(match self.options.prompts {
            PromptReading::Whole => 0,
            PromptReading::InPieces { max_cached_tokens } => max_cached_tokens,
        });
    }

    /// Whether nothing waits and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.prompt.is_none() && self.waiting.is_empty()
    }

    /// Completions that are being decoded.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Jobs that wait, the one whose prompt is being read included.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.waiting.len() + usize::from(self.prompt.is_some())
    }

    /// Tokens of beginnings that are kept.
    #[must_use]
    pub fn n_cached_tokens(&self) -> usize {
        self.prefixes.n_tokens()
    }

    /// As [`step_watched`](Self::step_watched), without a look at single tokens.
    ///
    /// # Errors
    /// When the engine fails: what was on its way is lost.
    pub fn step(&mut self, engine: &mut E) -> Result<Vec<Finished>, GenerateError> {
        self.step_watched(engine, &mut |_| {})
    }

    /// Reads prompts and begins completions while there is room, then samples one token of each, and those after it
    /// that were drafted as they are sampled; returns those that have ended. `on_token` gets every token as it is
    /// sampled.
    ///
    /// # Errors
    /// When the engine fails: what was on its way is lost.
    pub fn step_watched(
        &mut self,
        engine: &mut E,
        on_token: &mut dyn FnMut(TokenSampled<'_>),
    ) -> Result<Vec<Finished>, GenerateError> {
        let context_length = engine.spec().decoder()?.max_position_embeddings;
        let mut finished = self.fill_places(engine, context_length, on_token)?;
        let mut still_running = Vec::with_capacity(self.running.len());
        for one in self.running.drain(..) {
            if one.is_over(context_length) {
                let (job_idx, sample_idx, n_reused_tokens) = (one.job_idx, one.sample_idx, one.n_reused);
                finished.push(Finished { job_idx, sample_idx, n_reused_tokens, result: one.finish() });
            } else {
                still_running.push(one);
            }
        }
        self.running = still_running;
        if self.running.is_empty() {
            return Ok(finished);
        }
        let drafted = self.options.prompt_lookup_num_tokens;
        let fed: Vec<Fed> = self
            .running
            .iter()
            .map(|one| Fed::new(&one.history, one.draft(drafted, context_length)))
            .collect();
        let tokens: Vec<&[TokenId]> = fed.iter().map(|fed| &fed.tokens[..]).collect();
        let mut caches: Vec<&mut E::Cache> = self.running.iter_mut().map(|one| &mut one.cache).collect();
        let logits = engine.extend_each_by(&mut caches, &tokens, self.options.weights)?;
        self.sample_after(engine, &logits, &fed, context_length, on_token)?;
        Ok(finished)
    }

    /// Samples the next token of each completion; where that is the first drafted token, also the one after it, and so
    /// on. Then forgets the drafted tokens that were not sampled. So every token is sampled after the tokens, from the
    /// logits and with the random numbers that it would have without a draft.
    fn sample_after(
        &mut self,
        engine: &mut E,
        logits: &E::Logits,
        fed: &[Fed],
        context_length: usize,
        on_token: &mut dyn FnMut(TokenSampled<'_>),
    ) -> Result<(), GenerateError> {
        let n_rounds = fed.iter().map(|fed| fed.tokens.len()).max().unwrap_or(0);
        for n_accepted in 0..n_rounds {
            let mut first_row = 0;
            let mut following = Vec::new();
            for (one, fed) in self.running.iter_mut().zip(fed) {
                if fed.is_followed(&one.history, n_accepted) && !one.is_over(context_length) {
                    following.push((first_row + n_accepted, one));
                }
                first_row += fed.tokens.len();
            }
            if following.is_empty() {
                break;
            }
            sample_each(engine, logits, &self.ids, &mut following, on_token)?;
        }
        for (one, fed) in self.running.iter_mut().zip(fed).filter(|(_, fed)| !fed.draft().is_empty()) {
            one.drafts.add(fed.counts(&one.history));
            // The last sampled token is read in the next step.
            engine.truncate_cache(&mut one.cache, one.history.len() - 1)?;
        }
        Ok(())
    }

    /// Reads prompts and begins their completions while places are free. While completions run, about one piece of a
    /// prompt is read, so that no long prompt holds them up. Returns jobs that cannot be begun.
    fn fill_places(
        &mut self,
        engine: &mut E,
        context_length: usize,
        on_token: &mut dyn FnMut(TokenSampled<'_>),
    ) -> Result<Vec<Finished>, GenerateError> {
        let mut failed = Vec::new();
        let n_pieces = if self.running.is_empty() { PIECES_WHEN_IDLE } else { 1 };
        let mut n_left = match self.options.prompts {
            PromptReading::Whole => usize::MAX,
            PromptReading::InPieces { .. } => n_pieces * PROMPT_PIECE,
        };
        while self.running.len() < self.options.max_batch.max(1) {
            let mut reading = match self.prompt.take() {
                Some(reading) => reading,
                None => {
                    let Some((job_idx, job)) = self.waiting.pop_front() else { break };
                    if let Err(error) = check(&job, context_length) {
                        let result = Err(error);
                        failed.push(Finished { job_idx, sample_idx: 0, n_reused_tokens: 0, result });
                        continue;
                    }
                    self.start_reading(engine, job_idx, job, context_length)?
                }
            };
            let Some(logits) = &reading.logits else {
                if n_left == 0 {
                    self.prompt = Some(reading);
                    break;
                }
                let n_read = self.read_on(engine, &mut reading)?;
                n_left = n_left.saturating_sub(n_read);
                self.prompt = Some(reading);
                continue;
            };
            let mut next = self.begin(engine, &reading)?;
            sample_each(engine, logits, &self.ids, &mut [(0, &mut next)], on_token)?;
            self.running.push(next);
            reading.n_begun += 1;
            if reading.n_begun < reading.job.n_samples {
                self.prompt = Some(reading);
            }
        }
        Ok(failed)
    }

    /// A prompt with what is known of its beginning.
    fn start_reading(
        &mut self,
        engine: &mut E,
        job_idx: usize,
        job: Job,
        context_length: usize,
    ) -> Result<ReadPrompt<E>, GenerateError> {
        let (cache, n_reused) = match self.options.prompts {
            PromptReading::Whole => (engine.new_cache(job.capacity(context_length))?, 0),
            PromptReading::InPieces { .. } => match self.prefixes.find(engine, &job.prompt)? {
                Some(found) => found,
                None => (engine.new_cache(context_length)?, 0),
            },
        };
        Ok(ReadPrompt { job_idx, job, cache, n_read: n_reused, n_reused, logits: None, n_begun: 0 })
    }

    /// Reads the next piece of a prompt, or all of it; returns how many tokens that were.
    fn read_on(&mut self, engine: &mut E, reading: &mut ReadPrompt<E>) -> Result<usize, GenerateError> {
        let prompt = &reading.job.prompt;
        let before = reading.n_read;
        let logits = match self.options.prompts {
            PromptReading::Whole => {
                reading.n_read = prompt.len();
                engine.extend(&mut reading.cache, prompt, DecodingWeights::F32)?
            }
            PromptReading::InPieces { .. } => {
                let (logits, n_read) = read_piece(engine, &mut reading.cache, prompt, before)?;
                self.prefixes.keep(engine, prompt, n_read, &reading.cache)?;
                reading.n_read = n_read;
                logits
            }
        };
        if reading.n_read == prompt.len() {
            reading.logits = Some(logits);
        }
        Ok(reading.n_read - before)
    }

    /// The next completion of a prompt, without a token yet.
    fn begin(&self, engine: &mut E, read: &ReadPrompt<E>) -> Result<Running<E::Cache>, GenerateError> {
        let sampler = read.job.sampler(read.n_begun)?;
        let cache = engine.fork_cache(&read.cache)?;
        let mut running =
            Running::new(&self.tokenizer, &read.job, (read.job_idx, read.n_begun), cache, sampler)?;
        running.n_reused = read.n_reused;
        Ok(running)
    }
}

/// Samples the next token of some completions, each from its row of the logits.
fn sample_each<E: Engine>(
    engine: &mut E,
    logits: &E::Logits,
    ids: &SampledIds,
    running: &mut [(usize, &mut Running<E::Cache>)],
    on_token: &mut dyn FnMut(TokenSampled<'_>),
) -> Result<(), GenerateError> {
    running.par_iter_mut().for_each(|(_, one)| one.find_allowed());
    let mut steps: Vec<SampleStep<'_>> = running
        .iter_mut()
        .map(|(row, one)| SampleStep {
            row: *row,
            sampler: &mut one.sampler,
            history: &one.history,
            allowed: one.allowed.as_ref(),
        })
        .collect();
    let sampled = engine.sample(logits, &ids.excluded, &mut steps)?;
    if running.iter().any(|(_, one)| one.n_top_log_probs > 0) {
        let host = engine.read_logits(logits)?;
        let vocab_size = engine.spec().vocab_size();
        running.par_iter_mut().filter(|(_, one)| one.n_top_log_probs > 0).for_each(|(row, one)| {
            let mut logits = host[*row * vocab_size..(*row + 1) * vocab_size].to_vec();
            ids.excluded.mask(&mut logits);
            one.top_log_probs = top_log_probs(&logits, one.n_top_log_probs);
        });
    }
    running.par_iter_mut().zip(&sampled).for_each(|((_, one), sampled)| one.take_in(*sampled, &ids.end));
    for ((_, one), sampled) in running.iter_mut().zip(&sampled) {
        if let (Some(sampled), None) = (sampled, &one.failure) {
            on_token(TokenSampled {
                job_idx: one.job_idx,
                sample_idx: one.sample_idx,
                token: sampled.token,
                text: &one.new_text,
                log_prob: sampled.log_prob,
                top_log_probs: &one.top_log_probs,
            });
        }
    }
    Ok(())
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
    ids: &SampledIds,
    decoding: DecodingOptions,
    on_done: &mut dyn FnMut(usize, usize, &SampledCompletion) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<SampledCompletion>>>, GenerateError> {
    let mut done: Vec<Vec<Option<SampledCompletion>>> =
        requests.iter().map(|request| vec![None; request.n_samples]).collect();
    let options = Arc::new(options.clone());
    let mut decoding = DecodingLoop::new(tokenizer, ids.clone(), decoding);
    for SampleRequest { prompt, n_samples, seed_indices } in requests {
        decoding.admit(Job {
            prompt: prompt.clone(),
            n_samples: *n_samples,
            options: Arc::clone(&options),
            seed_indices: Some(seed_indices.clone()),
            ..Job::default()
        });
    }
    while !decoding.is_idle() {
        for Finished { job_idx, sample_idx, result, .. } in decoding.step(engine)? {
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
