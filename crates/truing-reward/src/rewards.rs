//! Several rewards as one: weighted, each for the sources it applies to.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{ReasoningMarks, RowOrigin, TextStart, Unscored, UnscoredReason, split_reasoning};

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};
use crate::verifiers::code::{Code, CodeConfig};
use crate::verifiers::exact_match::{ExactMatch, ExactMatchConfig};
use crate::verifiers::format::{Format, FormatConfig};
use crate::verifiers::ifeval::{self, Ifeval, IfevalConfig};
use crate::verifiers::json_schema::{JsonSchema, JsonSchemaConfig};
use crate::verifiers::language::{Language, LanguageConfig};
use crate::verifiers::length::{Length, LengthConfig, Overlong, OverlongConfig, Unit};
use crate::verifiers::math_answer::{MathAnswer, MathAnswerConfig};
use crate::verifiers::repetition::{Repetition, RepetitionConfig};

/// A `[[reward]]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// Name in metrics. Default: the name of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Weight in the sum.
    #[serde(default = "one")]
    pub weight: f64,
    /// Apply only to prompts of these sources: a file name, or the end of a path in whole folders (`math/train.jsonl`).
    /// Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// If this reward cannot be computed, omit it from the sum instead of leaving the completion unscored.
    #[serde(default)]
    pub optional: bool,
    /// The part of a completion that is read. Default: the answer without the reasoning; for `overlong`, `length` in
    /// tokens, and a `format` whose pattern names a reasoning tag, the whole completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Reads>,
    /// The kind of reward with its settings, for instance `{ math_answer = { column = "answer" } }`.
    pub kind: RewardKind,
}

/// Whether `entry` of a recipe's `sources` means the source `path`: the whole path, or its last folders and the file's
/// name. `b.jsonl` means `data/b.jsonl` and not `data/ab.jsonl`.
#[must_use]
pub fn is_source(path: &str, entry: &str) -> bool {
    // A path from the recipe's folder: rows have it without the folders that it leaves.
    let is_way_out = |part: &Component<'_>| matches!(part, Component::CurDir | Component::ParentDir);
    let entry: PathBuf = Path::new(entry).components().skip_while(is_way_out).collect();
    entry.file_name().is_some() && Path::new(path).ends_with(entry)
}

fn one() -> f64 {
    1.0
}

/// The part of a completion that a reward reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// The text after the reasoning. Reasoning that is never closed has no answer.
    #[default]
    Answer,
    /// Reasoning, tags and answer.
    Whole,
}

/// What a reward computes, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// 1 if the final answer of a mathematical problem equals the reference.
    MathAnswer(MathAnswerConfig),
    /// The fraction of a prompt's IFEval instructions that are followed.
    Ifeval(IfevalConfig),
    /// 1 if the completion equals the reference.
    ExactMatch(ExactMatchConfig),
    /// 1 if a regular expression matches.
    Format(FormatConfig),
    /// 1 inside a range of lengths.
    Length(LengthConfig),
    /// DAPO's soft penalty of overlong completions.
    Overlong(OverlongConfig),
    /// A penalty of repeated n-grams.
    Repetition(RepetitionConfig),
    /// 1 for JSON that is valid against a schema.
    JsonSchema(JsonSchemaConfig),
    /// 1 if the completion is in the wanted language.
    Language(LanguageConfig),
    /// 1 for a Python program that passes tests, in a sandbox.
    Code(CodeConfig),
}

/// One completion with all its rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredCompletion {
    /// Each reward that applies to the row, before its weight.
    pub parts: BTreeMap<String, Result<f64, Unscored>>,
    /// The weighted sum.
    pub total: Result<f64, Unscored>,
}

struct Part {
    name: String,
    weight: f64,
    sources: Vec<String>,
    optional: bool,
    reads: Reads,
    function: Box<dyn RewardFunction>,
}

/// The rewards of a run.
#[derive(Default)]
pub struct Rewards {
    parts: Vec<Part>,
    marks: ReasoningMarks,
}

impl std::fmt::Debug for Rewards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl RewardKind {
    /// Whether all values are from 0 to 1. Length rewards and penalties are on scales of their own.
    #[must_use]
    pub fn is_share(&self) -> bool {
        match self {
            Self::MathAnswer(_)
            | Self::Ifeval(_)
            | Self::ExactMatch(_)
            | Self::Format(_)
            | Self::JsonSchema(_)
            | Self::Language(_)
            | Self::Code(_) => true,
            Self::Length(_) | Self::Overlong(_) | Self::Repetition(_) => false,
        }
    }

