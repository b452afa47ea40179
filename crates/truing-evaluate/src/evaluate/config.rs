//! The settings of an evaluation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_ask::{ChatModelConfig, judging};
use truing_data::read_objects;
use truing_eval::benchmarks::{self, Benchmark, CustomBenchmark, CustomConfig, ScoringMode, TaskOptions};
use truing_eval::results::read_items;
use truing_model::ModelFiles;
use truing_run::checks::{require_counts, require_given, require_not_negative, require_output_dir};
use truing_run::{Recipe, RunError, inputs, recipe};
use truing_store::RunInputs;
use truing_types::StageName;

use crate::StageError;

/// One flat table, then `[model]`, `[[task]]` and `[judge]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the tasks are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of samples.
    pub seed: u64,
    /// Number of seeds with which each item is answered, from `seed` on. With several, scores are means over them,
    /// intervals are clustered by item, and the variance is divided between items, seeds, answers and the judge. Of use
    /// only where answers are sampled (`temperature` above 0).
    #[schemars(extend("x-decides" = "outcome"))]
    pub seeds: usize,
    /// Show prompts through the chat template. Default: if the model has one. Without it, prompts are one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply_chat_template: Option<bool>,
    /// With a chat template, show solved examples as turns of their own.
    pub fewshot_as_multiturn: bool,
    /// System prompt of all requests with a chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_instruction: Option<String>,
    /// Begin texts of which log-likelihoods are computed with the tokenizer's beginning-of-text token. Default: if the
    /// tokenizer does so itself, as Llama's does; so has lm-evaluation-harness. A chat template writes its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_bos_token: Option<bool>,
    /// Only the first items of each task: so many, or below 1 that share of them (`0.1`: a tenth, rounded up). For
    /// tests: the score of a part says little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// Solved examples before each question, for all tasks without a number of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Maximum tokens of an answer. Default: the benchmark's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Sampling temperature of answers. Default: the benchmark's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Also write `samples_<task>_<date>.jsonl` in the form of lm-evaluation-harness.
    #[schemars(extend("x-decides" = "outcome"))]
    pub log_samples: bool,
    /// Stop asking after this many consecutive failures.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// The model that is evaluated: a model on disk, with or without adapters, or one on a server.
    pub model: ChatModelConfig,
    /// The benchmarks.
    pub task: Vec<TaskConfig>,
    /// The judge of benchmarks that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<EvaluateJudge>,
}

/// The judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateJudge {
    /// Maximum requests for one verdict: an unreadable reply is requested again. Default: the benchmark's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(alias = "most_replies")]
    #[schemars(extend("x-aliases" = ["most_replies"]))]
    pub max_attempts: Option<usize>,
    /// Items of each task whose verdicts are requested a second time, to measure how often the judge agrees with
    /// itself. 0 turns it off. A judge in this process at temperature 0 repeats itself and is not called again.
    #[schemars(extend("x-decides" = "outcome"))]
    pub repeat_items: usize,
    /// File of LLMBar: the judge's accuracy on it is reported with every score that it gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub llmbar: Option<PathBuf>,
    /// The model. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub model: ChatModelConfig,
}

impl Default for EvaluateJudge {
    fn default() -> Self {
        Self { max_attempts: None, repeat_items: 20, llmbar: None, model: ChatModelConfig::default() }
    }
}

/// A benchmark and its data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskConfig {
    /// Name of the benchmark (`truing evaluate list`). Not with `custom`, which has its own name.
    pub name: String,
    /// File or folder with the items, or a data set of the hub. Benchmarks are not part of this program.
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub path: PathBuf,
    /// File or folder with solved examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub shots_path: Option<PathBuf>,
    /// Solved examples before each question, of `shots_path`, which must have so many for every question. Default: the
    /// benchmark's own number, or as many as `shots_path` has; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Text before everything, instead of the benchmark's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Only the first items: so many, or below 1 that share of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// Whether the quirks of the published programs are kept.
    pub scoring: ScoringMode,
    /// Answers sampled per item, where a benchmark samples several (`pass@k`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_samples: Option<usize>,
    /// Answers of the model that is compared with: `items_<task>.jsonl` of its evaluation, or rows with `id` and
    /// `answer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub baseline: Option<PathBuf>,
    /// File of references that a benchmark keeps apart, such as the possible answers of function calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub references: Option<PathBuf>,
    /// Earlier turns are the data's own answers, not the model's (SysBench).
    pub given_history: bool,
    /// With `scoring = "official"`, accept a file that is not the published one.
    pub accept_other_version: bool,
    /// A benchmark of your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomConfig>,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Evaluate,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            seeds: 1,
            apply_chat_template: None,
            fewshot_as_multiturn: false,
            system_instruction: None,
            add_bos_token: None,
            limit: None,
            num_fewshot: None,
            max_new_tokens: None,
            temperature: None,
            log_samples: true,
            max_failures_in_a_row: 10,
            model: ChatModelConfig::default(),
            task: Vec::new(),
            judge: None,
        }
    }
}

