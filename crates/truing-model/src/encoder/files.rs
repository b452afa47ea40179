//! An encoder on disk, opened: a sentence-transformers directory, or a plain BERT of transformers, whose pooling is
//! then the mean. An output layer is a `Dense` module in a folder of its own. Opening reads headers only and checks every name and shape; the values follow one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::output_layer::{OUTPUT_LAYER, in_output_layer};
use super::{EncoderSpec, Pooling};
use crate::engine::PutWeight;
use crate::families::{ConfigFile, LARGEST_SIZE, MAX_LAYERS};
use crate::weights::SafetensorsFiles;
use crate::{ModelError, ParameterRole, ParameterSpec, Tensor, WeightSource};

const MODULES: &str = "modules.json";
const TRANSFORMER_CONFIG: &str = "sentence_bert_config.json";
/// Small files of a sentence-transformers directory, kept as they are. The first three decide the specification.
const SIDE_FILES: [&str; 4] =
    [MODULES, TRANSFORMER_CONFIG, "1_Pooling/config.json", "config_sentence_transformers.json"];

/// An open encoder: what it is, and where each parameter lies.
#[derive(Debug)]
pub struct EncoderFiles {
    /// The directory that was opened.
    pub path: PathBuf,
    /// The directory of weights and tokenizer: the same, or the transformer module's below it.
    pub transformer_path: PathBuf,
    /// What it is.
    pub spec: EncoderSpec,
    /// config.json as it was.
    pub config: ConfigFile,
    /// Tensors in the files that the specification does not use and that are not carried along either.
    pub unused_tensors: Vec<String>,
    /// The module files of a sentence-transformers directory `(name, content)`; none where they were elsewhere or there
    /// were none.
    pub side_files: Vec<(String, Vec<u8>)>,
    places: Vec<(ParameterSpec, String)>,
    /// The pooler that `BertModel` has and that no vector goes through: saved again, or others would draw a new one.
    carried: Vec<(ParameterSpec, String)>,
    weights: SafetensorsFiles,
    /// The output layer's parameters with their names in its own file.
    output_places: Vec<(ParameterSpec, String)>,
    output_weights: Option<SafetensorsFiles>,
}

impl EncoderFiles {
    /// Whether a directory holds an encoder of a kind known here, rather than a decoder.
    #[must_use]
    pub fn is_encoder(path: &Path) -> bool {
        match ConfigFile::open(&path.join("config.json")) {
            Ok(config) => config.fields().get("model_type").is_some_and(|kind| kind == "bert"),
            // Old directories have the transformer in a folder of its own.
            Err(_) => path.join(MODULES).is_file(),
        }
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// When a file is missing or broken, a module is not known here, or a parameter is missing or of another shape than
    /// the configuration says.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let modules = Modules::read(path)?;
        let transformer_path = path.join(&modules.transformer);
        let config = ConfigFile::open(&transformer_path.join("config.json"))?;
        let spec = read_spec(&config, &transformer_path, &modules)?;
        let weights = SafetensorsFiles::open(&transformer_path)?;
        let (in_output_layer, in_transformer): (Vec<_>, Vec<_>) =
            spec.parameters().into_iter().partition(|parameter| in_output_layer(&parameter.name).is_some());
        let output_folder = modules.output.as_ref().map(|output| path.join(&output.folder));
        let output_weights = output_folder.as_deref().map(SafetensorsFiles::open).transpose()?;
        let output_places = match &output_weights {
            Some(files) => Names::of_output_layer(files).place(files, in_output_layer, path)?,
            None => Vec::new(),
        };
        let pooler = pooler_parameters(&spec).into_iter();
        let mut names = Names::of(&weights);
        let places = names.place(&weights, in_transformer, path)?;
        let carried = names.place(&weights, pooler.filter(|p| names.has(&p.name)).collect(), path)?;
        let is_flat = modules.transformer.as_os_str().is_empty();
        let side_files = SIDE_FILES.iter().filter(|_| is_flat).filter_map(|name| {
            let content = std::fs::read(path.join(name)).ok()?;
            Some(((*name).to_owned(), content))
        });
        Ok(Self {
            path: path.to_path_buf(),
            side_files: side_files.collect(),
            spec,
            config,
            unused_tensors: names.unused(),
            places,
            carried,
            weights,
            output_places,
            output_weights,
            transformer_path,
        })
    }

    /// The files of the weights.
    #[must_use]
    pub fn weights(&self) -> &SafetensorsFiles {
        &self.weights
    }

