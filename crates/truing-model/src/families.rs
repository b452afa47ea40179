//! Model families: how each says in config.json and in GGUF metadata what a [`DecoderSpec`] says. One file
//! each; a new family is one file and one line in [`FAMILIES`].
//!
//! Fields left out mean what transformers 5 takes them to mean. What the decoder cannot compute (another
//! activation, another rotary scaling, quantised weights) is refused by field.

mod baichuan;
mod config_file;
mod gemma2;
mod gemma3_text;
mod gguf_metadata;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod rotary_fields;

use std::path::Path;

use serde_json::{Map, Value, json};

pub use config_file::ConfigFile;
pub use gguf_metadata::GgufDecoder;
use rotary_fields::rope_scaling_to_json;

use crate::{DecoderSpec, GgufFile, HeadKind, ModelError, RopeScaling};

/// Largest width, vocabulary or count that a configuration may ask for. Real ones are far below; the limit
/// keeps every product of sizes inside 64 bits.
pub(crate) const LARGEST_SIZE: usize = 1 << 24;
/// Most blocks that a configuration may ask for.
pub(crate) const MAX_LAYERS: usize = 1 << 12;

/// In which order a GGUF file keeps the rows of the query and key projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufRotary {
    /// A head's rows `2 j` and `2 j + 1` rotate together: put right on reading.
    Interleaved,
    /// Rows `j` and `j + head_dim / 2` rotate together, as here.
    Halves,
}

/// A kind of model, as its files name it.
#[derive(Debug)]
pub struct Family {
    /// `architectures[0]` of config.json.
    pub architecture: &'static str,
    /// `model_type` of config.json.
    pub model_type: &'static str,
    /// `general.architecture` of GGUF files, where they have a name of its own for it.
    pub gguf_architecture: Option<&'static str>,
    /// Row order of its GGUF files.
    pub gguf_rotary: GgufRotary,
    read_config: fn(&ConfigFile) -> Result<DecoderSpec, ModelError>,
    write_config: fn(&DecoderSpec, &mut Map<String, Value>),
}

/// Every family, by name.
pub const FAMILIES: &[Family] = &[
    baichuan::FAMILY,
    gemma2::FAMILY,
    gemma3_text::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    phi3::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
];

/// How architectures with a score in place of the next token end in transformers.
const SCORE_SUFFIX: &str = "ForSequenceClassification";
/// How language models end.
const LANGUAGE_MODEL_SUFFIX: &str = "ForCausalLM";

/// Language models whose name with a score is not made by that rule, and that name. transformers keeps the name that
/// the rule gives for Gemma 3 with images.
const OTHER_SCORE_NAMES: &[(&str, &str)] = &[("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification")];

/// The language model of an architecture whose name with a score is not made by the rule; else the architecture.
fn language_model_of(architecture: &str) -> &str {
    let found = OTHER_SCORE_NAMES.iter().find(|(_, score)| *score == architecture);
    found.map_or(architecture, |(model, _)| *model)
}

/// The family of an `architectures[0]`, with any head.
#[must_use]
pub fn find_family(architecture: &str) -> Option<&'static Family> {
    let architecture = language_model_of(architecture);
    let name = |suffix: &str| architecture.strip_suffix(suffix);
    let body = name(SCORE_SUFFIX).or_else(|| name(LANGUAGE_MODEL_SUFFIX))?;
    FAMILIES.iter().find(|family| family.architecture.strip_suffix(LANGUAGE_MODEL_SUFFIX) == Some(body))
}

/// What an architecture is called with a head of another kind.
#[must_use]
pub fn with_head(architecture: &str, head: HeadKind) -> String {
    let architecture = language_model_of(architecture);
    let other = OTHER_SCORE_NAMES.iter().find(|(model, _)| *model == architecture);
    if let (HeadKind::Score { .. }, Some((_, score))) = (head, other) {
        return (*score).to_owned();
    }
    let body =
        [SCORE_SUFFIX, LANGUAGE_MODEL_SUFFIX].iter().find_map(|suffix| architecture.strip_suffix(suffix));
    let suffix = match head {
        HeadKind::LanguageModel => LANGUAGE_MODEL_SUFFIX,
        HeadKind::Score { .. } => SCORE_SUFFIX,
    };
    format!("{}{suffix}", body.unwrap_or(architecture))
}

