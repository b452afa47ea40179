//! Speed over the run.

use plotly::Plot;
use plotly::layout::RangeMode;

use super::{Chart, GREEN, axis, line, plot};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "tokens_per_second",
    title: "Speed",
    caption: "Tokens per second, forward and backward, without padding. A fall during the run means that another \
              program used the machine, or that the processor was throttled.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let speeds = stage.series(names::TOKENS_PER_SECOND);
    if speeds.is_empty() {
        return None;
    }
    let mut plot = plot(axis("tokens per second").range_mode(RangeMode::ToZero));
    plot.add_trace(line("speed", &speeds, GREEN, 2.0).show_legend(false));
    Some(plot)
}
