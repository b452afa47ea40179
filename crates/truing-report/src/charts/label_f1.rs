//! How well a classifier knows each label, on held-out texts.

use super::Chart;
use super::figure::{Axis, Color, Figure, Format, Series};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "label_f1",
    title: "Precision, recall and F1 by label",
    caption: "Held-out texts. Precision: fraction of the texts predicted to have the label that have it. Recall: \
              fraction of the texts with the label that are found. F1 is their harmonic mean.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let dimensions = &stage.classification.as_ref()?.dimensions;
    let (mut names, mut texts, mut figures) = (Vec::new(), Vec::new(), Vec::new());
    for dimension in dimensions {
        for (k, label) in dimension.labels.iter().enumerate().filter(|(_, label)| label.support > 0) {
            names.push(super::label_name(dimensions, dimension, k));
            texts.push(format!("{} texts", label.support));
            figures.push([label.precision, label.recall, label.f1].map(|figure| figure.unwrap_or(0.0)));
        }
    }
    if names.is_empty() {
        return None;
    }
    let measures = [("precision", Color::Blue), ("recall", Color::Orange), ("F1", Color::Green)];
    let bars = measures.into_iter().enumerate().map(|(i, (name, color))| {
        Series::bars(name, color, figures.iter().map(|figure| figure[i])).words(texts.clone())
    });
    let y = Axis::titled("").format(Format::Percent).range(0.0, 1.05);
    Some(Figure::of(Axis::named(names), y, bars))
}
