//! The schedule as it was taken.

use plotly::Plot;
use plotly::layout::Axis;

use super::{Chart, GREY, line, plot};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "learning_rate",
    title: "Learning rate",
    caption: "The learning rate of each step: warm-up, then decay.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let rates = stage.series(names::LEARNING_RATE);
    if rates.is_empty() {
        return None;
    }
    let mut plot =
        plot(Axis::new().title("rate").tick_format(".1e").range_mode(plotly::layout::RangeMode::ToZero));
    plot.add_trace(line("rate", &rates, GREY, 2.5).show_legend(false));
    Some(plot)
}
