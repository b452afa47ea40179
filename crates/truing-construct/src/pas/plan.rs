//! The pool with what is known of each prompt, the examples, and what it will cost to make pairs.

use serde_json::{Map, Value};
use truing_ask::judged_folder::JudgedInputs;
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_ask::pas::{CriticCases, GoldenPairs, Language, questions};
use truing_run::rows::value_at;
use truing_run::{DataReport, RunError};
use truing_store::RunInputs;
use truing_train::{Amount, PlanRow};
use truing_types::{EventSink, Role, RowOrigin, Seed};

use super::config::PasConfig;
use crate::sources::Sources;
use crate::{StageError, StagePlan};

/// A prompt of the pool.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolPrompt {
    /// The prompt.
    pub text: String,
    /// Where it came from.
    pub origin: RowOrigin,
    /// Its category among those of the golden pairs; `None` where the generator assigns it.
    pub category: Option<String>,
    /// Why it cannot have a complement.
    pub unusable: Option<&'static str>,
    /// Which rule of the selection drops it.
    pub deselected: Option<String>,
}

/// Everything a plan looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct PasInputs {
    /// Examples for the generator.
    pub golden: GoldenPairs,
    /// Examples for the critic.
    pub cases: CriticCases,
    /// The pool in the order of its files.
    pub prompts: Vec<PoolPrompt>,
    /// What became of all rows of the data.
    pub report: DataReport,
}

impl PasInputs {
    /// Reads examples and pool.
    ///
    /// # Errors
    /// When a file cannot be read, an example is invalid, a row is and `on_bad_row` is `error`, or `category_names`
    /// names a category without golden pairs.
    pub fn load(config: &PasConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        config.check()?;
        let golden = GoldenPairs::load(config.golden_pairs.as_deref())?;
        let cases = CriticCases::load(config.critic_cases.as_deref())?;
        if let Some(unknown) = config.category_names.values().find(|id| !golden.categories().contains(id)) {
            return Err(RunError::BadSetting {
                key: "category_names",
                found: format!("`{unknown}`"),
                expected: format!("a category of the golden pairs: {}", golden.categories().join(", ")),
            }
            .into());
        }
        let PasConfig { data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (prompts, report) = sources.read("the prompts", events, |row, origin, _| {
            let (text, unusable) = match row.prompt.messages.as_slice() {
                [only] if only.role == Role::User && row.prompt.tools.is_empty() => {
                    let is_long = only.content.chars().count() > config.max_prompt_characters;
                    (only.content.clone(), is_long.then_some("longer than `max_prompt_characters`"))
                }
                turns => {
                    let asked = turns.iter().rev().find(|turn| turn.role == Role::User);
                    let text = asked.map_or_else(String::new, |turn| turn.content.clone());
                    (text, Some("not a single turn of a user"))
                }
            };
            Ok(Some(PoolPrompt {
                text,
                origin,
                category: category(config, &golden, &row.columns),
                unusable,
                deselected: deselected(config, &row.columns),
            }))
        })?;
        Ok(Self { golden, cases, prompts, report })
    }
}

/// The texts of a column: of a list each value.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

fn category(config: &PasConfig, golden: &GoldenPairs, columns: &Map<String, Value>) -> Option<String> {
    let given = texts(value_at(columns, &config.category_column)?);
    given.into_iter().find_map(|name| {
        let id = config.category_names.get(&name).unwrap_or(&name);
        golden.categories().contains(id).then(|| id.clone())
    })
}

fn deselected(config: &PasConfig, columns: &Map<String, Value>) -> Option<String> {
    if let (Some(column), Some(min_score)) = (&config.score_column, config.min_score) {
        match value_at(columns, column).and_then(Value::as_f64) {
            None => return Some(format!("no score in `{column}`")),
            Some(score) if score < min_score => return Some("below `min_score`".into()),
            Some(_) => {}
        }
    }
    let is_kept = |(column, wanted): &(&String, &Vec<String>)| {
        value_at(columns, column).is_some_and(|value| texts(value).iter().any(|text| wanted.contains(text)))
    };
    let rule = config.keep.iter().find(|rule| !is_kept(rule));
    rule.map(|(column, _)| format!("not kept by `{column}`"))
}

/// A run as it will be.
#[derive(Debug, Clone, PartialEq)]
pub struct PasPlan {
    /// The settings.
    pub config: PasConfig,
    /// Places of the prompts that are to have a complement, in ascending order.
    pub chosen: Vec<usize>,
    /// Of each other prompt, why not; `None` for the chosen.
    pub dropped: Vec<Option<String>>,
    /// Calls that ask for a category.
    pub n_category_calls: u64,
    /// Calls where every complement is accepted at once and every reply can be read.
    pub n_calls: u64,
    /// Calls where no complement is ever accepted; replies that cannot be read come on top.
    pub max_calls: u64,
    /// Tokens of the prompts of `max_calls`, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of their replies at most.
    pub completion_tokens: u64,
}

impl PasPlan {
    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &PasInputs) -> Result<RunInputs, StageError> {
        let config = &self.config;
        let golden = config.golden_pairs.as_deref().map(|path| ("golden pairs", path));
        let cases = config.critic_cases.as_deref().map(|path| ("critic cases", path));
        let record = JudgedInputs {
            stage: config.stage,
            seed: config.seed,
            judges: config.chat_models(),
            data: &inputs.report.files,
            others: golden.into_iter().chain(cases).collect(),
        };
        Ok(record.record()?)
    }

