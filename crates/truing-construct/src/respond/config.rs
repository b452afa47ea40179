//! The settings of a run that samples responses.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_reward::RewardConfig;
use truing_run::checks::{
    require, require_counts, require_data, require_distinct, require_not_negative, require_output_dir,
    require_share,
};
use truing_run::{Recipe, RunError, recipe};
use truing_stages::StageError;
use truing_stages::rewards::{JudgeReward, RewardModelReward, RewardTables};
use truing_types::{PromptRow, SamplingOptions, StageName};

/// Most responses per prompt, model and decoding setting.
const MAX_RESPONSES: usize = 4096;
/// Most tokens of a response.
const MAX_NEW_TOKENS: usize = 1 << 20;

/// One flat table, then `[[decoding]]`, `[[data]]`, `[[model]]`, `[[reward]]`, `[reward_model]` and `[judge]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RespondConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the samples, and of the refusals that are dropped.
    pub seed: u64,
    /// A response whose ROUGE-L F1 with an earlier response to the same prompt is above this is a near-duplicate and
    /// not selected. 1 turns the filter off.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_rouge_l: f64,
    /// Which responses to a prompt are accepted. Without rewards only `all` is possible.
    #[schemars(extend("x-decides" = "outcome"))]
    pub select: Selection,
    /// With `select = "top_n"`: responses accepted per prompt, at most.
    #[schemars(extend("x-decides" = "outcome"))]
    pub top_n: usize,
    /// Minimum score of an accepted response. Required by `select = "threshold"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub min_score: Option<f64>,
    /// A prompt is answered well already if all of its usable responses that have a score have at least this one: none
    /// of its responses is accepted. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_prompt_score: Option<f64>,
    /// Maximum share of refusals among the accepted responses. Surplus refusals are dropped, in an order that the seed
    /// decides.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_refusal_share: f64,
    /// A response passes if its score is at least this.
    #[schemars(extend("x-decides" = "outcome"))]
    pub pass_reward: f64,
    /// Write `prompts.jsonl`, the prompts whose pass rate is in this range, for instance `[0.2, 0.8]`. Near-duplicates
    /// and responses cut at `max_new_tokens` are then scored too, because they count in the pass rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub pass_rate: Option<[f64; 2]>,
    /// Stop after the round in which this many responses are accepted; those beyond it are dropped. Default: all
    /// prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub accept: Option<usize>,
    /// Maximum responses to sample. Only prompts whose responses all fit are sampled. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_candidates: Option<usize>,
    /// Prompts of a round: they are sampled, scored and selected together, then `accept` and `budget` are looked at.
    #[schemars(extend("x-decides" = "outcome"))]
    pub round_prompts: usize,
    /// Maximum cost of the samples, in the currency of the prices. A sample is requested if those before it in the
    /// recipe's order cost less, so that the last one may exceed it. Replies from the cache count: a run that continues
    /// ends where it would have ended. What is there is written. The judge is not included.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub budget: Option<f64>,
    /// A model is no longer used after this many consecutive failures.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// What to do with invalid rows: rows that cannot be read, or lack a column that a reward or the judge
    /// needs.
    pub on_bad_row: OnBadRow,
    /// Decoding settings; each model samples with each of them. Default: one table with the default values.
    pub decoding: Vec<Decoding>,
    /// The prompts, for instance the output of `truing select`, `truing label` or `truing quality`.
    pub data: Vec<SourceConfig>,
    /// The models that respond.
    pub model: Vec<RespondModel>,
    /// A trained reward model as a reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<RewardModelReward>,
    /// An LLM judge as a reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeReward>,
    /// Rewards that a program computes. The score of a response is the weighted sum of these tables, `[reward_model]`
    /// and `[judge]`.
    pub reward: Vec<RewardConfig>,
}

/// Which responses to a prompt are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// The one with the highest score; of equal ones the first in the order of sampling.
    #[default]
    Best,
    /// The `top_n` with the highest scores; of equal ones the first in the order of sampling.
    TopN,
    /// All with at least `min_score`.
    Threshold,
    /// All, with and without a score.
    All,
}

