//! What every stage does with a recipe before it reads its data: checks, the model, the record of all files.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use truing_model::ModelFiles;
use truing_store::{Digest, InputFile, RunInputs};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::StageName;

use super::TrainingConfig;
use crate::{Recipe, StageError, model};

/// Checks what the recipe says of data and model.
///
/// # Errors
/// When a setting is missing or cannot be meant.
pub(crate) fn check(config: &TrainingConfig) -> Result<(), StageError> {
    if config.model_name_or_path.is_empty() {
        let expected = "a model directory, a .gguf file or a name";
        return Err(StageError::MissingSetting { key: "model_name_or_path", expected });
    }
    if config.data.is_empty() {
        let expected = "at least one [[data]] table with a `path`";
        return Err(StageError::MissingSetting { key: "data", expected });
    }
    if config.max_length < 2 {
        return Err(StageError::BadSetting {
            key: "max_length",
            found: config.max_length.to_string(),
            expected: "at least 2 tokens".into(),
        });
    }
    if !(0.0..1.0).contains(&config.eval_fraction) {
        return Err(StageError::BadSetting {
            key: "eval_fraction",
            found: config.eval_fraction.to_string(),
            expected: "0 or more and less than 1".into(),
        });
    }
    if config.eval_fraction > 0.0 && !config.eval_data.is_empty() {
        let reason = "rows are held out of `data`, or there are others";
        return Err(StageError::Conflict { first: "eval_fraction", second: "eval_data", reason });
    }
    Ok(())
}

/// Which model a stage begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// A language model.
    LanguageModel,
    /// Any: what does not fit of its head is replaced.
    AnyHead,
}

/// Checks the recipe and opens the model with its tokenizer and template.
///
/// # Errors
/// When a setting is missing or cannot be meant, or the model is unusable.
pub(crate) fn open(
    config: &TrainingConfig,
    wanted: Opened,
    options: RenderOptions,
) -> Result<(ModelFiles, ChatRenderer), StageError> {
    check(config)?;
    let model = ModelFiles::open(config.model_name_or_path.as_ref())?;
    let mut renderer = match wanted {
        Opened::LanguageModel => model::renderer(&model, options)?,
        Opened::AnyHead => model::renderer_of_any_head(&model, options)?,
    };
    model::continues_adapter(&model, &config.trainable())?;
    if let Some(path) = &config.chat_template {
        let source =
            fs::read_to_string(path).map_err(|source| StageError::Read { path: path.clone(), source })?;
        renderer = renderer.with_template(&source)?;
    }
    Ok((model, renderer))
}

/// Versions, seeds and digests of all files.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn record(
    config: &TrainingConfig,
    model: &ModelFiles,
    train: &BTreeSet<Arc<str>>,
    eval: Option<&BTreeSet<Arc<str>>>,
) -> Result<RunInputs, StageError> {
    record_of(config, model_files(model), train, eval)
}

/// The same of any model's files.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn record_of(
    config: &TrainingConfig,
    model: Vec<PathBuf>,
    train: &BTreeSet<Arc<str>>,
    eval: Option<&BTreeSet<Arc<str>>>,
) -> Result<RunInputs, StageError> {
    let paths = |files: &BTreeSet<Arc<str>>| -> Vec<PathBuf> {
        files.iter().map(|file| PathBuf::from(&**file)).collect()
    };
    let model = model.into_iter().map(|path| ("model", path));
    let data = paths(train).into_iter().map(|path| ("data", path));
    let evaluation = eval.map(paths).unwrap_or_default().into_iter().map(|path| ("evaluation", path));
    run_inputs(config.stage, config.seed, model.chain(data).chain(evaluation))
}

/// What `inputs.json` of a run says: stage, versions, seed, and the digests of all files, given with their roles.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn run_inputs<'a>(
    stage: StageName,
    seed: u64,
    files: impl IntoIterator<Item = (&'a str, PathBuf)>,
) -> Result<RunInputs, StageError> {
    let files = files.into_iter().map(|(role, path)| InputFile::of(role, &path));
    Ok(RunInputs {
        stage: Some(stage.to_string()),
        versions: [("truing".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        seeds: [("run".to_owned(), seed)].into(),
        files: files.collect::<Result<_, _>>()?,
    })
}

/// The files of a model that decide results: configuration, tokenizer and weights.
pub(crate) fn model_files(model: &ModelFiles) -> Vec<PathBuf> {
    model.deciding_files()
}

/// The engine that computes, as the content key names it.
const ENGINE: &str = "cpu f32";
/// Counts changes of what the content key is made of.
const KEY_VERSION: u32 = 2;

/// The content key of a run: a digest of everything that decides its results. These are the engine, the stage with the
/// settings that decide results ([`Recipe::decisive`]), the contents of all input files but those it is only evaluated
/// on, and the samples that were made of them, where a stage can tell.
pub(crate) fn content_key(recipe: &impl Recipe, inputs: &RunInputs, samples: Option<Digest>) -> Digest {
    let mut parts = vec![format!("{KEY_VERSION} {ENGINE}"), recipe.decisive_toml()];
    let deciding = inputs.files.iter().filter(|file| file.role != "evaluation");
    parts.extend(deciding.map(|file| format!("{} {}", file.role, file.blake3)));
    parts.extend(samples.map(|samples| samples.to_string()));
    Digest::of_bytes(parts.join("\n").as_bytes())
}
