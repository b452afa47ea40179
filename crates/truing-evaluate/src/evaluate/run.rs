//! The work: ask in rounds until every item is complete, keep each answer, score, write the results.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_ask::{OpenChatModel, judged_folder};
use truing_eval::benchmarks::{self, Answer, Answers, Ask, Recipient, Request, Scoring};
use truing_eval::results::RESULTS;
use truing_model::{Engine, ModelFiles};
use truing_run::{Ended, Recipe, RunError};
use truing_text::RenderOptions;
use truing_types::{Event, EventSink};

use super::answer_log::AnswerLog;
use super::asking::{Showing, Subject, ask_judge, refusal};
use super::config::EvaluateConfig;
use super::plan::{EvaluateInputs, EvaluatePlan, PlannedTask};
use super::records::{EvaluateOutcome, Facts, write_records};
use crate::{RunContext, StageError};

/// Items that are asked about at a time.
const REQUESTS_OF_A_CHUNK: usize = 64;
/// Items that are asked about to the end before the others, at most, until a judge has given a verdict.
const ITEMS_TO_TRY: usize = 3;

/// Asks model and judge, and writes `results.json`, `items_<task>.jsonl`, and lm-evaluation-harness's `results_*.json`
/// and `samples_*.jsonl`. The folder of a run with the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, the model refuses everything, or the disk
/// fails.
pub(super) fn run<E: Engine + 'static>(
    plan: &EvaluatePlan,
    inputs: &EvaluateInputs,
    context: RunContext<'_>,
) -> Result<Ended<EvaluateOutcome>, StageError> {
    let RunContext { events, stop, probe, mut chat_models, sandbox_program, .. } = context;
    let (begin, date) = (probe.elapsed_secs(), probe.unix_secs());
    let config = &plan.config;
    let folder = &config.output_dir;
    let record = config.record()?;
    let run = judged_folder::open(folder, config, &record, events)?;
    let judge = config.judge.as_ref().and_then(|_| chat_models.pop());
    let model = match &inputs.model {
        Some(files) => SubjectModel::Open(files),
        None => SubjectModel::OnServer,
    };
    let mut asking = Asking::<E> {
        subject: chat_models.pop().map(Subject::Server),
        judge,
        ..Asking::new(config, plan.n_threads, inputs, model, AnswerLog::open(folder)?, stop, &mut *events)
    };
    let mut answered = Vec::new();
    for task in &inputs.tasks {
        let all: Vec<usize> = (0..task.loaded.items.len()).collect();
        match asking.task(task, &all)? {
            Some(answers) => answered.push(answers),
            None => return Ok(Ended::STOPPED),
        }
    }
    let n_asked = asking.n_asked;
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    let seconds = (n_asked > 0).then(|| probe.elapsed_secs() - begin);
    let facts = Facts::of_run(config, seconds, date);
    let tasks = write_records(config, inputs, answered, facts, Scoring { sandbox_program })?;
    events.emit(Event::Saved { what: "results".into(), path: folder.join(RESULTS) });
    Ok(Ended::Finished(EvaluateOutcome { folder: folder.clone(), tasks }))
}

/// Opens the model that is evaluated.
pub(crate) type OpenModel<'a> = &'a mut dyn FnMut(&mut dyn EventSink) -> Result<ModelFiles, StageError>;

/// Where the model is that is evaluated.
pub(crate) enum SubjectModel<'a> {
    /// On a server.
    OnServer,
    /// In this process, open.
    Open(&'a ModelFiles),
    /// In this process, to be made when it is needed.
    Made(OpenModel<'a>),
}

/// Model, judge and log at work.
pub(crate) struct Asking<'a, E: Engine> {
    config: &'a EvaluateConfig,
    n_threads: usize,
    is_chat: bool,
    render: &'a RenderOptions,
    model: SubjectModel<'a>,
    /// Loaded when the first question is open: a run whose answers are all there needs no model.
    subject: Option<Subject<E>>,
    judge: Option<OpenChatModel>,
    log: AnswerLog,
    stop: &'a AtomicBool,
    events: &'a mut dyn EventSink,
    /// Requests that came back, also with a failure.
    n_asked: u64,
    n_failed_in_a_row: usize,
    /// Why every further request would fail.
    refusal: Option<String>,
}

