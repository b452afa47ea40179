//! Style of answers, and the win rate at equal style: a logistic regression of who wins on the difference of
//! length, headers, lists and bold text (the style control of Arena-Hard).

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};
use truing_statistics::{Observation, fit_logistic};

use super::ScoringMode;

/// What an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StyleFeatures {
    /// Tokens or characters, in both answers the same unit.
    pub length: f64,
    /// Markdown headers.
    pub headers: f64,
    /// Entries of lists.
    pub lists: f64,
    /// Bold pieces.
    pub bold: f64,
}

struct Patterns {
    code: Regex,
    headers: Regex,
    lists: [Regex; 2],
    bold: [Regex; 2],
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    Some(Patterns {
        code: Regex::new("```[^`]*```").ok()?,
        headers: Regex::new(r"(?m)^#{1,6}\s").ok()?,
        lists: [Regex::new(r"(?m)^\s*\d+\.\s").ok()?, Regex::new(r"(?m)^\s*[-*+]\s").ok()?],
        bold: [Regex::new(r"\*\*[^*\n]+\*\*").ok()?, Regex::new(r"__[^_\n]+__").ok()?],
    })
});

impl StyleFeatures {
    /// The style of a text; what is in code blocks is not counted, but is part of the length in characters.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let length = text.chars().count() as f64;
        let Some(patterns) = PATTERNS.as_ref() else { return Self { length, ..Self::default() } };
        let prose = patterns.code.replace_all(text, "");
        let count = |pattern: &Regex| pattern.find_iter(&prose).count() as f64;
        Self {
            length,
            headers: count(&patterns.headers),
            lists: patterns.lists.iter().map(count).sum(),
            bold: patterns.bold.iter().map(count).sum(),
        }
    }

    /// The difference from another style: of length by the sum of lengths, of the others of their number per
    /// unit of length.
    fn difference(self, other: Self) -> [f64; 4] {
        let density = |one: f64, length: f64| one / (length + 1.0);
        let of = |mine: f64, theirs: f64| {
            let (mine, theirs) = (density(mine, self.length), density(theirs, other.length));
            (mine - theirs) / (mine + theirs + 1.0)
        };
        let total = self.length + other.length;
        [
            if total > 0.0 { (self.length - other.length) / total } else { 0.0 },
            of(self.headers, other.headers),
            of(self.lists, other.lists),
            of(self.bold, other.bold),
        ]
    }
}

/// A win rate at equal style.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StyleFit {
    /// The win rate.
    pub win_rate: f64,
    /// Coefficients of length, headers, lists and bold text, of features scaled to deviation 1.
    pub coefficients: [f64; 4],
}

/// The win rate of a model against a baseline at equal style, from its style, the baseline's, and the scores
/// (1, 0.5, 0) of each item. Official mode moves the features to mean 0 as the published program does, so that
/// "equal" means the average difference of this model's style from the baseline's; strict mode only scales
/// them. `None` without games or where they do not determine it.
#[must_use]
pub fn style_controlled(
    games: &[(StyleFeatures, StyleFeatures, &[f64])],
    mode: ScoringMode,
) -> Option<StyleFit> {
    let differences: Vec<[f64; 4]> = games.iter().map(|(mine, theirs, _)| mine.difference(*theirs)).collect();
    let weights: Vec<f64> = games.iter().map(|(.., scores)| scores.len() as f64).collect();
    let n: f64 = weights.iter().sum();
    let mut scaled = vec![[0.0; 4]; games.len()];
    let mut used = Vec::new();
    for feature in 0..4 {
        let mean =
            differences.iter().zip(&weights).map(|(one, weight)| one[feature] * weight).sum::<f64>() / n;
        let squares: f64 = differences
            .iter()
            .zip(&weights)
            .map(|(one, weight)| (one[feature] - mean).powi(2) * weight)
            .sum();
        let deviation = (squares / (n - 1.0)).sqrt();
        // A feature that never differs controls nothing.
        if deviation > 0.0 && deviation.is_finite() {
            used.push(feature);
            let shift = if mode == ScoringMode::Official { mean } else { 0.0 };
            for (scaled, one) in scaled.iter_mut().zip(&differences) {
                scaled[feature] = (one[feature] - shift) / deviation;
            }
        }
    }
    let observations: Vec<Observation> = games
        .iter()
        .zip(&scaled)
        .flat_map(|((.., scores), scaled)| {
            let features: Vec<f64> =
                std::iter::once(1.0).chain(used.iter().map(|&feature| scaled[feature])).collect();
            scores.iter().map(move |&share| Observation { share, weight: 1.0, features: features.clone() })
        })
        .collect();
    let fit = fit_logistic(&observations, &vec![0.0; used.len() + 1])?;
    let mut coefficients = [0.0; 4];
    for (&feature, coefficient) in used.iter().zip(&fit.coefficients[1..]) {
        coefficients[feature] = *coefficient;
    }
    Some(StyleFit { win_rate: 1.0 / (1.0 + (-fit.coefficients[0]).exp()), coefficients })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_counted_outside_code() {
        let text = "# Title\n\n1. **one**\n2. two\n- __three__\n```\n# no header\n- no list\n```\n## End\n";
        let style = StyleFeatures::of(text);
        assert_eq!((style.headers, style.lists, style.bold), (2.0, 3.0, 2.0));
        assert_eq!(style.length, text.chars().count() as f64);
    }

    #[test]
    fn wins_that_come_from_length_alone_vanish_at_equal_length() {
        // The judge prefers the longer answer in nine of ten games; the model is longer in eighty of a hundred.
        let style = |length: f64| StyleFeatures { length, ..StyleFeatures::default() };
        let scores: Vec<[f64; 1]> = (0..100)
            .map(|i| {
                let is_longer = i % 5 != 0;
                let prefers_longer = (i / 5) % 10 != 0;
                [f64::from(u8::from(is_longer == prefers_longer))]
            })
            .collect();
        let games: Vec<(StyleFeatures, StyleFeatures, &[f64])> = scores
            .iter()
            .enumerate()
            .map(|(i, scores)| {
                let (mine, theirs) = if i % 5 != 0 { (300.0, 100.0) } else { (100.0, 300.0) };
                (style(mine), style(theirs), &scores[..])
            })
            .collect();
        let raw = scores.iter().map(|score| score[0]).sum::<f64>() / 100.0;
        let found = style_controlled(&games, ScoringMode::Strict).unwrap();
        assert!(raw > 0.7 && (found.win_rate - 0.5).abs() < 0.02, "{raw} {found:?}");
        assert!(found.coefficients[0] > 1.0 && found.coefficients[1] == 0.0);
        // Moved to mean 0, "equal style" is this model's usual lead in length.
        assert!(style_controlled(&games, ScoringMode::Official).unwrap().win_rate > 0.65);
        assert_eq!(style_controlled(&[], ScoringMode::Strict), None);
    }
}
