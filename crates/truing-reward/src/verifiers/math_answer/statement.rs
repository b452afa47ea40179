//! The answer that a text states in words: "the answer is", "Final answer:", corrections and denials.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::clause;
use super::closing;
use super::denial::is_taken_back;
use super::excerpt::{head, trimmed};
use super::marked::Marked;
use super::numerals;
use super::pieces::{is_digit, pieces};
use super::sentence::{
    gives_up, is_bare_number, is_mathematics, sentence_end, sentence_start, within_math, without_bold,
    without_confidence,
};
use super::structure::{Answer, parse};
use super::wording;
use crate::verifiers::pattern::pattern;

/// "The answer is", "Final answer:", "A:" at the start of a line; the group is set where it denies.
static STATEMENT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?im)^[\s*_>#]*A(?:ns)?[*_]*\s*[:\u{ff1a}][*_]*",
        r"|\banswers?\b(?:\s+(?:to|for|of|here)\b[^.\n:]{0,80}?)?[\s*_]*",
        r"(?:(?P<no>(?:isn|wasn|aren|wouldn|can|couldn|shouldn)['\u{2019}]t\b(?:\s+be\b)?|cannot\s+be\b|",
        r"(?:can|could|should|would|must)\s+not\s+be\b)",
        r"|(?:is|are|was|were|(?:would|will|should|must|could|has\s+to)\s+be|becomes|equals|comes\s+",
        r"(?:out\s+)?to)\b|[:=\u{ff1a}])",
        r"(?:[\s*_]*\b(?:therefore|thus|then|simply|just|clearly|indeed|now|hence|still|really|actually|also)\b,?)*",
        r"[\s*_]*(?P<not>(?:definitely|certainly|clearly|obviously)?\s*(?:not|never)\b)?[\s*_]*[:\u{ff1a}]?[*_]*",
    ))
});
/// The same in other languages.
static FOREIGN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:答案|答え|正解)(?:应该|应当|应|就|肯定|确实|也)*\s*(?P<no>不是|并非|不为|不等于)?\s*",
        r"(?:(?:是|为|為|は|即)\s*[:\u{ff1a}]?|等于|[:\u{ff1a}=])?",
        r"|答\s*[:\u{ff1a}]|\b(?:đ|\x{110})áp\s+(?:án|số)\s*(?:cuối\s+cùng\s+)?(?:là\b|:)",
        r"|(?:정답|답)은\s*|\bответ[*_]*\s*[:\u{2014}][\s*_]*",
        r"|\b(?:la\s+)?(?:respuesta|r\u{e9}ponse|resposta|antwort|risposta)\b[^.\n]{0,30}?",
        r"(?:\b(?:es|est|ist|lautet)\b|\s[\u{e9}\u{e8}]\s|:)",
        r"|\b(?:die\s+l\x{f6}sung|das\s+ergebnis|la\s+soluci\x{f3}n|el\s+resultado|le\s+r\x{e9}sultat",
        r"|o\s+resultado|il\s+risultato)(?:\s+final)?\s*(?:(?:es|est|ist|lautet)\b|\s[\x{e9}\x{e8}]\s|:)",
    ))
});
/// What replaces an answer that was given before: "no, it should be", "the correct total is".
static CORRECTION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:no\s*[,.!\u{2014}\u{2013}-]|no\s+wait\b|",
        r"(?:wait|actually|correction|sorry|oops|rather|instead)\b)[^.\n]{0,40}?",
        r"\b(?:it\s+is|it['\u{2019}]s|it\s+should\s+be|that\s+should\s+be|should\s+be|it\s+must\s+be)\s",
        r"|\b(?:correct|corrected|revised|right|actual|updated)\s+",
        r"(?:value|total|result|amount|number|sum|count|solution|figure)\b[^.\n]{0,40}?\b",
        r"(?:is|was|becomes|(?:should|would)\s+(?:be|have\s+been))\b",
        r"|\banswer\s+should\s+have\s+been\b",
        r"|(?:^|[.!\n]\s*)(?:so|but)\s+it\s+should\s+be\s",
    ))
});
/// What takes back the answer before it, whether another one follows or not; a new value may be directly after it.
pub(super) static CUE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?im)(?:^|[\n.!?;:,(\u{2014}\u{2013}\u{3002}\u{ff01}\u{ff0c}\u{ff08}]|\s-+|\.\.\.|\b",
        r"(?:so|hmm|but|oh|and|well|ah)\b)[\s*_]*",
        r"(?:",
        r"(?:(?:no|non|nein|нет)\s*(?:[,.!\u{2014}\u{2013}-]|\bwait\b)|wait\b|hold\s+on\b|oops\b",
        r"|actually\s*,|correction\b|corrected\s*:|(?:i\s+am\s+|i['\u{2019}]m\s+)?sorry\b|i\s+apologi[sz]e\b",
        r"|my\s+mistake\b|scratch\s+that\b|(?:on\s+second\s+thought|(?:up)?on\s+(?:further\s+)?reflection",
        r"|on\s+closer\s+inspection)\b|(?:edit|typo)\s*:",
        r"|revised\s*:|espera\b|perd\x{f3}n\b|correcci\x{f3}n\b|attendez\b|pardon\b|warte\b|korrektur\b",
        r"|подожд\w*|等等|等一下|不对|不對|更正|修正|いや|いえ|訂正|待って)",
        r"(?:[\s,.!:\u{2014}\u{2013}\u{ff0c}\u{ff1a}\u{3001}-]*",
        r"(?:(?:no|non|nein|wait|hold\s+on|espera|attendez|warte|sorry|i\s+meant|i\s+mean|make\s+(?:it|that)",
        r"|it['\u{2019}]s|it\s+is|that['\u{2019}]s|there\s+are|es\s+ist|es|c['\u{2019}]est|应该是|應該是|是)",
        r"(?:\b|[\s:\u{ff1a}]|$|\B)))*[\s,.!:\u{2014}\u{2013}\u{ff0c}\u{ff1a}\u{3001}*_-]*",
        r"|i\s+(?:have\s+|['\u{2019}]ve\s+)?(?:made|forgot|miscounted|misread|miscalculated)\b",
        r"|(?:this|that|the|my)\s+(?:\w+\s+)?answer\s+(?:above\s+)?(?:is|was)\s+",
        r"(?:wrong|incorrect|mistaken|not\s+(?:right|correct)))",
        r"|算错|錯了|错了|計算ミス|間違え",
    ))
});
/// What follows a cue of a correction that ended in the same answer.
static CONFIRMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:yes|confirm(?:s|ed)?|checks?\s+out|consistent|matches|is\s+(?:indeed\s+)?",
        r"(?:right|correct)|verified)\b",
    ))
});
/// What makes of "the answer is" a remark about another case or another's answer.
static ASIDE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:if|unless|had\s+(?:she|he|they|we|it|the)|were\s+(?:she|he|they|we|it|the)|without",
        r"|suppose|assuming|in\s+(?:which|that)\s+case|common|mistake|error|na(?:i|\x{ef})ve|tempting",
        r"|previous|previously|old|initial|initially|earlier|the\s+example|comparison|estimate|",
        r"(?:second|other|next|following)\s+(?:question|part|problem)|student|students|others",
        r"|expect(?:ed)?|note\s+that|sanity|digits?|might|may|could)\b",
        r"|\b\w+['\u{2019}]s\s+answer|\bnote\s*:|\bcheck\b[^.]*:|\bpart\s*\(",
    ))
});
/// What makes of "the answer is" a statement about a part or a bound of the answer.
static OF_ANSWER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:bound|limit|estimate|guess|digit|length|size|part|factor|multiple)s?\s+",
        r"(?:of|on|for|in)\s+(?:the|my|our|your)\s+(?:\w+\s+)?$|\b(?:one|another|other|possible)\s+",
        r"(?:possible\s+|correct\s+)?$",
    ))
});
/// What corrects a denial in its own sentence.
static BUT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:\bbut(?:\s+rather)?|\bit\s+is|\bit['\u{2019}]s|\brather|\binstead|\bit\s+should\s+be",
        r"|\bsino|\bsondern|\bmais|\bbens\x{ec}|而是|应该是|[,\u{ff0c}]\s*是)\s*[:\u{ff1a}]?\s*",
    ))
});
/// Where a statement ends.
static END: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)[.!?](?:[*_\x22)]*)(?:\s|$)|[\u{3002}\u{ff01}\u{ff1f}\u{ff1b}]|;\s|\?|,?\s+\b",
        r"(?:because|since|which|so\s+that|i\s+hope)\b|,\s+",
        r"(?:so|as|where|not|and\s+not|rather|but|given|assuming|leaving|making)\b|,\s*(?:因为|不是|而不是)",
    ))
});
static DENIED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)^\W*(?:(?:clearly|obviously)\s+)?(?:wrong|incorrect|false|错|不对)"));
/// Adjectives that speak about an answer instead of giving it.
static REMARK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^\W*(?:correct|right|clear|reasonable|below|above|simple|as\s+follows|given|found|shown|in\s|to\s)",
    )
});
/// Words that make of a sentence more than its last number.
pub(super) static QUALIFIED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:or\s+(?:more|less|fewer)|at\s+(?:least|most)|(?:more|less|fewer|greater)\s+than|not",
        r"|never|no|neither|nor|\w+n['\u{2019}]t)\b|不是|以上|以下|至少|至多|不到",
    ))
});

