//! What every run saves in its folder: metrics, evaluations, checkpoints, the model.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Map, Value};
use truing_model::{ParameterStore, is_adapter};
use truing_store::{CommittedDirectory, MetricsLog, StagedDirectory, prune};
use truing_train::checkpoint::{self, TrainerState};
use truing_types::{CommunicationError, Communicator, Event, EventSink};

use crate::folder::RunFolder;
use crate::ranks::{is_first, on_first_rank, on_first_rank_reading};
use crate::resume::CHECKPOINT;
use crate::{RunError, TrainedModel};

/// Before the name of every metric of an evaluation.
pub const EVALUATION_PREFIX: &str = "eval_";

/// What a run keeps. The first rank writes it; errors of the first rank reach all.
pub struct RunRecord<'a> {
    folder: RunFolder,
    communicator: &'a dyn Communicator,
    /// On the first rank.
    log: Option<MetricsLog>,
    /// Step of the newest checkpoint.
    saved_step: u64,
    last_metrics: BTreeMap<String, f64>,
}

impl<'a> RunRecord<'a> {
    /// Continues from `state`: what was logged after it, in the metrics and in the files named `evaluations`, is cut
    /// off.
    ///
    /// # Errors
    /// When a file cannot be cut or a peer is lost.
    pub fn open(
        folder: RunFolder,
        state: &TrainerState,
        evaluations: &[&str],
        communicator: &'a dyn Communicator,
    ) -> Result<Self, RunError> {
        // An evaluation that is due may have been logged already by a process that ended before it was saved.
        let is_made_again = |values: &Map<String, Value>| {
            state.is_evaluation_due && values.keys().any(|name| name.starts_with(EVALUATION_PREFIX))
        };
        let mut log = None;
        on_first_rank(communicator, || -> Result<(), RunError> {
            let Some(directory) = folder.directory() else { return Ok(()) };
            let cut = MetricsLog::truncate_after(&directory.metrics_path(), state.step, is_made_again)?;
            log = Some(cut.0);
            for name in evaluations {
                let path = directory.path().join(name);
                if path.exists() {
                    MetricsLog::truncate_after(&path, state.step, |_| state.is_evaluation_due)?;
                }
            }
            Ok(())
        })?;
        Ok(Self { folder, communicator, log, saved_step: state.step, last_metrics: BTreeMap::new() })
    }

    /// The run's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the run after `n_steps` optimiser steps: `outcome.json` says how.
    ///
    /// # Errors
    /// When the file cannot be written, or a peer is lost.
    pub fn end(
        self,
        model: PathBuf,
        nothing_learnt: Option<String>,
        n_steps: u64,
    ) -> Result<TrainedModel, RunError> {
        let folder = self.path().to_path_buf();
        let trained = TrainedModel { model, metrics: self.last_metrics, nothing_learnt };
        on_first_rank(self.communicator, || trained.save_outcome(&folder, n_steps))?;
        Ok(trained)
    }

    /// Why the model was not trained, where the gradient was 0 in every step that was logged.
    ///
    /// # Errors
    /// When the metrics cannot be read, or a peer is lost.
    pub fn nothing_learnt(&self) -> Result<Option<String>, RunError> {
        on_first_rank(self.communicator, || {
            let Some(directory) = self.folder.directory() else { return Ok(None) };
            let path = directory.metrics_path();
            let text =
                fs::read_to_string(&path).map_err(|source| RunError::Read { path: path.clone(), source })?;
            let mut n_steps = 0;
            for line in text.lines() {
                let values: Map<String, Value> = serde_json::from_str(line)
                    .map_err(|error| RunError::Read { path: path.clone(), source: error.into() })?;
                match values.get("grad_norm").and_then(Value::as_f64) {
                    Some(0.0) => n_steps += 1,
                    Some(_) => return Ok(None),
                    None => {}
                }
            }
            Ok((n_steps > 0).then(|| {
                "the model was not trained: the gradient was 0 in every step (`grad_norm`). Do not use the \
                 saved model as a trained one"
                    .to_owned()
            }))
        })
    }

