//! The chosen prompts: near ones merge layer by layer until as many are left as were asked for.
//!
//! After section 3.1.2 of the Baichuan Alignment report (arXiv 2410.14940): hierarchical clustering with an increasing
//! sequence of thresholds, each layer clustering the survivors of the one before. What the report leaves open:
//!
//! - The distance is Euclidean between vectors of length 1, so a threshold `t` is a cosine of `1 - t^2 / 2`. Under
//!   Ward's linkage that holds between single rows; a survivor represents all its rows in the next layer, at their mean
//!   and with their number, and large clusters must be nearer than that. Under the other linkages a survivor is one row
//!   again.
//! - Of a cluster survives the row of the highest quality, then the lowest row.
//! - A layer clusters in blocks: k-means clusters of its survivors, cut to [`SelectionOptions::block_rows`]. The cost
//!   of a layer is that of k-means and of as many small hierarchies as there are blocks. Blocks are drawn anew in each
//!   layer, so a pair that was cut apart may meet in the next.
//! - With a target, layers follow until it is reached; past the listed thresholds each is
//!   [`SelectionOptions::growth`] times the one before. The layer that would pass the target is cut: its nearest
//!   clusters merge first, and exactly as many rows survive as were asked for.
//! - A target that has room for every task is shared among them: tasks are the clusters of mean cosines up to
//!   [`SelectionOptions::task_distance`], each keeps rows in proportion to its size to the power of
//!   [`SelectionOptions::task_exponent`], and layers choose within each. Nearness alone would thin out what is alike in
//!   content, not what is frequent: a rare task lost as large a share of its rows as a frequent one. Clusters as what
//!   to balance are those of Vo et al. (arXiv 2405.15613), the exponent that of mT5 (arXiv 2010.11934, section 3.1).
//! - Every dropped row names layer, threshold, the row that stood for it then, and the chosen row that stands for that.

mod tasks;

use std::collections::BTreeMap;

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Seed;

use crate::PromptsError;
use crate::clustering::{KmeansOptions, Linkage, Merge, Vectors, agglomerate, kmeans, normalised};
use crate::duplicates::best_first;
use crate::error::{check_length, check_option};

/// How to select.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionOptions {
    /// Thresholds of the layers, increasing.
    pub thresholds: Vec<f32>,
    /// Factor between thresholds past the last one listed.
    pub growth: f32,
    /// Linkage: the distance between clusters.
    pub linkage: Linkage,
    /// Rows whose mean cosine is that of two vectors so far apart are one task; 0 does not look for tasks.
    pub task_distance: f32,
    /// Tasks share a target in proportion to their sizes to this power: 0 gives each task as much as any other, 1 keeps
    /// the pool's proportions.
    pub task_exponent: f32,
    /// Most rows of a block.
    pub block_rows: usize,
    /// Random seed of the blocks.
    pub seed: Seed,
}

impl Default for SelectionOptions {
    fn default() -> Self {
        SelectionOptions {
            thresholds: vec![0.2, 0.3, 0.4, 0.5, 0.6],
            growth: 1.5,
            linkage: Linkage::Ward,
            task_distance: 0.7,
            task_exponent: 0.0,
            block_rows: 1024,
            seed: Seed(0),
        }
    }
}

impl SelectionOptions {
    fn check(&self) -> Result<(), PromptsError> {
        let increase = self.thresholds.windows(2).all(|pair| pair[0] < pair[1]);
        let are_distances = self.thresholds.iter().all(|&t| t > 0.0 && t.is_finite());
        let shown = format!("{:?}", self.thresholds);
        let is_list = !self.thresholds.is_empty() && increase && are_distances;
        check_option(is_list, "thresholds", shown, "numbers above 0, each larger than the one before")?;
        check_option(self.growth > 1.0 && self.growth.is_finite(), "growth", self.growth, "above 1")?;
        let is_distance = (0.0..=2.0).contains(&self.task_distance);
        check_option(is_distance, "task_distance", self.task_distance, "0 to 2")?;
        let is_exponent = (0.0..=1.0).contains(&self.task_exponent);
        check_option(is_exponent, "task_exponent", self.task_exponent, "0 to 1")?;
        check_option(self.block_rows >= 4, "block_rows", self.block_rows, "at least 4")
    }
}

/// How many rows to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target<'a> {
    /// What the listed thresholds leave.
    Thresholds,
    /// This many, or all when there are fewer.
    Size(usize),
    /// This share, rounded to the nearest number, at least one.
    Ratio(f64),
    /// For each label its number; labels are selected apart from each other.
    Quotas {
        /// Each row's label.
        labels: &'a [u32],
        /// Rows to keep of each label. Every label must be there.
        sizes: &'a BTreeMap<u32, usize>,
    },
}

