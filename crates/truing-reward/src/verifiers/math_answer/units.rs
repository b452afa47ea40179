//! Units, currencies, counters and counted things beside a number.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use num_rational::BigRational;
use num_traits::One;
use regex::Regex;

use super::token::{Kind, Token};
use super::wording::{self, lists};
use crate::verifiers::pattern::pattern;

/// What a number counts or measures. Empty where the text names nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Unit {
    /// Exponents of base units.
    pub(super) dimensions: BTreeMap<&'static str, i32>,
    /// What one of it is in base units; `None` is 1.
    pub(super) factor: Option<BigRational>,
    /// A counted thing that is in no table, in lower case and singular.
    pub(super) counted: Option<String>,
    /// The base that a subscript names.
    pub(super) base: Option<String>,
    /// Whether the number is that of several units, as in "4 h 30 min".
    pub(super) is_mixed: bool,
}

/// Names, base unit, and what one is in base units as numerator and denominator.
type Row = (&'static [&'static str], &'static str, i64, i64);

const TABLE: &[Row] = &[
    (
        &[
            "m",
            "meter",
            "metre",
            "米",
            "м",
            "метр",
            "метра",
            "метров",
            "metro",
            "mètre",
            "metrów",
            "公尺",
            "メートル",
        ],
        "m",
        1,
        1,
    ),
    (
        &[
            "cm",
            "centimeter",
            "centimetre",
            "厘米",
            "см",
            "сантиметр",
            "сантиметров",
            "centimetro",
            "centímetro",
            "centimètre",
            "zentimeter",
            "centymetrów",
            "公分",
            "センチ",
            "センチメートル",
        ],
        "m",
        1,
        100,
    ),
    (
        &["mm", "millimeter", "millimetre", "millimètre", "milimetrów", "миллиметров", "毫米", "мм"],
        "m",
        1,
        1000,
    ),
    (&["dm", "decimeter", "decimetre", "分米"], "m", 1, 10),
    (
        &[
            "km",
            "kilometer",
            "kilometre",
            "千米",
            "км",
            "километр",
            "километра",
            "километров",
            "kilometro",
            "kilómetro",
            "kilomètre",
            "kilometrów",
            "公里",
            "キロメートル",
        ],
        "m",
        1000,
        1,
    ),
    (&["nm", "nanometer", "nanometre"], "m", 1, 1_000_000_000),
    (&["in", "inch", "inche", "英寸"], "m", 254, 10_000),
    (&["ft", "foot", "feet", "fuß", "füße", "英尺", "フィート"], "m", 3048, 10_000),
    (&["yd", "yard", "码"], "m", 9144, 10_000),
    (&["mi", "mile", "英里", "マイル"], "m", 1_609_344, 1000),
    (&["g", "gram", "gramme", "г", "грамм", "граммов", "gramo", "gramów", "克", "グラム"], "g", 1, 1),
    (
        &[
            "kg",
            "kilogram",
            "kilogramme",
            "kilo",
            "кг",
            "килограмм",
            "килограмма",
            "килограммов",
            "kilogramo",
            "kilogramm",
            "kilogramów",
            "千克",
            "公斤",
            "キロ",
            "キログラム",
        ],
        "g",
        1000,
        1,
    ),
    (&["mg", "milligram", "毫克"], "g", 1, 1000),
    (&["lb", "pound", "磅", "ポンド"], "lb", 1, 1),
    (&["oz", "ounce", "盎司", "オンス"], "oz", 1, 1),
    (&["ton", "tonne", "吨", "トン"], "ton", 1, 1),
    (
        &[
            "s",
            "sec",
            "second",
            "segundo",
            "seconde",
            "sekunde",
            "sekunden",
            "секунд",
            "секунда",
            "секунды",
            "秒",
        ],
        "s",
        1,
        1,
    ),
    (&["ms", "millisecond", "毫秒"], "s", 1, 1000),
    (&["min", "minute", "minuto", "minuten", "минута", "мин", "минут", "минуты", "分钟", "分"], "s", 60, 1),
    (
        &[
            "h",
            "hr",
            "hour",
            "hora",
            "heure",
            "stunde",
            "stunden",
            "час",
            "ч",
            "часа",
            "часов",
            "小时",
            "時間",
        ],
        "s",
        3600,
        1,
    ),
    (&["day", "día", "jour", "tag", "tage", "день", "дней", "дня", "天", "日"], "s", 86_400, 1),
    (&["week", "wk", "周", "星期", "週間"], "s", 604_800, 1),
    (&["month", "месяцев", "miesięcy", "个月", "月", "ヶ月", "か月"], "month", 1, 1),
    (&["yr", "year", "año", "jahr", "jahre", "année", "лет", "год", "года", "年"], "month", 12, 1),
    (&["yearold", "岁", "歳"], "age", 1, 1),
    (&["l", "liter", "litre", "литр", "литров", "litrów", "升", "リットル"], "l", 1, 1),
    (&["ml", "milliliter", "millilitre", "毫升"], "l", 1, 1000),
    (&["gal", "gallon", "加仑", "ガロン"], "gal", 1, 1),
    (&["quart", "qt"], "gal", 1, 4),
    (&["pint", "pt"], "gal", 1, 8),
    (&["cup", "杯"], "cup", 1, 1),
    (&["acre", "英亩"], "acre", 1, 1),
    (&["hectare", "公顷"], "hectare", 1, 1),
    (&["degree", "deg", "度", "grado", "grad", "degré", "градус", "градуса", "градусов"], "degree", 1, 1),
    (&["radian", "rad"], "radian", 1, 1),
    (&["celsius"], "celsius", 1, 1),
    (&["fahrenheit"], "fahrenheit", 1, 1),
    (&["kelvin"], "kelvin", 1, 1),
    (&["hz", "hertz"], "hertz", 1, 1),
    (&["n", "newton"], "newton", 1, 1),
    (&["j", "joule"], "joule", 1, 1),
    (&["kj", "kilojoule"], "joule", 1000, 1),
    (&["kwh"], "joule", 3_600_000, 1),
    (&["w", "watt"], "watt", 1, 1),
    (&["kw", "kilowatt"], "watt", 1000, 1),
    (&["v", "volt"], "volt", 1, 1),
    (&["ohm"], "ohm", 1, 1),
    (&["pa", "pascal"], "pascal", 1, 1),
    (&["mol", "mole"], "mole", 1, 1),
    (&["unit", "单位"], "unit", 1, 1),
    (&["dollar", "usd", "buck", "доллар", "долларов", "dolarów", "美元", "ドル"], "USD", 1, 1),
    (&["cent", "центов", "centów", "美分", "セント"], "USD", 1, 100),
    (&["euro", "eur", "欧元", "ユーロ"], "EUR", 1, 1),
    (&["gbp", "英镑"], "GBP", 1, 1),
    (&["yuan", "rmb", "cny", "元", "块", "人民币", "块钱", "yen", "jpy", "日元", "円"], "\u{a5}", 1, 1),
    (&["角", "毛"], "\u{a5}", 1, 10),
    (&["rupee", "inr"], "INR", 1, 1),
    (&["рубль", "рубля", "рублей", "руб", "rub", "ruble", "rouble"], "RUB", 1, 1),
    (&["злотый", "zł", "zloty", "złoty", "złotych", "pln"], "PLN", 1, 1),
];

