//! Mean length of the completions.

use plotly::Plot;

use super::{BLUE, Chart, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "completion_length",
    title: "Length of the completions",
    caption: "Mean tokens of a completion. A reward that rises only as answers get longer rewards length.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let length = stage.series(names::COMPLETIONS_MEAN_LENGTH);
    if length.is_empty() {
        return None;
    }
    let mut plot = plot(axis("tokens"));
    plot.add_trace(line("mean length", &smoothed(&length), BLUE, 2.5));
    Some(plot)
}
