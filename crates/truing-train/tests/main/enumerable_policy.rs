//! A policy so small that every group of completions can be counted out: the expectation of the estimated gradient,
//! made by the advantage estimators and the policy's objective themselves, against the exact gradient of what is
//! stated.
//!
//! Vocabulary of 3 tokens, completions of 2; a table of logits for each beginning is all there is to learn.

use truing_model::{HeadOutput, HostTopLogProbs, TokenLogProbs};
use truing_train::{
    AdvantageEstimator, AdvantageOptions, Aggregation, KlInLoss, KlInReward, Objective, Policy, PolicyPack,
    PolicyPackKind, Scale, ScoredRollout,
};
use truing_types::{PackedBatch, RowOrigin};

const VOCAB: usize = 3;
const LENGTH: usize = 2;
/// The beginnings: nothing, and each first token.
const N_STATES: usize = 1 + VOCAB;
const BETA: f64 = 0.3;

/// Logits `[N_STATES, VOCAB]`.
type Table = Vec<f64>;

fn policy() -> Table {
    (0..N_STATES * VOCAB).map(|i| ((i * i * 7 + 3) % 11) as f64 / 8.0 - 0.5).collect()
}

fn reference() -> Table {
    (0..N_STATES * VOCAB).map(|i| ((i * 5 + 1) % 7) as f64 / 6.0 - 0.4).collect()
}

fn reward(completion: &[usize]) -> f64 {
    [0.0, 1.0, 0.5, 2.0, -1.0, 0.25, 0.0, 3.0, 1.5][completion[0] * VOCAB + completion[1]]
}

fn completions() -> Vec<[usize; LENGTH]> {
    (0..VOCAB).flat_map(|a| (0..VOCAB).map(move |b| [a, b])).collect()
}

fn states(completion: &[usize; LENGTH]) -> [usize; LENGTH] {
    [0, 1 + completion[0]]
}

fn log_probs(table: &[f64], state: usize) -> Vec<f64> {
    let logits = &table[state * VOCAB..][..VOCAB];
    let log_sum = logits.iter().map(|z| z.exp()).sum::<f64>().ln();
    logits.iter().map(|z| z - log_sum).collect()
}

fn probability(table: &[f64], completion: &[usize; LENGTH]) -> f64 {
    states(completion).iter().zip(completion).map(|(&s, &token)| log_probs(table, s)[token].exp()).product()
}

