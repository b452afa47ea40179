//! The loss of a classifier or scorer: outputs of a head, cut into parts.
//!
//! ```text
//! L = sum over parts of  sum_i w_i l_i / sum_i w_i
//!
//! one label      l = -log softmax(y)[label]
//! several        l = mean over labels of -log sigma(y_k) where k is among the text's, -log sigma(-y_k) where not
//! score          l = (y - s)^2
//! ```
//!
//! A text may lack a part: it is then in neither sum of that part, so each part has a denominator of its own, and both
//! sums run over the whole step before one division. Everything runs in f64: it is little beside the model.

use std::collections::BTreeMap;
use std::ops::Range;

use truing_model::{HeadGradient, HeadOutput, HeadRequest};
use truing_types::PackedBatch;

use super::{Objective, SequenceHead, TrainingPack, WeightedSum};

/// What a part's outputs mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// Logits of labels of which one holds.
    OneLabel,
    /// Logits of labels of which each holds or not.
    SeveralLabels,
    /// One number.
    Score,
}

/// Some of the outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPart {
    /// Before the names of its metrics.
    pub name: String,
    /// What they mean.
    pub kind: PartKind,
    /// Which they are.
    pub outputs: Range<usize>,
}

/// What a text's outputs of a part should say.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Target {
    /// It is not known.
    #[default]
    Missing,
    /// This label.
    Label(u32),
    /// These labels and no others.
    Labels(Vec<u32>),
    /// This number.
    Score(f32),
}

/// A target and how much it counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PartTarget {
    /// What the outputs should say.
    pub target: Target,
    /// Its weight in the loss, above 0.
    pub loss_weight: f32,
}

/// Texts, one a sequence, and what is known of them.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassificationPack {
    /// The tokens.
    pub batch: PackedBatch,
    /// Of each part, in the parts' order `[n_sequences][n_parts]`.
    pub targets: Vec<Vec<PartTarget>>,
}

impl TrainingPack for ClassificationPack {
    fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

/// The objective.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classification {
    head: SequenceHead,
    parts: Vec<OutputPart>,
    n_outputs: usize,
    /// Two a part: loss and accuracy, the latter of labels alone.
    metric_names: Vec<String>,
}

impl OutputPart {
    /// Loss of a text, where its target is known.
    fn loss(&self, outputs: &[f32], target: &Target) -> Option<f64> {
        let outputs = &outputs[self.outputs.clone()];
        match target {
            Target::Missing => None,
            Target::Label(label) => Some(log_sum_exp(outputs) - f64::from(outputs[*label as usize])),
            Target::Labels(labels) => {
                let losses = outputs.iter().enumerate().map(|(k, &y)| {
                    let holds = labels.contains(&(k as u32));
                    softplus(if holds { -f64::from(y) } else { f64::from(y) })
                });
                Some(losses.sum::<f64>() / outputs.len() as f64)
            }
            Target::Score(score) => Some((f64::from(outputs[0]) - f64::from(*score)).powi(2)),
        }
    }

    /// Adds `factor` times the gradient of a text's loss.
    fn add_gradient(&self, outputs: &[f32], target: &Target, factor: f64, gradient: &mut [f64]) {
        let (outputs, gradient) = (&outputs[self.outputs.clone()], &mut gradient[self.outputs.clone()]);
        match target {
            Target::Missing => {}
            Target::Label(label) => {
                let total = log_sum_exp(outputs);
                for (d, &y) in gradient.iter_mut().zip(outputs) {
                    *d += factor * (f64::from(y) - total).exp();
                }
                gradient[*label as usize] -= factor;
            }
            Target::Labels(labels) => {
                let share = factor / outputs.len() as f64;
                for (k, (d, &y)) in gradient.iter_mut().zip(outputs).enumerate() {
                    let holds = f64::from(u8::from(labels.contains(&(k as u32))));
                    *d += share * (sigmoid(f64::from(y)) - holds);
                }
            }
            Target::Score(score) => gradient[0] += factor * 2.0 * (f64::from(outputs[0]) - f64::from(*score)),
        }
    }

