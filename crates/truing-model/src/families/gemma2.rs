//! Gemma 2 (arXiv 2408.00118): norms with `1 + weight`, also after attention and feed-forward; a scaled embedding; soft
//! caps on attention scores and logits; a sliding window in every other layer; a GELU gate. Shared with Gemma 3:
//! [`common`] and [`put_common`].

use serde_json::{Map, Value, json};

use super::config_file::{Defaults, RotaryDefaults};
use super::{ConfigFile, Family, GgufRotary, layer_types, windows_by_layer_types};
use crate::{Activation, DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    gguf_architecture: None,
    gguf_rotary: GgufRotary::Halves,
    read_config,
    write_config,
};

/// The activation by both of its names in Gemma's files.
const ACTIVATION: &str = "gelu_pytorch_tanh";

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let mut spec = common(config, 8192, RotaryDefaults::default())?;
    spec.sliding_windows = layer_windows(config, spec.n_layers, 2)?;
    spec.variant.attention_soft_cap = soft_cap(config, "attn_logit_softcapping", Some(50.0))?;
    spec.variant.logit_soft_cap = soft_cap(config, "final_logit_softcapping", Some(30.0))?;
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    put_common(spec, fields);
    fields.insert("attn_logit_softcapping".to_owned(), json!(spec.variant.attention_soft_cap));
}

/// The fields that Gemma 2 and 3 share, without windows and caps.
pub(super) fn common(
    config: &ConfigFile,
    max_position_embeddings: usize,
    rotary: RotaryDefaults,
) -> Result<DecoderSpec, ModelError> {
    let activation =
        ["hidden_activation", "hidden_act"].into_iter().find(|field| config.value(field).is_some());
    if let Some(field) = activation
        && config.value(field).is_some_and(|name| name != ACTIVATION)
    {
        return Err(config.wrong(field, &format!("{ACTIVATION:?}")));
    }
    if config.boolean("use_bidirectional_attention")? == Some(true) {
        return Err(
            config.wrong("use_bidirectional_attention", "false: a language model reads from left to right")
        );
    }
    let mut spec = config.common_but_activation(&Defaults {
        n_kv_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings,
        bos_token_id: Some(2),
        eos_token_id: Some(1),
        rotary,
    })?;
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.output_bias = attention_bias;
    spec.tie_word_embeddings = config.boolean("tie_word_embeddings")?.unwrap_or(true);
    let variant = &mut spec.variant;
    variant.activation = Activation::GeluTanh;
    variant.norms_add_one = true;
    variant.has_post_norms = true;
    variant.embedding_scale = Some((spec.hidden_size as f64).sqrt() as f32);
    let scalar = config.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    variant.attention_scale = Some(scalar.powf(-0.5) as f32);
    Ok(spec)
}

/// The writing of [`common`], and of the windows.
pub(super) fn put_common(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("hidden_act", json!(ACTIVATION));
    put("hidden_activation", json!(ACTIVATION));
    put("attention_bias", json!(spec.qkv_bias));
    let scale = f64::from(spec.variant.attention_scale.unwrap_or(1.0));
    // A whole number in every release, and written as one where it gives the same scale.
    let scalar = scale.powi(-2);
    let whole = scalar.round();
    let is_whole = whole.powf(-0.5) as f32 == scale as f32;
    put("query_pre_attn_scalar", if is_whole { json!(whole as u64) } else { json!(scalar) });
    put("final_logit_softcapping", json!(spec.variant.logit_soft_cap));
    put("sliding_window", json!(spec.sliding_windows.iter().find_map(|window| *window)));
    put("layer_types", layer_types(spec));
}

/// A cap that `null` turns off.
pub(super) fn soft_cap(
    config: &ConfigFile,
    field: &str,
    default: Option<f32>,
) -> Result<Option<f32>, ModelError> {
    if !config.fields().contains_key(field) {
        return Ok(default);
    }
    Ok(config.positive(field)?.map(|cap| cap as f32))
}

/// The windows of the layers: by `layer_types`, or in all but every `period`-th layer.
pub(super) fn layer_windows(
    config: &ConfigFile,
    n_layers: usize,
    period: usize,
) -> Result<Vec<Option<usize>>, ModelError> {
    let window = config.size_or_null("sliding_window", Some(4096))?;
    // Without one transformers fails too, and Gemma 3's layers would turn by the other rotary base.
    let expected = "a whole number above 0, for layers with `sliding_attention`";
    let sliding = || window.map(Some).ok_or_else(|| config.wrong("sliding_window", expected));
    if let Some(windows) = windows_by_layer_types(config, n_layers, sliding)? {
        return Ok(windows);
    }
    let of_layer = |layer: usize| if (layer + 1).is_multiple_of(period) { Ok(None) } else { sliding() };
    (0..n_layers).map(of_layer).collect()
}
