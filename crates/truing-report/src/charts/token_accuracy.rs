//! Share of the loss tokens that were the model's first choice.

use super::figure::{Axis, Color, Figure, Format, Series};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "token_accuracy",
    title: "Token accuracy",
    caption: "Fraction of loss tokens that were the model's most likely token.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let training = stage.series(names::MEAN_TOKEN_ACCURACY);
    let held_out = stage.series(names::EVAL_MEAN_TOKEN_ACCURACY);
    if training.is_empty() {
        return None;
    }
    let mut series = with_smoothed("training", Color::Green, &training);
    if !held_out.is_empty() {
        series.push(Series::dots("held out", Color::Orange, &held_out));
    }
    Some(Figure::over_steps(Axis::titled("share of tokens").format(Format::Percent), series))
}