/// With which seed a request is asked, and whether it asks a judge for the second time.
#[derive(Debug, Clone, Copy)]
struct Variation {
    seed: usize,
    is_repeat: bool,
}

/// Between the seeds of the first and the second answer to a request. Benchmarks that sample several answers use the
/// seeds between.
const SEED_STRIDE: u64 = 1_000_000;
/// Between the seeds of a judge's first verdict and its second.
const REPEAT_STRIDE: u64 = 500_000;

impl Variation {
    /// The request as it is asked and logged: under another name and with another seed for each variation. What is not
    /// sampled is asked once.
    fn of(self, request: &Request) -> Request {
        let mut request = request.clone();
        if let Ask::Generate { sampling, .. } = &mut request.ask {
            let offset = self.seed as u64 * SEED_STRIDE + if self.is_repeat { REPEAT_STRIDE } else { 0 };
            sampling.seed = sampling.seed.wrapping_add(offset);
            if self.seed > 0 {
                request.id = format!("seed{}/{}", self.seed, request.id);
            }
        }
        if self.is_repeat {
            request.id = benchmarks::repeated_name(&request.id);
        }
        request
    }
}

/// A request that is open.
struct Open {
    /// The place of its item in the task.
    item: usize,
    /// The place of its answers.
    answer_idx: usize,
    /// The name of its answer.
    id: String,
    /// As it is asked.
    request: Request,
}

impl<'a, E: Engine> Asking<'a, E> {
    /// Without a judge.
    pub(crate) fn new(
        config: &'a EvaluateConfig,
        n_threads: usize,
        inputs: &'a EvaluateInputs,
        model: SubjectModel<'a>,
        log: AnswerLog,
        stop: &'a AtomicBool,
        events: &'a mut dyn EventSink,
    ) -> Self {
        Self {
            config,
            n_threads,
            is_chat: inputs.is_chat,
            render: &inputs.render,
            model,
            subject: None,
            judge: None,
            log,
            stop,
            events,
            n_asked: 0,
            n_failed_in_a_row: 0,
            refusal: None,
        }
    }

    /// The answers to items of a benchmark, given by their places, for each seed in the order of `places`; `None` when
    /// the run is to stop.
    pub(crate) fn task(
        &mut self,
        task: &PlannedTask,
        item_indices: &[usize],
    ) -> Result<Option<Vec<Vec<Answers>>>, StageError> {
        let mut of_seeds = Vec::new();
        for seed in 0..self.config.seeds {
            let mut answers = vec![Answers::default(); item_indices.len()];
            let variation = Variation { seed, is_repeat: false };
            if seed == 0
                && task.benchmark.get().needs_judge()
                && !self.try_judge(task, variation, item_indices, &mut answers)?
            {
                return Ok(None);
            }
            if !self.complete(task, variation, item_indices, &mut answers)? {
                return Ok(None);
            }
            let repeated = self.repeated_items(task, item_indices, &answers);
            // The judge sees the same answers again.
            let mut again: Vec<Answers> =
                repeated.iter().map(|idx| without_verdicts(&answers[*idx])).collect();
            let items: Vec<usize> = repeated.iter().map(|idx| item_indices[*idx]).collect();
            if !self.complete(task, Variation { seed, is_repeat: true }, &items, &mut again)? {
                return Ok(None);
            }
            for (idx, again) in repeated.into_iter().zip(again) {
                let verdicts = again.0.into_iter().filter(|(id, _)| benchmarks::is_of_judge(id));
                answers[idx].0.extend(verdicts.map(|(id, answer)| (benchmarks::repeated_name(&id), answer)));
            }
            of_seeds.push(answers);
        }
        Ok(Some(of_seeds))
    }

