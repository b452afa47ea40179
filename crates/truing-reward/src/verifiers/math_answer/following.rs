//! Whether the words after a number leave it what the clause says.

use std::sync::LazyLock;

use regex::Regex;

use super::clause::{Around, Part, TAILS, parts};
use super::number_words;
use super::numerals;
use super::units;
use super::wording::{alters, is_plural, lists};
use crate::verifiers::pattern::pattern;

/// German verbs before a number of things.
static GERMAN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:hat|haben|zahlt|zahlen|kostet|kosten|verdient|verdienen|bleiben|bleibt|sind)",
        r"(?:\s+(?:also|insgesamt|noch|somit|damit|genau))*\s+$",
    ))
});

/// Verbs after which "18 more" is all that is needed.
static NEEDS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:needs?|needed|requires?|required|must|ha(?:s|ve|d)\s+to|should|takes?|left|remain\w*",
        r"|buy|earn|save|still)\b",
    ))
});

impl Around<'_> {
    /// Whether what stands after the number leaves it: a unit, counted things, and then where, when and for what.
    pub(super) fn follows(&self) -> bool {
        let parts = parts(self.after);
        let end = parts
            .iter()
            .position(|part| matches!(part, Part::Mark(',' | ';' | '.' | '!' | '-')))
            .unwrap_or(parts.len());
        let (clause, rest) = parts.split_at(end);
        if clause.iter().any(|part| matches!(part, Part::Mark(_) | Part::Number)) {
            return false;
        }
        const HEDGES: &str = "\
            or maybe perhaps possibly alternatively wrong incorrect false mistaken impossible oder ou \
            unless doubt mistake";
        if rest.iter().any(|part| match part {
            Part::Word(word) => lists(HEDGES, word),
            Part::Run(run) => run.contains("可能") || run.contains("或") || run.contains("也许"),
            _ => false,
        }) {
            return false;
        }
        // ", not 17" confirms it, ", not the number" does not.
        let denied = rest.iter().skip(1).position(|part| !matches!(part, Part::Mark(_)));
        if let Some(at) = denied
            && rest[at + 1].word() == Some("not")
            && rest.get(at + 2).is_some_and(|next| *next != Part::Number)
        {
            return false;
        }
        match clause.first() {
            None => return true,
            Some(Part::Run(run)) => return clause.len() == 1 && is_counted_run(run),
            _ => {}
        }
        let words: Vec<&str> = clause.iter().filter_map(Part::word).collect();
        if words.len() < clause.len() {
            return false;
        }
        match self.things(&words) {
            Ok(at) => self.has_plain_tail(&words, at),
            Err(decided) => decided,
        }
    }

    /// How many words after the number are its unit or what it counts; an error says whether the words leave the number
    /// already.
    fn things(&self, words: &[&str]) -> Result<usize, bool> {
        let (mut n_unknown, mut at) = (0, 0);
        while let Some(word) = words.get(at) {
            at += 1;
            let next = words.get(at).copied();
            match *word {
                "a" if next.is_none() => return Err(false),
                "a" | "an" => {
                    at += usize::from(next.is_some_and(units::is_known));
                    break;
                }
                "base" => return Err(false),
                // "18 is the answer", not "18 is even".
                "is" | "was" if at == 1 && !self.is_cued => {
                    let is_answer = words[1..].iter().any(|word| lists("answer result total solution", word));
                    return Err(is_answer
                        && !words[1..].iter().any(|word| alters(word) || lists("old previous", word)));
                }
                "times" => {
                    let ends =
                        next.is_none_or(|next| matches!(next, "a" | "per" | "each" | "every" | "in" | "to"));
                    return Err(ends && n_unknown == 0);
                }
                "square" | "cubic" | "sq" if next.is_some_and(units::is_known) => continue,
                // "15 more than Ann" says by how many; "needs 18 more hours" is what is needed.
                "more"
                    if n_unknown == 0
                        && !words.iter().any(|word| matches!(*word, "than" | "as"))
                        && (self.is_cued || NEEDS.is_match(self.before)) =>
                {
                    continue;
                }
                "more" | "less" | "fewer" => return Err(false),
                "percent" | "percentage" if matches!(next, Some("of" | "point" | "points")) => {
                    return Err(false);
                }
                "percent" | "percentage" => continue,
                word if word.chars().count() == 1 => {
                    if !units::is_known(word) {
                        return Err(false);
                    }
                    break;
                }
                "than" if at > 1 && !self.is_cued => {
                    at -= 1;
                    break;
                }
                word if alters(word) => return Err(false),
                word if lists(TAILS, word) => {
                    at -= 1;
                    break;
                }
                word if units::is_known(word)
                    || matches!(word, "mph" | "kph" | "rpm")
                    || (is_plural(word) && !is_verb(word)) =>
                {
                    n_unknown = 0;
                    break;
                }
                // After a unit nothing is counted any more.
                _ if self.has_unit && at == 1 => return Err(false),
                _ => n_unknown += 1,
            }
            if n_unknown > 3 && !self.has_unit {
                return Err(false);
            }
        }
        // German nouns have no ending in common in the plural.
        let is_german = n_unknown == 1 && at == words.len() && at == 1 && GERMAN.is_match(self.before);
        let is_part = self.is_single && n_unknown <= 2;
        if n_unknown > 0 && !is_part && !self.has_unit && !is_german {
            return Err(false);
        }
        Ok(at)
    }

    /// Whether the words from one on say where, when and for what.
    fn has_plain_tail(&self, words: &[&str], at: usize) -> bool {
        const TURNS: &str = "\
            or if unless wrong incorrect false mistaken impossible maybe perhaps possibly minus plus \
            times squared cubed either short oder ou invalid modulo mod doubtful unlikely half quarter \
            third unknown undefined unclear binary hex octal hexadecimal bound guess estimate candidate";
        let tail = &words[at..];
        // "18 days ago" names a time, not a number of days.
        let is_past = at < words.len()
            && tail.last() == Some(&"ago")
            && number_words::whole(&[words[at].to_owned()]).is_some();
        if tail.first().is_some_and(|word| !lists(TAILS, word)) && !is_past {
            return false;
        }
        if !self.is_cued && tail.contains(&"not") || is_conditional(tail, self.is_cued) {
            return false;
        }
        let is_denied = tail.windows(2).any(|pair| {
            pair[0] == "not"
                && matches!(pair[1], "right" | "correct" | "the" | "it" | "possible" | "true" | "an")
        });
        let is_compared =
            self.is_cued && tail.iter().any(|word| matches!(*word, "than" | "less" | "more" | "fewer"));
        !is_denied
            && !is_compared
            && !tail.iter().any(|word| lists(TURNS, word) || numerals::multiplier(word).is_some())
    }
}

