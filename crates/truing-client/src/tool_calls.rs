//! Calls of tools in a server's answer, whole or in the pieces of a stream, in OpenAI's shape: a list of
//! `{"id", "type": "function", "function": {"name", "arguments"}}` with the arguments as JSON text. The older
//! `function_call` of one message is read as a list of one. Some servers send the arguments as an object.

use serde_json::{Map, Value, json};

/// Adds what a message, or a piece of one, holds of calls. A piece belongs to the call that has its `index`; without
/// one, a piece that brings an id or a name begins a call, and any other continues the last.
pub(crate) fn add(calls: &mut Vec<Value>, message: &Value) {
    match &message["tool_calls"] {
        Value::Array(pieces) => pieces.iter().for_each(|piece| add_piece(calls, piece)),
        piece @ Value::Object(_) => add_piece(calls, piece),
        _ if message["function_call"].is_object() => {
            add_piece(calls, &json!({"index": 0, "function": message["function_call"]}));
        }
        _ => {}
    }
}

fn add_piece(calls: &mut Vec<Value>, piece: &Value) {
    let function = &piece["function"];
    let is_begun = piece["id"].is_string() || function["name"].is_string();
    let idx = match piece["index"].as_u64().and_then(|idx| usize::try_from(idx).ok()) {
        // An index that skips calls would make empty ones.
        Some(idx) => idx.min(calls.len()),
        None if is_begun => calls.len(),
        None => calls.len().saturating_sub(1),
    };
    if idx == calls.len() {
        calls.push(json!({"type": "function", "function": {"name": "", "arguments": ""}}));
    }
    let Some(call) = calls[idx].as_object_mut() else { return };
    if let Some(id) = piece["id"].as_str().filter(|id| !id.is_empty()) {
        call.insert("id".into(), id.into());
    }
    if let Some(kind) = piece["type"].as_str().filter(|kind| !kind.is_empty()) {
        call.insert("type".into(), kind.into());
    }
    if let Some(known) = call.get_mut("function").and_then(Value::as_object_mut) {
        append(known, "name", function["name"].as_str().unwrap_or_default());
        match &function["arguments"] {
            Value::String(text) => append(known, "arguments", text),
            Value::Null => {}
            object => append(known, "arguments", &object.to_string()),
        }
    }
}

fn append(function: &mut Map<String, Value>, key: &str, text: &str) {
    let so_far = function.get(key).and_then(Value::as_str).unwrap_or_default();
    let whole = format!("{so_far}{text}");
    function.insert(key.into(), whole.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(messages: &[Value]) -> Vec<Value> {
        let mut calls = Vec::new();
        messages.iter().for_each(|message| add(&mut calls, message));
        calls
    }

    fn call(id: &str, name: &str, arguments: &str) -> Value {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    #[test]
    fn whole_calls_are_kept_as_they_are() {
        let both = [call("a", "add", r#"{"x":1}"#), call("b", "now", "{}")];
        assert_eq!(calls(&[json!({"tool_calls": both})]), both);
        let without_id = json!({"type": "function", "function": {"name": "add", "arguments": "{\"x\":1}"}});
        let old = json!({"function_call": {"name": "add", "arguments": "{\"x\":1}"}});
        assert_eq!(calls(&[old]), std::slice::from_ref(&without_id));
        let object = json!({"tool_calls": [{"function": {"name": "add", "arguments": {"x": 1}}}]});
        assert_eq!(calls(&[object]), [without_id]);
        assert!(
            calls(&[json!({"tool_calls": []}), json!({"content": "x"}), json!({"tool_calls": null})])
                .is_empty()
        );
    }

    #[test]
    fn pieces_of_a_stream_are_put_together() {
        let expected = [call("a", "add", r#"{"x":1}"#), call("b", "now", "{}")];
        let piece = |idx: Option<usize>, piece: Value| {
            let mut piece = piece;
            if let Some(idx) = idx {
                piece["index"] = idx.into();
            }
            json!({"tool_calls": [piece]})
        };
        for with_index in [true, false] {
            let idx = |idx: usize| with_index.then_some(idx);
            let pieces = [
                piece(
                    idx(0),
                    json!({"id": "a", "type": "function", "function": {"name": "add", "arguments": ""}}),
                ),
                piece(idx(0), json!({"function": {"arguments": "{\"x\""}})),
                piece(idx(0), json!({"function": {"arguments": ":1}"}})),
                piece(idx(1), json!({"id": "b", "function": {"name": "now", "arguments": "{}"}})),
            ];
            assert_eq!(calls(&pieces), expected, "{with_index}");
        }
        // Pieces of two calls may be mixed where they have an index.
        let mixed = [
            piece(Some(0), json!({"id": "a", "function": {"name": "add"}})),
            piece(Some(1), json!({"id": "b", "function": {"name": "now"}})),
            piece(Some(0), json!({"function": {"arguments": "{\"x\":1}"}})),
            piece(Some(1), json!({"function": {"arguments": "{}"}})),
        ];
        assert_eq!(calls(&mixed), expected);
    }
}
