//! An encoder written to disk as sentence-transformers reads it: safetensors, config.json, the modules (an output layer
//! in a folder of its own) and the tokenizer's files.
//!
//! Every file is replaced whole. config.json is removed first and written last, so a directory that was left
//! half-written is never taken for a model.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use truing_store::atomic;

use super::output_layer::{OUTPUT_LAYER, in_output_layer};
use super::{EncoderFiles, EncoderSpec, Pooling};
use crate::saving::{remove_if_there, remove_other_weights, write_json, write_safetensors};
use crate::{ModelError, ParameterSpec, SaveDtype};

/// What an encoder's directory holds besides the weights.
#[derive(Debug, Clone, Copy)]
pub struct EncoderSaveOptions<'a> {
    /// How values are stored.
    pub dtype: SaveDtype,
    /// What the encoder was loaded from: its configuration and module files are kept, and its pooler is carried along.
    pub original: &'a EncoderFiles,
    /// Files copied in as they are: name and content.
    pub tokenizer_files: &'a [(String, Vec<u8>)],
}

/// Writes a sentence-transformers directory. `values` is asked once for each parameter, in the specification's order.
///
/// # Errors
/// When `values` fails or gives another number of values, or the disk refuses.
pub fn save_sentence_transformer<'v, E: From<ModelError>>(
    directory: &Path,
    options: &EncoderSaveOptions<'_>,
    mut values: impl FnMut(&ParameterSpec) -> Result<Cow<'v, [f32]>, E>,
) -> Result<(), E> {
    let original = options.original;
    let io_error = |source| ModelError::Io { path: directory.to_path_buf(), source };
    fs::create_dir_all(directory)
        .and_then(|()| remove_if_there(&directory.join("config.json")))
        .map_err(io_error)?;

    let mut carried = Vec::new();
    for (parameter, tensor) in original.carried() {
        carried.push((parameter.clone(), tensor?));
    }
    let in_layer = |parameter: &ParameterSpec| in_output_layer(&parameter.name).is_some();
    let (output_layer, mut parameters): (Vec<_>, Vec<_>) =
        original.spec.parameters().into_iter().partition(in_layer);
    parameters.extend(carried.iter().map(|(parameter, _)| parameter.clone()));
    let weights = "model.safetensors";
    write_safetensors(&directory.join(weights), &parameters, options.dtype, &mut |parameter| match carried
        .iter()
        .find(|(other, _)| other == parameter)
    {
        Some((_, tensor)) => Ok(Cow::Owned(tensor.values.clone())),
        None => values(parameter),
    })?;
    remove_other_weights(directory, &[weights.to_owned()]).map_err(io_error)?;
    if !output_layer.is_empty() {
        let folder = directory.join(OUTPUT_LAYER);
        fs::create_dir_all(&folder).map_err(io_error)?;
        let named: Vec<ParameterSpec> = output_layer
            .iter()
            .map(|parameter| ParameterSpec {
                name: in_output_layer(&parameter.name).unwrap_or_default().to_owned(),
                ..parameter.clone()
            })
            .collect();
        let mut in_order = output_layer.iter();
        write_safetensors(&folder.join(weights), &named, options.dtype, &mut |parameter| {
            values(in_order.next().unwrap_or(parameter))
        })?;
    }

    for (name, value) in module_files(&original.spec) {
        let path = directory.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io_error)?;
        }
        match original.side_files.iter().find(|(kept, _)| kept == name) {
            Some((_, content)) => atomic::write(&path, content).map_err(ModelError::from)?,
            None => write_json(&path, &value)?,
        }
    }
    for (name, content) in options.tokenizer_files {
        atomic::write(&directory.join(name), content).map_err(ModelError::from)?;
    }
    write_json(&directory.join("config.json"), &Value::Object(saved_config(options)))?;
    Ok(())
}

/// The original configuration with the dtype, and the architecture that the tensors' names are of.
fn saved_config(options: &EncoderSaveOptions<'_>) -> Map<String, Value> {
    let mut config = options.original.config.fields().clone();
    config.insert("architectures".to_owned(), json!(["BertModel"]));
    // transformers 5 writes `dtype` and reads both; older versions know only `torch_dtype`.
    let dtype_field = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(dtype_field.to_owned(), json!(options.dtype.torch_name()));
    config
}

/// The module files that say what `spec` says, for a model that has none.
fn module_files(spec: &EncoderSpec) -> Vec<(&'static str, Value)> {
    let module = |idx: usize, class: &str, path: &str| {
        let class = format!("sentence_transformers.models.{class}");
        json!({"idx": idx, "name": idx.to_string(), "path": path, "type": class})
    };
    let mut modules = vec![module(0, "Transformer", ""), module(1, "Pooling", "1_Pooling")];
    if spec.is_normalized {
        modules.push(module(2, "Normalize", "2_Normalize"));
    }
    if spec.n_outputs.is_some() {
        modules.push(module(modules.len(), "Dense", OUTPUT_LAYER));
    }
    let pooling = json!({
        "word_embedding_dimension": spec.hidden_size,
        "pooling_mode_cls_token": spec.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": spec.pooling == Pooling::Mean,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_lasttoken": spec.pooling == Pooling::LastToken,
    });
    let transformer =
        json!({"max_seq_length": spec.max_sequence_length, "do_lower_case": spec.is_lower_cased});
    let dense = spec.n_outputs.map(|n_outputs| {
        let config = json!({
            "in_features": spec.hidden_size,
            "out_features": n_outputs,
            "bias": true,
            "activation_function": "torch.nn.modules.linear.Identity",
        });
        ("2_Dense/config.json", config)
    });
    let mut files = vec![
        ("modules.json", Value::Array(modules)),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", transformer),
        ("config_sentence_transformers.json", json!({"__version__": {}})),
    ];
    files.extend(dense);
    files
}