/// Whether words after a number say for which case it holds, or that there is more: "when x is even", "and up".
fn is_conditional(tail: &[&str], is_cued: bool) -> bool {
    let next = tail.get(1).copied().unwrap_or_default();
    match tail.first().copied() {
        Some("when" | "whenever") => true,
        Some("where" | "if") => is_cued,
        Some("for") => {
            next.chars().count() == 1 && next != "a"
                || lists("even odd any some positive negative large small most values integer", next)
        }
        Some("and") => lists(
            "up above under older younger upward upwards over more beyond counting something some a then below",
            next,
        ),
        Some("each") => next == "way",
        _ => false,
    }
}

/// Words that end as plurals do and say something about the number.
fn is_verb(word: &str) -> bool {
    matches!(
        word,
        "is" | "was"
            | "has"
            | "does"
            | "this"
            | "divides"
            | "exceeds"
            | "equals"
            | "lacks"
            | "seems"
            | "fails"
            | "plus"
    )
}

/// A counter or unit of Chinese or Japanese with what is counted, and the end of the sentence.
fn is_counted_run(run: &str) -> bool {
    const COUNTED: [&str; 12] = [
        "рублей",
        "рубля",
        "рубль",
        "долларов",
        "доллара",
        "яблок",
        "яблока",
        "яиц",
        "원",
        "달러",
        "개",
        "명",
    ];
    const ENDINGS: [&str; 14] = [
        "입니다",
        "이다",
        "です",
        "だ",
        "である",
        "になります",
        "となります",
        "でした",
        "になる",
        "となる",
        "があります",
        "あります",
        "います",
        "ある",
    ];
    let run = ENDINGS.iter().find_map(|ending| run.strip_suffix(ending)).unwrap_or(run);
    run.is_empty() || COUNTED.contains(&run) || units::counter(run).is_some()
}
