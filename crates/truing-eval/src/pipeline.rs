//! What was measured of a model between two stages, as it lies in a run's folder: held-out loss and answers that
//! a program can grade. Written by stages, read by the report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use truing_statistics::{Estimate, PairedPasses, ShareInterval};

use crate::held_out::HeldOutScores;

/// One item with an answer that a program graded: a question, instructions, or a choice among options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradedAnswer {
    /// Name of the item, the same in every evaluation.
    pub id: String,
    /// The set that it belongs to, as people read it.
    #[serde(default)]
    pub set: String,
    /// What is tested, in a few words.
    #[serde(default)]
    pub about: String,
    /// The conversation up to the answer, as a person reads it.
    pub prompt: String,
    /// What counts as right, as a person reads it.
    pub expected: String,
    /// What the model wrote.
    pub answer: String,
    /// Whether it passes.
    pub is_right: bool,
}

/// A model measured at one point of a pipeline.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The point: `before`, or the name of the stage that it follows.
    pub label: String,
    /// Mean negative log-likelihood over the held-out loss tokens, in nats.
    pub heldout_loss: Option<f64>,
    /// Share of held-out loss tokens that were the model's first choice.
    pub heldout_accuracy: Option<f64>,
    /// Loss tokens that the two are means over.
    pub n_heldout_tokens: u64,
    /// Loss tokens of each held-out conversation, and their mean loss. Evaluations of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heldout_items: Vec<(f64, f64)>,
    /// Greedy answers, and choices by log-likelihood, of all sets.
    pub answers: Vec<GradedAnswer>,
    /// Greedy answers to questions that no program grades.
    #[serde(default)]
    pub open_answers: Vec<OpenAnswer>,
}

/// An answer that people read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAnswer {
    /// Name of the question, the same in every evaluation.
    pub id: String,
    /// The conversation up to the answer.
    pub prompt: String,
    /// What the model wrote.
    pub answer: String,
}

/// How many items of a set are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetScore<'a> {
    /// The set.
    pub set: &'a str,
    /// Items that are right.
    pub n_right: usize,
    /// Items.
    pub n: usize,
}

impl SetScore<'_> {
    /// The share that is right; NaN without items.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.n_right as f64 / self.n as f64
    }

    /// Its 95 % interval (Wilson).
    #[must_use]
    pub fn interval(&self) -> Option<ShareInterval> {
        ShareInterval::wilson(self.share(), self.n as f64)
    }
}

impl Evaluation {
    /// Answers that pass.
    #[must_use]
    pub fn n_right(&self) -> usize {
        self.answers.iter().filter(|answer| answer.is_right).count()
    }

    /// Every set, in the order in which they were measured.
    #[must_use]
    pub fn sets(&self) -> Vec<SetScore<'_>> {
        let mut sets: Vec<SetScore<'_>> = Vec::new();
        for answer in &self.answers {
            let known = sets.iter().position(|score| score.set == answer.set);
            let idx = known.unwrap_or_else(|| {
                sets.push(SetScore { set: &answer.set, n_right: 0, n: 0 });
                sets.len() - 1
            });
            sets[idx].n += 1;
            sets[idx].n_right += usize::from(answer.is_right);
        }
        sets
    }

    /// The change of the loss since an earlier evaluation of the same conversations, with its 95 % interval, paired by
    /// conversation.
    #[must_use]
    pub fn loss_change_since(&self, earlier: &Self) -> Option<Estimate> {
        let scores = |evaluation: &Self| HeldOutScores {
            measure: HeldOutScores::LOSS.to_owned(),
            values: evaluation.heldout_items.iter().map(|&(_, loss)| Some(loss)).collect(),
            weights: evaluation.heldout_items.iter().map(|&(weight, _)| weight).collect(),
            ..HeldOutScores::default()
        };
        scores(earlier).change_to(&scores(self))
    }

    /// How the items of a set went that an earlier evaluation has too.
    #[must_use]
    pub fn passes_since(&self, earlier: &Self, set: &str) -> PairedPasses {
        let of_set = |evaluation: &'_ Self| -> BTreeMap<String, bool> {
            let answers = evaluation.answers.iter().filter(|answer| answer.set == set);
            answers.map(|answer| (answer.id.clone(), answer.is_right)).collect()
        };
        let (before, after) = (of_set(earlier), of_set(self));
        PairedPasses::count(after.iter().filter_map(|(id, &is_right)| Some((*before.get(id)?, is_right))))
    }
}

