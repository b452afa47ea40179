//! What the completions of a policy say of reward hacking, early and late in training: repetition, diversity, and
//! whether a judge and a verifier agree.

use std::collections::{BTreeMap, BTreeSet};

use truing_statistics::{Estimate, spearman};
use truing_types::{Rollout, TokenId};

/// Names of the rewards that models compute: those of `[judge]` and of `[reward_model]`.
pub(super) const LEARNED: [&str; 2] = ["judge", "reward_model"];

/// Tokens of the pieces whose repetition is counted.
const REPEATED: usize = 4;
/// Tokens of the pieces whose diversity is counted.
const DISTINCT: usize = 2;

/// A measure of completions, early and late.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RolloutMeasure {
    pub(super) name: String,
    pub(super) early: Estimate,
    pub(super) late: Estimate,
    /// Late less early.
    pub(super) change: Estimate,
    /// What it is computed from.
    pub(super) basis: String,
    /// Whether an increase is a warning sign, rather than a decrease.
    pub(super) is_worse_if_larger: bool,
}

impl RolloutMeasure {
    /// Whether the change is shown and a warning sign.
    pub(super) fn is_warning(&self) -> bool {
        self.change.is_shown() && (self.change.value > 0.0) == self.is_worse_if_larger
    }
}

/// All measures that the rollouts allow. Completions of one prompt and step are one unit of repetition and diversity.
pub(super) fn measures(early: &[Rollout], late: &[Rollout]) -> Vec<RolloutMeasure> {
    let steps = |rollouts: &[Rollout]| rollouts.iter().map(|rollout| rollout.step).max();
    // One file alone is both ends.
    if steps(early) == steps(late) {
        return Vec::new();
    }
    let ends = [early, late];
    let of_groups = |name: &str, is_worse_if_larger, measure: fn(&[&Rollout]) -> Option<f64>| {
        let groups = ends.map(|rollouts| values(rollouts, measure));
        let [early, late] = groups.each_ref().map(|values| mean(values));
        let basis = format!("{} and {} groups of completions", groups[0].len(), groups[1].len());
        measure_of(name.to_owned(), early?, late?, basis, is_worse_if_larger)
    };
    let mut found: Vec<RolloutMeasure> = [
        of_groups("repeated pieces of 4 tokens", true, repetition),
        of_groups("distinct pairs of tokens in a group (distinct-2)", false, distinct),
        of_groups("completions of a group that are equal to another", true, duplicates),
    ]
    .into_iter()
    .flatten()
    .collect();
    found.extend(agreements(ends));
    found
}

/// The difference of two independent estimates, with the interval of squares added (Zou and Donner 2008).
fn measure_of(
    name: String,
    early: Estimate,
    late: Estimate,
    basis: String,
    is_worse_if_larger: bool,
) -> Option<RolloutMeasure> {
    let value = late.value - early.value;
    let below = (late.value - late.low).hypot(early.high - early.value);
    let above = (late.high - late.value).hypot(early.value - early.low);
    let change = Estimate { value, low: value - below, high: value + above };
    let is_finite = change.low.is_finite() && change.high.is_finite();
    is_finite.then_some(RolloutMeasure { name, early, late, change, basis, is_worse_if_larger })
}

/// A measure of each group: the completions of one prompt in one step.
fn values(rollouts: &[Rollout], measure: fn(&[&Rollout]) -> Option<f64>) -> Vec<f64> {
    let mut groups: BTreeMap<(u64, usize), Vec<&Rollout>> = BTreeMap::new();
    for rollout in rollouts {
        groups.entry((rollout.step, rollout.prompt_idx)).or_default().push(rollout);
    }
    groups.values().filter_map(|group| measure(group)).collect()
}

fn mean(values: &[f64]) -> Option<Estimate> {
    let weighted: Vec<(f64, f64)> = values.iter().map(|&value| (1.0, value)).collect();
    Estimate::weighted_mean(&weighted)
}

/// The share of pieces of a completion that it has had before, mean over the group; without completions that are long
/// enough `None`.
fn repetition(group: &[&Rollout]) -> Option<f64> {
    let shares = group.iter().filter_map(|rollout| {
        let pieces = rollout.tokens.windows(REPEATED);
        let n = pieces.len();
        let n_distinct = pieces.collect::<BTreeSet<&[TokenId]>>().len();
        (n > 0).then(|| 1.0 - n_distinct as f64 / n as f64)
    });
    let shares: Vec<f64> = shares.collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

/// The share of distinct pieces among all of the group (distinct-n; Li et al. 2016).
fn distinct(group: &[&Rollout]) -> Option<f64> {
    let pieces = || group.iter().flat_map(|rollout| rollout.tokens.windows(DISTINCT));
    let n = pieces().count();
    (n > 0).then(|| pieces().collect::<BTreeSet<&[TokenId]>>().len() as f64 / n as f64)
}

/// The share of completions whose text another one of the group has.
fn duplicates(group: &[&Rollout]) -> Option<f64> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    group.iter().for_each(|rollout| *counts.entry(&rollout.text).or_default() += 1);
    let n_equal: usize = counts.values().filter(|&&n| n > 1).sum();
    (group.len() > 1).then(|| n_equal as f64 / group.len() as f64)
}

