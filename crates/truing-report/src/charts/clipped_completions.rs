//! How many completions end at the token limit.

use super::figure::{Axis, Color, Figure, Format};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "clipped_completions",
    title: "Completions cut off",
    caption: "Fraction of completions that end at `max_completion_length`. Their rewards are those of \
              unfinished texts.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let clipped = stage.series(names::COMPLETIONS_CLIPPED_RATIO);
    if clipped.is_empty() {
        return None;
    }
    let y = Axis::titled("share of completions").format(Format::Percent).range(0.0, 1.0);
    Some(Figure::over_steps(y, with_smoothed("cut off", Color::Orange, &clipped)))
}
