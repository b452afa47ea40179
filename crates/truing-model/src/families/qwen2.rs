//! Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): biases on query, key and value only; sliding windows in
//! the upper layers where switched on.

use serde_json::{Map, Value};

use super::config_file::{Defaults, RotaryDefaults};
use super::{ConfigFile, Family, GgufRotary, read_qwen_sliding_windows, write_qwen_sliding_windows};
use crate::{DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    gguf_architecture: Some("qwen2"),
    gguf_rotary: GgufRotary::Halves,
    read_config,
    write_config,
};

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let mut spec = config.common(&Defaults {
        n_kv_heads: Some(32),
        head_dim: None,
        max_position_embeddings: 32768,
        bos_token_id: None,
        eos_token_id: None,
        rotary: RotaryDefaults::default(),
    })?;
    spec.qkv_bias = true;
    spec.sliding_windows = read_qwen_sliding_windows(config, spec.n_layers)?;
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    write_qwen_sliding_windows(spec, fields);
}
