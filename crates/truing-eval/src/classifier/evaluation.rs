//! How right outputs are where the targets are known.

use truing_statistics::{ShareInterval, pearson, ranks, spearman};
use truing_train::{PartTarget, Target};

use super::answer::{largest, sigmoid, softmax};
use super::{
    ClassifierEvaluation, ClassifierSpec, DimensionEvaluation, LabelMetrics, OutputSpec, PartSpec,
    ScoreEvaluation,
};
use crate::reward::CalibrationBin;

const N_BINS: usize = 10;
const N_LEVELS: usize = 3;
/// Texts whose pairs are compared; of more, these are spread evenly.
const MAX_COMPARED: usize = 2000;

/// Compares outputs with targets. `targets` has those of each text, part by part; `outputs` has packs, each with the
/// numbers of its texts and their outputs `[n_texts, n_outputs]`.
#[must_use]
pub fn evaluate<S: AsRef<[u32]>>(
    spec: &ClassifierSpec,
    targets: &[Vec<PartTarget>],
    outputs: &[(S, Vec<f32>)],
    loss: f64,
) -> ClassifierEvaluation {
    let width = spec.n_outputs();
    let of_texts =
        outputs.iter().flat_map(|(texts, outputs)| texts.as_ref().iter().zip(outputs.chunks_exact(width)));
    let texts: Vec<(&Vec<PartTarget>, &[f32])> =
        of_texts.map(|(&text, outputs)| (&targets[text as usize], outputs)).collect();
    let mut found = ClassifierEvaluation { loss, ..ClassifierEvaluation::default() };
    let mut start = 0;
    for (place, part) in spec.parts.iter().enumerate() {
        let range = start..start + part.n_outputs();
        start = range.end;
        let known: Vec<(&Target, &[f32])> = texts
            .iter()
            .map(|(targets, outputs)| (&targets[place].target, &outputs[range.clone()]))
            .filter(|(target, _)| **target != Target::Missing)
            .collect();
        match &part.outputs {
            OutputSpec::OneLabel { labels, most_frequent } => {
                found.dimensions.push(one_label(part, labels, *most_frequent, &known));
            }
            OutputSpec::SeveralLabels { labels } => {
                found.dimensions.push(several_labels(part, labels, &known))
            }
            OutputSpec::Score { mean, deviation } => {
                let pairs = known.iter().filter_map(|(target, outputs)| match target {
                    Target::Score(given) => Some((f64::from(outputs[0]), f64::from(*given))),
                    _ => None,
                });
                let in_unit = |x: f64| x * deviation + mean;
                let pairs = pairs.map(|(predicted, given)| (in_unit(predicted), in_unit(given))).collect();
                found.scores.push(score(&part.name, *mean, pairs));
            }
        }
    }
    found
}

/// Answers of some confidence, right or wrong.
#[derive(Default)]
struct Calibration {
    /// Sum of confidences, of right answers, number.
    bins: [(f64, f64, u64); N_BINS],
}

impl Calibration {
    fn add(&mut self, confidence: f64, is_right: bool) {
        let bin = &mut self.bins[((confidence * N_BINS as f64) as usize).min(N_BINS - 1)];
        *bin = (bin.0 + confidence, bin.1 + f64::from(u8::from(is_right)), bin.2 + 1);
    }

    fn bins(&self) -> Vec<CalibrationBin> {
        let filled = self.bins.iter().filter(|bin| bin.2 > 0);
        filled
            .map(|&(predicted, observed, n)| CalibrationBin {
                predicted: predicted / n as f64,
                observed: observed / n as f64,
                n,
            })
            .collect()
    }

    /// Guo et al. 2017 (arXiv 1706.04599), Eq. 3.
    fn error(&self) -> Option<f64> {
        let total: u64 = self.bins.iter().map(|bin| bin.2).sum();
        let distance: f64 = self.bins.iter().map(|bin| (bin.0 - bin.1).abs()).sum();
        (total > 0).then(|| distance / total as f64)
    }
}

fn share(n: usize, total: usize) -> Option<f64> {
    (total > 0).then(|| n as f64 / total as f64)
}

