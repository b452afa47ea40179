//! What a chart shows, as data that the page's script (`templates/charts.js`) draws. Colours are names of the page's
//! style, so that a chart follows the page from light to dark. Texts are plain: the script sets them as text.

use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

/// Points of a line that are kept; a page cannot show more, and its size does not grow with the run.
const MAX_POINTS: usize = 600;

/// Colours that stand out on a light and on a dark page, and for eyes that confuse red and green (Okabe and Ito 2008,
/// slightly lightened).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Color {
    Blue,
    Orange,
    Green,
    Pink,
    Violet,
    Grey,
}

impl Color {
    /// For the `idx`-th of several equal series; from the sixth on all are grey.
    pub(crate) fn nth(idx: usize) -> Self {
        const COLORS: [Color; 5] = [Color::Blue, Color::Orange, Color::Green, Color::Pink, Color::Violet];
        COLORS.get(idx).copied().unwrap_or(Self::Grey)
    }
}

/// How numbers along an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Number,
    /// Whole numbers with grouped digits.
    Count,
    /// Shares, as percentages.
    Percent,
    /// Powers of ten.
    Scientific,
}

/// One direction of a chart.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Axis {
    pub(crate) title: String,
    pub(crate) format: Format,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) range: Option<[f64; 2]>,
    /// Whether 0 is always in sight.
    pub(crate) zero: bool,
    /// Names of the places 0, 1, ...; none for an axis of numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) categories: Option<Vec<String>>,
}

impl Axis {
    pub(crate) fn titled(title: &str) -> Self {
        Self { title: title.to_owned(), ..Self::default() }
    }

    pub(crate) fn named(categories: Vec<String>) -> Self {
        Self { categories: Some(categories), ..Self::default() }
    }

    pub(crate) fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    pub(crate) fn range(self, low: f64, high: f64) -> Self {
        Self { range: Some([low, high]), ..self }
    }

    pub(crate) fn with_zero(self) -> Self {
        Self { zero: true, ..self }
    }

    /// A value as it is read.
    fn text(&self, value: f64) -> String {
        match self.format {
            Format::Percent => format!("{} %", in_few_digits(100.0 * value)),
            Format::Number | Format::Count | Format::Scientific => in_few_digits(value),
        }
    }
}

/// What stands for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mark {
    Line,
    Points,
    LineAndPoints,
    Bars,
}

/// How the bars of several series stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bars {
    #[default]
    Group,
    Stack,
    Overlay,
}

/// Values of one name and colour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) mark: Mark,
    pub(crate) color: Color,
    #[serde(serialize_with = "short")]
    pub(crate) x: Vec<f64>,
    #[serde(serialize_with = "short")]
    pub(crate) y: Vec<f64>,
    /// Thin and pale, for values behind a smoothed line.
    pub(crate) faint: bool,
    pub(crate) dashed: bool,
    pub(crate) legend: bool,
    /// Whether the pointer finds it.
    pub(crate) hover: bool,
    /// A few words for each value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) words: Vec<String>,
    /// Ends of the values' intervals.
    #[serde(flatten)]
    pub(crate) interval: Option<Interval>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Interval {
    #[serde(serialize_with = "short")]
    pub(crate) low: Vec<f64>,
    #[serde(serialize_with = "short")]
    pub(crate) high: Vec<f64>,
}

impl Series {
    /// Any marks; values of any length.
    pub(crate) fn new(
        mark: Mark,
        name: &str,
        color: Color,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let (x, y) = points.into_iter().unzip();
        Self {
            name: name.to_owned(),
            mark,
            color,
            x,
            y,
            faint: false,
            dashed: false,
            legend: true,
            hover: true,
            words: Vec::new(),
            interval: None,
        }
    }

    /// A line over optimiser steps.
    pub(crate) fn line(name: &str, color: Color, points: &[(u64, f64)]) -> Self {
        Self::new(Mark::Line, name, color, thinned(points))
    }

