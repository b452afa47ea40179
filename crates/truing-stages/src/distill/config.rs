//! The table `[distillation]` of a recipe.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::AskError;
use truing_client::ClientSettings;
use truing_data::LongSamplePolicy;
use truing_model::{DecodingWeights, Divergence};
use truing_run::RunError;
use truing_run::checks::{require_counts, require_positive, require_share};
use truing_types::SamplingOptions;

use crate::StageError;
use crate::training::TrainingConfig;

/// The table `[distillation]`, with `[distillation.teacher]`. Names follow TRL where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DistillationConfig {
    /// Completions per prompt.
    pub num_generations: usize,
    /// Maximum tokens of a completion.
    pub max_completion_length: usize,
    /// Sampling temperature of the student. Both distributions are compared at this temperature.
    pub temperature: f32,
    /// Nucleus sampling: sample from the smallest set of tokens whose probability reaches this. 1 turns it off.
    pub top_p: f32,
    /// Sample from the k most likely tokens. 0 turns it off.
    pub top_k: usize,
    /// Sample only tokens whose probability is at least this fraction of the most likely token's. 0 turns it off.
    pub min_p: f32,
    /// Strings that end a completion.
    pub stop: Vec<String>,
    /// Completions decoded in parallel. It never changes a result.
    #[schemars(extend("x-decides" = "nothing"))]
    pub generation_batch_size: usize,
    /// Tokens that are drafted for each completion in a step of decoding: what followed where its last tokens occurred
    /// before, in the prompt or the completion (prompt-lookup speculative decoding). 0 turns it off. Faster where
    /// completions repeat texts and few are decoded in parallel. It never changes a result.
    #[schemars(extend("x-decides" = "nothing"))]
    pub prompt_lookup_num_tokens: usize,
    /// Weights that completions are sampled with. `int8` is faster; the completions are then those of a slightly
    /// different student, the divergence at their tokens is exact.
    pub rollout_quantization: DecodingWeights,
    /// Divergence of the student from the teacher that is minimised at every token.
    pub divergence: DivergenceName,
    /// `jensen_shannon`: weight of the teacher in the mixture, between 0 and 1. Near 0 it acts like `forward_kl`, near
    /// 1 like `reverse_kl` (`beta` of TRL's GKD).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = 0.5))]
    pub beta: Option<f64>,
    /// Number of tokens at each position that the divergence is computed over (TRL's `loss_top_k`). Both distributions
    /// are renormalised over them. Servers give at most 20 unless they are set up for more.
    #[serde(alias = "loss_top_k", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "100; 20 with `teacher.server`", "x-aliases" = ["loss_top_k"]))]
    pub kl_top_k: Option<usize>,
    /// Whose most likely tokens they are.
    pub kl_tokens: KlTokens,
    /// Save every completion in `rollouts/`.
    #[schemars(extend("x-decides" = "nothing"))]
    pub keep_rollouts: bool,
    /// The teacher.
    pub teacher: TeacherConfig,
}

/// The teacher of a distillation. Without `model_name_or_path` it is the student itself, and reads what the student
/// does not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherConfig {
    /// A model with the student's tokenizer: a model directory, a `.gguf` file, or the name of a model (`org/name`).
    /// Default: the student.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: Option<String>,
    /// A model on a server that gives the log-probabilities of a prompt's tokens (`prompt_logprobs` of
    /// `/v1/completions`, as vLLM and `truing serve` do). Its token ids have to be the student's, which is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ClientSettings>,
    /// Where the student is its own teacher: its weights before the first step, or its present weights.
    pub weights: TeacherWeights,
    /// Column with text that only the teacher reads, in the last turn of the user. A row without it is invalid
    /// (`on_bad_row`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged_column: Option<String>,
    /// How the teacher's last turn of the user is made of the user's text and the column.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "{prompt}\n{privileged}"))]
    pub privileged_template: Option<String>,
    /// System message that only the teacher reads. It replaces one of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
}

/// A divergence by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DivergenceName {
    /// KL(student, teacher): the student avoids what the teacher finds unlikely.
    #[default]
    ReverseKl,
    /// KL(teacher, student): the student covers what the teacher finds likely.
    ForwardKl,
    /// The generalised Jensen-Shannon divergence of GKD, between the two.
    JensenShannon,
}

