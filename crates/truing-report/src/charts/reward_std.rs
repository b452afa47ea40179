//! How far rewards of one prompt lie apart: the training signal.

use super::figure::{Axis, Color, Figure};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward_std",
    title: "Reward deviation within groups",
    caption: "Standard deviation of the rewards of one prompt's completions, mean over the groups of a step. Near 0 \
              there is no training signal.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let deviation = stage.series(names::REWARD_STD);
    if deviation.is_empty() {
        return None;
    }
    let y = Axis::titled("standard deviation").with_zero();
    Some(Figure::over_steps(y, with_smoothed("deviation", Color::Violet, &deviation)))
}
