//! How sure a reward model is of an order, and how often it is right.

use plotly::Plot;
use plotly::layout::Axis;

use super::{BLUE, Chart, against_diagonal, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "order_calibration",
    title: "Calibration of pairs",
    caption: "Pairs by predicted probability of their order, from the difference of their rewards (the last \
              evaluation). On the line the model is calibrated; below it, overconfident.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let bins = &stage.diagnostics.last()?.diagnostics.calibration;
    if bins.is_empty() {
        return None;
    }
    let mut plot = plot(Axis::new().title("share in order").tick_format(".0%").range(vec![0.0, 1.05]));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(Axis::new().title("predicted").tick_format(".0%").range(vec![0.48, 1.02])));
    let points: Vec<(f64, f64)> = bins.iter().map(|bin| (bin.predicted, bin.observed)).collect();
    let words = bins.iter().map(|bin| format!("{} pairs", bin.n)).collect();
    against_diagonal(&mut plot, &points, words, (0.5, 1.0), BLUE);
    Some(plot)
}