    /// Whether the outputs say what the target says; of a score nothing.
    fn is_right(&self, outputs: &[f32], target: &Target) -> Option<bool> {
        let outputs = &outputs[self.outputs.clone()];
        match target {
            Target::Missing | Target::Score(_) => None,
            Target::Label(label) => {
                // The first of equals, as everywhere that an answer is read.
                let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                Some(outputs.iter().position(|&y| y == largest) == Some(*label as usize))
            }
            Target::Labels(labels) => {
                Some(outputs.iter().enumerate().all(|(k, &y)| (y > 0.0) == labels.contains(&(k as u32))))
            }
        }
    }
}

impl Classification {
    /// Of these parts, which lie one after the other, on the outputs of a head.
    ///
    /// # Panics
    /// When they do not.
    #[must_use]
    pub fn new(parts: Vec<OutputPart>, head: SequenceHead) -> Self {
        let n_outputs = parts.iter().fold(0, |end, part| {
            assert_eq!(part.outputs.start, end, "parts lie one after the other");
            part.outputs.end
        });
        let names = |part: &OutputPart| ["loss", "accuracy"].map(|metric| format!("{}_{metric}", part.name));
        Self { head, metric_names: parts.iter().flat_map(names).collect(), n_outputs, parts }
    }

    /// Outputs of a text.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    fn denominators_of(&self, pack: &ClassificationPack) -> Vec<f64> {
        let mut denominators = vec![0.0; self.parts.len()];
        for targets in &pack.targets {
            for (denominator, target) in denominators.iter_mut().zip(targets) {
                if target.target != Target::Missing {
                    *denominator += f64::from(target.loss_weight);
                }
            }
        }
        denominators
    }

    /// The gradient at `outputs` `[n_texts, n_outputs]`.
    fn gradient_of(&self, targets: &[Vec<PartTarget>], outputs: &[f32], denominators: &[f64]) -> Vec<f32> {
        let mut gradient = vec![0.0_f64; outputs.len()];
        let rows = outputs.chunks_exact(self.n_outputs).zip(gradient.chunks_exact_mut(self.n_outputs));
        for ((outputs, gradient), targets) in rows.zip(targets) {
            for ((part, target), denominator) in self.parts.iter().zip(targets).zip(denominators) {
                if target.target != Target::Missing {
                    let factor = f64::from(target.loss_weight) / denominator;
                    part.add_gradient(outputs, &target.target, factor, gradient);
                }
            }
        }
        gradient.into_iter().map(|d| d as f32).collect()
    }

    fn measure_of(&self, targets: &[Vec<PartTarget>], outputs: &[f32]) -> Vec<WeightedSum> {
        let mut sums = vec![WeightedSum::default(); self.metric_names.len()];
        for (outputs, targets) in outputs.chunks_exact(self.n_outputs).zip(targets) {
            for ((part, target), sums) in self.parts.iter().zip(targets).zip(sums.chunks_exact_mut(2)) {
                let is_right = part.is_right(outputs, &target.target);
                let accuracy = is_right.map(|is_right| f64::from(u8::from(is_right)));
                let values = [part.loss(outputs, &target.target), accuracy];
                for (sum, value) in sums.iter_mut().zip(values) {
                    if let Some(value) = value {
                        sum.numerator += f64::from(target.loss_weight) * value;
                        sum.denominator += f64::from(target.loss_weight);
                    }
                }
            }
        }
        sums
    }

    fn total(&self, means: &BTreeMap<String, f64>) -> f64 {
        // A part that no text of the step has is 0 / 0.
        let has_part = |mean: &&f64| !mean.is_nan();
        let losses = self.metric_names.iter().step_by(2).filter_map(|name| means.get(name).filter(has_part));
        losses.copied().reduce(|a, b| a + b).unwrap_or(f64::NAN)
    }
}

impl Objective for Classification {
    type Pack = ClassificationPack;

