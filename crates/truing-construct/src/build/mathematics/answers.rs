//! Final answers of texts, and solutions that speak of an answer that their reader does not know.

use truing_reward::verifiers::math_answer::{Verdict, extract_answer, grade};

/// The marked answer of a reference solution (`#### 5`, `\boxed{5}`), or the text itself.
pub(in crate::build) fn reference_of(text: &str) -> String {
    extract_answer(text, true).unwrap_or_else(|| text.trim().to_owned())
}

/// Whether an answer says something that another can equal.
pub(super) fn is_readable(answer: &str) -> bool {
    !answer.is_empty() && grade(answer, answer) == Verdict::Equal
}

/// Whether the marked answer of a text equals an answer.
pub(super) fn gives(text: &str, answer: &str) -> bool {
    extract_answer(text, true).is_some_and(|found| grade(&found, answer) == Verdict::Equal)
}

/// Phrases that betray that the writer saw an answer, in lower case.
const MENTIONS: [&str; 21] = [
    "reference answer",
    "reference solution",
    "given answer",
    "provided answer",
    "known answer",
    "expected answer",
    "stated answer",
    "supplied answer",
    "answer provided",
    "answer that was given",
    "answer i was given",
    "answer key",
    "matches the answer",
    "agrees with the answer",
    "参考答案",
    "参考解答",
    "给定的答案",
    "给出的答案",
    "已知答案",
    "标准答案",
    "所给答案",
];

/// Whether a solution speaks of a reference that its reader does not know.
pub(in crate::build) fn mentions_reference(solution: &str) -> bool {
    let text = solution.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    MENTIONS.iter().any(|phrase| text.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_mentions_of_them_are_found() {
        for (text, expected) in
            [("18", "18"), ("He has 9 + 9.\n#### 18", "18"), (r"So \boxed{\frac12}.", r"\frac12")]
        {
            assert_eq!(reference_of(text), expected);
            assert!(is_readable(expected));
        }
        assert!(!is_readable("") && !is_readable("?"));
        assert!(gives(r"So it is $\boxed{0.5}$.", r"\frac12") && !gives("I do not know.", "2"));
        assert!(!gives("We add 1 and 1 and get 2", "2"), "the last number is no marked answer");
        for (solution, expected) in [
            ("This matches the   reference\nanswer of 5.", true),
            ("The Given Answer is right.", true),
            ("结果与参考答案一致。", true),
            ("The answer is 5.", false),
            ("答案是5。", false),
            ("Given the sides 3 and 4, the answer is 5.", false),
        ] {
            assert_eq!(mentions_reference(solution), expected, "{solution}");
        }
    }
}
