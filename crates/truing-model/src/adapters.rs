//! LoRA adapters as PEFT writes and reads them (`adapter_config.json`, `adapter_model.safetensors`), and their
//! merging into the weights they adapt.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::families::ConfigFile;
use crate::saving::{SaveDtype, write_json, write_safetensors};
use crate::weights::SafetensorsFile;
use crate::{DecoderSpec, LoraSpec, ModelError, ParameterSpec, Weights};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the model it wraps.
const PREFIX: &str = "base_model.model.";

/// Writes an adapter directory. `values` is asked once for each of `spec.lora_parameters(lora)`, in order.
/// `base_model` is the path or name that PEFT should load the base from.
///
/// # Errors
/// When `values` fails or gives another number of values, or the disk refuses.
pub fn save_adapter<'v, E: From<ModelError>>(
    directory: &Path,
    spec: &DecoderSpec,
    lora: &LoraSpec,
    base_model: Option<&str>,
    dtype: SaveDtype,
    mut values: impl FnMut(&ParameterSpec) -> Result<Cow<'v, [f32]>, E>,
) -> Result<(), E> {
    fs::create_dir_all(directory)
        .map_err(|source| ModelError::Io { path: directory.to_path_buf(), source })?;
    let ours = spec.lora_parameters(lora);
    let prefixed: Vec<ParameterSpec> = ours
        .iter()
        .map(|parameter| ParameterSpec { name: format!("{PREFIX}{}", parameter.name), ..parameter.clone() })
        .collect();
    let mut remaining = ours.iter();
    write_safetensors(&directory.join(WEIGHTS), &prefixed, dtype, &mut |parameter| {
        values(remaining.next().unwrap_or(parameter))
    })?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": lora.targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "use_rslora": false,
        "use_dora": false,
    });
    write_json(&directory.join(CONFIG), &config)?;
    Ok(())
}

/// Reads an adapter directory: rank, alpha and targets, and the values under our names.
///
/// # Errors
/// When a file is missing or broken, the adapter needs more than plain LoRA, or its tensors are not those that
/// `spec` has with it.
pub fn open_adapter(directory: &Path, spec: &DecoderSpec) -> Result<(LoraSpec, Weights), ModelError> {
    let config = ConfigFile::open(&directory.join(CONFIG))?;
    let lora = read_config(&config)?;
    let file = SafetensorsFile::open(directory.join(WEIGHTS))?;
    let mut weights = Weights::default();
    for parameter in spec.lora_parameters(&lora) {
        let tensor = file.read(&format!("{PREFIX}{}", parameter.name))?;
        if tensor.shape != parameter.shape {
            return Err(ModelError::TensorShape {
                path: file.path.clone(),
                tensor: parameter.name,
                found: tensor.shape,
                expected: parameter.shape,
            });
        }
        weights.tensors.insert(parameter.name, tensor);
    }
    let stranger = file.tensors.iter().find(|tensor| {
        tensor.name.strip_prefix(PREFIX).is_none_or(|name| !weights.tensors.contains_key(name))
    });
    match stranger {
        None => Ok((lora, weights)),
        Some(tensor) => Err(ModelError::Malformed {
            path: file.path.clone(),
            problem: format!("tensor `{}` adapts nothing that this model has", tensor.name),
        }),
    }
}

fn read_config(config: &ConfigFile) -> Result<LoraSpec, ModelError> {
    let fields = config.fields();
    let value = |field: &str| fields.get(field).filter(|value| !value.is_null());
    let unsupported = |field: &str, supported| ModelError::UnsupportedAdapter {
        path: config.path().to_path_buf(),
        field: field.to_owned(),
        found: value(field).map_or_else(|| "missing".to_owned(), Value::to_string),
        supported,
    };
    if value("peft_type") != Some(&json!("LORA")) {
        return Err(unsupported("peft_type", "only LORA"));
    }
    if value("bias").is_some_and(|bias| bias != "none") {
        return Err(unsupported("bias", "only none"));
    }
    for field in ["use_dora", "fan_in_fan_out", "lora_bias"] {
        if value(field) == Some(&json!(true)) {
            return Err(unsupported(field, "only false"));
        }
    }
    let is_empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    };
    for field in ["modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform"] {
        if value(field).is_some_and(|value| !is_empty(value)) {
            return Err(unsupported(field, "only none"));
        }
    }
    let rank = value("r").and_then(Value::as_u64).filter(|rank| (1..=1 << 16).contains(rank));
    let rank = rank.ok_or_else(|| unsupported("r", "a whole number from 1 to 65536"))? as usize;
    let alpha = value("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
    let alpha = alpha.ok_or_else(|| unsupported("lora_alpha", "a number"))?;
    // Rank-stabilised LoRA divides by the root of the rank: the same product under another alpha.
    let is_stabilised = value("use_rslora") == Some(&json!(true));
    let alpha = if is_stabilised { alpha * (rank as f64).sqrt() } else { alpha } as f32;
    let targets = value("target_modules").and_then(Value::as_array).and_then(|targets| {
        targets.iter().map(|target| target.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    let mut targets = targets.ok_or_else(|| unsupported("target_modules", "a list of projection names"))?;
    targets.sort();
    Ok(LoraSpec { rank, alpha, targets })
}

/// Adds `(alpha / rank) B A` to a projection: `values` `[out, in]`, `lora_a` `[rank, in]`, `lora_b` `[out, rank]`.
/// Sums over the rank in f32, in order.
pub fn add_lora_product(values: &mut [f32], lora_a: &[f32], lora_b: &[f32], lora: &LoraSpec) {
    let scale = lora.alpha / lora.rank as f32;
    let width = lora_a.len() / lora.rank;
    let mut delta = vec![0.0; width];
    for (row, b) in values.chunks_exact_mut(width).zip(lora_b.chunks_exact(lora.rank)) {
        delta.fill(0.0);
        for (a, b) in lora_a.chunks_exact(width).zip(b) {
            delta.iter_mut().zip(a).for_each(|(delta, a)| *delta += b * a);
        }
        row.iter_mut().zip(&delta).for_each(|(value, delta)| *value += scale * delta);
    }
}

/// Merges an adapter into the weights it adapts.
///
/// # Errors
/// When either lacks a tensor.
pub fn merge_lora(
    weights: &mut Weights,
    spec: &DecoderSpec,
    lora: &LoraSpec,
    adapter: &Weights,
) -> Result<(), ModelError> {
    let missing =
        |tensor: &str| ModelError::MissingTensor { path: "weights".into(), tensor: tensor.to_owned() };
    for pair in spec.lora_parameters(lora).chunks_exact(2) {
        let [a, b] = pair else { continue };
        let name = a.name.replace(".lora_A.", ".");
        let lora_a = adapter.get(&a.name).ok_or_else(|| missing(&a.name))?;
        let lora_b = adapter.get(&b.name).ok_or_else(|| missing(&b.name))?;
        let matrix = weights.tensors.get_mut(&name).ok_or_else(|| missing(&name))?;
        add_lora_product(&mut matrix.values, &lora_a.values, &lora_b.values, lora);
    }
    Ok(())
}
