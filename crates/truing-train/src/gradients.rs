//! The gradient of one optimiser step: forward and backward of every pack, accumulated, then summed over the
//! ranks. One denominator for the whole step is known before the first backward, so that any cut of the step
//! into packs, micro-batches and ranks gives the same gradient.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use truing_model::{Adapters, Engine, HeadGradient, HeadOutput, HeadRequest};
use truing_types::{CommunicationError, Communicator, PackedBatch, RowOrigin, all_gather_dealt, dealt};

use crate::TrainError;
use crate::objectives::{Objective, TrainingPack, WeightedSum};
use crate::segments::{self, SegmentPlan};

/// What was measured over all packs of all ranks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measures {
    /// The objective's metrics as means, under its names.
    pub means: BTreeMap<String, f64>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonFinitePack {
    /// Its place among its rank's packs of the step.
    pub pack_idx: usize,
    /// The rows in it that are to blame.
    pub rows: Vec<RowOrigin>,
}

/// Sums in the making, to be reduced over ranks as one vector.
struct Tally<'a, O: ?Sized> {
    objective: &'a O,
    sums: Vec<WeightedSum>,
    n_tokens: u64,
    n_loss_tokens: u64,
    non_finite: Option<NonFinitePack>,
}

impl<'a, O: Objective + ?Sized> Tally<'a, O> {
    fn new(objective: &'a O) -> Self {
        let sums = vec![WeightedSum::default(); objective.metric_names().len()];
        Self { objective, sums, n_tokens: 0, n_loss_tokens: 0, non_finite: None }
    }

    fn add(&mut self, pack_idx: usize, pack: &O::Pack, request: &HeadRequest<'_>, output: &HeadOutput) {
        self.add_sums(self.objective.measure(pack, request, output));
        self.count(pack_idx, pack, request, output);
    }

    /// All packs of a step together.
    fn add_step(&mut self, packs: &[O::Pack], outputs: &[HeadOutput]) {
        self.add_sums(self.objective.measure_step(packs, outputs));
        for (pack_idx, (pack, output)) in packs.iter().zip(outputs).enumerate() {
            self.count(pack_idx, pack, &self.objective.request(pack), output);
        }
    }

    fn add_sums(&mut self, shares: Vec<WeightedSum>) {
        self.sums.iter_mut().zip(shares).for_each(|(sum, share)| sum.add(share));
    }