/// A row that was not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DroppedRow {
    /// The row.
    pub row: u32,
    /// The layer it was dropped in, from 0.
    pub layer: u32,
    /// That layer's threshold; `None` for the last layer of a target that no distance reaches, where all merge. Of a
    /// layer that was cut, the height it was cut at.
    pub threshold: Option<f32>,
    /// The row of its cluster that survived the layer.
    pub representative: u32,
    /// Their distance; under Ward's linkage that of the means of what the two stood for.
    pub distance: f32,
    /// The chosen row that represents it in the end.
    pub chosen: u32,
}

/// What one layer did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The label it was for, with quotas.
    pub label: Option<u32>,
    /// Its place among those of its label, or of its task, from 0.
    pub level: u32,
    /// As in [`DroppedRow`].
    pub threshold: Option<f32>,
    /// Rows it was given.
    pub n_before: usize,
    /// Rows that survived.
    pub n_after: usize,
}

/// Chosen and dropped rows: every row is one of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection {
    /// Chosen rows, in order.
    pub chosen: Vec<u32>,
    /// The others, by row.
    pub dropped: Vec<DroppedRow>,
    /// The layers, label by label with quotas, and task by task where there are tasks.
    pub layers: Vec<Layer>,
    /// Tasks that were found, where they decided.
    pub n_tasks: usize,
    /// Labels with fewer rows than their quota, and how many are missing.
    pub shortfalls: BTreeMap<u32, usize>,
}

/// Chooses rows.
///
/// # Errors
/// When an option is outside its range, an input has not one entry per row, or a label has no quota.
pub fn select(
    vectors: Vectors<'_>,
    qualities: Option<&[f32]>,
    target: Target<'_>,
    options: &SelectionOptions,
) -> Result<Selection, PromptsError> {
    options.check()?;
    let n = vectors.len();
    let mut ranks = vec![0; n];
    for (rank, row) in best_first(n, qualities)?.into_iter().enumerate() {
        ranks[row as usize] = rank as u32;
    }
    let mut run = Run::new(normalised(vectors), vectors.dim(), ranks, options);
    let all = || (0..n as u32).collect::<Vec<u32>>();
    match target {
        Target::Thresholds => run.select(None, all(), None)?,
        Target::Size(size) => {
            check_option(size > 0, "size", size, "at least 1")?;
            run.select_by_task(None, all(), size)?;
        }
        Target::Ratio(ratio) => {
            check_option(ratio > 0.0 && ratio <= 1.0, "ratio", ratio, "above 0, at most 1")?;
            run.select_by_task(None, all(), ((ratio * n as f64).round() as usize).max(1))?;
        }
        Target::Quotas { labels, sizes } => {
            check_length("labels", n, labels.len())?;
            let mut rows_of: BTreeMap<u32, Vec<u32>> =
                sizes.keys().map(|&label| (label, Vec::new())).collect();
            for (row, label) in labels.iter().enumerate() {
                let rows = rows_of.get_mut(label);
                check_option(rows.is_some(), "label", label, "a label with a quota")?;
                rows.into_iter().for_each(|rows| rows.push(row as u32));
            }
            for (label, rows) in rows_of {
                let size = sizes[&label];
                check_option(size > 0, "quota", size, "at least 1")?;
                if rows.len() < size {
                    run.selection.shortfalls.insert(label, size - rows.len());
                }
                run.select_by_task(Some(label), rows, size)?;
            }
        }
    }
    Ok(run.finish())
}

struct Run<'a> {
    /// `[n, dim]`: the rows' vectors; where means are kept a survivor's is the mean of all that it represents.
    means: Vec<f32>,
    dim: usize,
    /// Where means are kept, how many rows each represents.
    weights: Vec<f32>,
    /// Each row's place among all, the best 0.
    ranks: Vec<u32>,
    options: &'a SelectionOptions,
    selection: Selection,
}

/// A merge with its rows' own numbers, the block it happened in and when.
struct BlockMerge {
    merge: Merge,
    block: usize,
    order: usize,
}

impl<'a> Run<'a> {
    /// `unit` are vectors of length 1 `[n, dim]`, `ranks` their rows' places among all.
    fn new(unit: Vec<f32>, dim: usize, ranks: Vec<u32>, options: &'a SelectionOptions) -> Self {
        let weights = vec![1.0; ranks.len()];
        Self { means: unit, dim, weights, ranks, options, selection: Selection::default() }
    }

    /// Chooses so that every task has its share, where there is room for all of them.
    fn select_by_task(
        &mut self,
        label: Option<u32>,
        rows: Vec<u32>,
        size: usize,
    ) -> Result<(), PromptsError> {
        if self.options.task_distance == 0.0 || rows.len() <= size {
            return self.select(label, rows, Some(size));
        }
        let tasks = self.tasks(&rows)?;
        if tasks.len() > size {
            return self.select(label, rows, Some(size));
        }
        self.selection.n_tasks += tasks.len();
        let sizes: Vec<usize> = tasks.iter().map(Vec::len).collect();
        for (rows, share) in tasks.into_iter().zip(tasks::shares(&sizes, size, self.options.task_exponent)) {
            self.select(label, rows, Some(share))?;
        }
        Ok(())
    }

