//! What is known of numbers: their factors, functions of whole numbers, and sines of parts of a turn.

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::algebra::{Atom, Failure, Fraction, Polynomial, Result};
use super::expression::{Expr, Function};

/// Trial divisors when integers are factored; a cofactor above the square of it counts as opaque.
const MAX_DIVISOR: u64 = 2_000;
/// Largest whole number whose factorial is computed.
const MAX_FACTORIAL: u32 = 400;

/// The factors of a positive whole number with their counts.
pub(super) fn factors(value: &BigInt) -> Vec<(Atom, i64)> {
    let mut found = Vec::new();
    let mut rest = value.clone();
    let mut divisor = 2_u64;
    while divisor <= MAX_DIVISOR && !rest.is_one() {
        if BigInt::from(divisor * divisor) > rest {
            break;
        }
        let mut count = 0;
        loop {
            let (quotient, remainder) = rest.div_rem(&BigInt::from(divisor));
            if !remainder.is_zero() {
                break;
            }
            rest = quotient;
            count += 1;
        }
        if count > 0 {
            found.push((Atom::Prime(divisor.into()), count));
        }
        divisor += if divisor == 2 { 1 } else { 2 };
    }
    if rest.is_one() {
        return found;
    }
    let mut count = 1;
    let root = rest.sqrt();
    if &root * &root == rest {
        (rest, count) = (root, 2);
    } else {
        let root = rest.cbrt();
        if &root * &root * &root == rest {
            (rest, count) = (root, 3);
        }
    }
    let is_prime = rest <= BigInt::from(MAX_DIVISOR * MAX_DIVISOR);
    found.push((if is_prime { Atom::Prime(rest) } else { Atom::Radical(rest) }, count));
    found
}

/// A function of rational numbers whose value is rational.
pub(super) fn of_numbers(function: Function, arguments: &[BigRational]) -> Option<Result<BigRational>> {
    let first = arguments.first()?;
    let whole = |value: &BigRational| value.is_integer().then(|| value.to_integer().to_u32()).flatten();
    let small = |value: &BigRational| whole(value).filter(|n| *n <= MAX_FACTORIAL);
    let product = |values: &mut dyn Iterator<Item = u32>| {
        BigRational::from_integer(values.fold(BigInt::one(), |product, n| product * n))
    };
    Some(Ok(match function {
        Function::Absolute => first.abs(),
        Function::Floor => first.floor(),
        Function::Ceiling => first.ceil(),
        Function::Factorial => product(&mut (1..=small(first)?)),
        Function::DoubleFactorial => {
            let n = small(first)?;
            product(&mut (1..=n).rev().step_by(2))
        }
        Function::Binomial => {
            let (n, k) = (small(first)?, small(arguments.get(1)?)?);
            if k > n {
                return Some(Ok(BigRational::zero()));
            }
            product(&mut (n - k + 1..=n)) / product(&mut (1..=k))
        }
        Function::Maximum => arguments.iter().max()?.clone(),
        Function::Minimum => arguments.iter().min()?.clone(),
        Function::Divisor | Function::Multiple => {
            let are_whole = arguments.iter().all(|value| value.is_integer() && value.is_positive());
            are_whole.then_some(())?;
            let joined = |a: BigInt, b: &BigRational| match function {
                Function::Divisor => a.gcd(b.numer()),
                _ => a.lcm(b.numer()),
            };
            let joined = arguments[1..].iter().fold(first.to_integer(), joined);
            BigRational::from_integer(joined)
        }
        Function::Ln if !first.is_positive() => return first.is_zero().then_some(Err(Failure::Undefined)),
        _ => return None,
    }))
}

/// q, where the argument is q times pi.
pub(super) fn multiple_of_pi(argument: &Fraction) -> Option<BigRational> {
    if argument.above.is_zero() {
        return Some(BigRational::zero());
    }
    let (monomial, coefficient) = argument.above.single().filter(|_| argument.below == Polynomial::one())?;
    (monomial.len() == 1 && monomial.get(&Atom::Pi).is_some_and(One::is_one)).then(|| coefficient.clone())
}

/// The sine of a multiple of pi/6 or pi/4 (its cosine where asked).
pub(super) fn sine(turns: BigRational, is_cosine: bool) -> Option<Expr> {
    let twelfths = turns * BigRational::from_integer(12.into());
    let twelfths = twelfths.is_integer().then(|| twelfths.to_integer())?.mod_floor(&24.into()).to_i64()?;
    let twelfths = (twelfths + if is_cosine { 6 } else { 0 }) % 24;
    let (sign, at) = if twelfths >= 12 { (-1, twelfths - 12) } else { (1, twelfths) };
    let root = |n: i64| Expr::Root(Box::new(Expr::integer(2)), Box::new(Expr::integer(n)));
    let value = match at.min(12 - at) {
        0 => Expr::integer(0),
        2 => Expr::quotient(Expr::integer(1), Expr::integer(2)),
        3 => Expr::quotient(root(2), Expr::integer(2)),
        4 => Expr::quotient(root(3), Expr::integer(2)),
        6 => Expr::integer(1),
        _ => return None,
    };
    Some(Expr::Product(vec![Expr::integer(sign), value]))
}
