//! ROUGE (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"): how much of two texts is the same, by
//! n-grams (ROUGE-1, ROUGE-2) or by their longest common subsequence (ROUGE-L).
//!
//! With [`RougeTokenizer::Ascii`] the scores are those of Google's `rouge-score` without stemming (a test holds them
//! against each other). Its tokens are runs of ASCII letters and digits, so it sees nothing of Chinese, Cyrillic or
//! Arabic text. [`RougeTokenizer::Words`] splits as [`tokens`](crate::tokens) does, without punctuation: words of any
//! script, and single characters of scripts that are written without spaces.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use crate::lcs::lcs_length;
use crate::tokens::split;

/// How a text becomes tokens. Letter case never counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RougeTokenizer {
    /// Runs of ASCII letters and digits, as in `rouge-score`.
    Ascii,
    /// Words of any script; each character of a script without spaces, such as Chinese, is one.
    #[default]
    Words,
}

/// What two texts have in common.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RougeScore {
    /// As a share of the prediction, from 0 to 1.
    pub precision: f64,
    /// As a share of the target, from 0 to 1.
    pub recall: f64,
    /// The harmonic mean of both; 0 where nothing is in common.
    pub f1: f64,
}

impl RougeScore {
    /// `n_common` units of a target and a prediction with so many.
    fn of(n_common: usize, n_target: usize, n_prediction: usize) -> Self {
        let precision = n_common as f64 / n_prediction.max(1) as f64;
        let recall = n_common as f64 / n_target.max(1) as f64;
        let sum = precision + recall;
        Self { precision, recall, f1: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// Texts as numbered tokens. Only texts of one vocabulary can be compared.
#[derive(Debug, Clone, Default)]
pub struct RougeVocabulary {
    tokenizer: RougeTokenizer,
    numbers: FxHashMap<String, u32>,
}

impl RougeVocabulary {
    /// An empty one.
    #[must_use]
    pub fn new(tokenizer: RougeTokenizer) -> Self {
        Self { tokenizer, numbers: FxHashMap::default() }
    }

    /// The tokens of a text.
    pub fn tokens(&mut self, text: &str) -> Vec<u32> {
        match self.tokenizer {
            RougeTokenizer::Ascii => {
                let text = text.to_lowercase();
                let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
                words.map(|word| self.number(word.to_owned())).collect()
            }
            RougeTokenizer::Words => {
                let words = split(text).map(|(_, word)| word);
                let words = words.filter(|word| word.chars().any(char::is_alphanumeric));
                words.map(|word| self.number(word.to_lowercase())).collect()
            }
        }
    }

    fn number(&mut self, word: String) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(word).or_insert(next)
    }
}

/// ROUGE-N: common n-grams, each counted as often as both texts have it. `n` is 1 or more.
#[must_use]
pub fn rouge_n(n: usize, target: &[u32], prediction: &[u32]) -> RougeScore {
    let (in_target, in_prediction) = (n_grams(n, target), n_grams(n, prediction));
    let common = in_target.iter().map(|(gram, &count)| count.min(*in_prediction.get(gram).unwrap_or(&0)));
    let n_grams_of = |tokens: &[u32]| (tokens.len() + 1).saturating_sub(n);
    RougeScore::of(common.sum(), n_grams_of(target), n_grams_of(prediction))
}

fn n_grams(n: usize, tokens: &[u32]) -> HashMap<&[u32], usize> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// ROUGE-L: the longest common subsequence.
#[must_use]
pub fn rouge_l(target: &[u32], prediction: &[u32]) -> RougeScore {
    RougeScore::of(lcs_length(target, prediction), target.len(), prediction.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Pairs with the scores of `rouge-score` 0.1.2; `make.py` beside them writes them.
    const PAIRS: &str = include_str!("../tests/rouge/pairs.jsonl");

    #[test]
    fn scores_are_those_of_rouge_score() {
        let mut n_pairs = 0;
        for line in PAIRS.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let mut vocabulary = RougeVocabulary::new(RougeTokenizer::Ascii);
            let target = vocabulary.tokens(row["target"].as_str().unwrap());
            let prediction = vocabulary.tokens(row["prediction"].as_str().unwrap());
            for (name, score) in [
                ("rouge1", rouge_n(1, &target, &prediction)),
                ("rouge2", rouge_n(2, &target, &prediction)),
                ("rougeL", rouge_l(&target, &prediction)),
            ] {
                let expected: Vec<f64> = serde_json::from_value(row[name].clone()).unwrap();
                for (found, expected) in [score.precision, score.recall, score.f1].iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-12, "{name} {line}: {score:?}");
                }
            }
            n_pairs += 1;
        }
        assert!(n_pairs >= 20, "{n_pairs}");
    }

    #[test]
    fn words_of_any_script_count_and_punctuation_does_not() {
        let f1 = |target: &str, prediction: &str| {
            let mut vocabulary = RougeVocabulary::new(RougeTokenizer::Words);
            let (target, prediction) = (vocabulary.tokens(target), vocabulary.tokens(prediction));
            rouge_l(&target, &prediction).f1
        };
        for (target, prediction, expected) in [
            ("你好，世界。", "你好世界！", 1.0),
            ("今天天气好", "今天天气不好", 10.0 / 11.0),
            ("Привет, мир", "привет мир", 1.0),
            ("Use Rust 语言。", "use rust 语言", 1.0),
            ("naïve", "naive", 0.0),
            ("one two three four", "one, two!\nthree: five", 0.75),
            ("", "", 0.0),
            ("?!", "。", 0.0),
        ] {
            assert!((f1(target, prediction) - expected).abs() < 1e-12, "{target} | {prediction}");
        }
    }
}