/// Statements that are looked at, from the last one.
pub(super) const N_STATEMENTS: usize = 16;

/// What follows an answer and replaces it or takes it back; `None` where it stands. `is_lead` where what
/// follows directly has been read already.
pub(super) fn corrected(answer: Option<&str>, after: &str, is_lead: bool) -> Option<Marked> {
    if !is_lead && is_taken_back(head(after)) {
        return Some(Marked::Refused);
    }
    if answer.is_some_and(|answer| is_refuted(answer, after)) {
        return Some(Marked::Refused);
    }
    if let Marked::Found(corrected) = stated(after, true)
        && is_mathematics(&corrected)
    {
        return Some(Marked::Found(corrected));
    }
    let cue = CUE.find(after)?;
    (!CONFIRMED.is_match(&after[cue.end()..])).then_some(Marked::Refused)
}

/// Whether a check after an answer finds that it does not hold, or the text gives up.
fn is_refuted(answer: &str, after: &str) -> bool {
    static REFUTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)(?:\b(?:so|therefore|thus|hence),?\s+there\s+(?:is|are)\s+no\s+",
            r"(?:(?:real|such|integer)\s+)?(?:solutions?|answers?)\b",
            r"|\b(?:however|but),?\s+(?:this|it|that)\s+(?:does\s+not|doesn['\u{2019}]t|fails\s+to)\s+",
            r"(?:satisfy|work|fit|hold)\b",
            r"|(?P<value>\d[\d.,/]*)\$?\s+(?:does\s+not|doesn['\u{2019}]t|fails\s+to)\s+(?:satisfy|work|fit|hold)\b",
            r"|(?P<failed>\d[\d.,/]*)\$?\s+fails\s+(?:the|this|our)\b",
            r"|\bbut\s+(?P<rival>[-\u{2212}]?\d[\d.,/]*)\s+is\s+(?:right|correct)\b",
            r"|(?P<other>[-\u{2212}]?\d[\d.,/]*)\$?,?\s+is\s+the\s+(?:final\s+|correct\s+|actual\s+)?answer\b)",
        ))
    });
    // What is asked for is something else than what was found.
    static ASKED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:but|however|though|yet|wait)\b[^.\n]{0,20}\b(?:question|problem)\s+(?:(?:actually|really)\s+)?",
            r"(?:asks?|asked|wants?|wanted|requires?|is\s+asking)\b",
        ))
    });
    // A check that fails.
    static FAILED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:check(?:ing)?|verif(?:y|ying|ication)|substitut\w+|plugging|sanity)\b[^.\n]{0,120}",
            r"\b(?:which|this|that|it|they|sides?|totals?|results?)\s+",
            r"(?:(?:does|do|did)\s*(?:not|n['\u{2019}]t)\s+",
            r"(?:match|agree|equal|satisfy|hold|work|fit|check|add\s+up)|contradict(?:s|ion)|mismatch",
            r"|fails)\b",
        ))
    });
    if gives_up(head(after)) || FAILED.is_match(head(after)) || ASKED.is_match(head(after)) {
        return true;
    }
    let is_answer = |value: regex::Match<'_>| {
        super::number(value.as_str().trim_end_matches([',', '.']))
            .map(|value| super::number(answer) == Some(value))
    };
    REFUTED.captures_iter(after).take(N_STATEMENTS).any(|found| {
        match found.name("other").or_else(|| found.name("rival")) {
            Some(other) => is_answer(other) == Some(false),
            None => found
                .name("value")
                .or_else(|| found.name("failed"))
                .is_none_or(|value| is_answer(value) == Some(true)),
        }
    })
}