    fn build(&self, sandbox_program: Option<&Path>) -> Result<Box<dyn RewardFunction>, RewardError> {
        Ok(match self.clone() {
            Self::MathAnswer(config) => Box::new(MathAnswer(config)),
            Self::Ifeval(config) => Box::new(Ifeval(config)),
            Self::ExactMatch(config) => Box::new(ExactMatch(config)),
            Self::Format(config) => Box::new(Format::new(&config)?),
            Self::Length(config) => Box::new(Length::new(config)?),
            Self::Overlong(config) => Box::new(Overlong::new(config)?),
            Self::Repetition(config) => Box::new(Repetition::new(config)?),
            Self::JsonSchema(config) => Box::new(JsonSchema::new(config)?),
            Self::Language(config) => Box::new(Language::new(config)?),
            Self::Code(config) => {
                let program = sandbox_program.ok_or(RewardError::NoSandboxProgram)?;
                Box::new(Code::new(config, program.to_owned())?)
            }
        })
    }
}

impl RewardConfig {
    /// Whether it applies to a source.
    fn is_for(&self, source: &str) -> bool {
        is_meant(&self.sources, source)
    }

    /// Checks of a row what can be known before a completion is sampled for it. Of an `optional` reward nothing has to
    /// be there.
    ///
    /// # Errors
    /// When the reward applies to the row and will never score it.
    pub fn check_row(&self, columns: &Map<String, Value>, origin: &RowOrigin) -> Result<(), RewardError> {
        match &self.kind {
            RewardKind::Ifeval(config) if !self.optional && self.is_for(&origin.source) => {
                let bad = |reason| {
                    let reward = self.name.clone().unwrap_or_else(|| "ifeval".into());
                    RewardError::BadRow { origin: origin.clone(), reward, reason }
                };
                ifeval::check_ids(columns, config).map_err(bad)
            }
            _ => Ok(()),
        }
    }

    /// A file beside the recipe that decides the reward.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.kind {
            RewardKind::JsonSchema(config) => config.file.as_deref(),
            _ => None,
        }
    }

    /// Makes the path of its file relative to the recipe's folder.
    pub fn resolve_paths(&mut self, folder: &Path) {
        if let RewardKind::JsonSchema(JsonSchemaConfig { file: Some(file), .. }) = &mut self.kind {
            *file = folder.join(&*file);
        }
    }
}

/// Whether a reward with these `sources` applies to a source.
#[must_use]
pub fn is_meant(sources: &[String], source: &str) -> bool {
    sources.is_empty() || sources.iter().any(|entry| is_source(source, entry))
}

impl RewardKind {
    /// The name of a reward that needs the number of tokens of a completion.
    #[must_use]
    pub fn counts_tokens(&self) -> Option<&'static str> {
        match self {
            Self::Overlong(_) => Some("overlong"),
            Self::Length(config) if config.unit == Unit::Tokens => Some("length"),
            _ => None,
        }
    }

    /// What is read: as the recipe says, or what makes sense.
    fn reads(&self, asked: Option<Reads>) -> Result<Reads, RewardError> {
        match (self, asked, self.counts_tokens()) {
            (_, Some(Reads::Answer), Some(reward)) => {
                let reason = "is `answer`, but it counts sampled tokens: expected `whole`".into();
                Err(RewardError::BadSetting { reward, key: "reads", reason })
            }
            (_, Some(reads), _) => Ok(reads),
            (_, None, Some(_)) => Ok(Reads::Whole),
            (Self::Format(config), None, None)
                if ReasoningMarks::default().occur_in(&config.pattern.replace('\\', "")) =>
            {
                Ok(Reads::Whole)
            }
            (_, None, None) => Ok(Reads::Answer),
        }
    }
}

impl Rewards {
    /// Checks the settings of what the recipe lists.
    ///
    /// # Errors
    /// When a setting makes no sense or two rewards have one name.
    pub fn check(configs: &[RewardConfig]) -> Result<(), RewardError> {
        Self::new(configs, Some(Path::new(""))).map(|_| ())
    }

    /// Builds what the recipe lists. Code runs in the sandbox that `sandbox_program` starts: a binary that answers to
    /// [`CHILD_COMMAND`](crate::sandbox::CHILD_COMMAND).
    ///
    /// # Errors
    /// As [`check`](Self::check), and when there is a reward for code and no program.
    pub fn new(configs: &[RewardConfig], sandbox_program: Option<&Path>) -> Result<Self, RewardError> {
        let mut rewards = Self::default();
        for config in configs {
            let function = config.kind.build(sandbox_program)?;
            let reads = config.kind.reads(config.reads)?;
            rewards.add(
                config.name.clone(),
                config.weight,
                &config.sources,
                config.optional,
                reads,
                function,
            )?;
        }
        Ok(rewards)
    }