    /// Appends a line of metrics. A mean of nothing, for instance of scores where no response has one, is left out.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn log(
        &mut self,
        step: u64,
        mut values: BTreeMap<String, f64>,
        events: &mut dyn EventSink,
    ) -> Result<(), RunError> {
        values.retain(|_, value| value.is_finite());
        if let Some(log) = &mut self.log {
            let mut record = Map::new();
            record.insert("step".into(), step.into());
            record.extend(values.iter().map(|(name, &value)| (name.clone(), value.into())));
            log.append(&record)?;
        }
        self.last_metrics.extend(values.clone());
        events.emit(Event::Metrics { step, values });
        Ok(())
    }

    /// Appends what an evaluation found out to a file of the folder.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn log_evaluation(&self, file_name: &str, record: &impl Serialize) -> Result<(), RunError> {
        if is_first(self.communicator) {
            let mut log = MetricsLog::open(&self.path().join(file_name))?;
            log.append(record)?;
            log.sync()?;
        }
        Ok(())
    }

    /// Saves a checkpoint, unless there is one of this step, and removes those that are too many. The first rank
    /// alone calls `write`, which may read whole tensors of `store`; every rank has to call this.
    ///
    /// # Errors
    /// Those of `write`; when the disk fails or a peer is lost.
    pub fn save_checkpoint<E: Error + From<RunError>>(
        &mut self,
        state: &TrainerState,
        n_kept: usize,
        store: &impl ParameterStore,
        events: &mut dyn EventSink,
        write: impl FnOnce(&mut StagedDirectory) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.saved_step == state.step {
            return Ok(());
        }
        on_first_rank_reading(self.communicator, store, || -> Result<(), E> {
            let Some(directory) = self.folder.directory() else { return Ok(()) };
            let checkpoints = directory.checkpoints_path();
            let path = checkpoints.join(format!("{CHECKPOINT}{}", state.step));
            self.save("checkpoint", "saving a checkpoint", &path, events, write)?;
            let best: Vec<u64> = state.best.iter().map(|best| best.step).collect();
            prune(&checkpoints, CHECKPOINT, n_kept, &best).map_err(RunError::from)?;
            Ok(())
        })?;
        self.saved_step = state.step;
        Ok(())
    }

    /// Saves the model of a run that has ended, as [`save_checkpoint`](Self::save_checkpoint) does.
    ///
    /// # Errors
    /// Those of `write`; when the disk fails or a peer is lost.
    pub fn save_model<E: Error + From<RunError>>(
        &mut self,
        store: &impl ParameterStore,
        events: &mut dyn EventSink,
        write: impl FnOnce(&mut StagedDirectory) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        on_first_rank_reading(self.communicator, store, || {
            let path = self.path().join("model");
            self.save("model", "saving the weights", &path, events, write)?;
            Ok(path)
        })
    }

    fn save<E: Error + From<RunError>>(
        &self,
        what: &str,
        phase: &str,
        path: &Path,
        events: &mut dyn EventSink,
        write: impl FnOnce(&mut StagedDirectory) -> Result<(), E>,
    ) -> Result<(), E> {
        events.emit(Event::PhaseStarted { phase: phase.to_owned(), total: None });
        if let Some(log) = &self.log {
            log.sync().map_err(RunError::from)?;
        }
        let mut staged = StagedDirectory::begin(path).map_err(RunError::from)?;
        write(&mut staged)?;
        staged.commit().map_err(RunError::from)?;
        events.emit(Event::PhaseFinished);
        let what = if what == "model" && is_adapter(path) { "adapter" } else { what };
        events.emit(Event::Saved { what: what.to_owned(), path: path.to_path_buf() });
        Ok(())
    }

    /// Gives a model the weights of the best evaluation. Those before the first step are in no checkpoint, nor are
    /// those of a run that was not asked for them until it was resumed.
    ///
    /// # Errors
    /// When the checkpoint cannot be read or a peer is lost.
    pub fn restore_best(
        &self,
        store: &mut impl ParameterStore,
        state: &TrainerState,
        events: &mut dyn EventSink,
    ) -> Result<(), RunError> {
        let Some(best) = state.best else {
            let warning = "no evaluation had a result, so no step is the best (`load_best_model_at_end`); \
                           the last weights are saved";
            events.emit(Event::Warning(warning.into()));
            return Ok(());
        };
        if best.step == state.step {
            return Ok(());
        }
        let found = on_first_rank(self.communicator, || -> Result<_, RunError> {
            let Some(directory) = self.folder.directory() else { return Ok(None) };
            let path = directory.checkpoints_path().join(format!("{CHECKPOINT}{}", best.step));
            Ok(Some(path).filter(|path| path.exists()))
        })?;
        let Some(path) = found else {
            let which = match best.step {
                0 => "the one before training".to_owned(),
                step => format!("that of step {step}"),
            };
            let warning = format!(
                "the best evaluation is {which}, whose weights were not kept; the last ones are saved"
            );
            events.emit(Event::Warning(warning));
            return Ok(());
        };
        checkpoint::restore_weights(store, &CommittedDirectory::open_verified(&path)?)?;
        events.emit(Event::Note(format!("the best weights are those of step {}", best.step)));
        Ok(())
    }
}

/// Whether the stop flag of any rank is set.
///
/// # Errors
/// When a peer is lost.
pub fn is_any_stopped(
    stop: &AtomicBool,
    communicator: &dyn Communicator,
) -> Result<bool, CommunicationError> {
    let mut n_stopped = [f64::from(u8::from(stop.load(Ordering::Relaxed)))];
    communicator.all_reduce_sum_f64(&mut n_stopped)?;
    Ok(n_stopped[0] > 0.0)
}

/// A rank that breaks a step off by itself would leave the others waiting; with peers the flag is looked at between
/// steps, by all at once.
pub fn break_if_alone(stop: &AtomicBool, world_size: usize) -> ControlFlow<()> {
    if world_size == 1 && stop.load(Ordering::Relaxed) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