    /// Reads every parameter in the specification's order and hands it over at once, so that no tensor is held twice.
    ///
    /// # Errors
    /// When a tensor cannot be read, or `put` fails.
    pub fn load_weights<E: From<ModelError>>(
        &self,
        mut put: impl FnMut(&ParameterSpec, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        self.places.iter().try_for_each(|(parameter, name)| put(parameter, self.weights.read(name)?))?;
        let Some(files) = &self.output_weights else { return Ok(()) };
        self.output_places.iter().try_for_each(|(parameter, name)| put(parameter, files.read(name)?))
    }

    /// [`load_weights`](Self::load_weights) for an engine.
    pub fn weight_source(&self) -> impl WeightSource {
        |put: &mut PutWeight<'_>| {
            self.load_weights(|parameter, tensor| put(&parameter.name, &tensor.shape, tensor.values))
        }
    }

    /// The same body with a new output layer of `n_outputs` on the pooled vector, which is not divided by its norm. No
    /// file holds the layer's parameters.
    #[must_use]
    pub fn with_new_output_layer(mut self, n_outputs: usize) -> Self {
        self.spec.n_outputs = Some(n_outputs);
        self.spec.is_normalized = false;
        self.side_files.retain(|(name, _)| name != MODULES);
        self.output_places.clear();
        self.output_weights = None;
        self
    }

    /// Files that contradict each other, and which of them counts.
    #[must_use]
    pub fn contradictions(&self) -> Vec<String> {
        SafetensorsFiles::notice_of_unread_files(&self.transformer_path).into_iter().collect()
    }

    /// What a user should know of the files before they are used: [`EncoderFiles::contradictions`], and how many tensors
    /// are not read.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let unused = crate::loading::notice_of_unused(&self.unused_tensors, &self.path);
        self.contradictions().into_iter().chain(unused).collect()
    }

    /// The files that decide what the encoder computes and reads: configuration, tokenizer and weights.
    #[must_use]
    pub fn deciding_files(&self) -> Vec<PathBuf> {
        let mut files = crate::loading::described_files(&self.path);
        if self.transformer_path != self.path {
            files.extend(crate::loading::described_files(&self.transformer_path));
        }
        files.extend(self.weight_files().map(Path::to_path_buf));
        files
    }

    /// Every file of weights.
    pub fn weight_files(&self) -> impl Iterator<Item = &Path> {
        let all = [Some(&self.weights), self.output_weights.as_ref()];
        all.into_iter().flatten().flat_map(|files| files.files()).map(|file| file.path.as_path())
    }

    /// Parameters that are no part of the model but of its files, with their values.
    pub(super) fn carried(&self) -> impl Iterator<Item = (&ParameterSpec, Result<Tensor, ModelError>)> {
        self.carried.iter().map(|(parameter, name)| (parameter, self.weights.read(name)))
    }
}

/// `BertModel`'s dense layer over `[CLS]`.
fn pooler_parameters(spec: &EncoderSpec) -> [ParameterSpec; 2] {
    let width = spec.hidden_size;
    [("weight", vec![width, width], ParameterRole::Matrix), ("bias", vec![width], ParameterRole::Bias)].map(
        |(part, shape, role)| ParameterSpec {
            name: format!("pooler.dense.{part}"),
            shape,
            role,
            layer: None,
        },
    )
}

/// What modules.json says, with what the module's own files add.
struct Modules {
    transformer: PathBuf,
    pooling: Pooling,
    is_normalized: bool,
    max_sequence_length: Option<usize>,
    is_lower_cased: bool,
    output: Option<OutputModule>,
}

/// A `Dense` module.
struct OutputModule {
    folder: PathBuf,
    n_inputs: usize,
    n_outputs: usize,
}

