//! Every parameter with its gradient and moments on the device, by index in a fixed order.

use std::collections::HashMap;

use truing_model::engine::adamw_state_idx;
use truing_model::{
    Adapters, DecoderSpec, EngineError, HeadKind, ModelSpec, OptimizerStep, ParameterRole, ParameterSpec,
    ParameterTensor, TrainableSpec,
};
use truing_types::Communicator;

use crate::arithmetic::Adamw;
use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor, TorchLib};

/// Elements whose squares are summed at once: bounds the memory of the squares.
const SQUARED_AT_ONCE: usize = 1 << 24;

/// Parameters as parallel lists. Tensors are changed in place, so a backward pass needs them by reference alone.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) torch: &'static TorchLib,
    pub(crate) device: Device,
    /// What projections and the head compute in.
    pub(crate) dtype: Dtype,
    pub(crate) specs: Vec<ParameterSpec>,
    /// The master weights, in single precision.
    values: Vec<Tensor>,
    /// Copies in the format that is computed in; none where that is the master's, or the parameter is a norm's or an
    /// embedding's that is no head.
    copies: Vec<Option<Tensor>>,
    /// `None` where frozen, and everywhere until the first `zero_gradients`.
    gradients: Vec<Option<Tensor>>,
    moments: [Vec<Option<Tensor>>; 2],
    pub(crate) trainable: TrainableSpec,
    is_trainable: Vec<bool>,
    by_name: HashMap<String, usize>,
    /// Whether projections add their adapters, in the pass that runs.
    pub(crate) adapters: Adapters,
}

/// Values on their way to the device, while a model is loaded.
#[derive(Debug)]
pub(crate) struct Loading {
    pub(crate) torch: &'static TorchLib,
    pub(crate) device: Device,
    pub(crate) specs: Vec<ParameterSpec>,
    by_name: HashMap<String, usize>,
    values: Vec<Option<Tensor>>,
}

impl Loading {
    pub(crate) fn new(torch: &'static TorchLib, device: Device, specs: Vec<ParameterSpec>) -> Self {
        let by_name = specs.iter().enumerate().map(|(idx, p)| (p.name.clone(), idx)).collect();
        let values = specs.iter().map(|_| None).collect();
        Self { torch, device, specs, by_name, values }
    }

    /// Takes the values of the parameter called `name`, row-major.
    pub(crate) fn put(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), EngineError> {
        let idx = self.by_name.get(name).copied().ok_or_else(|| missing(name))?;
        let spec = &self.specs[idx];
        if spec.shape != shape || values.len() != spec.n_elements() {
            let found = if spec.shape == shape { vec![values.len()] } else { shape.to_vec() };
            return Err(mismatch(spec, found));
        }
        self.values[idx] = Some(Tensor::from_f32(self.torch, values, shape, self.device)?);
        Ok(())
    }

    /// The parameters; `initial` gives the values of those that were not put.
    pub(crate) fn finish(
        mut self,
        model: &ModelSpec,
        trainable: TrainableSpec,
        dtype: Dtype,
        initial: impl Fn(&ParameterSpec, usize) -> Option<Vec<f32>>,
    ) -> Result<Parameters, EngineError> {
        for idx in 0..self.specs.len() {
            if self.values[idx].is_none() {
                let spec = self.specs[idx].clone();
                let values = initial(&spec, idx).ok_or_else(|| missing(&spec.name))?;
                self.put(&spec.name, &spec.shape, &values)?;
            }
        }
        let Self { torch, device, specs, by_name, values } = self;
        let values: Vec<Tensor> = values.into_iter().flatten().collect();
        let copy = |(spec, value): (&ParameterSpec, &Tensor)| {
            let is_copied = dtype != Dtype::F32 && has_copy(model, spec);
            is_copied.then(|| value.to(dtype)).transpose()
        };
        let copies = specs.iter().zip(&values).map(copy).collect::<Result<_, TorchError>>()?;
        let none = || specs.iter().map(|_| None).collect::<Vec<Option<Tensor>>>();
        Ok(Parameters {
            copies,
            gradients: none(),
            moments: [none(), none()],
            is_trainable: specs.iter().map(|spec| trainable.is_trainable(spec)).collect(),
            torch,
            device,
            dtype,
            specs,
            values,
            trainable,
            by_name,
            adapters: Adapters::Enabled,
        })
    }
}

/// Whether something is multiplied with a parameter, or a bias added, in the format that is computed in.
pub(crate) fn has_copy(model: &ModelSpec, parameter: &ParameterSpec) -> bool {
    match parameter.role {
        ParameterRole::Norm | ParameterRole::Score => false,
        ParameterRole::Embedding => matches!(
            model,
            ModelSpec::Decoder(DecoderSpec { tie_word_embeddings: true, head: HeadKind::LanguageModel, .. })
        ),
        ParameterRole::Bias => parameter.layer.is_some() && !parameter.name.contains("LayerNorm"),
        _ => true,
    }
}

fn missing(name: &str) -> EngineError {
    EngineError::MissingParameter { name: name.to_owned() }
}

fn mismatch(spec: &ParameterSpec, found: Vec<usize>) -> EngineError {
    EngineError::ShapeMismatch { name: spec.name.clone(), expected: spec.shape.clone(), found }
}

