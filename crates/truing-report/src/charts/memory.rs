//! Measured peak memory against the planner's promise.

use plotly::Plot;
use plotly::common::{DashType, Line};
use plotly::layout::RangeMode;

use super::{Chart, GIB, GREY, ORANGE, axis, line, plot};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "memory",
    title: "Memory",
    caption: "Peak memory of the process so far, and the prediction of the planner.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let peaks = stage.series(names::PEAK_MEMORY_GIB);
    let (&(first, _), &(last, _)) = (peaks.first()?, peaks.last()?);
    let mut plot = plot(axis("GiB").range_mode(RangeMode::ToZero));
    plot.add_trace(line("measured", &peaks, ORANGE, 2.5));
    if let Some(predicted) = stage.plan.as_ref().and_then(|plan| plan.peak_bytes) {
        let predicted = predicted as f64 / GIB;
        plot.add_trace(
            line("predicted", &[(first, predicted), (last, predicted)], GREY, 2.0)
                .line(Line::new().color(GREY).width(2.0).dash(DashType::Dash)),
        );
    }
    Some(plot)
}
