//! How servers are asked for completions of token ids, and what their replies have to hold.

use rand_chacha::rand_core::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_types::{EndpointRequest, SamplingOptions, Seed, TokenId};

/// An endpoint with token ids in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutProtocol {
    /// `/inference/v1/generate` of `truing serve --enable-weight-updates`: the same tokens as in this process.
    #[default]
    Truing,
    /// `/inference/v1/generate` of vLLM.
    Vllm,
    /// `/v1/completions` with token ids as the prompt, of servers that know `return_token_ids` or name tokens
    /// `token_id:N` in `logprobs`.
    Completions,
}

/// What the log-probabilities of a server are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogprobsMode {
    /// Of the model, before temperature and cuts.
    #[default]
    RawLogprobs,
    /// Of the distribution that tokens are sampled from.
    ProcessedLogprobs,
}

/// One request of loading weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SyncCall {
    /// Path below the server's address, which is posted to.
    pub path: String,
    /// The body. In its texts `{path}` is replaced by the folder of the weights, and `{version}` by the step.
    pub body: Map<String, Value>,
}

impl SyncCall {
    /// Whether a text of its body has the folder or the step.
    pub(super) fn says_what_to_load(&self) -> bool {
        let body = Value::Object(self.body.clone()).to_string();
        body.contains("{path}") || body.contains("{version}")
    }
}

/// One completion that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) prompt: &'a [TokenId],
    /// Of the run: phase, step, round, prompt; then the index in the group.
    pub(super) seed_indices: &'a [u64],
    pub(super) options: &'a SamplingOptions,
    /// Tokens that end a completion.
    pub(super) end: &'a [TokenId],
    pub(super) logprobs_mode: LogprobsMode,
}

/// A completion as a server gave it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServerCompletion {
    pub(super) tokens: Vec<TokenId>,
    pub(super) log_probs: Vec<f32>,
    /// Whether it was cut at a limit, and did not end by itself.
    pub(super) is_cut: bool,
    /// What names the weights that sampled it, where the server says it.
    pub(super) weights: Option<String>,
}

/// What names the weights of a server in its replies.
pub(super) fn weights_name(reply: &Value) -> Option<String> {
    let places =
        [&reply["weight_version"], &reply["metadata"]["weight_version"], &reply["system_fingerprint"]];
    places.into_iter().find_map(Value::as_str).map(str::to_owned)
}

/// 0.7 as 0.7, not as the nearest single-precision number in double precision.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

impl RolloutProtocol {
    /// The request for one completion.
    pub(super) fn request(self, model: &str, wanted: Wanted<'_>) -> EndpointRequest {
        let Wanted { prompt, seed_indices, options, end, logprobs_mode } = wanted;
        let mut params = Map::new();
        let mut put = |key: &str, value: Value| params.insert(key.to_owned(), value);
        put("max_tokens", options.max_new_tokens.into());
        // What is left out, vLLM and SGLang take from the model's `generation_config.json`.
        put("temperature", number(options.temperature));
        put("top_p", number(options.top_p));
        put("top_k", if options.top_k == 0 { Value::from(-1) } else { options.top_k.into() });
        put("min_p", number(options.min_p));
        put("repetition_penalty", number(options.repetition_penalty));
        if !options.stop.is_empty() {
            put("stop", options.stop.clone().into());
        }
        put("stop_token_ids", end.into());
        if self != Self::Completions {
            // What ends a completion in this process, and nothing else. SGLang would ignore `stop_token_ids` too.
            put("ignore_eos", true.into());
        }
        if self == Self::Truing {
            // The same bits: a server reads a signed integer.
            put("seed", options.seed.cast_signed().into());
            put("seed_indices", seed_indices.into());
            let mode = match logprobs_mode {
                LogprobsMode::RawLogprobs => "raw_logprobs",
                LogprobsMode::ProcessedLogprobs => "processed_logprobs",
            };
            put("logprobs_mode", mode.into());
        } else {
            let seed = Seed(options.seed).generator("seed of a rollout", seed_indices).next_u64() >> 11;
            put("seed", seed.into());
        }
        let (path, body) = match self {
            Self::Truing | Self::Vllm => {
                put("logprobs", 0.into());
                let body = json!({"model": model, "token_ids": prompt, "sampling_params": params});
                ("/inference/v1/generate", body)
            }
            Self::Completions => {
                put("model", model.into());
                put("prompt", prompt.into());
                put("logprobs", 1.into());
                put("return_token_ids", true.into());
                ("/v1/completions", params.into())
            }
        };
        EndpointRequest { path: path.into(), body, timeout_secs: None }
    }

