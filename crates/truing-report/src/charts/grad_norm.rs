//! The gradient's norm before clipping.

use plotly::Plot;
use plotly::layout::RangeMode;

use super::{BLUE, Chart, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "grad_norm",
    title: "Gradient norm",
    caption: "Norm of the gradient before clipping. It should stay even. Single spikes come from unusual batches; \
              steady growth means that the learning rate is too high.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let norms = stage.series(names::GRAD_NORM);
    if norms.is_empty() {
        return None;
    }
    let mut plot = plot(axis("norm").range_mode(RangeMode::ToZero));
    plot.add_trace(line("each step", &norms, BLUE, 1.0).opacity(0.35).show_legend(false));
    plot.add_trace(line("norm", &smoothed(&norms), BLUE, 2.5).show_legend(false));
    Some(plot)
}
