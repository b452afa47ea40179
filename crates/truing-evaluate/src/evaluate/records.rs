//! What a run leaves behind: scores of the answers, the records of items, and the results in both forms. The same files
//! are made again of stored answers where a scorer has changed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml::Table;
use truing_eval::benchmarks::{
    Answers, Ask, BenchmarkError, Item, Recipient, Scored, Scoring, ScoringMode, summarise_benchmark,
};
use truing_eval::results::{
    ItemRecord, RESULTS, RunFacts, TaskRecord, find_harness_results, harness_results, harness_results_name,
    harness_samples, harness_samples_name, items_file, read_items, write_harness_samples, write_items,
};
use truing_run::recipe::{self, Scope};
use truing_run::resume::{check_same_files, check_same_recipe};
use truing_run::{Recipe, RunError};
use truing_store::{RunDirectory, atomic};

use super::config::{EvaluateConfig, LLMBAR};
use super::plan::{EvaluateInputs, PlannedTask};
use crate::StageError;

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOutcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// The benchmarks, in the recipe's order.
    pub tasks: Vec<TaskRecord>,
}

/// Which model was evaluated, and how long that took.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    model: String,
    seconds: Option<f64>,
    /// When it was started, in seconds since 1970.
    date: Option<f64>,
}

impl Facts {
    /// Of a run that began at `date` and took `seconds`, `None` where nothing was asked. A finished run that is
    /// extended, for instance by more seeds, began where it did before, and took the time of both. Of a run that was
    /// stopped and continued only the last part is known.
    pub(super) fn of_run(config: &EvaluateConfig, seconds: Option<f64>, date: Option<f64>) -> Self {
        let before = Self::stored(&config.output_dir);
        let seconds = match (before.as_ref().and_then(|facts| facts.seconds), seconds) {
            (Some(before), Some(seconds)) => Some(before + seconds),
            (before, seconds) => before.or(seconds),
        };
        Self { model: config.model.name(), seconds, date: before.and_then(|facts| facts.date).or(date) }
    }

    /// As the results in a folder name them.
    fn stored(folder: &Path) -> Option<Self> {
        let bytes = std::fs::read(find_harness_results(folder)?).ok()?;
        let stored: Value = serde_json::from_slice(&bytes).ok()?;
        let seconds = stored.get("total_evaluation_time_seconds").and_then(Value::as_str);
        Some(Self {
            model: stored.get("model_name")?.as_str()?.to_owned(),
            seconds: seconds.and_then(|text| text.parse().ok()),
            date: stored.get("date").and_then(Value::as_f64),
        })
    }
}

/// Scores the answers to each benchmark's items, for each seed in the items' order, and writes all files of a finished
/// run.
pub(super) fn write_records(
    config: &EvaluateConfig,
    inputs: &EvaluateInputs,
    answered: Vec<Vec<Vec<Answers>>>,
    facts: Facts,
    scoring: Scoring<'_>,
) -> Result<Vec<TaskRecord>, StageError> {
    let (mut tasks, mut hashes) = (Vec::new(), BTreeMap::new());
    for (task, answers) in inputs.tasks.iter().zip(answered) {
        let (record, hash) = score_task(config, task, answers, inputs.is_chat, facts.date, scoring)?;
        hashes.insert(record.task.clone(), hash);
        tasks.push(record);
    }
    name_accuracy_of_judge(&mut tasks);
    write_results(config, inputs, &tasks, &hashes, facts)?;
    Ok(tasks)
}

/// Puts the judge's accuracy on LLMBar beside every score that it gave.
fn name_accuracy_of_judge(tasks: &mut [TaskRecord]) {
    let llmbar = tasks.iter().find(|task| task.task == LLMBAR);
    let Some(accuracy) = llmbar.and_then(|task| task.summary.metrics.first()).cloned() else { return };
    for judge in tasks.iter_mut().filter_map(|task| task.summary.judge.as_mut()) {
        judge.llmbar = Some(accuracy.clone());
    }
}

