//! What is asked, and what the items can resolve, known before the first call.

use std::collections::BTreeSet;

use truing_ask::judging::BYTES_PER_TOKEN;
use truing_eval::benchmarks::{
    self, Aggregation, Answer, Answers, Ask, Benchmark, Item, Loaded, LogLikelihood, MetricInfo, Recipient,
    Request, ScoringMode, TaskOptions,
};
use truing_eval::comparison::{Resolution, resolution};
use truing_model::{HeadKind, ModelFiles};
use truing_run::{Machine, RunError, model};
use truing_train::{Amount, PlanRow};
use truing_types::{ChatReply, Event, FinishReason, counted};

use super::config::{EvaluateConfig, TaskBenchmark, TaskConfig};
use crate::{PlanContext, StageError, StagePlan};

/// A benchmark with its items.
#[derive(Debug)]
pub struct PlannedTask {
    /// What was typed.
    pub config: TaskConfig,
    /// The benchmark.
    pub benchmark: TaskBenchmark,
    /// Its settings.
    pub options: TaskOptions,
    /// Its items.
    pub loaded: Loaded,
    /// Calls of the model, where every turn is answered.
    pub n_model_calls: u64,
    /// Calls of the judge, where every first reply can be read.
    pub n_judge_calls: u64,
    /// Most calls of the judge, where no reply can be read and each is requested again as often as the benchmark does.
    pub max_judge_calls: u64,
    /// Most calls of the judge for verdicts that are asked for a second time, with requests for unreadable replies.
    pub n_repeated_calls: u64,
    /// Most tokens of the model's answers: the limit of each.
    pub max_answer_tokens: u64,
    /// Most tokens of the judge's replies to all of these calls.
    pub max_verdict_tokens: u64,
    /// Tokens of the prompts of these calls, estimated.
    pub prompt_tokens: u64,
    /// What the items can resolve.
    pub resolution: Resolution,
}

impl PlannedTask {
    /// Its main metric.
    #[must_use]
    pub fn main_metric(&self) -> Option<MetricInfo> {
        self.benchmark.get().metrics(&self.options).into_iter().next()
    }

    /// That fewer solved examples are shown than is customary, where that is so and nobody asked for a number.
    fn fewer_shots(&self) -> Option<String> {
        let (usual, shown) = (self.benchmark.get().default_shots(), self.loaded.shots().fewest);
        if self.options.n_shots.is_some() || shown >= usual {
            return None;
        }
        let why = match &self.config.shots_path {
            Some(path) => format!("`{}` has no more for some items", path.display()),
            None => "they need a file, `shots_path`".to_owned(),
        };
        Some(format!(
            "{}: customary are {usual} solved examples, {shown} are shown: {why}; `num_fewshot = {shown}` \
             says so in the recipe",
            self.config.name()
        ))
    }
}

/// Everything a plan looks at.
#[derive(Debug)]
pub struct EvaluateInputs {
    /// The benchmarks, in the recipe's order.
    pub tasks: Vec<PlannedTask>,
    /// The model in this process; `None` where it is on a server.
    pub model: Option<ModelFiles>,
    /// Whether prompts are shown through a chat template.
    pub is_chat: bool,
    /// The template, where it is known.
    pub chat_template: Option<String>,
    /// How the model's template is rendered.
    pub render: truing_text::RenderOptions,
}

/// What kinds of calls a benchmark makes of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Text,
    Likelihood,
    Reward,
}

fn kind(ask: &Ask) -> Kind {
    match ask {
        Ask::Generate { .. } => Kind::Text,
        Ask::LogLikelihood { .. } | Ask::Rolling { .. } => Kind::Likelihood,
        Ask::Reward { .. } => Kind::Reward,
    }
}

