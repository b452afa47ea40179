//! A model in this process that one can talk to.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use truing_model::{DecodingWeights, Engine};
use truing_text::{ChatRenderer, StreamDecoder, TextError, tool_calls};
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, Conversation, FinishReason, ReasoningMark,
    ReasoningMarks, SamplingOptions, TextStart, TokenId, split_reasoning,
};

use crate::batch::{DecodingLoop, DecodingOptions, Finished, PromptReading};
use crate::job::{Job, SampledCompletion};
use crate::{
    DraftCounts, GenerateError, SampledIds, Session, StepOptions, StopTexts, end_tokens, excluded_tokens,
    generate, mark_tokens, marks_of, opened_thought,
};

/// Replies that are sampled side by side. Each holds a cache of its prompt and itself, so that more take more memory.
const REPLIES_AT_A_TIME: usize = 8;

/// Tokens of prompts' beginnings that are kept while many are answered.
const CACHED_TOKENS: usize = 16_384;

/// An engine, the model's way of writing conversations, and the sequence they last worked on.
///
/// The cache stays between calls. A prompt that begins like the last sequence, as the next turn of a
/// conversation does, is read only from where it differs. Several threads may ask at once; the engine serves them one
/// after the other.
pub struct LocalChat<E: Engine> {
    generator: Mutex<Generator<E>>,
    renderer: ChatRenderer,
    ids: SampledIds,
    marks: ReasoningMarks,
    steps: StepOptions,
}

/// What changes while a reply is generated.
struct Generator<E: Engine> {
    engine: E,
    session: Session<E>,
    /// What was drafted so far.
    drafts: DraftCounts,
}

/// A reply with what only a local model can tell.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalReply {
    /// The reply.
    pub reply: ChatReply,
    /// Log-probability of each of its tokens under the model, before temperature and cuts `[n_tokens]`.
    pub log_probs: Vec<f32>,
    /// Tokens of the prompt that did not have to be read again.
    pub n_reused_tokens: usize,
}

impl<E: Engine> LocalChat<E> {
    /// A chat with nothing read yet. Replies end at the model's end-of-sequence tokens, the tokenizer's, and
    /// the token that ends a turn in the template.
    ///
    /// # Errors
    /// When the model does not decode.
    pub fn new(mut engine: E, renderer: ChatRenderer) -> Result<Self, GenerateError> {
        let spec = engine.spec().decoder()?;
        let end_tokens = end_tokens(&spec.eos_token_ids, &renderer);
        let excluded = excluded_tokens(renderer.tokenizer(), spec.vocab_size, &end_tokens);
        let ids = SampledIds { end: end_tokens.into(), excluded };
        let session = Session::new(&mut engine)?;
        let marks = marks_of(renderer.tokenizer());
        let generator = Mutex::new(Generator { engine, session, drafts: DraftCounts::default() });
        Ok(Self { generator, renderer, ids, marks, steps: StepOptions::default() })
    }

    /// Decodes with these weights; prompts are read with the weights themselves.
    #[must_use]
    pub fn with_decoding_weights(mut self, weights: DecodingWeights) -> Self {
        self.steps.weights = weights;
        self
    }

    /// Drafts up to this many tokens in a step, found in the prompt and the reply so far
    /// ([`DecodingOptions::prompt_lookup_num_tokens`]). Replies do not depend on it.
    #[must_use]
    pub fn with_prompt_lookup(mut self, num_tokens: usize) -> Self {
        self.steps.prompt_lookup_num_tokens = num_tokens;
        self
    }

