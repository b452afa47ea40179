//! Words around a box that change what it says.

use std::sync::LazyLock;

use regex::Regex;

use crate::verifiers::pattern::pattern;

/// Words directly before a box that deny it, bound it or take a part of it.
pub(super) static BEFORE_WORDS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:\be\.g\.,?|\bno\s+es|\bn['\u{2019}]est\s+pas|\bnicht|\bне|\bn\x{e3}o\s+\x{e9}",
        r"|\bnon\s+\x{e8}|\bминус|\bmindestens|\bh\x{f6}chstens|\bau\s+(?:moins|plus)|\bal\s+menos",
        r"|\banswer\b[^.]*\bat\s+(?:least|most)|^\W*at\s+(?:least|most)|^\W*up\s+to|\bmitad\s+de",
        r"|\bmoiti\x{e9}\s+de|\bh\x{e4}lfte\s+(?:von|der)|половин\w*(?:\s+от)?|не\s+менее|не\s+более",
        r"|负|負|不是|并非|不为|至少|至多|最多|大于|小于|超过|不到|不等于|マイナス)\s*$",
    ))
});
/// Words of the sentence before a box by which it is no answer.
pub(super) static SUPPOSED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:would\s+have\s+been|might\s+think|refuse|(?:isn['\u{2019}]t|not)\s+true|no\s+",
        r"(?:solution|answer)s?\b[^.]*\bbut|(?:template|placeholder|sample)\s+(?:is|looks|reads)|",
        r"(?:form|format|template|instructions?|prompt|task)\s+(?:requires?|demands?|forces|wants)",
        r"|other\s+student|not\s+even|in\s+the\s+example|for\s+example",
        r"|(?:put|write|give)\s+(?:your|the)\s+(?:\w+\s+)?answer)\b|\b(?:instructions?|prompt|template)\s+",
        r"(?:say|ask|want|require|tell)s?\b[^,;:]*$|^\W*(?:write|put|give|state)\b[^,;]*\b",
        r"(?:format|form)[\s:$\\(*]*$|\b(?:like|such\s+as)[\s:$\\(*]*$|\bif\b[^.]*\bwould\s+be\s*$|^\W*",
        r"(?:assume|suppose|imagine|pretend)\b[^,;]*$",
    ))
});
/// A name before a box that makes of it a guess or a bound.
pub(super) static GUESSED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:(?P<fit>best|closest|final|greatest|least|sharp|tight|tightest|optimal)\s+)?",
        r"(?:(?:lower|upper|rough|first|initial|quick)\s+)*",
        r"(?:guess|estimate|bound|conjecture|attempt)(?:\s+(?:is|was|of|gives|gave))?[\s:$\\(*]*$",
    ))
});
/// What before a box rejects it as an answer.
pub(super) static REJECTED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:reject|discard|exclude|eliminate|dismiss|ignore|disregard|rule\s+out)(?:s|ed|d)?\b\s*",
        r"(?:the\s+\w+\s*)?(?:[\s$\\(]*[a-z]\s*=)?[\s$\\(*]*$",
        r"|\b(?:extraneous|rejected|discarded|excluded|spurious|invalid)\b[^,;]*$",
    ))
});
/// A sentence about a box that says something else of it than that it is the answer: "is too large", "does not work".
pub(super) static SAID_OF_BOX: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^[\s$*_)\]}\\\x22]*(?:[a-z]+\s+)?(?:(?:is|are|was|were|seems?|looks?)\s+",
        r"(?:too|out|outside|already|still|invalid|extraneous|rejected|excluded|negative|larger|smaller",
        r"|greater|less|more|close|near|n['\u{2019}]t|no\b|not\b|never|an?\s+",
        r"(?:guess|estimate|bound|typo|wrong|trap|distractor|extraneous))",
        r"|(?:does|do|did|would|could|should|can|will)\s*(?:not|n['\u{2019}]t)|cannot|can['\u{2019}]t",
        r"|fails?\b|exceeds?\b|contradicts?\b|violates?\b)",
        r"|^[\s$*_)\]}\\]*,?\s*which\s+(?:\w+\s+){0,3}?",
        r"(?:discard|reject|exclude|eliminate|ignore|dismiss|rule)(?:d|ed)?\b",
        r"|^[\s$*_)\]}\\]*[,;]?\s*(?:but|however|although|though|except|yet)\b[^.\n]{0,60}\b",
        r"(?:not|no|never|too|wrong|fails?|impossible|invalid|\w+n['\u{2019}]t)\b",
    ))
});
/// What a sentence may say of a box with a verb: that it is the answer.
pub(super) static IS_ANSWER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^(?:is|are|was)\s+(?:(?:indeed|therefore|thus|also|exactly|then|clearly)\s+)*",
        r"(?:the|our|my|your|this|correct|right|it\b|what\s+(?:we|was|is)\b|(?:an?\s+)?",
        r"(?:valid|possible|integer|positive|whole|prime)\b)",
    ))
});
/// What a verb after a box makes of it, where it does not say that it is the answer.
pub(super) static OTHER_VERB: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^(?:is|was|must|should|would|could|may|might|can|will|needs?|has\s+to|have\s+to)\b")
});
/// Words by which a sentence says of a box that it is something else than the answer.
pub(super) static NOT_ANSWER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:wrong|incorrect|false|bound|previous|guess|half|twice|double|triple|not|never|example",
        r"|estimate|old|initial|intermediate|sub|partial|first\s+(?:part|step|guess)|other|opposite",
        r"|negative|square|reciprocal|trap|distractor|mistake|if|unless|when)\b",
    ))
});
/// What after a box makes of it another number, a condition or no answer.
pub(super) static AFTER_WORDS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)^[\s.,\x22]*(?:(?:es|est|ist|\x{e9}|\x{e8})\s+)?",
        r"(?:incorrect[oa]|fals[oa]\b|faux\b|fausse\b|falsch\b|неверн|неправильн|errad[oa]\b|equivocad[oa]\b",
        r"|ではな|ではあり|じゃな|是错|错误|是不对|不对|不正确|は間違|が間違)",
        r"|^\s*(?:万|萬|亿|億|千|百|倍|的|分之|分の|\u{3c0}|тыс|миллион|mil\b|mille\b|millones|millions?\b\s+d|tausend|millionen)",
        r"|^[\s$*}]*(?:以上|以下|以内|以外|左右|多|不是|并不|并非)|^[^.\n]{0,10}\bbut\b[^.\n]{0,40}\b",
        r"(?:says|gives|states|claims|has)\s+[$\\]*\d",
        r"|^\s*and\s+(?:\d|an?\s+(?:half|quarter|third)|half\b|one[\s-]|two[\s-]|three[\s-])",
        r"|^\s*(?:,\s*(?:or\b|\d)|\{,\}|\.\d|\?|:\s*\d|/\s*\d|[-+\u{2212}*\u{d7}]\s*\d)",
        r"|^[$\\) ]*[;,]\s*now\s+\d|^[ \t]*\w+\s+short\s+of\b|^[^.\n]{0,60}\bbut\s+the\s+",
        r"(?:question|problem)\s+(?:asks|wants|is\s+about)\b",
        r"|^\s*(?:(?:to|through|until|till)\s+[$\\]*\d|out\s+of\b|(?:less|fewer|greater|larger|smaller)\b|",
        r"(?:[a-z]+\s+){0,2}ago\b|(?:[a-z]+\s+)?more\b[^.\n]{0,40}\bthan\b)",
        r"|^[\s$]*(?:[a-z]+\s+)?(?:longer|shorter|older|younger|taller|higher|lower|farther|further|faster",
        r"|slower|heavier|lighter|wider|deeper|cheaper|later|earlier)\s+than\b[^\n]{0,40}\d",
        r"|^\s*\([^)\n]*\b(?:or|wrong|incorrect|false|maybe|perhaps|mod|not\s+",
        r"(?:the|an?|my|yet|final|it|right|correct|sure|certain))\b",
        r"|^[$\\) ]*,\s*(?:(?:is|are|equals|gives|makes)\b|(?:then|now|next)\s+(?:we\s+)?",
        r"(?:divid|multipl|subtract|add|doubl|halv|tak|round|convert|squar))",
        r"|^[ \t\x22]*(?:is\s+(?:an?\s+(?:upper|lower)\s+bound|only|what\s+(?:we|you|it))|would\b|format\b",
        r"|if\b|only\s+(?:if|when)|but\s+(?:it|this|that)\s+is\s+not)",
    ))
});

/// The base of the number in a box, after it: `_2`, "in base two".
pub(super) static BASE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^(?:_\{?\s*(?:\\text\s*\{)?|[\s$*)\]\\]*\(?(?:in\s+)?base[\s$-]+)(?P<base>\d+|[a-z]+)")
});

/// A rate that begins after a box: "dollars per day", "each".
pub(super) static RATE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)^[\s$*_)\]\\]*(?:[a-z]+\s+)?(?:per|a|an|each|every)\b"));
