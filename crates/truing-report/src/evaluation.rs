//! The page of an evaluation on benchmarks, and the page of two evaluations compared. Made from the files that
//! [`truing_eval::results`] describes.

pub(crate) mod categories;
mod charts;
mod comparison;
mod page;
pub(crate) mod samples;
pub(crate) mod text;

use std::path::Path;

use truing_eval::comparison::RunPair;
use truing_eval::results::{
    ItemRecord, RESULTS, TaskRecord, find_harness_results, items_file, read_items, read_results,
};
use truing_store::atomic;

use crate::ReportError;
use crate::run_record::read_json;

/// Items that a page shows in full, over all tasks.
const N_SAMPLES: usize = 3000;
/// The fewest and the most of one task.
const SAMPLES_OF_A_TASK: [usize; 2] = [50, 1000];

/// Whether the folder is that of an evaluation on benchmarks.
pub(crate) fn is_evaluation(folder: &Path) -> bool {
    folder.join(RESULTS).is_file()
}

/// Which model was evaluated and how, as the run's results name it.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize)]
#[serde(default)]
struct Facts {
    model_name: String,
    model_source: String,
    system_instruction: Option<String>,
    chat_template: Option<String>,
    total_evaluation_time_seconds: Option<String>,
    git_hash: String,
    config: Config,
}

#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize)]
#[serde(default)]
struct Config {
    random_seed: u64,
}

fn read_facts(folder: &Path) -> Result<Facts, ReportError> {
    match find_harness_results(folder) {
        Some(path) => Ok(read_json(&path)?.unwrap_or_default()),
        None => Ok(Facts::default()),
    }
}

/// Reads the evaluation in `folder` and writes its page to `page`, whole or not at all.
pub(crate) fn write_evaluation(folder: &Path, page: &Path) -> Result<(), ReportError> {
    let tasks: Vec<(TaskRecord, Vec<ItemRecord>)> = read_results(folder)?
        .into_iter()
        .map(|record| {
            let items = read_items(&folder.join(items_file(&record.task)))?;
            Ok((record, items))
        })
        .collect::<Result<_, ReportError>>()?;
    let recipe = std::fs::read_to_string(folder.join("recipe.resolved.toml")).unwrap_or_default();
    let html = page::render(&read_facts(folder)?, &tasks, &recipe)?;
    Ok(atomic::write(page, html.as_bytes())?)
}

/// Writes the page of two evaluations, whole or not at all: differences with intervals and tests, categories, and the
/// items that changed. `folders` are those that `pair` was read from.
///
/// # Errors
/// When the facts of a run cannot be understood, or the page cannot be written.
pub fn write_comparison(folders: [&Path; 2], pair: &RunPair, page: &Path) -> Result<(), ReportError> {
    let mut sides = Vec::new();
    for folder in folders {
        let facts = read_facts(folder)?;
        let name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        sides.push(comparison::Side { name, model: facts.model_name });
    }
    let html = comparison::render(&sides, pair)?;
    Ok(atomic::write(page, html.as_bytes())?)
}

/// Items of one task that a page with so many tasks shows.
fn samples_of_a_task(n_tasks: usize) -> usize {
    let [fewest, most] = SAMPLES_OF_A_TASK;
    (N_SAMPLES / n_tasks.max(1)).clamp(fewest, most)
}
