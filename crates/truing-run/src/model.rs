//! Models on disk, as stages need them: into the engine, and saved so that others load them.

use std::borrow::Cow;
use std::path::Path;

use truing_model::adapters::add_lora_product;
use truing_model::engine::PutWeight;
use truing_model::sources::hub_name;
use truing_model::{
    EncoderFiles, Engine, EngineError, EngineOptions, HeadKind, LoraSpec, ModelFiles, ModelKind,
    ParameterRole, ParameterSpec, ParameterTensor, SaveOptions, Tensor, TrainableSpec, save_pretrained,
};
use truing_text::{ChatRenderer, RenderOptions, Tokenizer};
use truing_train::checkpoint::{self, ModelSaveOptions};
use truing_types::{Event, EventSink, Groups, TokenId, counted};

use crate::RunError;

/// Tokenizer and chat template of an open language model.
///
/// # Errors
/// When the model is a reward model or classifier, has no tokenizer, or it cannot be used.
pub fn renderer(files: &ModelFiles, options: RenderOptions) -> Result<ChatRenderer, RunError> {
    match files.spec.head {
        HeadKind::LanguageModel => renderer_of_any_head(files, options),
        HeadKind::Score { n_outputs } => Err(RunError::NotALanguageModel {
            path: files.path.clone(),
            architecture: files.spec.architecture.clone(),
            n_outputs,
        }),
    }
}

/// Tokenizer and chat template of an open model with any head: of one that shall score, or get a new head.
///
/// # Errors
/// When it has no tokenizer, or it cannot be used.
pub fn renderer_of_any_head(files: &ModelFiles, options: RenderOptions) -> Result<ChatRenderer, RunError> {
    Ok(ChatRenderer::new(tokenizer(files)?, options)?)
}

/// Tokenizer of an open model; an adapter's own where it has one.
///
/// # Errors
/// When it has no tokenizer, or it cannot be used.
pub fn tokenizer(files: &ModelFiles) -> Result<Tokenizer, RunError> {
    Ok(match (files.tokenizer_directory(), files.gguf()) {
        (None, Some(gguf)) => Tokenizer::from_gguf(gguf)?,
        (directory, _) => Tokenizer::from_dir(directory.unwrap_or(&files.path))?,
    })
}

/// Whether training continues on the weights of the adapter that was opened, which needs a `[lora]` of its shape.
/// Without `[lora]` they are merged into the base and all weights learn.
///
/// # Errors
/// When there is an adapter and a `[lora]` of another shape, or parameters in the adapter that `[lora]` would not
/// train.
pub fn continues_adapter(files: &ModelFiles, trainable: &TrainableSpec) -> Result<bool, RunError> {
    let (Some(adapter), Some(lora)) = (&files.adapter, &trainable.lora) else { return Ok(false) };
    let stored = LoraSpec { targets: files.spec.stored_targets(&lora.targets), ..lora.clone() };
    if !stored.is_same(&adapter.lora) {
        return Err(RunError::BadSetting {
            key: "lora",
            found: describe_lora(lora),
            expected: format!(
                "{} as in the adapter {}, to continue training it; without a [lora] table the adapter is merged into \
                 its base and all weights are trained",
                describe_lora(&adapter.lora),
                adapter.path.display()
            ),
        });
    }
    let parameters = files.spec.parameters();
    let is_score = |name: &str| parameters.iter().any(|p| p.name == name && p.role == ParameterRole::Score);
    match adapter.whole_parameters().find(|name| !is_score(name)) {
        None => Ok(true),
        Some(name) => Err(RunError::BadSetting {
            key: "lora",
            found: "a table".into(),
            expected: format!(
                "no [lora] table: the adapter {} holds all of `{name}`, which LoRA does not train here; without \
                 the table the adapter is merged into its base",
                adapter.path.display()
            ),
        }),
    }
}

fn describe_lora(lora: &LoraSpec) -> String {
    format!("rank {}, alpha {}, targets {}", lora.rank, lora.alpha, lora.targets.join(" "))
}

/// Says what a user should know of a model's files, and whether it is an adapter and what becomes of it.
pub fn announce(files: &ModelFiles, trainable: &TrainableSpec, events: &mut dyn EventSink) {
    for notice in files.notices() {
        events.emit(Event::Warning(notice));
    }
    if trainable.lora.is_some() && files.kind == ModelKind::Gguf {
        let note = "the base model is a GGUF file, which PEFT does not load: for use elsewhere save the \
                    whole model with `merge_adapter = true`";
        events.emit(Event::Note(note.into()));
    }
    let new_head = match files.spec.head {
        HeadKind::Score { n_outputs } if files.lacks_head() => Some(format!(
            "the output head ({}) is newly initialised",
            counted(n_outputs as u64, "output", "outputs")
        )),
        _ => None,
    };
    if let Some(adapter) = &files.adapter {
        let fate = match (&trainable.lora, files.spec.head, &new_head) {
            (Some(_), HeadKind::Score { .. }, None) => {
                "training continues on its low-rank weights and its output head".to_owned()
            }
            (Some(_), _, None) => "training continues on its low-rank weights".to_owned(),
            (Some(_), _, Some(new)) => format!("training continues on its low-rank weights, and {new}"),
            (None, _, None) => "its weights are merged into the base".to_owned(),
            (None, _, Some(new)) => format!("its low-rank weights are merged into the base, and {new}"),
        };
        events.emit(Event::Note(format!(
            "{} is an adapter ({}) of the base model {}; {fate}",
            adapter.path.display(),
            describe_lora(&adapter.lora),
            adapter.base_path.display()
        )));
    } else if let Some(new) = new_head {
        events
            .emit(Event::Note(format!("{new}; all other weights are loaded from {}", files.path.display())));
    }
}

