//! The work: load, train with evaluations and checkpoints, save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use truing_cpu::CpuEncoder;
use truing_eval::classifier::ClassifierEvaluation;
use truing_model::encoder::EncoderSaveOptions;
use truing_predict::load_encoder;
use truing_run::folder::{OpenedRun, RunOutline};
use truing_run::record::{EVALUATION_PREFIX, RunRecord, break_if_alone, is_any_stopped};
use truing_run::{Ended, Probe};
use truing_train::checkpoint::{self, TrainerState};
use truing_train::{EncoderTrainer, StepOutcome, TrainError};
use truing_types::{Communicator, Event, EventSink, Seed, all_gather_dealt, dealt};

use super::plan::StepSamples;
use super::{EncoderFindings, EncoderParts, EncoderPlan, EncoderSettings, EncoderWorkload, PackOf};
use crate::{RunContext, StageError, TrainedModel};

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
    record: RunRecord<'a>,
    trainer: EncoderTrainer<CpuEncoder>,
    state: TrainerState,
    /// What is saved beside the weights.
    files: Vec<(String, Vec<u8>)>,
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
    context: &mut RunContext<'_>,
) -> Result<Ended<TrainedModel>, StageError> {
    let (start, communicator, probe, stop) =
        (context.start, context.communicator, context.probe, context.stop);
    let events = &mut *context.events;
    let settings = &plan.settings;
    let outline = RunOutline {
        output_dir: &settings.output_dir,
        recipe: &settings.recipe,
        decisive_of: settings.decisive_of,
        inputs: parts.record,
        digest: plan.digest,
        plan: plan.to_json(),
        skipped: parts.skipped.iter().collect(),
    };
    let (folder, checkpoint) = match outline.open(start, communicator, events)? {
        OpenedRun::Finished(trained) => return Ok(Ended::Finished(trained)),
        OpenedRun::Open { folder, checkpoint } => (folder, checkpoint),
    };
    let seed = Seed(settings.seed);
    let engine = load_encoder(parts.model, &settings.trainable, plan.n_threads, seed, events)?;
    let mut trainer = EncoderTrainer::new(engine, plan.keep, settings.optimizer, plan.schedule)?;
    let mut state = TrainerState::start(settings.seed, plan.digest);
    state.is_evaluation_due = settings.eval_on_start;
    if let Some(directory) = checkpoint {
        state = checkpoint::restore(trainer.engine_mut(), &directory)?;
        trainer.resume_at(state.step);
        events.emit(Event::Note(format!("resuming after step {} of {}", state.step, plan.n_steps)));
    }
    let record = RunRecord::open(folder, &state, &[ClassifierEvaluation::LOG_NAME], communicator)?;
    let mut files = parts.tokenizer.files();
    files.extend(workload.files()?);
    let running =
        Running { files, plan, parts, workload, communicator, probe, events, stop, record, trainer, state };
    running.train()
}

