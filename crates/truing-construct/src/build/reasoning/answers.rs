//! Final answers of solutions, and when two of them are the same.

use truing_reward::verifiers::math_answer::{Verdict, grade};

/// What the line of a final answer begins with, in lower case.
const LABELS: [&str; 6] = ["final answer:", "answer:", "最终答案：", "最终答案:", "答案：", "答案:"];

/// Phrases that betray that the writer saw an earlier answer, in lower case.
const ATTEMPTS: [&str; 18] = [
    "previous answer",
    "previous attempt",
    "previous solution",
    "earlier answer",
    "earlier attempt",
    "earlier solution",
    "first attempt",
    "original answer",
    "original solution",
    "previous response",
    "earlier response",
    "original response",
    "之前的答案",
    "之前的回答",
    "先前的回答",
    "原来的答案",
    "原来的回答",
    "错误答案",
];

/// The answer on the last line that is labelled as one.
pub(in crate::build) fn final_answer(text: &str) -> Option<String> {
    text.lines().rev().find_map(answer_of_line)
}

fn answer_of_line(line: &str) -> Option<String> {
    let is_markup = |c: char| c.is_whitespace() || matches!(c, '*' | '#' | '_');
    let line = line.trim_matches(is_markup);
    let rest = LABELS.iter().find_map(|label| {
        let (head, rest) = line.split_at_checked(label.len())?;
        head.eq_ignore_ascii_case(label).then_some(rest)
    })?;
    let answer = rest.trim_matches(is_markup);
    (!answer.is_empty()).then(|| answer.to_owned())
}

/// Whether a program finds two answers the same: letter by letter without case, articles and outer punctuation, or as
/// numbers.
pub(in crate::build) fn is_same(left: &str, right: &str) -> bool {
    let (plain_left, plain_right) = (plain(left), plain(right));
    if plain_left.is_empty() || plain_right.is_empty() {
        return false;
    }
    let has_digit = |text: &str| text.contains(|c: char| c.is_ascii_digit());
    plain_left == plain_right || (has_digit(left) && has_digit(right) && grade(left, right) == Verdict::Equal)
}

fn plain(text: &str) -> String {
    let lower = text.to_lowercase();
    let is_outer =
        |c: char| c.is_whitespace() || matches!(c, '.' | '!' | '"' | '\'' | '`' | '。' | '！' | '“' | '”');
    let words: Vec<&str> = lower.trim_matches(is_outer).split_whitespace().collect();
    match words.as_slice() {
        ["the" | "a" | "an", rest @ ..] if !rest.is_empty() => rest.join(" "),
        all => all.join(" "),
    }
}

/// Whether a solution speaks of an earlier one that its reader does not know.
pub(in crate::build) fn mentions_attempt(solution: &str) -> bool {
    let text = solution.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    ATTEMPTS.iter().any(|phrase| text.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_labelled_line_has_the_answer() {
        for (text, expected) in [
            ("She is older.\nAnswer: Ada", Some("Ada")),
            ("So:\n**Final Answer:** the third door \n", Some("the third door")),
            ("Answer: 3\nNo, wait.\nANSWER: 4\nThat is all.", Some("4")),
            ("所以是哥哥。\n答案：哥哥", Some("哥哥")),
            ("最终答案: 7", Some("7")),
            ("The answer is 4.", None),
            ("Answer:", None),
            ("答", None),
            ("", None),
        ] {
            assert_eq!(final_answer(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn answers_are_the_same_without_case_articles_and_punctuation_or_as_numbers() {
        for (left, right, expected) in [
            ("The butler.", "butler", true),
            ("\"Yes\"", "yes", true),
            ("0.5", "1/2", true),
            ("哥哥。", "哥哥", true),
            ("12", "21", false),
            ("Ada", "Bea", false),
            ("three", "", false),
            ("A", "B", false),
            ("a", "a", true),
        ] {
            assert_eq!(is_same(left, right), expected, "{left} and {right}");
        }
    }

    #[test]
    fn earlier_answers_are_not_spoken_of() {
        assert!(mentions_attempt("Unlike the Previous\nanswer, we count twice."));
        assert!(mentions_attempt("之前的回答漏了一步。"));
        assert!(!mentions_attempt("He answered earlier than she did."));
    }
}
