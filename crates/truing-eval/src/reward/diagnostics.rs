//! Diagnostics of a reward model's scores on data whose order, and perhaps whose scores, are known.

use std::collections::BTreeMap;

use truing_data::ResponseDataset;
use truing_run::source_names::metric_names;
use truing_statistics::{ShareInterval, mean_and_deviation, pearson, spearman};

use crate::held_out::HeldOutScores;

use super::{CalibrationBin, LengthAndReward, RewardDiagnostics, ScoreNormaliser, SourceDiagnostics};

const N_BINS: usize = 10;
/// Responses whose length and reward are kept for a plot.
const LENGTH_SAMPLE: usize = 400;

/// One response.
struct Rated {
    reward: f64,
    n_tokens: f64,
    rank: u32,
    /// In the source's own unit.
    score: Option<f64>,
    /// The reward in that unit.
    in_unit: f64,
}

/// From the scores `(groups, one score a response)` of a data set's packs.
#[must_use]
pub fn diagnose<S: AsRef<[u32]>>(
    data: &ResponseDataset,
    scored: &[(S, Vec<f32>)],
    normaliser: &ScoreNormaliser,
) -> RewardDiagnostics {
    let names = metric_names(data.sources().iter().map(|source| &*source.name));
    let mut by_source: BTreeMap<String, Vec<Vec<Rated>>> = BTreeMap::new();
    for (groups, scores) in scored {
        let mut scores = scores.iter();
        for &group_idx in groups.as_ref() {
            let group = &data.groups()[group_idx as usize];
            let source = data.source_of(group_idx as usize).map_or("", |source| &*source.name);
            let rated = group.responses.iter().zip(scores.by_ref()).map(|(response, &reward)| Rated {
                reward: f64::from(reward),
                n_tokens: response.tokens.len() as f64,
                rank: response.rank,
                score: response.score,
                in_unit: normaliser.undo(source, f64::from(reward)),
            });
            by_source
                .entry(names.get(source).cloned().unwrap_or_default())
                .or_default()
                .push(rated.collect());
        }
    }
    let everything: Vec<&Vec<Rated>> = by_source.values().flatten().collect();
    let rewards: Vec<f64> = everything.iter().flat_map(|group| group.iter().map(|r| r.reward)).collect();
    let (mean_reward, reward_deviation) = mean_and_deviation(&rewards);
    let calibration = calibration(&everything);
    let n_pairs: u64 = calibration.iter().map(|bin| bin.n).sum();
    let distance =
        calibration.iter().map(|bin| (bin.predicted - bin.observed).abs() * bin.n as f64).sum::<f64>();
    RewardDiagnostics {
        all: diagnose_source(&everything),
        calibration_error: (n_pairs > 0).then(|| distance / n_pairs as f64),
        calibration,
        score_calibration: score_calibration(&everything),
        mean_reward,
        reward_deviation,
        n_responses: rewards.len() as u64,
        length_sample: length_sample(&by_source, rewards.len()),
        by_source: by_source
            .into_iter()
            .map(|(name, groups)| (name, diagnose_source(&groups.iter().collect::<Vec<_>>())))
            .collect(),
    }
}

/// The share of pairs in their order for each group of responses, over the group's pairs: with those of another
/// evaluation it gives a paired difference.
#[must_use]
pub fn pair_accuracies<S: AsRef<[u32]>>(data: &ResponseDataset, scored: &[(S, Vec<f32>)]) -> HeldOutScores {
    let n_groups = data.groups().len();
    let (mut values, mut weights) = (vec![None; n_groups], vec![0.0; n_groups]);
    for (groups, scores) in scored {
        let mut scores = scores.iter();
        for &group_idx in groups.as_ref() {
            let responses = &data.groups()[group_idx as usize].responses;
            let ranked: Vec<(u32, f64)> = responses
                .iter()
                .zip(scores.by_ref())
                .map(|(response, &reward)| (response.rank, f64::from(reward)))
                .collect();
            let (mut right, mut n_pairs) = (0.0, 0.0);
            for (i, a) in ranked.iter().enumerate() {
                for b in ranked[i + 1..].iter().filter(|b| b.0 != a.0) {
                    right += wins(if a.0 < b.0 { a.1 - b.1 } else { b.1 - a.1 });
                    n_pairs += 1.0;
                }
            }
            values[group_idx as usize] = (n_pairs > 0.0).then(|| right / n_pairs);
            weights[group_idx as usize] = n_pairs;
        }
    }
    let measure = HeldOutScores::PAIR_ACCURACY.to_owned();
    HeldOutScores { measure, values, weights, ..HeldOutScores::default() }
}

