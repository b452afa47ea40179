//! YAML as PyYAML reads it: the tools' files are YAML 1.1, where `yes` is true, `010` is eight and `1e-5` is a string.
//!
//! The parser gives events; here they become values with their places. Refused, because the tools would refuse it too
//! or read something that nobody meant: several documents, tags such as `!!python/object`, a key that is there twice,
//! keys that are lists, anchors that contain themselves.

use std::collections::HashMap;
use std::path::Path;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::{ImportError, Place};

/// Nested lists and tables at most.
const MAX_DEPTH: usize = 64;
/// Values at most, after aliases are replaced by what they stand for.
const MAX_NODES: usize = 100_000;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Pair>),
}

/// An entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// The entry of a table, unless it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let Value::Table(pairs) = &self.value else { return None };
        pairs.iter().find(|pair| pair.key == key).map(|pair| &pair.node).filter(|node| !node.is_null())
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// A text, as such.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of values in it, itself included.
    fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Table(pairs) => pairs.iter().map(|pair| pair.node.count()).sum(),
            _ => 0,
        }
    }

    /// The number of levels of lists and tables.
    fn depth(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Table(pairs) => 1 + pairs.iter().map(|pair| pair.node.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// Reads the only document of a file.
pub(crate) fn read(text: &str, path: &Path) -> Result<Node, ImportError> {
    let fail = |place, reason: String| ImportError::Yaml { path: path.to_path_buf(), place, reason };
    let mut composer = Composer::default();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| {
            let marker = error.marker();
            let place = Place { line: marker.line().max(1), column: marker.col() + 1 };
            // The parser's text repeats the place.
            let reason = error.kind().to_string();
            fail(place, reason)
        })?;
        let place = place_of(&span);
        let tag_place =
            span.tag_start().map_or(place, |mark| Place { line: mark.line().max(1), column: mark.col() + 1 });
        composer.take(event, place, tag_place).map_err(|(place, reason)| fail(place, reason))?;
    }
    Ok(composer.root.unwrap_or(Node { place: Place { line: 1, column: 1 }, value: Value::Null }))
}

fn place_of(span: &Span) -> Place {
    Place { line: span.start.line().max(1), column: span.start.col() + 1 }
}

type Problem = (Place, String);

/// A list or table that is not closed yet.
struct Open {
    anchor: usize,
    place: Place,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Table { pairs: Vec<Pair>, merged: Vec<Pair>, key: Option<(String, Place, bool)> },
}

#[derive(Default)]
struct Composer {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    n_documents: usize,
    n_nodes: usize,
}

impl Composer {
    fn take(&mut self, event: Event<'_>, place: Place, tag_place: Place) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) => {
                self.n_documents += 1;
                if self.n_documents > 1 {
                    return Err((place, "a second document, expected one".to_owned()));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
                let value = scalar(&text, is_plain, tag.as_deref(), tag_place)?;
                let is_merge = is_plain && text == "<<" && tag.is_none();
                self.node(Node { place, value }, anchor, Some((&text, is_merge)))?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix())), "seq", tag_place)?;
                self.start(anchor, place, OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix())), "map", tag_place)?;
                let kind = OpenKind::Table { pairs: Vec::new(), merged: Vec::new(), key: None };
                self.start(anchor, place, kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let value = match open.kind {
                    OpenKind::List(items) => Value::List(items),
                    OpenKind::Table { mut pairs, merged, .. } => {
                        for pair in merged {
                            if pairs.iter().all(|own| own.key != pair.key) {
                                pairs.push(pair);
                            }
                        }
                        Value::Table(pairs)
                    }
                };
                self.node(Node { place: open.place, value }, open.anchor, None)?;
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err((place, "an anchor that contains itself".to_owned()));
                };
                self.n_nodes += node.count();
                if self.open.len() + node.depth() > MAX_DEPTH {
                    return Err((place, format!("more than {MAX_DEPTH} nested lists and tables")));
                }
                let text = node.as_text().map(str::to_owned);
                self.node(node, 0, text.as_deref().map(|text| (text, false)))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, anchor: usize, place: Place, kind: OpenKind) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err((place, format!("more than {MAX_DEPTH} nested lists and tables")));
        }
        if let Some(Open { kind: OpenKind::Table { key: None, .. }, .. }) = self.open.last() {
            return Err((place, "a key that is a list or a table, expected a name".to_owned()));
        }
        self.open.push(Open { anchor, place, kind });
        Ok(())
    }

    /// Puts a finished value where it belongs. `as_key` is its text, and whether it is the merge key.
    fn node(&mut self, node: Node, anchor: usize, as_key: Option<(&str, bool)>) -> Result<(), Problem> {
        self.n_nodes += 1;
        if self.n_nodes > MAX_NODES {
            return Err((node.place, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Table { pairs, merged, key }) => match key.take() {
                None => {
                    let Some((text, is_merge)) = as_key else {
                        return Err((
                            node.place,
                            "a key that is a list or a table, expected a name".to_owned(),
                        ));
                    };
                    *key = Some((text.to_owned(), node.place, is_merge));
                }
                Some((_, place, true)) => merge(node, place, merged)?,
                Some((name, place, false)) => {
                    if let Some(first) = pairs.iter().find(|pair| pair.key == name) {
                        return Err((
                            place,
                            format!("`{name}` is there twice, first in line {}", first.place.line),
                        ));
                    }
                    pairs.push(Pair { key: name, place, node });
                }
            },
        }
        Ok(())
    }
}