    fn count(&mut self, pack_idx: usize, pack: &O::Pack, request: &HeadRequest<'_>, output: &HeadOutput) {
        self.n_tokens += pack.batch().n_tokens() as u64;
        self.n_loss_tokens += request.rows().len() as u64;
        if self.non_finite.is_none() {
            let rows = rows_with_non_finite_output(pack.batch(), request, output);
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
        let means: BTreeMap<String, f64> = names.iter().map(ToString::to_string).zip(means).collect();
        Ok(Measures {
            loss: self.objective.loss(&means),
            means,
            n_tokens: totals[2 * names.len()] as u64,
            n_loss_tokens: totals[2 * names.len() + 1] as u64,
            non_finite: self.non_finite,
        })
    }
}

/// The first pack that a rank blames, on every rank: one of them speaks for all.
pub(crate) fn blamed_by_any_rank(
    mine: Option<NonFinitePack>,
    communicator: &dyn Communicator,
) -> Result<Option<NonFinitePack>, TrainError> {
    let mine = mine.and_then(|pack| serde_json::to_vec(&pack).ok()).unwrap_or_default();
    let all = communicator.all_gather_bytes(&mine)?;
    let Some((rank, found)) = all.iter().enumerate().find(|(_, bytes)| !bytes.is_empty()) else {
        return Ok(None);
    };
    let malformed = |_| CommunicationError::Malformed { rank, n_bytes: found.len() };
    Ok(Some(serde_json::from_slice(found).map_err(malformed)?))
}

fn rows_with_non_finite_output(
    pack: &PackedBatch,
    request: &HeadRequest<'_>,
    output: &HeadOutput,
) -> Vec<RowOrigin> {
    let n_rows = request.rows().len().max(1);
    let is_finite = |i: usize| {
        [&output.tokens.log_probs, &output.kl, &output.scores, &output.vectors].iter().all(|values| {
            let n_of_a_row = values.len() / n_rows;
            values[i * n_of_a_row..(i + 1) * n_of_a_row].iter().all(|value| value.is_finite())
        })
    };
    let mut rows: Vec<RowOrigin> = Vec::new();
    for (i, &row) in request.rows().iter().enumerate() {
        if !is_finite(i) {
            let sequence_idx = pack.cumulative_lengths().partition_point(|&start| start <= row) - 1;
            let origin = &pack.origins()[sequence_idx];
            if rows.last() != Some(origin) {
                rows.push(origin.clone());
            }
        }
    }
    rows
}

/// The step's denominator of each part: every pack's share, summed over the ranks.
///
/// # Errors
/// When nothing of the step carries loss, or a peer is lost.
pub fn step_denominators<O: Objective + ?Sized>(
    packs: &[O::Pack],
    objective: &O,
    communicator: &dyn Communicator,
) -> Result<Vec<f64>, TrainError> {
    let mut totals = sum_of_denominators(packs, objective);
    if objective.couples_packs() {
        // Every rank has the packs of all.
        return if totals.iter().any(|&total| total > 0.0) {
            Ok(totals)
        } else {
            Err(TrainError::NoLossTokens)
        };
    }
    // A rank without a pack does not know the number of parts: it learns it from those that have one.
    let mut n_parts = [totals.len() as f64, f64::from(u8::from(!packs.is_empty()))];
    communicator.all_reduce_sum_f64(&mut n_parts)?;
    if packs.is_empty() && n_parts[1] > 0.0 {
        totals.resize((n_parts[0] / n_parts[1]) as usize, 0.0);
    }
    communicator.all_reduce_sum_f64(&mut totals)?;
    if totals.iter().any(|&total| total > 0.0) { Ok(totals) } else { Err(TrainError::NoLossTokens) }
}

fn sum_of_denominators<O: Objective + ?Sized>(packs: &[O::Pack], objective: &O) -> Vec<f64> {
    let mut totals: Vec<f64> = Vec::new();
    for pack in packs {
        let shares = objective.denominators(pack, &objective.request(pack));
        totals.resize(shares.len(), 0.0);
        totals.iter_mut().zip(shares).for_each(|(total, share)| *total += share);
    }
    totals
}

/// Forward and backward of one pack; adds to the gradients. A gradient that is known already is taken as it is.
fn accumulate_pack<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    plan: &SegmentPlan,
    pack: &O::Pack,
    request: &HeadRequest<'_>,
    objective: &O,
    denominators: &[f64],
    known: Option<HeadGradient>,
) -> Result<HeadOutput, TrainError> {
    let batch = engine.upload(pack.batch())?;
    let (hidden, saved) = segments::forward(engine, &batch, plan)?;
    let gradient = match known.or_else(|| objective.constant_gradient(pack, request, denominators)) {
        Some(gradient) => gradient,
        None => {
            let output = engine.head(&hidden, request)?;
            objective.gradient(pack, request, &output, denominators)
        }
    };
    let (output, d_hidden) = engine.head_backward(hidden, request, &gradient)?;
    segments::backward(engine, &batch, saved, d_hidden)?;
    Ok(output)
}

/// Zeroes the gradients, runs every pack forward and backward, and sums gradients and measures over the
/// ranks. `on_pack` is called after each pack and may stop the step; the weights are untouched.
///
/// # Errors
/// When no token carries loss, the engine fails, a peer is lost, or `on_pack` stopped the step.
pub fn accumulate_gradients<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    plan: &SegmentPlan,
    packs: &[O::Pack],
    objective: &O,
    communicator: &dyn Communicator,
    on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
) -> Result<Measures, TrainError> {
    let denominators = step_denominators(packs, objective, communicator)?;
    engine.zero_gradients()?;
    let mut tally = Tally::new(objective);
    let couples_packs = objective.couples_packs();
    // A single pack has nothing to be coupled with.
    let coupled = if couples_packs && packs.len() > 1 {
        Some(coupled_gradients(engine, packs, objective, &denominators, communicator, &mut tally)?)
    } else {
        None
    };
    let mine: Vec<usize> = match couples_packs {
        true => dealt(packs.len(), communicator).collect(),
        false => (0..packs.len()).collect(),
    };
    for pack_idx in mine {
        let pack = &packs[pack_idx];
        let request = objective.request(pack);
        let known = coupled.as_ref().map(|gradients| gradients[pack_idx].clone());
        let output = accumulate_pack(engine, plan, pack, &request, objective, &denominators, known)?;
        if coupled.is_none() {
            tally.add(pack_idx, pack, &request, &output);
        }
        if on_pack(pack.batch()).is_break() {
            return Err(TrainError::BrokenOff);
        }
    }
    engine.join_others()?;
    let measures = tally.reduce(communicator)?;
    engine.reduce_gradients()?;
    Ok(measures)
}

