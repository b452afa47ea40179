//! The work: load, train with evaluations and checkpoints, save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_cpu::CpuEngine;
use truing_model::SaveOptions;
use truing_store::{CommittedDirectory, MetricsLog, RunDirectory, StagedDirectory, atomic, prune};
use truing_train::checkpoint::{self, TrainerState};
use truing_train::{Measures, StepOutcome, TrainError, Trainer};
use truing_types::{
    ClassifierEvaluation, Communicator, Event, EventSink, RewardDiagnostics, RewardEvaluation,
};

use super::resume::{check_same_recipe, find_checkpoint, load_engine};
use super::{
    DataOf, EvaluationFindings, PackOf, Side, TrainingConfig, TrainingInputs, TrainingPlan, Workload,
};
use crate::{Probe, StageError, model};

/// Before the number of every checkpoint's folder.
pub(crate) const CHECKPOINT: &str = "checkpoint-";
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
pub enum TrainingOutcome {
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

impl TrainingOutcome {
    /// The saved model, where the run was finished.
    #[must_use]
    pub fn into_model(self) -> Option<PathBuf> {
        match self {
            Self::Finished { model, .. } => Some(model),
            Self::Interrupted { .. } => None,
        }
    }
}

/// Everything a run holds while it goes on.
struct Running<'a, W: Workload> {
    plan: &'a TrainingPlan,
    inputs: &'a W::Inputs,
    workload: W,
    /// Tokens of each training sample.
    lengths: Vec<u32>,
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
pub(crate) fn run<W: Workload>(
    plan: &TrainingPlan,
    inputs: &W::Inputs,
    mut workload: W,
    start: Start,
    surroundings: Surroundings<'_>,
) -> Result<TrainingOutcome, StageError> {
    let Surroundings { communicator, probe, events, stop } = surroundings;
    let config = &plan.config;
    let folder = match start {
        Start::Fresh => RunDirectory::create(&config.output_dir, &config.to_toml(), inputs.record())?,
        Start::Resume => RunDirectory::open(&config.output_dir)?,
    };
    let model_path = folder.path().join("model");
    if start == Start::Resume {
        let before: TrainingConfig = crate::recipe::parse(&folder.recipe()?, &folder.recipe_path(), &[])?;
        check_same_recipe(&before.decisive_toml(), &config.decisive_toml())?;
    }
    if start == Start::Resume && model_path.exists() {
        events.emit(Event::Note(format!("the run is finished: {} is saved", model_path.display())));
        return Ok(TrainingOutcome::Finished { model: model_path, metrics: BTreeMap::new() });
    }
    let plan_json = serde_json::to_vec_pretty(&plan.to_json()).unwrap_or_default();
    atomic::write(&folder.path().join("plan.json"), &plan_json)?;

    let checkpoint = match start {
        Start::Fresh => None,
        Start::Resume => find_checkpoint(plan.digest, &folder, events)?,
    };
    let mut engine = load_engine(
        inputs.model(),
        &plan.trainable,
        plan.n_threads,
        config.seed,
        "loading the model",
        events,
    )?;
    if workload.begin(&mut engine, inputs, folder.path(), events, stop)?.is_break() {
        return Ok(TrainingOutcome::Interrupted { step: 0 });
    }
    let mut trainer = Trainer::new(engine, plan.memory.chosen.segments, plan.optimizer, plan.schedule)?;
    let mut state = TrainerState::start(config.seed, plan.digest);
    state.is_evaluation_due = config.eval_on_start;
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
    for name in [RewardDiagnostics::FILE_NAME, ClassifierEvaluation::LOG_NAME] {
        let evaluations = folder.path().join(name);
        if evaluations.exists() {
            MetricsLog::truncate_after(&evaluations, state.step, |_| state.is_evaluation_due)?;
        }
    }
    let running = Running {
        saved_step: state.step,
        last_metrics: BTreeMap::new(),
        lengths: super::TrainingData::lengths(inputs.train()),
        plan,
        inputs,
        workload,
        communicator,
        probe,
        events,
        stop,
        folder,
        log,
        trainer,
        state,
    };
    running.train()
}

/// What a run works with besides its plan.
pub(crate) struct Surroundings<'a> {
    pub(crate) communicator: &'a dyn Communicator,
    pub(crate) probe: &'a dyn Probe,
    pub(crate) events: &'a mut dyn EventSink,
    pub(crate) stop: &'a AtomicBool,
}