fn kl(table: &[f64], state: usize) -> f64 {
    let (p, q) = (log_probs(table, state), log_probs(&reference(), state));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Gradient of a function of the table, by central differences.
fn gradient(f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut moved = policy();
    (0..moved.len())
        .map(|i| {
            let at = moved[i];
            let step = 1e-5;
            moved[i] = at + step;
            let above = f(&moved);
            moved[i] = at - step;
            let below = f(&moved);
            moved[i] = at;
            (above - below) / (2.0 * step)
        })
        .collect()
}

fn expected_reward(table: &[f64]) -> f64 {
    completions().iter().map(|c| probability(table, c) * reward(c)).sum()
}

fn expected_kl(table: &[f64]) -> f64 {
    let sum = |c: &[usize; LENGTH]| states(c).iter().map(|&s| kl(table, s)).sum::<f64>();
    completions().iter().map(|c| probability(table, c) * sum(c)).sum()
}

/// The negative gradient of the loss of one group, through the advantage estimator and the objective.
fn estimate(group: &[[usize; LENGTH]], advantages: &AdvantageOptions, objective: &Policy) -> Vec<f64> {
    estimate_weighted(group, advantages, objective, Vec::new())
}

/// The same with importance weights for each token of each completion.
fn estimate_weighted(
    group: &[[usize; LENGTH]],
    advantages: &AdvantageOptions,
    objective: &Policy,
    importance_weights: Vec<f32>,
) -> Vec<f64> {
    let table = policy();
    let rollouts: Vec<ScoredRollout> = group
        .iter()
        .map(|c| ScoredRollout {
            reward: Some(reward(c)),
            kl: states(c).iter().map(|&s| kl(&table, s) as f32).collect(),
            n_tokens: LENGTH,
        })
        .collect();
    let advantages = advantages.assign(&[rollouts]).remove(0);
    let token_states: Vec<(usize, usize)> =
        group.iter().flat_map(|c| states(c).into_iter().zip(c.iter().copied())).collect();
    let of = |table: &[f64]| -> Vec<f32> {
        token_states.iter().map(|&(state, token)| log_probs(table, state)[token] as f32).collect()
    };
    let tokens: Vec<Vec<u32>> =
        group.iter().map(|c| std::iter::once(0).chain(c.iter().map(|&t| t as u32)).collect()).collect();
    let weights = [0.0, 1.0, 1.0];
    let origin = || RowOrigin { source: "table".into(), line: 1 };
    let all: Vec<u32> = (0..VOCAB as u32).collect();
    let reference = HostTopLogProbs {
        k: VOCAB,
        tokens: token_states.iter().flat_map(|_| all.clone()).collect(),
        log_probs: token_states
            .iter()
            .flat_map(|&(state, _)| log_probs(&reference(), state))
            .map(|log_prob| log_prob as f32)
            .collect(),
    };
    let pack = PolicyPack {
        kind: PolicyPackKind::Rollouts,
        batch: PackedBatch::new(tokens.iter().map(|t| (&t[..], &weights[..], origin()))).unwrap(),
        completions: (0..group.len() as u32).flat_map(|i| [i; LENGTH]).collect(),
        advantages: advantages.into_iter().flat_map(|a| a.unwrap()).collect(),
        old_log_probs: of(&table),
        reference_log_probs: of(&self::reference()),
        importance_weights,
        reference: Some(reference.into()),
    };
    let n_targets = token_states.len();
    let output = HeadOutput {
        tokens: TokenLogProbs { log_probs: of(&table), ..TokenLogProbs::with_len(n_targets) },
        kl: token_states.iter().map(|&(state, _)| kl(&table, state) as f32).collect(),
        ..HeadOutput::default()
    };
    let request = objective.request(&pack);
    let denominators = objective.denominators(&pack, &request);
    let found = objective.gradient(&pack, &request, &output, &denominators);

    // From log-probabilities and divergences to the table.
    let mut descent = vec![0.0; N_STATES * VOCAB];
    for (t, &(state, token)) in token_states.iter().enumerate() {
        let (p, q) = (log_probs(&table, state), log_probs(&self::reference(), state));
        let divergence = kl(&table, state);
        for v in 0..VOCAB {
            let one_hot = f64::from(u8::from(v == token));
            let of_log_prob = found.log_probs.get(t).map_or(0.0, |&d| f64::from(d)) * (one_hot - p[v].exp());
            let of_kl =
                found.kl.get(t).map_or(0.0, |&d| f64::from(d)) * p[v].exp() * (p[v] - q[v] - divergence);
            descent[state * VOCAB + v] -= of_log_prob + of_kl;
        }
    }
    descent
}

/// Over every group of `n` completions, weighted by its probability.
fn expectation(n: usize, value: impl Fn(&[[usize; LENGTH]]) -> Vec<f64>) -> Vec<f64> {
    expectation_under(&policy(), n, value)
}

/// The same where a sampler of its own draws the groups.
fn expectation_under(table: &[f64], n: usize, value: impl Fn(&[[usize; LENGTH]]) -> Vec<f64>) -> Vec<f64> {
    let all = completions();
    let mut sum = vec![0.0; N_STATES * VOCAB];
    for code in 0..all.len().pow(n as u32) {
        let group: Vec<[usize; LENGTH]> =
            (0..n).map(|i| all[code / all.len().pow(i as u32) % all.len()]).collect();
        let weight: f64 = group.iter().map(|c| probability(table, c)).product();
        sum.iter_mut().zip(value(&group)).for_each(|(sum, x)| *sum += weight * x);
    }
    sum
}

/// Sums over a completion's tokens, so that the loss is the policy gradient's.
fn summed(kl: KlInLoss) -> Policy {
    Policy { aggregation: Aggregation::ConstantLength(1), kl, ..Policy::default() }
}

#[track_caller]
fn assert_equal(found: &[f64], expected: &[f64]) {
    let largest = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    assert!(largest > 1e-3, "an expectation of nothing proves nothing");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-6, "{found} against {expected}");
    }
}

fn scaled(values: Vec<f64>, factor: f64) -> Vec<f64> {
    values.into_iter().map(|x| factor * x).collect()
}

#[test]
fn leave_one_out_is_the_gradient_of_the_expected_reward() {
    let advantages =
        AdvantageOptions { rule: AdvantageEstimator::LeaveOneOut, ..AdvantageOptions::default() };
    for n in [2, 3] {
        let found = expectation(n, |group| estimate(group, &advantages, &summed(KlInLoss::None)));
        assert_equal(&found, &gradient(expected_reward));
    }
}