/// Every `n / LENGTH_SAMPLE`-th response.
fn length_sample(by_source: &BTreeMap<String, Vec<Vec<Rated>>>, n: usize) -> Vec<LengthAndReward> {
    let responses: Vec<(&String, &Rated)> = by_source
        .iter()
        .flat_map(|(source, groups)| groups.iter().flatten().map(move |rated| (source, rated)))
        .collect();
    let n_shown = n.min(LENGTH_SAMPLE);
    (0..n_shown)
        .map(|i| responses[i * n / n_shown])
        .map(|(source, rated)| LengthAndReward {
            source: source.clone(),
            n_tokens: rated.n_tokens as u64,
            reward: rated.reward,
        })
        .collect()
}

fn diagnose_source(groups: &[&Vec<Rated>]) -> SourceDiagnostics {
    let mut found = SourceDiagnostics { n_prompts: groups.len() as u64, ..Default::default() };
    let (mut right, mut lead, mut spread, mut tied_spread) = (0.0, 0.0, 0.0, 0.0);
    let (mut longer, mut n_unequal) = (0.0, 0.0);
    for (a, b) in groups.iter().flat_map(|group| pairs(group)) {
        let difference = a.reward - b.reward;
        if a.rank == b.rank {
            found.n_ties += 1;
            tied_spread += difference.abs();
            continue;
        }
        found.n_pairs += 1;
        right += wins(difference);
        lead += difference;
        spread += difference.abs();
        if a.n_tokens != b.n_tokens {
            n_unequal += 1.0;
            longer += wins(difference * (a.n_tokens - b.n_tokens).signum());
        }
    }
    let share = |sum: f64, n: f64| (n > 0.0).then(|| sum / n);
    let n_pairs = found.n_pairs as f64;
    found.accuracy = share(right, n_pairs);
    found.accuracy_interval = found.accuracy.and_then(|share| ShareInterval::wilson(share, n_pairs));
    found.margin = share(lead, n_pairs);
    found.spread_of_pairs = share(spread, n_pairs);
    found.spread_of_ties = share(tied_spread, found.n_ties as f64);
    found.prefers_longer = share(longer, n_unequal);
    let all: Vec<&Rated> = groups.iter().flat_map(|group| group.iter()).collect();
    let rewards: Vec<f64> = all.iter().map(|r| r.reward).collect();
    found.length_correlation = pearson(&rewards, &all.iter().map(|r| r.n_tokens).collect::<Vec<_>>());
    let known: Vec<(f64, f64, f64)> =
        all.iter().filter_map(|r| Some((r.reward, r.in_unit, r.score?))).collect();
    let rewards: Vec<f64> = known.iter().map(|k| k.0).collect();
    let scores: Vec<f64> = known.iter().map(|k| k.2).collect();
    found.score_correlation = pearson(&rewards, &scores);
    found.score_rank_correlation = spearman(&rewards, &scores);
    let squares: f64 = known.iter().map(|(_, in_unit, score)| (in_unit - score).powi(2)).sum();
    found.score_rmse = share(squares, known.len() as f64).map(f64::sqrt);
    found
}

/// Every two responses of a group, the better one first.
fn pairs(group: &[Rated]) -> Vec<(&Rated, &Rated)> {
    let mut pairs = Vec::new();
    for (i, a) in group.iter().enumerate() {
        pairs.extend(group[i + 1..].iter().map(|b| if b.rank < a.rank { (b, a) } else { (a, b) }));
    }
    pairs
}

fn wins(difference: f64) -> f64 {
    match difference {
        d if d > 0.0 => 1.0,
        d if d < 0.0 => 0.0,
        _ => 0.5,
    }
}

fn calibration(groups: &[&Vec<Rated>]) -> Vec<CalibrationBin> {
    let mut bins = [(0.0, 0.0, 0_u64); N_BINS];
    for (better, worse) in groups.iter().flat_map(|group| pairs(group)).filter(|(a, b)| a.rank != b.rank) {
        let difference = better.reward - worse.reward;
        let predicted = 1.0 / (1.0 + (-difference.abs()).exp());
        let bin = &mut bins[(((predicted - 0.5) * 2.0 * N_BINS as f64) as usize).min(N_BINS - 1)];
        *bin = (bin.0 + predicted, bin.1 + wins(difference), bin.2 + 1);
    }
    bins.into_iter()
        .filter(|bin| bin.2 > 0)
        .map(|(predicted, observed, n)| CalibrationBin {
            predicted: predicted / n as f64,
            observed: observed / n as f64,
            n,
        })
        .collect()
}

