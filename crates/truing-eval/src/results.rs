//! What a run of benchmarks leaves behind: an own record of every item, and the two files that users of
//! lm-evaluation-harness know, `results_*.json` and `samples_*.jsonl`. All files are written whole or not at
//! all.

mod names;
mod python_json;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use truing_store::{StoreError, atomic};

pub use names::{HARNESS_RESULTS, find_harness_results, harness_results_name, harness_samples_name};

use names::sanitized;
use python_json::python_json;

use crate::benchmarks::{
    Aggregation, Answer, Answers, Ask, Benchmark, BenchmarkError, DataFile, Item, ItemScore, MetricInfo,
    Prompt, Recipient, Request, Scored, ScoringMode, Summary, TaskOptions,
};

/// One benchmark of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The benchmark.
    pub task: String,
    /// Its version.
    pub version: u32,
    /// Where its items came from.
    pub file: DataFile,
    /// Items in the file.
    pub n_items_in_file: usize,
    /// Solved examples that were shown before each question; the fewest where their number differs.
    pub n_shots: usize,
    /// Their mean over the items, where their number differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_shots: Option<f64>,
    /// What is asked of the model, as lm-evaluation-harness names it: `generate_until`, `multiple_choice`,
    /// `loglikelihood_rolling`; `reward` for a reward model.
    #[serde(default)]
    pub output_type: String,
    /// Whether quirks were kept.
    pub mode: ScoringMode,
    /// How strict scores differ from the published programs'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// What decides the answers and verdicts besides items and model: system prompt, chat template, sampling, seeds,
    /// and the judge with its settings where there is one. Empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// The metrics.
    pub summary: Summary,
}

impl TaskRecord {
    /// The setting with the judge's name.
    pub const JUDGE: &str = "judge";

    /// The judge's name, where there was one.
    #[must_use]
    pub fn judge(&self) -> Option<&str> {
        self.settings.get(Self::JUDGE)?.as_str()
    }
}

/// One item of a run, as it is stored: one JSON object a line. Scores can be made anew of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// The item.
    pub item: Item,
    /// Which of the run's seeds its answers were sampled with, counted from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub seed: usize,
    /// Everything that was answered, by the model and by judges.
    pub answers: Answers,
    /// What was made of it.
    pub score: ItemScore,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_first(seed: &usize) -> bool {
    *seed == 0
}

impl ItemRecord {
    /// As [`crate::benchmarks::summarise`] takes it.
    #[must_use]
    pub fn scored(&self) -> Scored<'_> {
        Scored { item: &self.item, answers: &self.answers, score: &self.score }
    }
}

/// The results of a run, in its folder: a list of [`TaskRecord`].
pub const RESULTS: &str = "results.json";

/// The file with a task's items, in the run's folder.
#[must_use]
pub fn items_file(task: &str) -> String {
    format!("items_{task}.jsonl")
}

/// Reads the results of a run's folder.
///
/// # Errors
/// When the folder is not that of a finished evaluation.
pub fn read_results(folder: &Path) -> Result<Vec<TaskRecord>, BenchmarkError> {
    let path = folder.join(RESULTS);
    let bytes = std::fs::read(&path).map_err(|_| BenchmarkError::NoResults { path: folder.to_path_buf() })?;
    serde_json::from_slice(&bytes).map_err(|error| BenchmarkError::BadRecord {
        path,
        line: Some(error.line()),
        reason: error.to_string(),
    })
}

/// Writes items, one a line.
///
/// # Errors
/// When the file cannot be written. An earlier one stays.
pub fn write_items<'a>(
    path: &Path,
    items: impl IntoIterator<Item = &'a ItemRecord>,
) -> Result<(), StoreError> {
    let lines = items.into_iter().map(serde_json::to_value);
    write_lines(path, lines)
}

fn write_lines(
    path: &Path,
    lines: impl Iterator<Item = Result<Value, serde_json::Error>>,
) -> Result<(), StoreError> {
    let mut writer = atomic::Writer::new(path)?;
    for line in lines {
        let line = line.map_err(|source| StoreError::Json { path: path.to_path_buf(), source })?;
        writeln!(writer, "{line}").map_err(StoreError::io("write", path))?;
    }
    writer.commit()
}