/// A benchmark that a task names, or that its table describes.
pub enum TaskBenchmark {
    /// One of [`benchmarks::BENCHMARKS`].
    Known(&'static dyn Benchmark),
    /// The user's own.
    Custom(Box<CustomBenchmark>),
}

impl std::fmt::Debug for TaskBenchmark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TaskBenchmark").field(&self.get().name()).finish()
    }
}

impl TaskBenchmark {
    /// What it does.
    #[must_use]
    pub fn get(&self) -> &dyn Benchmark {
        match self {
            Self::Known(benchmark) => *benchmark,
            Self::Custom(benchmark) => &**benchmark,
        }
    }
}

impl TaskConfig {
    /// The name in records.
    #[must_use]
    pub fn name(&self) -> &str {
        self.custom.as_ref().map_or(&self.name, |custom| &custom.name)
    }

    /// Finds the benchmark.
    pub(crate) fn benchmark(&self) -> Result<TaskBenchmark, StageError> {
        match (&self.custom, self.name.is_empty()) {
            (Some(custom), true) if benchmarks::find(&custom.name).is_ok() => Err(RunError::BadSetting {
                key: "task.custom.name",
                found: format!("`{}`, the name of a benchmark of this program", custom.name),
                expected: "another name, as comparisons and reports know benchmarks by their names".into(),
            }
            .into()),
            (Some(custom), true) => {
                Ok(TaskBenchmark::Custom(Box::new(CustomBenchmark::new(custom.clone())?)))
            }
            (None, false) => Ok(TaskBenchmark::Known(benchmarks::find(&self.name)?)),
            (Some(_), false) => Err(RunError::Conflict {
                first: "task.name",
                second: "task.custom",
                reason: "a benchmark of your own has its name in `custom`",
            }
            .into()),
            (None, true) => Err(RunError::MissingSetting {
                key: "task.name",
                expected: "the name of a benchmark (`truing evaluate list`), or a table `custom`",
            }
            .into()),
        }
    }

    /// Replaces its data sets of the hub by folders.
    pub(crate) fn find_data<E>(
        &mut self,
        data_dir: &Path,
        find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>,
    ) -> Result<(), E> {
        let paths = [Some(&mut self.path), self.shots_path.as_mut(), self.references.as_mut()];
        for path in paths.into_iter().flatten() {
            recipe::find_source(path, data_dir, find)?;
        }
        Ok(())
    }

    /// Makes the paths of files that scorers read relative to the recipe's folder.
    pub(crate) fn resolve_paths(&mut self, folder: &Path) {
        let scorers = self.custom.iter_mut().flat_map(|custom| &mut custom.scorer);
        scorers.for_each(|scorer| scorer.resolve_paths(folder));
    }

    /// Every file or folder that it names, with its role in the run's record.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let further =
            [("shots", &self.shots_path), ("baseline", &self.baseline), ("references", &self.references)];
        let further = further.into_iter().filter_map(|(role, path)| Some((role, path.as_deref()?)));
        let scorers = self.custom.iter().flat_map(|custom| &custom.scorer);
        let of_scorers = scorers.filter_map(|scorer| Some(("scorer", scorer.file()?)));
        std::iter::once(("evaluation", self.path.as_path())).chain(further).chain(of_scorers)
    }
}

