//! Rotary frequencies, and their changes for longer contexts.
//!
//! All are computed in single precision and in the order in which transformers computes them, so that the two agree to
//! the bit at long positions too.

use serde::{Deserialize, Serialize};

use super::DecoderSpec;

/// How rotary frequencies are changed for longer contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's frequency-dependent interpolation.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths longer than `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of pre-training.
        original_max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): high frequencies are kept, low ones divided, those between blended;
    /// and queries and keys are multiplied by a factor.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// The factor on cosines and sines.
        attention_factor: f64,
        /// Frequencies with more rotations over the original context than this are kept.
        beta_fast: f64,
        /// Frequencies with fewer rotations than this are divided.
        beta_slow: f64,
        /// Whether the borders of the blend are rounded to whole components.
        truncate: bool,
        /// Context of pre-training.
        original_max_position_embeddings: f64,
    },
    /// NTK-aware scaling whose base grows with the sequence, from the context of pre-training on. Up to there it
    /// changes nothing; longer sequences are refused.
    Dynamic {
        /// Growth of the base.
        factor: f64,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor for each frequency, one set for sequences within the
    /// context of pre-training and another one for longer sequences, which are refused here.
    LongRope {
        /// Divisors for sequences within the original context `[rotary_dim / 2]`.
        short_factor: Vec<f64>,
        /// Divisors for longer sequences `[rotary_dim / 2]`; kept for the files.
        long_factor: Vec<f64>,
        /// The factor on cosines and sines.
        attention_factor: f64,
        /// Context of pre-training.
        original_max_position_embeddings: usize,
        /// The context that the long factors are for; kept for the files.
        extended_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// The longest sequence that the frequencies are those of, where they depend on the length of the sequence.
    /// `context` is that of the model.
    fn longest_sequence(&self, context: usize) -> Option<usize> {
        match self {
            Self::Dynamic { .. } => Some(context),
            Self::LongRope { original_max_position_embeddings, .. } => {
                Some(*original_max_position_embeddings)
            }
            Self::Linear { .. } | Self::Llama3 { .. } | Self::Yarn { .. } => None,
        }
    }

    /// The factor on cosines and sines.
    fn attention_factor(&self) -> f32 {
        match self {
            Self::Yarn { attention_factor, .. } | Self::LongRope { attention_factor, .. } => {
                *attention_factor as f32
            }
            Self::Linear { .. } | Self::Llama3 { .. } | Self::Dynamic { .. } => 1.0,
        }
    }

    /// The scaled frequency number `i`; `power` is `theta^(2i / rotary_dim)`.
    fn frequency(&self, i: usize, power: f32, theta: f64, rotary_dim: usize) -> f32 {
        let frequency = 1.0 / power;
        match self {
            Self::Linear { factor } => frequency / *factor as f32,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
                let original = *original_max_position_embeddings as f32;
                // PyTorch divides a number by a tensor through the tensor's reciprocal.
                let wavelength = (1.0 / frequency) * std::f32::consts::TAU;
                if wavelength > original / low {
                    frequency / factor
                } else if wavelength < original / high {
                    frequency
                } else {
                    let smooth = ((1.0 / wavelength) * original - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
            Self::Yarn {
                factor, beta_fast, beta_slow, truncate, original_max_position_embeddings, ..
            } => {
                let border = |rotations: f64| {
                    let n_turns = original_max_position_embeddings / (rotations * std::f64::consts::TAU);
                    rotary_dim as f64 * n_turns.ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (border(*beta_fast), border(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(rotary_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                let divided = 1.0 / (*factor as f32 * power);
                divided * (1.0 - kept) + frequency * kept
            }
            Self::Dynamic { .. } => frequency,
            Self::LongRope { short_factor, .. } => {
                1.0 / (short_factor.get(i).copied().unwrap_or(1.0) as f32 * power)
            }
        }
    }
}

impl DecoderSpec {
    /// Components of a head that turn, from the first on; the others stay as they are.
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        self.variant.rotary_dim.unwrap_or(self.head_dim)
    }

    /// Rotary frequencies `[rotary_dim / 2]`, `theta^(-2i / rotary_dim)` after scaling, in single precision as
    /// transformers computes them (Su et al. 2021, arXiv 2104.09864), and the factor on cosine and sine. Of layers with
    /// a sliding window see [`local_rotary_inverse_frequencies`](Self::local_rotary_inverse_frequencies).
    #[must_use]
    pub fn rotary_inverse_frequencies(&self) -> (Vec<f32>, f32) {
        let scaling = self.rope_scaling.as_ref();
        (self.frequencies(self.rope_theta, scaling), scaling.map_or(1.0, RopeScaling::attention_factor))
    }

    /// The frequencies `[rotary_dim / 2]` of layers with a sliding window, where they have their own (Gemma 3). They
    /// are not scaled.
    #[must_use]
    pub fn local_rotary_inverse_frequencies(&self) -> Option<Vec<f32>> {
        self.variant.local_rope_theta.map(|theta| self.frequencies(theta, None))
    }

    fn frequencies(&self, theta: f64, scaling: Option<&RopeScaling>) -> Vec<f32> {
        let rotary_dim = self.rotary_dim();
        let frequency = |i: usize| {
            let exponent = (2 * i) as f32 / rotary_dim as f32;
            // Rounded once: PyTorch's single-precision power is, nearly always.
            let power = f64::from(theta as f32).powf(f64::from(exponent)) as f32;
            scaling.map_or(1.0 / power, |scaling| scaling.frequency(i, power, theta, rotary_dim))
        };
        (0..rotary_dim / 2).map(frequency).collect()
    }

    /// The longest sequence that engines compute, where the rotary frequencies of longer ones would be others.
    #[must_use]
    pub fn longest_sequence(&self) -> Option<usize> {
        self.rope_scaling.as_ref().and_then(|scaling| scaling.longest_sequence(self.max_position_embeddings))
    }
}
