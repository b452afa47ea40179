//! Scoring with the verifiers of training: the same object that rewards a completion there scores an answer here.

use std::path::Path;

use truing_reward::{Completion, RewardFunction};
use truing_types::{Conversation, Unscored};

use super::{Answers, Item};

/// What scoring may need from the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scoring<'a> {
    /// A program that answers to [`CHILD_COMMAND`](truing_reward::sandbox::CHILD_COMMAND); code is unscored
    /// without one.
    pub sandbox_program: Option<&'a Path>,
}

/// The verifier's score of the reply to one request of each item. A reply whose thought was never closed has no
/// answer and scores what the verifier gives that; an item without a reply is unscored.
pub fn verified(
    verifier: &mut dyn RewardFunction,
    scored: &[(&Item, &Answers)],
    request: &str,
) -> Vec<Result<f64, Unscored>> {
    let prompt = Conversation::default();
    let origins: Vec<_> = scored.iter().map(|(item, _)| item.origin()).collect();
    let mut found: Vec<Option<Result<f64, Unscored>>> = vec![None; scored.len()];
    let mut batch: Vec<(usize, Completion<'_>)> = Vec::new();
    for (i, (item, answers)) in scored.iter().enumerate() {
        match answers.reply(request) {
            Err(unscored) => found[i] = Some(Err(unscored)),
            Ok(reply) => {
                let completion = Completion {
                    prompt: &prompt,
                    text: &reply.text,
                    n_tokens: reply.n_completion_tokens,
                    finish_reason: reply.finish_reason,
                    columns: &item.row,
                    origin: &origins[i],
                };
                if reply.text.trim().is_empty() {
                    found[i] = Some(verifier.score_without_answer(&completion));
                } else {
                    batch.push((i, completion));
                }
            }
        }
    }
    let completions: Vec<Completion<'_>> = batch.iter().map(|(_, completion)| *completion).collect();
    let scores = if completions.is_empty() { Vec::new() } else { verifier.score(&completions) };
    for ((i, _), score) in batch.iter().zip(scores) {
        found[*i] = Some(score);
    }
    let missing = || {
        let reason = truing_types::UnscoredReason::Failed;
        Err(Unscored::new(reason, format!("`{}` gave no score", verifier.name())))
    };
    found.into_iter().map(|score| score.unwrap_or_else(missing)).collect()
}