/// One stage of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineStage {
    /// What is done: `sft`, `reward_model`, `grpo`.
    pub kind: String,
    /// Its run directory, relative to the pipeline's folder.
    pub folder: PathBuf,
}

/// `pipeline.json`: the stages of a folder in order, and the evaluations between them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The page's title.
    pub title: String,
    /// The model that it began with.
    pub model: String,
    /// In order.
    pub stages: Vec<PipelineStage>,
    /// Files that hold one [`Evaluation`] each, relative to the pipeline's folder, in order.
    pub evaluations: Vec<PathBuf>,
    /// The command that continues it when it was stopped, without the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_command: Option<String>,
}

impl Pipeline {
    /// Name of the file in the pipeline's folder.
    pub const FILE_NAME: &'static str = "pipeline.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(set: &str, id: usize, is_right: bool) -> GradedAnswer {
        GradedAnswer {
            id: id.to_string(),
            set: set.into(),
            about: String::new(),
            prompt: String::new(),
            expected: String::new(),
            answer: String::new(),
            is_right,
        }
    }

    fn evaluation(answers: Vec<GradedAnswer>) -> Evaluation {
        Evaluation { answers, ..Evaluation::default() }
    }

    #[test]
    fn sets_are_counted_apart_in_their_order() {
        let found = evaluation(vec![answer("b", 0, true), answer("a", 0, false), answer("b", 1, false)]);
        let expected = [SetScore { set: "b", n_right: 1, n: 2 }, SetScore { set: "a", n_right: 0, n: 1 }];
        assert_eq!(found.sets(), expected);
    }

    #[test]
    fn a_change_of_the_loss_is_paired_by_conversation() {
        let of = |items: &[(f64, f64)]| Evaluation { heldout_items: items.to_vec(), ..Evaluation::default() };
        let before = of(&[(10.0, 3.0), (20.0, 2.0), (10.0, 4.0)]);
        let change = of(&[(10.0, 2.0), (20.0, 1.1), (10.0, 2.9)]).loss_change_since(&before).unwrap();
        assert!((change.value + 0.975).abs() < 1e-9 && change.is_shown(), "{change:?}");
        assert_eq!(of(&[(10.0, 2.0), (21.0, 1.1), (10.0, 2.9)]).loss_change_since(&before), None);
        assert_eq!(of(&[(10.0, 2.0), (20.0, 1.1)]).loss_change_since(&before), None);
        assert_eq!(before.loss_change_since(&Evaluation::default()), None);
    }

    #[test]
    fn a_gain_is_that_of_the_items_which_both_have() {
        let before = evaluation((0..60).map(|id| answer("a", id, id < 10)).collect());
        // 2 lost, 20 gained, one item that is new.
        let after = evaluation((2..61).map(|id| answer("a", id, (4..30).contains(&id))).collect());
        let passes = after.passes_since(&before, "a");
        let expected = PairedPasses { n_both: 6, n_gained: 20, n_lost: 2, n_neither: 30 };
        assert_eq!(passes, expected);
        assert!(Estimate::difference_of_paired_shares(passes).unwrap().is_shown());
        let same = before.passes_since(&before, "a");
        assert!(!Estimate::difference_of_paired_shares(same).unwrap().is_shown());
        assert_eq!(after.passes_since(&before, "other").n(), 0);
    }
}
