//! What a selection leaves in its folder.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use serde_json::Value;
use truing_data::read_prompts;
use truing_eval::bundled::BUNDLED;
use truing_prompts::clustering::CoarseAndFine;
use truing_prompts::map::{MapOptions, draw_map};
use truing_prompts::templates::{Template, TemplateSet};
use truing_prompts::tokens::{END, START, TokenPool, Vocabulary, join};
use truing_run::rows::write_lines;
use truing_run::selection::{
    Decision, DroppedRow, LayerCount, PromptDecision, SelectionLayer, SelectionSummary, TemplatePiece,
    TemplateRow,
};
use truing_run::{RunError, write_skipped};
use truing_store::{RunDirectory, StoreError, atomic};
use truing_types::{Event, EventSink, PromptMap, RowOrigin};

use super::SelectPlan;
use super::embedded::Embedded;
use super::pool::Pool;
use crate::StageError;

/// Every template with its slots, for people.
const TEMPLATE_TABLE: &str = "templates.txt";
/// Prompts whose fillers a template shows.
const N_EXAMPLES: usize = 3;

/// What was found out about the rows that were left before the selection.
pub(super) struct Found<'a> {
    pub(super) tokens: &'a TokenPool,
    pub(super) templates: &'a TemplateSet,
    pub(super) clusters: &'a CoarseAndFine,
    pub(super) vectors: &'a Embedded,
}

/// Writes everything and counts it.
pub(super) fn write(
    plan: &SelectPlan,
    pool: &Pool,
    found: &Found<'_>,
    layers: Vec<LayerCount>,
    n_tasks: usize,
    folder: &RunDirectory,
    events: &mut dyn EventSink,
) -> Result<SelectionSummary, StageError> {
    events.emit(Event::PhaseStarted { phase: "writing".into(), total: None });
    let decisions = decisions(pool, found);
    write_lines(&folder.path().join(PromptDecision::FILE_NAME), &decisions)?;
    write_lines(&folder.path().join(TemplateRow::FILE_NAME), &templates(&decisions, found))?;
    let table = found.templates.table(found.tokens, N_EXAMPLES);
    atomic::write(&folder.path().join(TEMPLATE_TABLE), table.as_bytes())?;
    let skipped = pool.report.skipped.iter().chain(&pool.evaluation_report.skipped);
    write_skipped(folder.path(), skipped, events)?;
    write_selected(plan, pool, &folder.path().join(crate::files::SELECTED))?;
    if plan.config.map.max_points > 0 {
        let path = folder.path().join(PromptMap::FILE_NAME);
        let map = serde_json::to_vec(&map(plan, &decisions, found)?)
            .map_err(|source| StoreError::Json { path: path.clone(), source })?;
        atomic::write(&path, &map)?;
    }
    let summary = summary(plan, pool, &decisions, layers, n_tasks);
    atomic::write_json(&folder.path().join(SelectionSummary::FILE_NAME), &summary)?;
    events.emit(Event::PhaseFinished);
    events.emit(Event::Saved { what: "selection".into(), path: folder.path().join(crate::files::SELECTED) });
    Ok(summary)
}

/// What became of every row, those that could not be read behind the others.
fn decisions(pool: &Pool, found: &Found<'_>) -> Vec<PromptDecision> {
    // Rows of templates and clusters are those that were left after near duplicates: every later layer is a diversity
    // layer or a quota.
    let mut idx = 0;
    let mut all: Vec<PromptDecision> = Vec::with_capacity(pool.rows.len());
    for (id, row) in pool.rows.iter().enumerate() {
        let was_left = row.dropped.as_ref().is_none_or(|dropped| {
            matches!(dropped.layer, SelectionLayer::Diversity { .. } | SelectionLayer::Quota { .. })
        });
        let found_of = was_left.then_some(idx);
        idx += usize::from(was_left);
        let labels = row
            .labels
            .iter()
            .zip(&pool.label_names)
            .filter_map(|(value, name)| Some((name.clone(), value.clone()?)));
        all.push(PromptDecision {
            id: id as u64,
            origin: row.origin.clone(),
            n_characters: row.text.chars().count() as u64,
            text: row.text.clone(),
            language: row.language.map(str::to_owned),
            labels: labels.collect(),
            quality: row.quality.map(f64::from),
            coarse_cluster: found_of.map(|idx| found.clusters.coarse[idx]),
            fine_cluster: found_of.map(|idx| found.clusters.fine[idx]),
            template: found_of.and_then(|idx| found.templates.template_of_row[idx]),
            decision: row.dropped.clone().map_or(Decision::Kept, Decision::Dropped),
        });
    }
    for skipped in &pool.report.skipped {
        all.push(PromptDecision {
            id: all.len() as u64,
            origin: RowOrigin { source: skipped.path.as_str().into(), line: skipped.line },
            text: String::new(),
            n_characters: 0,
            language: None,
            labels: BTreeMap::new(),
            quality: None,
            coarse_cluster: None,
            fine_cluster: None,
            template: None,
            decision: Decision::Dropped(DroppedRow {
                layer: SelectionLayer::Unreadable,
                threshold: None,
                representative: None,
                detail: skipped.reason_with_field(),
            }),
        });
    }
    all
}

/// The rows that had a vector, on a plane.
fn map(plan: &SelectPlan, decisions: &[PromptDecision], found: &Found<'_>) -> Result<PromptMap, StageError> {
    let shown = decisions.iter().filter(|decision| decision.fine_cluster.is_some());
    let (ids, clusters): (Vec<u64>, Vec<Option<u32>>) =
        shown.map(|decision| (decision.id, decision.coarse_cluster)).unzip();
    let given = &plan.config.map;
    let options = MapOptions {
        n_points: given.max_points,
        seed: plan.config.seed_of(given.seed),
        ..MapOptions::default()
    };
    let vectors = found.vectors.vectors()?;
    Ok(draw_map(&ids, &clusters, vectors.data(), vectors.dim(), &options)?)
}