impl<W: Workload> Running<'_, W> {
    fn train(mut self) -> Result<TrainingOutcome, StageError> {
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
                self.log_step(&outcome, step_packs.packs, secs)?;
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
        let total = self.plan.tokens_from(self.state.step + 1, &self.lengths);
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
        let mine: Vec<&Vec<u32>> = plan.packs_of(step).packs.iter().skip(rank).step_by(world_size).collect();
        self.prepare(Side::Train, &mine)?;
        let packs = self.packs(Side::Train, &mine)?;
        let (events, stop) = (&mut self.events, self.stop);
        let objective = self.workload.objective();
        let result = self.trainer.step(&packs, objective, self.communicator, &mut |pack| {
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

    fn data(&self, side: Side) -> Option<&DataOf<W>> {
        match side {
            Side::Train => Some(self.inputs.train()),
            Side::Evaluation => self.inputs.eval(),
        }
    }

    fn packs(&self, side: Side, samples: &[&Vec<u32>]) -> Result<Vec<PackOf<W>>, StageError> {
        let Some(data) = self.data(side) else { return Ok(Vec::new()) };
        let packs = samples.iter().map(|samples| self.workload.pack(data, side, samples));
        Ok(packs.collect::<Result<_, _>>()?)
    }

    /// Lets the workload look at the packs before they are learnt from or measured.
    fn prepare(&mut self, side: Side, samples: &[&Vec<u32>]) -> Result<(), StageError> {
        let data = match side {
            Side::Train => self.inputs.train(),
            Side::Evaluation => match self.inputs.eval() {
                Some(data) => data,
                None => return Ok(()),
            },
        };
        self.workload.prepare(self.trainer.engine_mut(), data, side, samples, self.communicator)
    }

    /// Whether any rank was told to stop.
    fn is_stopped(&self) -> Result<bool, StageError> {
        let mut n_stopped = [f64::from(u8::from(self.stop.load(Ordering::Relaxed)))];
        self.communicator.all_reduce_sum_f64(&mut n_stopped)?;
        Ok(n_stopped[0] > 0.0)
    }

    fn log_step(&mut self, outcome: &StepOutcome, packs: &[Vec<u32>], secs: f64) -> Result<(), StageError> {
        let n_tokens = outcome.measures.n_tokens as f64;
        let n_samples: usize = packs.iter().map(Vec::len).sum();
        let allocated = packs.len() as f64 * f64::from(self.plan.config.max_length);
        let mut values = outcome.measures.means.clone();
        values.extend(
            [
                ("loss", outcome.measures.loss),
                ("grad_norm", outcome.grad_norm),
                ("learning_rate", outcome.learning_rate),
                ("epoch", self.state.epoch),
                ("num_tokens", self.state.n_tokens as f64),
                ("tokens_per_second", n_tokens / secs.max(1e-9)),
                ("samples_per_second", n_samples as f64 / secs.max(1e-9)),
                ("utilisation", n_tokens / allocated),
                ("step_time", secs),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if let Some(bytes) = self.probe.peak_resident_bytes() {
            values.insert("peak_memory_gib".into(), bytes as f64 / GIB);
        }
        self.workload.derive_metrics("", &mut values);
        self.log(values)
    }

    fn log(&mut self, mut values: BTreeMap<String, f64>) -> Result<(), StageError> {
        // A mean of nothing, for instance of scores where no response has one.
        values.retain(|_, value| value.is_finite());
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
        let mine: Vec<&Vec<u32>> = all.iter().skip(rank).step_by(world_size).collect();
        self.events.emit(Event::PhaseStarted { phase: "evaluating".into(), total: Some(mine.len() as u64) });
        self.prepare(Side::Evaluation, &mine)?;
        let packs = self.packs(Side::Evaluation, &mine)?;
        let (events, stop) = (&mut self.events, self.stop);
        let mut outputs = Vec::new();
        let objective = self.workload.objective();
        let result = self.trainer.evaluate(&packs, objective, self.communicator, &mut |_, output| {
            outputs.push(output.clone());
            events.emit(Event::Progress { done: outputs.len() as u64, note: String::new() });
            break_if_alone(stop, world_size)
        });
        let measures: Measures = match result {
            Ok(measures) => measures,
            Err(TrainError::BrokenOff) => return Ok(ControlFlow::Break(())),
            Err(error) => return Err(error.into()),
        };
        self.events.emit(Event::PhaseFinished);
        let mut values: BTreeMap<String, f64> = measures
            .means
            .iter()
            .map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), *value))
            .collect();
        values.insert(format!("{EVALUATION_PREFIX}loss"), measures.loss);
        self.workload.derive_metrics(EVALUATION_PREFIX, &mut values);
        if let Some(eval) = self.inputs.eval() {
            let answered = mine.iter().map(|samples| &samples[..]).zip(outputs).collect();
            let EvaluationFindings { metrics, diagnostics, evaluation } =
                self.workload.evaluation_findings(eval, measures.loss, answered);
            values.extend(
                metrics.into_iter().map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), value)),
            );
            if let Some(evaluation) = evaluation.filter(|_| self.is_first_rank()) {
                let mut log = MetricsLog::open(&self.folder.path().join(ClassifierEvaluation::LOG_NAME))?;
                log.append(&ClassifierEvaluation { step: self.state.step, ..evaluation })?;
            }
            if let Some(diagnostics) = diagnostics.filter(|_| self.is_first_rank()) {
                let mut log = MetricsLog::open(&self.folder.path().join(RewardDiagnostics::FILE_NAME))?;
                log.append(&RewardEvaluation { step: self.state.step, diagnostics })?;
                log.sync()?;
            }
        }
        self.log(values)?;
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
            let tokenizer_files = self.files_beside_weights();
            let output_names = self.workload.output_names();
            let options = SaveOptions {
                output_names: &output_names,
                ..model::save_options(self.inputs.model(), &tokenizer_files)
            };
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

    fn interrupted(mut self) -> Result<TrainingOutcome, StageError> {
        self.events.emit(Event::PhaseFinished);
        self.save_checkpoint()?;
        Ok(TrainingOutcome::Interrupted { step: self.state.step })
    }

    fn finish(mut self) -> Result<TrainingOutcome, StageError> {
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
            let tokenizer_files = self.files_beside_weights();
            let (config, output_names) = (&self.plan.config, self.workload.output_names());
            let options = SaveOptions {
                dtype: config.save_dtype,
                output_names: &output_names,
                ..model::save_options(self.inputs.model(), &tokenizer_files)
            };
            let (engine, base_model) = (self.trainer.engine(), &config.model_name_or_path);
            model::save_model(engine, staged.path(), &options, base_model, config.merge_adapter)?;
            staged.commit()?;
            self.events.emit(Event::PhaseFinished);
            self.events.emit(Event::Saved { what: "model".into(), path: path.clone() });
        }
        self.communicator.barrier()?;
        Ok(TrainingOutcome::Finished { model: path, metrics: self.last_metrics })
    }

    fn files_beside_weights(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.inputs.renderer().tokenizer().files();
        files.extend(self.workload.files());
        files
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
