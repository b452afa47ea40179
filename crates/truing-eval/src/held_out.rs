//! What an evaluation measured on each held-out item, one line per evaluation of a run: two evaluations of the same
//! items are compared item by item.

use serde::{Deserialize, Serialize};

/// One evaluation. The items and their order are the same in all evaluations of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutScores {
    /// Optimiser steps taken.
    pub step: u64,
    /// What was measured: [`HeldOutScores::LOSS`], [`HeldOutScores::REWARD`], [`HeldOutScores::PASS_RATE`] or
    /// [`HeldOutScores::PAIR_ACCURACY`].
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
    /// Mean negative log-likelihood of an item's loss tokens, in nats.
    pub const LOSS: &'static str = "loss";
    /// Mean reward of an item's completions.
    pub const REWARD: &'static str = "reward";
    /// Share of an item's completions that pass.
    pub const PASS_RATE: &'static str = "pass_rate";
    /// Share of the pairs of an item's responses that are in their order.
    pub const PAIR_ACCURACY: &'static str = "pair_accuracy";

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
