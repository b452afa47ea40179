//! Benchmarks: one file each, one line in [`BENCHMARKS`].
//!
//! A benchmark is a pure function in four parts. It makes [`Item`]s of the rows of a user's file. Of an item
//! and the answers so far it says what is to be asked next ([`Benchmark::requests`]); once that is nothing, the
//! item is complete. Of items and answers it makes scores, each a number or
//! [`Unscored`](truing_types::Unscored) with its reason. [`summarise`] makes metrics of scores. Nothing here
//! asks a model: a run is a log of answers by item and request, and can be resumed or scored anew from it.
//!
//! Scores come from the verifiers of `truing-reward`. Data of benchmarks is not shipped; it is read from the
//! user's path.

mod alpaca_eval;
mod arena_hard;
mod arena_style;
mod cfbench;
mod code;
mod custom;
mod error;
mod experience;
mod fbbench;
mod followbench;
mod function_calls;
mod ifeval;
mod item;
mod judge_names;
mod judge_quality;
mod judging;
mod loading;
mod math;
mod measure;
mod mt_bench;
mod multiple_choice;
mod perplexity;
mod preference;
mod python_calls;
mod row;
mod summary;
mod sysbench;
mod verifying;

use serde::{Deserialize, Serialize};
use truing_data::ObjectRow;
use truing_types::nearest_name;

pub use arena_hard::{
    Battle, battles_of_judgments, comparison as compare_replies, leaderboard, read_comparison,
};
pub use arena_style::{StyleFeatures, StyleFit, style_controlled};
pub use cfbench::scores_of_judged as cfbench_scores_of_judged;
pub use custom::{CustomBenchmark, CustomConfig};
pub use error::BenchmarkError;
pub use experience::{Experience, Opinion, Rating, experience};
pub use fbbench::scores_of_judged as fbbench_scores_of_judged;
pub use item::{Answer, Answers, Ask, CompletionPrompt, Item, LogLikelihood, Prompt, Recipient, Request};
pub use judge_names::{is_of_judge, repeated_name};
pub use judge_quality::{JudgeQuality, MeasuredShare, OrderConsistency, RepeatAgreement, judge_quality};
pub use judging::{Question, Verdict};
pub use loading::{DataFile, KnownFile, Loaded, ShotCount, load};
pub use measure::{Aggregation, ItemScore, Measure, MetricInfo};
pub use mt_bench::scores_of_judgments as mt_bench_scores_of_judgments;
pub use row::Row;
pub use summary::{IntervalKind, MetricSummary, Scored, Summary, summarise};
pub use sysbench::scores_of_sheet as sysbench_scores_of_sheet;
pub use verifying::{Scoring, verified};

/// Whether a benchmark's own quirks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoringMode {
    /// What is unreadable is unscored, and what the benchmark does by accident is not done. Where that differs
    /// from the published programs, `truing evaluate list` and the plan list it.
    #[default]
    Strict,
    /// As the published programs score, quirks included.
    Official,
}

/// Settings of a benchmark's run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskOptions {
    /// Solved examples before a question; the benchmark's own number if `None`.
    pub n_shots: Option<usize>,
    /// Rows that the examples are taken from, the first ones first.
    pub shots: Vec<ObjectRow>,
    /// Text before everything, instead of the benchmark's own.
    pub description: Option<String>,
    /// Only the first items: so many, or below 1 that share of them, rounded up.
    pub limit: Option<f64>,
    /// Whether quirks are kept.
    pub mode: ScoringMode,
    /// Answers sampled for each item, where a benchmark samples several.
    pub n_samples: Option<usize>,
    /// Most replies of a judge for one verdict; the benchmark's own number if `None`.
    pub max_judge_attempts: Option<usize>,
    /// Answers of the model that is compared with, by item, where a benchmark compares.
    pub baseline: std::collections::BTreeMap<String, String>,
    /// Rows of a second file that belong to the items by their `id`, where a benchmark keeps references apart
    /// (possible answers of function calls).
    pub references: Vec<ObjectRow>,
    /// Earlier turns are the data's own answers, not the model's (SysBench).
    pub given_history: bool,
    /// Accept a file with another digest than the published one in official mode.
    pub accept_other_version: bool,
}

/// A benchmark.
pub trait Benchmark: Send + Sync {
    /// Its name on the command line and in records.
    fn name(&self) -> &str;

    /// What it measures, in a few words, with its source.
    fn about(&self) -> &str;

    /// Changes whenever scores would.
    fn version(&self) -> u32 {
        1
    }

    /// Solved examples that are customary.
    fn default_shots(&self) -> usize {
        0
    }

    /// Whether a judge is asked.
    fn needs_judge(&self) -> bool {
        false
    }

    /// Whether answers of another model are compared with ([`TaskOptions::baseline`]).
    fn needs_baseline(&self) -> bool {
        false
    }