    /// Chooses prompts and counts.
    ///
    /// # Errors
    /// When a setting is invalid, or no prompt is left.
    pub fn resolve(config: PasConfig, inputs: &PasInputs) -> Result<Self, StageError> {
        config.check()?;
        let mut dropped: Vec<Option<String>> =
            inputs.prompts.iter().map(|prompt| unusable(inputs, prompt)).collect();
        let usable: Vec<usize> = (0..dropped.len()).filter(|&idx| dropped[idx].is_none()).collect();
        let n_selected = usable.iter().filter(|&&idx| inputs.prompts[idx].deselected.is_none()).count();
        if config.selection {
            for &idx in &usable {
                dropped[idx].clone_from(&inputs.prompts[idx].deselected);
            }
        } else {
            for idx in not_sampled(usable, n_selected, Seed(config.seed)) {
                dropped[idx] = Some("not sampled (`selection = false`)".into());
            }
        }
        let chosen: Vec<usize> = (0..dropped.len()).filter(|&idx| dropped[idx].is_none()).collect();
        if chosen.is_empty() {
            let expected = "at least one prompt that the selection keeps";
            let found = format!("{} prompts, none of which is left", inputs.prompts.len());
            return Err(RunError::BadSetting { key: "data", found, expected: expected.into() }.into());
        }
        let prompts = || chosen.iter().map(|&idx| &inputs.prompts[idx]);
        let uncategorised = || prompts().filter(|prompt| prompt.category.is_none());
        let rounds = if config.critic { 1 + config.max_regenerations as u64 } else { 1 };
        let calls_of_round = if config.critic { 2 } else { 1 };
        let (n, n_category_calls) = (chosen.len() as u64, uncategorised().count() as u64);
        let max_calls = n_category_calls + n * rounds * calls_of_round;
        // Only their lengths are estimated: the category may be unknown, and the complement is.
        let category = inputs.golden.categories().first().map_or("", String::as_str);
        let bytes_of_round = |text: &str| {
            let examples = inputs.golden.of(category, Language::of(text), config.n_examples);
            let critic = inputs.cases.of(Language::of(text), 0).filter(|_| config.critic);
            let review = critic.map_or(0, |cases| questions::review(cases, text, "").len());
            (questions::generate(category, &examples, text).len() + review) as u64
        };
        let bytes: u64 = prompts().map(|prompt| bytes_of_round(&prompt.text) * rounds).sum::<u64>()
            + uncategorised()
                .map(|prompt| questions::classify(&inputs.golden, &prompt.text).len() as u64)
                .sum::<u64>();
        Ok(Self {
            n_category_calls,
            n_calls: n_category_calls + n * calls_of_round,
            max_calls,
            prompt_tokens: bytes.div_ceil(BYTES_PER_TOKEN),
            completion_tokens: max_calls * config.max_new_tokens as u64,
            chosen,
            dropped,
            config,
        })
    }
}

/// Why a prompt cannot have a complement, whatever is selected.
fn unusable(inputs: &PasInputs, prompt: &PoolPrompt) -> Option<String> {
    let no_examples =
        prompt.category.as_ref().and_then(|category| no_examples(inputs, category, &prompt.text));
    prompt.unusable.map(str::to_owned).or(no_examples)
}

/// What is missing for a complement to a prompt of a category.
pub(super) fn no_examples(inputs: &PasInputs, category: &str, prompt: &str) -> Option<String> {
    let language = Language::of(prompt);
    if inputs.golden.of(category, language, 1).is_empty() {
        return Some(format!("no golden pairs of `{category}` in `{}`", language.code()));
    }
    inputs.cases.of(language, 0).is_none().then(|| format!("no critic cases in `{}`", language.code()))
}

/// All but `n` places, the `n` sampled at random.
fn not_sampled(mut indices: Vec<usize>, n: usize, seed: Seed) -> Vec<usize> {
    seed.sample_to_front(&mut indices, n, "prompts without selection", &[]);
    indices.split_off(n.min(indices.len()))
}

impl StagePlan for PasPlan {
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
        vec![
            count("prompts of the pool", self.dropped.len() as u64),
            count("prompts that are to have a complement", self.chosen.len() as u64),
            count("calls for categories", self.n_category_calls),
            count("calls, if every complement is accepted at once", self.n_calls),
            count("calls, at most", self.max_calls),
            count("prompt tokens (estimate)", self.prompt_tokens),
            count("completion tokens (maximum)", self.completion_tokens),
        ]
    }

    fn summary(&self) -> String {
        format!(
            "complements for {} of {} prompts, {} to {} calls",
            self.chosen.len(),
            self.dropped.len(),
            self.n_calls,
            self.max_calls
        )
    }
}
