//! What after an answer takes it back, doubts it or goes on to compute with it.

use std::sync::LazyLock;

use regex::Regex;

use crate::verifiers::pattern::pattern;

/// Whether what follows an answer takes it back: "is wrong", "No.", "That is not right."
pub(super) fn is_taken_back(after: &str) -> bool {
    static DENIAL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s.!?,;:*_\x22)\]}$\\\u{3002}\u{ff1f}\u{ff0c}]*",
            r"(?:(?:but|however|oh|hmm|actually|sorry|oops|wait|and|which)\b[\s,.!]*)*",
            r"(?:no\b(?:\s*[.!]|\s*$)|no\s*,\s*(?:that|this|it)\b|",
            r"(?:no[\s,.!]+)?(?:(?:that|this|it|which|the\s+answer|[\d.,]+)\s*)?",
            r"(?:is|was|['\u{2019}]s|can)?\s*(?:clearly|definitely|simply|just|certainly|obviously)?\s*",
            r"(?:(?:not|n['\u{2019}]t)\s+(?:be\s+)?(?:right|correct|true|possible|valid|it\b|an?\s+answer",
            r"|the\s+(?:\w+\s+)?answer)|isn['\u{2019}]t\s+(?:right|correct|the)|wrong|incorrect|false\b",
            r"|mistaken|impossible|错|不对))",
        ))
    });
    static HEDGE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s,;$*_)\]}\\]*(?:but|though|although|or)\s+(?:(?:it|this|that|\$?\d[\d.,]*)\s+)?",
            r"(?:could|might|may)\s+(?:also|(?:just\s+)?as\s+well|equally|well)\b",
            r"|^[\s,;.!$*_()\[\]}\\]*(?:not\s+really|just\s+kidding)\b",
        ))
    });
    // The answer seems wrong, or it is not yet one.
    static DOUBTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s.!?,;:*_\x22)\]}$\\]*(?:(?:but|however|oh|hmm+|wait|and|which|still|yet)\b[\s,.!]*)*",
            r"(?:(?:that|this|it)\s+(?:can['\u{2019}]?t|cannot|can\s+not|could\s*n['\u{2019}]t",
            r"|does\s*n['\u{2019}]t|does\s+not|do\s+not|don['\u{2019}]t)\s+",
            r"(?:be\s+(?:right|correct|true|it)\b|look|seem|sound|work|fit|make\s+sense|satisfy)",
            r"|(?:that|this|it)\s+(?:seems|looks|sounds|is|feels)\s+",
            r"(?:too|off|wrong|odd|strange|suspicious|unlikely|impossible)\b",
            r"|(?:that|this|it|which)?\s*(?:contradicts|violates)\b|actually,?\s+",
            r"(?:it\s+(?:is|['\u{2019}]s)\s+|it['\u{2019}]s\s+)?\$?\d)",
        ))
    });
    static UNFINISHED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s.!*_\x22)\]}$\\]*(?:(?:now|then|next|finally|lastly|afterwards)\b[^.\n]{0,30}|",
            r"(?:we|you|i)\s+(?:still|now|then|must|need|have|next)\b[^.\n]{0,30}|(?:it|this)\s+",
            r"(?:remains|must|has|needs|still)\b[^.\n]{0,30}|",
            r"(?:remember|do\s+not\s+forget|don['\u{2019}]t\s+forget)\s+to\b[^.\n]{0,20})",
            r"\b(?:doubl(?:e|ed|ing)|halv(?:e|ed|ing)|divid(?:e|ed|ing)|multipl(?:y|ied|ying)|subtract",
            r"(?:ed|ing)?|add(?:ed|ing)?|take\s+away|round(?:ed)?|convert(?:ed)?|squared?|negate)\b",
            r"|^[\s.!*_\x22)\]}$\\]*(?:but|however)\b[^.\n]{0,80}\b",
            r"(?:must|needs?|needed|requires?|required|ha(?:s|ve)\s+to|cannot|\w+n['\u{2019}]t)\b",
        ))
    });
    DENIAL.is_match(after) || HEDGE.is_match(after) || DOUBTED.is_match(after) || UNFINISHED.is_match(after)
}
