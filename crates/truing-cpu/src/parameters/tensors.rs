//! Reading and writing tensors, for checkpoints and checks. A sharded tensor is read by the first rank: it asks the
//! others for their parts, one tensor at a time, so that no rank ever holds all states.

use std::borrow::Cow;

use truing_model::engine::{ADAMW_STATE_NAMES, adamw_state_idx};
use truing_model::{EngineError, ParameterTensor, ZeroStage};
use truing_types::CommunicationError;

use super::Parameters;
use crate::shards::{message, parse_message};

impl Parameters {
    /// A whole tensor. Gradients and moments start at zero and are made when first needed.
    pub(crate) fn read(&self, idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        let held = self.held_part(idx, tensor)?;
        if !self.is_sharded(tensor) {
            return Ok(held);
        }
        if !self.shards.is_first() {
            let reason = "a sharded tensor is read by the first rank alone";
            return Err(EngineError::Unsupported(reason.into()));
        }
        Ok(Cow::Owned(self.shards.collect(&request_bytes(idx, tensor)?, &held)?))
    }

    /// Sends parts of what the first rank reads until it ends.
    pub(crate) fn serve_reads(&self) -> Result<(), EngineError> {
        if self.zero_stage() == ZeroStage::Replicated {
            return Ok(());
        }
        while let Some(request) = self.shards.next_request()? {
            let malformed = CommunicationError::Malformed { rank: 0, n_bytes: request.len() };
            let (idx, tensor) = requested(&request, self.specs.len()).ok_or(malformed)?;
            self.shards.answer(&self.held_part(idx, tensor)?)?;
        }
        Ok(())
    }

    /// Ends the others' [`serve_reads`](Self::serve_reads).
    pub(crate) fn finish_reads(&self) -> Result<(), EngineError> {
        match self.zero_stage() {
            ZeroStage::Replicated => Ok(()),
            _ => self.shards.end_requests(),
        }
    }

    /// Overwrites a tensor, given in whole; of a sharded one what this rank owns.
    pub(crate) fn set(
        &mut self,
        idx: usize,
        tensor: ParameterTensor,
        values: Vec<f32>,
    ) -> Result<(), EngineError> {
        self.check(idx, tensor)?;
        let spec = &self.specs[idx];
        if values.len() != spec.n_elements() {
            return Err(EngineError::ShapeMismatch {
                name: spec.name.clone(),
                expected: spec.shape.clone(),
                found: vec![values.len()],
            });
        }
        match tensor {
            ParameterTensor::Value => {
                self.release_gathered();
                self.invalidate(idx);
            }
            ParameterTensor::Gradient if !self.has_gradients => self.zero_gradients(),
            _ => {}
        }
        let values = match self.is_sharded(tensor) {
            // With ZeRO-1 a gradient is whole; only what is owned counts.
            true if !(tensor == ParameterTensor::Gradient && self.zero_stage() == ZeroStage::Optimizer) => {
                values[self.shards.owned(values.len())].to_vec()
            }
            _ => values,
        };
        let stage = self.zero_stage();
        let slot = match tensor {
            ParameterTensor::Value if stage >= ZeroStage::Parameters => &mut self.owned_values[idx],
            ParameterTensor::Value => &mut self.values[idx],
            ParameterTensor::Gradient if stage >= ZeroStage::Gradients => &mut self.owned_gradients[idx],
            ParameterTensor::Gradient => &mut self.gradients[idx],
            ParameterTensor::OptimizerState(name) => &mut self.moments[adamw_state_idx(name)?][idx],
        };
        *slot = values;
        Ok(())
    }

    /// Whether this rank has only a part of such tensors.
    fn is_sharded(&self, tensor: ParameterTensor) -> bool {
        let first_stage = match tensor {
            ParameterTensor::Value => ZeroStage::Parameters,
            ParameterTensor::Gradient | ParameterTensor::OptimizerState(_) => ZeroStage::Optimizer,
        };
        self.zero_stage() >= first_stage
    }

    /// Refuses tensors that the parameter does not have.
    fn check(&self, idx: usize, tensor: ParameterTensor) -> Result<(), EngineError> {
        if tensor != ParameterTensor::Value && !self.is_trainable[idx] {
            return Err(EngineError::Frozen { name: self.specs[idx].name.clone(), tensor });
        }
        match tensor {
            ParameterTensor::OptimizerState(name) => adamw_state_idx(name).map(drop),
            ParameterTensor::Value | ParameterTensor::Gradient => Ok(()),
        }
    }

    /// What this rank has of a tensor: all, or what it owns.
    fn held_part(&self, idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        self.check(idx, tensor)?;
        let stage = self.zero_stage();
        let n_elements = self.specs[idx].n_elements();
        let values: &[f32] = match tensor {
            ParameterTensor::Value if stage >= ZeroStage::Parameters => &self.owned_values[idx],
            ParameterTensor::Value => &self.values[idx],
            ParameterTensor::Gradient if stage >= ZeroStage::Gradients => &self.owned_gradients[idx],
            ParameterTensor::Gradient => match &self.gradients[idx][..] {
                [] => &[],
                whole if stage == ZeroStage::Optimizer => &whole[self.shards.owned(n_elements)],
                whole => whole,
            },
            ParameterTensor::OptimizerState(name) => &self.moments[adamw_state_idx(name)?][idx],
        };
        let n_held = if self.is_sharded(tensor) { self.shards.owned(n_elements).len() } else { n_elements };
        Ok(if values.is_empty() { Cow::Owned(vec![0.0; n_held]) } else { Cow::Borrowed(values) })
    }
}

/// The tensors by their number in a request.
const TENSORS: [ParameterTensor; 4] = [
    ParameterTensor::Value,
    ParameterTensor::Gradient,
    ParameterTensor::OptimizerState(ADAMW_STATE_NAMES[0]),
    ParameterTensor::OptimizerState(ADAMW_STATE_NAMES[1]),
];

/// Which tensor of which parameter is asked for.
fn request_bytes(idx: usize, tensor: ParameterTensor) -> Result<Vec<u8>, EngineError> {
    let number = TENSORS.iter().position(|known| *known == tensor);
    let number = number.ok_or_else(|| EngineError::Unsupported(format!("{tensor:?} is not sharded")))?;
    Ok(message(number as u8, idx))
}

fn requested(bytes: &[u8], n_parameters: usize) -> Option<(usize, ParameterTensor)> {
    let (number, idx) = parse_message(bytes)?;
    Some((idx, *TENSORS.get(usize::from(number))?)).filter(|_| idx < n_parameters)
}