/// Reads items that [`write_items`] wrote.
///
/// # Errors
/// When the file cannot be read or a line is no item; the error names the line.
pub fn read_items(path: &Path) -> Result<Vec<ItemRecord>, BenchmarkError> {
    let bad = |line, reason: String| BenchmarkError::BadRecord { path: path.to_path_buf(), line, reason };
    let text = std::fs::read_to_string(path).map_err(|error| bad(None, error.to_string()))?;
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(place, line)| {
            serde_json::from_str(line).map_err(|error| bad(Some(place + 1), error.to_string()))
        })
        .collect()
}

/// Facts of a run that its results name. The caller reads the clock.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RunFacts {
    /// The model as the user named it.
    pub model: String,
    /// Address of the server that ran it; `None` where it ran in this process.
    #[serde(default)]
    pub base_url: Option<String>,
    /// Seconds since 1970 at the start, where the caller knows them.
    pub date: Option<f64>,
    /// Seconds that the run took; `None` where nothing was asked.
    pub seconds: Option<f64>,
    /// Version of the program.
    pub program: String,
    /// The system prompt of all requests.
    #[serde(default)]
    pub system_instruction: Option<String>,
    /// The chat template, if it was applied.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// Whether solved examples were turns of their own.
    #[serde(default)]
    pub fewshot_as_multiturn: bool,
    /// `--limit`.
    #[serde(default)]
    pub limit: Option<f64>,
    /// The run's seed.
    #[serde(default)]
    pub seed: u64,
    /// Further settings, for the record.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

/// Hexadecimal SHA-256 of a text, as lm-evaluation-harness names content.
fn sha256(text: &str) -> String {
    let mut hexadecimal = String::new();
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    hexadecimal
}

/// `results_*.json` with the keys of lm-evaluation-harness. `task_hashes` are those of [`harness_samples`],
/// where samples are logged.
#[must_use]
pub fn harness_results(
    tasks: &[TaskRecord],
    run: &RunFacts,
    task_hashes: &BTreeMap<String, String>,
) -> Value {
    let mut results = Map::new();
    let (mut configs, mut versions, mut shots) = (Map::new(), Map::new(), Map::new());
    let (mut directions, mut n_samples, mut subtasks) = (Map::new(), Map::new(), Map::new());
    for record in tasks {
        let mut of_task = Map::new();
        let mut better = Map::new();
        of_task.insert("alias".into(), record.task.clone().into());
        for summary in &record.summary.metrics {
            let MetricInfo { name, filter, higher_is_better, .. } = &summary.metric;
            of_task.insert(summary.metric.key(), summary.value.map_or(Value::Null, Value::from));
            let error = summary.standard_error.map_or_else(|| "N/A".into(), Value::from);
            of_task.insert(format!("{name}_stderr,{filter}"), error);
            better.insert(name.to_string(), (*higher_is_better).into());
        }
        let task = &record.task;
        results.insert(task.clone(), of_task.into());
        directions.insert(task.clone(), better.into());
        subtasks.insert(task.clone(), json!([]));
        versions.insert(task.clone(), record.version.into());
        shots.insert(task.clone(), record.n_shots.into());
        let counts = json!({"original": record.n_items_in_file, "effective": record.summary.n_items});
        n_samples.insert(task.clone(), counts);
        let mut config = json!({
            "task": task, "dataset_path": record.file.path, "dataset_sha256": record.file.sha256,
            "dataset_name": record.file.known_as, "output_type": record.output_type, "metric_list": metric_list(record),
            "num_fewshot": record.n_shots, "scoring": record.mode, "metadata": {"version": record.version},
        });
        if let Some(template) = own_template(run, task) {
            config["doc_to_text"] = template.into();
        }
        configs.insert(task.clone(), config);
    }
    let (model, model_args) = match &run.base_url {
        None => ("truing", format!("pretrained={}", run.model)),
        Some(url) => ("local-chat-completions", format!("model={},base_url={url}", run.model)),
    };
    let config = json!({
        "model": model, "model_args": model_args, "limit": run.limit, "random_seed": run.seed, "numpy_seed": run.seed,
        "torch_seed": run.seed, "fewshot_seed": run.seed, "truing": run.settings,
    });
    json!({
        "results": results, "group_subtasks": subtasks, "configs": configs, "versions": versions, "n-shot": shots,
        "higher_is_better": directions, "n-samples": n_samples, "config": config, "git_hash": run.program,
        "date": run.date,
        "system_instruction": run.system_instruction,
        "system_instruction_sha": run.system_instruction.as_deref().map(sha256),
        "fewshot_as_multiturn": run.fewshot_as_multiturn,
        "chat_template": run.chat_template, "chat_template_sha": run.chat_template.as_deref().map(sha256),
        "task_hashes": task_hashes, "model_source": run.base_url.as_deref().unwrap_or(model), "model_name": run.model,
        "model_name_sanitized": sanitized(&run.model),
        "total_evaluation_time_seconds": run.seconds.map(|seconds| seconds.to_string()),
    })
}

