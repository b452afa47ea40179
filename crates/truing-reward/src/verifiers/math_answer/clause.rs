//! Whether the words around a number leave it what the text says.
//!
//! A number is an answer where everything between the cue before it ("the answer is", "=", a verb such as
//! "makes") and the end of its clause is known: articles and the like before it, a unit or counted things and
//! where or when they are after it. Any other word beside the number makes of it a part of a text, which equals
//! no number.

use std::sync::LazyLock;

use regex::Regex;

use super::wording::{self, alters, lists};
use crate::verifiers::pattern::pattern;

/// A word, number or mark of running text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Word(String),
    Number,
    Mark(char),
    /// Letters of scripts without spaces.
    Run(String),
}

impl Part {
    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Words that say nothing between a cue and its number.
const FILLERS: &str = "\
    a an the exactly just only about approximately roughly around simply indeed now still also \
    additional extra actually really clearly all altogether together us him her them you me it usd eur \
    rs grand genau exactamente exactement esattamente exatamente";

/// Verbs and other words after which a number is what the clause says.
const CUES: &str = "\
    is are was were be becomes equals equal gives give gave get gets got makes make made has have had \
    needs need needed costs cost pays pay paid spends spend spent earns earn earned takes take took uses \
    use used buys buy bought sells sell sold saves save saved eats eat ate drinks drink drank receives \
    receive received leaves leave left collects collect collected weighs weigh weighed runs run ran \
    walks walk walked drives drive drove travels travel traveled travelled reads read writes write wrote \
    bakes bake baked contains contain contained holds hold held produces produce produced owes owe owed \
    owns own owned wins win won loses lose lost finds find found totals remain remains requires require \
    required works work worked lasts lasted measures scores scored picks picked pick plants planted \
    obtain obtains obtained yields yield gains gained so then thus therefore hence finally total sum \
    result answer cover covers covered swims swam throws threw caught catches brings brought gathers \
    gathered serves served fills worth average averages contribute contributes contributed donated \
    raised charges charged sends sent visited watched played slept sleeps lays laid grew returned \
    delivered printed i.e sind sont son sono s\u{e3}o earning making giving leaving totaling totalling \
    costing paying saving getting spending reaching weighing es hay tiene tienen gana ganan paga pagan cuesta \
    cuestan queda quedan paie paient co\u{fb}te co\u{fb}tent gagne gagnent reste restent hat haben zahlt zahlen \
    kostet kosten verdient verdienen bleiben bleibt ha hanno costa costano restano tem t\u{ea}m h\u{e1} custa \
    custam ganha ganham restam";

/// Nouns after which "of" leads to their own number.
const AMOUNTS: &str = "\
    total profit cost amount price distance length area volume average income speed weight salary height \
    sum perimeter width loss budget savings earnings pay bill discount balance mean median score \
    population age maximum minimum";

/// Words that deny, doubt or suppose what their clause says, or compute with it.
const SUBJECT: &str = "\
    not no non never none nobody neither nor cannot without except anything isn aren wasn weren doesn \
    don didn wouldn couldn shouldn can't hardly barely if unless whether might may could maybe perhaps \
    possibly unlikely than minus negative twice thrice double triple half square squared cube cubed root \
    reciprocal inverse opposite negation logarithm log wrong incorrect false either between or instead \
    thought believed supposed claimed n ne n\u{e3}o nao nunca jamais nicht nie niemals kein keine pas \
    moins menos meno bound plus tampoco nadie ninguna";

/// Words that cast doubt on all that their sentence says.
const DOUBT: &str = "\
    doubt doubts doubtful nobody unlikely impossible untrue deny denies suppose supposing assume \
    assuming guess pretend reject exclude refute mistaken mistake tempting tempted naive naively say says \
    claim claims";

/// Words that lead on from a number and its unit to where, when and for what.
pub(super) const TAILS: &str = "\
    in at per a an each every for of on from after during to with because since which that by when as \
    who while left total altogether overall remaining and away long tall wide deep high old apiece daily \
    weekly monthly yearly annually heavy thick together back this today now so until he she they it is are \
    was were will would the his her their its combined between among across into remain remains can do \
    did had has have must should available through below out inside here there all exactly via if than";

pub(super) fn parts(text: &str) -> Vec<Part> {
    let letters: Vec<char> = text.chars().map(super::token::narrow).collect();
    let is_latin = wording::is_latin_letter;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&letter) = letters.get(at) {
        let start = at;
        if is_latin(letter) {
            while letters.get(at).is_some_and(|c| is_latin(*c)) {
                at += 1;
            }
            let word: String = letters[start..at].iter().collect::<String>().to_lowercase();
            if letters.get(at) == Some(&'\'') && letters.get(at + 1) == Some(&'t') && word.ends_with('n') {
                at += 2;
                found.push(Part::Word("not".into()));
                continue;
            }
            // 's, 're and the like.
            let is_ending = start > 0 && letters[start - 1] == '\'' && !found.is_empty();
            if start > 0 && letters[start - 1] == '\\' {
                found.pop();
                if !matches!(word.as_str(), "text" | "textbf" | "mathrm" | "quad" | "therefore" | "implies") {
                    found.push(Part::Mark('\\'));
                }
            } else if is_ending && matches!(word.as_str(), "s" | "re" | "m" | "ll" | "ve" | "d") {
                found.push(Part::Word(if word == "s" { "is" } else { "are" }.into()));
            } else {
                found.push(Part::Word(word));
            }
            continue;
        }
        at += 1;
        let is_within =
            start > 0 && is_latin(letters[start - 1]) && letters.get(at).is_some_and(|next| is_latin(*next));
        if letter == '-' && is_within {
            // push-ups
            continue;
        }
        if letter == '/' && is_within {
            found.push(Part::Word("per".into()));
        } else if letter.is_ascii_digit() {
            while letters.get(at).is_some_and(|c| c.is_ascii_digit() || matches!(c, '.' | ',')) {
                at += 1;
            }
            found.push(Part::Number);
        } else if letter.is_alphabetic() {
            while letters.get(at).is_some_and(|c| c.is_alphabetic() && !is_latin(*c)) {
                at += 1;
            }
            found.push(Part::Run(letters[start..at].iter().collect()));
        } else if !(letter.is_whitespace()
            || matches!(
                letter,
                '*' | '_'
                    | '`'
                    | '"'
                    | '\''
                    | '$'
                    | '('
                    | ')'
                    | '\u{201c}'
                    | '\u{201d}'
                    | '\u{20ac}'
                    | '\u{a3}'
                    | '\u{a5}'
                    | '#'
            ))
        {
            found.push(Part::Mark(letter));
        }
    }
    found
}

