//! Values of normal forms, for what cannot be decided exactly: in double precision, and sums of roots in fixed point.

use std::collections::BTreeSet;

use num_bigint::BigInt;
use num_complex::Complex64;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::algebra::{Atom, Exponent, Fraction, Polynomial};
use super::expression::Function;

/// Points with positive variables only, where roots and logarithms are real.
const POSITIVE: u64 = 4;
/// All points. After the positive ones the first four variables take every combination of signs.
const POINTS: u64 = POSITIVE + 16;
/// At how many of them both sides have to have a value.
const ENOUGH: usize = 4;
/// How large an argument of a periodic function or an exponent of e may be.
const MAX_ARGUMENT: f64 = 1e3;
/// Binary digits after the point of sums of roots, and how many of them have to be zero.
const PRECISION: usize = 320;
const ZERO_DIGITS: usize = 240;
/// Numerators and denominators of exponents in such sums.
const MAX_EXPONENT: u64 = 32;
/// How small the sum of terms has to be beside the terms.
const RELATIVE: f64 = 1e-11;

/// A point: its number and the names of the variables, which decide their signs.
struct Point<'a> {
    number: u64,
    names: &'a BTreeSet<&'a str>,
}

/// The value of a variable at a point: between 0.3 and 2.7 in size, of either sign.
fn at_point(name: &str, at: &Point<'_>) -> f64 {
    let point = at.number;
    let mut state = point.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 29;
    }
    let size = 0.3 + 2.4 * (state >> 11) as f64 / (1_u64 << 53) as f64;
    let Some(signs) = point.checked_sub(POSITIVE) else { return size };
    let is_negative = match at.names.iter().position(|other| *other == name) {
        Some(place) if place < 4 => signs >> place & 1 == 1,
        _ => state & 1 == 1,
    };
    if is_negative { -size } else { size }
}

fn names<'a>(polynomial: &'a Polynomial, found: &mut BTreeSet<&'a str>) {
    for atom in polynomial.0.keys().flat_map(|monomial| monomial.keys()) {
        match atom {
            Atom::Variable(name) => {
                found.insert(name);
            }
            Atom::Call(_, arguments) => {
                for argument in arguments {
                    names(&argument.above, found);
                    names(&argument.below, found);
                }
            }
            Atom::Power(base, exponent) => {
                for part in [base, exponent] {
                    names(&part.above, found);
                    names(&part.below, found);
                }
            }
            _ => {}
        }
    }
}

fn float(exponent: &Exponent) -> f64 {
    *exponent.numer() as f64 / *exponent.denom() as f64
}

fn atom(atom: &Atom, point: &Point<'_>) -> Option<Complex64> {
    Some(match atom {
        Atom::Variable(name) => at_point(name, point).into(),
        Atom::Pi => std::f64::consts::PI.into(),
        Atom::Euler => std::f64::consts::E.into(),
        Atom::Imaginary => Complex64::i(),
        Atom::Infinity => return None,
        Atom::Prime(base) | Atom::Radical(base) => base.to_f64()?.into(),
        Atom::Power(base, exponent) => power(fraction(base, point)?, fraction(exponent, point)?),
        Atom::Call(_, arguments) if arguments.len() != 1 => return None,
        Atom::Call(function, arguments) => call(*function, fraction(arguments.first()?, point)?)?,
    })
}

fn power(base: Complex64, exponent: Complex64) -> Complex64 {
    if base.is_zero() {
        return Complex64::zero();
    }
    let logarithm = base.ln() * exponent;
    // Beyond that too few digits of the result are certain.
    if logarithm.norm() > MAX_ARGUMENT { Complex64::new(f64::NAN, 0.0) } else { logarithm.exp() }
}

fn call(function: Function, z: Complex64) -> Option<Complex64> {
    let is_periodic = matches!(
        function,
        Function::Sin | Function::Cos | Function::Tan | Function::Cot | Function::Sec | Function::Csc
    );
    if is_periodic && z.norm() > MAX_ARGUMENT {
        return None;
    }
    let is_real = z.im.abs() <= 1e-12 * z.re.abs().max(1.0);
    Some(match function {
        Function::Sin => z.sin(),
        Function::Cos => z.cos(),
        Function::Tan => z.tan(),
        Function::Cot => z.tan().inv(),
        Function::Sec => z.cos().inv(),
        Function::Csc => z.sin().inv(),
        Function::Arcsin => z.asin(),
        Function::Arccos => z.acos(),
        Function::Arctan => z.atan(),
        Function::Sinh => z.sinh(),
        Function::Cosh => z.cosh(),
        Function::Tanh => z.tanh(),
        Function::Ln => z.ln(),
        Function::Absolute => z.norm().into(),
        // Near a step the value is not certain.
        Function::Floor if is_real && (z.re - z.re.round()).abs() > 1e-9 => z.re.floor().into(),
        Function::Ceiling if is_real && (z.re - z.re.round()).abs() > 1e-9 => z.re.ceil().into(),
        _ => return None,
    })
}

