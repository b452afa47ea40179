//! Labels for prompts from judges (report 3.1.1): the questions, the reading of replies, the labels that votes come to,
//! and the run in numbers.

mod outcome;
mod questions;
mod set;
mod summary;

use serde_json::{Map, Value};
use truing_prompts::labels::LabelSet;
use truing_types::RowOrigin;

pub use outcome::{Answers, AssignedLabel, JudgeCounts, LabelledBy, LabelledPrompt, ReviewedPrompt};
pub use questions::{LabelForm, LabelReader, ParsedLabels, reminder};
pub use set::{label_set_toml, load_label_set, parse_label_set};
pub use summary::{
    CombinationCount, Comparison, DimensionSummary, JudgePair, JudgeSummary, LabelCount, RareLabel, Summary,
    SummaryOptions, UnknownLabel,
};

/// One prompt to be labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelPrompt {
    /// As a judge reads it.
    pub text: String,
    /// Its row.
    pub columns: Map<String, Value>,
    /// Where it came from.
    pub origin: RowOrigin,
    /// Labels that its row carries, by dimension.
    pub carried: Vec<Option<Vec<usize>>>,
    /// Labels that a corrected review file gives it, by dimension.
    pub corrected: Vec<Option<Vec<usize>>>,
}

/// What every judge is asked of one prompt in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Place of the prompt among the inputs.
    pub prompt: usize,
    /// The dimensions.
    pub dimensions: Vec<usize>,
}

/// The prompts of a run, with the labels and judges that it asks about and of.
#[derive(Debug, Clone, Copy)]
pub struct Labelling<'a> {
    /// The labels.
    pub set: &'a LabelSet,
    /// The prompts.
    pub prompts: &'a [LabelPrompt],
    /// Dimensions that are labelled, in the order of the set.
    pub dimensions: &'a [usize],
    /// The judges' names, each with the weight of its votes.
    pub judges: &'a [(String, f64)],
}