/// The value of `<<`: a table, or a list of tables of which the first takes precedence.
fn merge(node: Node, place: Place, merged: &mut Vec<Pair>) -> Result<(), Problem> {
    let tables = match node.value {
        Value::Table(pairs) => vec![pairs],
        Value::List(items) => {
            let tables = items.into_iter().map(|item| match item.value {
                Value::Table(pairs) => Ok(pairs),
                _ => Err((item.place, "`<<` takes tables".to_owned())),
            });
            tables.collect::<Result<_, _>>()?
        }
        _ => return Err((place, "`<<` takes a table or a list of tables".to_owned())),
    };
    for pair in tables.into_iter().flatten() {
        if merged.iter().all(|earlier| earlier.key != pair.key) {
            merged.push(pair);
        }
    }
    Ok(())
}

const CORE: &str = "tag:yaml.org,2002:";

fn check_tag(tag: Option<String>, own: &str, place: Place) -> Result<(), Problem> {
    match tag {
        Some(tag) if tag != "!" && tag.strip_prefix(CORE) != Some(own) => Err((place, unknown_tag(&tag))),
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &str) -> String {
    format!("the tag `{tag}` is not read")
}

/// The value of a scalar: of a plain one as its form says, of a quoted one the text, unless a tag says otherwise.
fn scalar(text: &str, is_plain: bool, tag: Option<&str>, place: Place) -> Result<Value, Problem> {
    let misfit = |kind: &str| (place, format!("`{text}` is not {kind}, as its tag says"));
    let Some(tag) = tag else {
        return Ok(if is_plain { resolve(text) } else { Value::Text(text.to_owned()) });
    };
    match tag.strip_prefix(CORE) {
        Some("str") => Ok(Value::Text(text.to_owned())),
        None if tag == "!" => Ok(Value::Text(text.to_owned())),
        Some("null") => Ok(Value::Null),
        Some("bool") => boolean(text).map(Value::Bool).ok_or_else(|| misfit("a boolean")),
        Some("int") => int(text)
            .map(Value::Int)
            .or_else(|| text.parse().ok().map(Value::Int))
            .ok_or_else(|| misfit("an integer")),
        Some("float") => python_float(text).map(Value::Float).ok_or_else(|| misfit("a number")),
        _ => Err((place, unknown_tag(tag))),
    }
}

/// PyYAML's implicit types. A time stamp stays a text.
fn resolve(text: &str) -> Value {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        Value::Null
    } else if let Some(value) = boolean(text) {
        Value::Bool(value)
    } else if let Some(value) = int(text) {
        Value::Int(value)
    } else if let Some(value) = float(text) {
        Value::Float(value)
    } else {
        Value::Text(text.to_owned())
    }
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Sign and the rest.
fn signed(text: &str) -> (i64, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    }
}

/// Integers of YAML 1.1: `0b11`, `017` (octal), `0x1f`, `1_000`, `1:30` (base 60). One that does not fit is none.
fn int(text: &str) -> Option<i64> {
    let (sign, digits) = signed(text);
    let all = |text: &str, is_digit: fn(u8) -> bool| {
        !text.is_empty() && text.bytes().all(|b| is_digit(b) || b == b'_')
    };
    let parsed = |text: &str, base| i64::from_str_radix(&text.replace('_', ""), base).ok();
    let value = if digits == "0" {
        0
    } else if let Some(rest) = digits.strip_prefix("0b") {
        all(rest, |b| matches!(b, b'0' | b'1')).then(|| parsed(rest, 2))??
    } else if let Some(rest) = digits.strip_prefix("0x") {
        all(rest, |b| b.is_ascii_hexdigit()).then(|| parsed(rest, 16))??
    } else if digits.len() > 1 && digits.bytes().skip(1).all(|b| b == b'_') && digits.starts_with('0') {
        0
    } else if let Some(rest) = digits.strip_prefix('0') {
        all(rest, |b| matches!(b, b'0'..=b'7')).then(|| parsed(rest, 8))??
    } else if digits.contains(':') {
        let mut parts = digits.split(':');
        let first =
            parts.next().filter(|part| all(part, |b| b.is_ascii_digit()) && !part.starts_with('_'))?;
        let mut value = parsed(first, 10)?;
        for part in parts {
            let part: i64 = Some(part)
                .filter(|p| matches!(p.len(), 1 | 2) && p.bytes().all(|b| b.is_ascii_digit()))?
                .parse()
                .ok()?;
            value = Some(part)
                .filter(|&part| part < 60)
                .and_then(|part| value.checked_mul(60)?.checked_add(part))?;
        }
        value
    } else {
        (all(digits, |b| b.is_ascii_digit()) && !digits.starts_with('_')).then(|| parsed(digits, 10))??
    };
    Some(sign * value)
}

