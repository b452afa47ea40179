//! The work: load, train with evaluations and checkpoints, save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use truing_eval::classifier::ClassifierEvaluation;
use truing_eval::held_out::HeldOutScores;
use truing_eval::reward::{RewardDiagnostics, RewardEvaluation};
use truing_model::{Engine, EngineOptions};
use truing_run::folder::{OpenedRun, RunOutline};
use truing_run::ranks::gather_dealt;
use truing_run::record::{EVALUATION_PREFIX, RunRecord, break_if_alone, is_any_stopped};
use truing_run::{Ended, Probe};
use truing_train::checkpoint::{self, TrainerState};
use truing_train::{Measures, Objective as _, StepOutcome, TrainError, Trainer, WeightedSum};
use truing_types::{Event, EventSink, Groups, Seed, all_gather_dealt, dealt};

use super::held_out::{ItemShare, losses_of_items, share_of_step};
use super::model::Saving;
use super::{
    ComingPacks, EvaluationFindings, PackOf, RunPlan, RunSettings, RunStart, Split, TrainingInputs, Workload,
};
use crate::{RunContext, StageError, TrainedModel};

const GIB: f64 = (1_u64 << 30) as f64;

/// Everything that a run holds.
struct Running<'a, E: Engine, P, W: Workload<E>> {
    plan: &'a P,
    settings: RunSettings<'a>,
    inputs: &'a W::Inputs,
    workload: W,
    /// Tokens of each training sample.
    lengths: Vec<u32>,
    /// Steps of an evaluation, each as packs.
    eval_steps: Vec<Vec<Vec<u32>>>,
    /// All ranks; those with other packs (one of each sequence group); those with other rows of the same packs.
    groups: &'a Groups,
    probe: &'a dyn Probe,
    events: &'a mut dyn EventSink,
    stop: &'a AtomicBool,
    record: RunRecord<'a>,
    trainer: Trainer<E>,
    state: TrainerState,
    saving: Saving<'a>,
}

/// Runs the plan. `stop` is looked at after every pack: a set flag saves a checkpoint of the last whole step and ends
/// the run.
///
/// # Errors
/// When the folder cannot be used, numbers are not finite (naming step and rows), or the disk fails.
pub(crate) fn run<E: Engine, P: RunPlan, W: Workload<E>>(
    plan: &P,
    inputs: &W::Inputs,
    mut workload: W,
    context: &mut RunContext<'_>,
) -> Result<Ended<TrainedModel>, StageError> {
    let (start, probe, stop) = (context.start, context.probe, context.stop);
    let settings = plan.settings();
    let groups = &settings.resources.groups(context.groups)?;
    let world = &*groups.world;
    let events = &mut *context.events;
    let outline = RunOutline {
        output_dir: settings.output_dir,
        recipe: &settings.recipe,
        decisive_of: settings.decisive_of,
        inputs: inputs.record(),
        digest: settings.digest,
        n_steps: plan.n_steps(),
        schedule: settings.schedule_settings,
        updates_per_step: 1,
        plan: plan.to_json(),
        skipped: inputs.skipped(),
        disk: settings.disk,
    };
    let (folder, checkpoint) = match outline.open(start, world, events)? {
        OpenedRun::Finished(trained) => return Ok(Ended::Finished(trained)),
        OpenedRun::Open { folder, checkpoint } => (folder, checkpoint),
    };
    let options = EngineOptions {
        zero_stage: settings.resources.zero_stage,
        ..EngineOptions::with_threads(settings.n_threads, Seed(settings.seed))
    };
    let mut engine: E = inputs.model().load(settings.trainable, &options, groups, events)?;
    let run_start = RunStart { folder: folder.path(), groups, n_threads: settings.n_threads, events, stop };
    if workload.begin(&mut engine, inputs, run_start)?.is_break() {
        return Ok(Ended::Interrupted { step: Some(0) });
    }
    let mut trainer = Trainer::new(engine, settings.segments, settings.optimizer, settings.schedule)?
        .dividing_packs(groups.sequence.world_size() > 1);
    let mut state = TrainerState::start(settings.seed, settings.digest);
    state.is_evaluation_due = settings.evaluation.eval_on_start;
    if let Some(directory) = checkpoint {
        state = checkpoint::restore(trainer.engine_mut(), &directory)?;
        trainer.resume_at(state.step);
        events.emit(Event::Note(format!("resuming after step {} of {}", state.step, plan.n_steps())));
    }
    let evaluations =
        [RewardDiagnostics::FILE_NAME, ClassifierEvaluation::LOG_NAME, HeldOutScores::FILE_NAME];
    let record = RunRecord::open(folder, &state, &evaluations, world)?;
    let saving = Saving {
        model: inputs.model(),
        name: settings.model_name,
        files: workload.files()?,
        output_names: workload.output_names(),
    };
    let running = Running {
        lengths: super::TrainingData::lengths(inputs.train()),
        eval_steps: match inputs.eval().is_some() && settings.evaluation.is_on() {
            true => plan.eval_steps(),
            false => Vec::new(),
        },
        plan,
        settings,
        inputs,
        workload,
        groups,
        probe,
        events,
        stop,
        record,
        trainer,
        state,
        saving,
    };
    running.train()
}

