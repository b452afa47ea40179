//! Training loss, smoothed over its own noise, and the held-out loss.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "loss",
    title: "Loss",
    caption: "In fine-tuning the mean negative log-likelihood per loss token, in nats. In policy training a surrogate \
              whose value does not measure progress. From 20 steps on the thick line is smoothed; the thin line behind \
              it has each step.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let training = stage.series(names::LOSS);
    let held_out = stage.series(names::EVAL_LOSS);
    if training.is_empty() && held_out.is_empty() {
        return None;
    }
    let mut series =
        if training.is_empty() { Vec::new() } else { with_smoothed("training", Color::Blue, &training) };
    if !held_out.is_empty() {
        series.push(Series::dots("held out", Color::Orange, &held_out));
    }
    Some(Figure::over_steps(
        Axis::titled(if stage.kind == "sft" { "nats per token" } else { "loss" }),
        series,
    ))
}
