//! The coverage page's charts: what each layer left, and what the pool looks like before and after.

use super::record::CoverageRecord;
use super::tally::{Counts, shortest_of_bin};
use crate::charts::figure::{Axis, Bars, Color, Figure, Format, Series};

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
    pub(super) figure: Figure,
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
    let bars =
        |name: &str, color, values: Vec<u64>| Series::bars(name, color, values.into_iter().map(|n| n as f64));
    let series = [bars("rows that remain", Color::Blue, left), bars("dropped here", Color::Orange, dropped)];
    let figure =
        Figure { lying: true, bars: Bars::Stack, ..Figure::of(Axis::named(names), rows_axis(), series) };
    CoverageChart {
        name: "layers".into(),
        title: "What each layer left".into(),
        caption: "From the whole pool at the top to the selection at the bottom.".into(),
        figure,
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
            figure: Figure {
                lying: true,
                ..compared(values.iter().map(|(name, counts)| (short(name), *counts)).collect(), "")
            },
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
        figure: compared(bars, "characters"),
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
        figure: compared(bars, "quality"),
    })
}

/// Bars of before, with those of after in front of them.
fn compared(bars: Vec<(String, Counts)>, x_title: &str) -> Figure {
    let side = |name, color, of: fn(&Counts) -> u64| {
        Series::bars(name, color, bars.iter().map(|(_, counts)| of(counts) as f64).collect::<Vec<_>>())
    };
    let series = [
        side("before", Color::Grey, |counts| counts.before),
        side("after", Color::Blue, |counts| counts.after),
    ];
    let names = bars.iter().map(|(name, _)| name.clone()).collect();
    let x = Axis { title: x_title.to_owned(), ..Axis::named(names) };
    Figure { bars: Bars::Overlay, ..Figure::of(x, rows_axis(), series) }
}

fn rows_axis() -> Axis {
    Axis::titled("rows").format(Format::Count).with_zero()
}

/// A name short enough for an axis.
fn short(name: &str) -> String {
    let [first, last] = NAME_ENDS;
    let n = name.chars().count();
    if n > first + last + 1 {
        name.chars().take(first).chain(['…']).chain(name.chars().skip(n - last)).collect()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short() {
        assert_eq!(short("a<b>&"), "a<b>&", "the script sets it as text");
        assert_eq!(
            short("contaminated: data/evaluation/gsm8k_test.jsonl"),
            "contaminated: da…ion/gsm8k_test.jsonl"
        );
        assert_eq!(short(&"ä".repeat(37)), "ä".repeat(37));
    }
}
