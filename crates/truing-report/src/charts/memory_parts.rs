//! What the predicted memory is for.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, GIB};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "memory_parts",
    title: "Predicted memory by part",
    caption: "The parts of the planner's predicted peak.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let parts: Vec<_> = stage.plan.as_ref()?.parts.iter().filter(|part| part.bytes > 0).collect();
    if parts.is_empty() {
        return None;
    }
    let names = parts.iter().map(|part| part.name.clone()).collect();
    let bars = Series::bars("GiB", Color::Blue, parts.iter().map(|part| part.bytes as f64 / GIB));
    Some(Figure { lying: true, ..Figure::of(Axis::named(names), Axis::titled("GiB").with_zero(), [bars]) })
}