    /// What was drafted so far, once the engine is free.
    pub fn draft_counts(&self) -> DraftCounts {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).drafts
    }

    /// Takes further marks for those of a thought, beside the known ones and those of the chat template.
    #[must_use]
    pub fn with_reasoning_marks(mut self, further: &[ReasoningMark]) -> Self {
        self.marks = self.marks.with(further);
        self
    }

    /// Looks at the engine, once it is free.
    pub fn with_engine<T>(&self, look: impl FnOnce(&E) -> T) -> T {
        look(&self.generator.lock().unwrap_or_else(PoisonError::into_inner).engine)
    }

    /// The engine, to be changed. Weights that change make what was read stale, so the sequence is forgotten.
    ///
    /// # Errors
    /// When the device has no room for an empty sequence.
    pub fn engine_mut(&mut self) -> Result<&mut E, GenerateError> {
        let generator = self.generator.get_mut().unwrap_or_else(PoisonError::into_inner);
        generator.session = Session::new(&mut generator.engine)?;
        Ok(&mut generator.engine)
    }

    /// How conversations become tokens.
    pub fn renderer(&self) -> &ChatRenderer {
        &self.renderer
    }

    /// Tokens that end a reply, ascending.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.ids.end
    }

    /// Gives the engine back.
    pub fn into_engine(self) -> E {
        self.generator.into_inner().unwrap_or_else(PoisonError::into_inner).engine
    }

    /// The engine, once it is free. A thread that panicked may have left its sequence half read, so that is forgotten.
    fn lock(&self) -> Result<MutexGuard<'_, Generator<E>>, GenerateError> {
        match self.generator.lock() {
            Ok(generator) => Ok(generator),
            Err(poisoned) => {
                let mut generator = poisoned.into_inner();
                generator.session = Session::new(&mut generator.engine)?;
                self.generator.clear_poison();
                Ok(generator)
            }
        }
    }

    /// Continues a raw text. `on_text` gets each piece of text as it appears and may break off.
    ///
    /// # Errors
    /// When the options, the prompt or the engine fail.
    pub fn complete(
        &self,
        prompt: &str,
        sampling: &SamplingOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<LocalReply, GenerateError> {
        let tokens = self.renderer.tokenizer().encode_prompt(prompt)?;
        self.continue_tokens(&tokens, sampling, on_text)
    }

    /// Writes the next assistant turn. `on_text` sees the thought too; the reply has it apart from the answer. Tools
    /// that the template does not show are described in words, and calls of them are those of the reply.
    ///
    /// # Errors
    /// As [`LocalChat::complete`], and when the conversation cannot be rendered.
    pub fn reply(
        &self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<LocalReply, GenerateError> {
        let tokens = self.prompt(&request.conversation)?;
        let tokenizer = self.renderer.tokenizer();
        let decoder = StreamDecoder::new(tokenizer, true).keeping(mark_tokens(tokenizer, &self.marks));
        let mut local = self.run(&tokens, decoder, &request.sampling, on_text)?;
        let written = std::mem::take(&mut local.reply.text);
        (local.reply.text, local.reply.reasoning) =
            split(written, &self.marks, opened_thought(self.renderer.tokenizer(), &self.marks, &tokens));
        take_calls(&mut local.reply, &tool_calls::names(&request.conversation.tools));
        Ok(local)
    }

    /// A conversation with all its tools and calls as tokens.
    fn prompt(&self, conversation: &Conversation) -> Result<Vec<TokenId>, GenerateError> {
        Ok(self.renderer.prompt(&self.renderer.with_tools_shown(conversation.clone())?)?)
    }

    /// Continues the text of these tokens.
    ///
    /// # Errors
    /// As [`LocalChat::complete`].
    pub fn continue_tokens(
        &self,
        prompt: &[TokenId],
        sampling: &SamplingOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<LocalReply, GenerateError> {
        let decoder = StreamDecoder::continuing(self.renderer.tokenizer(), true, prompt);
        self.run(prompt, decoder, sampling, on_text)
    }

    fn run(
        &self,
        prompt: &[TokenId],
        mut decoder: StreamDecoder,
        sampling: &SamplingOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<LocalReply, GenerateError> {
        let mut stops = StopTexts::new(&sampling.stop);
        let mut text = String::new();
        let mut is_stopped = false;
        let mut show = |piece: &str, text: &mut String| {
            text.push_str(piece);
            if piece.is_empty() { ControlFlow::Continue(()) } else { on_text(piece) }
        };
        let mut generator = self.lock()?;
        let Generator { engine, session, drafts } = &mut *generator;
        let generated = generate(engine, session, prompt, sampling, &self.ids, self.steps, &mut |sampled| {
            let (decided, found) = stops.push(&decoder.push(sampled.token)?);
            is_stopped = found;
            let flow = show(&decided, &mut text);
            Ok(if found { ControlFlow::Break(()) } else { flow })
        })?;
        drafts.add(generated.drafts);
        let mut finish_reason = generated.finish_reason;
        if !is_stopped {
            // The last bytes may still complete a stop text.
            let (decided, found) = stops.push(&decoder.finish()?);
            is_stopped = found;
            let rest = if found { decided } else { decided + &stops.finish() };
            if finish_reason != FinishReason::Cancelled {
                // Nothing follows, so there is nothing to break off.
                let _ = show(&rest, &mut text);
            }
        }
        if is_stopped {
            finish_reason = FinishReason::StopText;
        }
        Ok(LocalReply {
            reply: ChatReply {
                text,
                reasoning: None,
                tool_calls: Vec::new(),
                n_completion_tokens: generated.tokens.len(),
                tokens: generated.tokens,
                finish_reason,
                n_prompt_tokens: prompt.len(),
            },
            log_probs: generated.log_probs,
            n_reused_tokens: generated.n_reused_tokens,
        })
    }
}

impl<E: Engine> ChatModel for LocalChat<E> {
    fn chat(
        &self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        self.reply(request, on_text).map(|local| local.reply).map_err(chat_error)
    }

    /// Some replies side by side: the weights pass through memory once for all of them. What requests have in common at
    /// their beginning is read once.
    fn chat_all(
        &self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let prompts = requests.iter().map(|request| Asked {
            prompt: self.prompt(&request.conversation),
            sampling: &request.sampling,
            tool_names: tool_calls::names(&request.conversation.tools),
        });
        self.continue_all(prompts.collect(), on_result)
    }
}

/// One of several prompts.
struct Asked<'a> {
    prompt: Result<Vec<TokenId>, GenerateError>,
    sampling: &'a SamplingOptions,
    /// Tools that the reply may call.
    tool_names: Vec<String>,
}

impl<E: Engine> LocalChat<E> {
    /// Continues raw texts side by side, as [`ChatModel::chat_all`] answers conversations.
    pub fn complete_all(
        &self,
        prompts: &[(String, SamplingOptions)],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let tokenizer = self.renderer.tokenizer();
        let prompts = prompts.iter().map(|(text, sampling)| Asked {
            prompt: tokenizer.encode_prompt(text).map_err(GenerateError::from),
            sampling,
            tool_names: Vec::new(),
        });
        self.continue_all(prompts.collect(), on_result)
    }

    /// Continues prompts side by side; one that could not be made fails by itself.
    fn continue_all(
        &self,
        asked: Vec<Asked<'_>>,
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let mut results: Vec<Option<ChatResult>> = asked.iter().map(|_| None).collect();
        let mut prompts = Vec::with_capacity(asked.len());
        for (place, Asked { prompt, sampling, tool_names }) in asked.into_iter().enumerate() {
            match prompt {
                Ok(tokens) => prompts.push((place, tokens, sampling, tool_names)),
                Err(error) => {
                    let failed = Err(chat_error(error));
                    let flow = on_result(place, &failed);
                    results[place] = Some(failed);
                    if flow.is_break() {
                        return all_or_broken_off(results);
                    }
                }
            }
        }
        let options = DecodingOptions {
            max_batch: REPLIES_AT_A_TIME,
            weights: self.steps.weights,
            prompts: PromptReading::InPieces { max_cached_tokens: CACHED_TOKENS },
            prompt_lookup_num_tokens: self.steps.prompt_lookup_num_tokens,
        };
        let mut decoding = DecodingLoop::new(self.renderer.tokenizer(), self.ids.clone(), options);
        for (_, prompt, sampling, _) in &prompts {
            decoding.admit(Job {
                prompt: prompt.clone(),
                n_samples: 1,
                options: Arc::new((*sampling).clone()),
                ..Job::default()
            });
        }
        let mut generator = match self.lock() {
            Ok(generator) => generator,
            Err(error) => return all_failed(results, &error, on_result),
        };
        while !decoding.is_idle() {
            let finished = match decoding.step(&mut generator.engine) {
                Ok(finished) => finished,
                Err(error) => return all_failed(results, &error, on_result),
            };
            for Finished { job_idx, result, .. } in finished {
                let (place, prompt, _, tool_names) = &prompts[job_idx];
                if let Ok(completion) = &result {
                    generator.drafts.add(completion.drafts);
                }
                let mut result = self.reply_of(result, prompt);
                if let Ok(reply) = &mut result {
                    take_calls(reply, tool_names);
                }
                let flow = on_result(*place, &result);
                results[*place] = Some(result);
                if flow.is_break() {
                    return all_or_broken_off(results);
                }
            }
        }
        all_or_broken_off(results)
    }

    /// A completion as a reply.
    fn reply_of(&self, result: Result<SampledCompletion, GenerateError>, prompt: &[TokenId]) -> ChatResult {
        let completion = result.map_err(chat_error)?;
        if let Some(reason) = completion.text_error {
            return Err(ChatError::Failed(reason.into()));
        }
        let opened = opened_thought(self.renderer.tokenizer(), &self.marks, prompt);
        let (text, reasoning) = split(completion.text, &self.marks, opened);
        Ok(ChatReply {
            text,
            reasoning,
            tool_calls: Vec::new(),
            n_completion_tokens: completion.tokens.len(),
            tokens: completion.tokens,
            finish_reason: completion.finish_reason,
            n_prompt_tokens: prompt.len(),
        })
    }
}

/// Takes the calls of these tools out of a reply's text.
fn take_calls(reply: &mut ChatReply, tool_names: &[String]) {
    if tool_names.is_empty() {
        return;
    }
    let Some((before, calls)) = tool_calls::split(&reply.text, tool_names) else { return };
    reply.tool_calls =
        calls.iter().enumerate().map(|(idx, call)| call.json(&format!("call_{idx}"))).collect();
    reply.text.truncate(before.len());
    if reply.finish_reason == FinishReason::EndOfTurn {
        reply.finish_reason = FinishReason::ToolCalls;
    }
}

/// A reply's answer, empty where there is none, and its thought.
fn split(written: String, marks: &ReasoningMarks, opened: Option<ReasoningMark>) -> (String, Option<String>) {
    let found = split_reasoning(&written, marks, TextStart::after(opened.as_ref()));
    (found.answer.unwrap_or_default().to_owned(), found.reasoning())
}

fn chat_error(error: GenerateError) -> ChatError {
    let has_other_parts = matches!(error, GenerateError::Text(TextError::PartNotText { .. }));
    match has_other_parts || error.is_bad_request() {
        true => ChatError::BadRequest(error.to_string()),
        false => ChatError::Failed(Box::new(error)),
    }
}

/// A failure of the engine is that of every request that has no result yet.
fn all_failed(
    mut results: Vec<Option<ChatResult>>,
    error: &GenerateError,
    on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
) -> Vec<ChatResult> {
    let reason = error.to_string();
    for (place, result) in results.iter_mut().enumerate().filter(|(_, result)| result.is_none()) {
        let failed = Err(ChatError::Failed(reason.clone().into()));
        let _ = on_result(place, &failed);
        *result = Some(failed);
    }
    all_or_broken_off(results)
}

/// Requests that were not sent were interrupted.
fn all_or_broken_off(results: Vec<Option<ChatResult>>) -> Vec<ChatResult> {
    results.into_iter().map(|result| result.unwrap_or(Err(ChatError::BrokenOff))).collect()
}
