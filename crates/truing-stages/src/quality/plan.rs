//! The prompts, their buckets and anchors, and what it will cost to compare them.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value};
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_data::{SourceConfig, read_prompts};
use truing_reward::asking::question_text;
use truing_run::rows::value_at;
use truing_run::{DataReport, RunError};
use truing_train::{Amount, PlanRow};
use truing_types::{Event, EventSink, RowOrigin, Seed};

use super::config::{Calls, QualityConfig};
use super::questions;
use crate::{StageError, StagePlan};

/// The bucket of rows without a label.
const UNLABELLED: &str = "(no label)";

/// One prompt to be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityPrompt {
    /// As a judge reads it.
    pub text: String,
    /// Its row.
    pub columns: Map<String, Value>,
    /// Its bucket's label.
    pub bucket: String,
    /// Where it came from.
    pub origin: RowOrigin,
}

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
        events.emit(Event::PhaseStarted { phase: "reading the prompts".into(), total: None });
        let (mut prompts, mut report) = (Vec::new(), DataReport::of("data"));
        for source in &config.data {
            let source = SourceConfig { path: config.data_dir.join(&source.path), ..source.clone() };
            let mut rows = read_prompts(&source, config.on_bad_row)?;
            for row in &mut rows {
                let (row, origin) = row?;
                let bucket = match value_at(&row.columns, &config.bucket_column) {
                    Some(Value::String(label)) => label.clone(),
                    Some(other) => other.to_string(),
                    None => UNLABELLED.to_owned(),
                };
                let text = question_text(&row.prompt);
                prompts.push(QualityPrompt { text, columns: row.columns, bucket, origin });
            }
            report.end_source(&rows);
            events.emit(Event::Progress { done: prompts.len() as u64, note: String::new() });
        }
        report.n_rows = prompts.len() as u64;
        events.emit(Event::PhaseFinished);
        report.warn("the prompts", events);
        Ok(Self { prompts, report })
    }
}

/// Prompts that are compared with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its label.
    pub name: String,
    /// Places among the inputs' prompts, the anchors first, each part in the order of the files.
    pub members: Vec<usize>,
    /// How many of them are anchors.
    pub n_anchors: usize,
}

impl Bucket {
    /// Whether it has too few prompts for anchors: all are compared with all.
    #[must_use]
    pub fn is_small(&self) -> bool {
        self.n_anchors == self.members.len()
    }

    /// Who meets whom, as places among the members; the second is always an anchor.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let samples =
            if self.is_small() { 0..self.members.len() } else { self.n_anchors..self.members.len() };
        let opponents = move |sample: usize| if self.is_small() { 0..sample } else { 0..self.n_anchors };
        samples.flat_map(move |sample| opponents(sample).map(move |anchor| (sample, anchor)))
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
    /// Draws anchors and counts.
    ///
    /// # Errors
    /// When a setting cannot be meant, or there is nothing to compare.
    pub fn resolve(config: QualityConfig, inputs: &QualityInputs) -> Result<Self, StageError> {
        config.check()?;
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, prompt) in inputs.prompts.iter().enumerate() {
            by_name.entry(&prompt.bucket).or_default().push(place);
        }
        let buckets: Vec<Bucket> = by_name
            .into_iter()
            .map(|(name, members)| draw_anchors(name, members, config.n_anchors, Seed(config.seed)))
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
        let frame_bytes = questions::frame_bytes(&config) as u64;
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
    fn rows(&self) -> Vec<PlanRow> {
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
            count("tokens of their prompts, about", self.prompt_tokens),
            count("tokens of their replies, at most", self.completion_tokens),
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

/// Anchors by seed and the bucket's name: other buckets and their sizes change nothing.
fn draw_anchors(name: &str, mut members: Vec<usize>, n_anchors: usize, seed: Seed) -> Bucket {
    let n_anchors = n_anchors.min(members.len());
    if n_anchors < members.len() {
        let mut generator = seed.generator(&format!("anchors of {name}"), &[]);
        for place in 0..n_anchors {
            let left = (members.len() - place) as u64;
            members.swap(place, place + (generator.next_u64() % left) as usize);
        }
        members[..n_anchors].sort_unstable();
        members[n_anchors..].sort_unstable();
    }
    Bucket { name: name.to_owned(), members, n_anchors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sample_meets_every_anchor_once() {
        let bucket = draw_anchors("x", (100..150).collect(), 30, Seed(1));
        assert_eq!((bucket.n_anchors, bucket.is_small()), (30, false));
        let pairs: Vec<_> = bucket.pairs().collect();
        assert_eq!(pairs.len(), 20 * 30);
        assert!(pairs.iter().all(|&(sample, anchor)| sample >= 30 && anchor < 30));
        assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), pairs.len());
        let members: BTreeSet<_> = bucket.members.iter().collect();
        assert_eq!(members.len(), 50);
        assert_eq!(draw_anchors("x", (100..150).collect(), 30, Seed(1)), bucket);
        assert_ne!(draw_anchors("x", (100..150).collect(), 30, Seed(2)).members, bucket.members);
        assert_ne!(draw_anchors("y", (100..150).collect(), 30, Seed(1)).members, bucket.members);
    }

    #[test]
    fn a_small_bucket_compares_all_with_all() {
        for (n, n_pairs) in [(1, 0), (2, 1), (7, 21), (30, 435)] {
            let bucket = draw_anchors("x", (0..n).collect(), 30, Seed(1));
            assert!(bucket.is_small());
            assert_eq!(bucket.pairs().count(), n_pairs);
            assert!(bucket.pairs().all(|(one, other)| other < one));
        }
    }
}