/// A decoding setting. The defaults are those of the report's preference data: 5 responses at temperature 1, top_p
/// 0.99, top_k 50.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Decoding {
    /// Name in the output. Default: its place in the list, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Responses per prompt and model, at most 4096.
    pub n: usize,
    /// Sampling temperature. 0 decodes greedily, and needs `n = 1`.
    pub temperature: f32,
    /// Nucleus sampling: sample from the smallest set of tokens whose probability reaches this. 1 turns it off.
    pub top_p: f32,
    /// Sample from the k most likely tokens. 0 turns it off. Servers that follow OpenAI strictly refuse other values.
    pub top_k: usize,
    /// Sample only tokens whose probability is at least this fraction of the most likely token's. 0 turns it off.
    pub min_p: f32,
    /// Maximum tokens of a response, reasoning included; at most 1048576. Responses that reach it are not selected.
    pub max_new_tokens: usize,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { name: None, n: 5, temperature: 1.0, top_p: 0.99, top_k: 50, min_p: 0.0, max_new_tokens: 1024 }
    }
}

impl Decoding {
    /// As a model is asked, with the seed of one sample.
    pub(super) fn sampling(&self, seed: u64) -> SamplingOptions {
        SamplingOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            seed,
            ..SamplingOptions::default()
        }
    }

    fn check(&self) -> Result<(), RunError> {
        require_counts([("decoding.n", self.n), ("decoding.max_new_tokens", self.max_new_tokens)])?;
        require(self.n <= MAX_RESPONSES, || ("decoding.n", self.n.to_string(), "at most 4096"))?;
        require(self.max_new_tokens <= MAX_NEW_TOKENS, || {
            ("decoding.max_new_tokens", self.max_new_tokens.to_string(), "at most 1048576")
        })?;
        require_not_negative("decoding.temperature", self.temperature)?;
        require_share("decoding.top_p", f64::from(self.top_p))?;
        require_share("decoding.min_p", f64::from(self.min_p))?;
        require(self.temperature > 0.0 || self.n == 1, || {
            ("decoding.n", self.n.to_string(), "1 at temperature 0: without sampling all responses are equal")
        })
    }
}

/// A model that responds, and what it costs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RespondModel {
    /// Name in the output. Default: the name on the server, or the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Price of a million prompt tokens, in any currency. With it the plan estimates the cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub price_per_million_prompt_tokens: Option<f64>,
    /// Price of a million completion tokens, in the same currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub price_per_million_completion_tokens: Option<f64>,
    /// The model: a path, or a server.
    #[serde(flatten)]
    pub model: ChatModelConfig,
}

impl RespondModel {
    /// Its name in the output.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.model.name())
    }

    /// What so many tokens cost; `None` where no price is given.
    #[must_use]
    pub fn cost(&self, n_prompt_tokens: u64, n_completion_tokens: u64) -> Option<f64> {
        let (prompt, completion) =
            (self.price_per_million_prompt_tokens, self.price_per_million_completion_tokens);
        if prompt.is_none() && completion.is_none() {
            return None;
        }
        let of = |price: Option<f64>, n: u64| price.unwrap_or_default() * n as f64 / 1e6;
        Some(of(prompt, n_prompt_tokens) + of(completion, n_completion_tokens))
    }
}

impl Default for RespondConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Respond,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            max_rouge_l: 0.7,
            select: Selection::default(),
            top_n: 2,
            min_score: None,
            max_prompt_score: None,
            max_refusal_share: 0.02,
            pass_reward: 1.0,
            pass_rate: None,
            accept: None,
            max_candidates: None,
            round_prompts: 256,
            budget: None,
            max_failures_in_a_row: 20,
            on_bad_row: OnBadRow::default(),
            decoding: vec![Decoding::default()],
            data: Vec::new(),
            model: Vec::new(),
            reward_model: None,
            judge: None,
            reward: Vec::new(),
        }
    }
}

impl Recipe for RespondConfig {
    const STAGES: &'static [StageName] = &[StageName::Respond];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        if let Some(reward_model) = &mut self.reward_model {
            reward_model.resolve_paths(folder);
        }
        self.reward.iter_mut().for_each(|reward| reward.resolve_paths(folder));
        self.all_models().for_each(|model| model.resolve_paths(folder));
    }

    /// Models without a cache share one in `output_dir`.
    fn fill_in(&mut self) {
        let folder = self.output_dir.clone();
        judging::share_cache(self.all_models(), &folder);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut();
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        if let Some(reward_model) = &mut self.reward_model {
            reward_model.find(find)?;
        }
        self.all_models().try_for_each(|model| model.find(find))
    }
}

