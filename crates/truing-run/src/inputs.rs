//! What a run is made from: the record of all its files, and the digest of everything that decides its results.

use std::path::PathBuf;

use truing_model::ModelFiles;
use truing_store::{Digest, InputFile, RunInputs};
use truing_types::StageName;

use crate::{Recipe, RunError};

/// What `inputs.json` of a run says: stage, versions, seed, and the digests of all files, given with their roles.
///
/// # Errors
/// When a file cannot be read.
pub fn run_inputs<'a>(
    stage: StageName,
    seed: u64,
    files: impl IntoIterator<Item = (&'a str, PathBuf)>,
) -> Result<RunInputs, RunError> {
    let files = files.into_iter().map(|(role, path)| InputFile::of(role, &path));
    Ok(RunInputs {
        stage: Some(stage.to_string()),
        versions: [("truing".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        seeds: [("run".to_owned(), seed)].into(),
        files: files.collect::<Result<_, _>>()?,
    })
}

/// The files of a model that decide results: configuration, tokenizer and weights.
#[must_use]
pub fn model_files(model: &ModelFiles) -> Vec<PathBuf> {
    model.deciding_files()
}

/// The engine that computes, as the content key names it.
const ENGINE: &str = "cpu f32";
/// Counts changes of what the content key is made of.
const KEY_VERSION: u32 = 2;

/// The content key of a run: a digest of everything that decides its results. These are the engine, the stage with the
/// settings that decide results ([`Recipe::decisive`]), the contents of all input files but those it is only evaluated
/// on, and the samples that were made of them, where a stage can tell.
#[must_use]
pub fn content_key(recipe: &impl Recipe, inputs: &RunInputs, samples: Option<Digest>) -> Digest {
    let mut parts = vec![format!("{KEY_VERSION} {ENGINE}"), recipe.decisive_toml()];
    let deciding = inputs.files.iter().filter(|file| file.role != "evaluation");
    parts.extend(deciding.map(|file| format!("{} {}", file.role, file.blake3)));
    parts.extend(samples.map(|samples| samples.to_string()));
    Digest::of_bytes(parts.join("\n").as_bytes())
}
