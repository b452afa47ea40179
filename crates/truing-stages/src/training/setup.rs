//! What every stage does with a recipe before it reads its data: checks, the model, the record of all files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use truing_data::{DataError, SourceConfig};
use truing_model::{DecoderSpec, HeadKind, ModelFiles};
use truing_run::samples::RowReader;
use truing_run::{RunError, inputs, model};
use truing_store::RunInputs;
use truing_text::{ChatRenderer, RenderOptions};

use super::{TrainingConfig, plan};
use crate::StageError;

/// Checks the recipe without opening a file.
///
/// # Errors
/// When a setting is missing or invalid.
pub(crate) fn check(config: &TrainingConfig) -> Result<(), StageError> {
    if config.model_name_or_path.is_empty() {
        let expected = "a model directory, a .gguf file or a name";
        return Err(RunError::MissingSetting { key: "model_name_or_path", expected }.into());
    }
    if config.data.is_empty() {
        let expected = "at least one [[data]] table with a `path`";
        return Err(RunError::MissingSetting { key: "data", expected }.into());
    }
    if config.max_length < 2 {
        return Err(RunError::BadSetting {
            key: "max_length",
            found: config.max_length.to_string(),
            expected: "at least 2 tokens".into(),
        }
        .into());
    }
    if config.evaluation.eval_fraction > 0.0 && !config.eval_data.is_empty() {
        let reason = "rows are held out of `data`, or there are others";
        return Err(RunError::Conflict { first: "eval_fraction", second: "eval_data", reason }.into());
    }
    plan::check(config, config.evaluation.eval_fraction > 0.0 || !config.eval_data.is_empty())
}

/// Checks the settings of the recipe's sources without their files, each by the kind of row that it is read as.
///
/// # Errors
/// That of `check`.
pub(crate) fn check_sources(
    config: &TrainingConfig,
    check: impl Fn(&SourceConfig) -> Result<(), DataError>,
) -> Result<(), StageError> {
    let mut sources = config.data.iter().chain(&config.eval_data);
    Ok(sources.try_for_each(|source| check(&source.in_folder(&config.data_dir)))?)
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
/// When a setting is missing or invalid, or the model is unusable.
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
    // The head of a reward model or classifier is learnt, whatever the model has now.
    let head = match wanted {
        Opened::LanguageModel => model.spec.head,
        Opened::AnyHead => HeadKind::Score { n_outputs: 1 },
    };
    plan::check_with_model(config, &DecoderSpec { head, ..model.spec.clone() })?;
    model::continues_adapter(&model, &config.trainable())?;
    if let Some(path) = &config.chat_template {
        renderer = with_template(renderer, path)?;
    }
    Ok((model, renderer))
}

/// The renderer with the chat template of a file.
pub(crate) fn with_template(renderer: ChatRenderer, path: &Path) -> Result<ChatRenderer, StageError> {
    let source =
        fs::read_to_string(path).map_err(|source| RunError::Read { path: path.to_path_buf(), source })?;
    Ok(renderer.with_template(&source)?)
}

/// Reads the recipe's rows for a model of `vocab_size` tokens.
pub(crate) fn row_reader<'a>(
    config: &'a TrainingConfig,
    renderer: &'a ChatRenderer,
    vocab_size: usize,
) -> RowReader<'a> {
    RowReader {
        data_dir: &config.data_dir,
        on_bad_row: config.on_bad_row,
        max_length: config.max_length,
        long_samples: config.long_samples,
        renderer,
        vocab_size,
    }
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
    record_of(config, inputs::model_files(model), train, eval)
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
    Ok(inputs::run_inputs(config.stage, config.seed, model.chain(data).chain(evaluation))?)
}
