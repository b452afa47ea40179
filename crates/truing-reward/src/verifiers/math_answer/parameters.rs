//! Free parameters: the integer of a general solution and the constant of an integral may have any name.

use std::collections::BTreeSet;

use super::expression::Expr;
use super::structure::{Answer, Value};

/// Names of free integers.
const INTEGERS: [&str; 5] = ["k", "n", "m", "l", "t"];
/// Names of constants of integration.
const CONSTANTS: [&str; 5] = ["C", "c", "K", "k", "C_1"];

/// Names of variables of integration.
const VARIABLES: [&str; 7] = ["x", "t", "u", "y", "z", "s", "theta"];

/// The answer with its parameter named as in the reference, where each of the two has one that the other has not.
pub(super) fn renamed(answer: &Answer, reference: &Answer) -> Option<Answer> {
    let (own, wanted) = (names(answer), names(reference));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
        let mut rest = a.difference(b).cloned();
        let first = rest.next()?;
        rest.next().is_none().then_some(first)
    };
    let (from, to) = (only(&own, &wanted)?, only(&wanted, &own)?);
    let are = |known: &[&str]| known.contains(&from.as_str()) && known.contains(&to.as_str());
    let is_period = own.contains("mathbbZ") || is_period(answer, &from) && is_period(reference, &to);
    let has_variable = own.iter().any(|name| VARIABLES.contains(&name.as_str()));
    let is_integral = || has_variable && is_added(answer, &from) && is_added(reference, &to);
    (are(&INTEGERS) && is_period || are(&CONSTANTS) && is_integral()).then(|| with_name(answer, &from, &to))
}

/// Whether a name is multiplied by π.
fn is_period(answer: &Answer, name: &str) -> bool {
    let is_name = |part: &Expr| matches!(part, Expr::Variable(other) if other == name);
    any(answer, &|part| match part {
        Expr::Product(_) | Expr::Quotient(..) => part.has_pi() && part.any(&is_name),
        _ => false,
    })
}

/// Whether a name is a term of a sum and occurs nowhere else.
fn is_added(answer: &Answer, name: &str) -> bool {
    let is_name = |part: &Expr| matches!(part, Expr::Variable(other) if other == name);
    match answer {
        Answer::Assigned(_, inner) => is_added(inner, name),
        Answer::Value(Value { expression: Expr::Sum(terms), .. }) => {
            let (own, others): (Vec<&Expr>, Vec<&Expr>) = terms.iter().partition(|term| is_name(term));
            own.len() == 1 && !others.iter().any(|term| term.any(&is_name))
        }
        _ => false,
    }
}

/// The expressions of an answer.
fn visit<'a>(answer: &'a Answer, see: &mut impl FnMut(&'a Expr)) {
    match answer {
        Answer::Value(value) => see(&value.expression),
        Answer::Tuple(members)
        | Answer::Set(members)
        | Answer::Union(members)
        | Answer::Operation(_, members)
        | Answer::List { members, .. } => members.iter().for_each(|member| visit(member, see)),
        Answer::Interval { low, high, .. } => [low, high].into_iter().for_each(|end| visit(end, see)),
        Answer::Assigned(_, inner) | Answer::Choice(_, inner) => visit(inner, see),
        Answer::Chain(sides, _) => sides.iter().for_each(see),
        Answer::Ratio(values) => values.iter().for_each(|value| see(&value.expression)),
        Answer::Matrix(rows) => rows.iter().flatten().for_each(|cell| visit(cell, see)),
        Answer::Reals | Answer::Text(_) => {}
    }
}

fn any(answer: &Answer, wanted: &impl Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    visit(answer, &mut |expression| found |= expression.any(wanted));
    found
}

/// The names of variables in an answer, and of integers on the left of an assignment.
fn names(answer: &Answer) -> BTreeSet<String> {
    let found = std::cell::RefCell::new(BTreeSet::new());
    any(answer, &|part| {
        if let Expr::Variable(name) = part {
            found.borrow_mut().insert(name.clone());
        }
        false
    });
    let mut found = found.into_inner();
    let members: &[Answer] = match answer {
        Answer::List { members, .. } => members,
        answer => std::slice::from_ref(answer),
    };
    for member in members {
        if let Answer::Assigned(name, _) = member
            && INTEGERS.contains(&name.as_str())
        {
            found.insert(name.clone());
        }
    }
    found
}

fn with_name(answer: &Answer, from: &str, to: &str) -> Answer {
    let all = |members: &[Answer]| members.iter().map(|member| with_name(member, from, to)).collect();
    match answer {
        Answer::Value(value) => {
            Answer::Value(Value { expression: in_expression(&value.expression, from, to), ..value.clone() })
        }
        Answer::Assigned(name, inner) => {
            let name = if name == from { to } else { name };
            Answer::Assigned(name.to_owned(), Box::new(with_name(inner, from, to)))
        }
        Answer::List { members, is_choice } => Answer::List { members: all(members), is_choice: *is_choice },
        Answer::Set(members) => Answer::Set(all(members)),
        Answer::Chain(sides, relations) => {
            let sides = sides.iter().map(|side| in_expression(side, from, to)).collect();
            Answer::Chain(sides, relations.clone())
        }
        other => other.clone(),
    }
}

fn in_expression(expression: &Expr, from: &str, to: &str) -> Expr {
    let inner = |part: &Expr| in_expression(part, from, to);
    let boxed = |part: &Expr| Box::new(in_expression(part, from, to));
    let all = |parts: &[Expr]| parts.iter().map(inner).collect();
    match expression {
        Expr::Variable(name) if name == from => Expr::Variable(to.to_owned()),
        Expr::Sum(parts) => Expr::Sum(all(parts)),
        Expr::Product(parts) => Expr::Product(all(parts)),
        Expr::Call(function, parts) => Expr::Call(*function, all(parts)),
        Expr::Quotient(a, b) => Expr::Quotient(boxed(a), boxed(b)),
        Expr::Power(a, b) => Expr::Power(boxed(a), boxed(b)),
        Expr::Root(a, b) => Expr::Root(boxed(a), boxed(b)),
        Expr::Negative(part) => Expr::Negative(boxed(part)),
        other => other.clone(),
    }
}