    /// Adds a reward that needs more than a recipe can hold: a reward model, a judge.
    ///
    /// # Errors
    /// When the weight is 0 or no number, or the name is taken.
    pub fn add(
        &mut self,
        name: Option<String>,
        weight: f64,
        sources: &[String],
        optional: bool,
        reads: Reads,
        function: Box<dyn RewardFunction>,
    ) -> Result<(), RewardError> {
        let name = name.unwrap_or_else(|| function.name().to_owned());
        if !weight.is_finite() || weight == 0.0 {
            return Err(RewardError::BadWeight { name, weight: weight.to_string() });
        }
        if self.parts.iter().any(|part| part.name == name) {
            return Err(RewardError::SameName { name });
        }
        self.parts.push(Part { name, weight, sources: sources.to_vec(), optional, reads, function });
        Ok(())
    }

    /// Names in the order of the recipe.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.name.as_str())
    }

    /// Sets the marks around a thought. Default: those of known models.
    pub fn set_reasoning_marks(&mut self, marks: ReasoningMarks) {
        self.marks = marks;
    }

    /// Checks of a row that every reward that applies to it, and is not `optional`, will be able to score its
    /// completions. `completion` has no text. Nothing is asked or run.
    ///
    /// # Errors
    /// The name of the first reward that will not, and why.
    pub fn check_row(&mut self, completion: &Completion<'_>) -> Result<(), (String, Unscored)> {
        for part in self.parts.iter_mut().filter(|part| !part.optional) {
            if !is_meant(&part.sources, &completion.origin.source) {
                continue;
            }
            match part.function.check_row(completion) {
                Err(unscored)
                    if matches!(
                        unscored.reason,
                        UnscoredReason::MissingReference | UnscoredReason::BadReference
                    ) =>
                {
                    return Err((part.name.clone(), unscored));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Scores completions, each by the rewards that apply to its row.
    pub fn score(&mut self, completions: &[Completion<'_>]) -> Vec<ScoredCompletion> {
        self.score_after(completions, &vec![TextStart::Unknown; completions.len()])
    }

    /// As [`Rewards::score`]; `starts` says of each completion whether its prompt ends inside a thought.
    pub fn score_after(
        &mut self,
        completions: &[Completion<'_>],
        starts: &[TextStart<'_>],
    ) -> Vec<ScoredCompletion> {
        let answers: Vec<Option<&str>> = completions
            .iter()
            .enumerate()
            .map(|(i, completion)| {
                let start = starts.get(i).copied().unwrap_or_default();
                split_reasoning(completion.text, &self.marks, start).answer
            })
            .collect();
        let mut scored: Vec<ScoredCompletion> = completions
            .iter()
            .map(|completion| {
                let detail = format!("{}: no reward applies to this source", completion.origin);
                let total = Err(Unscored::new(UnscoredReason::MissingReference, detail));
                ScoredCompletion { parts: BTreeMap::new(), total }
            })
            .collect();
        for part in &mut self.parts {
            let is_meant = |i: &usize| is_meant(&part.sources, &completions[*i].origin.source);
            let meant: Vec<usize> = (0..completions.len()).filter(is_meant).collect();
            let (reads, function) = (part.reads, part.function.as_mut());
            let (readable, without): (Vec<usize>, Vec<usize>) =
                meant.into_iter().partition(|&i| reads == Reads::Whole || answers[i].is_some());
            let batch: Vec<Completion<'_>> = readable
                .iter()
                .map(|&i| match (reads, answers[i]) {
                    (Reads::Answer, Some(text)) => Completion { text, ..completions[i] },
                    _ => completions[i],
                })
                .collect();
            let scores = if batch.is_empty() { Vec::new() } else { function.score(&batch) };
            let of_none: Vec<_> =
                without.iter().map(|&i| function.score_without_answer(&completions[i])).collect();
            let all = readable.into_iter().zip(scores).chain(without.into_iter().zip(of_none));
            for (i, score) in all {
                let score = score.and_then(|score| match score.is_finite() {
                    true => Ok(score),
                    false => Err(Unscored::new(UnscoredReason::Failed, format!("the score is {score}"))),
                });
                scored[i].parts.insert(part.name.clone(), score);
            }
        }
        for ScoredCompletion { parts, total } in &mut scored {
            if !parts.is_empty() {
                *total = self.sum_of(parts);
            }
        }
        scored
    }

    /// The weighted sum of parts, unless one that is not optional failed or none is there; the error then says why.
    pub(crate) fn sum_of(&self, parts: &BTreeMap<String, Result<f64, Unscored>>) -> Result<f64, Unscored> {
        let mut sum = None;
        let mut reason = None;
        for part in &self.parts {
            match parts.get(&part.name) {
                Some(Ok(score)) => *sum.get_or_insert(0.0) += part.weight * score,
                Some(Err(unscored)) if !part.optional => return Err(unscored.clone()),
                Some(Err(unscored)) => reason = Some(unscored.clone()),
                None => {}
            }
        }
        let nothing = || Unscored::new(UnscoredReason::MissingReference, "no reward was computed");
        sum.ok_or_else(|| reason.unwrap_or_else(nothing))
    }
}

#[cfg(test)]
mod tests;
