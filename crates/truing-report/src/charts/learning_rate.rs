//! The schedule as it was taken.

use super::Chart;
use super::figure::{Axis, Color, Figure, Format, Series};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "learning_rate",
    title: "Learning rate",
    caption: "The learning rate of each step: warm-up, then decay.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let rates = stage.series(names::LEARNING_RATE);
    if rates.is_empty() {
        return None;
    }
    let y = Axis::titled("rate").format(Format::Scientific).with_zero();
    Some(Figure::over_steps(y, [Series::line("rate", Color::Grey, &rates)]))
}