/// Counters of Chinese and Japanese: they say nothing about what is counted.
const COUNTERS: &[&str] = &[
    "个", "個", "只", "颗", "张", "条", "本", "枚", "人", "名", "位", "次", "页", "朵", "棵", "头", "匹",
    "辆", "件", "双", "对", "瓶", "盒", "箱", "袋", "套", "份", "块", "根", "支", "栋", "间", "班", "组",
    "层", "圈", "台", "部", "口", "把", "片", "粒", "束", "卷", "碗", "盘", "道", "题", "分", "つ", "冊",
    "巻", "回", "頭", "羽", "杯", "倍",
];

/// "Times as much" in Chinese and Japanese.
const MULTIPLE: &str = "倍";

/// Words that change what a number says: with one of them the text is more than a number.
const MEANINGFUL: &str = "\
    and more higher lower over least most power remainder base infinity to from between through if when \
    where for then by percent up down past before after until till about is are was be th st nd rd pm am \
    bc ad others else maximum minimum max wait actually true only fails works holds seems lacks equals";

/// Trailing words that add nothing to a unit.
const FILLERS: &str = "\
    long tall wide deep high heavy thick old away each total altogether exactly overall left remaining";

const SINGLE: &str = "mgshlLNJWVK";

/// Whether a letter beside a number can be a unit.
pub(super) fn letter(text: &str) -> bool {
    text.len() == 1 && SINGLE.contains(text)
}

