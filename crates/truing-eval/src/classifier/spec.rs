//! What a classifier's outputs mean: `classifier.json` beside its weights.

use std::path::Path;

use serde::{Deserialize, Serialize};
use truing_run::RunError;
use truing_train::{Classification, OutputPart, PartKind, SequenceHead};

const FORMAT_VERSION: u32 = 1;

/// The outputs of a head, part by part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierSpec {
    format_version: u32,
    /// Longest text that was trained on, in tokens; longer ones are cut.
    pub max_tokens: usize,
    /// The parts, which lie one after the other.
    pub parts: Vec<PartSpec>,
}

/// A dimension of labels, or a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartSpec {
    /// Its name.
    pub name: String,
    /// What its outputs mean.
    #[serde(flatten)]
    pub outputs: OutputSpec,
}

/// What a part's outputs mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OutputSpec {
    /// One of these labels holds.
    OneLabel {
        /// Their names.
        labels: Vec<String>,
        /// The one that most texts had.
        most_frequent: usize,
    },
    /// Each of these labels holds or not.
    SeveralLabels {
        /// Their names.
        labels: Vec<String>,
    },
    /// A number: the output times the deviation, plus the mean.
    Score {
        /// Mean of the scores that were trained on.
        mean: f64,
        /// Their deviation.
        deviation: f64,
    },
}

impl PartSpec {
    /// Number of outputs.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.labels().map_or(1, <[String]>::len)
    }

    /// Its labels, unless it is a score.
    #[must_use]
    pub fn labels(&self) -> Option<&[String]> {
        match &self.outputs {
            OutputSpec::OneLabel { labels, .. } | OutputSpec::SeveralLabels { labels } => Some(labels),
            OutputSpec::Score { .. } => None,
        }
    }
}

impl ClassifierSpec {
    /// The file beside the weights.
    pub const FILE_NAME: &'static str = "classifier.json";

    /// Of these parts.
    #[must_use]
    pub fn new(max_tokens: usize, parts: Vec<PartSpec>) -> Self {
        Self { format_version: FORMAT_VERSION, max_tokens, parts }
    }

    /// Reads the file of a model's directory.
    ///
    /// # Errors
    /// When there is none, or it cannot be understood.
    pub fn open(directory: &Path) -> Result<Self, RunError> {
        let path = directory.join(Self::FILE_NAME);
        let bad = |problem: String| RunError::NotAClassifier { path: path.clone(), problem };
        if !path.is_file() {
            let problem = format!("has no {}", Self::FILE_NAME);
            return Err(RunError::NotAClassifier { path: directory.to_path_buf(), problem });
        }
        let text = std::fs::read(&path).map_err(|source| RunError::Read { path: path.clone(), source })?;
        let spec: Self =
            serde_json::from_slice(&text).map_err(|error| bad(format!("cannot be understood: {error}")))?;
        if spec.format_version != FORMAT_VERSION {
            return Err(bad(format!("has format version {}, not {FORMAT_VERSION}", spec.format_version)));
        }
        let is_empty = |part: &PartSpec| part.labels().is_some_and(<[String]>::is_empty);
        if spec.parts.is_empty() || spec.parts.iter().any(is_empty) {
            return Err(bad("has a part without outputs".into()));
        }
        Ok(spec)
    }

    /// Whether the outputs mean the same in both: names, kinds and labels in the same order.
    #[must_use]
    pub fn has_the_outputs_of(&self, other: &Self) -> bool {
        let kind = |part: &PartSpec| std::mem::discriminant(&part.outputs);
        let is_same = |(a, b): (&PartSpec, &PartSpec)| {
            a.name == b.name && kind(a) == kind(b) && a.labels() == b.labels()
        };
        self.parts.len() == other.parts.len() && self.parts.iter().zip(&other.parts).all(is_same)
    }

    /// The file's content.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, RunError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|source| RunError::Json { name: Self::FILE_NAME, source })?;
        text.push(b'\n');
        Ok(text)
    }

    /// Outputs of all parts.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.parts.iter().map(PartSpec::n_outputs).sum()
    }

    /// The loss on the outputs of a head.
    #[must_use]
    pub fn objective(&self, head: SequenceHead) -> Classification {
        let mut end = 0;
        let parts = self.parts.iter().map(|part| {
            let start = end;
            end += part.n_outputs();
            let kind = match part.outputs {
                OutputSpec::OneLabel { .. } => PartKind::OneLabel,
                OutputSpec::SeveralLabels { .. } => PartKind::SeveralLabels,
                OutputSpec::Score { .. } => PartKind::Score,
            };
            OutputPart { name: part.name.clone(), kind, outputs: start..end }
        });
        Classification::new(parts.collect(), head)
    }

    /// A name for each output: the labels, or `dimension=label` where there are several parts.
    #[must_use]
    pub fn output_names(&self) -> Vec<String> {
        let is_alone = self.parts.len() == 1;
        let of_part = |part: &PartSpec| -> Vec<String> {
            match part.labels() {
                Some(labels) if is_alone => labels.to_vec(),
                Some(labels) => labels.iter().map(|label| format!("{}={label}", part.name)).collect(),
                None => vec![part.name.clone()],
            }
        };
        self.parts.iter().flat_map(of_part).collect()
    }

    /// A text's outputs, part by part.
    pub(super) fn split<'a>(&'a self, outputs: &'a [f32]) -> impl Iterator<Item = (&'a PartSpec, &'a [f32])> {
        let mut rest = outputs;
        self.parts.iter().map(move |part| {
            let (own, after) = rest.split_at(part.n_outputs());
            rest = after;
            (part, own)
        })
    }
}