    /// A line over the steps with a dot at each of them, for few values.
    pub(crate) fn dots(name: &str, color: Color, points: &[(u64, f64)]) -> Self {
        Self { mark: Mark::LineAndPoints, ..Self::line(name, color, points) }
    }

    /// The values of every step behind a smoothed line.
    pub(crate) fn behind(color: Color, points: &[(u64, f64)]) -> Self {
        Self { faint: true, legend: false, ..Self::line("each step", color, points) }
    }

    /// One bar a category.
    pub(crate) fn bars(name: &str, color: Color, values: impl IntoIterator<Item = f64>) -> Self {
        Self::new(
            Mark::Bars,
            name,
            color,
            values.into_iter().enumerate().map(|(at, value)| (at as f64, value)),
        )
    }

    /// A line to look at beside the values: neither named nor found by the pointer.
    pub(crate) fn guide(self) -> Self {
        Self { dashed: true, legend: false, hover: false, ..self }
    }

    pub(crate) fn words(self, words: Vec<String>) -> Self {
        Self { words, ..self }
    }

    pub(crate) fn unnamed(self) -> Self {
        Self { legend: false, ..self }
    }

    pub(crate) fn interval(self, low: Vec<f64>, high: Vec<f64>) -> Self {
        Self { interval: Some(Interval { low, high }), ..self }
    }
}

/// Shares by row, for a square of names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Heat {
    pub(crate) names: Vec<String>,
    /// Between 0 and 1; nothing where two names do not belong together.
    pub(crate) shares: Vec<Vec<Option<f64>>>,
    pub(crate) words: Vec<Vec<String>>,
}

/// One chart.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Figure {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) bars: Bars,
    /// Whether the categories of x stand one under the other and values go from left to right.
    pub(crate) lying: bool,
    pub(crate) series: Vec<Series>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heat: Option<Heat>,
}

impl Figure {
    /// Values over optimiser steps.
    pub(crate) fn over_steps(y: Axis, series: impl IntoIterator<Item = Series>) -> Self {
        Self::of(Axis::titled("step").format(Format::Count), y, series)
    }

    pub(crate) fn of(x: Axis, y: Axis, series: impl IntoIterator<Item = Series>) -> Self {
        Self { x, y, series: series.into_iter().collect(), ..Self::default() }
    }

    /// The values that are shown, without those of guides.
    fn values(&self) -> impl Iterator<Item = f64> {
        let series = self.series.iter().filter(|series| series.hover);
        series.flat_map(|series| &series.y).copied().filter(|value| value.is_finite())
    }

    /// Whether there is anything to draw.
    pub(crate) fn has_values(&self) -> bool {
        self.heat.is_some() || self.values().next().is_some()
    }

    /// The value of a chart of numbers whose values are all equal, but for rounding; there are several of them.
    pub(crate) fn constant(&self) -> Option<String> {
        let first = self.values().next().filter(|_| self.x.categories.is_none())?;
        let is_constant = self.values().all(|value| (value - first).abs() <= 1e-9 * first.abs());
        (is_constant && self.values().nth(1).is_some()).then(|| self.y.text(first))
    }
}

/// A number in few digits, without zeros at its end.
fn in_few_digits(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        1000.0..1e9 => format!("{value:.0}"),
        1.0..1000.0 => format!("{value:.3}"),
        1e-3..1.0 => format!("{value:.6}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3e}"),
    };
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// So many points that a page shows no fewer: of each stretch the lowest and the highest, so that peaks stay.
fn thinned(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let as_numbers = |&(step, value): &(u64, f64)| (step as f64, value);
    if points.len() <= MAX_POINTS {
        return points.iter().map(as_numbers).collect();
    }
    let stretch = points.len().div_ceil(MAX_POINTS / 2);
    let mut kept = Vec::with_capacity(MAX_POINTS);
    for part in points.chunks(stretch) {
        let value = |&&(_, value): &&(u64, f64)| value;
        let low = part.iter().min_by(|a, b| value(a).total_cmp(&value(b)));
        let high = part.iter().max_by(|a, b| value(a).total_cmp(&value(b)));
        let mut ends: Vec<(u64, f64)> = low.into_iter().chain(high).copied().collect();
        ends.sort_by_key(|(step, _)| *step);
        ends.dedup_by_key(|(step, _)| *step);
        kept.extend(ends.iter().map(as_numbers));
    }
    kept
}

