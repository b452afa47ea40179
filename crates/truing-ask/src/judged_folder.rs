//! The folder of a run that asks judges: locked, with its recipe and the digests of its inputs. The same command
//! continues the run, since every reply is kept; with another recipe or other inputs it is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use truing_model::ModelFiles;
use truing_run::recipe::Scope;
use truing_run::resume::{check_same_files, check_same_recipe};
use truing_run::{Recipe, RunError, inputs, recipe};
use truing_store::{RunDirectory, RunInputs, StoreError};
use truing_types::{Event, EventSink, StageName};

use crate::ChatModelConfig;

/// The role of files whose change only adds to a run.
pub const CORRECTIONS: &str = "corrections";

/// What a run that asks judges is made from.
#[derive(Debug)]
pub struct JudgedInputs<'a> {
    /// The stage that asks.
    pub stage: StageName,
    /// The run's seed.
    pub seed: u64,
    /// The judges.
    pub judges: Vec<&'a ChatModelConfig>,
    /// Every file that rows were read from, those whose rows were all left out too.
    pub data: &'a BTreeSet<Arc<str>>,
    /// Role and path of other files.
    pub others: Vec<(&'static str, &'a Path)>,
}

impl JudgedInputs<'_> {
    /// Versions, seed and digests of all files: those that the rows come from, judges in this process, and others.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self) -> Result<RunInputs, RunError> {
        let mut files: Vec<(&str, PathBuf)> = Vec::new();
        let local = self.judges.iter().filter(|judge| judge.server.is_none());
        for path in local.filter_map(|judge| judge.model_name_or_path.as_ref()) {
            files.extend(
                inputs::model_files(&ModelFiles::open(path)?).into_iter().map(|path| ("judge", path)),
            );
        }
        files.extend(self.data.iter().map(|file| ("data", PathBuf::from(&**file))));
        files.extend(self.others.iter().map(|&(role, path)| (role, path.to_path_buf())));
        inputs::run_inputs(self.stage, self.seed, files)
    }
}

/// Creates the folder, or opens it where the run was begun before with the same recipe and inputs.
///
/// # Errors
/// When the recipe or an input changed, another process is at work there, or the disk fails.
pub fn open<R: Recipe>(
    path: &Path,
    recipe: &R,
    inputs: &RunInputs,
    events: &mut dyn EventSink,
) -> Result<RunDirectory, RunError> {
    let text = recipe.to_toml();
    let folder = match RunDirectory::create(path, &text, inputs) {
        Err(StoreError::RunExists { .. }) => RunDirectory::open(path)?,
        created => return Ok(created?),
    };
    let decisive = |text: &str| recipe::decisive_of::<R>(text, &folder.recipe_path(), Scope::Resume);
    check_same_recipe(&decisive(&folder.recipe()?)?, &decisive(&text)?)?;
    let without_corrections = |mut inputs: RunInputs| {
        inputs.files.retain(|file| file.role != CORRECTIONS);
        inputs
    };
    check_same_files(&without_corrections(folder.inputs()?), &without_corrections(inputs.clone()))?;
    events
        .emit(Event::Note(format!("{} holds this run already: its replies are used again", path.display())));
    Ok(folder)
}
