//! Values of a sentence that are more than its last number: several at once, quantities of several units, numbers in
//! words, clock times and bases.

use std::sync::LazyLock;

use regex::Regex;

use super::calendar;
use super::clause;
use super::excerpt::trimmed;
use super::number_words;
use super::numerals;
use super::pieces::is_digit;
use super::sentence::{is_mathematics, is_open_to_numbers, number_said, sentence_start, without_bold};
use super::structure::{Answer, parse};
use super::units;
use super::wording::{self, lists};
use crate::verifiers::pattern::pattern;

/// What a sentence says, read in all these ways.
pub(super) fn said(sentence: &str, is_cued: bool) -> Option<String> {
    let sentence = in_one_notation(sentence);
    // After a cue words of English are read as a whole.
    let words = || if is_cued { in_chinese(&sentence) } else { in_digits(&sentence) };
    quantity(&sentence, is_cued).unwrap_or_else(|| match words() {
        Some(Words::Read(digits)) => number_said(&digits, is_cued),
        Some(Words::Unread) => None,
        None => number_said(&sentence, is_cued),
    })
}

/// A quantity of several units or a time of day that a sentence says.
pub(super) fn quantity(sentence: &str, is_cued: bool) -> Option<Option<String>> {
    compound(sentence, is_cued).or_else(|| clock(sentence, is_cued))
}

/// A sentence that concludes that nothing is left, or a part or multiple without a number.
static NOTHING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:none|nothing|nobody)\b[^.]*\b(?:left|remains?|remaining)\b|\b",
        r"(?:leaves|has|have|had|is|are)\s+(?:none|nothing|nobody)\b|\bno\s+\w+\s+(?:is|are)\s+left\b",
        r"|^\W*(?:so|thus|hence|therefore|finally)\b[^.]*\b",
        r"(?:twice|double|triple|both|none|nothing|neither)\b|没有剩|一个也没|一点也没|全部(?:卖|吃|用|花)完",
    ))
});

/// What the last sentence of a text says in words, where it has no digits; `None` where it has no number in words.
pub(super) fn last_in_words(text: &str) -> Option<Option<String>> {
    let text = text.trim_end();
    let end = text.trim_end_matches(['.', '\u{3002}', '*', '!', '\u{ff01}', ' ']).len();
    let sentence = without_bold(text[sentence_start(text, end)..end].trim());
    if NOTHING.is_match(&sentence) && !sentence.contains(is_digit) {
        return Some(None);
    }
    match in_digits(&sentence)? {
        Words::Read(digits) if is_open_to_numbers(&digits) => Some(number_said(&digits, false)),
        Words::Read(_) | Words::Unread => Some(None),
    }
}

/// `3 : 4` without its spaces, `1101 (base 2)` with a subscript.
pub(super) fn in_one_notation(sentence: &str) -> String {
    static RATIO: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?P<a>\d)\s+:\s+(?P<b>\d)"));
    static BASE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?P<digits>\b\d+)\$?\s*\(\s*base[\s-]+(?P<base>\d+)\s*\)"));
    let sentence = RATIO.replace_all(sentence, "$a:$b");
    BASE.replace_all(&sentence, "${digits}_${base}").into_owned()
}

/// Signs between the name of a variable and its value.
const RELATION: &str = r"\s*(?:=|<|>|\x{2264}|\x{2265}|\x{ff1d}|\\(?:leq?|geq?|lt|gt)\b)";

