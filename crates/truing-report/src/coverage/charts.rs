//! The coverage page's charts: what each layer left, and what the pool looks like before and after.

use plotly::common::{Anchor, Marker, Orientation};
use plotly::layout::{Axis, AxisType, BarMode, Legend, Margin};
use plotly::{Bar, Plot};

use super::record::CoverageRecord;
use super::tally::{Counts, shortest_of_bin};
use crate::charts::{BLUE, GREY, ORANGE, axis, plain, plot};

/// Values of a label or language that a chart shows, the most frequent first.
const N_VALUES: usize = 20;
/// Bins of quality.
const N_QUALITY_BINS: usize = 20;
/// Characters that stay at the beginning and at the end of a long name on an axis.
const NAME_ENDS: [usize; 2] = [16, 20];

/// A chart with its words.
pub(super) struct CoverageChart {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) plot: Plot,
}

/// Rows that remain after each layer, and what it dropped.
pub(super) fn waterfall(record: &CoverageRecord) -> CoverageChart {
    let mut remaining = record.tally.all.before;
    let mut names = vec!["pool".to_owned()];
    let (mut left, mut dropped) = (vec![remaining], vec![0]);
    for (layer, n_dropped) in record.layers_in_order() {
        remaining -= n_dropped;
        names.push(short(&layer.to_string()));
        left.push(remaining);
        dropped.push(n_dropped);
    }
    // Drawn from below.
    names.reverse();
    left.reverse();
    dropped.reverse();
    let height = 110 + 26 * names.len();
    let trace = |values: Vec<u64>, name: &str, color: &'static str| {
        Bar::new(values, names.clone())
            .name(name)
            .orientation(Orientation::Horizontal)
            .marker(Marker::new().color(color))
            .hover_template(format!("%{{y}}<br>{name}: %{{x:,}}<extra></extra>"))
    };
    let traces = [trace(left, "rows that remain", BLUE), trace(dropped, "dropped here", ORANGE)];
    let mut plot = lying(height, "rows", BarMode::Stack);
    traces.into_iter().for_each(|trace| plot.add_trace(trace));
    CoverageChart {
        name: "layers".into(),
        title: "What each layer left".into(),
        caption: "From the whole pool at the top to the selection at the bottom.".into(),
        plot,
    }
}

/// Length, language, quality and each label, before and after.
pub(super) fn histograms(record: &CoverageRecord) -> Vec<CoverageChart> {
    let tally = &record.tally;
    let mut charts = vec![lengths(record)];
    charts.extend(quality(&tally.qualities));
    let values = std::iter::once(("language", &tally.languages))
        .chain(tally.labels.iter().map(|(dimension, values)| (dimension.as_str(), values)));
    for (idx, (dimension, values)) in values.enumerate() {
        let mut values: Vec<(&str, Counts)> =
            values.iter().map(|(name, counts)| (name.as_str(), *counts)).collect();
        if values.is_empty() {
            continue;
        }
        values.sort_by_key(|(name, counts)| (std::cmp::Reverse(counts.before), *name));
        let n_values = values.len();
        values.truncate(N_VALUES);
        let caption = if n_values > N_VALUES {
            format!("The {N_VALUES} most frequent of {n_values} values.")
        } else {
            format!("All {n_values} values.")
        };
        charts.push(CoverageChart {
            name: format!("values-{idx}"),
            title: format!("By {dimension}"),
            caption,
            plot: by_value(&values),
        });
    }
    charts
}

fn lengths(record: &CoverageRecord) -> CoverageChart {
    let bins = &record.tally.lengths;
    let range = bins.keys().next().copied().unwrap_or(0)..=bins.keys().last().copied().unwrap_or(0);
    let bars: Vec<(String, Counts)> = range
        .map(|bin| {
            let (from, to) = (shortest_of_bin(bin), shortest_of_bin(bin + 1));
            let name = if to <= from + 1 { from.to_string() } else { format!("{from}–{}", to - 1) };
            (name, bins.get(&bin).copied().unwrap_or_default())
        })
        .filter(|(_, counts)| counts.before > 0)
        .collect();
    CoverageChart {
        name: "length".into(),
        title: "Length".into(),
        caption: "Characters per prompt, on a logarithmic axis: two bars are a factor of 2.".into(),
        plot: standing(&bars, "characters"),
    }
}