#[test]
fn the_mean_of_the_group_as_baseline_shrinks_it_by_one_nth() {
    let advantages = AdvantageOptions { scale: Scale::None, ..AdvantageOptions::default() };
    for n in [2, 3] {
        let found = expectation(n, |group| estimate(group, &advantages, &summed(KlInLoss::None)));
        let shrunk = (n as f64 - 1.0) / n as f64;
        assert_equal(&found, &scaled(gradient(expected_reward), shrunk));
    }
}

/// Normalised advantages have no objective that they are the gradient of; their expectation is that of the
/// estimator as it is stated.
#[test]
fn normalised_groups_are_the_stated_estimator() {
    for (scale, divisor) in [(Scale::PopulationDeviation, 3.0), (Scale::SampleDeviation, 2.0)] {
        let advantages = AdvantageOptions { scale, epsilon: 0.01, ..AdvantageOptions::default() };
        let found = expectation(3, |group| estimate(group, &advantages, &summed(KlInLoss::None)));
        let table = policy();
        let stated = expectation(3, |group| {
            let rewards: Vec<f64> = group.iter().map(|c| reward(c)).collect();
            let mean = rewards.iter().sum::<f64>() / 3.0;
            let deviation = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / divisor).sqrt();
            let mut sum = vec![0.0; N_STATES * VOCAB];
            for (c, reward) in group.iter().zip(&rewards) {
                for (state, &token) in states(c).into_iter().zip(c) {
                    let p = log_probs(&table, state);
                    for v in 0..VOCAB {
                        let score = f64::from(u8::from(v == token)) - p[v].exp();
                        sum[state * VOCAB + v] += (reward - mean) / (deviation + 0.01) * score / 3.0;
                    }
                }
            }
            sum
        });
        assert_equal(&found, &stated);
    }
}

/// Eq. 2 of the report: KL of later positions through the return, and the exact KL's own gradient at each position.
#[test]
fn return_and_direct_gradient_together_are_the_gradient_of_reward_less_kl() {
    let advantages = AdvantageOptions {
        rule: AdvantageEstimator::LeaveOneOut,
        kl_coefficient: BETA,
        ..AdvantageOptions::default()
    };
    let found = expectation(2, |group| estimate(group, &advantages, &summed(KlInLoss::Exact(BETA))));
    assert_equal(&found, &gradient(|table| expected_reward(table) - BETA * expected_kl(table)));
}

#[test]
fn as_a_number_in_the_reward_alone_the_kl_lacks_just_its_own_gradient() {
    let advantages = AdvantageOptions {
        rule: AdvantageEstimator::LeaveOneOut,
        kl_coefficient: BETA,
        ..AdvantageOptions::default()
    };
    let found = expectation(2, |group| estimate(group, &advantages, &summed(KlInLoss::None)));
    let whole = gradient(|table| expected_reward(table) - BETA * expected_kl(table));
    // The gradient of each position's KL where the policy that visits it stands still.
    let visits = policy();
    let direct = gradient(|table| {
        let sum = |c: &[usize; LENGTH]| states(c).iter().map(|&s| kl(table, s)).sum::<f64>();
        completions().iter().map(|c| probability(&visits, c) * sum(c)).sum()
    });
    let lacking: Vec<f64> = whole.iter().zip(&direct).map(|(whole, direct)| whole + BETA * direct).collect();
    assert_equal(&found, &lacking);
    assert!(direct.iter().any(|d| d.abs() > 1e-2));
}

/// The other reading: the whole KL is taken off the outcome before the group is centred.
#[test]
fn in_the_outcome_the_kl_gives_the_same_return_to_every_token() {
    let advantages = AdvantageOptions {
        rule: AdvantageEstimator::LeaveOneOut,
        kl_coefficient: BETA,
        kl_in_reward: KlInReward::InOutcome,
        ..AdvantageOptions::default()
    };
    let found = expectation(2, |group| estimate(group, &advantages, &summed(KlInLoss::Exact(BETA))));
    assert_equal(&found, &gradient(|table| expected_reward(table) - BETA * expected_kl(table)));
}

