//! Every parameter with its gradient and moments, by index in a fixed order.

use std::borrow::Cow;
use std::collections::HashMap;

use truing_kernels::{AdamwStep, RowWeight, adamw, sum_of_squares};
use truing_model::engine::ADAMW_STATE_NAMES;
use truing_model::{
    Adapters, DecoderSpec, DecodingWeights, EngineError, OptimizerStep, ParameterSpec, ParameterTensor,
    TrainableSpec,
};
use truing_types::Communicator;

use crate::quantized::QuantizedWeights;

/// Parameters as parallel lists: a backward pass reads `values` while it adds to `gradients`.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) specs: Vec<ParameterSpec>,
    pub(crate) values: Vec<Vec<f32>>,
    /// Empty where frozen, and everywhere until the first `zero_gradients`.
    pub(crate) gradients: Vec<Vec<f32>>,
    first_moments: Vec<Vec<f32>>,
    second_moments: Vec<Vec<f32>>,
    pub(crate) trainable: TrainableSpec,
    is_trainable: Vec<bool>,
    by_name: HashMap<String, usize>,
    /// Whether projections add their adapters, in the pass that runs.
    pub(crate) adapters: Adapters,
    /// The copy that decoding reads, once it was asked for.
    quantized: Option<QuantizedWeights>,
    pub(crate) decoding_weights: DecodingWeights,
}

impl Parameters {
    /// These parameters, without values yet.
    pub(crate) fn new(specs: Vec<ParameterSpec>, trainable: TrainableSpec) -> Self {
        let n = specs.len();
        Self {
            is_trainable: specs.iter().map(|p| trainable.is_trainable(p)).collect(),
            by_name: specs.iter().enumerate().map(|(idx, p)| (p.name.clone(), idx)).collect(),
            specs,
            values: vec![Vec::new(); n],
            gradients: vec![Vec::new(); n],
            first_moments: vec![Vec::new(); n],
            second_moments: vec![Vec::new(); n],
            trainable,
            adapters: Adapters::Enabled,
            quantized: None,
            decoding_weights: DecodingWeights::F32,
        }
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
        self.set(idx, ParameterTensor::Value, values)
    }

    pub(crate) fn require(&self, name: &str) -> Result<usize, EngineError> {
        self.find(name).ok_or_else(|| EngineError::MissingParameter { name: name.to_owned() })
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Chooses what [`row_weight`](Self::row_weight) hands out. The copy in 8 bits is made when first asked for, and what has
    /// changed since is quantized again.
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
        matrix.map_or(RowWeight::F32(&self.values[idx]), RowWeight::Int8)
    }

    fn invalidate(&mut self, idx: usize) {
        if let Some(quantized) = &mut self.quantized {
            quantized.invalidate(idx);
        }
    }

    /// The parameter's gradient to add to, unless it is frozen.
    pub(crate) fn gradient(&mut self, idx: usize) -> Option<&mut [f32]> {
        let gradient = &mut self.gradients[idx];
        if gradient.is_empty() { None } else { Some(gradient) }
    }

    pub(crate) fn zero_gradients(&mut self) {
        for idx in 0..self.specs.len() {
            if self.is_trainable[idx] {
                if self.gradients[idx].is_empty() {
                    self.gradients[idx] = truing_kernels::zeroed(self.values[idx].len());
                } else {
                    truing_kernels::fill(&mut self.gradients[idx], 0.0);
                }
            }
        }
    }

    pub(crate) fn reduce_gradients(&mut self, communicator: &dyn Communicator) -> Result<(), EngineError> {
        for gradient in self.gradients.iter_mut().filter(|g| !g.is_empty()) {
            communicator.all_reduce_sum(gradient)?;
        }
        Ok(())
    }

    pub(crate) fn gradient_norm(&self) -> f64 {
        self.gradients.iter().map(|g| sum_of_squares(g)).sum::<f64>().sqrt()
    }

    pub(crate) fn optimizer_step(&mut self, step: &OptimizerStep) {
        let OptimizerStep::AdamW(step) = step;
        for idx in 0..self.specs.len() {
            if self.gradients[idx].is_empty() {
                continue;
            }
            for moments in [&mut self.first_moments, &mut self.second_moments] {
                if moments[idx].is_empty() {
                    moments[idx] = truing_kernels::zeroed(self.values[idx].len());
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
            adamw(
                &mut self.values[idx],
                &self.gradients[idx],
                &mut self.first_moments[idx],
                &mut self.second_moments[idx],
                &step,
            );
        }
    }

    pub(crate) fn tensor(&self, idx: usize, tensor: ParameterTensor) -> Result<&[f32], EngineError> {
        if tensor != ParameterTensor::Value && !self.is_trainable[idx] {
            return Err(EngineError::Frozen { name: self.specs[idx].name.clone(), tensor });
        }
        Ok(match tensor {
            ParameterTensor::Value => &self.values[idx],
            ParameterTensor::Gradient => &self.gradients[idx],
            ParameterTensor::OptimizerState(name) => match moment(name)? {
                Moment::First => &self.first_moments[idx],
                Moment::Second => &self.second_moments[idx],
            },
        })
    }

    /// The same for reading: gradients and moments start at zero and are made when first needed.
    pub(crate) fn read(&self, idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        let values = self.tensor(idx, tensor)?;
        if values.is_empty() {
            return Ok(Cow::Owned(vec![0.0; self.specs[idx].n_elements()]));
        }
        Ok(Cow::Borrowed(values))
    }

    pub(crate) fn set(
        &mut self,
        idx: usize,
        tensor: ParameterTensor,
        values: Vec<f32>,
    ) -> Result<(), EngineError> {
        self.tensor(idx, tensor)?;
        let spec = &self.specs[idx];
        if values.len() != spec.n_elements() {
            return Err(EngineError::ShapeMismatch {
                name: spec.name.clone(),
                expected: spec.shape.clone(),
                found: vec![values.len()],
            });
        }
        if tensor == ParameterTensor::Value {
            self.invalidate(idx);
        }
        let slot = match tensor {
            ParameterTensor::Value => &mut self.values[idx],
            ParameterTensor::Gradient => &mut self.gradients[idx],
            ParameterTensor::OptimizerState(name) => match moment(name)? {
                Moment::First => &mut self.first_moments[idx],
                Moment::Second => &mut self.second_moments[idx],
            },
        };
        *slot = values;
        Ok(())
    }
}

enum Moment {
    First,
    Second,
}

fn moment(name: &'static str) -> Result<Moment, EngineError> {
    match ADAMW_STATE_NAMES.iter().position(|known| *known == name) {
        Some(0) => Ok(Moment::First),
        Some(1) => Ok(Moment::Second),
        _ => Err(EngineError::UnknownOptimizerState { name }),
    }
}
