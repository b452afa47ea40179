//! The prompts, and what it will cost to sample responses to them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;
use truing_ask::judged_folder::JudgedInputs;
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_data::OnBadRow;
use truing_reward::{Completion, RewardError, Rewards};
use truing_run::{DataReport, Machine, RunError};
use truing_stages::{StageError, StagePlan};
use truing_store::{Digest, RunInputs};
use truing_text::RenderOptions;
use truing_train::{Amount, PlanRow};
use truing_types::{Conversation, EventSink, FinishReason, Message, PromptRow, RowOrigin, Unscored};

use super::config::RespondConfig;
use crate::sources::Sources;

/// Bytes that a turn takes beside its text, for estimates.
const TURN_BYTES: usize = 16;
/// Tokens of an image or another part that is not text, for estimates. Their bytes say nothing: the part may be a link.
const PART_TOKENS: u64 = 1024;

/// A prompt and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct SourcePrompt {
    /// The prompt with all columns of its row.
    pub row: PromptRow,
    /// The row.
    pub origin: RowOrigin,
    /// The first row with the same prompt, where there is one before it. The requests would be the same, so it is not
    /// sampled.
    pub repeats: Option<RowOrigin>,
}

/// Everything a plan looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct RespondInputs {
    /// The prompts in the order of their files.
    pub prompts: Vec<SourcePrompt>,
    /// What became of all rows of the data.
    pub report: DataReport,
    /// How the template of a reward model is rendered.
    pub render: RenderOptions,
}

