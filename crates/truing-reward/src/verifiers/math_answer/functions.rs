//! Functions in expressions: fractions, roots, logarithms, floors and whatever else has a name.

use super::expression::{Expr, Function};
use super::parse::{Parser, product};
use super::token::{Kind, SET_CLOSE, SET_OPEN, Token};

impl Parser {
    pub(super) fn command(&mut self, name: &str) -> Option<Expr> {
        match name {
            "pi" => Some(Expr::Pi),
            "infty" => Some(Expr::Infinity),
            "frac" | "binom" => self.two_arguments(name == "binom"),
            "sqrt" => {
                let mut index = Expr::integer(2);
                if self.take('[') {
                    index = self.group(']')?;
                }
                let radicand = self.nested(Self::argument)?;
                Some(Expr::Root(Box::new(index), Box::new(radicand)))
            }
            "lfloor" | "lceil" => {
                let inner = self.nested(Self::sum)?;
                let close = if name == "lfloor" { "rfloor" } else { "rceil" };
                self.peek().filter(|token| token.is_command(close))?;
                self.at += 1;
                let function = if name == "lfloor" { Function::Floor } else { Function::Ceiling };
                Some(Expr::Call(function, vec![inner]))
            }
            "max" | "min" | "gcd" | "lcm" => self.nested(|parser| parser.of_list(name)),
            _ => self.nested(|parser| parser.function(name)),
        }
    }

    /// `\max(3, 5)`, `\min\{3, 5\}`, `\gcd(12, 18)`: a function of several arguments.
    fn of_list(&mut self, name: &str) -> Option<Expr> {
        let function = Function::of_list(name)?;
        let close = if self.take('(') {
            ')'
        } else if self.take(SET_OPEN) {
            SET_CLOSE
        } else if self.take('[') {
            ']'
        } else {
            return None;
        };
        let mut arguments = vec![self.sum()?];
        while self.take(',') {
            arguments.push(self.sum()?);
        }
        (self.take(close) && arguments.len() <= 16).then_some(Expr::Call(function, arguments))
    }

    /// The arguments of `C(10, 3)` as a binomial coefficient.
    pub(super) fn combinations(&mut self) -> Option<Expr> {
        let [open, above, comma, below, close, ..] = self.tokens.get(self.at..)? else { return None };
        let (above, below) = (above.whole()?.value.clone(), below.whole()?.value.clone());
        (open.is('(') && comma.is(',') && close.is(')')).then(|| {
            self.at += 5;
            Expr::Call(Function::Binomial, vec![Expr::Number(above), Expr::Number(below)])
        })
    }

    fn two_arguments(&mut self, is_binomial: bool) -> Option<Expr> {
        let single = self.peek()?.whole().map(|number| number.digits.clone());
        let (above, below) = match single.as_deref() {
            // \frac12 is one half; of more digits nobody knows.
            Some(digits) if digits.len() == 2 => {
                self.at += 1;
                let digit = |at: usize| Some(Expr::integer(i64::from(digits.chars().nth(at)?.to_digit(10)?)));
                (digit(0)?, digit(1)?)
            }
            Some(digits) if digits.len() > 2 => return None,
            _ => {
                let above = self.nested(Self::argument)?;
                if self.peek()?.whole().is_some_and(|number| number.digits.len() > 1) {
                    return None;
                }
                (above, self.nested(Self::argument)?)
            }
        };
        Some(if is_binomial {
            Expr::Call(Function::Binomial, vec![above, below])
        } else {
            Expr::quotient(above, below)
        })
    }

    /// `\sin^2 x`, `\log_2 8`, `\ln(x)`.
    fn function(&mut self, name: &str) -> Option<Expr> {
        let (mut base, mut power) = (None, None);
        for _ in 0..2 {
            if self.take('_') {
                base = Some(self.argument()?);
            } else if self.take('^') {
                power = Some(self.exponent()?);
            }
        }
        let argument = self.function_argument()?;
        let ln = |inner: Expr| Expr::Call(Function::Ln, vec![inner]);
        let called = match name {
            "log" | "lg" => Expr::quotient(ln(argument), ln(base.unwrap_or_else(|| Expr::integer(10)))),
            "exp" if base.is_none() => Expr::power(Expr::Euler, argument),
            _ => {
                let function = Function::named(name).filter(|_| base.is_none())?;
                let is_inverse = power == Some(Expr::integer(-1));
                match function.inverse().filter(|_| is_inverse) {
                    Some(inverse) => {
                        power = None;
                        Expr::Call(inverse, vec![argument])
                    }
                    None => Expr::Call(function, vec![argument]),
                }
            }
        };
        Some(match power {
            Some(power) => Expr::power(called, power),
            None => called,
        })
    }

    /// A bracket, or the product that follows up to the next function.
    fn function_argument(&mut self) -> Option<Expr> {
        if self.take('(') {
            return self.group(')');
        }
        if self.take('{') {
            return self.group('}');
        }
        let mut factors = vec![self.signed_factor()?];
        while self.continues() {
            let is_function = |token: &Token| match &token.kind {
                Kind::Command(name) => {
                    Function::named(name).is_some() || matches!(name.as_str(), "log" | "lg" | "exp")
                }
                Kind::Symbol('(') => true,
                _ => false,
            };
            if self.peek().is_none_or(is_function) {
                break;
            }
            factors.push(self.factor()?);
        }
        product(factors)
    }
}