enum Statement {
    Says(String),
    /// "not 18": says what it is not.
    Denies,
    /// "wrong": takes back what was said before.
    TakesBack,
    Nothing,
}

/// The places where a text states, denies or corrects an answer, in their order.
fn marks(text: &str, has_earlier: bool) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for captures in STATEMENT.captures_iter(text).chain(FOREIGN.captures_iter(text)) {
        let denies = captures.name("no").is_some() || captures.name("not").is_some();
        marks.extend(captures.get(0).map(|found| Mark {
            start: found.start(),
            end: found.end(),
            denies: denies || is_option(found.as_str(), &text[found.end()..]),
            corrects: false,
        }));
    }
    if !marks.is_empty() || has_earlier {
        let first = marks.iter().map(|mark| mark.end).min().filter(|_| !has_earlier).unwrap_or(0);
        for found in
            CORRECTION.find_iter(text).chain(CUE.find_iter(text)).filter(|found| found.start() >= first)
        {
            let said = found.as_str().trim_start_matches(|c: char| !c.is_alphanumeric());
            marks.push(Mark {
                start: found.end() - said.len(),
                end: found.end(),
                denies: false,
                corrects: true,
            });
        }
    }
    marks.sort_unstable_by_key(|mark| (mark.end, mark.corrects));
    marks
}

