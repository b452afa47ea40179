//! What an answer is: a value, a tuple, a set, an interval, a relation, a matrix or plain text.

use std::sync::LazyLock;

use regex::Regex;

use super::calendar;
use super::expression::Expr;
use super::labels;
use super::notation::in_one_notation;
use super::number_words;
use super::parse::{expression, is_variables};
use super::plain::plain;
use super::token::{Kind, ROW, Relation, SET_CLOSE, SET_OPEN, Token, tokens};
use super::units::Unit;
use super::values::{hyphenated, in_words, mixed, value};
use super::wording;
use crate::verifiers::pattern::pattern;

/// Lists within lists.
const MAX_DEPTH: usize = 6;
/// Members of a list or cells of a matrix.
const MAX_MEMBERS: usize = 100;

/// How a number is written with a decimal point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    /// Digits after the point.
    pub(super) places: i64,
    /// Digits from the first that is not zero.
    pub(super) significant: usize,
}

/// An expression with its unit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) expression: Expr,
    pub(super) unit: Unit,
    pub(super) is_percent: bool,
    /// Set where the whole value is one decimal number.
    pub(super) decimal: Option<Decimal>,
}

impl Value {
    /// A value without a unit.
    pub(super) fn bare(expression: Expr) -> Self {
        Self { expression, unit: Unit::default(), is_percent: false, decimal: None }
    }
}

/// An answer, parsed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Value(Value),
    /// In round brackets, in this order; with two members it may also be an open interval.
    Tuple(Vec<Answer>),
    /// In square or mixed brackets: an interval.
    Interval {
        low: Box<Answer>,
        high: Box<Answer>,
        low_closed: bool,
        high_closed: bool,
    },
    Set(Vec<Answer>),
    /// Side by side, without brackets.
    List {
        members: Vec<Answer>,
        is_choice: bool,
    },
    Union(Vec<Answer>),
    /// All of one set without another, or what two have in common.
    Operation(char, Vec<Answer>),
    /// The real numbers.
    Reals,
    /// A name with what it is equal to.
    Assigned(String, Box<Answer>),
    /// Sides with the relations between them.
    Chain(Vec<Expr>, Vec<Relation>),
    Ratio(Vec<Value>),
    Matrix(Vec<Vec<Answer>>),
    /// The letter of a choice with what it says.
    Choice(String, Box<Answer>),
    Text(String),
}

/// Reads an answer. What cannot be read as mathematics is text.
pub(super) fn parse(text: &str) -> Answer {
    // A dash between two numbers is a range; a hyphen or minus sign subtracts.
    static RANGE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^[\s$]*\d[\d.,]*\s*(?:[\u{2013}\u{2014}]|--+)\s*\$?\d[\d.,]*\s*%?[\s$]*$")
    });
    if RANGE.is_match(text) {
        return Answer::Text(plain(text));
    }
    if let Some(found) = calendar::time(text).or_else(|| calendar::date(text)) {
        return Answer::Text(found);
    }
    if let Some(found) = labels::labelled(text) {
        return found;
    }
    let text = &*in_one_notation(text);
    let found = tokens(text).filter(|tokens| !tokens.is_empty()).and_then(|tokens| answer(&tokens, 0));
    found.unwrap_or_else(|| Answer::Text(plain(text)))
}

/// The places of tokens outside of all brackets that fulfil a condition.
pub(super) fn top(tokens: &[Token], wanted: impl Fn(&Token) -> bool) -> Vec<usize> {
    let mut depth = 0_i32;
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match &token.kind {
            Kind::Symbol('(' | '[' | '{' | SET_OPEN) => depth += 1,
            Kind::Command(name) if name == "matrix" => depth += 1,
            Kind::Symbol(')' | ']' | '}' | SET_CLOSE) => depth -= 1,
            Kind::Command(name) if name == "endmatrix" => depth -= 1,
            _ if depth == 0 && wanted(token) => found.push(at),
            _ => {}
        }
    }
    found
}

