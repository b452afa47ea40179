//! Measured peak memory against the planner's promise.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, GIB};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "memory",
    title: "Peak memory",
    caption: "Peak memory of the process so far, and the planner's prediction with 10 % to either side.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let peaks = stage.series(names::PEAK_MEMORY_GIB);
    let (&(first, _), &(last, _)) = (peaks.first()?, peaks.last()?);
    let mut series = vec![Series::line("measured", Color::Orange, &peaks)];
    if let Some(predicted) = stage.plan.as_ref().and_then(|plan| plan.peak_bytes) {
        let predicted = predicted as f64 / GIB;
        let level = |value: f64| [(first, value), (last, value)];
        series.push(Series::line("predicted", Color::Grey, &level(predicted)));
        for bound in [0.9, 1.1] {
            series.push(Series::line("10 %", Color::Grey, &level(bound * predicted)).guide());
        }
    }
    Some(Figure::over_steps(Axis::titled("GiB").with_zero(), series))
}
