//! Numbers in words: English, German, French, Spanish and Russian.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::numerals::{multiplier, ten};
use super::wording::lists;

/// A whole number in words of one of the languages.
pub(super) fn whole(words: &[String]) -> Option<BigRational> {
    if words.is_empty() || words.len() > 12 {
        return None;
    }
    let other = || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let german = || match words[..] {
            [word] => german(word, 1_000_000),
            _ => None,
        };
        german().or_else(|| french(&words)).or_else(|| spanish(&words)).or_else(|| russian(&words))
    };
    english(words).or_else(|| other().map(|value| BigRational::from_integer(BigInt::from(value))))
}

/// The place of a word in a list of words with space between them; several forms of one word have `/` between them.
fn place(list: &str, word: &str) -> Option<u64> {
    let at = list.split_whitespace().position(|forms| forms.split('/').any(|form| form == word))?;
    u64::try_from(at).ok()
}

/// `zweihundertvierunddreißig`: one word, below a limit.
fn german(word: &str, limit: u64) -> Option<u64> {
    const SMALL: &str = "\
        null ein/eins/eine/einen zwei/zwo drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn \
        fünfzehn sechzehn siebzehn achtzehn neunzehn";
    const TENS: &str = "- - zwanzig dreißig/dreissig vierzig fünfzig sechzig siebzig achtzig neunzig";
    for (name, size) in [("tausend", 1000), ("hundert", 100)] {
        if let Some((count, rest)) = word.split_once(name).filter(|_| size < limit) {
            let count = if count.is_empty() { 1 } else { german(count, size)? };
            let rest = rest.strip_prefix("und").unwrap_or(rest);
            let rest = if rest.is_empty() { 0 } else { german(rest, size)? };
            return (count > 0).then_some(count * size + rest);
        }
    }
    let tens = |word: &str| place(TENS, word).filter(|at| *at > 1).map(|at| at * 10);
    if let Some(found) = place(SMALL, word).or_else(|| tens(word)) {
        return Some(found);
    }
    let (unit, ten) = word.split_once("und")?;
    Some(place(SMALL, unit).filter(|unit| (1..10).contains(unit))? + tens(ten)?)
}

/// Words of hundreds and less before and after the word for a thousand; both have to be read to their ends.
fn thousands(words: &[&str], names: &str, below: impl Fn(&[&str]) -> Option<u64>) -> Option<u64> {
    match words.iter().position(|word| lists(names, word)) {
        Some(at) => {
            let count = if at == 0 { 1 } else { below(&words[..at])? };
            let rest = if at + 1 == words.len() { 0 } else { below(&words[at + 1..])? };
            (count > 0).then_some(count * 1000 + rest)
        }
        None => below(words),
    }
}

/// `deux cent quatre-vingt-dix-sept`, as words without hyphens.
fn french(words: &[&str]) -> Option<u64> {
    const SMALL: &str = "\
        zéro un/une deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize";
    const TENS: &str =
        "- - vingt/vingts trente quarante cinquante soixante septante huitante/octante nonante";
    fn small(words: &[&str]) -> Option<u64> {
        match words {
            ["dix", unit] => place(SMALL, unit).filter(|unit| (7..10).contains(unit)).map(|unit| 10 + unit),
            [word] => place(SMALL, word),
            _ => None,
        }
    }
    fn below_hundred(words: &[&str]) -> Option<u64> {
        if let Some(found) = small(words) {
            return Some(found);
        }
        let (ten, rest) = match words {
            ["quatre", "vingt" | "vingts", rest @ ..] => (80, rest),
            [ten, rest @ ..] => (place(TENS, ten).filter(|at| *at > 1)? * 10, rest),
            [] => return None,
        };
        let rest =
            rest.strip_prefix(&["et"]).filter(|rest| matches!(rest, ["un" | "une" | "onze"])).unwrap_or(rest);
        if rest.is_empty() {
            return Some(ten);
        }
        let limit = if matches!(ten, 60 | 80) { 20 } else { 10 };
        small(rest).filter(|unit| (1..limit).contains(unit)).map(|unit| ten + unit)
    }
    thousands(words, "mille", |words| match words.iter().position(|word| lists("cent cents", word)) {
        Some(at) => {
            let count = match &words[..at] {
                [] => 1,
                [count] => place(SMALL, count).filter(|count| (2..10).contains(count))?,
                _ => return None,
            };
            let rest = if at + 1 == words.len() { 0 } else { below_hundred(&words[at + 1..])? };
            // "cent" alone is a coin in English.
            (at > 0 || words.len() > 1).then_some(count * 100 + rest)
        }
        None => below_hundred(words),
    })
}

