//! Where a reward model's scale goes while it learns: the order says nothing about it.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, smoothed_line};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward_drift",
    title: "Drift of the rewards",
    caption: "Mean reward over training; bars are one standard deviation of the held-out rewards to either side. \
              `center_rewards_coefficient` limits a drifting mean and growing bars.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let training = stage.series(names::MEAN_REWARD);
    // One evaluation alone is no drift.
    if stage.diagnostics.is_empty() || training.len() + stage.diagnostics.len() < 2 {
        return None;
    }
    let mut series = Vec::new();
    if !training.is_empty() {
        series.push(smoothed_line("training", Color::Green, &training));
    }
    let found = || stage.diagnostics.iter().map(|one| (one.step, &one.diagnostics));
    let means: Vec<(u64, f64)> = found().map(|(step, one)| (step, one.mean_reward)).collect();
    let at = |side: f64| found().map(|(_, one)| one.mean_reward + side * one.reward_deviation).collect();
    series.push(Series::dots("held out", Color::Orange, &means).interval(at(-1.0), at(1.0)));
    Some(Figure::over_steps(Axis::titled("reward"), series))
}
