//! `/v1/chat/completions`.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use truing_generate::{Grammar, GrammarSource, Job, opened_thought};
use truing_text::tool_calls::ToolCall;
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{Conversation, Message, ReasoningMark, Role, TokenId};

use crate::error::ApiError;
use crate::fields::{FieldInfo, Fields, honoured, neutral, refused};
use crate::generation::{Generation, Next, chat_log_prob, finish_reason, prompt_log_probs_json};
use crate::messages::read_messages;
use crate::model::{ModelEntry, TextModel};
use crate::reply::{GrowingReply, parts};
use crate::sampling::{MAX_TOP_LOG_PROBS, SAMPLING_FIELDS, Sampling, response_format};
use crate::state::{Logged, Server};
use crate::stream::Sink;
use crate::tools::Tools;
use crate::worker::Command;

/// Fields of `/v1/chat/completions` beside those of sampling.
pub(crate) const CHAT_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("messages", "texts and text parts; tool calls and results"),
    honoured("max_completion_tokens", "default: what the context has room for"),
    honoured("max_tokens", "the same under its older name"),
    honoured("stream", "server-sent events, `[DONE]` at the end"),
    honoured("stream_options", "`include_usage`"),
    honoured("logprobs", "of each token of the reply, under the model at temperature 1"),
    honoured("top_logprobs", "0 to 20"),
    honoured("prompt_logprobs", "0 to 20; of each token of the prompt"),
    honoured("return_token_ids", "`prompt_token_ids` and `token_ids`"),
    honoured("response_format", "`text`, `json_object`, `json_schema`"),
    honoured("tools", "functions, shown in the template's own form"),
    honoured("tool_choice", "`none`, `auto`, `required` or a function"),
    honoured("parallel_tool_calls", "`false` keeps the first call only"),
    honoured("continue_final_message", "the last message is the beginning of the reply"),
    honoured("add_generation_prompt", "`false` only with `continue_final_message`"),
    honoured("chat_template_kwargs", "variables of the template, for instance `enable_thinking`"),
    honoured("reasoning_effort", "where the template reads it"),
    honoured("user", "written to the access log"),
    neutral("store", "`false`"),
    neutral("service_tier", "`auto`, `default`"),
    neutral("modalities", "`[\"text\"]`"),
    neutral("echo", "`false`"),
    neutral("priority", "`0`"),
    neutral("metadata", "an empty object"),
    refused("functions", "use `tools`"),
    refused("function_call", "use `tool_choice`"),
    refused("audio", "the models write text"),
    refused("prediction", "drafts are taken from the prompt and the reply (`--prompt-lookup-num-tokens`)"),
    refused("verbosity", "say it in a message"),
    refused("web_search_options", "the server has no network"),
    refused("chat_template", "the model's own is used; templates of requests are not run"),
    refused("documents", "put them into a message"),
    refused("prompt_cache_key", "beginnings of prompts are found by their tokens"),
    refused("prompt_cache_retention", "beginnings of prompts are kept while there is room"),
    refused("safety_identifier", "use `user`"),
];

/// Variables of a template that are made of other fields.
const OF_RENDERING: [&str; 8] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
];

/// A chat request that can be answered.
pub(crate) struct ChatJob {
    pub(crate) model: Arc<ModelEntry>,
    pub(crate) job: Job,
    pub(crate) is_streamed: bool,
    pub(crate) includes_usage: bool,
    wants_log_probs: bool,
    prompt_log_probs: Option<usize>,
    returns_token_ids: bool,
    tools: Tools,
    /// The mark of the thought that the prompt opens.
    opened: Option<ReasoningMark>,
    /// What the reply begins with, which the client has already.
    pub(crate) logged: Logged,
}

