//! Text into tokens: LaTeX, plain notation, full-width forms and Chinese numerals alike.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Zero;

use super::numerals;
use super::units;
use super::wording::{is_latin_letter, lists};

/// Longer texts are no answers.
const MAX_CHARS: usize = 1500;
/// Digits of one number, and the size of its decimal exponent.
const MAX_DIGITS: usize = 300;

/// A comparison between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Approximate,
    In,
}

impl Relation {
    /// The relation from right to left.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
            other => other,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct NumberToken {
    pub(super) value: BigRational,
    /// The digits as they are written, without separators.
    pub(super) digits: String,
    /// Digits after the point, an exponent included.
    pub(super) decimals: i64,
    /// Whether it is written with digits only.
    pub(super) is_whole: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Number(NumberToken),
    /// A variable.
    Letter(String),
    /// Several letters that are not a function, or text inside of a formula.
    Word(String),
    /// A LaTeX command or the name of a function or constant.
    Command(String),
    Currency(&'static str),
    Relation(Relation),
    Symbol(char),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Whether space is before it.
    pub(super) spaced: bool,
}

impl Token {
    pub(super) fn is(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }

    pub(super) fn is_command(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::Command(command) if command == name)
    }

    pub(super) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    pub(super) fn whole(&self) -> Option<&NumberToken> {
        match &self.kind {
            Kind::Number(number) if number.is_whole => Some(number),
            _ => None,
        }
    }
}

/// Set braces, told apart from those that only group.
pub(super) const SET_OPEN: char = '\u{2983}';
pub(super) const SET_CLOSE: char = '\u{2984}';
/// The end of a matrix row.
pub(super) const ROW: char = '\n';

/// Names with a meaning of their own, in LaTeX and in plain text.
pub(super) const NAMES: &str = "\
    pi sqrt sin cos tan cot sec csc tg ctg arcsin arccos arctan asin acos atan sinh cosh tanh ln lg log \
    exp abs floor ceil frac binom lfloor rfloor lceil rceil infty overline emptyset pm mp";
/// Functions of several arguments; before no bracket they are words.
pub(super) const OF_LISTS: &str = "max min gcd lcm";

pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let letters: Vec<char> = text.chars().map(narrow).collect();
    if letters.len() > MAX_CHARS {
        return None;
    }
    let mut dollars = 0;
    for (at, letter) in letters.iter().enumerate() {
        dollars += usize::from(*letter == '$' && (at == 0 || letters[at - 1] != '\\'));
    }
    let mut lexer = Lexer {
        text: letters,
        at: 0,
        found: Vec::new(),
        spaced: false,
        depth: 0,
        dollar_is_currency: dollars % 2 == 1,
    };
    while lexer.at < lexer.text.len() {
        lexer.step()?;
    }
    Some(lexer.found)
}

/// Full-width forms and look-alikes as ASCII.
pub(super) fn narrow(letter: char) -> char {
    match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(letter as u32 - 0xfee0).unwrap_or(letter),
        // Arabic and Indian digits.
        '\u{660}'..='\u{669}' => char::from(b'0' + (letter as u32 - 0x660) as u8),
        '\u{6f0}'..='\u{6f9}' => char::from(b'0' + (letter as u32 - 0x6f0) as u8),
        '\u{966}'..='\u{96f}' => char::from(b'0' + (letter as u32 - 0x966) as u8),
        '\u{3000}' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2007}' | '\u{2002}' | '\u{2003}' => ' ',
        '\u{2212}' | '\u{2013}' | '\u{2014}' | '\u{2010}' | '\u{2011}' | '\u{fe63}' => '-',
        '\u{3001}' => ',',
        '\u{ffe5}' => '\u{a5}',
        '\u{2019}' | '\u{2032}' => '\'',
        '\u{2236}' => ':',
        other => other,
    }
}

pub(super) struct Lexer {
    pub(super) text: Vec<char>,
    pub(super) at: usize,
    pub(super) found: Vec<Token>,
    pub(super) spaced: bool,
    /// Open brackets of tuples, intervals and sets: in them a comma separates.
    pub(super) depth: usize,
    dollar_is_currency: bool,
}

impl Lexer {
    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    pub(super) fn push(&mut self, kind: Kind) {
        self.found.push(Token { kind, spaced: std::mem::take(&mut self.spaced) });
    }

