//! Intervals, and sets of numbers as their intervals.

use num_rational::BigRational;
use num_traits::Signed;

use super::compare::normal;
use super::expression::{Expr, Function};
use super::structure::{Answer, Value};
use super::token::Relation;

/// A set of numbers as its intervals: a union, one interval, or inequalities of one variable that are solved for it.
pub(super) fn pieces(answer: &Answer) -> Option<Vec<Answer>> {
    match answer {
        Answer::Union(members) | Answer::List { members, is_choice: true } => {
            members.iter().map(as_interval).collect()
        }
        Answer::Operation('\u{2216}', operands) => match &operands[..] {
            [Answer::Reals, Answer::Set(points)] => between(points),
            _ => None,
        },
        // x ≠ 2
        Answer::Chain(sides, relations) if relations[..] == [Relation::NotEqual] => match &sides[..] {
            [Expr::Variable(_), point] | [point, Expr::Variable(_)] if !point.has_variables() => {
                between(&[Answer::Value(Value::bare(point.clone()))])
            }
            _ => None,
        },
        Answer::Chain(sides, relations) if has_absolute(answer) => around(sides, relations),
        answer => as_interval(answer).map(|interval| vec![interval]),
    }
}

/// Whether an inequality is one of an absolute value.
pub(super) fn has_absolute(answer: &Answer) -> bool {
    let absolute = |side: &Expr| matches!(side, Expr::Call(Function::Absolute, _));
    matches!(answer, Answer::Chain(sides, _) if sides.len() == 2 && sides.iter().any(absolute))
}

/// `|x - 1| < 2`: what is nearer to a point, or farther from it.
fn around(sides: &[Expr], relations: &[Relation]) -> Option<Vec<Answer>> {
    let (inner, bound, relation) = match (sides, relations) {
        ([Expr::Call(Function::Absolute, inner), bound], [relation]) => (inner, bound, *relation),
        ([bound, Expr::Call(Function::Absolute, inner)], [relation]) => (inner, bound, relation.flipped()),
        _ => return None,
    };
    let name = std::cell::Cell::new(None);
    inner[0].any(&|part| {
        let is_name = matches!(part, Expr::Variable(_));
        if is_name {
            name.set(Some(part.clone()));
        }
        is_name
    });
    let center = Expr::Sum(vec![name.into_inner()?, Expr::Negative(Box::new(inner[0].clone()))]);
    let center = normal(&center)?.rational()?;
    let bound = normal(bound)?.rational().filter(BigRational::is_positive)?;
    let end = |value: BigRational| Box::new(Answer::Value(Value::bare(Expr::Number(value))));
    let infinite = Box::new(Answer::Value(Value::bare(Expr::Infinity)));
    let below = Box::new(Answer::Value(Value::bare(Expr::Negative(Box::new(Expr::Infinity)))));
    let (low, high) = (end(&center - &bound), end(&center + &bound));
    let closed = matches!(relation, Relation::LessEqual | Relation::GreaterEqual);
    let interval =
        |low, high, low_closed, high_closed| Answer::Interval { low, high, low_closed, high_closed };
    match relation {
        Relation::Less | Relation::LessEqual => Some(vec![interval(low, high, closed, closed)]),
        Relation::Greater | Relation::GreaterEqual => {
            Some(vec![interval(below, low, false, closed), interval(high, infinite, closed, false)])
        }
        _ => None,
    }
}

/// The open intervals that all real numbers are without some points.
fn between(points: &[Answer]) -> Option<Vec<Answer>> {
    let place = |point: &Answer| match point {
        Answer::Value(value) if value.unit.is_none() && !value.is_percent => {
            normal(&value.expression)?.rational()
        }
        _ => None,
    };
    let mut places = points.iter().map(place).collect::<Option<Vec<_>>>()?;
    places.sort_unstable();
    places.dedup();
    let mut ends = vec![Expr::Negative(Box::new(Expr::Infinity))];
    ends.extend(places.into_iter().map(Expr::Number));
    ends.push(Expr::Infinity);
    let end = |end: &Expr| Box::new(Answer::Value(Value::bare(end.clone())));
    let open = |pair: &[Expr]| Answer::Interval {
        low: end(&pair[0]),
        high: end(&pair[1]),
        low_closed: false,
        high_closed: false,
    };
    Some(ends.windows(2).map(open).collect())
}

pub(super) fn as_interval(answer: &Answer) -> Option<Answer> {
    match answer {
        Answer::Interval { .. } => Some(answer.clone()),
        Answer::Tuple(members) if members.len() == 2 => Some(Answer::Interval {
            low: Box::new(members[0].clone()),
            high: Box::new(members[1].clone()),
            low_closed: false,
            high_closed: false,
        }),
        Answer::Chain(sides, relations) => solved(sides, relations),
        _ => None,
    }
}

/// `x >= 4` and `4 <= x < 5` as intervals.
fn solved(sides: &[Expr], relations: &[Relation]) -> Option<Answer> {
    let at = sides.iter().position(|side| matches!(side, Expr::Variable(_)))?;
    let value = |expression: &Expr| Box::new(Answer::Value(Value::bare(expression.clone())));
    let (mut low, mut high) = (None, None);
    for (side, relation, is_left) in [
        at.checked_sub(1).map(|left| (left, left, true)),
        (at + 1 < sides.len()).then_some((at + 1, at, false)),
    ]
    .into_iter()
    .flatten()
    {
        let bound = &sides[side];
        if bound.has_variables() {
            return None;
        }
        let (is_low, closed) = match relations[relation] {
            Relation::Less => (is_left, false),
            Relation::LessEqual => (is_left, true),
            Relation::Greater => (!is_left, false),
            Relation::GreaterEqual => (!is_left, true),
            _ => return None,
        };
        let slot = if is_low { &mut low } else { &mut high };
        if slot.replace((value(bound), closed)).is_some() {
            return None;
        }
    }
    if sides.len() > 3 || (sides.len() == 3 && at != 1) {
        return None;
    }
    let below = Expr::Negative(Box::new(Expr::Infinity));
    let (low, low_closed) = low.unwrap_or_else(|| (value(&below), false));
    let (high, high_closed) = high.unwrap_or_else(|| (value(&Expr::Infinity), false));
    Some(Answer::Interval { low, high, low_closed, high_closed })
}

pub(super) fn is_infinite(answer: &Answer) -> bool {
    match answer {
        Answer::Value(value) => match &value.expression {
            Expr::Infinity => true,
            Expr::Negative(inner) => **inner == Expr::Infinity,
            _ => false,
        },
        _ => false,
    }
}
