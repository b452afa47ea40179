//! Mean score difference of a pair.

use plotly::Plot;

use super::{BLUE, Chart, ORANGE, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "margin",
    title: "Margin between the answers",
    caption: "Mean difference between the scores of the chosen and the rejected response. A margin that keeps \
              growing while accuracy does not is a sign of overfitting.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let names = [names::MARGIN, names::REWARDS_MARGINS];
    let training = names.iter().map(|name| stage.series(name)).find(|series| !series.is_empty())?;
    let mut plot = plot(axis("score difference"));
    plot.add_trace(line("training", &smoothed(&training), BLUE, 2.5));
    let held_out = names.iter().map(|name| stage.series(&format!("eval_{name}")));
    if let Some(held_out) = held_out.into_iter().find(|series| !series.is_empty()) {
        plot.add_trace(line("held out", &held_out, ORANGE, 2.0));
    }
    Some(plot)
}