fn score_calibration(groups: &[&Vec<Rated>]) -> Vec<(f64, f64)> {
    let mut known: Vec<(f64, f64)> = groups
        .iter()
        .flat_map(|group| group.iter().filter_map(|rated| Some((rated.in_unit, rated.score?))))
        .collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let size = known.len().div_ceil(N_BINS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    known.chunks(size).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::Normalisation;
    use truing_data::{LongSamplePolicy, ResponseGroup, TokenizedResponse};
    use truing_types::RowOrigin;

    fn response(n_tokens: usize, rank: u32, score: Option<f64>) -> TokenizedResponse {
        TokenizedResponse {
            tokens: (0..n_tokens as u32).map(|t| t + 10 * rank).collect(),
            loss_weights: vec![1.0; n_tokens],
            rank,
            score,
            is_desirable: None,
        }
    }

    /// Two sources: three ranked responses; a pair, and a tie.
    fn data() -> ResponseDataset {
        let mut builder = ResponseDataset::builder(100, LongSamplePolicy::Error);
        let origin = |line| RowOrigin { source: "t".into(), line };
        builder.begin_source("x/a.jsonl", 1.0);
        let ranked = vec![response(3, 0, Some(9.0)), response(2, 1, Some(5.0)), response(1, 2, Some(1.0))];
        builder.push(ResponseGroup::new(ranked, None, origin(1)));
        builder.begin_source("x/b.jsonl", 1.0);
        builder.push(ResponseGroup::new(vec![response(2, 0, None), response(4, 1, None)], None, origin(2)));
        builder.push(ResponseGroup::new(vec![response(2, 0, None), response(4, 0, None)], None, origin(3)));
        builder.finish().unwrap().0
    }

    #[test]
    fn order_length_scores_and_ties_are_kept_apart() {
        let data = data();
        let normaliser = ScoreNormaliser::fit(Normalisation::ZScore, &data);
        let scored = [(&[0_u32][..], vec![2.0, -1.0, 0.0]), (&[1, 2], vec![0.5, 1.5, 0.25, 0.0])];
        let found = diagnose(&data, &scored, &normaliser);
        let a = &found.by_source["a"];
        assert_eq!((a.n_pairs, a.accuracy), (3, Some(2.0 / 3.0)));
        assert_eq!(a.margin, Some((3.0 + 2.0 - 1.0) / 3.0));
        assert_eq!(a.prefers_longer, Some(2.0 / 3.0));
        assert!(a.score_correlation.unwrap() > 0.0 && a.score_rank_correlation == Some(0.5));
        let b = &found.by_source["b"];
        assert_eq!((b.n_pairs, b.n_ties, b.accuracy), (1, 1, Some(0.0)));
        assert_eq!((b.spread_of_pairs, b.spread_of_ties), (Some(1.0), Some(0.25)));
        assert_eq!(b.score_rmse, None);
        assert_eq!(found.all.accuracy, Some(0.5));
        let by_group = pair_accuracies(&data, &scored);
        assert_eq!(by_group.values, [Some(2.0 / 3.0), Some(0.0), None], "a tie is no pair");
        assert_eq!((by_group.weights, &*by_group.measure), (vec![3.0, 1.0, 0.0], "pair_accuracy"));
        assert_eq!(found.metrics()["accuracy/a"], 2.0 / 3.0);
        let n: u64 = found.calibration.iter().map(|bin| bin.n).sum();
        assert_eq!(n, 4);
        assert!(found.calibration.iter().all(|bin| bin.predicted >= 0.5));
        assert_eq!((found.n_responses, found.length_sample.len()), (7, 7));
        let fourth = LengthAndReward { source: "b".into(), n_tokens: 2, reward: 0.5 };
        assert_eq!(found.length_sample[3], fourth);
    }

    #[test]
    fn a_perfect_model_is_calibrated_and_correlates() {
        let data = data();
        let normaliser = ScoreNormaliser::fit(Normalisation::ZScore, &data);
        let perfect: Vec<f32> =
            [9.0, 5.0, 1.0].map(|score| normaliser.normalise("a.jsonl", score) as f32).to_vec();
        let found = diagnose(&data, &[(&[0], perfect)], &normaliser);
        assert!((found.all.score_correlation.unwrap() - 1.0).abs() < 1e-6);
        assert!(found.all.score_rmse.unwrap() < 1e-5);
        assert_eq!(found.all.accuracy, Some(1.0));
        for (predicted, observed) in &found.score_calibration {
            assert!((predicted - observed).abs() < 1e-5);
        }
    }
}