fn label_metrics(label: &str, n_right: u64, n_predicted: u64, support: u64) -> LabelMetrics {
    let of = |total: u64| (total > 0).then(|| n_right as f64 / total as f64);
    LabelMetrics {
        label: label.to_owned(),
        support,
        n_predicted,
        precision: of(n_predicted),
        recall: of(support),
        // 0 for a label that was predicted and is never true, as scikit-learn counts it.
        f1: of(n_predicted + support).map(|share| 2.0 * share),
    }
}

/// The mean over the labels that are true or predicted somewhere, as scikit-learn's `average="macro"`.
fn macro_f1(labels: &[LabelMetrics]) -> Option<f64> {
    let known: Vec<f64> = labels.iter().filter_map(|label| label.f1).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

fn one_label(
    part: &PartSpec,
    labels: &[String],
    most_frequent: usize,
    known: &[(&Target, &[f32])],
) -> DimensionEvaluation {
    let mut confusion = vec![vec![0_u64; labels.len()]; labels.len()];
    let mut calibration = Calibration::default();
    let (mut n_right, mut n_baseline) = (0, 0);
    for (target, outputs) in known {
        let Target::Label(truth) = target else { continue };
        let (truth, predicted) = (*truth as usize, largest(outputs));
        confusion[truth][predicted] += 1;
        calibration.add(softmax(outputs)[predicted], truth == predicted);
        n_right += usize::from(truth == predicted);
        n_baseline += usize::from(truth == most_frequent);
    }
    let metrics: Vec<LabelMetrics> = labels
        .iter()
        .enumerate()
        .map(|(k, label)| {
            let n_predicted = confusion.iter().map(|row| row[k]).sum();
            label_metrics(label, confusion[k][k], n_predicted, confusion[k].iter().sum())
        })
        .collect();
    let accuracy = share(n_right, known.len());
    DimensionEvaluation {
        name: part.name.clone(),
        has_several: false,
        n_texts: known.len() as u64,
        accuracy,
        accuracy_interval: accuracy.and_then(|share| ShareInterval::wilson(share, known.len() as f64)),
        baseline_accuracy: share(n_baseline, known.len()),
        macro_f1: macro_f1(&metrics),
        calibration_error: calibration.error(),
        calibration: calibration.bins(),
        labels: metrics,
        confusion,
    }
}

fn several_labels(part: &PartSpec, labels: &[String], known: &[(&Target, &[f32])]) -> DimensionEvaluation {
    // Right, predicted, true, by label.
    let mut counts = vec![[0_u64; 3]; labels.len()];
    let mut calibration = Calibration::default();
    let mut n_right = 0;
    for (target, outputs) in known {
        let Target::Labels(truth) = target else { continue };
        let mut all_right = true;
        for (k, (&output, counts)) in outputs.iter().zip(&mut counts).enumerate() {
            let (is_true, is_said) = (truth.contains(&(k as u32)), output > 0.0);
            let adds = [is_true && is_said, is_said, is_true];
            counts.iter_mut().zip(adds).for_each(|(count, add)| *count += u64::from(add));
            let probability = sigmoid(output);
            calibration.add(probability.max(1.0 - probability), is_true == is_said);
            all_right &= is_true == is_said;
        }
        n_right += usize::from(all_right);
    }
    let metrics: Vec<LabelMetrics> = labels
        .iter()
        .zip(&counts)
        .map(|(label, &[right, said, truth])| label_metrics(label, right, said, truth))
        .collect();
    let accuracy = share(n_right, known.len());
    DimensionEvaluation {
        name: part.name.clone(),
        has_several: true,
        n_texts: known.len() as u64,
        accuracy,
        accuracy_interval: accuracy.and_then(|share| ShareInterval::wilson(share, known.len() as f64)),
        baseline_accuracy: None,
        macro_f1: macro_f1(&metrics),
        calibration_error: calibration.error(),
        calibration: calibration.bins(),
        labels: metrics,
        confusion: Vec::new(),
    }
}

/// Pairs of predicted and given scores, in the scores' unit.
fn score(name: &str, mean: f64, mut pairs: Vec<(f64, f64)>) -> ScoreEvaluation {
    let n = pairs.len();
    if n == 0 {
        return ScoreEvaluation { name: name.to_owned(), ..ScoreEvaluation::default() };
    }
    let (predicted, given): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let mean_square =
        |errors: &mut dyn Iterator<Item = f64>| Some(errors.map(|e| e * e).sum::<f64>() / n as f64);
    let (levels, truths) = (levels(&predicted), levels(&given));
    let n_right = levels.iter().zip(&truths).filter(|(a, b)| a == b).count();
    let order_accuracy = order_accuracy(&pairs);
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let tenth = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    ScoreEvaluation {
        name: name.to_owned(),
        n_texts: n as u64,
        pearson: pearson(&predicted, &given),
        spearman: spearman(&predicted, &given),
        mean_squared_error: mean_square(&mut predicted.iter().zip(&given).map(|(p, g)| p - g)),
        baseline_squared_error: mean_square(&mut given.iter().map(|g| mean - g)),
        order_accuracy,
        level_accuracy: (n >= N_LEVELS).then(|| n_right as f64 / n as f64),
        calibration: pairs.chunks(n.div_ceil(N_BINS)).map(tenth).collect(),
    }
}

/// Which third of all each value is in. Equal values are in one third, that of their middle.
fn levels(values: &[f64]) -> Vec<usize> {
    let n = values.len();
    let ranks = ranks(values);
    ranks
        .iter()
        .map(|rank| ((rank + 0.5) * N_LEVELS as f64 / n as f64) as usize)
        .map(|l| l.min(N_LEVELS - 1))
        .collect()
}

/// Share of pairs of different given scores that are predicted in the right order; half for equal predictions.
fn order_accuracy(pairs: &[(f64, f64)]) -> Option<f64> {
    let step = pairs.len().div_ceil(MAX_COMPARED).max(1);
    let some: Vec<(f64, f64)> = pairs.iter().copied().step_by(step).collect();
    let (mut right, mut n) = (0.0, 0.0);
    for (i, a) in some.iter().enumerate() {
        for b in &some[i + 1..] {
            if a.1 != b.1 {
                n += 1.0;
                let agreement = (a.0 - b.0) * (a.1 - b.1);
                right += if agreement > 0.0 {
                    1.0
                } else if agreement < 0.0 {
                    0.0
                } else {
                    0.5
                };
            }
        }
    }
    (n > 0.0).then(|| right / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(all: Vec<Target>) -> Vec<Vec<PartTarget>> {
        all.into_iter().map(|target| vec![PartTarget { target, loss_weight: 1.0 }]).collect()
    }

    fn spec(outputs: OutputSpec) -> ClassifierSpec {
        ClassifierSpec::new(10, vec![PartSpec { name: "d".into(), outputs }])
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("l{i}")).collect()
    }

    fn close(found: Option<f64>, expected: f64) {
        assert!((found.unwrap() - expected).abs() < 1e-6, "{found:?}, expected {expected}");
    }

    #[test]
    fn labels_are_counted_as_by_hand() {
        let spec = spec(OutputSpec::OneLabel { labels: names(3), most_frequent: 0 });
        let truth = [0, 0, 1, 1].map(Target::Label).into_iter().chain([Target::Missing]).collect();
        let say = |k: usize| (0..3).map(move |i| if i == k { 3.0_f32.ln() } else { 0.0 });
        let outputs: Vec<f32> = [0, 1, 1, 1, 2].into_iter().flat_map(say).collect();
        let found = evaluate(&spec, &targets(truth), &[(vec![0, 1, 2, 3, 4], outputs)], 0.5);
        let d = &found.dimensions[0];
        assert_eq!((d.n_texts, d.accuracy, d.baseline_accuracy), (4, Some(0.75), Some(0.5)));
        assert_eq!(d.confusion, [[1, 1, 0], [0, 2, 0], [0, 0, 0]]);
        assert_eq!((d.labels[0].precision, d.labels[0].recall), (Some(1.0), Some(0.5)));
        close(d.labels[0].f1, 2.0 / 3.0);
        close(d.labels[1].f1, 0.8);
        assert_eq!((d.labels[2].precision, d.labels[2].recall, d.labels[2].f1), (None, None, None));
        close(d.macro_f1, (2.0 / 3.0 + 0.8) / 2.0);
        // Every answer with confidence 3 / 5.
        close(d.calibration_error, 0.15);
        assert_eq!((d.calibration.len(), d.calibration[0].n), (1, 4));
        assert_eq!(found.metrics()["d_accuracy"], 0.75);
    }

    /// scikit-learn: `f1_score([0, 0, 1], [0, 2, 1], average="macro")` is 0.5556.
    #[test]
    fn a_label_that_is_predicted_and_never_true_counts_as_0_in_macro_f1() {
        let spec = spec(OutputSpec::OneLabel { labels: names(4), most_frequent: 0 });
        let truth = [0, 0, 1].map(Target::Label).to_vec();
        let say = |k: usize| (0..4).map(move |i| if i == k { 1.0 } else { 0.0 });
        let outputs: Vec<f32> = [0, 2, 1].into_iter().flat_map(say).collect();
        let d = evaluate(&spec, &targets(truth), &[(vec![0, 1, 2], outputs)], 0.5).dimensions.remove(0);
        close(d.macro_f1, 5.0 / 9.0);
        assert_eq!((d.labels[2].precision, d.labels[2].recall, d.labels[2].f1), (Some(0.0), None, Some(0.0)));
        assert_eq!(d.labels[3].f1, None, "neither predicted nor true: not in the mean");
    }

    #[test]
    fn several_labels_are_counted_one_by_one_and_right_together() {
        let spec = spec(OutputSpec::SeveralLabels { labels: names(2) });
        let truth = vec![Target::Labels(vec![0, 1]), Target::Labels(vec![]), Target::Labels(vec![1])];
        let outputs = vec![1.0, 1.0, 1.0, -1.0, -1.0, 1.0];
        let found = evaluate(&spec, &targets(truth), &[(vec![0, 1, 2], outputs)], 0.5);
        let d = &found.dimensions[0];
        close(d.accuracy, 2.0 / 3.0);
        assert_eq!((d.labels[0].precision, d.labels[0].recall), (Some(0.5), Some(1.0)));
        assert_eq!((d.labels[1].support, d.labels[1].f1), (2, Some(1.0)));
        assert!(d.confusion.is_empty() && d.baseline_accuracy.is_none());
    }

    #[test]
    fn scores_are_compared_in_their_unit() {
        let spec = spec(OutputSpec::Score { mean: 5.0, deviation: 2.0 });
        let given = [-1.0, 0.0, 1.0, 2.0];
        let check = |predicted: [f32; 4]| {
            let truth = given.map(Target::Score).to_vec();
            evaluate(&spec, &targets(truth), &[(vec![0, 1, 2, 3], predicted.to_vec())], 0.5).scores.remove(0)
        };
        let right = check(given);
        assert_eq!((right.mean_squared_error, right.order_accuracy), (Some(0.0), Some(1.0)));
        close(right.pearson, 1.0);
        assert_eq!((right.level_accuracy, right.calibration[0]), (Some(1.0), (3.0, 3.0)));
        // The mean of what was learnt is 5; the given ones are 3, 5, 7 and 9.
        assert_eq!(right.baseline_squared_error, Some(6.0));
        let constant = check([0.0; 4]);
        assert_eq!((constant.mean_squared_error, constant.order_accuracy), (Some(6.0), Some(0.5)));
        assert_eq!((constant.pearson, constant.spearman), (None, None));
        let turned = check([2.0, 1.0, 0.0, -1.0]);
        assert_eq!(turned.order_accuracy, Some(0.0));
        close(turned.spearman, -1.0);
    }

    #[test]
    fn thirds_are_equal_parts() {
        assert_eq!(levels(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), [2, 2, 1, 1, 0, 0]);
        assert_eq!(levels(&[1.0, 1.0, 1.0]), [1, 1, 1], "equal ones are together");
    }
}
