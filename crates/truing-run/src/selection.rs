//! What a prompt selection leaves in its run folder, for people and for the report: what became of every row, the
//! templates that were found, the counts of each layer, and a map. Plain data; who decides and who draws lie elsewhere.
//!
//! | file | holds |
//! |---|---|
//! | [`PromptDecision::FILE_NAME`] | one [`PromptDecision`] a line, in row order |
//! | [`TemplateRow::FILE_NAME`] | one [`TemplateRow`] a line |
//! | [`SelectionSummary::FILE_NAME`] | the [`SelectionSummary`] |
//! | [`PromptMap::FILE_NAME`](truing_types::PromptMap::FILE_NAME) | the map, where vectors were at hand |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use truing_types::RowOrigin;

/// A step of the selection that drops rows, in the order in which they are taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum SelectionLayer {
    /// The row could not be read.
    Unreadable,
    /// A rule of cleaning forbids it.
    Cleaning {
        /// The rule's name.
        rule: String,
    },
    /// The same text, after normalisation.
    ExactDuplicate,
    /// Nearly the same text.
    NearDuplicate,
    /// Shares too much with an evaluation set.
    Contaminated {
        /// The set's file.
        evaluation_file: String,
    },
    /// Too near to another prompt in one layer of the diversity selection (report 3.1.2).
    Diversity {
        /// The layer, counted from 1.
        level: u32,
    },
    /// There are enough prompts with its label.
    Quota {
        /// The label's dimension.
        label: String,
        /// The label.
        value: String,
    },
    /// The selection has its size without it.
    TargetSize,
}

impl std::fmt::Display for SelectionLayer {
    /// As a person reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable => f.write_str("unreadable"),
            Self::Cleaning { rule } => write!(f, "cleaning: {rule}"),
            Self::ExactDuplicate => f.write_str("exact duplicate"),
            Self::NearDuplicate => f.write_str("near duplicate"),
            Self::Contaminated { evaluation_file } => write!(f, "contaminated: {evaluation_file}"),
            Self::Diversity { level } => write!(f, "diversity layer {level}"),
            Self::Quota { label, value } => write!(f, "quota: {label} = {value}"),
            Self::TargetSize => f.write_str("target size"),
        }
    }
}

/// Why a row is not part of the selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DroppedRow {
    /// The step that dropped it.
    pub layer: SelectionLayer,
    /// The threshold that it did not pass, in the layer's own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The row that represents it, by [`PromptDecision::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub representative: Option<u64>,
    /// What was measured, as a person reads it: `Jaccard 0.93`, `12 words of 13 shared`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Decision {
    /// It is part of the selection.
    Kept,
    /// It is not.
    Dropped(DroppedRow),
}

impl Decision {
    /// Why it was dropped, if it was.
    #[must_use]
    pub fn dropped(&self) -> Option<&DroppedRow> {
        match self {
            Self::Kept => None,
            Self::Dropped(dropped) => Some(dropped),
        }
    }
}

/// One row of the pool with everything that was found out about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptDecision {
    /// Number of the row in the pool, unique.
    pub id: u64,
    /// File and line.
    pub origin: RowOrigin,
    /// The prompt, or what could be read of it.
    pub text: String,
    /// Its length in characters (Unicode scalar values).
    pub n_characters: u64,
    /// Its language, as the language identifier names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Label by dimension: ability, domain, difficulty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its quality, in the quality model's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<f64>,
    /// Its coarse cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coarse_cluster: Option<u32>,
    /// Its fine cluster, unique over all coarse ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine_cluster: Option<u32>,
    /// Its task template, by [`TemplateRow::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<u32>,
    /// What became of it.
    pub decision: Decision,
}

impl PromptDecision {
    /// Name of the file in the run folder.
    pub const FILE_NAME: &'static str = "decisions.jsonl";
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplatePiece {
    /// Text that all its prompts share.
    Fixed(String),
    /// What each prompt fills in: the slot's number, counted from 1.
    Slot(u32),
}

/// A task template that was found in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRow {
    /// Unique.
    pub id: u32,
    /// Fixed text and slots in their order.
    pub pieces: Vec<TemplatePiece>,
    /// Prompts of the pool that have it.
    pub n_rows: u64,
    /// Those that were kept.
    pub n_kept: u64,
    /// What some prompts fill in `[example][slot - 1]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filler_examples: Vec<Vec<String>>,
}

impl TemplateRow {
    /// Name of the file in the run folder.
    pub const FILE_NAME: &'static str = "templates.jsonl";
}

/// A layer in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCount {
    /// The layer.
    pub layer: SelectionLayer,
    /// Rows that it dropped.
    pub n_dropped: u64,
    /// Its threshold, in its own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

/// A selection in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionSummary {
    /// Every setting, as it was used.
    pub settings: Value,
    /// Rows of the pool.
    pub n_rows: u64,
    /// Rows of the selection.
    pub n_kept: u64,
    /// Tasks that share the target; 0 where tasks decided nothing.
    #[serde(default)]
    pub n_tasks: u64,
    /// The layers in the order in which they were taken, those that dropped nothing included.
    pub layers: Vec<LayerCount>,
    /// Seed by purpose.
    #[serde(default)]
    pub seeds: BTreeMap<String, u64>,
    /// What a reader has to know: steps that were left out, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl SelectionSummary {
    /// Name of the file in the run folder.
    pub const FILE_NAME: &'static str = "summary.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_reads_as_it_was_written_and_says_what_it_means() {
        let decision = PromptDecision {
            id: 7,
            origin: RowOrigin { source: "pool.jsonl".into(), line: 8 },
            text: "Say </script>".into(),
            n_characters: 13,
            language: None,
            labels: [("ability".to_owned(), "code".to_owned())].into(),
            quality: Some(0.5),
            coarse_cluster: Some(1),
            fine_cluster: None,
            template: None,
            decision: Decision::Dropped(DroppedRow {
                layer: SelectionLayer::Diversity { level: 2 },
                threshold: Some(0.25),
                representative: Some(3),
                detail: String::new(),
            }),
        };
        let text = serde_json::to_string(&decision).unwrap();
        assert!(
            text.ends_with(concat!(
                r#""decision":{"outcome":"dropped","layer":{"name":"diversity","level":2},"#,
                r#""threshold":0.25,"representative":3}}"#,
            )),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<PromptDecision>(&text).unwrap(), decision);
        let kept = serde_json::to_string(&Decision::Kept).unwrap();
        assert_eq!(kept, r#"{"outcome":"kept"}"#);
        let misspelt = text.replace("n_characters", "n_chars");
        assert!(
            serde_json::from_str::<PromptDecision>(&misspelt).unwrap_err().to_string().contains("n_chars")
        );
    }

    #[test]
    fn layers_are_ordered_as_they_are_taken() {
        let layers = [
            SelectionLayer::Unreadable,
            SelectionLayer::Cleaning { rule: "too long".into() },
            SelectionLayer::ExactDuplicate,
            SelectionLayer::NearDuplicate,
            SelectionLayer::Contaminated { evaluation_file: "a.jsonl".into() },
            SelectionLayer::Diversity { level: 1 },
            SelectionLayer::Diversity { level: 2 },
            SelectionLayer::Quota { label: "domain".into(), value: "it".into() },
            SelectionLayer::TargetSize,
        ];
        assert!(layers.is_sorted());
        assert_eq!(layers[1].to_string(), "cleaning: too long");
    }
}
