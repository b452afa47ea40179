//! `/v1/completions`: raw texts, or token ids, continued.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use truing_generate::{Grammar, Job, SampledCompletion};
use truing_predict::PromptToken;
use truing_text::Tokenizer;
use truing_types::TokenId;

use crate::chat::{begin, job, logged, one_grammar, read_stream_options};
use crate::error::ApiError;
use crate::fields::{FieldInfo, Fields, honoured, neutral, refused, token_ids};
use crate::generation::{Generation, Next, finish_reason, json_number, prompt_log_probs_json, token_text};
use crate::model::{HeldWeights, ModelEntry, TextModel};
use crate::sampling::{MAX_TOP_LOG_PROBS, SAMPLING_FIELDS, Sampling, response_format};
use crate::state::{Logged, Server};
use crate::stream::Sink;
use crate::usage::Usage;
use crate::worker::{Command, TokenEvent};

/// Tokens of a completion where the request does not say how many, as OpenAI has it.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Prompts of a request at most.
const MAX_PROMPTS: usize = 1024;

/// Fields of `/v1/completions` beside those of sampling.
pub(crate) const COMPLETION_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("prompt", "a text, a list of texts, token ids, or lists of token ids"),
    honoured("max_tokens", "default 16; 0 with `echo` scores the prompt alone"),
    honoured("stream", "server-sent events, `[DONE]` at the end"),
    honoured("stream_options", "`include_usage`"),
    honoured("logprobs", "0 to 20 most likely tokens at each position"),
    honoured("prompt_logprobs", "0 to 20; of each token of the prompt"),
    honoured("echo", "the prompt is part of the text, and of `logprobs`"),
    honoured("return_token_ids", "`prompt_token_ids` and `token_ids`"),
    honoured("response_format", "`text`, `json_object`, `json_schema`"),
    honoured("add_special_tokens", "of a text; default true"),
    honoured("user", "written to the access log"),
    neutral("best_of", "`1`, or the value of `n`"),
    neutral("priority", "`0`"),
    refused("suffix", "the models continue texts, they do not fill gaps"),
];

/// A request for completions of one or several prompts.
pub(crate) struct CompletionJob {
    pub(crate) model: Arc<ModelEntry>,
    /// One for each prompt.
    pub(crate) jobs: Vec<Job>,
    pub(crate) is_streamed: bool,
    includes_usage: bool,
    log_probs: Option<usize>,
    prompt_log_probs: Option<usize>,
    echoes: bool,
    returns_token_ids: bool,
    /// Nothing is generated: the prompts are scored.
    pub(crate) only_scores: bool,
    pub(crate) logged: Logged,
}

impl CompletionJob {
    /// Reads a request.
    pub(crate) fn read(server: &Server, body: &[u8]) -> Result<Self, ApiError> {
        let (mut fields, model, mut sampling) = begin(server, body)?;
        let text = model.text()?;
        let prompts = read_prompts(&mut fields, text)?;
        let echoes = fields.boolean("echo")?.unwrap_or(false);
        let max_tokens = fields.integer("max_tokens", 0..=i64::MAX)?;
        let only_scores = max_tokens == Some(0);
        if only_scores && !echoes {
            return Err(ApiError::value("max_tokens", &json!(0), "at least 1 (0 needs `echo`)"));
        }
        let grammar = one_grammar([sampling.grammar.take(), response_format(&mut fields)?, None])?;
        let grammar = grammar.map(|(source, param)| text.grammar(&source, &param)).transpose()?;
        let log_probs = fields.integer("logprobs", 0..=MAX_TOP_LOG_PROBS)?.map(|n| n as usize);
        let prompt_log_probs = fields.integer("prompt_logprobs", 0..=MAX_TOP_LOG_PROBS)?.map(|n| n as usize);
        let is_streamed = fields.boolean("stream")?.unwrap_or(false);
        let includes_usage = read_stream_options(&mut fields, is_streamed)?;
        if is_streamed && (echoes || prompt_log_probs.is_some()) {
            let name = if echoes { "echo" } else { "prompt_logprobs" };
            return Err(ApiError::field(name, format!("`{name}` cannot be streamed")));
        }
        fields.neutral("best_of", &[json!(1), json!(sampling.n)])?;
        fields.neutral("priority", &[json!(0)])?;
        let logged = logged(&model, &mut fields, &sampling)?;
        let returns_token_ids = fields.boolean("return_token_ids")?.unwrap_or(false);
        fields.finish(&[COMPLETION_FIELDS, SAMPLING_FIELDS])?;
        let asked = max_tokens.filter(|&n| n > 0).map(|n| (n, "max_tokens"));
        let mut jobs = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            jobs.push(job_of(&mut sampling, prompt, asked, only_scores, grammar.as_ref(), log_probs, text)?);
        }
        Ok(Self {
            model,
            jobs,
            is_streamed,
            includes_usage,
            log_probs,
            prompt_log_probs,
            echoes,
            returns_token_ids,
            only_scores,
            logged,
        })
    }
}

