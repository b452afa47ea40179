//! Expressions as they are parsed, before any computation.

use num_bigint::BigInt;
use num_rational::BigRational;

/// A named function: of one argument, except for [`Function::Binomial`] and those of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    /// The natural logarithm.
    Ln,
    Absolute,
    Floor,
    Ceiling,
    Factorial,
    DoubleFactorial,
    Binomial,
    /// The functions of any number of arguments.
    Maximum,
    Minimum,
    Divisor,
    Multiple,
}

impl Function {
    /// The function of a name in LaTeX or plain text; logarithms with a base are not among them.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sin" => Self::Sin,
            "cos" => Self::Cos,
            "tan" | "tg" => Self::Tan,
            "cot" | "ctg" => Self::Cot,
            "sec" => Self::Sec,
            "csc" => Self::Csc,
            "arcsin" | "asin" => Self::Arcsin,
            "arccos" | "acos" => Self::Arccos,
            "arctan" | "atan" => Self::Arctan,
            "sinh" => Self::Sinh,
            "cosh" => Self::Cosh,
            "tanh" => Self::Tanh,
            "ln" => Self::Ln,
            "abs" => Self::Absolute,
            "floor" => Self::Floor,
            "ceil" => Self::Ceiling,
            _ => return None,
        })
    }

    /// The function of any number of arguments of a name.
    pub(super) fn of_list(name: &str) -> Option<Self> {
        Some(match name {
            "max" => Self::Maximum,
            "min" => Self::Minimum,
            "gcd" => Self::Divisor,
            "lcm" => Self::Multiple,
            _ => return None,
        })
    }

    /// Whether the order of its arguments does not count.
    pub(super) fn is_symmetric(self) -> bool {
        matches!(self, Self::Maximum | Self::Minimum | Self::Divisor | Self::Multiple)
    }

    /// What `f^{-1}` means for a trigonometric function.
    pub(super) fn inverse(self) -> Option<Self> {
        match self {
            Self::Sin => Some(Self::Arcsin),
            Self::Cos => Some(Self::Arccos),
            Self::Tan => Some(Self::Arctan),
            _ => None,
        }
    }
}

/// An expression. Sums and products are flat, so its depth is that of the brackets in the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Number(BigRational),
    Variable(String),
    Pi,
    Euler,
    Imaginary,
    Infinity,
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    /// The index, then the radicand.
    Root(Box<Expr>, Box<Expr>),
    Call(Function, Vec<Expr>),
}

impl Expr {
    pub(super) fn integer(value: i64) -> Self {
        Self::Number(BigRational::from_integer(BigInt::from(value)))
    }

    pub(super) fn quotient(above: Self, below: Self) -> Self {
        Self::Quotient(Box::new(above), Box::new(below))
    }

    pub(super) fn power(base: Self, exponent: Self) -> Self {
        Self::Power(Box::new(base), Box::new(exponent))
    }

    /// Whether infinity is an operand in it: only with its sign is it a value.
    pub(super) fn computes_with_infinity(&self) -> bool {
        let infinite = |part: &Self| match part {
            Self::Negative(inner) => **inner == Self::Infinity,
            part => *part == Self::Infinity,
        };
        match self {
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => parts.iter().any(infinite),
            Self::Quotient(a, b) | Self::Power(a, b) | Self::Root(a, b) => infinite(a) || infinite(b),
            _ => false,
        }
    }

    /// Whether it or a part of it fulfils a condition.
    pub(super) fn any(&self, wanted: &impl Fn(&Self) -> bool) -> bool {
        wanted(self)
            || match self {
                Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => {
                    parts.iter().any(|part| part.any(wanted))
                }
                Self::Quotient(a, b) | Self::Power(a, b) | Self::Root(a, b) => a.any(wanted) || b.any(wanted),
                Self::Negative(inner) => inner.any(wanted),
                Self::Number(_)
                | Self::Variable(_)
                | Self::Pi
                | Self::Euler
                | Self::Imaginary
                | Self::Infinity => false,
            }
    }

    /// Whether a variable occurs in it.
    pub(super) fn has_variables(&self) -> bool {
        self.any(&|part| matches!(part, Self::Variable(_)))
    }

    /// Whether π occurs in it.
    pub(super) fn has_pi(&self) -> bool {
        self.any(&|part| *part == Self::Pi)
    }
}
