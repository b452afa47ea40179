//! A normal form of expressions: a quotient of two sums of terms, each a rational number times powers of atoms.
//!
//! Atoms are variables, constants, roots of primes, and whatever cannot be taken apart (a function of an argument, a
//! general power). Everything is exact and bounded: an expression whose normal form would be too large has none.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_rational::{BigRational, Ratio};
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::constants::{factors, multiple_of_pi, of_numbers, sine};
use super::expression::{Expr, Function};

/// Exponents of atoms.
pub(super) type Exponent = Ratio<i64>;

/// Bits of a numerator or denominator: far above any answer, far below what takes noticeable time.
const MAX_BITS: u64 = 4096;
/// Terms of a sum.
const MAX_TERMS: usize = 128;
/// Products of terms that one comparison may cost.
const MAX_WORK: usize = 40_000;

/// What a term is made of besides its coefficient.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    Variable(String),
    Pi,
    Euler,
    Imaginary,
    Infinity,
    /// A prime under a root: its exponent is in (0, 1).
    Prime(BigInt),
    /// A large factor under a root that may be composite.
    Radical(BigInt),
    Call(Function, Vec<Fraction>),
    Power(Box<Fraction>, Box<Fraction>),
}

impl Atom {
    /// Whether a sum of different terms can still be zero because of this atom.
    fn is_opaque(&self) -> bool {
        matches!(self, Self::Radical(_) | Self::Call(..) | Self::Power(..))
    }
}

pub(super) type Monomial = BTreeMap<Atom, Exponent>;

/// A sum of terms, none of them zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Polynomial(pub(super) BTreeMap<Monomial, BigRational>);

/// A quotient of two sums; the denominator is not zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fraction {
    pub(super) above: Polynomial,
    pub(super) below: Polynomial,
}

