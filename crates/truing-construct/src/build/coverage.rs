//! Which kinds of rows there are, against how many there should be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::builder::Unit;

/// One kind of row: a type of constraint, a knowledge point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageRow {
    /// The kind.
    pub kind: String,
    /// How many rows there should be, where there is a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<usize>,
    /// Rows that were begun.
    pub n_begun: usize,
    /// Rows that were kept.
    pub n_kept: usize,
}

/// All kinds, sorted by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// One row for each kind.
    pub kinds: Vec<CoverageRow>,
    /// Share of the kinds that at least one kept row has; `None` where there are no kinds.
    pub covered_share: Option<f64>,
}

impl Coverage {
    /// Counts kinds. `is_kept` says of each unit whether its row was kept.
    pub(super) fn of(units: &[Unit], is_kept: &[bool], targets: &BTreeMap<String, usize>) -> Self {
        let empty = |kind: &str| CoverageRow {
            kind: kind.to_owned(),
            target: targets.get(kind).copied(),
            n_begun: 0,
            n_kept: 0,
        };
        let mut rows: BTreeMap<&str, CoverageRow> =
            targets.keys().map(|kind| (kind.as_str(), empty(kind))).collect();
        for (unit, &is_kept) in units.iter().zip(is_kept).filter(|(unit, _)| unit.dropped.is_none()) {
            for kind in &unit.kinds {
                let row = rows.entry(kind).or_insert_with(|| empty(kind));
                row.n_begun += 1;
                row.n_kept += usize::from(is_kept);
            }
        }
        let kinds: Vec<CoverageRow> = rows.into_values().collect();
        let n_covered = kinds.iter().filter(|row| row.n_kept > 0).count();
        let covered_share = (!kinds.is_empty()).then(|| n_covered as f64 / kinds.len() as f64);
        Self { kinds, covered_share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Dropped;
    use truing_ask::pas::Language;

    #[test]
    fn kinds_without_a_row_are_listed_and_lower_the_share() {
        let unit = |kinds: &[&str], dropped| Unit {
            text: String::new(),
            language: Language::En,
            source: None,
            kept: serde_json::Map::new(),
            kinds: kinds.iter().map(ToString::to_string).collect(),
            dropped,
        };
        let units = [
            unit(&["a", "b"], None),
            unit(&["b"], None),
            unit(&["d"], Some(Dropped::new("seed", "too long"))),
            unit(&["c"], None),
        ];
        let targets = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1), ("e".to_owned(), 1)]);
        let coverage = Coverage::of(&units, &[true, true, false, false], &targets);
        let found: Vec<(&str, Option<usize>, usize, usize)> = coverage
            .kinds
            .iter()
            .map(|row| (row.kind.as_str(), row.target, row.n_begun, row.n_kept))
            .collect();
        let expected = [("a", Some(1), 1, 1), ("b", Some(1), 2, 2), ("c", None, 1, 0), ("e", Some(1), 0, 0)];
        assert_eq!(found, expected);
        assert_eq!(coverage.covered_share, Some(0.5));
        assert_eq!(Coverage::of(&[], &[], &BTreeMap::new()).covered_share, None);
    }
}