/// The last answer that is stated in words.
pub(super) fn stated(text: &str, has_earlier: bool) -> Marked {
    let marks = marks(text, has_earlier);
    let n_marks = marks.len();
    let (mut has_denied, mut has_cue, mut remark) = (false, false, None);
    for (at, mark) in marks.into_iter().enumerate().rev().take(N_STATEMENTS) {
        let said = &text[mark.start..mark.end];
        let is_later = has_earlier || at > 0;
        let start = sentence_start(text, mark.start);
        let before = &text[start..mark.start];
        let is_aside = is_aside(text, start..mark.start, said, is_later);
        if is_aside && (mark.corrects || is_later) {
            has_denied = true;
            continue;
        }
        let denies = mark.denies
            || is_aside
            || OF_ANSWER.is_match(before)
            || !mark.corrects && (!clause::is_asserted(before) || !clause::is_asserted(said));
        let (line, following) = content(text, mark.end);
        let line = if EUROPEAN.is_match(said) { with_point(line) } else { line.into() };
        let line = line.as_ref();
        let statement = statement(line, following, denies);
        if mark.corrects {
            let is_about_another = ASIDE.is_match(&line[..sentence_end(line, 0)]);
            has_cue |= CUE.is_match(said) && !CONFIRMED.is_match(&text[mark.end..]);
            match statement {
                Statement::Says(answer)
                    if !is_about_another
                        && is_mathematics(&answer)
                        && answer.split_whitespace().count() <= 8 =>
                {
                    return Marked::Found(answer);
                }
                _ => continue,
            }
        }
        match statement {
            Statement::Says(answer) => {
                let is_value = !matches!(parse(&answer), Answer::Text(_));
                let is_short = answer.split_whitespace().count() <= 12;
                if is_value && is_refuted(&answer, head(&text[mark.end..])) {
                    return Marked::Refused;
                }
                if is_value || is_short && !REMARK.is_match(&answer) {
                    // Taken back by what follows it, and not replaced.
                    return if has_cue { Marked::Refused } else { Marked::Found(answer) };
                }
                remark.get_or_insert(answer);
            }
            Statement::Denies => has_denied = true,
            Statement::TakesBack => return Marked::Refused,
            Statement::Nothing => {}
        }
    }
    match remark {
        _ if has_denied || n_marks > N_STATEMENTS => Marked::Refused,
        Some(remark) if !REMARK.is_match(&remark) => Marked::Found(remark),
        _ => Marked::Nothing,
    }
}

