//! Speed over the run.

use super::figure::{Axis, Color, Figure};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "tokens_per_second",
    title: "Speed",
    caption: "Tokens per second, forward and backward, without padding. A fall during the run means that another \
              program used the machine, or that the processor was throttled.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let speeds = stage.series(names::TOKENS_PER_SECOND);
    if speeds.is_empty() {
        return None;
    }
    let y = Axis::titled("tokens per second").with_zero();
    Some(Figure::over_steps(y, with_smoothed("speed", Color::Green, &speeds)))
}
