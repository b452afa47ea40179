//! The result of importing one key of another tool.

use std::fmt;

/// What a value has to be where a key is copied as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    Number,
    Integer,
    Flag,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The same setting under this name of truing: the value is copied.
    Key(&'static str, Copied),
    /// Settings of truing with another value or meaning. A clause that names them, after "in truing".
    Becomes(&'static str),
    /// Something else than a key does it. A clause, after "in truing".
    Instead(&'static str),
    /// Nothing has to be set. A clause that says why.
    NoEffect(&'static str),
    /// There is no such thing. A clause that says what there is not.
    NotAvailable(&'static str),
}

/// Keys with the same answer. A name that ends in `*` is the beginning of names.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) names: &'static [&'static str],
    pub(crate) answer: Answer,
}

impl Group {
    pub(crate) fn has(&self, key: &str) -> bool {
        self.names.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => key.starts_with(beginning),
            None => *name == key,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key, _) => write!(f, "in truing it is {}", shown(key)),
            Self::Becomes(clause) | Self::Instead(clause) => write!(f, "in truing {clause}"),
            Self::NoEffect(why) => write!(f, "not needed in truing: {why}"),
            Self::NotAvailable(why) => write!(f, "not available in truing: {why}"),
        }
    }
}

/// A key of truing as the documentation writes it: `lora.rank` is `[lora] rank`.
pub(crate) fn shown(key: &str) -> String {
    match key.rsplit_once('.') {
        Some((table, key)) => format!("`[{table}] {key}`"),
        None => format!("`{key}`"),
    }
}
