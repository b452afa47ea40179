//! What a reward sees, and what it is.

use serde_json::{Map, Value};
use truing_types::{Conversation, FinishReason, RowOrigin, Unscored, UnscoredReason};

/// One completion of one prompt.
#[derive(Debug, Clone, Copy)]
pub struct Completion<'a> {
    /// The conversation before it.
    pub prompt: &'a Conversation,
    /// What the model wrote, without end token or stop text. [`Rewards`](crate::Rewards) are given all of it; of a
    /// reward that [reads](crate::Reads) the answer it is the answer alone.
    pub text: &'a str,
    /// Tokens sampled, the end token included.
    pub n_tokens: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Every field of the prompt's row: reference answers, instructions, tests.
    pub columns: &'a Map<String, Value>,
    /// The prompt's row.
    pub origin: &'a RowOrigin,
}

/// A way to score completions: a verifier, a judge, a reward model, or a sum of them.
pub trait RewardFunction {
    /// Its name in metrics.
    fn name(&self) -> &str;

    /// One result for each completion, in order. A completion's score does not depend on the others.
    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>>;

    /// The score of a completion without an answer: its thought was cut or never closed, or nothing follows it.
    /// `completion` holds all of its text. Unless a reward says otherwise this is 0, as for a wrong answer; a row that
    /// lacks its reference stays unscored.
    ///
    /// # Errors
    /// When there is no score.
    fn score_without_answer(&mut self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        let empty = Completion { text: "", ..*completion };
        match self.score(&[empty]).pop() {
            Some(Err(unscored)) if unscored.reason != UnscoredReason::Unparsed => Err(unscored),
            _ => Ok(0.0),
        }
    }

    /// Checks of a row what can be known before there is a completion of it: `completion` has no text. Nothing is asked
    /// or run.
    ///
    /// # Errors
    /// When no completion of the row will have a score.
    fn check_row(&mut self, completion: &Completion<'_>) -> Result<(), Unscored> {
        self.score_without_answer(completion).map(|_| ())
    }
}

/// A column of the prompt's row as text; numbers as they are written.
pub(crate) fn column_text(completion: &Completion<'_>, column: &str) -> Result<String, Unscored> {
    match completion.columns.get(column) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => {
            let detail = format!("{}: `{column}` is {other}, expected a text or a number", completion.origin);
            Err(Unscored::new(UnscoredReason::BadReference, detail))
        }
        None => {
            let detail = format!("{}: the row has no `{column}`", completion.origin);
            Err(Unscored::new(UnscoredReason::MissingReference, detail))
        }
    }
}
