//! The settings of a run that makes preference data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::preference::{Aspect, Defect};
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_run::checks::{
    require, require_counts, require_data, require_given, require_not_negative, require_output_dir,
    require_positive, require_share,
};
use truing_run::{Recipe, RunError, recipe};
use truing_stages::StageError;
use truing_types::{PromptRow, StageName, UNUSABLE_FATES};

/// How a judge is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgeKind {
    /// Ratings of each response by aspect, 1 to 5.
    #[default]
    Absolute,
    /// Comparisons of two responses, each in both orders.
    Pairwise,
    /// A rating of each response against a golden answer, 1 to 5: same chain, same result.
    Golden,
}

/// Which pairs are made of a prompt's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairRule {
    /// The best response against the worst.
    #[default]
    BestWorst,
    /// The best response against each other one.
    BestRest,
    /// Every two responses.
    All,
}

/// One flat table, then `[score_rater]`, `[minimal_difference]`, `[[data]]` and `[[judge]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the choice of comparisons and of what is asked twice.
    pub seed: u64,
    /// Fates of responses that are left out, as `truing respond` writes them in `fate`.
    pub skip_fates: Vec<String>,
    /// Share of questions that each judge is asked twice, with another seed: its agreement with itself.
    pub repeat_share: f64,
    /// Sampling temperature of the judges.
    pub temperature: f32,
    /// Maximum tokens of a reply, reasoning included.
    pub max_new_tokens: usize,
    /// Maximum requests for one answer: an unreadable reply is requested again.
    pub max_attempts: usize,
    /// A judge is no longer used after this many consecutive failures or unreadable replies.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// Standard deviation of the prior on strengths of pairwise judges, in log-odds.
    #[schemars(extend("x-decides" = "outcome"))]
    pub prior_deviation: f64,
    /// A prompt is dropped if the mean rating (1 to 5) of each of its responses is at least this. Above 5: never. Only
    /// absolute and golden judges rate.
    #[schemars(extend("x-decides" = "outcome"))]
    pub all_high: f64,
    /// A prompt goes to `edit_queue.jsonl` if the mean rating (1 to 5) of each of its responses is at most this.
    /// Below 1: never. Only absolute and golden judges rate.
    #[schemars(extend("x-decides" = "outcome"))]
    pub all_low: f64,
    /// A prompt is dropped as near-equal if its best and its worst response differ by less, in the calibrated score
    /// (1 to 5).
    #[schemars(extend("x-decides" = "outcome"))]
    pub min_gap: f64,
    /// Which pairs are made.
    #[schemars(extend("x-decides" = "outcome"))]
    pub pairs: PairRule,
    /// Minimum difference of the calibrated scores of a pair.
    #[schemars(extend("x-decides" = "outcome"))]
    pub min_margin: f64,
    /// Value of `dataset` in the pairs. Default: the name of the row's file without its ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub dataset: Option<String>,
    /// What to do with invalid rows: rows that cannot be read or have no list of responses.
    pub on_bad_row: OnBadRow,
    /// Use the scores that the responses carry already, of a verifier or a reward model, as one more judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_rater: Option<ScoreRater>,
    /// Also make pairs whose responses differ in one defect only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimal_difference: Option<MinimalDifference>,
    /// Prompts with their responses, for instance `candidates.jsonl` of `truing respond`.
    pub data: Vec<SourceConfig>,
    /// The judges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub judge: Vec<PreferJudge>,
}

/// The scores in the data as a judge that costs nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreRater {
    /// Name in `judges.json` and in the verdicts.
    pub name: String,
    /// Weight beside the judges, whose measured weights lie between 0 and 1.
    #[schemars(extend("x-decides" = "outcome"))]
    pub weight: f64,
}

impl Default for ScoreRater {
    fn default() -> Self {
        Self { name: "score".into(), weight: 1.0 }
    }
}

/// Pairs of the best response of a prompt and of a copy of it that a model rewrites with one defect. A pair is kept
/// where the pairwise judges prefer the original in both orders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MinimalDifference {
    /// Defects, of which the seed chooses one for each prompt.
    pub defects: Vec<Defect>,
    /// Maximum edit distance to the original, as a share of the longer of the two in characters.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_edit_share: f64,
    /// Sampling temperature of the rewriting.
    pub temperature: f32,
    /// Maximum tokens of a rewritten response, reasoning included.
    pub max_new_tokens: usize,
    /// The model that rewrites. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub model: ChatModelConfig,
}

