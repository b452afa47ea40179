//! Whether two answers are the same: structure as structure, values exactly.

use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::MathAnswerConfig;
use super::algebra::{Algebra, Fraction};
use super::expression::Expr;
use super::intervals::{as_interval, has_absolute, is_infinite, pieces};
use super::labels::{assignments, have_own_names, names, same_name};
use super::numeric;
use super::structure::{Answer, Decimal, Value};
use super::token::Relation;

/// Decimals from which the last binary digits of a printed float are let pass.
const FLOAT_PLACES: i64 = 9;

pub(super) fn normal(expression: &Expr) -> Option<Fraction> {
    Algebra::default().normal(expression).ok()
}

/// Whether two expressions have the same value for all values of their variables.
pub(super) fn same_expression(a: &Expr, b: &Expr) -> bool {
    if let (Expr::Number(a), Expr::Number(b)) = (a, b) {
        return a == b;
    }
    let (Some(left), Some(right)) = (normal(a), normal(b)) else { return false };
    left == right || is_zero_difference(&left, &right)
}

fn is_zero_difference(a: &Fraction, b: &Fraction) -> bool {
    match Algebra::default().difference(a, b) {
        Ok(difference) => difference.is_zero() || (difference.is_opaque() && numeric::vanishes(&difference)),
        Err(_) => false,
    }
}

/// Whether two answers are values of the same expression, whatever their units.
pub(super) fn same_value(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (Answer::Value(a), Answer::Value(b)) => same_expression(&a.expression, &b.expression),
        _ => a == b,
    }
}

/// Whether a reference can be compared with at all: no division by zero in it.
pub(super) fn has_value(answer: &Answer) -> bool {
    let defined = |expression: &Expr| {
        !matches!(Algebra::default().normal(expression), Err(super::algebra::Failure::Undefined))
    };
    match answer {
        Answer::Value(value) => defined(&value.expression),
        Answer::Assigned(_, inner) | Answer::Choice(_, inner) => has_value(inner),
        Answer::Tuple(members)
        | Answer::Set(members)
        | Answer::Union(members)
        | Answer::Operation(_, members)
        | Answer::List { members, .. } => members.iter().all(has_value),
        Answer::Interval { low, high, .. } => has_value(low) && has_value(high),
        Answer::Chain(sides, _) => sides.iter().all(defined),
        Answer::Ratio(values) => values.iter().all(|value| defined(&value.expression)),
        Answer::Matrix(rows) => rows.iter().flatten().all(has_value),
        Answer::Reals => true,
        Answer::Text(text) => !text.is_empty(),
    }
}

/// Whether a value is a part of one.
fn is_proper_fraction(value: &Value) -> bool {
    let rational = normal(&value.expression).and_then(|value| value.rational());
    rational.is_some_and(|value| !value.is_integer() && value.abs() < BigRational::one())
}

/// Compares an answer with the reference.
pub(super) struct Comparison<'a> {
    pub(super) config: &'a MathAnswerConfig,
    /// Whether lists are compared in their order.
    pub(super) in_order: bool,
}

