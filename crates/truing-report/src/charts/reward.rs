//! Mean reward of the rollouts, and on held-out prompts.

use plotly::Plot;

use super::{BLUE, Chart, ORANGE, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward",
    title: "Reward",
    caption: "Mean reward of each step's rollouts, and on prompts that are never trained on. It should rise while KL and length stay in bounds.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let training = stage.series(names::REWARD);
    if training.is_empty() {
        return None;
    }
    let mut plot = plot(axis("reward"));
    plot.add_trace(line("each step", &training, BLUE, 1.0).opacity(0.35).show_legend(false));
    plot.add_trace(line("training", &smoothed(&training), BLUE, 2.5));
    let held_out = stage.series(names::EVAL_REWARD);
    if !held_out.is_empty() {
        plot.add_trace(line("held out", &held_out, ORANGE, 2.0));
    }
    Some(plot)
}
