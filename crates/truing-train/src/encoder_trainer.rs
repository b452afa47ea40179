//! The trainer of text encoders: what they make of whole steps of texts, a loss, one optimiser step. It shares optimiser,
//! schedule, measures and checkpoints with [`Trainer`](crate::Trainer); what it asks of an engine is another door.
//!
//! A step's texts come in packs. Where the loss is a sum over packs each runs forward and backward for itself. Where it
//! couples them, and there are several packs, all vectors are made first without keeping anything, then every pack runs
//! again with the gradient at its vectors (Gao et al. 2021, "GradCache", arXiv 2101.06983): the batch of the loss is not
//! bounded by memory, and the gradient is the same.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use truing_model::{EncoderEngine, Keep};
use truing_types::{Communicator, PackedBatch, all_gather_dealt, dealt};

use crate::gradients::{Measures, NonFinitePack};
use crate::objectives::{EncoderObjective, TrainingPack, WeightedSum};
use crate::schedule::Schedule;
use crate::trainer::{OptimizerConfig, StepOutcome};
use crate::{Quantity, TrainError};

/// Takes optimiser steps on an encoder.
#[derive(Debug)]
pub struct EncoderTrainer<E: EncoderEngine> {
    engine: E,
    keep: Keep,
    optimizer: OptimizerConfig,
    schedule: Schedule,
    steps_taken: u64,
}

impl<E: EncoderEngine> EncoderTrainer<E> {
    /// A trainer that has taken no step. `keep` is what layers leave behind for their backward; it changes no result.
    ///
    /// # Errors
    /// When no parameter of the engine learns.
    pub fn new(
        engine: E,
        keep: Keep,
        optimizer: OptimizerConfig,
        schedule: Schedule,
    ) -> Result<Self, TrainError> {
        if !engine.parameters().iter().any(|parameter| engine.trainable().is_trainable(parameter)) {
            return Err(TrainError::NothingLearns);
        }
        Ok(Self { engine, keep, optimizer, schedule, steps_taken: 0 })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// The engine, to be changed: for restoring a checkpoint.
    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Goes on from a checkpoint whose weights and moments the engine already holds.
    pub fn resume_at(&mut self, steps_taken: u64) {
        self.steps_taken = steps_taken;
    }

    /// Takes one optimiser step on `packs`, which are the same on every rank; each rank computes those that are dealt to
    /// it. `on_pack` is called after each of them and may break off.
    ///
    /// # Errors
    /// When there is nothing to learn from, the loss or the gradient's norm is not finite, the engine fails, a peer is lost, or
    /// `on_pack` broke off. The weights and moments are then as they were.
    pub fn step<O: EncoderObjective>(
        &mut self,
        packs: &[O::Pack],
        objective: &O,
        communicator: &dyn Communicator,
        on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
    ) -> Result<StepOutcome, TrainError> {
        let step = self.steps_taken + 1;
        let measures = self.accumulate_gradients(packs, objective, communicator, on_pack)?;
        if !measures.loss.is_finite() {
            return Err(TrainError::non_finite(step, Quantity::Loss, measures.non_finite));
        }
        let grad_norm = self.engine.gradient_norm();
        if !grad_norm.is_finite() {
            return Err(TrainError::non_finite(step, Quantity::GradientNorm, None));
        }
        let learning_rate = self.schedule.learning_rate(step);
        self.engine.optimizer_step(&self.optimizer.step(step, learning_rate, grad_norm));
        self.steps_taken = step;
        Ok(StepOutcome { step, measures, grad_norm, learning_rate })
    }

    /// Zeroes the gradients, runs this rank's packs forward and backward, and sums gradients and measures over the ranks.
    /// Where the loss couples packs, every rank gets the vectors of all: in-batch negatives are those of the whole step,
    /// whatever the number of ranks.
    fn accumulate_gradients<O: EncoderObjective>(
        &mut self,
        packs: &[O::Pack],
        objective: &O,
        communicator: &dyn Communicator,
        on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
    ) -> Result<Measures, TrainError> {
        let denominators = step_denominators(packs, objective)?;
        self.engine.zero_gradients();
        let mut tally = Tally::new(objective);
        let all_at_once = if objective.couples_packs() && packs.len() > 1 {
            let mine = dealt(packs.len(), communicator).map(|i| self.encode::<O>(&packs[i..=i]));
            let by_pack = all_gather_dealt(communicator, mine.collect::<Result<_, _>>()?)?;
            let values = by_pack.concat();
            // Measures are summed over the ranks: one of them brings those of all packs.
            if communicator.rank().0 == 0 {
                tally.add(0, packs, &values);
            }
            let gradient = objective.gradient(packs, &values, &denominators);
            let mut rest = &gradient[..];
            let cut = by_pack.iter().map(|values| {
                let (of_pack, after) = rest.split_at(values.len());
                rest = after;
                of_pack.to_vec()
            });
            Some(cut.collect::<Vec<_>>())
        } else {
            None
        };
        for pack_idx in dealt(packs.len(), communicator) {
            let pack = &packs[pack_idx];
            let batch = self.engine.upload(pack.batch())?;
            let (values, kept) = self.engine.encode(&batch, self.keep)?;
            let alone = std::slice::from_ref(pack);
            let gradient = match &all_at_once {
                Some(by_pack) => by_pack[pack_idx].clone(),
                None => {
                    tally.add(pack_idx, alone, &values);
                    objective.gradient(alone, &values, &denominators)
                }
            };
            self.engine.backward(&batch, kept, &gradient)?;
            if on_pack(pack.batch()).is_break() {
                return Err(TrainError::BrokenOff);
            }
        }
        self.engine.reduce_gradients(communicator)?;
        tally.reduce(communicator)
    }

    /// The loss over packs that are not learnt from. In-batch negatives are those of the same step: each entry of `steps`
    /// is the packs of one, all of them on one rank. `on_step` gets what the encoder made of them `[n_sequences, width]`.
    ///
    /// # Errors
    /// When there is nothing to measure, the loss is not finite, the engine fails, a peer is lost, or `on_step` broke off.
    pub fn evaluate<O: EncoderObjective>(
        &mut self,
        steps: &[Vec<O::Pack>],
        objective: &O,
        communicator: &dyn Communicator,
        on_step: &mut dyn FnMut(Vec<f32>) -> ControlFlow<()>,
    ) -> Result<Measures, TrainError> {
        let mut tally = Tally::new(objective);
        for packs in steps {
            let values = self.encode::<O>(packs)?;
            tally.add(0, packs, &values);
            if on_step(values).is_break() {
                return Err(TrainError::BrokenOff);
            }
        }
        let measures = tally.reduce(communicator)?;
        if measures.loss.is_finite() {
            Ok(measures)
        } else {
            Err(TrainError::non_finite(self.steps_taken, Quantity::EvaluationLoss, measures.non_finite))
        }
    }

    /// What the encoder makes of all packs, in order.
    fn encode<O: EncoderObjective>(&mut self, packs: &[O::Pack]) -> Result<Vec<f32>, TrainError> {
        let mut values = Vec::new();
        for pack in packs {
            let batch = self.engine.upload(pack.batch())?;
            values.extend(self.engine.encode(&batch, Keep::Nothing)?.0);
        }
        Ok(values)
    }
}

/// The step's denominator of each part, over the packs of all ranks.
fn step_denominators<O: EncoderObjective>(packs: &[O::Pack], objective: &O) -> Result<Vec<f64>, TrainError> {
    let mut totals: Vec<f64> = Vec::new();
    for pack in packs {
        let shares = objective.denominators(pack);
        totals.resize(shares.len(), 0.0);
        totals.iter_mut().zip(shares).for_each(|(total, share)| *total += share);
    }
    if totals.iter().any(|&total| total > 0.0) { Ok(totals) } else { Err(TrainError::NoSamples) }
}

/// Sums in the making, to be reduced over ranks as one vector.
struct Tally<'a, O> {
    objective: &'a O,
    sums: Vec<WeightedSum>,
    n_tokens: u64,
    non_finite: Option<NonFinitePack>,
}

