//! The folder of a run on one or several ranks: the first rank creates or opens it, locks it and looks for a checkpoint;
//! the others are told what it found.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;
use truing_store::{CommittedDirectory, Digest, RunDirectory, RunInputs, atomic};
use truing_types::{Communicator, Event, EventSink};

use super::resume::{check_same_files, check_same_recipe, find_checkpoint};
use crate::ranks::on_first_rank;
use crate::row_report::{SkippedRow, write_skipped};
use crate::{RecipeError, StageError, Start, TrainedModel};

/// Reads the settings that decide the results out of a recipe's text.
pub(crate) type DecisiveOf = fn(&str, &Path) -> Result<Table, RecipeError>;

/// A run as its folder records it.
pub(crate) struct RunOutline<'r> {
    pub(crate) output_dir: &'r Path,
    /// The whole recipe as TOML.
    pub(crate) recipe: &'r str,
    pub(crate) decisive_of: DecisiveOf,
    pub(crate) inputs: &'r RunInputs,
    /// Digest of everything that decides the weights.
    pub(crate) digest: Digest,
    /// `plan.json`.
    pub(crate) plan: serde_json::Value,
    /// Rows that were left out.
    pub(crate) skipped: Vec<&'r SkippedRow>,
}

/// A run's folder, on every rank.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Held by the first rank alone.
    directory: Option<RunDirectory>,
}

impl RunFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The locked folder, on the first rank.
    pub(crate) fn directory(&self) -> Option<&RunDirectory> {
        self.directory.as_ref()
    }
}

/// How a run begins.
pub(crate) enum OpenedRun {
    /// It was finished before.
    Finished(TrainedModel),
    /// It takes steps, from a checkpoint or from the start.
    Open { folder: RunFolder, checkpoint: Option<CommittedDirectory> },
}

/// What the first rank found, for the others.
#[derive(Serialize, Deserialize)]
struct Found {
    path: PathBuf,
    model: Option<TrainedModel>,
    checkpoint: Option<PathBuf>,
}

impl RunOutline<'_> {
    /// Creates the run's folder, or opens it for a resume. A resume where nothing was begun yet starts the run.
    pub(crate) fn open(
        &self,
        start: Start,
        communicator: &dyn Communicator,
        events: &mut dyn EventSink,
    ) -> Result<OpenedRun, StageError> {
        let (mut directory, mut checkpoint) = (None, None);
        let found = on_first_rank(communicator, || {
            let opened = self.open_here(start, events)?;
            let path = Some(opened.model_path()).filter(|model| start == Start::Resume && model.exists());
            let model = match path {
                Some(path) => {
                    check_same_files(&opened.inputs()?, self.inputs)?;
                    events.emit(Event::Note(format!("the run is finished: {} is saved", path.display())));
                    Some(TrainedModel::of_finished_run(opened.path(), path)?)
                }
                None => None,
            };
            if model.is_none() {
                // First, so that a resume that is refused leaves the record of the run as it is.
                if start == Start::Resume {
                    checkpoint = find_checkpoint(self.digest, self.inputs, &opened, events)?;
                    if checkpoint.is_none() {
                        // All of the run is made from the inputs as they are now.
                        opened.write_inputs(self.inputs)?;
                    }
                }
                atomic::write_json(&opened.path().join("plan.json"), &self.plan)?;
                write_skipped(opened.path(), self.skipped.iter().copied(), events)?;
            }
            let checkpoint = checkpoint.as_ref().map(|found| found.path().to_path_buf());
            let found = Found { path: opened.path().to_path_buf(), model, checkpoint };
            directory = Some(opened);
            Ok(found)
        })?;
        if let Some(model) = found.model {
            return Ok(OpenedRun::Finished(model));
        }
        if let (None, Some(path)) = (&directory, &found.checkpoint) {
            checkpoint = Some(CommittedDirectory::open_verified(path)?);
        }
        Ok(OpenedRun::Open { folder: RunFolder { path: found.path, directory }, checkpoint })
    }

    fn open_here(&self, start: Start, events: &mut dyn EventSink) -> Result<RunDirectory, StageError> {
        if start == Start::Fresh {
            return Ok(RunDirectory::create(self.output_dir, self.recipe, self.inputs)?);
        }
        let (directory, is_new) =
            RunDirectory::open_or_create(self.output_dir, self.recipe, self.inputs, &[])?;
        if is_new {
            events.emit(nothing_to_resume(self.output_dir));
            return Ok(directory);
        }
        let decisive = |text: &str| (self.decisive_of)(text, &directory.recipe_path());
        check_same_recipe(&decisive(&directory.recipe()?)?, &decisive(self.recipe)?)?;
        Ok(directory)
    }
}

/// Says that a resume starts a run.
pub(crate) fn nothing_to_resume(folder: &Path) -> Event {
    Event::Note(format!("{} holds no run yet: it starts from the beginning", folder.display()))
}
