//! Mean of each reward function over the rollouts.

use super::figure::{Axis, Color, Figure};
use super::{Chart, smoothed_line};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward_parts",
    title: "Reward by part",
    caption: "Mean of each reward function, before weights and shaping; smoothed from 20 steps on. Which part the \
              total gains from, and which it pays with.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let parts = stage.reward_parts();
    let series = parts.iter().enumerate().map(|(idx, name)| {
        smoothed_line(name, Color::nth(idx), &stage.series(&names::reward_part_mean(name)))
    });
    (!parts.is_empty()).then(|| Figure::over_steps(Axis::titled("reward"), series))
}
