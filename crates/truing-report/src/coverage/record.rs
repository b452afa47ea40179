//! A selection as its folder records it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use truing_run::selection::{PromptDecision, SelectionLayer, SelectionSummary, TemplateRow};
use truing_types::PromptMap;

use super::tally::Tally;
use crate::ReportError;
use crate::run_record::read_json;

/// How much of a large pool a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoverageLimits {
    /// Dropped rows in the table.
    pub n_dropped_rows: usize,
    /// Clusters, the largest first.
    pub n_clusters: usize,
    /// Templates, the most frequent first.
    pub n_templates: usize,
    /// Label combinations, the most frequent first.
    pub n_combinations: usize,
    /// Characters of a prompt.
    pub n_characters: usize,
}

impl Default for CoverageLimits {
    fn default() -> Self {
        Self {
            n_dropped_rows: 5000,
            n_clusters: 200,
            n_templates: 300,
            n_combinations: 1000,
            n_characters: 280,
        }
    }
}

/// A selection, read.
#[derive(Debug, Clone)]
pub struct CoverageRecord {
    pub(super) title: String,
    pub(super) limits: CoverageLimits,
    pub(super) summary: SelectionSummary,
    pub(super) tally: Tally,
    pub(super) templates: BTreeMap<u32, TemplateRow>,
    pub(super) map: PromptMap,
    /// Dropped rows that are shown, by id.
    pub(super) dropped: Vec<u64>,
    /// Every row that any list shows, its text cut to its beginning.
    pub(super) rows: BTreeMap<u64, PromptDecision>,
}

impl CoverageRecord {
    /// Reads a selection's folder.
    ///
    /// # Errors
    /// When the folder holds no selection, or a file of it cannot be understood.
    pub fn read(folder: &Path, limits: &CoverageLimits) -> Result<Self, ReportError> {
        let no_run = |missing| ReportError::NoRun { path: folder.to_owned(), missing };
        let summary: SelectionSummary = read_json(&folder.join(SelectionSummary::FILE_NAME))?
            .ok_or_else(|| no_run(SelectionSummary::FILE_NAME))?;
        let decisions = folder.join(PromptDecision::FILE_NAME);
        if !decisions.is_file() {
            return Err(no_run(PromptDecision::FILE_NAME));
        }
        let mut tally = Tally::default();
        for row in lines(&decisions)? {
            tally.add(&row?, limits.n_dropped_rows);
        }
        let templates = folder.join(TemplateRow::FILE_NAME);
        let templates = if templates.is_file() {
            lines::<TemplateRow>(&templates)?
                .map(|row| row.map(|row| (row.id, row)))
                .collect::<Result<_, _>>()?
        } else {
            BTreeMap::new()
        };
        let map_path = folder.join(PromptMap::FILE_NAME);
        let map: PromptMap = read_json(&map_path)?.unwrap_or_default();
        if let Some(odd) = map.projections.iter().find(|one| one.points.len() != map.ids.len()) {
            let reason = format!("{} has {} points for {} ids", odd.name, odd.points.len(), map.ids.len());
            return Err(ReportError::BadRecord { path: map_path, line: 1, reason });
        }
        let rooms = tally.rooms(limits.n_dropped_rows);
        let mut dropped: Vec<u64> =
            rooms.iter().flat_map(|(layer, &room)| tally.layers[*layer].shown.first(room)).collect();
        dropped.sort_unstable();
        let name = folder.file_name().map_or("selection".into(), |name| name.to_string_lossy().into_owned());
        let mut record = Self {
            title: name,
            limits: *limits,
            summary,
            tally,
            templates,
            map,
            dropped,
            rows: BTreeMap::new(),
        };
        record.fetch_rows(&decisions)?;
        Ok(record)
    }

    /// Rows that are shown, and then those that stand for them.
    fn fetch_rows(&mut self, decisions: &Path) -> Result<(), ReportError> {
        let examples: Vec<u64> =
            self.largest_clusters().into_iter().flat_map(|(_, cluster)| cluster.examples()).collect();
        let mut wanted: Vec<u64> =
            self.dropped.iter().chain(&self.map.ids).chain(&examples).copied().collect();
        // The file is in order, but a representative may come before or after what it stands for.
        for _ in 0..2 {
            wanted.sort_unstable();
            wanted.dedup();
            for row in lines::<PromptDecision>(decisions)? {
                let mut row = row?;
                if wanted.binary_search(&row.id).is_ok() {
                    row.text = beginning(&row.text, self.limits.n_characters);
                    self.rows.insert(row.id, row);
                }
            }
            let representatives = self.rows.values().filter_map(|row| row.decision.dropped()?.representative);
            wanted = representatives.filter(|id| !self.rows.contains_key(id)).collect();
            if wanted.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Layers with the rows that each dropped: those of the summary in its order, then what only the decisions know.
    pub(super) fn layers_in_order(&self) -> Vec<(&SelectionLayer, u64)> {
        let known: Vec<&SelectionLayer> = self.summary.layers.iter().map(|count| &count.layer).collect();
        let n_dropped = |layer| self.tally.layers.get(layer).map_or(0, |tally| tally.n_dropped);
        let others = self.tally.layers.keys().filter(|layer| !known.contains(layer));
        known.iter().copied().chain(others).map(|layer| (layer, n_dropped(layer))).collect()
    }

    /// Clusters that are shown, the largest first.
    pub(super) fn largest_clusters(&self) -> Vec<(u32, &super::tally::ClusterTally)> {
        let mut clusters: Vec<_> = self.tally.clusters.iter().map(|(&id, cluster)| (id, cluster)).collect();
        clusters.sort_by_key(|(id, cluster)| (std::cmp::Reverse(cluster.counts.before), *id));
        clusters.truncate(self.limits.n_clusters);
        clusters
    }
}

/// The first characters of a text, and an ellipsis if it is longer.
fn beginning(text: &str, n_characters: usize) -> String {
    match text.char_indices().nth(n_characters) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// The objects of a file with one a line.
fn lines<T: DeserializeOwned>(
    path: &Path,
) -> Result<impl Iterator<Item = Result<T, ReportError>> + use<T>, ReportError> {
    let file = File::open(path).map_err(ReportError::io("read", path))?;
    let path: PathBuf = path.to_owned();
    let read = move |(idx, line): (usize, io::Result<String>)| {
        let line = line.map_err(ReportError::io("read", &path))?;
        serde_json::from_str(&line).map_err(|error| ReportError::BadRecord {
            path: path.clone(),
            line: idx + 1,
            reason: error.to_string(),
        })
    };
    Ok(BufReader::new(file).lines().enumerate().map(read))
}