/// Floats of PyYAML: a point is needed, and a sign in the exponent. `1e-5` is none. Those of base 60 (`1:30.5`) stay
/// texts.
fn float(text: &str) -> Option<f64> {
    let (sign, rest) = signed(text);
    match rest {
        ".inf" | ".Inf" | ".INF" => return Some(sign as f64 * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if rest == text => return Some(f64::NAN),
        _ => {}
    }
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let (whole, decimals) = mantissa.split_once('.')?;
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let starts_well = if whole.is_empty() {
        rest == text && decimals.starts_with(|c: char| c.is_ascii_digit())
    } else {
        whole.starts_with(|c: char| c.is_ascii_digit())
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']);
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    });
    if !starts_well || !exponent_fits || !is_digits(whole) || !is_digits(decimals) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// What Python's `float()` takes: where a tool expects a number, it also takes it as a text, as in `1e-5`.
pub(crate) fn python_float(text: &str) -> Option<f64> {
    let text = text.trim();
    // Rust takes what Python takes, apart from single underscores between digits.
    let bytes = text.as_bytes();
    let between_digits = |at: usize| {
        at > 0 && bytes[at - 1].is_ascii_digit() && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
    };
    if (0..bytes.len()).any(|at| bytes[at] == b'_' && !between_digits(at)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        read(&format!("key: {text}\n"), Path::new("a.yaml"))
            .unwrap()
            .get("key")
            .map_or(Value::Null, |n| n.value.clone())
    }

    #[test]
    fn scalars_are_those_of_pyyaml() {
        for text in ["yes", "On", "TRUE"] {
            assert_eq!(value(text), Value::Bool(true), "{text}");
        }
        for (text, expected) in
            [("010", 8), ("0x1F", 31), ("1_000", 1000), ("1:30", 90), ("-5", -5), ("0b11", 3), ("0_", 0)]
        {
            assert_eq!(value(text), Value::Int(expected), "{text}");
        }
        for (text, expected) in
            [("1.0e-5", 1e-5), ("2.", 2.0), (".5", 0.5), ("1_0.5", 10.5), ("-.inf", f64::NEG_INFINITY)]
        {
            assert_eq!(value(text), Value::Float(expected), "{text}");
        }
        for text in
            ["1e-5", "1.0e5", "08", "-.5", "y", "n", "\"010\"", "'yes'", "2024-01-01", "1.2.3", "0x", "_1"]
        {
            let unquoted = text.trim_matches(['"', '\'']);
            assert_eq!(value(text), Value::Text(unquoted.to_owned()), "{text}");
        }
        assert_eq!(value("~"), Value::Null);
        assert_eq!(value("!!str 5"), Value::Text("5".to_owned()));
        assert_eq!(python_float("1e-5"), Some(1e-5));
        assert_eq!(python_float("1__0"), None);
    }

    #[test]
    fn anchors_and_merged_tables_are_replaced() {
        let text = "base: &base {a: 1, b: 2}\nown:\n  <<: *base\n  b: 3\nagain: *base\n";
        let root = read(text, Path::new("a.yaml")).unwrap();
        let own = root.get("own").unwrap();
        assert_eq!(own.get("a").unwrap().value, Value::Int(1));
        assert_eq!(own.get("b").unwrap().value, Value::Int(3));
        assert_eq!(root.get("again").unwrap().get("b").unwrap().value, Value::Int(2));
    }

    #[test]
    fn what_is_not_read_is_named_with_its_place() {
        let check = |text: &str, expected: &str| {
            assert_eq!(read(text, Path::new("a.yaml")).unwrap_err().to_string(), expected, "{text}");
        };
        check("a: 1\nb: 2\na: 3\n", "a.yaml:3:1: `a` is there twice, first in line 1");
        check("a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document, expected one");
        check(
            "a: !!python/name:os.system ls\n",
            "a.yaml:1:4: the tag `tag:yaml.org,2002:python/name:os.system` is not read",
        );
        check("a: &x [*x]\n", "a.yaml:1:8: an anchor that contains itself");
        check("? [1]\n: 2\n", "a.yaml:1:3: a key that is a list or a table, expected a name");
        check("<<: 5\n", "a.yaml:1:1: `<<` takes a table or a list of tables");
    }

    #[test]
    fn aliases_cannot_fill_the_memory() {
        let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for i in 1..12 {
            let items = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert!(
            read(&text, Path::new("a.yaml")).unwrap_err().to_string().contains("more than 100000 values")
        );
        let deep = format!("a: {}{}\n", "[".repeat(100), "]".repeat(100));
        assert!(read(&deep, Path::new("a.yaml")).unwrap_err().to_string().contains("more than 64 nested"));
    }
}
