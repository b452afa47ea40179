//! What a step's completions say in numbers, under TRL's names.

use std::collections::BTreeMap;

use truing_generate::DraftCounts;
use truing_statistics::mean_and_sample_deviation;
use truing_types::FinishReason;

use super::rollout_groups::{Group, are_equal};

/// Numbers by name.
pub(super) type Metrics = BTreeMap<String, f64>;

/// Rewards, lengths and shares of all groups sampled in a step, used or not. `pass_reward` parts all-equal groups into
/// high and low.
pub(super) fn of_groups(groups: &[Group], pass_reward: f64) -> Metrics {
    let mut metrics = Metrics::new();
    let mut put = |name: &str, value: f64| metrics.insert(name.to_owned(), value);
    let rewards: Vec<f64> = groups.iter().flat_map(|group| group.rewards().into_iter().flatten()).collect();
    if let Some((mean, _)) = mean_and_sample_deviation(&rewards) {
        put("reward", mean);
        let passed = rewards.iter().filter(|&&reward| reward >= pass_reward).count();
        put("pass_rate", passed as f64 / rewards.len() as f64);
    }
    let of_group = |group: &Group| -> Vec<f64> { group.rewards().into_iter().flatten().collect() };
    let scored: Vec<Vec<f64>> = groups.iter().map(of_group).filter(|rewards| !rewards.is_empty()).collect();
    let deviations: Vec<f64> = scored
        .iter()
        .filter_map(|rewards| mean_and_sample_deviation(rewards))
        .map(|(_, deviation)| deviation)
        .collect();
    if let Some((mean, _)) = mean_and_sample_deviation(&deviations) {
        put("reward_std", mean);
    }
    if !scored.is_empty() {
        let equal = scored.iter().filter(|rewards| are_equal(rewards));
        let (high, low): (Vec<_>, Vec<_>) = equal.partition(|rewards| rewards[0] >= pass_reward);
        let n = scored.len() as f64;
        put("frac_reward_zero_std", (high.len() + low.len()) as f64 / n);
        put("frac_reward_zero_std/high", high.len() as f64 / n);
        put("frac_reward_zero_std/low", low.len() as f64 / n);
    }
    let mut parts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut unscored: BTreeMap<&str, f64> = BTreeMap::new();
    for scored in groups.iter().flat_map(|group| &group.scored) {
        for (name, part) in &scored.parts {
            let values = parts.entry(name).or_default();
            values.extend(part.as_ref().ok());
        }
        if let Err(reason) = &scored.total {
            *unscored.entry(reason.reason.as_str()).or_default() += 1.0;
        }
    }
    for (name, values) in parts {
        if let Some((mean, deviation)) = mean_and_sample_deviation(&values) {
            put(&format!("rewards/{name}/mean"), mean);
            put(&format!("rewards/{name}/std"), deviation);
        }
    }
    for (reason, n) in unscored {
        put(&format!("unscored/{reason}"), n);
    }
    // One that a server did not give has no tokens, and no length.
    let all = groups.iter().flat_map(|group| &group.completions);
    let completions: Vec<_> = all.filter(|completion| !completion.tokens.is_empty()).collect();
    let lengths: Vec<f64> = completions.iter().map(|completion| completion.tokens.len() as f64).collect();
    let is_cut = |reason: FinishReason| reason == FinishReason::Length;
    let ended: Vec<f64> = completions
        .iter()
        .filter(|completion| !is_cut(completion.finish_reason))
        .map(|completion| completion.tokens.len() as f64)
        .collect();
    if let Some((mean, _)) = mean_and_sample_deviation(&lengths) {
        put("completions/mean_length", mean);
        put("completions/min_length", lengths.iter().copied().fold(f64::INFINITY, f64::min));
        put("completions/max_length", lengths.iter().copied().fold(0.0, f64::max));
        put("completions/clipped_ratio", 1.0 - ended.len() as f64 / lengths.len() as f64);
    }
    let mut drafts = DraftCounts::default();
    completions.iter().for_each(|completion| drafts.add(completion.drafts));
    if drafts.n_drafted > 0 {
        put("completions/drafted_tokens", drafts.n_drafted as f64);
        put("completions/accepted_tokens", drafts.n_accepted as f64);
    }
    if let Some((mean, _)) = mean_and_sample_deviation(&ended) {
        put("completions/mean_terminated_length", mean);
    }
    metrics
}
