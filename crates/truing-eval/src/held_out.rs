//! What an evaluation measured on each held-out item, one line per evaluation of a run: two evaluations of the same
//! items are compared item by item.

use serde::{Deserialize, Serialize};
use truing_statistics::{Estimate, PairedPasses};

/// One evaluation. The items and their order are the same in all evaluations of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutScores {
    /// Optimiser steps taken.
    pub step: u64,
    /// What was measured: [`HeldOutScores::LOSS`] or another of the names below.
    pub measure: String,
    /// Mean of each item; none where it could not be measured.
    pub values: Vec<Option<f64>>,
    /// What each mean is over (loss tokens, pairs). Empty where all items count alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
}

impl HeldOutScores {
    /// Name of the file in a run's folder.
    pub const FILE_NAME: &'static str = "held_out.jsonl";
    /// The loss of an item; of a language model the mean negative log-likelihood of its loss tokens, in nats.
    pub const LOSS: &'static str = "loss";
    /// The loss of a step of the evaluation, where a stage does not know that of a single item.
    pub const LOSS_OF_STEPS: &'static str = "loss_of_steps";
    /// Share of an item's pairs that are in the right order.
    pub const ACCURACY: &'static str = "accuracy";
    /// The same of a step of the evaluation.
    pub const ACCURACY_OF_STEPS: &'static str = "accuracy_of_steps";
    /// Share of an item's completions that pass.
    pub const PASS_RATE: &'static str = "pass_rate";
    /// Mean reward of an item's completions.
    pub const REWARD: &'static str = "reward";

    /// Weight and difference (`later` less this one) of each item that both have measured. `None` where the two are
    /// not of the same items or measures.
    #[must_use]
    pub fn differences(&self, later: &Self) -> Option<Vec<(f64, f64)>> {
        let is_alike = self.measure == later.measure
            && self.values.len() == later.values.len()
            && self.weights == later.weights
            && (self.weights.is_empty() || self.weights.len() == self.values.len());
        let weights = self.weights.iter().copied().chain(std::iter::repeat(1.0));
        let pairs = self.values.iter().zip(&later.values).zip(weights);
        is_alike.then(|| pairs.filter_map(|((a, b), weight)| Some((weight, (*b)? - (*a)?))).collect())
    }

    /// The mean over the items that were measured, weighted.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let weights = self.weights.iter().copied().chain(std::iter::repeat(1.0));
        let known = self.values.iter().zip(weights).filter_map(|(value, weight)| Some((weight, (*value)?)));
        let (sum, total) = known.fold((0.0, 0.0), |(sum, total), (w, value)| (sum + w * value, total + w));
        (total > 0.0).then(|| sum / total)
    }

    /// The change to a later evaluation of the same items with its 95 % interval, paired by item: of items that pass or
    /// fail as a difference of paired shares, of other values as the mean of their differences.
    #[must_use]
    pub fn change_to(&self, later: &Self) -> Option<Estimate> {
        let differences = self.differences(later)?;
        let verdicts = |scores: &Self| -> Option<Vec<Option<bool>>> {
            let verdict = |value: &Option<f64>| match value {
                None => Some(None),
                Some(value) if *value == 0.0 || *value == 1.0 => Some(Some(*value == 1.0)),
                Some(_) => None,
            };
            scores.values.iter().map(verdict).collect()
        };
        if self.weights.is_empty()
            && let (Some(before), Some(after)) = (verdicts(self), verdicts(later))
        {
            let both = before.into_iter().zip(after);
            let passes = PairedPasses::count(both.filter_map(|(before, after)| Some((before?, after?))));
            return Estimate::difference_of_paired_shares(passes);
        }
        Estimate::weighted_mean(&differences)
    }
}

/// Loss and weight of each sample of a pack, summed over its loss tokens. `weights` are those of every token of each
/// sample, `log_probs` belong to the tokens with a weight, in order.
#[must_use]
pub fn sums_of_samples<'a>(
    weights: impl IntoIterator<Item = &'a [f32]>,
    log_probs: &[f32],
) -> Vec<(f64, f64)> {
    let mut log_probs = log_probs.iter();
    let sum_of = |weights: &[f32]| {
        // The first token of a sample is predicted by nothing.
        let targets = weights.iter().skip(1).filter(|&&weight| weight != 0.0);
        targets.zip(log_probs.by_ref()).fold((0.0, 0.0), |(loss, total), (&weight, &log_prob)| {
            (loss - f64::from(weight) * f64::from(log_prob), total + f64::from(weight))
        })
    };
    weights.into_iter().map(sum_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_paired_by_item() {
        let scores = |values: Vec<f64>| HeldOutScores {
            measure: HeldOutScores::PASS_RATE.into(),
            values: values.into_iter().map(Some).collect(),
            ..HeldOutScores::default()
        };
        let passed = |n: usize| (0..40).map(|i| f64::from(u8::from(i < n))).collect::<Vec<f64>>();
        let passes = PairedPasses { n_both: 10, n_gained: 14, n_lost: 0, n_neither: 16 };
        let found = scores(passed(10)).change_to(&scores(passed(24)));
        assert_eq!(found, Estimate::difference_of_paired_shares(passes));
        // Several completions of a prompt: the mean of the prompts' differences.
        let found = scores(vec![0.25, 0.5, 0.0]).change_to(&scores(vec![0.5, 0.5, 0.5]));
        assert_eq!(found, Estimate::weighted_mean(&[(1.0, 0.25), (1.0, 0.0), (1.0, 0.5)]));
        assert_eq!(scores(vec![0.25, 0.75]).mean(), Some(0.5));
        assert_eq!(scores(Vec::new()).mean(), None);
    }

    #[test]
    fn losses_of_a_pack_belong_to_its_samples() {
        let weights: [&[f32]; 2] = [&[1.0, 0.0, 1.0, 0.5], &[0.0, 1.0]];
        assert_eq!(sums_of_samples(weights, &[-2.0, -4.0, -1.0]), [(4.0, 1.5), (1.0, 1.0)]);
    }

    #[test]
    fn only_the_same_items_are_compared() {
        let scores = |values: &[Option<f64>], weights: &[f64]| HeldOutScores {
            step: 0,
            measure: HeldOutScores::LOSS.into(),
            values: values.to_vec(),
            weights: weights.to_vec(),
        };
        let before = scores(&[Some(2.0), None, Some(1.0)], &[3.0, 1.0, 2.0]);
        let after = scores(&[Some(1.5), Some(1.0), Some(1.25)], &[3.0, 1.0, 2.0]);
        assert_eq!(before.differences(&after), Some(vec![(3.0, -0.5), (2.0, 0.25)]));
        assert_eq!(before.differences(&scores(&[Some(1.0)], &[1.0])), None);
        assert_eq!(before.differences(&scores(&after.values, &[1.0, 1.0, 2.0])), None);
        let equal = scores(&[Some(1.0), Some(0.0)], &[]);
        assert_eq!(equal.differences(&equal), Some(vec![(1.0, 0.0); 2]));
        let other = HeldOutScores { measure: HeldOutScores::REWARD.into(), ..equal.clone() };
        assert_eq!(equal.differences(&other), None);
        let text = serde_json::to_string(&equal).unwrap();
        assert_eq!(text, r#"{"step":0,"measure":"loss","values":[1.0,0.0]}"#);
        assert_eq!(serde_json::from_str::<HeldOutScores>(&text).unwrap(), equal);
    }
}