/// Whether `A:` is the first of several options, of which a `B:` on the next line is the second.
fn is_option(said: &str, after: &str) -> bool {
    static SECOND: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\s*_>(-]*B[*_]*\s*[:\u{ff1a}.)]"));
    said.chars().filter(|letter| letter.is_alphabetic()).eq(['A'])
        && head(after).split_once('\n').is_some_and(|(_, next)| SECOND.is_match(next))
}

/// Words that lead to an answer.
struct Mark {
    start: usize,
    end: usize,
    /// Whether they say what the answer is not.
    denies: bool,
    /// Whether they correct an answer that was given before.
    corrects: bool,
}

/// Whether a statement, after the words of its sentence in the range `before`, is about another case or
/// another's answer; a later one also where it says only what would be.
fn is_aside(text: &str, before: Range<usize>, said: &str, is_later: bool) -> bool {
    static THEN: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\W*(?:then|in\s+(?:that|this)\s+case)\b"));
    static WOULD: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:would|could|might)\s+(?:not\s+)?be\b"));
    let start = before.start;
    let sentence = format!("{}{said}", &text[before]);
    if ASIDE.is_match(&sentence) || is_later && WOULD.is_match(said) {
        return true;
    }
    let earlier = text[..start].trim_end().trim_end_matches(['.', '!', '?']);
    THEN.is_match(&sentence) && ASIDE.is_match(&earlier[sentence_start(earlier, earlier.len())..])
}

/// The rest of the line, the next line where it is empty, or the formula that is displayed there; and what follows it.
fn content(text: &str, start: usize) -> (&str, &str) {
    let without_marks = |text: &str, from: usize| {
        let rest =
            text[from..].trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '*' | '_' | '`'));
        text.len() - rest.len()
    };
    let mut at = without_marks(text, start);
    // At the start of a line `>` quotes; elsewhere it says that the answer is greater.
    while text[at..].starts_with('>')
        && text[..at].trim_end_matches([' ', '\t', '*', '_', '`', '>']).ends_with('\n')
    {
        at = without_marks(text, at + 1);
    }
    let rest = &text[at..];
    for (open, close) in [("$$", "$$"), ("\\[", "\\]")] {
        if let Some(inner) = rest.strip_prefix(open) {
            let (inner, following) = inner.split_once(close).unwrap_or((inner, ""));
            return (inner.trim(), following);
        }
    }
    let (line, following) = rest.split_once('\n').unwrap_or((rest, ""));
    (head(line), head(following))
}

/// Words for "answer" in languages that write a comma before decimals.
static EUROPEAN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:respuesta|r\x{e9}ponse|resposta|antwort|risposta|ответ|l\x{f6}sung|ergebnis",
        r"|soluci\x{f3}n|resultado|r\x{e9}sultat|risultato)\b",
    ))
});