fn quality(qualities: &[(f32, bool)]) -> Option<CoverageChart> {
    let low = qualities.iter().map(|(quality, _)| *quality).reduce(f32::min)?;
    let high = qualities.iter().map(|(quality, _)| *quality).reduce(f32::max)?;
    let width = ((high - low) / N_QUALITY_BINS as f32).max(f32::MIN_POSITIVE);
    let mut bins = vec![Counts::default(); N_QUALITY_BINS];
    for &(quality, is_kept) in qualities {
        let bin = &mut bins[(((quality - low) / width) as usize).min(N_QUALITY_BINS - 1)];
        bin.before += 1;
        bin.after += u64::from(is_kept);
    }
    let bars: Vec<(String, Counts)> = bins
        .into_iter()
        .enumerate()
        .map(|(idx, counts)| (format!("{:.3}", low + (idx as f32 + 0.5) * width), counts))
        .collect();
    Some(CoverageChart {
        name: "quality".into(),
        title: "Quality".into(),
        caption: format!("Of the {} rows that have one; bars are named by their middle.", qualities.len()),
        plot: standing(&bars, "quality"),
    })
}

/// Bars side by side, before behind after.
fn standing(bars: &[(String, Counts)], x_title: &str) -> Plot {
    let mut plot = plot(axis("rows"));
    let layout = plot.layout().clone();
    let x_axis = Axis::new().title(x_title).type_(AxisType::Category).auto_margin(true).zero_line(false);
    plot.set_layout(layout.x_axis(x_axis).bar_mode(BarMode::Overlay));
    let names: Vec<String> = bars.iter().map(|(name, _)| name.clone()).collect();
    for (name, color, of) in SIDES {
        let values: Vec<u64> = bars.iter().map(|(_, counts)| of(*counts)).collect();
        plot.add_trace(
            Bar::new(names.clone(), values)
                .name(name)
                .marker(Marker::new().color(color))
                .hover_template(format!("%{{x}}<br>{name}: %{{y:,}}<extra></extra>")),
        );
    }
    plot
}

/// Bars one under the other, before behind after.
fn by_value(values: &[(&str, Counts)]) -> Plot {
    let mut plot = lying((100 + 24 * values.len()).max(280), "rows", BarMode::Overlay);
    // Drawn from below.
    let names: Vec<String> = values.iter().rev().map(|(name, _)| short(name)).collect();
    for (name, color, of) in SIDES {
        let counts: Vec<u64> = values.iter().rev().map(|(_, counts)| of(*counts)).collect();
        plot.add_trace(
            Bar::new(counts, names.clone())
                .name(name)
                .orientation(Orientation::Horizontal)
                .marker(Marker::new().color(color))
                .hover_template(format!("%{{y}}<br>{name}: %{{x:,}}<extra></extra>")),
        );
    }
    plot
}

/// Name, colour and figure of one side of a comparison.
type ComparedSide = (&'static str, &'static str, fn(Counts) -> u64);

/// The two sides of every comparison.
const SIDES: [ComparedSide; 2] =
    [("before", GREY, |counts| counts.before), ("after", BLUE, |counts| counts.after)];

/// A plot of lying bars.
fn lying(height: usize, x_title: &str, mode: BarMode) -> Plot {
    let mut plot = plot(Axis::new().auto_margin(true).type_(AxisType::Category));
    let layout = plot.layout().clone();
    plot.set_layout(
        layout
            .height(height)
            .bar_mode(mode)
            .legend(Legend::new().orientation(Orientation::Horizontal).x(0.0).y(1.0).y_anchor(Anchor::Bottom))
            .x_axis(Axis::new().title(x_title).zero_line(false))
            .margin(Margin::new().left(10).right(14).top(34).bottom(42)),
    );
    plot
}

/// A name short enough for an axis.
fn short(name: &str) -> String {
    let [first, last] = NAME_ENDS;
    let n = name.chars().count();
    let cut: String = if n > first + last + 1 {
        name.chars().take(first).chain(['…']).chain(name.chars().skip(n - last)).collect()
    } else {
        name.to_owned()
    };
    plain(&cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_hold_no_markup() {
        assert_eq!(short("a<b>&"), "a&lt;b&gt;&amp;");
        assert_eq!(
            short("contaminated: data/evaluation/gsm8k_test.jsonl"),
            "contaminated: da…ion/gsm8k_test.jsonl"
        );
        assert_eq!(short(&"ä".repeat(37)), "ä".repeat(37));
    }
}