/// Whose most likely tokens a divergence is computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlTokens {
    /// The teacher's.
    #[default]
    Teacher,
    /// The student's.
    Student,
}

/// Weights of a student that is its own teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherWeights {
    /// Those before the first step. With LoRA they need no second copy.
    #[default]
    Initial,
    /// The present ones. They need no second copy.
    Current,
}

/// What stands for the user's text in a template.
const PROMPT: &str = "{prompt}";
/// What stands for the column.
const PRIVILEGED: &str = "{privileged}";
/// The complement after the prompt, as PAS appends it.
const TEMPLATE: &str = "{prompt}\n{privileged}";
/// The default of `beta`.
const BETA: f64 = 0.5;
/// The default of `kl_top_k` for a teacher in this process, and for one on a server.
const TOP_K: usize = 100;
const SERVED_TOP_K: usize = 20;

impl Default for DistillationConfig {
    fn default() -> Self {
        Self {
            num_generations: 1,
            max_completion_length: 256,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            stop: Vec::new(),
            generation_batch_size: 32,
            prompt_lookup_num_tokens: 0,
            rollout_quantization: DecodingWeights::default(),
            divergence: DivergenceName::default(),
            beta: None,
            kl_top_k: None,
            kl_tokens: KlTokens::default(),
            keep_rollouts: true,
            teacher: TeacherConfig::default(),
        }
    }
}

impl DistillationConfig {
    /// The divergence with its parameter.
    #[must_use]
    pub fn divergence(&self) -> Divergence {
        match self.divergence {
            DivergenceName::ReverseKl => Divergence::ReverseKl,
            DivergenceName::ForwardKl => Divergence::ForwardKl,
            DivergenceName::JensenShannon => Divergence::JensenShannon { beta: self.beta.unwrap_or(BETA) },
        }
    }

    /// Tokens at each position that the divergence is computed over.
    #[must_use]
    pub fn kl_top_k(&self) -> usize {
        self.kl_top_k.unwrap_or(if self.teacher.server.is_some() { SERVED_TOP_K } else { TOP_K })
    }

    /// How completions are sampled.
    pub(super) fn sampling(&self, seed: u64) -> SamplingOptions {
        SamplingOptions {
            max_new_tokens: self.max_completion_length,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed,
            stop: self.stop.clone(),
            ..SamplingOptions::default()
        }
    }