/// Why an expression has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It would be too large, or computes with infinity.
    TooLarge,
    /// It has no value: a division by zero.
    Undefined,
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Polynomial {
    fn constant(value: BigRational) -> Self {
        Self::term(Monomial::new(), value)
    }

    fn term(monomial: Monomial, coefficient: BigRational) -> Self {
        let mut terms = BTreeMap::new();
        if !coefficient.is_zero() {
            terms.insert(monomial, coefficient);
        }
        Self(terms)
    }

    pub(super) fn one() -> Self {
        Self::constant(BigRational::one())
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// The number that it is, if it is one.
    fn rational(&self) -> Option<BigRational> {
        match self.0.len() {
            0 => Some(BigRational::zero()),
            1 => self.0.first_key_value().filter(|(m, _)| m.is_empty()).map(|(_, c)| c.clone()),
            _ => None,
        }
    }

    pub(super) fn single(&self) -> Option<(&Monomial, &BigRational)> {
        self.0.first_key_value().filter(|_| self.0.len() == 1)
    }

    /// Whether its being zero cannot be decided from its terms alone.
    pub(super) fn is_opaque(&self) -> bool {
        self.0.keys().any(|monomial| monomial.keys().any(Atom::is_opaque))
    }

    fn scaled(&self, factor: &BigRational) -> Self {
        Self(self.0.iter().map(|(monomial, c)| (monomial.clone(), c * factor)).collect())
    }

    /// Divided by its first coefficient: equal for sums that are multiples of each other.
    pub(super) fn monic(&self) -> Self {
        match self.0.first_key_value() {
            Some((_, first)) => self.scaled(&first.recip()),
            None => Self::default(),
        }
    }

    /// The sign of the first coefficient.
    pub(super) fn leads_negative(&self) -> bool {
        self.0.first_key_value().is_some_and(|(_, c)| c.is_negative())
    }
}

impl Fraction {
    fn new(value: Polynomial) -> Self {
        Self { above: value, below: Polynomial::one() }
    }

    pub(super) fn number(value: BigRational) -> Self {
        Self::new(Polynomial::constant(value))
    }

    fn atom(atom: Atom) -> Self {
        Self::new(Polynomial::term(Monomial::from([(atom, Exponent::one())]), BigRational::one()))
    }

    /// The number that it is, if it is a rational one.
    pub(super) fn rational(&self) -> Option<BigRational> {
        self.below.rational().filter(One::is_one).and_then(|_| self.above.rational())
    }
}

fn bounded(value: BigRational) -> Result<BigRational> {
    let is_small = value.numer().bits() <= MAX_BITS && value.denom().bits() <= MAX_BITS;
    if is_small { Ok(value) } else { Err(Failure::TooLarge) }
}

/// Computes normal forms and counts what they cost.
#[derive(Default)]
pub(super) struct Algebra {
    work: usize,
}

impl Algebra {
    fn spend(&mut self, work: usize) -> Result<()> {
        self.work += work;
        if self.work > MAX_WORK { Err(Failure::TooLarge) } else { Ok(()) }
    }

    fn add_into(&mut self, sum: &mut Polynomial, monomial: Monomial, coefficient: BigRational) -> Result<()> {
        self.spend(1)?;
        let entry = sum.0.entry(monomial);
        match entry {
            std::collections::btree_map::Entry::Vacant(entry) => {
                if !coefficient.is_zero() {
                    entry.insert(coefficient);
                }
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let total = bounded(entry.get() + coefficient)?;
                if total.is_zero() {
                    entry.remove();
                } else {
                    entry.insert(total);
                }
            }
        }
        if sum.0.len() > MAX_TERMS { Err(Failure::TooLarge) } else { Ok(()) }
    }

    fn plus(&mut self, a: &Polynomial, b: &Polynomial) -> Result<Polynomial> {
        let mut sum = a.clone();
        for (monomial, coefficient) in &b.0 {
            self.add_into(&mut sum, monomial.clone(), coefficient.clone())?;
        }
        Ok(sum)
    }

    fn times(&mut self, a: &Polynomial, b: &Polynomial) -> Result<Polynomial> {
        self.spend(a.0.len().saturating_mul(b.0.len()))?;
        let mut sum = Polynomial::default();
        for (left, left_coefficient) in &a.0 {
            for (right, right_coefficient) in &b.0 {
                let mut monomial = left.clone();
                for (atom, exponent) in right {
                    *monomial.entry(atom.clone()).or_default() += exponent;
                }
                let (monomial, factor) = reduced(monomial)?;
                let coefficient = bounded(left_coefficient * right_coefficient * factor)?;
                self.add_into(&mut sum, monomial, coefficient)?;
            }
        }
        Ok(sum)
    }

    fn sum(&mut self, a: &Fraction, b: &Fraction) -> Result<Fraction> {
        if a.below == b.below {
            let above = self.plus(&a.above, &b.above)?;
            return self.fraction(above, a.below.clone());
        }
        let left = self.times(&a.above, &b.below)?;
        let right = self.times(&b.above, &a.below)?;
        let above = self.plus(&left, &right)?;
        let below = self.times(&a.below, &b.below)?;
        self.fraction(above, below)
    }

    pub(super) fn product(&mut self, a: &Fraction, b: &Fraction) -> Result<Fraction> {
        let above = self.times(&a.above, &b.above)?;
        let below = self.times(&a.below, &b.below)?;
        self.fraction(above, below)
    }

    fn quotient(&mut self, a: &Fraction, b: &Fraction) -> Result<Fraction> {
        if b.above.is_zero() {
            return Err(Failure::Undefined);
        }
        self.product(a, &Fraction { above: b.below.clone(), below: b.above.clone() })
    }

    /// A denominator of one term goes into the numerator; one of several terms is made monic.
    fn fraction(&mut self, above: Polynomial, below: Polynomial) -> Result<Fraction> {
        if above.is_zero() {
            return Ok(Fraction::number(BigRational::zero()));
        }
        if above == below {
            return Ok(Fraction::number(BigRational::one()));
        }
        let Some((_, first)) = below.0.first_key_value() else { return Err(Failure::Undefined) };
        if below.0.len() > 1 {
            let factor = first.recip();
            return Ok(Fraction { above: above.scaled(&factor), below: below.scaled(&factor) });
        }
        if below.single().is_some_and(|(monomial, c)| monomial.is_empty() && c.is_one()) {
            return Ok(Fraction { above, below });
        }
        let Some((monomial, coefficient)) = below.single() else { return Err(Failure::Undefined) };
        let inverse = monomial.iter().map(|(atom, exponent)| (atom.clone(), -exponent)).collect();
        let (inverse, factor) = reduced(inverse)?;
        let inverse = Polynomial::term(inverse, coefficient.recip() * factor);
        Ok(Fraction::new(self.times(&above, &inverse)?))
    }

    /// The numerator of `a - b` over the product of their denominators: zero exactly where they are equal.
    pub(super) fn difference(&mut self, a: &Fraction, b: &Fraction) -> Result<Polynomial> {
        let left = self.times(&a.above, &b.below)?;
        let right = self.times(&b.above, &a.below)?;
        self.plus(&left, &right.scaled(&-BigRational::one()))
    }

    /// The normal form of an expression.
    pub(super) fn normal(&mut self, expression: &Expr) -> Result<Fraction> {
        self.spend(1)?;
        if expression.computes_with_infinity() {
            return Err(Failure::TooLarge);
        }
        match expression {
            Expr::Number(value) => bounded(value.clone()).map(Fraction::number),
            Expr::Variable(name) => Ok(Fraction::atom(Atom::Variable(name.clone()))),
            Expr::Pi => Ok(Fraction::atom(Atom::Pi)),
            Expr::Euler => Ok(Fraction::atom(Atom::Euler)),
            Expr::Imaginary => Ok(Fraction::atom(Atom::Imaginary)),
            Expr::Infinity => Ok(Fraction::atom(Atom::Infinity)),
            Expr::Sum(parts) => {
                let mut sum = Fraction::number(BigRational::zero());
                for part in parts {
                    let part = self.normal(part)?;
                    sum = self.sum(&sum, &part)?;
                }
                Ok(sum)
            }
            Expr::Product(parts) => {
                let mut product = Fraction::number(BigRational::one());
                for part in parts {
                    let part = self.normal(part)?;
                    product = self.product(&product, &part)?;
                }
                Ok(product)
            }
            Expr::Quotient(above, below) => {
                let (above, below) = (self.normal(above)?, self.normal(below)?);
                self.quotient(&above, &below)
            }
            Expr::Negative(inner) => {
                let inner = self.normal(inner)?;
                Ok(Fraction { above: inner.above.scaled(&-BigRational::one()), below: inner.below })
            }
            Expr::Power(base, exponent) => {
                let (base, exponent) = (self.normal(base)?, self.normal(exponent)?);
                self.power(base, exponent)
            }
            Expr::Root(index, radicand) => {
                let (index, radicand) = (self.normal(index)?, self.normal(radicand)?);
                let exponent = self.quotient(&Fraction::number(BigRational::one()), &index)?;
                self.power(radicand, exponent)
            }
            Expr::Call(function, arguments) => {
                let arguments = arguments.iter().map(|a| self.normal(a)).collect::<Result<Vec<_>>>()?;
                self.call(*function, arguments)
            }
        }
    }

    fn power(&mut self, base: Fraction, exponent: Fraction) -> Result<Fraction> {
        let opaque = |base: Fraction, exponent: Fraction| {
            Ok(Fraction::atom(Atom::Power(Box::new(base), Box::new(exponent))))
        };
        let small = |part: &BigInt| part.to_i64().filter(|part| part.unsigned_abs() <= 1 << 20);
        let Some(number) = exponent.rational() else { return opaque(base, exponent) };
        let (Some(above), Some(below)) = (small(number.numer()), small(number.denom())) else {
            return opaque(base, exponent);
        };
        if above < 0 && base.above.is_zero() {
            return Err(Failure::Undefined);
        }
        let found = if below == 1 {
            self.whole_power(&base, above)
        } else {
            self.fractional_power(&base, Exponent::new(above, below))
        };
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) | Err(Failure::TooLarge) => {
                self.spend(0)?;
                opaque(base, exponent)
            }
            Err(Failure::Undefined) => Err(Failure::Undefined),
        }
    }

    fn whole_power(&mut self, base: &Fraction, exponent: i64) -> Result<Option<Fraction>> {
        let times = exponent.unsigned_abs();
        if times == 0 {
            return if base.above.is_zero() { Err(Failure::Undefined) } else { Ok(Some(one())) };
        }
        if let (Some((monomial, c)), Some(_)) = (base.above.single(), base.below.single()) {
            let bits = c.numer().bits().max(c.denom().bits());
            if bits > 1 && bits.saturating_mul(times) > MAX_BITS {
                return Ok(None);
            }
            let by = Exponent::from_integer(exponent);
            let raised = monomial.iter().map(|(atom, e)| Some((atom.clone(), times_checked(*e, by)?)));
            let Some(raised) = raised.collect::<Option<Monomial>>() else { return Ok(None) };
            let (monomial, factor) = reduced(raised)?;
            let value = num_traits::Pow::pow(c, BigInt::from(exponent));
            return Ok(Some(Fraction::new(Polynomial::term(monomial, bounded(value * factor)?))));
        }
        if times > 24 {
            return Ok(None);
        }
        let base = if exponent < 0 { self.quotient(&one(), base)? } else { base.clone() };
        let mut product = one();
        for _ in 0..times {
            product = self.product(&product, &base)?;
        }
        Ok(Some(product))
    }

    /// Positive constants are taken out of the root; what is left stays under it.
    fn fractional_power(&mut self, base: &Fraction, exponent: Exponent) -> Result<Option<Fraction>> {
        if base.above.is_zero() {
            return Ok(Some(Fraction::number(BigRational::zero())));
        }
        let (Some((monomial, coefficient)), true) = (base.above.single(), base.below == Polynomial::one())
        else {
            return Ok(None);
        };
        let mut outside = Monomial::new();
        let mut inside = Monomial::new();
        for (atom, e) in monomial {
            let is_positive = matches!(atom, Atom::Pi | Atom::Euler | Atom::Prime(_) | Atom::Radical(_));
            if is_positive || (monomial.len() == 1 && e.is_one() && matches!(atom, Atom::Variable(_))) {
                let Some(e) = times_checked(*e, exponent) else { return Ok(None) };
                outside.insert(atom.clone(), e);
            } else {
                inside.insert(atom.clone(), *e);
            }
        }
        let is_variable = outside.keys().any(|atom| matches!(atom, Atom::Variable(_)));
        let mut factor = BigRational::one();
        if coefficient.is_negative() {
            if !inside.is_empty() || is_variable {
                return Ok(None);
            }
            if exponent.denom() % 2 == 1 {
                // The real root.
                factor = if exponent.numer() % 2 == 0 { factor } else { -factor };
            } else if *exponent.denom() == 2 {
                outside.insert(Atom::Imaginary, Exponent::from_integer(*exponent.numer()));
            } else {
                return Ok(None);
            }
        }
        for (part, sign) in [(coefficient.numer(), 1), (coefficient.denom(), -1)] {
            for (atom, count) in factors(&part.abs()) {
                let Some(e) = times_checked(exponent, Exponent::from_integer(sign * count)) else {
                    return Ok(None);
                };
                *outside.entry(atom).or_default() += e;
            }
        }
        let (outside, extra) = reduced(outside)?;
        let outside = Fraction::new(Polynomial::term(outside, bounded(factor * extra)?));
        if inside.is_empty() {
            return Ok(Some(outside));
        }
        let inside = Fraction::new(Polynomial::term(inside, BigRational::one()));
        let power = BigRational::new((*exponent.numer()).into(), (*exponent.denom()).into());
        let power = Atom::Power(Box::new(inside), Box::new(Fraction::number(power)));
        self.product(&outside, &Fraction::atom(power)).map(Some)
    }

    fn call(&mut self, function: Function, mut arguments: Vec<Fraction>) -> Result<Fraction> {
        if function.is_symmetric() {
            arguments.sort_unstable();
        }
        let numbers: Option<Vec<BigRational>> = arguments.iter().map(Fraction::rational).collect();
        if let Some(value) = numbers.and_then(|numbers| of_numbers(function, &numbers)) {
            return bounded(value?).map(Fraction::number);
        }
        let Some(argument) = arguments.first() else { return Err(Failure::Undefined) };
        match function {
            Function::Factorial => {
                if let Some(found) = self.shifted_factorial(argument)? {
                    return Ok(found);
                }
            }
            Function::Binomial => {
                if let Some(found) = self.binomial(argument, arguments.get(1))? {
                    return Ok(found);
                }
                let Some(below) = arguments.get(1) else { return Err(Failure::Undefined) };
                let minus = Fraction { above: below.above.scaled(&-BigRational::one()), ..below.clone() };
                let rest = self.sum(argument, &minus)?;
                if let Some(found) = self.binomial(argument, Some(&rest))? {
                    return Ok(found);
                }
                let [all, chosen, rest] = [argument.clone(), below.clone(), rest]
                    .map(|count| self.call(Function::Factorial, vec![count]));
                let orders = self.product(&chosen?, &rest?)?;
                return self.quotient(&all?, &orders);
            }
            Function::Ln => {
                if let Some(found) = self.logarithm(argument)? {
                    return Ok(found);
                }
            }
            Function::Sin | Function::Cos => {
                if let Some(turns) = multiple_of_pi(argument)
                    && let Some(found) = sine(turns, function == Function::Cos)
                {
                    return self.normal(&found);
                }
            }
            Function::Tan | Function::Sec | Function::Csc | Function::Cot => {
                let sin = self.call(Function::Sin, vec![argument.clone()])?;
                let cos = self.call(Function::Cos, vec![argument.clone()])?;
                return match function {
                    Function::Tan => self.quotient(&sin, &cos),
                    Function::Cot => self.quotient(&cos, &sin),
                    Function::Sec => self.quotient(&one(), &cos),
                    _ => self.quotient(&one(), &sin),
                };
            }
            _ => {}
        }
        Ok(Fraction::atom(Atom::Call(function, arguments)))
    }

    /// `(n + 2)!` as `(n + 2)(n + 1) n!`, and `(n - 1)!` as `n! / n`.
    fn shifted_factorial(&mut self, argument: &Fraction) -> Result<Option<Fraction>> {
        let constant = argument.above.0.get(&Monomial::new()).filter(|_| argument.below == Polynomial::one());
        let shift = constant.filter(|it| it.is_integer()).and_then(|it| it.to_integer().to_i64());
        let Some(shift) = shift.filter(|shift| (1..=8).contains(&shift.abs())) else { return Ok(None) };
        let number = |value: i64| Fraction::number(BigRational::from_integer(value.into()));
        let bare = self.sum(argument, &number(-shift))?;
        let mut found = Fraction::atom(Atom::Call(Function::Factorial, vec![bare.clone()]));
        for at in if shift > 0 { 1..=shift } else { shift + 1..=0 } {
            let factor = self.sum(&bare, &number(at))?;
            found = if shift > 0 { self.product(&found, &factor)? } else { self.quotient(&found, &factor)? };
        }
        Ok(Some(found))
    }

    /// `n` over a small whole number as a polynomial in n.
    fn binomial(&mut self, above: &Fraction, below: Option<&Fraction>) -> Result<Option<Fraction>> {
        let Some(count) = below.and_then(Fraction::rational).filter(BigRational::is_integer) else {
            return Ok(None);
        };
        let Some(count) = count.to_integer().to_i64().filter(|count| (0..=8).contains(count)) else {
            return Ok(None);
        };
        let mut product = one();
        for at in 0..count {
            let factor = self.sum(above, &Fraction::number(BigRational::from_integer((-at).into())))?;
            product = self.product(&product, &factor)?;
            product =
                self.quotient(&product, &Fraction::number(BigRational::from_integer((at + 1).into())))?;
        }
        Ok(Some(product))
    }

    /// The logarithm of a positive constant product, taken apart into logarithms of primes.
    fn logarithm(&mut self, argument: &Fraction) -> Result<Option<Fraction>> {
        let (Some((monomial, coefficient)), true) =
            (argument.above.single(), argument.below == Polynomial::one())
        else {
            return if argument.above.is_zero() { Err(Failure::Undefined) } else { Ok(None) };
        };
        if !coefficient.is_positive() {
            return Ok(None);
        }
        let mut sum = Polynomial::default();
        let mut parts: Vec<(Atom, Exponent)> = monomial.iter().map(|(a, e)| (a.clone(), *e)).collect();
        for (part, sign) in [(coefficient.numer(), 1), (coefficient.denom(), -1)] {
            parts.extend(factors(part).into_iter().map(|(a, n)| (a, Exponent::from_integer(sign * n))));
        }
        for (atom, exponent) in parts {
            let exponent = BigRational::new((*exponent.numer()).into(), (*exponent.denom()).into());
            let inner = match atom {
                Atom::Euler => Monomial::new(),
                Atom::Prime(p) | Atom::Radical(p) => {
                    let inner = Fraction::number(BigRational::from_integer(p));
                    Monomial::from([(Atom::Call(Function::Ln, vec![inner]), Exponent::one())])
                }
                Atom::Pi => {
                    let inner = Fraction::atom(Atom::Pi);
                    Monomial::from([(Atom::Call(Function::Ln, vec![inner]), Exponent::one())])
                }
                _ => return Ok(None),
            };
            self.add_into(&mut sum, inner, exponent)?;
        }
        Ok(Some(Fraction::new(sum)))
    }
}

