//! Entropy of the policy over its own completions.

use super::figure::{Axis, Color, Figure};
use super::{Chart, with_smoothed};
use crate::names;
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "entropy",
    title: "Policy entropy",
    caption: "Mean entropy of the next-token distributions over the completions, in nats. A collapse towards 0 ends \
              exploration.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    // Fine-tuning logs it too, where it says little.
    if stage.series(names::REWARD).is_empty() {
        return None;
    }
    let entropy = stage.series(names::ENTROPY);
    if entropy.is_empty() {
        return None;
    }
    let y = Axis::titled("nats per token").with_zero();
    Some(Figure::over_steps(y, with_smoothed("entropy", Color::Green, &entropy)))
}
