//! What a run is made from: the record of all its files, and the digest of everything that decides its results.

use std::path::PathBuf;

use truing_model::{Engine, ModelFiles};
use truing_store::{Digest, InputFile, RunInputs};
use truing_types::StageName;

use crate::recipe::Scope;
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

/// One digest of some files, for instance those that decide what a model computes ([`model_files`]): the same for the
/// same contents, wherever they lie.
///
/// # Errors
/// When a file cannot be read.
pub fn digest_of_files(files: &[PathBuf]) -> Result<Digest, RunError> {
    let digests = files
        .iter()
        .map(|file| Ok(InputFile::of("model", file)?.blake3.to_string()))
        .collect::<Result<Vec<String>, RunError>>()?;
    Ok(Digest::of_bytes(digests.join(" ").as_bytes()))
}

/// Counts changes of what the keys are made of.
const KEY_VERSION: u32 = 3;

/// What decides every step of a run, so that one run can continue another: engine, stage, settings
/// ([`Scope::Resume`]), the contents of all input files but those it is only evaluated on, and the samples that were
/// made of them, where a stage can tell.
#[must_use]
pub fn resume_key<E: Engine>(recipe: &impl Recipe, inputs: &RunInputs, samples: Option<Digest>) -> Digest {
    let is_deciding = |file: &&InputFile| file.role != "evaluation";
    let mut parts = key_parts::<E>(recipe, Scope::Resume, inputs.files.iter().filter(is_deciding));
    parts.extend(samples.map(|samples| samples.to_string()));
    Digest::of_bytes(parts.join("\n").as_bytes())
}

/// What decides all that a finished run leaves behind: two runs of one content key have equal results. Made of the
/// engine, the stage, settings ([`Scope::Content`]) and the contents of all input files; never of paths, log settings,
/// threads or memory budgets.
#[must_use]
pub fn content_key<E: Engine>(recipe: &impl Recipe, inputs: &RunInputs) -> Digest {
    let parts = key_parts::<E>(recipe, Scope::Content, inputs.files.iter());
    Digest::of_bytes(parts.join("\n").as_bytes())
}

fn key_parts<'a, E: Engine>(
    recipe: &impl Recipe,
    scope: Scope,
    files: impl Iterator<Item = &'a InputFile>,
) -> Vec<String> {
    let mut parts = vec![format!("{KEY_VERSION} {}", E::name()), recipe.decisive(scope).to_string()];
    parts.extend(files.map(|file| format!("{} {}", file.role, file.blake3)));
    parts
}
