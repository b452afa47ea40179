//! Accuracy on pairs: reward models and preference losses.

use plotly::Plot;
use plotly::layout::Axis;

use super::{Chart, GREEN, ORANGE, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "preference_accuracy",
    title: "Preference accuracy",
    caption: "Fraction of pairs in which the chosen response got the higher score. 0.5 is chance.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let names = [names::ACCURACY, names::REWARDS_ACCURACIES];
    let training = names.iter().map(|name| stage.series(name)).find(|series| !series.is_empty())?;
    let mut plot = plot(Axis::new().title("share of pairs").tick_format(".0%"));
    plot.add_trace(line("each step", &training, GREEN, 1.0).opacity(0.35).show_legend(false));
    plot.add_trace(line("training", &smoothed(&training), GREEN, 2.5));
    let held_out = names.iter().map(|name| stage.series(&format!("eval_{name}")));
    if let Some(held_out) = held_out.into_iter().find(|series| !series.is_empty()) {
        plot.add_trace(line("held out", &held_out, ORANGE, 2.0));
    }
    Some(plot)
}
