//! Which items of an evaluation training data holds, and what the scores are without them. An item counts as held where
//! a text of a training row shares an n-gram of words with its prompt ([`EvaluationIndex`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use truing_data::ObjectRow;
use truing_prompts::PromptsError;
use truing_prompts::decontamination::{DecontaminationOptions, EvaluationIndex};

use crate::benchmarks::{Item, MetricInfo, MetricSummary, Prompt, Scored, summarise};
use crate::results::{ItemRecord, TaskRecord};

/// Training rows that an item names.
const N_ROWS: usize = 20;

/// What counts as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContaminationOptions {
    /// Words in a row that a training text and a prompt must share.
    pub ngram_words: usize,
    /// Prompts with fewer words are not looked for.
    pub min_item_words: usize,
    /// N-grams that more items hold are the wording of the benchmark and count for none of them.
    pub max_items: usize,
}

impl Default for ContaminationOptions {
    fn default() -> Self {
        let DecontaminationOptions { ngram_words, min_item_words } = DecontaminationOptions::default();
        Self { ngram_words, min_item_words, max_items: 10 }
    }
}

/// An item that training data holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldItem {
    /// The item.
    pub id: String,
    /// File and line of the first training rows that hold it.
    pub rows: Vec<String>,
    /// How many training rows hold it.
    pub n_rows: usize,
    /// The words that the first of them shares with it.
    pub words: String,
}

/// A metric over all items, over those that training data does not hold, and over those that it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricEffect {
    /// Over all items.
    pub all: MetricSummary,
    /// Without the held ones; `None` where that leaves none.
    pub without: Option<MetricSummary>,
    /// Over the held ones; `None` where there are none.
    pub held: Option<MetricSummary>,
}

/// One benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskContamination {
    /// Its name.
    pub task: String,
    /// Its items.
    pub n_items: usize,
    /// Items whose prompt is too short to be looked for.
    pub n_too_short: usize,
    /// Items that training data holds, in the order of the file.
    pub held: Vec<HeldItem>,
    /// Its metrics over items.
    pub metrics: Vec<MetricEffect>,
}

/// Looks for the items of evaluations in training rows.
///
/// # Errors
/// When an option makes no sense, or a training row cannot be read.
pub fn contamination<E: From<PromptsError>>(
    tasks: &[(TaskRecord, Vec<ItemRecord>)],
    training: impl IntoIterator<Item = Result<ObjectRow, E>>,
    options: &ContaminationOptions,
) -> Result<Vec<TaskContamination>, E> {
    let ContaminationOptions { ngram_words, min_item_words, max_items } = *options;
    let mut index = EvaluationIndex::new(DecontaminationOptions { ngram_words, min_item_words })?;
    let mut n_too_short = Vec::new();
    // Every item is an evaluation of its own, of one or several texts.
    let mut places: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (task, (_, items)) in tasks.iter().enumerate() {
        let mut n_short = 0;
        for (place, record) in first_of_seeds(items).enumerate() {
            let texts = texts_of(&record.item);
            let name = format!("{task}/{place}");
            let before = index.n_skipped();
            index.add(&name, &texts)?;
            n_short += usize::from(index.n_skipped() - before == texts.len());
            places.insert(name, (task, place));
        }
        n_too_short.push(n_short);
    }
    let mut held: Vec<BTreeMap<usize, HeldItem>> = vec![BTreeMap::new(); tasks.len()];
    for row in training {
        let row = row?;
        // An item may be in several texts of a row, which counts once.
        let mut of_row = BTreeMap::new();
        for text in row.object.values().flat_map(texts) {
            for found in index.find_all(text, max_items) {
                of_row.entry(found.evaluation).or_insert(found.words);
            }
        }
        for (name, words) in of_row {
            let Some(&(task, item)) = places.get(&name) else { continue };
            let Some(record) = first_of_seeds(&tasks[task].1).nth(item) else { continue };
            let held = held[task].entry(item).or_insert_with(|| HeldItem {
                id: record.item.id.clone(),
                rows: Vec::new(),
                n_rows: 0,
                words,
            });
            held.n_rows += 1;
            if held.rows.len() < N_ROWS {
                held.rows.push(row.origin.to_string());
            }
        }
    }
    let tasks = tasks.iter().zip(held).zip(n_too_short);
    Ok(tasks
        .map(|(((record, items), held), n_too_short)| of_task(record, items, held, n_too_short))
        .collect())
}

fn of_task(
    record: &TaskRecord,
    items: &[ItemRecord],
    held: BTreeMap<usize, HeldItem>,
    n_too_short: usize,
) -> TaskContamination {
    let held: Vec<HeldItem> = held.into_values().collect();
    let ids: BTreeSet<&str> = held.iter().map(|item| item.id.as_str()).collect();
    let has_measure =
        |metric: &MetricInfo| items.iter().any(|record| record.score.measures.contains_key(&metric.key()));
    let metrics: Vec<MetricInfo> =
        record.summary.metrics.iter().map(|summary| summary.metric.clone()).filter(has_measure).collect();
    let over = |wanted: &dyn Fn(&ItemRecord) -> bool| -> Vec<MetricSummary> {
        let scored: Vec<Scored<'_>> =
            items.iter().filter(|record| wanted(record)).map(ItemRecord::scored).collect();
        if scored.is_empty() { Vec::new() } else { summarise(&scored, &metrics).metrics }
    };
    let is_held = |record: &ItemRecord| ids.contains(record.item.id.as_str());
    let (all, without, only) = (over(&|_| true), over(&|record| !is_held(record)), over(&is_held));
    let with_key = |summaries: &[MetricSummary], key: &str| {
        summaries.iter().find(|summary| summary.metric.key() == key && summary.n > 0).cloned()
    };
    let metrics = all
        .into_iter()
        .map(|all| {
            let key = all.metric.key();
            MetricEffect { without: with_key(&without, &key), held: with_key(&only, &key), all }
        })
        .collect();
    TaskContamination {
        task: record.task.clone(),
        n_items: record.summary.n_items,
        n_too_short,
        held,
        metrics,
    }
}

fn first_of_seeds(items: &[ItemRecord]) -> impl Iterator<Item = &ItemRecord> {
    items.iter().filter(|record| record.seed == 0)
}

/// What makes an item this item: the texts of its row that its prompt shows, without solved examples and without the
/// words that the benchmark puts around them. A text that is a part of another one is left out.
fn texts_of(item: &Item) -> Vec<String> {
    let prompt = match &item.prompt {
        Prompt::Completion(prompt) => prompt.question.clone(),
        Prompt::Chat(conversation) => {
            let turns: Vec<&str> =
                conversation.messages.iter().map(|message| message.content.as_str()).collect();
            turns.join("\n")
        }
    };
    let mut shown: Vec<&str> =
        item.row.values().flat_map(texts).map(str::trim).filter(|text| prompt.contains(text)).collect();
    shown.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let mut found: Vec<String> = Vec::new();
    for text in shown {
        if !text.is_empty() && !found.iter().any(|longer| longer.contains(text)) {
            found.push(text.to_owned());
        }
    }
    if found.is_empty() { vec![prompt] } else { found }
}

/// All texts of a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
