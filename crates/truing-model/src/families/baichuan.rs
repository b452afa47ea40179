//! Baichuan 2, 7B (arXiv 2309.10305): Llama whose queries, keys and values are one projection `W_pack`, and whose head
//! divides its rows by their norm (`NormHead`). The 13B model has ALiBi instead of a rotary embedding and is refused;
//! it is recognised by its `model_max_length` without `max_position_embeddings`.

use serde_json::{Map, Value, json};

use super::config_file::{Defaults, RotaryDefaults};
use super::{ConfigFile, Family, GgufRotary};
use crate::{DecoderSpec, ModelError, QkvLayout};

pub(super) const FAMILY: Family = Family {
    architecture: "BaichuanForCausalLM",
    model_type: "baichuan",
    gguf_architecture: None,
    gguf_rotary: GgufRotary::Halves,
    read_config,
    write_config,
};

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    if config.value("max_position_embeddings").is_none() {
        let expected = "a number: models without it (Baichuan 13B) have ALiBi position biases, which are not \
             computed here";
        return Err(config.missing("max_position_embeddings", expected));
    }
    let mut spec = config.common(&Defaults {
        n_kv_heads: None,
        head_dim: None,
        max_position_embeddings: 4096,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        rotary: RotaryDefaults::default(),
    })?;
    if spec.n_kv_heads != spec.n_heads {
        return Err(config.wrong("num_key_value_heads", "as many as query heads"));
    }
    if spec.tie_word_embeddings {
        return Err(config.wrong("tie_word_embeddings", "false: the head has rows of norm 1"));
    }
    spec.variant.qkv_layout = QkvLayout::WPack;
    spec.variant.has_normalized_head = true;
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    fields.insert("model_max_length".to_owned(), json!(spec.max_position_embeddings));
}
