//! Where a reward model's scale goes while it learns: the order says nothing about it.

use plotly::common::{ErrorData, ErrorType, Marker, Mode};
use plotly::{Plot, Scatter};

use super::{Chart, GREEN, ORANGE, axis, line, plot, smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward_drift",
    title: "Drift of the rewards",
    caption: "Mean reward over training; bars are one deviation of the held-out rewards to either side. \
              `center_rewards_coefficient` limits a drifting mean and growing bars.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let training = stage.series(names::MEAN_REWARD);
    // One evaluation alone is no drift.
    if stage.diagnostics.is_empty() || training.len() + stage.diagnostics.len() < 2 {
        return None;
    }
    let mut plot = plot(axis("reward"));
    if !training.is_empty() {
        plot.add_trace(line("training", &smoothed(&training), GREEN, 2.5));
    }
    let (steps, means) = stage.diagnostics.iter().map(|one| (one.step, one.diagnostics.mean_reward)).unzip();
    let deviations = stage.diagnostics.iter().map(|one| one.diagnostics.reward_deviation).collect();
    plot.add_trace(
        Scatter::new(steps, means)
            .name("held out")
            .mode(Mode::LinesMarkers)
            .marker(Marker::new().color(ORANGE).size(7))
            .error_y(ErrorData::new(ErrorType::Data).array(deviations)),
    );
    Some(plot)
}
