//! Every parameter with its gradient and moments, by index in a fixed order.
//!
//! With sharded states (ZeRO) a rank keeps the range that it owns of some tensors ([`Shards`]). Passes see whole values
//! and gradients whatever is sharded: `passes.rs` gathers and reduces them unit by unit. `tensors.rs` reads and writes.

mod passes;
mod tensors;

use std::collections::HashMap;
use std::ops::Range;

use truing_kernels::{
    AdamwStep, RowWeight, Weight, adamw, all_finite, fill, inverse_row_norms, sum_of_squares, zeroed,
};
use truing_model::{
    Adapters, DecoderSpec, DecodingWeights, EngineError, ModelSpec, OptimizerStep, ParameterSpec,
    ParameterTensor, TrainableSpec, ZeroStage, owned_range,
};

use crate::quantized::QuantizedWeights;
use crate::rounded::RoundedWeights;
use crate::shards::Shards;

pub(crate) use passes::{Unit, Units};

/// Parameters as parallel lists: a backward pass reads `values` while it adds to `gradients`.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) specs: Vec<ParameterSpec>,
    /// Whole values; with ZeRO-3 empty but while a pass uses them.
    pub(crate) values: Vec<Vec<f32>>,
    /// Whole gradients. Empty where frozen, and everywhere until the first `zero_gradients`; with ZeRO-2 and 3 empty
    /// but while a pass adds to them.
    pub(crate) gradients: Vec<Vec<f32>>,
    /// What this rank owns of the values, with ZeRO-3.
    owned_values: Vec<Vec<f32>>,
    /// What this rank owns of the gradients, summed over the ranks, with ZeRO-2 and 3.
    owned_gradients: Vec<Vec<f32>>,
    /// First and second moments of what this rank owns; of everything where nothing is sharded. Empty until the first
    /// step.
    moments: [Vec<Vec<f32>>; 2],
    pub(crate) trainable: TrainableSpec,
    is_trainable: Vec<bool>,
    is_given: Vec<bool>,
    /// Whether `zero_gradients` has been called.
    has_gradients: bool,
    /// Whether all gradients that were reduced, with ZeRO-2 and 3, were finite on this rank.
    has_finite_gradients: bool,
    by_name: HashMap<String, usize>,
    shards: Shards,
    /// The parameters that each part of a pass uses.
    units: Vec<Vec<usize>>,
    /// Whether decoding has gathered all values, with ZeRO-3.
    is_gathered: bool,
    /// Whether projections add their adapters, in the pass that runs.
    pub(crate) adapters: Adapters,
    /// The copy that products multiply with, where they are made in bf16.
    rounded: Option<RoundedWeights>,
    /// The copy that decoding reads, once it was asked for.
    quantized: Option<QuantizedWeights>,
    /// The parameter whose rows were normed, and the inverse norms, since they last changed.
    inverse_norms: Option<(usize, Vec<f32>)>,
    pub(crate) decoding_weights: DecodingWeights,
}

/// Bytes of the states that a rank holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateBytes {
    /// Values.
    pub parameters: usize,
    /// Gradients.
    pub gradients: usize,
    /// Both moments.
    pub optimizer: usize,
}

impl Parameters {
    /// These parameters, without values yet.
    pub(crate) fn new(specs: Vec<ParameterSpec>, trainable: TrainableSpec, shards: Shards) -> Self {
        let n = specs.len();
        let empty = || vec![Vec::new(); n];
        Self {
            is_trainable: specs.iter().map(|p| trainable.is_trainable(p)).collect(),
            by_name: specs.iter().enumerate().map(|(idx, p)| (p.name.clone(), idx)).collect(),
            specs,
            values: empty(),
            gradients: empty(),
            owned_values: empty(),
            owned_gradients: empty(),
            moments: [empty(), empty()],
            trainable,
            is_given: vec![false; n],
            has_gradients: false,
            has_finite_gradients: true,
            shards,
            units: Vec::new(),
            is_gathered: false,
            adapters: Adapters::Enabled,
            rounded: None,
            quantized: None,
            inverse_norms: None,
            decoding_weights: DecodingWeights::F32,
        }
    }

    /// Lets products multiply with a copy of the weights in bf16.
    pub(crate) fn multiply_in_bf16(&mut self, spec: &ModelSpec) {
        self.rounded = Some(RoundedWeights::new(spec, &self.specs));
    }

