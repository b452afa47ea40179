//! The work: load, train with evaluations and checkpoints, save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use toml::Table;
use truing_cpu::CpuEngine;
use truing_model::SaveOptions;
use truing_store::{
    CommittedDirectory, MetricsLog, RunDirectory, StagedDirectory, atomic, latest_valid, prune,
};
use truing_train::checkpoint::{self, TrainerState};
use truing_train::{Measures, Sft, StepOutcome, TrainError, Trainer};
use truing_types::{Communicator, Event, EventSink, PackedBatch, Seed};

use super::{SftInputs, SftPlan};
use crate::{Probe, StageError, model};

const CHECKPOINT: &str = "checkpoint-";
/// Before the name of every metric of an evaluation.
const EVALUATION_PREFIX: &str = "eval_";
const GIB: f64 = (1_u64 << 30) as f64;

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In a folder that holds no run yet.
    Fresh,
    /// Where the newest good checkpoint of the folder's run stands.
    Resume,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum SftOutcome {
    /// All steps were taken and the model is saved.
    Finished {
        /// Its directory.
        model: PathBuf,
        /// The last line of metrics.
        metrics: BTreeMap<String, f64>,
    },
    /// The stop flag was seen; a resume goes on from `step`.
    Interrupted {
        /// Steps that are safe.
        step: u64,
    },
}

/// Everything a run holds while it goes on.
struct Running<'a> {
    plan: &'a SftPlan,
    inputs: &'a SftInputs,
    communicator: &'a dyn Communicator,
    probe: &'a dyn Probe,
    events: &'a mut dyn EventSink,
    stop: &'a AtomicBool,
    folder: RunDirectory,
    log: MetricsLog,
    trainer: Trainer<CpuEngine>,
    state: TrainerState,
    /// Step of the newest checkpoint.
    saved_step: u64,
    last_metrics: BTreeMap<String, f64>,
}

/// Runs the plan. `stop` is looked at after every pack: a set flag saves a checkpoint and ends the run.
///
/// # Errors
/// When the folder cannot be used, numbers break (naming step and rows), or the disk fails.
pub fn run(
    plan: &SftPlan,
    inputs: &SftInputs,
    start: Start,
    communicator: &dyn Communicator,
    probe: &dyn Probe,
    events: &mut dyn EventSink,
    stop: &AtomicBool,
) -> Result<SftOutcome, StageError> {
    let folder = match start {
        Start::Fresh => {
            RunDirectory::create(&plan.config.output_dir, &plan.config.to_toml(), &inputs.record)?
        }
        Start::Resume => RunDirectory::open(&plan.config.output_dir)?,
    };
    let model_path = folder.path().join("model");
    if start == Start::Resume {
        check_same_recipe(plan, &folder)?;
    }
    if start == Start::Resume && model_path.exists() {
        events.emit(Event::Note(format!("the run is finished: {} is saved", model_path.display())));
        return Ok(SftOutcome::Finished { model: model_path, metrics: BTreeMap::new() });
    }
    let plan_json = serde_json::to_vec_pretty(&plan.to_json()).unwrap_or_default();
    atomic::write(&folder.path().join("plan.json"), &plan_json)?;

    let checkpoint = match start {
        Start::Fresh => None,
        Start::Resume => find_checkpoint(plan, &folder, events)?,
    };
    let engine = load_engine(plan, inputs, events)?;
    let mut trainer = Trainer::new(engine, plan.memory.chosen.segments, plan.optimizer, plan.schedule)?;
    let mut state = TrainerState::start(plan.config.seed, plan.digest);
    state.is_evaluation_due = plan.config.eval_on_start;
    if let Some(directory) = checkpoint {
        state = checkpoint::restore(trainer.engine_mut(), &directory)?;
        trainer.resume_at(state.step);
        events.emit(Event::Note(format!("going on after step {} of {}", state.step, plan.n_steps)));
    }
    // An evaluation that is due may have been logged already by a process that ended before it was saved.
    let is_made_again = |values: &serde_json::Map<String, serde_json::Value>| {
        state.is_evaluation_due && values.keys().any(|name| name.starts_with(EVALUATION_PREFIX))
    };
    let (log, _) = MetricsLog::truncate_after(&folder.metrics_path(), state.step, is_made_again)?;
    let saved_step = state.step;
    let last_metrics = BTreeMap::new();
    let running = Running {
        plan,
        inputs,
        communicator,
        probe,
        events,
        stop,
        folder,
        log,
        trainer,
        state,
        saved_step,
        last_metrics,
    };
    running.train()
}

