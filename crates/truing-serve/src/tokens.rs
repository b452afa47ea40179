//! Token ids in and out: `/tokenize`, `/detokenize`, and `/inference/v1/generate`, which reinforcement-learning clients
//! use.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use truing_generate::Job;
use truing_text::SpecialTokens;
use truing_types::Conversation;

use crate::chat::{job, one_grammar, prompt};
use crate::completions::check_prompts;
use crate::error::ApiError;
use crate::fields::{FieldInfo, Fields, honoured, neutral, refused};
use crate::generation::{Generation, Next, finish_reason, json_number, prompt_log_probs_json};
use crate::messages::read_messages;
use crate::model::ModelEntry;
use crate::sampling::{MAX_TOP_LOG_PROBS, SAMPLING_FIELDS, Sampling};
use crate::state::{Logged, Server};
use crate::tools::Tools;
use crate::worker::{Command, TokenEvent};

/// Tokens of a completion where the request does not say how many, as vLLM has it.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Fields of `/tokenize`.
pub(crate) const TOKENIZE_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("prompt", "a text"),
    honoured("messages", "instead of `prompt`"),
    honoured("tools", "with `messages`"),
    honoured("add_special_tokens", "of a text; default true"),
    honoured("continue_final_message", "with `messages`"),
    honoured("add_generation_prompt", "`false` only with `continue_final_message`"),
    honoured("chat_template_kwargs", "variables of the template"),
    honoured("return_token_strs", "`token_strs`"),
    refused("chat_template", "the model's own is used; templates of requests are not run"),
];

/// Fields of `/detokenize`.
pub(crate) const DETOKENIZE_FIELDS: &[FieldInfo] =
    &[honoured("model", "may be left out where one model is served"), honoured("tokens", "token ids")];

/// Fields of `/inference/v1/generate`. Those of sampling are inside `sampling_params`.
pub(crate) const GENERATE_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("token_ids", "the prompt"),
    honoured("sampling_params", "the fields of sampling, and those below"),
    honoured("request_id", "returned as it is"),
    neutral("stream", "`false`"),
    neutral("priority", "`0`"),
    refused("features", "the models read text"),
    refused("cache_salt", "beginnings of prompts are found by their tokens"),
    refused("kv_transfer_params", "keys and values stay in the process"),
    refused("stream_options", "the reply is not streamed"),
];

/// Fields inside `sampling_params` beside those of sampling.
pub(crate) const SAMPLING_PARAMS_FIELDS: &[FieldInfo] = &[
    honoured("max_tokens", "default 16"),
    honoured("logprobs", "0 to 20 most likely tokens at each position"),
    honoured("prompt_logprobs", "0 to 20; of each token of the prompt"),
    honoured(
        "seed_indices",
        "with `seed`: integers that decide what is sampled, as in a trainer; completion i adds i to the last",
    ),
    honoured(
        "logprobs_mode",
        "`raw_logprobs` (default) or `processed_logprobs`: of the tokens after temperature and cuts, without top ones",
    ),
    neutral("detokenize", "`true`, `false`: token ids are returned in any case"),
    neutral("output_kind", "`0`, `2`"),
];

/// `/tokenize`.
pub(crate) fn tokenize(server: &Server, body: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = server.model(&mut fields)?;
    let text = model.text()?;
    let tokenizer = text.renderer.tokenizer();
    let adds_special = fields.boolean("add_special_tokens")?.unwrap_or(true);
    let wants_texts = fields.boolean("return_token_strs")?.unwrap_or(false);
    let tokens = match (fields.text("prompt")?, fields.list("messages")?) {
        (Some(prompt), None) => {
            let found = match adds_special {
                true => tokenizer.encode_prompt(&prompt),
                false => tokenizer.encode(&prompt, SpecialTokens::Parse),
            };
            found.map_err(|error| ApiError::field("prompt", error.to_string()))?
        }
        (None, Some(messages)) => {
            let tools = Tools::read(&mut fields)?;
            let messages = read_messages("messages", messages)?;
            prompt(text, &mut fields, Conversation { messages, tools: tools.described })?
        }
        _ => return Err(ApiError::field("prompt", "expected either `prompt` or `messages`")),
    };
    fields.finish(&[TOKENIZE_FIELDS])?;
    let mut reply =
        json!({"count": tokens.len(), "max_model_len": text.spec.max_position_embeddings, "tokens": tokens});
    if wants_texts {
        reply["token_strs"] = tokens.iter().map(|&token| tokenizer.token_text(token)).collect();
    }
    Ok(reply)
}