    fn select(
        &mut self,
        label: Option<u32>,
        mut rows: Vec<u32>,
        size: Option<usize>,
    ) -> Result<(), PromptsError> {
        let mut listed = self.options.thresholds.iter().copied();
        let mut last = 0.0;
        for layer in 0.. {
            let is_done = size.is_some_and(|size| rows.len() <= size);
            let threshold = match listed.next() {
                _ if is_done => break,
                Some(threshold) => threshold,
                None if size.is_none() => break,
                None if last > self.largest_distance(&rows) => f32::INFINITY,
                None => last * self.options.growth,
            };
            last = threshold;
            let n_before = rows.len();
            let merges = self.merges(&rows, threshold, layer)?;
            let n_wanted = merges.len().min(n_before - size.unwrap_or(0));
            let height =
                if n_wanted < merges.len() { merges[n_wanted - 1].merge.distance } else { threshold };
            let height = height.is_finite().then_some(height);
            rows = self.apply(&rows, &merges[..n_wanted], layer, height);
            let n_after = rows.len();
            self.selection.layers.push(Layer { label, level: layer, threshold: height, n_before, n_after });
        }
        self.selection.chosen.extend(rows);
        Ok(())
    }

    /// No two vectors of length 1 are farther apart than 2; Ward's distance grows with what both stand for.
    fn largest_distance(&self, rows: &[u32]) -> f32 {
        let heaviest = rows.iter().map(|&row| self.weights[row as usize]).fold(1.0, f32::max);
        2.0 * heaviest.sqrt()
    }

    fn gather(&self, rows: &[u32]) -> Vec<f32> {
        let of_row = |&row: &u32| &self.means[row as usize * self.dim..][..self.dim];
        rows.iter().flat_map(of_row).copied().collect()
    }

    /// The merges of all blocks up to a height, lowest first.
    fn merges(&self, rows: &[u32], threshold: f32, layer: u32) -> Result<Vec<BlockMerge>, PromptsError> {
        let blocks = self.blocks(rows, Seed(self.options.seed.0.wrapping_add(u64::from(layer))))?;
        let of_block = |(block, rows): (usize, &Vec<u32>)| -> Vec<BlockMerge> {
            let inside = self.gather(rows);
            let Ok(inside) = Vectors::new(&inside, self.dim) else { return Vec::new() };
            let weights: Vec<f32> = rows.iter().map(|&row| self.weights[row as usize]).collect();
            let all = agglomerate(inside, &weights, self.options.linkage);
            let low = all.into_iter().take_while(|m| m.distance <= threshold);
            low.enumerate()
                .map(|(order, m)| {
                    let merge = Merge { a: rows[m.a as usize], b: rows[m.b as usize], distance: m.distance };
                    BlockMerge { merge, block, order }
                })
                .collect()
        };
        let mut merges: Vec<BlockMerge> = blocks.par_iter().enumerate().flat_map_iter(of_block).collect();
        merges.par_sort_by(|a, b| {
            let by_height = a.merge.distance.total_cmp(&b.merge.distance);
            by_height.then(a.block.cmp(&b.block)).then(a.order.cmp(&b.order))
        });
        Ok(merges)
    }

    /// Rows in blocks of near ones, none too large.
    fn blocks(&self, rows: &[u32], seed: Seed) -> Result<Vec<Vec<u32>>, PromptsError> {
        let most = self.options.block_rows;
        if rows.len() <= most {
            return Ok(vec![rows.to_vec()]);
        }
        // Half as large as they may be: clusters differ in size, and few should have to be cut again.
        let n_clusters = rows.len().div_ceil(most.div_ceil(2));
        let inside = self.gather(rows);
        let inside = Vectors::new(&inside, self.dim)?;
        let options = KmeansOptions {
            n_clusters,
            max_iterations: 10,
            max_rows_per_cluster: 64,
            seed,
            ..Default::default()
        };
        let labels = kmeans(inside, &options)?.labels;
        let mut clusters = vec![Vec::new(); n_clusters];
        rows.iter().zip(labels).for_each(|(&row, label)| clusters[label as usize].push(row));
        let mut blocks = Vec::new();
        for cluster in clusters.into_iter().filter(|cluster| !cluster.is_empty()) {
            if cluster.len() <= most {
                blocks.push(cluster);
            } else if cluster.len() == rows.len() {
                // Equal rows cannot be distinguished; any cut of them is as good.
                blocks.extend(cluster.chunks(most).map(<[u32]>::to_vec));
            } else {
                blocks.extend(self.blocks(&cluster, Seed(seed.0.wrapping_add(1)))?);
            }
        }
        Ok(blocks)
    }