impl Parameters {
    pub(crate) fn require(&self, name: &str) -> Result<usize, EngineError> {
        self.find(name).ok_or_else(|| missing(name))
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The master weights.
    pub(crate) fn value(&self, idx: usize) -> &Tensor {
        &self.values[idx]
    }

    /// The weights in the format that is computed in.
    pub(crate) fn weight(&self, idx: usize) -> &Tensor {
        self.copies[idx].as_ref().unwrap_or(&self.values[idx])
    }

    /// Whether a gradient is wanted.
    pub(crate) fn has_gradient(&self, idx: usize) -> bool {
        self.gradients[idx].is_some()
    }

    /// Adds to the parameter's gradient, unless it is frozen.
    pub(crate) fn add_gradient(&self, idx: usize, d: &Tensor) -> Result<(), TorchError> {
        match &self.gradients[idx] {
            Some(gradient) => gradient.copy_from(&gradient.add(d)?),
            None => Ok(()),
        }
    }

    /// Adds the product of two matrices to the parameter's gradient, unless it is frozen.
    pub(crate) fn add_gradient_product(&self, idx: usize, a: &Tensor, b: &Tensor) -> Result<(), TorchError> {
        match &self.gradients[idx] {
            Some(gradient) if self.dtype == Dtype::F32 => gradient.add_product(a, b),
            Some(_) => self.add_gradient(idx, &a.mm_f32(b)?),
            None => Ok(()),
        }
    }

    pub(crate) fn zero_gradients(&mut self) -> Result<(), TorchError> {
        for idx in 0..self.specs.len() {
            match &self.gradients[idx] {
                Some(gradient) => gradient.fill_zero()?,
                None if self.is_trainable[idx] => {
                    self.gradients[idx] = Some(self.values[idx].zeros_like(&self.specs[idx].shape)?);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Over the host: a device's own collectives are not used.
    pub(crate) fn reduce_gradients(&self, communicator: &dyn Communicator) -> Result<(), EngineError> {
        if communicator.world_size() == 1 {
            return Ok(());
        }
        for gradient in self.gradients.iter().flatten() {
            let mut values = gradient.to_f32()?;
            communicator.all_reduce_sum(&mut values)?;
            gradient.copy_from(&Tensor::from_f32(self.torch, &values, &gradient.shape(), self.device)?)?;
        }
        Ok(())
    }

    pub(crate) fn gradient_norm(&self) -> Result<f64, TorchError> {
        let mut sum = 0.0;
        for gradient in self.gradients.iter().flatten() {
            let n = gradient.n_elements();
            let flat = gradient.reshape(&[n])?;
            for start in (0..n).step_by(SQUARED_AT_ONCE) {
                let part = flat.rows(start..n.min(start + SQUARED_AT_ONCE))?.to(Dtype::F64)?;
                sum += part.mul(&part)?.sum_f64()?;
            }
        }
        Ok(sum.sqrt())
    }

    pub(crate) fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), TorchError> {
        let OptimizerStep::AdamW(step) = step;
        for idx in 0..self.specs.len() {
            let Some(gradient) = &self.gradients[idx] else { continue };
            let shape = &self.specs[idx].shape;
            for moments in &mut self.moments {
                if moments[idx].is_none() {
                    moments[idx] = Some(self.values[idx].zeros_like(shape)?);
                }
            }
            let [Some(first), Some(second)] = [&self.moments[0][idx], &self.moments[1][idx]] else {
                continue;
            };
            let is_decayed = self.specs[idx].role.is_decayed();
            let adamw = Adamw {
                step: step.step as f32,
                learning_rate: f64::from(step.learning_rate),
                betas: [f64::from(step.beta1), f64::from(step.beta2)],
                weight_decay: if is_decayed { f64::from(step.weight_decay) } else { 0.0 },
                epsilon: f64::from(step.epsilon),
            };
            // The accumulated gradient itself stays as it is.
            let scaled = if step.gradient_scale == 1.0 {
                gradient.alias()?
            } else {
                gradient.scaled(step.gradient_scale)?
            };
            adamw.apply(&self.values[idx], &scaled, [first, second])?;
            self.renew_copy(idx)?;
        }
        Ok(())
    }

    fn renew_copy(&self, idx: usize) -> Result<(), TorchError> {
        self.copies[idx].as_ref().map_or(Ok(()), |copy| copy.copy_from(&self.values[idx]))
    }

    fn check(&self, idx: usize, tensor: ParameterTensor) -> Result<(), EngineError> {
        if tensor != ParameterTensor::Value && !self.is_trainable[idx] {
            return Err(EngineError::Frozen { name: self.specs[idx].name.clone(), tensor });
        }
        Ok(())
    }

    /// Gradients and moments start at zero and are made when first needed.
    pub(crate) fn read(&self, idx: usize, tensor: ParameterTensor) -> Result<Vec<f32>, EngineError> {
        self.check(idx, tensor)?;
        let found = match tensor {
            ParameterTensor::Value => Some(&self.values[idx]),
            ParameterTensor::Gradient => self.gradients[idx].as_ref(),
            ParameterTensor::OptimizerState(name) => self.moments[adamw_state_idx(name)?][idx].as_ref(),
        };
        match found {
            Some(found) => Ok(found.to_f32()?),
            None => Ok(vec![0.0; self.specs[idx].n_elements()]),
        }
    }

    pub(crate) fn write(
        &mut self,
        idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError> {
        self.check(idx, tensor)?;
        let spec = &self.specs[idx];
        if values.len() != spec.n_elements() {
            return Err(mismatch(spec, vec![values.len()]));
        }
        let new = Tensor::from_f32(self.torch, values, &spec.shape, self.device)?;
        match tensor {
            ParameterTensor::Value => {
                self.values[idx] = new;
                self.renew_copy(idx)?;
            }
            ParameterTensor::Gradient => self.gradients[idx] = Some(new),
            ParameterTensor::OptimizerState(name) => self.moments[adamw_state_idx(name)?][idx] = Some(new),
        }
        Ok(())
    }
}
