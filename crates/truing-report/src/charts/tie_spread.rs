//! Whether a reward model keeps apart what differs and together what does not.

use plotly::common::Marker;
use plotly::layout::{Axis, AxisType, BarMode};
use plotly::{Bar, Plot};

use super::{BLUE, Chart, GREY, axis, plain, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "tie_spread",
    title: "Differences of pairs and of ties",
    caption: "Mean absolute difference of two rewards, for pairs with a preference and for ties (the last \
              evaluation). Ties should be closer together.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let found = &stage.diagnostics.last()?.diagnostics;
    let with_ties: Vec<_> = found.by_source.iter().filter(|(_, source)| source.n_ties > 0).collect();
    if with_ties.is_empty() {
        return None;
    }
    let mut plot = plot(axis("difference of rewards"));
    let layout = plot.layout().clone();
    let names_axis = Axis::new().type_(AxisType::Category).auto_margin(true);
    plot.set_layout(layout.x_axis(names_axis).bar_mode(BarMode::Group));
    let names: Vec<String> = with_ties.iter().map(|(name, _)| plain(name)).collect();
    let pairs = with_ties.iter().map(|(_, source)| source.spread_of_pairs.unwrap_or(0.0)).collect();
    let ties = with_ties.iter().map(|(_, source)| source.spread_of_ties.unwrap_or(0.0)).collect();
    for (name, color, values) in [("one preferred", BLUE, pairs), ("equal", GREY, ties)] {
        plot.add_trace(Bar::new(names.clone(), values).name(name).marker(Marker::new().color(color)));
    }
    Some(plot)
}
