//! Values: numbers and expressions with a unit, a percent sign, a word of scale or a base, and several units in one.

use num_rational::BigRational;
use num_traits::{One, Signed};

use super::expression::{Expr, Function};
use super::number_words;
use super::numerals;
use super::parse::{expression, is_variables};
use super::structure::{Answer, Decimal, Value, is_enclosed, top};
use super::token::{Kind, NumberToken, Token};
use super::units::Unit;
use super::wording;

/// An expression, what it costs or measures, and both values where it has a plus-minus sign.
pub(super) fn value(tokens: &[Token]) -> Option<Answer> {
    let has_both = tokens.iter().any(|token| token.is('\u{b1}') || token.is('\u{2213}'));
    if !has_both {
        return single_value(tokens).map(Answer::Value);
    }
    let signed = |upper: char, lower: char| {
        let tokens: Vec<Token> = tokens
            .iter()
            .map(|token| match token.kind {
                Kind::Symbol('\u{b1}') => Token { kind: Kind::Symbol(upper), ..token.clone() },
                Kind::Symbol('\u{2213}') => Token { kind: Kind::Symbol(lower), ..token.clone() },
                _ => token.clone(),
            })
            .collect();
        single_value(&tokens).map(Answer::Value)
    };
    Some(Answer::List { members: vec![signed('+', '-')?, signed('-', '+')?], is_choice: true })
}

pub(super) fn single_value(tokens: &[Token]) -> Option<Value> {
    let mut unit = Unit::default();
    let mut body = tokens.to_vec();
    // -$5, $-5, USD 5
    let signs = body.iter().take_while(|token| token.is('-') || token.is('+')).count();
    match body.get(signs).map(|token| token.kind.clone()) {
        Some(Kind::Currency(name)) => {
            unit = Unit::currency(name);
            body.remove(signs);
        }
        Some(Kind::Word(word))
            if body.len() > signs + 1 && word.len() == 3 && word.to_uppercase() == word =>
        {
            if let Some(found) =
                Unit::parse(&body[signs..=signs], true).filter(|_| super::units::is_known(&word))
            {
                unit = found;
                body.remove(signs);
            }
        }
        _ => {}
    }
    if let Some(found) = with_suffix(&body, &unit) {
        return Some(found);
    }
    let expression = expression(&body)?;
    let decimal = decimal(&body);
    Some(Value { expression, unit, is_percent: false, decimal })
}

/// `4 h 30 min`, `5 feet and 8 inches`: numbers of smaller and smaller units of one quantity.
pub(super) fn mixed(tokens: &[Token]) -> Option<Value> {
    let is_number = |at: &usize| matches!(tokens[*at].kind, Kind::Number(_));
    let starts: Vec<usize> = (0..tokens.len()).filter(is_number).collect();
    if starts.first() != Some(&0) || !(2..=4).contains(&starts.len()) {
        return None;
    }
    let part = |at: usize| {
        let end = starts.get(at + 1).copied().unwrap_or(tokens.len());
        let part = &tokens[starts[at]..end];
        let is_joined = at + 1 < starts.len() && part.last()?.word() == Some("and");
        let part = if is_joined { &part[..part.len() - 1] } else { part };
        match &part.get(1)?.kind {
            Kind::Word(word) if super::units::is_known(word) => {}
            Kind::Letter(name) if super::units::letter(name) => {}
            _ => return None,
        }
        let value = single_value(part)?;
        let Expr::Number(number) = value.expression else { return None };
        (value.unit.dimensions.len() == 1 && value.unit.counted.is_none()).then_some((number, value.unit))
    };
    let parts = (0..starts.len()).map(part).collect::<Option<Vec<_>>>()?;
    let size = |unit: &Unit| unit.factor.clone().unwrap_or_else(BigRational::one);
    let falls = parts.windows(2).all(|pair| {
        let (larger, smaller) = (&pair[0].1, &pair[1].1);
        larger.dimensions == smaller.dimensions
            && pair[0].0.is_integer()
            && &pair[1].0 * size(smaller) < size(larger)
            && size(larger) > size(smaller)
    });
    let unit = Unit { is_mixed: true, ..parts.last()?.1.clone() };
    let total: BigRational = parts.iter().map(|(number, unit)| number * size(unit)).sum();
    let expression = Expr::Number(total / size(&unit));
    falls.then(|| Value { unit, ..Value::bare(expression) })
}