impl<E: Engine, P: RunPlan, W: Workload<E>> Running<'_, E, P, W> {
    fn train(mut self) -> Result<Ended<TrainedModel>, StageError> {
        let plan = self.plan;
        if self.state.is_evaluation_due {
            let evaluated = self.evaluate();
            if self.saved_without_teacher(evaluated)?.is_break() {
                return self.interrupted();
            }
        }
        if self.state.step > 0 {
            // Progress of a resumed run is relative to the whole run. The same phase starts again below with the rest.
            self.start_training_phase(1);
        }
        self.start_training_phase(self.state.step + 1);
        // Tokens of this phase; of finished steps as planned, since completions may be shorter than the plan assumes.
        let (mut n_done, mut n_planned) = (0, 0);
        while self.state.step < plan.n_steps() {
            let started = self.probe.elapsed_secs();
            let stepped = self.step(&mut n_done);
            let Some(outcome) = self.saved_without_teacher(stepped)? else { return self.interrupted() };
            let secs = self.probe.elapsed_secs() - started;
            let step_packs = plan.packs_of(outcome.step);
            let samples = step_packs.packs.iter().flatten();
            n_planned += samples.map(|&sample| u64::from(self.lengths[sample as usize])).sum::<u64>();
            n_done = n_planned;
            self.state.step = outcome.step;
            self.state.epoch = step_packs.epochs_done;
            self.state.n_tokens += outcome.measures.n_tokens;
            self.state.had_gradient |= outcome.grad_norm != 0.0;
            let is_last = outcome.step == plan.n_steps();
            if is_last || outcome.step.is_multiple_of(self.settings.logging_steps) {
                self.log_step(&outcome, &step_packs.packs, secs)?;
            }
            let is_due = |every: Option<u64>| {
                every.map_or(step_packs.ends_epoch, |steps| outcome.step.is_multiple_of(steps))
            };
            if is_last || is_due(self.settings.evaluation.eval_steps) {
                let evaluated = self.evaluate();
                if self.saved_without_teacher(evaluated)?.is_break() {
                    return self.interrupted();
                }
                if !is_last && !self.eval_steps.is_empty() {
                    self.start_training_phase(self.state.step + 1);
                    (n_done, n_planned) = (0, 0);
                }
            }
            if !is_last && is_due(self.settings.checkpoint.save_steps) {
                self.save_checkpoint()?;
            }
        }
        self.events.emit(Event::PhaseFinished);
        self.finish()
    }

    /// Saves a checkpoint where a teacher on a server has failed, so that the steps so far are not lost to it.
    fn saved_without_teacher<T>(&mut self, result: Result<T, StageError>) -> Result<T, StageError> {
        if matches!(result, Err(StageError::Teacher(_))) {
            self.save_checkpoint()?;
        }
        result
    }

    /// Starts the phase of training from a step (counted from 1) to the end of the run.
    fn start_training_phase(&mut self, step: u64) {
        let total = self.plan.tokens_from(step, &self.lengths);
        self.events.emit(Event::PhaseStarted { phase: "training".into(), total: Some(total) });
    }

    /// One optimiser step on this rank's packs; `None` if it was interrupted by the stop flag.
    fn step(&mut self, n_done: &mut u64) -> Result<Option<StepOutcome>, StageError> {
        let plan = self.plan;
        let step = self.state.step + 1;
        if is_any_stopped(self.stop, &*self.groups.world)? {
            return Ok(None);
        }
        let data = &*self.groups.data;
        let (n_shares, n_ranks) = (data.world_size(), self.groups.world.world_size());
        let all = plan.packs_of(step).packs;
        let mine: Vec<&Vec<u32>> = dealt(all.len(), data).map(|pack_idx| &all[pack_idx]).collect();
        if self.prepare(Split::Train, &mine)?.is_break() {
            return Ok(None);
        }
        // Where the loss couples the packs of a step, every rank knows all of them.
        let known = if self.workload.objective().couples_packs() { all.iter().collect() } else { mine };
        let packs = self.packs(Split::Train, &known)?;
        let (events, stop) = (&mut self.events, self.stop);
        let objective = self.workload.objective();
        let result = self.trainer.step(&packs, objective, data, &mut |pack| {
            *n_done += (pack.n_tokens() * n_shares) as u64;
            let note = format!("step {step} of {}", plan.n_steps());
            events.emit(Event::Progress { done: *n_done, note });
            break_if_alone(stop, n_ranks)
        });
        match result {
            Ok(outcome) => Ok(Some(outcome)),
            Err(TrainError::BrokenOff) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn packs(&mut self, split: Split, samples: &[&Vec<u32>]) -> Result<Vec<PackOf<E, W>>, StageError> {
        let inputs = self.inputs;
        let data = match split {
            Split::Train => Some(inputs.train()),
            Split::Evaluation => inputs.eval(),
        };
        let Some(data) = data else { return Ok(Vec::new()) };
        let packs = samples.iter().map(|samples| self.workload.pack(data, split, samples));
        Ok(packs.collect::<Result<_, _>>()?)
    }

    /// Lets the workload prepare the packs that are trained or evaluated on next; breaks when it was stopped.
    fn prepare(&mut self, split: Split, packs: &[&Vec<u32>]) -> Result<ControlFlow<()>, StageError> {
        let (data, step) = match (split, self.inputs.eval()) {
            (Split::Train, _) => (self.inputs.train(), self.state.step + 1),
            (Split::Evaluation, Some(data)) => (data, self.state.step),
            (Split::Evaluation, None) => return Ok(ControlFlow::Continue(())),
        };
        let coming = ComingPacks {
            step,
            split,
            packs,
            groups: self.groups,
            events: &mut *self.events,
            stop: self.stop,
        };
        self.workload.prepare(self.trainer.engine_mut(), data, coming)
    }

    fn log_step(&mut self, outcome: &StepOutcome, packs: &[Vec<u32>], secs: f64) -> Result<(), StageError> {
        let n_tokens = outcome.measures.n_tokens as f64;
        let n_samples: usize = packs.iter().map(Vec::len).sum();
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
                ("step_time", secs),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if let Some(capacity) = self.settings.pack_capacity {
            let allocated = packs.len() as f64 * f64::from(capacity);
            values.insert("utilisation".into(), n_tokens / allocated);
        }
        if let Some(bytes) = self.probe.peak_resident_bytes() {
            values.insert("peak_memory_gib".into(), bytes as f64 / GIB);
        }
        self.workload.derive_metrics("", &mut values);
        self.log(values)
    }

    fn log(&mut self, values: BTreeMap<String, f64>) -> Result<(), StageError> {
        Ok(self.record.log(self.state.step, values, &mut *self.events)?)
    }

    /// Measures on the evaluation packs; breaks when it was stopped.
    fn evaluate(&mut self) -> Result<ControlFlow<()>, StageError> {
        if self.eval_steps.is_empty() {
            self.state.is_evaluation_due = false;
            return Ok(ControlFlow::Continue(()));
        }
        self.state.is_evaluation_due = true;
        let (all, n_ranks) = (self.eval_steps.clone(), self.groups.world.world_size());
        let of_data = &*self.groups.data;
        let mine: Vec<&Vec<Vec<u32>>> = dealt(all.len(), of_data).map(|step| &all[step]).collect();
        self.events.emit(Event::PhaseStarted { phase: "evaluating".into(), total: Some(mine.len() as u64) });
        let samples: Vec<&Vec<u32>> = mine.iter().copied().flatten().collect();
        if self.prepare(Split::Evaluation, &samples)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mut steps = Vec::with_capacity(mine.len());
        for packs in mine {
            steps.push(self.packs(Split::Evaluation, &packs.iter().collect::<Vec<_>>())?);
        }
        let (events, stop) = (&mut self.events, self.stop);
        let (mut kept, mut shares) = (Vec::new(), Vec::new());
        let (workload, objective) = (&self.workload, self.workload.objective());
        let result = self.trainer.evaluate(&steps, objective, of_data, &mut |outputs| {
            let packs = steps[kept.len()].iter().zip(outputs);
            shares.push(share_of_step(objective, &steps[kept.len()], outputs));
            kept.push(packs.flat_map(|(pack, output)| workload.kept(pack, output)).collect());
            events.emit(Event::Progress { done: kept.len() as u64, note: String::new() });
            break_if_alone(stop, n_ranks)
        });
        let measures: Measures = match result {
            Ok(measures) => measures,
            Err(TrainError::BrokenOff) => return Ok(ControlFlow::Break(())),
            Err(error @ TrainError::NonFinite { .. }) => {
                self.note_non_finite_evaluation(&error);
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error.into()),
        };
        self.events.emit(Event::PhaseFinished);
        let mut values: BTreeMap<String, f64> = measures
            .means
            .iter()
            .map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), *value))
            .collect();
        values.insert(format!("{EVALUATION_PREFIX}loss"), measures.loss);
        let n_samples = all.iter().flatten().map(Vec::len).sum::<usize>();
        values.insert(format!("{EVALUATION_PREFIX}samples"), n_samples as f64);
        self.workload.derive_metrics(EVALUATION_PREFIX, &mut values);
        if let Some(eval) = self.inputs.eval() {
            // Every rank finds the same, in all steps.
            let kept = all_gather_dealt(of_data, kept)?;
            let answered: Vec<(Vec<u32>, Vec<f32>)> =
                all.iter().map(|packs| packs.concat()).zip(kept).collect();
            let EvaluationFindings { metrics, diagnostics, evaluation, held_out } =
                self.workload.evaluation_findings(eval, measures.loss, &answered);
            values.extend(
                metrics.into_iter().map(|(name, value)| (format!("{EVALUATION_PREFIX}{name}"), value)),
            );
            let step = self.state.step;
            if let Some(evaluation) = evaluation {
                let evaluation = ClassifierEvaluation { step, ..evaluation };
                self.record.log_evaluation(ClassifierEvaluation::LOG_NAME, &evaluation)?;
            }
            let held_out = if held_out.is_empty() { self.by_step(shares)? } else { held_out };
            for held_out in held_out {
                self.record.log_evaluation(HeldOutScores::FILE_NAME, &HeldOutScores { step, ..held_out })?;
            }
            if let Some(diagnostics) = diagnostics {
                let evaluation = RewardEvaluation { step, diagnostics };
                self.record.log_evaluation(RewardDiagnostics::FILE_NAME, &evaluation)?;
            }
        }
        self.log(values)?;
        let is_best = self.state.note_evaluation(measures.loss);
        let keeps_best =
            self.settings.checkpoint.keep_best || self.settings.checkpoint.load_best_model_at_end;
        if is_best && keeps_best && self.state.step > 0 {
            self.save_checkpoint()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Loss, and accuracy where it is a metric, of each step of an evaluation, on every rank. For workloads that know
    /// no losses of single items: those whose losses are coupled, for instance.
    fn by_step(&self, mine: Vec<ItemShare>) -> Result<Vec<HeldOutScores>, StageError> {
        let sums_of = |(weight, sums): (f64, Vec<WeightedSum>)| {
            let sums: Vec<(f64, f64)> = sums.iter().map(|sum| (sum.numerator, sum.denominator)).collect();
            (weight, sums)
        };
        let mine = mine.into_iter().flatten().map(sums_of).collect();
        let all: Vec<(f64, Vec<(f64, f64)>)> = gather_dealt(&*self.groups.data, mine)?;
        let shares: Vec<ItemShare> = all
            .into_iter()
            .map(|(weight, sums)| {
                let sum = |(numerator, denominator)| WeightedSum { numerator, denominator };
                Some((weight, sums.into_iter().map(sum).collect()))
            })
            .collect();
        let objective = self.workload.objective();
        let mut found = vec![losses_of_items(objective, HeldOutScores::LOSS_OF_STEPS, &shares)];
        if let Some(place) = objective.metric_names().iter().position(|name| *name == "accuracy") {
            let sums: Vec<WeightedSum> = shares.iter().flatten().map(|(_, sums)| sums[place]).collect();
            let share = |sum: &WeightedSum| (sum.denominator > 0.0).then(|| sum.numerator / sum.denominator);
            found.push(HeldOutScores {
                measure: HeldOutScores::ACCURACY_OF_STEPS.to_owned(),
                values: sums.iter().map(share).collect(),
                weights: sums.iter().map(|sum| sum.denominator).collect(),
                ..HeldOutScores::default()
            });
        }
        Ok(found)
    }

    /// An evaluation whose loss is not finite is reported and is not the best; the steps so far are not lost to it.
    /// Where the weights are to blame, the next step ends the run.
    fn note_non_finite_evaluation(&mut self, error: &TrainError) {
        self.events.emit(Event::PhaseFinished);
        self.events.emit(Event::Warning(format!("{error}; this evaluation cannot be the best")));
        self.state.note_evaluation(f64::NAN);
    }

    fn save_checkpoint(&mut self) -> Result<(), StageError> {
        let Self { settings, trainer, state, saving, .. } = self;
        self.record.save_checkpoint(
            state,
            settings.checkpoint.save_total_limit,
            trainer.engine(),
            &mut *self.events,
            |staged| saving.checkpoint(trainer.engine(), state, staged),
        )
    }

    fn interrupted(mut self) -> Result<Ended<TrainedModel>, StageError> {
        self.events.emit(Event::PhaseFinished);
        self.save_checkpoint()?;
        Ok(Ended::Interrupted { step: Some(self.state.step) })
    }

    fn finish(mut self) -> Result<Ended<TrainedModel>, StageError> {
        let (of_best, dtype) =
            (self.settings.checkpoint.load_best_model_at_end, self.settings.checkpoint.save_dtype);
        if of_best {
            self.record.restore_best(self.trainer.engine_mut(), &self.state, &mut *self.events)?;
        }
        let (saving, engine, merges) = (&self.saving, self.trainer.engine(), self.settings.merge_adapter);
        let saved = self.record.save_model(engine, &mut *self.events, |staged| -> Result<(), StageError> {
            saving.model(engine, staged, dtype, merges)
        });
        if saved.is_err() && !of_best {
            // The last steps are kept, so that a resume can save them otherwise, for instance with another dtype.
            self.save_checkpoint()?;
        }
        let model = saved?;
        // Weight decay moves the weights without a gradient too. Not every step is in the metrics.
        let nothing_learnt = if self.state.had_gradient { None } else { self.record.nothing_learnt()? };
        if let Some(reason) = &nothing_learnt {
            self.events.emit(Event::Warning(reason.clone()));
        }
        Ok(Ended::Finished(self.record.end(model, nothing_learnt, self.state.step)?))
    }
}
