//! LoRA adapters as PEFT writes and reads them (`adapter_config.json`, `adapter_model.safetensors`), and their
//! merging into the weights they adapt.
//!
//! A score head learns together with the adapters. PEFT keeps it in the same file under its plain name
//! (`base_model.model.score.weight`) and lists it in `modules_to_save`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use truing_store::atomic;

use crate::families::ConfigFile;
use crate::saving::{SaveOptions, remove_if_there, write_json, write_safetensors};
use crate::weights::{SafetensorsFile, SafetensorsFiles, SafetensorsInfo};
use crate::{DecoderSpec, HeadKind, LoraSpec, ModelError, ParameterRole, ParameterSpec, Tensor, Weights};

mod config;
use config::AdapterSettings;

/// The file that makes a directory an adapter.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the model it wraps.
const PREFIX: &str = "base_model.model.";
/// PEFT's name for the head of a reward model or classifier.
const SCORE_MODULE: &str = "score";
/// The two parameters that a model with tied embeddings holds once.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// Whether a directory holds a PEFT adapter rather than a model.
#[must_use]
pub fn is_adapter(directory: &Path) -> bool {
    directory.join(CONFIG).is_file()
}

/// Writes an adapter directory: the adapters, the score head where the model has one, and
/// `options.tokenizer_files`. `values` is asked once for each of these parameters, in order. `base_model` is the
/// path or name that PEFT loads the base from.
///
/// There is no config.json: transformers would take a directory with one for a whole model.
///
/// # Errors
/// When `values` fails or gives another number of values, a value does not fit into the dtype, or the disk refuses.
pub fn save_adapter<'v, E: From<ModelError>>(
    directory: &Path,
    spec: &DecoderSpec,
    lora: &LoraSpec,
    base_model: Option<&str>,
    options: &SaveOptions<'_>,
    mut values: impl FnMut(&ParameterSpec) -> Result<Cow<'v, [f32]>, E>,
) -> Result<(), E> {
    fs::create_dir_all(directory)
        .and_then(|()| remove_if_there(&directory.join(CONFIG)))
        .map_err(|source| ModelError::Io { path: directory.to_path_buf(), source })?;
    let mut ours = spec.lora_parameters(lora);
    ours.extend(spec.parameters().into_iter().filter(|parameter| parameter.role == ParameterRole::Score));
    let prefixed: Vec<ParameterSpec> = ours
        .iter()
        .map(|parameter| ParameterSpec { name: format!("{PREFIX}{}", parameter.name), ..parameter.clone() })
        .collect();
    let mut remaining = ours.iter();
    write_safetensors(&directory.join(WEIGHTS), &prefixed, options.dtype, &mut |parameter| {
        values(remaining.next().unwrap_or(parameter))
    })?;
    for (name, content) in options.tokenizer_files {
        atomic::write(&directory.join(name), content).map_err(ModelError::from)?;
    }
    let (task_type, modules_to_save) = match spec.head {
        HeadKind::LanguageModel => ("CAUSAL_LM", Value::Null),
        HeadKind::Score { .. } => ("SEQ_CLS", json!([SCORE_MODULE])),
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": spec.stored_targets(&lora.targets),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": modules_to_save,
        "use_rslora": false,
        "use_dora": false,
    });
    write_json(&directory.join(CONFIG), &config)?;
    Ok(())
}

/// Reads an adapter directory: rank, alpha and targets, and the values under our names. Parameters of the model that
/// the adapter holds whole (a score head, `modules_to_save`) are among them.
///
/// # Errors
/// When a file is missing or broken, the adapter needs more than plain LoRA, or its tensors are not those that
/// `spec` has with it.
pub fn open_adapter(directory: &Path, spec: &DecoderSpec) -> Result<(LoraSpec, Weights), ModelError> {
    let lora = AdapterSettings::read(&AdapterConfig::open(directory)?.file)?.lora(spec)?;
    let tensors = AdapterTensors::of(open_weights(directory)?, spec, &lora, false)?;
    let mut weights = Weights::default();
    let whole = spec.parameters().into_iter().filter(|parameter| tensors.has_whole(&parameter.name));
    for parameter in spec.lora_parameters(&lora).into_iter().chain(whole) {
        let tensor = tensors.read(&parameter.name)?;
        weights.tensors.insert(parameter.name, tensor);
    }
    Ok((lora, weights))
}

