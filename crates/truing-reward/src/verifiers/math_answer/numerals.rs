//! Digits and numerals: groups of thousands, exponents, Chinese numerals, words of scale.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::wording::lists;

/// Numerator and denominator of a fraction that is one character.
pub(super) fn vulgar_fraction(letter: char) -> Option<(u32, u32)> {
    Some(match letter {
        '\u{bd}' => (1, 2),
        '\u{bc}' => (1, 4),
        '\u{be}' => (3, 4),
        '\u{2153}' => (1, 3),
        '\u{2154}' => (2, 3),
        '\u{2155}' => (1, 5),
        '\u{2156}' => (2, 5),
        '\u{2157}' => (3, 5),
        '\u{2158}' => (4, 5),
        '\u{2159}' => (1, 6),
        '\u{215a}' => (5, 6),
        '\u{215b}' => (1, 8),
        '\u{215c}' => (3, 8),
        '\u{215d}' => (5, 8),
        '\u{215e}' => (7, 8),
        _ => return None,
    })
}

/// The digit or minus sign of a superscript.
pub(super) fn superscript(letter: char) -> Option<char> {
    Some(match letter {
        '\u{2070}' => '0',
        '\u{b9}' => '1',
        '\u{b2}' => '2',
        '\u{b3}' => '3',
        '\u{2074}'..='\u{2079}' => char::from_digit(letter as u32 - 0x2070, 10)?,
        '\u{207b}' => '-',
        _ => return None,
    })
}

fn digits_at(text: &[char], at: usize) -> usize {
    text.get(at..).unwrap_or_default().iter().take_while(|c| c.is_ascii_digit()).count()
}

/// The length of what separates thousands at a place: `{,}`, `\,`, `\!`, a comma, space or apostrophe.
fn separator(text: &[char], at: usize, commas: bool) -> Option<(char, usize)> {
    let rest = text.get(at..)?;
    match rest {
        ['{', ',', '}', ..] => Some(('{', 3)),
        ['\\', ',' | ' ' | ';' | ':', ..] => Some(('\\', 2)),
        [',', '\\', '!', ..] if commas => Some((',', 3)),
        [',', ..] if commas => Some((',', 1)),
        [' ', ..] => Some((' ', 1)),
        ['\'', ..] => Some(('\'', 1)),
        _ => None,
    }
}

/// Leading digits with their groups of thousands, separators left out, and the length of it all.
pub(super) fn grouped(text: &[char], commas: bool) -> (String, usize) {
    let mut end = digits_at(text, 0);
    let mut digits: String = text[..end].iter().collect();
    if end == 0 || end > 3 {
        return (digits, end);
    }
    // 1,00,000 counts in lakhs: groups of two before the last of three.
    let (mut lakhs, mut lakhs_end) = (digits.clone(), end);
    while text.get(lakhs_end) == Some(&',') && commas && digits_at(text, lakhs_end + 1) == 2 {
        lakhs.extend(&text[lakhs_end + 1..lakhs_end + 3]);
        lakhs_end += 3;
    }
    if lakhs_end > end && text.get(lakhs_end) == Some(&',') && digits_at(text, lakhs_end + 1) == 3 {
        lakhs.extend(&text[lakhs_end + 1..lakhs_end + 4]);
        return (lakhs, lakhs_end + 4);
    }
    if digits.starts_with('0') {
        return (digits, end);
    }
    let mut kind = None;
    while let Some((separator, length)) = separator(text, end, commas) {
        if kind.is_some_and(|kind| kind != separator) || digits_at(text, end + length) != 3 {
            break;
        }
        kind = Some(separator);
        digits.extend(&text[end + length..end + length + 3]);
        end += length + 3;
    }
    (digits, end)
}