/// A line that starts with a number with a decimal comma, `3,5`, with a point in its place. Three decimals may be
/// thousands.
fn with_point(line: &str) -> Cow<'_, str> {
    static COMMA: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^(?P<whole>[$*\s]*[-\u{2212}]?\d+),(?P<decimals>\d{1,2}|\d{4,})(?P<rest>[^\d,]|[.,](?:\D|$)|$)",
        )
    });
    COMMA.replace(line, "$whole.$decimals$rest")
}

fn statement(line: &str, following: &str, denies: bool) -> Statement {
    if denies {
        let after = END.find(line).map_or(line, |end| &line[..end.end()]);
        let after = if BUT.is_match(after) { after } else { line };
        return match BUT.find_iter(after).last() {
            Some(found) if !after[found.end()..].trim().is_empty() => {
                statement(&after[found.end()..], following, false)
            }
            _ => Statement::Denies,
        };
    }
    let line = without_bold(without_exclamation(line.trim()));
    let line = without_confidence(&line);
    let line = restated(&line);
    let line = line.as_ref();
    if line.is_empty() {
        return Statement::Nothing;
    }
    if DENIED.is_match(line) {
        return Statement::TakesBack;
    }
    let says = |answer: String, rest: &str| {
        let is_last = rest.trim_matches(|c: char| !c.is_alphanumeric()).is_empty();
        if is_taken_back(rest) || (is_last && is_taken_back(following)) {
            Statement::TakesBack
        } else {
            Statement::Says(answer)
        }
    };
    let whole = trimmed(line);
    if let Some(value) = explained(&whole) {
        return says(value.to_owned(), "");
    }
    if is_mathematics(&whole) {
        return says(whole, "");
    }
    let (mut sentence, mut rest) = (whole.clone(), "");
    for end in END.find_iter(line) {
        if within_math(line, end.start()) {
            continue;
        }
        let kept = line[..end.start()].trim_end_matches('.');
        let is_left_out = kept.len() + 2 <= end.start() && kept.ends_with(is_digit);
        if end.as_str().starts_with(['?', '\u{ff1f}']) || is_left_out {
            return Statement::Denies;
        }
        let first = trimmed(&line[..end.start()]);
        // "St. 5" continues, "18. So" does not.
        if !first.is_empty() {
            (sentence, rest) = (first, &line[end.start()..]);
            break;
        }
    }
    if sentence.is_empty() {
        return Statement::Nothing;
    }
    // "41 and to question 2 is 42"
    static SECOND: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:and|while)\s+(?:(?:the\s+answer\s+)?(?:to|for|of)\s+)?(?:the\s+)?",
            r"(?:question|part|problem|second|other)\b[^.]*\b(?:is|are)\b",
        ))
    });
    if SECOND.is_match(&sentence) || LEFT_OUT.is_match(&whole) || is_rate_of_another(rest, &sentence) {
        return Statement::Denies;
    }
    if sentence != whole && is_mathematics(&sentence) {
        return says(sentence, rest);
    }
    if QUALIFIED.is_match(&sentence) {
        return says(sentence, rest);
    }
    // Where other words are beside the number, all of it is a text.
    let found = closing::said(&sentence, true).or_else(|| priced(&sentence).map(str::to_owned));
    says(found.unwrap_or(sentence), rest)
}

/// Without an exclamation mark after the end of a formula or of bold text, where no factorial stands.
fn without_exclamation(line: &str) -> &str {
    let closed = ["$", "\\)", "\\]", "**", "*"];
    line.strip_suffix('!').filter(|line| closed.iter().any(|mark| line.ends_with(mark))).unwrap_or(line)
}

