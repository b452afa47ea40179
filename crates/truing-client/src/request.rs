//! What is sent, and the canonical form under which a reply is kept.

use serde_json::{Map, Value, json};
use truing_types::{ChatRequest, Conversation, Message, SamplingOptions, TokenId};

use crate::ClientSettings;

/// Bytes of a token, for estimates. English takes about four; a low guess only waits too little, which the server's
/// own count corrects.
const BYTES_PER_TOKEN: usize = 4;

/// The body of a request to a server.
pub(crate) fn body(settings: &ClientSettings, request: &ChatRequest, is_streamed: bool) -> String {
    let sampling = &request.sampling;
    let default = SamplingOptions::default();
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("model", settings.model.clone().into());
    put("messages", messages(&request.conversation));
    if !request.conversation.tools.is_empty() {
        put("tools", request.conversation.tools.clone().into());
    }
    put("temperature", number(sampling.temperature));
    put(settings.token_limit_field.name(), sampling.max_new_tokens.into());
    // Standard servers refuse fields they do not know, so only what was asked for is sent: rather refused than
    // quietly sampled in another way.
    if sampling.top_p != default.top_p {
        put("top_p", number(sampling.top_p));
    }
    if sampling.top_k != default.top_k {
        put("top_k", sampling.top_k.into());
    }
    if sampling.min_p != default.min_p {
        put("min_p", number(sampling.min_p));
    }
    if sampling.repetition_penalty != default.repetition_penalty {
        put("repetition_penalty", number(sampling.repetition_penalty));
    }
    if sampling.presence_penalty != default.presence_penalty {
        put("presence_penalty", number(sampling.presence_penalty));
    }
    if sampling.frequency_penalty != default.frequency_penalty {
        put("frequency_penalty", number(sampling.frequency_penalty));
    }
    if !sampling.logit_bias.is_empty() {
        put("logit_bias", biases(sampling));
    }
    if settings.send_seed {
        put("seed", sampling.seed.into());
    }
    if !sampling.stop.is_empty() {
        put("stop", sampling.stop.clone().into());
    }
    if is_streamed {
        put("stream", true.into());
    }
    body.extend(settings.extra.clone());
    Value::Object(body).to_string()
}

/// The body of a request for the k most likely tokens at each place of a prompt: vLLM's `prompt_logprobs`. One token is
/// generated, because servers refuse none.
pub(crate) fn prompt_log_probs_body(settings: &ClientSettings, prompt: &[TokenId], k: usize) -> String {
    let mut body = Map::new();
    body.insert("model".into(), settings.model.clone().into());
    body.insert("prompt".into(), prompt.into());
    body.insert("max_tokens".into(), 1.into());
    body.insert("prompt_logprobs".into(), k.into());
    body.extend(settings.extra.clone());
    Value::Object(body).to_string()
}

/// The conversation as every server reads it. Loss weights and earlier reasoning stay here.
fn messages(conversation: &Conversation) -> Value {
    let message = |message: &Message| {
        let mut fields = Map::new();
        fields.insert("role".into(), message.role.as_str().into());
        fields.insert("content".into(), content(message));
        let optional = [
            ("name", message.name.clone().map(Value::from)),
            ("tool_calls", message.tool_calls.clone().map(Value::from)),
            ("tool_call_id", message.tool_call_id.clone().map(Value::from)),
        ];
        for (key, value) in optional {
            fields.extend(value.map(|value| (key.to_owned(), value)));
        }
        Value::Object(fields)
    };
    conversation.messages.iter().map(message).collect()
}

/// The text, or a list of the text and the parts where there are any.
fn content(message: &Message) -> Value {
    if message.parts.is_empty() {
        return message.content.clone().into();
    }
    let mut content = Vec::with_capacity(1 + message.parts.len());
    if !message.content.is_empty() {
        content.push(json!({"type": "text", "text": message.content}));
    }
    content.extend(message.parts.iter().cloned());
    content.into()
}

/// 0.7 as 0.7, not as the nearest single-precision number in double precision.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// `logit_bias` as servers read it.
fn biases(sampling: &SamplingOptions) -> Value {
    sampling.logit_bias.iter().map(|(token, &bias)| (token.to_string(), number(bias))).collect()
}

/// Tokens of prompt and reply, estimated before the server has counted. Parts that are not text do not count: their
/// bytes say nothing about their tokens.
pub(crate) fn estimated_tokens(request: &ChatRequest) -> u64 {
    let bytes: usize = request.conversation.messages.iter().map(|message| message.content.len() + 16).sum();
    (bytes.div_ceil(BYTES_PER_TOKEN) + request.sampling.max_new_tokens) as u64
}

/// Who answers, as far as it decides what is answered: the model's name, or the digest of its files, and the fields
/// that every request of it has. Neither address nor key: the same model elsewhere gives the same replies.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// The model.
    pub model: String,
    /// Further fields of every request.
    pub extra: Map<String, Value>,
}

