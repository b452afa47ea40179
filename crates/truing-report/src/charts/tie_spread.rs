//! Whether a reward model keeps apart what differs and together what does not.

use super::Chart;
use super::figure::{Axis, Color, Figure, Series};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "tie_spread",
    title: "Reward differences of pairs and ties",
    caption: "Mean absolute difference of two rewards, for pairs with a preference and for ties (last evaluation). \
              Ties should be closer together.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let found = &stage.diagnostics.last()?.diagnostics;
    let with_ties: Vec<_> = found.by_source.iter().filter(|(_, source)| source.n_ties > 0).collect();
    if with_ties.is_empty() {
        return None;
    }
    let names = with_ties.iter().map(|(name, _)| (*name).clone()).collect();
    let pairs = with_ties.iter().map(|(_, source)| source.spread_of_pairs.unwrap_or(0.0));
    let ties = with_ties.iter().map(|(_, source)| source.spread_of_ties.unwrap_or(0.0));
    let series = [Series::bars("pairs", Color::Blue, pairs), Series::bars("ties", Color::Grey, ties)];
    Some(Figure::of(Axis::named(names), Axis::titled("difference of rewards").with_zero(), series))
}
