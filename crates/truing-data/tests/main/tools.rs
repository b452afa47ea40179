//! Tools and calls as rows have them: padded by tables, or in OpenAI's older shape. Nothing that was not meant is left.

use serde_json::{Value, json};
use truing_data::{OnBadRow, SourceConfig, read_preferences, read_prompts, read_unpaired};
use truing_types::{Conversation, Role, TrainingRow};

use crate::{fixture, read, read_text};

fn conversation(row: &TrainingRow) -> &Conversation {
    match row {
        TrainingRow::Conversation(conversation) => conversation,
        other => panic!("{other:?}"),
    }
}

fn only(row: &Value) -> Conversation {
    let (good, bad) = read_text(row.to_string().as_bytes(), |_| {});
    assert_eq!(bad, []);
    conversation(&good[0]).clone()
}

fn arguments(conversation: &Conversation, message: usize) -> Vec<&Value> {
    let calls = conversation.messages[message].tool_calls.as_ref().unwrap();
    calls.iter().map(|call| &call["function"]["arguments"]).collect()
}

/// Rows as pyarrow writes them: `add` and `tides` have each other's parameters as nulls, and so have calls.
#[test]
fn no_null_of_a_parquet_struct_reaches_a_prompt() {
    let rows = read(&SourceConfig::new(fixture("tool_calls.parquet")));
    let first = conversation(&rows[0]);
    let number = json!({"type": "integer"});
    let add = json!({"type": "function", "function": {"name": "add", "description": "Adds.",
        "parameters": {"type": "object", "properties": {"x": number, "y": number}, "required": ["x", "y"]}}});
    let port = json!({"type": "string", "enum": ["Brest", "Dover"]});
    let tides = json!({"type": "function", "function": {"name": "tides",
        "parameters": {"type": "object", "properties": {"port": port}}}});
    assert_eq!(first.tools, [add, tides]);
    assert_eq!(arguments(first, 1), [&json!({"x": 2, "y": 3}), &json!({"port": "Brest"})]);
    let second = conversation(&rows[1]);
    assert!(second.tools.is_empty());
    assert_eq!(arguments(second, 1), [&json!({"text": "it"})], "a tool that is not described");
    let all = format!("{}{}", serde_json::to_string(first).unwrap(), serde_json::to_string(second).unwrap());
    assert!(!all.contains("null"), "{all}");
}

/// The same rows written back to JSON keep their nulls; what the tool's schema says decides.
#[test]
fn nulls_of_a_table_written_back_to_json_reach_no_prompt_and_a_null_that_is_meant_does() {
    let parameters = json!({"type": "object", "properties":
        {"x": {"type": "integer", "enum": null}, "port": null, "unit": {"type": ["string", "null"], "enum": null}}});
    let row = json!({
        "messages": [
            {"role": "user", "content": "Add 2 and 3", "tool_calls": null, "name": null},
            {"role": "assistant", "content": null, "tool_calls": [{"id": null, "type": "function",
                "function": {"name": "add", "arguments": {"x": 2, "port": null, "unit": null}}}]},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": "5"},
        ],
        "tools": [{"type": "function", "strict": null,
            "function": {"name": "add", "description": null, "parameters": parameters, "strict": null}}],
    });
    let read = only(&row);
    let expected = json!({
        "type": "object", "properties": {"x": {"type": "integer"}, "unit": {"type": ["string", "null"]}}
    });
    assert_eq!(
        read.tools,
        [json!({"type": "function", "function": {"name": "add", "parameters": expected}})]
    );
    assert_eq!(arguments(&read, 1), [&json!({"x": 2, "unit": null})]);
    assert!(read.messages[1].tool_calls.as_ref().unwrap()[0].get("id").is_none());
}

#[test]
fn openai_s_older_names_are_read_in_every_kind_of_row() {
    let call = json!({"name": "tides", "arguments": "{\"port\": \"Brest\"}"});
    let asked = json!([
        {"role": "user", "content": "Tide?"},
        {"role": "assistant", "content": null, "function_call": call},
        {"role": "function", "name": "tides", "content": "high"},
    ]);
    let said = json!({"role": "assistant", "content": "High.", "function_call": null});
    let functions = json!([{"name": "tides", "parameters": {"type": "object", "properties": {}}}]);
    let tool = json!({"type": "function", "function": functions[0]});
    let check = |read: &Conversation| {
        assert_eq!(read.tools, std::slice::from_ref(&tool));
        assert_eq!(arguments(read, 1), [&json!({"port": "Brest"})]);
        assert_eq!((read.messages[2].role, read.messages[2].name.as_deref()), (Role::Tool, Some("tides")));
    };
    let mut messages = asked.as_array().unwrap().clone();
    messages.push(said.clone());
    check(&only(&json!({"messages": messages, "functions": functions})));
    check(&only(&json!({"prompt": asked, "completion": [said], "functions": functions})));

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, row: Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, row.to_string()).unwrap();
        SourceConfig::new(path)
    };
    let prompts = file("prompts.jsonl", json!({"prompt": asked, "functions": functions}));
    check(&read_prompts(&prompts, OnBadRow::Error).unwrap().next().unwrap().unwrap().0.prompt);
    let pair = json!({"prompt": asked, "chosen": [said], "rejected": "Low.", "functions": functions});
    check(
        &read_preferences(&file("pairs.jsonl", pair), OnBadRow::Error)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .0
            .prompt,
    );
    let verdict = json!({"prompt": asked, "completion": [said], "label": true, "functions": functions});
    check(
        &read_unpaired(&file("kto.jsonl", verdict), OnBadRow::Error)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .0
            .prompt,
    );
}

#[test]
fn a_bad_older_call_is_named_and_two_ways_to_call_are_refused() {
    let check = |message: Value, expected: &str| {
        let row = json!({"messages": [{"role": "user", "content": "a"}, message]});
        let (_, bad) = read_text(row.to_string().as_bytes(), |_| {});
        assert_eq!(bad[0].problem.to_string(), expected);
    };
    let call = json!({"name": "tides", "arguments": {}});
    check(
        json!({"role": "assistant", "content": null, "function_call": {"arguments": "{}"}}),
        "`messages[1].function_call.name` is missing; expected a string",
    );
    check(
        json!({"role": "assistant", "content": null, "function_call": call, "tool_calls": [call]}),
        "`messages[1].function_call` is beside `tool_calls`; expected calls in one of both",
    );
}

#[test]
fn reasoning_is_read_under_each_of_its_names() {
    for name in ["reasoning_content", "reasoning", "thinking"] {
        let row = json!({
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", name: "hm"}]
        });
        assert_eq!(only(&row).messages[1].reasoning_content.as_deref(), Some("hm"), "{name}");
    }
    // Other programs keep other things under these names.
    let row = json!({
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning": {"effort": "low"}}
        ]
    });
    assert_eq!(only(&row).messages[1].reasoning_content, None);
}
