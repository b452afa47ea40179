//! The answers in a text's outputs.

use std::collections::BTreeMap;

use super::{ClassifierSpec, OutputSpec, PartSpec};

/// What a model says of one part of a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The most likely label.
    Label {
        /// Its name.
        label: String,
        /// Its probability.
        confidence: f64,
    },
    /// The labels that are more likely than not.
    Labels {
        /// Their names.
        labels: Vec<String>,
        /// Probability of the least certain answer, of those about every label.
        confidence: f64,
    },
    /// A score in the unit of those trained on.
    Score(f64),
}

/// What a model says of a text, part by part.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Name and answer.
    pub answers: Vec<(String, Answer)>,
    /// Probability of every label, by dimension.
    pub probabilities: BTreeMap<String, BTreeMap<String, f64>>,
}

impl ClassifierSpec {
    /// The answers in a text's outputs `[n_outputs]`.
    #[must_use]
    pub fn read(&self, outputs: &[f32]) -> Prediction {
        let (mut answers, mut probabilities) = (Vec::new(), BTreeMap::new());
        for (part, outputs) in self.split(outputs) {
            if let Some(labels) = part.labels() {
                let of_labels = match part.outputs {
                    OutputSpec::OneLabel { .. } => softmax(outputs),
                    _ => outputs.iter().map(|&y| sigmoid(y)).collect(),
                };
                probabilities.insert(part.name.clone(), labels.iter().cloned().zip(of_labels).collect());
            }
            answers.push((part.name.clone(), part.answer(outputs)));
        }
        Prediction { answers, probabilities }
    }
}

impl PartSpec {
    fn answer(&self, outputs: &[f32]) -> Answer {
        match &self.outputs {
            OutputSpec::OneLabel { labels, .. } => {
                let place = largest(outputs);
                Answer::Label { label: labels[place].clone(), confidence: softmax(outputs)[place] }
            }
            OutputSpec::SeveralLabels { labels } => {
                let said = labels.iter().zip(outputs).filter(|(_, y)| **y > 0.0);
                let certainty = outputs.iter().map(|&y| sigmoid(y.abs()));
                Answer::Labels {
                    labels: said.map(|(label, _)| label.clone()).collect(),
                    confidence: certainty.fold(1.0, f64::min),
                }
            }
            OutputSpec::Score { mean, deviation } => Answer::Score(f64::from(outputs[0]) * deviation + mean),
        }
    }
}

/// Probabilities of labels of which one holds.
pub(super) fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&y| f64::from(y - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

/// Probability that a label holds, of labels of which each holds or not.
pub(super) fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// Place of the largest, of equals the first.
pub(super) fn largest(values: &[f32]) -> usize {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|&value| value == largest).unwrap_or(0)
}
