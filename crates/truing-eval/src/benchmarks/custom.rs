//! A user's own benchmark, without code: rows, a template for the question, and a scorer, which is a reward of
//! `truing-reward` with its settings, as in a recipe.

use std::path::Path;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use truing_data::ObjectRow;
use truing_reward::{Completion, RewardConfig, Rewards};
use truing_types::{Conversation, FinishReason, Message, Role, SamplingOptions, Unscored, UnscoredReason};

use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, MetricInfo, Prompt, Recipient, Request, Row,
    Scoring, TaskOptions,
};

/// A benchmark in a configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomConfig {
    /// Its name in records.
    pub name: String,
    /// What it measures.
    #[serde(default)]
    pub about: String,
    /// The question, a Jinja template of a row's columns, such as `{{ question }}`.
    pub prompt: String,
    /// A system prompt, a template too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Column with the item's name. Default: the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_column: Option<String>,
    /// Column whose items belong together (a document, a dialogue), for the error of the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_column: Option<String>,
    /// Columns by which results are broken down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub category_columns: Vec<String>,
    /// How an answer is scored: rewards, as in `[[reward]]` of a recipe. Several are metrics of their own, and
    /// their weighted sum is the first metric.
    pub scorer: Vec<RewardConfig>,
    /// Maximum tokens of an answer.
    #[serde(default = "default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// Temperature of answers.
    #[serde(default)]
    pub temperature: f32,
    /// Texts that end an answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

fn default_max_new_tokens() -> usize {
    1024
}

/// A benchmark made of a [`CustomConfig`].
#[derive(Debug)]
pub struct CustomBenchmark {
    config: CustomConfig,
    templates: Environment<'static>,
    names: Vec<String>,
}

/// A row as templates see it.
fn object_value(object: &Map<String, Json>) -> Value {
    Value::from_pairs(object.iter().map(|(name, value)| (name.as_str(), template_value(value))))
}

fn template_value(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.to_string()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => Value::from(list.iter().map(template_value).collect::<Vec<Value>>()),
        Json::Object(object) => object_value(object),
    }
}

/// Steps of a template.
const FUEL: u64 = 1_000_000;
const PROMPT: &str = "prompt";
const SYSTEM: &str = "system";

impl CustomBenchmark {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a template or a scorer's setting makes no sense, or there is no scorer.
    pub fn new(config: CustomConfig) -> Result<Self, BenchmarkError> {
        let bad = |setting, found: String, expected: &str| BenchmarkError::BadSetting {
            setting,
            found: format!("`{found}`"),
            expected: expected.to_owned(),
        };
        if config.name.is_empty()
            || !config.name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
        {
            return Err(bad("name", config.name, "letters, digits, `_`, `-` and `.`, as it names files"));
        }
        if config.scorer.is_empty() {
            return Err(bad("scorer", String::new(), "at least one reward"));
        }
        if let Err(error) = Rewards::check(&config.scorer) {
            return Err(bad("scorer", config.name, &format!("valid settings: {error}")));
        }
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        // Texts are shown as they are, and a template of a recipe may not run for ever.
        templates.set_auto_escape_callback(|_| AutoEscape::None);
        templates.set_fuel(Some(FUEL));
        for (name, text) in [(PROMPT, Some(&config.prompt)), (SYSTEM, config.system.as_ref())] {
            if let Some(text) = text
                && let Err(error) = templates.add_template_owned(name, text.clone())
            {
                return Err(bad(name, text.clone(), &format!("a Jinja template: {error}")));
            }
        }
        let names = Rewards::new(&config.scorer, Some(Path::new("")))
            .map(|rewards| rewards.names().map(str::to_owned).collect())
            .unwrap_or_default();
        Ok(Self { config, templates, names })
    }

    fn rendered(&self, name: &'static str, row: Row<'_>) -> Result<Option<String>, BenchmarkError> {
        let Ok(template) = self.templates.get_template(name) else { return Ok(None) };
        let text =
            template.render(object_value(row.object())).map_err(|error| BenchmarkError::BadColumn {
                origin: row.origin().clone(),
                column: name.to_owned(),
                found: "a template that cannot be filled".into(),
                expected: format!("columns that it names ({})", error),
            })?;
        Ok(Some(text))
    }

    /// Refuses rows whose answers a scorer cannot score, before an answer is paid for.
    fn check_columns(&self, items: &[Item]) -> Result<(), BenchmarkError> {
        let Ok(mut rewards) = Rewards::new(&self.config.scorer, Some(Path::new(""))) else { return Ok(()) };
        for item in items {
            let (prompt, origin) = (item.prompt.conversation(false), item.origin());
            let completion = Completion {
                prompt: &prompt,
                text: "",
                n_tokens: 0,
                finish_reason: FinishReason::EndOfTurn,
                columns: &item.row,
                origin: &origin,
            };
            if let Err((scorer, unscored)) = rewards.check_row(&completion) {
                let place = format!("{origin}: ");
                let reason = unscored.detail.strip_prefix(&place).unwrap_or(&unscored.detail).to_owned();
                return Err(BenchmarkError::UnscorableRow { origin, scorer, reason });
            }
        }
        Ok(())
    }