    /// Takes the values of the parameter called `name`, row-major.
    pub(crate) fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), EngineError> {
        let idx = self.require(name)?;
        if self.specs[idx].shape != shape {
            return Err(EngineError::ShapeMismatch {
                name: name.to_owned(),
                expected: self.specs[idx].shape.clone(),
                found: shape.to_vec(),
            });
        }
        self.is_given[idx] = true;
        self.set(idx, ParameterTensor::Value, values)
    }

    /// Whether the parameter's values have been [put](Self::put).
    pub(crate) fn is_given(&self, idx: usize) -> bool {
        self.is_given[idx]
    }

    pub(crate) fn require(&self, name: &str) -> Result<usize, EngineError> {
        self.find(name).ok_or_else(|| EngineError::MissingParameter { name: name.to_owned() })
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn zero_stage(&self) -> ZeroStage {
        self.shards.stage
    }

    /// Chooses what [`row_weight`](Self::row_weight) hands out. The copy in 8 bits is made when first asked for, and
    /// what has changed since is quantized again.
    pub(crate) fn choose_decoding_weights(&mut self, spec: &DecoderSpec, weights: DecodingWeights) {
        self.decoding_weights = weights;
        if weights == DecodingWeights::Int8 {
            let specs = &self.specs;
            let quantized = self.quantized.get_or_insert_with(|| QuantizedWeights::new(spec, specs));
            quantized.refresh(&self.values);
        }
    }

    /// A matrix as decoding reads it.
    pub(crate) fn row_weight(&self, idx: usize) -> RowWeight<'_> {
        let quantized = self.quantized.as_ref().filter(|_| self.decoding_weights == DecodingWeights::Int8);
        let matrix = quantized.and_then(|quantized| quantized.matrix(idx));
        matrix.map_or_else(|| self.unquantized_row_weight(idx), RowWeight::Int8)
    }

    /// A matrix as decoding reads it after a prompt.
    pub(crate) fn unquantized_row_weight(&self, idx: usize) -> RowWeight<'_> {
        match self.weight(idx) {
            Weight::F32(weight) => RowWeight::F32(weight),
            Weight::Bf16(weight) => RowWeight::Bf16(weight),
        }
    }

    /// A matrix as products of many rows read it.
    pub(crate) fn weight(&self, idx: usize) -> Weight<'_> {
        let matrix = self.rounded.as_ref().and_then(|rounded| rounded.matrix(idx));
        matrix.map_or(Weight::F32(&self.values[idx]), Weight::Bf16)
    }

    /// Computes the inverse norms of the rows of a matrix of `width` columns, where it has changed.
    pub(crate) fn refresh_inverse_norms(&mut self, idx: usize, width: usize) {
        if self.inverse_norms.as_ref().is_none_or(|(of, _)| *of != idx) {
            self.inverse_norms = Some((idx, inverse_row_norms(&self.values[idx], width)));
        }
    }

    /// What [`refresh_inverse_norms`](Self::refresh_inverse_norms) has computed.
    pub(crate) fn inverse_norms(&self) -> &[f32] {
        self.inverse_norms.as_ref().map_or(&[], |(_, norms)| norms)
    }

    fn invalidate(&mut self, idx: usize) {
        if self.inverse_norms.as_ref().is_some_and(|(of, _)| *of == idx) {
            self.inverse_norms = None;
        }
        if let Some(rounded) = &mut self.rounded {
            rounded.invalidate(idx);
        }
        if let Some(quantized) = &mut self.quantized {
            quantized.invalidate(idx);
        }
    }

    /// The parameter's gradient to add to, unless it is frozen.
    pub(crate) fn gradient(&mut self, idx: usize) -> Option<&mut [f32]> {
        let gradient = &mut self.gradients[idx];
        if gradient.is_empty() { None } else { Some(gradient) }
    }

    /// A matrix as products read it, and its gradient to add to, unless it is frozen.
    pub(crate) fn weight_and_gradient(&mut self, idx: usize) -> (Weight<'_>, Option<&mut [f32]>) {
        let matrix = self.rounded.as_ref().and_then(|rounded| rounded.matrix(idx));
        let gradient = &mut self.gradients[idx];
        let gradient = if gradient.is_empty() { None } else { Some(&mut gradient[..]) };
        (matrix.map_or(Weight::F32(&self.values[idx]), Weight::Bf16), gradient)
    }

    pub(crate) fn zero_gradients(&mut self) {
        self.release_gathered();
        self.has_gradients = true;
        self.has_finite_gradients = true;
        let is_sharded = self.zero_stage() >= ZeroStage::Gradients;
        for idx in 0..self.specs.len() {
            if !self.is_trainable[idx] {
                continue;
            }
            let n_elements = self.specs[idx].n_elements();
            let (gradient, n_held) = match is_sharded {
                true => (&mut self.owned_gradients[idx], self.shards.owned(n_elements).len()),
                false => (&mut self.gradients[idx], n_elements),
            };
            if gradient.is_empty() {
                *gradient = zeroed(n_held);
            } else {
                fill(gradient, 0.0);
            }
        }
    }

    /// Sums gradients over the ranks. With ZeRO-2 and 3 the passes have done it.
    pub(crate) fn reduce_gradients(&mut self) -> Result<(), EngineError> {
        for gradient in self.gradients.iter_mut().filter(|g| !g.is_empty()) {
            match self.shards.stage {
                ZeroStage::Replicated => self.shards.all_reduce(gradient)?,
                ZeroStage::Optimizer => {
                    let owned = self.shards.owned(gradient.len());
                    let mut sum = vec![0.0; owned.len()];
                    self.shards.reduce_scatter(gradient.len(), Some(&*gradient), &mut sum)?;
                    gradient[owned].copy_from_slice(&sum);
                }
                ZeroStage::Gradients | ZeroStage::Parameters => {}
            }
        }
        Ok(())
    }

    /// The sum of the squares of all gradients, or with sharded states of those that this rank owns. The ranks' sums
    /// add up in rank order to the same bits either way.
    pub(crate) fn sum_of_squares(&self) -> f64 {
        let of_range = |range_of: &dyn Fn(usize) -> Range<usize>| -> f64 {
            let gradients = self.gradients.iter().filter(|g| !g.is_empty());
            gradients.map(|g| sum_of_squares(&g[range_of(g.len())])).sum()
        };
        match self.zero_stage() {
            ZeroStage::Replicated => {
                let n_ranks = self.shards.ranges(0).count();
                (0..n_ranks).map(|rank| of_range(&|n| owned_range(n, rank, n_ranks))).sum()
            }
            ZeroStage::Optimizer => of_range(&|n| self.shards.owned(n)),
            ZeroStage::Gradients | ZeroStage::Parameters => {
                self.owned_gradients.iter().map(|g| sum_of_squares(g)).sum()
            }
        }
    }

    /// The norm, of this rank's [`sum_of_squares`](Self::sum_of_squares).
    pub(crate) fn norm(&self, sum_of_squares: f64) -> Result<f64, EngineError> {
        Ok(match self.zero_stage() {
            ZeroStage::Replicated => sum_of_squares,
            _ => self.shards.sum(sum_of_squares)?,
        }
        .sqrt())
    }

    /// Whether the gradients that this rank has computed are finite.
    pub(crate) fn has_finite_gradients(&self) -> bool {
        self.has_finite_gradients && self.gradients.iter().all(|gradient| all_finite(gradient))
    }

    /// Updates what this rank owns. [`gather_stepped`](Self::gather_stepped) gathers the rest.
    pub(crate) fn optimizer_step(&mut self, step: &OptimizerStep) {
        let OptimizerStep::AdamW(step) = step;
        if !self.has_gradients {
            return;
        }
        self.release_gathered();
        let stage = self.zero_stage();
        for idx in 0..self.specs.len() {
            if !self.is_trainable[idx] {
                continue;
            }
            let held = self.held(idx);
            for moments in &mut self.moments {
                if moments[idx].is_empty() {
                    moments[idx] = zeroed(held.len());
                }
            }
            self.invalidate(idx);
            let is_decayed = self.specs[idx].role.is_decayed();
            let step = AdamwStep {
                step: step.step,
                learning_rate: step.learning_rate,
                beta1: step.beta1,
                beta2: step.beta2,
                epsilon: step.epsilon,
                weight_decay: if is_decayed { step.weight_decay } else { 0.0 },
                gradient_scale: step.gradient_scale,
            };
            let [first_moments, second_moments] = &mut self.moments;
            adamw(
                match stage {
                    ZeroStage::Parameters => &mut self.owned_values[idx],
                    _ => &mut self.values[idx][held.clone()],
                },
                match stage {
                    ZeroStage::Gradients | ZeroStage::Parameters => &self.owned_gradients[idx],
                    _ => &self.gradients[idx][held],
                },
                &mut first_moments[idx],
                &mut second_moments[idx],
                &step,
            );
        }
    }

    /// With ZeRO-1 and 2: gathers the values that the other ranks have updated.
    pub(crate) fn gather_stepped(&mut self) -> Result<(), EngineError> {
        if !self.has_gradients || !matches!(self.zero_stage(), ZeroStage::Optimizer | ZeroStage::Gradients) {
            return Ok(());
        }
        for (values, _) in self.values.iter_mut().zip(&self.is_trainable).filter(|(_, learns)| **learns) {
            let own = values[self.shards.owned(values.len())].to_vec();
            self.shards.all_gather(values.len(), &own, Some(values))?;
        }
        Ok(())
    }

    /// What this rank holds of a parameter's moments.
    fn held(&self, idx: usize) -> Range<usize> {
        let n_elements = self.specs[idx].n_elements();
        match self.zero_stage() {
            ZeroStage::Replicated => 0..n_elements,
            _ => self.shards.owned(n_elements),
        }
    }

    /// Counts the buffers.
    pub(crate) fn state_bytes(&self) -> StateBytes {
        let bytes = |lists: [&[Vec<f32>]; 2]| -> usize {
            lists.into_iter().flatten().map(|values| size_of_val::<[f32]>(values)).sum()
        };
        StateBytes {
            parameters: bytes([&self.values, &self.owned_values]),
            gradients: bytes([&self.gradients, &self.owned_gradients]),
            optimizer: bytes([&self.moments[0], &self.moments[1]]),
        }
    }
}
