//! The formula at the end of a sentence whose words lead to one: "the line has equation", "can be written as".

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::clause;
use super::excerpt::trimmed;
use super::expression::Expr;
use super::sentence::{is_mathematics, spans};
use super::structure::{Answer, parse};
use super::token::Relation;
use crate::verifiers::pattern::pattern;

/// What a sentence says whose last words before the formula that ends it lead to one; the inner `None` where they say
/// it of something else or the formula does not answer.
pub(super) fn said(sentence: &str) -> Option<Option<String>> {
    static LEADS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)(?:\b(?:has|have)\s+(?:the\s+|an?\s+|as\s+its\s+)?(?:\w+\s+)?equation|\bequation\b",
            r"(?:\s+(?:of|for)\s+[^.,;=]{1,60})?\s+is",
            r"|\b(?:is|are)\s+(?:then\s+|thus\s+|therefore\s+)?given\s+by|\bcan\s+",
            r"(?:also\s+|then\s+|thus\s+|now\s+)?be\s+(?:re)?written\s+as)",
            r"(?:\s+the\s+(?:equation|formula|expression))?\s*:?\s*$",
        ))
    });
    // What is known, another's, or about another thing.
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:given\s+(?:line|circle|curve|parabola|equation|function|plane)|original|other|another",
            r"|first|second|old|initial|former|wrong|incorrect|false|perpendicular\s+to|parallel\s+to",
            r"|tangent\s+to",
            r"|since|because|where|whose|which|that|who|if|when|suppose|let|assume|would|cannot|not|never",
            r"|auxiliary|characteristic|homogeneous|corresponding|directrix|axis|asymptote|derivative",
            r"|slope)\b",
        ))
    });
    let formula = spans(sentence).into_iter().next_back().filter(|(_, end, _)| {
        !sentence[*end..].contains(|c: char| c.is_alphanumeric()) && !sentence[*end..].contains(['?', '!'])
    });
    let (start, content) = match formula {
        Some((start, _, content)) => (start, content.to_owned()),
        // Without dollar signs it is what follows the words.
        None => {
            let at = sentence
                .match_indices(' ')
                .map(|(at, _)| at + 1)
                .rfind(|at| LEADS.is_match(&sentence[..*at]))?;
            (at, sentence[at..].to_owned())
        }
    };
    let before = &sentence[..start];
    if !LEADS.is_match(before) {
        return None;
    }
    let content = trimmed(&content);
    let is_answer = !OTHERS.is_match(before) && clause::is_asserted(before) && answers(&content);
    Some(is_answer.then_some(content))
}

/// Whether a formula can be an answer: an equation in one variable that is not solved for it is still to be solved.
fn answers(formula: &str) -> bool {
    if !is_mathematics(formula) {
        return false;
    }
    match parse(formula) {
        Answer::Chain(sides, relations) if relations[..] == [Relation::Equal] => {
            let names = RefCell::new(BTreeSet::new());
            let is_name = |part: &Expr| {
                if let Expr::Variable(name) = part {
                    names.borrow_mut().insert(name.clone());
                }
                false
            };
            // Goes through all of them, as it never finds what it looks for.
            let _ = sides.iter().any(|side| side.any(&is_name));
            names.into_inner().len() > 1
        }
        Answer::Text(_) => false,
        _ => true,
    }
}
