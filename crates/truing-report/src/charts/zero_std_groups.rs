//! Groups without a training signal.

use super::figure::{Axis, Color, Figure, Format};
use super::{Chart, smoothed_line};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "zero_std_groups",
    title: "Groups with equal rewards",
    caption: "Fraction of groups in which all completions got the same reward (`frac_reward_zero_std`): prompts that \
              are too easy (all passed) or too hard (none passed). Smoothed from 20 steps on.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let all = stage.series(names::FRAC_REWARD_ZERO_STD);
    if all.is_empty() {
        return None;
    }
    let mut series = vec![smoothed_line("all", Color::Blue, &all)];
    for (side, name, color) in [("high", "too easy", Color::Green), ("low", "too hard", Color::Orange)] {
        let part = stage.series(&format!("{}/{side}", names::FRAC_REWARD_ZERO_STD));
        if !part.is_empty() {
            series.push(smoothed_line(name, color, &part));
        }
    }
    let y = Axis::titled("share of groups").format(Format::Percent).range(0.0, 1.0);
    Some(Figure::over_steps(y, series))
}