impl ChatJob {
    /// Reads a request. Tokenizes its messages and compiles its grammar, so it may take some milliseconds.
    pub(crate) fn read(server: &Server, body: &[u8]) -> Result<Self, ApiError> {
        let (mut fields, model, mut sampling) = begin(server, body)?;
        let text = model.text()?;
        let tools = Tools::read(&mut fields)?;
        let messages = fields.list("messages")?;
        let messages = fields.required("messages", messages, "a list of messages")?;
        let conversation =
            Conversation { messages: read_messages("messages", messages)?, tools: tools.described.clone() };
        let prompt = prompt(text, &mut fields, conversation)?;
        let asked = match fields.integer("max_completion_tokens", 1..=i64::MAX)? {
            Some(asked) => {
                fields.take("max_tokens");
                Some((asked, "max_completion_tokens"))
            }
            None => fields.integer("max_tokens", 1..=i64::MAX)?.map(|asked| (asked, "max_tokens")),
        };
        sampling.limit_tokens(asked, None, prompt.len(), text)?;
        let wants_log_probs = fields.boolean("logprobs")?.unwrap_or(false);
        let n_top = fields.integer("top_logprobs", 0..=MAX_TOP_LOG_PROBS)?;
        if n_top.is_some_and(|n| n > 0) && !wants_log_probs {
            return Err(ApiError::field("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
        }
        let grammar = one_grammar([sampling.grammar.take(), response_format(&mut fields)?, tools.grammar()])?;
        let grammar = grammar.map(|(source, param)| text.grammar(&source, &param)).transpose()?;
        let is_streamed = fields.boolean("stream")?.unwrap_or(false);
        let includes_usage = read_stream_options(&mut fields, is_streamed)?;
        let prompt_log_probs = fields.integer("prompt_logprobs", 0..=MAX_TOP_LOG_PROBS)?.map(|n| n as usize);
        if prompt_log_probs.is_some() && is_streamed {
            return Err(ApiError::field("prompt_logprobs", "`prompt_logprobs` cannot be streamed"));
        }
        let logged = logged(&model, &mut fields, &sampling)?;
        let returns_token_ids = fields.boolean("return_token_ids")?.unwrap_or(false);
        neutral_fields(&mut fields)?;
        fields.finish(&[CHAT_FIELDS, SAMPLING_FIELDS])?;
        let opened = opened_thought(text.renderer.tokenizer(), &text.marks, &prompt);
        let n_top = n_top.unwrap_or(0) as usize;
        let job = job(sampling, prompt, grammar, n_top);
        Ok(Self {
            model,
            job,
            is_streamed,
            includes_usage,
            wants_log_probs,
            prompt_log_probs,
            returns_token_ids,
            tools,
            opened,
            logged,
        })
    }
}

/// What a request for completions begins with: its fields, its model, and how it samples.
pub(crate) fn begin(server: &Server, body: &[u8]) -> Result<(Fields, Arc<ModelEntry>, Sampling), ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = server.model(&mut fields)?;
    let text = model.text()?;
    let seed = server.random_seed(server.next_request());
    let sampling = Sampling::read(&mut fields, text, seed)?;
    Ok((fields, model, sampling))
}

/// What the access log says of a request before it is answered.
pub(crate) fn logged(
    model: &ModelEntry,
    fields: &mut Fields,
    sampling: &Sampling,
) -> Result<Logged, ApiError> {
    Ok(Logged {
        model: Some(model.name.clone()),
        user: fields.text("user")?,
        seed: Some(sampling.options.seed),
        ..Logged::default()
    })
}

/// A job of these settings.
pub(crate) fn job(
    sampling: Sampling,
    prompt: Vec<TokenId>,
    grammar: Option<Arc<Grammar>>,
    n_top_log_probs: usize,
) -> Job {
    Job {
        prompt,
        n_samples: sampling.n,
        // A single completion is what `truing generate` writes with the same seed.
        seed_indices: (sampling.n > 1).then(Vec::new),
        first_sample_idx: 0,
        options: Arc::new(sampling.options),
        n_top_log_probs,
        grammar,
        end: sampling.end,
        keeps_special_tokens: sampling.keeps_special_tokens,
    }
}

/// The one grammar of a request.
pub(crate) fn one_grammar(
    found: [Option<(GrammarSource, String)>; 3],
) -> Result<Option<(GrammarSource, String)>, ApiError> {
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    if let [first, second, ..] = &found[..] {
        let message = format!("`{}` and `{}` cannot both decide the form of the reply", first.1, second.1);
        return Err(ApiError::field(second.1.clone(), message));
    }
    Ok(found.pop())
}

/// `stream_options`: whether usage is sent at the end.
pub(crate) fn read_stream_options(fields: &mut Fields, is_streamed: bool) -> Result<bool, ApiError> {
    let Some(value) = fields.take("stream_options") else { return Ok(false) };
    if !is_streamed {
        return Err(ApiError::field("stream_options", "`stream_options` needs `stream` to be true"));
    }
    let mut options = Fields::of_value("stream_options", value)?;
    let includes_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.neutral("include_obfuscation", &[json!(false)])?;
    options.neutral("continuous_usage_stats", &[json!(false)])?;
    options.finish(&[])?;
    Ok(includes_usage)
}

fn neutral_fields(fields: &mut Fields) -> Result<(), ApiError> {
    fields.neutral("store", &[json!(false)])?;
    fields.neutral("service_tier", &[json!("auto"), json!("default")])?;
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("echo", &[json!(false)])?;
    fields.neutral("priority", &[json!(0)])?;
    fields.neutral("metadata", &[])
}

/// The tokens of a chat prompt.
pub(crate) fn prompt(
    model: &TextModel,
    fields: &mut Fields,
    mut conversation: Conversation,
) -> Result<Vec<TokenId>, ApiError> {
    let mut variables = fields.object("chat_template_kwargs")?.unwrap_or_default();
    let templates = model.renderer.tokenizer().chat_templates();
    let is_read = |name: &str| templates.values().any(|template| template.contains(name));
    for name in variables.keys() {
        let path = format!("chat_template_kwargs.{name}");
        if OF_RENDERING.contains(&name.as_str()) {
            return Err(ApiError::field(path.clone(), format!("`{path}` is set by the server")));
        }
        if !is_read(name) {
            return Err(ApiError::field(
                path.clone(),
                format!("`{path}` is not read by the model's template"),
            ));
        }
    }
    if let Some(effort) = fields.text("reasoning_effort")? {
        if !is_read("reasoning_effort") {
            let message = "`reasoning_effort` is not read by the model's template";
            return Err(ApiError::field("reasoning_effort", message));
        }
        variables.insert("reasoning_effort".into(), effort.into());
    }
    let continues = fields.boolean("continue_final_message")?.unwrap_or(false);
    if fields.boolean("add_generation_prompt")?.unwrap_or(!continues) == continues {
        let message = match continues {
            true => "`add_generation_prompt` must be false where `continue_final_message` is true",
            false => "`add_generation_prompt` must be true: a reply is requested",
        };
        return Err(ApiError::field("add_generation_prompt", message));
    }
    let last = match continues {
        true => Some(last_reply(&mut conversation)?),
        false => None,
    };
    let with_variables;
    let renderer = match variables.is_empty() {
        true => &model.renderer,
        false => {
            with_variables = renderer_with(&model.renderer, variables)?;
            &with_variables
        }
    };
    let conversation = renderer.with_tools_shown(conversation).map_err(|error| not_rendered(&error))?;
    let text = renderer.prompt_text(&conversation).map_err(|error| not_rendered(&error))?;
    let text = text + last.as_ref().map_or("", |message| message.content.as_str());
    renderer.tokens_of_prompt(&text).map_err(|error| not_rendered(&error))
}

fn not_rendered(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::field("messages", format!("the messages cannot be rendered: {error}"))
}

/// The assistant's message at the end, which is to be continued.
fn last_reply(conversation: &mut Conversation) -> Result<Message, ApiError> {
    let is_reply = |message: &&Message| message.role == Role::Assistant && message.tool_calls.is_none();
    if conversation.messages.last().filter(is_reply).is_none() || conversation.messages.len() < 2 {
        let message =
            "`continue_final_message` needs a last message of the assistant, with text, after another one";
        return Err(ApiError::field("continue_final_message", message));
    }
    conversation.messages.pop().ok_or_else(|| ApiError::bad_request("there is no message"))
}

fn renderer_with(renderer: &ChatRenderer, variables: Map<String, Value>) -> Result<ChatRenderer, ApiError> {
    let mut options: RenderOptions = renderer.options().clone();
    options.extra.extend(variables);
    ChatRenderer::new(renderer.tokenizer().clone(), options)
        .map_err(|error| ApiError::field("chat_template_kwargs", error.to_string()))
}

impl ChatJob {
    fn text(&self) -> Result<&TextModel, ApiError> {
        self.model.text()
    }

