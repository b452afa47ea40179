//! Mean score difference of a pair.

use super::figure::{Axis, Color, Figure, Series};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "margin",
    title: "Margin",
    caption: "Mean difference between the scores of the chosen and the rejected response. A margin that keeps \
              growing while accuracy does not is a sign of overfitting.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let names = [names::MARGIN, names::REWARDS_MARGINS];
    let training = names.iter().map(|name| stage.series(name)).find(|series| !series.is_empty())?;
    let mut series = with_smoothed("training", Color::Blue, &training);
    let held_out = names.iter().map(|name| stage.series(&names::held_out(name)));
    if let Some(held_out) = held_out.into_iter().find(|series| !series.is_empty()) {
        series.push(Series::dots("held out", Color::Orange, &held_out));
    }
    Some(Figure::over_steps(Axis::titled("score difference"), series))
}
