//! The charts of a stage, one file each. A new one is a file and a line in [`CHARTS`].

mod accuracy_by_source;
mod completion_length;
mod entropy;
mod grad_norm;
mod kl;
mod label_calibration;
mod label_confusion;
mod label_f1;
mod learning_rate;
mod loss;
mod margin;
mod memory;
mod memory_parts;
mod order_calibration;
mod predicted_scores;
mod preference_accuracy;
mod reward;
mod reward_by_length;
mod reward_drift;
mod score_calibration;
mod tie_spread;
mod token_accuracy;
mod tokens_per_second;

use plotly::common::{DashType, HoverInfo, Line, LineShape, Marker, Mode};
use plotly::layout::{Axis, Layout, Legend, Margin};
use plotly::{Plot, Scatter};
use truing_eval::classifier::DimensionEvaluation;

use crate::run_record::StageRecord;

/// A chart that a stage may have.
pub(crate) struct Chart {
    /// Part of the element's id.
    pub(crate) name: &'static str,
    /// Above the chart.
    pub(crate) title: &'static str,
    /// How to read it, in one or two sentences.
    pub(crate) caption: &'static str,
    /// Draws it, or nothing where the stage has no such figures.
    pub(crate) draw: fn(&StageRecord) -> Option<Plot>,
}

/// In the order of the page.
pub(crate) const CHARTS: &[Chart] = &[
    reward::CHART,
    kl::CHART,
    completion_length::CHART,
    entropy::CHART,
    loss::CHART,
    label_f1::CHART,
    label_confusion::CHART,
    label_calibration::CHART,
    predicted_scores::CHART,
    preference_accuracy::CHART,
    margin::CHART,
    accuracy_by_source::CHART,
    order_calibration::CHART,
    score_calibration::CHART,
    reward_by_length::CHART,
    tie_spread::CHART,
    reward_drift::CHART,
    token_accuracy::CHART,
    learning_rate::CHART,
    grad_norm::CHART,
    tokens_per_second::CHART,
    memory::CHART,
    memory_parts::CHART,
];

// Colours that stand out on a light and on a dark page, and for eyes that confuse red and green
// (Okabe and Ito 2008, slightly lightened).
pub(crate) const BLUE: &str = "#3d8fd1";
pub(crate) const ORANGE: &str = "#e8912d";
pub(crate) const GREEN: &str = "#17a67c";
pub(crate) const GREY: &str = "#8b93a1";

/// Bytes of the unit that memory is drawn in.
const GIB: f64 = (1u64 << 30) as f64;

/// A plot without a frame of its own; the page sets the colours of text and grid.
pub(crate) fn plot(y_axis: Axis) -> Plot {
    let transparent = "rgba(0,0,0,0)";
    let mut plot = Plot::new();
    plot.set_layout(
        Layout::new()
            .auto_size(true)
            .height(280)
            .margin(Margin::new().left(52).right(14).top(10).bottom(42))
            .paper_background_color(transparent)
            .plot_background_color(transparent)
            .legend(Legend::new().orientation(plotly::common::Orientation::Horizontal).x(0.0).y(1.12))
            .x_axis(Axis::new().title("optimiser step").zero_line(false))
            .y_axis(y_axis.zero_line(false).auto_margin(true)),
    );
    plot
}

/// An axis with a title.
pub(crate) fn axis(title: &str) -> Axis {
    Axis::new().title(title)
}

/// A name without what the plotting library would read as markup.
pub(crate) fn plain(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A label as charts call it: with its dimension where there are several.
fn label_name(all: &[DimensionEvaluation], dimension: &DimensionEvaluation, label: usize) -> String {
    let label = plain(&dimension.labels[label].label);
    if all.len() == 1 { label } else { format!("{}: {label}", plain(&dimension.name)) }
}

/// A line through `points`.
fn line(name: &str, points: &[(u64, f64)], color: &'static str, width: f64) -> Box<Scatter<u64, f64>> {
    let (steps, values) = points.iter().copied().unzip();
    Scatter::new(steps, values)
        .name(name)
        .mode(if points.len() == 1 { Mode::Markers } else { Mode::Lines })
        .line(Line::new().color(color).width(width).shape(LineShape::Linear))
}

/// Points that would lie on the diagonal between two bounds, with words for each.
fn against_diagonal(
    plot: &mut Plot,
    points: &[(f64, f64)],
    words: Vec<String>,
    (low, high): (f64, f64),
    color: &'static str,
) {
    plot.add_trace(
        Scatter::new(vec![low, high], vec![low, high])
            .mode(Mode::Lines)
            .line(Line::new().color(GREY).width(1.0).dash(DashType::Dash))
            .hover_info(HoverInfo::Skip)
            .show_legend(false),
    );
    let (x, y) = points.iter().copied().unzip();
    plot.add_trace(
        Scatter::new(x, y)
            .mode(Mode::LinesMarkers)
            .line(Line::new().color(color).width(2.0))
            .marker(Marker::new().color(color).size(8))
            .hover_text_array(words)
            .hover_template("%{x:.3} to %{y:.3}, %{hovertext}<extra></extra>")
            .show_legend(false),
    );
}

/// Mean over a window around each point, a tenth of the run wide: it does not lag behind a trend.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let reach = (points.len() / 20).clamp(1, 25);
    let mean_around = |idx: usize| {
        // The same reach on both sides, so that the ends follow the trend as well.
        let reach = reach.min(idx).min(points.len() - 1 - idx);
        let window = &points[idx - reach..=idx + reach];
        window.iter().map(|(_, value)| value).sum::<f64>() / window.len() as f64
    };
    points.iter().enumerate().map(|(idx, &(step, _))| (step, mean_around(idx))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_registered() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/charts");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut registered: Vec<&str> = CHARTS.iter().map(|chart| chart.name).collect();
        registered.sort_unstable();
        assert_eq!(files, registered);
    }

    #[test]
    fn smoothing_keeps_a_constant_and_follows_a_trend() {
        let constant: Vec<(u64, f64)> = (1..=100).map(|step| (step, 2.0)).collect();
        assert!(smoothed(&constant).iter().all(|(_, value)| (value - 2.0).abs() < 1e-12));
        let falling: Vec<(u64, f64)> = (1..=100).map(|step| (step, 100.0 - step as f64)).collect();
        assert!(smoothed(&falling).iter().zip(&falling).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
    }
}
