//! What a scorer of texts says, against what they were given.

use plotly::Plot;

use super::{BLUE, Chart, GREEN, GREY, ORANGE, against_diagonal, axis, plain, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "predicted_scores",
    title: "Predicted and given scores of texts",
    caption: "Held-out texts, by tenths of their predicted score: mean prediction and mean of the given scores, one \
              colour per score. On the line predictions equal the given scores; a flat line means that the scorer \
              predicts nothing.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let scores = &stage.classification.as_ref()?.scores;
    let values = || scores.iter().flat_map(|score| &score.calibration).flat_map(|&(p, given)| [p, given]);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let mut plot = plot(axis("given"));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(axis("predicted").zero_line(false)));
    for (score, color) in scores.iter().zip([BLUE, ORANGE, GREEN, GREY].into_iter().cycle()) {
        let n = score.calibration.len();
        let words = (1..=n).map(|part| format!("{}, part {part} of {n}", plain(&score.name))).collect();
        against_diagonal(&mut plot, &score.calibration, words, (low, high), color);
    }
    Some(plot)
}
