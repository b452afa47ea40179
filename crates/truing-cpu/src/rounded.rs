//! A copy of the weights in bf16, where the engine computes in it: every matrix of a projection and the language-model
//! head, two bytes a weight. Forward and backward passes and decoding multiply with the copy; gradients and the
//! optimizer have the weights in single precision. What has changed is rounded again when a pass next uses it, once for
//! all packs of a step. Embeddings are looked up, and norms, biases, adapters and score heads computed with, in single
//! precision.

use truing_kernels::Bf16Matrix;
use truing_model::{DecoderSpec, HeadKind, ModelSpec, ParameterRole, ParameterSpec};

/// The copy, by parameter.
#[derive(Debug)]
pub(crate) struct RoundedWeights {
    copies: Vec<RoundedCopy>,
}

#[derive(Debug)]
enum RoundedCopy {
    /// The parameter is in no product.
    None,
    /// The parameter has changed since it was rounded, or never was. Keeps the room of the copy before.
    Stale(Option<Bf16Matrix>),
    Fresh(Bf16Matrix),
}

/// Whether products multiply with the parameter of a decoder, or of an encoder where there is no `decoder`.
pub(crate) fn is_multiplied(decoder: Option<&DecoderSpec>, parameter: &ParameterSpec) -> bool {
    let has_tied_head = |spec: &DecoderSpec| spec.tie_word_embeddings && spec.head == HeadKind::LanguageModel;
    match parameter.role {
        ParameterRole::Matrix | ParameterRole::Head => true,
        ParameterRole::Embedding => decoder.is_some_and(has_tied_head),
        _ => false,
    }
}

/// Bytes of the copy of a model.
pub(crate) fn rounded_bytes(spec: &ModelSpec, parameters: &[ParameterSpec]) -> u64 {
    let decoder = spec.decoder().ok();
    let rounded = parameters.iter().filter(|parameter| is_multiplied(decoder, parameter));
    rounded.map(|parameter| Bf16Matrix::bytes(parameter.shape[0], parameter.shape[1]) as u64).sum()
}

impl RoundedWeights {
    /// No parameter is rounded yet.
    pub(crate) fn new(spec: &ModelSpec, parameters: &[ParameterSpec]) -> Self {
        let decoder = spec.decoder().ok();
        let copy = |parameter| match is_multiplied(decoder, parameter) {
            true => RoundedCopy::Stale(None),
            false => RoundedCopy::None,
        };
        Self { copies: parameters.iter().map(copy).collect() }
    }

    /// The copy of a parameter that products multiply with; `None` of the others.
    ///
    /// Panics where it was not [refreshed](Self::refresh) after a change: products would read old weights.
    pub(crate) fn matrix(&self, parameter_idx: usize) -> Option<&Bf16Matrix> {
        match &self.copies[parameter_idx] {
            RoundedCopy::None => None,
            RoundedCopy::Fresh(matrix) => Some(matrix),
            RoundedCopy::Stale(_) => {
                panic!("parameter {parameter_idx} has changed and was not rounded again")
            }
        }
    }

    /// Marks a parameter as changed.
    pub(crate) fn invalidate(&mut self, parameter_idx: usize) {
        let copy = &mut self.copies[parameter_idx];
        *copy = match std::mem::replace(copy, RoundedCopy::None) {
            RoundedCopy::Fresh(matrix) => RoundedCopy::Stale(Some(matrix)),
            unchanged => unchanged,
        };
    }

    /// Frees the copy of a parameter whose values are freed.
    pub(crate) fn release(&mut self, parameter_idx: usize) {
        let copy = &mut self.copies[parameter_idx];
        if !matches!(copy, RoundedCopy::None) {
            *copy = RoundedCopy::Stale(None);
        }
    }

    /// Rounds a parameter that has changed.
    pub(crate) fn refresh(&mut self, parameter_idx: usize, parameter: &ParameterSpec, values: &[f32]) {
        let copy = &mut self.copies[parameter_idx];
        if let RoundedCopy::Stale(matrix) = copy {
            let new = || Bf16Matrix::new(parameter.shape[0], parameter.shape[1]);
            let mut matrix = matrix.take().unwrap_or_else(new);
            matrix.round(values);
            *copy = RoundedCopy::Fresh(matrix);
        }
    }
}