    /// Checks the settings that need no file.
    pub(super) fn check(&self, config: &TrainingConfig) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        require_counts([
            ("distillation.num_generations", self.num_generations),
            ("distillation.max_completion_length", self.max_completion_length),
            ("distillation.generation_batch_size", self.generation_batch_size),
            ("distillation.kl_top_k", self.kl_top_k()),
        ])?;
        require_positive("distillation.temperature", self.temperature.into())?;
        require_share("distillation.top_p", self.top_p.into())?;
        require_share("distillation.min_p", self.min_p.into())?;
        let teacher = &self.teacher;
        if let Some(server) = &teacher.server {
            server.check().map_err(AskError::from)?;
            config
                .resources
                .check_not_divided("each rank asks the teacher on the server about packs of its own")?;
        }
        let is_student = teacher.is_student();
        let reads_more = teacher.privileged_column.is_some() || teacher.system_prompt.is_some();
        match self {
            Self {
                beta: Some(_), divergence: DivergenceName::ReverseKl | DivergenceName::ForwardKl, ..
            } => Err(RunError::Conflict {
                first: "distillation.beta",
                second: "distillation.divergence",
                reason: "`beta` belongs to `jensen_shannon`",
            }
            .into()),
            Self { beta: Some(beta), .. } if !(*beta > 0.0 && *beta < 1.0) => bad(
                "distillation.beta",
                beta.to_string(),
                "between 0 and 1; `reverse_kl` and `forward_kl` are the limits",
            ),
            _ if self.max_completion_length >= config.max_length as usize => bad(
                "distillation.max_completion_length",
                self.max_completion_length.to_string(),
                "less than `max_length`, which holds the prompt too",
            ),
            _ if is_student && !reads_more => Err(RunError::MissingSetting {
                key: "distillation.teacher",
                expected: "a `model_name_or_path` or a `server`, or a `privileged_column` or `system_prompt` \
                           that the student does not read",
            }
            .into()),
            _ if teacher.server.is_some() && teacher.model_name_or_path.is_some() => {
                Err(RunError::Conflict {
                    first: "distillation.teacher.server",
                    second: "distillation.teacher.model_name_or_path",
                    reason: "a teacher runs either in this process or on a server",
                }
                .into())
            }
            c if teacher.server.is_some() && c.kl_tokens == KlTokens::Student => Err(RunError::Conflict {
                first: "distillation.kl_tokens",
                second: "distillation.teacher.server",
                reason: "a server gives the log-probabilities of its own most likely tokens alone",
            }
            .into()),
            _ if !is_student && teacher.weights != TeacherWeights::default() => Err(RunError::Conflict {
                first: "distillation.teacher.weights",
                second: "distillation.teacher",
                reason: "`weights` applies only to self-distillation",
            }
            .into()),
            _ if !matches!(config.long_samples, LongSamplePolicy::Error | LongSamplePolicy::Drop) => bad(
                "long_samples",
                format!("{:?}", config.long_samples).to_lowercase(),
                "`error` or `drop`: a prompt is not cut",
            ),
            _ if teacher.privileged_template.is_some() && teacher.privileged_column.is_none() => {
                Err(RunError::MissingSetting {
                    key: "distillation.teacher.privileged_column",
                    expected: "the column that `privileged_template` is filled with",
                }
                .into())
            }
            _ => teacher.check_template(),
        }
    }
}

impl TeacherConfig {
    /// Whether the student is its own teacher.
    pub(super) fn is_student(&self) -> bool {
        self.model_name_or_path.is_none() && self.server.is_none()
    }

    fn check_template(&self) -> Result<(), StageError> {
        let template = self.template();
        let is_complete = [PROMPT, PRIVILEGED].iter().all(|name| template.matches(name).count() == 1);
        if is_complete {
            return Ok(());
        }
        Err(RunError::BadSetting {
            key: "distillation.teacher.privileged_template",
            found: format!("`{template}`"),
            expected: format!("`{PROMPT}` and `{PRIVILEGED}` once each"),
        }
        .into())
    }

    fn template(&self) -> &str {
        self.privileged_template.as_deref().unwrap_or(TEMPLATE)
    }

    /// The teacher's turn of the user.
    pub(super) fn turn(&self, prompt: &str, privileged: &str) -> String {
        // In one pass, so that a text that contains a placeholder is left alone.
        let (before, after) = self.template().split_once(PROMPT).unwrap_or(("", ""));
        let fill = |part: &str| part.split(PRIVILEGED).collect::<Vec<_>>().join(privileged);
        [&*fill(before), prompt, &*fill(after)].concat()
    }

    /// Makes a path relative to the recipe's folder absolute.
    pub(crate) fn resolve_paths(&mut self, folder: &Path) {
        if let Some(name) = &mut self.model_name_or_path {
            truing_run::recipe::resolve_model(name, folder);
        }
    }

    /// Replaces a model's name by the path that `find` returns.
    pub(crate) fn find_models<E>(
        &mut self,
        find: &mut dyn FnMut(&str) -> Result<PathBuf, E>,
    ) -> Result<(), E> {
        self.model_name_or_path.as_mut().map_or(Ok(()), |name| truing_run::recipe::find_model(name, find))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teachers_turn_is_filled_in_one_pass() {
        let teacher = TeacherConfig::default();
        assert_eq!(teacher.turn("a {privileged} b", "{prompt}"), "a {privileged} b\n{prompt}");
        let template = "Hint: {privileged}\n\n{prompt}!".to_owned();
        let teacher = TeacherConfig { privileged_template: Some(template), ..TeacherConfig::default() };
        assert_eq!(teacher.turn("Why?", "because"), "Hint: because\n\nWhy?!");
    }
}
