//! Rewards against the length of the response: whether long answers win because they are long.

use super::Chart;
use super::figure::{Axis, Color, Figure, Format, Mark, Series};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "reward_by_length",
    title: "Reward and length",
    caption: "A sample of the responses of the last evaluation; r is the correlation over all responses of a source. A \
              high correlation means that the model may reward length.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let found = &stage.diagnostics.last()?.diagnostics;
    if found.length_sample.is_empty() {
        return None;
    }
    let series = found.by_source.iter().enumerate().map(|(idx, (name, source))| {
        let of_source = found.length_sample.iter().filter(|point| point.source == *name);
        let points: Vec<(f64, f64)> = of_source.map(|point| (point.n_tokens as f64, point.reward)).collect();
        let correlation = source.length_correlation.map_or_else(String::new, |r| format!(" (r = {r:.2})"));
        let words = vec![String::new(); points.len()];
        Series::new(Mark::Points, &format!("{name}{correlation}"), Color::nth(idx), points).words(words)
    });
    let x = Axis::titled("tokens of the response").format(Format::Count);
    Some(Figure::of(x, Axis::titled("reward"), series))
}
