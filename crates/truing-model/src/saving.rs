//! A model written to disk as transformers and vLLM read it: safetensors (one file, or shards with an index),
//! config.json, generation_config.json, tokenizer files; and LoRA adapters as PEFT reads them.
//!
//! Every file is replaced whole. config.json is removed first and written last, so a directory that was left
//! half-written is never taken for a model.

use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use truing_store::{StoreError, atomic};
use truing_types::TokenId;

use crate::families::{ConfigFile, config_from_spec, put_labels, spec_from_config};
use crate::weights::INDEX_FILE;
use crate::{DecoderSpec, HeadKind, ModelError, ParameterSpec};

/// Values that are converted at a time.
const CHUNK_VALUES: usize = 1 << 18;

/// How values are stored.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// float32: the trained values exactly.
    F32,
    /// bfloat16, rounded to nearest even.
    #[default]
    Bf16,
    /// float16 (IEEE half precision).
    F16,
}

impl SaveDtype {
    /// The name in safetensors headers.
    #[must_use]
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// The name in config.json.
    #[must_use]
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of one value.
    #[must_use]
    pub fn n_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The largest finite value.
    #[must_use]
    pub fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::F16 => f16::MAX.to_f32(),
        }
    }

    /// The first finite value that would be stored as infinity.
    fn first_beyond(self, values: &[f32]) -> Option<f32> {
        let is_beyond = |value: f32| match self {
            Self::F32 => false,
            Self::Bf16 => bf16::from_f32(value).is_infinite(),
            Self::F16 => f16::from_f32(value).is_infinite(),
        };
        values.iter().copied().find(|&value| value.is_finite() && is_beyond(value))
    }

    pub(crate) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + values.len() * self.n_bytes() as usize, 0);
        self.encode_into(values, &mut bytes[start..]);
    }

    /// The same into bytes of the right number.
    pub(crate) fn encode_into(self, values: &[f32], bytes: &mut [u8]) {
        fn put<const N: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = encode(*value));
        }
        match self {
            Self::F32 => put(values, bytes, f32::to_le_bytes),
            Self::Bf16 => put(values, bytes, |value| bf16::from_f32(value).to_le_bytes()),
            Self::F16 => put(values, bytes, |value| f16::from_f32(value).to_le_bytes()),
        }
    }
}

/// What a model directory holds besides the weights.
#[derive(Debug, Clone)]
pub struct SaveOptions<'a> {
    /// How values are stored.
    pub dtype: SaveDtype,
    /// A file holds at most this many bytes of values (a single larger tensor excepted).
    pub max_shard_bytes: u64,
    /// The configuration that the model was loaded with: kept but for the dtype, as long as it still says the
    /// same as the specification.
    pub original_config: Option<&'a ConfigFile>,
    /// generation_config.json; made from the specification where there is none.
    pub generation_config: Option<&'a ConfigFile>,
    /// Files copied in as they are: name and content.
    pub tokenizer_files: &'a [(String, Vec<u8>)],
    /// What the outputs of a classifier are called; left as they are where there are none.
    pub output_names: &'a [String],
    /// The token that pads batches of a reward model or classifier; transformers looks for the last token that is
    /// another one. `None` makes it refuse batches of more than one. Language models keep what they had.
    pub pad_token_id: Option<TokenId>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self {
            dtype: SaveDtype::default(),
            max_shard_bytes: 5_000_000_000,
            original_config: None,
            generation_config: None,
            tokenizer_files: &[],
            output_names: &[],
            pad_token_id: None,
        }
    }
}

/// Writes a model directory. `values` is asked once for each parameter, in the specification's order.
///
/// # Errors
/// When the family's config.json cannot say what the specification says, `values` fails or gives another number
/// of values, or the disk refuses.
pub fn save_pretrained<'v, E: From<ModelError>>(
    directory: &Path,
    spec: &DecoderSpec,
    options: &SaveOptions<'_>,
    mut values: impl FnMut(&ParameterSpec) -> Result<Cow<'v, [f32]>, E>,
) -> Result<(), E> {
    let config = saved_config(spec, options)?;
    let generation_config = match options.generation_config {
        Some(config) => config.fields().clone(),
        None => generation_config(spec),
    };
    fs::create_dir_all(directory)
        .and_then(|()| remove_if_there(&directory.join("config.json")))
        .map_err(|source| ModelError::Io { path: directory.to_path_buf(), source })?;

    let shards = cut_into_shards(spec.parameters(), options.dtype, options.max_shard_bytes);
    let mut weight_map = Map::new();
    let mut written = Vec::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = shard_name(i, shards.len());
        write_safetensors(&directory.join(&name), shard, options.dtype, &mut values)?;
        weight_map.extend(shard.iter().map(|parameter| (parameter.name.clone(), json!(name))));
        written.push(name);
    }
    let index_name = INDEX_FILE;
    if shards.len() > 1 {
        let total_size = spec.n_parameters() as u64 * options.dtype.n_bytes();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        write_json(&directory.join(index_name), &index)?;
        written.push(index_name.to_owned());
    }
    remove_other_weights(directory, &written)
        .map_err(|source| ModelError::Io { path: directory.to_path_buf(), source })?;
    for (name, content) in options.tokenizer_files {
        atomic::write(&directory.join(name), content).map_err(ModelError::from)?;
    }
    write_json(&directory.join("generation_config.json"), &Value::Object(generation_config))?;
    write_json(&directory.join("config.json"), &Value::Object(config))?;
    Ok(())
}