/// Scores the answers to a benchmark's items, and writes `items_<task>.jsonl` and `samples_<task>.jsonl`; the record,
/// and the task's hash.
fn score_task(
    config: &EvaluateConfig,
    task: &PlannedTask,
    answers: Vec<Vec<Answers>>,
    is_chat: bool,
    date: Option<f64>,
    scoring: Scoring<'_>,
) -> Result<(TaskRecord, String), StageError> {
    let benchmark = task.benchmark.get();
    let items = &task.loaded.items;
    let mut records: Vec<ItemRecord> = Vec::new();
    for (seed, answers) in answers.into_iter().enumerate() {
        let pairs: Vec<(&Item, &Answers)> = items.iter().zip(&answers).collect();
        let scores = benchmark.score(&pairs, &task.options, &scoring);
        let of_seed = items.iter().zip(answers).zip(scores);
        records.extend(of_seed.map(|((item, answers), score)| ItemRecord {
            item: item.clone(),
            seed,
            answers,
            score,
        }));
    }
    let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
    let summary = summarise_benchmark(benchmark, &scored, &task.options);
    let name = task.config.name();
    let folder = &config.output_dir;
    write_items(&folder.join(items_file(name)), &records)?;
    let (lines, hash) = harness_samples(benchmark, &records, &task.options, is_chat);
    if config.log_samples {
        write_harness_samples(&folder.join(harness_samples_name(name, date)), lines)?;
    }
    let strict = task.options.mode == ScoringMode::Strict;
    let differences = if strict { benchmark.differences() } else { &[] };
    let shots = task.loaded.shots();
    let record = TaskRecord {
        task: name.to_owned(),
        version: benchmark.version(),
        file: task.loaded.file.clone(),
        n_items_in_file: task.loaded.n_rows,
        n_shots: shots.fewest,
        output_type: output_type(task),
        mean_shots: (shots.mean > shots.fewest as f64).then_some(shots.mean),
        mode: task.options.mode,
        differences: differences.iter().map(|&text| text.to_owned()).collect(),
        settings: asked_with(config, task, is_chat),
        summary,
    };
    Ok((record, hash))
}

/// What a task asks of the model, in the words of lm-evaluation-harness.
fn output_type(task: &PlannedTask) -> String {
    let none = Answers::default();
    let first = task.loaded.items.first();
    let requests = first.map(|item| task.benchmark.get().requests(item, &none, &task.options));
    let of_model = requests.into_iter().flatten().find(|request| request.to == Recipient::Model);
    let name = match of_model.map(|request| request.ask) {
        Some(Ask::Generate { .. }) => "generate_until",
        Some(Ask::LogLikelihood { .. }) => "multiple_choice",
        Some(Ask::Rolling { .. }) => "loglikelihood_rolling",
        Some(Ask::Reward { .. }) => "reward",
        None => "none",
    };
    name.to_owned()
}

