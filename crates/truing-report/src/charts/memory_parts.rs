//! What the predicted memory is for.

use plotly::common::{Marker, Orientation};
use plotly::layout::{Axis, Margin};
use plotly::{Bar, Plot};

use super::{BLUE, Chart, GIB, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "memory_parts",
    title: "Predicted memory by part",
    caption: "The parts of the planner's predicted peak.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let plan = stage.plan.as_ref()?;
    // Drawn from below, so the first part of the table comes last.
    let parts: Vec<_> = plan.parts.iter().rev().filter(|part| part.bytes > 0).collect();
    if parts.is_empty() {
        return None;
    }
    let sizes: Vec<f64> = parts.iter().map(|part| part.bytes as f64 / GIB).collect();
    let names: Vec<String> = parts.iter().map(|part| part.name.clone()).collect();
    let mut plot = plot(Axis::new().auto_margin(true));
    let layout = plot.layout().clone();
    plot.set_layout(
        layout
            .x_axis(Axis::new().title("GiB").zero_line(false))
            .margin(Margin::new().left(10).right(14).top(10).bottom(42)),
    );
    plot.add_trace(
        Bar::new(sizes, names)
            .orientation(Orientation::Horizontal)
            .marker(Marker::new().color(BLUE))
            .show_legend(false)
            .hover_template("%{y}: %{x:.2f} GiB<extra></extra>"),
    );
    Some(plot)
}