impl Default for MinimalDifference {
    fn default() -> Self {
        Self {
            defects: Defect::ALL.to_vec(),
            max_edit_share: 0.3,
            temperature: 0.7,
            max_new_tokens: 1024,
            model: ChatModelConfig::default(),
        }
    }
}

/// One judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferJudge {
    /// Name in `judges.json` and in the verdicts. Default: the model's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it is asked.
    pub kind: JudgeKind,
    /// Weight of its scores. Default: measured, as parse rate times order consistency times agreement with itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub weight: Option<f64>,
    /// Aspects that an absolute judge rates.
    pub aspects: Vec<String>,
    /// Column with the golden answer. `a.b` names nested fields.
    pub reference_column: String,
    /// Maximum comparisons of two responses of a prompt, each in both orders. At least as many as link all responses
    /// are made: one less than there are responses.
    pub max_pairs_per_prompt: usize,
    /// Texts of your own aspects, or other texts for the built-in ones: `{ brevity = "no sentence is superfluous" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aspect_texts: BTreeMap<String, String>,
    /// The model. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub model: ChatModelConfig,
}

impl Default for PreferJudge {
    fn default() -> Self {
        Self {
            name: None,
            kind: JudgeKind::default(),
            weight: None,
            aspects: Aspect::BUILT_IN.map(str::to_owned).to_vec(),
            reference_column: "answer".into(),
            max_pairs_per_prompt: 10,
            aspect_texts: BTreeMap::new(),
            model: ChatModelConfig::default(),
        }
    }
}

impl PreferJudge {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.model.name())
    }

    /// What an absolute judge rates.
    pub(super) fn rated_aspects(&self) -> Vec<Aspect> {
        let aspect =
            |name: &String| Aspect { name: name.clone(), text: self.aspect_texts.get(name).cloned() };
        self.aspects.iter().map(aspect).collect()
    }

    fn check(&self) -> Result<(), RunError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() })
        };
        if let Some(weight) = self.weight {
            require_not_negative("judge.weight", weight)?;
        }
        require_counts([("judge.max_pairs_per_prompt", self.max_pairs_per_prompt)])?;
        let mut names = self.aspects.clone();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() || names.len() < self.aspects.len() {
            let expected = "each aspect at most once, and at least one";
            return bad("judge.aspects", format!("{:?}", self.aspects), expected);
        }
        if names.iter().any(|name| name == "reason") {
            return bad("judge.aspects", "`reason`".into(), "another name: judges write their reason there");
        }
        let is_known = |name: &&String| {
            Aspect::BUILT_IN.contains(&name.as_str()) || self.aspect_texts.contains_key(*name)
        };
        if let Some(unknown) = self.aspects.iter().find(|name| !is_known(name)) {
            let expected =
                format!("one of {}, or a text for it in `aspect_texts`", Aspect::BUILT_IN.join(", "));
            return bad("judge.aspects", format!("`{unknown}`"), &expected);
        }
        if let Some(unused) = self.aspect_texts.keys().find(|name| !self.aspects.contains(name)) {
            return bad("judge.aspect_texts", format!("`{unused}`"), "names of `aspects`");
        }
        Ok(())
    }
}

impl Default for PreferConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Prefer,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            skip_fates: UNUSABLE_FATES.map(str::to_owned).to_vec(),
            repeat_share: 0.1,
            temperature: 0.0,
            max_new_tokens: 400,
            max_attempts: 2,
            max_failures_in_a_row: 20,
            prior_deviation: 2.0,
            all_high: 4.5,
            all_low: 2.0,
            min_gap: 0.25,
            pairs: PairRule::default(),
            min_margin: 0.0,
            dataset: None,
            on_bad_row: OnBadRow::default(),
            score_rater: None,
            minimal_difference: None,
            data: Vec::new(),
            judge: Vec::new(),
        }
    }
}

