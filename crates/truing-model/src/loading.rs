//! A model on disk, opened: a directory with config.json and safetensors, a GGUF file, or a PEFT adapter together with
//! the base model that it names. Opening reads headers only and checks every name and shape; the values follow one
//! tensor at a time.

mod rows;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use truing_types::{TokenId, counted};

use crate::adapters::{AdapterFiles, EMBEDDING, HEAD, OpeningAdapter, is_adapter};
use crate::engine::PutWeight;
use crate::families::{ConfigFile, decoder_from_gguf, spec_from_config, with_head};
use crate::weights::SafetensorsFiles;
use crate::{
    DecoderSpec, GgufFile, HeadKind, ModelError, ParameterRole, ParameterSpec, Tensor, WeightSource, Weights,
};

pub(crate) use rows::ParameterReader;

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
    /// The directory or the GGUF file that was opened; of an adapter its own directory.
    pub path: PathBuf,
    /// How it is stored; of an adapter, how its base is.
    pub kind: ModelKind,
    /// What it is. End tokens are those of generation_config.json where it names some.
    pub spec: DecoderSpec,
    /// config.json as it was, of an adapter its base's; a GGUF file has none.
    pub config: Option<ConfigFile>,
    /// generation_config.json as it was, where there is one.
    pub generation_config: Option<ConfigFile>,
    /// Tensors in the files that the specification does not use.
    pub unused_tensors: Vec<String>,
    /// Files that contradict each other, and which of them counts.
    pub contradictions: Vec<String>,
    /// The adapter on the model, where `path` is one.
    pub adapter: Option<AdapterFiles>,
    /// Every parameter, with its place.
    places: Vec<(ParameterSpec, Place)>,
    store: Store,
}

/// Where a parameter is read from.
#[derive(Debug)]
enum Place {
    /// The model's own files, under this name.
    Base(String),
    /// The adapter's file, which holds it whole.
    Adapter,
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
    /// The padding token of config.json, of an adapter its base's.
    #[must_use]
    pub fn configured_padding(&self) -> Option<TokenId> {
        let id = self.config.as_ref()?.fields().get("pad_token_id")?.as_u64()?;
        TokenId::try_from(id).ok()
    }

