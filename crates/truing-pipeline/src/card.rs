//! The card of a model: what it was made of, with what, and what was measured; Markdown with the header in YAML that
//! hubs of models read.
//!
//! Everything comes from the pipeline: settings, keys and figures of the stages, the rows that they read, the results
//! of the stages that evaluate the model. What no stage measured is not in the card.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use toml::Value as Setting;
use truing_store::Digest;
use truing_store::paths::in_folder;

use crate::export::quoted;
use crate::impact::each_row;
use crate::lineage::files::MODEL_FILES;
use crate::plan::ReadFile;
use crate::recipe::PipelineStage;
use crate::{Lineage, PipelineError};

/// Beginnings of settings that name models which are asked, and their ends.
const ASKED: [&str; 8] = ["model", "judge", "teacher", "writer", "checker", "critic", "generator", "target"];
const NAME_KEYS: [&str; 2] = ["name", "model"];
/// Digits of a key that are shown.
const N_DIGITS: usize = 10;
/// Figures of a stage that are shown.
const N_FIGURES: usize = 4;

/// What a model was made of and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelCard {
    /// The pipeline's name and the stage's.
    pub name: String,
    /// The kind of stage that made the model.
    pub uses: String,
    /// The program and its engine.
    pub program: String,
    /// The licence: as it was given, else the one that the base models and all rows share.
    pub license: Option<String>,
    /// Models from outside that the stages start from or merge, with the licence that the model's own card states.
    pub base_models: BTreeMap<String, Option<String>>,
    /// Other models that its stages or those before them use: they wrote or judged rows, or taught.
    pub asked_models: BTreeSet<String>,
    /// Files of rows from outside.
    pub data: Vec<CardData>,
    /// The stages that it follows from, and its own, in the order in which they ran.
    pub stages: Vec<CardStage>,
    /// What was measured.
    pub scores: Vec<CardScore>,
}

/// A file of rows from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CardData {
    /// As the recipe names it.
    pub name: String,
    /// The file's name without the folder.
    pub file: String,
    /// Stages that read it.
    pub stages: Vec<String>,
    /// Its rows.
    pub n_rows: u64,
    /// Rows by the licence that they state in `license` or `licence`.
    pub licenses: BTreeMap<String, u64>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CardStage {
    /// Its name.
    pub stage: String,
    /// Its kind.
    pub uses: String,
    /// Its key.
    pub key: Option<Digest>,
    /// Its main figures.
    pub figures: BTreeMap<String, f64>,
}

/// A metric of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CardScore {
    /// The stage that measured it.
    pub stage: String,
    /// The benchmark.
    pub task: String,
    /// The metric, with its way of reading answers where it has several.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// Items.
    pub n: u64,
}

impl ModelCard {
    /// The card of the model that a stage left. `license` is stated as it is given.
    ///
    /// # Errors
    /// When there is no such stage, it left no model, or a file cannot be read.
    pub fn of(lineage: &Lineage<'_>, stage: &str, license: Option<&str>) -> Result<Self, PipelineError> {
        let (pipeline, plan) = (lineage.pipeline, lineage.plan);
        let idx = pipeline.stage_index(stage)?;
        let done = plan.stages[idx].done.as_ref();
        if done.is_none_or(|done| !done.outputs.contains_key("model")) {
            let reason = format!("stage `{stage}` has left no `model`: expected a stage that did");
            return Err(PipelineError::Lineage { reason });
        }
        let before = |other: &&usize| **other == idx || pipeline.downstream(**other).contains(&idx);
        let ours: Vec<usize> = pipeline.order.iter().filter(before).copied().collect();
        let mut card = Self {
            name: format!("{}-{stage}", pipeline.name),
            uses: pipeline.stages[idx].uses.clone(),
            program: lineage.tables.host.program().to_owned(),
            license: license.map(str::to_owned),
            base_models: BTreeMap::new(),
            asked_models: BTreeSet::new(),
            data: Vec::new(),
            stages: Vec::new(),
            scores: Vec::new(),
        };
        let line = model_line(lineage, idx);
        for &one in &ours {
            card.add_stage(lineage, one, line.contains(&one));
        }
        card.data = data(lineage, &ours)?;
        for (other, measuring) in pipeline.stages.iter().enumerate() {
            if pipeline.references_to(other, idx).iter().any(|output| output == "model") {
                let done = plan.stages[other].done.as_ref().and_then(|done| done.outputs.get("results"));
                if let (Some(results), Some(key)) = (done, plan.stages[other].key) {
                    let path = lineage.tables.store.run_folder(key).join(&results.path);
                    card.scores.extend(scores(&measuring.name, &path));
                }
            }
        }
        if card.license.is_none() {
            card.license = card.shared_license();
        }
        Ok(card)
    }