    pub(super) fn symbol(&mut self, symbol: char, length: usize) {
        match symbol {
            '(' | '[' | SET_OPEN => self.depth += 1,
            ')' | ']' | SET_CLOSE => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.at += length;
        self.push(Kind::Symbol(symbol));
    }

    fn relation(&mut self, relation: Relation, length: usize) {
        self.at += length;
        self.push(Kind::Relation(relation));
    }

    pub(super) fn name(&mut self, name: &str) {
        self.push(Kind::Command(name.to_owned()));
    }

    fn step(&mut self) -> Option<()> {
        let letter = self.peek(0)?;
        match letter {
            _ if letter.is_whitespace() || matches!(letter, '~' | '\u{200b}' | '\u{feff}' | '\u{2061}') => {
                self.spaced = true;
                self.at += 1;
            }
            '0'..='9' => self.number()?,
            '.' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => self.number()?,
            '\\' => self.command()?,
            'a'..='z' | 'A'..='Z' => self.word(),
            _ if !letter.is_ascii() && is_latin_letter(letter) => self.word(),
            '$' => {
                self.at += 1;
                if self.dollar_is_currency {
                    self.push(Kind::Currency("USD"));
                } else {
                    self.spaced = true;
                }
            }
            '*' if self.peek(1) == Some('*') => self.symbol('^', 2),
            '\u{27e8}' => self.symbol('(', 1),
            '\u{27e9}' => self.symbol(')', 1),
            // `5!=120` is the equation of a factorial.
            '!' if !self.spaced && matches!(self.found.last(), Some(Token { kind: Kind::Number(_), .. })) => {
                self.symbol('!', 1);
            }
            '<' | '>' | '!' | '=' if self.peek(1) == Some('=') => {
                let relation = match letter {
                    '<' => Relation::LessEqual,
                    '>' => Relation::GreaterEqual,
                    '!' => Relation::NotEqual,
                    _ => Relation::Equal,
                };
                self.relation(relation, 2);
            }
            '+' | '-' | '*' | '/' | '^' | '_' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | ',' | ';' | ':'
            | '!' | '%' | '&' | '\'' | '\u{b0}' | '\u{b1}' | '\u{2213}' | '\u{222a}' | '\u{2229}'
            | '\u{2216}' | '\u{221a}' => self.symbol(letter, 1),
            _ => self.unicode(letter)?,
        }
        Some(())
    }

    fn unicode(&mut self, letter: char) -> Option<()> {
        if let Some((above, below)) = numerals::vulgar_fraction(letter) {
            self.at += 1;
            self.name("frac");
            for part in [above, below] {
                self.push(Kind::Symbol('{'));
                self.push(whole_number(part));
                self.push(Kind::Symbol('}'));
            }
            return Some(());
        }
        if numerals::superscript(letter).is_some() {
            self.push(Kind::Symbol('^'));
            self.push(Kind::Symbol('{'));
            let mut digits = String::new();
            while let Some(digit) = self.peek(0).and_then(numerals::superscript) {
                if digit == '-' && digits.is_empty() {
                    self.push(Kind::Symbol('-'));
                } else {
                    digits.push(digit);
                }
                self.at += 1;
            }
            if digits.len() > 9 {
                return None;
            }
            self.push(whole_number(digits.parse().ok()?));
            self.push(Kind::Symbol('}'));
            return Some(());
        }
        match letter {
            '\u{d7}' | '\u{b7}' | '\u{22c5}' | '\u{2219}' => self.symbol('*', 1),
            '\u{f7}' => self.symbol('/', 1),
            '<' => self.relation(Relation::Less, 1),
            '>' => self.relation(Relation::Greater, 1),
            '=' => self.relation(Relation::Equal, 1),
            '\u{2260}' => self.relation(Relation::NotEqual, 1),
            '\u{2264}' | '\u{2266}' | '\u{2a7d}' => self.relation(Relation::LessEqual, 1),
            '\u{2265}' | '\u{2267}' | '\u{2a7e}' => self.relation(Relation::GreaterEqual, 1),
            '\u{2248}' => self.relation(Relation::Approximate, 1),
            '\u{2208}' => self.relation(Relation::In, 1),
            '\u{221e}' => self.constant("infty"),
            '\u{3c0}' | '\u{1d70b}' => self.constant("pi"),
            '\u{2205}' => self.constant("emptyset"),
            '\u{211d}' => self.constant("reals"),
            '\u{a2}' => {
                self.at += 1;
                self.push(Kind::Word("cents".into()));
            }
            '\u{20ac}' => self.currency("EUR"),
            '\u{a3}' => self.currency("GBP"),
            '\u{a5}' => self.currency("\u{a5}"),
            '\u{20b9}' => self.currency("INR"),
            '\u{3b1}'..='\u{3c9}' => {
                self.at += 1;
                self.push(Kind::Letter(letter.to_string()));
            }
            _ if letter.is_alphabetic() => self.foreign_word()?,
            _ => return None,
        }
        Some(())
    }

    fn constant(&mut self, name: &str) {
        self.at += 1;
        self.name(name);
    }

    pub(super) fn currency(&mut self, name: &'static str) {
        self.at += 1;
        self.push(Kind::Currency(name));
    }

    /// Letters of other scripts: a Chinese numeral with its counter, or a word.
    fn foreign_word(&mut self) -> Option<()> {
        let start = self.at;
        let mut end = start;
        while self.text.get(end).is_some_and(|c| c.is_alphabetic() && !c.is_ascii()) {
            end += 1;
        }
        let run: String = self.text[start..end].iter().collect();
        let is_unit = self.found.last().is_some_and(|last| matches!(last.kind, Kind::Number(_)));
        let is_unit = is_unit && units::is_known(&run);
        if let Some(found) = numerals::chinese(&run, None).filter(|_| !is_unit) {
            let rest = run[found.length..].trim_end_matches("です");
            if rest.is_empty() || units::counter(rest).is_some() {
                self.numeral(found.value, found.is_percent);
                self.at = start + run[..found.length].chars().count();
                if !rest.is_empty() {
                    self.at = end;
                    self.push(Kind::Word(rest.to_owned()));
                }
                return Some(());
            }
        }
        self.at = end;
        let word = match run.as_str() {
            "和" | "与" | "及" | "以及" | "と" => "and",
            "或" | "或者" | "または" => "or",
            "です" | "だ" => return Some(()),
            word => word.trim_end_matches("です"),
        };
        self.push(Kind::Word(word.to_owned()));
        Some(())
    }

    fn numeral(&mut self, value: BigRational, is_percent: bool) {
        let is_whole = value.is_integer();
        let digits = value.to_integer().to_string();
        self.push(Kind::Number(NumberToken { value, digits, decimals: 0, is_whole }));
        if is_percent {
            self.push(Kind::Symbol('%'));
        }
    }

    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(is_latin_letter) {
            self.at += 1;
        }
        let run: String = self.text[start..self.at].iter().collect();
        if run == "x" && self.is_times() {
            return self.push(Kind::Symbol('*'));
        }
        if run.chars().count() == 1 {
            let joins = run == "U" && self.found.last().is_some_and(|last| last.is(')') || last.is(']'));
            let kind = if joins { Kind::Symbol('\u{222a}') } else { Kind::Letter(run) };
            return self.push(kind);
        }
        let lower = run.to_ascii_lowercase();
        match lower.as_str() {
            "infinity" | "inf" | "oo" => self.name("infty"),
            "sqrt" | "pi" => self.name(&lower),
            "us" if self.peek(0) == Some('$') => {}
            _ if lists(NAMES, &run) && run != "frac" && run != "abs" => self.name(&run),
            _ if lists(OF_LISTS, &run) && self.before_bracket() => self.name(&run),
            _ => self.push(Kind::Word(run)),
        }
    }

