//! AdvantageOptions: from the rewards of a group of completions to an advantage for every token. One file a rule; the
//! trainer knows none of them by name.
//!
//! A completion without a reward takes no part: the group is judged by its scored members, and has no advantages
//! where fewer than two remain. Where all rewards are equal the outcome's part is exactly 0: equality is compared,
//! rounding is not divided by an epsilon. KL that is part of the outcome ([`KlInReward::InOutcome`]) is then centred
//! and not divided.

mod group_normalised;
mod leave_one_out;
mod normalised_over_batch;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One completion as an advantage estimator sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoredRollout {
    /// Its reward; `None` when unscored.
    pub reward: Option<f64>,
    /// KL divergence from the reference at each token `[n_tokens]`; empty where none enters the reward.
    pub kl: Vec<f32>,
    /// Tokens of the completion.
    pub n_tokens: usize,
}

/// Advantages `[n_tokens]` of each completion; `None` where it takes no part.
pub type Advantages = Vec<Option<Vec<f32>>>;

/// The rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageEstimator {
    /// Reward minus the mean of the group (GRPO, arXiv 2402.03300; with `scale_rewards = "none"` Dr. GRPO, 2503.20783).
    #[default]
    GroupNormalised,
    /// Reward minus the mean of the other completions of the group (RLOO, arXiv 2402.14740).
    LeaveOneOut,
    /// Reward minus the mean of the group, divided by the standard deviation of the batch (REINFORCE++ with baseline,
    /// arXiv 2501.03262).
    NormalisedOverBatch,
}

/// What a group's centred rewards are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Standard deviation with divisor n, numpy's default.
    #[default]
    PopulationDeviation,
    /// Standard deviation with divisor n - 1, as in TRL. In groups of three, advantages are smaller by a factor of
    /// sqrt(3/2).
    SampleDeviation,
    /// No division.
    None,
}

/// How the KL divergence enters the token-level reward (`method`: "KL kept in the token-level reward").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlInReward {
    /// Each token has the reward `-beta kl_t`, the last one also the normalised outcome. The advantage of a token is
    /// the sum from there to the end.
    #[default]
    ReturnToGo,
    /// `r - beta sum_t kl_t` is normalised over the group. Every token of a completion has the same advantage.
    InOutcome,
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdvantageOptions {
    /// The rule.
    pub rule: AdvantageEstimator,
    /// The divisor of the group's centred rewards.
    pub scale: Scale,
    /// Added to the deviation.
    pub epsilon: f64,
    /// Weight of the KL in the reward (beta); 0 for none.
    pub kl_coefficient: f64,
    /// How it enters.
    pub kl_in_reward: KlInReward,
}

impl Default for AdvantageOptions {
    fn default() -> Self {
        Self {
            rule: AdvantageEstimator::default(),
            scale: Scale::default(),
            epsilon: 1e-4,
            kl_coefficient: 0.0,
            kl_in_reward: KlInReward::default(),
        }
    }
}

impl AdvantageOptions {
    /// The advantages of all groups of a step.
    #[must_use]
    pub fn assign(&self, groups: &[Vec<ScoredRollout>]) -> Vec<Advantages> {
        let outcomes: Vec<Vec<Option<f64>>> =
            groups.iter().map(|group| group.iter().map(|rollout| self.outcome(rollout)).collect()).collect();
        // Rewards are compared, not outcomes: where all are equal, only KL differs, and that is not divided by its own
        // deviation.
        let is_equal: Vec<bool> = groups
            .iter()
            .map(|group| are_equal(&group.iter().filter_map(|rollout| rollout.reward).collect::<Vec<_>>()))
            .collect();
        let normalised = match self.rule {
            AdvantageEstimator::GroupNormalised => {
                let of_group = |(group, &is_equal): (&Vec<Option<f64>>, &bool)| {
                    let scale = if is_equal { Scale::None } else { self.scale };
                    group_normalised::normalise(group, scale, self.epsilon)
                };
                outcomes.iter().zip(&is_equal).map(of_group).collect()
            }
            AdvantageEstimator::LeaveOneOut => {
                outcomes.iter().map(|group| leave_one_out::centre(group)).collect()
            }
            AdvantageEstimator::NormalisedOverBatch => {
                normalised_over_batch::normalise(&outcomes, &is_equal, self.epsilon)
            }
        };
        groups
            .iter()
            .zip(normalised)
            .map(|(group, outcomes): (_, Vec<Option<f64>>)| {
                let spread =
                    |(rollout, outcome): (&ScoredRollout, Option<f64>)| Some(self.spread(rollout, outcome?));
                group.iter().zip(outcomes).map(spread).collect()
            })
            .collect()
    }