    /// Opens a model directory, a directory that holds nothing but one GGUF file, a GGUF file, or an adapter's
    /// directory with the base model that it names.
    ///
    /// # Errors
    /// When a file is missing or broken, the architecture is unknown, a parameter is missing or of another shape than
    /// the configuration says, or an adapter's base is not found or does not fit.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if !is_adapter(path) {
            return Self::open_whole(path);
        }
        Self::open_adapter(path, OpeningAdapter::open(path, None)?)
    }

    /// Opens an adapter's directory with another base model than the one that it names.
    ///
    /// # Errors
    /// As [`ModelFiles::open`], and when there is no adapter.
    pub fn open_adapter_on(adapter: &Path, base: &Path) -> Result<Self, ModelError> {
        Self::open_adapter(adapter, OpeningAdapter::open(adapter, Some(base))?)
    }

    fn open_adapter(path: &Path, opening: OpeningAdapter) -> Result<Self, ModelError> {
        // A directory can hold a whole model and an adapter on it.
        let mut files = match opening.base_path == path {
            true => Self::open_directory(path)?,
            false => Self::open_whole(&opening.base_path)?,
        };
        if let Some(n_outputs) = opening.n_outputs(&files.spec)?
            && files.spec.head != (HeadKind::Score { n_outputs })
        {
            files = files.with_new_outputs(n_outputs);
        }
        let untied = opening.untied(&files.spec)?;
        if !untied.is_empty() {
            files.untie(&untied, path);
        }
        let adapter = opening.on(&files.spec)?;
        let is_whole = |parameter: &ParameterSpec| adapter.tensors.has_whole(&parameter.name);
        files.places.retain(|(parameter, _)| !is_whole(parameter));
        let whole = files.spec.parameters().into_iter().filter(is_whole);
        files.places.extend(whole.map(|parameter| (parameter, Place::Adapter)));
        path.clone_into(&mut files.path);
        files.adapter = Some(adapter);
        Ok(files)
    }

    /// Gives a model that ties them an embedding and a head of their own, both as its files have the one. An adapter
    /// replaces those in `replaced`.
    fn untie(&mut self, replaced: &[&str], adapter: &Path) {
        self.spec.tie_word_embeddings = false;
        let embedding = self.places.iter().find_map(|(parameter, place)| match place {
            Place::Base(name) if parameter.name == EMBEDDING => Some(name.clone()),
            _ => None,
        });
        let head = self.spec.parameters().into_iter().find(|parameter| parameter.name == HEAD);
        self.places.extend(head.zip(embedding).map(|(head, name)| (head, Place::Base(name))));
        let names: Vec<String> = replaced.iter().map(|name| format!("`{name}`")).collect();
        self.contradictions.push(format!(
            "{}: the base model ties the output head to the embedding, and the adapter holds {} of its own; the two are \
             separate parameters here, as in PEFT",
            adapter.display(),
            names.join(" and ")
        ));
    }

    fn open_whole(path: &Path) -> Result<Self, ModelError> {
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
            _ => {
                let inside = path.join("model");
                let inside = (inside.join("config.json").is_file() || is_adapter(&inside)).then_some(inside);
                let n_gguf_files = gguf_files.len();
                Err(ModelError::NoModel { path: path.to_path_buf(), n_gguf_files, inside })
            }
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
        let mut contradictions: Vec<String> =
            SafetensorsFiles::notice_of_unread_files(path).into_iter().collect();
        contradictions.extend(untie_different_head(&mut spec, &files, path)?);
        let names = files.names().filter(|name| !files.is_scale(name));
        let names = names.map(|name| (Some(name.to_owned()), name.to_owned())).collect();
        let shape_of = |name: &str| {
            let file = files.file_of(name)?;
            file.tensor(name).map(|tensor| (file.path.clone(), tensor.shape.clone()))
        };
        let (places, unused_tensors) = place(&spec, path, names, shape_of)?;
        let scale_block = config.scale_block()?;
        for (_, place) in &places {
            if let Place::Base(name) = place {
                files.check_scaled(name, scale_block)?;
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            kind: ModelKind::Directory,
            spec,
            config: Some(config),
            generation_config,
            unused_tensors,
            contradictions,
            adapter: None,
            places,
            store: Store::Safetensors(files),
        })
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
            contradictions: Vec::new(),
            adapter: None,
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

    /// The same body with a new head of `n_outputs` numbers, which replaces the old one. No file holds the new one.
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

    /// Whether no file holds the head of a reward model or classifier, so that it is a new one.
    #[must_use]
    pub fn lacks_head(&self) -> bool {
        let has_score = self.places.iter().any(|(parameter, _)| parameter.role == ParameterRole::Score);
        matches!(self.spec.head, HeadKind::Score { .. }) && !has_score
    }

    /// What a user should know of the files before they are used: [`ModelFiles::contradictions`], and how many tensors
    /// are not read.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let unused = notice_of_unused(&self.unused_tensors, self.base_path());
        self.contradictions.iter().cloned().chain(unused).collect()
    }

    /// The model below an adapter; the model itself where it is no adapter.
    #[must_use]
    pub fn base_path(&self) -> &Path {
        self.adapter.as_ref().map_or(&self.path, |adapter| &adapter.base_path)
    }

    /// The directory with the tokenizer's files: an adapter's own where it has some. `None` where the tokenizer is in
    /// the GGUF file.
    #[must_use]
    pub fn tokenizer_directory(&self) -> Option<&Path> {
        let of_adapter = self.adapter.as_ref().map(|adapter| &*adapter.path);
        let of_base = (self.kind == ModelKind::Directory).then(|| self.base_path());
        of_adapter.filter(|path| path.join("tokenizer.json").is_file()).or(of_base)
    }

    /// The files that decide what the model computes, reads and writes: configuration, tokenizer and weights.
    #[must_use]
    pub fn deciding_files(&self) -> Vec<PathBuf> {
        let folder = (self.kind == ModelKind::Directory).then(|| self.base_path());
        let described = folder.iter().flat_map(|folder| described_files(folder));
        described.chain(self.weight_files()).collect()
    }

    /// The files that decide the weights.
    #[must_use]
    pub fn weight_files(&self) -> Vec<PathBuf> {
        let base: Vec<PathBuf> = match &self.store {
            Store::Safetensors(files) => files.files().iter().map(|file| file.path.clone()).collect(),
            Store::Gguf(file) => vec![file.path.clone()],
        };
        base.into_iter().chain(self.adapter.iter().flat_map(AdapterFiles::files)).collect()
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

    /// Reads every parameter and hands it over at once, so that no tensor is held twice. An adapter is merged into the
    /// projections that it adapts.
    ///
    /// # Errors
    /// When a tensor cannot be read, or `put` fails.
    pub fn load_weights<E: From<ModelError>>(
        &self,
        mut put: impl FnMut(&ParameterSpec, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_all(|parameter, mut tensor| {
            if let Some(adapter) = &self.adapter {
                adapter.tensors.add_to(parameter, &mut tensor, &adapter.lora)?;
            }
            put(parameter, tensor)
        })
    }

    /// [`load_weights`](Self::load_weights) for an engine.
    pub fn weight_source(&self) -> impl WeightSource {
        |put: &mut PutWeight<'_>| {
            self.load_weights(|parameter, tensor| put(&parameter.name, &tensor.shape, tensor.values))
        }
    }

    /// The same with the adapter's own parameters after those of the base instead of merged into them, to train them
    /// further.
    ///
    /// # Errors
    /// As [`ModelFiles::load_weights`].
    pub fn load_weights_and_adapter<E: From<ModelError>>(
        &self,
        mut put: impl FnMut(&ParameterSpec, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read_all(&mut put)?;
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let parameters = self.spec.lora_parameters(&adapter.lora);
        parameters.iter().try_for_each(|parameter| put(parameter, adapter.tensors.read(&parameter.name)?))
    }

    fn read_all<E: From<ModelError>>(
        &self,
        mut put: impl FnMut(&ParameterSpec, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let decoder = match &self.store {
            Store::Gguf(file) => Some(decoder_from_gguf(file)?),
            Store::Safetensors(_) => None,
        };
        let scale_block = self.config.as_ref().map(ConfigFile::scale_block).transpose()?.flatten();
        for (parameter, place) in &self.places {
            let tensor = match (place, &self.store, &decoder, &self.adapter) {
                (Place::Adapter, _, _, Some(adapter)) => adapter.tensors.read(&parameter.name)?,
                (Place::Base(name), Store::Safetensors(files), ..) => files.read_scaled(name, scale_block)?,
                (Place::Base(name), _, Some(decoder), _) => decoder.read_tensor(&parameter.name, name)?,
                _ => continue,
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

/// Unused tensors that are named; the others are counted.
const MAX_NAMED: usize = 3;

pub(crate) fn notice_of_unused(unused: &[String], path: &Path) -> Option<String> {
    let n_more = unused.len().saturating_sub(MAX_NAMED);
    let mut names: Vec<String> = unused.iter().take(MAX_NAMED).map(|name| format!("`{name}`")).collect();
    if n_more > 0 {
        names.push(format!("{n_more} more"));
    }
    (!unused.is_empty()).then(|| {
        format!(
            "{}: {} not loaded: {}",
            path.display(),
            counted(
                unused.len() as u64,
                "tensor in the files is not used by this architecture and is",
                "tensors in the files are not used by this architecture and are",
            ),
            names.join(", ")
        )
    })
}

/// Files of a model's directory, beside its weights, that decide what it computes, reads and writes: those that are
/// there.
pub(crate) fn described_files(folder: &Path) -> Vec<PathBuf> {
    const NAMES: [&str; 13] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.txt",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "classifier.json",
    ];
    NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

/// A configuration that ties the head to the embedding is wrong where the files hold another head. That one is used
/// then, as in transformers 5.
fn untie_different_head(
    spec: &mut DecoderSpec,
    files: &SafetensorsFiles,
    path: &Path,
) -> Result<Option<String>, ModelError> {
    let [head, embedding] = [HEAD, EMBEDDING];
    let are_there = [head, embedding].iter().all(|name| files.file_of(name).is_some());
    if !spec.tie_word_embeddings || spec.head != HeadKind::LanguageModel || !are_there {
        return Ok(None);
    }
    let shape = |name: &str| files.file_of(name).and_then(|file| Some(file.tensor(name)?.shape.clone()));
    if shape(head) != shape(embedding) {
        return Ok(Some(format!(
            "{}: config.json says `tie_word_embeddings = true`, and the `{head}` in the files has another shape than the \
             embedding; it is not used",
            path.display()
        )));
    }
    if !files.have_data() {
        return Ok(Some(format!(
            "{}: config.json says `tie_word_embeddings = true`, and the files hold a `{head}`; without the data of the \
             weights it is taken to be equal to the embedding",
            path.display()
        )));
    }
    if files.are_equal(head, embedding)? {
        return Ok(None);
    }
    spec.tie_word_embeddings = false;
    Ok(Some(format!(
        "{}: config.json says `tie_word_embeddings = true`, but the files hold a `{head}` that differs from the embedding; \
         the stored head is used, as in transformers 5 (older versions and other programs use the embedding). Set \
         `tie_word_embeddings` to false if that is intended",
        path.display()
    )))
}

type Places = (Vec<(ParameterSpec, Place)>, Vec<String>);

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
        places.push((parameter, Place::Base((*theirs).to_owned())));
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
        .filter(|name| !(spec.tie_word_embeddings && *name == HEAD))
        .filter(|name| !name.ends_with(".rotary_emb.inv_freq"))
        .map(str::to_owned)
        .collect();
    Ok((places, unused))
}