fn load_engine(
    plan: &SftPlan,
    inputs: &SftInputs,
    events: &mut dyn EventSink,
) -> Result<CpuEngine, StageError> {
    let n_tensors = inputs.model.spec.parameters().len() as u64;
    events.emit(Event::PhaseStarted { phase: "loading the model".into(), total: Some(n_tensors) });
    let seed = Seed(plan.config.seed);
    let on_tensor = &mut |done| events.emit(Event::Progress { done, note: String::new() });
    let engine = model::load_engine(&inputs.model, &plan.trainable, plan.n_threads, seed, on_tensor)?;
    events.emit(Event::PhaseFinished);
    Ok(engine)
}

/// The newest checkpoint that verifies, of a run that had the same inputs.
fn find_checkpoint(
    plan: &SftPlan,
    folder: &RunDirectory,
    events: &mut dyn EventSink,
) -> Result<Option<CommittedDirectory>, StageError> {
    let latest = latest_valid(&folder.checkpoints_path(), CHECKPOINT)?;
    for damaged in &latest.damaged {
        let (path, reason) = (damaged.path.display(), &damaged.reason);
        events.emit(Event::Warning(format!("{path} is damaged and is passed over: {reason}")));
    }
    let Some((_, directory)) = latest.found else {
        let none =
            if latest.damaged.is_empty() { "no checkpoint yet" } else { "no checkpoint that is whole" };
        events.emit(Event::Note(format!("the run has {none} and begins anew")));
        return Ok(None);
    };
    if TrainerState::read(&directory)?.recipe_digest != plan.digest {
        return Err(StageError::InputsChanged { path: folder.recipe_path() });
    }
    Ok(Some(directory))
}

fn check_same_recipe(plan: &SftPlan, folder: &RunDirectory) -> Result<(), StageError> {
    let path = folder.recipe_path();
    let before: super::SftConfig = crate::recipe::parse(&folder.recipe()?, &path, &[])?;
    let [before, now] = [before.decisive_toml(), plan.config.decisive_toml()]
        .map(|text| toml::from_str::<Table>(&text).unwrap_or_default());
    let all_keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
    let keys: Vec<String> = all_keys.filter(|key| before.get(*key) != now.get(*key)).cloned().collect();
    if keys.is_empty() { Ok(()) } else { Err(StageError::RecipeChanged { keys }) }
}

