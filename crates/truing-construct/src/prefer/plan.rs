//! What each judge is asked, and what it will cost.

use truing_ask::judged_folder::JudgedInputs;
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_ask::preference::questions;
use truing_run::RunError;
use truing_stages::{StageError, StagePlan};
use truing_store::RunInputs;
use truing_train::{Amount, PlanRow};
use truing_types::{ChatRequest, SamplingOptions, Seed};

use super::config::{JudgeKind, PreferConfig, PreferJudge};
use super::inputs::{PreferInputs, PromptGroup};

/// What a question shows, as places of responses in their prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// One response.
    One(usize),
    /// Two, in this order.
    Two([usize; 2]),
}

/// One question to a judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Place of the prompt among the inputs.
    pub prompt: usize,
    /// What is shown.
    pub shown: Shown,
    /// Whether it is asked for the second time.
    pub is_repeat: bool,
}

/// The questions to one judge.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgePlan {
    /// Its name.
    pub name: String,
    /// The questions in their order; those that are asked twice are at the end again.
    pub calls: Vec<Call>,
    /// Calls at most, where each question is asked `max_attempts` times.
    pub max_calls: u64,
    /// Tokens of the prompts without retries, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of the replies at most, with retries.
    pub completion_tokens: u64,
}

/// What pairs that differ in one defect only cost, where every prompt has pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MinimalPlan {
    /// Calls of the model that rewrites, and of the judges that compare, at most: with retries.
    pub n_calls: u64,
    /// Tokens of the prompts without retries, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of the replies at most, with retries.
    pub completion_tokens: u64,
}

/// A run as it will be.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferPlan {
    /// The settings.
    pub config: PreferConfig,
    /// The judges in the recipe's order.
    pub judges: Vec<JudgePlan>,
    /// Prompts.
    pub n_prompts: u64,
    /// Prompts with two responses or more.
    pub n_comparable: u64,
    /// Responses of those.
    pub n_responses: u64,
    /// Calls and tokens for minimal differences; zeros where none are made.
    pub minimal: MinimalPlan,
}

impl PreferPlan {
    /// Chooses comparisons and counts.
    ///
    /// # Errors
    /// When a setting is invalid, no prompt has two responses, or what a judge needs is in no row.
    pub fn resolve(config: PreferConfig, inputs: &PreferInputs) -> Result<Self, StageError> {
        config.check()?;
        let comparable = || inputs.groups.iter().filter(|group| group.is_comparable());
        let n_comparable = comparable().count();
        if n_comparable == 0 {
            let found =
                format!("{} prompts, none of which has two responses to compare", inputs.groups.len());
            let expected = "at least one prompt with two different responses".to_owned();
            return Err(RunError::BadSetting { key: "data", found, expected }.into());
        }
        for judge in config.judge.iter().filter(|judge| judge.kind == JudgeKind::Golden) {
            if comparable().all(|group| group.reference(&judge.reference_column).is_none()) {
                return Err(RunError::BadSetting {
                    key: "judge.reference_column",
                    found: format!("`{}`, which no row has", judge.reference_column),
                    expected: "a column with the golden answer".into(),
                }
                .into());
            }
        }
        if config.score_rater.is_some()
            && comparable().all(|group| group.responses.iter().all(|response| response.score.is_none()))
        {
            return Err(RunError::BadSetting {
                key: "score_rater",
                found: "a table, but no response has a `score`".into(),
                expected: "responses with a numeric `score`".into(),
            }
            .into());
        }
        let judges = (0..config.judge.len()).map(|judge| judge_plan(&config, judge, inputs)).collect();
        Ok(Self {
            judges,
            n_prompts: inputs.groups.len() as u64,
            n_comparable: n_comparable as u64,
            n_responses: comparable().map(|group| group.responses.len() as u64).sum(),
            minimal: minimal_plan(&config, inputs),
            config,
        })
    }

    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &PreferInputs) -> Result<RunInputs, StageError> {
        let config = &self.config;
        let record = JudgedInputs {
            stage: config.stage,
            seed: config.seed,
            judges: config.chat_models(),
            data: &inputs.report.files,
            others: Vec::new(),
        };
        Ok(record.record()?)
    }

    /// Calls of all judges without those for minimal differences, where each reply can be read at once and none is
    /// known yet.
    #[must_use]
    pub fn n_calls(&self) -> u64 {
        self.judges.iter().map(|judge| judge.calls.len() as u64).sum()
    }

    /// Tokens of all prompts without retries, estimated at four bytes each.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        self.judges.iter().map(|judge| judge.prompt_tokens).sum::<u64>() + self.minimal.prompt_tokens
    }

    /// Tokens of all replies at most, with retries.
    #[must_use]
    pub fn completion_tokens(&self) -> u64 {
        let of_judges = self.judges.iter().map(|judge| judge.completion_tokens);
        of_judges.fold(self.minimal.completion_tokens, u64::saturating_add)
    }
}