/// `1.234,56` and `1.234.567`, which can only be European: digits, how many of them are decimals, length.
pub(super) fn european(text: &[char]) -> Option<(String, usize, usize)> {
    let mut end = digits_at(text, 0);
    if end == 0 || end > 3 || text[0] == '0' {
        return None;
    }
    let mut digits: String = text[..end].iter().collect();
    let mut groups = 0;
    while text.get(end) == Some(&'.') && digits_at(text, end + 1) == 3 {
        digits.extend(&text[end + 1..end + 4]);
        end += 4;
        groups += 1;
    }
    let decimals = if text.get(end) == Some(&',') { digits_at(text, end + 1) } else { 0 };
    if groups == 0 || (groups == 1 && decimals == 0) {
        return None;
    }
    if decimals > 0 {
        digits.extend(&text[end + 1..=end + decimals]);
        end += 1 + decimals;
    }
    Some((digits, decimals, end))
}

/// The decimals of `0{,}25`: after a comma in braces that does not separate thousands.
pub(super) fn braced_decimals(text: &[char], at: usize) -> Option<String> {
    let rest = text.get(at..)?.strip_prefix(&['{', ',', '}'])?;
    let digits: String = rest.iter().take_while(|c| c.is_ascii_digit()).collect();
    let separates = digits.len() == 3 && text[0] != '0';
    (!digits.is_empty() && !separates).then_some(digits)
}

/// The exponent of `1.2e3` and its length.
pub(super) fn exponent(text: &[char]) -> Option<(i64, usize)> {
    let mut at = 1;
    matches!(text.first()?, 'e' | 'E').then_some(())?;
    let is_negative = text.get(at) == Some(&'-');
    at += usize::from(is_negative || text.get(at) == Some(&'+'));
    let n_digits = digits_at(text, at);
    if n_digits == 0 || n_digits > 4 || text.get(at + n_digits).is_some_and(|next| next.is_alphanumeric()) {
        return None;
    }
    let digits: String = text[at..at + n_digits].iter().collect();
    let value: i64 = digits.parse().ok()?;
    Some((if is_negative { -value } else { value }, at + n_digits))
}

/// A Chinese numeral at the start of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Numeral {
    pub(super) value: BigRational,
    pub(super) is_percent: bool,
    /// Bytes of the text that it takes.
    pub(super) length: usize,
}

/// Whether a character is a digit or a power of ten of a Chinese numeral.
pub(super) fn is_chinese(letter: char) -> bool {
    chinese_digit(letter).is_some() || chinese_power(letter).is_some()
}

fn chinese_digit(letter: char) -> Option<u32> {
    Some(match letter {
        '零' | '〇' => 0,
        '一' | '壹' => 1,
        '二' | '两' | '贰' | '兩' => 2,
        '三' | '叁' => 3,
        '四' => 4,
        '五' => 5,
        '六' => 6,
        '七' => 7,
        '八' => 8,
        '九' => 9,
        _ => return None,
    })
}

/// Powers of ten: those within a group of four digits, and those of groups.
fn chinese_power(letter: char) -> Option<u32> {
    Some(match letter {
        '十' | '拾' => 1,
        '百' | '佰' => 2,
        '千' | '仟' => 3,
        '万' | '萬' => 4,
        '亿' | '億' => 8,
        _ => return None,
    })
}

pub(super) fn ten(power: u32) -> BigRational {
    BigRational::from_integer(BigInt::from(10).pow(power))
}