/// Where a sentence ends with the values of several variables or several values of one, `x = -2 and x = 1`, all of
/// them; the inner `None` where they cannot be read together.
pub(super) fn several(sentence: &str) -> Option<Option<String>> {
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        pattern(&format!(r"(?P<name>[A-Za-z]+(?:_\{{?\w\}}?|[\u{{2080}}-\u{{2089}}])?){RELATION}"))
    });
    static JOIN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:[,;\x{ff0c}\x{3001}&]|\b(?:and|or|while|whereas|but)\b|\x{6216}|\x{548c}|\x{4e14})[\s$\\(]*$",
        )
    });
    // What leads on from one value to another.
    static LEADS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:so|thus|hence|therefore|then|gives?|giving|means|implies|get|yields?|since",
            r"|because|if|when|for|with|where|making|which)\b|\\(?:implies|Rightarrow)|\x{21d2}|所以|则|得",
            r"|那么|即",
        ))
    });
    static CASE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:for|when|if|with|since|at|where|setting|taking|substituting|plugging(?:\s+in)?",
            r"|because|given|let|using|as)\s+[$\\(]*$|[当设把将由因]$|如果$|因为$|代入$",
        ))
    });
    let is_name = |start: usize| {
        let before = sentence[..start].trim_end_matches([' ', '$', '{']);
        let touches = sentence[..start].ends_with(|c: char| c.is_ascii_alphanumeric() || "_\\".contains(c));
        !touches
            && !before
                .ends_with(|c: char| "+-*/^=<>|\u{d7}\u{b7}\u{f7}\u{2212}\u{2264}\u{2265})}".contains(c))
    };
    let starts: Vec<usize> =
        NAME.find_iter(sentence).map(|found| found.start()).filter(|start| is_name(*start)).collect();
    let (last, earlier) = starts.split_last()?;
    let (mut first, mut is_open) = (*last, false);
    for start in earlier.iter().rev() {
        let between = &sentence[*start..first];
        let is_joined = JOIN.is_match(between) && !LEADS.is_match(between);
        is_open |= !is_joined && between.contains(" and ") && !LEADS.is_match(between);
        if !is_joined {
            break;
        }
        first = *start;
    }
    let before = &sentence[..first];
    if CASE.is_match(before) || first == *last && !is_open {
        return None;
    }
    // The dollar sign before a formula belongs to it.
    let open = before.len() - before.trim_end_matches(['$', '(', '\\']).len();
    let all = sentence[first - open..].replace(['\u{ff0c}', '\u{3001}'], ", ");
    let all = trimmed(&all.replace('\u{6216}', " or ").replace(['\u{548c}', '\u{4e14}'], " and "));
    let is_list = matches!(parse(&all), Answer::List { .. } | Answer::Union(_) | Answer::Chain(..));
    let is_said = !is_open && is_list && is_mathematics(&all) && clause::is_asserted(before);
    Some(is_said.then_some(all))
}

/// Units of which several make up one quantity, in Chinese.
const CHINESE_UNITS: &str =
    "个小时|小时|分钟|分米|分|秒|天|星期|周|个月|元|块|角|千米|公里|厘米|毫米|米|千克|公斤|克|吨|毫升|升|年";

/// `2 hours 15 minutes`, `5元5角`: a quantity of several units, where the sentence would say its last number; the inner
/// `None` where it would not.
fn compound(sentence: &str, is_cued: bool) -> Option<Option<String>> {
    static COMPOUND: LazyLock<Regex> = LazyLock::new(|| {
        let chinese = format!(r"\d+\s?(?:{CHINESE_UNITS})(?:零?\d+(?:\.\d+)?\s?(?:{CHINESE_UNITS}))+");
        let last = r"(?P<last>\d+(?:\.\d+)?\s*[A-Za-z]+)";
        pattern(&format!(
            r"(?P<all>\b\d+\s*[A-Za-z]+\.?(?:(?:\s*,\s*|\s+and\s+|\s*){last})+)|(?P<run>{chinese})"
        ))
    });
    let found = COMPOUND.find_iter(sentence).last()?;
    let value = found.as_str().replace(['零', ','], "");
    let is_compound = matches!(parse(&value), Answer::Value(value) if value.unit.is_mixed);
    let is_last = !sentence[found.end()..].contains(is_digit);
    if !is_compound || !is_last {
        return None;
    }
    let before = &sentence[..found.start()];
    let number = last_part(found.as_str());
    let is_other = before
        .trim_end()
        .ends_with(['-', '\u{2212}', '/', '+', '*', '=', '\u{d7}', '\u{b7}', '\u{f7}', '\u{b1}', '<', '>'])
        && !before.ends_with("= ");
    let alone = number_said(&format!("{before}{number}{}", &sentence[found.end()..]), is_cued);
    Some(alone.filter(|_| !is_other).map(|_| value))
}

