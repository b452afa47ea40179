//! Whether a classifier is as often right as it believes.

use plotly::Plot;
use plotly::layout::Axis;

use super::{BLUE, Chart, GREEN, GREY, ORANGE, against_diagonal, axis, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "label_calibration",
    title: "Confidence and truth",
    caption: "Held-out texts, by predicted probability: fraction of correct predictions, one colour per dimension. \
              Below the line the classifier is overconfident.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let dimensions = &stage.classification.as_ref()?.dimensions;
    let mut plot = plot(Axis::new().title("right").tick_format(".0%").range(vec![0.0, 1.05]));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(axis("confidence").tick_format(".0%").zero_line(false)));
    let known = dimensions.iter().filter(|dimension| !dimension.calibration.is_empty());
    let mut is_empty = true;
    for (dimension, color) in known.zip([BLUE, ORANGE, GREEN, GREY].into_iter().cycle()) {
        is_empty = false;
        let bins = &dimension.calibration;
        let points: Vec<(f64, f64)> = bins.iter().map(|bin| (bin.predicted, bin.observed)).collect();
        let name = super::plain(&dimension.name);
        let words = bins.iter().map(|bin| format!("{name}, {} answers", bin.n)).collect();
        against_diagonal(&mut plot, &points, words, (0.0, 1.0), color);
    }
    (!is_empty).then_some(plot)
}