impl Comparison<'_> {
    pub(super) fn same(&self, answer: &Answer, reference: &Answer) -> bool {
        let (answer, reference) = (unwrapped(answer), unwrapped(reference));
        let (answer, reference) = (&*answer, &*reference);
        if let Some(found) = self.named(answer, reference) {
            return found;
        }
        if let (Some(a), Some(b)) = (pieces(answer), pieces(reference))
            && (is_relation(answer) != is_relation(reference)
                || [answer, reference].into_iter().any(|it| is_union(it) || has_absolute(it)))
        {
            return self.unordered(&a, &b, false);
        }
        match (answer, reference) {
            (Answer::Value(a), Answer::Value(b)) => self.values(a, b),
            (Answer::Text(a), Answer::Text(b)) => a == b,
            (Answer::Choice(a, left), Answer::Choice(b, right)) => a == b && self.same(left, right),
            (Answer::Choice(letter, said), other) | (other, Answer::Choice(letter, said)) => match other {
                Answer::Value(Value { expression: Expr::Variable(name), unit, .. }) => {
                    unit.is_none() && name.eq_ignore_ascii_case(letter)
                }
                _ => self.same(said, other),
            },
            (Answer::Reals, Answer::Reals) => true,
            (Answer::Reals, other) | (other, Answer::Reals) => is_everything(other),
            (Answer::Tuple(a), Answer::Tuple(b)) => self.ordered(a, b),
            // (1, 2) without its brackets.
            (Answer::Tuple(a), Answer::List { members: b, is_choice: false })
            | (Answer::List { members: a, is_choice: false }, Answer::Tuple(b)) => {
                let has_names =
                    |members: &[Answer]| assignments(members).is_none() || have_own_names(members);
                has_names(a) && has_names(b) && self.ordered(&bare_members(a), &bare_members(b))
            }
            (
                Answer::Interval { low, high, low_closed, high_closed },
                Answer::Interval {
                    low: low_b,
                    high: high_b,
                    low_closed: low_closed_b,
                    high_closed: high_closed_b,
                },
            ) => {
                let closed = |end: &Answer, closed: bool| closed && !is_infinite(end);
                closed(low, *low_closed) == closed(low_b, *low_closed_b)
                    && closed(high, *high_closed) == closed(high_b, *high_closed_b)
                    && self.same(low, low_b)
                    && self.same(high, high_b)
            }
            (Answer::Tuple(_), Answer::Interval { .. }) | (Answer::Interval { .. }, Answer::Tuple(_)) => {
                match (as_interval(answer), as_interval(reference)) {
                    (Some(a), Some(b)) => self.same(&a, &b),
                    _ => false,
                }
            }
            (Answer::Set(_) | Answer::List { .. }, _) | (_, Answer::Set(_) | Answer::List { .. }) => {
                self.collections(answer, reference)
            }
            (Answer::Union(a), Answer::Union(b)) => self.unordered(a, b, false),
            (Answer::Operation(a, left), Answer::Operation(b, right)) => a == b && self.ordered(left, right),
            (Answer::Ratio(a), Answer::Ratio(b)) => ratios(a, b),
            (Answer::Text(text), Answer::Ratio(ratio)) | (Answer::Ratio(ratio), Answer::Text(text)) => {
                ratio_in_words(text, ratio)
            }
            // A column or a row is a vector.
            (Answer::Matrix(rows), Answer::Tuple(members))
            | (Answer::Tuple(members), Answer::Matrix(rows)) => {
                let is_vector = rows.len() == 1 || rows.iter().all(|row| row.len() == 1);
                is_vector && self.ordered(&rows.concat(), members)
            }
            (Answer::Matrix(a), Answer::Matrix(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.ordered(a, b))
            }
            (Answer::Chain(a, left), Answer::Chain(b, right)) => chains(a, left, b, right),
            _ => false,
        }
    }

    /// A set or a list without brackets, against another or against a value.
    fn collections(&self, answer: &Answer, reference: &Answer) -> bool {
        match (answer, reference) {
            (Answer::Set(a), Answer::Set(b)) => self.unordered(a, b, true),
            (Answer::Set(a), Answer::List { members: b, .. }) if self.in_order => self.ordered(a, b),
            (Answer::Set(a), Answer::List { members: b, .. })
            | (Answer::List { members: a, .. }, Answer::Set(b)) => self.unordered(a, b, false),
            (
                Answer::List { members: a, is_choice: is_choice_a },
                Answer::List { members: b, is_choice: is_choice_b },
            ) => {
                // Values with different names go by their names.
                if self.in_order && !(have_own_names(a) && have_own_names(b)) {
                    return self.ordered(a, b);
                }
                // Between inequalities "and" and "or" are different.
                let are_relations = a.iter().chain(b).any(|member| matches!(member, Answer::Chain(..)));
                (is_choice_a == is_choice_b || !are_relations) && self.unordered(a, b, false)
            }
            // `3/5 or 60%` says one value twice.
            (Answer::List { members, is_choice: true }, other @ Answer::Value(_))
            | (other @ Answer::Value(_), Answer::List { members, is_choice: true }) => {
                members.iter().all(|member| matches!(member, Answer::Value(_)) && self.same(member, other))
            }
            // A set of one member and that member.
            (Answer::Set(members), other @ Answer::Value(_)) => {
                members.len() == 1 && self.same(&members[0], other)
            }
            (other @ Answer::Value(_), Answer::Set(members)) => {
                members.len() == 1 && self.same(other, &members[0])
            }
            _ => false,
        }
    }

    /// A variable with its value, against another or against the value alone.
    fn named(&self, answer: &Answer, reference: &Answer) -> Option<bool> {
        match (answer, reference) {
            (Answer::Assigned(a, left), Answer::Assigned(b, right)) => {
                let is_same = match (names(a), names(b), &**left, &**right) {
                    (Some(a), Some(b), Answer::Tuple(left), Answer::Tuple(right)) => {
                        self.same_tuple(&a, left, &b, right)
                    }
                    _ => same_name(a, b) && self.same(left, right),
                };
                Some(is_same || equations(answer, reference))
            }
            // x = 1, y = 2 against (x, y) = (1, 2)
            (Answer::Assigned(name, inner), Answer::List { members, .. })
            | (Answer::List { members, .. }, Answer::Assigned(name, inner)) => {
                match (names(name), &**inner, assignments(members)) {
                    (Some(a), Answer::Tuple(left), Some((b, right))) => {
                        Some(self.same_tuple(&a, left, &b, &right))
                    }
                    _ if name.starts_with('(') => Some(false),
                    _ => {
                        Some(self.same(
                            inner,
                            if matches!(answer, Answer::List { .. }) { answer } else { reference },
                        ))
                    }
                }
            }
            // x ∈ [1, 2] against 1 ≤ x ≤ 2
            (Answer::Assigned(name, inner), Answer::Chain(sides, _))
            | (Answer::Chain(sides, _), Answer::Assigned(name, inner))
                if as_interval(inner).is_some() || is_union(inner) =>
            {
                let is_own = |part: &Expr| matches!(part, Expr::Variable(other) if other == name);
                let is_about = sides.iter().any(|side| side.any(&is_own));
                let other = if matches!(answer, Answer::Chain(..)) { answer } else { reference };
                Some(is_about && self.same(inner, other))
            }
            (Answer::Assigned(..), Answer::Chain(..)) | (Answer::Chain(..), Answer::Assigned(..)) => {
                Some(equations(answer, reference))
            }
            (Answer::Assigned(name, inner), other) => Some(self.same(&by_name(name, inner), other)),
            (other, Answer::Assigned(name, inner)) => Some(self.same(other, &by_name(name, inner))),
            _ => None,
        }
    }

    /// Tuples whose members have names: by name.
    fn same_tuple(&self, a: &[&str], left: &[Answer], b: &[&str], right: &[Answer]) -> bool {
        a.len() == left.len()
            && b.len() == right.len()
            && a.len() == b.len()
            && a.iter().zip(left).all(|(name, member)| {
                b.iter().position(|other| other == name).is_some_and(|at| self.same(member, &right[at]))
            })
    }

    fn ordered(&self, a: &[Answer], b: &[Answer]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.same(a, b))
    }

    /// Each member of one fits a member of the other; as many of each unless repetitions do not count.
    fn unordered(&self, a: &[Answer], b: &[Answer], is_set: bool) -> bool {
        if is_set {
            let within = |a: &[Answer], b: &[Answer]| a.iter().all(|a| b.iter().any(|b| self.same(a, b)));
            return within(a, b) && within(b, a);
        }
        let mut rest: Vec<&Answer> = b.iter().collect();
        a.len() == b.len()
            && a.iter().all(|member| {
                let found = rest.iter().position(|other| self.same(member, other));
                found.map(|at| rest.swap_remove(at)).is_some()
            })
    }

    fn values(&self, answer: &Value, reference: &Value) -> bool {
        if !answer.unit.fits(&reference.unit) || answer.unit.adds_meaning(&reference.unit) {
            return false;
        }
        let with = |value: &Value, factor: Option<&BigRational>, percent: bool| {
            let mut factors = vec![value.expression.clone()];
            factors.extend(factor.map(|factor| Expr::Number(factor.clone())));
            factors.extend(percent.then(|| Expr::Number(BigRational::new(1.into(), 100.into()))));
            let only = factors.len() == 1;
            let expression = if only { factors.remove(0) } else { Expr::Product(factors) };
            (expression, value.decimal.filter(|_| only))
        };
        if answer.is_percent != reference.is_percent {
            let other = if answer.is_percent { reference } else { answer };
            let own = if answer.is_percent { answer } else { reference };
            let is_share = own.unit.counted.as_deref().is_some_and(|thing| thing.starts_with("of "));
            if !other.unit.is_none() || is_share {
                return false;
            }
            let (share, _) = with(if answer.is_percent { answer } else { reference }, None, true);
            let own = if answer.is_percent { answer } else { reference };
            return !is_proper_fraction(own)
                && self.constants(&own.expression, own.decimal, &other.expression, other.decimal)
                || self.constants(&share, None, &other.expression, other.decimal);
        }
        // An angle of a name is not the name.
        if answer.unit.is_degree() != reference.unit.is_degree() && answer.expression.has_variables() {
            return false;
        }
        // 60 minutes are one hour; a number without a unit is in the other's.
        let both = !answer.unit.dimensions.is_empty() && answer.unit.dimensions == reference.unit.dimensions;
        let scale = |value: &Value| {
            value.unit.factor.clone().filter(|_| both && answer.unit.factor != reference.unit.factor)
        };
        let one_in_degrees = answer.unit.is_degree() != reference.unit.is_degree();
        let (a, a_decimal) = with(answer, scale(answer).as_ref(), false);
        let (b, b_decimal) = with(reference, scale(reference).as_ref(), false);
        // What is written with π is in radians: (π/3)° is not π/3.
        let in_radians = one_in_degrees && (a.has_pi() || b.has_pi());
        if !in_radians && self.constants(&a, a_decimal, &b, b_decimal) {
            return true;
        }
        if one_in_degrees && (answer.unit.is_none() || reference.unit.is_none()) {
            // 30° is pi/6.
            let degree = Expr::quotient(Expr::Pi, Expr::integer(180));
            let turned = |value: &Value| match value.unit.is_degree() {
                true => Expr::Product(vec![value.expression.clone(), degree.clone()]),
                false => value.expression.clone(),
            };
            return same_expression(&turned(answer), &turned(reference));
        }
        false
    }

    fn constants(&self, a: &Expr, a_decimal: Option<Decimal>, b: &Expr, b_decimal: Option<Decimal>) -> bool {
        if let (Expr::Number(a), Expr::Number(b)) = (a, b) {
            return a == b || self.near(a, a_decimal, b, b_decimal);
        }
        if same_expression(a, b) {
            return true;
        }
        if (a_decimal.is_none() && b_decimal.is_none() && self.config.tolerance <= 0.0)
            || a.has_variables()
            || b.has_variables()
        {
            return false;
        }
        let value = |expression: &Expr| {
            let normal = normal(expression)?;
            normal.rational().or_else(|| BigRational::from_float(numeric::real(&normal)?))
        };
        match (value(a), value(b)) {
            (Some(a), Some(b)) => self.near(&a, a_decimal, &b, b_decimal),
            _ => false,
        }
    }

    /// Near enough by the settings.
    fn near(
        &self,
        a: &BigRational,
        a_decimal: Option<Decimal>,
        b: &BigRational,
        b_decimal: Option<Decimal>,
    ) -> bool {
        let distance = (a - b).abs();
        let within = |relative: f64| {
            BigRational::from_float(relative).is_some_and(|relative| distance <= relative * b.abs())
        };
        if self.config.tolerance > 0.0 && within(self.config.tolerance) {
            return true;
        }
        let wanted = i64::from(self.config.float_rounding);
        if wanted == 0 {
            return false;
        }
        // The shorter decimal is the other value, rounded at its last digit.
        let shorter = [a_decimal, b_decimal].into_iter().flatten().min_by_key(|decimal| decimal.places);
        if let Some(decimal) = shorter
            && decimal.places >= wanted
            && decimal.significant as i64 >= wanted
            && decimal.places <= 40
        {
            let step = BigRational::from_integer(num_bigint::BigInt::from(10).pow(decimal.places as u32));
            let slack = b.abs() * BigRational::new(1.into(), num_bigint::BigInt::from(10).pow(14));
            if distance <= (BigRational::one() / step) / BigRational::from_integer(2.into()) + slack {
                return true;
            }
        }
        let is_float =
            |decimal: &Decimal| decimal.places >= FLOAT_PLACES && decimal.significant as i64 >= FLOAT_PLACES;
        if [a_decimal, b_decimal].iter().flatten().any(is_float) {
            let tiny = BigRational::new(1.into(), num_bigint::BigInt::from(10).pow(12));
            let small = BigRational::new(1.into(), num_bigint::BigInt::from(10).pow(8));
            return (within(1e-9) && distance <= small) || ((a.is_zero() || b.is_zero()) && distance <= tiny);
        }
        false
    }
}