impl EvaluateInputs {
    pub(crate) fn load(config: &EvaluateConfig, context: &mut PlanContext<'_>) -> Result<Self, StageError> {
        config.check()?;
        let files = match (&config.model.server, &config.model.model_name_or_path) {
            (None, Some(path)) => Some(ModelFiles::open(path).map_err(RunError::from)?),
            _ => None,
        };
        let template = match &files {
            Some(files) => {
                let tokenizer = model::tokenizer(files)?;
                let templates = tokenizer.chat_templates();
                templates.get("default").or_else(|| templates.values().next()).cloned()
            }
            None => None,
        };
        let is_chat = match (config.apply_chat_template, &files) {
            (Some(true), Some(_)) if template.is_none() => {
                return Err(RunError::BadSetting {
                    key: "apply_chat_template",
                    found: "true, but the model has no chat template".into(),
                    expected: "false".into(),
                }
                .into());
            }
            (Some(false), None) => {
                return Err(RunError::BadSetting {
                    key: "apply_chat_template",
                    found: "false".into(),
                    expected: "true: a server is called through its chat completions".into(),
                }
                .into());
            }
            (Some(wanted), _) => wanted,
            (None, Some(_)) => template.is_some(),
            (None, None) => true,
        };
        let mut tasks = Vec::new();
        for task in config.task.iter().chain(&config.llmbar_task()) {
            tasks.push(planned(config, task)?);
        }
        let inputs = Self {
            tasks,
            model: files,
            is_chat,
            chat_template: template.filter(|_| is_chat),
            render: context.render.clone(),
        };
        inputs.check_kinds()?;
        for task in &inputs.tasks {
            if let Some(remark) = task.fewer_shots() {
                context.events.emit(Event::Warning(remark));
            }
            if config.seeds > 1 && !is_sampled(config, task) {
                context.events.emit(Event::Warning(format!(
                    "{}: answers are not sampled, so the {} seeds give the same ones; `temperature` above 0 samples",
                    task.config.name(),
                    config.seeds
                )));
            }
            if task.options.limit.is_some_and(|limit| limit < task.loaded.n_rows as f64) {
                context.events.emit(Event::Warning(format!(
                    "{}: only {} of {} rows are used (`limit`); the score is not that of the benchmark",
                    task.config.name(),
                    task.loaded.items.len(),
                    task.loaded.n_rows
                )));
            }
        }
        Ok(inputs)
    }

