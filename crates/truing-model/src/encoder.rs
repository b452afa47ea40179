//! A text encoder as data: BERT with a pooling on top, as sentence-transformers keeps them. One vector a text.
//!
//! It has no cache and no causality, and its head makes vectors ([`HeadRequest::Vectors`](crate::HeadRequest::Vectors)); so
//! it has a specification of its own, beside [`DecoderSpec`](crate::DecoderSpec). The [`Engine`](crate::Engine) is the same.

mod files;
mod output_layer;
mod saving;

use serde::{Deserialize, Serialize};

use crate::spec::{ParameterRole, ParameterSpec};

pub use files::EncoderFiles;
pub use output_layer::{OUTPUT_LAYER, in_output_layer};
pub use saving::{EncoderSaveOptions, save_sentence_transformer};

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their mean, special tokens included.
    #[default]
    Mean,
    /// The first token's, `[CLS]`.
    Cls,
    /// The last token's. What a decoder has read everything by.
    LastToken,
}

/// BERT (Devlin et al. 2019, arXiv 1810.04805): learnt positions, post-normalised blocks of full attention and a GELU
/// feed-forward; then pooling and, for most sentence encoders, division by the Euclidean norm (Reimers and Gurevych 2019,
/// arXiv 1908.10084), or for classifiers and scorers a linear output layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderSpec {
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of the hidden states and of the vectors.
    pub hidden_size: usize,
    /// Width of the feed-forward.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub n_heads: usize,
    /// Rows of the position embedding.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding, of which the first is used.
    pub n_token_types: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// How a text's hidden states become its vector.
    pub pooling: Pooling,
    /// Whether vectors are divided by their Euclidean norm.
    pub is_normalized: bool,
    /// Tokens of the longest text, special tokens included; longer ones are cut.
    pub max_sequence_length: usize,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub is_lower_cased: bool,
    /// Width of the output layer on the pooled vector, where there is one: what a text is encoded as is then its outputs.
    pub n_outputs: Option<usize>,
}

impl EncoderSpec {
    /// Width of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.n_heads
    }

    /// Length of what a text is encoded as: its vector, or its outputs where there is an output layer.
    #[must_use]
    pub fn width(&self) -> usize {
        self.n_outputs.unwrap_or(self.hidden_size)
    }

    /// Every parameter in the order of the forward pass, under the names of transformers' `BertModel`; the output layer's
    /// last, `2_Dense.linear.weight` `[n_outputs, hidden]` and `2_Dense.linear.bias` `[n_outputs]`.
    #[must_use]
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize], role, layer| {
            all.push(ParameterSpec { name, shape: shape.to_vec(), role, layer });
        };
        for (name, n_rows) in [
            ("word", self.vocab_size),
            ("position", self.max_position_embeddings),
            ("token_type", self.n_token_types),
        ] {
            let name = format!("embeddings.{name}_embeddings.weight");
            add(name, &[n_rows, hidden], ParameterRole::Embedding, None);
        }
        let mut with_bias = |name: String, shape: &[usize], role, layer| {
            add(format!("{name}.weight"), shape, role, layer);
            add(format!("{name}.bias"), &shape[..1], ParameterRole::Bias, layer);
        };
        with_bias("embeddings.LayerNorm".into(), &[hidden], ParameterRole::Norm, None);
        for layer in 0..self.n_layers {
            for (name, shape) in [
                ("attention.self.query", &[hidden, hidden][..]),
                ("attention.self.key", &[hidden, hidden]),
                ("attention.self.value", &[hidden, hidden]),
                ("attention.output.dense", &[hidden, hidden]),
                ("attention.output.LayerNorm", &[hidden]),
                ("intermediate.dense", &[inner, hidden]),
                ("output.dense", &[hidden, inner]),
                ("output.LayerNorm", &[hidden]),
            ] {
                let role = if shape.len() == 2 { ParameterRole::Matrix } else { ParameterRole::Norm };
                with_bias(format!("encoder.layer.{layer}.{name}"), shape, role, Some(layer));
            }
        }
        if let Some(n_outputs) = self.n_outputs {
            let name = format!("{OUTPUT_LAYER}.linear");
            with_bias(name, &[n_outputs, hidden], ParameterRole::Score, None);
        }
        all
    }

    /// Number of parameters.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.parameters().iter().map(ParameterSpec::n_elements).sum()
    }
}