fn singular(word: &str) -> String {
    let lower = word.to_lowercase();
    let lower = lower.trim_end_matches('.');
    match lower {
        "feet" => return "foot".to_owned(),
        "inches" => return "inch".to_owned(),
        "people" | "persons" => return "person".to_owned(),
        "children" => return "child".to_owned(),
        "celsius" => return "celsius".to_owned(),
        _ => {}
    }
    let stem = lower.strip_suffix('s').filter(|stem| stem.len() > 1 && !stem.ends_with('s')).unwrap_or(lower);
    stem.strip_suffix("ie").map_or_else(|| stem.to_owned(), |stem| format!("{stem}y"))
}

fn row(word: &str) -> Option<&'static Row> {
    let find = |name: &str| TABLE.iter().find(|(names, ..)| names.contains(&name));
    let lower = word.to_lowercase();
    find(&lower).or_else(|| find(&singular(word)))
}

/// Whether a word is a unit or a currency of the table.
pub(super) fn is_known(word: &str) -> bool {
    row(word).is_some()
}

/// The units that a text starts with, with their exponents and what they are divided by: `km/h`, `square feet`,
/// `miles per hour`; LaTeX's braces and commands for text are left out. Where the number before it has a unit already,
/// only what divides or multiplies that one is read. Empty where there is none.
pub(super) fn leading(text: &str, has_unit: bool) -> String {
    static SHOWN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\\(?:text|textrm|textbf|mathrm|mbox|left|right)\b|\\[,;:!()\[\]]|\\ |[~${}*]")
    });
    static FACTOR: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^(?P<by>\s*(?:/|\\cdot\b|\u{b7})\s*|\s+(?:per|an?)\s+|\s+)?(?:(?:square|cubic|sq|cu)\s+)?",
            r"(?P<unit>[a-z]+)(?:\s?\^\s?-?\d|[\u{b2}\u{b3}]|\s+(?:squared|cubed)\b)?",
        ))
    });
    static PAST: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\s+ago\b"));
    let mut end = text.len().min(120);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let spaces = |found: &regex::Captures<'_>| if found[0].starts_with('\\') { " " } else { "" }.to_owned();
    let shown = SHOWN.replace_all(&text[..end], spaces);
    let shown = if has_unit { format!(" {}", shown.trim_start()) } else { shown.trim_start().to_owned() };
    let mut end = 0;
    while let Some(found) = FACTOR.captures(&shown[end..]) {
        let by = found.name("by").map_or("", |by| by.as_str());
        let rest = &shown[end + found[0].len()..];
        // "5 minutes a day" divides, "5 minutes in" and "5 days a week ago" do not.
        let is_first = end == 0 && !has_unit;
        if is_first != by.is_empty()
            || !is_first && by.trim().is_empty()
            || !is_known(&found["unit"])
            || PAST.is_match(rest)
        {
            break;
        }
        end += found[0].len();
    }
    shown[..end].trim().replace(" squared", "^2").replace(" cubed", "^3")
}

