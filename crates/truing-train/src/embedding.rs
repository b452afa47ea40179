//! The trainer of text encoders: vectors of whole steps, a loss of triplets, one optimiser step. It shares optimiser,
//! schedule, measures and checkpoints with [`Trainer`](crate::Trainer); what it asks of an engine is another door.
//!
//! A step's triplets come in packs, three texts a triplet one after the other. Where the loss is a sum over triplets each
//! pack runs forward and backward for itself. Where it couples them, and there are several packs, all vectors are made
//! first without keeping anything, then every pack runs again with the gradient at its vectors (Gao et al. 2021, "GradCache",
//! arXiv 2101.06983): the batch of the loss is not bounded by memory, and the gradient is the same.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use truing_model::{EncoderEngine, Keep};
use truing_types::{Communicator, PackedBatch};

use crate::gradients::{Measures, NonFinitePack};
use crate::objectives::{EMBEDDING_METRICS, EmbeddingLoss, TripletVectors, WeightedSum};
use crate::schedule::Schedule;
use crate::trainer::{OptimizerConfig, StepOutcome};
use crate::{Quantity, TrainError};

/// Texts of a triplet.
const TEXTS: usize = 3;

/// Takes optimiser steps on an encoder.
#[derive(Debug)]
pub struct EmbeddingTrainer<E: EncoderEngine> {
    engine: E,
    keep: Keep,
    optimizer: OptimizerConfig,
    schedule: Schedule,
    steps_taken: u64,
}

impl<E: EncoderEngine> EmbeddingTrainer<E> {
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

    /// Takes one optimiser step on this rank's packs of triplets. `on_pack` is called after each and may break off.
    ///
    /// # Errors
    /// When there is no triplet, the loss or the gradient's norm is not finite, the engine fails, a peer is lost, or
    /// `on_pack` broke off. The weights and moments are then as they were.
    pub fn step(
        &mut self,
        packs: &[PackedBatch],
        loss: &EmbeddingLoss,
        communicator: &dyn Communicator,
        on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
    ) -> Result<StepOutcome, TrainError> {
        let step = self.steps_taken + 1;
        let measures = self.accumulate_gradients(packs, loss, communicator, on_pack)?;
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

    /// Zeroes the gradients, runs every pack forward and backward, and sums gradients and measures over the ranks.
    /// In-batch negatives are those of the same rank.
    fn accumulate_gradients(
        &mut self,
        packs: &[PackedBatch],
        loss: &EmbeddingLoss,
        communicator: &dyn Communicator,
        on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
    ) -> Result<Measures, TrainError> {
        let denominator = n_triplets(packs, communicator)?;
        self.engine.zero_gradients();
        let width = self.engine.spec().hidden_size;
        let mut tally = Tally::default();
        let all_at_once = if loss.couples_triplets() && packs.len() > 1 {
            let values = self.encode(packs)?;
            tally.add(0, packs, loss, TripletVectors { values: &values, width });
            Some(loss.gradient(TripletVectors { values: &values, width }, denominator))
        } else {
            None
        };
        let mut first = 0;
        for (pack_idx, pack) in packs.iter().enumerate() {
            let batch = self.engine.upload(pack)?;
            let (values, kept) = self.engine.encode(&batch, self.keep)?;
            let gradient = match &all_at_once {
                Some(gradient) => gradient[first..first + values.len()].to_vec(),
                None => {
                    let vectors = TripletVectors { values: &values, width };
                    tally.add(pack_idx, std::slice::from_ref(pack), loss, vectors);
                    loss.gradient(vectors, denominator)
                }
            };
            self.engine.backward(&batch, kept, &gradient)?;
            first += values.len();
            if on_pack(pack).is_break() {
                return Err(TrainError::BrokenOff);
            }
        }
        self.engine.reduce_gradients(communicator)?;
        tally.reduce(communicator)
    }

    /// The loss over triplets that are not learnt from. In-batch negatives are those of the same step's size: each entry
    /// of `steps` is the packs of one.
    ///
    /// # Errors
    /// When there is no triplet, the loss is not finite, the engine fails, a peer is lost, or `on_pack` broke off.
    pub fn evaluate(
        &mut self,
        steps: &[Vec<PackedBatch>],
        loss: &EmbeddingLoss,
        communicator: &dyn Communicator,
        on_step: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Measures, TrainError> {
        let width = self.engine.spec().hidden_size;
        let mut tally = Tally::default();
        for packs in steps {
            let values = self.encode(packs)?;
            tally.add(0, packs, loss, TripletVectors { values: &values, width });
            if on_step().is_break() {
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

    /// The vectors of all packs, in order.
    fn encode(&mut self, packs: &[PackedBatch]) -> Result<Vec<f32>, TrainError> {
        let mut vectors = Vec::new();
        for pack in packs {
            let batch = self.engine.upload(pack)?;
            vectors.extend(self.engine.encode(&batch, Keep::Nothing)?.0);
        }
        Ok(vectors)
    }
}

/// Triplets of the step over all ranks.
fn n_triplets(packs: &[PackedBatch], communicator: &dyn Communicator) -> Result<f64, TrainError> {
    let mut total = [packs.iter().map(|pack| pack.n_sequences() / TEXTS).sum::<usize>() as f64];
    communicator.all_reduce_sum_f64(&mut total)?;
    if total[0] > 0.0 { Ok(total[0]) } else { Err(TrainError::NoTriplets) }
}

/// Sums in the making, to be reduced over ranks as one vector.
#[derive(Default)]
struct Tally {
    sums: [WeightedSum; EMBEDDING_METRICS.len()],
    n_tokens: u64,
    non_finite: Option<NonFinitePack>,
}

impl Tally {
    /// Packs whose triplets may see one another.
    fn add(
        &mut self,
        first_pack_idx: usize,
        packs: &[PackedBatch],
        loss: &EmbeddingLoss,
        vectors: TripletVectors<'_>,
    ) {
        let n_values = |pack: &PackedBatch| pack.n_sequences() * vectors.width;
        for (sum, share) in self.sums.iter_mut().zip(loss.measure(vectors)) {
            sum.numerator += share.numerator;
            sum.denominator += share.denominator;
        }
        let mut rest = vectors.values;
        for (i, pack) in packs.iter().enumerate() {
            let (values, after) = rest.split_at(n_values(pack));
            self.n_tokens += pack.n_tokens() as u64;
            self.blame(first_pack_idx + i, pack, values);
            rest = after;
        }
    }

    /// Notes the first pack with a vector that is not finite.
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
        let means = EMBEDDING_METRICS.into_iter().zip(totals.chunks_exact(2).map(|sum| sum[0] / sum[1]));
        let means: BTreeMap<&'static str, f64> = means.collect();
        Ok(Measures {
            loss: means["loss"],
            means,
            n_tokens: totals[2 * EMBEDDING_METRICS.len()] as u64,
            n_loss_tokens: 0,
            non_finite: self.non_finite,
        })
    }
}