    /// Whether a bracket opens next.
    pub(super) fn before_bracket(&self) -> bool {
        let rest: String = self.text[self.at..].iter().take(16).collect();
        let rest = rest.trim_start().trim_start_matches("\\left");
        rest.starts_with(['(', '[']) || rest.starts_with("\\{")
    }

    /// Whether the x that was just read is between two numbers, with space around it.
    fn is_times(&self) -> bool {
        let after = self.text[self.at..].iter().take_while(|c| c.is_whitespace()).count();
        self.spaced
            && after > 0
            && self.found.last().is_some_and(|last| matches!(last.kind, Kind::Number(_)))
            && self.peek(after).is_some_and(|next| next.is_ascii_digit())
    }

    fn number(&mut self) -> Option<()> {
        let rest = &self.text[self.at..];
        // `0x1F` and `0b101` are numerals of other bases.
        if let ['0', 'x' | 'X' | 'b' | 'o', next, ..] = rest
            && next.is_ascii_hexdigit()
        {
            return None;
        }
        let commas = self.depth == 0;
        // The digits of a subscript are followed by other numbers: `\log_5 125`.
        let is_subscript = self.found.last().is_some_and(|last| last.is('_'));
        let n_digits =
            if is_subscript { rest.iter().take_while(|c| c.is_ascii_digit()).count() } else { rest.len() };
        let (mut digits, mut length) = numerals::grouped(&rest[..n_digits], commas);
        let mut decimals = 0_i64;
        let mut is_whole = true;
        if let Some((european, fraction, used)) = numerals::european(rest).filter(|_| commas) {
            (digits, length, decimals) = (european, used, fraction as i64);
            is_whole = fraction == 0;
        } else if let Some(fraction) = numerals::braced_decimals(rest, length) {
            length += 3 + fraction.len();
            decimals = fraction.len() as i64;
            is_whole = false;
            digits += &fraction;
        } else if rest.get(length) == Some(&'.') {
            let fraction: String = rest[length + 1..].iter().take_while(|c| c.is_ascii_digit()).collect();
            let next = rest[length + 1..].iter().find(|letter| !letter.is_whitespace());
            if fraction.is_empty() && next.is_some_and(char::is_ascii_digit) {
                // `1. 18` is the first item of a list.
                return None;
            }
            if !fraction.is_empty() || rest.get(length + 1).is_none_or(|next| !next.is_alphanumeric()) {
                length += 1 + fraction.len();
                decimals = fraction.len() as i64;
                is_whole = false;
                digits += &fraction;
            }
        }
        if let Some((exponent, used)) = numerals::exponent(&rest[length..]) {
            length += used;
            decimals -= exponent;
            is_whole = false;
        }
        if digits.is_empty() || digits.len() > MAX_DIGITS || decimals.unsigned_abs() as usize > MAX_DIGITS {
            return None;
        }
        let mut value = BigRational::from_integer(digits.parse::<BigInt>().ok()?);
        let scale =
            BigRational::from_integer(num_traits::Pow::pow(BigInt::from(10), decimals.unsigned_abs()));
        if !decimals.is_zero() {
            value = if decimals > 0 { value / scale } else { value * scale };
        }
        self.at += length;
        // 2万, 3.5亿, 1万2千
        let run: String = self.text[self.at..].iter().take(24).collect();
        if let Some(found) = numerals::chinese(&run, Some(&value)) {
            self.at += run[..found.length].chars().count();
            self.numeral(found.value, found.is_percent);
            return Some(());
        }
        if let Some(dots) = self.dots() {
            // `18...` has decimals that are left out.
            if is_whole {
                return None;
            }
            self.at += dots;
            let places = usize::try_from(decimals).ok()?;
            value = endless(&digits, places)?;
            self.push(Kind::Number(NumberToken { value, digits, decimals: 0, is_whole }));
            return Some(());
        }
        self.push(Kind::Number(NumberToken { value, digits, decimals, is_whole }));
        Some(())
    }

