//! A model on disk, opened: a directory with config.json and safetensors, or a GGUF file. Opening reads
//! headers only and checks every name and shape; the values follow one tensor at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::families::{ConfigFile, decoder_from_gguf, spec_from_config, with_head};
use crate::weights::SafetensorsFiles;
use crate::{DecoderSpec, GgufFile, HeadKind, ModelError, ParameterRole, ParameterSpec, Tensor, Weights};

/// How a model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// config.json beside safetensors.
    Directory,
    /// One GGUF file.
    Gguf,
}

/// An open model: what it is, and where each parameter lies.
#[derive(Debug)]
pub struct ModelFiles {
    /// The directory or the GGUF file.
    pub path: PathBuf,
    /// How it is stored.
    pub kind: ModelKind,
    /// What it is. End tokens are those of generation_config.json where it names some.
    pub spec: DecoderSpec,
    /// config.json as it was; a GGUF file has none.
    pub config: Option<ConfigFile>,
    /// generation_config.json as it was, where there is one.
    pub generation_config: Option<ConfigFile>,
    /// Tensors in the files that the specification has no place for. Worth a warning.
    pub unused_tensors: Vec<String>,
    /// Every parameter, with its name in the file.
    places: Vec<(ParameterSpec, String)>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Safetensors(SafetensorsFiles),
    Gguf(GgufFile),
}

/// A model in memory.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// What it is.
    pub spec: DecoderSpec,
    /// Every parameter of the specification.
    pub weights: Weights,
}

impl ModelFiles {
    /// Opens a model directory, a directory that holds nothing but one GGUF file, or a GGUF file.
    ///
    /// # Errors
    /// When a file is missing or broken, the architecture is unknown, or a parameter is missing or of another
    /// shape than the configuration says.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io_error = |source| ModelError::Io { path: path.to_path_buf(), source };
        if !std::fs::metadata(path).map_err(io_error)?.is_dir() {
            return Self::open_gguf(path);
        }
        if path.join("config.json").is_file() {
            return Self::open_directory(path);
        }
        let mut gguf_files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io_error)? {
            let file = entry.map_err(io_error)?.path();
            if file.extension().is_some_and(|extension| extension == "gguf") {
                gguf_files.push(file);
            }
        }
        match gguf_files.as_slice() {
            [one] => Self::open_gguf(one),
            _ => Err(ModelError::NoModel { path: path.to_path_buf(), n_gguf_files: gguf_files.len() }),
        }
    }

    fn open_directory(path: &Path) -> Result<Self, ModelError> {
        let config = ConfigFile::open(&path.join("config.json"))?;
        let mut spec = spec_from_config(&config)?;
        let generation = path.join("generation_config.json");
        let generation_config =
            if generation.is_file() { Some(ConfigFile::open(&generation)?) } else { None };
        if let Some(generation) = &generation_config
            && let Some(ids) = generation.token_ids("eos_token_id")?
        {
            spec.eos_token_ids = ids;
        }
        let files = SafetensorsFiles::open(path)?;
        let names = files.names().map(|name| (Some(name.to_owned()), name.to_owned())).collect();
        let shape_of = |name: &str| {
            let file = files.file_of(name)?;
            file.tensor(name).map(|tensor| (file.path.clone(), tensor.shape.clone()))
        };
        let (places, unused_tensors) = place(&spec, path, names, shape_of)?;
        for (_, name) in &places {
            if let Some(file) = files.file_of(name)
                && let Some(tensor) = file.tensor(name)
            {
                file.check_dtype(tensor)?;
            }
        }
        let (path, kind, store) = (path.to_path_buf(), ModelKind::Directory, Store::Safetensors(files));
        Ok(Self { path, kind, spec, config: Some(config), generation_config, unused_tensors, places, store })
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let decoder = decoder_from_gguf(&file)?;
        let names = decoder.names().map(|(ours, theirs)| (ours, theirs.to_owned())).collect();
        let shape_of =
            |name: &str| file.tensor(name).map(|tensor| (path.to_path_buf(), tensor.shape.clone()));
        let (places, unused_tensors) = place(&decoder.spec, path, names, shape_of)?;
        Ok(Self {
            path: path.to_path_buf(),
            kind: ModelKind::Gguf,
            spec: decoder.spec,
            config: None,
            generation_config: None,
            unused_tensors,
            places,
            store: Store::Gguf(file),
        })
    }

    /// The same model with one number in place of the next token: the body's parameters stay, the head is a new
    /// one that no file holds. A model that has one score is handed back as it is.
    #[must_use]
    pub fn with_score_head(self) -> Self {
        match self.spec.head {
            HeadKind::Score { n_outputs: 1 } => self,
            _ => self.with_new_outputs(1),
        }
    }

    /// The same body with a new head of `n_outputs` numbers, whatever head it had. No file holds the new one.
    #[must_use]
    pub fn with_new_outputs(mut self, n_outputs: usize) -> Self {
        let head = HeadKind::Score { n_outputs };
        self.spec.architecture = with_head(&self.spec.architecture, head);
        self.spec.head = head;
        let kept: BTreeSet<String> =
            self.spec.parameters().into_iter().map(|parameter| parameter.name).collect();
        let is_kept = |p: &ParameterSpec| kept.contains(&p.name) && p.role != ParameterRole::Score;
        self.places.retain(|(parameter, _)| is_kept(parameter));
        self
    }

    /// The GGUF file, for its tokenizer.
    #[must_use]
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.store {
            Store::Gguf(file) => Some(file),
            Store::Safetensors(_) => None,
        }
    }

    /// The safetensors files.
    #[must_use]
    pub fn safetensors(&self) -> Option<&SafetensorsFiles> {
        match &self.store {
            Store::Safetensors(files) => Some(files),
            Store::Gguf(_) => None,
        }
    }

    /// Reads every parameter in the specification's order and hands it over at once, so that no tensor is
    /// held twice.
    ///
    /// # Errors
    /// When a tensor cannot be read, or `put` fails.
    pub fn load_weights<E: From<ModelError>>(
        &self,
        mut put: impl FnMut(&ParameterSpec, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let decoder = match &self.store {
            Store::Gguf(file) => Some(decoder_from_gguf(file)?),
            Store::Safetensors(_) => None,
        };
        for (parameter, name) in &self.places {
            let tensor = match (&self.store, &decoder) {
                (Store::Safetensors(files), _) => files.read(name)?,
                (Store::Gguf(_), Some(decoder)) => decoder.read_tensor(&parameter.name, name)?,
                (Store::Gguf(_), None) => continue,
            };
            put(parameter, tensor)?;
        }
        Ok(())
    }

    /// Reads every parameter into memory.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn load(&self) -> Result<LoadedModel, ModelError> {
        let mut weights = Weights::default();
        self.load_weights(|parameter, tensor| {
            weights.tensors.insert(parameter.name.clone(), tensor);
            Ok::<_, ModelError>(())
        })?;
        Ok(LoadedModel { spec: self.spec.clone(), weights })
    }
}