    /// The weighted sum of the scorers. Those that do not apply to a row add nothing.
    fn total(&self) -> MetricInfo {
        let scorers = &self.config.scorer;
        let sum_of = |end: fn(f64) -> f64| scorers.iter().map(|scorer| end(scorer.weight)).sum::<f64>();
        let are_shares = scorers.iter().all(|scorer| scorer.kind.is_share());
        let range = are_shares.then(|| [sum_of(|weight| weight.min(0.0)), sum_of(|weight| weight.max(0.0))]);
        MetricInfo::share("score").range(range)
    }

    /// A scorer, before its weight.
    fn part(name: &str, scorer: &RewardConfig) -> MetricInfo {
        let metric = MetricInfo::share(name.to_owned());
        if scorer.kind.is_share() { metric } else { metric.range(None) }
    }
}

impl Benchmark for CustomBenchmark {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn about(&self) -> &str {
        &self.config.about
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        let mut metrics = vec![self.total()];
        if self.names.len() > 1 {
            let parts = self.names.iter().zip(&self.config.scorer);
            metrics.extend(parts.map(|(name, scorer)| Self::part(name, scorer)));
        }
        metrics
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let mut messages = Vec::new();
            if let Some(system) = self.rendered(SYSTEM, row)? {
                messages.push(Message::new(Role::System, system));
            }
            messages.push(Message::new(Role::User, self.rendered(PROMPT, row)?.unwrap_or_default()));
            let prompt = Prompt::Chat(Conversation { messages, tools: Vec::new() });
            let id = match &self.config.id_column {
                Some(column) => row.name(column)?,
                None => row.origin().line.to_string(),
            };
            let mut item = Item::new(id, row, prompt, String::new());
            if let Some(column) = &self.config.cluster_column {
                item.cluster = Some(row.name(column)?);
            }
            for column in &self.config.category_columns {
                item = item.with_category(column, row.name(column)?);
            }
            Ok(item)
        };
        let items: Vec<Item> = rows.iter().map(item).collect::<Result<_, BenchmarkError>>()?;
        self.check_columns(&items)?;
        Ok(items)
    }

    fn requests(&self, item: &Item, _: &Answers, _: &TaskOptions) -> Vec<Request> {
        let sampling = SamplingOptions {
            max_new_tokens: self.config.max_new_tokens,
            temperature: self.config.temperature,
            stop: self.config.stop.clone(),
            ..SamplingOptions::default()
        };
        let ask = Ask::Generate { prompt: item.prompt.clone(), sampling };
        vec![Request { id: "answer".into(), to: Recipient::Model, ask }]
    }

    fn score(
        &self,
        scored: &[(&Item, &Answers)],
        options: &TaskOptions,
        scoring: &Scoring<'_>,
    ) -> Vec<ItemScore> {
        let infos = self.metrics(options);
        let mut rewards = match Rewards::new(&self.config.scorer, scoring.sandbox_program) {
            Ok(rewards) => rewards,
            Err(error) => {
                let why = Unscored::new(UnscoredReason::NoSandbox, error.to_string());
                return scored.iter().map(|_| ItemScore::unscored(&infos, &why)).collect();
            }
        };
        let origins: Vec<_> = scored.iter().map(|(item, _)| item.origin()).collect();
        let prompts: Vec<Conversation> =
            scored.iter().map(|(item, _)| item.prompt.conversation(false)).collect();
        let mut scores: Vec<ItemScore> = Vec::new();
        for (place, (item, answers)) in scored.iter().enumerate() {
            let reply = match answers.reply("answer") {
                Ok(reply) => reply,
                Err(why) => {
                    scores.push(ItemScore::unscored(&infos, &why));
                    continue;
                }
            };
            let completion = Completion {
                prompt: &prompts[place],
                text: &reply.text,
                n_tokens: reply.n_completion_tokens,
                finish_reason: reply.finish_reason,
                columns: &item.row,
                origin: &origins[place],
            };
            let mut score = ItemScore::default();
            if let Some(found) = rewards.score(&[completion]).pop() {
                score.set(&infos[0], found.total);
                for info in &infos[1..] {
                    if let Some(part) = found.parts.get(&*info.name) {
                        score.set(info, part.clone());
                    }
                }
            }
            scores.push(score);
        }
        scores
    }
}
