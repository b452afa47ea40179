//! What a search leaves behind: who was evaluated, on what, and how the chosen merge compares with its parents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_eval::benchmarks::MetricSummary;
use truing_eval::comparison::{Finding, MetricComparison};

use super::candidates::Candidate;

/// Who is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contestant {
    /// The base model.
    Base,
    /// One of the models to merge, by its place.
    Parent(usize),
    /// A merge.
    Merge(Candidate),
}

impl Contestant {
    /// The candidate, where it is a merge.
    pub(super) fn merge(&self) -> Option<&Candidate> {
        match self {
            Self::Merge(candidate) => Some(candidate),
            Self::Base | Self::Parent(_) => None,
        }
    }
}

/// A contestant on items of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AbilityScore {
    /// The task.
    pub task: String,
    /// Its main metric.
    pub summary: MetricSummary,
}

/// A contestant on all search items that it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRow {
    /// Who.
    pub contestant: Contestant,
    /// In words.
    pub label: String,
    /// Items over all tasks.
    pub n_items: usize,
    /// The objective on these items.
    pub objective: f64,
    /// The main metric of each task.
    pub abilities: Vec<AbilityScore>,
}

/// The chosen merge on the held-out items, compared with one parent on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The parent, by its place.
    pub parent: usize,
    /// Whether the task is this parent's own.
    pub is_own: bool,
    /// The parent is the first, the merge the second.
    pub comparison: MetricComparison,
    /// What difference these items could have shown, in words.
    #[serde(default)]
    pub resolution: String,
}

/// What a search leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRecord {
    /// The models that were merged.
    pub parents: Vec<String>,
    /// Task to the place of its own parent.
    pub own_parents: BTreeMap<String, usize>,
    /// All that was evaluated on search items, in the order of the last evaluation: base, parents, candidates.
    pub search: Vec<SearchRow>,
    /// The chosen merge, by its place in `search`.
    pub chosen: usize,
    /// Candidates that were compared on all search items.
    pub n_finalists: usize,
    /// The chosen merge compared with each parent on all search items.
    pub on_search: Vec<Confirmation>,
    /// Base, parents and the chosen merge on the held-out items.
    pub confirm: Vec<SearchRow>,
    /// The chosen merge compared with each parent there, corrected together.
    pub confirmations: Vec<Confirmation>,
    /// Expected amount by which the objective on the search items is too high because it was the reason for the choice.
    pub expected_optimism: Option<f64>,
}

impl SearchRecord {
    /// Objective on the search items less that on the others: what was lost.
    #[must_use]
    pub fn observed_loss(&self) -> Option<f64> {
        Some(self.search.get(self.chosen)?.objective - self.confirm.last()?.objective)
    }

    /// Tasks on which the merge is significantly worse than the task's own parent, on the held-out items.
    #[must_use]
    pub fn lost_abilities(&self) -> Vec<&str> {
        let is_worse = |one: &&Confirmation| one.is_own && one.comparison.finding() == Finding::FirstBetter;
        self.confirmations.iter().filter(is_worse).map(|one| one.comparison.task.as_str()).collect()
    }
}
