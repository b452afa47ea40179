//! Tokens into expressions: precedence, implicit products, LaTeX arguments. Depth is bounded.

use num_rational::BigRational;
use num_traits::Zero;

use super::expression::{Expr, Function};
use super::token::{Kind, NumberToken, Token};
use super::units;
use super::wording;

/// Brackets within brackets.
const MAX_DEPTH: usize = 40;

/// The expression that all tokens together are.
pub(super) fn expression(tokens: &[Token]) -> Option<Expr> {
    let mut parser = Parser { tokens: tokens.to_vec(), at: 0, depth: 0, absolute: 0 };
    let found = parser.sum()?;
    (parser.at == parser.tokens.len()).then_some(found)
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) at: usize,
    depth: usize,
    /// Open absolute values: there a bar closes.
    absolute: usize,
}

fn negative(inner: Expr) -> Expr {
    match inner {
        Expr::Number(value) => Expr::Number(-value),
        inner => Expr::Negative(Box::new(inner)),
    }
}

pub(super) fn product(mut factors: Vec<Expr>) -> Option<Expr> {
    if factors.len() > 1 { Some(Expr::Product(factors)) } else { factors.pop() }
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn take(&mut self, symbol: char) -> bool {
        let found = self.peek().is_some_and(|token| token.is(symbol));
        self.at += usize::from(found);
        found
    }

    pub(super) fn nested(&mut self, read: impl FnOnce(&mut Self) -> Option<Expr>) -> Option<Expr> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let found = read(self);
        self.depth -= 1;
        found
    }

    pub(super) fn sum(&mut self) -> Option<Expr> {
        let mut terms = Vec::new();
        let mut is_negative = false;
        loop {
            while let Some(token) = self.peek() {
                match token.kind {
                    Kind::Symbol('+') => {}
                    Kind::Symbol('-') => is_negative = !is_negative,
                    _ => break,
                }
                self.at += 1;
            }
            let term = self.term()?;
            terms.push(if std::mem::take(&mut is_negative) { negative(term) } else { term });
            if !self.peek().is_some_and(|token| token.is('+') || token.is('-')) {
                break;
            }
        }
        if terms.len() > 1 { Some(Expr::Sum(terms)) } else { terms.pop() }
    }

    fn term(&mut self) -> Option<Expr> {
        let mut value = self.signed_factor()?;
        let mut n_quotients = 0;
        loop {
            if self.peek().is_some_and(|token| token.is('/')) {
                // Quotients nest to the left.
                n_quotients += 1;
                (n_quotients <= MAX_DEPTH).then_some(())?;
            }
            if self.take('*') {
                value = times(value, self.signed_factor()?);
            } else if self.take('/') {
                value = Expr::quotient(value, self.signed_factor()?);
            } else if self.continues() {
                value = times(value, self.factor()?);
            } else {
                return Some(value);
            }
        }
    }

    pub(super) fn signed_factor(&mut self) -> Option<Expr> {
        let mut is_negative = false;
        loop {
            if self.take('-') {
                is_negative = !is_negative;
            } else if !self.take('+') {
                break;
            }
        }
        let factor = self.factor()?;
        Some(if is_negative { negative(factor) } else { factor })
    }

    /// Whether the next token starts another factor of an implicit product.
    pub(super) fn continues(&self) -> bool {
        let Some(token) = self.peek() else { return false };
        match &token.kind {
            // Two numbers side by side are no product.
            Kind::Number(_) => {
                // `7 R 3` is a quotient with its remainder.
                self.at > 0
                    && !(token.spaced && matches!(self.tokens[self.at - 1].kind, Kind::Letter(_)))
                    && matches!(
                        &self.tokens[self.at - 1].kind,
                        Kind::Letter(_) | Kind::Symbol(')' | '}' | '!')
                    )
            }
            Kind::Letter(_) => true,
            Kind::Word(word) => is_variables(word),
            Kind::Command(name) => !matches!(
                name.as_str(),
                "rfloor" | "rceil" | "matrix" | "endmatrix" | "emptyset" | "reals" | "overline"
            ),
            Kind::Symbol('(' | '[' | '{' | '\u{221a}') => true,
            Kind::Symbol('|') => self.absolute == 0,
            _ => false,
        }
    }

    /// A primary with its exponent and signs after it.
    pub(super) fn factor(&mut self) -> Option<Expr> {
        if let Some(letters) = self.raised_letters() {
            self.at += 1;
            let mut factors: Vec<Expr> = letters.chars().map(|letter| constant(letter.to_string())).collect();
            let last = factors.pop()?;
            factors.push(self.postfix(last)?);
            return product(factors);
        }
        let base = self.primary()?;
        self.postfix(base)
    }

    /// The letters of `xy` before an exponent or a sign, which belongs to the last of them.
    fn raised_letters(&self) -> Option<String> {
        let word = self.peek()?.word().filter(|word| is_variables(word))?;
        let next = self.tokens.get(self.at + 1)?;
        (next.is('^') || next.is('!') || next.is('%')).then(|| word.to_owned())
    }

    fn postfix(&mut self, mut value: Expr) -> Option<Expr> {
        let (mut powers, mut n_signs) = (0, 0);
        while let Some(token) = self.peek() {
            n_signs += 1;
            (n_signs <= 6).then_some(())?;
            match token.kind {
                Kind::Symbol('!') => {
                    let mut count = 0;
                    while self.take('!') {
                        count += 1;
                    }
                    let function = match count {
                        1 => Function::Factorial,
                        2 => Function::DoubleFactorial,
                        _ => return None,
                    };
                    value = Expr::Call(function, vec![value]);
                }
                Kind::Symbol('^') => {
                    self.at += 1;
                    powers += 1;
                    if powers > 1 {
                        // a^b^c without braces is read from the right by the exponent itself.
                        return None;
                    }
                    let exponent = self.nested(Self::exponent)?;
                    value = Expr::power(value, exponent);
                }
                Kind::Symbol('%') => {
                    self.at += 1;
                    value = Expr::quotient(value, Expr::integer(100));
                }
                Kind::Symbol('\u{b0}') => {
                    self.at += 1;
                    value = Expr::quotient(times(value, Expr::Pi), Expr::integer(180));
                }
                _ => break,
            }
        }
        Some(value)
    }

    pub(super) fn exponent(&mut self) -> Option<Expr> {
        let mut is_negative = false;
        while self.take('-') {
            is_negative = !is_negative;
        }
        let base = self.primary()?;
        let value = if self.take('^') { Expr::power(base, self.nested(Self::exponent)?) } else { base };
        Some(if is_negative { negative(value) } else { value })
    }

    pub(super) fn group(&mut self, close: char) -> Option<Expr> {
        let absolute = std::mem::take(&mut self.absolute);
        let inner = self.nested(Self::sum)?;
        self.absolute = absolute;
        self.take(close).then_some(inner)
    }

    pub(super) fn primary(&mut self) -> Option<Expr> {
        let token = self.peek()?.clone();
        self.at += 1;
        match token.kind {
            Kind::Number(number) => self.number(number),
            Kind::Letter(name) if name == "C" => self.combinations().or_else(|| self.variable(name)),
            Kind::Letter(name) => self.variable(name),
            Kind::Word(word) if is_variables(&word) => {
                product(word.chars().map(|letter| constant(letter.to_string())).collect())
            }
            Kind::Command(name) => self.command(&name),
            Kind::Symbol('(') => self.group(')'),
            Kind::Symbol('[') => self.group(']'),
            Kind::Symbol('{') => self.group('}'),
            Kind::Symbol('|') if self.absolute < 2 => {
                self.absolute += 1;
                let inner = self.nested(Self::sum)?;
                self.absolute -= 1;
                self.take('|').then(|| Expr::Call(Function::Absolute, vec![inner]))
            }
            Kind::Symbol('\u{221a}') => {
                let radicand = self.nested(Self::primary)?;
                Some(Expr::Root(Box::new(Expr::integer(2)), Box::new(radicand)))
            }
            _ => None,
        }
    }

    /// A number, or the mixed number that it starts.
    fn number(&mut self, number: NumberToken) -> Option<Expr> {
        let value = Expr::Number(number.value.clone());
        if !number.is_whole {
            return if self.peek().is_some_and(|token| token.is_command("overline")) {
                self.at += 1;
                self.repeating(&number)
            } else {
                Some(value)
            };
        }
        let rest = &self.tokens[self.at..];
        let part = |above: &Token, below: &Token| {
            let (above, below) = (&above.whole()?.value, &below.whole()?.value);
            (!below.is_zero() && above < below).then(|| above / below)
        };
        let (fraction, used) = match rest {
            [name, a, above, b, c, below, d, ..]
                if name.is_command("frac") && a.is('{') && b.is('}') && c.is('{') && d.is('}') =>
            {
                (part(above, below), 7)
            }
            [name, both, ..]
                if name.is_command("frac") && both.whole().is_some_and(|n| n.digits.len() == 2) =>
            {
                let digits = both.whole().map(|n| n.digits.as_bytes().to_vec()).unwrap_or_default();
                let [above, below] = [0, 1].map(|at| u32::from(digits[at] - b'0'));
                let proper = above < below;
                (proper.then(|| BigRational::new(above.into(), below.into())), 2)
            }
            [above, slash, below, ..] if above.spaced && slash.is('/') => (part(above, below), 3),
            _ => (None, 0),
        };
        if used == 0 {
            return Some(value);
        }
        if fraction.is_none() && !rest[0].is_command("frac") {
            return None;
        }
        let Some(fraction) = fraction else { return Some(value) };
        self.at += used;
        Some(Expr::Number(number.value + fraction))
    }

    /// `0.1\overline{6}`
    fn repeating(&mut self, number: &NumberToken) -> Option<Expr> {
        let Some(Expr::Number(_)) = self.peek().filter(|token| token.is('{')).map(|_| Expr::integer(0))
        else {
            return None;
        };
        self.at += 1;
        let digits = self.peek()?.whole()?.clone();
        self.at += 1;
        if !self.take('}') || digits.digits.len() > 12 {
            return None;
        }
        let ten = |power: u32| BigRational::from_integer(num_bigint::BigInt::from(10).pow(power));
        let period = u32::try_from(digits.digits.len()).ok()?;
        let places = u32::try_from(number.decimals).ok()?;
        let nines = ten(period) - ten(0);
        Some(Expr::Number(&number.value + digits.value / nines / ten(places)))
    }

    fn variable(&mut self, mut name: String) -> Option<Expr> {
        if self.peek().is_some_and(|token| token.is('_')) {
            self.at += 1;
            name += "_";
            name += &self.subscript()?;
            return Some(Expr::Variable(name));
        }
        while self.take('\'') {
            name.push('\'');
        }
        Some(constant(name))
    }

    fn subscript(&mut self) -> Option<String> {
        let mut text = String::new();
        let braced = self.take('{');
        loop {
            let token = self.peek()?.clone();
            self.at += 1;
            match token.kind {
                Kind::Symbol('}') if braced => return Some(text),
                Kind::Number(number) => text += &number.digits,
                Kind::Letter(name) | Kind::Word(name) | Kind::Command(name) => text += &name,
                Kind::Symbol(symbol @ ('+' | '-' | ',')) if braced => text.push(symbol),
                _ => return None,
            }
            if !braced {
                return Some(text);
            }
        }
    }

    /// The argument of a command: a group, or one token.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        if self.take('{') {
            return self.group('}');
        }
        let token = self.peek()?.clone();
        match token.kind {
            Kind::Number(number) => {
                self.at += 1;
                Some(Expr::Number(number.value))
            }
            Kind::Letter(name) => {
                self.at += 1;
                Some(constant(name))
            }
            Kind::Command(_) => self.nested(Self::primary),
            Kind::Symbol('(') => {
                self.at += 1;
                self.group(')')
            }
            _ => None,
        }
    }
}

fn times(a: Expr, b: Expr) -> Expr {
    match a {
        Expr::Product(mut factors) => {
            factors.push(b);
            Expr::Product(factors)
        }
        a => Expr::Product(vec![a, b]),
    }
}

fn constant(name: String) -> Expr {
    match name.as_str() {
        "e" => Expr::Euler,
        "i" => Expr::Imaginary,
        _ => Expr::Variable(name),
    }
}

/// Short words that are not products of variables.
const NOT_VARIABLES: &str = "\
    or and not no to if is of the for per at an by th st nd rd am mod more less than left eggs up yes \
    all none dne even odd only true then from plus with when but nor";

/// Whether a word is a product of variables rather than a word or a unit.
pub(super) fn is_variables(word: &str) -> bool {
    word.len() <= 4
        && word.chars().all(|c| c.is_ascii_alphabetic())
        && !units::is_known(word)
        && !wording::alters(word)
        // Differentials are no products.
        && !matches!(word, "dx" | "dy" | "dz" | "dt" | "du" | "dv")
        && !wording::lists(NOT_VARIABLES, &word.to_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || word.len() <= 3)
}