/// The canonical form of a request: JSON without spaces, keys sorted, every sampling option. The seed is part of it
/// and thereby the sample's index: asked again with another seed, it is another request.
#[must_use]
pub fn canonical_request(model: &Fingerprint, request: &ChatRequest) -> String {
    let sampling = &request.sampling;
    let mut whole = json!({
        "model": model.model,
        "extra": model.extra,
        "messages": messages(&request.conversation),
        "tools": request.conversation.tools,
        "sampling": {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": number(sampling.temperature),
            "top_k": sampling.top_k,
            "top_p": number(sampling.top_p),
            "min_p": number(sampling.min_p),
            "repetition_penalty": number(sampling.repetition_penalty),
            "seed": sampling.seed,
            "stop": sampling.stop,
        },
    });
    // Only where they are used, so that requests without them keep their form.
    if sampling.presence_penalty != 0.0 {
        whole["sampling"]["presence_penalty"] = number(sampling.presence_penalty);
    }
    if sampling.frequency_penalty != 0.0 {
        whole["sampling"]["frequency_penalty"] = number(sampling.frequency_penalty);
    }
    if !sampling.logit_bias.is_empty() {
        whole["sampling"]["logit_bias"] = biases(sampling);
    }
    sorted(whole).to_string()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|left, right| left.0.cmp(&right.0));
            fields.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::Role;

    fn request() -> ChatRequest {
        let conversation =
            Conversation { messages: vec![Message::new(Role::User, "2 + 2?")], tools: Vec::new() };
        let sampling = SamplingOptions { max_new_tokens: 9, temperature: 0.7, ..SamplingOptions::default() };
        ChatRequest { conversation, sampling }
    }

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let settings = ClientSettings { model: "m".into(), ..ClientSettings::default() };
        let plain = body(&settings, &request(), false);
        let expected = concat!(
            r#"{"model":"m","messages":[{"role":"user","content":"2 + 2?"}],"temperature":0.7,"#,
            r#""max_tokens":9,"seed":0}"#,
        );
        assert_eq!(plain, expected);
        let mut asked = request();
        asked.sampling =
            SamplingOptions { top_p: 0.9, top_k: 5, seed: 3, stop: vec!["\n".into()], ..asked.sampling };
        let extra = json!({"response_format": {"type": "json_object"}});
        let settings = ClientSettings {
            send_seed: false,
            token_limit_field: crate::TokenLimitField::MaxCompletionTokens,
            extra: extra.as_object().cloned().unwrap_or_default(),
            ..settings
        };
        let sent: Value = serde_json::from_str(&body(&settings, &asked, true)).unwrap();
        let expected = json!({
            "model": "m", "messages": [{"role": "user", "content": "2 + 2?"}], "temperature": 0.7,
            "max_completion_tokens": 9, "top_p": 0.9, "top_k": 5, "stop": ["\n"], "stream": true,
            "response_format": {"type": "json_object"},
        });
        assert_eq!(sent, expected);
    }

    #[test]
    fn parts_are_sent_as_they_are_after_the_text() {
        let settings = ClientSettings { model: "m".into(), ..ClientSettings::default() };
        let image = json!({"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}});
        let audio = json!({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}});
        let mut asked = request();
        asked.conversation.messages[0].parts = vec![image.clone(), audio.clone()];
        asked.conversation.messages.push(Message::new(Role::Assistant, "4"));
        let no_text = Message { parts: vec![audio.clone()], ..Message::new(Role::User, "") };
        asked.conversation.messages.push(no_text);
        let sent: Value = serde_json::from_str(&body(&settings, &asked, false)).unwrap();
        let expected = json!([
            {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}, image, audio]},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": [audio]},
        ]);
        assert_eq!(sent["messages"], expected);
    }

    #[test]
    fn the_canonical_form_knows_no_order_of_keys_and_every_difference_that_counts() {
        let model = |extra: Value| Fingerprint {
            model: "m".into(),
            extra: extra.as_object().cloned().unwrap_or_default(),
        };
        let one = canonical_request(&model(json!({"a": {"x": 1, "b": 2}, "c": 3})), &request());
        let other = canonical_request(&model(json!({"c": 3, "a": {"b": 2, "x": 1}})), &request());
        assert_eq!(one, other);
        let plain = canonical_request(&model(json!({})), &request());
        // Replies that are kept are found by this form, so it stays.
        assert!(plain.contains(r#""messages":[{"content":"2 + 2?","role":"user"}]"#), "{plain}");
        let mut changed = vec![request(); 8];
        changed[0].sampling.seed = 1;
        changed[1].sampling.temperature = 0.0;
        changed[2].conversation.messages[0].content.push(' ');
        changed[3].conversation.tools.push(json!({}));
        changed[4].sampling.presence_penalty = 0.5;
        changed[5].sampling.frequency_penalty = 0.5;
        changed[6].sampling.logit_bias.insert(7, 1.0);
        let image = json!({"type": "image_url", "image_url": {"url": "a"}});
        changed[7].conversation.messages[0].parts.push(image);
        for request in &changed {
            assert_ne!(canonical_request(&model(json!({})), request), plain);
        }
        let mut other_image = changed[7].clone();
        other_image.conversation.messages[0].parts[0]["image_url"]["url"] = "b".into();
        let with_image = canonical_request(&model(json!({})), &changed[7]);
        assert_ne!(canonical_request(&model(json!({})), &other_image), with_image);
        let mut weighted = request();
        weighted.conversation.messages[0].weight = Some(1.0);
        assert_eq!(canonical_request(&model(json!({})), &weighted), plain);
    }
}