impl Running<'_> {
    fn train(mut self) -> Result<SftOutcome, StageError> {
        let plan = self.plan;
        if self.state.is_evaluation_due && self.evaluate()?.is_break() {
            return self.interrupted();
        }
        self.start_training_phase();
        let mut n_done = 0;
        while self.state.step < plan.n_steps {
            let started = self.probe.elapsed_secs();
            let Some(outcome) = self.step(&mut n_done)? else { return self.interrupted() };
            let secs = self.probe.elapsed_secs() - started;
            let step_packs = plan.packs_of(outcome.step);
            self.state.step = outcome.step;
            self.state.epoch = step_packs.epochs_done;
            self.state.n_tokens += outcome.measures.n_tokens;
            let is_last = outcome.step == plan.n_steps;
            if is_last || outcome.step.is_multiple_of(plan.config.logging_steps) {
                self.log_step(&outcome, step_packs.packs.len(), secs)?;
            }
            let is_due = |every: Option<u64>| {
                every.map_or(step_packs.ends_epoch, |steps| outcome.step.is_multiple_of(steps))
            };
            if is_last || is_due(plan.config.eval_steps) {
                if self.evaluate()?.is_break() {
                    return self.interrupted();
                }
                if !is_last && !plan.eval_packs.is_empty() {
                    self.start_training_phase();
                    n_done = 0;
                }
            }
            if !is_last && is_due(plan.config.save_steps) {
                self.save_checkpoint()?;
            }
        }
        self.events.emit(Event::PhaseFinished);
        self.finish()
    }

    fn start_training_phase(&mut self) {
        let total = self.plan.tokens_from(self.state.step + 1, &self.inputs.train);
        self.events.emit(Event::PhaseStarted { phase: "training".into(), total: Some(total) });
    }

    /// One optimiser step on this rank's packs; `None` when it was broken off by the stop flag.
    fn step(&mut self, n_done: &mut u64) -> Result<Option<StepOutcome>, StageError> {
        let plan = self.plan;
        let step = self.state.step + 1;
        if self.is_stopped()? {
            return Ok(None);
        }
        let (rank, world_size) = (self.communicator.rank().0, self.communicator.world_size());
        let mine = plan.packs_of(step).packs.iter().skip(rank).step_by(world_size);
        let packs: Vec<PackedBatch> =
            mine.map(|samples| self.inputs.train.batch(samples)).collect::<Result<_, _>>()?;
        let (events, stop) = (&mut self.events, self.stop);
        let result = self.trainer.step(&packs, &Sft, self.communicator, &mut |pack| {
            *n_done += (pack.n_tokens() * world_size) as u64;
            let note = format!("step {step} of {}", plan.n_steps);
            events.emit(Event::Progress { done: *n_done, note });
            break_if_alone(stop, world_size)
        });
        match result {
            Ok(outcome) => Ok(Some(outcome)),
            Err(TrainError::BrokenOff) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether any rank was told to stop.
    fn is_stopped(&self) -> Result<bool, StageError> {
        let mut n_stopped = [f64::from(u8::from(self.stop.load(Ordering::Relaxed)))];
        self.communicator.all_reduce_sum_f64(&mut n_stopped)?;
        Ok(n_stopped[0] > 0.0)
    }

    fn log_step(&mut self, outcome: &StepOutcome, n_packs: usize, secs: f64) -> Result<(), StageError> {
        let n_tokens = outcome.measures.n_tokens as f64;
        let allocated = n_packs as f64 * f64::from(self.plan.config.max_length);
        let mut values: BTreeMap<String, f64> =
            outcome.measures.means.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        values.extend(
            [
                ("grad_norm", outcome.grad_norm),
                ("learning_rate", outcome.learning_rate),
                ("epoch", self.state.epoch),
                ("num_tokens", self.state.n_tokens as f64),
                ("tokens_per_second", n_tokens / secs.max(1e-9)),
                ("utilisation", n_tokens / allocated),
                ("step_time", secs),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if let Some(bytes) = self.probe.peak_resident_bytes() {
            values.insert("peak_memory_gib".into(), bytes as f64 / GIB);
        }
        self.log(values)
    }

    fn log(&mut self, values: BTreeMap<String, f64>) -> Result<(), StageError> {
        let step = self.state.step;
        if self.is_first_rank() {
            let mut record = serde_json::Map::new();
            record.insert("step".into(), step.into());
            record.extend(values.iter().map(|(name, &value)| (name.clone(), value.into())));
            self.log.append(&record)?;
        }
        self.last_metrics.extend(values.clone());
        self.events.emit(Event::Metrics { step, values });
        Ok(())
    }

    /// Measures on the evaluation packs; breaks when it was stopped.
    fn evaluate(&mut self) -> Result<ControlFlow<()>, StageError> {
        if self.plan.eval_packs.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        self.state.is_evaluation_due = true;
        let (rank, world_size) = (self.communicator.rank().0, self.communicator.world_size());
        let all = &self.plan.eval_packs;
        let mine: Vec<PackedBatch> = all.iter().skip(rank).step_by(world_size).cloned().collect();
        self.events.emit(Event::PhaseStarted { phase: "evaluating".into(), total: Some(mine.len() as u64) });
        let (events, stop) = (&mut self.events, self.stop);
        let mut done = 0;
        let result = self.trainer.evaluate(&mine, &Sft, self.communicator, &mut |_| {
            done += 1;
            events.emit(Event::Progress { done, note: String::new() });
            break_if_alone(stop, world_size)
        });
        let measures: Measures = match result {
            Ok(measures) => measures,
            Err(TrainError::BrokenOff) => return Ok(ControlFlow::Break(())),
            Err(error) => return Err(error.into()),
        };
        self.events.emit(Event::PhaseFinished);
        let named = measures.means.iter().map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), *value));
        self.log(named.collect())?;
        let is_best = self.state.note_evaluation(measures.loss);
        let keeps_best = self.plan.config.keep_best || self.plan.config.load_best_model_at_end;
        if is_best && keeps_best && self.state.step > 0 {
            self.save_checkpoint()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn save_checkpoint(&mut self) -> Result<(), StageError> {
        if self.saved_step == self.state.step {
            return Ok(());
        }
        if self.is_first_rank() {
            let checkpoints = self.folder.checkpoints_path();
            let path = checkpoints.join(format!("{CHECKPOINT}{}", self.state.step));
            self.events.emit(Event::PhaseStarted { phase: "saving a checkpoint".into(), total: None });
            self.log.sync()?;
            let staged = StagedDirectory::begin(&path)?;
            let tokenizer_files = self.inputs.renderer.tokenizer().files();
            let options = model::save_options(&self.inputs.model, &tokenizer_files);
            let base_model = Some(self.plan.config.model_name_or_path.as_str());
            checkpoint::save(self.trainer.engine(), &self.state, &staged, &options, base_model)?;
            staged.commit()?;
            self.events.emit(Event::PhaseFinished);
            self.events.emit(Event::Saved { what: "checkpoint".into(), path });
            let best: Vec<u64> = self.state.best.iter().map(|best| best.step).collect();
            prune(&checkpoints, CHECKPOINT, self.plan.config.save_total_limit, &best)?;
        }
        self.saved_step = self.state.step;
        self.communicator.barrier()?;
        Ok(())
    }

    fn interrupted(mut self) -> Result<SftOutcome, StageError> {
        self.events.emit(Event::PhaseFinished);
        self.save_checkpoint()?;
        Ok(SftOutcome::Interrupted { step: self.state.step })
    }

    fn finish(mut self) -> Result<SftOutcome, StageError> {
        if let Some(best) = self.state.best
            && self.plan.config.load_best_model_at_end
            && best.step != self.state.step
        {
            let path = self.folder.checkpoints_path().join(format!("{CHECKPOINT}{}", best.step));
            let directory = CommittedDirectory::open_verified(&path)?;
            checkpoint::restore_weights(self.trainer.engine_mut(), &directory)?;
            self.events.emit(Event::Note(format!("the best weights are those of step {}", best.step)));
        }
        let path = self.folder.path().join("model");
        if self.is_first_rank() {
            self.events.emit(Event::PhaseStarted { phase: "saving the model".into(), total: None });
            self.log.sync()?;
            let staged = StagedDirectory::begin(&path)?;
            let tokenizer_files = self.inputs.renderer.tokenizer().files();
            let config = &self.plan.config;
            let options = SaveOptions {
                dtype: config.save_dtype,
                ..model::save_options(&self.inputs.model, &tokenizer_files)
            };
            let (engine, base_model) = (self.trainer.engine(), &config.model_name_or_path);
            model::save_model(engine, staged.path(), &options, base_model, config.merge_adapter)?;
            staged.commit()?;
            self.events.emit(Event::PhaseFinished);
            self.events.emit(Event::Saved { what: "model".into(), path: path.clone() });
        }
        self.communicator.barrier()?;
        Ok(SftOutcome::Finished { model: path, metrics: self.last_metrics })
    }

    fn is_first_rank(&self) -> bool {
        self.communicator.rank().0 == 0
    }
}

/// A rank that breaks a step off by itself would leave the others waiting; with peers the flag is looked at
/// between steps, by all at once.
fn break_if_alone(stop: &AtomicBool, world_size: usize) -> ControlFlow<()> {
    if world_size == 1 && stop.load(Ordering::Relaxed) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
