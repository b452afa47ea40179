//! The trainer: gradients, norm, clip, optimiser. It knows no algorithm by name, no file and no device, and a
//! world of one rank is not a special case.

use std::ops::ControlFlow;

use truing_model::{AdamWStep, Engine, HeadOutput, OptimizerStep};
use truing_types::{Communicator, PackedBatch};

use crate::gradients::{self, Measures, NonFinitePack};
use crate::objectives::Objective;
use crate::schedule::Schedule;
use crate::segments::SegmentPlan;
use crate::{Quantity, TrainError};

/// AdamW and clipping, without what changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; norms and biases are excluded.
    pub weight_decay: f32,
    /// Gradients with a larger Euclidean norm are scaled down to it; `None` never clips.
    pub max_grad_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: Some(1.0) }
    }
}

impl OptimizerConfig {
    /// One step, counted from 1.
    #[must_use]
    pub fn step(&self, step: u64, learning_rate: f64, grad_norm: f64) -> OptimizerStep {
        OptimizerStep::AdamW(AdamWStep {
            step,
            learning_rate: learning_rate as f32,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            gradient_scale: clip_scale(grad_norm, self.max_grad_norm),
        })
    }
}

/// One optimiser step as it went.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Number of the step, counted from 1.
    pub step: u64,
    /// What was measured on the way, over all ranks.
    pub measures: Measures,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
}

/// Takes optimiser steps on an engine.
#[derive(Debug)]
pub struct Trainer<E: Engine> {
    engine: E,
    segments: SegmentPlan,
    optimizer: OptimizerConfig,
    schedule: Schedule,
    steps_taken: u64,
    divides_packs: bool,
}

impl<E: Engine> Trainer<E> {
    /// A trainer that has taken no step.
    ///
    /// # Errors
    /// When no parameter of the engine learns.
    pub fn new(
        engine: E,
        segments: SegmentPlan,
        optimizer: OptimizerConfig,
        schedule: Schedule,
    ) -> Result<Self, TrainError> {
        if !engine.parameters().iter().any(|parameter| engine.trainable().is_trainable(parameter)) {
            return Err(TrainError::NothingLearns);
        }
        Ok(Self { engine, segments, optimizer, schedule, steps_taken: 0, divides_packs: false })
    }

    /// Says whether other ranks hold other rows of the same packs (Ulysses). A rank then knows only its own part of a
    /// pack's gradient, so that a gradient that is not finite is reported without the pack it comes from.
    #[must_use]
    pub fn dividing_packs(self, divides_packs: bool) -> Self {
        Self { divides_packs, ..self }
    }

    /// Optimiser steps taken.
    #[must_use]
    pub fn steps_taken(&self) -> u64 {
        self.steps_taken
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

    /// Gives the engine back.
    #[must_use]
    pub fn into_engine(self) -> E {
        self.engine
    }

    /// Goes on from a checkpoint whose weights and moments the engine already holds.
    pub fn resume_at(&mut self, steps_taken: u64) {
        self.steps_taken = steps_taken;
    }

    /// Takes one optimiser step on this rank's packs. `communicator` joins the ranks with other packs; the ranks that
    /// hold other rows of the same packs call with the same ones. Where the objective couples the packs of a step
    /// ([`Objective::couples_packs`]), on those of all ranks, which are then the same on every rank. `on_pack` is
    /// called after each pack that this rank computes, and may stop the step.
    ///
    /// # Errors
    /// When a loss or the gradient's norm is not finite (naming pack and rows), the engine fails, a peer is
    /// lost, or `on_pack` stopped the step. The weights and moments are then as they were.
    pub fn step<O: Objective + ?Sized>(
        &mut self,
        packs: &[O::Pack],
        objective: &O,
        communicator: &dyn Communicator,
        on_pack: &mut dyn FnMut(&PackedBatch) -> ControlFlow<()>,
    ) -> Result<StepOutcome, TrainError> {
        let step = self.steps_taken + 1;
        let (engine, segments) = (&mut self.engine, &self.segments);
        let measures =
            gradients::accumulate_gradients(engine, segments, packs, objective, communicator, on_pack)?;
        if !measures.loss.is_finite() {
            let found = gradients::blamed_by_any_rank(measures.non_finite, communicator)?;
            return Err(TrainError::non_finite(step, Quantity::Loss, found));
        }
        let grad_norm = engine.gradient_norm()?;
        if !grad_norm.is_finite() {
            let found = match self.divides_packs {
                true => None,
                false => {
                    gradients::find_non_finite_gradient(engine, segments, packs, objective, communicator)?
                }
            };
            let found = gradients::blamed_by_any_rank(found, communicator)?;
            return Err(TrainError::non_finite(step, Quantity::GradientNorm, found));
        }
        let learning_rate = self.schedule.learning_rate(step);
        engine.optimizer_step(&self.optimizer.step(step, learning_rate, grad_norm))?;
        self.steps_taken = step;
        Ok(StepOutcome { step, measures, grad_norm, learning_rate })
    }

    /// The objective over packs that are not learnt from. Each entry of `steps` is the packs of one step, all of them
    /// on one rank: an objective that couples packs sees those of a step together. `on_step` gets what the head
    /// answered about them, and may stop the evaluation.
    ///
    /// # Errors
    /// When the loss is not finite, the engine fails, a peer is lost, or `on_step` stopped it.
    pub fn evaluate<O: Objective + ?Sized>(
        &mut self,
        steps: &[Vec<O::Pack>],
        objective: &O,
        communicator: &dyn Communicator,
        on_step: &mut dyn FnMut(&[HeadOutput]) -> ControlFlow<()>,
    ) -> Result<Measures, TrainError> {
        let measures = gradients::evaluate(&mut self.engine, steps, objective, communicator, on_step)?;
        if measures.loss.is_finite() {
            Ok(measures)
        } else {
            let found = gradients::blamed_by_any_rank(measures.non_finite, communicator)?;
            Err(TrainError::non_finite(self.steps_taken, Quantity::EvaluationLoss, found))
        }
    }
}

/// The factor that brings a gradient down to the largest norm allowed (as `torch.nn.utils.clip_grad_norm_`).
fn clip_scale(grad_norm: f64, max_grad_norm: Option<f64>) -> f32 {
    max_grad_norm.map_or(1.0, |max| (max / (grad_norm + 1e-6)).min(1.0)) as f32
}

impl TrainError {
    pub(crate) fn non_finite(step: u64, quantity: Quantity, pack: Option<NonFinitePack>) -> Self {
        let (pack_idx, rows) = pack.map_or((None, Vec::new()), |pack| (Some(pack.pack_idx), pack.rows));
        Self::NonFinite { step, quantity, pack_idx, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gradients_above_the_limit_are_scaled() {
        assert_eq!(clip_scale(0.5, Some(1.0)), 1.0);
        assert!((clip_scale(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
        assert_eq!(clip_scale(4.0, None), 1.0);
        assert_eq!(clip_scale(0.0, Some(1.0)), 1.0);
    }
}
