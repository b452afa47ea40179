//! `/v1/embeddings`, `/v1/score` and `/v1/rerank`: one number, or one vector, for each text.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use truing_types::{Conversation, Message, Role};

use crate::error::ApiError;
use crate::fields::{FieldInfo, Fields, honoured, neutral, refused};
use crate::generation::json_number;
use crate::messages::read_messages;
use crate::model::{ModelEntry, ModelKind};
use crate::state::{Logged, Server};
use crate::usage::Usage;
use crate::worker::{Command, Embedded};

/// Texts of a request at most.
const MAX_TEXTS: usize = 4096;
/// Texts that the worker computes at a time, so that completions beside them do not wait long.
const TEXTS_AT_A_TIME: usize = 16;

/// Fields of `/v1/embeddings`.
pub(crate) const EMBEDDING_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("input", "a text, or a list of texts"),
    honoured("encoding_format", "`float`, `base64`"),
    honoured("user", "written to the access log"),
    neutral("dimensions", "the model's own width"),
    refused("truncate_prompt_tokens", "a text that is too long loses its end, as the model was made"),
];

/// Fields of `/v1/score`.
pub(crate) const SCORE_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("text_1", "a prompt, or one for each response"),
    honoured("text_2", "the response, or a list of responses"),
    honoured("messages", "instead of both: a conversation that ends with the response, or a list of such"),
    honoured("user", "written to the access log"),
];

/// Fields of `/v1/rerank`.
pub(crate) const RERANK_FIELDS: &[FieldInfo] = &[
    honoured("model", "may be left out where one model is served"),
    honoured("query", "the prompt"),
    honoured("documents", "the responses"),
    honoured("top_n", "default: all"),
    honoured("return_documents", "default true"),
    honoured("user", "written to the access log"),
];

/// `/v1/embeddings`.
pub(crate) async fn embeddings(server: &Server, body: &[u8], logged: &mut Logged) -> Result<Value, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = server.model(&mut fields)?;
    logged.model = Some(model.name.clone());
    if !matches!(model.kind, ModelKind::Embed) {
        return Err(model.cannot("make vectors"));
    }
    let is_of_tokens =
        |value: &Value| value.as_array().is_some_and(|list| list.iter().any(|one| !one.is_string()));
    if fields.peek("input").is_some_and(is_of_tokens) {
        let message =
            "`input` holds token ids, expected texts (in LangChain set `check_embedding_ctx_length=False`)";
        return Err(ApiError::field("input", message));
    }
    let texts = fields.texts("input")?;
    let texts = fields.required("input", texts, "a text or a list of texts")?;
    check_number("input", &texts)?;
    if texts.iter().any(String::is_empty) {
        return Err(ApiError::field("input", "`input` holds an empty text"));
    }
    let format = fields.text("encoding_format")?.unwrap_or_else(|| "float".into());
    if !["float", "base64"].contains(&format.as_str()) {
        return Err(ApiError::value("encoding_format", &json!(format), "`float` or `base64`"));
    }
    logged.user = fields.text("user")?;
    let dimensions = fields.integer("dimensions", 1..=i64::MAX)?;
    fields.finish(&[EMBEDDING_FIELDS])?;
    let mut data = Vec::with_capacity(texts.len());
    let mut usage = Usage::default();
    for part in texts.chunks(TEXTS_AT_A_TIME) {
        let (idx, texts) = (model.idx, part.to_vec());
        let Embedded { vectors, width, n_tokens } =
            server.ask(|reply| Command::Embed { model: idx, texts, reply }).await?;
        if dimensions.is_some_and(|n| n as usize != width) {
            return Err(ApiError::value(
                "dimensions",
                &json!(dimensions),
                &format!("{width}, the model's width"),
            ));
        }
        usage.prompt_tokens += n_tokens as usize;
        for vector in vectors.chunks_exact(width) {
            let embedding = match format.as_str() {
                "base64" => Value::from(base64(vector)),
                _ => vector.iter().map(|&number| json_number(number)).collect(),
            };
            data.push(json!({"object": "embedding", "index": data.len(), "embedding": embedding}));
        }
    }
    logged.usage = usage.clone();
    Ok(json!({
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
    }))
}

fn check_number(param: &str, texts: &[String]) -> Result<(), ApiError> {
    match texts.len() {
        0 => Err(ApiError::field(param, format!("`{param}` is empty"))),
        n if n > MAX_TEXTS => {
            let message = format!("`{param}` holds {n} texts, expected at most {MAX_TEXTS}");
            Err(ApiError::field(param, message))
        }
        _ => Ok(()),
    }
}

/// Little-endian numbers of single precision in base 64 (RFC 4648), as OpenAI's clients ask for them.
fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// Rewards of responses, in their order.
async fn rewards(
    server: &Server,
    model: &ModelEntry,
    asked: Vec<(Conversation, Vec<Message>)>,
    param: &str,
) -> Result<Vec<f64>, ApiError> {
    let mut found = Vec::with_capacity(asked.len());
    for part in asked.chunks(TEXTS_AT_A_TIME) {
        let (idx, asked) = (model.idx, part.to_vec());
        for result in server.ask(|reply| Command::Score { model: idx, asked, reply }).await? {
            let at = found.len();
            found.push(result.map_err(|error| ApiError::field(param, format!("response {at}: {error}")))?);
        }
    }
    Ok(found)
}

