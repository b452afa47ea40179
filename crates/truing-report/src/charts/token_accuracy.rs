//! Share of the tokens to be learnt that were the model's first choice.

use plotly::Plot;
use plotly::layout::Axis;

use super::{Chart, GREEN, ORANGE, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "token_accuracy",
    title: "Token accuracy",
    caption: "Fraction of loss tokens that were the model's most likely token.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let training = stage.series(names::MEAN_TOKEN_ACCURACY);
    let held_out = stage.series(names::EVAL_MEAN_TOKEN_ACCURACY);
    if training.is_empty() {
        return None;
    }
    let mut plot = plot(Axis::new().title("share of tokens").tick_format(".0%"));
    plot.add_trace(line("each step", &training, GREEN, 1.0).opacity(0.35).show_legend(false));
    plot.add_trace(line("training", &smoothed(&training), GREEN, 2.5));
    if !held_out.is_empty() {
        plot.add_trace(line("held out", &held_out, ORANGE, 2.0));
    }
    Some(plot)
}