/// `adapter_config.json`.
#[derive(Debug)]
pub(crate) struct AdapterConfig {
    directory: PathBuf,
    file: ConfigFile,
}

impl AdapterConfig {
    pub(crate) fn open(directory: &Path) -> Result<Self, ModelError> {
        let file = ConfigFile::open(&directory.join(CONFIG))?;
        Ok(Self { directory: directory.to_path_buf(), file })
    }

    /// The base model as the file names it.
    pub(crate) fn base_reference(&self) -> Result<&str, ModelError> {
        let value = self.file.fields().get("base_model_name_or_path").and_then(Value::as_str);
        value.filter(|name| !name.is_empty()).ok_or_else(|| ModelError::MissingField {
            path: self.file.path().to_path_buf(),
            field: "base_model_name_or_path".to_owned(),
            expected: "the path or name of the model that the adapter was trained on",
        })
    }

    /// The base model's revision, where the file names one.
    pub(crate) fn base_revision(&self) -> Option<&str> {
        self.file.fields().get("revision").and_then(Value::as_str)
    }

    /// Where the base model lies, where that is a local path. A directory that holds a whole model besides the adapter
    /// is its own base, as in transformers. A relative path counts from the working directory, as in PEFT, else
    /// from the adapter's directory.
    pub(crate) fn local_base(&self) -> Result<Option<PathBuf>, ModelError> {
        let has_weights = SafetensorsFiles::are_in(&self.directory);
        if has_weights && self.directory.join("config.json").is_file() {
            return Ok(Some(self.directory.clone()));
        }
        let reference = Path::new(self.base_reference()?);
        let places = [reference.to_path_buf(), self.directory.join(reference)];
        Ok(places.into_iter().find(|path| path.exists() && *path != self.directory))
    }

    /// Makes `place` the same adapter of a base at another path: links to its files, and a configuration that names the
    /// path.
    pub(crate) fn place_with_base(&self, place: &Path, base: &Path) -> Result<(), ModelError> {
        let io_error = |source| ModelError::Io { path: place.to_path_buf(), source };
        fs::create_dir_all(place).map_err(io_error)?;
        for entry in fs::read_dir(&self.directory).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let path = fs::canonicalize(entry.path()).map_err(io_error)?;
            if entry.file_name() == CONFIG || !path.is_file() {
                continue;
            }
            let link = place.join(entry.file_name());
            if fs::canonicalize(&link).ok().as_ref() != Some(&path) {
                remove_if_there(&link).and_then(|()| link_or_copy(&path, &link)).map_err(io_error)?;
            }
        }
        let mut fields = self.file.fields().clone();
        fields.insert("base_model_name_or_path".to_owned(), json!(base.to_string_lossy()));
        write_json(&place.join(CONFIG), &Value::Object(fields))
    }
}

fn link_or_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(from, to);
    #[cfg(not(unix))]
    return fs::copy(from, to).map(drop);
}

/// An open adapter of a model.
#[derive(Debug)]
pub struct AdapterFiles {
    /// Its directory.
    pub path: PathBuf,
    /// The base model as `adapter_config.json` names it.
    pub base_reference: String,
    /// Where the base model was found.
    pub base_path: PathBuf,
    /// Rank, alpha and targets.
    pub lora: LoraSpec,
    pub(crate) tensors: AdapterTensors,
}

/// An adapter that is being opened: its base is known, and not yet looked at.
pub(crate) struct OpeningAdapter {
    path: PathBuf,
    base_reference: String,
    pub(crate) base_path: PathBuf,
    settings: AdapterSettings,
    file: SafetensorsFile,
}

