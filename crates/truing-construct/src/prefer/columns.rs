//! Columns that output rows copy from the row of their prompt.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::PreferConfig;
use super::inputs::PromptGroup;

/// Columns of a row that are not carried over, because they hold the prompt or the responses in another form, or
/// because readers of preferences would take them for something else.
const NOT_CARRIED_OVER: [&str; 25] = [
    "prompt",
    "messages",
    "conversations",
    "instruction",
    "input",
    "question",
    "text",
    "system",
    "tools",
    "responses",
    "completions",
    "chosen",
    "rejected",
    "score_chosen",
    "score_rejected",
    "chosen-rating",
    "rejected-rating",
    "scores",
    "score",
    "rewards",
    "reward",
    "ratings",
    "rating",
    "ranks",
    "rank",
];

/// Columns of the prompt's row that go along, without those that the new row has itself.
pub(super) fn carried(group: &PromptGroup, is_own: impl Fn(&str) -> bool) -> Map<String, Value> {
    let columns = group.columns.iter();
    columns
        .filter(|(name, _)| !NOT_CARRIED_OVER.contains(&name.as_str()) && !is_own(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The value of `dataset`: the recipe's, or the name of the row's file.
pub(super) fn dataset(config: &PreferConfig, group: &PromptGroup) -> String {
    let stem =
        || Path::new(&*group.origin.source).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    config.dataset.clone().unwrap_or_else(stem)
}