/// What a counter or unit directly after a Chinese numeral is, with the thing that it counts.
pub(super) fn counter(text: &str) -> Option<&str> {
    if row(text).is_some() || is_chinese_unit(text) {
        return Some(text);
    }
    let found =
        COUNTERS.iter().copied().filter(|counter| text.starts_with(counter)).max_by_key(|c| c.len())?;
    let thing = &text[found.len()..];
    (thing.chars().count() <= 4 && !thing.contains(is_barred)).then_some(found)
}

/// The Chinese unit that a text is up to its first mark; else nothing.
pub(super) fn leading_chinese(text: &str) -> &str {
    let text = text.trim_start_matches([' ', '*', '$']);
    let end = text.find(|c: char| !c.is_alphabetic() || c.is_ascii()).unwrap_or(text.len());
    if counter(&text[..end]).is_some() { &text[..end] } else { "" }
}

/// Whether letters are a Chinese unit, `平方米` and `米每秒` as well.
pub(super) fn is_chinese_unit(text: &str) -> bool {
    let bare = text.strip_prefix("平方").or_else(|| text.strip_prefix("立方")).unwrap_or(text);
    !bare.is_ascii() && row(bare).is_some()
}

/// Characters of Chinese and Japanese that make of a counted thing something else.
fn is_barred(letter: char) -> bool {
    const BARRED: &str =
        "不非未没无约余多少半至到或和与上下分之倍第以超过近几左右负正加减乘除的号方根折成打兆错误负の点";
    let is_hiragana = ('\u{3040}'..='\u{309f}').contains(&letter);
    is_hiragana || BARRED.contains(letter) || super::numerals::is_chinese(letter)
}

impl Unit {
    pub(super) fn currency(name: &'static str) -> Self {
        Self { dimensions: BTreeMap::from([(name, 1)]), ..Self::default() }
    }

    pub(super) fn is_none(&self) -> bool {
        self.dimensions.is_empty() && self.counted.is_none() && self.base.is_none()
    }

    pub(super) fn is_degree(&self) -> bool {
        self.counted.is_none() && self.dimensions.len() == 1 && self.dimensions.get("degree") == Some(&1)
    }

    pub(super) fn is_radian(&self) -> bool {
        self.counted.is_none() && self.dimensions.len() == 1 && self.dimensions.get("radian") == Some(&1)
    }

    fn multiply(&mut self, row: &'static Row, exponent: i32) {
        let (_, dimension, above, below) = row;
        *self.dimensions.entry(dimension).or_default() += exponent;
        self.dimensions.retain(|_, exponent| *exponent != 0);
        if above != below {
            let one = BigRational::new((*above).into(), (*below).into());
            let factor = num_traits::Pow::pow(&one, num_bigint::BigInt::from(exponent));
            self.factor = Some(self.factor.take().unwrap_or_else(BigRational::one) * factor);
        }
    }

    /// Currency before the number and unit after it; one that is named twice counts once.
    pub(super) fn with(mut self, other: Self) -> Self {
        if other.is_none() || (!self.dimensions.is_empty() && self.dimensions == other.dimensions) {
            return self;
        }
        for (dimension, exponent) in other.dimensions {
            *self.dimensions.entry(dimension).or_default() += exponent;
        }
        self.factor = match (self.factor, other.factor) {
            (Some(a), Some(b)) => Some(a * b),
            (a, b) => a.or(b),
        };
        self.counted = self.counted.or(other.counted);
        self.base = self.base.or(other.base);
        self.is_mixed |= other.is_mixed;
        self
    }

    fn is_money(&self) -> bool {
        ["USD", "EUR", "GBP", "INR", "RUB", "PLN", "\u{a5}"]
            .iter()
            .any(|name| self.dimensions.get(name) == Some(&1))
    }

    /// Whether only a number of this unit is a multiple, or the two are written in different bases. Ten is the base of
    /// a number that names none.
    pub(super) fn adds_meaning(&self, other: &Self) -> bool {
        let is_multiple = |unit: &Self| unit.counted.as_deref().is_some_and(|it| it.starts_with(MULTIPLE));
        let base = |unit: &Self| unit.base.clone().filter(|base| base != "10");
        base(self) != base(other) || is_multiple(self) && !is_multiple(other)
    }