impl OpeningAdapter {
    /// `base` is the base model; by default the one that the adapter names.
    pub(crate) fn open(directory: &Path, base: Option<&Path>) -> Result<Self, ModelError> {
        let config = AdapterConfig::open(directory)?;
        let settings = AdapterSettings::read(&config.file)?;
        let given = base.map(Path::to_path_buf);
        let Some(base_path) = given.map_or_else(|| config.local_base(), |base| Ok(Some(base)))? else {
            let base = config.base_reference()?.to_owned();
            let inside = directory.join(&base);
            let looked_at = [Path::new(&base), &inside]
                .map(|path| format!("the path `{}`: there is nothing", path.display()));
            let (adapter, looked_at) = (directory.to_path_buf(), looked_at.into());
            return Err(ModelError::MissingBase { adapter, base, looked_at });
        };
        let is_own_base = base_path == directory;
        if !is_own_base && is_adapter(&base_path) {
            return Err(ModelError::Malformed {
                path: directory.join(CONFIG),
                problem: format!(
                    "the base model {} is an adapter itself; merge that one into its base first",
                    base_path.display()
                ),
            });
        }
        let base_reference = match is_own_base || base.is_some() {
            true => base_path.to_string_lossy().into_owned(),
            false => config.base_reference()?.to_owned(),
        };
        let file = open_weights(directory)?;
        Ok(Self { path: directory.to_path_buf(), base_reference, base_path, settings, file })
    }

    /// How many outputs the adapter's score head has, where it holds one. `base` is the base's specification.
    pub(crate) fn n_outputs(&self, base: &DecoderSpec) -> Result<Option<usize>, ModelError> {
        let name = format!("{PREFIX}{SCORE_MODULE}.weight");
        let Some(tensor) = self.file.tensor(&name) else { return Ok(None) };
        match tensor.shape[..] {
            [n_outputs, width] if width == base.hidden_size && n_outputs > 0 => Ok(Some(n_outputs)),
            _ => Err(ModelError::TensorShape {
                path: self.file.path.clone(),
                tensor: name,
                found: tensor.shape.clone(),
                expected: vec![1, base.hidden_size],
            }),
        }
    }

    /// Which of the embedding and the head the adapter holds whole, where `base` ties the two and they differ with the
    /// adapter. PEFT leaves the other one as it was in the base; with `ensure_weight_tying` it saves both, equal.
    pub(crate) fn untied(&self, base: &DecoderSpec) -> Result<Vec<&'static str>, ModelError> {
        let held = |name: &str| self.file.tensor(&format!("{PREFIX}{name}")).is_some();
        let held: Vec<&str> = [EMBEDDING, HEAD].into_iter().filter(|name| held(name)).collect();
        let is_tied = base.tie_word_embeddings && base.head == HeadKind::LanguageModel;
        if !is_tied || (self.settings.ensures_tying && held.len() == 2 && self.holds_equal_embeddings()?) {
            return Ok(Vec::new());
        }
        Ok(held)
    }

    fn holds_equal_embeddings(&self) -> Result<bool, ModelError> {
        let read = |name: &str| self.file.read(&format!("{PREFIX}{name}"));
        Ok(read(EMBEDDING)? == read(HEAD)?)
    }

    /// The adapter on a model, whose specification has the adapter's score head already, and a head of its own where
    /// the adapter unties it.
    pub(crate) fn on(self, spec: &DecoderSpec) -> Result<AdapterFiles, ModelError> {
        let Self { path, base_reference, base_path, settings, file } = self;
        let lora = settings.lora(spec)?;
        let tensors = AdapterTensors::of(file, spec, &lora, settings.ensures_tying)?;
        Ok(AdapterFiles { path, base_reference, base_path, lora, tensors })
    }
}

impl AdapterFiles {
    /// The files that decide the weights.
    #[must_use]
    pub fn files(&self) -> [PathBuf; 2] {
        [CONFIG, WEIGHTS].map(|name| self.path.join(name))
    }

    /// Parameters of the base that the adapter holds whole, under our names: the score head, or other
    /// `modules_to_save`.
    pub fn whole_parameters(&self) -> impl Iterator<Item = &str> {
        self.tensors.whole.keys().map(String::as_str)
    }
}

/// The tensors of an adapter, checked against the model.
#[derive(Debug)]
pub(crate) struct AdapterTensors {
    file: SafetensorsFile,
    /// Our name and the file's of the parameters that are held whole.
    whole: BTreeMap<String, String>,
}