    /// The length of the dots that say that a number goes on.
    fn dots(&self) -> Option<usize> {
        let rest = &self.text[self.at..];
        ["...", "\u{2026}", "\\ldots", "\\dots", "\\cdots"].iter().find_map(|dots| {
            let n = dots.chars().count();
            (rest.len() >= n && dots.chars().zip(rest).all(|(a, b)| a == *b)).then_some(n)
        })
    }
}

/// `0.1666...` and `0.142857142857...`: what digits go on to if the last of them repeat, one digit three times
/// or a longer period twice.
fn endless(digits: &str, places: usize) -> Option<BigRational> {
    let fraction: Vec<char> = digits.chars().skip(digits.len().checked_sub(places)?).collect();
    for period in 1..=12.min(fraction.len()) {
        let last = &fraction[fraction.len() - period..];
        let n_repeats = fraction.rchunks_exact(period).take_while(|chunk| *chunk == last).count();
        if n_repeats < if period == 1 { 3 } else { 2 } || (period > 1 && n_repeats * period < fraction.len())
        {
            continue;
        }
        // The last period, read as a whole number, over as many nines.
        let ten = |power: usize| num_traits::Pow::pow(BigInt::from(10), power);
        let read = |digits: &str| digits.parse::<BigInt>().ok().map(BigRational::from_integer);
        let tail = read(&last.iter().collect::<String>())? / BigRational::from_integer(ten(period) - 1);
        return Some((read(digits)? + tail) / BigRational::from_integer(ten(places)));
    }
    None
}

fn whole_number(value: u32) -> Kind {
    let digits = value.to_string();
    let value = BigRational::from_integer(value.into());
    Kind::Number(NumberToken { value, digits, decimals: 0, is_whole: true })
}