/// Whether two answers are the letter of the same choice, in upper or lower case.
pub(super) fn same_choice(a: &Answer, b: &Answer) -> bool {
    let letter = |answer: &Answer| match answer {
        Answer::Value(Value { expression: Expr::Variable(name), .. })
            if name.len() == 1 && "abcdeABCDE".contains(name.as_str()) =>
        {
            Some(name.to_ascii_lowercase())
        }
        _ => None,
    };
    letter(a).is_some_and(|a| letter(b) == Some(a))
}

/// The value of a name; that of `(y,x)` in the order of x, y and z.
fn by_name(name: &str, inner: &Answer) -> Answer {
    match (names(name), inner) {
        (Some(names), Answer::Tuple(members))
            if names.len() == members.len() && names.iter().all(|name| ["x", "y", "z"].contains(name)) =>
        {
            let mut pairs: Vec<_> = names.into_iter().zip(members.clone()).collect();
            pairs.sort_by_key(|pair| pair.0);
            Answer::Tuple(pairs.into_iter().map(|pair| pair.1).collect())
        }
        _ => inner.clone(),
    }
}

/// The values of a list; those of x, y and z in the order of their names.
fn bare_members(members: &[Answer]) -> Vec<Answer> {
    let mut members = members.to_vec();
    if let Some((names, _)) = assignments(&members)
        && names.iter().all(|name| ["x", "y", "z"].contains(name))
    {
        members.sort_by_key(|member| match member {
            Answer::Assigned(name, _) => name.clone(),
            _ => String::new(),
        });
    }
    let bare = |member: &Answer| match member {
        Answer::Assigned(_, inner) => (**inner).clone(),
        member => member.clone(),
    };
    members.iter().map(bare).collect()
}