/// The original configuration where it still holds, else one made from the specification; with the dtype.
pub(crate) fn saved_config(
    spec: &DecoderSpec,
    options: &SaveOptions<'_>,
) -> Result<Map<String, Value>, ModelError> {
    let kept = options.original_config.filter(|original| {
        // End tokens may have come from generation_config.json, and the weights may show that the head is not tied.
        let as_saved = |other: DecoderSpec| DecoderSpec {
            bos_token_id: spec.bos_token_id,
            eos_token_ids: spec.eos_token_ids.clone(),
            tie_word_embeddings: spec.tie_word_embeddings,
            ..other
        };
        spec_from_config(original).is_ok_and(|read| as_saved(read) == *spec)
    });
    let mut config = match kept {
        Some(original) => original.fields().clone(),
        None => config_from_spec(spec)?,
    };
    let says_tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    if says_tied != spec.tie_word_embeddings {
        config.insert("tie_word_embeddings".to_owned(), json!(spec.tie_word_embeddings));
    }
    // What is saved is as wide as the dtype says, whatever it was read from.
    config.remove("quantization_config");
    if let HeadKind::Score { .. } = spec.head {
        config.insert("pad_token_id".to_owned(), json!(options.pad_token_id));
    }
    if !options.output_names.is_empty() {
        put_labels(&mut config, options.output_names);
    }
    // transformers 5 writes `dtype` and reads both; older versions know only `torch_dtype`.
    let dtype_field = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(dtype_field.to_owned(), json!(options.dtype.torch_name()));
    Ok(config)
}

pub(crate) fn generation_config(spec: &DecoderSpec) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(bos) = spec.bos_token_id {
        fields.insert("bos_token_id".to_owned(), json!(bos));
    }
    match spec.eos_token_ids.as_slice() {
        [] => {}
        [one] => drop(fields.insert("eos_token_id".to_owned(), json!(one))),
        several => drop(fields.insert("eos_token_id".to_owned(), json!(several))),
    }
    fields
}

/// The file name of a shard, counted from 0.
pub(crate) fn shard_name(shard: usize, n_shards: usize) -> String {
    match n_shards {
        1 => "model.safetensors".to_owned(),
        n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
    }
}

pub(crate) fn cut_into_shards(
    parameters: Vec<ParameterSpec>,
    dtype: SaveDtype,
    max_bytes: u64,
) -> Vec<Vec<ParameterSpec>> {
    let mut shards: Vec<Vec<ParameterSpec>> = Vec::new();
    let mut bytes = 0;
    for parameter in parameters {
        let size = parameter.n_elements() as u64 * dtype.n_bytes();
        match shards.last_mut() {
            Some(shard) if bytes + size <= max_bytes => {
                shard.push(parameter);
                bytes += size;
            }
            _ => {
                shards.push(vec![parameter]);
                bytes = size;
            }
        }
    }
    shards
}

/// The beginning of a safetensors file: header length, header padded to 8 bytes. The values follow in the given order.
pub(crate) fn safetensors_header(parameters: &[ParameterSpec], dtype: SaveDtype) -> Vec<u8> {
    let mut header = Map::new();
    // transformers refuses files that do not say which framework's layout they have.
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for parameter in parameters {
        let begin = end;
        end += parameter.n_elements() as u64 * dtype.n_bytes();
        let entry = json!({
            "dtype": dtype.safetensors_name(),
            "shape": parameter.shape,
            "data_offsets": [begin, end],
        });
        header.insert(parameter.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut header);
    bytes
}

/// Refuses a finite value that would be stored as infinity.
pub(crate) fn check_range(
    dtype: SaveDtype,
    values: &[f32],
    path: &Path,
    tensor: &str,
) -> Result<(), ModelError> {
    match dtype.first_beyond(values) {
        None => Ok(()),
        Some(value) => Err(ModelError::OutOfRange {
            path: path.to_path_buf(),
            tensor: tensor.to_owned(),
            value,
            dtype: dtype.torch_name(),
            largest: dtype.largest(),
        }),
    }
}

/// Streams one safetensors file: header length, header padded to 8 bytes, values in the given order.
pub(crate) fn write_safetensors<'v, E: From<ModelError>>(
    path: &Path,
    parameters: &[ParameterSpec],
    dtype: SaveDtype,
    values: &mut impl FnMut(&ParameterSpec) -> Result<Cow<'v, [f32]>, E>,
) -> Result<(), E> {
    let header = safetensors_header(parameters, dtype);
    let io_error = |source| ModelError::Io { path: path.to_path_buf(), source };
    let mut writer = atomic::Writer::new(path).map_err(ModelError::from)?;
    writer.write_all(&header).map_err(io_error)?;
    let mut bytes = Vec::new();
    for parameter in parameters {
        let values = values(parameter)?;
        if values.len() != parameter.n_elements() {
            return Err(E::from(ModelError::TensorShape {
                path: path.to_path_buf(),
                tensor: parameter.name.clone(),
                found: vec![values.len()],
                expected: parameter.shape.clone(),
            }));
        }
        for chunk in values.chunks(CHUNK_VALUES) {
            check_range(dtype, chunk, path, &parameter.name)?;
            bytes.clear();
            dtype.encode(chunk, &mut bytes);
            writer.write_all(&bytes).map_err(io_error)?;
        }
    }
    writer.commit().map_err(ModelError::from)?;
    Ok(())
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let text = format!("{value:#}\n");
    atomic::write(path, text.as_bytes()).map_err(|error: StoreError| error.into())
}

pub(crate) fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Weights of an earlier model in the same directory would be read instead of, or beside, the new ones.
pub(crate) fn remove_other_weights(directory: &Path, written: &[String]) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_weights = name.starts_with("model")
            && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"));
        if is_weights && !written.contains(&name) {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}