/// What decides the answers to a task besides its items and the model.
fn asked_with(config: &EvaluateConfig, task: &PlannedTask, is_chat: bool) -> Map<String, Value> {
    // As it was typed: 0.7 in single precision is another number in double.
    let temperature = config.temperature.and_then(|value| value.to_string().parse::<f64>().ok());
    let options = &task.options;
    let mut settings: Vec<(&str, Value)> = vec![
        ("apply_chat_template", is_chat.into()),
        ("fewshot_as_multiturn", config.fewshot_as_multiturn.into()),
        ("system_instruction", config.system_instruction.clone().into()),
        ("description", options.description.clone().into()),
        ("max_new_tokens", config.max_new_tokens.into()),
        ("temperature", temperature.into()),
        ("n_samples", options.n_samples.into()),
        ("seed", config.seed.into()),
        ("seeds", config.seeds.into()),
    ];
    if options.given_history {
        settings.push(("given_history", true.into()));
    }
    if let Some(baseline) = &task.config.baseline {
        settings.push(("baseline", baseline.display().to_string().into()));
    }
    if let Some(judge) = config.judge.as_ref().filter(|_| task.benchmark.get().needs_judge()) {
        settings.push((TaskRecord::JUDGE, judge.model.name().into()));
        settings.push(("judge.max_attempts", judge.max_attempts.into()));
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn write_results(
    config: &EvaluateConfig,
    inputs: &EvaluateInputs,
    tasks: &[TaskRecord],
    hashes: &BTreeMap<String, String>,
    facts: Facts,
) -> Result<(), StageError> {
    let settings = serde_json::to_value(config).ok().and_then(|value| value.as_object().cloned());
    let facts = RunFacts {
        model: facts.model,
        base_url: config.model.server.as_ref().map(|server| server.base_url.clone()),
        date: facts.date,
        seconds: facts.seconds,
        program: format!("truing {}", env!("CARGO_PKG_VERSION")),
        system_instruction: config.system_instruction.clone(),
        chat_template: inputs.chat_template.clone(),
        fewshot_as_multiturn: config.fewshot_as_multiturn,
        limit: config.limit,
        seed: config.seed,
        settings: settings.unwrap_or_default(),
    };
    let folder = &config.output_dir;
    let results = folder.join(harness_results_name(facts.date));
    atomic::write_json(&results, &harness_results(tasks, &facts, hashes))?;
    Ok(atomic::write_json(&folder.join(RESULTS), &tasks)?)
}

/// Scores the stored answers of a finished run again, without asking: after a scorer has changed. `inputs` are those of
/// the recipe of the run, loaded again; only how answers are scored may differ from it (`SCORING_KEYS`).
///
/// # Errors
/// When the folder holds no finished run, the recipe has other items, another model or other questions than the run, or
/// an item has no stored answer; nothing is written then. Or when the disk fails; the same command then writes all
/// files again.
pub fn rescore(
    config: &EvaluateConfig,
    inputs: &EvaluateInputs,
    sandbox_program: Option<&Path>,
) -> Result<EvaluateOutcome, StageError> {
    let folder = &config.output_dir;
    if !folder.join(RESULTS).is_file() {
        return Err(BenchmarkError::NoResults { path: folder.clone() }.into());
    }
    let run = RunDirectory::open(folder).map_err(RunError::from)?;
    check_same_questions(config, &run)?;
    let mut answered = Vec::new();
    for task in &inputs.tasks {
        answered.push(stored_answers(config, task)?);
    }
    let facts = Facts::stored(folder).unwrap_or_else(|| Facts::of_run(config, None, None));
    let tasks = write_records(config, inputs, answered, facts, Scoring { sandbox_program })?;
    run.write_recipe(&config.to_toml()).map_err(RunError::from)?;
    Ok(EvaluateOutcome { folder: folder.clone(), tasks })
}

/// Settings of a task that decide how answers are scored and summarised, and not what is asked.
const SCORING_KEYS: [&str; 2] = ["scoring", "accept_other_version"];
/// The same of a task's `custom`.
const CUSTOM_SCORING_KEYS: [&str; 4] = ["scorer", "about", "category_columns", "cluster_column"];

/// Refuses a recipe that asks something else than the run did, or another model.
fn check_same_questions(config: &EvaluateConfig, run: &RunDirectory) -> Result<(), StageError> {
    let questions = |text: &str| -> Result<Table, RunError> {
        let mut table = recipe::decisive_of::<EvaluateConfig>(text, &run.recipe_path(), Scope::Resume)?;
        let tasks = table.get_mut("task").and_then(toml::Value::as_array_mut).into_iter().flatten();
        for task in tasks.filter_map(toml::Value::as_table_mut) {
            SCORING_KEYS.iter().for_each(|key| drop(task.remove(*key)));
            if let Some(custom) = task.get_mut("custom").and_then(toml::Value::as_table_mut) {
                CUSTOM_SCORING_KEYS.iter().for_each(|key| drop(custom.remove(*key)));
            }
        }
        Ok(table)
    };
    let before = run.recipe().map_err(RunError::from)?;
    check_same_recipe(&questions(&before)?, &questions(&config.to_toml())?)?;
    check_same_files(&run.inputs().map_err(RunError::from)?, &config.record()?)?;
    Ok(())
}

/// The answers of a finished run to the items of a task, for each seed.
fn stored_answers(config: &EvaluateConfig, task: &PlannedTask) -> Result<Vec<Vec<Answers>>, StageError> {
    let path = config.output_dir.join(items_file(task.config.name()));
    let mut stored: HashMap<(String, usize), Answers> = read_items(&path)?
        .into_iter()
        .map(|record| ((record.item.id, record.seed), record.answers))
        .collect();
    let mut of_seeds = Vec::new();
    for seed in 0..config.seeds {
        let mut answers = Vec::new();
        for item in &task.loaded.items {
            let Some(of_item) = stored.remove(&(item.id.clone(), seed)) else {
                let reason = format!(
                    "the item `{}` has no stored answer with seed {} of the recipe",
                    item.id,
                    seed + 1
                );
                return Err(BenchmarkError::BadRecord { path, line: None, reason }.into());
            };
            answers.push(of_item);
        }
        of_seeds.push(answers);
    }
    match stored.len() {
        0 => Ok(of_seeds),
        n => {
            let reason = format!(
                "holds {n} answers that the recipe leaves out (`seeds`, `limit`); they would be lost"
            );
            Err(BenchmarkError::BadRecord { path, line: None, reason }.into())
        }
    }
}
