//! A conversation of a user with an assistant that has a notebook, while it is made and as it is written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_reward::notebook::{CellOutput, Notebook, NotebookError, NotebookRunner};

use super::search::{Cell, Search};
use super::tables::DataFile;
use crate::build::reasoning::{final_answer, is_same};

/// The output of a cell that prints nothing.
const NO_OUTPUT: &str = "(no output)";

/// What happens next in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Next {
    /// The user asks.
    #[default]
    Question,
    /// The assistant writes a cell or answers.
    Step,
    Nothing,
}

/// A question of the user and the work on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Exchange {
    pub(super) question: String,
    /// What the answer has to be.
    pub(super) reference: Option<String>,
    pub(super) search: Search,
}

/// All questions so far; each but the last is answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Conversation {
    pub(super) file: Option<DataFile>,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) next: Next,
}

impl Conversation {
    pub(super) fn ask(&mut self, question: String, reference: Option<String>) {
        self.exchanges.push(Exchange { question, reference, search: Search::default() });
        self.next = Next::Step;
    }

    /// The search for the last answer; `None` before the first question.
    pub(super) fn search(&mut self) -> Option<&mut Search> {
        self.exchanges.last_mut().map(|exchange| &mut exchange.search)
    }

    /// Takes over an answer to the last question if it is the reference, and otherwise ends the branch. What is
    /// answered before anything was run does not show how a notebook is used.
    pub(super) fn answer(&mut self, text: String) {
        let has_cells = self.cells().next().is_some();
        let Some(Exchange { reference, search, .. }) = self.exchanges.last_mut() else { return };
        let expected = reference.as_deref().unwrap_or_default();
        match final_answer(&text).is_some_and(|found| is_same(&found, expected)) {
            true if has_cells => search.finish(text),
            true => search.abandon("an answer comes before the first cell"),
            false => search.abandon("no branch arrives at the reference answer"),
        }
    }

    /// All cells that are kept.
    pub(super) fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.exchanges.iter().flat_map(|exchange| exchange.search.cells())
    }

    /// Cells and answers that are not part of the conversation.
    pub(super) fn n_abandoned(&self) -> usize {
        self.exchanges.iter().map(|exchange| exchange.search.n_abandoned()).sum()
    }

    pub(super) fn files(&self) -> BTreeMap<String, String> {
        self.file.iter().map(|file| (file.name.clone(), file.text.clone())).collect()
    }

    /// All cells with another one after them.
    pub(super) fn notebook_with(&self, code: &str) -> Notebook {
        let cells = self.cells().map(|cell| cell.code.clone()).chain(std::iter::once(code.to_owned()));
        Notebook { cells: cells.collect(), files: self.files() }
    }

    /// The output of the new cell of [`notebook_with`](Self::notebook_with). The outputs of the cells before it have to
    /// be those of the earlier runs.
    pub(super) fn output_of_new(&self, mut outputs: Vec<CellOutput>) -> Result<CellOutput, NotebookError> {
        let new = outputs.pop().ok_or(NotebookError::NotReproducible)?;
        let is_again = self.cells().map(|cell| cell.output.clone()).eq(outputs.iter().map(shown));
        if is_again { Ok(new) } else { Err(NotebookError::NotReproducible) }
    }

    /// The description of the file in prompts.
    pub(super) fn file_note(&self, language: Language) -> String {
        match (&self.file, language) {
            (Some(file), _) => file.note(language),
            (None, Language::En) => "There is no file.".into(),
            (None, Language::Zh) => "没有文件。".into(),
        }
    }

    /// The user's messages alone.
    pub(super) fn questions(&self) -> String {
        self.exchanges.iter().map(|exchange| exchange.question.as_str()).collect::<Vec<_>>().join("\n\n")
    }

    /// The conversation as the models get it.
    pub(super) fn transcript(&self) -> String {
        let mut lines = Vec::new();
        for Exchange { question, search, .. } in &self.exchanges {
            lines.push(format!("[user] {question}"));
            for Cell { thought, code, output, .. } in search.cells() {
                lines.push(format!("[assistant] {thought}\n```python\n{code}\n```\n[output]\n{output}"));
            }
            lines.extend(search.answer().map(|answer| format!("[assistant] {answer}")));
        }
        lines.join("\n\n")
    }

    /// The turns of a row. Cells are calls of the tool `python`, numbered throughout. A turn whose cell raised an error
    /// is not trained on: its weight is 0.
    pub(super) fn messages(&self) -> Vec<Value> {
        let (mut messages, mut n_calls) = (Vec::new(), 0);
        for Exchange { question, search, .. } in &self.exchanges {
            messages.push(json!({"role": "user", "content": question}));
            for Cell { thought, code, output, is_error } in search.cells() {
                n_calls += 1;
                let id = format!("call_{n_calls}");
                let function = json!({"name": "python", "arguments": {"code": code}});
                let mut turn = json!({
                    "role": "assistant", "content": thought,
                    "tool_calls": [{"id": id, "type": "function", "function": function}],
                });
                if *is_error {
                    turn["weight"] = json!(0);
                }
                messages.push(turn);
                messages
                    .push(json!({"role": "tool", "name": "python", "tool_call_id": id, "content": output}));
            }
            messages.extend(search.answer().map(|answer| json!({"role": "assistant", "content": answer})));
        }
        messages
    }
}

