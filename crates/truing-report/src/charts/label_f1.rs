//! How well a classifier knows each label, on texts that it has not learnt from.

use plotly::common::Marker;
use plotly::layout::{Axis, AxisType};
use plotly::{Bar, Plot};

use super::{BLUE, Chart, GREEN, ORANGE, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "label_f1",
    title: "Label by label",
    caption: "Held-out texts. Precision: fraction of the texts predicted to have the label that have it. Recall: \
              fraction of the texts with the label that are found. F1 is their harmonic mean.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
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
    let mut plot = plot(Axis::new().tick_format(".0%").range(vec![0.0, 1.05]));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(Axis::new().type_(AxisType::Category).auto_margin(true)));
    for (i, (name, color)) in [("precision", BLUE), ("recall", ORANGE), ("F1", GREEN)].into_iter().enumerate()
    {
        let values = figures.iter().map(|figure| figure[i]).collect();
        plot.add_trace(
            Bar::new(names.clone(), values)
                .name(name)
                .marker(Marker::new().color(color))
                .hover_text_array(texts.clone())
                .hover_template("%{x}: %{y:.1%}, %{hovertext}<extra></extra>"),
        );
    }
    Some(plot)
}
