//! What is asked, and what the items can resolve, known before the first call.

use std::collections::BTreeSet;

use truing_ask::judging::BYTES_PER_TOKEN;
use truing_eval::benchmarks::{self, Answers, Ask, Loaded, Recipient, Request, TaskOptions};
use truing_eval::comparison::{Resolution, resolution};
use truing_model::{HeadKind, ModelFiles};
use truing_run::{Machine, RunError, model};
use truing_train::{Amount, PlanRow};
use truing_types::{Event, counted};

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
    /// Calls of the model that are known before the first answer.
    pub n_model_calls: u64,
    /// Calls of the judge that are known before the first answer.
    pub n_judge_calls: u64,
    /// Tokens of the prompts of these calls, estimated.
    pub prompt_tokens: u64,
    /// What the items can resolve.
    pub resolution: Resolution,
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
    pub(super) fn load(config: &EvaluateConfig, context: &mut PlanContext<'_>) -> Result<Self, StageError> {
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
                    expected: "true: a server is asked through its chat completions".into(),
                }
                .into());
            }
            (Some(wanted), _) => wanted,
            (None, Some(_)) => template.is_some(),
            (None, None) => true,
        };
        let mut tasks = Vec::new();
        for task in &config.task {
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
            if let Some(limit) = task.options.limit.filter(|limit| *limit < task.loaded.n_rows) {
                context.events.emit(Event::Warning(format!(
                    "{}: only {} of {} rows are used (`limit`); the score is not that of the benchmark",
                    task.config.name(),
                    limit,
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
        prompt_tokens: 0,
        resolution,
    };
    for request in first_requests(&planned) {
        match request.to {
            Recipient::Model => planned.n_model_calls += 1,
            Recipient::Judge => planned.n_judge_calls += 1,
        }
        planned.prompt_tokens += shown_bytes(&request.ask) / BYTES_PER_TOKEN;
    }
    Ok(planned)
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
            rows.push(PlanRow::new(format!("{name}: calls of the model"), Amount::Count(task.n_model_calls)));
            if task.n_judge_calls > 0 {
                rows.push(PlanRow::new(
                    format!("{name}: calls of the judge"),
                    Amount::Count(task.n_judge_calls),
                ));
            }
            rows.push(PlanRow::new(
                format!("{name}: tokens of prompts, estimated"),
                Amount::Count(task.prompt_tokens),
            ));
            if let Some(difference) = task.resolution.paired {
                let name = format!("{name}: smallest difference of two models that can be shown");
                rows.push(PlanRow::new(name, Amount::Share(difference)));
            }
        }
        let summary = format!(
            "{} on {}",
            counted(n_items as u64, "item", "items"),
            inputs.tasks.iter().map(|task| task.config.name()).collect::<Vec<_>>().join(", ")
        );
        Ok(Self { n_threads: machine.n_threads, config, rows, summary })
    }
}

impl StagePlan for EvaluatePlan {
    fn rows(&self) -> Vec<PlanRow> {
        self.rows.clone()
    }

    fn summary(&self) -> String {
        self.summary.clone()
    }
}