/// The last number of a quantity with its unit.
fn last_part(quantity: &str) -> &str {
    let end = quantity.rfind(is_digit).unwrap_or(0);
    let start = quantity[..end].rfind(|c: char| !is_digit(c) && c != '.');
    let from = start.map_or(0, |at| at + quantity[at..].chars().next().map_or(1, char::len_utf8));
    &quantity[from..]
}

/// The time of day at the end of a sentence, `3:30 PM`.
fn clock(sentence: &str, is_cued: bool) -> Option<Option<String>> {
    static TIME: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?:^|\s)(?P<time>\d{1,2}(?::\d\d)?\s?[AaPp]\.?\s?[Mm]\.?)[\s*.]*$"));
    let time = TIME.captures(sentence)?.name("time")?;
    let before = &sentence[..time.start()];
    static PLANNED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\b(?:should|would|could)\s+have\b|\b(?:scheduled|supposed|expected|planned|due)\b")
    });
    let is_time = calendar::time(time.as_str()).is_some()
        && !before.contains(is_digit)
        && (is_cued || !PLANNED.is_match(before));
    let alone = number_said(&format!("{before}5"), is_cued);
    Some(alone.filter(|_| is_time).map(|_| time.as_str().to_owned()))
}

/// A sentence whose one number is in words.
pub(super) enum Words {
    /// With digits in the place of the words.
    Read(String),
    /// There are several numbers, or their words are no number.
    Unread,
}

/// Reads the number in words of a sentence without digits; `None` where it has none.
pub(super) fn in_digits(sentence: &str) -> Option<Words> {
    if sentence.contains(is_digit) || sentence.len() > 600 {
        return None;
    }
    english(sentence).or_else(|| chinese(sentence))
}

fn in_chinese(sentence: &str) -> Option<Words> {
    chinese(sentence).filter(|_| !sentence.contains(is_digit) && sentence.len() <= 600)
}

/// Words of numbers; "one" and "a" alone are none.
const NUMERALS: &str = "\
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million \
    billion dozen half halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth \
    eighths ninth ninths tenth tenths quarter quarters";

/// Things of a text, a few of which are no answer.
const OF_TEXT: &str = "\
    steps ways methods approaches mistakes errors cases parts things conditions options observations equations \
    variables unknowns sentences facts questions reasons possibilities steps";

fn english(sentence: &str) -> Option<Words> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[A-Za-z]+"));
    // "So one egg is left", not "one of them".
    static SAYS_ONE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^\W*(?:so|thus|hence|therefore|finally)\b[^.]*\bone\b(?:\s+[a-np-z]|\s*$)",
            r"|\b(?:is|are|leaves|equals|has|have|gets|remains?)\s+(?:only\s+|just\s+|exactly\s+)?one\b",
            r"(?:\s+[a-np-z]|\s*$)",
        ))
    });
    let words: Vec<(usize, usize, String)> = WORD
        .find_iter(sentence)
        .map(|word| (word.start(), word.end(), word.as_str().to_lowercase()))
        .collect();
    let is_numeral = |at: usize| lists(NUMERALS, &words[at].2);
    let touches = |at: usize| matches!(&sentence[words[at].1..words[at + 1].0], " " | "-" | "  ");
    let mut runs = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if !is_numeral(at) {
            at += 1;
            continue;
        }
        let start = at;
        loop {
            let joins = words.get(at + 1).is_some() && touches(at);
            let is_and = joins && words[at + 1].2 == "and";
            if joins && is_numeral(at + 1) {
                at += 1;
            } else if is_and && at + 2 < words.len() && touches(at + 1) && is_numeral(at + 2) {
                at += 2;
            } else {
                break;
            }
        }
        // "No one", "this one", "one of them".
        let is_one = at == start && words[at].2 == "one";
        let is_other = words.get(at + 1).is_some_and(|next| lists("more another of or way day", &next.2));
        if !is_one || SAYS_ONE.is_match(sentence) && !is_other {
            runs.push((start, at));
        }
        at += 1;
    }
    let (start, end) = match runs[..] {
        [] => return None,
        // "A hundred and seven".
        [(start, end)]
            if start > 0
                && words[start - 1].2 == "a"
                && lists("hundred thousand million dozen", &words[start].2) =>
        {
            (start - 1, end)
        }
        [run] => run,
        _ => return Some(Words::Unread),
    };
    let run: Vec<String> = words[start..=end].iter().map(|word| word.2.clone()).collect();
    let after = sentence[words[end].1..].trim_matches(|c: char| !c.is_alphanumeric());
    let whole = number_words::english(&run);
    let is_whole = whole.is_some();
    let is_small = whole.as_ref().is_some_and(|value| *value < numerals::ten(1));
    if is_small && words.get(end + 1).is_some_and(|thing| lists(OF_TEXT, &thing.2)) {
        return None;
    }
    let fraction = || number_words::english_fraction(&run).filter(|_| after.is_empty() && run.len() > 1);
    let others = words.iter().enumerate().filter(|(at, _)| !(start..=end).contains(at));
    let is_altered = others.clone().any(|(_, word)| {
        wording::alters(&word.2) || numerals::multiplier(&word.2).is_some() || word.2 == "one"
    });
    let is_single = start > 0 && matches!(words[start - 1].2.as_str(), "a" | "an" | "every" | "each" | "the");
    match whole.or_else(fraction).filter(|_| !is_altered && !is_single) {
        Some(value) => {
            let value =
                if is_whole { value.to_string() } else { format!("{}/{}", value.numer(), value.denom()) };
            let (before, after) = (&sentence[..words[start].0], &sentence[words[end].1..]);
            Some(Words::Read(format!("{before}{value}{after}")))
        }
        None => Some(Words::Unread),
    }
}