    /// Adds a stage. `is_ancestor`: the model of the card is that of this stage, or was trained or merged from it.
    fn add_stage(&mut self, lineage: &Lineage<'_>, idx: usize, is_ancestor: bool) {
        let (stage, planned) = (&lineage.pipeline.stages[idx], &lineage.plan.stages[idx]);
        for read in planned.files.iter().filter(|read| is_model(&read.path)) {
            let name = name_of(lineage, stage, read);
            if is_ancestor && is_base_setting(&read.setting) {
                self.base_models.insert(name, license_of(&read.path));
            } else {
                self.asked_models.insert(name);
            }
        }
        let settings = planned.parts.iter().flat_map(|parts| &parts.settings);
        for (setting, value) in settings {
            let (first, last) = (setting.split('.').next(), setting.split('.').next_back());
            let is_name = last.is_some_and(|last| NAME_KEYS.contains(&last)) && setting.contains('.');
            if is_name && first.is_some_and(|first| ASKED.contains(&first)) {
                self.asked_models.insert(value.trim_matches('"').to_owned());
            }
        }
        self.stages.push(CardStage {
            stage: stage.name.clone(),
            uses: stage.uses.clone(),
            key: planned.key,
            figures: planned.done.as_ref().map(|done| done.figures.clone()).unwrap_or_default(),
        });
    }

    /// The one licence that every base model and every row states; `None` where one states none, or they differ.
    fn shared_license(&self) -> Option<String> {
        let of_models = self.base_models.values().map(Option::as_deref);
        let of_rows = self.data.iter().flat_map(|data| {
            let n_stated: u64 = data.licenses.values().sum();
            let silent = (n_stated < data.n_rows).then_some(None);
            data.licenses.keys().map(|license| Some(license.as_str())).chain(silent)
        });
        let mut all = of_models.chain(of_rows);
        let first = all.next()??;
        all.all(|license| license == Some(first)).then(|| first.to_owned())
    }

