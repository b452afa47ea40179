//! Which labels a classifier takes for which, on texts that it has not learnt from.

use plotly::common::{ColorScale, ColorScalePalette};
use plotly::layout::{Axis, AxisType};
use plotly::{HeatMap, Plot};
use truing_eval::classifier::DimensionEvaluation;

use super::{Chart, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "label_confusion",
    title: "Confusion matrix",
    caption: "Held-out texts, by true label (row) and predicted label (column), as fractions of each row. A good \
              classifier has a dark diagonal. Labels that no text has are omitted.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let dimensions = &stage.classification.as_ref()?.dimensions;
    let shown: Vec<(&DimensionEvaluation, Vec<usize>)> = dimensions
        .iter()
        .filter(|dimension| !dimension.confusion.is_empty())
        .map(|dimension| {
            let labels = dimension.labels.iter().enumerate();
            let is_met = labels.filter(|(_, label)| label.support + label.n_predicted > 0);
            (dimension, is_met.map(|(k, _)| k).collect())
        })
        .collect();
    let names: Vec<String> = shown
        .iter()
        .flat_map(|(dimension, labels)| labels.iter().map(|&k| super::label_name(dimensions, dimension, k)))
        .collect();
    if names.is_empty() {
        return None;
    }
    // Each dimension is a square on the diagonal; between two there is nothing.
    let (mut shares, mut words) = (Vec::new(), Vec::new());
    let mut before = 0;
    for (dimension, labels) in &shown {
        for &truth in labels {
            let (mut row, mut told) = (vec![None; names.len()], vec![String::new(); names.len()]);
            let support = dimension.labels[truth].support;
            for (i, &said) in labels.iter().enumerate() {
                let n = dimension.confusion[truth][said];
                row[before + i] = Some(n as f64 / support.max(1) as f64);
                told[before + i] = format!("{n} of {support} texts");
            }
            shares.push(row);
            words.push(told);
        }
        before += labels.len();
    }
    // Drawn from below.
    shares.reverse();
    words.reverse();
    let rows = names.iter().rev().cloned().collect();
    let mut plot = plot(Axis::new().type_(AxisType::Category));
    let layout = plot.layout().clone();
    let x_axis = Axis::new().type_(AxisType::Category).title("predicted").auto_margin(true);
    plot.set_layout(layout.x_axis(x_axis).height(180 + 24 * names.len()));
    plot.add_trace(
        HeatMap::new(names, rows, shares)
            .color_scale(ColorScale::Palette(ColorScalePalette::Blues))
            .reverse_scale(true)
            .zmin(0.0)
            .zmax(1.0)
            .hover_text_matrix(words)
            .show_scale(false),
    );
    Some(plot)
}