    /// Asks about the first items to the end, one by one, until the judge has given a verdict: that it does not answer
    /// is found before the answers to all items are paid for. It is given up where its verdicts on [`ITEMS_TO_TRY`]
    /// items failed and more items remain. False when the run is to stop.
    fn try_judge(
        &mut self,
        task: &PlannedTask,
        variation: Variation,
        item_indices: &[usize],
        answers: &mut [Answers],
    ) -> Result<bool, StageError> {
        let (mut failure, mut n_failed) = (None, 0);
        for idx in 0..item_indices.len().min(ITEMS_TO_TRY) {
            if !self.complete(task, variation, &item_indices[idx..=idx], &mut answers[idx..=idx])? {
                return Ok(false);
            }
            let mut has_failed = false;
            let of_judge = answers[idx].0.iter().filter(|(id, _)| benchmarks::is_of_judge(id));
            for (_, answer) in of_judge {
                match answer {
                    Answer::Failed(unscored) => {
                        failure = Some(unscored.detail.clone());
                        has_failed = true;
                    }
                    _ => return Ok(true),
                }
            }
            n_failed += usize::from(has_failed);
        }
        match failure {
            Some(reason) if n_failed == ITEMS_TO_TRY && item_indices.len() > ITEMS_TO_TRY => {
                Err(self.judge_refuses(&reason))
            }
            _ => Ok(true),
        }
    }

    fn judge_refuses(&self, reason: &str) -> StageError {
        let name = self.config.judge.as_ref().map_or_else(String::new, |judge| judge.model.name());
        refusal("judge.model", &name, reason)
    }

    /// Of the items at `places` those whose verdicts are asked for a second time, evenly spaced among those with
    /// verdicts.
    fn repeated_items(&self, task: &PlannedTask, item_indices: &[usize], answers: &[Answers]) -> Vec<usize> {
        let Some(judge) = &self.config.judge else { return Vec::new() };
        // A judge in this process that takes the most likely token says the same again.
        let may_differ = |idx: usize| {
            let requests = task.benchmark.get().requests(
                &task.loaded.items[item_indices[idx]],
                &without_verdicts(&answers[idx]),
                &task.options,
            );
            judge.model.server.is_some()
                || requests.iter().any(|request| match &request.ask {
                    Ask::Generate { sampling, .. } => {
                        request.to == Recipient::Judge && sampling.temperature > 0.0
                    }
                    _ => false,
                })
        };
        let has_verdict = |idx: &usize| {
            let verdicts = answers[*idx].0.iter().filter(|(id, _)| benchmarks::is_of_judge(id));
            let mut are_given = verdicts.map(|(_, answer)| !matches!(answer, Answer::Failed(_))).peekable();
            are_given.peek().is_some() && are_given.all(|is_given| is_given)
        };
        let judged: Vec<usize> =
            (0..answers.len()).filter(has_verdict).filter(|idx| may_differ(*idx)).collect();
        let n = judge.repeat_items.min(judged.len());
        (0..n).map(|answer_idx| judged[answer_idx * judged.len() / n]).collect()
    }

    /// Completes the answers to some items; false when the run is to stop.
    fn complete(
        &mut self,
        task: &PlannedTask,
        variation: Variation,
        item_indices: &[usize],
        answers: &mut [Answers],
    ) -> Result<bool, StageError> {
        let name = task.config.name();
        let benchmark = task.benchmark.get();
        let mut round = 0;
        loop {
            // What is open, apart from what the log can answer; an answer may open further requests.
            let mut open: Vec<Open> = Vec::new();
            for (answer_idx, item) in item_indices.iter().enumerate() {
                let asked = &task.loaded.items[*item];
                loop {
                    let pending = benchmarks::pending(benchmark, asked, &answers[answer_idx], &task.options);
                    let n_before = answers[answer_idx].0.len();
                    let varied: Vec<Open> = pending
                        .into_iter()
                        .map(|request| {
                            let asked = variation.of(&request);
                            Open { item: *item, answer_idx, id: request.id, request: asked }
                        })
                        .collect();
                    for one in &varied {
                        if let Some(answer) = self.log.find(name, &asked.id, &one.request) {
                            answers[answer_idx].0.insert(one.id.clone(), answer);
                        }
                    }
                    if answers[answer_idx].0.len() == n_before {
                        open.extend(varied);
                        break;
                    }
                }
            }
            if open.is_empty() {
                return Ok(true);
            }
            round += 1;
            let mut phase = format!("asking {name}");
            if variation.is_repeat {
                phase.push_str(", the judge again");
            }
            if self.config.seeds > 1 {
                phase.push_str(&format!(", seed {} of {}", variation.seed + 1, self.config.seeds));
            }
            if round > 1 {
                phase.push_str(&format!(", round {round}"));
            }
            self.events.emit(Event::PhaseStarted { phase, total: Some(open.len() as u64) });
            let mut n_done = 0;
            for to in [Recipient::Model, Recipient::Judge] {
                let of_one: Vec<&Open> = open.iter().filter(|one| one.request.to == to).collect();
                if !self.round(task, to, &of_one, &mut n_done, answers)? {
                    return Ok(false);
                }
            }
            self.events.emit(Event::PhaseFinished);
        }
    }

