//! How often a reward model orders pairs as people did, source by source.

use plotly::common::{DashType, ErrorData, ErrorType, HoverInfo, Line, Marker, Mode};
use plotly::layout::{Axis, AxisType};
use plotly::{Plot, Scatter};

use truing_statistics::ShareInterval;

use super::{BLUE, Chart, GREY, plain, plot};
use crate::run_record::StageRecord;

pub(super) const CHART: Chart = Chart {
    name: "accuracy_by_source",
    title: "Pairs in order, by source",
    caption: "The last evaluation. Bars are 95 % intervals (Wilson); the dashed line is chance. A source whose bar \
              reaches it is not shown to be better than chance.",
    draw,
};

fn draw(stage: &StageRecord) -> Option<Plot> {
    let found = &stage.diagnostics.last()?.diagnostics;
    let all = (found.by_source.len() != 1).then_some(("all", &found.all));
    let sources = found.by_source.iter().map(|(name, source)| (name.as_str(), source)).chain(all);
    let known: Vec<(String, f64, ShareInterval, u64)> = sources
        .filter_map(|(name, source)| {
            Some((plain(name), source.accuracy?, source.accuracy_interval?, source.n_pairs))
        })
        .collect();
    if known.is_empty() {
        return None;
    }
    let names: Vec<String> = known.iter().map(|one| one.0.clone()).collect();
    let pairs = known.iter().map(|one| format!("{} pairs", one.3)).collect();
    let mut plot = plot(Axis::new().title("share of pairs").tick_format(".0%").range(vec![0.0, 1.05]));
    let layout = plot.layout().clone();
    plot.set_layout(layout.x_axis(Axis::new().type_(AxisType::Category).auto_margin(true)));
    plot.add_trace(
        Scatter::new(names.clone(), vec![0.5; names.len()])
            .name("chance")
            .mode(Mode::Lines)
            .line(Line::new().color(GREY).width(1.0).dash(DashType::Dash))
            .hover_info(HoverInfo::Skip)
            .show_legend(false),
    );
    plot.add_trace(
        Scatter::new(names, known.iter().map(|one| one.1).collect())
            .mode(Mode::Markers)
            .marker(Marker::new().color(BLUE).size(10))
            .error_y(
                ErrorData::new(ErrorType::Data)
                    .symmetric(false)
                    .array(known.iter().map(|one| one.2.high - one.1).collect())
                    .array_minus(known.iter().map(|one| one.1 - one.2.low).collect()),
            )
            .hover_text_array(pairs)
            .hover_template("%{x}: %{y:.1%}, %{hovertext}<extra></extra>")
            .show_legend(false),
    );
    Some(plot)
}
