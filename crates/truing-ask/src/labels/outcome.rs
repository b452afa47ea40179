//! The judges' votes, and the labels that they come to for each prompt.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_prompts::labels::{Ballot, LabelSet, tally};
use truing_run::RunError;
use truing_run::rows::PromptSource;

use super::Labelling;

/// The field that says where a row came from.
const ORIGIN: &str = "origin";
/// Characters of an unknown label that are kept.
const MAX_CHARACTERS: usize = 60;

/// A prompt with its labels. A line of `labels.jsonl` is its own row with these fields added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledPrompt {
    /// Its row as it was.
    #[serde(skip)]
    pub columns: Map<String, Value>,
    /// By dimension. A dimension without a label is not there.
    pub labels: BTreeMap<String, AssignedLabel>,
    /// By dimension, above 0 to 1: the share of the weight of all votes that is behind the label. Labels of the data
    /// and of corrections have 1.
    pub confidence: BTreeMap<String, f64>,
    /// By dimension and label, how many votes name it.
    pub votes: BTreeMap<String, BTreeMap<String, u64>>,
    /// By dimension, who said so.
    pub labelled_by: BTreeMap<String, LabelledBy>,
    /// Where it came from.
    pub origin: PromptSource,
    /// By dimension, why there is no label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unlabelled: BTreeMap<String, String>,
}

/// The label of a dimension, or its labels where several may hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AssignedLabel {
    /// The only one.
    One(String),
    /// All that hold, in the order of the label set.
    Several(Vec<String>),
}

/// Who a label is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelledBy {
    /// The judges' votes.
    Judges,
    /// A column of the data.
    Column,
    /// A corrected review file.
    Correction,
}

impl LabelledPrompt {
    /// Where it lies in a run's folder.
    pub const FILE_NAME: &'static str = "labels.jsonl";

    /// The line. What its row says of other dimensions stays; other columns of these names make way.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_row(&self) -> Result<Map<String, Value>, RunError> {
        let mut row = self.columns.clone();
        let failed = |source| RunError::Json { name: Self::FILE_NAME, source };
        let fields: Map<String, Value> =
            serde_json::to_value(self).and_then(serde_json::from_value).map_err(failed)?;
        for (field, value) in fields {
            match (row.get_mut(&field), value) {
                (Some(Value::Object(own)), Value::Object(new)) if field != ORIGIN => own.extend(new),
                (_, value) => drop(row.insert(field, value)),
            }
        }
        Ok(row)
    }
}

/// A prompt whose labels are in doubt: a line of `review.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReviewedPrompt<'a> {
    /// The prompt with its labels, to be corrected there.
    #[serde(flatten)]
    pub row: Map<String, Value>,
    /// By dimension, what the doubt is.
    pub review: BTreeMap<&'a str, String>,
}

impl<'a> ReviewedPrompt<'a> {
    /// The prompts with a dimension below a confidence, the least certain first.
    ///
    /// # Errors
    /// When a row cannot be written as JSON.
    pub fn in_doubt(rows: &'a [LabelledPrompt], min_confidence: f64) -> Result<Vec<Self>, RunError> {
        let lowest = |row: &LabelledPrompt| row.confidence.values().copied().fold(1.0, f64::min);
        let mut doubtful: Vec<&LabelledPrompt> =
            rows.iter().filter(|row| lowest(row) < min_confidence).collect();
        doubtful.sort_by(|one, other| lowest(one).total_cmp(&lowest(other)));
        let reviewed = |prompt: &'a LabelledPrompt| {
            let below = prompt.confidence.iter().filter(|(_, confidence)| **confidence < min_confidence);
            let doubt = |(name, confidence): (&'a String, &f64)| {
                (name.as_str(), format!("confidence {confidence:.2} is below {min_confidence}"))
            };
            let mut row = prompt.to_row()?;
            row.remove("review");
            Ok(Self { row, review: below.map(doubt).collect() })
        };
        doubtful.into_iter().map(reviewed).collect()
    }
}

/// A judge's replies, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JudgeCounts {
    /// Replies that could be read.
    pub n_replies: usize,
    /// Dimensions of replies without a label of the set.
    pub n_without_label: usize,
    /// Names in these replies that are not labels of the set.
    pub n_unknown_labels: usize,
    /// Why there was no reply that could be read, by how often.
    pub failures: BTreeMap<String, usize>,
}

/// What was said of one dimension of one prompt.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// With the judge's place.
    ballots: Vec<(usize, Ballot)>,
    problems: Vec<(usize, String)>,
}

/// Everything that was said.
#[derive(Debug)]
pub struct Answers {
    /// By prompt and dimension.
    slots: Vec<Vec<Slot>>,
    /// By dimension, how often each was named.
    pub unknown: Vec<BTreeMap<String, usize>>,
    /// The judges.
    pub judges: Vec<JudgeCounts>,
}

impl Answers {
    /// No answer yet, to any of `n_prompts` prompts.
    #[must_use]
    pub fn new(set: &LabelSet, n_prompts: usize) -> Self {
        let n_dimensions = set.dimensions().len();
        Self {
            slots: vec![vec![Slot::default(); n_dimensions]; n_prompts],
            unknown: vec![BTreeMap::new(); n_dimensions],
            judges: Vec::new(),
        }
    }

