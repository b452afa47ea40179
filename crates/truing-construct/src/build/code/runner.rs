//! Python programs that run with their tests in the sandbox.

use std::path::Path;

use serde_json::{Map, Value, json};
use truing_reward::verifiers::code::{Code, CodeConfig};
use truing_reward::{Completion, RewardError, RewardFunction as _};
use truing_types::{Conversation, FinishReason, RowOrigin};

/// A program, or a response with one in its last fence, and its tests.
pub(super) struct Trial {
    pub(super) text: String,
    pub(super) tests: String,
}

/// Runs programs as the reward `code` does.
#[derive(Debug)]
pub(super) struct Runner(Code);

impl Runner {
    /// # Errors
    /// When no program was given that can start the sandbox.
    pub(super) fn new(interpreter: &str, sandbox_program: Option<&Path>) -> Result<Self, RewardError> {
        let program = sandbox_program.ok_or(RewardError::NoSandboxProgram)?;
        let config = CodeConfig { interpreter: interpreter.to_owned(), ..CodeConfig::default() };
        Ok(Self(Code::new(config, program.to_owned())?))
    }

    /// Whether each program passes its tests; why not where that cannot be said, such as tests that are no Python.
    pub(super) fn run(&mut self, trials: &[Trial]) -> Vec<Result<bool, String>> {
        let (prompt, origin) = (Conversation::default(), RowOrigin { source: "rows.jsonl".into(), line: 1 });
        let columns: Vec<Map<String, Value>> =
            trials.iter().map(|trial| Map::from_iter([("test".to_owned(), json!(trial.tests))])).collect();
        let completions: Vec<Completion<'_>> = trials
            .iter()
            .zip(&columns)
            .map(|(trial, columns)| Completion {
                prompt: &prompt,
                text: &trial.text,
                n_tokens: 0,
                finish_reason: FinishReason::EndOfTurn,
                columns,
                origin: &origin,
            })
            .collect();
        let scores = self.0.score(&completions);
        scores.into_iter().map(|score| score.map(|score| score > 0.5).map_err(|why| why.detail)).collect()
    }

    /// Runs one program that passes.
    ///
    /// # Errors
    /// Why nothing can be run here.
    pub(super) fn probe(&mut self) -> Result<(), String> {
        let text = "def one():\n    return 1\n".to_owned();
        let trial = Trial { text, tests: "assert one() == 1".into() };
        match self.run(&[trial]).pop() {
            Some(Ok(true)) => Ok(()),
            Some(Err(why)) => Err(why),
            _ => Err("a program that returns 1 does not pass its test".into()),
        }
    }
}