/// Reads a specification out of a config.json.
///
/// # Errors
/// When the architecture is unknown, a field is missing or unusable.
pub fn spec_from_config(config: &ConfigFile) -> Result<DecoderSpec, ModelError> {
    let architecture = config.architecture()?;
    let family = find_family(architecture).ok_or_else(|| {
        unknown_architecture(config.path(), architecture, FAMILIES.iter().map(|family| family.architecture))
    })?;
    let mut spec = (family.read_config)(config)?;
    if architecture.ends_with(SCORE_SUFFIX) {
        spec.head = HeadKind::Score { n_outputs: n_labels(config)? };
    }
    config.check(&spec)?;
    Ok(spec)
}

/// Outputs of a `...ForSequenceClassification`; one where the file does not say.
fn n_labels(config: &ConfigFile) -> Result<usize, ModelError> {
    let n_outputs = match config.fields().get("id2label").filter(|labels| !labels.is_null()) {
        Some(labels) => labels.as_object().map(Map::len),
        None => Some(config.size("num_labels")?.unwrap_or(1)),
    };
    let wanted = format!("an object of 1 to {LARGEST_SIZE} labels");
    n_outputs.filter(|n| (1..=LARGEST_SIZE).contains(n)).ok_or_else(|| config.wrong("id2label", &wanted))
}

/// Writes what a classifier's outputs are called, as transformers reads it.
pub(crate) fn put_labels(fields: &mut Map<String, Value>, names: &[String]) {
    let by_number: Map<String, Value> =
        names.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    let by_name: Map<String, Value> =
        names.iter().enumerate().map(|(i, name)| (name.clone(), json!(i))).collect();
    fields.insert("id2label".to_owned(), Value::Object(by_number));
    fields.insert("label2id".to_owned(), Value::Object(by_name));
}

/// Writes a specification as the config.json that transformers and vLLM read. The dtype is left to the caller.
///
/// # Errors
/// When the family is unknown or its config.json has no words for an option of `spec`.
pub fn config_from_spec(spec: &DecoderSpec) -> Result<Map<String, Value>, ModelError> {
    let path = Path::new("config.json");
    let family = find_family(&spec.architecture).ok_or_else(|| {
        unknown_architecture(path, &spec.architecture, FAMILIES.iter().map(|family| family.architecture))
    })?;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("architectures", json!([spec.architecture]));
    put("model_type", json!(family.model_type));
    put("vocab_size", json!(spec.vocab_size));
    put("hidden_size", json!(spec.hidden_size));
    put("intermediate_size", json!(spec.intermediate_size));
    put("num_hidden_layers", json!(spec.n_layers));
    put("num_attention_heads", json!(spec.n_heads));
    put("num_key_value_heads", json!(spec.n_kv_heads));
    put("head_dim", json!(spec.head_dim));
    put("hidden_act", json!("silu"));
    // Through its shortest decimal form: 1e-5 and not 9.999999747378752e-6.
    put("rms_norm_eps", json!(spec.rms_norm_eps.to_string().parse::<f64>().unwrap_or(0.0)));
    put("rope_theta", json!(spec.rope_theta));
    put("rope_scaling", rope_scaling_to_json(spec.rope_scaling.as_ref()));
    let context = match &spec.rope_scaling {
        Some(RopeScaling::LongRope { extended_max_position_embeddings, .. }) => {
            *extended_max_position_embeddings
        }
        _ => spec.max_position_embeddings,
    };
    put("max_position_embeddings", json!(context));
    put("tie_word_embeddings", json!(spec.tie_word_embeddings));
    put("bos_token_id", json!(spec.bos_token_id));
    put(
        "eos_token_id",
        match spec.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        },
    );
    if let HeadKind::Score { n_outputs } = spec.head {
        let names: Vec<String> = (0..n_outputs).map(|i| format!("LABEL_{i}")).collect();
        put_labels(&mut fields, &names);
    }
    (family.write_config)(spec, &mut fields);

    // What comes back differs where the family has no words for it.
    let back = spec_from_config(&ConfigFile::from_fields(fields.clone(), path))?;
    let inexpressible =
        |option| Err(ModelError::Inexpressible { architecture: spec.architecture.clone(), option });
    match () {
        () if back.qkv_bias != spec.qkv_bias => inexpressible("whether q, k and v have biases"),
        () if back.output_bias != spec.output_bias => {
            inexpressible("whether the output projection has a bias")
        }
        () if back.mlp_bias != spec.mlp_bias => inexpressible("whether the feed-forward has biases"),
        () if back.qk_norm != spec.qk_norm => inexpressible("whether queries and keys are normalised"),
        () if back.sliding_windows != spec.sliding_windows => inexpressible("its sliding windows"),
        () if back.variant != spec.variant => inexpressible("what it computes differently from Llama"),
        () if back != *spec => inexpressible("one of its fields"),
        () => Ok(fields),
    }
}