    /// Whether two units can name the same quantity. A missing unit fits every other.
    pub(super) fn fits(&self, other: &Self) -> bool {
        if self.is_none() || other.is_none() {
            // 4 h 30 min have no number of their own.
            return !self.is_mixed && !other.is_mixed;
        }
        if self == other {
            return true;
        }
        if self.base.is_some() || other.base.is_some() {
            return self.base == other.base;
        }
        match (&self.counted, &other.counted) {
            (Some(a), Some(b)) => {
                let has = |long: &str, short: &str| long.split(' ').any(|word| word == short);
                a == b || a.split(' ').all(|word| has(b, word)) || b.split(' ').all(|word| has(a, word))
            }
            (None, None) => {
                // "$18 a day" answers a question about dollars.
                let whole = |unit: &Self| -> BTreeMap<&'static str, i32> {
                    unit.dimensions.iter().filter(|(_, e)| **e > 0).map(|(d, e)| (*d, *e)).collect()
                };
                self.dimensions == other.dimensions
                    || ((self.is_money() || other.is_money())
                        && (self.dimensions.len() == 1 || other.dimensions.len() == 1)
                        && whole(self) == whole(other))
            }
            // "5 units" and "5 apples" do not exclude each other, "5 dollars" and "5 apples" do.
            (None, Some(_)) => self.dimensions.contains_key("unit"),
            (Some(_), None) => other.dimensions.contains_key("unit"),
        }
    }

    /// What stands after a number, if it is a unit or a counted thing. Things that no table knows are in the
    /// plural, unless `is_single` says that there is one of them or a part of one.
    pub(super) fn parse(tokens: &[Token], is_single: bool) -> Option<Self> {
        let tokens = strip_brackets(tokens);
        if tokens.len() > 14 {
            return None;
        }
        Self::known(tokens).or_else(|| Self::things(tokens, is_single))
    }

    /// Units of the table with exponents, products and quotients.
    fn known(tokens: &[Token]) -> Option<Self> {
        let mut unit = Self::default();
        let (mut sign, mut prefix) = (1, 1);
        let mut at = 0;
        let mut n_units = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            let name = match &token.kind {
                Kind::Currency(name) => {
                    unit = unit.with(Self::currency(name));
                    n_units += 1;
                    continue;
                }
                Kind::Symbol('\u{b0}') => match tokens.get(at).map(|next| &next.kind) {
                    Some(Kind::Letter(scale) | Kind::Word(scale)) if scale == "C" || scale == "F" => {
                        at += 1;
                        if scale == "C" { "celsius" } else { "fahrenheit" }
                    }
                    _ => "degree",
                },
                Kind::Symbol('/') => {
                    sign = -1;
                    continue;
                }
                Kind::Symbol('*') => continue,
                Kind::Letter(name) if name == "a" => {
                    sign = -1;
                    continue;
                }
                Kind::Letter(name) if letter(name) || (n_units > 0 && name == "h") => name,
                Kind::Word(word) => match word.to_lowercase().as_str() {
                    "per" | "every" | "an" => {
                        sign = -1;
                        continue;
                    }
                    "square" | "sq" | "平方" => {
                        prefix = 2;
                        continue;
                    }
                    "cubic" | "cu" | "立方" => {
                        prefix = 3;
                        continue;
                    }
                    "squared" | "cubed" => return None,
                    "in" if n_units > 0 && tokens.len() > at => continue,
                    filler if n_units > 0 && lists(FILLERS, filler) => continue,
                    "of" if n_units > 0 => {
                        // "cups of flour"
                        let rest = &tokens[at..];
                        let plain = rest.iter().all(|token| token.word().is_some_and(is_plain));
                        return (plain && !rest.is_empty()).then_some(unit);
                    }
                    "mph" => {
                        unit.multiply(row("mile")?, 1);
                        unit.multiply(row("hour")?, -1);
                        n_units += 1;
                        continue;
                    }
                    _ => word.strip_prefix("平方").or_else(|| word.strip_prefix("立方")).map_or(
                        word.as_str(),
                        |rest| {
                            prefix = if word.starts_with('平') { 2 } else { 3 };
                            rest
                        },
                    ),
                },
                _ => return None,
            };
            let row = row(name)?;
            let exponent = exponent(&tokens[at..], &mut at)?.unwrap_or(prefix);
            unit.multiply(row, sign * exponent);
            (sign, prefix) = (1, 1);
            n_units += 1;
        }
        (n_units > 0 && sign == 1 && prefix == 1).then_some(unit)
    }

    /// Plain words such as "red apples".
    fn things(tokens: &[Token], is_single: bool) -> Option<Self> {
        let words: Option<Vec<&str>> = tokens.iter().map(Token::word).collect();
        let words = words.filter(|words| !words.is_empty() && words.len() <= 8)?;
        if !tokens[0].spaced && words[0].is_ascii() {
            return None;
        }
        if words.iter().any(|word| !is_plain(word)) {
            return None;
        }
        let counter_only = words.len() == 1 && COUNTERS.contains(&words[0]);
        if words == [MULTIPLE] {
            return Some(Self { counted: Some(MULTIPLE.to_owned()), ..Self::default() });
        }
        if counter_only {
            return Some(Self::default());
        }
        let kept: Vec<String> = words
            .iter()
            .map(|word| singular(word))
            .filter(|word| !["of", "the", "in", "per", "a"].contains(&word.as_str()))
            .filter(|word| !lists(FILLERS, word))
            .collect();
        let is_counted = |word: &&str| !wording::is_latin(word) || wording::is_plural(word) || is_known(word);
        let has_single = is_single && kept.iter().all(|word| !word.ends_with("ed"));
        if !kept.is_empty() && !has_single && !words.iter().any(is_counted) {
            return None;
        }
        let counted = (!kept.is_empty()).then(|| kept.join(" "));
        Some(Self { counted, ..Self::default() })
    }
}