impl EvaluateConfig {
    /// Checks the settings before any file is read.
    pub(crate) fn check(&self) -> Result<(), StageError> {
        require_output_dir(&self.output_dir, "a folder for the results")?;
        require_given(!self.task.is_empty(), "task", "at least one [[task]] table with `name` and `path`")?;
        self.model.check("model")?;
        if let Some(judge) = &self.judge {
            judge.model.check("judge.model")?;
        }
        let mut names: Vec<&str> = Vec::new();
        for task in &self.task {
            let benchmark = task.benchmark()?;
            let benchmark = benchmark.get();
            let is_given = !task.path.as_os_str().is_empty();
            require_given(is_given, "task.path", "the file or folder with the benchmark's items")?;
            if names.contains(&task.name()) {
                return Err(RunError::BadSetting {
                    key: "task.name",
                    found: format!("`{}` twice", task.name()),
                    expected: "each benchmark once".into(),
                }
                .into());
            }
            names.push(task.name());
            if benchmark.needs_judge() && self.judge.is_none() {
                return Err(RunError::BadSetting {
                    key: "judge",
                    found: "none".into(),
                    expected: format!("a table `[judge.model]`: `{}` needs a judge", benchmark.name()),
                }
                .into());
            }
            if benchmark.needs_baseline() && task.baseline.is_none() {
                return Err(RunError::BadSetting {
                    key: "task.baseline",
                    found: "none".into(),
                    expected: format!(
                        "the answers of the model that `{}` compares with: `items_{}.jsonl` of its evaluation",
                        benchmark.name(),
                        benchmark.name()
                    ),
                }
                .into());
            }
        }
        for limit in self.task.iter().map(|task| task.limit).chain([self.limit]).flatten() {
            if !(limit > 0.0 && limit.is_finite() && (limit < 1.0 || limit.fract() == 0.0)) {
                return Err(RunError::BadSetting {
                    key: "limit",
                    found: limit.to_string(),
                    expected: "a whole number of items, or a share of them between 0 and 1".into(),
                }
                .into());
            }
        }
        require_not_negative("temperature", self.temperature.unwrap_or_default())?;
        Ok(require_counts([
            ("max_new_tokens", self.max_new_tokens.unwrap_or(1)),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
            ("seeds", self.seeds),
        ])?)
    }

    /// The task that measures the judge, unless it is among the tasks already.
    pub(super) fn llmbar_task(&self) -> Option<TaskConfig> {
        let path = self.judge.as_ref()?.llmbar.clone()?;
        let is_known = self.task.iter().any(|task| task.name() == LLMBAR);
        (!is_known).then(|| TaskConfig { name: LLMBAR.to_owned(), path, ..TaskConfig::default() })
    }

    /// The options of a task, with the files that it names read.
    pub(super) fn options(&self, task: &TaskConfig) -> Result<TaskOptions, StageError> {
        let rows = |path: &Option<PathBuf>| match path {
            Some(path) => read_objects(&self.data_dir.join(path)),
            None => Ok(Vec::new()),
        };
        Ok(TaskOptions {
            n_shots: task.num_fewshot.or(self.num_fewshot),
            shots: rows(&task.shots_path).map_err(RunError::from)?,
            description: task.description.clone(),
            limit: task.limit.or(self.limit),
            mode: task.scoring,
            n_samples: task.n_samples,
            max_judge_attempts: self.judge.as_ref().and_then(|judge| judge.max_attempts),
            baseline: match &task.baseline {
                Some(path) => baseline(&self.data_dir.join(path))?,
                None => BTreeMap::new(),
            },
            references: rows(&task.references).map_err(RunError::from)?,
            given_history: task.given_history,
            accept_other_version: task.accept_other_version,
        })
    }

    /// Versions, seed and digests of the model's files and of all data.
    pub(super) fn record(&self) -> Result<RunInputs, RunError> {
        let mut files: Vec<(&str, PathBuf)> = Vec::new();
        let judge = self.judge.as_ref().map(|judge| ("judge", &judge.model));
        for (role, model) in std::iter::once(("model", &self.model)).chain(judge) {
            if let (Some(path), None) = (&model.model_name_or_path, &model.server) {
                let of_model = inputs::model_files(&ModelFiles::open(path)?);
                files.extend(of_model.into_iter().map(|path| (role, path)));
            }
        }
        let llmbar = self.llmbar_task();
        for (role, path) in self.task.iter().chain(&llmbar).flat_map(TaskConfig::paths) {
            let path = self.data_dir.join(path);
            let of_path = if path.is_dir() { truing_data::data_files(&path)? } else { vec![path] };
            files.extend(of_path.into_iter().map(|path| (role, path)));
        }
        inputs::run_inputs(self.stage, self.seed, files)
    }
}

/// The benchmark that measures judges.
pub(super) const LLMBAR: &str = "llmbar";