pub(super) fn split<'a>(tokens: &'a [Token], places: &[usize]) -> Vec<&'a [Token]> {
    let mut parts = Vec::new();
    let mut start = 0;
    for place in places {
        parts.push(&tokens[start..*place]);
        start = place + 1;
    }
    parts.push(&tokens[start..]);
    parts
}

/// Whether the first token opens a bracket that the last one closes.
pub(super) fn is_enclosed(tokens: &[Token]) -> bool {
    tokens.len() >= 2 && top(&tokens[..tokens.len() - 1], |_| true).is_empty() && {
        let is_open = |token: &Token| matches!(token.kind, Kind::Symbol('(' | '[' | '{' | SET_OPEN));
        let is_close = |token: &Token| matches!(token.kind, Kind::Symbol(')' | ']' | '}' | SET_CLOSE));
        // A bracket that closes before the last token leaves the next one outside.
        let mut depth = 0;
        let inside = tokens[..tokens.len() - 1].iter().all(|token| {
            depth += i32::from(is_open(token)) - i32::from(is_close(token));
            depth > 0
        });
        is_open(&tokens[0]) && is_close(&tokens[tokens.len() - 1]) && inside
    }
}

fn answer(tokens: &[Token], depth: usize) -> Option<Answer> {
    if depth > MAX_DEPTH || tokens.is_empty() {
        return None;
    }
    let (name, tokens) = without_label(tokens);
    if let Some(name) = name {
        return Some(Answer::Assigned(name, Box::new(answer(tokens, depth + 1)?)));
    }
    if let Some((name, place)) = point(tokens) {
        return Some(Answer::Assigned(name, Box::new(answer(place, depth + 1)?)));
    }
    if let Some(negative) = negative(tokens) {
        return answer(&negative, depth + 1);
    }
    if tokens.iter().all(|token| token.word().is_some()) && !tokens.is_empty() {
        return in_words(tokens).map(Answer::Value).or_else(|| Some(words(tokens)));
    }
    if let Some(number) = hyphenated(tokens) {
        return Some(Answer::Value(Value::bare(Expr::Number(number))));
    }
    mixed(tokens)
        .or_else(|| in_words(tokens))
        .map(Answer::Value)
        .or_else(|| list(tokens, depth))
        .or_else(|| relation(tokens, depth))
        .or_else(|| set_operation(tokens, depth))
        .or_else(|| bracketed(tokens, depth))
        .or_else(|| matrix(tokens, depth))
        .or_else(|| ratio(tokens))
        .or_else(|| value(tokens))
}

/// `A(1, 2)`: a point with its name. `C(5, 2)` is a number of combinations.
fn point(tokens: &[Token]) -> Option<(String, &[Token])> {
    let [name, place @ ..] = tokens else { return None };
    let Kind::Letter(name) = &name.kind else { return None };
    let is_point = name.len() == 1 && name.starts_with(|c: char| c.is_ascii_uppercase()) && name != "C";
    let is_place = is_enclosed(place) && place[0].is('(');
    let commas = || top(&place[1..place.len() - 1], |token| token.is(','));
    (is_point && is_place && !commas().is_empty()).then(|| (name.clone(), place))
}

/// `minus 18`, `负5`: with the sign in the place of the word.
fn negative(tokens: &[Token]) -> Option<Vec<Token>> {
    let [sign, rest @ ..] = tokens else { return None };
    if !sign.word().is_some_and(wording::is_minus) {
        return None;
    }
    let starts = match &rest.first()?.kind {
        Kind::Number(_) | Kind::Currency(_) | Kind::Symbol('(' | '\u{221a}') => true,
        Kind::Command(name) => matches!(name.as_str(), "frac" | "sqrt" | "pi"),
        _ => false,
    };
    let sign = Token { kind: Kind::Symbol('-'), ..sign.clone() };
    starts.then(|| [&[sign], rest].concat())
}

