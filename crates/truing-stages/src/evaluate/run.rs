//! The work: ask in rounds until every item is complete, keep each answer, score, write the results.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use truing_ask::{OpenChatModel, judged_folder};
use truing_eval::benchmarks::{
    self, Answer, Answers, Item, Recipient, Request, Scored, Scoring, ScoringMode, summarise_benchmark,
};
use truing_eval::results::{
    ItemRecord, RunFacts, TaskRecord, harness_results, harness_samples, read_items, write_harness_samples,
    write_items,
};
use truing_model::Engine;
use truing_run::{Ended, Recipe, RunError};
use truing_store::atomic;
use truing_types::{Event, EventSink};

use super::answer_log::AnswerLog;
use super::asking::{Showing, Subject, ask_judge, refusal};
use super::config::EvaluateConfig;
use super::plan::{EvaluateInputs, EvaluatePlan, PlannedTask};
use crate::{RunContext, StageError};

/// The results of a run, in its folder: a list of [`TaskRecord`].
pub const RESULTS: &str = "results.json";

/// Items that are asked about at a time.
const REQUESTS_OF_A_CHUNK: usize = 64;

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOutcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// The benchmarks, in the recipe's order.
    pub tasks: Vec<TaskRecord>,
}

/// Asks model and judge, and writes `results.json`, `items_<task>.jsonl`, and lm-evaluation-harness's `results_*.json` and
/// `samples_*.jsonl`. The folder of a run with the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, the model refuses everything, or the disk fails.
pub(super) fn run<E: Engine + 'static>(
    plan: &EvaluatePlan,
    inputs: &EvaluateInputs,
    context: RunContext<'_>,
) -> Result<Ended<EvaluateOutcome>, StageError> {
    let RunContext { events, stop, probe, mut chat_models, sandbox_program, .. } = context;
    let begin = probe.elapsed_secs();
    let config = &plan.config;
    let folder = &config.output_dir;
    let record = config.record()?;
    let run = judged_folder::open(folder, config, &record, events)?;
    let judge = config.judge.as_ref().and_then(|_| chat_models.pop());
    let mut asking = Asking::<E> {
        plan,
        inputs,
        subject: chat_models.pop().map(Subject::Server),
        judge,
        log: AnswerLog::open(folder)?,
        stop,
        events: &mut *events,
        n_failed_in_a_row: 0,
        refusal: None,
    };
    let mut answered = Vec::new();
    for task in &inputs.tasks {
        match asking.task(task)? {
            Some(answers) => answered.push(answers),
            None => return Ok(Ended::STOPPED),
        }
    }
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    let scoring = Scoring { sandbox_program };
    let mut tasks = Vec::new();
    for (task, answers) in inputs.tasks.iter().zip(answered) {
        let items: Vec<(Item, Answers)> = task.loaded.items.iter().cloned().zip(answers).collect();
        tasks.push(score_task(config, task, items, inputs.is_chat, scoring)?);
    }
    let seconds = probe.elapsed_secs() - begin;
    let (tasks, hashes): (Vec<TaskRecord>, Vec<(String, String)>) = tasks.into_iter().unzip();
    write_results(config, inputs, &tasks, &hashes.into_iter().collect(), Some(seconds))?;
    events.emit(Event::Saved { what: "results".into(), path: folder.join(RESULTS) });
    Ok(Ended::Finished(EvaluateOutcome { folder: folder.clone(), tasks }))
}

/// Model, judge and log at work.
struct Asking<'a, E: Engine> {
    plan: &'a EvaluatePlan,
    inputs: &'a EvaluateInputs,
    /// Loaded when the first question is open: a run whose answers are all there needs no model.
    subject: Option<Subject<E>>,
    judge: Option<OpenChatModel>,
    log: AnswerLog,
    stop: &'a AtomicBool,
    events: &'a mut dyn EventSink,
    n_failed_in_a_row: usize,
    /// Why every further request would fail.
    refusal: Option<String>,
}

/// A request and the item that it is of.
type Open<'a> = (usize, &'a Request);

