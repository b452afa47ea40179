//! A question with its independent answers, while it is worked on.

use super::answers::{is_same, mentions_attempt};
use crate::build::mathematics::mentions_reference;

/// An independent answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Solution {
    pub(super) text: String,
    pub(super) answer: String,
    pub(super) is_right: bool,
}

/// A question while it is worked on.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    pub(super) question: String,
    pub(super) answer: String,
    /// Answers that the checker takes for the reference in other words.
    pub(super) same_answers: Vec<String>,
    /// Independent answers that could be compared.
    pub(super) solutions: Vec<Solution>,
    /// The corrected chain.
    pub(super) reflection: Option<String>,
}

impl Work {
    /// Whether an answer is the reference, in its words or in others.
    pub(super) fn accepts(&self, answer: &str) -> bool {
        std::iter::once(&self.answer).chain(&self.same_answers).any(|accepted| is_same(answer, accepted))
    }

    pub(super) fn n_right(&self) -> usize {
        self.solutions.iter().filter(|solution| solution.is_right).count()
    }

    pub(super) fn pass_rate(&self) -> f64 {
        self.n_right() as f64 / self.solutions.len().max(1) as f64
    }

    /// The first wrong answer.
    pub(super) fn wrong(&self) -> Option<&Solution> {
        self.solutions.iter().find(|solution| !solution.is_right)
    }

    /// How many wrong answers agree with each other at most.
    pub(super) fn n_of_largest_other(&self) -> usize {
        let wrong = || self.solutions.iter().filter(|solution| !solution.is_right);
        let n_like = |one: &Solution| wrong().filter(|other| is_same(&one.answer, &other.answer)).count();
        wrong().map(n_like).max().unwrap_or(0)
    }

    /// The response of the row, and whether it is a corrected one.
    pub(super) fn response(&self) -> Option<(&str, bool)> {
        let is_usable = |solution: &&Solution| solution.is_right && !mentions(&solution.text);
        let independent =
            || self.solutions.iter().find(is_usable).map(|solution| (solution.text.as_str(), false));
        self.reflection.as_deref().map(|text| (text, true)).or_else(independent)
    }
}

/// Whether a chain speaks of a reference or of an earlier answer.
pub(super) fn mentions(text: &str) -> bool {
    mentions_reference(text) || mentions_attempt(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solution(text: &str, answer: &str, is_right: bool) -> Solution {
        Solution { text: text.into(), answer: answer.into(), is_right }
    }

    #[test]
    fn the_response_is_the_corrected_chain_or_the_first_right_one_that_is_clean() {
        let mut work = Work {
            answer: "4".into(),
            same_answers: vec!["a quartet".into()],
            solutions: vec![
                solution("The answer key says 4.", "4", true),
                solution("Two and three.", "5", false),
                solution("Two and two.", "Four", true),
                solution("One and four.", "5.0", false),
            ],
            ..Work::default()
        };
        assert_eq!(work.response(), Some(("Two and two.", false)));
        assert_eq!((work.n_right(), work.pass_rate(), work.n_of_largest_other()), (2, 0.5, 2));
        assert_eq!(work.wrong().map(|wrong| wrong.answer.as_str()), Some("5"));
        assert!(work.accepts("4.0") && work.accepts("Quartet") && !work.accepts("5"));
        work.reflection = Some("Two and two, not three.".into());
        assert_eq!(work.response(), Some(("Two and two, not three.", true)));
        work = Work::default();
        assert_eq!((work.response(), work.pass_rate(), work.n_of_largest_other()), (None, 0.0, 0));
    }
}