/// Says so where batches of a reward model or classifier cannot be padded, or where only the user can say with what.
pub fn warn_without_padding(
    files: &ModelFiles,
    renderer: &ChatRenderer,
    is_adapter: bool,
    events: &mut dyn EventSink,
) {
    let Some(padding) = score_padding(files, renderer, is_adapter) else {
        let warning = "the tokenizer has no token that can pad batches (one that never ends a conversation), so \
                       `pad_token_id` will be null and transformers will score one conversation at a time; to score \
                       batches, add a padding token to the tokenizer and a row for it to the embedding first";
        events.emit(Event::Warning(warning.into()));
        return;
    };
    if is_adapter && files.configured_padding() != Some(padding) {
        let of_base = files.configured_padding().map_or_else(|| "none".to_owned(), |id| id.to_string());
        let token = renderer.tokenizer().token_text(padding).unwrap_or_default();
        events.emit(Event::Note(format!(
            "an adapter is loaded with the configuration of its base, whose `pad_token_id` ({of_base}) cannot pad \
             conversations: load it with `pad_token_id={padding}` (`{token}`, which the saved tokenizer pads with)"
        )));
    }
}

/// The token that pads batches of a saved reward model or classifier. With an adapter transformers takes the one of
/// the base's configuration, so that one is chosen where it can pad.
fn score_padding(files: &ModelFiles, renderer: &ChatRenderer, is_adapter: bool) -> Option<TokenId> {
    let preferred = files.configured_padding().filter(|_| is_adapter);
    renderer.padding_preferring(preferred, files.spec.vocab_size)
}

/// What the saved adapter names as its base: the model that was opened, or of a continued adapter that one's base. A
/// model out of a cache goes by its name; any other by its whole path, which means the same from every folder.
pub fn base_of<'a>(files: &'a ModelFiles, configured: &'a str) -> Cow<'a, str> {
    let base = files.base_path();
    match (hub_name(base), std::fs::canonicalize(base), &files.adapter) {
        (Some(name), ..) => Cow::Owned(name),
        (None, Ok(whole), _) => Cow::Owned(whole.to_string_lossy().into_owned()),
        (None, Err(_), Some(_)) => base.to_string_lossy(),
        (None, Err(_), None) => Cow::Borrowed(configured),
    }
}

/// What is saved beside the weights.
#[derive(Debug)]
pub struct BesideWeights {
    files: Vec<(String, Vec<u8>)>,
    output_names: Vec<String>,
    pad_token_id: Option<TokenId>,
}

impl BesideWeights {
    /// The tokenizer's files, which name a fit padding token where a score head is saved, and those of the workload.
    /// `is_adapter`: the weights are saved as an adapter.
    ///
    /// # Errors
    /// When the tokenizer cannot be written with its padding token.
    pub fn new(
        model: &ModelFiles,
        renderer: &ChatRenderer,
        is_adapter: bool,
        more: Vec<(String, Vec<u8>)>,
        output_names: Vec<String>,
    ) -> Result<Self, RunError> {
        let pad_token_id = match model.spec.head {
            HeadKind::Score { .. } => score_padding(model, renderer, is_adapter),
            HeadKind::LanguageModel => None,
        };
        let mut files = match pad_token_id {
            Some(id) => renderer.tokenizer().with_pad_token(id)?.files(),
            None => renderer.tokenizer().files(),
        };
        files.extend(more);
        Ok(Self { files, output_names, pad_token_id })
    }

    /// How [`save_model`] saves the weights and these files.
    pub fn options<'a>(&'a self, model: &'a ModelFiles) -> SaveOptions<'a> {
        SaveOptions {
            output_names: &self.output_names,
            pad_token_id: self.pad_token_id,
            ..save_options(model, &self.files)
        }
    }
}