/// The value of a text that says it together with an explanation, a price or the same in words.
pub(super) fn clarified(text: &str) -> Option<String> {
    if let Some(value) = explained(text).or_else(|| priced(text)) {
        return Some(value.to_owned());
    }
    let restated = restated(text);
    (restated != text && is_mathematics(&restated)).then(|| restated.into_owned())
}

/// A whole number with its decimals left out, `18...`.
static LEFT_OUT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[\s$(*_\\-]*\d[\d,]*\s?(?:\.\.\.|\u{2026}|\\l?dots)"));

/// Whether an answer is a rate or a part from which what follows it computes another value: "18 per week, so 36 over
/// two weeks".
pub(super) fn is_rate_of_another(after: &str, answer: &str) -> bool {
    static LEADS_ON: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s$*_)\]\\]*(?:[a-z]+\s+)?(?:(?:per|a|an|each|every)\b[^.\n,;=]{0,30})?",
            r",\s+(?:so|making|giving|which\s+(?:is|makes|gives))\b(?P<rest>[^\n;]*)",
        ))
    });
    let after = head(after);
    let Some(rest) = LEADS_ON.captures(after).and_then(|found| found.name("rest")) else { return false };
    let rest = rest.as_str();
    let clause = &rest[..sentence_end(rest, 0)];
    let last = pieces(clause).into_iter().rfind(|piece| is_bare_number(piece.text));
    match (last.and_then(|last| super::number(last.text)), super::number(answer)) {
        (Some(other), Some(value)) => other != value,
        _ => false,
    }
}

/// The price in "$18 for 9 eggs".
fn priced(sentence: &str) -> Option<&str> {
    static PRICED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^(?P<value>\\?\$\s?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?\s+(?:dollars|cents|euros|pounds))\s+for\s+",
            r"(?:(?:the|all|her|his|their)\s+)*\d+\s+(?P<things>[a-z]+)",
            r"(?:\s+at\s+\\?\$?\d[\d,]*(?:\.\d+)?\s+(?:each|apiece))?$",
        ))
    });
    let found = PRICED.captures(sentence)?;
    let things = found.name("things")?.as_str();
    let is_counted = wording::is_plural(things) && !wording::alters(things);
    found.name("value").filter(|_| is_counted).map(|value| value.as_str())
}

/// A line in which a number in words is before the same one in digits, without the words: "eighteen (18) eggs".
fn restated(line: &str) -> Cow<'_, str> {
    static RESTATED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^(?P<words>[a-z]+(?:[ -][a-z]+){0,8}) \((?P<digits>\d[\d.,]*)\)(?P<rest>.*)$")
    });
    let Some(found) = RESTATED.captures(line) else { return line.into() };
    let part = |name: &str| found.name(name).map_or("", |part| part.as_str());
    let (words, digits) = (super::number(part("words")), super::number(part("digits")));
    if words.is_some() && words == digits {
        format!("{}{}", part("digits"), part("rest")).into()
    } else {
        line.into()
    }
}

/// The value of `18 (9 × 2)`, `18 (eighteen)`, `7 (out of 10)` or `18 dollars (9 eggs at $2 each)`, where the bracket
/// only explains it.
fn explained(text: &str) -> Option<&str> {
    static OUT_OF: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)^out\s+of\s+\d[\d,]*(?:\s+[a-z]+){0,2}$"));
    let (value, bracket) = text.strip_suffix(')')?.rsplit_once(" (")?;
    let number = super::number(value)?;
    if OUT_OF.is_match(bracket)
        || !bracket.contains(is_digit) && super::number(bracket) == Some(number.clone())
    {
        return Some(value);
    }
    let starts = bracket.starts_with(|c: char| c.is_ascii_digit() || c == '$' || c == '\\');
    let explains = if is_mathematics(bracket) {
        super::number(bracket) == Some(number)
    } else {
        !bracket.split(|c: char| !c.is_alphabetic()).any(wording::alters)
            && !bracket.split(' ').any(|word| numerals::multiplier(word).is_some())
    };
    (starts && bracket.contains(' ') && explains).then_some(value)
}