/// A numeral that may start with digits already read (`2` of `2万`): then a power of ten has to follow.
pub(super) fn chinese(text: &str, start: Option<&BigRational>) -> Option<Numeral> {
    if start.is_none() {
        if let Some(rest) = text.strip_prefix('负') {
            let found = chinese(rest, None)?;
            return Some(Numeral { value: -found.value, length: found.length + '负'.len_utf8(), ..found });
        }
        if let Some(rest) = text.strip_prefix("百分之") {
            let (value, length) = chinese_whole(rest, None)?;
            return Some(Numeral { value, is_percent: true, length: length + "百分之".len() });
        }
    }
    // 3分の2 and 三分之二 are two thirds.
    let parts = |text: &str| ["分之", "分の"].iter().find_map(|parts| text.strip_prefix(parts)).map(str::len);
    let (value, length) = match start {
        Some(start) if parts(text).is_some() => (start.clone(), 0),
        Some(_) if !text.starts_with(|c| chinese_power(c).is_some()) => return None,
        start => chinese_whole(text, start)?,
    };
    if let Some(left) = parts(&text[length..])
        && !value.is_zero()
    {
        let rest = &text[text.len() - left..];
        let n_digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let digits =
            rest[..n_digits].parse::<BigInt>().ok().map(|it| (BigRational::from_integer(it), n_digits));
        let (above, more) = digits.or_else(|| chinese_whole(rest, None))?;
        return Some(Numeral { value: above / value, is_percent: false, length: text.len() - left + more });
    }
    // 三又二分之一
    if let Some(rest) = text[length..].strip_prefix('又').filter(|_| start.is_none() && value.is_integer())
        && let Some(part) = chinese(rest, None)
        && !part.is_percent
        && part.value > BigRational::zero()
        && part.value < BigRational::one()
    {
        let length = length + '又'.len_utf8() + part.length;
        return Some(Numeral { value: value + part.value, is_percent: false, length });
    }
    Some(Numeral { value, is_percent: false, length })
}

fn chinese_whole(text: &str, start: Option<&BigRational>) -> Option<(BigRational, usize)> {
    let is_numeral = |c: char| chinese_digit(c).is_some() || chinese_power(c).is_some() || c == '点';
    let length = text
        .find(|c: char| !(is_numeral(c) || (start.is_some() && c.is_ascii_digit())))
        .unwrap_or(text.len());
    let mut run = &text[..length];
    // 5千米 are five kilometres.
    if start.is_some() && text[length..].starts_with(['米', '克', '瓦', '卡', '焦', '赫', '伏']) {
        run = run.strip_suffix('千').unwrap_or(run);
    }
    if start.is_some() && run.is_empty() {
        return None;
    }
    run = run.trim_end_matches('点');
    if run.is_empty() || run.starts_with('点') || run.chars().count() > 24 {
        return None;
    }
    let (whole, decimals) = run.split_once('点').unwrap_or((run, ""));
    let mut value = chinese_groups(whole, start)?;
    for (place, letter) in decimals.chars().enumerate() {
        value += BigRational::from_integer(chinese_digit(letter)?.into()) / ten(place as u32 + 1);
    }
    Some((value, run.len()))
}

fn chinese_groups(run: &str, start: Option<&BigRational>) -> Option<BigRational> {
    let digit = |c: char| chinese_digit(c).or_else(|| c.to_digit(10));
    if start.is_none() && run.chars().all(|c| digit(c).is_some()) {
        // 二〇二四, digit by digit; 三四个 are three or four, and 两 is the digit of no number.
        let n = run.chars().count();
        if n > 1 && (run.contains(['两', '兩']) || (n == 2 && !run.contains(['零', '〇']))) {
            return None;
        }
        let digits: String = run.chars().filter_map(|c| char::from_digit(digit(c)?, 10)).collect();
        return digits.parse::<BigInt>().ok().map(BigRational::from_integer);
    }
    let (mut total, mut group) = (BigRational::zero(), BigRational::zero());
    let mut current = start.cloned();
    let (mut last_power, mut after_zero) = (0, false);
    for letter in run.chars() {
        if let Some(digit) = digit(letter) {
            after_zero |= digit == 0;
            // 二三百 are two or three hundred.
            if !letter.is_ascii_digit() && current.as_ref().is_some_and(|before| !before.is_zero()) {
                return None;
            }
            let before = current.take().map_or_else(BigRational::zero, |before| before * ten(1));
            current = Some(before + BigRational::from_integer(digit.into()));
            continue;
        }
        let power = chinese_power(letter)?;
        let found = current.take();
        if power < 4 {
            group += found.unwrap_or_else(BigRational::one) * ten(power);
        } else {
            group += found.unwrap_or_else(BigRational::zero);
            if power == 8 {
                group += std::mem::take(&mut total);
            }
            if group.is_zero() {
                return None;
            }
            total += std::mem::take(&mut group) * ten(power);
        }
        (last_power, after_zero) = (power, false);
    }
    let rest = current.unwrap_or_else(BigRational::zero);
    // 一百二 is 120, 一百零二 is 102.
    let shorthand = last_power >= 2 && !after_zero && !rest.is_zero() && rest < ten(1) && start.is_none();
    // 3万5 is said for 3万5千, and written for 30005.
    if start.is_some() && last_power >= 4 && !after_zero && !rest.is_zero() && rest < ten(1) {
        return None;
    }
    let rest = if shorthand { rest * ten(last_power - 1) } else { rest };
    Some(total + group + rest)
}