    /// The number that is normalised over the group.
    fn outcome(&self, rollout: &ScoredRollout) -> Option<f64> {
        let reward = rollout.reward?;
        Some(match self.kl_in_reward {
            KlInReward::ReturnToGo => reward,
            KlInReward::InOutcome => {
                reward - self.kl_coefficient * rollout.kl.iter().map(|&kl| f64::from(kl)).sum::<f64>()
            }
        })
    }

    /// From one number to one for each token.
    fn spread(&self, rollout: &ScoredRollout, outcome: f64) -> Vec<f32> {
        let mut advantages = vec![outcome as f32; rollout.n_tokens];
        if self.kl_in_reward == KlInReward::ReturnToGo && self.kl_coefficient != 0.0 {
            let mut to_go = outcome;
            for (advantage, &kl) in advantages.iter_mut().zip(&rollout.kl).rev() {
                to_go -= self.kl_coefficient * f64::from(kl);
                *advantage = to_go as f32;
            }
        }
        advantages
    }
}

/// The rewards that are there; `None` where fewer than two are.
fn scored(group: &[Option<f64>]) -> Option<Vec<f64>> {
    let scored: Vec<f64> = group.iter().flatten().copied().collect();
    (scored.len() >= 2).then_some(scored)
}

fn are_equal(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(rewards: &[f64]) -> Vec<ScoredRollout> {
        let rollout = |&reward: &f64| ScoredRollout {
            reward: (!reward.is_nan()).then_some(reward),
            kl: vec![0.5, 0.25],
            n_tokens: 2,
        };
        rewards.iter().map(rollout).collect()
    }

    #[track_caller]
    fn check(credit: AdvantageOptions, rewards: &[f64], expected: &[Option<[f64; 2]>]) {
        let found = credit.assign(&[group(rewards)]).remove(0);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            match (found, expected) {
                (None, None) => {}
                (Some(found), Some(expected)) => {
                    for (a, b) in found.iter().zip(expected) {
                        assert!((f64::from(*a) - b).abs() < 1e-6, "{found:?}, not {expected:?}");
                    }
                }
                _ => panic!("{found:?}, not {expected:?}"),
            }
        }
    }

    /// The same advantage on both tokens.
    fn both(values: &[f64]) -> Vec<Option<[f64; 2]>> {
        values.iter().map(|&value| (!value.is_nan()).then_some([value; 2])).collect()
    }

    #[test]
    fn a_group_of_three_by_hand() {
        let plain = AdvantageOptions { epsilon: 0.0, ..AdvantageOptions::default() };
        let root = (3.0_f64 / 2.0).sqrt();
        check(plain, &[1.0, 2.0, 3.0], &both(&[-root, 0.0, root]));
        check(
            AdvantageOptions { scale: Scale::SampleDeviation, ..plain },
            &[1.0, 2.0, 3.0],
            &both(&[-1.0, 0.0, 1.0]),
        );
        check(AdvantageOptions { scale: Scale::None, ..plain }, &[1.0, 2.0, 6.0], &both(&[-2.0, -1.0, 3.0]));
        check(
            AdvantageOptions { rule: AdvantageEstimator::LeaveOneOut, ..plain },
            &[1.0, 2.0, 6.0],
            &both(&[-3.0, -1.5, 4.5]),
        );
    }

    #[test]
    fn both_readings_of_the_kl_by_hand() {
        let credit = AdvantageOptions { epsilon: 0.0, kl_coefficient: 0.1, ..AdvantageOptions::default() };
        // -0.1 (0.5 + 0.25) from the first token on, -0.1 x 0.25 from the second.
        check(credit, &[1.0, 3.0], &[Some([-1.075, -1.025]), Some([0.925, 0.975])]);
        let outcome = AdvantageOptions { kl_in_reward: KlInReward::InOutcome, scale: Scale::None, ..credit };
        let mut rollouts = group(&[1.0, 3.0]);
        rollouts[1].kl = vec![2.0, 2.0];
        let found = outcome.assign(&[rollouts]).remove(0);
        // 1 - 0.075 and 3 - 0.4 about their mean.
        assert!((f64::from(found[1].as_ref().unwrap()[0]) - 0.8375).abs() < 1e-6);
    }

    #[test]
    fn equal_rewards_give_nothing_and_unscored_ones_take_no_part() {
        let nan = f64::NAN;
        for rule in [
            AdvantageEstimator::GroupNormalised,
            AdvantageEstimator::LeaveOneOut,
            AdvantageEstimator::NormalisedOverBatch,
        ] {
            let credit = AdvantageOptions { rule, epsilon: 0.0, ..AdvantageOptions::default() };
            check(credit, &[0.1, 0.1, 0.1], &both(&[0.0, 0.0, 0.0]));
            check(credit, &[nan, 0.1, nan], &both(&[nan, nan, nan]));
        }
        let credit = AdvantageOptions { epsilon: 0.0, ..AdvantageOptions::default() };
        check(credit, &[nan, 0.0, 2.0], &both(&[nan, -1.0, 1.0]));
        // The KL part remains where the outcome says nothing.
        check(AdvantageOptions { kl_coefficient: 1.0, ..credit }, &[2.0, 2.0], &[Some([-0.75, -0.25]); 2]);
    }

    #[test]
    fn kl_within_equal_rewards_is_centred_and_not_divided() {
        let with_kl = |rewards: [f64; 2]| {
            let mut rollouts = group(&rewards);
            rollouts[0].kl = vec![0.001, 0.001];
            rollouts[1].kl = vec![0.003, 0.001];
            rollouts
        };
        for rule in [AdvantageEstimator::GroupNormalised, AdvantageEstimator::NormalisedOverBatch] {
            let credit = AdvantageOptions {
                rule,
                epsilon: 0.0,
                kl_coefficient: 0.1,
                kl_in_reward: KlInReward::InOutcome,
                ..AdvantageOptions::default()
            };
            let found = credit.assign(&[with_kl([0.5, 0.5]), with_kl([0.0, 2.0])]);
            // -0.1 (0.002 - 0.003) and the other way round.
            let equal: Vec<f32> = found[0].iter().map(|advantages| advantages.as_ref().unwrap()[0]).collect();
            assert!((equal[0] - 1e-4).abs() < 1e-8 && (equal[1] + 1e-4).abs() < 1e-8, "{rule:?}: {equal:?}");
            let unequal = found[1][1].as_ref().unwrap()[0];
            let expected = if rule == AdvantageEstimator::GroupNormalised { 1.0 } else { 2.0_f32.sqrt() };
            assert!((unequal - expected).abs() < 1e-3, "{rule:?}: {unequal}");
        }
    }

    #[test]
    fn one_deviation_for_the_whole_batch() {
        let credit = AdvantageOptions {
            rule: AdvantageEstimator::NormalisedOverBatch,
            epsilon: 0.0,
            ..AdvantageOptions::default()
        };
        let found = credit.assign(&[group(&[0.0, 2.0]), group(&[5.0, 5.0])]);
        // Centred: -1, 1, 0, 0; deviation sqrt(1/2).
        let expected = 2.0_f32.sqrt();
        assert!((found[0][1].as_ref().unwrap()[0] - expected).abs() < 1e-6);
        assert_eq!(found[1][0].as_ref().unwrap()[0], 0.0);
    }
}
