//! Llama: Llama 2 and 3, SmolLM2 and many others (Touvron et al. 2023, arXiv 2307.09288). One switch puts biases
//! on all four attention projections, another on the feed-forward.

use serde_json::{Map, Value, json};

use super::config_file::{Defaults, RotaryDefaults};
use super::{ConfigFile, Family, GgufRotary};
use crate::{DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    gguf_architecture: Some("llama"),
    gguf_rotary: GgufRotary::Interleaved,
    read_config,
    write_config,
};

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let mut spec = config.common(&Defaults {
        n_kv_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        rotary: RotaryDefaults::default(),
    })?;
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.output_bias = attention_bias;
    spec.mlp_bias = config.boolean("mlp_bias")?.unwrap_or(false);
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    fields.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    fields.insert("mlp_bias".to_owned(), json!(spec.mlp_bias));
}
