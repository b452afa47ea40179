//! KL divergence from the reference model.

use plotly::Plot;

use super::{BLUE, Chart, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "kl",
    title: "Distance from the reference",
    caption: "KL divergence from the model that training began with, per token, in nats. Fast growth with little reward gained is a sign of reward hacking.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let kl = stage.series(names::KL);
    if kl.is_empty() {
        return None;
    }
    let mut plot = plot(axis("nats per token"));
    plot.add_trace(line("KL", &smoothed(&kl), BLUE, 2.5));
    Some(plot)
}
