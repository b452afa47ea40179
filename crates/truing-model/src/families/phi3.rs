//! Phi-3, Phi-3.5 and Phi-4, dense (arXiv 2404.14219, 2412.08905): queries, keys and values are one projection, and so
//! are gate and up; LongRoPE for long contexts; Phi-4-mini turns three quarters of each head.

use serde_json::{Map, Value, json};

use super::config_file::{Defaults, RotaryDefaults};
use super::rotary_fields::long_rope_attention_factor;
use super::{ConfigFile, Family, GgufRotary};
use crate::{DecoderSpec, ModelError, QkvLayout, RopeScaling};

pub(super) const FAMILY: Family = Family {
    architecture: "Phi3ForCausalLM",
    model_type: "phi3",
    gguf_architecture: None,
    gguf_rotary: GgufRotary::Halves,
    read_config,
    write_config,
};

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let mut spec = config.common(&Defaults {
        n_kv_heads: None,
        head_dim: None,
        max_position_embeddings: 4096,
        bos_token_id: Some(1),
        eos_token_id: Some(32000),
        rotary: RotaryDefaults {
            may_be_partial: true,
            names_of_longrope: &["su", "yarn"],
            original_context: Some(4096),
            ..RotaryDefaults::default()
        },
    })?;
    spec.rms_norm_eps = config.positive("rms_norm_eps")?.unwrap_or(1e-5) as f32;
    spec.sliding_windows = vec![config.size("sliding_window")?; spec.n_layers];
    spec.variant.qkv_layout = QkvLayout::QkvProj;
    spec.variant.has_fused_gate_up = true;
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    let part = spec.rotary_dim() as f64 / spec.head_dim as f64;
    fields.insert("partial_rotary_factor".to_owned(), json!(part));
    fields.insert("sliding_window".to_owned(), json!(spec.sliding_windows.first().copied().flatten()));
    let original = match &spec.rope_scaling {
        Some(RopeScaling::LongRope { original_max_position_embeddings, .. }) => {
            *original_max_position_embeddings
        }
        _ => spec.max_position_embeddings,
    };
    fields.insert("original_max_position_embeddings".to_owned(), json!(original));
    if let Some(RopeScaling::LongRope {
        short_factor,
        long_factor,
        attention_factor,
        extended_max_position_embeddings: extended,
        ..
    }) = &spec.rope_scaling
        && attention_factor.to_bits()
            == long_rope_attention_factor(*extended as f64 / original as f64, original).to_bits()
    {
        // transformers 4 refuses other fields than these three.
        let scaling = json!({"type": "longrope", "short_factor": short_factor, "long_factor": long_factor});
        fields.insert("rope_scaling".to_owned(), scaling);
    }
    // Where it is left out, transformers takes a number above many vocabularies.
    fields.insert("pad_token_id".to_owned(), json!(spec.eos_token_ids.first()));
}
