//! What a scorer of texts says, against what they were given.

use super::figure::{Axis, Color, Figure};
use super::{Chart, against_diagonal, diagonal};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "predicted_scores",
    title: "Predicted and given scores of texts",
    caption: "Held-out texts, by tenths of their predicted score: mean prediction and mean of the given scores, one \
              line per score. On the dashed line predictions equal the given scores; a flat line means that the scorer \
              predicts nothing.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let scores = &stage.classification.as_ref()?.scores;
    let values = || scores.iter().flat_map(|score| &score.calibration).flat_map(|&(p, given)| [p, given]);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let mut series = vec![diagonal(low, high)];
    for (idx, score) in scores.iter().enumerate() {
        let n = score.calibration.len();
        let words = (1..=n).map(|part| format!("part {part} of {n}")).collect();
        series.push(against_diagonal(&score.name, score.calibration.clone(), words, Color::nth(idx)));
    }
    Some(Figure::of(Axis::titled("predicted"), Axis::titled("given"), series))
}
