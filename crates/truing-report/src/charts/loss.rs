//! Training loss, smoothed over its own noise, and the held-out loss.

use plotly::common::{Marker, Mode};
use plotly::{Plot, Scatter};

use super::{BLUE, Chart, ORANGE, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "loss",
    title: "Loss",
    caption: "The training loss; in fine-tuning the mean negative log-likelihood per loss token, in nats. In policy \
              training it is a surrogate whose value says little. Pale: each step. Bold: smoothed. Dots: held-out \
              data.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let training = stage.series(names::LOSS);
    let held_out = stage.series(names::EVAL_LOSS);
    if training.is_empty() && held_out.is_empty() {
        return None;
    }
    let mut plot = plot(axis(if stage.kind == "sft" { "nats per token" } else { "loss" }));
    if training.len() >= 20 {
        plot.add_trace(line("each step", &training, BLUE, 1.0).opacity(0.35).show_legend(false));
        plot.add_trace(line("training", &smoothed(&training), BLUE, 2.5));
    } else if !training.is_empty() {
        plot.add_trace(line("training", &training, BLUE, 2.5));
    }
    if !held_out.is_empty() {
        let (steps, values) = held_out.into_iter().unzip();
        plot.add_trace(
            Scatter::new(steps, values)
                .name("held out")
                .mode(Mode::LinesMarkers)
                .line(plotly::common::Line::new().color(ORANGE).width(2.0))
                .marker(Marker::new().color(ORANGE).size(8)),
        );
    }
    Some(plot)
}