    /// Fields that every object of the reply has.
    fn head(&self, generation: &Generation, object: &str) -> Map<String, Value> {
        let head = json!({
            "id": format!("chatcmpl-{:016x}", generation.id()),
            "object": object,
            "created": generation.server.unix_secs(),
            "model": self.model.name,
            "system_fingerprint": generation.weights.fingerprint(),
        });
        match head {
            Value::Object(head) => head,
            _ => Map::new(),
        }
    }

    fn call_json(id: u64, sample_idx: usize, idx: usize, call: &ToolCall) -> Value {
        call.json(&format!("call_{id:016x}_{sample_idx}_{idx}"))
    }

    /// Waits for every completion and puts the reply together.
    pub(crate) async fn answer(&self, generation: &mut Generation) -> Result<Value, ApiError> {
        let server = Arc::clone(&generation.server);
        let text = self.text()?;
        let tokenizer = text.renderer.tokenizer();
        let prompt_log_probs = match self.prompt_log_probs {
            None => None,
            Some(n_top) => {
                let (model, tokens) = (self.model.idx, self.job.prompt.clone());
                let found =
                    server.ask(|reply| Command::PromptLogProbs { model, tokens, n_top, reply }).await?;
                Some(prompt_log_probs_json(tokenizer, &found, n_top))
            }
        };
        let id = generation.id();
        let mut log_probs: Vec<Vec<Value>> = vec![Vec::new(); self.job.n_samples];
        let mut choices: Vec<Option<Value>> = vec![None; self.job.n_samples];
        while let Some(next) = generation.next().await? {
            match next {
                Next::Token(token) => {
                    if self.wants_log_probs {
                        log_probs[token.sample_idx].push(chat_log_prob(tokenizer, &token));
                    }
                }
                Next::Finished { sample_idx, completion } => {
                    let parts = parts(&completion.text, &text.marks, self.opened.as_ref(), &self.tools);
                    let mut message = json!({"role": "assistant", "content": parts.content});
                    if let Some(reasoning) = parts.reasoning {
                        message["reasoning_content"] = reasoning.into();
                    }
                    let mut reason = finish_reason(completion.finish_reason);
                    if !parts.calls.is_empty() {
                        let calls = parts.calls.iter().enumerate();
                        let calls: Vec<Value> =
                            calls.map(|(idx, call)| Self::call_json(id, sample_idx, idx, call)).collect();
                        message["tool_calls"] = calls.into();
                        if parts.content.is_empty() {
                            message["content"] = Value::Null;
                        }
                        reason = "tool_calls";
                    }
                    let mut choice = json!({
                        "index": sample_idx,
                        "message": message,
                        "logprobs": null,
                        "finish_reason": reason,
                    });
                    if self.wants_log_probs {
                        let content = std::mem::take(&mut log_probs[sample_idx]);
                        choice["logprobs"] = json!({"content": content, "refusal": null});
                    }
                    if self.returns_token_ids {
                        choice["token_ids"] = json!(completion.tokens);
                    }
                    choices[sample_idx] = Some(choice);
                }
            }
        }
        let mut reply = self.head(generation, "chat.completion");
        reply.insert("choices".into(), choices.into_iter().flatten().collect());
        reply.insert("usage".into(), generation.usage.json());
        if self.returns_token_ids {
            reply.insert("prompt_token_ids".into(), json!(self.job.prompt));
        }
        reply.extend(prompt_log_probs.map(|found| ("prompt_logprobs".to_owned(), found)));
        Ok(Value::Object(reply))
    }

