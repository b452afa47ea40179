//! The messages of a chat request.

use serde_json::{Map, Value, json};
use truing_types::{Message, Role};

use crate::error::ApiError;
use crate::fields::Fields;

/// Reads OpenAI's messages. Text parts of a content are joined as they are; parts of other kinds are refused.
pub(crate) fn read_messages(path: &str, values: Vec<Value>) -> Result<Vec<Message>, ApiError> {
    if values.is_empty() {
        return Err(ApiError::field(path, format!("`{path}` is empty, expected at least one message")));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(idx, value)| read_message(Fields::of_value(&format!("{path}[{idx}]"), value)?))
        .collect()
}

fn read_message(mut fields: Fields) -> Result<Message, ApiError> {
    const ROLES: &str = "`system`, `developer`, `user`, `assistant` or `tool`";
    let role = fields.text("role")?;
    let role = match fields.required("role", role, ROLES)?.as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => return Err(ApiError::value(fields.path("role"), &json!(other), ROLES)),
    };
    let content = fields.take("content").map(|value| text_of(&fields.path("content"), value)).transpose()?;
    let tool_calls = fields.list("tool_calls")?.filter(|calls| !calls.is_empty());
    if content.is_none() && tool_calls.is_none() {
        let path = fields.path("content");
        return Err(ApiError::field(path.clone(), format!("`{path}` is missing, expected a text")));
    }
    let tool_calls = tool_calls
        .map(|calls| {
            let path = |idx: usize| fields.path(&format!("tool_calls[{idx}]"));
            let calls = calls.into_iter().enumerate();
            calls.map(|(idx, call)| read_call(&path(idx), call)).collect::<Result<Vec<Value>, _>>()
        })
        .transpose()?;
    if tool_calls.is_some() && role != Role::Assistant {
        return Err(ApiError::field(fields.path("tool_calls"), "only an assistant's message has tool calls"));
    }
    let reasoning = match fields.text("reasoning_content")? {
        Some(text) => Some(text),
        None => fields.text("reasoning")?,
    };
    let message = Message {
        name: fields.text("name")?,
        tool_call_id: fields.text("tool_call_id")?,
        tool_calls,
        reasoning_content: reasoning,
        ..Message::new(role, content.unwrap_or_default())
    };
    // What servers put into replies, and clients send back.
    for name in ["refusal", "audio", "function_call", "annotations"] {
        fields.neutral(name, &[])?;
    }
    fields.finish(&[])?;
    Ok(message)
}

/// A content: a text, or a list of text parts.
fn text_of(path: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let mut text = String::new();
            for (idx, part) in parts.into_iter().enumerate() {
                let mut part = Fields::of_value(&format!("{path}[{idx}]"), part)?;
                let kind = part.text("type")?;
                let kind = part.required("type", kind, "`text`")?;
                if !["text", "input_text", "output_text"].contains(&kind.as_str()) {
                    let path = part.path("type");
                    return Err(ApiError::value(path, &json!(kind), "`text`: the model reads nothing else"));
                }
                let piece = part.text("text")?;
                text.push_str(&part.required("text", piece, "a text")?);
                part.finish(&[])?;
            }
            Ok(text)
        }
        value => Err(ApiError::value(path, &value, "a text or a list of text parts")),
    }
}

/// A call as templates read it: its arguments as an object.
fn read_call(path: &str, value: Value) -> Result<Value, ApiError> {
    let mut call = Fields::of_value(path, value)?;
    let id = call.text("id")?;
    let kind = call.text("type")?.unwrap_or_else(|| "function".into());
    if kind != "function" {
        return Err(ApiError::value(call.path("type"), &json!(kind), "`function`"));
    }
    // The place among calls, which clients may copy from a stream.
    call.integer("index", 0..=i64::MAX)?;
    let function = call.take("function");
    let function = call.required("function", function, "an object with `name` and `arguments`")?;
    let mut function = Fields::of_value(&call.path("function"), function)?;
    let name = function.text("name")?;
    let name = function.required("name", name, "a text")?;
    let arguments = match function.take("arguments") {
        None => json!({}),
        Some(Value::Object(arguments)) => Value::Object(arguments),
        Some(Value::String(text)) => match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(arguments)) => Value::Object(arguments),
            _ if text.trim().is_empty() => json!({}),
            _ => {
                let path = function.path("arguments");
                return Err(ApiError::value(path, &Value::String(text), "a JSON object as a text"));
            }
        },
        Some(value) => {
            return Err(ApiError::value(function.path("arguments"), &value, "a JSON object as a text"));
        }
    };
    function.finish(&[])?;
    call.finish(&[])?;
    let mut read = Map::new();
    read.extend(id.map(|id| ("id".to_owned(), Value::from(id))));
    read.insert("type".into(), kind.into());
    read.insert("function".into(), json!({"name": name, "arguments": arguments}));
    Ok(Value::Object(read))
}
