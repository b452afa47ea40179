//! Placeholder rows for an output that a stage left empty: a model with random weights passes no filter, and a stage
//! that trains on its output cannot be tried on nothing. They are made of the rows that the stage has read.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde_json::{Map, Value, json};
use toml::Table;

type Row = Map<String, Value>;

/// Rows that are made.
const N_ROWS: usize = 12;
/// Columns with the prompt of a row.
const PROMPT_COLUMNS: [&str; 5] = ["prompt", "messages", "conversations", "system", "responses"];
const RESPONSE: &str = "This is a placeholder for a response of the real model. It has two sentences.";
const WORSE_RESPONSE: &str = "This is a worse one.";

/// Rows for an output of a kind of stage that is called by a name; `None` where none can be made.
pub(super) fn made(kind: &str, output: &str, recipe: &Table) -> Option<Vec<Row>> {
    let read = read_rows(recipe);
    let rows = (0..N_ROWS).map(|idx| {
        let row = read.get(idx % read.len().max(1)).cloned().unwrap_or_default();
        (prompt_of(&row, idx / read.len().max(1)), row)
    });
    let make: fn(&[Value], &Row) -> Row = match (kind, output) {
        ("respond", "responses") | ("build", "rows") => conversation,
        ("pas", "pairs") => complemented,
        ("prefer", "pairs" | "minimal_pairs") => preference,
        ("respond" | "build", "prompts") | ("select", "selected") => prompt_row,
        _ => return None,
    };
    Some(rows.map(|(prompt, row)| make(&prompt, &row)).collect())
}

/// The first rows of the first JSON Lines file that a recipe reads.
fn read_rows(recipe: &Table) -> Vec<Row> {
    let data_dir = recipe.get("data_dir").and_then(toml::Value::as_str).unwrap_or_default();
    let sources = recipe.get("data").and_then(toml::Value::as_array).into_iter().flatten();
    let paths = sources.filter_map(|source| source.get("path")?.as_str());
    let file = paths
        .map(|path| Path::new(data_dir).join(path))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .find_map(|path| File::open(path).ok());
    let lines = file.map(BufReader::new).into_iter().flat_map(|file| file.lines().map_while(Result::ok));
    lines.filter_map(|line| serde_json::from_str(&line).ok()).take(N_ROWS).collect()
}

/// The turns of a row's prompt. Rows that are used again get other words, so that they are not duplicates.
fn prompt_of(row: &Row, round: usize) -> Vec<Value> {
    let mut turns = match (row.get("prompt"), row.get("messages")) {
        (Some(Value::Array(turns)), _) => turns.clone(),
        (Some(Value::String(text)), _) => vec![json!({ "role": "user", "content": text })],
        (_, Some(Value::Array(turns))) => turns.clone(),
        _ => {
            let text = ["question", "instruction", "text"].iter().find_map(|key| row.get(*key)?.as_str());
            vec![json!({ "role": "user", "content": text.unwrap_or("Describe the place where you live.") })]
        }
    };
    while turns.last().is_some_and(|turn| turn["role"] == "assistant") {
        turns.pop();
    }
    if turns.is_empty() {
        turns.push(json!({ "role": "user", "content": "Describe the place where you live." }));
    }
    if round > 0
        && let Some(last) = turns.last_mut()
        && let Some(text) = last["content"].as_str()
    {
        let changed = format!("{text} This is variant {round}.");
        last["content"] = changed.into();
    }
    turns
}

/// The columns of a row beside its prompt.
fn columns_of(row: &Row) -> Row {
    let is_kept = |key: &String| !PROMPT_COLUMNS.contains(&key.as_str());
    row.iter().filter(|(key, _)| is_kept(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn conversation(prompt: &[Value], row: &Row) -> Row {
    let mut made = columns_of(row);
    let answer = json!({ "role": "assistant", "content": RESPONSE });
    made.insert("messages".into(), prompt.iter().cloned().chain([answer]).collect());
    made
}

fn complemented(prompt: &[Value], row: &Row) -> Row {
    let mut made = conversation(prompt, row);
    let text = prompt.last().map(|turn| turn["content"].clone()).unwrap_or_default();
    made.insert("prompt".into(), text);
    made.insert("complement".into(), "Answer in full sentences and say why.".into());
    made
}

fn preference(prompt: &[Value], row: &Row) -> Row {
    let mut made = columns_of(row);
    let answer = |text: &str| json!([{ "role": "assistant", "content": text }]);
    made.insert("prompt".into(), prompt.to_vec().into());
    made.insert("chosen".into(), answer(RESPONSE));
    made.insert("rejected".into(), answer(WORSE_RESPONSE));
    made
}

fn prompt_row(prompt: &[Value], row: &Row) -> Row {
    let mut made = columns_of(row);
    made.insert("prompt".into(), prompt.to_vec().into());
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(folder: &Path, rows: &[Value]) -> Table {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(folder.join("rows.jsonl"), text).unwrap();
        let mut recipe: Table = toml::from_str("[[data]]\npath = \"rows.jsonl\"\n").unwrap();
        recipe.insert("data_dir".into(), folder.to_string_lossy().into_owned().into());
        recipe
    }

    #[test]
    fn rows_keep_the_prompts_and_columns_of_those_that_were_read() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [
            json!({ "prompt": "Add 1 and 2.", "answer": "3" }),
            json!({ "messages": [{ "role": "user", "content": "Sing." }, { "role": "assistant", "content": "la" }] }),
        ];
        let recipe = recipe(folder.path(), &rows);
        let responses = made("respond", "responses", &recipe).unwrap();
        assert_eq!(responses.len(), N_ROWS);
        assert_eq!(responses[0]["answer"], "3");
        assert_eq!(responses[0]["messages"][0], json!({ "role": "user", "content": "Add 1 and 2." }));
        assert_eq!(responses[1]["messages"][1]["content"], RESPONSE, "the row's own answer is replaced");
        assert_eq!(responses[2]["messages"][0]["content"], "Add 1 and 2. This is variant 1.");
        let pairs = made("prefer", "pairs", &recipe).unwrap();
        assert_eq!(pairs[0]["prompt"][0]["role"], "user");
        assert_ne!(pairs[0]["chosen"], pairs[0]["rejected"]);
        let prompts = made("respond", "prompts", &recipe).unwrap();
        assert!(prompts[0].get("messages").is_none() && prompts[0]["answer"] == "3");
        assert!(made("label", "review", &recipe).is_none());
    }

    #[test]
    fn without_rows_there_is_still_a_prompt() {
        let made = made("build", "rows", &Table::new()).unwrap();
        assert_eq!(made.len(), N_ROWS);
        assert_ne!(made[0]["messages"][0], made[1]["messages"][0]);
    }
}