impl Modules {
    fn read(path: &Path) -> Result<Self, ModelError> {
        let mut modules = Self {
            transformer: PathBuf::new(),
            pooling: Pooling::Mean,
            is_normalized: false,
            max_sequence_length: None,
            is_lower_cased: false,
            output: None,
        };
        let file = path.join(MODULES);
        if file.is_file() {
            let problem =
                |problem: &str| ModelError::Malformed { path: file.clone(), problem: problem.to_owned() };
            let text =
                std::fs::read(&file).map_err(|source| ModelError::Io { path: file.clone(), source })?;
            let list: Vec<Value> =
                serde_json::from_slice(&text).map_err(|error| problem(&error.to_string()))?;
            for (i, module) in list.iter().enumerate() {
                let field = |name: &str| module.get(name).and_then(Value::as_str);
                let (Some(kind), Some(place)) = (field("type"), field("path")) else {
                    return Err(problem("every module has a `type` and a `path`"));
                };
                if !Path::new(place).components().all(|part| matches!(part, std::path::Component::Normal(_)))
                {
                    return Err(problem("a module's `path` is a folder of the model's"));
                }
                // The package moved its classes; their own names stayed.
                match (i, kind.rsplit('.').next().unwrap_or_default()) {
                    (0, "Transformer") => modules.transformer = PathBuf::from(place),
                    (1, "Pooling") => modules.pooling = read_pooling(&path.join(place))?,
                    (2, "Normalize") => modules.is_normalized = true,
                    (2, "Dense") => modules.output = Some(read_output_layer(path, Path::new(place))?),
                    (_, other) => {
                        let known =
                            "`Transformer`, `Pooling` and then perhaps `Normalize` or `Dense` are known";
                        return Err(problem(&format!("module {i} is `{other}`; {known}")));
                    }
                }
            }
        }
        let own = path.join(&modules.transformer).join(TRANSFORMER_CONFIG);
        if own.is_file() {
            let config = ConfigFile::open(&own)?;
            modules.max_sequence_length = config.size("max_seq_length")?;
            modules.is_lower_cased = config.boolean("do_lower_case")?.unwrap_or(false);
        }
        Ok(modules)
    }
}

/// A linear layer with a bias and nothing behind it.
fn read_output_layer(path: &Path, folder: &Path) -> Result<OutputModule, ModelError> {
    let config = ConfigFile::open(&path.join(folder).join("config.json"))?;
    let activation = config.fields().get("activation_function").and_then(Value::as_str);
    if activation.and_then(|name| name.rsplit('.').next()) != Some("Identity") {
        return Err(config.wrong("activation_function", "\"torch.nn.modules.linear.Identity\""));
    }
    if config.boolean("bias")? == Some(false) {
        return Err(config.wrong("bias", "true"));
    }
    let n_outputs = config.required_size("out_features")?;
    if n_outputs > LARGEST_SIZE {
        return Err(config.wrong("out_features", &format!("at most {LARGEST_SIZE}")));
    }
    let n_inputs = config.required_size("in_features")?;
    Ok(OutputModule { folder: folder.to_path_buf(), n_inputs, n_outputs })
}

/// One mode, by name as newer versions write it or by a flag each.
fn read_pooling(folder: &Path) -> Result<Pooling, ModelError> {
    let config = ConfigFile::open(&folder.join("config.json"))?;
    let known = "`mean`, `cls` or `lasttoken`";
    let by_name = |name: &str| match name {
        "mean" | "pooling_mode_mean_tokens" => Some(Pooling::Mean),
        "cls" | "pooling_mode_cls_token" => Some(Pooling::Cls),
        "lasttoken" | "pooling_mode_lasttoken" => Some(Pooling::LastToken),
        _ => None,
    };
    if let Some(mode) = config.fields().get("pooling_mode") {
        return mode.as_str().and_then(by_name).ok_or_else(|| config.wrong("pooling_mode", known));
    }
    let mut modes = config
        .fields()
        .iter()
        .filter(|(name, value)| name.starts_with("pooling_mode_") && **value == Value::Bool(true));
    match (modes.next(), modes.next()) {
        (Some((name, _)), None) => by_name(name).ok_or_else(|| config.wrong(name, known)),
        (Some(_), Some((second, _))) => Err(config.wrong(second, "one pooling mode alone")),
        (None, _) => Ok(Pooling::Mean),
    }
}

