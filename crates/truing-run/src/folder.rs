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
            let mut lengths = Lengths::of_folder(opened.path());
            let planned = lengths.last();
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
                    lengths.continue_from(step.unwrap_or(0), self.n_steps);
                    if let Some(change) = length {
                        events.emit(self.changed_length(&change, step, &lengths));
                        opened.write_recipe(self.recipe)?;
                    }
                    if checkpoint.is_none() {
                        // All of the run is made from the inputs as they are now.
                        opened.write_inputs(self.inputs)?;
                    }
                }
                atomic::write_json(&opened.path().join("plan.json"), &lengths.added_to(self.plan.clone()))?;
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
    /// settings; `step`: that of the checkpoint; `lengths`: those under which its steps were taken.
    fn changed_length(&self, change: &str, step: Option<u64>, lengths: &Lengths) -> Event {
        let mut text = format!("the length of the run has changed ({change})");
        // Without a checkpoint all steps are those of the new length.
        if let Some(step) = step.filter(|&step| step > 0) {
            let run = counted(self.n_steps, "step", "steps");
            text += &format!(
                ": from step {} on the learning rate follows the schedule of a run of {run}",
                step + 1
            );
            let updates = |n_steps: u64| n_steps * self.updates_per_step;
            let is_same = |(after, until, planned): (u64, u64, u64)| {
                let range = updates(after) + 1..=updates(until);
                self.schedule.has_same_rates(range, updates(planned), updates(self.n_steps))
            };
            if !lengths.until(step).is_some_and(|mut parts| parts.all(is_same)) {
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

/// The lengths that the run of a folder has had. Steps follow the schedule of the length that was planned when they
/// were taken, so a run that was made longer twice has steps of three schedules.
#[derive(Debug, Default)]
struct Lengths(Vec<Length>);

/// A run's length, from a step on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Length {
    /// The steps that were taken before.
    after: u64,
    n_steps: u64,
}

impl Lengths {
    /// Where `plan.json` has them.
    const KEY: &'static str = "lengths";

    /// Those of `plan.json`; empty where it says nothing yet.
    fn of_folder(folder: &Path) -> Self {
        let plan = fs::read(folder.join("plan.json")).ok();
        plan.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
            .map_or_else(Self::default, |plan| Self::of_plan(&plan))
    }

    fn of_plan(plan: &serde_json::Value) -> Self {
        let several = plan.get(Self::KEY).and_then(|several| Vec::<Length>::deserialize(several).ok());
        let only = || plan.get("n_steps")?.as_u64().map(|n_steps| vec![Length { after: 0, n_steps }]);
        Self(several.filter(|several| !several.is_empty()).or_else(only).unwrap_or_default())
    }

    /// The length that is planned; `None` where nothing is known.
    fn last(&self) -> Option<u64> {
        self.0.last().map(|length| length.n_steps)
    }

    /// Notes that the steps after `step` are taken, or taken again, in a run of `n_steps`.
    fn continue_from(&mut self, step: u64, n_steps: u64) {
        // Steps that are taken again get the new length. Where nothing is known of the steps before, that stays so.
        let is_known = !self.0.is_empty() || step == 0;
        self.0.retain(|length| length.after < step);
        if is_known && self.last() != Some(n_steps) {
            self.0.push(Length { after: step, n_steps });
        }
    }

    /// The steps up to `step` by length: (steps before, last step, length). `None` where nothing is known.
    fn until(&self, step: u64) -> Option<impl Iterator<Item = (u64, u64, u64)>> {
        let ends = self.0.iter().skip(1).map(|length| length.after).chain(std::iter::once(step));
        let parts = self.0.iter().zip(ends).filter(move |(length, _)| length.after < step);
        let parts = parts.map(move |(length, end)| (length.after, end.min(step), length.n_steps));
        (!self.0.is_empty()).then_some(parts)
    }

    /// The plan with them, if there is more than the length that the plan has anyway.
    fn added_to(&self, mut plan: serde_json::Value) -> serde_json::Value {
        if let (2.., Some(fields)) = (self.0.len(), plan.as_object_mut()) {
            fields.insert(Self::KEY.to_owned(), serde_json::json!(self.0));
        }
        plan
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_belong_to_the_length_under_which_they_were_taken() {
        let parts = |lengths: &Lengths, step| lengths.until(step).unwrap().collect::<Vec<_>>();
        let mut lengths = Lengths::of_plan(&json!({"n_steps": 100}));
        assert_eq!(lengths.added_to(json!({"n_steps": 100})), json!({"n_steps": 100}));
        lengths.continue_from(90, 200);
        assert_eq!(parts(&lengths, 90), [(0, 90, 100)]);
        // Stopped at once, and made longer again: none of its steps were taken under the length of 200.
        let mut lengths = Lengths::of_plan(&lengths.added_to(json!({"n_steps": 200})));
        assert_eq!(lengths.last(), Some(200));
        lengths.continue_from(90, 300);
        assert_eq!(parts(&lengths, 90), [(0, 90, 100)]);
        // Once it has taken steps, these stay with the length that they had.
        lengths.continue_from(150, 300);
        lengths.continue_from(150, 400);
        assert_eq!(parts(&lengths, 150), [(0, 90, 100), (90, 150, 300)]);
        // From an older checkpoint, and from the start.
        lengths.continue_from(50, 400);
        assert_eq!(parts(&lengths, 60), [(0, 50, 100), (50, 60, 400)]);
        lengths.continue_from(0, 400);
        assert_eq!(parts(&lengths, 60), [(0, 60, 400)]);
        // A folder that does not say how its steps were taken.
        let mut unknown = Lengths::of_plan(&json!({}));
        unknown.continue_from(5, 10);
        assert!(unknown.until(5).is_none());
    }
}
