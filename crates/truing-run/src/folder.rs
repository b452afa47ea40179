//! The folder of a run on one or several ranks: the first rank creates or opens it, locks it and looks for a
//! checkpoint; the others receive what it found.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;
use truing_store::{CommittedDirectory, Digest, RunDirectory, RunInputs, atomic};
use truing_train::TrainerState;
use truing_types::{Communicator, Event, EventSink, counted};

use crate::checks::DiskSpace;
use crate::ranks::on_first_rank;
use crate::recipe::Scope;
use crate::resume::{check_same_files, check_same_recipe, find_checkpoint};
use crate::settings::ScheduleSettings;
use crate::start::n_steps_of_outcome;
use crate::{RecipeError, RunError, SkippedRow, Start, TrainedModel, write_skipped};

/// Reads the settings that decide something out of a recipe's text.
pub type DecisiveOf = fn(&str, &Path, Scope) -> Result<Table, RecipeError>;

/// A run as its folder records it.
pub struct RunOutline<'r> {
    /// Where the folder is, or will be.
    pub output_dir: &'r Path,
    /// The whole recipe as TOML.
    pub recipe: &'r str,
    /// What of it decides the results.
    pub decisive_of: DecisiveOf,
    /// What the run is made from.
    pub inputs: &'r RunInputs,
    /// Digest of everything that decides a step's weights.
    pub digest: Digest,
    /// Optimiser steps of the run.
    pub n_steps: u64,
    /// The learning rate by update of the weights, for runs of any length.
    pub schedule: &'r ScheduleSettings,
    /// Updates of the weights in a step.
    pub updates_per_step: u64,
    /// `plan.json`.
    pub plan: serde_json::Value,
    /// Rows that were left out.
    pub skipped: Vec<&'r SkippedRow>,
    /// What the run saves, where it is much: a run without room for it does not begin.
    pub disk: Option<&'r DiskSpace>,
}

/// A run's folder, on every rank.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held by the first rank alone.
    directory: Option<RunDirectory>,
}

impl RunFolder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The locked folder, on the first rank.
    #[must_use]
    pub fn directory(&self) -> Option<&RunDirectory> {
        self.directory.as_ref()
    }
}

