//! A labelling run in numbers.

use std::collections::BTreeMap;

use serde::Serialize;
use truing_statistics::{Agreement, agreement};

use super::outcome::named;
use super::{Answers, AssignedLabel, JudgeCounts, LabelledBy, LabelledPrompt, Labelling};
use crate::judging::{is_half_unanswered, main_reason, main_reasons};

/// Unknown labels and combinations that are listed, the most frequent.
const MAX_LISTED: usize = 500;
/// A judge with fewer replies is not warned of.
const FEWEST_TO_WARN: usize = 10;
/// A judge that names no label of the set this often is of little use.
const OF_LITTLE_USE: f64 = 0.5;

/// The run in numbers: `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Prompts.
    pub n_prompts: usize,
    /// Prompts with a dimension in doubt, in `review.jsonl`.
    pub n_in_review: usize,
    /// Prompts with a dimension that has no label, in `unlabelled.jsonl`.
    pub n_unlabelled: usize,
    /// Prompts that judges were shown without their middle.
    pub n_cut: u64,
    /// By dimension.
    pub dimensions: Vec<DimensionSummary>,
    /// Different combinations of labels.
    pub n_combinations: usize,
    /// The most frequent of them.
    pub combinations: Vec<CombinationCount>,
    /// The judges.
    pub judges: Vec<JudgeSummary>,
    /// Their agreement, two by two.
    pub agreement: Vec<JudgePair>,
    /// How often they are right, where the data carry labels and `compare` is on.
    pub comparison: Vec<Comparison>,
    /// What to know before the labels are used.
    pub warnings: Vec<String>,
}

/// The labels of one dimension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DimensionSummary {
    /// Its name.
    pub name: String,
    /// Prompts by label, in the order of the set; labels that no prompt has are 0.
    pub labels: Vec<LabelCount>,
    /// Prompts without a label.
    pub n_unlabelled: usize,
    /// Over the prompts that judges labelled.
    pub mean_confidence: Option<f64>,
    /// The long tail: labels that some prompts have, but fewer than `min_count`. Candidates to be merged.
    pub rare: Vec<RareLabel>,
    /// What judges named that the set does not know, the most frequent first: candidates for synonyms and new labels.
    pub unknown_labels: Vec<UnknownLabel>,
}

/// How many prompts have a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelCount {
    /// The label.
    pub label: String,
    /// Its prompts.
    pub n: usize,
}

/// A label of few prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RareLabel {
    /// The label.
    pub label: String,
    /// Its prompts.
    pub n: usize,
    /// What it is a kind of, and so could be merged into.
    pub parent: Option<String>,
}

/// A name that is not a label of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownLabel {
    /// As it was named, in lower case.
    pub text: String,
    /// How often.
    pub n: usize,
    /// The label that is most like it.
    pub nearest: Option<String>,
}

/// How many prompts have the same labels in all dimensions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CombinationCount {
    /// By dimension.
    pub labels: BTreeMap<String, AssignedLabel>,
    /// The prompts.
    pub n: usize,
}

/// One judge in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeSummary {
    /// Its name.
    pub name: String,
    /// The weight of its votes.
    pub weight: f64,
    /// Replies that could be read.
    pub n_replies: usize,
    /// Dimensions of these replies without a label of the set.
    pub n_without_label: usize,
    /// Names in these replies that are not labels of the set.
    pub n_unknown_labels: usize,
    /// Votes without a reply that could be read.
    pub n_failed: usize,
    /// Why, by how often.
    pub failures: BTreeMap<String, usize>,
}

/// Two judges on one dimension, over the prompts that both labelled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgePair {
    /// One.
    pub first: String,
    /// The other.
    pub second: String,
    /// The dimension.
    pub dimension: String,
    /// Their agreement.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// Votes against the labels that the data carry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The dimension.
    pub dimension: String,
    /// The judge; none where it is about all judges' votes together.
    pub judge: Option<String>,
    /// Prompts with a label in the data that judges were to label.
    pub n: usize,
    /// Prompts of them without a label of the judges: they count as wrong.
    pub n_without: usize,
    /// Share of `n` with the very label (or labels) of the data.
    pub accuracy: f64,
    /// What would be right always saying the most frequent label.
    pub most_frequent_share: f64,
}

impl Summary {
    /// Whether some judge left half of what it was asked, or more, without a reply that can be read.
    #[must_use]
    pub fn is_half_unanswered(&self) -> bool {
        self.judges.iter().any(|judge| is_half_unanswered(judge.n_replies, judge.n_failed))
    }
}

