//! Accuracy on pairs: reward models and preference losses.

use super::figure::{Axis, Color, Figure, Format, Series};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "preference_accuracy",
    title: "Preference accuracy",
    caption: "Fraction of pairs in which the chosen response got the higher score. 0.5 is chance.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let names = [names::ACCURACY, names::REWARDS_ACCURACIES];
    let training = names.iter().map(|name| stage.series(name)).find(|series| !series.is_empty())?;
    let mut series = with_smoothed("training", Color::Green, &training);
    let held_out = names.iter().map(|name| stage.series(&names::held_out(name)));
    if let Some(held_out) = held_out.into_iter().find(|series| !series.is_empty()) {
        series.push(Series::dots("held out", Color::Orange, &held_out));
    }
    Some(Figure::over_steps(Axis::titled("share of pairs").format(Format::Percent), series))
}