fn judge_plan(config: &PreferConfig, judge_idx: usize, inputs: &PreferInputs) -> JudgePlan {
    let judge = &config.judge[judge_idx];
    let mut calls = Vec::new();
    for (prompt, group) in inputs.groups.iter().enumerate().filter(|(_, group)| group.is_comparable()) {
        let new = |shown| Call { prompt, shown, is_repeat: false };
        let n_responses = group.responses.len();
        match judge.kind {
            JudgeKind::Pairwise => {
                let key = [judge_idx as u64, prompt as u64];
                let pairs = compared_pairs(n_responses, judge.max_pairs_per_prompt, Seed(config.seed), &key);
                calls.extend(pairs.into_iter().flat_map(|[i, j]| [[i, j], [j, i]]).map(Shown::Two).map(new));
            }
            JudgeKind::Golden if group.reference(&judge.reference_column).is_none() => {}
            JudgeKind::Absolute | JudgeKind::Golden => {
                calls.extend((0..n_responses).map(Shown::One).map(new));
            }
        }
    }
    let n_repeats = (config.repeat_share * calls.len() as f64).round() as usize;
    let repeated = sampled_places(
        calls.len(),
        n_repeats,
        Seed(config.seed),
        "questions asked twice",
        &[judge_idx as u64],
    );
    let repeats: Vec<Call> = repeated.into_iter().map(|i| Call { is_repeat: true, ..calls[i] }).collect();
    calls.extend(repeats);
    let text = |call: &Call| question(judge, &inputs.groups[call.prompt], call.shown);
    let bytes: u64 = calls.iter().map(|call| text(call).len() as u64).sum();
    let max_calls = (calls.len() as u64).saturating_mul(config.max_attempts as u64);
    JudgePlan {
        name: judge.name(),
        max_calls,
        prompt_tokens: bytes.div_ceil(BYTES_PER_TOKEN),
        completion_tokens: max_calls.saturating_mul(config.max_new_tokens as u64),
        calls,
    }
}

/// Every prompt may have pairs, its longest response may be the best, and the copy is about as long.
fn minimal_plan(config: &PreferConfig, inputs: &PreferInputs) -> MinimalPlan {
    let Some(settings) = &config.minimal_difference else { return MinimalPlan::default() };
    let n_pairwise = config.judge.iter().filter(|judge| judge.kind == JudgeKind::Pairwise).count() as u64;
    // Of one prompt, if every reply is asked for again.
    let max_attempts = config.max_attempts as u64;
    let n_compared = (2 * n_pairwise).saturating_mul(max_attempts);
    let n_calls = n_compared.saturating_add(max_attempts);
    let new_tokens = max_attempts
        .saturating_mul(settings.max_new_tokens as u64)
        .saturating_add(n_compared.saturating_mul(config.max_new_tokens as u64));
    let (mut plan, mut bytes) = (MinimalPlan::default(), 0);
    for group in inputs.groups.iter().filter(|group| group.is_comparable()) {
        let longest =
            group.responses.iter().map(|response| response.text.as_str()).max_by_key(|text| text.len());
        let (question, longest) = (&group.question, longest.unwrap_or_default());
        let asked = settings.defects.iter().map(|&defect| questions::worsen(defect, question, longest).len());
        bytes += asked.max().unwrap_or(0) as u64;
        bytes += 2 * n_pairwise * questions::pairwise(question, longest, longest).len() as u64;
        plan.n_calls = plan.n_calls.saturating_add(n_calls);
        plan.completion_tokens = plan.completion_tokens.saturating_add(new_tokens);
    }
    plan.prompt_tokens = bytes.div_ceil(BYTES_PER_TOKEN);
    plan
}

/// The pairs of a prompt's responses that are compared: all, where they are no more than `max_pairs`. Else a random
/// chain through all responses, without which their strengths could not be compared, and random further pairs.
fn compared_pairs(n_responses: usize, max_pairs: usize, seed: Seed, key: &[u64]) -> Vec<[usize; 2]> {
    let all: Vec<[usize; 2]> =
        (0..n_responses).flat_map(|i| (i + 1..n_responses).map(move |j| [i, j])).collect();
    if all.len() <= max_pairs {
        return all;
    }
    let order = seed.shuffled((0..n_responses).collect::<Vec<_>>(), "chain of comparisons", key);
    let mut pairs: Vec<[usize; 2]> =
        order.windows(2).map(|link| [link[0].min(link[1]), link[0].max(link[1])]).collect();
    let rest: Vec<[usize; 2]> = all.into_iter().filter(|pair| !pairs.contains(pair)).collect();
    let n_more = max_pairs.saturating_sub(pairs.len());
    pairs.extend(seed.shuffled(rest, "further comparisons", key).into_iter().take(n_more));
    pairs.sort_unstable();
    pairs
}

