//! Where and when a stated value holds: "is 7, attained at x = 2". The number of such a clause is no answer.

use std::sync::LazyLock;

use regex::Regex;

use super::pieces::is_digit;
use crate::verifiers::pattern::pattern;

/// The part of a sentence that states a value, where its last number is in a clause that says when or where that
/// value holds; the inner `None` where it is not certain that the value before is the one that is asked for.
pub(super) fn before(sentence: &str) -> Option<Option<&str>> {
    static CLAUSE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)(?:\b(?:is|are|was|were|equals?|becomes?|gives?|get|obtain)\b|=|为|是|等于",
            r"|得到?)[^,;=，；。]{0,60}?[^\s,;=，；。][^,;=，；。]{0,30}?",
            r"(?:,?\s+(?:and\s+)?(?:which\s+|that\s+|it\s+)?(?:is\s+)?",
            r"(?:(?:attained|achieved|reached)\s+(?:\w+\s+)?(?:at|when|for|if|where|by|with)|",
            r"(?:occurs|occurring|happens|happening)\s+(?:\w+\s+)?(?:at|when|for|if|where))\b",
            r"|,?\s+(?:(?:at|for|with)\s+(?:the\s+point\s+|equality\s+)?",
            r"(?:(?:at|when|if|for)\s+)?\W{0,4}[a-z]\w?\W{0,3}=|(?:only\s+|exactly\s+)?(?:when|where)\b)",
            r"|,\s+(?:with|if|since|because)\b|\s+(?:if|since|because)\b",
            r"|[$\s]*[,，；;]?\s*(?:且|并且)?(?:此时|這時|这时|当|其中|因为)|[$\s]*[,，；;]\s*在)",
        ))
    });
    // "当x=2时，最大值为7": the value comes after it.
    static FIRST: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^[^=\d]{0,12}当[^，,。]{0,30}=[^，,。]{1,30}时\s*[，,]\s*(?P<kept>[^=＝]*\d[^=＝]*)$")
    });
    if let Some(kept) = FIRST.captures(sentence).and_then(|found| found.name("kept")) {
        return Some(Some(kept.as_str()));
    }
    // The value of an extremum that is attained at the value of a variable.
    static EXTREMUM: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^(?P<kept>[^,;=]*\b(?:maximum|minimum|largest|smallest|greatest|least)\s+(?:possible\s+)?",
            r"(?:value|area|volume|sum|product)?\b[^,;=\d]{0,80}\b(?:is|equals)\s+[^,;=]{1,40}?)",
            r",\s+(?:and\s+)?(?:which\s+is\s+|it\s+is\s+)?(?:attained|achieved|reached|occurring)\s+",
            r"(?:only\s+)?(?:at|when|for)\s+[$\\(]*[a-z]\s*=(?:[-\d./$\\(){}\s^]|\\(?:frac|sqrt|pi)\b)+$",
        ))
    });
    // "The minimum of 7 occurs at x = 2."
    static OF_VALUE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:maximum|minimum|largest|smallest|greatest|least)",
            r"(?:\s+(?:value|area|volume|sum|product))?(?:\s+of|,)?\s+[$\\(]*-?\d[^;=]{0,20}?",
            r"\b(?:occurs|happens|(?:is|are|being)\s+(?:attained|achieved|reached))\s+(?:only\s+)?",
            r"(?:at|when|for|if|where)\b",
        ))
    });
    let found = CLAUSE.find_iter(sentence).last().or_else(|| OF_VALUE.find(sentence))?;
    let (head, rest) = sentence.split_at(found.end());
    static CONCLUDES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i),\s*(?:so|thus|hence|therefore|then|giving|which\s+gives)\b|所以|因此|\b(?:answer|total)\b",
        )
    });
    if !rest.contains(is_digit) || !head.contains(is_digit) && !head.contains(',') || CONCLUDES.is_match(rest)
    {
        return None;
    }
    Some(EXTREMUM.captures(sentence).and_then(|found| found.name("kept")).map(|kept| kept.as_str()))
}
