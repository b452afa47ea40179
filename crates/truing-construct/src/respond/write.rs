//! The rows that a run writes.

use serde_json::{Map, Value, json};
use truing_run::PromptSource;
use truing_types::{Message, Role};

use super::candidate::{Candidate, Fate, PromptWork};
use super::plan::SourcePrompt;

/// Columns that a prompt may be made of. It is written as `prompt`, a list of turns, in their place, so that every
/// reader finds the prompt that was sampled.
const PROMPT_COLUMNS: [&str; 4] = ["prompt", "messages", "conversations", "system"];

/// A row of `candidates.jsonl`: the row's own columns, the prompt, and all responses to it.
pub(super) fn candidates_row(prompt: &SourcePrompt, work: &PromptWork) -> Value {
    let mut row = Map::from_iter([("id".to_owned(), id(prompt))]);
    row.extend(own_columns(prompt));
    row.insert("id".into(), id(prompt));
    row.insert("responses".into(), json!(work.candidates));
    row.insert("fate".into(), json!(work.fate));
    for of_run in ["is_partial", "repeats", "pass_rate"] {
        row.remove(of_run);
    }
    if work.is_partial() {
        row.insert("is_partial".into(), true.into());
    }
    row.extend(prompt.repeats.as_ref().map(|first| ("repeats".to_owned(), json!(PromptSource::of(first)))));
    row.extend(work.pass_rate.map(|rate| ("pass_rate".to_owned(), rate.into())));
    row.insert("source".into(), json!(PromptSource::of(&prompt.origin)));
    row.into()
}

/// The rows of `responses.jsonl` of one prompt: conversations whose last turn is an accepted response.
pub(super) fn response_rows<'a>(
    prompt: &'a SourcePrompt,
    work: &'a PromptWork,
) -> impl Iterator<Item = Value> + 'a {
    let accepted = work.candidates.iter().filter(|candidate| candidate.fate == Fate::Accepted);
    accepted.map(move |candidate| response_row(prompt, candidate))
}

fn response_row(prompt: &SourcePrompt, candidate: &Candidate) -> Value {
    let mut messages = prompt.row.prompt.messages.clone();
    // What is learnt is the response, not what the assistant said before it.
    for turn in messages.iter_mut().filter(|turn| turn.role == Role::Assistant) {
        turn.weight = Some(0.0);
    }
    messages.push(Message {
        reasoning_content: candidate.reasoning.clone(),
        ..Message::new(Role::Assistant, candidate.content.clone())
    });
    let mut row = Map::from_iter([("messages".to_owned(), json!(messages))]);
    if !prompt.row.prompt.tools.is_empty() {
        row.insert("tools".into(), json!(prompt.row.prompt.tools));
    }
    row.insert("id".into(), id(prompt));
    row.extend(candidate.score.map(|score| ("score".to_owned(), score.into())));
    row.insert("model".into(), candidate.model.clone().into());
    row.insert("decoding".into(), candidate.decoding.clone().into());
    if candidate.is_refusal {
        row.insert("is_refusal".into(), true.into());
    }
    row.insert("source".into(), json!(PromptSource::of(&prompt.origin)));
    row.into()
}

/// A row of `prompts.jsonl`: the row's own columns with the pass rate, and where the row is (`origin`).
pub(super) fn prompt_row(prompt: &SourcePrompt, work: &PromptWork) -> Value {
    let mut row = own_columns(prompt);
    row.insert("pass_rate".into(), json!(work.pass_rate));
    row.insert("n_scored".into(), work.scores().count().into());
    row.insert("origin".into(), json!(PromptSource::of(&prompt.origin)));
    row.into()
}

/// The prompt as turns, then the other columns of its row.
fn own_columns(prompt: &SourcePrompt) -> Map<String, Value> {
    let mut row = Map::from_iter([("prompt".to_owned(), json!(prompt.row.prompt.messages))]);
    let others = prompt.row.columns.iter().filter(|(name, _)| !PROMPT_COLUMNS.contains(&name.as_str()));
    row.extend(others.map(|(name, value)| (name.clone(), value.clone())));
    row
}

/// The row's own `id`, or its file and line.
fn id(prompt: &SourcePrompt) -> Value {
    let own = prompt.row.columns.get("id").filter(|id| id.is_string() || id.is_number());
    own.cloned().unwrap_or_else(|| prompt.origin.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::candidate::{PromptFate, usable};
    use truing_types::{Conversation, PromptRow, RowOrigin};

    fn prompt(columns: Value) -> SourcePrompt {
        let Value::Object(columns) = columns else { panic!("an object") };
        let turns = [(Role::User, "Hi"), (Role::Assistant, "Hello."), (Role::User, "Bye")];
        let messages = turns.into_iter().map(|(role, text)| Message::new(role, text)).collect();
        let row = PromptRow { prompt: Conversation { messages, tools: Vec::new() }, columns };
        SourcePrompt { row, origin: RowOrigin { source: "a.jsonl".into(), line: 3 }, repeats: None }
    }

    #[test]
    fn a_row_keeps_its_columns_but_those_that_the_run_writes() {
        let given =
            json!({"messages": [], "system": "s", "answer": "4", "fate": "old", "pass_rate": 0.1, "id": 7});
        let mut work = PromptWork::new(vec![usable("So long.", Some(0.5)), usable("?", None)]);
        (work.fate, work.candidates[0].fate) = (PromptFate::Accepted, Fate::Accepted);
        let row = candidates_row(&prompt(given.clone()), &work);
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["id", "prompt", "answer", "fate", "responses", "source"]);
        assert_eq!(
            (&row["id"], &row["fate"], &row["prompt"][2]["content"]),
            (&7.into(), &"accepted".into(), &"Bye".into())
        );
        assert_eq!(row["source"], json!({"path": "a.jsonl", "line": 3}));
        let [first, second] = &row["responses"].as_array().unwrap()[..] else { panic!("{row}") };
        assert_eq!(
            (&first["content"], &first["score"], &first["fate"]),
            (&"So long.".into(), &0.5.into(), &"accepted".into())
        );
        assert!(second.get("score").is_none(), "a missing score is left out: {second}");

        work.pass_rate = Some(0.5);
        let row = prompt_row(&prompt(given), &work);
        assert_eq!(
            (&row["pass_rate"], &row["n_scored"], &row["answer"]),
            (&0.5.into(), &1.into(), &"4".into())
        );
        assert!(row.get("messages").is_none() && row.get("system").is_none(), "{row}");
        assert_eq!(row["origin"], json!({"path": "a.jsonl", "line": 3}));
        assert_eq!(id(&prompt(json!({}))), "a.jsonl:3");
    }

    #[test]
    fn earlier_turns_of_the_assistant_carry_no_loss() {
        let accepted =
            Candidate { fate: Fate::Accepted, reasoning: Some("hm".into()), ..usable("So long.", Some(1.0)) };
        let work = PromptWork::new(vec![usable("x", None), accepted]);
        let prompt = prompt(json!({"prompt": "Bye"}));
        let rows: Vec<Value> = response_rows(&prompt, &work).collect();
        let messages = json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "weight": 0.0},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "So long.", "reasoning_content": "hm"},
        ]);
        let source = json!({"path": "a.jsonl", "line": 3});
        let expected = json!({
            "messages": messages, "id": "a.jsonl:3", "score": 1.0, "model": "m", "decoding": "0", "source": source,
        });
        assert_eq!(rows, [expected]);
    }
}