fn read_spec(
    config: &ConfigFile,
    transformer_path: &Path,
    modules: &Modules,
) -> Result<EncoderSpec, ModelError> {
    let is_text = |field: &str, wanted: &str| match config.fields().get(field) {
        None | Some(Value::Null) => true,
        Some(value) => value == wanted,
    };
    if config.fields().get("model_type").is_none_or(|kind| kind != "bert") {
        return Err(config.wrong("model_type", "\"bert\" (other encoders are not known here)"));
    }
    if !is_text("hidden_act", "gelu") {
        return Err(config.wrong("hidden_act", "\"gelu\""));
    }
    if !is_text("position_embedding_type", "absolute") {
        return Err(config.wrong("position_embedding_type", "\"absolute\""));
    }
    let spec = EncoderSpec {
        vocab_size: config.required_size("vocab_size")?,
        hidden_size: config.required_size("hidden_size")?,
        intermediate_size: config.required_size("intermediate_size")?,
        n_layers: config.required_size("num_hidden_layers")?,
        n_heads: config.required_size("num_attention_heads")?,
        max_position_embeddings: config.required_size("max_position_embeddings")?,
        n_token_types: config.size("type_vocab_size")?.unwrap_or(2),
        layer_norm_eps: config.positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        pooling: modules.pooling,
        is_normalized: modules.is_normalized,
        max_sequence_length: 0,
        is_lower_cased: modules.is_lower_cased,
        n_outputs: modules.output.as_ref().map(|output| output.n_outputs),
    };
    for (field, size) in [
        ("vocab_size", spec.vocab_size),
        ("hidden_size", spec.hidden_size),
        ("intermediate_size", spec.intermediate_size),
        ("max_position_embeddings", spec.max_position_embeddings),
        ("type_vocab_size", spec.n_token_types),
    ] {
        if size > LARGEST_SIZE {
            return Err(config.wrong(field, &format!("at most {LARGEST_SIZE}")));
        }
    }
    if spec.n_layers > MAX_LAYERS {
        return Err(config.wrong("num_hidden_layers", &format!("at most {MAX_LAYERS}")));
    }
    if !spec.hidden_size.is_multiple_of(spec.n_heads) {
        let expected = format!("a divisor of hidden_size {}", spec.hidden_size);
        return Err(config.wrong("num_attention_heads", &expected));
    }
    if modules.output.as_ref().is_some_and(|output| output.n_inputs != spec.hidden_size) {
        return Err(config.wrong("hidden_size", "as many as the `Dense` module's `in_features`"));
    }
    let longest = modules.max_sequence_length.unwrap_or(spec.max_position_embeddings);
    if longest < 3 {
        let own = ConfigFile::open(&transformer_path.join(TRANSFORMER_CONFIG))?;
        return Err(own.wrong("max_seq_length", "at least 3: two special tokens and one of the text"));
    }
    Ok(EncoderSpec { max_sequence_length: longest.min(spec.max_position_embeddings), ..spec })
}

/// Which of the files' tensors is called what here.
struct Names {
    by_our_name: BTreeMap<String, String>,
    used: BTreeSet<String>,
}

impl Names {
    /// A model with a head of its own has its body under `bert.`; old files call a norm's parameters gamma and beta.
    fn of(weights: &SafetensorsFiles) -> Self {
        let by_our_name = weights.names().map(|theirs| {
            let ours = theirs.strip_prefix("bert.").unwrap_or(theirs);
            let ours = match ours.rsplit_once('.') {
                Some((norm, "gamma")) => format!("{norm}.weight"),
                Some((norm, "beta")) => format!("{norm}.bias"),
                _ => ours.to_owned(),
            };
            (ours, theirs.to_owned())
        });
        Self { by_our_name: by_our_name.collect(), used: BTreeSet::new() }
    }

    /// The output layer's, which are called by their folder here.
    fn of_output_layer(weights: &SafetensorsFiles) -> Self {
        let by_our_name =
            weights.names().map(|theirs| (format!("{OUTPUT_LAYER}.{theirs}"), theirs.to_owned())).collect();
        Self { by_our_name, used: BTreeSet::new() }
    }

    fn has(&self, name: &str) -> bool {
        self.by_our_name.contains_key(name)
    }

    fn place(
        &mut self,
        weights: &SafetensorsFiles,
        parameters: Vec<ParameterSpec>,
        path: &Path,
    ) -> Result<Vec<(ParameterSpec, String)>, ModelError> {
        let n_expected = parameters.len();
        let (found, missing): (Vec<_>, Vec<_>) = parameters.into_iter().partition(|p| self.has(&p.name));
        if let Some(first) = missing.first() {
            return Err(ModelError::MissingTensors {
                path: path.to_path_buf(),
                tensor: first.name.clone(),
                n_missing: missing.len(),
                n_expected,
            });
        }
        let mut places = Vec::new();
        for parameter in found {
            let theirs = self.by_our_name[&parameter.name].clone();
            if let Some(file) = weights.file_of(&theirs)
                && let Some(tensor) = file.tensor(&theirs)
            {
                file.check_dtype(tensor)?;
                if tensor.shape != parameter.shape {
                    return Err(ModelError::TensorShape {
                        path: file.path.clone(),
                        tensor: theirs,
                        found: tensor.shape.clone(),
                        expected: parameter.shape,
                    });
                }
            }
            self.used.insert(theirs.clone());
            places.push((parameter, theirs));
        }
        Ok(places)
    }

    /// What no one asked for. Positions counted up are in old files and no parameter.
    fn unused(self) -> Vec<String> {
        self.by_our_name
            .into_iter()
            .filter(|(ours, theirs)| !self.used.contains(theirs) && ours != "embeddings.position_ids")
            .map(|(_, theirs)| theirs)
            .collect()
    }
}