/// `doscientos treinta y cinco`
fn spanish(words: &[&str]) -> Option<u64> {
    const SMALL: &str = "\
        cero un/uno/una dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince \
        dieciséis/dieciseis diecisiete dieciocho diecinueve veinte veintiuno/veintiún/veintiuna \
        veintidós/veintidos veintitrés/veintitres veinticuatro veinticinco veintiséis/veintiseis veintisiete \
        veintiocho veintinueve";
    const TENS: &str = "- - - treinta cuarenta cincuenta sesenta setenta ochenta noventa";
    const HUNDREDS: &str = "\
        - ciento doscientos/doscientas trescientos/trescientas cuatrocientos/cuatrocientas quinientos/quinientas \
        seiscientos/seiscientas setecientos/setecientas ochocientos/ochocientas novecientos/novecientas";
    fn below_hundred(words: &[&str]) -> Option<u64> {
        let tens = |word: &str| place(TENS, word).filter(|at| *at > 2).map(|at| at * 10);
        match words {
            [word] => place(SMALL, word).or_else(|| tens(word)),
            [ten, "y", unit] => Some(tens(ten)? + place(SMALL, unit).filter(|unit| (1..10).contains(unit))?),
            _ => None,
        }
    }
    thousands(words, "mil", |words| match words {
        ["cien"] => Some(100),
        [hundred] if place(HUNDREDS, hundred).is_some() => place(HUNDREDS, hundred).map(|at| at * 100),
        [hundred, rest @ ..] if place(HUNDREDS, hundred).is_some() => {
            Some(place(HUNDREDS, hundred)? * 100 + below_hundred(rest)?)
        }
        words => below_hundred(words),
    })
}

/// `двести тридцать пять`
fn russian(words: &[&str]) -> Option<u64> {
    const SMALL: &str = "\
        ноль/нуль один/одна/одно два/две три четыре пять шесть семь восемь девять десять одиннадцать двенадцать \
        тринадцать четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать";
    const TENS: &str = "\
        - - двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто";
    const HUNDREDS: &str = "\
        - сто двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот";
    thousands(words, "тысяча тысячи тысяч", |words| {
        let (mut total, mut last) = (0, 1000);
        for word in words {
            let (value, size) = if let Some(at) = place(HUNDREDS, word).filter(|at| *at > 0) {
                (at * 100, 100)
            } else if let Some(at) = place(TENS, word).filter(|at| *at > 1) {
                (at * 10, 10)
            } else {
                let value = place(SMALL, word)?;
                // Ten and more take the place of tens as well.
                (value, if value >= 10 && last <= 10 { return None } else { 1 })
            };
            if size >= last || value == 0 && words.len() > 1 {
                return None;
            }
            (total, last) = (total + value, size);
        }
        (!words.is_empty()).then_some(total)
    })
}

/// A fraction or mixed number in English words: "half", "three quarters", "two and a half". Only numerators of one
/// word are read: "twenty one hundredths" is 0.21 or 0.2.
pub(super) fn english_fraction(words: &[String]) -> Option<BigRational> {
    const SINGULAR: [&str; 10] =
        ["half", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "quarter"];
    let (denominator, numerator) = words.split_last()?;
    let place = |name: &str| SINGULAR.iter().position(|known| *known == name);
    let plural = match denominator.as_str() {
        "halves" => Some(0),
        word => word.strip_suffix('s').and_then(place),
    };
    let parts = |at: usize| if at == 9 { 4 } else { at as u32 + 2 };
    let (above, below, whole) = match (place(denominator), plural, numerator) {
        (Some(0), _, []) => (1, 2, &numerator[..0]),
        (Some(at), _, [whole @ .., count]) if matches!(count.as_str(), "one" | "a") => (1, parts(at), whole),
        (_, Some(at), [whole @ .., count]) => {
            let count = english(std::slice::from_ref(count))?;
            let count = u32::try_from(count.to_integer()).ok().filter(|count| (2..20).contains(count))?;
            (count, parts(at), whole)
        }
        _ => return None,
    };
    let fraction = BigRational::new(above.into(), below.into());
    match whole {
        [] => Some(fraction),
        [whole @ .., and] if and == "and" && fraction < BigRational::one() => {
            let whole = english(whole).filter(|whole| *whole < ten(2))?;
            Some(whole + fraction)
        }
        _ => None,
    }
}

/// A whole number in English words.
pub(super) fn english(words: &[String]) -> Option<BigRational> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    if words.is_empty() || words.len() > 12 {
        return None;
    }
    let (mut total, mut group, mut last) = (BigRational::zero(), 0_u32, u32::MAX);
    let mut scale: Option<BigRational> = None;
    if words.last().is_some_and(|word| word == "and") {
        return None;
    }
    for (at, word) in words.iter().enumerate() {
        let word_is_last = at + 1 == words.len();
        let is_one = word == "a" && at == 0 && !word_is_last;
        let word = if is_one { "one" } else { word.as_str() };
        let found = SMALL.iter().position(|known| *known == word).map(|at| at as u32);
        let found =
            found.or_else(|| TENS.iter().position(|known| *known == word).map(|at| 10 * (at as u32 + 2)));
        match (found, word) {
            (None, "dozen") if word_is_last && total.is_zero() && group > 0 => group *= 12,
            // A smaller one after a larger one: twenty, three; never three, twenty.
            (Some(value), _)
                if last == u32::MAX
                    || ((20..100).contains(&last) && (1..10).contains(&value))
                    || (last >= 100 && value > 0) =>
            {
                group += value;
                last = value;
            }
            (None, "hundred") if (1..10).contains(&group) => {
                group *= 100;
                last = 100;
            }
            (None, "thousand" | "million" | "billion") if group > 0 => {
                let found = multiplier(word)?;
                if scale.is_some_and(|before| before <= found) {
                    return None;
                }
                total += BigRational::from_integer(group.into()) * &found;
                scale = Some(found);
                (group, last) = (0, 1000);
            }
            (None, "and") if last == 100 || last == 1000 => {}
            _ => return None,
        }
    }
    Some(total + BigRational::from_integer(group.into()))
}