/// Whether a word only names a thing.
fn is_plain(word: &str) -> bool {
    if word.is_ascii() {
        let lower = word.to_ascii_lowercase();
        let short = word.len() < 3 && !["of", "in", "a"].contains(&lower.as_str()) && row(word).is_none();
        return !short
            && ![lower.as_str(), &singular(word)]
                .iter()
                .any(|it| lists(MEANINGFUL, it) || wording::alters(it))
            && super::numerals::multiplier(&lower).is_none()
            && super::number_words::whole(&[lower]).is_none();
    }
    if wording::is_latin(word) {
        return word.chars().count() > 2
            && !wording::alters(word)
            && super::numerals::multiplier(&word.to_lowercase()).is_none();
    }
    // 个苹果, 美元, яблок
    counter(word).is_some() || wording::is_foreign_noun(word)
}

fn strip_brackets(tokens: &[Token]) -> &[Token] {
    match tokens {
        [first, inner @ .., last] if first.is('(') && last.is(')') => inner,
        [first, inner @ .., last] if first.is('{') && last.is('}') => inner,
        _ => tokens,
    }
}

/// `^2` or `^{2}` after a unit; `Some(None)` where there is none.
fn exponent(rest: &[Token], at: &mut usize) -> Option<Option<i32>> {
    let Some(first) = rest.first().filter(|first| first.is('^')) else { return Some(None) };
    let mut used = usize::from(first.is('^'));
    let braced = rest.get(used).is_some_and(|token| token.is('{'));
    used += usize::from(braced);
    let negative = rest.get(used).is_some_and(|token| token.is('-'));
    used += usize::from(negative);
    let value: i32 = rest.get(used)?.whole()?.digits.parse().ok().filter(|value| (1..=6).contains(value))?;
    used += 1;
    if braced {
        rest.get(used).filter(|token| token.is('}'))?;
        used += 1;
    }
    *at += used;
    Some(Some(if negative { -value } else { value }))
}
