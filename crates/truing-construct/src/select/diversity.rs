//! Which prompts stay, layer by layer (report 3.1.2), in the words of the run's folder.

use std::collections::BTreeMap;

use truing_prompts::selection::{Selection, Target, select as select_rows};
use truing_run::selection::{DroppedRow, LayerCount, SelectionLayer};
use truing_types::{Event, EventSink};

use super::embedded::Embedded;
use super::pool::{Pool, standing_in};
use super::{SelectConfig, plan};
use crate::StageError;

/// Rows that go, and the layers that sent them.
pub(super) struct Chosen {
    pub(super) dropped: BTreeMap<u32, DroppedRow>,
    pub(super) layers: Vec<LayerCount>,
    pub(super) n_tasks: usize,
}

/// Chooses among the rows that are left.
pub(super) fn select(
    pool: &Pool,
    vectors: &Embedded,
    config: &SelectConfig,
    events: &mut dyn EventSink,
) -> Result<Chosen, StageError> {
    events.emit(Event::PhaseStarted { phase: "selecting".into(), total: None });
    let alive = pool.alive();
    let mut chosen = Chosen { dropped: BTreeMap::new(), layers: Vec::new(), n_tasks: 0 };
    // Rows, by their place among those left, that the layers choose from.
    let mut rows: Vec<u32> = (0..alive.len() as u32).collect();
    let mut labels = Vec::new();
    let mut sizes = BTreeMap::new();
    if let Some(column) = &config.selection.quota_column {
        let idx = config.label_columns.iter().position(|known| known == column).unwrap_or(0);
        let quotas: Vec<(&String, &usize)> = config.selection.quotas.iter().collect();
        rows.retain(|&row| {
            let id = alive[row as usize];
            let value = pool.rows[id as usize].labels[idx].as_ref();
            match quotas.iter().position(|(quota, size)| Some(*quota) == value && **size > 0) {
                Some(label) => labels.push(label as u32),
                None => {
                    let value = value.cloned().unwrap_or_default();
                    let layer = SelectionLayer::Quota { label: column.clone(), value };
                    let detail = "no quota is given for it".to_owned();
                    chosen
                        .dropped
                        .insert(id, DroppedRow { layer, threshold: None, representative: None, detail });
                }
            }
            value.is_some_and(|value| config.selection.quotas.get(value).is_some_and(|&size| size > 0))
        });
        sizes = quotas
            .iter()
            .enumerate()
            .filter(|(_, (_, size))| **size > 0)
            .map(|(i, (_, size))| (i as u32, **size))
            .collect();
    }
    let target = match &config.selection {
        given if given.quota_column.is_some() => Target::Quotas { labels: &labels, sizes: &sizes },
        given => match (given.target_size, given.target_ratio) {
            (Some(size), _) => Target::Size(size),
            (None, Some(ratio)) => Target::Ratio(ratio),
            (None, None) => Target::Thresholds,
        },
    };
    let qualities =
        pool.qualities().map(|all| rows.iter().map(|&row| all[row as usize]).collect::<Vec<f32>>());
    let gathered = vectors.rows(&rows);
    let selection =
        select_rows(gathered.vectors()?, qualities.as_deref(), target, &plan::selection_options(config))?;
    let id_of = |row: u32| alive[rows[row as usize] as usize];
    for dropped in &selection.dropped {
        let layer = SelectionLayer::Diversity { level: dropped.layer + 1 };
        let (threshold, representative) = (dropped.threshold.map(f64::from), id_of(dropped.chosen));
        let survivor = id_of(dropped.representative);
        let detail = match survivor == representative {
            true => format!("distance {:.3}", dropped.distance),
            false => {
                format!(
                    "distance {:.3} to row {survivor}, represented by row {representative}",
                    dropped.distance
                )
            }
        };
        chosen.dropped.insert(id_of(dropped.row), standing_in(layer, threshold, representative, detail));
    }
    if selection.n_tasks > 0 {
        events.emit(Event::Note(format!("{} tasks share the target", selection.n_tasks)));
    }
    chosen.layers = layers(&selection);
    chosen.n_tasks = selection.n_tasks;
    for (label, missing) in &selection.shortfalls {
        let value = config.selection.quotas.keys().nth(*label as usize).map_or("", |value| value);
        events.emit(Event::Warning(format!("`{value}` has {missing} prompts fewer than its quota")));
    }
    events.emit(Event::PhaseFinished);
    Ok(chosen)
}

/// Layers of the same level, which quotas have one of for each label and tasks one of for each task, are one line.
fn layers(selection: &Selection) -> Vec<LayerCount> {
    let mut levels: BTreeMap<u32, LayerCount> = BTreeMap::new();
    for layer in &selection.layers {
        let level = layer.level + 1;
        let threshold = layer.threshold.map(f64::from);
        let count = levels.entry(level).or_insert_with(|| LayerCount {
            layer: SelectionLayer::Diversity { level },
            n_dropped: 0,
            threshold,
        });
        count.threshold = count.threshold.zip(threshold).map(|(one, other)| one.max(other));
        count.n_dropped += (layer.n_before - layer.n_after) as u64;
    }
    levels.into_values().collect()
}