/// How a run begins.
pub enum OpenedRun {
    /// It was finished before.
    Finished(TrainedModel),
    /// It takes steps, from a checkpoint or from the start.
    Open {
        /// The run's folder.
        folder: RunFolder,
        /// Where it continues; `None` at the start.
        checkpoint: Option<CommittedDirectory>,
    },
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
    ///
    /// # Errors
    /// When the folder cannot be used, its recipe or files have changed, the disk fails, or a peer is lost.
    pub fn open(
        &self,
        start: Start,
        communicator: &dyn Communicator,
        events: &mut dyn EventSink,
    ) -> Result<OpenedRun, RunError> {
        let (mut directory, mut checkpoint) = (None, None);
        let found = on_first_rank(communicator, || -> Result<_, RunError> {
            if let Some(disk) = self.disk {
                disk.require()?;
            }
            let (opened, length) = self.open_here(start, events)?;
            let path = Some(opened.model_path()).filter(|model| start == Start::Resume && model.exists());
            let planned = planned_steps(opened.path());
            // Killed between its model and `outcome.json`, or of an earlier version: it took the steps it planned.
            let taken = if path.is_some() { n_steps_of_outcome(opened.path())?.or(planned) } else { None };
            if path.is_some() {
                // Before the length, which may differ because the data does.
                check_same_files(&opened.inputs()?, self.inputs)?;
            }
            self.check_length(taken)?;
            let model = match path.clone() {
                Some(path) if taken.is_none_or(|taken| taken == self.n_steps) => {
                    events.emit(Event::Note(format!("the run is finished: {} is saved", path.display())));
                    Some(TrainedModel::of_finished_run(opened.path(), path)?)
                }
                _ => None,
            };
            if model.is_none() {
                // First, so that a resume that is refused leaves the record of the run as it is.
                if start == Start::Resume {
                    checkpoint = find_checkpoint(self.digest, self.inputs, &opened, taken, events)?;
                    let state = checkpoint.as_ref().map(TrainerState::read).transpose()?;
                    let step = state.map(|state| state.step);
                    self.check_length(step)?;
                    if let (Some(taken), Some(step), Some(path)) = (taken, step, path) {
                        events.emit(extending(taken, step));
                        // `plan.json` gets the new length: until the run ends, this says what the saved model is of.
                        TrainedModel::of_finished_run(opened.path(), path)?
                            .save_outcome(opened.path(), taken)?;
                    }
                    if let Some(change) = length {
                        events.emit(self.changed_length(&change, step, planned));
                        opened.write_recipe(self.recipe)?;
                    }
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

    /// A run cannot have fewer steps than it has taken.
    fn check_length(&self, taken: Option<u64>) -> Result<(), RunError> {
        match taken.filter(|&taken| taken > self.n_steps) {
            Some(taken) => Err(RunError::TooShort { planned: self.n_steps, taken }),
            None => Ok(()),
        }
    }

    /// The folder, and what is to be said where the recipe changes the length of its run.
    fn open_here(
        &self,
        start: Start,
        events: &mut dyn EventSink,
    ) -> Result<(RunDirectory, Option<String>), RunError> {
        if start == Start::Fresh {
            return Ok((RunDirectory::create(self.output_dir, self.recipe, self.inputs)?, None));
        }
        let (directory, is_new) =
            RunDirectory::open_or_create(self.output_dir, self.recipe, self.inputs, &[])?;
        if is_new {
            events.emit(nothing_to_resume(self.output_dir));
            return Ok((directory, None));
        }
        let recipe = directory.recipe()?;
        let settings = |scope| -> Result<[Table; 2], RunError> {
            let path = directory.recipe_path();
            Ok([(self.decisive_of)(&recipe, &path, scope)?, (self.decisive_of)(self.recipe, &path, scope)?])
        };
        let [before, now] = settings(Scope::Resume)?;
        check_same_recipe(&before, &now)?;
        let [before, now] = settings(Scope::Length)?;
        let length = (before != now).then(|| {
            format!("{} instead of {}", changed_settings(&now, &before), changed_settings(&before, &now))
        });
        Ok((directory, length))
    }

    /// Says that the recipe changes the length of the run, and what that changes of the learning rates. `change`: the
    /// settings; `step`: that of the checkpoint; `planned`: the steps of the length before.
    fn changed_length(&self, change: &str, step: Option<u64>, planned: Option<u64>) -> Event {
        let mut text = format!("the length of the run has changed ({change})");
        // Without a checkpoint all steps are those of the new length.
        if let Some(step) = step.filter(|&step| step > 0) {
            let run = counted(self.n_steps, "step", "steps");
            text += &format!(
                ": from step {} on the learning rate follows the schedule of a run of {run}",
                step + 1
            );
            let updates = |n_steps: u64| n_steps * self.updates_per_step;
            let is_same = |planned| {
                self.schedule.has_same_rates(updates(step), updates(planned), updates(self.n_steps))
            };
            if !planned.is_some_and(is_same) {
                text += &format!(
                    ", but not in the steps before; the result is not bit-equal to that of a run of {run} from the \
                     start"
                );
            }
        }
        Event::Note(text)
    }
}

/// Says where a finished run that is made longer continues.
fn extending(taken: u64, step: u64) -> Event {
    let again = match taken.saturating_sub(step) {
        0 => String::new(),
        1 => format!("; step {taken} is taken again"),
        _ => format!("; steps {} to {taken} are taken again", step + 1),
    };
    Event::Note(format!(
        "the run was finished after {}; it is extended from its checkpoint of step {step}{again}",
        counted(taken, "step", "steps")
    ))
}

/// Steps that the run's folder plans; `None` where it says nothing yet.
fn planned_steps(folder: &Path) -> Option<u64> {
    let text = fs::read(folder.join("plan.json")).ok()?;
    let plan: serde_json::Value = serde_json::from_slice(&text).ok()?;
    plan.get("n_steps")?.as_u64()
}

/// The settings that the other recipe does not have so.
fn changed_settings(settings: &Table, other: &Table) -> String {
    let changed = settings.iter().filter(|(key, value)| other.get(*key) != Some(value));
    let texts: Vec<String> = changed.map(|(key, value)| format!("{key} = {value}")).collect();
    if texts.is_empty() { "not set".to_owned() } else { texts.join(", ") }
}

/// Says that a resume starts a run.
pub fn nothing_to_resume(folder: &Path) -> Event {
    Event::Note(format!("{} holds no run yet: it starts from the beginning", folder.display()))
}