/// The sum of the terms and the sum of their sizes.
fn sums(polynomial: &Polynomial, point: &Point<'_>) -> Option<(Complex64, f64)> {
    let (mut total, mut size) = (Complex64::zero(), 0.0);
    for (monomial, coefficient) in &polynomial.0 {
        let mut term = Complex64::from(coefficient.to_f64()?);
        for (base, exponent) in monomial {
            let value = atom(base, point)?;
            term *= if exponent.is_integer() && exponent.numer().unsigned_abs() < 1 << 20 {
                value.powi(*exponent.numer() as i32)
            } else {
                power(value, float(exponent).into())
            };
        }
        total += term;
        size += term.norm();
    }
    (total.is_finite() && size.is_finite()).then_some((total, size))
}

fn fraction(value: &Fraction, point: &Point<'_>) -> Option<Complex64> {
    let (above, _) = sums(&value.above, point)?;
    let (below, size) = sums(&value.below, point)?;
    (below.norm() > RELATIVE * size).then(|| above / below)
}

/// Whether a sum with opaque atoms is zero at every point where it has a value, and has one at enough of them.
pub(super) fn vanishes(polynomial: &Polynomial) -> bool {
    let mut variables = BTreeSet::new();
    names(polynomial, &mut variables);
    if variables.is_empty()
        && let Some(found) = roots_vanish(polynomial)
    {
        return found;
    }
    let mut found = 0;
    for number in 0..if variables.is_empty() { ENOUGH as u64 } else { POINTS } {
        match sums(polynomial, &Point { number, names: &variables }) {
            Some((total, size)) if total.norm() <= RELATIVE * size => found += 1,
            Some(_) => return false,
            None => {}
        }
    }
    found >= ENOUGH
}

/// Whether a sum of real roots of rational numbers is zero; `None` where it holds anything else. Doubles cannot tell
/// `\sqrt{10^{24}+1}` from `10^{12}`.
fn roots_vanish(polynomial: &Polynomial) -> Option<bool> {
    let (total, size) = fixed_sum(polynomial)?;
    Some(total.abs() << ZERO_DIGITS <= size)
}

/// The sum of the terms and of their sizes, times 2^[`PRECISION`].
fn fixed_sum(polynomial: &Polynomial) -> Option<(BigInt, BigInt)> {
    let (mut total, mut size) = (BigInt::zero(), BigInt::zero());
    for (monomial, coefficient) in &polynomial.0 {
        let mut term = fixed(coefficient);
        for (base, exponent) in monomial {
            term = (term * fixed_atom(base, exponent)?) >> PRECISION;
        }
        size += term.abs();
        total += term;
    }
    Some((total, size))
}

fn fixed(value: &BigRational) -> BigInt {
    (value.numer() << PRECISION) / value.denom()
}

fn fixed_atom(atom: &Atom, exponent: &Exponent) -> Option<BigInt> {
    match atom {
        Atom::Prime(base) | Atom::Radical(base) => fixed_power(&(base << PRECISION), exponent),
        Atom::Power(base, power) => {
            let power = power.rational()?;
            let power = Exponent::new(power.numer().to_i64()?, power.denom().to_i64()?);
            let small = |part: &Exponent| part.numer().unsigned_abs().max(part.denom().unsigned_abs());
            (small(&power) <= MAX_EXPONENT && small(exponent) <= MAX_EXPONENT).then_some(())?;
            if !base.below.0.keys().all(|monomial| monomial.is_empty()) {
                return None;
            }
            let (above, _) = fixed_sum(&base.above)?;
            let (below, _) = fixed_sum(&base.below)?;
            (!below.is_zero()).then_some(())?;
            fixed_power(&((above << PRECISION) / below), &(power * exponent))
        }
        _ => None,
    }
}

/// A power of a positive number in fixed point.
fn fixed_power(base: &BigInt, exponent: &Exponent) -> Option<BigInt> {
    let (above, below) = (exponent.numer().unsigned_abs(), exponent.denom().unsigned_abs());
    let fits = base.is_positive() && above <= MAX_EXPONENT && below <= MAX_EXPONENT && base.bits() < 2000;
    fits.then_some(())?;
    let below = u32::try_from(below).ok()?;
    let root = (base << (PRECISION * (below as usize - 1))).nth_root(below);
    let one = BigInt::one() << PRECISION;
    let mut product = one.clone();
    for _ in 0..above {
        product = (product * &root) >> PRECISION;
    }
    if exponent.is_negative() {
        (!product.is_zero()).then(|| (one << PRECISION) / product)
    } else {
        Some(product)
    }
}

/// The value of a real constant.
pub(super) fn real(value: &Fraction) -> Option<f64> {
    let found = fraction(value, &Point { number: 0, names: &BTreeSet::new() })?;
    (found.im.abs() <= RELATIVE * found.re.abs()).then_some(found.re)
}
