//! Numbers as the tables show them.

use truing_eval::benchmarks::MetricInfo;
use truing_statistics::Interval;

/// A score: as many digits as a table of scores shows.
pub(crate) fn number(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

pub(crate) fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

pub(crate) fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |Interval { low, high }| format!("{} to {}", number(low), number(high)))
}

/// A difference with its sign.
pub(crate) fn signed(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:+.3}") } else { format!("{value:+.1}") }
}

pub(crate) fn signed_range(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |Interval { low, high }| format!("{} to {}", signed(low), signed(high)))
}

pub(crate) fn p_value(value: f64) -> String {
    if value < 0.001 { "< 0.001".to_owned() } else { format!("{value:.3}") }
}

/// The name of a metric, with its filter where there is one.
pub(crate) fn metric_name(metric: &MetricInfo) -> String {
    match &*metric.filter {
        "none" => metric.name.to_string(),
        filter => format!("{}, {filter}", metric.name),
    }
}

/// Whether the metric is a share from 0 to 1.
pub(crate) fn is_share(metric: &MetricInfo) -> bool {
    metric.range == Some([0.0, 1.0])
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0.5, -0.25, 35.04].map(number), ["0.500", "-0.250", "35.0"]);
        assert_eq!([0.0123, -12.0].map(signed), ["+0.012", "-12.0"]);
        assert_eq!([0.0001, 0.25].map(p_value), ["< 0.001", "0.250"]);
        assert_eq!([7, 1000, 1_234_567].map(grouped), ["7", "1,000", "1,234,567"]);
        assert_eq!(maybe(None), "–");
    }
}
