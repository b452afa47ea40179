//! The accuracy of a classifier or scorer on held-out texts: written by its stage, read by the report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_statistics::ShareInterval;

use crate::interval::interval_or_half_width;
use crate::reward::CalibrationBin;

/// One label in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LabelMetrics {
    /// Its name.
    pub label: String,
    /// Texts that have it.
    pub support: u64,
    /// Texts that are said to have it.
    pub n_predicted: u64,
    /// Share of those that have it among those that are said to; none where no text is.
    pub precision: Option<f64>,
    /// Share of those that are said to have it among those that do; none where no text has it.
    pub recall: Option<f64>,
    /// Harmonic mean of the two; 0 where no text is right, none where no text has the label or is said to have it.
    pub f1: Option<f64>,
}

/// One dimension of labels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DimensionEvaluation {
    /// Its name.
    pub name: String,
    /// Whether a text may have several labels of it.
    pub has_several: bool,
    /// Texts whose labels are known.
    pub n_texts: u64,
    /// Share of texts whose labels are all right.
    pub accuracy: Option<f64>,
    /// The accuracy's 95 % interval (Wilson).
    #[serde(default, deserialize_with = "interval_or_half_width")]
    pub accuracy_interval: Option<ShareInterval>,
    /// What always saying the training data's most frequent label would reach; of one label alone.
    pub baseline_accuracy: Option<f64>,
    /// Mean F1 of the labels that some text has or is said to have.
    pub macro_f1: Option<f64>,
    /// Mean distance of confidence and accuracy, weighted by answers (expected calibration error, ten bins of equal
    /// width; of several labels each label is an answer).
    pub calibration_error: Option<f64>,
    /// Answers by confidence.
    pub calibration: Vec<CalibrationBin>,
    /// The labels, in the model's order.
    pub labels: Vec<LabelMetrics>,
    /// Texts by true label (row) and predicted label (column); of one label alone.
    pub confusion: Vec<Vec<u64>>,
}

/// One score.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScoreEvaluation {
    /// Its name.
    pub name: String,
    /// Texts whose score is known.
    pub n_texts: u64,
    /// Pearson's correlation of predicted and given scores.
    pub pearson: Option<f64>,
    /// Spearman's.
    pub spearman: Option<f64>,
    /// Mean squared error, in the square of the scores' unit.
    pub mean_squared_error: Option<f64>,
    /// That of always saying the training data's mean.
    pub baseline_squared_error: Option<f64>,
    /// Share of pairs with different scores that are in the right order; half for equal predictions.
    pub order_accuracy: Option<f64>,
    /// Share of texts in the right third, predicted and given scores each cut into their own thirds.
    pub level_accuracy: Option<f64>,
    /// Tenths of the texts by predicted score: mean prediction, mean given score.
    pub calibration: Vec<(f64, f64)>,
}

/// All of a model's dimensions and scores.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClassifierEvaluation {
    /// Optimiser steps taken.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// Dimensions of labels.
    pub dimensions: Vec<DimensionEvaluation>,
    /// Scores.
    pub scores: Vec<ScoreEvaluation>,
}

impl ClassifierEvaluation {
    /// Name of the file in a run's folder: the evaluation of the saved model.
    pub const FILE_NAME: &'static str = "evaluation.json";
    /// Name of the file in a run's folder: every evaluation, one a line.
    pub const LOG_NAME: &'static str = "evaluations.jsonl";

    /// As metrics by name.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let of_dimensions = self.dimensions.iter().flat_map(|d| {
            let values = [
                ("accuracy", d.accuracy),
                ("macro_f1", d.macro_f1),
                ("calibration_error", d.calibration_error),
            ];
            values.map(|(metric, value)| (format!("{}_{metric}", d.name), value))
        });
        let of_scores = self.scores.iter().flat_map(|s| {
            let values = [
                ("pearson", s.pearson),
                ("spearman", s.spearman),
                ("mean_squared_error", s.mean_squared_error),
                ("order_accuracy", s.order_accuracy),
                ("level_accuracy", s.level_accuracy),
            ];
            values.map(|(metric, value)| (format!("{}_{metric}", s.name), value))
        });
        of_dimensions.chain(of_scores).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}