    /// The card as Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = self.header();
        let Self { name, uses, program, .. } = self;
        let _ = writeln!(text, "\n# {name}\n\nMade by a stage of kind `{uses}`, with {program}.");
        text.push_str("\n## How it was made\n\n| stage | kind | key | figures |\n|---|---|---|---|\n");
        for CardStage { stage, uses, key, figures } in &self.stages {
            let key = key.map_or_else(String::new, |key| key.to_string()[..N_DIGITS].to_owned());
            let figures = figures.iter().take(N_FIGURES).map(|(name, value)| format!("{name} {value:.4}"));
            let figures = figures.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "| {} | {} | {key} | {} |", cell(stage), cell(uses), cell(&figures));
        }
        if !self.base_models.is_empty() {
            text.push_str("\n## Models it starts from\n\n| model | licence |\n|---|---|\n");
            for (model, license) in &self.base_models {
                let license = license.as_deref().unwrap_or("not stated");
                let _ = writeln!(text, "| {} | {} |", cell(model), cell(license));
            }
        }
        if !self.asked_models.is_empty() {
            let asked: Vec<String> =
                self.asked_models.iter().map(|model| format!("`{}`", cell(model))).collect();
            let _ = writeln!(
                text,
                "\nOther models that were asked, or that judged or taught: {}.",
                asked.join(", ")
            );
        }
        text.push_str("\n## Data\n\n| data | rows | licences of the rows | read by |\n|---|---|---|---|\n");
        for data in &self.data {
            let CardData { name, n_rows, licenses, stages, .. } = data;
            let stated = licenses.iter().map(|(license, n)| format!("{license} ({n})")).collect::<Vec<_>>();
            let stated = if stated.is_empty() { "not stated".to_owned() } else { stated.join(", ") };
            let readers = stages.join(", ");
            let _ = writeln!(text, "| {} | {n_rows} | {} | {} |", cell(name), cell(&stated), cell(&readers));
        }
        text.push_str("\n## Evaluation\n\n");
        if self.scores.is_empty() {
            text.push_str("No stage of the pipeline evaluates this model.\n");
        } else {
            text.push_str("| benchmark | metric | value | 95 % interval | items |\n|---|---|---|---|---|\n");
            for score in &self.scores {
                let interval = score.interval.map(|[low, high]| format!("{low:.4} to {high:.4}"));
                let interval = interval.unwrap_or_else(|| "none".to_owned());
                let CardScore { task, metric, value, n, .. } = score;
                let _ =
                    writeln!(text, "| {} | {} | {value:.4} | {interval} | {n} |", cell(task), cell(metric));
            }
            text.push_str("\nNothing else was measured.\n");
        }
        text
    }

    /// The header that hubs read.
    fn header(&self) -> String {
        let mut text = String::from("---\nlibrary_name: transformers\n");
        let is_scorer = ["reward_model", "classifier"].contains(&self.uses.as_str());
        let task = if is_scorer { "text-classification" } else { "text-generation" };
        let task = if self.uses == "embed" { "sentence-similarity" } else { task };
        let _ = writeln!(text, "pipeline_tag: {task}");
        let _ = match &self.license {
            Some(license) => writeln!(text, "license: {}", quoted(license)),
            None => writeln!(text, "license: other\nlicense_name: see-the-licences-of-models-and-data-below"),
        };
        let hub_models = || self.base_models.keys().map(String::as_str).filter(|name| is_hub_name(name));
        list(&mut text, "base_model", hub_models());
        if hub_models().next().is_some() {
            let is_merge = ["merge", "merge_search"].contains(&self.uses.as_str());
            let relation = if is_merge { "merge" } else { "finetune" };
            let _ = writeln!(text, "base_model_relation: {relation}");
        }
        let datasets = self.data.iter().map(|data| data.name.as_str()).filter(|name| is_hub_name(name));
        list(&mut text, "datasets", datasets);
        let kinds: BTreeSet<&str> = self.stages.iter().map(|stage| stage.uses.as_str()).collect();
        list(&mut text, "tags", ["truing"].into_iter().chain(kinds));
        if !self.scores.is_empty() {
            let _ = writeln!(text, "model-index:\n- name: {}\n  results:", quoted(&self.name));
            let tasks: BTreeSet<&str> = self.scores.iter().map(|score| score.task.as_str()).collect();
            for name in tasks {
                let _ = writeln!(text, "  - task:\n      type: {task}\n    dataset:");
                let name_text = quoted(name);
                let _ = writeln!(text, "      name: {name_text}\n      type: {name_text}\n    metrics:");
                for score in self.scores.iter().filter(|score| score.task == name) {
                    let interval =
                        score.interval.map(|[low, high]| format!(", 95 % interval {low:.4} to {high:.4}"));
                    let shown =
                        format!("{}{}, {} items", score.metric, interval.unwrap_or_default(), score.n);
                    let (metric, shown) = (quoted(&score.metric), quoted(&shown));
                    let value = score.value;
                    let _ = writeln!(text, "    - type: {metric}\n      name: {shown}\n      value: {value}");
                }
            }
        }
        text.push_str("---\n");
        text
    }
}

/// A list of texts under a key, where there are any.
fn list<'a>(text: &mut String, key: &str, entries: impl Iterator<Item = &'a str>) {
    let entries: Vec<String> = entries.map(|entry| format!("- {}\n", quoted(entry))).collect();
    if !entries.is_empty() {
        let _ = write!(text, "{key}:\n{}", entries.concat());
    }
}

/// A text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// Whether a name is `OWNER/NAME`, as hubs have it.
fn is_hub_name(name: &str) -> bool {
    let is_plain =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ' ', ':']);
    name.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name) && !name.contains('/'))
}

fn is_model(path: &Path) -> bool {
    MODEL_FILES.iter().any(|name| path.join(name).is_file())
        || path.extension().is_some_and(|ending| ending == "gguf")
}

/// Whether a setting names the model that a training starts from, or one that is merged.
fn is_base_setting(setting: &str) -> bool {
    ["model_name_or_path", "base_model"].contains(&setting)
        || ["models.", "slices."].iter().any(|list| setting.starts_with(list))
}

/// The stage itself, and those whose models it was trained or merged from, directly or through others.
fn model_line(lineage: &Lineage<'_>, stage: usize) -> BTreeSet<usize> {
    let (pipeline, plan) = (lineage.pipeline, lineage.plan);
    let (mut found, mut open) = (BTreeSet::new(), vec![stage]);
    while let Some(one) = open.pop() {
        if !found.insert(one) {
            continue;
        }
        let made = plan.stages[one].made.iter().filter(|(setting, _)| is_base_setting(setting));
        for (_, path) in made {
            let is_named =
                |needed: &usize| plan.stages[*needed].key.is_some_and(|key| path.contains(&key.to_string()));
            open.extend(pipeline.stages[one].upstream.iter().copied().filter(is_named));
        }
    }
    found
}