fn job_of(
    sampling: &mut Sampling,
    prompt: Vec<TokenId>,
    asked: Option<(i64, &str)>,
    only_scores: bool,
    grammar: Option<&Arc<Grammar>>,
    log_probs: Option<usize>,
    model: &TextModel,
) -> Result<Job, ApiError> {
    let at_prompt = |error: ApiError| match error.param.as_deref() {
        Some("messages") => ApiError { param: Some("prompt".into()), ..error },
        _ => error,
    };
    if only_scores && prompt.len() == model.spec.max_position_embeddings {
        sampling.options.max_new_tokens = 1;
    } else {
        sampling.limit_tokens(asked, Some(DEFAULT_MAX_TOKENS), prompt.len(), model).map_err(at_prompt)?;
    }
    Ok(job(sampling.clone(), prompt, grammar.cloned(), log_probs.unwrap_or(0)))
}

/// The prompts as token ids.
fn read_prompts(fields: &mut Fields, model: &TextModel) -> Result<Vec<Vec<TokenId>>, ApiError> {
    const EXPECTED: &str = "a text, a list of texts, token ids, or lists of token ids";
    let tokenizer = model.renderer.tokenizer();
    let adds_special = fields.boolean("add_special_tokens")?.unwrap_or(true);
    let prompt = fields.take("prompt");
    let prompt = fields.required("prompt", prompt, EXPECTED)?;
    let encode = |text: &str| match adds_special {
        true => tokenizer.encode_prompt(text),
        false => tokenizer.encode(text, truing_text::SpecialTokens::Parse),
    };
    let of_text = |text: &str| encode(text).map_err(|error| ApiError::field("prompt", error.to_string()));
    let prompts: Vec<Vec<TokenId>> = match &prompt {
        Value::String(text) => vec![of_text(text)?],
        Value::Array(values) if values.is_empty() => Vec::new(),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            values.iter().filter_map(Value::as_str).map(of_text).collect::<Result<_, _>>()?
        }
        value => match token_ids(value) {
            Some(tokens) => vec![tokens],
            None => {
                let lists = value.as_array().and_then(|lists| lists.iter().map(token_ids).collect());
                lists.ok_or_else(|| ApiError::value("prompt", value, EXPECTED))?
            }
        },
    };
    check_prompts("prompt", &prompts, model)?;
    Ok(prompts)
}

/// Refuses what no model can read.
pub(crate) fn check_prompts(
    param: &str,
    prompts: &[Vec<TokenId>],
    model: &TextModel,
) -> Result<(), ApiError> {
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::field(param, format!("`{param}` is empty, expected at least one token")));
    }
    if prompts.len() > MAX_PROMPTS {
        let message = format!("`{param}` holds {} prompts, expected at most {MAX_PROMPTS}", prompts.len());
        return Err(ApiError::field(param, message));
    }
    if let Some(token) = prompts.iter().flatten().find(|&&token| token as usize >= model.spec.vocab_size) {
        let message = format!("`{param}` holds token {token}, expected ids below {}", model.spec.vocab_size);
        return Err(ApiError::field(param, message));
    }
    if let Some(prompt) = prompts.iter().find(|prompt| prompt.len() > model.spec.max_position_embeddings) {
        let message = format!(
            "the prompt has {} tokens, but the model's context holds {}",
            prompt.len(),
            model.spec.max_position_embeddings
        );
        return Err(ApiError::field(param, message).with_code("context_length_exceeded"));
    }
    Ok(())
}

/// Log-probabilities as the older endpoint has them: lists side by side.
#[derive(Debug, Default)]
struct LogProbs {
    tokens: Vec<String>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    n_chars: usize,
}