fn words(tokens: &[Token]) -> Answer {
    let all: Vec<String> = tokens.iter().filter_map(Token::word).map(str::to_lowercase).collect();
    if let Some(number) = number_words::whole(&all).or_else(|| number_words::english_fraction(&all)) {
        return Answer::Value(Value::bare(Expr::Number(number)));
    }
    if let [sign, rest @ ..] = &all[..]
        && wording::is_minus(sign)
        && let Some(number) = number_words::whole(rest)
    {
        return Answer::Value(Value::bare(Expr::Number(-number)));
    }
    // Several capitals are a name, of points or of people.
    let is_name = tokens[0].word().is_some_and(|word| word.chars().all(char::is_uppercase));
    if all.len() == 1
        && !is_name
        && all[0].len() <= 4
        && all[0].chars().all(|c| "abcxyz".contains(c))
        && let Some(found) = expression(tokens)
    {
        return Answer::Value(Value::bare(found));
    }
    let phrase = all.join(" ");
    if matches!(phrase.as_str(), "empty set" | "the empty set" | "no solution" | "no solutions") {
        return Answer::Set(Vec::new());
    }
    if matches!(phrase.as_str(), "does not exist" | "doesn t exist" | "dne") {
        return Answer::Text("dne".to_owned());
    }
    if all == ["all", "real", "numbers"] || all == ["all", "reals"] {
        return Answer::Reals;
    }
    Answer::Text(plain(&all.join(" ")))
}

/// Whether after the colon of a label another label follows, as in "length: 7, width: 5".
fn has_other_label(tokens: &[Token]) -> bool {
    let is_join = |token: &Token| token.is(',') || token.is(';') || token.word() == Some("and");
    tokens.windows(3).enumerate().any(|(at, three)| {
        three[2].is(':')
            && (three[1].word().is_some()
                || matches!(three[1].kind, Kind::Letter(_)) && is_join(&three[0]) && at > 0)
    })
}

/// Leaves out "Answer:", "≈" and "=" before a value; what "Profit:" names is a value of that name.
fn without_label(mut tokens: &[Token]) -> (Option<String>, &[Token]) {
    let is_label = |token: &Token| token.word().is_some();
    let n_words = tokens.iter().take_while(|token| is_label(token)).count();
    let is_name = wording::is_name(tokens[..n_words].iter().filter_map(Token::word));
    if n_words > 0
        && is_name
        && !has_other_label(&tokens[n_words..])
        && tokens.get(n_words).is_some_and(|token| token.is(':'))
        && tokens.len() > n_words + 1
    {
        let name = labels::name_of(tokens[..n_words].iter().filter_map(Token::word));
        tokens = &tokens[n_words + 1..];
        if name.is_some() {
            return (name, tokens);
        }
    }
    // `x: 2`, but not the ratio `x:2`
    if let [name, colon, first, ..] = tokens
        && let Kind::Letter(name) = &name.kind
        && colon.is(':')
        && !colon.spaced
        && first.spaced
    {
        return (Some(name.clone()), &tokens[2..]);
    }
    if let [first, rest @ ..] = tokens
        && matches!(first.kind, Kind::Relation(Relation::Approximate | Relation::Equal))
        && !rest.is_empty()
    {
        tokens = rest;
    }
    const NOTHING: [&str; 9] =
        ["a", "total", "of", "exactly", "about", "approximately", "roughly", "just", "only"];
    let n_words = tokens
        .iter()
        .take_while(|token| token.word().is_some_and(|word| NOTHING.contains(&word.to_lowercase().as_str())))
        .count();
    (None, if n_words > 0 && tokens.len() > n_words { &tokens[n_words..] } else { tokens })
}

fn members(parts: &[&[Token]], depth: usize) -> Option<Vec<Answer>> {
    if parts.len() > MAX_MEMBERS {
        return None;
    }
    parts.iter().map(|part| answer(part, depth + 1)).collect()
}

