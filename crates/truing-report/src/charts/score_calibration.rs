//! Rewards in the unit of absolute scores, against the scores that people gave.

use plotly::Plot;

use super::{Chart, GREEN, against_diagonal, axis, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "score_calibration",
    title: "Predicted and given scores",
    caption: "Responses with an absolute score, by tenths of their reward: mean of the reward in the score's unit, \
              mean of the scores (the last evaluation). On the line the rewards equal the given scores.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let points = &stage.diagnostics.last()?.diagnostics.score_calibration;
    let values = points.iter().flat_map(|&(predicted, given)| [predicted, given]);
    let low = values.clone().reduce(f64::min)?;
    let high = values.reduce(f64::max)?;
    let mut plot = plot(axis("given"));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(axis("predicted").zero_line(false)));
    let words = (1..=points.len()).map(|tenth| format!("part {tenth} of {}", points.len())).collect();
    against_diagonal(&mut plot, points, words, (low, high), GREEN);
    Some(plot)
}
