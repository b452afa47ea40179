//! What happens to the rewards of a step before they are trained on: cut, shortened by length, standardised, in this
//! order. Rewards that are reported stay as they were; a completion without a reward stays without one.
//!
//! An advantage estimator that divides by its group's deviation undoes an affine change of the whole: there
//! `standardise` matters only on the parts of a sum, and with leave-one-out or Dr. GRPO's estimator.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_statistics::mean_and_deviation;

use crate::{RewardError, Rewards, ScoredCompletion};

/// Below this a deviation is none: all are equal.
const MIN_DEVIATION: f64 = 1e-9;

/// The table `[shaping]` of a policy's recipe.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShapingConfig {
    /// Clip rewards to this range, for instance `[-5.0, 5.0]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f64; 2]>,
    /// Length penalty (alpha of Arora and Zanette 2025, arXiv 2502.04463). A correct completion loses this times the
    /// logistic function of the z-score of its length among the correct completions of its group. Others lose nothing.
    /// 0 turns it off.
    pub length_penalty: f64,
    /// Standardise rewards to mean 0 and standard deviation 1.
    pub standardise: Standardise,
    /// What `standardise` applies to.
    pub standardise_on: StandardiseOn,
}

/// The completions that a reward's mean and deviation are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standardise {
    /// No.
    #[default]
    None,
    /// Over all completions of the step.
    Batch,
    /// Over the completions of the step whose prompts are from the same file.
    Source,
}

/// What `standardise` applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StandardiseOn {
    /// The weighted sum of the rewards.
    #[default]
    Total,
    /// Each reward before its weight, so that weights do not depend on its unit. `clip` and `length_penalty` apply to
    /// the sum.
    Parts,
}

/// What shaping looks at of one completion.
#[derive(Debug, Clone, Copy)]
pub struct Shaped<'a> {
    /// Its rewards.
    pub scored: &'a ScoredCompletion,
    /// Its tokens.
    pub n_tokens: usize,
    /// The file of its prompt.
    pub source: &'a str,
    /// Its group.
    pub group: usize,
}

impl ShapingConfig {
    /// Whether rewards stay as they are.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.clip.is_none() && self.length_penalty == 0.0 && self.standardise == Standardise::None
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When the bounds are not in order, or the penalty is no number of 0 or more.
    pub fn check(&self) -> Result<(), RewardError> {
        let bad = |key, reason: String| Err(RewardError::BadSetting { reward: "shaping", key, reason });
        match self.clip {
            Some([low, high]) if low.is_nan() || high.is_nan() || low >= high => {
                return bad("clip", format!("is [{low}, {high}], expected a lower and a higher number"));
            }
            _ => {}
        }
        match self.length_penalty {
            penalty if penalty.is_finite() && penalty >= 0.0 => Ok(()),
            penalty => bad("length_penalty", format!("is {penalty}, expected a number of 0 or more")),
        }
    }

    /// The rewards that are trained on. A completion is correct where its reward is at least `pass_reward`, before any
    /// of this.
    #[must_use]
    pub fn shape(&self, rewards: &Rewards, completions: &[Shaped<'_>], pass_reward: f64) -> Vec<Option<f64>> {
        let raw: Vec<Option<f64>> =
            completions.iter().map(|completion| completion.scored.total.as_ref().ok().copied()).collect();
        let place = |completion: &Shaped<'_>| match self.standardise {
            Standardise::Source => completion.source.to_owned(),
            Standardise::None | Standardise::Batch => String::new(),
        };
        let places: Vec<String> = completions.iter().map(place).collect();
        let is_on_parts =
            self.standardise != Standardise::None && self.standardise_on == StandardiseOn::Parts;
        let mut shaped = match is_on_parts {
            true => sums_of_standardised_parts(rewards, completions, &places),
            false => raw.clone(),
        };
        if let Some([low, high]) = self.clip {
            shaped.iter_mut().flatten().for_each(|reward| *reward = reward.clamp(low, high));
        }
        if self.length_penalty > 0.0 {
            let penalties = length_penalties(completions, &raw, pass_reward);
            for (reward, penalty) in shaped.iter_mut().zip(penalties) {
                *reward = reward.map(|reward| reward - self.length_penalty * penalty);
            }
        }
        match self.standardise != Standardise::None && !is_on_parts {
            true => standardised(&shaped, &places),
            false => shaped,
        }
    }
}

