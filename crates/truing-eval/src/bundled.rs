//! Evaluation sets that ship with the program. No selection keeps their text: a score on training data says nothing.

use serde_json::Value;
use truing_run::RunError;
use truing_types::RowOrigin;

/// An evaluation set that ships with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundledEvaluation {
    /// The file's name.
    pub name: &'static str,
    /// One JSON object a line, with a `prompt` (a text or messages), `messages`, or a `context` (a text).
    pub rows: &'static str,
}

/// All of them.
pub const BUNDLED: [BundledEvaluation; 7] = [
    BundledEvaluation {
        name: "quickstart/heldout.jsonl",
        rows: include_str!("../../../quickstart/heldout.jsonl"),
    },
    BundledEvaluation {
        name: "quickstart/heldout_prompts.jsonl",
        rows: include_str!("../../../quickstart/heldout_prompts.jsonl"),
    },
    BundledEvaluation {
        name: "quickstart/checks.jsonl",
        rows: include_str!("../../../quickstart/checks.jsonl"),
    },
    BundledEvaluation {
        name: "quickstart/heldout_instructions.jsonl",
        rows: include_str!("../../../quickstart/heldout_instructions.jsonl"),
    },
    BundledEvaluation {
        name: "quickstart/knowledge.jsonl",
        rows: include_str!("../../../quickstart/knowledge.jsonl"),
    },
    BundledEvaluation {
        name: "quickstart/open_questions.jsonl",
        rows: include_str!("../../../quickstart/open_questions.jsonl"),
    },
    BundledEvaluation {
        name: "recipes/data/ifeval_prompts_held_out.jsonl",
        rows: include_str!("../../../recipes/data/ifeval_prompts_held_out.jsonl"),
    },
];

impl BundledEvaluation {
    /// What each item asks: every turn but the assistant's.
    ///
    /// # Errors
    /// When a line is no such row.
    pub fn questions(&self) -> Result<Vec<String>, RunError> {
        let unreadable = |place: usize, line: &str| RunError::BadColumn {
            origin: RowOrigin { source: self.name.into(), line: place as u64 + 1 },
            column: "prompt".into(),
            found: line.to_owned(),
            expected: "a text or messages",
        };
        let lines = self.rows.lines().enumerate();
        lines.map(|(place, line)| question(line).ok_or_else(|| unreadable(place, line))).collect()
    }
}

fn question(line: &str) -> Option<String> {
    let row: Value = serde_json::from_str(line).ok()?;
    match ["prompt", "messages", "context"].iter().find_map(|key| row.get(key))? {
        Value::String(text) => Some(text.clone()),
        Value::Array(messages) => {
            let asked = messages.iter().filter(|message| message["role"] != "assistant");
            Some(asked.map(|message| message["content"].as_str()).collect::<Option<Vec<_>>>()?.join("\n\n"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::BUNDLED;

    #[test]
    fn every_bundled_item_can_be_read() {
        for evaluation in BUNDLED {
            let questions = evaluation.questions().unwrap();
            assert_eq!(questions.len(), evaluation.rows.lines().count());
            assert!(questions.iter().all(|question| !question.trim().is_empty()), "{}", evaluation.name);
        }
    }
}