impl AdapterTensors {
    /// `ensures_tying`: a head besides the embedding of a model that ties them is the embedding once more.
    fn of(
        file: SafetensorsFile,
        spec: &DecoderSpec,
        lora: &LoraSpec,
        ensures_tying: bool,
    ) -> Result<Self, ModelError> {
        let adapters = spec.lora_parameters(lora);
        let mut whole = BTreeMap::new();
        for parameter in adapters.iter().chain(&spec.parameters()) {
            let name = format!("{PREFIX}{}", parameter.name);
            let is_adapter = matches!(parameter.role, ParameterRole::LoraA | ParameterRole::LoraB);
            let Some(tensor) = file.tensor(&name) else {
                if is_adapter {
                    return Err(ModelError::MissingTensor { path: file.path.clone(), tensor: name });
                }
                continue;
            };
            file.check_dtype(tensor)?;
            if tensor.shape != parameter.shape {
                return Err(ModelError::TensorShape {
                    path: file.path.clone(),
                    tensor: parameter.name.clone(),
                    found: tensor.shape.clone(),
                    expected: parameter.shape.clone(),
                });
            }
            if !is_adapter {
                whole.insert(parameter.name.clone(), name);
            }
        }
        let is_known = |name: &str| {
            whole.contains_key(name)
                || adapters.iter().any(|parameter| parameter.name == *name)
                || (ensures_tying && spec.tie_word_embeddings && name == HEAD)
        };
        let stranger = file
            .tensors
            .iter()
            .find(|tensor| tensor.name.strip_prefix(PREFIX).is_none_or(|name| !is_known(name)));
        match stranger {
            None => Ok(Self { file, whole }),
            Some(tensor) => Err(ModelError::Malformed {
                path: file.path.clone(),
                problem: format!("tensor `{}` adapts nothing that this model has", tensor.name),
            }),
        }
    }

    /// Whether the parameter is here instead of in the base.
    pub(crate) fn has_whole(&self, name: &str) -> bool {
        self.whole.contains_key(name)
    }

    /// A tensor by our name.
    pub(crate) fn read(&self, name: &str) -> Result<Tensor, ModelError> {
        self.file.read(&format!("{PREFIX}{name}"))
    }

    /// The header's entry of a parameter that the adapter holds whole.
    pub(crate) fn whole_tensor(&self, name: &str) -> Option<(&SafetensorsFile, &SafetensorsInfo)> {
        Some((&self.file, self.file.tensor(self.whole.get(name)?)?))
    }

    /// The two factors `[rank, in]` and `[out, rank]` of a projection that it adapts; `None` of every other parameter.
    pub(crate) fn factors(&self, parameter: &ParameterSpec) -> Result<Option<[Tensor; 2]>, ModelError> {
        let Some(projection) = parameter.name.strip_suffix(".weight") else { return Ok(None) };
        let [a, b] = ["lora_A", "lora_B"].map(|part| format!("{projection}.{part}.weight"));
        if parameter.role != ParameterRole::Matrix || self.file.tensor(&format!("{PREFIX}{a}")).is_none() {
            return Ok(None);
        }
        Ok(Some([self.read(&a)?, self.read(&b)?]))
    }

    /// Adds the adapter's product to a projection that it adapts; leaves every other parameter alone.
    pub(crate) fn add_to(
        &self,
        parameter: &ParameterSpec,
        tensor: &mut Tensor,
        lora: &LoraSpec,
    ) -> Result<(), ModelError> {
        if let Some([a, b]) = self.factors(parameter)? {
            add_lora_product(&mut tensor.values, &a.values, &b.values, lora);
        }
        Ok(())
    }
}

fn open_weights(directory: &Path) -> Result<SafetensorsFile, ModelError> {
    let path = directory.join(WEIGHTS);
    if !path.is_file() && directory.join("adapter_model.bin").is_file() {
        return Err(ModelError::Malformed {
            path: directory.join("adapter_model.bin"),
            problem: "pickled weights are not read; save the adapter as safetensors".to_owned(),
        });
    }
    SafetensorsFile::open(path)
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