/// Five digits of each number: more than a chart can show. What is not finite becomes `null`, a gap.
fn short<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|&value| short_number(value)))
}

fn short_number(value: f64) -> Value {
    if !value.is_finite() {
        return Value::Null;
    }
    if value == value.trunc() && value.abs() < 1e15 {
        return Value::from(value as i64);
    }
    let rounded = format!("{value:.4e}").parse().unwrap_or(value);
    Number::from_f64(rounded).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_gaps_are_null() {
        let series = Series::new(
            Mark::Line,
            "loss",
            Color::Blue,
            [(1.0, 2.345_678_9), (2.0, f64::NAN), (3.0, 1.234_567e-7), (1e6, -0.25)],
        );
        let value = serde_json::to_value(&series).unwrap();
        assert_eq!(value["x"].to_string(), "[1,2,3,1000000]");
        assert_eq!(value["y"].to_string(), "[2.3457,null,1.2346e-7,-0.25]");
        assert_eq!((value["color"].as_str(), value["mark"].as_str()), (Some("blue"), Some("line")));
        assert!(value.get("low").is_none() && value.get("words").is_none());
        let with = serde_json::to_value(series.interval(vec![0.0; 4], vec![1.0; 4])).unwrap();
        assert_eq!(with["high"].to_string(), "[1,1,1,1]");
    }

    #[test]
    fn a_line_that_never_changes_says_its_value() {
        let figure = |y: Axis, values: &[f64]| {
            let points = values.iter().enumerate().map(|(x, &value)| (x as f64, value));
            Figure::of(Axis::titled("step"), y, [Series::new(Mark::Line, "", Color::Blue, points)])
        };
        let constant = |y: Axis, values: &[f64]| figure(y, values).constant();
        assert_eq!(constant(Axis::titled("nats"), &[0.0, 0.0, f64::NAN]).as_deref(), Some("0"));
        let third = 1.0 / 3.0;
        assert_eq!(constant(Axis::titled(""), &[third, third + 1e-15]).as_deref(), Some("0.333333"));
        let share = Axis::titled("").format(Format::Percent);
        assert_eq!(constant(share, &[0.25, 0.25]).as_deref(), Some("25 %"));
        assert_eq!(constant(Axis::titled(""), &[1e-6, 1e-6]).as_deref(), Some("1.000e-6"));
        assert_eq!(constant(Axis::titled(""), &[1234.0, 1234.0]).as_deref(), Some("1234"));
        for varied in [&[0.0, 1e-12][..], &[2.0], &[]] {
            assert_eq!(constant(Axis::titled(""), varied), None, "{varied:?}");
        }
        let bars = Figure { x: Axis::named(vec![String::new(); 2]), ..figure(Axis::default(), &[1.0, 1.0]) };
        assert_eq!(bars.constant(), None);
        assert!(!figure(Axis::default(), &[f64::NAN, f64::INFINITY]).has_values());
        let guide = Figure::of(
            Axis::default(),
            Axis::default(),
            [Series::line("", Color::Grey, &[(1, 1.0)]).guide()],
        );
        assert!(!guide.has_values() && guide.constant().is_none());
    }

    #[test]
    fn a_long_line_keeps_its_peaks() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|step| (step, (step % 7) as f64)).collect();
        points[54_321].1 = 99.0;
        let line = Series::line("norm", Color::Blue, &points);
        assert!(line.x.len() <= MAX_POINTS && line.x.is_sorted(), "{}", line.x.len());
        let at = line.y.iter().position(|&value| value == 99.0).unwrap();
        assert_eq!(line.x[at], 54_321.0);
    }
}