/// `/detokenize`.
pub(crate) fn detokenize(server: &Server, body: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = server.model(&mut fields)?;
    let text = model.text()?;
    let tokens = fields.tokens("tokens")?;
    let tokens = fields.required("tokens", tokens, "a list of token ids")?;
    fields.finish(&[DETOKENIZE_FIELDS])?;
    let prompt = text.renderer.tokenizer().decode(&tokens, false);
    let prompt = prompt.map_err(|error| ApiError::field("tokens", error.to_string()))?;
    Ok(json!({"prompt": prompt}))
}

/// A request of `/inference/v1/generate`.
pub(crate) struct TokenJob {
    pub(crate) model: Arc<ModelEntry>,
    pub(crate) job: Job,
    request_id: Option<String>,
    log_probs: Option<usize>,
    /// Whether log-probabilities are those of the distribution that tokens were sampled from.
    is_processed: bool,
    prompt_log_probs: Option<usize>,
    pub(crate) logged: Logged,
}

impl TokenJob {
    /// Reads a request.
    pub(crate) fn read(server: &Server, body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        let model = server.model(&mut fields)?;
        let text = model.text()?;
        let tokens = fields.tokens("token_ids")?;
        let tokens = fields.required("token_ids", tokens, "a list of token ids")?;
        check_prompts("token_ids", std::slice::from_ref(&tokens), text)?;
        let request_id = fields.text("request_id")?;
        fields.neutral("stream", &[json!(false)])?;
        fields.neutral("priority", &[json!(0)])?;
        let params = fields.take("sampling_params").unwrap_or_else(|| Value::Object(Map::new()));
        fields.finish(&[GENERATE_FIELDS])?;
        let mut params = Fields::of_value("sampling_params", params)?;
        let seed = server.random_seed(server.next_request());
        let mut sampling = Sampling::read(&mut params, text, seed)?;
        let max_tokens = params.integer("max_tokens", 1..=i64::MAX)?;
        let asked = max_tokens.map(|n| (n, "sampling_params.max_tokens"));
        sampling.limit_tokens(asked, Some(DEFAULT_MAX_TOKENS), tokens.len(), text).map_err(|error| {
            match error.param.as_deref() {
                Some("messages") => ApiError { param: Some("token_ids".into()), ..error },
                _ => error,
            }
        })?;
        let log_probs = params.integer("logprobs", 0..=MAX_TOP_LOG_PROBS)?.map(|n| n as usize);
        let prompt_log_probs = params.integer("prompt_logprobs", 0..=MAX_TOP_LOG_PROBS)?.map(|n| n as usize);
        let is_processed = read_log_prob_mode(&mut params, log_probs)?;
        let seed_indices = read_seed_indices(&mut params)?;
        params.neutral("detokenize", &[json!(true), json!(false)])?;
        params.neutral("output_kind", &[json!(0), json!(2)])?;
        params.finish(&[SAMPLING_PARAMS_FIELDS, SAMPLING_FIELDS])?;
        let grammar = one_grammar([sampling.grammar.take(), None, None])?;
        let grammar = grammar.map(|(source, param)| text.grammar(&source, &param)).transpose()?;
        let logged = Logged {
            model: Some(model.name.clone()),
            seed: Some(sampling.options.seed),
            ..Logged::default()
        };
        let mut job = job(sampling, tokens, grammar, log_probs.unwrap_or(0));
        if let Some((first_sample_idx, indices)) = seed_indices {
            (job.first_sample_idx, job.seed_indices) = (first_sample_idx, Some(indices));
        }
        Ok(Self { model, job, request_id, log_probs, is_processed, prompt_log_probs, logged })
    }