impl Recipe for PreferConfig {
    const STAGES: &'static [StageName] = &[StageName::Prefer];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        self.models().for_each(|model| model.resolve_paths(folder));
    }

    /// Models without a cache share one in `output_dir`.
    fn fill_in(&mut self) {
        let folder = self.output_dir.clone();
        judging::share_cache(self.models(), &folder);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut();
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        for judge in &mut self.judge {
            // The verdicts call a judge by the name that the recipe gives its model.
            judge.name.get_or_insert(judge.model.name());
        }
        self.models().try_for_each(|model| model.find(find))
    }
}

impl PreferConfig {
    fn models(&mut self) -> impl Iterator<Item = &mut ChatModelConfig> {
        let rewriting = self.minimal_difference.iter_mut().map(|minimal| &mut minimal.model);
        self.judge.iter_mut().map(|judge| &mut judge.model).chain(rewriting)
    }

    /// The judges in their order, then the model that rewrites.
    pub(super) fn chat_models(&self) -> Vec<&ChatModelConfig> {
        let rewriting = self.minimal_difference.iter().map(|minimal| &minimal.model);
        self.judge.iter().map(|judge| &judge.model).chain(rewriting).collect()
    }

    /// Names of the raters: the judges in their order, then the scores in the data.
    pub(super) fn rater_names(&self) -> Vec<String> {
        let scores = self.score_rater.iter().map(|rater| rater.name.clone());
        self.judge.iter().map(PreferJudge::name).chain(scores).collect()
    }

    fn check_minimal(&self, minimal: &MinimalDifference) -> Result<(), StageError> {
        require_given(!minimal.defects.is_empty(), "minimal_difference.defects", "at least one defect")?;
        require_share("minimal_difference.max_edit_share", minimal.max_edit_share)?;
        require_not_negative("minimal_difference.temperature", minimal.temperature)?;
        require_counts([("minimal_difference.max_new_tokens", minimal.max_new_tokens)])?;
        let has_pairwise = self.judge.iter().any(|judge| judge.kind == JudgeKind::Pairwise);
        require(has_pairwise, || {
            let expected = "a judge of the kind `pairwise` beside it, which compares original and copy";
            ("minimal_difference", "a table".to_owned(), expected)
        })?;
        Ok(minimal.model.check("minimal_difference.model")?)
    }

    /// Checks everything that can be checked without the rows.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        require_output_dir(&self.output_dir, "a folder for the pairs")?;
        require_data(&self.data)?;
        let has_rater = !self.judge.is_empty() || self.score_rater.is_some();
        require_given(
            has_rater,
            "judge",
            "at least one [[judge]] table with a `model`, or a [score_rater] table",
        )?;
        require_counts([
            ("max_new_tokens", self.max_new_tokens),
            ("max_attempts", self.max_attempts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        require_share("repeat_share", self.repeat_share)?;
        require_not_negative("temperature", self.temperature)?;
        require_positive("prior_deviation", self.prior_deviation)?;
        require_not_negative("min_gap", self.min_gap)?;
        require_not_negative("min_margin", self.min_margin)?;
        require(
            self.all_low.is_finite() && self.all_high.is_finite() && self.all_low < self.all_high,
            || {
                let found = format!("{} beside `all_high` = {}", self.all_low, self.all_high);
                ("all_low", found, "finite numbers, `all_low` below `all_high`")
            },
        )?;
        if let Some(rater) = &self.score_rater {
            require_not_negative("score_rater.weight", rater.weight)?;
        }
        if let Some(minimal) = &self.minimal_difference {
            self.check_minimal(minimal)?;
        }
        judging::check_names(&self.rater_names())?;
        self.judge.iter().try_for_each(PreferJudge::check)?;
        self.data.iter().try_for_each(|source| source.in_folder(&self.data_dir).check_as::<PromptRow>())?;
        Ok(self.judge.iter().try_for_each(|judge| judge.model.check("judge.model"))?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::respond::Fate;

    #[test]
    fn responses_that_cannot_be_used_are_left_out_by_the_names_that_respond_writes() {
        let unusable = [
            Fate::Failed,
            Fate::NotSampled,
            Fate::Cut,
            Fate::Empty,
            Fate::Filtered,
            Fate::ToolCalls,
            Fate::NearDuplicate,
        ];
        let names: Vec<String> = unusable
            .iter()
            .map(|fate| json!(fate).as_str().map(str::to_owned).unwrap_or_default())
            .chain(["duplicate".to_owned()])
            .collect();
        assert_eq!(PreferConfig::default().skip_fates, names);
    }
}