fn one() -> Fraction {
    Fraction::number(BigRational::one())
}

fn times_checked(a: Exponent, b: Exponent) -> Option<Exponent> {
    let above = a.numer().checked_mul(*b.numer())?;
    let below = a.denom().checked_mul(*b.denom())?;
    (above.unsigned_abs() <= 1 << 40 && below <= 1 << 20).then(|| Exponent::new(above, below))
}

/// Takes whole powers of primes and of i out of a product of atoms.
fn reduced(monomial: Monomial) -> Result<(Monomial, BigRational)> {
    let mut factor = BigRational::one();
    let mut kept = Monomial::new();
    for (atom, exponent) in monomial {
        let mut exponent = exponent;
        match &atom {
            Atom::Prime(base) | Atom::Radical(base) => {
                let whole = exponent.floor().to_integer();
                exponent -= Exponent::from_integer(whole);
                if whole.unsigned_abs().saturating_mul(base.bits()) > MAX_BITS {
                    return Err(Failure::TooLarge);
                }
                let base = BigRational::from_integer(base.clone());
                factor *= num_traits::Pow::pow(&base, BigInt::from(whole));
            }
            Atom::Imaginary if exponent.is_integer() => {
                let turns = exponent.to_integer().rem_euclid(4);
                if turns >= 2 {
                    factor = -factor;
                }
                exponent = Exponent::from_integer(turns % 2);
            }
            _ => {}
        }
        if !exponent.is_zero() {
            kept.insert(atom, exponent);
        }
    }
    Ok((kept, bounded(factor)?))
}
