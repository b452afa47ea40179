//! Commands of LaTeX as tokens.

use super::token::{Kind, Lexer, NAMES, OF_LISTS, ROW, Relation, SET_CLOSE, SET_OPEN};
use super::units;
use super::wording::lists;

/// Commands without meaning for the value.
const COSMETIC: &str = "\
    left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle displaystyle \
    textstyle scriptstyle limits nolimits quad qquad hspace hfill rm bf it mathstrut strut nonumber \
    thinspace enspace small large";
/// Commands whose argument is text.
const TEXT: &str = "\
    text textrm textbf textit textsf texttt mbox hbox mathrm mathsf operatorname emph textnormal";
/// Commands that only change how their argument looks.
const STYLE: &str = "\
    mathbf mathit mathcal boldsymbol bm boxed fbox underline mathnormal ensuremath displaylines";
pub(super) const GREEK: &str = "\
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho \
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Omega ell";

impl Lexer {
    /// The argument of a command as text, braces matched; one character where there are none.
    fn argument(&mut self) -> Option<String> {
        while self.peek(0).is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        if self.peek(0)? != '{' {
            self.at += 1;
            return Some(self.text[self.at - 1].to_string());
        }
        let start = self.at + 1;
        let mut depth = 0_usize;
        while let Some(letter) = self.peek(0) {
            self.at += 1;
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(self.text[start..self.at - 1].iter().collect());
            }
        }
        None
    }

    /// Puts the argument of a command back into the text as it is.
    fn splice(&mut self, argument: &str) {
        self.text.splice(..self.at, argument.chars());
        self.at = 0;
    }

    fn text_command(&mut self) -> Option<()> {
        let content = self.argument()?;
        let trimmed = content.trim();
        self.spaced |= content.starts_with(' ');
        let after_number =
            self.found.last().is_some_and(|last| matches!(last.kind, Kind::Number(_)) || last.is('}'));
        if trimmed.len() == 1 && trimmed.chars().all(|c| c.is_ascii_alphabetic()) {
            let is_unit = after_number && units::letter(trimmed);
            let kind = if is_unit { Kind::Word(trimmed.into()) } else { Kind::Letter(trimmed.into()) };
            self.push(kind);
        } else if lists(NAMES, trimmed) || lists(OF_LISTS, trimmed) && self.before_bracket() {
            self.name(trimmed);
        } else {
            // What is inside is read like the rest, as words of its own.
            self.splice(&format!(" {content} "));
        }
        Some(())
    }

    pub(super) fn command(&mut self) -> Option<()> {
        self.at += 1;
        let first = self.peek(0)?;
        if !first.is_ascii_alphabetic() {
            match first {
                '$' => self.currency("USD"),
                '%' => self.symbol('%', 1),
                '{' => self.symbol(SET_OPEN, 1),
                '}' => self.symbol(SET_CLOSE, 1),
                '\\' => self.symbol(ROW, 1),
                '&' => self.at += 1,
                ',' | '!' | ';' | ':' | '>' | ' ' | '(' | ')' | '[' | ']' | '/' | '-' => {
                    self.spaced = true;
                    self.at += 1;
                }
                '#' | '_' | '|' => return None,
                _ => return None,
            }
            return Some(());
        }
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let name: String = self.text[start..self.at].iter().collect();
        self.named_command(&name)
    }

    fn named_command(&mut self, name: &str) -> Option<()> {
        if let Some(kind) = relation(name).map(Kind::Relation).or_else(|| currency(name).map(Kind::Currency))
        {
            self.push(kind);
            return Some(());
        }
        match name {
            "left" | "right" if self.peek(0) == Some('.') => {
                self.at += 1;
                // \left. and \right. show nothing.
            }
            _ if lists(COSMETIC, name) => {
                if name == "hspace" {
                    self.argument()?;
                }
            }
            _ if lists(TEXT, name) => self.text_command()?,
            _ if lists(STYLE, name) => {
                let content = self.argument()?;
                self.splice(&content);
            }
            "mathbb" => match self.argument()?.as_str() {
                "R" => self.name("reals"),
                letter => self.push(Kind::Letter(format!("mathbb{letter}"))),
            },
            "dfrac" | "tfrac" | "cfrac" | "frac" => self.name("frac"),
            "dbinom" | "tbinom" => self.name("binom"),
            "times" | "cdot" | "ast" | "bullet" => self.push(Kind::Symbol('*')),
            "div" => self.push(Kind::Symbol('/')),
            "pm" => self.push(Kind::Symbol('\u{b1}')),
            "mp" => self.push(Kind::Symbol('\u{2213}')),
            "circ" | "degree" | "degrees" => self.degree()?,
            "angle" => self.angle()?,
            "vec" | "overrightarrow" | "hat" | "widehat" | "bar" => self.accented(name)?,
            "cup" => self.push(Kind::Symbol('\u{222a}')),
            "cap" => self.push(Kind::Symbol('\u{2229}')),
            "setminus" | "backslash" => self.push(Kind::Symbol('\u{2216}')),
            "lbrace" => self.symbol(SET_OPEN, 0),
            "rbrace" => self.symbol(SET_CLOSE, 0),
            "lbrack" => self.symbol('[', 0),
            "rbrack" => self.symbol(']', 0),
            "lparen" | "langle" => self.symbol('(', 0),
            "rparen" | "rangle" => self.symbol(')', 0),
            "color" | "textcolor" => {
                self.argument()?;
            }
            "mid" | "vert" | "lvert" | "rvert" => self.push(Kind::Symbol('|')),
            "colon" => self.push(Kind::Symbol(':')),
            "prime" => self.push(Kind::Symbol('\'')),
            "lor" | "vee" => self.push(Kind::Word("or".into())),
            "land" | "wedge" => self.push(Kind::Word("and".into())),
            "percent" => self.push(Kind::Symbol('%')),
            "varnothing" => self.name("emptyset"),
            "imath" => self.push(Kind::Letter("i".into())),
            "dots" | "ldots" | "cdots" => return None,
            "begin" => {
                let environment = self.argument()?;
                if environment == "array" {
                    self.argument()?;
                }
                // Those with bars are determinants.
                let is_matrix = environment.trim_end_matches('*').ends_with("matrix")
                    && !environment.starts_with(['v', 'V']);
                (is_matrix || environment == "array").then(|| self.name("matrix"))?;
                self.depth += 1;
            }
            "end" => {
                self.argument()?;
                self.depth = self.depth.saturating_sub(1);
                self.name("endmatrix");
            }
            "lfloor" | "rfloor" | "lceil" | "rceil" => self.name(name),
            _ if lists(NAMES, name) || lists(OF_LISTS, name) => self.name(name),
            _ if lists(GREEK, name) => self.push(Kind::Letter(name.to_owned())),
            _ => return None,
        }
        Some(())
    }

    /// `\vec{v}` as one name.
    fn accented(&mut self, accent: &str) -> Option<()> {
        let content = self.argument()?;
        let is_name = content.len() <= 3 && content.chars().all(|c| c.is_ascii_alphabetic());
        is_name.then(|| self.push(Kind::Letter(format!("{accent} {content}"))))
    }

    /// `\angle ABC` as one name.
    fn angle(&mut self) -> Option<()> {
        while self.peek(0).is_some_and(|c| c.is_whitespace() || c == '{') {
            self.at += 1;
        }
        let mut name = String::from('\u{2220}');
        while let Some(letter) = self.peek(0).filter(char::is_ascii_alphanumeric) {
            name.push(letter);
            self.at += 1;
        }
        if self.peek(0) == Some('}') {
            self.at += 1;
        }
        (name.chars().count() > 1).then(|| self.push(Kind::Letter(name)))
    }

    /// `^\circ` and `^{\circ}` as one sign; between two functions it composes them.
    fn degree(&mut self) -> Option<()> {
        let is_raised = self.found.last().is_some_and(|last| last.is('^') || last.is('{'));
        let composes = self.found.last().is_some_and(|last| matches!(last.kind, Kind::Letter(_)));
        if composes && !is_raised {
            return None;
        }
        if self.found.last().is_some_and(|last| last.is('{'))
            && self.found.iter().rev().nth(1).is_some_and(|before| before.is('^'))
        {
            self.found.pop();
            if self.peek(0) == Some('}') {
                self.at += 1;
            }
        }
        if self.found.last().is_some_and(|last| last.is('^')) {
            self.found.pop();
        }
        self.push(Kind::Symbol('\u{b0}'));
        Some(())
    }
}

/// The currency of a command.
fn currency(name: &str) -> Option<&'static str> {
    Some(match name {
        "dollar" => "USD",
        "euro" => "EUR",
        "pounds" => "GBP",
        "yen" => "\u{a5}",
        _ => return None,
    })
}

/// The relation of a command.
fn relation(name: &str) -> Option<Relation> {
    Some(match name {
        "le" | "leq" | "leqslant" => Relation::LessEqual,
        "ge" | "geq" | "geqslant" => Relation::GreaterEqual,
        "lt" => Relation::Less,
        "gt" => Relation::Greater,
        "ne" | "neq" => Relation::NotEqual,
        "approx" => Relation::Approximate,
        "in" => Relation::In,
        _ => return None,
    })
}
