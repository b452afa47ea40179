//! The text format of BUTTON (arXiv 2410.12952): tools in the system message, calls and answers in the assistant's
//! text, and one tool turn with the results of all calls of a turn.

use serde_json::{Map, Value, json};
use truing_ask::pas::Language;

/// The text before the list of tools. A sentence of [`PARALLEL`] follows the list.
const INTRODUCTION: [&str; 2] = [
    "You are an assistant with access to tools. Think first. Then either call tools, as a JSON list of names and \
     arguments between <call> and </call>, or give your answer between <final> and </final>. The tools:",
    "你是一个可以使用工具的助手。先思考，然后要么调用工具，即在<call>和</call>之间写出由名称和参数组成的JSON列表，要么在<final>和\
     </final>之间给出回答。工具如下：",
];
const PARALLEL: [[&str; 2]; 2] = [
    ["Call one tool at a time.", "每次只调用一个工具。"],
    [
        "You may call several tools at once where they do not depend on each other.",
        "互不依赖的工具可以同时调用。",
    ],
];

/// Turns in this format, from those with `tool_calls`.
pub(super) fn turns(messages: &[Value], tools: &Value, is_parallel: bool, language: Language) -> Vec<Value> {
    let language = language as usize;
    let bare: Vec<&Value> = tools.as_array().into_iter().flatten().map(|tool| &tool["function"]).collect();
    let system = format!(
        "{}\n<tool>{}</tool>\n{}",
        INTRODUCTION[language],
        json!(bare),
        PARALLEL[usize::from(is_parallel)][language]
    );
    let mut turns = vec![turn("system", system)];
    let mut results: Vec<Value> = Vec::new();
    let mut calls = Vec::new().into_iter();
    for message in messages {
        let content = message["content"].as_str().unwrap_or_default();
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            let call: Value = calls.next().unwrap_or_default();
            let result: Value = serde_json::from_str(content).unwrap_or_else(|_| json!(content));
            results.push(json!({"name": call["name"], "arguments": call["arguments"], "results": result}));
            continue;
        }
        if !results.is_empty() {
            turns.push(turn("tool", json!(std::mem::take(&mut results)).to_string()));
        }
        let text = match message.get("tool_calls").and_then(Value::as_array) {
            Some(written) => {
                let called: Vec<Value> = written.iter().map(|call| call["function"].clone()).collect();
                let text = format!("{content}\n<call>{}</call>", json!(called));
                calls = called.into_iter();
                text.trim_start().to_owned()
            }
            None if role == "assistant" => format!("<final>{content}</final>"),
            None => content.to_owned(),
        };
        turns.push(turn(role, text));
    }
    turns
}

fn turn(role: &str, content: String) -> Value {
    Value::Object(Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_become_texts() {
        let call = |id: &str, city: &str| {
            let function = json!({"name": "find", "arguments": {"city": city}});
            json!({"id": id, "type": "function", "function": function})
        };
        let result = |id: &str, n: u32| {
            let content = json!({"n": n}).to_string();
            json!({"role": "tool", "name": "find", "tool_call_id": id, "content": content})
        };
        let calls = [call("call_1", "Bern"), call("call_2", "Basel")];
        let messages = [
            json!({"role": "user", "content": "Bern and Basel?"}),
            json!({"role": "assistant", "content": "Both.", "tool_calls": calls}),
            result("call_1", 1),
            result("call_2", 2),
            json!({"role": "assistant", "content": "One and two."}),
        ];
        let tools = json!([{"type": "function", "function": {"name": "find", "description": "Finds."}}]);
        let turns = turns(&messages, &tools, true, Language::En);
        let roles: Vec<&str> = turns.iter().map(|turn| turn["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
        let content = |i: usize| turns[i]["content"].as_str().unwrap();
        assert!(content(0).contains("<tool>[{") && content(0).ends_with("do not depend on each other."));
        let calls = content(2).strip_prefix("Both.\n<call>").unwrap().strip_suffix("</call>").unwrap();
        let calls: Value = serde_json::from_str(calls).unwrap();
        assert_eq!(calls[1], json!({"name": "find", "arguments": {"city": "Basel"}}));
        let results: Value = serde_json::from_str(content(3)).unwrap();
        assert_eq!(results[1], json!({"name": "find", "arguments": {"city": "Basel"}, "results": {"n": 2}}));
        assert_eq!(content(4), "<final>One and two.</final>");
    }
}
