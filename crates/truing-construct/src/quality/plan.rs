//! The prompts, their buckets and anchors, and what it will cost to compare them.

use std::collections::BTreeMap;

use serde_json::Value;
use truing_ask::judged_folder::JudgedInputs;
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_ask::quality::{Bucket, Calls, QualityPrompt};
use truing_reward::asking::question_text;
use truing_run::rows::value_at;
use truing_run::{DataReport, RunError};
use truing_store::RunInputs;
use truing_train::{Amount, PlanRow};
use truing_types::{EventSink, Seed};

use super::config::QualityConfig;
use crate::sources::Sources;
use crate::{StageError, StagePlan};

/// The bucket of rows without a label.
const UNLABELLED: &str = "(no label)";

/// Everything a plan looks at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QualityInputs {
    /// The prompts in the order of their files.
    pub prompts: Vec<QualityPrompt>,
    /// What became of all rows of the data.
    pub report: DataReport,
}

impl QualityInputs {
    /// Reads the prompts.
    ///
    /// # Errors
    /// When a file cannot be read, or a row cannot and `on_bad_row` is `error`.
    pub fn load(config: &QualityConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        config.check()?;
        let QualityConfig { data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (prompts, report) = sources.read("the prompts", events, |row, origin, _| {
            let bucket = match value_at(&row.columns, &config.bucket_column) {
                Some(Value::String(label)) => label.clone(),
                Some(other) => other.to_string(),
                None => UNLABELLED.to_owned(),
            };
            let text = question_text(&row.prompt);
            Ok(Some(QualityPrompt { text, columns: row.columns, bucket, origin }))
        })?;
        Ok(Self { prompts, report })
    }
}

/// A run as it will be.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityPlan {
    /// The settings.
    pub config: QualityConfig,
    /// The buckets in the order of their names.
    pub buckets: Vec<Bucket>,
    /// Comparisons of two prompts, each asked of every judge in both orders.
    pub n_comparisons: u64,
    /// Calls of all judges, where each reply can be read at once and none is known yet.
    pub n_calls: u64,
    /// Tokens of their prompts, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of their replies at most.
    pub completion_tokens: u64,
}

impl QualityPlan {
    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &QualityInputs) -> Result<RunInputs, StageError> {
        let config = &self.config;
        let record = JudgedInputs {
            stage: config.stage,
            seed: config.seed,
            judges: config.judge.iter().map(|judge| &judge.model).collect(),
            data: &inputs.report.files,
            others: Vec::new(),
        };
        Ok(record.record()?)
    }

    /// Draws anchors and counts.
    ///
    /// # Errors
    /// When a setting is invalid, or there is nothing to compare.
    pub fn resolve(config: QualityConfig, inputs: &QualityInputs) -> Result<Self, StageError> {
        config.check()?;
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (idx, prompt) in inputs.prompts.iter().enumerate() {
            by_name.entry(&prompt.bucket).or_default().push(idx);
        }
        let buckets: Vec<Bucket> = by_name
            .into_iter()
            .map(|(name, members)| Bucket::sample_anchors(name, members, config.n_anchors, Seed(config.seed)))
            .collect();
        let n_comparisons = buckets.iter().map(|bucket| bucket.pairs().count() as u64).sum();
        if n_comparisons == 0 {
            return Err(RunError::BadSetting {
                key: "data",
                found: format!("{} prompts in {} buckets", inputs.prompts.len(), buckets.len()),
                expected: "two prompts in one bucket".into(),
            }
            .into());
        }
        let calls_of_order = match config.calls {
            Calls::Together => 1,
            Calls::Separate => config.dimensions.len() as u64,
        };
        let n_calls = n_comparisons * 2 * calls_of_order * config.judge.len() as u64;
        let frame_bytes = config.form().frame_bytes() as u64;
        let length =
            |bucket: &Bucket, member: usize| inputs.prompts[bucket.members[member]].text.len() as u64;
        let bytes_of_pairs: u64 = buckets
            .iter()
            .flat_map(|bucket| {
                bucket.pairs().map(|(a, b)| length(bucket, a) + length(bucket, b) + frame_bytes)
            })
            .sum();
        let calls_of_pair = n_calls / n_comparisons;
        Ok(Self {
            n_comparisons,
            n_calls,
            prompt_tokens: (bytes_of_pairs * calls_of_pair).div_ceil(BYTES_PER_TOKEN),
            completion_tokens: n_calls * config.max_new_tokens as u64,
            buckets,
            config,
        })
    }
}

impl StagePlan for QualityPlan {
    /// The plan as lines.
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
        let n_small = self.buckets.iter().filter(|bucket| bucket.is_small()).count();
        vec![
            count("prompts", self.buckets.iter().map(|bucket| bucket.members.len() as u64).sum()),
            count("buckets", self.buckets.len() as u64),
            count("buckets with too few prompts for anchors", n_small as u64),
            count("anchors", self.buckets.iter().map(|bucket| bucket.n_anchors as u64).sum()),
            count("judges", self.config.judge.len() as u64),
            count("comparisons", self.n_comparisons),
            count("calls, each comparison in both orders", self.n_calls),
            count("prompt tokens (estimate)", self.prompt_tokens),
            count("completion tokens (maximum)", self.completion_tokens),
        ]
    }

    /// What is run, in one sentence.
    fn summary(&self) -> String {
        format!(
            "{} comparisons in {} buckets, {} calls of {} judges",
            self.n_comparisons,
            self.buckets.len(),
            self.n_calls,
            self.config.judge.len()
        )
    }
}