/// A chain of equal values is its value: `2 + 3 = 5`, `x = 2 + 3 = 5`.
fn unwrapped(answer: &Answer) -> std::borrow::Cow<'_, Answer> {
    use std::borrow::Cow;
    let Answer::Chain(sides, relations) = answer else { return Cow::Borrowed(answer) };
    if relations.iter().any(|relation| !matches!(relation, Relation::Equal | Relation::Approximate)) {
        return Cow::Borrowed(answer);
    }
    let name = match &sides[0] {
        Expr::Variable(name) => Some(name.clone()),
        _ => None,
    };
    let values = if name.is_some() { &sides[1..] } else { &sides[..] };
    let Some(last) = values.last() else { return Cow::Borrowed(answer) };
    let constant = values.iter().all(|value| !value.has_variables());
    let is_rounded = relations.last() == Some(&Relation::Approximate)
        && values.len() > 1
        && values[..values.len() - 1].iter().all(|value| same_expression(value, &values[0]))
        && is_rounded(&values[0], last);
    if !constant || !is_rounded && values.iter().any(|value| !same_expression(value, last)) {
        return Cow::Borrowed(answer);
    }
    let last = if is_rounded { &values[0] } else { last };
    let value = Answer::Value(Value::bare(last.clone()));
    Cow::Owned(name.map_or(value.clone(), |name| Answer::Assigned(name, Box::new(value))))
}

