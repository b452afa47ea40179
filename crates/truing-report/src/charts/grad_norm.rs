//! The gradient's norm before clipping.

use super::figure::{Axis, Color, Figure};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "grad_norm",
    title: "Gradient norm",
    caption: "Norm of the gradient before clipping. It should stay even. Single spikes come from unusual batches; \
              steady growth means that the learning rate is too high.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let norms = stage.series(names::GRAD_NORM);
    if norms.is_empty() {
        return None;
    }
    Some(Figure::over_steps(Axis::titled("norm").with_zero(), with_smoothed("norm", Color::Blue, &norms)))
}
