//! Rewards in the unit of absolute scores, against the scores that people gave.

use super::figure::{Axis, Color, Figure};
use super::{Chart, against_diagonal, diagonal};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "score_calibration",
    title: "Predicted and given scores",
    caption: "Responses with an absolute score, by tenths of their reward: mean of the reward in the score's unit, \
              mean of the scores (last evaluation). On the dashed line the rewards equal the given scores.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let points = &stage.diagnostics.last()?.diagnostics.score_calibration;
    let values = points.iter().flat_map(|&(predicted, given)| [predicted, given]);
    let low = values.clone().reduce(f64::min)?;
    let high = values.reduce(f64::max)?;
    let words = (1..=points.len()).map(|tenth| format!("part {tenth} of {}", points.len())).collect();
    let series = [diagonal(low, high), against_diagonal("given", points.clone(), words, Color::Green)];
    Some(Figure::of(Axis::titled("predicted"), Axis::titled("given"), series))
}