/// What is around a number.
pub(super) struct Around<'a> {
    pub(super) before: &'a str,
    pub(super) after: &'a str,
    /// Whether a cue is before all of it.
    pub(super) is_cued: bool,
    /// Whether it is the right side of an equation, which is a cue of its own.
    pub(super) is_equation: bool,
    /// Whether a unit has been read with it.
    pub(super) has_unit: bool,
    /// Whether it is one or less, and what it counts in the singular.
    pub(super) is_single: bool,
}

impl Around<'_> {
    /// Whether the clause says the number.
    pub(super) fn says(&self) -> bool {
        let leads = if self.is_equation {
            precedes_equation(self.before)
        } else {
            leads_to(self.before, self.is_cued)
        };
        leads && self.follows()
    }
}

/// Whether words may be before an equation without computing with it.
fn precedes_equation(before: &str) -> bool {
    let parts = parts(before);
    let near = clause(&parts);
    let near = &near[near.len().saturating_sub(4)..];
    let is_doubted = parts.iter().any(|part| part.word().is_some_and(|word| lists(DOUBT, word)));
    let ends_well = !matches!(parts.last(), Some(Part::Number | Part::Mark('\\' | '\u{2260}' | '\u{b1}')));
    !is_doubted && ends_well && is_plain_subject(near)
}