impl RespondConfig {
    /// The models that respond, then the judge.
    fn all_models(&mut self) -> impl Iterator<Item = &mut ChatModelConfig> {
        let judge = self.judge.iter_mut().map(|judge| &mut judge.model);
        self.model.iter_mut().map(|model| &mut model.model).chain(judge)
    }

    /// The models that respond, then the judge.
    pub(super) fn chat_models(&self) -> Vec<&ChatModelConfig> {
        let judge = self.judge.iter().map(|judge| &judge.model);
        self.model.iter().map(|model| &model.model).chain(judge).collect()
    }

    /// The tables that rewards are made of.
    #[must_use]
    pub fn rewards(&self) -> RewardTables<'_> {
        RewardTables {
            reward: &self.reward,
            reward_model: self.reward_model.as_ref(),
            judge: self.judge.as_ref(),
        }
    }

    /// Samples of one prompt.
    #[must_use]
    pub fn candidates_per_prompt(&self) -> usize {
        self.model.len() * self.decoding.iter().map(|decoding| decoding.n).sum::<usize>()
    }

    /// Checks everything that can be checked without the prompts.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        require_output_dir(&self.output_dir, "a folder for the responses")?;
        require_data(&self.data)?;
        require_counts([
            ("top_n", self.top_n),
            ("round_prompts", self.round_prompts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        require_share("max_rouge_l", self.max_rouge_l)?;
        require_share("max_refusal_share", self.max_refusal_share)?;
        self.check_models()?;
        self.check_decoding()?;
        self.rewards().check()?;
        self.check_selection()?;
        self.check_limits()?;
        Ok(self.data.iter().try_for_each(|s| s.in_folder(&self.data_dir).check_as::<PromptRow>())?)
    }

    fn check_models(&self) -> Result<(), StageError> {
        if self.model.is_empty() {
            let expected = "at least one [[model]] table with a `model_name_or_path` or a `server`";
            return Err(RunError::MissingSetting { key: "model", expected }.into());
        }
        for model in &self.model {
            model.model.check("model")?;
            for (key, price) in [
                ("model.price_per_million_prompt_tokens", model.price_per_million_prompt_tokens),
                ("model.price_per_million_completion_tokens", model.price_per_million_completion_tokens),
            ] {
                require_not_negative(key, price.unwrap_or_default())?;
            }
        }
        let names: Vec<String> = self.model.iter().map(RespondModel::name).collect();
        Ok(require_distinct("model.name", &names)?)
    }

    fn check_decoding(&self) -> Result<(), RunError> {
        if self.decoding.is_empty() {
            let expected = "at least one [[decoding]] table";
            return Err(RunError::MissingSetting { key: "decoding", expected });
        }
        self.decoding.iter().try_for_each(Decoding::check)?;
        require_distinct("decoding.name", &self.decoding_names())
    }

    /// The names of the decoding settings in the output.
    pub(super) fn decoding_names(&self) -> Vec<String> {
        let named = self.decoding.iter().enumerate();
        named.map(|(idx, decoding)| decoding.name.clone().unwrap_or_else(|| idx.to_string())).collect()
    }

    fn check_selection(&self) -> Result<(), RunError> {
        let has_rewards = !self.rewards().is_empty();
        if !has_rewards {
            let needs_scores = [
                (self.select != Selection::All, "select"),
                (self.min_score.is_some(), "min_score"),
                (self.max_prompt_score.is_some(), "max_prompt_score"),
                (self.pass_rate.is_some(), "pass_rate"),
            ];
            if let Some((_, key)) = needs_scores.into_iter().find(|(is_given, _)| *is_given) {
                let found = "given without a reward".to_owned();
                let expected = "a [[reward]], [reward_model] or [judge] table, or `select = \"all\"` alone";
                return Err(RunError::BadSetting { key, found, expected: expected.into() });
            }
        }
        if self.select == Selection::Threshold && self.min_score.is_none() {
            let expected = "the minimum score of an accepted response, for `select = \"threshold\"`";
            return Err(RunError::MissingSetting { key: "min_score", expected });
        }
        let numbers = [
            ("min_score", self.min_score),
            ("max_prompt_score", self.max_prompt_score),
            ("pass_reward", Some(self.pass_reward)),
        ];
        for (key, number) in numbers {
            let number = number.unwrap_or_default();
            require(number.is_finite(), || (key, number.to_string(), "a finite number"))?;
        }
        let [low, high] = self.pass_rate.unwrap_or([0.0, 1.0]);
        require(0.0 <= low && low <= high && high <= 1.0, || {
            ("pass_rate", format!("[{low}, {high}]"), "two shares from 0 to 1, the lower one first")
        })
    }

    fn check_limits(&self) -> Result<(), RunError> {
        require(self.accept != Some(0), || ("accept", "0".into(), "at least 1"))?;
        let per_prompt = self.candidates_per_prompt();
        if let Some(found) = self.max_candidates.filter(|&most| most < per_prompt) {
            let expected = format!("at least {per_prompt}, the samples of one prompt");
            return Err(RunError::BadSetting { key: "max_candidates", found: found.to_string(), expected });
        }
        let Some(budget) = self.budget else { return Ok(()) };
        require(budget.is_finite() && budget > 0.0, || ("budget", budget.to_string(), "a number above 0"))?;
        require(self.model.iter().any(|model| model.cost(0, 0).is_some()), || {
            ("budget", budget.to_string(), "a model with `price_per_million_completion_tokens`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"
stage = "respond"
output_dir = "out"
select = "all"
[[data]]
path = "prompts.jsonl"
[[model]]
name = "big"
price_per_million_completion_tokens = 2
server = { base_url = "http://127.0.0.1:9/v1", model = "m" }
"#;

    fn check(overrides: &[&str]) -> Result<(), String> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config = RespondConfig::from_toml(RECIPE, Path::new("/nowhere/recipe.toml"), &overrides)
            .map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_is_the_report_s_and_the_recipe_reads_as_it_prints() {
        let path = Path::new("/nowhere/recipe.toml");
        let config = RespondConfig::from_toml(RECIPE, path, &[]).unwrap();
        let [decoding] = &config.decoding[..] else { panic!("{:?}", config.decoding) };
        let sampling = decoding.sampling(7);
        assert_eq!((decoding.n, sampling.top_k, sampling.seed), (5, 50, 7));
        assert_eq!((sampling.temperature, sampling.top_p, sampling.min_p), (1.0, 0.99, 0.0));
        assert_eq!(config.model[0].model.cache.as_deref(), Some(Path::new("/nowhere/out/replies.sqlite")));
        assert_eq!(RespondConfig::from_toml(&config.to_toml(), path, &[]).unwrap(), config);
        assert_eq!((config.candidates_per_prompt(), config.model[0].cost(1, 500_000)), (5, Some(1.0)));
        assert_eq!(RespondConfig::unknown_declarations(), Vec::<String>::new());
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_name() {
        let cases: &[(&[&str], &str)] = &[
            (&["select=best"], "`select` is given without a reward"),
            (&["pass_rate=[0.2, 0.8]"], "`pass_rate` is given without a reward"),
            (&["max_rouge_l=2"], "`max_rouge_l` is 2"),
            (&["decoding.0.temperature=0"], "`decoding.n` is 5: expected 1 at temperature 0"),
            (&["decoding.0.n=0"], "`decoding.n` is 0"),
            (&["decoding.0.n=4097"], "`decoding.n` is 4097: expected at most 4096"),
            (
                &["decoding.0.max_new_tokens=1048577"],
                "`decoding.max_new_tokens` is 1048577: expected at most",
            ),
            (&["decoding=[]"], "missing setting `decoding`"),
            (&["decoding=[{name = \"1\"}, {}]"], "`decoding.name` is `1` twice"),
            (&["model=[]"], "missing setting `model`"),
            (&["model.0.nme=x"], "unknown key `nme`"),
            (&["model.0.server.modl=x"], "unknown key `modl`"),
            (&["max_candidates=4"], "`max_candidates` is 4: expected at least 5"),
            (&["accept=0"], "`accept` is 0"),
            (&["budget=-1"], "`budget` is -1"),
            (
                &["budget=1", "model.0.price_per_million_completion_tokens="],
                "`budget` is 1: expected a model with",
            ),
            (
                &["model.0.price_per_million_prompt_tokens=-1"],
                "`model.price_per_million_prompt_tokens` is -1",
            ),
        ];
        for (overrides, expected) in cases {
            let error = check(overrides).unwrap_err();
            assert!(error.contains(expected), "{overrides:?}: {error}");
        }
        let scored = "reward=[{kind = {length = {at_most = 9}}}]";
        assert_eq!(check(&[scored, "select=best"]), Ok(()));
        assert!(check(&[scored, "select=threshold"]).unwrap_err().contains("missing setting `min_score`"));
        assert!(check(&[scored, "pass_rate=[0.8, 0.2]"]).unwrap_err().contains("the lower one first"));
    }
}
