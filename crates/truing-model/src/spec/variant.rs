//! In what families differ beyond the switches that Llama itself has.

use serde::{Deserialize, Serialize};

/// The function of the feed-forward's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activation {
    /// `x sigmoid(x)`.
    #[default]
    Silu,
    /// The Gaussian error linear unit by its hyperbolic tangent, `gelu_pytorch_tanh` in transformers.
    GeluTanh,
}

/// How the projections to queries, keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum QkvLayout {
    /// `q_proj`, `k_proj` and `v_proj`.
    #[default]
    Separate,
    /// One matrix `qkv_proj`, rows in this order (Phi-3).
    QkvProj,
    /// The same, called `W_pack` (Baichuan).
    WPack,
}

impl QkvLayout {
    /// The name of the one matrix.
    #[must_use]
    pub fn fused_name(self) -> Option<&'static str> {
        match self {
            Self::Separate => None,
            Self::QkvProj => Some("self_attn.qkv_proj"),
            Self::WPack => Some("self_attn.W_pack"),
        }
    }
}

/// What a family computes or stores differently from Llama. The default is Llama.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecoderVariant {
    /// The function of the feed-forward's gate.
    pub activation: Activation,
    /// How the projections to queries, keys and values are stored.
    pub qkv_layout: QkvLayout,
    /// Gate and up are one matrix `gate_up_proj`, rows in this order.
    pub has_fused_gate_up: bool,
    /// Norms multiply by `1 + weight` (Gemma).
    pub norms_add_one: bool,
    /// A norm after attention and feed-forward too, before each is added to the residual stream (Gemma).
    pub has_post_norms: bool,
    /// Factor on the rows of the embedding.
    pub embedding_scale: Option<f32>,
    /// Factor on attention scores, where it is not `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f32>,
    /// Attention scores become `cap tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// Logits become `cap tanh(logit / cap)`.
    pub logit_soft_cap: Option<f32>,
    /// Components of a head that turn, where not all do.
    pub rotary_dim: Option<usize>,
    /// Base of the rotary frequencies of layers with a sliding window, where it is another one.
    pub local_rope_theta: Option<f64>,
    /// Rows of the head are divided by their Euclidean norm (Baichuan 2's `NormHead`).
    pub has_normalized_head: bool,
}
