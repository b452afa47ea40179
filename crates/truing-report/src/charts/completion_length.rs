//! Length of the completions, and how many are cut off.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "completion_length",
    title: "Completion length",
    caption: "Mean tokens of a completion, in training and on held-out prompts. A reward that rises only while \
              completions get longer rewards length.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let length = stage.series(names::COMPLETIONS_MEAN_LENGTH);
    if length.is_empty() {
        return None;
    }
    let mut series = with_smoothed("training", Color::Blue, &length);
    let held_out = stage.series(&names::held_out(names::COMPLETIONS_MEAN_LENGTH));
    if !held_out.is_empty() {
        series.push(Series::dots("held out", Color::Orange, &held_out));
    }
    Some(Figure::over_steps(Axis::titled("tokens").with_zero(), series))
}
