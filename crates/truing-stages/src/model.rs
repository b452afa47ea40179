//! Models on disk, as stages need them: into the engine, and saved so that others load them.

use std::borrow::Cow;
use std::path::Path;

use truing_cpu::{CpuEngine, CpuOptions, Loader};
use truing_model::adapters::add_lora_product;
use truing_model::engine::ParameterTensor;
use truing_model::{
    Engine, EngineError, ModelFiles, ParameterRole, ParameterSpec, ParameterStore, SaveOptions, Tensor,
    TrainableSpec, save_pretrained,
};
use truing_text::{ChatRenderer, RenderOptions, Tokenizer};
use truing_train::checkpoint;
use truing_types::Seed;

use crate::StageError;

/// Tokenizer and chat template of an open model.
///
/// # Errors
/// When it has no tokenizer, or it cannot be used.
pub fn renderer(files: &ModelFiles, options: RenderOptions) -> Result<ChatRenderer, StageError> {
    let tokenizer = match files.gguf() {
        Some(gguf) => Tokenizer::from_gguf(gguf)?,
        None => Tokenizer::from_dir(&files.path)?,
    };
    Ok(ChatRenderer::new(tokenizer, options)?)
}

/// Loads the weights into the engine, one tensor at a time. `on_tensor` gets the number of tensors done.
///
/// # Errors
/// When a tensor cannot be read, or a LoRA target is no projection of the model.
pub fn load_engine(
    files: &ModelFiles,
    trainable: &TrainableSpec,
    n_threads: usize,
    seed: Seed,
    on_tensor: &mut dyn FnMut(u64),
) -> Result<CpuEngine, StageError> {
    let options = CpuOptions { n_threads, seed };
    let mut loader = Loader::new(files.spec.clone(), trainable.clone(), options)?;
    let mut n_done = 0;
    files.load_weights(|parameter, Tensor { shape, values }| {
        loader.put(&parameter.name, &shape, values)?;
        n_done += 1;
        on_tensor(n_done);
        Ok::<_, StageError>(())
    })?;
    Ok(loader.finish()?)
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

/// Saves a model directory; with LoRA the adapters, or the whole model with them merged in.
///
/// # Errors
/// When the disk is full or fails.
pub fn save_model(
    engine: &CpuEngine,
    directory: &Path,
    options: &SaveOptions<'_>,
    base_model: &str,
    merge_adapter: bool,
) -> Result<(), StageError> {
    match &engine.trainable().lora {
        Some(lora) if merge_adapter => {
            let read = |name: &str| {
                let found = engine.parameters().iter().position(|parameter| parameter.name == name);
                found.map(|idx| engine.read(idx, ParameterTensor::Value)).transpose()
            };
            let merged = |parameter: &ParameterSpec| -> Result<Cow<'_, [f32]>, StageError> {
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
            save_pretrained(directory, engine.spec(), options, merged)
        }
        _ => Ok(checkpoint::save_weights(engine, directory, options, Some(base_model))?),
    }
}