    /// Waits for every completion and puts the reply together.
    pub(crate) async fn answer(&self, generation: &mut Generation) -> Result<Value, ApiError> {
        let server = Arc::clone(&generation.server);
        let prompt_log_probs = match self.prompt_log_probs {
            None => Value::Null,
            Some(n_top) => {
                let tokenizer = self.model.text()?.renderer.tokenizer();
                let (model, tokens) = (self.model.idx, self.job.prompt.clone());
                let found =
                    server.ask(|reply| Command::PromptLogProbs { model, tokens, n_top, reply }).await?;
                prompt_log_probs_json(tokenizer, &found, n_top)
            }
        };
        let mut tokens: Vec<Vec<TokenEvent>> = vec![Vec::new(); self.job.n_samples];
        let mut choices: Vec<Option<Value>> = vec![None; self.job.n_samples];
        while let Some(next) = generation.next().await? {
            match next {
                Next::Token(token) => tokens[token.sample_idx].push(token),
                Next::Finished { sample_idx, completion } => {
                    if self.is_processed {
                        let values = &completion.sampling_log_probs;
                        tokens[sample_idx]
                            .iter_mut()
                            .zip(values)
                            .for_each(|(one, &value)| one.log_prob = value);
                    }
                    let log_probs = self.log_probs.map(|_| {
                        let content: Vec<Value> = tokens[sample_idx].iter().map(by_id).collect();
                        json!({"content": content})
                    });
                    choices[sample_idx] = Some(json!({
                        "index": sample_idx,
                        "token_ids": completion.tokens,
                        "logprobs": log_probs,
                        "finish_reason": finish_reason(completion.finish_reason),
                    }));
                }
            }
        }
        let id = generation.id();
        Ok(json!({
            "request_id": self.request_id.clone().unwrap_or_else(|| format!("generate-{id:016x}")),
            "choices": choices.into_iter().flatten().collect::<Vec<Value>>(),
            "prompt_logprobs": prompt_log_probs,
            "system_fingerprint": generation.weights.fingerprint(),
        }))
    }
}

/// Whether log-probabilities are those after temperature and cuts (vLLM's `--logprobs-mode`, here by request).
fn read_log_prob_mode(params: &mut Fields, log_probs: Option<usize>) -> Result<bool, ApiError> {
    let Some(mode) = params.text("logprobs_mode")? else { return Ok(false) };
    let path = params.path("logprobs_mode");
    match (mode.as_str(), log_probs) {
        ("raw_logprobs", _) => Ok(false),
        ("processed_logprobs", None | Some(0)) => Ok(true),
        ("processed_logprobs", _) => Err(ApiError::field(
            path,
            "`processed_logprobs` are given of the sampled tokens: `logprobs` has to be 0",
        )),
        _ => Err(ApiError::value(path, &json!(mode), "`raw_logprobs` or `processed_logprobs`")),
    }
}

/// What keys the random numbers of a group: the index of its first completion, and the indices before it.
fn read_seed_indices(params: &mut Fields) -> Result<Option<(u64, Vec<u64>)>, ApiError> {
    let Some(value) = params.take("seed_indices") else { return Ok(None) };
    let mut indices: Vec<u64> =
        value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect()).unwrap_or_default();
    let Some(first_sample_idx) = indices.pop() else {
        return Err(ApiError::value(params.path("seed_indices"), &value, "a list of integers of at least 0"));
    };
    Ok(Some((first_sample_idx, indices)))
}

/// A token's log-probability, named by its id.
fn by_id(event: &TokenEvent) -> Value {
    let one = |token: u32, log_prob: f32| {
        json!({
            "token": format!("token_id:{token}"), "logprob": json_number(log_prob), "bytes": null
        })
    };
    let mut value = one(event.token, event.log_prob);
    let top = event.top_log_probs.iter();
    value["top_logprobs"] = top.map(|&(token, log_prob)| one(token, log_prob)).collect();
    value
}
