//! A model of either kind.

use serde::{Deserialize, Serialize};

use crate::encoder::in_output_layer;
use crate::{DecoderSpec, EncoderSpec, EngineError, ParameterRole, ParameterSpec, TrainableSpec};
use truing_types::Seed;

/// What an engine runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "there is one a model")]
pub enum ModelSpec {
    /// A decoder with a language-model or a score head.
    Decoder(DecoderSpec),
    /// A text encoder.
    Encoder(EncoderSpec),
}

impl ModelSpec {
    /// The decoder.
    ///
    /// # Errors
    /// When it is an encoder.
    pub fn decoder(&self) -> Result<&DecoderSpec, EngineError> {
        match self {
            Self::Decoder(spec) => Ok(spec),
            Self::Encoder(_) => Err(EngineError::needs_decoder()),
        }
    }

    /// The encoder.
    ///
    /// # Errors
    /// When it is a decoder.
    pub fn encoder(&self) -> Result<&EncoderSpec, EngineError> {
        match self {
            Self::Encoder(spec) => Ok(spec),
            Self::Decoder(_) => {
                Err(EngineError::WrongKind { found: "a decoder", needed: "run as an encoder" })
            }
        }
    }

    /// Number of blocks.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.n_layers,
            Self::Encoder(spec) => spec.n_layers,
        }
    }

    /// Width of the hidden states.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.hidden_size,
            Self::Encoder(spec) => spec.hidden_size,
        }
    }

    /// Rows of the embedding.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.vocab_size,
            Self::Encoder(spec) => spec.vocab_size,
        }
    }

    /// Refuses a size of sequence groups that the model cannot be divided over.
    ///
    /// # Errors
    /// With the sizes that work.
    pub fn check_sequence_parallel_size(&self, size: usize) -> Result<(), EngineError> {
        match self {
            Self::Encoder(_) if size != 1 => {
                let reason = format!("an encoder cannot be divided over {size} ranks: 1 works");
                Err(EngineError::Unsupported(reason))
            }
            Self::Decoder(spec) if !spec.sequence_parallel_sizes().contains(&size) => {
                let (n_heads, n_kv_heads) = (spec.n_heads, spec.n_kv_heads);
                let working = spec.sequence_parallel_sizes();
                Err(EngineError::SequenceParallelSize { size, n_heads, n_kv_heads, working })
            }
            _ => Ok(()),
        }
    }

    /// Every parameter in the order of the forward pass, without adapters.
    #[must_use]
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        match self {
            Self::Decoder(spec) => spec.parameters(),
            Self::Encoder(spec) => spec.parameters(),
        }
    }

    /// The same with the adapters of `trainable`.
    ///
    /// # Errors
    /// When a LoRA target is not a projection of the model, or the model is an encoder, which has no adapters here.
    pub fn parameters_with(&self, trainable: &TrainableSpec) -> Result<Vec<ParameterSpec>, EngineError> {
        let mut parameters = self.parameters();
        let Some(lora) = &trainable.lora else { return Ok(parameters) };
        let Self::Decoder(spec) = self else {
            return Err(EngineError::Unsupported("an encoder has no adapters here".into()));
        };
        check_targets(&parameters, &spec.stored_targets(&lora.targets))?;
        parameters.extend(spec.lora_parameters(lora));
        Ok(parameters)
    }
}

fn check_targets(parameters: &[ParameterSpec], targets: &[String]) -> Result<(), EngineError> {
    for target in targets {
        let weight = format!(".{target}.weight");
        let is_target =
            |p: &ParameterSpec| p.layer.is_some() && p.shape.len() == 2 && p.name.ends_with(&weight);
        if !parameters.iter().any(is_target) {
            return Err(EngineError::UnknownLoraTarget { target: target.clone() });
        }
    }
    Ok(())
}

impl From<DecoderSpec> for ModelSpec {
    fn from(spec: DecoderSpec) -> Self {
        Self::Decoder(spec)
    }
}

impl From<EncoderSpec> for ModelSpec {
    fn from(spec: EncoderSpec) -> Self {
        Self::Encoder(spec)
    }
}

/// The values that a parameter starts with where no file holds it, row-major; the same on every engine. `None` where it
/// has to be in a file.
///
/// - LoRA's down projection: uniform in `±1/sqrt(in)` (Kaiming with a = sqrt 5, as PEFT), the up projection 0.
/// - A new reward model's, classifier's or scorer's head: normal with deviation 0.02, as transformers draws it; its
///   bias 0.
///
/// `parameter_idx` is its index among the model's parameters: each adapter draws its own numbers.
#[must_use]
pub fn initial_values(parameter: &ParameterSpec, parameter_idx: usize, seed: Seed) -> Option<Vec<f32>> {
    use rand_chacha::rand_core::Rng;
    let n = parameter.n_elements();
    match parameter.role {
        ParameterRole::LoraA => {
            let bound = 1.0 / (parameter.shape[1] as f32).sqrt();
            let mut generator = seed.generator("lora_A", &[parameter_idx as u64]);
            let mut unit = || (generator.next_u32() >> 8) as f32 / (1_u32 << 24) as f32;
            Some((0..n).map(|_| (2.0 * unit() - 1.0) * bound).collect())
        }
        ParameterRole::LoraB => Some(vec![0.0; n]),
        ParameterRole::Score => Some(seed.normals("score", n, 0.02)),
        ParameterRole::Bias if in_output_layer(&parameter.name).is_some() => Some(vec![0.0; n]),
        _ => None,
    }
}