    /// Reads the one completion of a reply, or says what is wrong with it.
    pub(super) fn read(self, reply: &Value) -> Result<ServerCompletion, String> {
        let choice = &reply["choices"][0];
        if !choice.is_object() {
            return Err(format!("the reply has no `choices`: {}", beginning(reply)));
        }
        let (log_probs, named) = self.log_probs(choice)?;
        let token = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
        let tokens: Option<Vec<TokenId>> = match &choice["token_ids"] {
            Value::Array(ids) => ids.iter().map(token).collect(),
            _ => named.iter().copied().collect(),
        };
        let tokens = tokens.ok_or("the reply has no `token_ids`; the server has to return them")?;
        if tokens.is_empty() {
            return Err("the completion has no tokens".into());
        }
        if log_probs.len() != tokens.len() {
            let (n_tokens, n) = (tokens.len(), log_probs.len());
            return Err(format!("the completion has {n_tokens} tokens, but {n} log-probabilities"));
        }
        let is_other =
            |(token, named): (&TokenId, &Option<TokenId>)| named.is_some_and(|named| named != *token);
        if let Some(idx) = tokens.iter().zip(&named).position(is_other) {
            return Err(format!(
                "token {idx} is {} in `token_ids`, but another one in `logprobs`",
                tokens[idx]
            ));
        }
        let is_cut = match choice["finish_reason"].as_str() {
            Some("length") => true,
            Some("stop") => false,
            Some(other) => return Err(format!("the server ended the completion with `{other}`")),
            None => return Err("the completion has no `finish_reason`".into()),
        };
        Ok(ServerCompletion { tokens, log_probs, is_cut, weights: weights_name(reply) })
    }

    /// The log-probability of each token, and the token's id where it is named.
    fn log_probs(self, choice: &Value) -> Result<(Vec<f32>, Vec<Option<TokenId>>), String> {
        type Entry = (f32, Option<TokenId>);
        let log_probs = &choice["logprobs"];
        let id = |name: &Value| name.as_str()?.strip_prefix("token_id:")?.parse().ok();
        let entries: Option<Vec<(&Value, Option<TokenId>)>> = match self {
            Self::Truing | Self::Vllm => log_probs["content"].as_array().map(|content| {
                content.iter().map(|entry| (&entry["logprob"], id(&entry["token"]))).collect()
            }),
            Self::Completions => log_probs["token_logprobs"].as_array().map(|values| {
                let named = |idx: usize| id(&log_probs["tokens"][idx]);
                values.iter().enumerate().map(|(idx, value)| (value, named(idx))).collect()
            }),
        };
        let entries = entries.ok_or("the reply has no log-probabilities of the tokens")?;
        let read = |(idx, (value, named)): (usize, (&Value, Option<TokenId>))| -> Result<Entry, String> {
            let value = value.as_f64().filter(|value| value.is_finite() && *value <= 1e-3);
            let value = value.ok_or_else(|| format!("token {idx} has no log-probability of at most 0"))?;
            Ok((value as f32, named))
        };
        entries
            .into_iter()
            .enumerate()
            .map(read)
            .collect::<Result<Vec<Entry>, String>>()
            .map(|all| all.into_iter().unzip())
    }

    /// The requests by which servers of this kind load weights.
    pub(super) fn sync_calls(self, model: &str) -> Vec<SyncCall> {
        let call = |path: &str, body: Value| SyncCall {
            path: path.into(),
            body: body.as_object().cloned().unwrap_or_default(),
        };
        match self {
            Self::Truing => {
                vec![call("/update_weights_from_disk", json!({"model": model, "model_path": "{path}"}))]
            }
            Self::Vllm => vec![
                call(
                    "/collective_rpc",
                    json!({"method": "reload_weights", "kwargs": {"weights_path": "{path}"}}),
                ),
                call("/reset_prefix_cache", json!({})),
            ],
            Self::Completions => vec![call("/update_weights_from_disk", json!({"model_path": "{path}"}))],
        }
    }
}

