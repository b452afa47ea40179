//! Agreement of two annotators who mark spans of one text.

use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// A marked part of a text, for instance a factual error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Offset of its first unit. A unit is what the offsets count, such as bytes or characters.
    pub start: usize,
    /// Offset after its last unit; a span that does not end after its start is empty.
    pub end: usize,
    /// What it is marked as.
    pub label: u32,
}

/// How many units of one text, or of several, two annotators marked. A unit with two labels counts twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SpanOverlap {
    /// Marked by the first annotator.
    pub n_a: usize,
    /// Marked by the second annotator.
    pub n_b: usize,
    /// Marked by both with the same label.
    pub n_both: usize,
}

impl SpanOverlap {
    /// The F1 score `2 n_both / (n_a + n_b)`, the same whichever annotator is the reference; 1 where nothing is
    /// marked.
    #[must_use]
    pub fn f1(self) -> f64 {
        let n_marked = self.n_a + self.n_b;
        if n_marked == 0 { 1.0 } else { 2.0 * self.n_both as f64 / n_marked as f64 }
    }
}

/// Over several texts: the F1 score of the sum is the micro F1.
impl Sum for SpanOverlap {
    fn sum<Overlaps: Iterator<Item = Self>>(overlaps: Overlaps) -> Self {
        overlaps.fold(Self::default(), |total, overlap| Self {
            n_a: total.n_a + overlap.n_a,
            n_b: total.n_b + overlap.n_b,
            n_both: total.n_both + overlap.n_both,
        })
    }
}

/// Counts what two annotators marked in one text. Overlapping spans of one annotator with one label count once.
#[must_use]
pub fn span_overlap(a: &[Span], b: &[Span]) -> SpanOverlap {
    let [n_a, n_b, n_any] = [a, b, &[a, b].concat()].map(n_marked);
    SpanOverlap { n_a, n_b, n_both: n_a + n_b - n_any }
}

/// The micro F1 score of two annotators' spans of one text, by unit (byte, character) and label; 1 where both marked
/// nothing. For several texts sum up [`span_overlap`].
#[must_use]
pub fn span_f1(a: &[Span], b: &[Span]) -> f64 {
    span_overlap(a, b).f1()
}

/// How many pairs of unit and label are marked.
fn n_marked(spans: &[Span]) -> usize {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable_by_key(|span| (span.label, span.start));
    let of_label = |spans: &[Span]| {
        let (mut n, mut end) = (0, 0);
        for span in spans {
            n += span.end.saturating_sub(span.start.max(end));
            end = end.max(span.end);
        }
        n
    };
    sorted.chunk_by(|one, next| one.label == next.label).map(of_label).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: usize, end: usize, label: u32) -> Span {
        Span { start, end, label }
    }

    #[test]
    fn units_are_counted_by_label() {
        let a = [span(0, 10, 0), span(20, 25, 1)];
        let b = [span(5, 15, 0), span(20, 25, 0)];
        assert_eq!(span_overlap(&a, &b), SpanOverlap { n_a: 15, n_b: 15, n_both: 5 });
        assert!((span_f1(&a, &b) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(span_f1(&a, &b), span_f1(&b, &a));
        assert_eq!(span_f1(&a, &[]), 0.0);
        assert_eq!((span_f1(&a, &a), span_f1(&[], &[])), (1.0, 1.0));
    }

    #[test]
    fn overlapping_spans_of_one_label_count_once_and_empty_ones_not_at_all() {
        let pieces = [span(4, 9, 3), span(0, 6, 3), span(2, 3, 3), span(7, 7, 3), span(8, 2, 3)];
        assert_eq!(span_overlap(&pieces, &[span(0, 9, 3)]), SpanOverlap { n_a: 9, n_b: 9, n_both: 9 });
        assert_eq!(span_f1(&[span(3, 3, 0)], &[]), 1.0);
    }

    #[test]
    fn several_texts_are_pooled_by_unit() {
        let long = span_overlap(&[span(0, 90, 0)], &[span(0, 90, 0)]);
        let short = span_overlap(&[span(0, 10, 0)], &[span(0, 10, 1)]);
        let pooled: SpanOverlap = [long, short].into_iter().sum();
        assert!((pooled.f1() - 0.9).abs() < 1e-12);
    }
}
