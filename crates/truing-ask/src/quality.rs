//! The quality of prompts from judges (report 3.1.3): the question about two prompts, the reading of replies, buckets
//! with anchors, and verdicts added up to scores.

mod aggregate;
mod bucket;
mod dimension;
mod questions;
mod verdict;

pub use aggregate::{
    BucketSummary, Compared, Comparison, DimensionScore, JudgePair, JudgeSummary, Label, Pair, PromptScore,
    Summary,
};
pub use bucket::{Bucket, QualityPrompt};
pub use dimension::{Calls, Dimension};
pub use questions::{ComparisonForm, read_verdicts, reminder};
pub use verdict::Verdict;