    /// Refuses calls that the model cannot answer.
    fn check_kinds(&self) -> Result<(), StageError> {
        for task in &self.tasks {
            let kinds: BTreeSet<Kind> = first_requests(task)
                .iter()
                .filter(|request| request.to == Recipient::Model)
                .map(|request| kind(&request.ask))
                .collect();
            let name = task.config.name();
            let refuse = |found: &str, expected: String| {
                Err(RunError::BadSetting { key: "task.name", found: format!("`{name}`, {found}"), expected }
                    .into())
            };
            let is_reward_model =
                self.model.as_ref().map(|files| files.spec.head == (HeadKind::Score { n_outputs: 1 }));
            match is_reward_model {
                None if kinds.iter().any(|kind| *kind != Kind::Text) => {
                    let found = "which needs log-likelihoods or rewards of the model itself";
                    return refuse(
                        found,
                        "a benchmark of generated answers where the model is on a server; multiple choice has \
                         variants that end in `_generate`"
                            .into(),
                    );
                }
                Some(true) if kinds.iter().any(|kind| *kind != Kind::Reward) => {
                    return refuse(
                        "which needs a language model, and this is a reward model",
                        "another model".into(),
                    );
                }
                Some(false) if kinds.contains(&Kind::Reward) => {
                    return refuse(
                        "which needs a reward model, and this is a language model",
                        "a model with a scalar head, as `truing reward train` saves it".into(),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn planned(config: &EvaluateConfig, task: &TaskConfig) -> Result<PlannedTask, StageError> {
    let benchmark = task.benchmark()?;
    let options = config.options(task)?;
    let loaded = benchmarks::load(benchmark.get(), &config.data_dir.join(&task.path), &options)?;
    let resolution = resolution(&loaded.items);
    let mut planned = PlannedTask {
        config: task.clone(),
        benchmark,
        options,
        loaded,
        n_model_calls: 0,
        n_judge_calls: 0,
        max_judge_calls: 0,
        n_repeated_calls: 0,
        max_answer_tokens: 0,
        max_verdict_tokens: 0,
        prompt_tokens: 0,
        resolution,
    };
    count_calls(&mut planned, config);
    Ok(planned)
}

/// Counts what a task asks for.
fn count_calls(planned: &mut PlannedTask, config: &EvaluateConfig) {
    let n_seeds = config.seeds as u64;
    let (mut bytes, mut max_calls, mut max_tokens) = (0, 0, 0);
    for item in &planned.loaded.items {
        let benchmark = planned.benchmark.get();
        for request in simulated_requests(benchmark, item, &planned.options, Verdicts::ReadAtOnce) {
            match request.to {
                // Log-likelihoods and rewards are the same for every seed.
                Recipient::Model if kind(&request.ask) == Kind::Text => planned.n_model_calls += n_seeds,
                Recipient::Model => planned.n_model_calls += 1,
                Recipient::Judge => planned.n_judge_calls += n_seeds,
            }
            if request.to == Recipient::Model {
                let limit = config.max_new_tokens.map_or(token_limit(&request.ask), |limit| limit as u64);
                let is_text = kind(&request.ask) == Kind::Text;
                planned.max_answer_tokens += if is_text { limit * n_seeds } else { 0 };
            }
            bytes += shown_bytes(&request.ask);
        }
        if benchmark.needs_judge() {
            let all = simulated_requests(benchmark, item, &planned.options, Verdicts::NeverRead);
            let of_judge = all.iter().filter(|request| request.to == Recipient::Judge);
            let n_calls = of_judge.clone().count() as u64;
            let n_tokens: u64 = of_judge.map(|request| token_limit(&request.ask)).sum();
            planned.max_judge_calls += n_calls * n_seeds;
            planned.max_verdict_tokens += n_tokens * n_seeds;
            (max_calls, max_tokens) = (max_calls.max(n_calls), max_tokens.max(n_tokens));
        }
    }
    planned.prompt_tokens = bytes / BYTES_PER_TOKEN;
    let n_repeated =
        config.judge.as_ref().map_or(0, |judge| judge.repeat_items.min(planned.loaded.items.len())) as u64;
    planned.n_repeated_calls = n_repeated * max_calls * n_seeds;
    planned.max_verdict_tokens += n_repeated * max_tokens * n_seeds;
}

/// Tokens that an answer may have.
fn token_limit(ask: &Ask) -> u64 {
    match ask {
        Ask::Generate { sampling, .. } => sampling.max_new_tokens as u64,
        Ask::LogLikelihood { .. } | Ask::Rolling { .. } | Ask::Reward { .. } => 0,
    }
}

/// How a simulated judge replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdicts {
    /// The first reply can be read.
    ReadAtOnce,
    /// No reply can be read, so that each is requested again.
    NeverRead,
}

/// What an item is asked if every request to the model has an answer.
fn simulated_requests(
    benchmark: &dyn Benchmark,
    item: &Item,
    options: &TaskOptions,
    verdicts: Verdicts,
) -> Vec<Request> {
    let (mut answers, mut found) = (Answers::default(), Vec::<Request>::new());
    loop {
        let mut is_new = false;
        for request in benchmarks::pending(benchmark, item, &answers, options) {
            if found.iter().any(|known| known.id == request.id) {
                continue;
            }
            if request.to == Recipient::Model || verdicts == Verdicts::NeverRead {
                answers.0.insert(request.id.clone(), simulated_answer(&request.ask));
                is_new = true;
            }
            found.push(request);
        }
        if !is_new {
            return found;
        }
    }
}

/// An answer of the right shape.
fn simulated_answer(ask: &Ask) -> Answer {
    match ask {
        Ask::Generate { .. } => Answer::Reply(ChatReply {
            text: "…".into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tokens: Vec::new(),
            finish_reason: FinishReason::EndOfTurn,
            n_prompt_tokens: 0,
            n_completion_tokens: 1,
        }),
        Ask::LogLikelihood { options, .. } => {
            Answer::LogLikelihoods(vec![
                LogLikelihood { sum: -1.0, n_tokens: 1, is_greedy: false };
                options.len()
            ])
        }
        Ask::Rolling { .. } => {
            Answer::LogLikelihoods(vec![LogLikelihood { sum: -1.0, n_tokens: 1, is_greedy: false }])
        }
        Ask::Reward { responses, .. } => Answer::Rewards(vec![0.0; responses.len()]),
    }
}

/// Whether the benchmark's answers are sampled, so that seeds differ.
fn is_sampled(config: &EvaluateConfig, task: &PlannedTask) -> bool {
    let temperature = |request: &Request| match &request.ask {
        Ask::Generate { sampling, .. } if request.to == Recipient::Model => {
            Some(config.temperature.unwrap_or(sampling.temperature))
        }
        _ => None,
    };
    first_requests(task).iter().filter_map(temperature).any(|temperature| temperature > 0.0)
}

/// What is asked of all items before there is an answer.
fn first_requests(task: &PlannedTask) -> Vec<Request> {
    let none = Answers::default();
    let of_item = |item| task.benchmark.get().requests(item, &none, &task.options);
    task.loaded.items.iter().flat_map(of_item).collect()
}

fn shown_bytes(ask: &Ask) -> u64 {
    let n = match ask {
        Ask::Generate { prompt, .. } => prompt.shown().len(),
        Ask::LogLikelihood { context, options } => {
            context.shown().len() + options.iter().map(String::len).sum::<usize>()
        }
        Ask::Rolling { text } => text.len(),
        Ask::Reward { prompt, responses } => {
            let shown: usize = prompt.messages.iter().map(|message| message.content.len()).sum();
            responses.iter().map(|response| response.len() + shown).sum()
        }
    };
    n as u64
}

/// What will be asked.
#[derive(Debug)]
pub struct EvaluatePlan {
    /// The settings.
    pub config: EvaluateConfig,
    /// Threads to compute with.
    pub n_threads: usize,
    /// Benchmarks that are scored otherwise than their published programs do, and how.
    pub differences: Vec<(String, Vec<String>)>,
    rows: Vec<PlanRow>,
    summary: String,
}

impl EvaluatePlan {
    pub(super) fn resolve(
        config: EvaluateConfig,
        inputs: &EvaluateInputs,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        let mut rows = Vec::new();
        let mut n_items = 0;
        for task in &inputs.tasks {
            let name = task.config.name();
            n_items += task.loaded.items.len();
            rows.push(PlanRow::new(format!("{name}: items"), Amount::Count(task.loaded.items.len() as u64)));
            rows.push(PlanRow::new(
                format!("{name}: solved examples before each item"),
                Amount::Count(task.loaded.shots().fewest as u64),
            ));
            rows.push(PlanRow::new(format!("{name}: calls of the model"), Amount::Count(task.n_model_calls)));
            if task.n_judge_calls > 0 {
                for (what, count) in [
                    ("calls of the judge, if every first reply can be read", task.n_judge_calls),
                    (
                        "calls of the judge, with requests for unreadable replies, at most",
                        task.max_judge_calls,
                    ),
                    ("calls of the judge for repeated verdicts, at most", task.n_repeated_calls),
                    ("tokens of verdicts, at most", task.max_verdict_tokens),
                ] {
                    rows.push(PlanRow::new(format!("{name}: {what}"), Amount::Count(count)));
                }
            }
            rows.push(PlanRow::new(
                format!("{name}: tokens of prompts, estimated"),
                Amount::Count(task.prompt_tokens),
            ));
            if task.max_answer_tokens > 0 {
                let what = format!("{name}: tokens of answers, at most");
                rows.push(PlanRow::new(what, Amount::Count(task.max_answer_tokens)));
            }
            let what = format!("{name}: smallest difference of two models that can be shown");
            rows.push(resolution_row(what, task.main_metric().as_ref(), &task.resolution));
        }
        let summary = format!(
            "{} on {}",
            counted(n_items as u64, "item", "items"),
            inputs.tasks.iter().map(|task| task.config.name()).collect::<Vec<_>>().join(", ")
        );
        let strict = inputs.tasks.iter().filter(|task| task.options.mode == ScoringMode::Strict);
        let differences = strict
            .map(|task| (task.config.name().to_owned(), task.benchmark.get().differences()))
            .filter(|(_, differences)| !differences.is_empty())
            .map(|(name, differences)| (name, differences.iter().map(|&text| text.to_owned()).collect()))
            .collect();
        Ok(Self { n_threads: machine.n_threads, config, differences, rows, summary })
    }
}

/// The line of a plan with the smallest difference in a metric that items can show, or why there is none.
pub(crate) fn resolution_row(what: String, metric: Option<&MetricInfo>, resolution: &Resolution) -> PlanRow {
    if metric.is_some_and(|metric| matches!(metric.aggregation, Aggregation::Perplexity | Aggregation::Bits))
    {
        return PlanRow::new(what, Amount::Unknown("likelihoods of texts have no range"));
    }
    let range = metric.and_then(|metric| metric.range);
    let what = match range {
        Some([low, high]) if [low, high] != [0.0, 1.0] => format!(
            "{what}, as a share of the range {low} to {high}, if an item's two scores differ by a fifth of it"
        ),
        _ => what,
    };
    match resolution.paired_in(range) {
        Some(difference) => PlanRow::new(what, Amount::Share(difference)),
        None => PlanRow::new(what, Amount::NotResolvedWith(resolution.n_items as u64)),
    }
}

impl StagePlan for EvaluatePlan {
    fn table(&self) -> Vec<PlanRow> {
        self.rows.clone()
    }

    fn summary(&self) -> String {
        self.summary.clone()
    }
}