/// Reads a specification out of GGUF metadata, with the names its tensors have here.
///
/// # Errors
/// When the architecture is unknown, or metadata is missing or unusable.
pub fn decoder_from_gguf(file: &GgufFile) -> Result<GgufDecoder<'_>, ModelError> {
    let architecture = file.require::<&str>("general.architecture")?;
    let family = FAMILIES.iter().find(|family| family.gguf_architecture == Some(architecture));
    let family = family.ok_or_else(|| {
        let known = FAMILIES.iter().filter_map(|family| family.gguf_architecture);
        unknown_architecture(&file.path, architecture, known)
    })?;
    GgufDecoder::read(file, family, architecture)
}

fn unknown_architecture(
    path: &Path,
    architecture: &str,
    known: impl Iterator<Item = &'static str>,
) -> ModelError {
    ModelError::UnknownArchitecture {
        path: path.to_path_buf(),
        architecture: architecture.to_owned(),
        known: known.collect::<Vec<_>>().join(", "),
    }
}

/// The windows of the layers by `layer_types`; `sliding` is that of `sliding_attention`. `None` where the field is left
/// out.
fn windows_by_layer_types(
    config: &ConfigFile,
    n_layers: usize,
    sliding: impl Fn() -> Result<Option<usize>, ModelError>,
) -> Result<Option<Vec<Option<usize>>>, ModelError> {
    let Some(types) = config.texts("layer_types")? else { return Ok(None) };
    if types.len() != n_layers {
        return Err(config.wrong("layer_types", &format!("one entry for each of {n_layers} layers")));
    }
    let of_type = |layer_type: &&str| match *layer_type {
        "full_attention" => Ok(None),
        "sliding_attention" => sliding(),
        _ => Err(config.wrong("layer_types", "`full_attention` and `sliding_attention` only")),
    };
    types.iter().map(of_type).collect::<Result<_, _>>().map(Some)
}

/// The `layer_types` that [`windows_by_layer_types`] reads.
fn layer_types(spec: &DecoderSpec) -> Value {
    let types = spec
        .sliding_windows
        .iter()
        .map(|window| if window.is_some() { "sliding_attention" } else { "full_attention" });
    types.collect()
}

/// Qwen's sliding windows: off unless `use_sliding_window`; then by `layer_types`, or from layer
/// `max_window_layers` on.
fn read_qwen_sliding_windows(config: &ConfigFile, n_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let is_used = config.boolean("use_sliding_window")?.unwrap_or(false);
    let window = if is_used { config.size_or_null("sliding_window", Some(4096))? } else { None };
    let expected = "no `sliding_attention` without a `sliding_window`";
    let sliding = || window.map(Some).ok_or_else(|| config.wrong("layer_types", expected));
    if let Some(windows) = windows_by_layer_types(config, n_layers, sliding)? {
        return Ok(windows);
    }
    let first = config.size_or_zero("max_window_layers")?.unwrap_or(28);
    Ok((0..n_layers).map(|layer| window.filter(|_| layer >= first)).collect())
}

fn write_qwen_sliding_windows(spec: &DecoderSpec, fields: &mut Map<String, Value>) {
    let window = spec.sliding_windows.iter().find_map(|window| *window);
    fields.insert("use_sliding_window".to_owned(), json!(window.is_some()));
    fields.insert("sliding_window".to_owned(), json!(window));
    // Readers older than `layer_types` understand this much.
    let first = spec.sliding_windows.iter().position(Option::is_some).unwrap_or(spec.n_layers);
    fields.insert("max_window_layers".to_owned(), json!(first));
    fields.insert("layer_types".to_owned(), layer_types(spec));
}