impl LogProbs {
    fn push(&mut self, tokenizer: &Tokenizer, token: TokenId, found: Option<(f32, &[(TokenId, f32)])>) {
        let text = token_text(tokenizer, token);
        self.text_offset.push(self.n_chars);
        self.n_chars += text.chars().count();
        match found {
            None => {
                self.token_logprobs.push(Value::Null);
                self.top_logprobs.push(Value::Null);
            }
            Some((log_prob, top)) => {
                self.token_logprobs.push(json_number(log_prob));
                let mut map = Map::new();
                for &(id, log_prob) in top {
                    // Different tokens can look the same; the likeliest keeps the place.
                    map.entry(token_text(tokenizer, id)).or_insert_with(|| json_number(log_prob));
                }
                if !top.iter().any(|&(id, _)| id == token) {
                    map.insert(text.clone(), json_number(log_prob));
                }
                self.top_logprobs.push(Value::Object(map));
            }
        }
        self.tokens.push(text);
    }

    fn json(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

impl CompletionJob {
    fn head(&self, server: &Server, weights: &HeldWeights, id: u64) -> Map<String, Value> {
        let head = json!({
            "id": format!("cmpl-{id:016x}"),
            "object": "text_completion",
            "created": server.unix_secs(),
            "model": self.model.name,
            "system_fingerprint": weights.fingerprint(),
        });
        match head {
            Value::Object(head) => head,
            _ => Map::new(),
        }
    }

    /// Log-probabilities of a prompt, where they are wanted.
    async fn score_prompt(
        &self,
        server: &Server,
        tokens: &[TokenId],
    ) -> Result<Option<Vec<PromptToken>>, ApiError> {
        let of_echo = self.log_probs.filter(|_| self.echoes);
        let Some(n_top) = of_echo.max(self.prompt_log_probs) else { return Ok(None) };
        let (model, tokens) = (self.model.idx, tokens.to_vec());
        Ok(Some(server.ask(|reply| Command::PromptLogProbs { model, tokens, n_top, reply }).await?))
    }

    /// One choice of a prompt.
    fn choice(
        &self,
        tokenizer: &Tokenizer,
        index: usize,
        prompt: &[TokenId],
        scored: Option<&[PromptToken]>,
        completion: &SampledCompletion,
        tokens: &[TokenEvent],
    ) -> Result<Value, ApiError> {
        let mut text = completion.text.clone();
        if self.echoes {
            let prompt = tokenizer
                .decode(prompt, true)
                .map_err(|error| ApiError::field("prompt", error.to_string()))?;
            text.insert_str(0, &prompt);
        }
        let log_probs = self.log_probs.map(|n_top| {
            let mut log_probs = LogProbs::default();
            if self.echoes {
                let scored = scored.unwrap_or_default();
                for (idx, &token) in prompt.iter().enumerate() {
                    let found = idx.checked_sub(1).and_then(|idx| scored.get(idx));
                    let top = |found: &PromptToken| found.top.len().min(n_top);
                    let found = found.map(|found| (found.log_prob, &found.top[..top(found)]));
                    log_probs.push(tokenizer, token, found);
                }
            }
            for token in tokens {
                log_probs.push(tokenizer, token.token, Some((token.log_prob, &token.top_log_probs)));
            }
            log_probs.json()
        });
        let reason = if self.only_scores { "length" } else { finish_reason(completion.finish_reason) };
        let mut choice =
            json!({"index": index, "text": text, "logprobs": log_probs, "finish_reason": reason});
        if self.returns_token_ids {
            choice["token_ids"] = json!(completion.tokens);
            choice["prompt_token_ids"] = json!(prompt);
        }
        if let (Some(n_top), Some(scored)) = (self.prompt_log_probs, scored) {
            choice["prompt_logprobs"] = prompt_log_probs_json(tokenizer, scored, n_top);
        }
        Ok(choice)
    }

    /// Waits for every completion and puts the reply together.
    pub(crate) async fn answer(
        &self,
        server: &Server,
        weights: &HeldWeights,
        generations: &mut [Generation],
    ) -> Result<(Value, Usage), ApiError> {
        let tokenizer = self.model.text()?.renderer.tokenizer();
        let mut usage = Usage::default();
        let mut choices = Vec::new();
        for (prompt_idx, job) in self.jobs.iter().enumerate() {
            let scored = self.score_prompt(server, &job.prompt).await?;
            let scored = scored.as_deref();
            usage.prompt_tokens += job.prompt.len();
            let first = prompt_idx * job.n_samples;
            let Some(generation) = generations.get_mut(prompt_idx) else {
                let nothing = SampledCompletion::default();
                choices.push(self.choice(tokenizer, first, &job.prompt, scored, &nothing, &[])?);
                continue;
            };
            let mut tokens: Vec<Vec<TokenEvent>> = vec![Vec::new(); job.n_samples];
            let mut of_prompt: Vec<Option<Value>> = vec![None; job.n_samples];
            while let Some(next) = generation.next().await? {
                match next {
                    Next::Token(token) => tokens[token.sample_idx].push(token),
                    Next::Finished { sample_idx, completion } => {
                        let tokens = &tokens[sample_idx];
                        let index = first + sample_idx;
                        of_prompt[sample_idx] =
                            Some(self.choice(tokenizer, index, &job.prompt, scored, &completion, tokens)?);
                    }
                }
            }
            choices.extend(of_prompt.into_iter().flatten());
            usage.completion_tokens += generation.usage.completion_tokens;
            usage.cached_tokens += generation.usage.cached_tokens;
            usage.first_token_s = usage.first_token_s.or(generation.usage.first_token_s);
            usage.finish_reasons.extend(&generation.usage.finish_reasons);
        }
        let id = generations.first().map_or_else(|| server.next_request(), Generation::id);
        let mut reply = self.head(server, weights, id);
        reply.insert("choices".into(), choices.into());
        reply.insert("usage".into(), usage.json());
        Ok((Value::Object(reply), usage))
    }

    /// Sends the completions as they are written, one prompt after the other.
    pub(crate) async fn stream(
        &self,
        server: &Server,
        weights: &HeldWeights,
        generations: &mut [Generation],
        sink: &mut Sink,
    ) -> Result<Usage, ApiError> {
        let tokenizer = self.model.text()?.renderer.tokenizer();
        let id = generations.first().map_or_else(|| server.next_request(), Generation::id);
        let head = self.head(server, weights, id);
        let mut usage = Usage::default();
        let chunk = |index: usize, text: &str, log_probs: Option<Value>, reason: Option<&str>| {
            let mut chunk = head.clone();
            let choice =
                json!({"index": index, "text": text, "logprobs": log_probs, "finish_reason": reason});
            chunk.insert("choices".into(), json!([choice]));
            Value::Object(chunk)
        };
        for (prompt_idx, generation) in generations.iter_mut().enumerate() {
            let n = self.jobs[prompt_idx].n_samples;
            let mut n_shown = vec![0; n];
            let mut n_chars = vec![0; n];
            while let Some(next) = sink.or_closed(generation.next()).await? {
                match next {
                    Next::Token(token) => {
                        n_shown[token.sample_idx] += token.text.len();
                        let log_probs = self.log_probs.map(|_| {
                            let n_chars = &mut n_chars[token.sample_idx];
                            let mut log_probs = LogProbs { n_chars: *n_chars, ..LogProbs::default() };
                            let found = Some((token.log_prob, &token.top_log_probs[..]));
                            log_probs.push(tokenizer, token.token, found);
                            *n_chars = log_probs.n_chars;
                            log_probs.json()
                        });
                        if token.text.is_empty() && log_probs.is_none() && !self.returns_token_ids {
                            continue;
                        }
                        let index = prompt_idx * n + token.sample_idx;
                        let mut chunk = chunk(index, &token.text, log_probs, None);
                        if self.returns_token_ids {
                            chunk["choices"][0]["token_ids"] = json!([token.token]);
                        }
                        sink.send(&chunk).await?;
                    }
                    Next::Finished { sample_idx, completion } => {
                        let rest = completion.text.get(n_shown[sample_idx]..).unwrap_or_default();
                        let index = prompt_idx * n + sample_idx;
                        let reason = finish_reason(completion.finish_reason);
                        sink.send(&chunk(index, rest, None, Some(reason))).await?;
                    }
                }
            }
            usage.prompt_tokens += generation.usage.prompt_tokens;
            usage.completion_tokens += generation.usage.completion_tokens;
            usage.cached_tokens += generation.usage.cached_tokens;
            usage.first_token_s = usage.first_token_s.or(generation.usage.first_token_s);
            usage.finish_reasons.extend(&generation.usage.finish_reasons);
        }
        if self.includes_usage {
            let mut last = head.clone();
            last.insert("choices".into(), json!([]));
            last.insert("usage".into(), usage.json());
            sink.send(&Value::Object(last)).await?;
        }
        sink.done().await?;
        Ok(usage)
    }
}