type Places = (Vec<(ParameterSpec, String)>, Vec<String>);

/// Finds each parameter among `names` (our name, the file's name), and what is left over.
fn place(
    spec: &DecoderSpec,
    path: &Path,
    names: Vec<(Option<String>, String)>,
    shape_of: impl Fn(&str) -> Option<(PathBuf, Vec<usize>)>,
) -> Result<Places, ModelError> {
    let mut unused: BTreeSet<&str> = names.iter().map(|(_, theirs)| theirs.as_str()).collect();
    let by_our_name: std::collections::BTreeMap<&str, &str> = names
        .iter()
        .filter_map(|(ours, theirs)| ours.as_deref().map(|ours| (ours, theirs.as_str())))
        .collect();
    let mut places = Vec::new();
    let mut missing = Vec::new();
    for parameter in spec.parameters() {
        let Some(theirs) = by_our_name.get(parameter.name.as_str()) else {
            missing.push(parameter.name);
            continue;
        };
        unused.remove(theirs);
        if let Some((path, found)) = shape_of(theirs)
            && found != parameter.shape
        {
            let (tensor, expected) = ((*theirs).to_owned(), parameter.shape);
            return Err(ModelError::TensorShape { path, tensor, found, expected });
        }
        places.push((parameter, (*theirs).to_owned()));
    }
    if let Some(first) = missing.first() {
        return Err(ModelError::MissingTensors {
            path: path.to_path_buf(),
            tensor: first.clone(),
            n_missing: missing.len(),
            n_expected: missing.len() + places.len(),
        });
    }
    // A tied head may be stored too, and old files hold the rotary frequencies: neither is read, as in
    // transformers.
    let unused = unused
        .into_iter()
        .filter(|name| !(spec.tie_word_embeddings && *name == "lm_head.weight"))
        .filter(|name| !name.ends_with(".rotary_emb.inv_freq"))
        .map(str::to_owned)
        .collect();
    Ok((places, unused))
}
