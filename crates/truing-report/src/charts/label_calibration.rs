//! Whether a classifier is as often right as it believes.

use super::figure::{Axis, Color, Figure, Format};
use super::{Chart, against_diagonal, diagonal};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "label_calibration",
    title: "Calibration of labels",
    caption: "Held-out texts, by predicted probability: fraction of correct predictions, one line per dimension. Below \
              the dashed line the classifier is overconfident.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let dimensions = &stage.classification.as_ref()?.dimensions;
    let known: Vec<_> = dimensions.iter().filter(|dimension| !dimension.calibration.is_empty()).collect();
    if known.is_empty() {
        return None;
    }
    let mut series = vec![diagonal(0.0, 1.0)];
    for (idx, dimension) in known.iter().enumerate() {
        let bins = &dimension.calibration;
        let points = bins.iter().map(|bin| (bin.predicted, bin.observed)).collect();
        let words = bins.iter().map(|bin| format!("{} predictions", bin.n)).collect();
        series.push(against_diagonal(&dimension.name, points, words, Color::nth(idx)));
    }
    let x = Axis::titled("predicted probability").format(Format::Percent).range(0.0, 1.02);
    let y = Axis::titled("correct").format(Format::Percent).range(0.0, 1.05);
    Some(Figure::of(x, y, series))
}
