//! Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama without biases, and one sliding window for all layers.
//! Its GGUF files call themselves `llama`.

use serde_json::{Map, Value, json};

use super::config_file::{Defaults, RotaryDefaults};
use super::{ConfigFile, Family, GgufRotary};
use crate::{DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    gguf_architecture: None,
    gguf_rotary: GgufRotary::Interleaved,
    read_config,
    write_config,
};

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let mut spec = config.common(&Defaults {
        n_kv_heads: Some(8),
        head_dim: None,
        max_position_embeddings: 4096 * 32,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        rotary: RotaryDefaults::default(),
    })?;
    // Left out means 4096, `null` means none; `layer_types` is not looked at, as in transformers.
    let window = config.size_or_null("sliding_window", Some(4096))?;
    spec.sliding_windows = vec![window; spec.n_layers];
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    fields.insert("sliding_window".to_owned(), json!(spec.sliding_windows.first()));
}