    /// The published files, where scores depend on which one it is.
    fn known_files(&self) -> &[KnownFile] {
        &[]
    }

    /// How strict scores differ from the published programs'.
    fn differences(&self) -> &[&str] {
        &[]
    }

    /// Its metrics, the main one first.
    fn metrics(&self, options: &TaskOptions) -> Vec<MetricInfo>;

    /// Makes items of all rows of the file.
    ///
    /// # Errors
    /// When a row lacks a column or has a value that makes no sense.
    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError>;

    /// What is to be asked, given the answers so far, with what was asked already; a request is known by its
    /// name. The same item and answers give the same requests.
    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request>;

    /// Scores items with their answers, in order.
    fn score(
        &self,
        scored: &[(&Item, &Answers)],
        options: &TaskOptions,
        scoring: &Scoring<'_>,
    ) -> Vec<ItemScore>;

    /// For each pair of responses that a judge saw in both orders: the score of one of them where it was shown first,
    /// and where it was shown second, from 0 to 1. Pairs without both verdicts are left out.
    fn both_orders(&self, _item: &Item, _answers: &Answers, _options: &TaskOptions) -> Vec<[f64; 2]> {
        Vec::new()
    }

    /// Metrics that are no mean or ratio over items.
    fn further(&self, _scored: &[Scored<'_>], _options: &TaskOptions) -> Vec<MetricSummary> {
        Vec::new()
    }
}

/// The requests of an item that have no answer yet. Empty: the item is complete.
#[must_use]
pub fn pending(
    benchmark: &dyn Benchmark,
    item: &Item,
    answers: &Answers,
    options: &TaskOptions,
) -> Vec<Request> {
    let mut requests = benchmark.requests(item, answers, options);
    requests.retain(|request| !answers.0.contains_key(&request.id));
    requests
}

/// Summarises a benchmark's items: its metrics over items, those that are none ([`Benchmark::further`]), and how its
/// judge went. An item that was answered with several seeds occurs once for each of them.
#[must_use]
pub fn summarise_benchmark(
    benchmark: &dyn Benchmark,
    scored: &[Scored<'_>],
    options: &TaskOptions,
) -> Summary {
    let mut summary = summarise(scored, &benchmark.metrics(options));
    summary.metrics.extend(benchmark.further(scored, options));
    summary.judge = judge_quality(benchmark, scored, options);
    summary
}

/// All benchmarks.
pub static BENCHMARKS: &[&dyn Benchmark] = &[
    &ifeval::IFEVAL,
    &ifeval::IFEVAL_ZH,
    &ifeval::MULTI_IF,
    &math::GSM8K,
    &math::MATH,
    &math::SVAMP,
    &math::MGSM,
    &multiple_choice::MMLU,
    &multiple_choice::ARC,
    &multiple_choice::HELLASWAG,
    &multiple_choice::CEVAL,
    &multiple_choice::MMLU_GENERATE,
    &multiple_choice::ARC_GENERATE,
    &multiple_choice::CEVAL_GENERATE,
    &cfbench::CfBench,
    &sysbench::SysBench,
    &fbbench::FbBench,
    &code::HUMANEVAL,
    &code::HUMANEVAL_COMPLETION,
    &code::MBPP,
    &followbench::FollowBench,
    &mt_bench::MtBench,
    &arena_hard::ARENA_HARD_V01,
    &arena_hard::ARENA_HARD_V2,
    &alpaca_eval::AlpacaEval,
    &function_calls::FunctionCalls,
    &preference::LLMBAR,
    &preference::REWARD_BENCH,
    &preference::REWARD_MODEL,
    &experience::UserExperience,
    &perplexity::Perplexity,
];

/// Finds a benchmark by its name.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn find(name: &str) -> Result<&'static dyn Benchmark, BenchmarkError> {
    BENCHMARKS.iter().find(|benchmark| benchmark.name() == name).copied().ok_or_else(|| {
        let nearest = nearest_name(name, BENCHMARKS.iter().map(|benchmark| benchmark.name()));
        BenchmarkError::UnknownBenchmark { name: name.to_owned(), nearest }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_a_misspelt_one_has_its_nearest() {
        let names: BTreeSet<&str> = BENCHMARKS.iter().map(|benchmark| benchmark.name()).collect();
        assert_eq!(names.len(), BENCHMARKS.len());
        for benchmark in BENCHMARKS {
            assert!(!benchmark.about().is_empty(), "{}", benchmark.name());
            let keys: BTreeSet<String> =
                benchmark.metrics(&TaskOptions::default()).iter().map(MetricInfo::key).collect();
            assert_eq!(keys.len(), benchmark.metrics(&TaskOptions::default()).len(), "{}", benchmark.name());
        }
        let Err(error) = find("ifevl") else { panic!("it was found") };
        assert_eq!(error.to_string(), "there is no benchmark `ifevl`; did you mean `ifeval`?");
    }
}
