//! The work: load, train with evaluations and checkpoints, save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_cpu::CpuEncoder;
use truing_model::encoder::EncoderSaveOptions;
use truing_store::{CommittedDirectory, MetricsLog, RunDirectory, StagedDirectory, atomic, prune};
use truing_train::checkpoint::{self, TrainerState};
use truing_train::{EncoderTrainer, StepOutcome, TrainError};
use truing_types::{ClassifierEvaluation, Communicator, Event, EventSink, Seed};

use super::plan::StepSamples;
use super::{EncoderFindings, EncoderParts, EncoderPlan, EncoderSettings, EncoderWorkload, PackOf};
use crate::embed::load_encoder;
use crate::training::{CHECKPOINT, Start, Surroundings, TrainingOutcome, resume};
use crate::{Probe, StageError};

/// Before the name of every metric of an evaluation.
const EVALUATION_PREFIX: &str = "eval_";
const GIB: f64 = (1_u64 << 30) as f64;

/// Everything a run holds while it goes on.
struct Running<'a, W: EncoderWorkload> {
    plan: &'a EncoderPlan,
    parts: EncoderParts<'a>,
    workload: W,
    communicator: &'a dyn Communicator,
    probe: &'a dyn Probe,
    events: &'a mut dyn EventSink,
    stop: &'a AtomicBool,
    folder: RunDirectory,
    log: MetricsLog,
    trainer: EncoderTrainer<CpuEncoder>,
    state: TrainerState,
    /// What is saved beside the weights.
    files: Vec<(String, Vec<u8>)>,
    /// Step of the newest checkpoint.
    saved_step: u64,
    last_metrics: BTreeMap<String, f64>,
}

