//! Perplexity of documents per word and per byte, as lm-evaluation-harness has it: rows have `text`, or
//! WikiText's `page`, of which the marks of its tokenization are undone while words and bytes are counted as
//! they stand.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use truing_data::ObjectRow;
use truing_types::{Conversation, Unscored};

use super::measure::Aggregation;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, Measure, MetricInfo, Prompt, Recipient,
    Request, Row, Scoring, TaskOptions,
};

pub(super) struct Perplexity;

const SCORED: &str = "scored_text";

fn metrics() -> [MetricInfo; 4] {
    let metric = |name: &'static str, aggregation| MetricInfo {
        higher_is_better: false,
        ..MetricInfo::share(name).aggregated(aggregation).range(None)
    };
    [
        metric("word_perplexity", Aggregation::Perplexity),
        metric("byte_perplexity", Aggregation::Perplexity),
        metric("bits_per_byte", Aggregation::Bits),
        metric("token_perplexity", Aggregation::Perplexity),
    ]
}

/// Parts between white space, the empty ones at both ends too, as Python's `re.split(r"\s+")` counts them.
fn n_words(text: &str) -> usize {
    static SPACE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\s+").ok());
    SPACE.as_ref().map_or(1, |space| space.split(text).count())
}

/// WikiText's text without the marks of its tokenization, by lm-evaluation-harness's rules in their order.
fn detokenized(page: &str) -> String {
    static BRACKETS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
        let rules = [
            (r"\(\s*([^\)]*?)\s*\)", "($1)"),
            (r"\[\s*([^\]]*?)\s*\]", "[$1]"),
            (r"\{\s*([^}]*?)\s*\}", "{$1}"),
            ("\"\\s*([^\"]*?)\\s*\"", "\"$1\""),
            (r"'\s*([^']*?)\s*'", "'$1'"),
        ];
        rules.into_iter().filter_map(|(pattern, to)| Some((Regex::new(pattern).ok()?, to))).collect()
    });
    let replaced = |text: String, rules: &[(&str, &str)]| {
        rules.iter().fold(text, |text, (from, to)| text.replace(from, to))
    };
    let text = replaced(
        page.to_owned(),
        &[
            ("s '", "s'"),
            (" @-@ ", "-"),
            (" @,@ ", ","),
            (" @.@ ", "."),
            (" : ", ": "),
            (" ; ", "; "),
            (" . ", ". "),
            (" ! ", "! "),
            (" ? ", "? "),
            (" , ", ", "),
        ],
    );
    let text = BRACKETS.iter().fold(text, |text, (pattern, to)| pattern.replace_all(&text, *to).into_owned());
    replaced(
        text,
        &[
            ("= = = =", "===="),
            ("= = =", "==="),
            ("= =", "=="),
            (" \u{b0} ", "\u{b0}"),
            (" \n", "\n"),
            ("\n ", "\n"),
            (" N ", " 1 "),
            (" 's", "'s"),
        ],
    )
}

impl Benchmark for Perplexity {
    fn name(&self) -> &str {
        "perplexity"
    }

    fn about(&self) -> &str {
        "Perplexity of documents per word and byte (WikiText, arXiv 1609.07843, or any texts)"
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics().into()
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let is_page = row.get("page").is_some();
            let text = row.text(if is_page { "page" } else { "text" })?;
            if text.is_empty() {
                return Err(row.bad(
                    if is_page { "page" } else { "text" },
                    &Value::from(""),
                    "a text that is not empty",
                ));
            }
            let scored = if is_page { detokenized(text) } else { text.to_owned() };
            let mut item = Item::new(
                row.name_or_line(&["id"])?,
                row,
                Prompt::Chat(Conversation::default()),
                String::new(),
            );
            item.add(SCORED, scored.into());
            item.add("n_words", n_words(text).into());
            item.add("n_bytes", text.len().into());
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, _: &Answers, _: &TaskOptions) -> Vec<Request> {
        let ask = Ask::Rolling { text: item.text(SCORED).to_owned() };
        vec![Request { id: "text".into(), to: Recipient::Model, ask }]
    }

    fn score(&self, scored: &[(&Item, &Answers)], _: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let found = answers.log_likelihoods("text", 1).map(|found| found[0]);
            let count = |column: &str| item.row.get(column).and_then(Value::as_f64).unwrap_or(f64::NAN);
            let weights = [
                count("n_words"),
                count("n_bytes"),
                count("n_bytes"),
                found.as_ref().map_or(f64::NAN, |found| found.n_tokens as f64),
            ];
            for (info, weight) in metrics().iter().zip(weights) {
                let measure: Result<Measure, Unscored> =
                    found.clone().map(|found| Measure { value: found.sum, weight });
                score.set(info, measure);
            }
            score
        };
        scored.iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_detokenized_and_counted_as_in_lm_evaluation_harness() {
        // lm_eval.tasks.wikitext.preprocess_wikitext on the same text.
        let page = " = Title = \n He said , \" it is 3 @.@ 5 @-@ metre ( long ) \" . The dogs ' bone 's \
                    \n = = Part = = \n";
        let expected = " = Title =\nHe said, \"it is 3.5-metre (long)\". The dogs'bone's\n== Part ==\n";
        assert_eq!(detokenized(page), expected);
        assert_eq!((n_words(page), n_words("a b"), n_words(" a ")), (31, 2, 3));
    }
}