/// Loads the weights into an engine, one tensor at a time. `on_tensor` gets the number of tensors done. An adapter is
/// merged into its base, unless [`continues_adapter`].
///
/// # Errors
/// When a tensor cannot be read, or a LoRA target is no projection of the model.
pub fn load_engine<E: Engine>(
    files: &ModelFiles,
    trainable: &TrainableSpec,
    options: &EngineOptions,
    groups: &Groups,
    on_tensor: &mut dyn FnMut(u64),
) -> Result<E, RunError> {
    let continues = continues_adapter(files, trainable)?;
    let mut n_done = 0;
    let mut weights = |put: &mut PutWeight<'_>| {
        let put = |parameter: &ParameterSpec, Tensor { shape, values }: Tensor| {
            put(&parameter.name, &shape, values)?;
            n_done += 1;
            on_tensor(n_done);
            Ok(())
        };
        if continues { files.load_weights_and_adapter(put) } else { files.load_weights(put) }
    };
    Ok(E::load(files.spec.clone().into(), trainable.clone(), options, groups, &mut weights)?)
}

/// Loads a model, one tensor at a time, and says what a user should know of its files.
///
/// # Errors
/// When a tensor cannot be read, or a LoRA target is no projection of the model.
pub fn announce_and_load<E: Engine>(
    files: &ModelFiles,
    trainable: &TrainableSpec,
    options: &EngineOptions,
    groups: &Groups,
    phase: &str,
    events: &mut dyn EventSink,
) -> Result<E, RunError> {
    announce(files, trainable, events);
    let n_tensors = files.spec.parameters().len() as u64;
    events.emit(Event::PhaseStarted { phase: phase.to_owned(), total: Some(n_tensors) });
    let on_tensor = &mut |done| events.emit(Event::Progress { done, note: String::new() });
    let engine = load_engine(files, trainable, options, groups, on_tensor)?;
    events.emit(Event::PhaseFinished);
    Ok(engine)
}

/// Loads a text encoder, one tensor at a time, and says what a user should know of its files.
///
/// # Errors
/// When a tensor cannot be read, or adapters are asked for.
pub fn load_encoder<E: Engine>(
    files: &EncoderFiles,
    trainable: &TrainableSpec,
    options: &EngineOptions,
    groups: &Groups,
    events: &mut dyn EventSink,
) -> Result<E, RunError> {
    for notice in files.notices() {
        events.emit(Event::Warning(notice));
    }
    let n_tensors = files.spec.parameters().len() as u64;
    events.emit(Event::PhaseStarted { phase: "loading the model".into(), total: Some(n_tensors) });
    let mut done = 0;
    let mut weights = |put: &mut PutWeight<'_>| {
        files.load_weights(|parameter, Tensor { shape, values }| {
            put(&parameter.name, &shape, values)?;
            done += 1;
            events.emit(Event::Progress { done, note: String::new() });
            Ok(())
        })
    };
    let engine = E::load(files.spec.clone().into(), trainable.clone(), options, groups, &mut weights)?;
    events.emit(Event::PhaseFinished);
    Ok(engine)
}

/// What is written beside the weights so that the directory is a whole model.
#[must_use]
pub fn save_options<'a>(files: &'a ModelFiles, tokenizer_files: &'a [(String, Vec<u8>)]) -> SaveOptions<'a> {
    SaveOptions {
        original_config: files.config.as_ref(),
        generation_config: files.generation_config.as_ref(),
        tokenizer_files,
        ..SaveOptions::default()
    }
}

/// Saves a model directory; with LoRA an adapter's, or the whole model with the adapters merged in.
///
/// # Errors
/// When a value does not fit into the dtype, or the disk is full or fails.
pub fn save_model<E: Engine>(
    engine: &E,
    directory: &Path,
    options: &SaveOptions<'_>,
    base_model: &str,
    merge_adapter: bool,
) -> Result<(), RunError> {
    match &engine.trainable().lora {
        Some(lora) if merge_adapter => {
            let read = |name: &str| {
                let found = engine.parameters().iter().position(|parameter| parameter.name == name);
                found.map(|idx| engine.read(idx, ParameterTensor::Value)).transpose()
            };
            let merged = |parameter: &ParameterSpec| -> Result<Cow<'_, [f32]>, RunError> {
                let name = &parameter.name;
                let missing = || EngineError::MissingParameter { name: name.clone() };
                let values = read(name)?.ok_or_else(missing)?;
                let projection = name.strip_suffix(".weight").unwrap_or(name);
                let adapter = |part: &str| read(&format!("{projection}.{part}.weight"));
                match (parameter.role, adapter("lora_A")?, adapter("lora_B")?) {
                    (ParameterRole::Matrix, Some(lora_a), Some(lora_b)) => {
                        let mut values = values.into_owned();
                        add_lora_product(&mut values, &lora_a, &lora_b, lora);
                        Ok(Cow::Owned(values))
                    }
                    _ => Ok(values),
                }
            };
            save_pretrained(directory, engine.spec().decoder()?, options, merged)
        }
        _ => {
            let options =
                ModelSaveOptions::Decoder { options: options.clone(), base_model: Some(base_model) };
            Ok(checkpoint::save_weights(engine, directory, &options)?)
        }
    }
}