/// k3 in the loss pulls along the KL of the other direction, as its documentation says.
#[test]
fn k3_in_the_loss_has_the_gradient_of_the_forward_kl() {
    let advantages =
        AdvantageOptions { rule: AdvantageEstimator::LeaveOneOut, ..AdvantageOptions::default() };
    let found = expectation(2, |group| estimate(group, &advantages, &summed(KlInLoss::K3(BETA))));
    let visits = policy();
    let forward = gradient(|table| {
        let kl = |state: usize| -> f64 {
            let (p, q) = (log_probs(table, state), log_probs(&reference(), state));
            q.iter().zip(&p).map(|(q, p)| q.exp() * (q - p)).sum()
        };
        let sum = |c: &[usize; LENGTH]| states(c).iter().map(|&s| kl(s)).sum::<f64>();
        completions().iter().map(|c| probability(&visits, c) * sum(c)).sum()
    });
    let expected: Vec<f64> =
        gradient(expected_reward).iter().zip(&forward).map(|(r, kl)| r - BETA * kl).collect();
    assert_equal(&found, &expected);
}

/// A sampler near the policy, as its weights in 8 bits are; `distance` 1 is far.
fn sampler(distance: f64) -> Table {
    policy().iter().enumerate().map(|(i, z)| z + distance * (((i * 3 + 2) % 5) as f64 / 4.0 - 0.5)).collect()
}

/// `pi / mu` of each token of a group.
fn token_weights(group: &[[usize; LENGTH]], sampler: &[f64]) -> Vec<f32> {
    let table = policy();
    let of = |(state, token): (usize, usize)| {
        (log_probs(&table, state)[token] - log_probs(sampler, state)[token]).exp() as f32
    };
    group.iter().flat_map(|c| states(c).into_iter().zip(c.iter().copied()).map(of)).collect()
}

/// Another sampler draws, and untruncated weights token by token mend each token's own distribution, and only that:
/// what comes before a token and what follows it stay the sampler's. That is the stated first-order objective.
#[test]
fn token_weights_of_another_sampler_give_the_first_order_objective() {
    let sampler = sampler(1.0);
    let advantages =
        AdvantageOptions { rule: AdvantageEstimator::LeaveOneOut, ..AdvantageOptions::default() };
    let objective = summed(KlInLoss::None);
    let found = expectation_under(&sampler, 2, |group| {
        estimate_weighted(group, &advantages, &objective, token_weights(group, &sampler))
    });
    // sum_t E_{s_t ~ mu} sum_o pi(o | s_t) Q_mu(s_t, o)
    let first_order = gradient(|table| {
        let of_first = |a: usize| -> f64 {
            let after = log_probs(&sampler, 1 + a);
            (0..VOCAB).map(|b| after[b].exp() * reward(&[a, b])).sum()
        };
        let of_second = |a: usize| -> f64 {
            let second = log_probs(table, 1 + a);
            (0..VOCAB).map(|b| second[b].exp() * reward(&[a, b])).sum()
        };
        let (pi, mu) = (log_probs(table, 0), log_probs(&sampler, 0));
        (0..VOCAB).map(|a| pi[a].exp() * of_first(a) + mu[a].exp() * of_second(a)).sum()
    });
    assert_equal(&found, &first_order);
    let unweighted = expectation_under(&sampler, 2, |group| estimate(group, &advantages, &objective));
    assert!(
        unweighted.iter().zip(&first_order).any(|(a, b)| (a - b).abs() > 0.02),
        "without weights it is not"
    );
}

/// What is left of the bias shrinks with the distance of the sampler, in the first order; weights of whole completions
/// leave none.
#[test]
fn the_bias_of_token_weights_is_of_the_first_order_and_that_of_whole_completions_is_none() {
    let advantages =
        AdvantageOptions { rule: AdvantageEstimator::LeaveOneOut, ..AdvantageOptions::default() };
    let exact = gradient(expected_reward);
    let bias = |distance: f64, whole: bool| -> Vec<f64> {
        let sampler = sampler(distance);
        let found = expectation_under(&sampler, 2, |group| {
            let mut weights = token_weights(group, &sampler);
            if whole {
                weights.chunks_mut(LENGTH).for_each(|tokens| tokens.fill(tokens.iter().product()));
            }
            estimate_weighted(group, &advantages, &summed(KlInLoss::None), weights)
        });
        found.iter().zip(&exact).map(|(found, exact)| found - exact).collect()
    };
    let size = |bias: &[f64]| bias.iter().map(|b| b * b).sum::<f64>().sqrt();
    let (near, nearer) = (size(&bias(0.2, false)), size(&bias(0.1, false)));
    assert!(nearer > 1e-3 && (near / nearer - 2.0).abs() < 0.2, "{near} and {nearer}");
    assert!(bias(1.0, true).iter().all(|b| b.abs() < 1e-5), "{:?}", bias(1.0, true));
}