/// z-scores among those of one place. Equal values become 0.
fn standardised(values: &[Option<f64>], places: &[String]) -> Vec<Option<f64>> {
    let mut of_place: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (value, place) in values.iter().zip(places) {
        of_place.entry(place).or_default().extend(value);
    }
    let moments: BTreeMap<&str, (f64, f64)> =
        of_place.into_iter().map(|(place, values)| (place, mean_and_deviation(&values))).collect();
    let z_score = |(value, place): (&Option<f64>, &String)| {
        let (mean, deviation) = moments[place.as_str()];
        value.map(|value| if deviation > MIN_DEVIATION { (value - mean) / deviation } else { 0.0 })
    };
    values.iter().zip(places).map(z_score).collect()
}

/// Sums of parts that were standardised one by one. Where there was no sum, there is none.
fn sums_of_standardised_parts(
    rewards: &Rewards,
    completions: &[Shaped<'_>],
    places: &[String],
) -> Vec<Option<f64>> {
    let mut parts: Vec<ScoredCompletion> =
        completions.iter().map(|completion| completion.scored.clone()).collect();
    for name in rewards.names() {
        let part = |scored: &ScoredCompletion| scored.parts.get(name)?.as_ref().ok().copied();
        let values: Vec<Option<f64>> = parts.iter().map(part).collect();
        for (scored, value) in parts.iter_mut().zip(standardised(&values, places)) {
            if let Some(value) = value {
                scored.parts.insert(name.to_owned(), Ok(value));
            }
        }
    }
    let sum =
        |scored: ScoredCompletion| scored.total.is_ok().then(|| rewards.sum_of(&scored.parts).ok()).flatten();
    parts.into_iter().map(sum).collect()
}

/// The logistic function of a correct completion's z-scored length among the correct ones of its group; 0 for others.
fn length_penalties(completions: &[Shaped<'_>], raw: &[Option<f64>], pass_reward: f64) -> Vec<f64> {
    let is_correct: Vec<bool> =
        raw.iter().map(|reward| reward.is_some_and(|reward| reward >= pass_reward)).collect();
    let lengths: Vec<Option<f64>> = completions
        .iter()
        .zip(&is_correct)
        .map(|(completion, is_correct)| is_correct.then_some(completion.n_tokens as f64))
        .collect();
    let groups: Vec<String> = completions.iter().map(|completion| completion.group.to_string()).collect();
    let logistic = |z: f64| 1.0 / (1.0 + (-z).exp());
    standardised(&lengths, &groups).into_iter().map(|z| z.map_or(0.0, logistic)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RewardConfig;
    use serde_json::json;
    use truing_types::{Unscored, UnscoredReason};

    fn scored(parts: &[(&str, Option<f64>)], total: Option<f64>) -> ScoredCompletion {
        let failed = || Unscored::new(UnscoredReason::JudgeFailed, "down");
        ScoredCompletion {
            parts: parts.iter().map(|&(name, value)| (name.to_owned(), value.ok_or_else(failed))).collect(),
            total: total.ok_or_else(failed),
        }
    }

    fn shape(config: serde_json::Value, rows: &[(Option<f64>, usize, &str, usize)]) -> Vec<Option<f64>> {
        let config: ShapingConfig = serde_json::from_value(config).unwrap();
        config.check().unwrap();
        let scored: Vec<ScoredCompletion> = rows.iter().map(|row| scored(&[], row.0)).collect();
        let completions: Vec<Shaped<'_>> = rows
            .iter()
            .zip(&scored)
            .map(|(&(_, n_tokens, source, group), scored)| Shaped { scored, n_tokens, source, group })
            .collect();
        config.shape(&Rewards::default(), &completions, 1.0)
    }

    #[test]
    fn rewards_are_cut_and_the_unscored_stay_so() {
        let rows =
            [(Some(-9.0), 1, "a", 0), (None, 1, "a", 0), (Some(0.5), 1, "a", 0), (Some(7.0), 1, "a", 0)];
        assert_eq!(shape(json!({"clip": [-1.0, 2.0]}), &rows), [Some(-1.0), None, Some(0.5), Some(2.0)]);
        assert_eq!(shape(json!({}), &rows), [Some(-9.0), None, Some(0.5), Some(7.0)]);
        assert!(ShapingConfig::default().is_nothing());
    }

    #[test]
    fn z_scores_are_taken_over_the_step_or_over_each_source() {
        let rows = [
            (Some(1.0), 1, "a", 0),
            (Some(3.0), 1, "a", 0),
            (None, 1, "a", 0),
            (Some(10.0), 1, "b", 1),
            (Some(10.0), 1, "b", 1),
        ];
        let by_source = shape(json!({"standardise": "source"}), &rows);
        assert_eq!(by_source, [Some(-1.0), Some(1.0), None, Some(0.0), Some(0.0)]);
        let batch: Vec<f64> = shape(json!({"standardise": "batch"}), &rows).into_iter().flatten().collect();
        let (mean, deviation) = mean_and_deviation(&batch);
        assert!(mean.abs() < 1e-12 && (deviation - 1.0).abs() < 1e-12);
        assert!(batch[0] < batch[1] && batch[1] < batch[2] && batch[2] == batch[3]);
        assert_eq!(shape(json!({"standardise": "batch"}), &[(None, 1, "a", 0)]), [None]);
        assert_eq!(shape(json!({"standardise": "batch"}), &[]), [None; 0]);
    }

    #[test]
    fn long_correct_answers_lose_and_wrong_ones_do_not() {
        let rows = [
            (Some(1.0), 10, "a", 0),
            (Some(1.0), 30, "a", 0),
            (Some(0.0), 90, "a", 0),
            (Some(1.0), 99, "a", 1),
            (None, 5, "a", 1),
        ];
        let shaped = shape(json!({"length_penalty": 0.2}), &rows);
        let logistic = |z: f64| 1.0 / (1.0 + (-z).exp());
        // Lengths 10 and 30 have z-scores -1 and 1; a single one has 0.
        let expected = [1.0 - 0.2 * logistic(-1.0), 1.0 - 0.2 * logistic(1.0), 0.0, 1.0 - 0.1];
        for (found, expected) in shaped.iter().flatten().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{shaped:?}");
        }
        assert_eq!(shaped[4], None);
        assert!(shaped[1] > shaped[2], "correct and long is still better than wrong");
    }

    #[test]
    fn parts_are_standardised_before_their_weights() {
        let configs: Vec<RewardConfig> = serde_json::from_value(json!([
            {"name": "big", "weight": 1.0, "kind": {"exact_match": {}}},
            {"name": "small", "weight": 2.0, "optional": true, "kind": {"exact_match": {}}},
        ]))
        .unwrap();
        let rewards = Rewards::new(&configs, None).unwrap();
        let all = [
            scored(&[("big", Some(100.0)), ("small", Some(0.001))], Some(100.0)),
            scored(&[("big", Some(300.0)), ("small", Some(0.003))], Some(300.0)),
            scored(&[("big", Some(200.0)), ("small", None)], Some(200.0)),
            scored(&[("big", None), ("small", Some(0.001))], None),
        ];
        let completions: Vec<Shaped<'_>> =
            all.iter().map(|scored| Shaped { scored, n_tokens: 1, source: "a", group: 0 }).collect();
        let config = ShapingConfig {
            standardise: Standardise::Batch,
            standardise_on: StandardiseOn::Parts,
            ..ShapingConfig::default()
        };
        let shaped = config.shape(&rewards, &completions, 1.0);
        let root = 1.5_f64.sqrt(); // of 100, 200, 300: the ends lie this far from the mean
        let third = std::f64::consts::FRAC_1_SQRT_2; // of 1, 3, 1
        let expected = [Some(-root - 2.0 * third), Some(root + 2.0 * 2.0 * third), Some(0.0), None];
        for (found, expected) in shaped.iter().zip(expected) {
            assert_eq!(found.is_some(), expected.is_some());
            assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-6, "{shaped:?}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let refused = |config: ShapingConfig| config.check().unwrap_err().to_string();
        let clip = ShapingConfig { clip: Some([2.0, 1.0]), ..ShapingConfig::default() };
        assert_eq!(refused(clip), "reward `shaping`: `clip` is [2, 1], expected a lower and a higher number");
        let penalty = ShapingConfig { length_penalty: -1.0, ..ShapingConfig::default() };
        assert!(refused(penalty).contains("`length_penalty` is -1"));
    }
}