impl<'a, W: EncoderWorkload> Running<'a, W> {
    fn train(mut self) -> Result<Ended<TrainedModel>, StageError> {
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

    /// One optimiser step, of which the trainer computes this rank's packs; `None` when it was broken off by the stop flag.
    fn step(&mut self, samples: &StepSamples) -> Result<Option<StepOutcome>, StageError> {
        if is_any_stopped(self.stop, self.communicator)? {
            return Ok(None);
        }
        let (workload, data, world_size) =
            (&self.workload, self.workload.train(), self.communicator.world_size());
        let packs = samples.packs.iter().map(|pack| workload.pack(data, pack));
        let packs = packs.collect::<Result<Vec<PackOf<W>>, _>>()?;
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

    fn log(&mut self, values: BTreeMap<String, f64>) -> Result<(), StageError> {
        Ok(self.record.log(self.state.step, values, &mut *self.events)?)
    }

    /// Measures on the samples to evaluate on; breaks when it was stopped.
    fn evaluate(&mut self) -> Result<ControlFlow<()>, StageError> {
        let Some(eval) = self.workload.eval() else {
            self.state.is_evaluation_due = false;
            return Ok(ControlFlow::Continue(()));
        };
        self.state.is_evaluation_due = true;
        let (all, world_size) = (self.plan.eval_packs(), self.communicator.world_size());
        let packs_of =
            |packs: &Vec<Vec<u32>>| packs.iter().map(|pack| self.workload.pack(eval, pack)).collect();
        let steps = dealt(all.len(), self.communicator).map(|step| packs_of(&all[step]));
        let steps: Vec<Vec<PackOf<W>>> = steps.collect::<Result<_, _>>()?;
        let total = Some(steps.len() as u64);
        self.events.emit(Event::PhaseStarted { phase: "evaluating".into(), total });
        let (events, stop, objective) = (&mut self.events, self.stop, self.workload.objective());
        let (workload, mut kept) = (&self.workload, Vec::new());
        let result = self.trainer.evaluate(&steps, objective, self.communicator, &mut |values| {
            kept.push(workload.kept(values));
            events.emit(Event::Progress { done: kept.len() as u64, note: String::new() });
            break_if_alone(stop, world_size)
        });
        let measures = match result {
            Ok(measures) => measures,
            Err(TrainError::BrokenOff) => return Ok(ControlFlow::Break(())),
            Err(error @ TrainError::NonFinite { .. }) => {
                self.note_non_finite_evaluation(&error);
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error.into()),
        };
        self.events.emit(Event::PhaseFinished);
        // Every rank finds the same, in all steps.
        let kept = all_gather_dealt(self.communicator, kept)?;
        let outputs: Vec<_> = all.iter().map(|packs| packs.concat()).zip(kept).collect();
        let EncoderFindings { metrics, evaluation } =
            self.workload.evaluation_findings(measures.loss, &outputs);
        let mut values = measures.means;
        values.insert("loss".into(), measures.loss);
        values.extend(metrics);
        self.log(
            values.iter().map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), *value)).collect(),
        )?;
        if let Some(evaluation) = evaluation {
            let evaluation = ClassifierEvaluation { step: self.state.step, ..evaluation };
            self.record.log_evaluation(ClassifierEvaluation::LOG_NAME, &evaluation)?;
        }
        let is_best = self.state.note_evaluation(measures.loss);
        let keeps_best = self.settings().keep_best || self.settings().load_best_model_at_end;
        if is_best && keeps_best && self.state.step > 0 {
            self.save_checkpoint()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// An evaluation whose loss is not finite is reported and is not the best; the steps so far are not lost to it. Where the
    /// weights are to blame, the next step ends the run.
    fn note_non_finite_evaluation(&mut self, error: &TrainError) {
        self.events.emit(Event::PhaseFinished);
        self.events.emit(Event::Warning(format!("{error}; this evaluation cannot be the best")));
        self.state.note_evaluation(f64::NAN);
    }

    fn save_checkpoint(&mut self) -> Result<(), StageError> {
        let Self { plan, parts, trainer, state, files, .. } = self;
        let settings = &plan.settings;
        self.record.save_checkpoint(state, settings.save_total_limit, &mut *self.events, |staged| {
            let options = save_options(settings, parts, files);
            Ok(checkpoint::save_encoder(trainer.engine(), state, staged, &options)?)
        })
    }

    fn interrupted(mut self) -> Result<Ended<TrainedModel>, StageError> {
        self.events.emit(Event::PhaseFinished);
        self.save_checkpoint()?;
        Ok(Ended::Interrupted { step: Some(self.state.step) })
    }

    fn finish(mut self) -> Result<Ended<TrainedModel>, StageError> {
        let settings = self.settings();
        if settings.load_best_model_at_end {
            self.record.restore_best(self.trainer.engine_mut(), &self.state, &mut *self.events)?;
        }
        let options = save_options(settings, &self.parts, &self.files);
        let engine = self.trainer.engine();
        let model = self.record.save_model(&mut *self.events, |staged| -> Result<(), StageError> {
            Ok(checkpoint::save_encoder_weights(engine, staged.path(), &options)?)
        })?;
        let nothing_learnt = self.record.nothing_learnt()?;
        if let Some(reason) = &nothing_learnt {
            self.events.emit(Event::Warning(reason.clone()));
        }
        Ok(Ended::Finished(self.record.end(model, nothing_learnt)?))
    }

    fn settings(&self) -> &'a EncoderSettings {
        &self.plan.settings
    }
}

fn save_options<'a>(
    settings: &EncoderSettings,
    parts: &EncoderParts<'a>,
    files: &'a [(String, Vec<u8>)],
) -> EncoderSaveOptions<'a> {
    EncoderSaveOptions { dtype: settings.save_dtype, original: parts.model, tokenizer_files: files }
}
