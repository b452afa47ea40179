//! How every run resumes.

use toml::Table;
use truing_store::{CommittedDirectory, Digest, InputFile, RunDirectory, RunInputs, latest_valid};
use truing_train::TrainerState;
use truing_types::{Event, EventSink};

use crate::RunError;

/// Before the number of every checkpoint's folder.
pub const CHECKPOINT: &str = "checkpoint-";

/// The newest checkpoint that verifies, of a run that had the same inputs: the same files, bit for bit, wherever they
/// lie, and the same of everything else that decides the weights. `finished_after`: the steps of a finished run that is
/// to be extended. Its saved model has no optimiser states, so it needs a checkpoint.
///
/// # Errors
/// When files or settings have changed since, a finished run has no checkpoint, or the disk fails.
pub fn find_checkpoint(
    digest: Digest,
    inputs: &RunInputs,
    folder: &RunDirectory,
    finished_after: Option<u64>,
    events: &mut dyn EventSink,
) -> Result<Option<CommittedDirectory>, RunError> {
    let latest = latest_valid(&folder.checkpoints_path(), CHECKPOINT)?;
    for damaged in &latest.damaged {
        let (path, reason) = (damaged.path.display(), &damaged.reason);
        events.emit(Event::Warning(format!("{path} is damaged and skipped: {reason}")));
    }
    let Some((_, directory)) = latest.found else {
        if let Some(taken) = finished_after {
            return Err(RunError::NothingToExtend { taken });
        }
        let none = if latest.damaged.is_empty() { "no checkpoint yet" } else { "no complete checkpoint" };
        events.emit(Event::Note(format!("the run has {none}; it starts from step 1")));
        return Ok(None);
    };
    check_same_files(&folder.inputs()?, inputs)?;
    if TrainerState::read(&directory)?.recipe_digest != digest {
        return Err(RunError::InputsChanged { path: folder.recipe_path() });
    }
    Ok(Some(directory))
}

/// Refuses to resume where a file has another content, or there are other files. Rows that are not used count as well:
/// what the run's folder says of them would no longer be true.
///
/// # Errors
/// [`RunError::FileChanged`], naming one of them.
pub fn check_same_files(before: &RunInputs, now: &RunInputs) -> Result<(), RunError> {
    let contents = |inputs: &RunInputs| -> Vec<(String, Digest)> {
        inputs.files.iter().map(|file| (file.role.clone(), file.blake3)).collect()
    };
    let (contents_before, contents_now) = (contents(before), contents(now));
    if contents_before == contents_now {
        return Ok(());
    }
    let is_in = |file: &InputFile, others: &[(String, Digest)]| {
        others.iter().any(|(role, digest)| *role == file.role && *digest == file.blake3)
    };
    let changed = now.files.iter().find(|file| !is_in(file, &contents_before));
    let gone = || before.files.iter().find(|file| !is_in(file, &contents_now));
    // Otherwise their order, or how often they are named.
    let Some(file) = changed.or_else(gone).or(now.files.last()) else { return Ok(()) };
    Err(RunError::FileChanged { role: file.role.clone(), path: file.path.clone() })
}

/// Refuses to resume where a setting that decides the results has changed. Both hold those settings alone.
///
/// # Errors
/// [`RunError::RecipeChanged`], naming the settings.
pub fn check_same_recipe(before: &Table, now: &Table) -> Result<(), RunError> {
    let all_keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
    let keys: Vec<String> = all_keys.filter(|key| before.get(*key) != now.get(*key)).cloned().collect();
    if keys.is_empty() { Ok(()) } else { Err(RunError::RecipeChanged { keys }) }
}
