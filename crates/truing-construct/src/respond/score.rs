//! The scores of a round's responses.

use truing_reward::unscored::UnscoredSummary;
use truing_reward::{Completion, Rewards, ScoredCompletion};
use truing_types::FinishReason;

use super::candidate::{Candidate, Fate, PromptWork};
use super::plan::SourcePrompt;

/// Scores every response that can be used; with `counts_all` also near-duplicates and what was cut or is empty, which
/// count in a pass rate. Returns how many could not be scored, and why.
pub(super) fn score(
    rewards: &mut Rewards,
    prompts: &[&SourcePrompt],
    works: &mut [PromptWork],
    counts_all: bool,
) -> UnscoredSummary {
    let is_scored = |candidate: &Candidate| {
        candidate.is_usable()
            || counts_all && matches!(candidate.fate, Fate::NearDuplicate | Fate::Cut | Fate::Empty)
    };
    let mut asked: Vec<(&SourcePrompt, &mut Candidate, String)> = Vec::new();
    for (&prompt, work) in prompts.iter().zip(works) {
        for candidate in work.candidates.iter_mut().filter(|candidate| is_scored(candidate)) {
            let text = whole_text(candidate);
            asked.push((prompt, candidate, text));
        }
    }
    let completions: Vec<Completion<'_>> = asked
        .iter()
        .map(|(prompt, candidate, text)| Completion {
            prompt: &prompt.row.prompt,
            text,
            n_tokens: candidate.n_tokens,
            finish_reason: candidate.finish_reason.unwrap_or_default(),
            columns: &prompt.row.columns,
            origin: &prompt.origin,
        })
        .collect();
    let scored = rewards.score(&completions);
    let summary = UnscoredSummary::of(asked.iter().map(|(prompt, ..)| &prompt.origin).zip(&scored));
    for ((_, candidate, _), scored) in asked.into_iter().zip(scored) {
        take_scores(candidate, scored);
    }
    summary
}

/// All that the model wrote, as rewards expect it: they split the reasoning off themselves.
fn whole_text(candidate: &Candidate) -> String {
    match &candidate.reasoning {
        None => candidate.content.clone(),
        // Reasoning that was cut is never closed, and there is no answer.
        Some(reasoning)
            if candidate.content.is_empty() && candidate.finish_reason == Some(FinishReason::Length) =>
        {
            format!("<think>\n{reasoning}")
        }
        Some(reasoning) => format!("<think>\n{reasoning}\n</think>\n\n{}", candidate.content),
    }
}

fn take_scores(candidate: &mut Candidate, scored: ScoredCompletion) {
    match scored.total {
        Ok(score) => candidate.score = Some(score),
        Err(unscored) => candidate.unscored = Some(unscored.to_string()),
    }
    let known = scored.parts.into_iter().filter_map(|(name, part)| Some((name, part.ok()?)));
    candidate.rewards = known.collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::candidate::usable;
    use serde_json::{Map, Value, json};
    use truing_types::{Conversation, PromptRow, RowOrigin};

    fn prompt(columns: Value) -> SourcePrompt {
        let columns: Map<String, Value> = serde_json::from_value(columns).unwrap();
        let row = PromptRow { prompt: Conversation::default(), columns };
        SourcePrompt { row, origin: RowOrigin { source: "a.jsonl".into(), line: 1 }, repeats: None }
    }

    #[test]
    fn the_answer_is_scored_and_what_cannot_be_has_a_reason() {
        let configs = serde_json::from_value::<Vec<_>>(json!([{"kind": {"exact_match": {}}, "weight": 2.0}]));
        let mut rewards = Rewards::new(&configs.unwrap(), None).unwrap();
        let thought = Candidate { reasoning: Some("not 4?".into()), ..usable("4", None) };
        let cut = Candidate {
            reasoning: Some("4 or".into()),
            finish_reason: Some(FinishReason::Length),
            fate: Fate::Cut,
            ..usable("", None)
        };
        let failed = Candidate { fate: Fate::Failed, ..usable("", None) };
        let all = vec![usable("4", None), usable("5", None), thought, cut, failed];
        let mut works = vec![PromptWork::new(all), PromptWork::new(vec![usable("4", None)])];
        let prompts = [&prompt(json!({"answer": "4"})), &prompt(json!({}))];
        let summary = score(&mut rewards, &prompts, &mut works, false);
        let scores = |work: &PromptWork| work.candidates.iter().map(|one| one.score).collect::<Vec<_>>();
        assert_eq!(scores(&works[0]), [Some(2.0), Some(0.0), Some(2.0), None, None]);
        assert_eq!(works[0].candidates[0].rewards["exact_match"], 1.0, "before its weight");
        let unscored = works[1].candidates[0].unscored.as_deref().unwrap();
        assert!(unscored.starts_with("missing_reference: a.jsonl:1"), "{unscored}");
        assert_eq!(summary.n_completions(), 4);
        score(&mut rewards, &prompts, &mut works, true);
        assert_eq!(scores(&works[0]), [Some(2.0), Some(0.0), Some(2.0), Some(0.0), None]);
    }
}