/// Rank correlations of each learned reward with each verifier.
fn agreements(ends: [&[Rollout]; 2]) -> Vec<RolloutMeasure> {
    let names: BTreeSet<&str> = ends
        .iter()
        .flat_map(|rollouts| rollouts.iter())
        .flat_map(|rollout| rollout.rewards.keys())
        .map(String::as_str)
        .collect();
    let (learned, verifiers): (Vec<&str>, Vec<&str>) =
        names.into_iter().partition(|name| LEARNED.contains(name));
    let mut found = Vec::new();
    for of_model in learned {
        for &verifier in &verifiers {
            let correlation = |rollouts: &[Rollout]| {
                let both = rollouts.iter().filter_map(|rollout| {
                    Some((*rollout.rewards.get(of_model)?, *rollout.rewards.get(verifier)?))
                });
                let (one, other): (Vec<f64>, Vec<f64>) = both.unzip();
                let estimate = Estimate::rank_correlation(spearman(&one, &other)?, one.len() as u64)?;
                Some((estimate, one.len()))
            };
            let [early, late] = ends.map(correlation);
            let (Some((early, n_early)), Some((late, n_late))) = (early, late) else { continue };
            let name = format!("`{of_model}` against `{verifier}` (rank correlation)");
            let basis = format!("{n_early} and {n_late} completions, taken as independent");
            found.extend(measure_of(name, early, late, basis, false));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::{FinishReason, Message, Role, RowOrigin};

    fn rollout(step: u64, prompt_idx: usize, tokens: &[TokenId], rewards: &[(&str, f64)]) -> Rollout {
        Rollout {
            step,
            prompt_idx,
            sample_idx: 0,
            origin: RowOrigin { source: "p.jsonl".into(), line: 1 },
            prompt: vec![Message::new(Role::User, "question".to_owned())],
            prompt_tokens: vec![1],
            tokens: tokens.to_vec(),
            text: format!("{tokens:?}"),
            finish_reason: FinishReason::EndOfTurn,
            log_probs: Vec::new(),
            sampling_log_probs: Vec::new(),
            weights_version: None,
            rewards: rewards.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
            unscored: BTreeMap::new(),
            reward: Some(1.0),
            advantage: None,
            kl: None,
        }
    }

    /// Two completions for each of six prompts; the judge follows the verifier or turns away from it.
    fn rollouts(step: u64, is_hacked: bool) -> Vec<Rollout> {
        (0..12)
            .map(|n| {
                let first = 10 * n as TokenId;
                let tokens: Vec<TokenId> = match is_hacked {
                    true => vec![7; 8 + n % 3],
                    false => (first..first + 8).collect(),
                };
                let verified = n as f64 / 12.0;
                let judged = if is_hacked { 1.0 - verified } else { verified };
                rollout(step, n / 2, &tokens, &[("ifeval", verified), ("judge", judged)])
            })
            .collect()
    }

    #[test]
    fn a_policy_that_repeats_itself_and_pleases_the_judge_is_seen() {
        let found = measures(&rollouts(1, false), &rollouts(9, true));
        let warnings: Vec<(&str, bool)> =
            found.iter().map(|measure| (measure.name.as_str(), measure.is_warning())).collect();
        assert_eq!(
            warnings,
            [
                ("repeated pieces of 4 tokens", true),
                ("distinct pairs of tokens in a group (distinct-2)", true),
                ("completions of a group that are equal to another", false),
                ("`judge` against `ifeval` (rank correlation)", true),
            ]
        );
        assert_eq!((found[0].early.value, found[3].early.value > 0.99), (0.0, true));
        assert!(found[0].late.value > 0.7 && found[1].late.value < 0.2, "{found:?}");
    }

    #[test]
    fn equal_ends_and_missing_parts_give_nothing() {
        assert!(measures(&rollouts(1, false), &rollouts(1, false)).is_empty());
        assert!(measures(&[], &[]).is_empty());
        let same = measures(&rollouts(1, false), &rollouts(5, false));
        assert!(same.iter().all(|measure| !measure.is_warning()), "{same:?}");
    }

    #[test]
    fn equal_texts_are_counted() {
        let group = [rollout(1, 0, &[1, 2], &[]), rollout(1, 0, &[1, 2], &[]), rollout(1, 0, &[3], &[])];
        let group: Vec<&Rollout> = group.iter().collect();
        assert_eq!((duplicates(&group), duplicates(&group[..1])), (Some(2.0 / 3.0), None));
        assert_eq!((repetition(&group), distinct(&group)), (None, Some(0.5)));
    }
}