/// Whether a decimal number is a value rounded at its last digit, of which there are at least two after the point.
fn is_rounded(value: &Expr, decimal: &Expr) -> bool {
    let (Some(value), Expr::Number(decimal)) = (normal(value), decimal) else { return false };
    let value = value.rational().or_else(|| BigRational::from_float(numeric::real(&value)?));
    let power = |places: u32| BigRational::from_integer(num_bigint::BigInt::from(10).pow(places));
    let places = (2..=12).find(|places| (decimal * power(*places)).is_integer());
    let (Some(value), Some(places)) = (value, places) else { return false };
    (value - decimal).abs() * power(places) * BigRational::from_integer(2.into()) <= BigRational::one()
}

fn is_union(answer: &Answer) -> bool {
    matches!(answer, Answer::Union(_) | Answer::Operation('\u{2216}', _))
}

fn is_relation(answer: &Answer) -> bool {
    matches!(answer, Answer::Chain(..) | Answer::List { .. })
}

/// Whether numbers with a colon between them are written as a time or a duration is, `7:30` or `14:60`.
fn is_clock(values: &[Value]) -> bool {
    let whole = |value: &Value| match &value.expression {
        Expr::Number(number) if number.is_integer() => number.to_i64(),
        _ => None,
    };
    match values {
        [hours, minutes, ..] => {
            whole(hours).is_some_and(|hours| (0..100).contains(&hours))
                && whole(minutes).is_some_and(|minutes| (10..100).contains(&minutes) || minutes == 0)
        }
        _ => false,
    }
}