/// Runs the plan. `stop` is looked at after every pack: a set flag saves a checkpoint of the last whole step and ends
/// the run.
///
/// # Errors
/// When the folder cannot be used, numbers break (naming step and rows), or the disk fails.
pub(crate) fn run<W: EncoderWorkload>(
    plan: &EncoderPlan,
    parts: EncoderParts<'_>,
    workload: W,
    start: Start,
    surroundings: Surroundings<'_>,
) -> Result<TrainingOutcome, StageError> {
    let Surroundings { communicator, probe, events, stop } = surroundings;
    let settings = &plan.settings;
    let folder = match start {
        Start::Fresh => RunDirectory::create(&settings.output_dir, &settings.recipe, parts.record)?,
        Start::Resume => RunDirectory::open(&settings.output_dir)?,
    };
    let model_path = folder.path().join("model");
    if start == Start::Resume {
        let decisive = |text: &str| (settings.decisive_toml)(text, &folder.recipe_path());
        resume::check_same_recipe(&decisive(&folder.recipe()?)?, &decisive(&settings.recipe)?)?;
        if model_path.exists() {
            events.emit(Event::Note(format!("the run is finished: {} is saved", model_path.display())));
            return Ok(TrainingOutcome::Finished { model: model_path, metrics: BTreeMap::new() });
        }
    }
    let plan_json = serde_json::to_vec_pretty(&plan.to_json()).unwrap_or_default();
    atomic::write(&folder.path().join("plan.json"), &plan_json)?;
    let checkpoint = match start {
        Start::Fresh => None,
        Start::Resume => resume::find_checkpoint(plan.digest, &folder, events)?,
    };
    let seed = Seed(settings.seed);
    let engine = load_encoder(parts.model, &settings.trainable, plan.n_threads, seed, events)?;
    let mut trainer = EncoderTrainer::new(engine, plan.keep, settings.optimizer, plan.schedule)?;
    let mut state = TrainerState::start(settings.seed, plan.digest);
    state.is_evaluation_due = settings.eval_on_start;
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
    let evaluations = folder.path().join(ClassifierEvaluation::LOG_NAME);
    if evaluations.exists() {
        MetricsLog::truncate_after(&evaluations, state.step, |_| state.is_evaluation_due)?;
    }
    let mut files = parts.tokenizer.files();
    files.extend(workload.files());
    let running = Running {
        saved_step: state.step,
        last_metrics: BTreeMap::new(),
        files,
        plan,
        parts,
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

impl<W: EncoderWorkload> Running<'_, W> {
    fn train(mut self) -> Result<TrainingOutcome, StageError> {
        let plan = self.plan;
        if self.state.is_evaluation_due && self.evaluate()?.is_break() {
            return self.interrupted();
        }
        self.start_training_phase();
        while self.state.step < plan.n_steps {
            let started = self.probe.elapsed_secs();
            let samples = plan.packs_of(self.state.step + 1);
            let Some(outcome) = self.step(&samples)? else { return self.interrupted() };
            let secs = self.probe.elapsed_secs() - started;
            self.state.step = outcome.step;
            self.state.epoch = samples.epochs_done;
            self.state.n_tokens += outcome.measures.n_tokens;
            let note = format!("step {} of {}", outcome.step, plan.n_steps);
            self.events.emit(Event::Progress { done: outcome.step, note });
            let is_last = outcome.step == plan.n_steps;
            if is_last || outcome.step.is_multiple_of(plan.settings.logging_steps) {
                let n_samples: usize = samples.packs.iter().map(Vec::len).sum();
                self.log_step(&outcome, n_samples, secs)?;
            }
            let is_due = |every: Option<u64>| {
                every.map_or(samples.ends_epoch, |steps| outcome.step.is_multiple_of(steps))
            };
            if is_last || is_due(plan.settings.eval_steps) {
                if self.evaluate()?.is_break() {
                    return self.interrupted();
                }
                if !is_last && self.workload.eval().is_some() {
                    self.start_training_phase();
                }
            }
            if !is_last && is_due(plan.settings.save_steps) {
                self.save_checkpoint()?;
            }
        }
        self.events.emit(Event::PhaseFinished);
        self.finish()
    }

    fn start_training_phase(&mut self) {
        self.events.emit(Event::PhaseStarted { phase: "training".into(), total: Some(self.plan.n_steps) });
    }

    /// One optimiser step on this rank's samples; `None` when it was broken off by the stop flag.
    fn step(&mut self, samples: &StepSamples) -> Result<Option<StepOutcome>, StageError> {
        if self.is_stopped()? {
            return Ok(None);
        }
        let (rank, world_size) = (self.communicator.rank().0, self.communicator.world_size());
        let mine = samples.packs.iter().skip(rank).step_by(world_size);
        let (workload, data) = (&self.workload, self.workload.train());
        let packs = mine.map(|pack| workload.pack(data, pack)).collect::<Result<Vec<PackOf<W>>, _>>()?;
        let (objective, stop) = (workload.objective(), self.stop);
        let result = self
            .trainer
            .step(&packs, objective, self.communicator, &mut |_| break_if_alone(stop, world_size));
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

    fn log_step(&mut self, outcome: &StepOutcome, n_samples: usize, secs: f64) -> Result<(), StageError> {
        let mut values = outcome.measures.means.clone();
        values.extend(
            [
                ("loss", outcome.measures.loss),
                ("grad_norm", outcome.grad_norm),
                ("learning_rate", outcome.learning_rate),
                ("epoch", self.state.epoch),
                ("num_tokens", self.state.n_tokens as f64),
                ("tokens_per_second", outcome.measures.n_tokens as f64 / secs.max(1e-9)),
                ("samples_per_second", n_samples as f64 / secs.max(1e-9)),
                ("step_time", secs),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if let Some(bytes) = self.probe.peak_resident_bytes() {
            values.insert("peak_memory_gib".into(), bytes as f64 / GIB);
        }
        self.log(values)
    }

    fn log(&mut self, mut values: BTreeMap<String, f64>) -> Result<(), StageError> {
        // A mean of nothing, for instance of labels that no text of the step has.
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

    /// Measures on the samples to evaluate on; breaks when it was stopped.
    fn evaluate(&mut self) -> Result<ControlFlow<()>, StageError> {
        let Some(eval) = self.workload.eval() else {
            self.state.is_evaluation_due = false;
            return Ok(ControlFlow::Continue(()));
        };
        self.state.is_evaluation_due = true;
        let (rank, world_size) = (self.communicator.rank().0, self.communicator.world_size());
        let mine: Vec<_> = self.plan.eval_packs().into_iter().skip(rank).step_by(world_size).collect();
        let packs_of =
            |packs: &Vec<Vec<u32>>| packs.iter().map(|pack| self.workload.pack(eval, pack)).collect();
        let steps: Vec<Vec<PackOf<W>>> = mine.iter().map(packs_of).collect::<Result<_, _>>()?;
        let total = Some(steps.len() as u64);
        self.events.emit(Event::PhaseStarted { phase: "evaluating".into(), total });
        let (events, stop, objective) = (&mut self.events, self.stop, self.workload.objective());
        let mut outputs = Vec::new();
        let result = self.trainer.evaluate(&steps, objective, self.communicator, &mut |values| {
            outputs.push((mine[outputs.len()].concat(), values));
            events.emit(Event::Progress { done: outputs.len() as u64, note: String::new() });
            break_if_alone(stop, world_size)
        });
        let measures = match result {
            Ok(measures) => measures,
            Err(TrainError::BrokenOff) => return Ok(ControlFlow::Break(())),
            Err(error) => return Err(error.into()),
        };
        self.events.emit(Event::PhaseFinished);
        let EncoderFindings { metrics, evaluation } =
            self.workload.evaluation_findings(measures.loss, &outputs);
        let mut values = measures.means;
        values.insert("loss".into(), measures.loss);
        values.extend(metrics);
        self.log(
            values.iter().map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), *value)).collect(),
        )?;
        if let Some(evaluation) = evaluation.filter(|_| self.is_first_rank()) {
            let mut log = MetricsLog::open(&self.folder.path().join(ClassifierEvaluation::LOG_NAME))?;
            log.append(&ClassifierEvaluation { step: self.state.step, ..evaluation })?;
        }
        let is_best = self.state.note_evaluation(measures.loss);
        let keeps_best = self.settings().keep_best || self.settings().load_best_model_at_end;
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
            checkpoint::save_encoder(self.trainer.engine(), &self.state, &staged, &self.save_options())?;
            staged.commit()?;
            self.events.emit(Event::PhaseFinished);
            self.events.emit(Event::Saved { what: "checkpoint".into(), path });
            let best: Vec<u64> = self.state.best.iter().map(|best| best.step).collect();
            prune(&checkpoints, CHECKPOINT, self.plan.settings.save_total_limit, &best)?;
        }
        self.saved_step = self.state.step;
        self.communicator.barrier()?;
        Ok(())
    }

    fn save_options(&self) -> EncoderSaveOptions<'_> {
        EncoderSaveOptions {
            dtype: self.settings().save_dtype,
            original: self.parts.model,
            tokenizer_files: &self.files,
        }
    }

    fn interrupted(mut self) -> Result<TrainingOutcome, StageError> {
        self.events.emit(Event::PhaseFinished);
        self.save_checkpoint()?;
        Ok(TrainingOutcome::Interrupted { step: self.state.step })
    }

    fn finish(mut self) -> Result<TrainingOutcome, StageError> {
        let best = self.state.best.filter(|_| self.settings().load_best_model_at_end);
        if best.is_some_and(|best| best.step == 0) {
            let warning = "no evaluation was better than the one before training; the last weights are saved";
            self.events.emit(Event::Warning(warning.into()));
        } else if let Some(best) = best.filter(|best| best.step != self.state.step) {
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
            checkpoint::save_encoder_weights(self.trainer.engine(), staged.path(), &self.save_options())?;
            staged.commit()?;
            self.events.emit(Event::PhaseFinished);
            self.events.emit(Event::Saved { what: "model".into(), path: path.clone() });
        }
        self.communicator.barrier()?;
        Ok(TrainingOutcome::Finished { model: path, metrics: self.last_metrics })
    }

    fn settings(&self) -> &EncoderSettings {
        &self.plan.settings
    }

    fn is_first_rank(&self) -> bool {
        self.communicator.rank().0 == 0
    }
}

/// A rank that breaks a step off by itself would leave the others waiting.
fn break_if_alone(stop: &AtomicBool, world_size: usize) -> ControlFlow<()> {
    if world_size == 1 && stop.load(Ordering::Relaxed) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
