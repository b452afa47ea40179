//! How often a reward model orders pairs as people did, source by source.

use truing_statistics::ShareInterval;

use super::Chart;
use super::figure::{Axis, Color, Figure, Format, Mark, Series};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "accuracy_by_source",
    title: "Pair accuracy by source",
    caption: "Last evaluation, with 95 % Wilson intervals. The dashed line is chance: a source whose interval contains \
              it is not shown to be better than chance.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Figure> {
    let found = &stage.diagnostics.last()?.diagnostics;
    let all = (found.by_source.len() != 1).then_some(("all", &found.all));
    let sources = found.by_source.iter().map(|(name, source)| (name.as_str(), source)).chain(all);
    let known: Vec<(String, f64, ShareInterval, u64)> = sources
        .filter_map(|(name, source)| {
            Some((name.to_owned(), source.accuracy?, source.accuracy_interval?, source.n_pairs))
        })
        .collect();
    if known.is_empty() {
        return None;
    }
    let last = known.len() as f64 - 1.0;
    let chance = Series::new(Mark::Line, "chance", Color::Grey, [(-0.5, 0.5), (last + 0.5, 0.5)]).guide();
    let points = known.iter().enumerate().map(|(at, one)| (at as f64, one.1));
    let accuracy = Series::new(Mark::Points, "accuracy", Color::Blue, points)
        .interval(known.iter().map(|one| one.2.low).collect(), known.iter().map(|one| one.2.high).collect())
        .words(known.iter().map(|one| format!("{} pairs", one.3)).collect())
        .unnamed();
    let names = known.into_iter().map(|one| one.0).collect();
    let y = Axis::titled("share of pairs").format(Format::Percent).range(0.0, 1.05);
    Some(Figure::of(Axis::named(names), y, [chance, accuracy]))
}