/// Whether what is before a number leads to it.
fn leads_to(before_text: &str, is_cued: bool) -> bool {
    let parts = parts(before_text);
    if parts.iter().any(|part| part.word().is_some_and(|word| lists(DOUBT, word))) {
        return false;
    }
    let mut end = parts.len();
    loop {
        match parts[..end].last() {
            None => return true,
            // "Elle a": she has.
            Some(Part::Word(word)) if word == "a" && is_french_subject(&parts[..end - 1]) => {
                return is_plain_subject(&parts[..end]);
            }
            Some(Part::Word(word)) if lists(FILLERS, word) => end -= 1,
            Some(_) => break,
        }
    }
    let subject = &parts[..end - 1];
    match &parts[end - 1] {
        Part::Word(word) => {
            let before = subject.last().and_then(Part::word).unwrap_or_default();
            let fits = match word.as_str() {
                "of" => {
                    lists(AMOUNTS, before)
                        && !subject.iter().rev().nth(1).and_then(Part::word).is_some_and(alters)
                }
                "by" => is_change(before),
                "to" => {
                    let verb = subject.iter().rev().nth(1).and_then(Part::word).unwrap_or_default();
                    is_change(before)
                        || matches!(before, "comes" | "equal" | "amounts" | "adds")
                        || (matches!(before, "up" | "out")
                            && matches!(verb, "adds" | "add" | "comes" | "sums"))
                }
                "with" => matches!(before, "left" | "him" | "her" | "them" | "us" | "up"),
                "for" | "in" | "at" | "into" => {
                    let is_when = matches!(before, "is" | "was" | "are" | "were") || subject.is_empty();
                    const WISHES: &str =
                        "hopes hoped asks asked aims aimed wishes wished waits waited looks looked";
                    !subject.contains(&Part::Number) && !is_when && !lists(WISHES, before)
                }
                // "18 then 20"
                "then" if is_cued => !subject.contains(&Part::Number),
                "then" => {
                    let earlier = before_text.rfind("then").map_or("", |at| &before_text[..at]);
                    !earlier.trim_end().ends_with(|c: char| c.is_ascii_digit())
                }
                "up" | "down" | "off" | "out" | "back" => {
                    is_cue(before, &subject[..subject.len().saturating_sub(1)])
                }
                "is" | "was" | "are" | "were" if !is_cued => {
                    let name = clause(subject);
                    name.contains(&Part::Number)
                        || !wording::names_another(name.iter().filter_map(Part::word))
                }
                word => is_cue(word, subject),
            };
            fits && is_plain_subject(&parts[..end])
        }
        // A name before a colon, an introduction before a comma.
        Part::Mark(':') => {
            wording::is_name(clause(subject).iter().filter_map(Part::word))
                && !clause(subject).contains(&Part::Number)
        }
        Part::Mark(',') => {
            is_plain_subject(subject) && !subject.contains(&Part::Number) && subject.len() <= 6 && !is_cued
        }
        Part::Mark('=' | '\u{2248}' | '\u{2192}' | '\u{21d2}') => {
            let name = clause(subject);
            let is_other =
                !name.contains(&Part::Number) && wording::names_another(name.iter().filter_map(Part::word));
            is_plain_subject(subject) && !is_other
        }
        Part::Run(run) => is_run_cue(run, is_cued && end == 1),
        Part::Mark(_) | Part::Number => false,
    }
}

/// Whether words end with a French pronoun before "a".
fn is_french_subject(before: &[Part]) -> bool {
    before.last().and_then(Part::word).is_some_and(|word| lists("elle il on", word))
}

/// Whether a word leads to a number: one that is known to, or a verb by its ending or by what is before it.
fn is_cue(word: &str, before: &[Part]) -> bool {
    // Verbs that set a number apart or compute with it.
    const OTHERS: &str = "\
        exceed exclud reject doubt avoid discard eliminat deni deny refut disprov dismiss halv doubl \
        tripl squar divid multipl subtract negat invert lack miss fail rul differ surpass outnumber \
        includ precede follow contradict approach want wish hope expect ask tried tries request demand aim plan";
    if lists(CUES, word) {
        return true;
    }
    if OTHERS.split_whitespace().any(|stem| word.starts_with(stem))
        || alters(word)
        || lists(TAILS, word)
        || word.len() < 3
    {
        return false;
    }
    let before = before.last().and_then(Part::word).unwrap_or_default();
    let follows_subject = matches!(
        before,
        "he" | "she"
            | "it"
            | "they"
            | "we"
            | "you"
            | "i"
            | "who"
            | "will"
            | "can"
            | "would"
            | "must"
            | "should"
            | "to"
    );
    word.ends_with("ed") || follows_subject
}

/// Verbs of change, whose number comes after "by" or "to".
fn is_change(word: &str) -> bool {
    const STEMS: &str = "\
        grow grew increase decrease rise rose fall fell drop reduc go went gain shrink shrank chang";
    STEMS.split_whitespace().any(|stem| word.starts_with(stem)) && !matches!(word, "good" | "goods" | "gold")
}

/// The parts after the last mark or word that starts a clause.
fn clause(parts: &[Part]) -> &[Part] {
    const STARTS: [&str; 8] = ["so", "therefore", "thus", "hence", "then", "and", "because", "but"];
    let start = parts.iter().rposition(|part| match part {
        Part::Mark(mark) => matches!(mark, ',' | ';' | ':'),
        Part::Word(word) => STARTS.contains(&word.as_str()),
        _ => false,
    });
    &parts[start.map_or(0, |at| at + 1)..]
}

fn is_plain_subject(parts: &[Part]) -> bool {
    let clause = clause(parts);
    clause.iter().enumerate().all(|(at, part)| match part {
        // "Three times the answer", not "the number of times".
        Part::Word(word) if word == "times" => {
            at.checked_sub(1).is_some_and(|before| clause[before].word() == Some("of"))
        }
        Part::Word(word) => !lists(SUBJECT, word),
        Part::Mark(mark) => !matches!(mark, '\u{2260}' | '\u{b1}' | '\\'),
        Part::Run(run) => !run.contains(is_run_barred) && !lists(RUSSIAN_BARRED, &run.to_lowercase()),
        Part::Number => true,
    })
}