    /// Adds a judge's ballot on a dimension of a prompt.
    pub fn add(&mut self, prompt: usize, dimension: usize, judge: usize, ballot: Ballot) {
        self.slots[prompt][dimension].ballots.push((judge, ballot));
    }

    /// Records why a judge gave no label. The first reason of each judge is kept.
    pub fn has_problem(&mut self, prompt: usize, dimension: usize, judge: usize, problem: String) {
        let problems = &mut self.slots[prompt][dimension].problems;
        if problems.iter().all(|(known, _)| *known != judge) {
            problems.push((judge, problem));
        }
    }

    /// Counts names that are not labels of the set.
    pub fn add_unknown(&mut self, dimension: usize, texts: Vec<String>) {
        for text in texts {
            let text: String = text.to_lowercase().chars().take(MAX_CHARACTERS).collect();
            *self.unknown[dimension].entry(text).or_default() += 1;
        }
    }

    /// The label of a dimension that one judge, or all of them, vote for.
    #[must_use]
    pub fn decided(
        &self,
        set: &LabelSet,
        prompt: usize,
        dimension: usize,
        judge: Option<usize>,
    ) -> Option<Vec<usize>> {
        let of_judge = |(found, _): &&(usize, Ballot)| judge.is_none_or(|judge| judge == *found);
        let ballots = self.slots[prompt][dimension].ballots.iter().filter(of_judge);
        let ballots: Vec<Ballot> = ballots.map(|(_, ballot)| ballot.clone()).collect();
        tally(set, dimension, &ballots).decision.map(|decision| decision.labels)
    }

    /// Whether a judge was asked a dimension of a prompt and answered in any way.
    #[must_use]
    pub fn was_asked(&self, prompt: usize, dimension: usize, judge: Option<usize>) -> bool {
        let slot = &self.slots[prompt][dimension];
        let of_judge = |found: usize| judge.is_none_or(|judge| judge == found);
        slot.ballots.iter().any(|(found, _)| of_judge(*found))
            || slot.problems.iter().any(|(found, _)| of_judge(*found))
    }
}

impl Labelling<'_> {
    /// Every prompt with its labels. Corrections take precedence over the data's labels, and those over votes.
    #[must_use]
    pub fn assign(&self, answers: &Answers) -> Vec<LabelledPrompt> {
        (0..self.prompts.len()).map(|prompt_idx| self.labelled(answers, prompt_idx)).collect()
    }

    fn labelled(&self, answers: &Answers, prompt_idx: usize) -> LabelledPrompt {
        let (set, prompt) = (self.set, &self.prompts[prompt_idx]);
        let mut row = LabelledPrompt {
            columns: prompt.columns.clone(),
            labels: BTreeMap::new(),
            confidence: BTreeMap::new(),
            votes: BTreeMap::new(),
            labelled_by: BTreeMap::new(),
            origin: PromptSource::of(&prompt.origin),
            unlabelled: BTreeMap::new(),
        };
        for &dimension in self.dimensions {
            let name = &set.dimensions()[dimension].name;
            let slot = &answers.slots[prompt_idx][dimension];
            let ballots: Vec<Ballot> = slot.ballots.iter().map(|(_, ballot)| ballot.clone()).collect();
            let tally = tally(set, dimension, &ballots);
            if !tally.counts.is_empty() {
                let counts = tally.counts.iter();
                let votes = counts.map(|&(label, n)| (set.name(dimension, label).to_owned(), n)).collect();
                row.votes.insert(name.clone(), votes);
            }
            let known = [(&prompt.corrected, LabelledBy::Correction), (&prompt.carried, LabelledBy::Column)];
            let known =
                known.into_iter().find_map(|(labels, by)| Some((labels[dimension].clone()?, 1.0, by)));
            let voted = || tally.decision.map(|found| (found.labels, found.confidence, LabelledBy::Judges));
            match known.or_else(voted) {
                Some((labels, confidence, by)) => {
                    row.labels.insert(name.clone(), named(set, dimension, &labels));
                    row.confidence.insert(name.clone(), confidence);
                    row.labelled_by.insert(name.clone(), by);
                }
                None => {
                    row.unlabelled.insert(name.clone(), self.why_not(slot));
                }
            }
        }
        row
    }

    fn why_not(&self, slot: &Slot) -> String {
        if slot.problems.is_empty() {
            return "no judge was called".into();
        }
        let reasons =
            slot.problems.iter().map(|(judge, problem)| format!("{}: {problem}", self.judges[*judge].0));
        reasons.collect::<Vec<_>>().join("; ")
    }
}

pub(super) fn named(set: &LabelSet, dimension: usize, labels: &[usize]) -> AssignedLabel {
    let mut names = labels.iter().map(|&label| set.name(dimension, label).to_owned());
    match set.dimensions()[dimension].multiple {
        true => AssignedLabel::Several(names.collect()),
        false => AssignedLabel::One(names.next().unwrap_or_default()),
    }
}
