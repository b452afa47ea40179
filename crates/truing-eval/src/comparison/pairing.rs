//! Which items of two runs can be compared in a metric, and how far the others could change the difference.

use std::collections::{BTreeMap, BTreeSet};

use truing_statistics::Interval;

use crate::benchmarks::{Aggregation, Item, Measure, MetricInfo};
use crate::results::ItemRecord;

/// What a run has of an item in a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Found {
    /// A value, the mean over the run's seeds.
    Scored(Measure),
    /// The metric applies, and there is no value.
    Unscored,
    /// The metric does not apply.
    Inapplicable,
}

impl Found {
    fn measure(self) -> Option<Measure> {
        match self {
            Self::Scored(measure) => Some(measure),
            Self::Unscored | Self::Inapplicable => None,
        }
    }
}

/// An item that both runs have scored.
pub(super) struct Common {
    pub(super) id: String,
    pub(super) cluster: String,
    pub(super) first: Measure,
    pub(super) second: Measure,
}

/// The items of two runs in one metric.
pub(super) struct Pairing {
    /// Scored in both.
    pub(super) common: Vec<Common>,
    /// Items that the first run alone has.
    pub(super) n_only_first: usize,
    /// Items that the second run alone has.
    pub(super) n_only_second: usize,
    /// Items of both without a score in one of them or in both.
    pub(super) n_unscored: usize,
    /// Items of one name with different contents.
    pub(super) n_changed: usize,
    /// Lowest and highest difference, had the missing scores been anything in the metric's range; `None` without
    /// missing scores or without a range.
    pub(super) bounds: Option<Interval>,
}

/// A run's items by name.
fn by_name<'a>(records: &'a [ItemRecord], key: &str) -> BTreeMap<&'a str, (&'a Item, Found)> {
    let mut of_items: BTreeMap<&str, (&Item, Vec<Measure>, bool)> = BTreeMap::new();
    for record in records {
        let (_, measures, is_unscored) =
            of_items.entry(&record.item.id).or_insert((&record.item, Vec::new(), false));
        match record.score.measures.get(key) {
            Some(Ok(measure)) if measure.weight != 0.0 => measures.push(*measure),
            Some(Err(_)) => *is_unscored = true,
            Some(Ok(_)) | None => {}
        }
    }
    let found = |measures: &[Measure], is_unscored: bool| {
        let n = measures.len() as f64;
        match (measures.is_empty(), is_unscored) {
            (true, true) => Found::Unscored,
            (true, false) => Found::Inapplicable,
            (false, _) => Found::Scored(Measure {
                value: measures.iter().map(|measure| measure.value).sum::<f64>() / n,
                weight: measures.iter().map(|measure| measure.weight).sum::<f64>() / n,
            }),
        }
    };
    of_items
        .into_iter()
        .map(|(id, (item, measures, is_unscored))| (id, (item, found(&measures, is_unscored))))
        .collect()
}

impl Pairing {
    /// Pairs the items of two runs.
    pub(super) fn new(metric: &MetricInfo, first: &[ItemRecord], second: &[ItemRecord]) -> Self {
        let key = metric.key();
        let (ones, others) = (by_name(first, &key), by_name(second, &key));
        let mut pairing = Self {
            common: Vec::new(),
            n_only_first: 0,
            n_only_second: 0,
            n_unscored: 0,
            n_changed: 0,
            bounds: None,
        };
        let mut sides: Vec<[Option<Measure>; 2]> = Vec::new();
        let names: BTreeSet<&str> = ones.keys().chain(others.keys()).copied().collect();
        for name in names {
            let (one, other) = (ones.get(name), others.get(name));
            let found = [one, other].map(|side| side.map_or(Found::Inapplicable, |(_, found)| *found));
            if found == [Found::Inapplicable; 2] {
                continue;
            }
            match (one, other) {
                (Some((item, _)), Some((same, _))) if !item.has_same_content(same) => {
                    pairing.n_changed += 1;
                    continue;
                }
                (Some(_), None) => pairing.n_only_first += 1,
                (None, Some(_)) => pairing.n_only_second += 1,
                (Some((item, Found::Scored(first))), Some((_, Found::Scored(second)))) => {
                    let cluster = item.cluster.as_deref().unwrap_or(&item.id).to_owned();
                    pairing.common.push(Common {
                        id: name.to_owned(),
                        cluster,
                        first: *first,
                        second: *second,
                    });
                }
                _ => pairing.n_unscored += 1,
            }
            sides.push(found.map(Found::measure));
        }
        pairing.bounds = bounds(metric, &sides);
        pairing
    }

    /// What is not compared, in words; empty where every item is.
    pub(super) fn missing(&self) -> Vec<String> {
        missing([self.n_only_first, self.n_only_second, self.n_unscored, self.n_changed])
    }
}

/// Numbers of items that are not compared, in words: those of the first run alone, of the second, unscored ones,
/// changed ones.
pub(super) fn missing(counts: [usize; 4]) -> Vec<String> {
    let texts = [
        "only in the first run",
        "only in the second run",
        "without a score",
        "of the same name but changed",
    ];
    let named = counts.into_iter().zip(texts).filter(|(n, _)| *n > 0);
    named.map(|(n, text)| format!("{n} {text}")).collect()
}

/// The extremes of the difference of two means (or ratios) over all items: every missing score is as low, or as high,
/// as the metric allows. A missing item weighs what it weighs in the other run, or as much as the known ones on
/// average.
fn bounds(metric: &MetricInfo, sides: &[[Option<Measure>; 2]]) -> Option<Interval> {
    let [low, high] = metric.range?;
    let is_ratio = match metric.aggregation {
        Aggregation::Mean | Aggregation::MeanOfCategories(_) => false,
        Aggregation::Ratio => true,
        Aggregation::Perplexity | Aggregation::Bits => return None,
    };
    if sides.iter().flatten().all(Option::is_some) {
        return None;
    }
    let known: Vec<f64> = sides.iter().flatten().flatten().map(|measure| measure.weight).collect();
    let usual = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let mean = |own: usize, missing: f64| {
        let (mut values, mut weights) = (0.0, 0.0);
        for side in sides {
            let weight = match is_ratio {
                true => side[own].or(side[1 - own]).map_or(usual, |measure| measure.weight),
                false => 1.0,
            };
            values += side[own].map_or(missing * weight, |measure| measure.value);
            weights += weight;
        }
        values / weights
    };
    Some(Interval { low: mean(1, low) - mean(0, high), high: mean(1, high) - mean(0, low) })
}
