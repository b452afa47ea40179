//! The charts of a stage, one file each. A new one is a file and a line in [`CHARTS`].

mod accuracy_by_source;
mod clipped_completions;
mod completion_length;
mod entropy;
pub(crate) mod figure;
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
mod reward_parts;
mod reward_std;
mod score_calibration;
mod tie_spread;
mod token_accuracy;
mod tokens_per_second;
mod zero_std_groups;

use truing_eval::classifier::DimensionEvaluation;

use crate::html::marked_up;
use crate::run_record::StageRecord;
use figure::{Color, Figure, Mark, Series};

/// A chart that a stage may have.
pub(crate) struct Chart {
    /// Part of the element's id.
    pub(crate) name: &'static str,
    /// Above the chart.
    pub(crate) title: &'static str,
    /// How to read it, in one or two sentences.
    pub(crate) caption: &'static str,
    /// Draws it, or nothing where the stage has no such figures.
    pub(crate) draw: fn(&StageRecord) -> Option<Figure>,
}

impl Chart {
    /// What there is to show, with its caption as markup: how to read the chart, and the value of a line that never
    /// changes, which is easily overlooked on an axis.
    pub(crate) fn drawn(&self, stage: &StageRecord) -> Option<(Figure, String)> {
        let figure = (self.draw)(stage).filter(Figure::has_values)?;
        let caption = match figure.constant() {
            Some(value) => format!("{} Every value is {value}.", self.caption),
            None => self.caption.to_owned(),
        };
        Some((figure, marked_up(&caption)))
    }
}

/// In the order of the page.
pub(crate) const CHARTS: &[Chart] = &[
    reward::CHART,
    reward_parts::CHART,
    reward_std::CHART,
    zero_std_groups::CHART,
    kl::CHART,
    entropy::CHART,
    completion_length::CHART,
    clipped_completions::CHART,
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

/// Fewer values are shown as they are.
const MIN_SMOOTHED: usize = 20;

/// Bytes of the unit that memory is drawn in.
const GIB: f64 = (1u64 << 30) as f64;

/// A label as charts call it: with its dimension where there are several.
fn label_name(all: &[DimensionEvaluation], dimension: &DimensionEvaluation, label: usize) -> String {
    let label = &dimension.labels[label].label;
    if all.len() == 1 { label.clone() } else { format!("{}: {label}", dimension.name) }
}

/// A smoothed line with the values of each step behind it; the values alone where there are few.
fn with_smoothed(name: &str, color: Color, points: &[(u64, f64)]) -> Vec<Series> {
    if points.len() < MIN_SMOOTHED {
        return vec![Series::dots(name, color, points)];
    }
    vec![Series::behind(color, points), smoothed_line(name, color, points)]
}

/// A smoothed line alone; the values themselves where there are few.
fn smoothed_line(name: &str, color: Color, points: &[(u64, f64)]) -> Series {
    match points.len() < MIN_SMOOTHED {
        true => Series::dots(name, color, points),
        false => Series::line(name, color, &smoothed(points)),
    }
}

/// Where points lie whose prediction is true.
fn diagonal(low: f64, high: f64) -> Series {
    Series::new(Mark::Line, "", Color::Grey, [(low, low), (high, high)]).guide()
}

/// Points that would lie on the diagonal, with words for each.
fn against_diagonal(name: &str, points: Vec<(f64, f64)>, words: Vec<String>, color: Color) -> Series {
    Series::new(Mark::LineAndPoints, name, color, points).words(words)
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
            .filter(|name| name != "mod" && name != "figure")
            .collect();
        files.sort();
        let mut registered: Vec<&str> = CHARTS.iter().map(|chart| chart.name).collect();
        registered.sort_unstable();
        assert_eq!(files, registered);
    }

    /// Cells that are dark on a light page are bright on a dark one, and print and some eyes know no colours.
    #[test]
    fn captions_name_positions_and_marks_rather_than_colours() {
        let colours = ["dark", "light", "pale", "bright", "bold", "green", "red", "blue", "orange", "colour"];
        for chart in CHARTS {
            let caption = chart.caption.to_lowercase();
            let mut words = caption.split(|letter: char| !letter.is_alphabetic());
            let found = words.find(|word| colours.contains(word));
            assert_eq!(found, None, "{}", chart.name);
        }
    }

    #[test]
    fn smoothing_keeps_a_constant_and_follows_a_trend() {
        let constant: Vec<(u64, f64)> = (1..=100).map(|step| (step, 2.0)).collect();
        assert!(smoothed(&constant).iter().all(|(_, value)| (value - 2.0).abs() < 1e-12));
        let falling: Vec<(u64, f64)> = (1..=100).map(|step| (step, 100.0 - step as f64)).collect();
        assert!(smoothed(&falling).iter().zip(&falling).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
    }
}
