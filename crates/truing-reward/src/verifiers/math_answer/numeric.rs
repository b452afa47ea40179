//! Values of normal forms in double precision, for what cannot be decided exactly.

use num_complex::Complex64;
use num_traits::{ToPrimitive, Zero};

use super::algebra::{Atom, Exponent, Fraction, Polynomial};
use super::expression::Function;

/// Points at which expressions with variables are evaluated.
const POINTS: u64 = 8;
/// At how many of them both sides have to have a value.
const ENOUGH: usize = 4;
/// How small the sum of terms has to be beside the terms.
const RELATIVE: f64 = 1e-11;

/// The value of a variable at a point: between 0.3 and 2.7 in size, of either sign.
fn at_point(name: &str, point: u64) -> f64 {
    let mut state = point.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 29;
    }
    let size = 0.3 + 2.4 * (state >> 11) as f64 / (1_u64 << 53) as f64;
    // The first half of the points is positive, where roots and logarithms are real.
    if point >= POINTS / 2 && state & 1 == 1 { -size } else { size }
}

fn float(exponent: &Exponent) -> f64 {
    *exponent.numer() as f64 / *exponent.denom() as f64
}

fn atom(atom: &Atom, point: u64) -> Option<Complex64> {
    Some(match atom {
        Atom::Variable(name) => at_point(name, point).into(),
        Atom::Pi => std::f64::consts::PI.into(),
        Atom::Euler => std::f64::consts::E.into(),
        Atom::Imaginary => Complex64::i(),
        Atom::Infinity => return None,
        Atom::Prime(base) | Atom::Radical(base) => base.to_f64()?.into(),
        Atom::Power(base, exponent) => power(fraction(base, point)?, fraction(exponent, point)?),
        Atom::Call(function, arguments) => call(*function, fraction(arguments.first()?, point)?)?,
    })
}

fn power(base: Complex64, exponent: Complex64) -> Complex64 {
    if base.is_zero() { Complex64::zero() } else { (base.ln() * exponent).exp() }
}

fn call(function: Function, z: Complex64) -> Option<Complex64> {
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
fn sums(polynomial: &Polynomial, point: u64) -> Option<(Complex64, f64)> {
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

fn fraction(value: &Fraction, point: u64) -> Option<Complex64> {
    let (above, _) = sums(&value.above, point)?;
    let (below, size) = sums(&value.below, point)?;
    (below.norm() > RELATIVE * size).then(|| above / below)
}

/// Whether a sum with opaque atoms is zero at every point where it has a value, and has one at enough of them.
pub(super) fn vanishes(polynomial: &Polynomial) -> bool {
    let mut found = 0;
    for point in 0..POINTS {
        match sums(polynomial, point) {
            Some((total, size)) if total.norm() <= RELATIVE * size => found += 1,
            Some(_) => return false,
            None => {}
        }
    }
    found >= ENOUGH
}

/// The value of a real constant.
pub(super) fn real(value: &Fraction) -> Option<f64> {
    let found = fraction(value, 0)?;
    (found.im.abs() <= RELATIVE * found.re.abs()).then_some(found.re)
}