/// What a summary takes from the settings and the plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SummaryOptions {
    /// Labels below this confidence are in doubt.
    pub min_confidence: f64,
    /// Labels of fewer prompts are listed as rare.
    pub min_count: usize,
    /// Whether votes are compared with the labels that the data carry.
    pub compare: bool,
    /// Whether each dimension has a call of its own.
    pub per_dimension: bool,
    /// Prompts that judges were shown without their middle.
    pub n_cut: u64,
}

impl Labelling<'_> {
    /// The run in numbers. `rows` are those of [`Labelling::assign`].
    #[must_use]
    pub fn summarise(&self, answers: &Answers, rows: &[LabelledPrompt], options: &SummaryOptions) -> Summary {
        let judges: Vec<JudgeSummary> = self.judges.iter().zip(&answers.judges).map(judge_summary).collect();
        let combinations = combinations(rows);
        let is_doubtful =
            |row: &&LabelledPrompt| row.confidence.values().any(|&c| c < options.min_confidence);
        let dimensions = self.dimensions.iter();
        Summary {
            n_prompts: rows.len(),
            n_in_review: rows.iter().filter(is_doubtful).count(),
            n_unlabelled: rows.iter().filter(|row| !row.unlabelled.is_empty()).count(),
            n_cut: options.n_cut,
            dimensions: dimensions
                .map(|&dimension| self.dimension_summary(answers, rows, dimension, options.min_count))
                .collect(),
            n_combinations: combinations.len(),
            combinations: combinations.into_iter().take(MAX_LISTED).collect(),
            warnings: self.warnings(&judges, options.per_dimension),
            agreement: self.judge_pairs(answers),
            comparison: if options.compare { self.comparisons(answers) } else { Vec::new() },
            judges,
        }
    }

    fn dimension_summary(
        &self,
        answers: &Answers,
        rows: &[LabelledPrompt],
        dimension_idx: usize,
        min_count: usize,
    ) -> DimensionSummary {
        let dimension = &self.set.dimensions()[dimension_idx];
        let name = &dimension.name;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for assigned in rows.iter().filter_map(|row| row.labels.get(name)) {
            let labels = match assigned {
                AssignedLabel::One(label) => std::slice::from_ref(label),
                AssignedLabel::Several(labels) => labels.as_slice(),
            };
            labels.iter().for_each(|label| *counts.entry(label).or_default() += 1);
        }
        let count = |label: &str| counts.get(label).copied().unwrap_or(0);
        let rare = dimension.labels.iter().filter(|label| (1..min_count).contains(&count(&label.name)));
        let by_judges: Vec<f64> = rows
            .iter()
            .filter(|row| row.labelled_by.get(name) == Some(&LabelledBy::Judges))
            .map(|row| row.confidence[name])
            .collect();
        DimensionSummary {
            name: name.clone(),
            labels: dimension
                .labels
                .iter()
                .map(|label| LabelCount { label: label.name.clone(), n: count(&label.name) })
                .collect(),
            n_unlabelled: rows.iter().filter(|row| row.unlabelled.contains_key(name)).count(),
            mean_confidence: (!by_judges.is_empty())
                .then(|| by_judges.iter().sum::<f64>() / by_judges.len() as f64),
            rare: rare
                .map(|label| RareLabel {
                    label: label.name.clone(),
                    n: count(&label.name),
                    parent: label.parent.clone(),
                })
                .collect(),
            unknown_labels: self.unknown_labels(dimension_idx, &answers.unknown[dimension_idx]),
        }
    }

    fn unknown_labels(&self, dimension: usize, named: &BTreeMap<String, usize>) -> Vec<UnknownLabel> {
        let mut sorted: Vec<(&String, usize)> = named.iter().map(|(text, &n)| (text, n)).collect();
        sorted.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        let unknown = |(text, n): (&String, usize)| UnknownLabel {
            nearest: self.set.nearest(dimension, text).map(str::to_owned),
            text: text.clone(),
            n,
        };
        sorted.into_iter().take(MAX_LISTED).map(unknown).collect()
    }

    /// Agreement of every two judges on every dimension, over what both labelled.
    fn judge_pairs(&self, answers: &Answers) -> Vec<JudgePair> {
        let mut found = Vec::new();
        if self.judges.len() < 2 {
            return found;
        }
        for &dimension in self.dimensions {
            let labels = |judge: usize| -> Vec<Option<Vec<usize>>> {
                let of_prompt = |prompt| answers.decided(self.set, prompt, dimension, Some(judge));
                (0..self.prompts.len()).map(of_prompt).collect()
            };
            let by_judge: Vec<_> = (0..self.judges.len()).map(labels).collect();
            for (second, (second_name, _)) in self.judges.iter().enumerate() {
                for (first, (first_name, _)) in self.judges[..second].iter().enumerate() {
                    let both = by_judge[first].iter().zip(&by_judge[second]);
                    let both = both.filter_map(|(one, other)| Some((one.as_ref()?, other.as_ref()?)));
                    found.extend(agreement(both).map(|agreement| JudgePair {
                        first: first_name.clone(),
                        second: second_name.clone(),
                        dimension: self.set.dimensions()[dimension].name.clone(),
                        agreement,
                    }));
                }
            }
        }
        found
    }

    /// All judges together and each one, on every dimension that the data carry.
    fn comparisons(&self, answers: &Answers) -> Vec<Comparison> {
        let n_judges = self.judges.len();
        let mut found = Vec::new();
        for &dimension in self.dimensions {
            let together = std::iter::once(None);
            let each = (0..n_judges).map(Some).filter(|_| n_judges > 1);
            found.extend(together.chain(each).filter_map(|judge| self.comparison(answers, dimension, judge)));
        }
        found
    }

    fn comparison(&self, answers: &Answers, dimension: usize, judge: Option<usize>) -> Option<Comparison> {
        let (mut n, mut n_right, mut n_without) = (0_usize, 0_usize, 0_usize);
        let mut carried: BTreeMap<AssignedLabel, usize> = BTreeMap::new();
        for (place, prompt) in self.prompts.iter().enumerate() {
            let Some(expected) = &prompt.carried[dimension] else { continue };
            if !answers.was_asked(place, dimension, judge) {
                continue;
            }
            let decided = answers.decided(self.set, place, dimension, judge);
            n += 1;
            n_without += usize::from(decided.is_none());
            n_right += usize::from(decided.as_ref() == Some(expected));
            *carried.entry(named(self.set, dimension, expected)).or_default() += 1;
        }
        let most_frequent = carried.values().copied().max()?;
        Some(Comparison {
            dimension: self.set.dimensions()[dimension].name.clone(),
            judge: judge.map(|judge| self.judges[judge].0.clone()),
            n,
            n_without,
            accuracy: n_right as f64 / n as f64,
            most_frequent_share: most_frequent as f64 / n as f64,
        })
    }

    fn warnings(&self, judges: &[JudgeSummary], per_dimension: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        for judge in judges {
            let (name, n_asked) = (&judge.name, judge.n_replies + judge.n_failed);
            if n_asked > 0 && judge.n_replies == 0 {
                let reason = main_reason(&judge.failures);
                warnings.push(format!("{name}: no reply could be parsed: {reason}"));
            } else if judge.n_failed > 0 {
                warnings.push(format!(
                    "{name}: the replies to {} of {n_asked} requests could not be parsed: {}",
                    judge.n_failed,
                    main_reasons(&judge.failures)
                ));
            }
            let dimensions_of_reply = if per_dimension { 1 } else { self.dimensions.len() };
            let (n, n_answers) = (judge.n_without_label, judge.n_replies * dimensions_of_reply);
            let share = n as f64 / n_answers.max(1) as f64;
            if judge.n_replies >= FEWEST_TO_WARN && share >= OF_LITTLE_USE {
                warnings
                    .push(format!("in {n} of {n_answers} answers, {name} gives no label of the label set"));
            }
        }
        warnings
    }
}

fn judge_summary(((name, weight), counts): (&(String, f64), &JudgeCounts)) -> JudgeSummary {
    JudgeSummary {
        name: name.clone(),
        weight: *weight,
        n_replies: counts.n_replies,
        n_without_label: counts.n_without_label,
        n_unknown_labels: counts.n_unknown_labels,
        n_failed: counts.failures.values().sum(),
        failures: counts.failures.clone(),
    }
}

/// Most frequent first, then in the order of their labels.
fn combinations(rows: &[LabelledPrompt]) -> Vec<CombinationCount> {
    let mut counts: BTreeMap<&BTreeMap<String, AssignedLabel>, usize> = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(&row.labels).or_default() += 1);
    let mut counts: Vec<CombinationCount> =
        counts.into_iter().map(|(labels, n)| CombinationCount { labels: labels.clone(), n }).collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.n));
    counts
}
