//! Qwen3, dense (arXiv 2505.09388): a norm over each query and key head; a head width of its own; biases on all
//! four attention projections where switched on.

use serde_json::{Map, Value, json};

use super::config_file::{Defaults, RotaryDefaults};
use super::{ConfigFile, Family, GgufRotary, read_qwen_sliding_windows, write_qwen_sliding_windows};
use crate::{DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    gguf_architecture: Some("qwen3"),
    gguf_rotary: GgufRotary::Halves,
    read_config,
    write_config,
};

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let mut spec = config.common(&Defaults {
        n_kv_heads: Some(32),
        head_dim: Some(128),
        max_position_embeddings: 32768,
        bos_token_id: None,
        eos_token_id: None,
        rotary: RotaryDefaults::default(),
    })?;
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.output_bias = attention_bias;
    spec.qk_norm = true;
    spec.sliding_windows = read_qwen_sliding_windows(config, spec.n_layers)?;
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    fields.insert("attention_bias".to_owned(), json!(spec.qkv_bias));
    write_qwen_sliding_windows(spec, fields);
}