fn templates(decisions: &[PromptDecision], found: &Found<'_>) -> Vec<TemplateRow> {
    let mut n_kept = vec![0; found.templates.templates.len()];
    for decision in decisions.iter().filter(|decision| decision.decision == Decision::Kept) {
        if let Some(template) = decision.template {
            n_kept[template as usize] += 1;
        }
    }
    let rows_of = found.templates.rows_by_template();
    let vocabulary = found.tokens.vocabulary();
    let of_template = |(id, template): (usize, &Template)| {
        let examples = rows_of[id].iter().step_by((rows_of[id].len() / N_EXAMPLES).max(1)).take(N_EXAMPLES);
        TemplateRow {
            id: id as u32,
            pieces: pieces(template, vocabulary),
            n_rows: template.n_rows as u64,
            n_kept: n_kept[id],
            filler_examples: examples
                .filter_map(|&row| found.templates.fillers(found.tokens, row as usize))
                .collect(),
        }
    };
    found.templates.templates.iter().enumerate().map(of_template).collect()
}

fn pieces(template: &Template, vocabulary: &Vocabulary) -> Vec<TemplatePiece> {
    let mut pieces = Vec::new();
    let mut n_slots = 0;
    let mut slot = |pieces: &mut Vec<TemplatePiece>| {
        n_slots += 1;
        pieces.push(TemplatePiece::Slot(n_slots));
    };
    for (i, run) in template.runs.iter().enumerate() {
        if i > 0 || run.first() != Some(&START) {
            slot(&mut pieces);
        }
        let words = run.iter().filter(|&&token| token != START && token != END);
        pieces.push(TemplatePiece::Fixed(join(words.map(|&token| vocabulary.text(token)))));
    }
    if template.runs.last().and_then(|run| run.last()) != Some(&END) {
        slot(&mut pieces);
    }
    pieces
}

/// The sources are read once more, so that the pool never holds its rows' other columns.
fn write_selected(plan: &SelectPlan, pool: &Pool, path: &Path) -> Result<(), StageError> {
    let failed = |source| RunError::Write { path: path.to_path_buf(), source };
    let mut writer = atomic::Writer::new(path)?;
    let left_out: HashSet<(&str, u64)> =
        pool.report.skipped.iter().map(|row| (row.path.as_str(), row.line)).collect();
    let mut rows = pool.rows.iter();
    for source in &plan.config.data {
        for read in read_prompts(&source.in_folder(&plan.config.data_dir), plan.config.on_bad_row)? {
            let (row, origin) = read?;
            if left_out.contains(&(&*origin.source, origin.line)) {
                continue;
            }
            let Some(known) = rows.next().filter(|known| known.origin == origin) else {
                return Err(RunError::InputsChanged { path: plan.config.data_dir.join(&source.path) }.into());
            };
            if known.dropped.is_none() {
                serde_json::to_writer(&mut writer, &row.columns).map_err(|error| failed(error.into()))?;
                writer.write_all(b"\n").map_err(failed)?;
            }
        }
    }
    writer.commit()?;
    Ok(())
}

fn summary(
    plan: &SelectPlan,
    pool: &Pool,
    decisions: &[PromptDecision],
    diversity: Vec<LayerCount>,
    n_tasks: usize,
) -> SelectionSummary {
    let config = &plan.config;
    let mut counted: BTreeMap<SelectionLayer, (u64, Option<f64>)> = BTreeMap::new();
    let always = [SelectionLayer::Unreadable, SelectionLayer::ExactDuplicate, SelectionLayer::NearDuplicate];
    let shipped = BUNDLED.iter().map(|evaluation| evaluation.name.to_owned());
    let named = config.evaluation_data.iter();
    let named = named.map(|source| source.in_folder(&config.data_dir).path.to_string_lossy().into_owned());
    let evaluations =
        shipped.chain(named).map(|evaluation_file| SelectionLayer::Contaminated { evaluation_file });
    for layer in always.into_iter().chain(evaluations) {
        counted.insert(layer, (0, None));
    }
    for dropped in decisions.iter().filter_map(|decision| decision.decision.dropped()) {
        let count = counted.entry(dropped.layer.clone()).or_default();
        *count = (count.0 + 1, dropped.threshold);
    }
    if let Some(count) = counted.get_mut(&SelectionLayer::Unreadable) {
        count.0 = pool.report.skipped.len() as u64;
    }
    for layer in diversity {
        let count = counted.entry(layer.layer).or_default();
        *count = (layer.n_dropped, layer.threshold);
    }
    let mut notes = pool.missing(config);
    if config.evaluation_data.is_empty() {
        notes.push("no `evaluation_data` given: checked against the bundled evaluation sets only".to_owned());
    }
    if config.task_embedding.is_none() {
        notes.push(
            "the encoder was not fine-tuned in this run: unless it was trained on tasks before, distances measure \
             topics, not tasks"
                .to_owned(),
        );
    }
    SelectionSummary {
        settings: serde_json::to_value(config).unwrap_or(Value::Null),
        n_rows: (pool.rows.len() + pool.report.skipped.len()) as u64,
        n_kept: decisions.iter().filter(|decision| decision.decision == Decision::Kept).count() as u64,
        n_tasks: n_tasks as u64,
        layers: counted
            .into_iter()
            .map(|(layer, (n_dropped, threshold))| LayerCount { layer, n_dropped, threshold })
            .collect(),
        seeds: [("run".to_owned(), config.seed)].into(),
        notes,
    }
}