impl RespondInputs {
    /// Reads the prompts.
    ///
    /// # Errors
    /// When a setting is invalid, a file cannot be read, or a reward applies to a file that is not read. With
    /// `on_bad_row = "error"` also when a row is invalid, or a reward applies to it and will never score it.
    pub fn load(
        config: &RespondConfig,
        render: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        config.check()?;
        // What is needed to run programs is not needed to look at columns.
        let mut rewards = Rewards::new(&config.reward, Some(Path::new("")))?;
        let mut first_rows: HashMap<Digest, RowOrigin> = HashMap::new();
        let RespondConfig { data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (prompts, report) = sources.read("the prompts", events, |row, origin, report| {
            match check_columns(config, &mut rewards, &row, &origin) {
                Ok(()) => {}
                Err(RewardError::BadRow { origin, reward, reason })
                    if config.on_bad_row == OnBadRow::Skip =>
                {
                    report.leave_out(&origin, format!("reward `{reward}`: {reason}"));
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            let repeats = match first_rows.entry(request_key(&row.prompt)) {
                Entry::Occupied(first) => Some(first.get().clone()),
                Entry::Vacant(place) => {
                    place.insert(origin.clone());
                    None
                }
            };
            Ok(Some(SourcePrompt { row, origin, repeats }))
        })?;
        // Where a source is a folder, rows name its files.
        let mut known: BTreeSet<String> = report.files.iter().map(|file| file.to_string()).collect();
        known.extend(prompts.iter().map(|prompt| prompt.origin.source.to_string()));
        config.rewards().check_sources(&known, "`data`")?;
        Ok(Self { prompts, report, render })
    }

    /// The places of the prompts that are sampled: no prompt twice.
    pub(super) fn distinct(&self) -> impl Iterator<Item = usize> {
        (0..self.prompts.len()).filter(|&place| self.prompts[place].repeats.is_none())
    }
}

/// Refuses a row that a reward or the judge applies to and will never score, for instance because it has no `answer`.
fn check_columns(
    config: &RespondConfig,
    rewards: &mut Rewards,
    row: &PromptRow,
    origin: &RowOrigin,
) -> Result<(), RewardError> {
    config.reward.iter().try_for_each(|reward| reward.check_row(&row.columns, origin))?;
    let completion = Completion {
        prompt: &row.prompt,
        text: "",
        n_tokens: 0,
        finish_reason: FinishReason::EndOfTurn,
        columns: &row.columns,
        origin,
    };
    let bad_row = |(reward, unscored): (String, Unscored)| {
        let place = format!("{origin}: ");
        let reason = unscored.detail.strip_prefix(&place).unwrap_or(&unscored.detail).to_owned();
        RewardError::BadRow { origin: origin.clone(), reward, reason }
    };
    rewards.check_row(&completion).map_err(bad_row)?;
    let Some(judge) = &config.judge else { return Ok(()) };
    judge.check_row(&completion).map_err(|unscored| bad_row(("judge".to_owned(), unscored)))
}

/// Equal for prompts that give equal requests.
fn request_key(prompt: &Conversation) -> Digest {
    let mut asked = prompt.clone();
    // It is for training, and not sent.
    asked.messages.iter_mut().for_each(|turn| turn.weight = None);
    Digest::of_bytes(&serde_json::to_vec(&asked).expect("texts and numbers are JSON"))
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPlan {
    /// Its name in the output.
    pub name: String,
    /// Samples, at most.
    pub n_calls: u64,
    /// Tokens of their prompts, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of the responses, at most.
    pub completion_tokens: u64,
    /// What all this costs, by these two numbers; `None` where no price is given.
    pub cost: Option<f64>,
}

/// A run as it will be.
#[derive(Debug, Clone, PartialEq)]
pub struct RespondPlan {
    /// The settings.
    pub config: RespondConfig,
    /// Threads of a reward model.
    pub n_threads: usize,
    /// Prompts that may be sampled: the first distinct ones, as many as `max_candidates` allows.
    pub n_prompts: usize,
    /// All prompts.
    pub n_all_prompts: usize,
    /// Prompts that repeat an earlier row and are not sampled.
    pub n_repeated: usize,
    /// What each model is asked, at most.
    pub models: Vec<ModelPlan>,
    /// Calls of the judge, at most.
    pub judge_calls: u64,
}

impl RespondPlan {
    /// Counts.
    ///
    /// # Errors
    /// When a setting is invalid, or there is no prompt.
    pub fn resolve(
        config: RespondConfig,
        inputs: &RespondInputs,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        config.check()?;
        if inputs.prompts.is_empty() {
            let (found, expected) = ("without a single prompt".to_owned(), "at least one prompt".to_owned());
            return Err(RunError::BadSetting { key: "data", found, expected }.into());
        }
        let per_prompt = config.candidates_per_prompt();
        let n_possible = config.max_candidates.map_or(usize::MAX, |most| most / per_prompt.max(1));
        let n_distinct = inputs.distinct().count();
        let n_prompts = n_distinct.min(n_possible);
        let tokens = |prompt: &SourcePrompt| estimated_tokens(&prompt.row.prompt);
        let sampled = inputs.distinct().take(n_prompts);
        let tokens_once: u64 = sampled.map(|place| tokens(&inputs.prompts[place])).sum();
        // The settings limit each factor, but not the number of rows and tables.
        let n_sampled = n_prompts as u64;
        let n_samples: u64 = config.decoding.iter().map(|decoding| decoding.n as u64).sum();
        let new_tokens = config.decoding.iter().map(|decoding| (decoding.n * decoding.max_new_tokens) as u64);
        let prompt_tokens = tokens_once.saturating_mul(n_samples);
        let completion_tokens = n_sampled.saturating_mul(new_tokens.sum());
        let models = config.model.iter().map(|model| ModelPlan {
            name: model.name(),
            n_calls: n_sampled.saturating_mul(n_samples),
            prompt_tokens,
            completion_tokens,
            cost: model.cost(prompt_tokens, completion_tokens),
        });
        let verdicts = config.judge.as_ref().map_or(0, |judge| {
            judge.verdict.n_calls_per_completion().saturating_mul(judge.verdict.max_attempts) as u64
        });
        Ok(Self {
            n_threads: machine.n_threads,
            n_prompts,
            n_all_prompts: inputs.prompts.len(),
            n_repeated: inputs.prompts.len() - n_distinct,
            models: models.collect(),
            judge_calls: n_sampled.saturating_mul(per_prompt as u64).saturating_mul(verdicts),
            config,
        })
    }

    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &RespondInputs) -> Result<RunInputs, StageError> {
        let config = &self.config;
        // The judge's files are among those of the rewards.
        let of_rewards = config.rewards().files()?;
        let record = JudgedInputs {
            stage: config.stage,
            seed: config.seed,
            judges: config.model.iter().map(|model| &model.model).collect(),
            data: &inputs.report.files,
            others: of_rewards.iter().map(|(role, path)| (*role, path.as_path())).collect(),
        };
        Ok(record.record()?)
    }

    /// What the samples cost where each response has its maximum of tokens, with estimated prompt tokens; `None` where
    /// no price is given.
    #[must_use]
    pub fn cost(&self) -> Option<f64> {
        self.models.iter().filter_map(|model| model.cost).reduce(|a, b| a + b)
    }

    /// Models in this process that hold their weights at the same time.
    fn n_local_models(&self) -> usize {
        let local = self.config.chat_models().into_iter().filter(|model| model.server.is_none());
        local.count() + usize::from(self.config.reward_model.is_some())
    }
}

/// Tokens of a prompt with all its turns and tools, before a model has counted them. It is no bound: Chinese text, code
/// and images may have more tokens.
pub(super) fn estimated_tokens(prompt: &Conversation) -> u64 {
    let json = |values: &[Value]| values.iter().map(|value| value.to_string().len()).sum::<usize>();
    let bytes_of_turn = |turn: &Message| {
        let optional = [&turn.reasoning_content, &turn.name, &turn.tool_call_id];
        let optional: usize = optional.into_iter().flatten().map(String::len).sum();
        turn.content.len() + optional + json(turn.tool_calls.as_deref().unwrap_or_default()) + TURN_BYTES
    };
    let bytes = prompt.messages.iter().map(bytes_of_turn).sum::<usize>() + json(&prompt.tools);
    let n_parts: usize = prompt.messages.iter().map(|turn| turn.parts.len()).sum();
    (bytes as u64).div_ceil(BYTES_PER_TOKEN) + PART_TOKENS * n_parts as u64
}

impl StagePlan for RespondPlan {
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: String, n: u64| PlanRow::new(name, Amount::Count(n));
        let per_prompt = self.config.candidates_per_prompt() as u64;
        let mut rows = vec![
            count("prompts".into(), self.n_all_prompts as u64),
            count("prompts that repeat an earlier row".into(), self.n_repeated as u64),
            count("prompts that are sampled, at most".into(), self.n_prompts as u64),
            count("responses per prompt".into(), per_prompt),
            count("responses, at most".into(), per_prompt.saturating_mul(self.n_prompts as u64)),
        ];
        for ModelPlan { name, n_calls, prompt_tokens, completion_tokens, cost } in &self.models {
            rows.push(count(format!("{name}: calls"), *n_calls));
            rows.push(count(format!("{name}: prompt tokens (estimate)"), *prompt_tokens));
            rows.push(count(format!("{name}: completion tokens (maximum)"), *completion_tokens));
            rows.extend(
                cost.map(|cost| PlanRow::new(format!("{name}: cost (estimate)"), Amount::Cost(cost))),
            );
        }
        if self.config.judge.is_some() {
            rows.push(count("judge calls (maximum, with retries)".into(), self.judge_calls));
        }
        rows.extend(
            self.cost().map(|cost| PlanRow::new("cost of the samples (estimate)", Amount::Cost(cost))),
        );
        rows.extend(self.config.budget.map(|budget| PlanRow::new("budget", Amount::Cost(budget))));
        if self.n_local_models() > 0 {
            let name = "models in this process, all in memory at the same time".to_owned();
            rows.push(count(name, self.n_local_models() as u64));
        }
        rows
    }

    fn summary(&self) -> String {
        let per_prompt = self.config.candidates_per_prompt();
        let mut text = format!(
            "{} responses to each of {} of {} prompts, from {}",
            per_prompt,
            self.n_prompts,
            self.n_all_prompts,
            self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
        );
        if let Some(cost) = self.cost() {
            text.push_str(&format!("; estimated cost of the samples: {cost:.2}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_estimate_counts_the_whole_conversation() {
        let tokens = |value: Value| estimated_tokens(&serde_json::from_value(value).unwrap());
        // 16 bytes of the turn and 4 of its text.
        assert_eq!(tokens(json!({"messages": [{"role": "user", "content": "2+2?"}]})), 5);
        let turn = json!({
            "role": "assistant", "content": "2+2?", "reasoning_content": "12345678", "tool_calls": [{"a": 1}],
            "name": "user", "tool_call_id": "call",
        });
        // As before, and 8 of reasoning, 7 of the call, 4 of the name, 4 of the id: 43 bytes.
        assert_eq!(tokens(json!({"messages": [turn]})), 11);
        let tools = json!([{"name": "add"}]);
        assert_eq!(tokens(json!({"messages": [], "tools": tools})), 4, "14 bytes");
        let image = json!({"type": "image_url", "image_url": {"url": "x".repeat(9000)}});
        let turn = json!({"role": "user", "content": "2+2?", "parts": [image]});
        assert_eq!(tokens(json!({"messages": [turn]})), 5 + 1024);
    }
}
