//! Rewards against the length of the response: whether long answers win because they are long.

use plotly::common::{Marker, Mode};
use plotly::{Plot, Scatter};

use super::{BLUE, Chart, GREEN, GREY, ORANGE, axis, plain, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward_by_length",
    title: "Reward and length",
    caption: "Some responses of the last evaluation, evenly spread over the data; r is the correlation over all of a \
              source's responses. A high correlation means that the model may reward length.",
    draw,
};

/// Of the largest sources; all others are grey.
const COLOURS: [&str; 3] = [BLUE, ORANGE, GREEN];

fn draw(stage: &StageRecord) -> Option<Plot> {
    let found = &stage.diagnostics.last()?.diagnostics;
    if found.length_sample.is_empty() {
        return None;
    }
    let mut plot = plot(axis("reward"));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(axis("tokens of the response").zero_line(false)));
    for (idx, (name, source)) in found.by_source.iter().enumerate() {
        let points = found.length_sample.iter().filter(|point| point.source == *name);
        let (lengths, rewards): (Vec<u64>, Vec<f64>) = points.map(|p| (p.n_tokens, p.reward)).unzip();
        let correlation = source.length_correlation.map_or_else(String::new, |r| format!(" (r = {r:.2})"));
        plot.add_trace(
            Scatter::new(lengths, rewards)
                .name(format!("{}{correlation}", plain(name)))
                .mode(Mode::Markers)
                .marker(Marker::new().color(*COLOURS.get(idx).unwrap_or(&GREY)).size(6).opacity(0.6))
                .hover_template("%{x} tokens, reward %{y:.2f}"),
        );
    }
    Some(plot)
}