/// `1, 2 and 3`, `x = 1 or x = 2`
fn list(tokens: &[Token], depth: usize) -> Option<Answer> {
    let joins =
        |token: &Token, word: &str| token.word().is_some_and(|found| found.eq_ignore_ascii_case(word));
    let places =
        top(tokens, |token| token.is(',') || token.is(';') || joins(token, "and") || joins(token, "or"));
    if places.is_empty() {
        return None;
    }
    let parts: Vec<&[Token]> = split(tokens, &places);
    let n = parts.len();
    // ", and" leaves nothing between; at the ends something has to stand.
    if parts[0].is_empty() || parts[n - 1].is_empty() {
        return None;
    }
    let parts: Vec<&[Token]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let members = members(&parts, depth)?;
    let is_choice = places.iter().any(|place| joins(&tokens[*place], "or"));
    Some(Answer::List { members: with_name(members), is_choice })
}

/// `x = 1, 2` lists two values of one variable.
fn with_name(members: Vec<Answer>) -> Vec<Answer> {
    let Some(Answer::Assigned(name, _)) = members.first() else { return members };
    let name = name.clone();
    let fits = members.iter().skip(1).all(|member| match member {
        Answer::Assigned(other, _) => *other == name,
        Answer::Value(value) => !value.expression.has_variables(),
        _ => false,
    });
    let named = |member| match member {
        member @ Answer::Value(_) => Answer::Assigned(name.clone(), Box::new(member)),
        member => member,
    };
    if fits { members.into_iter().map(named).collect() } else { members }
}