    /// Asks one round of requests; false when the run is to stop.
    fn round(
        &mut self,
        task: &PlannedTask,
        to: Recipient,
        open: &[&Open],
        n_done: &mut u64,
        answers: &mut [Answers],
    ) -> Result<bool, StageError> {
        for chunk in open.chunks(REQUESTS_OF_A_CHUNK) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let found = self.chunk(task, to, chunk, n_done)?;
            for (one, answer) in chunk.iter().zip(found) {
                if let Some(answer) = answer {
                    answers[one.answer_idx].0.insert(one.id.clone(), answer);
                }
            }
            if let Some(reason) = self.refusal.take() {
                return Err(match to {
                    Recipient::Model => refusal("model", &self.config.model.name(), &reason),
                    Recipient::Judge => self.judge_refuses(&reason),
                });
            }
        }
        Ok(!self.stop.load(Ordering::Relaxed))
    }

    /// The answers to some requests, in their order; `None` where the run stopped before.
    fn chunk(
        &mut self,
        task: &PlannedTask,
        to: Recipient,
        chunk: &[&Open],
        n_done: &mut u64,
    ) -> Result<Vec<Option<Answer>>, StageError> {
        let config = self.config;
        if to == Recipient::Model && self.subject.is_none() {
            let marks = &config.model.reasoning_marks;
            let made;
            let files = match &mut self.model {
                SubjectModel::OnServer => None,
                SubjectModel::Open(files) => Some(*files),
                SubjectModel::Made(make) => {
                    made = make(self.events)?;
                    Some(&made)
                }
            };
            if let Some(files) = files {
                self.subject = Some(Subject::load(files, self.render, self.n_threads, marks, self.events)?);
            }
        }
        let requests: Vec<&Request> = chunk.iter().map(|one| &one.request).collect();
        let mut found: Vec<Option<Answer>> = vec![None; chunk.len()];
        let mut failed = None;
        let Self { log, events, stop, n_asked, n_failed_in_a_row, refusal, subject, judge, .. } = self;
        let on_answer: &mut dyn FnMut(usize, Answer) -> ControlFlow<()> = &mut |answer_idx, answer| {
            let Open { item, request, .. } = chunk[answer_idx];
            *n_done += 1;
            *n_asked += 1;
            events.emit(Event::Progress { done: *n_done, note: String::new() });
            match &answer {
                // Failures are not kept: the next run asks again.
                Answer::Failed(unscored) => {
                    *n_failed_in_a_row += 1;
                    let is_final = unscored.reason == truing_types::UnscoredReason::JudgeRefused;
                    if is_final || *n_failed_in_a_row >= config.max_failures_in_a_row {
                        refusal.get_or_insert_with(|| unscored.detail.clone());
                    }
                }
                answer => {
                    *n_failed_in_a_row = 0;
                    let item = &task.loaded.items[*item].id;
                    failed = log.keep(task.config.name(), item, request, answer).err();
                }
            }
            found[answer_idx] = Some(answer);
            match stop.load(Ordering::Relaxed) || refusal.is_some() || failed.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        match (to, subject, judge) {
            (Recipient::Model, Some(subject), _) => {
                let showing = Showing { config, is_chat: self.is_chat };
                subject.ask(&requests, showing, on_answer)?;
            }
            (Recipient::Judge, _, Some(judge)) => ask_judge(judge, &requests, on_answer),
            _ => {
                return Err(RunError::MissingSetting {
                    key: "judge",
                    expected: "a table `[judge.model]`: the benchmark needs a judge",
                }
                .into());
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }
}

/// The model's answers.
fn without_verdicts(answers: &Answers) -> Answers {
    let of_model = answers.0.iter().filter(|(id, _)| !benchmarks::is_of_judge(id));
    Answers(of_model.map(|(id, answer)| (id.clone(), answer.clone())).collect())
}