/// `thirty-two`, `two-thirds`, `one and a half`
pub(super) fn hyphenated(tokens: &[Token]) -> Option<BigRational> {
    let word = |token: &Token| match &token.kind {
        Kind::Letter(letter) if matches!(letter.as_str(), "a" | "y") => Some(letter.clone()),
        _ => token.word().map(str::to_lowercase),
    };
    word(&tokens[0])?;
    let words = tokens.iter().filter(|token| token.spaced || !token.is('-')).map(word);
    let words = words.collect::<Option<Vec<_>>>()?;
    number_words::whole(&words).or_else(|| number_words::english_fraction(&words))
}

/// `five dollars`, `twenty-five percent`: a number in words before its unit.
pub(super) fn in_words(tokens: &[Token]) -> Option<Value> {
    if let [sign, rest @ ..] = tokens
        && sign.word().is_some_and(wording::is_minus)
    {
        let value = in_words(rest)?;
        return Some(Value { expression: Expr::Negative(Box::new(value.expression)), ..value });
    }
    let n_words = (1..tokens.len()).rev().find(|n| hyphenated(&tokens[..*n]).is_some())?;
    let value = hyphenated(&tokens[..n_words])?;
    let (is_whole, digits) = (value.is_integer(), value.to_integer().to_string());
    let kind = Kind::Number(NumberToken { value, digits, decimals: 0, is_whole });
    let unit = &tokens[n_words..];
    let is_named = unit[0].word().is_some_and(|word| !is_variables(word));
    let number = Token { kind, spaced: tokens[0].spaced };
    single_value(&[&[number], unit].concat()).filter(|_| is_named && unit[0].spaced)
}

fn decimal(tokens: &[Token]) -> Option<Decimal> {
    let body = match tokens {
        [sign, rest @ ..] if sign.is('-') || sign.is('+') => rest,
        tokens => tokens,
    };
    match body {
        [Token { kind: Kind::Number(number), .. }] if number.decimals > 0 => Some(Decimal {
            places: number.decimals,
            significant: number.digits.trim_start_matches('0').len(),
        }),
        _ => None,
    }
}

/// A value with a unit, a percent sign, a multiplier ("million") or a base after it.
fn with_suffix(tokens: &[Token], currency: &Unit) -> Option<Value> {
    let unbracketed = match tokens {
        [open, number, close, rest @ ..] if open.is('(') && close.is(')') => {
            &[std::slice::from_ref(number), rest].concat()
        }
        tokens => tokens,
    };
    if let [Token { kind: Kind::Number(number), .. }, rest @ ..] = unbracketed
        && number.is_whole
        && let Some(base) = base(rest)
    {
        let unit = Unit { base: Some(base), ..Unit::default() };
        return Some(Value { unit, ..Value::bare(Expr::Number(number.value.clone())) });
    }
    let is_unit_next = |suffix: &[Token]| {
        suffix.get(1).and_then(Token::word).is_some_and(super::units::is_known) && !currency.is_none()
    };
    let starts = top(tokens, |_| true);
    for at in starts.into_iter().filter(|at| *at > 0) {
        let (body, suffix) = tokens.split_at(at);
        let is_start = match &suffix[0].kind {
            Kind::Word(_) | Kind::Currency(_) | Kind::Symbol('%') => true,
            // $18/day, $18 a day
            Kind::Symbol('/') => is_unit_next(suffix),
            Kind::Letter(name) if name == "a" && suffix[0].spaced => {
                is_unit_next(suffix)
                    || is_literal(body)
                        && suffix[1..].first().and_then(Token::word).is_some_and(super::units::is_known)
            }
            // sin 30° is not an angle.
            Kind::Symbol('\u{b0}') => !body.iter().any(is_function),
            Kind::Letter(name) => super::units::letter(name) && suffix[0].spaced && is_literal(body),
            _ => false,
        };
        if !is_start {
            continue;
        }
        if let Some(found) = suffixed(body, suffix, currency) {
            return Some(found);
        }
    }
    // 5 (dollars)
    let open = top(&tokens[..tokens.len().min(12)], |_| true).last().map(|at| at + 1)?;
    let suffix = tokens.get(open..).filter(|suffix| suffix.len() > 2 && is_enclosed(suffix))?;
    if !suffix[1..suffix.len() - 1].iter().all(|token| token.word().is_some()) {
        return None;
    }
    suffixed(&tokens[..open], suffix, currency)
}