/// The name on the left of an assignment: `x`, `f(x)`, `(x, y)`, or words; words say nothing.
fn assigned_name(tokens: &[Token]) -> Option<String> {
    match tokens {
        [token] => match &token.kind {
            Kind::Letter(name) => Some(name.clone()),
            Kind::Word(word) if is_variables(word) => Some(word.clone()),
            _ => None,
        },
        [name, inner @ ..] if is_enclosed(inner) && inner[0].is('(') => {
            let Kind::Letter(name) = &name.kind else { return None };
            // `f(3)` is a value of f, `x(3)` a product.
            let is_function = "fghpqFGHPQNSTV".contains(name.as_str());
            let plain = inner[1..inner.len() - 1].iter().all(|token| {
                matches!(token.kind, Kind::Letter(_))
                    || token.is(',')
                    || is_function && token.whole().is_some()
            });
            let arguments: String = inner
                .iter()
                .map(|token| match &token.kind {
                    Kind::Letter(name) => name.as_str(),
                    Kind::Number(number) => number.digits.as_str(),
                    Kind::Symbol('(') => "(",
                    Kind::Symbol(')') => ")",
                    _ => ",",
                })
                .collect();
            plain.then(|| format!("{name}{arguments}"))
        }
        // The measure of an angle.
        [measure, angle] if matches!(&measure.kind, Kind::Letter(m) if m == "m") => match &angle.kind {
            Kind::Letter(name) if name.starts_with('\u{2220}') => Some(name.clone()),
            _ => None,
        },
        [name, underscore, ..] if underscore.is('_') && matches!(name.kind, Kind::Letter(_)) => {
            match expression(tokens)? {
                Expr::Variable(name) => Some(name),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The name of a variable that stands alone.
fn variable(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Value(Value { expression: Expr::Variable(name), .. }) => Some(name),
        _ => None,
    }
}

fn is_label(tokens: &[Token]) -> bool {
    !tokens.is_empty()
        && tokens.iter().all(|token| token.word().is_some())
        && wording::is_name(tokens.iter().filter_map(Token::word))
}

fn relation(tokens: &[Token], depth: usize) -> Option<Answer> {
    let places = top(tokens, |token| matches!(token.kind, Kind::Relation(_)));
    if places.is_empty() || places.len() > 8 {
        return None;
    }
    let relations: Vec<Relation> = places
        .iter()
        .filter_map(|place| match tokens[*place].kind {
            Kind::Relation(relation) => Some(relation),
            _ => None,
        })
        .collect();
    let sides = split(tokens, &places);
    if sides.iter().any(|side| side.is_empty()) {
        return None;
    }
    let names_it =
        |relation: &Relation| matches!(relation, Relation::Equal | Relation::Approximate | Relation::In);
    if relations.len() == 1 && names_it(&relations[0]) {
        if is_label(sides[0]) && !sides[0].iter().any(|t| t.word().is_some_and(is_variables)) {
            let inner = answer(sides[1], depth + 1)?;
            let name = labels::name_of(sides[0].iter().filter_map(Token::word));
            return Some(match name {
                Some(name) => Answer::Assigned(name, Box::new(inner)),
                None => inner,
            });
        }
        if is_enclosed(sides[0]) && relations[0] == Relation::Equal {
            // (x, y) = (1, 2)
            let left = answer(sides[0], depth + 1)?;
            if let Answer::Tuple(names) = &left
                && names
                    .iter()
                    .all(|n| matches!(n, Answer::Value(v) if matches!(v.expression, Expr::Variable(_))))
            {
                let names: Vec<&str> = names.iter().filter_map(variable).collect();
                let inner = answer(sides[1], depth + 1)?;
                return Some(Answer::Assigned(format!("({})", names.join(",")), Box::new(inner)));
            }
        }
        let is_swapped = assigned_name(sides[0]).is_none() && relations[0] != Relation::In;
        let (left, right) = if is_swapped { (sides[1], sides[0]) } else { (sides[0], sides[1]) };
        if let Some(name) = assigned_name(left) {
            let inner = answer(right, depth + 1)?;
            let own = matches!(&inner, Answer::Value(value) if mentions(&value.expression, &name));
            if !own {
                return Some(Answer::Assigned(name, Box::new(inner)));
            }
        }
    }
    if relations.contains(&Relation::In) {
        return None;
    }
    let expressions = sides.iter().map(|side| expression(side)).collect::<Option<Vec<_>>>();
    if let Some(expressions) = expressions {
        return Some(Answer::Chain(expressions, relations));
    }
    if relations.iter().all(|relation| *relation == Relation::Equal) {
        return evaluated(&sides);
    }
    None
}

/// `x = 2 + 3 = 5 cm`: what it comes to, if all its sides agree.
fn evaluated(sides: &[&[Token]]) -> Option<Answer> {
    let name = assigned_name(sides[0]);
    let values = if name.is_some() { &sides[1..] } else { sides };
    let values = values.iter().map(|side| value(side)).collect::<Option<Vec<_>>>()?;
    let last = values.last()?.clone();
    let agree = values.iter().all(|value| super::compare::same_value(value, &last));
    agree.then(|| match name {
        Some(name) => Answer::Assigned(name, Box::new(last)),
        None => last,
    })
}

fn mentions(expression: &Expr, name: &str) -> bool {
    expression.any(&|part| matches!(part, Expr::Variable(other) if other == name))
}

fn set_operation(tokens: &[Token], depth: usize) -> Option<Answer> {
    for symbol in ['\u{222a}', '\u{2216}', '\u{2229}'] {
        let places = top(tokens, |token| token.is(symbol));
        if !places.is_empty() {
            let members = members(&split(tokens, &places), depth)?;
            let are_sets = members.iter().all(|member| !matches!(member, Answer::Value(_) | Answer::Text(_)));
            return are_sets.then_some(if symbol == '\u{222a}' {
                Answer::Union(members)
            } else {
                Answer::Operation(symbol, members)
            });
        }
    }
    match tokens {
        [token] if token.is_command("emptyset") => Some(Answer::Set(Vec::new())),
        [token] if token.is_command("reals") => Some(Answer::Reals),
        _ => None,
    }
}

fn bracketed(tokens: &[Token], depth: usize) -> Option<Answer> {
    if !is_enclosed(tokens) {
        return None;
    }
    let (Kind::Symbol(open), Kind::Symbol(close)) = (&tokens[0].kind, &tokens[tokens.len() - 1].kind) else {
        return None;
    };
    let inner = &tokens[1..tokens.len() - 1];
    let commas = top(inner, |token| token.is(',') || token.is(';'));
    if *open == SET_OPEN && *close == SET_CLOSE {
        if inner.is_empty() {
            return Some(Answer::Set(Vec::new()));
        }
        // {x | x > 2} and {x : x > 2}
        let bars = top(inner, |token| token.is('|') || token.is(':'));
        if let [bar, ..] = bars[..]
            && commas.is_empty()
            && (1..=3).contains(&bar)
            && matches!(inner[0].kind, Kind::Letter(_))
        {
            // {x ∈ Z : x > 2} is no interval.
            if bar == 3 && !inner[2].is_command("reals") {
                return None;
            }
            return answer(&inner[bar + 1..], depth + 1);
        }
        return members(&split(inner, &commas), depth).map(Answer::Set);
    }
    if commas.is_empty() {
        if matches!((open, close), ('(', ')') | ('{', '}')) && !inner.is_empty() {
            // Brackets around all of it say nothing; what is not a value has to show itself again.
            return match answer(inner, depth + 1)? {
                found
                @ (Answer::Matrix(_) | Answer::Text(_) | Answer::Tuple(_) | Answer::Interval { .. }) => {
                    Some(found)
                }
                Answer::Value(value) if !value.unit.is_none() => Some(Answer::Value(value)),
                found @ (Answer::Assigned(..) | Answer::Chain(..) | Answer::Set(_)) => Some(found),
                _ => None,
            };
        }
        return None;
    }
    let members = members(&split(inner, &commas), depth)?;
    match (open, close) {
        ('(', ')') => Some(Answer::Tuple(members)),
        ('{', '}') => Some(Answer::Set(members)),
        ('[', ']') if members.len() != 2 => Some(Answer::Tuple(members)),
        ('(' | '[', ')' | ']') => {
            let [low, high] = <[Answer; 2]>::try_from(members).ok()?;
            let (low_closed, high_closed) = (*open == '[', *close == ']');
            Some(Answer::Interval { low: Box::new(low), high: Box::new(high), low_closed, high_closed })
        }
        _ => None,
    }
}

fn matrix(tokens: &[Token], depth: usize) -> Option<Answer> {
    let start = tokens.iter().position(|token| token.is_command("matrix"))?;
    if start > 0 {
        let (factor, matrix) = tokens.split_at(start);
        let factor = match factor {
            [sign] if sign.is('-') => Expr::integer(-1),
            factor => expression(factor)?,
        };
        return self::matrix(matrix, depth).and_then(|matrix| multiplied(&factor, matrix));
    }
    let [first, inner @ .., last] = tokens else { return None };
    if !first.is_command("matrix") || !last.is_command("endmatrix") {
        return None;
    }
    let mut rows = split(inner, &top(inner, |token| token.is(ROW)));
    if rows.last().is_some_and(|row| row.is_empty()) {
        rows.pop();
    }
    let rows = rows.into_iter().map(|row| members(&split(row, &top(row, |token| token.is('&'))), depth));
    let rows = rows.collect::<Option<Vec<_>>>()?;
    let n_cells: usize = rows.iter().map(Vec::len).sum();
    (n_cells <= MAX_MEMBERS && rows.iter().all(|row| row.len() == rows[0].len()))
        .then_some(Answer::Matrix(rows))
}

/// A matrix with each cell multiplied by a factor before it.
fn multiplied(factor: &Expr, matrix: Answer) -> Option<Answer> {
    let Answer::Matrix(rows) = matrix else { return None };
    let cell = |cell: Answer| match cell {
        Answer::Value(value) if value.unit.is_none() && !value.is_percent => {
            let product = Expr::Product(vec![factor.clone(), value.expression]);
            Some(Answer::Value(Value::bare(product)))
        }
        _ => None,
    };
    let row = |row: Vec<Answer>| row.into_iter().map(cell).collect::<Option<Vec<_>>>();
    rows.into_iter().map(row).collect::<Option<Vec<_>>>().map(Answer::Matrix)
}

fn ratio(tokens: &[Token]) -> Option<Answer> {
    let places = top(tokens, |token| token.is(':'));
    if places.is_empty() || places.len() > 5 {
        return None;
    }
    let parts = split(tokens, &places).into_iter().map(|part| match value(part)? {
        Answer::Value(value) if value.unit.is_none() && !value.is_percent => Some(value),
        _ => None,
    });
    parts.collect::<Option<Vec<_>>>().map(Answer::Ratio)
}
