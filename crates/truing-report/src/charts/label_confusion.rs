//! Which labels a classifier takes for which, on held-out texts.

use truing_eval::classifier::DimensionEvaluation;

use super::Chart;
use super::figure::{Figure, Heat};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "label_confusion",
    title: "Confusion matrix",
    caption: "Held-out texts, by true label (row) and predicted label (column), as fractions of each row. A good \
              classifier has high fractions from the top left to the bottom right, where both labels are equal. Labels \
              that no text has are omitted.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
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
            let (mut row, mut texts) = (vec![None; names.len()], vec![String::new(); names.len()]);
            let support = dimension.labels[truth].support;
            for (i, &said) in labels.iter().enumerate() {
                let n = dimension.confusion[truth][said];
                row[before + i] = Some(n as f64 / support.max(1) as f64);
                texts[before + i] = format!("{n} of {support} texts");
            }
            shares.push(row);
            words.push(texts);
        }
        before += labels.len();
    }
    Some(Figure { heat: Some(Heat { names, shares, words }), ..Figure::default() })
}