/// Answers by item: of another evaluation's items, or of rows with `id` and `answer`.
fn baseline(path: &Path) -> Result<BTreeMap<String, String>, StageError> {
    if let Ok(items) = read_items(path) {
        let answer = |record: truing_eval::results::ItemRecord| {
            let text = record.answers.text(ANSWER).ok()?.to_owned();
            Some((record.item.id, text))
        };
        return Ok(items.into_iter().filter_map(answer).collect());
    }
    let mut answers = BTreeMap::new();
    for row in read_objects(path).map_err(RunError::from)? {
        let text = |keys: &[&str]| {
            keys.iter().find_map(|key| match row.object.get(*key)? {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
        };
        let id = text(&["id", "uid", "question_id", "key"]);
        let answer =
            text(&["answer", "output", "response", "completion"]).or_else(|| published_answer(&row.object));
        let (Some(id), Some(answer)) = (id, answer) else {
            return Err(RunError::BadColumn {
                origin: row.origin,
                column: "id".into(),
                found: "a row without it, or without an answer".into(),
                expected: "`id` and `answer`, both texts, or `uid` and `messages` as Arena-Hard's files of \
                           answers have them",
            }
            .into());
        };
        answers.insert(id, answer);
    }
    Ok(answers)
}

/// The answer of a row of the published files: the last message of the assistant (Arena-Hard), whose content may be an
/// object with `answer`, or the first turn of the first choice (MT-Bench and the first files of Arena-Hard).
fn published_answer(row: &Map<String, Value>) -> Option<String> {
    let is_of_assistant = |message: &&Value| message.get("role").and_then(Value::as_str) == Some("assistant");
    let mut messages = row.get("messages").and_then(Value::as_array).into_iter().flatten();
    let of_messages = messages.rfind(is_of_assistant).and_then(|message| message.get("content"));
    let of_choices = || row.get("choices")?.get(0)?.get("turns")?.get(0);
    let content = of_messages.or_else(of_choices)?;
    let content = content.get("answer").or_else(|| content.get("content")).unwrap_or(content);
    content.as_str().map(str::to_owned)
}

/// The name of the request whose reply is an item's answer.
const ANSWER: &str = "answer";

impl Recipe for EvaluateConfig {
    const STAGES: &'static [StageName] = &[StageName::Evaluate];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        self.model.resolve_paths(folder);
        if let Some(judge) = &mut self.judge {
            judge.model.resolve_paths(folder);
        }
        self.task.iter_mut().for_each(|task| task.resolve_paths(folder));
    }

    fn fill_in(&mut self) {
        judging::share_cache(self.judge.iter_mut().map(|judge| &mut judge.model), &self.output_dir);
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        self.model.find(find)?;
        self.judge.as_mut().map_or(Ok(()), |judge| judge.model.find(find))
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let data_dir = self.data_dir.clone();
        if let Some(path) = self.judge.as_mut().and_then(|judge| judge.llmbar.as_mut()) {
            recipe::find_source(path, &data_dir, find)?;
        }
        self.task.iter_mut().try_for_each(|task| task.find_data(&data_dir, find))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scorer_s_file_is_beside_the_recipe_and_an_input_by_its_content() {
        let text = |file: &str| {
            format!(
                "stage = \"evaluate\"\n[[task]]\npath = \"rows.jsonl\"\n[task.custom]\nname = \"own\"\n\
                 prompt = \"{{{{ question }}}}\"\n\
                 scorer = [{{ kind = {{ json_schema = {{ file = \"{file}\" }} }} }}]\n"
            )
        };
        let read =
            |path: &str, file: &str| EvaluateConfig::from_toml(&text(file), Path::new(path), &[]).unwrap();
        let config = read("/a/recipe.toml", "schema.json");
        let scorer = config.task[0].paths().last().unwrap();
        assert_eq!(scorer, ("scorer", Path::new("/a/schema.json")));
        let inputs = config.input_settings();
        let found = inputs.iter().find(|input| input.path == Path::new("/a/schema.json")).unwrap();
        assert_eq!(found.setting, "task.0.custom.scorer.0.kind.json_schema.file");
        let moved = read("/b/recipe.toml", "other.json");
        let decisive = |config: &EvaluateConfig| config.decisive(recipe::Scope::Content);
        assert_eq!(decisive(&moved), decisive(&config), "the path decides nothing");
    }

    #[test]
    fn answers_are_read_of_own_and_published_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let rows = [
            json!({"id": 1, "answer": "own"}),
            // As Arena-Hard publishes them, now and at first.
            json!({"uid": "a", "model": "m", "messages": [
                {"role": "user", "content": "Q?"}, {"role": "assistant", "content": {"answer": "new"}}]}),
            json!({"uid": "b", "messages": [
                {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "plain"}]}),
            json!({"question_id": "c", "choices": [{"index": 0, "turns": [{"content": "first"}]}]}),
            json!({"question_id": "d", "choices": [{"index": 0, "turns": ["one", "two"]}]}),
        ];
        std::fs::write(&path, rows.map(|row| format!("{row}\n")).concat()).unwrap();
        let expected = [("1", "own"), ("a", "new"), ("b", "plain"), ("c", "first"), ("d", "one")];
        let expected = expected.map(|(id, answer)| (id.to_owned(), answer.to_owned()));
        assert_eq!(baseline(&path).unwrap(), BTreeMap::from(expected));
        std::fs::write(&path, "{\"uid\": \"a\", \"messages\": []}\n").unwrap();
        let error = baseline(&path).unwrap_err().to_string();
        assert!(error.contains("answers.jsonl:1") && error.contains("`uid` and `messages`"), "{error}");
    }
}
