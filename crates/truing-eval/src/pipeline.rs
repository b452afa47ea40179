//! What was measured of a model between two stages, as it lies in a run's folder: held-out loss and answers that
//! a program can grade. Written by stages, read by the report.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One question with an answer that a program graded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradedAnswer {
    /// Name of the question, the same in every evaluation.
    pub id: String,
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
    /// Greedy answers.
    pub answers: Vec<GradedAnswer>,
}

impl Evaluation {
    /// Answers that pass.
    #[must_use]
    pub fn n_right(&self) -> usize {
        self.answers.iter().filter(|answer| answer.is_right).count()
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
}

impl Pipeline {
    /// Name of the file in the pipeline's folder.
    pub const FILE_NAME: &'static str = "pipeline.json";
}