/// The metrics of a task as its configuration lists them there.
fn metric_list(record: &TaskRecord) -> Vec<Value> {
    let mut list: Vec<Value> = Vec::new();
    for MetricInfo { name, aggregation, higher_is_better, .. } in
        record.summary.metrics.iter().map(|summary| &summary.metric)
    {
        let aggregation = match aggregation {
            Aggregation::Mean => "mean",
            Aggregation::Ratio => "weighted_mean",
            Aggregation::Perplexity => "weighted_perplexity",
            Aggregation::Bits => "bits_per_byte",
            Aggregation::MeanOfCategories(_) => "mean_of_categories",
        };
        let metric =
            json!({"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better});
        // Filters read one metric in several ways.
        if !list.contains(&metric) {
            list.push(metric);
        }
    }
    list
}

/// The template of the question of a benchmark of the user's own.
fn own_template(run: &RunFacts, task: &str) -> Option<String> {
    let tasks = run.settings.get("task")?.as_array()?;
    let mut custom = tasks.iter().filter_map(|one| one.get("custom"));
    let own = custom.find(|custom| custom.get("name").and_then(Value::as_str) == Some(task))?;
    own.get("prompt")?.as_str().map(str::to_owned)
}

/// The lines of `samples_<task>_*.jsonl` of lm-evaluation-harness, one for each item and filter, and the task's
/// hash. Requests to judges are left out; they are in the own record. With `is_chat` prompts are shown as
/// turns.
#[must_use]
pub fn harness_samples(
    benchmark: &dyn Benchmark,
    records: &[ItemRecord],
    options: &TaskOptions,
    is_chat: bool,
) -> (Vec<Value>, String) {
    let metrics = benchmark.metrics(options);
    let mut filters: Vec<&str> = Vec::new();
    for metric in &metrics {
        if !filters.contains(&&*metric.filter) {
            filters.push(&metric.filter);
        }
    }
    let mut lines = Vec::new();
    let mut hashes = String::new();
    let n_items = records.iter().filter(|record| record.seed == 0).count().max(1);
    for (place, record) in records.iter().enumerate() {
        let doc_id = place % n_items;
        let requests: Vec<Request> = benchmark
            .requests(&record.item, &record.answers, options)
            .into_iter()
            .filter(|request| request.to == Recipient::Model)
            .collect();
        for filter in &filters {
            let line = sample(doc_id, record, &requests, &metrics, filter, is_chat);
            for key in ["doc_hash", "prompt_hash", "target_hash"] {
                hashes.push_str(line.get(key).and_then(Value::as_str).unwrap_or_default());
            }
            lines.push(Value::Object(line));
        }
    }
    (lines, sha256(&hashes))
}

/// Writes the lines of [`harness_samples`].
///
/// # Errors
/// When the file cannot be written. An earlier one stays.
pub fn write_harness_samples(path: &Path, lines: Vec<Value>) -> Result<(), StoreError> {
    write_lines(path, lines.into_iter().map(Ok))
}

/// Pairs of a context and what follows it, as lm-evaluation-harness has a request's arguments.
fn arguments(ask: &Ask, is_chat: bool) -> Vec<[Value; 2]> {
    let context = |prompt: &Prompt| match (prompt, is_chat) {
        (Prompt::Completion(prompt), false) => Value::from(prompt.text()),
        (prompt, _) => serde_json::to_value(&prompt.conversation(false).messages).unwrap_or_default(),
    };
    match ask {
        Ask::Generate { prompt, sampling } => {
            let settings = json!({
                "until": sampling.stop, "do_sample": sampling.temperature > 0.0, "temperature": sampling.temperature,
                "top_p": sampling.top_p, "max_gen_toks": sampling.max_new_tokens,
            });
            vec![[context(prompt), settings]]
        }
        Ask::LogLikelihood { context: prompt, .. } => {
            ask.continuations(is_chat).into_iter().map(|option| [context(prompt), option.into()]).collect()
        }
        Ask::Rolling { text } => vec![[text.as_str().into(), Value::Null]],
        Ask::Reward { prompt, responses } => {
            let shown = serde_json::to_value(&prompt.messages).unwrap_or_default();
            responses.iter().map(|response| [shown.clone(), response.as_str().into()]).collect()
        }
    }
}

/// Answers as lm-evaluation-harness writes them: texts, and pairs of a log-likelihood and whether it is greedy.
fn responses(answer: Option<&Answer>) -> Vec<Value> {
    match answer {
        Some(Answer::Reply(reply)) => vec![reply.text.as_str().into()],
        Some(Answer::LogLikelihoods(found)) => found
            .iter()
            .map(|one| json!([format!("{:?}", one.sum), if one.is_greedy { "True" } else { "False" }]))
            .collect(),
        Some(Answer::Rewards(found)) => found.iter().map(|one| Value::from(format!("{one:?}"))).collect(),
        Some(Answer::Failed(_)) | None => vec![Value::Null],
    }
}

fn sample(
    doc_id: usize,
    record: &ItemRecord,
    requests: &[Request],
    metrics: &[MetricInfo],
    filter: &str,
    is_chat: bool,
) -> Map<String, Value> {
    let ItemRecord { item, answers, score, .. } = record;
    let all: Vec<[Value; 2]> = requests.iter().flat_map(|request| arguments(&request.ask, is_chat)).collect();
    let given: Vec<Value> =
        requests.iter().flat_map(|request| responses(answers.0.get(&request.id))).collect();
    let filtered: Vec<Value> = match score.extracted.get(filter) {
        Some(extracted) => vec![extracted.clone().unwrap_or_else(|| "[invalid]".into()).into()],
        None => given.clone(),
    };
    let first = all.first().map_or_else(String::new, |[context, _]| match context {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    let numbered: Map<String, Value> = all
        .into_iter()
        .enumerate()
        .map(|(i, [context, option])| (format!("gen_args_{i}"), json!({"arg_0": context, "arg_1": option})))
        .collect();
    let names: Vec<&str> =
        metrics.iter().filter(|metric| metric.filter == filter).map(|metric| metric.name.as_ref()).collect();
    let doc = item.original_row();
    let doc_hash = sha256(&python_json(&doc));
    let mut line = Map::new();
    line.insert("doc_id".into(), doc_id.into());
    line.insert("doc".into(), doc.into());
    line.insert("target".into(), item.target.clone().into());
    line.insert("arguments".into(), numbered.into());
    line.insert("resps".into(), given.into_iter().map(|one| json!([one])).collect());
    line.insert("filtered_resps".into(), filtered.into());
    line.insert("filter".into(), filter.into());
    line.insert("metrics".into(), names.clone().into());
    line.insert("doc_hash".into(), doc_hash.into());
    line.insert("prompt_hash".into(), sha256(&first).into());
    line.insert("target_hash".into(), sha256(&item.target).into());
    line.insert("item_id".into(), item.id.clone().into());
    line.insert("seed".into(), record.seed.into());
    for name in names {
        // An unscored item has null, never 0.
        let measure =
            score.measures.get(&format!("{name},{filter}")).and_then(|measure| measure.as_ref().ok());
        let value =
            measure.filter(|measure| measure.weight != 0.0).map(|measure| measure.value / measure.weight);
        line.insert(name.to_owned(), value.map_or(Value::Null, Value::from));
    }
    line
}
