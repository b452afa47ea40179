//! Names of the files that finished runs of these stages leave in their folders.

use truing_ask::labels::LabelledPrompt;
use truing_run::selection::PromptDecision;

/// Made rows (`build`).
pub const ROWS: &str = "rows.jsonl";
/// Prompts for reinforcement learning (`build`, `respond`).
pub const PROMPTS: &str = "prompts.jsonl";
/// The status of each row, with the reason (`build`, `pas`, `prefer`).
pub const FATES: &str = "fates.jsonl";
/// Preference pairs (`prefer`), or pairs of prompt and complement (`pas`).
pub const PAIRS: &str = "pairs.jsonl";
/// Prompts with their replies and verdicts (`pas_evaluate`).
pub const RESULTS: &str = "results.jsonl";
/// Accepted responses (`respond`).
pub const RESPONSES: &str = "responses.jsonl";
/// All responses with their scores (`respond`).
pub const CANDIDATES: &str = "candidates.jsonl";
/// Prompts with ranked responses (`prefer`).
pub const RANKED: &str = "ranked.jsonl";
/// Prompts without a good response, for people to edit (`prefer`).
pub const EDIT_QUEUE: &str = "edit_queue.jsonl";
/// Pairs that differ in one defect (`prefer`).
pub const MINIMAL_PAIRS: &str = "minimal_pairs.jsonl";
/// Selected rows as they were read (`select`).
pub const SELECTED: &str = "selected.jsonl";
/// What became of each prompt of the pool (`select`).
pub const DECISIONS: &str = PromptDecision::FILE_NAME;
/// Labelled prompts (`label`).
pub const LABELS: &str = LabelledPrompt::FILE_NAME;
/// Prompts whose labels are uncertain (`label`).
pub const REVIEW: &str = "review.jsonl";
/// Prompts without a label (`label`).
pub const UNLABELLED: &str = "unlabelled.jsonl";
/// Prompts with quality scores (`quality`).
pub const SCORES: &str = "scores.jsonl";
/// The run in numbers.
pub const SUMMARY: &str = "summary.json";
