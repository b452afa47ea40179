//! KL divergence from the reference model.

use super::figure::{Axis, Color, Figure};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "kl",
    title: "KL divergence from the reference",
    caption: "From the model that training began with, in nats per token. Fast growth with little reward gained is a \
              sign of reward hacking.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let kl = stage.series(names::KL);
    if kl.is_empty() {
        return None;
    }
    Some(Figure::over_steps(
        Axis::titled("nats per token").with_zero(),
        with_smoothed("KL", Color::Blue, &kl),
    ))
}
