//! The gradient of one optimiser step: forward and backward of every pack, accumulated, then summed over the
//! ranks. One denominator for the whole step is known before the first backward, so that any cut of the step
//! into packs, micro-batches and ranks gives the same gradient.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use truing_model::{Engine, TokenLogProbs};
use truing_types::{Communicator, PackedBatch, RowOrigin, TargetTokens};

use crate::TrainError;
use crate::objectives::{Objective, WeightedSum};
use crate::segments::{self, SegmentPlan};

/// What was measured over all packs of all ranks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measures {
    /// The objective's metrics as means, under its names.
    pub means: BTreeMap<&'static str, f64>,
    /// The objective itself, `means` under its first name.
    pub loss: f64,
    /// Tokens that the model saw.
    pub n_tokens: u64,
    /// Tokens that carried loss.
    pub n_loss_tokens: u64,
    /// The first pack of this rank with a log-probability that is not finite.
    pub non_finite: Option<NonFinitePack>,
}

/// A pack that broke the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NonFinitePack {
    /// Its place among this rank's packs of the step.
    pub pack_idx: usize,
    /// The rows in it that are to blame.
    pub rows: Vec<RowOrigin>,
}

/// Sums in the making, to be reduced over ranks as one vector.
struct Tally<'a> {
    objective: &'a dyn Objective,
    sums: Vec<WeightedSum>,
    n_tokens: u64,
    n_loss_tokens: u64,
    non_finite: Option<NonFinitePack>,
}

impl<'a> Tally<'a> {
    fn new(objective: &'a dyn Objective) -> Self {
        let sums = vec![WeightedSum::default(); objective.metric_names().len()];
        Self { objective, sums, n_tokens: 0, n_loss_tokens: 0, non_finite: None }
    }

    fn add(&mut self, pack_idx: usize, pack: &PackedBatch, targets: &TargetTokens, scores: &TokenLogProbs) {
        let measured = self.objective.measure(pack, targets, scores);
        for (sum, share) in self.sums.iter_mut().zip(measured) {
            sum.numerator += share.numerator;
            sum.denominator += share.denominator;
        }
        self.n_tokens += pack.n_tokens() as u64;
        self.n_loss_tokens += targets.tokens.len() as u64;
        if self.non_finite.is_none() {
            let rows = rows_with_non_finite_log_probs(pack, targets, scores);
            self.non_finite = (!rows.is_empty()).then_some(NonFinitePack { pack_idx, rows });
        }
    }

    fn reduce(self, communicator: &dyn Communicator) -> Result<Measures, TrainError> {
        let mut totals: Vec<f64> =
            self.sums.iter().flat_map(|sum| [sum.numerator, sum.denominator]).collect();
        totals.extend([self.n_tokens as f64, self.n_loss_tokens as f64]);
        communicator.all_reduce_sum_f64(&mut totals)?;
        let names = self.objective.metric_names();
        let means: Vec<f64> = totals.chunks(2).take(names.len()).map(|sum| sum[0] / sum[1]).collect();
        Ok(Measures {
            loss: means.first().copied().unwrap_or_default(),
            means: names.iter().copied().zip(means).collect(),
            n_tokens: totals[2 * names.len()] as u64,
            n_loss_tokens: totals[2 * names.len() + 1] as u64,
            non_finite: self.non_finite,
        })
    }
}

fn rows_with_non_finite_log_probs(
    pack: &PackedBatch,
    targets: &TargetTokens,
    scores: &TokenLogProbs,
) -> Vec<RowOrigin> {
    let mut rows: Vec<RowOrigin> = Vec::new();
    for (&row, log_prob) in targets.rows.iter().zip(&scores.log_probs) {
        if !log_prob.is_finite() {
            let sequence_idx = pack.cumulative_lengths().partition_point(|&start| start <= row) - 1;
            let origin = &pack.origins()[sequence_idx];
            if rows.last() != Some(origin) {
                rows.push(origin.clone());
            }
        }
    }
    rows
}

/// The step's denominator: every pack's share, summed over the ranks.
///
/// # Errors
/// When no token of the step carries loss, or a peer is lost.
pub fn step_denominator(
    packs: &[PackedBatch],
    objective: &dyn Objective,
    communicator: &dyn Communicator,
) -> Result<f64, TrainError> {
    let mut total = [packs.iter().map(|pack| objective.denominator(pack, &pack.targets())).sum::<f64>()];
    communicator.all_reduce_sum_f64(&mut total)?;
    if total[0] > 0.0 { Ok(total[0]) } else { Err(TrainError::NoLossTokens) }
}