fn pair(prompt: &str, response: &str) -> (Conversation, Vec<Message>) {
    let prompt = Conversation { messages: vec![Message::new(Role::User, prompt)], tools: Vec::new() };
    (prompt, vec![Message::new(Role::Assistant, response)])
}

/// A conversation, cut before its response.
fn split_conversation(
    path: &str,
    mut messages: Vec<Message>,
) -> Result<(Conversation, Vec<Message>), ApiError> {
    let is_reply = messages.last().is_some_and(|message| message.role == Role::Assistant);
    if messages.len() < 2 || !is_reply {
        let message =
            format!("`{path}` must end with a response of the assistant, after at least one message");
        return Err(ApiError::field(path, message));
    }
    let response = messages.split_off(messages.len() - 1);
    Ok((Conversation { messages, tools: Vec::new() }, response))
}

/// The model of a request, which has to score responses.
fn scoring_model(
    server: &Server,
    fields: &mut Fields,
    logged: &mut Logged,
) -> Result<Arc<ModelEntry>, ApiError> {
    let model = server.model(fields)?;
    logged.model = Some(model.name.clone());
    if !matches!(model.kind, ModelKind::Score) {
        return Err(model.cannot("score responses"));
    }
    logged.user = fields.text("user")?;
    Ok(model)
}

/// `/v1/score`: rewards of responses.
pub(crate) async fn score(server: &Server, body: &[u8], logged: &mut Logged) -> Result<Value, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = scoring_model(server, &mut fields, logged)?;
    let (asked, param) = match fields.list("messages")? {
        Some(values) => (conversations(values)?, "messages"),
        None => {
            let prompts = fields.texts("text_1")?;
            let prompts = fields.required("text_1", prompts, "a text or a list of texts")?;
            let responses = fields.texts("text_2")?;
            let responses = fields.required("text_2", responses, "a text or a list of texts")?;
            check_number("text_2", &responses)?;
            if prompts.len() != 1 && prompts.len() != responses.len() {
                let message = format!(
                    "`text_1` holds {} texts and `text_2` {}, expected one prompt, or one for each response",
                    prompts.len(),
                    responses.len()
                );
                return Err(ApiError::field("text_1", message));
            }
            let prompts = prompts.iter().cycle();
            (prompts.zip(&responses).map(|(prompt, response)| pair(prompt, response)).collect(), "text_2")
        }
    };
    fields.finish(&[SCORE_FIELDS])?;
    let scores = rewards(server, &model, asked, param).await?;
    let data = scores.iter().enumerate();
    let data: Vec<Value> =
        data.map(|(index, score)| json!({"index": index, "object": "score", "score": score})).collect();
    Ok(json!({
        "id": format!("score-{:016x}", server.next_request()),
        "object": "list",
        "created": server.unix_secs(),
        "model": model.name,
        "system_fingerprint": &*model.fingerprint(),
        "data": data,
    }))
}

/// One conversation, or a list of them.
fn conversations(values: Vec<Value>) -> Result<Vec<(Conversation, Vec<Message>)>, ApiError> {
    if values.first().is_some_and(Value::is_array) {
        if values.len() > MAX_TEXTS {
            let message = format!("`messages` holds more than {MAX_TEXTS} conversations");
            return Err(ApiError::field("messages", message));
        }
        let one = |(idx, value): (usize, Value)| {
            let path = format!("messages[{idx}]");
            match value {
                Value::Array(messages) => split_conversation(&path, read_messages(&path, messages)?),
                value => Err(ApiError::value(path, &value, "a list of messages")),
            }
        };
        return values.into_iter().enumerate().map(one).collect();
    }
    Ok(vec![split_conversation("messages", read_messages("messages", values)?)?])
}

/// `/v1/rerank`: responses by falling reward.
pub(crate) async fn rerank(server: &Server, body: &[u8], logged: &mut Logged) -> Result<Value, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let model = scoring_model(server, &mut fields, logged)?;
    let query = fields.text("query")?;
    let query = fields.required("query", query, "a text")?;
    let documents = fields.texts("documents")?;
    let documents = fields.required("documents", documents, "a list of texts")?;
    check_number("documents", &documents)?;
    let top_n = fields.integer("top_n", 1..=i64::MAX)?.map_or(documents.len(), |n| n as usize);
    let returns_documents = fields.boolean("return_documents")?.unwrap_or(true);
    fields.finish(&[RERANK_FIELDS])?;
    let asked = documents.iter().map(|document| pair(&query, document)).collect();
    let scores = rewards(server, &model, asked, "documents").await?;
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let result = |&idx: &usize| {
        let mut result = json!({"index": idx, "relevance_score": scores[idx]});
        if returns_documents {
            result["document"] = json!({"text": documents[idx]});
        }
        result
    };
    let results: Vec<Value> = order.iter().take(top_n).map(result).collect();
    Ok(json!({
        "id": format!("rerank-{:016x}", server.next_request()),
        "model": model.name,
        "system_fingerprint": &*model.fingerprint(),
        "results": results,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_base_64() {
        assert_eq!(base64(&[1.0, -2.5, 0.0]), "AACAPwAAIMAAAAAA");
    }
}