    /// Sends the reply as it is written.
    pub(crate) async fn stream(&self, generation: &mut Generation, sink: &mut Sink) -> Result<(), ApiError> {
        let text = self.text()?;
        let tokenizer = text.renderer.tokenizer();
        let id = generation.id();
        let head = self.head(generation, "chat.completion.chunk");
        let chunk = |sample_idx: usize, delta: Value, log_probs: Option<Value>, reason: Option<&str>| {
            let mut chunk = head.clone();
            let choice =
                json!({"index": sample_idx, "delta": delta, "logprobs": log_probs, "finish_reason": reason});
            chunk.insert("choices".into(), json!([choice]));
            if self.includes_usage {
                chunk.insert("usage".into(), Value::Null);
            }
            chunk
        };
        let n = self.job.n_samples;
        let mut growing: Vec<Option<GrowingReply<'_>>> =
            (0..n).map(|_| Some(GrowingReply::new(&text.marks, self.opened.clone(), &self.tools))).collect();
        for sample_idx in 0..n {
            let mut first = chunk(sample_idx, json!({"role": "assistant", "content": ""}), None, None);
            if self.returns_token_ids && sample_idx == 0 {
                first.insert("prompt_token_ids".into(), json!(self.job.prompt));
            }
            sink.send(&Value::Object(first)).await?;
        }
        while let Some(next) = sink.or_closed(generation.next()).await? {
            match next {
                Next::Token(token) => {
                    let Some(growing) = &mut growing[token.sample_idx] else { continue };
                    let new = growing.push(&token.text);
                    let log_probs = self
                        .wants_log_probs
                        .then(|| json!({"content": [chat_log_prob(tokenizer, &token)], "refusal": null}));
                    let delta = delta_json(&new.reasoning, &new.content);
                    let is_empty = delta.as_object().is_some_and(Map::is_empty);
                    if is_empty && log_probs.is_none() && !self.returns_token_ids {
                        continue;
                    }
                    let mut chunk = chunk(token.sample_idx, delta, log_probs, None);
                    if self.returns_token_ids {
                        chunk["choices"][0]["token_ids"] = json!([token.token]);
                    }
                    sink.send(&Value::Object(chunk)).await?;
                }
                Next::Finished { sample_idx, completion } => {
                    let Some(growing) = growing[sample_idx].take() else { continue };
                    let (parts, rest) = growing.finish(&completion.text);
                    let mut delta = delta_json(&rest.reasoning, &rest.content);
                    let mut reason = finish_reason(completion.finish_reason);
                    if !parts.calls.is_empty() {
                        let calls = parts.calls.iter().enumerate();
                        let calls = calls.map(|(idx, call)| {
                            let mut call = Self::call_json(id, sample_idx, idx, call);
                            call["index"] = json!(idx);
                            call
                        });
                        delta["tool_calls"] = calls.collect();
                        reason = "tool_calls";
                    }
                    if delta.as_object().is_some_and(|delta| !delta.is_empty()) {
                        sink.send(&Value::Object(chunk(sample_idx, delta, None, None))).await?;
                    }
                    let last = chunk(sample_idx, json!({}), None, Some(reason));
                    sink.send(&Value::Object(last)).await?;
                }
            }
        }
        if self.includes_usage {
            let mut last = head;
            last.insert("choices".into(), json!([]));
            last.insert("usage".into(), generation.usage.json());
            sink.send(&Value::Object(last)).await?;
        }
        sink.done().await
    }
}

fn delta_json(reasoning: &str, content: &str) -> Value {
    let mut delta = Map::new();
    if !reasoning.is_empty() {
        delta.insert("reasoning_content".into(), reasoning.into());
    }
    if !content.is_empty() {
        delta.insert("content".into(), content.into());
    }
    Value::Object(delta)
}
