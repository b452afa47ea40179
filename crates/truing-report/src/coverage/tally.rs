//! Counts over all rows of a selection, before and after, and fair draws of the rows that are shown.

use std::collections::{BTreeMap, BinaryHeap};

use rand_chacha::rand_core::Rng;
use truing_run::selection::{PromptDecision, SelectionLayer};
use truing_types::Seed;

/// Templates that a cluster remembers, of the most frequent ones.
const EXAMPLES_OF_A_CLUSTER: usize = 3;
/// Bins of length for each doubling.
const LENGTH_BINS_PER_DOUBLING: f64 = 2.0;

/// Rows of the pool, and those of them that were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) before: u64,
    pub(crate) after: u64,
}

impl Counts {
    fn add(&mut self, is_kept: bool) {
        self.before += 1;
        self.after += u64::from(is_kept);
    }

    /// Share of the rows that were kept.
    pub(crate) fn kept_share(self) -> f64 {
        self.after as f64 / self.before.max(1) as f64
    }
}

/// At most so many rows, each as likely as any other, in any order: those with the smallest random numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draw {
    room: usize,
    /// Drawn number and row, the largest number on top.
    chosen: BinaryHeap<(u64, u64)>,
}

impl Draw {
    fn new(room: usize) -> Self {
        Self { room, chosen: BinaryHeap::new() }
    }

    fn offer(&mut self, number: u64, id: u64) {
        if self.chosen.len() < self.room {
            self.chosen.push((number, id));
        } else if let Some(mut largest) = self.chosen.peek_mut()
            && *largest > (number, id)
        {
            *largest = (number, id);
        }
    }

    /// The `n` rows with the smallest numbers, by id.
    pub(crate) fn first(&self, n: usize) -> Vec<u64> {
        let mut chosen = self.chosen.clone().into_sorted_vec();
        chosen.truncate(n);
        let mut ids: Vec<u64> = chosen.into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids
    }
}

/// A layer's rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerTally {
    pub(crate) n_dropped: u64,
    pub(crate) shown: Draw,
}

/// A cluster's rows.
#[derive(Debug, Clone)]
pub(crate) struct ClusterTally {
    pub(crate) counts: Counts,
    /// Rows of each fine cluster in it.
    pub(crate) fine: BTreeMap<u32, u64>,
    /// Rows of each template in it.
    pub(crate) templates: BTreeMap<u32, u64>,
    /// Kept ones where there are any.
    kept_examples: Draw,
    dropped_examples: Draw,
}

impl ClusterTally {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            fine: BTreeMap::new(),
            templates: BTreeMap::new(),
            kept_examples: Draw::new(EXAMPLES_OF_A_CLUSTER),
            dropped_examples: Draw::new(EXAMPLES_OF_A_CLUSTER),
        }
    }

    /// Three rows, kept ones first.
    pub(crate) fn examples(&self) -> Vec<u64> {
        let mut ids = self.kept_examples.first(EXAMPLES_OF_A_CLUSTER);
        ids.extend(self.dropped_examples.first(EXAMPLES_OF_A_CLUSTER - ids.len()));
        ids
    }
}

/// Label by dimension.
pub(crate) type Combination = Vec<(String, String)>;

/// Everything that is counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) all: Counts,
    pub(crate) layers: BTreeMap<SelectionLayer, LayerTally>,
    /// By the bin of the length, see [`length_bin`].
    pub(crate) lengths: BTreeMap<i32, Counts>,
    pub(crate) languages: BTreeMap<String, Counts>,
    /// Each row's quality, and whether it was kept.
    pub(crate) qualities: Vec<(f32, bool)>,
    pub(crate) labels: BTreeMap<String, BTreeMap<String, Counts>>,
    pub(crate) combinations: BTreeMap<Combination, Counts>,
    /// By coarse cluster, or by fine cluster where there is no coarse one.
    pub(crate) clusters: BTreeMap<u32, ClusterTally>,
}