/// How a reply begins, for messages.
fn beginning(reply: &Value) -> String {
    reply.to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated(choice: &Value) -> Value {
        json!({"choices": [choice], "system_fingerprint": "f"})
    }

    fn entry(token: u32, log_prob: Value) -> Value {
        json!({"token": format!("token_id:{token}"), "logprob": log_prob})
    }

    #[test]
    fn tokens_and_log_probs_are_read_in_both_forms() {
        let expected = ServerCompletion {
            tokens: vec![7, 9],
            log_probs: vec![-0.5, -1.0],
            is_cut: true,
            weights: Some("f".into()),
        };
        let content = json!({"content": [entry(7, json!(-0.5)), entry(9, json!(-1))]});
        let reply = generated(&json!({"token_ids": [7, 9], "logprobs": content, "finish_reason": "length"}));
        assert_eq!(RolloutProtocol::Vllm.read(&reply), Ok(expected.clone()));
        let logprobs = json!({"tokens": ["token_id:7", "token_id:9"], "token_logprobs": [-0.5, -1]});
        let reply = generated(&json!({"text": "x", "logprobs": logprobs, "finish_reason": "length"}));
        assert_eq!(RolloutProtocol::Completions.read(&reply), Ok(expected));
        assert_eq!(
            weights_name(&json!({"metadata": {"weight_version": "3"}, "system_fingerprint": "f"})),
            Some("3".into())
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let good = json!({
            "token_ids": [7, 9], "finish_reason": "stop",
            "logprobs": {"content": [entry(7, json!(-0.5)), entry(9, json!(-1))]},
        });
        let with = |key: &str, value: Value| {
            let mut choice = good.clone();
            choice[key] = value;
            generated(&choice)
        };
        for (reply, words) in [
            (json!({"choices": []}), "no `choices`"),
            (with("logprobs", Value::Null), "no log-probabilities"),
            (
                with("logprobs", json!({"content": [entry(7, json!(-0.5))]})),
                "2 tokens, but 1 log-probabilities",
            ),
            (
                with("logprobs", json!({"content": [entry(7, Value::Null), entry(9, json!(-1))]})),
                "token 0 has no",
            ),
            (
                with("logprobs", json!({"content": [entry(7, json!(2)), entry(9, json!(-1))]})),
                "token 0 has no",
            ),
            (with("token_ids", json!([7, 8])), "token 1 is 8 in `token_ids`, but another"),
            (with("token_ids", json!([7, -1])), "no `token_ids`"),
            (with("token_ids", json!([])), "no tokens"),
            (with("finish_reason", json!("abort")), "ended the completion with `abort`"),
            (with("finish_reason", Value::Null), "no `finish_reason`"),
        ] {
            let error = RolloutProtocol::Truing.read(&reply).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_request_says_what_is_sampled_here() {
        let options = SamplingOptions {
            max_new_tokens: 5,
            temperature: 0.7,
            top_k: 3,
            seed: u64::MAX,
            stop: vec!["\n".into()],
            ..SamplingOptions::default()
        };
        let wanted = Wanted {
            prompt: &[1, 2],
            seed_indices: &[0, 4, 0, 9, 1],
            options: &options,
            end: &[257],
            logprobs_mode: LogprobsMode::ProcessedLogprobs,
        };
        let EndpointRequest { path, body, .. } = RolloutProtocol::Truing.request("m", wanted);
        let params = json!({
            "max_tokens": 5, "temperature": 0.7, "top_p": 1.0, "top_k": 3, "min_p": 0.0, "repetition_penalty": 1.0,
            "stop": ["\n"], "ignore_eos": true, "stop_token_ids": [257], "seed": -1,
            "seed_indices": [0, 4, 0, 9, 1], "logprobs": 0, "logprobs_mode": "processed_logprobs",
        });
        assert_eq!(
            (path.as_str(), body),
            ("/inference/v1/generate", json!({"model": "m", "token_ids": [1, 2], "sampling_params": params}))
        );
        let plain = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
        let EndpointRequest { path, body, .. } =
            RolloutProtocol::Completions.request("m", Wanted { options: &plain, ..wanted });
        // Nothing is left to the server's defaults, and an end token ends a completion.
        let of = |names: [&str; 5]| names.map(|name| body[name].clone());
        assert_eq!(
            of(["temperature", "top_p", "top_k", "min_p", "repetition_penalty"]),
            [json!(1.0), json!(1.0), json!(-1), json!(0.0), json!(1.0)]
        );
        assert_eq!((path.as_str(), body.get("ignore_eos")), ("/v1/completions", None));
        assert_eq!(body["stop_token_ids"], json!([257]));
        let other = Wanted { seed_indices: &[0, 4, 0, 9, 2], ..wanted };
        let seed = |wanted| RolloutProtocol::Completions.request("m", wanted).body["seed"].clone();
        assert!(seed(wanted).as_u64().unwrap() < 1 << 53, "{}", seed(wanted));
        assert_ne!(seed(wanted), seed(other));
    }
}