/// The output of a cell as the conversation has it.
pub(super) fn shown(output: &CellOutput) -> String {
    if output.text.is_empty() { NO_OUTPUT.to_owned() } else { output.text.clone() }
}

/// The tool that cells are calls of.
pub(super) fn python_tool() -> Value {
    json!({"type": "function", "function": {
        "name": "python",
        "description": "Runs a cell of a Python notebook and returns what it prints. Variables are kept between cells.",
        "parameters": {
            "type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"],
        },
    }})
}

/// Runs the cells of a row again: every output has to be the one that is written, only cells with an error have weight
/// 0, and each answer has to be its reference.
///
/// # Errors
/// What is wrong.
pub(super) fn check_messages(
    messages: &[Value],
    files: &Map<String, Value>,
    answers: &[Value],
    runner: &mut NotebookRunner,
) -> Result<(), String> {
    let (mut cells, mut outputs, mut weights, mut found) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for message in messages {
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        match (text("role").as_str(), message.get("tool_calls")) {
            ("user", None) => {}
            ("assistant", None) => found.push(final_answer(&text("content")).unwrap_or_default()),
            ("assistant", Some(calls)) => {
                let code = calls[0]["function"]["arguments"]["code"].as_str();
                cells.push(code.ok_or("a call has no code")?.to_owned());
                weights.push(message["weight"].as_f64());
            }
            ("tool", None) => outputs.push(text("content")),
            (role, _) => return Err(format!("unexpected turn of `{role}`")),
        }
    }
    let references: Vec<&str> = answers.iter().map(|answer| answer.as_str().unwrap_or_default()).collect();
    if found.len() != references.len() || outputs.len() != cells.len() {
        return Err("cells and outputs, or answers and references, differ in number".into());
    }
    if cells.is_empty() {
        return Err("there is no cell".into());
    }
    if let Some((found, expected)) =
        found.iter().zip(references).find(|(found, expected)| !is_same(found, expected))
    {
        return Err(format!("the answer is {found}, the reference {expected}"));
    }
    let text_of = |(name, text): (&String, &Value)| Some((name.clone(), text.as_str()?.to_owned()));
    // With an empty cell more, the hashes have other seeds than in the runs before.
    cells.push(String::new());
    let notebook = Notebook { cells, files: files.iter().filter_map(text_of).collect() };
    let again = runner.run(&[notebook]).pop().ok_or("nothing was run")?.map_err(|error| error.to_string())?;
    for (i, cell) in again.iter().enumerate().take(outputs.len()) {
        if shown(cell) != outputs[i] {
            return Err(format!("cell {} has another output", i + 1));
        }
        if cell.is_error != (weights[i] == Some(0.0)) {
            return Err(format!("cell {} has an error and a weight that do not agree", i + 1));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::config::CodeInterpreterConfig;
    use super::*;

    #[test]
    fn turns_have_calls_outputs_and_answers_and_errors_have_weight_0() {
        let settings = CodeInterpreterConfig::default();
        let mut conversation = Conversation::default();
        conversation.ask("How many?".into(), Some("3".into()));
        conversation.answer("Answer: 3".into());
        assert_eq!(conversation.exchanges[0].search.answer(), None, "nothing was run");
        let cell = |code: &str, output: &str, is_error| Cell {
            thought: format!("About {code}."),
            code: code.into(),
            output: output.into(),
            is_error,
        };
        for cell in [cell("x", "NameError: x", true), cell("x = 3\nx", "3", false)] {
            let search = conversation.search().unwrap();
            search.begin();
            search.add(cell, &settings);
        }
        conversation.answer("Three.\nAnswer: 4".into());
        assert_eq!(conversation.exchanges[0].search.answer(), None);
        conversation.answer("Three.\nAnswer: 3.0".into());
        let messages = conversation.messages();
        let roles: Vec<&str> = messages.iter().map(|turn| turn["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant", "tool", "assistant"]);
        assert_eq!((&messages[1]["weight"], messages[3].get("weight")), (&json!(0), None));
        assert_eq!(messages[4]["tool_call_id"], messages[3]["tool_calls"][0]["id"]);
        assert_eq!((conversation.n_abandoned(), conversation.cells().count()), (2, 2));
        let output = |text: &str, is_error| CellOutput { text: text.into(), is_error };
        let again = || vec![output("NameError: x", true), output("3", false), output("new", false)];
        assert_eq!(conversation.output_of_new(again()), Ok(output("new", false)));
        let other = [vec![output("3", false)], again()].concat();
        assert_eq!(conversation.output_of_new(other), Err(NotebookError::NotReproducible));
        assert_eq!(conversation.notebook_with("y").cells, ["x", "x = 3\nx", "y"]);
        let transcript = conversation.transcript();
        assert!(transcript.ends_with("[output]\n3\n\n[assistant] Three.\nAnswer: 3.0"), "{transcript}");
    }
}
