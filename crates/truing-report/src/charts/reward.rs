//! Mean reward of the rollouts, and on held-out prompts.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward",
    title: "Reward",
    caption: "Mean reward of each step's rollouts, and on prompts that are never trained on. It should rise while KL \
              and length stay in bounds.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let training = stage.series(names::REWARD);
    if training.is_empty() {
        return None;
    }
    let mut series = with_smoothed("training", Color::Blue, &training);
    let held_out = stage.series(names::EVAL_REWARD);
    if !held_out.is_empty() {
        series.push(Series::dots("held out", Color::Orange, &held_out));
    }
    Some(Figure::over_steps(Axis::titled("reward"), series))
}