    /// Merges clusters; the survivors, in order.
    fn apply(&mut self, rows: &[u32], merges: &[BlockMerge], layer: u32, threshold: Option<f32>) -> Vec<u32> {
        let mut parent: FxHashMap<u32, u32> = FxHashMap::default();
        for BlockMerge { merge, .. } in merges {
            let (a, b) = (root(&mut parent, merge.a), root(&mut parent, merge.b));
            let a_is_better = self.ranks[a as usize] < self.ranks[b as usize];
            let (better, worse) = if a_is_better { (a, b) } else { (b, a) };
            if better != worse {
                parent.insert(worse, better);
            }
        }
        let mut survivors = Vec::with_capacity(rows.len() - merges.len());
        for &row in rows {
            let representative = root(&mut parent, row);
            if representative == row {
                survivors.push(row);
                continue;
            }
            let distance = self.distance(row, representative);
            let dropped =
                DroppedRow { row, layer, threshold, representative, distance, chosen: representative };
            self.selection.dropped.push(dropped);
        }
        if matches!(self.options.linkage, Linkage::Ward | Linkage::MeanCosine) {
            for &row in rows {
                let representative = root(&mut parent, row);
                if representative != row {
                    self.join(representative, row);
                }
            }
        }
        survivors
    }

    /// The survivor represents the other's rows as well.
    fn join(&mut self, survivor: u32, other: u32) {
        let (a, b) = (self.weights[survivor as usize], self.weights[other as usize]);
        for i in 0..self.dim {
            let joined = a * self.means[survivor as usize * self.dim + i]
                + b * self.means[other as usize * self.dim + i];
            self.means[survivor as usize * self.dim + i] = joined / (a + b);
        }
        self.weights[survivor as usize] = a + b;
    }

    fn distance(&self, a: u32, b: u32) -> f32 {
        let row = |row: u32| &self.means[row as usize * self.dim..][..self.dim];
        let pairs = row(a).iter().zip(row(b));
        pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
    }

    /// Puts rows in order and follows representatives to the chosen rows.
    fn finish(self) -> Selection {
        let mut selection = self.selection;
        let mut representative: Vec<u32> = (0..self.ranks.len() as u32).collect();
        selection
            .dropped
            .iter()
            .for_each(|dropped| representative[dropped.row as usize] = dropped.representative);
        for dropped in &mut selection.dropped {
            while representative[dropped.chosen as usize] != dropped.chosen {
                dropped.chosen = representative[dropped.chosen as usize];
            }
        }
        selection.chosen.sort_unstable();
        selection.dropped.sort_unstable_by_key(|dropped| dropped.row);
        selection
    }
}

/// The best row of a row's cluster, in a forest whose roots are those; halves the path on its way.
fn root(parent: &mut FxHashMap<u32, u32>, row: u32) -> u32 {
    let mut at = row;
    while let Some(&next) = parent.get(&at) {
        if let Some(&after) = parent.get(&next) {
            parent.insert(at, after);
        }
        at = next;
    }
    at
}

/// Rows chosen one by one, each the farthest from those before it (the greedy k-center algorithm, Gonzalez 1985): a
/// baseline that covers outliers first. The first is the best row. Costs a pass over all vectors for each chosen row.
///
/// # Errors
/// When `qualities` has not one finite number per row.
pub fn farthest_points(
    vectors: Vectors<'_>,
    qualities: Option<&[f32]>,
    size: usize,
) -> Result<Vec<u32>, PromptsError> {
    let order = best_first(vectors.len(), qualities)?;
    let unit = normalised(vectors);
    let row = |row: u32| &unit[row as usize * vectors.dim()..][..vectors.dim()];
    let mut distances = vec![f32::INFINITY; order.len()];
    let mut chosen = Vec::with_capacity(size.min(order.len()));
    let mut next = order.first().copied();
    while let Some(new) = next.filter(|_| chosen.len() < size) {
        chosen.push(new);
        // Behind every number a distance can have, so that it is not chosen twice.
        distances[new as usize] = -1.0;
        distances.par_iter_mut().enumerate().with_min_len(1024).for_each(|(other, distance)| {
            let squared: f32 = row(new).iter().zip(row(other as u32)).map(|(a, b)| (a - b) * (a - b)).sum();
            *distance = distance.min(squared);
        });
        let by_distance = |a: &u32, b: &u32| distances[*a as usize].total_cmp(&distances[*b as usize]);
        // The last of equal maxima wins: the order is turned so that it is the best row.
        next = order.iter().rev().copied().max_by(by_distance).filter(|&row| distances[row as usize] >= 0.0);
    }
    chosen.sort_unstable();
    Ok(chosen)
}