/// A thousand in Polish, Czech, Slovak, Vietnamese, Russian, Ukrainian, Bulgarian, Dutch, Swedish, Danish, Finnish,
/// Hungarian, Romanian, Indonesian and Greek.
const THOUSAND: &str = "\
                        tysi\u{105}c tysi\u{105}ce tysi\u{119}cy tis\u{ed}c tis\u{ed}ce tis\u{ed}ci tisic \
                        tisice ngh\u{ec}n ng\u{e0}n тысяча тысячи тысяч тыс тисяча тисячі тисяч хиляда \
                        хиляди duizend tusen tusind tuhat tuhatta ezer mii ribu χίλια χιλιάδες";
/// A million in the same languages and Turkish.
const MILLION: &str = "\
    milion miliony milion\u{f3}w milion\u{16f} mili\u{f3}n mili\u{f3}ny mili\u{f3}nov tri\u{1ec7}u миллион \
    миллиона миллионов млн мільйон мільйона мільйони мільйонів милион милиона miljoen miljon miljoner  \
    millioner miljoona miljoonaa milli\u{f3} milioane juta milyon εκατομμύρια εκατομμύριο";
/// A thousand millions in the same languages.
const MILLIARD: &str = "\
    miliard miliardy miliard\u{f3}w miliard\u{16f} t\u{1ef7} миллиард миллиарда миллиардов млрд мільярд \
    мільярди мільярдів miljard miljarder milliarder miljardi miljardia milli\u{e1}rd miliarde miliar milyar";

/// The factor that a word after a number stands for: English, Indian, and the words for thousands, millions and
/// milliards of other languages. A word that stands for different powers in different languages (`billones`) has none.
pub(super) fn multiplier(word: &str) -> Option<BigRational> {
    Some(match word {
        "dozen" | "dozens" | "douzaine" | "douzaines" | "docena" | "docenas" | "dutzend" | "dozzina"
        | "dozzine" | "d\u{fa}zia" | "d\u{fa}zias" | "tucet" | "дюжина" | "дюжины" | "дюжин" => {
            BigRational::from_integer(12.into())
        }
        "tens" => ten(1),
        "hundred" | "hundreds" => ten(2),
        "thousand" | "thousands" | "mil" | "mille" | "mila" | "tausend" => ten(3),
        word if lists(THOUSAND, word) => ten(3),
        word if lists(MILLION, word) => ten(6),
        word if lists(MILLIARD, word) => ten(9),
        "lakh" | "lakhs" => ten(5),
        "million" | "millions" | "mill\u{f3}n" | "millones" | "millionen" | "milh\u{e3}o"
        | "milh\u{f5}es" | "milione" | "milioni" => ten(6),
        "crore" | "crores" => ten(7),
        "billion" | "billions" | "milliard" | "milliards" | "milliarde" | "milliarden" | "miliardo"
        | "miliardi" => ten(9),
        "trillion" | "trillions" => ten(12),
        _ => return None,
    })
}