impl<E: Engine> Asking<'_, E> {
    /// All answers to the items of a benchmark, in their order; `None` when the run is to stop.
    fn task(&mut self, task: &PlannedTask) -> Result<Option<Vec<Answers>>, StageError> {
        let name = task.config.name();
        let benchmark = task.benchmark.get();
        let items = &task.loaded.items;
        let mut answers = vec![Answers::default(); items.len()];
        let mut round = 0;
        loop {
            // What is open, apart from what the log can answer; an answer may open further requests.
            let mut open: Vec<(usize, Request)> = Vec::new();
            for (idx, item) in items.iter().enumerate() {
                loop {
                    let pending = benchmarks::pending(benchmark, item, &answers[idx], &task.options);
                    let n_before = answers[idx].0.len();
                    for request in &pending {
                        if let Some(answer) = self.log.find(name, &item.id, request) {
                            answers[idx].0.insert(request.id.clone(), answer);
                        }
                    }
                    if answers[idx].0.len() == n_before {
                        open.extend(pending.into_iter().map(|request| (idx, request)));
                        break;
                    }
                }
            }
            if open.is_empty() {
                return Ok(Some(answers));
            }
            round += 1;
            let phase =
                if round == 1 { format!("asking {name}") } else { format!("asking {name}, round {round}") };
            self.events.emit(Event::PhaseStarted { phase, total: Some(open.len() as u64) });
            for to in [Recipient::Model, Recipient::Judge] {
                let of_one: Vec<Open<'_>> = open
                    .iter()
                    .filter(|(_, request)| request.to == to)
                    .map(|(idx, request)| (*idx, request))
                    .collect();
                if !self.round(task, to, &of_one, &mut answers)? {
                    return Ok(None);
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
        open: &[Open<'_>],
        answers: &mut [Answers],
    ) -> Result<bool, StageError> {
        let mut n_done = 0;
        for chunk in open.chunks(REQUESTS_OF_A_CHUNK) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let found = self.chunk(task, to, chunk, &mut n_done)?;
            for ((idx, request), answer) in chunk.iter().zip(found) {
                if let Some(answer) = answer {
                    answers[*idx].0.insert(request.id.clone(), answer);
                }
            }
            if let Some(reason) = self.refusal.take() {
                let name = match to {
                    Recipient::Model => self.plan.config.model.name(),
                    Recipient::Judge => {
                        self.plan.config.judge.as_ref().map_or_else(String::new, |judge| judge.model.name())
                    }
                };
                return Err(refusal(&name, &reason));
            }
        }
        Ok(!self.stop.load(Ordering::Relaxed))
    }

    /// The answers to some requests, in their order; `None` where the run stopped before.
    fn chunk(
        &mut self,
        task: &PlannedTask,
        to: Recipient,
        chunk: &[Open<'_>],
        n_done: &mut u64,
    ) -> Result<Vec<Option<Answer>>, StageError> {
        let config = &self.plan.config;
        if to == Recipient::Model && self.subject.is_none() {
            let marks = &config.model.reasoning_marks;
            self.subject = Subject::load(self.inputs, self.plan.n_threads, marks, self.events)?;
        }
        let requests: Vec<&Request> = chunk.iter().map(|(_, request)| *request).collect();
        let mut found: Vec<Option<Answer>> = vec![None; chunk.len()];
        let mut failed = None;
        let Self { log, events, stop, n_failed_in_a_row, refusal, subject, judge, .. } = self;
        let on_answer: &mut dyn FnMut(usize, Answer) -> ControlFlow<()> = &mut |place, answer| {
            let (idx, request) = chunk[place];
            *n_done += 1;
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
                    let item = &task.loaded.items[idx].id;
                    failed = log.keep(task.config.name(), item, request, answer).err();
                }
            }
            found[place] = Some(answer);
            match stop.load(Ordering::Relaxed) || refusal.is_some() || failed.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        match (to, subject, judge) {
            (Recipient::Model, Some(subject), _) => {
                let showing = Showing { config, is_chat: self.inputs.is_chat };
                subject.ask(&requests, showing, on_answer)?;
            }
            (Recipient::Judge, _, Some(judge)) => ask_judge(judge, &requests, on_answer),
            _ => {
                return Err(RunError::MissingSetting {
                    key: "judge",
                    expected: "a table `[judge.model]`: the benchmark asks a judge",
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

/// Scores a benchmark's items, and writes `items_<task>.jsonl` and `samples_<task>.jsonl`; the record, and the task's hash.
fn score_task(
    config: &EvaluateConfig,
    task: &PlannedTask,
    items: Vec<(Item, Answers)>,
    is_chat: bool,
    scoring: Scoring<'_>,
) -> Result<(TaskRecord, (String, String)), StageError> {
    let benchmark = task.benchmark.get();
    let pairs: Vec<(&Item, &Answers)> = items.iter().map(|(item, answers)| (item, answers)).collect();
    let scores = benchmark.score(&pairs, &task.options, &scoring);
    let records: Vec<ItemRecord> = items
        .into_iter()
        .zip(scores)
        .map(|((item, answers), score)| ItemRecord { item, answers, score })
        .collect();
    let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
    let summary = summarise_benchmark(benchmark, &scored, &task.options);
    let name = task.config.name();
    let folder = &config.output_dir;
    write_items(&folder.join(items_file(name)), &records)?;
    let (lines, hash) = harness_samples(benchmark, &records, &task.options, is_chat);
    if config.log_samples {
        write_harness_samples(&folder.join(format!("samples_{name}.jsonl")), lines)?;
    }
    let strict = task.options.mode == ScoringMode::Strict;
    let differences = if strict { benchmark.differences() } else { &[] };
    let record = TaskRecord {
        task: name.to_owned(),
        version: benchmark.version(),
        file: task.loaded.file.clone(),
        n_items_in_file: task.loaded.n_rows,
        n_shots: task.options.n_shots.unwrap_or_else(|| benchmark.default_shots()),
        mode: task.options.mode,
        differences: differences.iter().map(|&text| text.to_owned()).collect(),
        summary,
    };
    Ok((record, (name.to_owned(), hash)))
}

/// Where the items of a task lie in the run's folder.
fn items_file(task: &str) -> String {
    format!("items_{task}.jsonl")
}

fn write_results(
    config: &EvaluateConfig,
    inputs: &EvaluateInputs,
    tasks: &[TaskRecord],
    hashes: &BTreeMap<String, String>,
    seconds: Option<f64>,
) -> Result<(), StageError> {
    let settings = serde_json::to_value(config).ok().and_then(|value| value.as_object().cloned());
    let facts = RunFacts {
        model: config.model.name(),
        model_source: config
            .model
            .server
            .as_ref()
            .map_or_else(|| "truing".into(), |server| server.base_url.clone()),
        seconds,
        program: format!("truing {}", env!("CARGO_PKG_VERSION")),
        system_instruction: config.system_instruction.clone(),
        chat_template: inputs.chat_template.clone(),
        fewshot_as_multiturn: config.fewshot_as_multiturn,
        limit: config.limit,
        seed: config.seed,
        settings: settings.unwrap_or_default(),
        ..RunFacts::default()
    };
    let folder = &config.output_dir;
    atomic::write_json(&folder.join("results_lm_eval.json"), &harness_results(tasks, &facts, hashes))?;
    Ok(atomic::write_json(&folder.join(RESULTS), &tasks)?)
}

/// Scores the stored answers of a run again, without asking: after a scorer has changed. `tasks` are the benchmarks of the
/// run's recipe, loaded again.
///
/// # Errors
/// When an item of the run is not stored, or the disk fails.
pub fn rescore(
    config: &EvaluateConfig,
    inputs: &EvaluateInputs,
    sandbox_program: Option<&Path>,
) -> Result<EvaluateOutcome, StageError> {
    let (mut tasks, mut hashes) = (Vec::new(), BTreeMap::new());
    for task in &inputs.tasks {
        let path = config.output_dir.join(items_file(task.config.name()));
        let stored: HashMap<String, Answers> =
            read_items(&path)?.into_iter().map(|record| (record.item.id, record.answers)).collect();
        let mut items = Vec::new();
        for item in &task.loaded.items {
            let Some(answers) = stored.get(&item.id) else {
                let source = std::io::Error::other(format!("item `{}` has no stored answer", item.id));
                return Err(RunError::Read { path, source }.into());
            };
            items.push((item.clone(), answers.clone()));
        }
        let (record, (name, hash)) =
            score_task(config, task, items, inputs.is_chat, Scoring { sandbox_program })?;
        tasks.push(record);
        hashes.insert(name, hash);
    }
    write_results(config, inputs, &tasks, &hashes, None)?;
    Ok(EvaluateOutcome { folder: config.output_dir.clone(), tasks })
}