/// `n` of the places below `n_places`, in ascending order.
fn sampled_places(n_places: usize, n: usize, seed: Seed, purpose: &str, key: &[u64]) -> Vec<usize> {
    let mut places = seed.shuffled((0..n_places).collect::<Vec<_>>(), purpose, key);
    places.truncate(n);
    places.sort_unstable();
    places
}

/// The text of a question. A golden judge is asked only where there is a reference.
fn question(judge: &PreferJudge, group: &PromptGroup, shown: Shown) -> String {
    let response = |place: usize| group.responses[place].text.as_str();
    match shown {
        Shown::Two([first, second]) => {
            questions::pairwise(&group.question, response(first), response(second))
        }
        Shown::One(place) if judge.kind == JudgeKind::Golden => {
            let reference = group.reference(&judge.reference_column).unwrap_or_default();
            questions::golden(&group.question, &reference, response(place))
        }
        Shown::One(place) => questions::absolute(&judge.rated_aspects(), &group.question, response(place)),
    }
}

/// A question as a request. What is asked twice has another seed, and so is another request for the cache.
pub(super) fn request(
    config: &PreferConfig,
    judge: &PreferJudge,
    inputs: &PreferInputs,
    call: &Call,
) -> ChatRequest {
    let sampling = SamplingOptions {
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature,
        seed: config.seed.wrapping_add(u64::from(call.is_repeat)),
        ..SamplingOptions::default()
    };
    questions::request(question(judge, &inputs.groups[call.prompt], call.shown), sampling)
}

impl StagePlan for PreferPlan {
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
        let mut rows = vec![
            count("prompts", self.n_prompts),
            count("prompts with two responses or more", self.n_comparable),
            count("responses of those", self.n_responses),
        ];
        for judge in &self.judges {
            let n_repeats = judge.calls.iter().filter(|call| call.is_repeat).count();
            let name = &judge.name;
            rows.extend([
                count(&format!("{name}: calls"), judge.calls.len() as u64),
                count(&format!("{name}: calls that repeat a question"), n_repeats as u64),
                count(&format!("{name}: calls (maximum, with retries)"), judge.max_calls),
                count(&format!("{name}: prompt tokens (estimate, without retries)"), judge.prompt_tokens),
                count(&format!("{name}: completion tokens (maximum, with retries)"), judge.completion_tokens),
            ]);
        }
        if self.config.minimal_difference.is_some() {
            rows.extend([
                count("minimal differences: calls (maximum, with retries)", self.minimal.n_calls),
                count(
                    "minimal differences: prompt tokens (estimate, without retries)",
                    self.minimal.prompt_tokens,
                ),
                count(
                    "minimal differences: completion tokens (maximum, with retries)",
                    self.minimal.completion_tokens,
                ),
            ]);
        }
        rows
    }

    fn summary(&self) -> String {
        let n_judges = self.judges.len();
        let judged = format!(
            "{} responses of {} prompts, {} calls of {n_judges} judges",
            self.n_responses,
            self.n_comparable,
            self.n_calls()
        );
        match &self.config.minimal_difference {
            Some(_) => {
                format!("{judged}, and at most {} calls for minimal differences", self.minimal.n_calls)
            }
            None => judged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_response_is_compared_and_all_are_linked() {
        for n_responses in 2..9 {
            for max_pairs in 1..12 {
                let pairs = compared_pairs(n_responses, max_pairs, Seed(3), &[0, n_responses as u64]);
                let n_all = n_responses * (n_responses - 1) / 2;
                assert_eq!(
                    pairs.len(),
                    n_all.min(max_pairs.max(n_responses - 1)),
                    "{n_responses} {max_pairs}"
                );
                let mut distinct = pairs.clone();
                distinct.dedup();
                assert_eq!(distinct.len(), pairs.len());
                // A walk along the pairs reaches every response.
                let mut reached = vec![0];
                for _ in 0..n_responses {
                    let ends: Vec<usize> = pairs
                        .iter()
                        .filter(|pair| pair.iter().any(|place| reached.contains(place)))
                        .flatten()
                        .copied()
                        .collect();
                    reached.extend(ends);
                }
                assert!((0..n_responses).all(|place| reached.contains(&place)), "{pairs:?}");
            }
        }
        let with_seed = |seed| compared_pairs(8, 7, Seed(seed), &[0, 0]);
        assert_eq!(with_seed(1), with_seed(1));
        assert!((2..9).any(|seed| with_seed(seed) != with_seed(1)));
    }

    #[test]
    fn as_many_questions_are_sampled_as_asked_for() {
        let places = sampled_places(100, 10, Seed(1), "test", &[]);
        assert_eq!(places.len(), 10);
        assert!(places.windows(2).all(|two| two[0] < two[1]) && places[9] < 100);
        assert_eq!(sampled_places(3, 9, Seed(1), "test", &[]), [0, 1, 2]);
    }
}