impl<'a, O: EncoderObjective> Tally<'a, O> {
    fn new(objective: &'a O) -> Self {
        let sums = vec![WeightedSum::default(); objective.metric_names().len()];
        Self { objective, sums, n_tokens: 0, non_finite: None }
    }

    /// Packs that may see one another.
    fn add(&mut self, first_pack_idx: usize, packs: &[O::Pack], values: &[f32]) {
        for (sum, share) in self.sums.iter_mut().zip(self.objective.measure(packs, values)) {
            sum.numerator += share.numerator;
            sum.denominator += share.denominator;
        }
        let n_sequences: usize = packs.iter().map(|pack| pack.batch().n_sequences()).sum();
        let width = values.len() / n_sequences.max(1);
        let mut rest = values;
        for (i, pack) in packs.iter().map(TrainingPack::batch).enumerate() {
            let (values, after) = rest.split_at(pack.n_sequences() * width);
            self.n_tokens += pack.n_tokens() as u64;
            self.blame(first_pack_idx + i, pack, values);
            rest = after;
        }
    }

    /// Notes the first pack with a value that is not finite.
    fn blame(&mut self, pack_idx: usize, pack: &PackedBatch, values: &[f32]) {
        if self.non_finite.is_some() || values.iter().all(|x| x.is_finite()) {
            return;
        }
        let width = values.len() / pack.n_sequences();
        let vectors = values.chunks_exact(width).zip(pack.origins());
        let mut rows: Vec<_> =
            vectors.filter(|(v, _)| v.iter().any(|x| !x.is_finite())).map(|(_, row)| row.clone()).collect();
        rows.dedup();
        self.non_finite = Some(NonFinitePack { pack_idx, rows });
    }

    fn reduce(self, communicator: &dyn Communicator) -> Result<Measures, TrainError> {
        let mut totals: Vec<f64> =
            self.sums.iter().flat_map(|sum| [sum.numerator, sum.denominator]).collect();
        totals.push(self.n_tokens as f64);
        communicator.all_reduce_sum_f64(&mut totals)?;
        let names = self.objective.metric_names();
        let values = totals.chunks_exact(2).map(|sum| sum[0] / sum[1]);
        let means: BTreeMap<String, f64> = names.iter().map(ToString::to_string).zip(values).collect();
        Ok(Measures {
            loss: self.objective.loss(&means),
            means,
            n_tokens: totals[2 * names.len()] as u64,
            n_loss_tokens: 0,
            non_finite: self.non_finite,
        })
    }
}