    fn request<'a>(&self, pack: &'a ClassificationPack) -> HeadRequest<'a> {
        self.head.request(&pack.batch)
    }

    fn denominators(&self, pack: &ClassificationPack, _request: &HeadRequest<'_>) -> Vec<f64> {
        self.denominators_of(pack)
    }

    fn gradient(
        &self,
        pack: &ClassificationPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        self.head.gradient(self.gradient_of(&pack.targets, self.head.values(output), denominators))
    }

    fn metric_names(&self) -> Vec<&str> {
        self.metric_names.iter().map(String::as_str).collect()
    }

    fn measure(
        &self,
        pack: &ClassificationPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        self.measure_of(&pack.targets, self.head.values(output))
    }

    fn loss(&self, means: &BTreeMap<String, f64>) -> f64 {
        self.total(means)
    }
}

/// `log sum exp(y)` without overflow; not a number where an output is none.
fn log_sum_exp(outputs: &[f32]) -> f64 {
    let largest = outputs.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)));
    largest + outputs.iter().map(|&y| (f64::from(y) - largest).exp()).sum::<f64>().ln()
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_model::Pooling;
    use truing_types::RowOrigin;

    fn objective() -> Classification {
        objective_on(SequenceHead::LastTokenScores)
    }

    fn objective_on(head: SequenceHead) -> Classification {
        let part = |name: &str, kind, outputs| OutputPart { name: name.into(), kind, outputs };
        let parts = vec![
            part("ability", PartKind::OneLabel, 0..3),
            part("language", PartKind::SeveralLabels, 3..5),
            part("quality", PartKind::Score, 5..6),
        ];
        Classification::new(parts, head)
    }

    fn pack_of(targets: Vec<Vec<PartTarget>>) -> ClassificationPack {
        let origin = |line| RowOrigin { source: "t".into(), line };
        let tokens = [1_u32, 2];
        let sequences = (0..targets.len()).map(|i| (&tokens[..], &[0.0, 0.0][..], origin(i as u64 + 1)));
        ClassificationPack { batch: PackedBatch::new(sequences).unwrap(), targets }
    }

    fn some(target: Target, loss_weight: f32) -> PartTarget {
        PartTarget { target, loss_weight }
    }

    fn example() -> (ClassificationPack, Vec<f32>) {
        let missing = PartTarget::default;
        let targets = vec![
            vec![some(Target::Label(1), 1.0), some(Target::Labels(vec![0]), 1.0), missing()],
            vec![some(Target::Label(2), 0.5), missing(), some(Target::Score(-0.4), 1.0)],
            vec![missing(), some(Target::Labels(Vec::new()), 0.25), some(Target::Score(1.5), 0.75)],
        ];
        let outputs = (0..18).map(|i| (i as f32 * 1.9).sin() * 2.0).collect();
        (pack_of(targets), outputs)
    }

    fn loss(objective: &Classification, pack: &ClassificationPack, outputs: &[f32]) -> f64 {
        let sums = objective.measure_of(&pack.targets, outputs);
        let means = sums.iter().map(|sum| sum.numerator / sum.denominator);
        let names = objective.metric_names.iter().cloned();
        objective.total(&names.zip(means).collect())
    }

    #[test]
    fn the_gradient_equals_finite_differences() {
        let (objective, (pack, outputs)) = (objective(), example());
        let denominators = objective.denominators_of(&pack);
        assert_eq!(denominators, [1.5, 1.25, 1.75]);
        let gradient = objective.gradient_of(&pack.targets, &outputs, &denominators);
        for (i, &closed_form) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut outputs = outputs.clone();
                outputs[i] += by;
                (f64::from(outputs[i]), loss(&objective, &pack, &outputs))
            };
            let ((above, high), (below, low)) = (moved(1.0 / 512.0), moved(-1.0 / 512.0));
            let slope = (high - low) / (above - below);
            assert!((f64::from(closed_form) - slope).abs() < 1e-5, "{i}: {closed_form} and {slope}");
        }
        assert!(gradient[5] == 0.0 && gradient[9..11] == [0.0, 0.0], "what is missing teaches nothing");
        let output = HeadOutput { scores: outputs.clone(), ..HeadOutput::default() };
        let request = objective.request(&pack);
        assert_eq!(request.rows(), [1, 3, 5], "the last row of each text");
        let of_scores = objective.gradient(&pack, &request, &output, &denominators);
        let pooled = objective_on(SequenceHead::Vectors { pooling: Pooling::Mean, is_normalized: false });
        let output = HeadOutput { vectors: outputs.clone(), ..HeadOutput::default() };
        let request = pooled.request(&pack);
        assert_eq!(request.rows(), [0, 2, 4], "the first row of each text");
        let of_vectors = pooled.gradient(&pack, &request, &output, &denominators);
        assert_eq!((&of_scores.scores, of_scores.vectors.len()), (&gradient, 0));
        assert_eq!(
            (&of_vectors.vectors, of_vectors.scores.len()),
            (&gradient, 0),
            "the same loss on either head"
        );
    }

    #[test]
    fn values_are_those_worked_out_by_hand() {
        let objective = objective();
        let missing = PartTarget::default;
        let outputs = [0.0, 0.0, 2.0_f32.ln(), 0.0, 0.0, 1.0];
        let check = |targets: Vec<PartTarget>, expected: f64| {
            let found = loss(&objective, &pack_of(vec![targets]), &outputs);
            assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        };
        check(vec![some(Target::Label(2), 1.0), missing(), missing()], 2.0_f64.ln());
        check(vec![some(Target::Label(0), 3.0), missing(), missing()], 4.0_f64.ln());
        check(vec![missing(), some(Target::Labels(vec![1]), 1.0), missing()], 2.0_f64.ln());
        check(vec![missing(), missing(), some(Target::Score(0.5), 1.0)], 0.25);
        let all = vec![
            some(Target::Label(2), 1.0),
            some(Target::Labels(vec![1]), 1.0),
            some(Target::Score(0.5), 1.0),
        ];
        check(all, 2.0 * 2.0_f64.ln() + 0.25);
    }

    #[test]
    fn the_gradient_does_not_depend_on_how_a_step_is_cut() {
        let (objective, (pack, outputs)) = (objective(), example());
        let denominators = objective.denominators_of(&pack);
        let together = objective.gradient_of(&pack.targets, &outputs, &denominators);
        let apart: Vec<f32> = pack
            .targets
            .iter()
            .zip(outputs.chunks(6))
            .flat_map(|(targets, outputs)| {
                objective.gradient_of(std::slice::from_ref(targets), outputs, &denominators)
            })
            .collect();
        assert_eq!(together, apart);
    }

    #[test]
    fn accuracy_counts_answers_that_are_right_in_full() {
        let objective = objective();
        let targets = |label: u32, labels: &[u32]| {
            let several = some(Target::Labels(labels.to_vec()), 1.0);
            vec![some(Target::Label(label), 1.0), several, some(Target::Score(0.0), 1.0)]
        };
        let pack = pack_of(vec![targets(0, &[0]), targets(1, &[0, 1]), targets(2, &[])]);
        let row = [1.0, 1.0, 0.5, 2.0, -1.0, 0.0];
        let outputs = [row; 3].concat();
        let sums = objective.measure_of(&pack.targets, &outputs);
        let accuracy = |part: usize| (sums[2 * part + 1].numerator, sums[2 * part + 1].denominator);
        assert_eq!(accuracy(0), (1.0, 3.0), "of equals the first");
        assert_eq!(accuracy(1), (1.0, 3.0));
        assert_eq!(accuracy(2), (0.0, 0.0), "a score is neither right nor wrong");
    }

    #[test]
    fn a_broken_output_is_not_hidden() {
        let (objective, (pack, mut outputs)) = (objective(), example());
        for i in [0, 3, 11] {
            let kept = std::mem::replace(&mut outputs[i], f32::NAN);
            let sums = objective.measure_of(&pack.targets, &outputs);
            assert!(sums.iter().any(|sum| sum.numerator.is_nan()), "output {i}");
            outputs[i] = kept;
        }
    }
}