/// The gradients at the heads of all packs of a step whose loss couples them. All packs run forward without saving
/// anything, then the loss sees all of them at once; the packs run again with their gradient (Gao et al. 2021,
/// "GradCache", arXiv 2101.06983). So the batch of the loss is not bounded by memory, and the gradient is the same.
/// Every rank computes the packs that are dealt to it, and gets the vectors of all: in-batch negatives do not depend on
/// the number of ranks.
fn coupled_gradients<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    packs: &[O::Pack],
    objective: &O,
    denominators: &[f64],
    communicator: &dyn Communicator,
    tally: &mut Tally<'_, O>,
) -> Result<Vec<HeadGradient>, TrainError> {
    let mut mine = Vec::new();
    for pack_idx in dealt(packs.len(), communicator) {
        mine.push(answer(engine, &packs[pack_idx], objective)?.vectors);
    }
    engine.join_others()?;
    let vectors = all_gather_dealt(communicator, mine)?;
    let outputs: Vec<HeadOutput> =
        vectors.into_iter().map(|vectors| HeadOutput { vectors, ..HeadOutput::default() }).collect();
    // Measures are summed over the ranks: one of them brings those of all packs.
    if communicator.rank().0 == 0 {
        tally.add_step(packs, &outputs);
    }
    Ok(objective.gradients_of_step(packs, &outputs, denominators))
}

/// What the head answers about a pack; nothing is saved for a backward.
fn answer<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    pack: &O::Pack,
    objective: &O,
) -> Result<HeadOutput, TrainError> {
    let batch = engine.upload(pack.batch())?;
    let hidden = segments::forward_only(engine, &batch, Adapters::Enabled)?;
    Ok(engine.head(&hidden, &objective.request(pack))?)
}

/// Runs every pack of some steps forward only. A step's packs are all on this rank.
///
/// # Errors
/// When no token carries loss, the engine fails, a peer is lost, or `on_step` stopped it.
pub fn evaluate<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    steps: &[Vec<O::Pack>],
    objective: &O,
    communicator: &dyn Communicator,
    on_step: &mut dyn FnMut(&[HeadOutput]) -> ControlFlow<()>,
) -> Result<Measures, TrainError> {
    let mut totals: Vec<f64> = Vec::new();
    for packs in steps {
        let shares = sum_of_denominators(packs, objective);
        totals.resize(shares.len().max(totals.len()), 0.0);
        totals.iter_mut().zip(shares).for_each(|(total, share)| *total += share);
    }
    let mut has_loss = [f64::from(u8::from(totals.iter().any(|&total| total > 0.0)))];
    communicator.all_reduce_sum_f64(&mut has_loss)?;
    if has_loss[0] == 0.0 {
        return Err(TrainError::NoLossTokens);
    }
    let mut tally = Tally::new(objective);
    for packs in steps {
        let outputs: Vec<HeadOutput> =
            packs.iter().map(|pack| answer(engine, pack, objective)).collect::<Result<_, _>>()?;
        tally.add_step(packs, &outputs);
        if on_step(&outputs).is_break() {
            return Err(TrainError::BrokenOff);
        }
    }
    engine.join_others()?;
    tally.reduce(communicator)
}

/// Finds the first pack, and in it the sequences, whose gradient is not finite although its loss is, by
/// running them one by one. Slow, and only for the message of a run that has already failed. Where the loss couples
/// packs no single pack is the cause.
pub(crate) fn find_non_finite_gradient<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    plan: &SegmentPlan,
    packs: &[O::Pack],
    objective: &O,
    communicator: &dyn Communicator,
) -> Result<Option<NonFinitePack>, TrainError> {
    if objective.couples_packs() {
        return Ok(None);
    }
    let denominators = step_denominators(packs, objective, communicator)?;
    let mut found = None;
    for (pack_idx, pack) in packs.iter().enumerate() {
        if has_finite_gradient(engine, plan, pack, objective, &denominators)? {
            continue;
        }
        let mut rows = Vec::new();
        for piece in objective.pieces(pack) {
            if !has_finite_gradient(engine, plan, &piece, objective, &denominators)? {
                rows.extend_from_slice(piece.batch().origins());
            }
        }
        if rows.is_empty() {
            rows = pack.batch().origins().to_vec();
        }
        found = Some(NonFinitePack { pack_idx, rows });
        break;
    }
    // Every rank looks at its own packs.
    engine.join_others()?;
    Ok(found)
}

fn has_finite_gradient<E: Engine, O: Objective + ?Sized>(
    engine: &mut E,
    plan: &SegmentPlan,
    pack: &O::Pack,
    objective: &O,
    denominators: &[f64],
) -> Result<bool, TrainError> {
    engine.zero_gradients()?;
    accumulate_pack(engine, plan, pack, &objective.request(pack), objective, denominators, None)?;
    Ok(engine.has_finite_gradients()?)
}
