//! The loss of an evaluation item by item, so that two evaluations of the same items are compared item by item.

use std::collections::BTreeMap;

use truing_eval::held_out::HeldOutScores;
use truing_model::HeadOutput;
use truing_train::{Objective, WeightedSum};

/// What one item adds to an evaluation: its part of the loss's denominators, and its share of every metric. `None` for
/// an item that was not evaluated.
pub(crate) type ItemShare = Option<(f64, Vec<WeightedSum>)>;

/// The share of one item, which is a pack of its own.
pub(crate) fn share_of<O: Objective>(objective: &O, pack: &O::Pack, output: &HeadOutput) -> ItemShare {
    let request = objective.request(pack);
    let weight = objective.denominators(pack, &request).iter().sum();
    Some((weight, objective.measure(pack, &request, output)))
}

/// The share of a step of the evaluation, whose packs may be coupled.
pub(crate) fn share_of_step<O: Objective>(
    objective: &O,
    packs: &[O::Pack],
    outputs: &[HeadOutput],
) -> ItemShare {
    let weight_of =
        |pack: &O::Pack| objective.denominators(pack, &objective.request(pack)).iter().sum::<f64>();
    Some((packs.iter().map(weight_of).sum(), objective.measure_step(packs, outputs)))
}

/// The losses of items: their weighted mean is the loss of the evaluation. A loss of several terms is a sum of means
/// over different counts (pairs, scores), so an item's loss is what it adds to all of them, over its weight.
pub(crate) fn losses_of_items<O: Objective>(
    objective: &O,
    measure: &str,
    items: &[ItemShare],
) -> HeldOutScores {
    let names: Vec<String> = objective.metric_names().into_iter().map(str::to_owned).collect();
    let mut totals = vec![WeightedSum::default(); names.len()];
    let mut total_weight = 0.0_f64;
    for (weight, sums) in items.iter().flatten() {
        total_weight += weight;
        totals.iter_mut().zip(sums).for_each(|(total, sum)| total.add(*sum));
    }
    let loss_of = |(weight, sums): &(f64, Vec<WeightedSum>)| {
        let parts = sums.iter().zip(&totals).map(|(sum, total)| sum.numerator / total.denominator);
        let added: BTreeMap<String, f64> = names.iter().cloned().zip(parts).collect();
        (*weight > 0.0).then(|| objective.loss(&added) * total_weight / weight)
    };
    HeldOutScores {
        measure: measure.to_owned(),
        values: items
            .iter()
            .map(|item| item.as_ref().and_then(loss_of).filter(|loss| loss.is_finite()))
            .collect(),
        weights: items.iter().map(|item| item.as_ref().map_or(0.0, |(weight, _)| *weight)).collect(),
        ..HeldOutScores::default()
    }
}

#[cfg(test)]
mod tests {
    use truing_train::{Reward, RewardPack, RewardPair};
    use truing_types::{PackedBatch, RowOrigin};

    use super::*;

    fn pack(n_responses: usize, pairs: &[(usize, usize)], scores: &[Option<f32>]) -> RewardPack {
        let origin = |line| RowOrigin { source: "t".into(), line };
        let tokens = [1_u32, 2];
        let sequences = (0..n_responses).map(|line| (&tokens[..], &[0.0, 0.0][..], origin(line as u64)));
        let pair = |&(chosen, rejected): &(usize, usize)| RewardPair { chosen, rejected, margin: 0.0 };
        RewardPack {
            batch: PackedBatch::new(sequences).unwrap(),
            sequences: (0..n_responses).collect(),
            pairs: pairs.iter().map(pair).collect(),
            scores: scores.to_vec(),
        }
    }

    fn output(scores: &[f32]) -> HeadOutput {
        HeadOutput { scores: scores.to_vec(), ..HeadOutput::default() }
    }

    #[test]
    fn the_weighted_mean_of_the_items_is_the_loss_of_all() {
        let objective = Reward { mse_coefficient: 0.2, centring_coefficient: 0.01, ..Reward::default() };
        let first = pack(2, &[(0, 1)], &[Some(1.0), None]);
        let second = pack(3, &[(0, 1), (0, 2), (1, 2)], &[None, Some(0.5), Some(-1.0)]);
        let outputs = [output(&[0.3, -0.7]), output(&[0.1, 0.4, -0.2])];
        let items =
            [share_of(&objective, &first, &outputs[0]), None, share_of(&objective, &second, &outputs[1])];
        let scores = losses_of_items(&objective, HeldOutScores::LOSS, &items);
        assert!(scores.values[0].is_some() && scores.values[1].is_none());
        let packs = [first, second];
        let sums = objective.measure_step(&packs, &outputs);
        let means = sums.iter().map(|sum| sum.numerator / sum.denominator);
        let names = objective.metric_names().into_iter().map(str::to_owned);
        let expected = objective.loss(&names.zip(means).collect());
        let mean = scores.mean().unwrap();
        assert!((mean - expected).abs() < 1e-12, "{mean} instead of {expected}");
        // A whole step is one item.
        let step = [share_of_step(&objective, &packs, &outputs)];
        let of_step = losses_of_items(&objective, HeldOutScores::LOSS_OF_STEPS, &step);
        assert!((of_step.values[0].unwrap() - expected).abs() < 1e-12);
    }
}