/// Whether the text before a cue leaves what the cue says: it neither denies, doubts, supposes nor computes with it,
/// and does not give it as another's.
pub(super) fn is_asserted(before: &str) -> bool {
    let own = before.rsplit(';').next().unwrap_or(before);
    let parts = parts(own);
    !is_of_another(before)
        && !parts.iter().any(|part| part.word().is_some_and(|word| lists(DOUBT, word)))
        && is_plain_subject(&parts)
}

/// Whether a sentence gives what follows as what somebody else says: "Tom thinks", "according to the textbook".
pub(super) fn is_of_another(sentence: &str) -> bool {
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:thinks|says|claims|believes|argues|insists|guesses|answers|suggests|maintains",
            r"|asserts)\b(?:\s+that)?[\s,:\x22\u{201c}]*(?:the\s|it\s|\x22|\u{201c}|[$\\\d]|$)",
            r"|\b(?:he|she|they|someone|somebody|student|students|people|friend|teacher|textbook|book|manual",
            r"|key)\s+(?:said|thought|claimed|believed|argued|insisted|guessed|answered|wrote|suggested",
            r"|told\s+\w+|(?:would\s+)?(?:answer|say|think))\b",
            r"(?:\s+(?:that|it|the)\b|[\s,:$\\\x22\u{201c}\d.]*$)",
            r"|\baccording\s+to\s+(?:him|her|them|my|some|a\s|the\s+(?:text)?book|the\s+",
            r"(?:teacher|student|manual|key|answer\s+key|internet|author))",
            r"|\b(?:my|another|one|some)\s+(?:friends?|classmates?|students?|teacher|colleague|tutor)\s+",
            r"(?:gets?|got|obtains?|obtained|had|found)\s+[$\\]*(?:\d[\d.,]*[\s.$]*)?$",
            r"|\b(?:textbook|manual|answer\s+key|solution\s+key|calculator)\s+(?:gives|has|shows|lists|states)\b",
        ))
    });
    // Names begin with a capital.
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"\b[A-Z][a-z]+\s+(?:said|thought|claimed|believed|argued|insisted|guessed|answered|wrote",
            r"|suggested|told\s+\w+)\b(?:\s+(?:that|it|the)\b|[\s,:$\\\x22\u{201c}\d.]*$)",
        ))
    });
    static ACCORDING: LazyLock<Regex> = LazyLock::new(|| pattern(r"[Aa]ccording\s+to\s+[A-Z]"));
    let sentence = sentence.rsplit(';').next().unwrap_or(sentence);
    let sentence = sentence.rsplit(", but ").next().unwrap_or(sentence);
    OTHERS.is_match(sentence) || NAMED.is_match(sentence) || ACCORDING.is_match(sentence)
}

/// Russian words that lead to a number.
const RUSSIAN_CUES: &str = "\
    неё него них нас меня вас всего осталось стало будет итого равно равен равна составляет стоит получил получила \
    получили получаем имеет значит";
/// Russian words that deny their clause or compute with its number.
const RUSSIAN_BARRED: &str = "\
    не нет ни если около почти больше меньше более менее половина дважды вдвое минус или либо возможно якобы";

fn is_run_barred(letter: char) -> bool {
    "不非没沒无無未负負根或至倍除减減乘半か".contains(letter)
}

/// Whether letters of Chinese or Japanese before a number lead to it.
fn is_run_cue(run: &str, is_whole: bool) -> bool {
    const PARTS: [&str; 20] = [
        "应该",
        "應該",
        "应当",
        "就",
        "是",
        "为",
        "為",
        "等于",
        "等於",
        "一共",
        "总共",
        "總共",
        "共",
        "有",
        "约",
        "大约",
        "即",
        "は",
        "需要",
        "全部で",
    ];
    const BARRED: [&str; 26] = [
        "零下",
        "至少",
        "至多",
        "不到",
        "最多",
        "最少",
        "将近",
        "接近",
        "大于",
        "小于",
        "超过",
        "多于",
        "少于",
        "高于",
        "低于",
        "可能",
        "也许",
        "或许",
        "より",
        "マイナス",
        "之",
        "最",
        "または",
        "おそらく",
        "たぶん",
        "もしかし",
    ];
    const ENDINGS: &str =
        "是为為有了得共赚要需花用付买卖剩下过走跑吃给达重长高宽深厚远贵行回出成於于はがをもで計计";
    if lists(RUSSIAN_CUES, &run.to_lowercase()) {
        return true;
    }
    let mut rest = run;
    while let Some(part) = PARTS.iter().find(|part| rest.starts_with(**part)) {
        rest = &rest[part.len()..];
    }
    if is_whole && rest.is_empty() {
        return true;
    }
    !run.contains(is_run_barred)
        && !BARRED.iter().any(|barred| run.contains(barred))
        && (run.ends_with(|c| ENDINGS.contains(c)) || run.contains('占') && run.ends_with(['的', '占']))
}
