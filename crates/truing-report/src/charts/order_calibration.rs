//! How sure a reward model is of an order, and how often it is right.

use super::figure::{Axis, Color, Figure, Format};
use super::{Chart, against_diagonal, diagonal};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "order_calibration",
    title: "Calibration of pairs",
    caption: "Pairs by predicted probability of their order, from the difference of their rewards (last evaluation). \
              On the dashed line the model is calibrated; below it, overconfident.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let bins = &stage.diagnostics.last()?.diagnostics.calibration;
    if bins.is_empty() {
        return None;
    }
    let points = bins.iter().map(|bin| (bin.predicted, bin.observed)).collect();
    let words = bins.iter().map(|bin| format!("{} pairs", bin.n)).collect();
    let x = Axis::titled("predicted").format(Format::Percent).range(0.48, 1.02);
    let y = Axis::titled("share of pairs in order").format(Format::Percent).range(0.0, 1.05);
    Some(Figure::of(x, y, [diagonal(0.5, 1.0), against_diagonal("observed", points, words, Color::Blue)]))
}
