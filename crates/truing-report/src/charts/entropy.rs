//! Entropy of the policy over its own completions.

use plotly::Plot;

use super::{Chart, GREEN, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "entropy",
    title: "Entropy of the policy",
    caption: "Mean uncertainty about the next token of the completions, in nats. A collapse towards 0 ends exploration.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    // Fine-tuning logs it too, where it says little.
    if stage.series(names::REWARD).is_empty() {
        return None;
    }
    let entropy = stage.series(names::ENTROPY);
    if entropy.is_empty() {
        return None;
    }
    let mut plot = plot(axis("nats per token"));
    plot.add_trace(line("entropy", &smoothed(&entropy), GREEN, 2.5));
    Some(plot)
}
