//! Gemma 3, text alone (arXiv 2503.19786): Gemma 2 with norms over queries and keys instead of the caps, five layers
//! with a sliding window for each without, and another rotary base in the former.

use serde_json::{Map, Value, json};

use super::config_file::{ConfigFile, RotaryDefaults};
use super::gemma2::{common, layer_windows, put_common, soft_cap};
use super::rotary_fields::rope_scaling_to_json;
use super::{Family, GgufRotary};
use crate::{DecoderSpec, ModelError};

pub(super) const FAMILY: Family = Family {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    gguf_architecture: None,
    gguf_rotary: GgufRotary::Halves,
    read_config,
    write_config,
};

/// The base of layers without a window, and of those with one.
const THETA: f64 = 1_000_000.0;
const LOCAL_THETA: f64 = 10_000.0;

fn read_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let rotary = RotaryDefaults {
        theta: Some(THETA),
        global_layers: Some("full_attention"),
        ..RotaryDefaults::default()
    };
    let mut spec = common(config, 131_072, rotary)?;
    spec.sliding_windows =
        layer_windows(config, spec.n_layers, config.size("sliding_window_pattern")?.unwrap_or(6))?;
    spec.qk_norm = true;
    // Attention scores have no cap here: transformers reads the field and does not use it.
    spec.variant.logit_soft_cap = soft_cap(config, "final_logit_softcapping", None)?;
    let local = "rope_parameters.sliding_attention";
    if config.value(&format!("{local}.rope_type")).is_some_and(|kind| kind != "default") {
        return Err(config.wrong(&format!("{local}.rope_type"), "\"default\""));
    }
    let theta = match config.positive(&format!("{local}.rope_theta"))? {
        Some(theta) => Some(theta),
        None => config.positive("rope_local_base_freq")?,
    };
    spec.variant.local_rope_theta = Some(theta.unwrap_or(LOCAL_THETA));
    Ok(spec)
}

fn write_config(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    put_common(spec, fields);
    // Both forms: that of transformers 4, and that of 5, which takes precedence where it is read.
    let local = spec.variant.local_rope_theta.unwrap_or(LOCAL_THETA);
    fields.insert("rope_local_base_freq".to_owned(), json!(local));
    fields.remove("rope_scaling");
    let mut full = match rope_scaling_to_json(spec.rope_scaling.as_ref()) {
        Value::Object(fields) => fields,
        _ => Map::from_iter([("rope_type".to_owned(), json!("default"))]),
    };
    full.insert("rope_theta".to_owned(), json!(spec.rope_theta));
    let sliding = json!({"rope_type": "default", "rope_theta": local});
    let parameters = json!({"full_attention": full, "sliding_attention": sliding});
    fields.insert("rope_parameters".to_owned(), parameters);
}