/// Forward and backward of one pack; adds to the gradients.
fn accumulate_pack<E: Engine>(
    engine: &mut E,
    plan: &SegmentPlan,
    pack: &PackedBatch,
    targets: &TargetTokens,
    objective: &dyn Objective,
    denominator: f64,
) -> Result<TokenLogProbs, TrainError> {
    let batch = engine.upload(pack)?;
    let (hidden, kept) = segments::forward(engine, &batch, plan)?;
    let d_log_probs = match objective.constant_gradient(pack, targets, denominator) {
        Some(gradient) => gradient,
        None => {
            let log_probs = engine.log_probs(&hidden, targets)?;
            objective.gradient(pack, targets, &log_probs, denominator)
        }
    };
    let (scores, d_hidden) = engine.log_probs_backward(hidden, targets, &d_log_probs)?;
    segments::backward(engine, &batch, kept, d_hidden)?;
    Ok(scores)
}

/// Zeroes the gradients, runs every pack forward and backward, and sums gradients and measures over the
/// ranks. `on_pack` is called after each pack and may break the step off; the weights are untouched.
///
/// # Errors
/// When no token carries loss, the engine fails, a peer is lost, or `on_pack` broke off.
pub fn accumulate_gradients<E: Engine>(
    engine: &mut E,
    plan: &SegmentPlan,
    packs: &[PackedBatch],
    objective: &dyn Objective,
    communicator: &dyn Communicator,
    on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
) -> Result<Measures, TrainError> {
    let denominator = step_denominator(packs, objective, communicator)?;
    engine.zero_gradients();
    let mut tally = Tally::new(objective);
    for (pack_idx, pack) in packs.iter().enumerate() {
        let targets = pack.targets();
        let scores = accumulate_pack(engine, plan, pack, &targets, objective, denominator)?;
        tally.add(pack_idx, pack, &targets, &scores);
        if on_pack(pack).is_break() {
            return Err(TrainError::BrokenOff);
        }
    }
    let measures = tally.reduce(communicator)?;
    engine.reduce_gradients(communicator)?;
    Ok(measures)
}

/// Runs every pack forward only.
///
/// # Errors
/// When no token carries loss, the engine fails, a peer is lost, or `on_pack` broke off.
pub fn evaluate<E: Engine>(
    engine: &mut E,
    packs: &[PackedBatch],
    objective: &dyn Objective,
    communicator: &dyn Communicator,
    on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
) -> Result<Measures, TrainError> {
    step_denominator(packs, objective, communicator)?;
    let mut tally = Tally::new(objective);
    for (pack_idx, pack) in packs.iter().enumerate() {
        let targets = pack.targets();
        let batch = engine.upload(pack)?;
        let hidden = segments::forward_only(engine, &batch)?;
        let scores = engine.log_probs(&hidden, &targets)?;
        tally.add(pack_idx, pack, &targets, &scores);
        if on_pack(pack).is_break() {
            return Err(TrainError::BrokenOff);
        }
    }
    tally.reduce(communicator)
}

/// Finds the first pack, and in it the sequences, whose gradient is not finite although its loss is, by
/// running them one by one. Slow, and only for the message of a run that has already failed.
pub(crate) fn find_non_finite_gradient<E: Engine>(
    engine: &mut E,
    plan: &SegmentPlan,
    packs: &[PackedBatch],
    objective: &dyn Objective,
    denominator: f64,
) -> Result<Option<NonFinitePack>, TrainError> {
    for (pack_idx, pack) in packs.iter().enumerate() {
        if has_finite_gradient(engine, plan, pack, objective, denominator)? {
            continue;
        }
        let mut rows = Vec::new();
        for (sequence_idx, origin) in pack.origins().iter().enumerate() {
            let range = pack.sequence_range(sequence_idx);
            let (tokens, weights) = (&pack.tokens()[range.clone()], &pack.loss_weights()[range]);
            let alone = PackedBatch::new([(tokens, weights, origin.clone())])?;
            if !has_finite_gradient(engine, plan, &alone, objective, denominator)? {
                rows.push(origin.clone());
            }
        }
        if rows.is_empty() {
            rows = pack.origins().to_vec();
        }
        return Ok(Some(NonFinitePack { pack_idx, rows }));
    }
    Ok(None)
}

fn has_finite_gradient<E: Engine>(
    engine: &mut E,
    plan: &SegmentPlan,
    pack: &PackedBatch,
    objective: &dyn Objective,
    denominator: f64,
) -> Result<bool, TrainError> {
    engine.zero_gradients();
    accumulate_pack(engine, plan, pack, &pack.targets(), objective, denominator)?;
    Ok(engine.gradient_norm().is_finite())
}