/// Words with a Chinese numeral that are no number.
const NO_NUMERALS: [&str; 23] = [
    "一共",
    "一起",
    "一样",
    "一定",
    "一些",
    "统一",
    "唯一",
    "一般",
    "一次函数",
    "二次",
    "一元",
    "一下",
    "一步",
    "万一",
    "十分",
    "三角",
    "四边",
    "五边",
    "六边",
    "一直",
    "一致",
    "一旦",
    "四舍五入",
];

fn chinese(sentence: &str) -> Option<Words> {
    let mut text = sentence.to_owned();
    for word in NO_NUMERALS {
        // Letters that are no numeral keep the places.
        text = text.replace(word, &"某".repeat(word.chars().count()));
    }
    let is_start = |c: char| numerals::is_chinese(c) || c == '负';
    let mut runs = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find(is_start).map(|start| at + start) {
        let found = numerals::chinese(&text[start..], None).filter(|found| found.length > 0);
        let is_ordinal = text[..start].ends_with(['第', '每', '几', '多', '数', '上', '好']);
        let Some(found) = found.filter(|_| !is_ordinal) else { return Some(Words::Unread) };
        at = start + found.length;
        runs.push((start, found));
    }
    let (start, found) = match runs.len() {
        0 => return None,
        1 => runs.pop()?,
        _ => return Some(Words::Unread),
    };
    let after = text[start + found.length..].trim_end_matches(['\u{3002}', '.', '!', '\u{ff01}', ' ']);
    let is_counted = after.is_empty() || units::counter(after).is_some() || units::is_chinese_unit(after);
    // One numeral alone may be a part of a word.
    let is_number = found.length > '一'.len_utf8() || !after.is_empty();
    // "This is a triangle."
    if !is_counted
        && found.length == '一'.len_utf8()
        && sentence[start..].starts_with('一')
        && !after.starts_with('半')
    {
        return None;
    }
    if !is_counted || !is_number || after.starts_with(['多', '几', '余']) {
        return Some(Words::Unread);
    }
    let value = match (found.value.is_integer(), found.is_percent) {
        (true, true) => format!("{}%", found.value),
        (true, false) => found.value.to_string(),
        (false, true) => return Some(Words::Unread),
        (false, false) => format!("{}/{}", found.value.numer(), found.value.denom()),
    };
    let (before, after) = (&sentence[..start], &sentence[start + found.length..]);
    Some(Words::Read(format!("{before}{value}{after}")))
}