/// What the recipe calls a file or folder that a stage reads. A path is shortened to its last part, so that the card
/// tells nothing of the machine.
fn name_of(lineage: &Lineage<'_>, stage: &PipelineStage, read: &ReadFile) -> String {
    let of_file = stage.recipe.as_ref().and_then(|file| toml::from_str::<toml::Table>(&file.text).ok());
    let mut tables = [Some(stage.with.clone()), of_file].into_iter().flatten();
    let written = tables.find_map(|table| text_at(&Setting::Table(table), &read.setting));
    let last = || read.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match written {
        Some(name)
            if is_hub_name(&name) && !in_folder(&lineage.pipeline.folder, Path::new(&name)).exists() =>
        {
            name
        }
        _ => last(),
    }
}

/// The text of a setting, its keys joined by dots.
fn text_at(value: &Setting, path: &str) -> Option<String> {
    let mut value = value;
    for part in path.split('.') {
        value = match part.parse::<usize>() {
            Ok(place) if value.is_array() => value.get(place)?,
            _ => value.get(part)?,
        };
    }
    value.as_str().map(str::to_owned)
}

/// The licence in the header of a model's own card.
fn license_of(model: &Path) -> Option<String> {
    let text = fs::read_to_string(model.join("README.md")).ok()?;
    let header = text.strip_prefix("---")?.split("\n---").next()?.to_owned();
    let license = header.lines().find_map(|line| line.strip_prefix("license:"))?;
    let license = license.trim().trim_matches(['"', '\'']);
    (!license.is_empty()).then(|| license.to_owned())
}

/// The files from outside that stages read, with the licences of their rows.
fn data(lineage: &Lineage<'_>, stages: &[usize]) -> Result<Vec<CardData>, PipelineError> {
    let mut found: BTreeMap<PathBuf, CardData> = BTreeMap::new();
    for &idx in stages {
        for input in &lineage.files.inputs[idx] {
            let own = &lineage.files.all[input.file];
            if own.owner.is_some() {
                continue;
            }
            let stage = &lineage.pipeline.stages[idx];
            if let Some(known) = found.get_mut(&own.path) {
                if !known.stages.contains(&stage.name) {
                    known.stages.push(stage.name.clone());
                }
                continue;
            }
            let read = lineage.plan.stages[idx].files.iter().find(|read| own.path.starts_with(&read.path));
            let (mut n_rows, mut licenses) = (0, BTreeMap::new());
            each_row(lineage, &own.path, &mut |_, row| {
                n_rows += 1;
                let stated = row.get("license").or_else(|| row.get("licence")).and_then(Value::as_str);
                if let Some(stated) = stated {
                    *licenses.entry(stated.to_owned()).or_insert(0) += 1;
                }
                Ok(())
            })?;
            let file = own.file_name();
            let name = read.map_or_else(|| file.clone(), |read| name_of(lineage, stage, read));
            let data = CardData { name, file, stages: vec![stage.name.clone()], n_rows, licenses };
            found.insert(own.path.clone(), data);
        }
    }
    Ok(found.into_values().collect())
}

/// The metrics in the results of an evaluation; none of a file of another form.
fn scores(stage: &str, path: &Path) -> Vec<CardScore> {
    let bytes = fs::read(path).unwrap_or_default();
    let Ok(Value::Array(tasks)) = serde_json::from_slice(&bytes) else { return Vec::new() };
    let mut found = Vec::new();
    for task in &tasks {
        let metrics = task["summary"]["metrics"].as_array().into_iter().flatten();
        found.extend(metrics.filter_map(|metric| {
            let name = metric["metric"]["name"].as_str()?;
            let filter = metric["metric"]["filter"].as_str().filter(|filter| *filter != "none");
            let bounds = [metric["interval"]["low"].as_f64(), metric["interval"]["high"].as_f64()];
            Some(CardScore {
                stage: stage.to_owned(),
                task: task["task"].as_str()?.to_owned(),
                metric: filter.map_or_else(|| name.to_owned(), |filter| format!("{name} ({filter})")),
                value: metric["value"].as_f64()?,
                interval: if let [Some(low), Some(high)] = bounds { Some([low, high]) } else { None },
                n: metric["n"].as_u64().unwrap_or(0),
            })
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_a_training_starts_from_or_that_are_merged_are_base_models() {
        for setting in ["model_name_or_path", "base_model", "models.1.model", "slices.0.sources.1.model"] {
            assert!(is_base_setting(setting), "{setting}");
        }
        for setting in ["reward_model.model_name_or_path", "judge.model_name_or_path", "tokenizer"] {
            assert!(!is_base_setting(setting), "{setting}");
        }
    }
}