/// The base of a number before `_2`, `_{two}`, `in base 2` or `(base 2)`.
fn base(tokens: &[Token]) -> Option<String> {
    let is_word = |token: &Token, word: &str| token.word().is_some_and(|it| it.eq_ignore_ascii_case(word));
    let rest = match tokens {
        [underscore, rest @ ..] if underscore.is('_') => rest,
        [open, base, rest @ .., close] if open.is('(') && is_word(base, "base") && close.is(')') => rest,
        [into, base, rest @ ..] if is_word(into, "in") && is_word(base, "base") => rest,
        [base, rest @ ..] if is_word(base, "base") => rest,
        _ => return None,
    };
    let rest = match rest {
        [open, rest @ .., close] if open.is('{') && close.is('}') => rest,
        rest => rest,
    };
    match rest {
        [Token { kind: Kind::Number(number), .. }] => Some(number.digits.clone()),
        [token] => number_words::whole(&[token.word()?.to_lowercase()]).map(|base| base.to_string()),
        _ => None,
    }
}

fn suffixed(body: &[Token], mut suffix: &[Token], currency: &Unit) -> Option<Value> {
    let mut factor = BigRational::one();
    while let Some(found) =
        suffix.first().and_then(Token::word).and_then(|w| numerals::multiplier(&w.to_lowercase()))
    {
        factor *= found;
        suffix = &suffix[1..];
    }
    let is_percent = match suffix.first() {
        Some(token) if token.is('%') => true,
        Some(token) => token.word().is_some_and(|word| {
            matches!(
                word.to_lowercase().as_str(),
                "percent"
                    | "percentage"
                    | "pct"
                    | "prozent"
                    | "procent"
                    | "процент"
                    | "процента"
                    | "процентов"
                    | "パーセント"
            )
        }),
        None => false,
    };
    if is_percent {
        suffix = &suffix[1..];
        // 18 percent of something is a share, and no number.
        if suffix.first().and_then(Token::word) == Some("of") {
            let words: Vec<&str> = suffix.iter().filter_map(Token::word).collect();
            let unit = Unit { counted: Some(words.join(" ").to_lowercase()), ..Unit::default() };
            let is_plain = words.len() == suffix.len() && !words.iter().any(|word| wording::alters(word));
            let expression = expression(body).filter(|_| is_plain && words.len() > 1)?;
            return Some(Value { unit, is_percent, ..Value::bare(expression) });
        }
        (suffix.is_empty() || suffix[0].word().is_some()).then_some(())?;
    }
    let mut found = expression(body)?;
    let unit = if suffix.is_empty() {
        Unit::default()
    } else {
        Unit::parse(suffix, factor.is_one() && is_single(&found))?
    };
    if found.has_variables() && !suffix.is_empty() && unit.dimensions.is_empty() {
        return None;
    }
    // What is written with π is in radians anyway.
    let unit = if unit.is_radian() && found.has_pi() { Unit::default() } else { unit };
    let mut decimal = decimal(body);
    if !factor.is_one() {
        found = Expr::Product(vec![Expr::Number(factor), found]);
        decimal = None;
    }
    Some(Value { expression: found, unit: currency.clone().with(unit), is_percent, decimal })
}

/// Whether a value is one or a part of one, as in "1 apple" and "1/2 pizza".
fn is_single(value: &Expr) -> bool {
    let normal = super::algebra::Algebra::default().normal(value).ok();
    normal.and_then(|value| value.rational()).is_some_and(|value| value.abs() <= BigRational::one())
}

fn is_function(token: &Token) -> bool {
    matches!(&token.kind, Kind::Command(name) if Function::named(name).is_some())
}

/// A number without letters or functions: only beside such a one is a single letter a unit.
fn is_literal(tokens: &[Token]) -> bool {
    tokens.iter().all(|token| match &token.kind {
        Kind::Number(_) => true,
        Kind::Symbol(symbol) => matches!(symbol, '+' | '-' | '*' | '/' | '.' | '^' | '{' | '}'),
        _ => false,
    })
}