impl Tally {
    /// Counts one row. At most `n_shown` rows of a layer are remembered to be shown.
    pub(crate) fn add(&mut self, row: &PromptDecision, n_shown: usize) {
        let number = Seed(0).generator("rows of a coverage page", &[row.id]).next_u64();
        let dropped = row.decision.dropped();
        let is_kept = dropped.is_none();
        self.all.add(is_kept);
        if let Some(dropped) = dropped {
            if !self.layers.contains_key(&dropped.layer) {
                let empty = LayerTally { n_dropped: 0, shown: Draw::new(n_shown) };
                self.layers.insert(dropped.layer.clone(), empty);
            }
            if let Some(layer) = self.layers.get_mut(&dropped.layer) {
                layer.n_dropped += 1;
                layer.shown.offer(number, row.id);
            }
        }
        self.lengths.entry(length_bin(row.n_characters)).or_default().add(is_kept);
        if let Some(language) = &row.language {
            self.languages.entry(language.clone()).or_default().add(is_kept);
        }
        if let Some(quality) = row.quality.filter(|quality| quality.is_finite()) {
            self.qualities.push((quality as f32, is_kept));
        }
        for (dimension, label) in &row.labels {
            let labels = self.labels.entry(dimension.clone()).or_default();
            labels.entry(label.clone()).or_default().add(is_kept);
        }
        if !row.labels.is_empty() {
            let combination: Combination = row.labels.clone().into_iter().collect();
            self.combinations.entry(combination).or_default().add(is_kept);
        }
        if let Some(cluster) = row.coarse_cluster.or(row.fine_cluster) {
            let cluster = self.clusters.entry(cluster).or_insert_with(ClusterTally::new);
            cluster.counts.add(is_kept);
            if let Some(fine) = row.fine_cluster {
                *cluster.fine.entry(fine).or_default() += 1;
            }
            if let Some(template) = row.template {
                *cluster.templates.entry(template).or_default() += 1;
            }
            let examples = if is_kept { &mut cluster.kept_examples } else { &mut cluster.dropped_examples };
            examples.offer(number, row.id);
        }
    }

    /// Rows to show of each layer when there is room for `n_shown`: the same room for each, and what a small layer
    /// leaves goes to the larger ones.
    pub(crate) fn rooms(&self, n_shown: usize) -> BTreeMap<&SelectionLayer, usize> {
        let mut by_size: Vec<(&SelectionLayer, u64)> =
            self.layers.iter().map(|(layer, tally)| (layer, tally.n_dropped)).collect();
        by_size.sort_by_key(|(_, n_dropped)| *n_dropped);
        let (mut room, mut n_layers) = (n_shown as u64, by_size.len() as u64);
        let mut rooms = BTreeMap::new();
        for (layer, n_dropped) in by_size {
            let share = (room / n_layers).min(n_dropped);
            rooms.insert(layer, share as usize);
            (room, n_layers) = (room - share, n_layers - 1);
        }
        rooms
    }
}

/// The half doubling that a length falls into; nothing is bin -1.
fn length_bin(n_characters: u64) -> i32 {
    if n_characters == 0 {
        return -1;
    }
    ((n_characters as f64).log2() * LENGTH_BINS_PER_DOUBLING).floor() as i32
}

/// The shortest length in a bin.
pub(crate) fn shortest_of_bin(bin: i32) -> u64 {
    if bin < 0 { 0 } else { (f64::from(bin) / LENGTH_BINS_PER_DOUBLING).exp2().ceil() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_does_not_depend_on_the_order_and_is_fair() {
        let number = |id: u64| Seed(0).generator("test", &[id]).next_u64();
        let draw = |ids: &mut dyn Iterator<Item = u64>| {
            let mut draw = Draw::new(50);
            ids.for_each(|id| draw.offer(number(id), id));
            draw
        };
        let forwards = draw(&mut (0..1000));
        assert_eq!(forwards.first(50), draw(&mut (0..1000).rev()).first(50));
        let ids = forwards.first(50);
        assert!(ids.len() == 50 && ids.is_sorted());
        assert!((10..40).contains(&ids.iter().filter(|&&id| id < 500).count()), "{ids:?}");
        assert!(forwards.first(10).iter().all(|id| ids.contains(id)), "a smaller draw is part of it");
        let mut nothing = Draw::new(0);
        nothing.offer(1, 1);
        assert_eq!(nothing.first(5), Vec::<u64>::new());
    }

    #[test]
    fn small_layers_are_shown_whole_and_leave_their_room() {
        let layer = |n_dropped| LayerTally { n_dropped, shown: Draw::new(0) };
        let tally = Tally {
            layers: [
                (SelectionLayer::Unreadable, layer(3)),
                (SelectionLayer::ExactDuplicate, layer(1000)),
                (SelectionLayer::NearDuplicate, layer(40)),
                (SelectionLayer::TargetSize, layer(900)),
            ]
            .into(),
            ..Tally::default()
        };
        let rooms = tally.rooms(200);
        let rooms: Vec<usize> = rooms.into_values().collect();
        assert_eq!(rooms, [3, 79, 40, 78]);
        assert_eq!(tally.rooms(10_000).into_values().sum::<usize>(), 1943);
        assert!(Tally::default().rooms(5).is_empty());
    }

    #[test]
    fn bins_of_length_hold_what_lies_between_their_bounds() {
        for n in 0..5000 {
            let bin = length_bin(n);
            assert!(shortest_of_bin(bin) <= n && n < shortest_of_bin(bin + 1).max(1), "{n} in {bin}");
        }
    }
}