/// `3:30 pm` of `15:30`, which is only a time of the afternoon.
fn afternoon(values: &[Value]) -> Option<String> {
    let [hour, minute] = values else { return None };
    let whole = |value: &Value| match &value.expression {
        Expr::Number(number) if number.is_integer() => number.to_i64(),
        _ => None,
    };
    let (hour, minute) = (whole(hour)?, whole(minute)?);
    let is_time = (13..24).contains(&hour) && (0..60).contains(&minute);
    is_time.then(|| format!("{}:{minute:02} pm", hour - 12))
}

/// 3:2 is 6:4, but 10:20 may be a time and then is not 5:10.
fn ratios(a: &[Value], b: &[Value]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let product = |x: &Value, y: &Value| Expr::Product(vec![x.expression.clone(), y.expression.clone()]);
    let equal = a.iter().zip(b).all(|(a, b)| same_expression(&a.expression, &b.expression));
    let nonzero =
        |values: &[Value]| values.iter().any(|value| !same_expression(&value.expression, &Expr::integer(0)));
    equal
        || (!(is_clock(a) && is_clock(b))
            && nonzero(a)
            && nonzero(b)
            && (0..a.len()).all(|at| {
                (0..at).all(|to| same_expression(&product(&a[at], &b[to]), &product(&a[to], &b[at])))
            }))
}

/// Whether an answer is the interval of all real numbers.
fn is_everything(answer: &Answer) -> bool {
    match as_interval(answer) {
        Some(Answer::Interval { low, high, .. }) => is_infinite(&low) && is_infinite(&high) && low != high,
        _ => false,
    }
}

/// "2 to 3" is a ratio where one is wanted, and `15:30` is a time of the afternoon.
fn ratio_in_words(text: &str, ratio: &[Value]) -> bool {
    if afternoon(ratio).is_some_and(|time| time == text) {
        return true;
    }
    let part = |part: &str| Some(Value::bare(Expr::integer(part.parse().ok()?)));
    let parts = text.split("to").map(part).collect::<Option<Vec<_>>>();
    !is_clock(ratio) && parts.is_some_and(|parts| ratios(&parts, ratio))
}

/// Left side minus right side of an equation.
fn equation(answer: &Answer) -> Option<Fraction> {
    let difference =
        |a: &Expr, b: &Expr| normal(&Expr::Sum(vec![a.clone(), Expr::Negative(Box::new(b.clone()))]));
    match answer {
        Answer::Assigned(name, inner) => match &**inner {
            Answer::Value(value) if value.unit.is_none() => {
                difference(&Expr::Variable(name.clone()), &value.expression)
            }
            _ => None,
        },
        Answer::Chain(sides, relations) if relations[..] == [Relation::Equal] => {
            difference(&sides[0], &sides[1])
        }
        _ => None,
    }
}

/// Whether two equations hold for the same values: one is a multiple of the other.
fn equations(a: &Answer, b: &Answer) -> bool {
    match (equation(a), equation(b)) {
        (Some(a), Some(b)) => {
            let has_unknown = !a.above.is_zero() && !b.above.is_zero();
            has_unknown && a.below == b.below && a.above.monic() == b.above.monic()
        }
        _ => false,
    }
}

fn chains(a: &[Expr], left: &[Relation], b: &[Expr], right: &[Relation]) -> bool {
    let sides = |b: &[&Expr], right: &[Relation]| {
        left == right && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_expression(a, b))
    };
    let mut backwards: Vec<Relation> = right.iter().map(|relation| relation.flipped()).collect();
    backwards.reverse();
    if sides(&b.iter().collect::<Vec<_>>(), right) || sides(&b.iter().rev().collect::<Vec<_>>(), &backwards) {
        return true;
    }
    let ([relation_a], [relation_b]) = (left, right) else { return false };
    let over = |sides: &[Expr]| {
        normal(&Expr::Sum(vec![sides[0].clone(), Expr::Negative(Box::new(sides[1].clone()))]))
    };
    let (Some(a), Some(b)) = (over(a), over(b)) else { return false };
    if a.below != b.below || a.above.is_zero() || b.above.is_zero() || a.above.monic() != b.above.monic() {
        return false;
    }
    let same_sign = a.above.leads_negative() == b.above.leads_negative();
    *relation_a == if same_sign { *relation_b } else { relation_b.flipped() }
}
