//! Where Python shows through a template: JSON as `json.dumps` writes it, string methods, what counts as
//! whitespace, what counts as a sequence.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

/// Registers everything of this module.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("trim", trim);
    environment.add_test("sequence", is_sequence);
    environment.add_function("dict", dict);
}

/// JSON as the template sees it.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => Value::from(value),
            (_, Some(value)) => Value::from(value),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// `str.isspace` for one character: Unicode's white space and the four information separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Jinja2's `sequence` test: a value that has a length and can be indexed.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
}

/// Python's `dict(mapping, **entries)`.
fn dict(base: Option<&Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(base) = base {
        for key in base.try_iter()?.checked() {
            let key = key?;
            let value = base.get_item(&key)?;
            pairs.push((key, value));
        }
    }
    for name in kwargs.args() {
        pairs.push((Value::from(name), kwargs.get::<Value>(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

fn trim(value: &Value, characters: Option<&str>) -> Result<Value, Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    Ok(Value::from(strip(&text, characters, true, true)))
}

fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let drop = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if left { text.trim_start_matches(drop) } else { text };
    if right { text.trim_end_matches(drop) } else { text }
}

/// Methods of Python's types. Those that minijinja's own compatibility layer has not, or has with other
/// corners, are here; the rest is its work.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = string_method(text, name, args)?
    {
        return Ok(result);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let list = |pieces: Vec<&str>| Value::from_iter(pieces.into_iter().map(Value::from));
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, characters, name != "rstrip", name != "lstrip"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let is_last = name == "rpartition";
            let cut = if is_last { text.rsplit_once(separator) } else { text.split_once(separator) };
            list(match cut {
                Some((before, after)) => vec![before, separator, after],
                None if is_last => vec!["", "", text],
                None => vec![text, "", ""],
            })
        }
        "split" | "rsplit" => {
            let (separator, maximum, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let maximum = match maximum {
                Some(maximum) => maximum,
                None => kwargs.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
            };
            let separator = match separator {
                Some(separator) => Some(separator),
                None => kwargs.get::<Option<Value>>("sep")?,
            };
            kwargs.assert_all_used()?;
            let n_pieces = usize::try_from(maximum).map_or(usize::MAX, |maximum| maximum.saturating_add(1));
            match separator.as_ref().filter(|separator| !separator.is_none()) {
                Some(separator) => {
                    let separator = separator.as_str().filter(|text| !text.is_empty()).ok_or_else(|| {
                        Error::new(ErrorKind::InvalidOperation, "the separator must be a text, not empty")
                    })?;
                    list(if name == "rsplit" {
                        let mut pieces: Vec<&str> = text.rsplitn(n_pieces, separator).collect();
                        pieces.reverse();
                        pieces
                    } else {
                        text.splitn(n_pieces, separator).collect()
                    })
                }
                None => list(split_at_spaces(text, n_pieces, name == "rsplit")),
            }
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        _ => return Ok(None),
    }))
}

/// `str.title`: a letter after anything but a letter begins a word.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut is_inside_word = false;
    for c in text.chars() {
        if is_inside_word {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        is_inside_word = c.is_alphabetic();
    }
    titled
}

/// `str.split()` without a separator: runs of white space separate, and there are no empty pieces.
fn split_at_spaces(text: &str, n_pieces: usize, from_the_right: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        rest = strip(rest, None, !from_the_right, from_the_right);
        if rest.is_empty() {
            break;
        }
        if pieces.len() + 1 == n_pieces {
            pieces.push(rest);
            break;
        }
        let cut = if from_the_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match (cut, from_the_right) {
            (None, _) => {
                pieces.push(rest);
                break;
            }
            (Some(at), false) => {
                pieces.push(&rest[..at]);
                rest = &rest[at..];
            }
            (Some(at), true) => {
                let after = at + rest[at..].chars().next().map_or(0, char::len_utf8);
                pieces.push(&rest[after..]);
                rest = &rest[..at];
            }
        }
    }
    if from_the_right {
        pieces.reverse();
    }
    pieces
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, which is
/// `json.dumps`: spaces after separators, nothing escaped for HTML.
fn to_json(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional.get(place) {
            Some(value) => Some(value.clone()),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(value) => Some(match (value.as_str(), value.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) => " ".repeat(usize::try_from(width).unwrap_or(0).min(64)),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "`indent` must be a number or a text")),
        }),
    };
    let separators = argument(2, "separators")?;
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let (item, key) = match separators {
        Some(pair) => {
            let part = |at: usize| -> Result<String, Error> {
                let part = pair.get_item_by_index(at)?;
                part.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "`separators` must be two texts"))
            };
            (part(0)?, part(1)?)
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = JsonWriter { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => {
                let number = f64::try_from(value.clone())?;
                self.out.push_str(&float_text(number));
            }
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.container('[', ']', depth, items, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    entries.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container('{', '}', depth, entries, |writer, (key, value)| {
                    writer.text(&key);
                    let separator = writer.key.clone();
                    writer.out.push_str(&separator);
                    writer.value(&value, depth + 1)
                })?;
            }
            kind => {
                let reason = format!("a value of kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    fn container<T>(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: Vec<T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let is_empty = items.is_empty();
        for (number, item) in items.into_iter().enumerate() {
            if number > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as `json.dumps` writes it.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number if key.is_integer() => Ok(key.to_string()),
        ValueKind::Number => Ok(float_text(f64::try_from(key.clone())?)),
        kind => Err(Error::new(ErrorKind::BadSerialization, format!("keys cannot be of kind {kind}"))),
    }
}

/// `repr(float)`: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let text = number.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        for (number, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (123456.789, "123456.789"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float_text(number), text);
        }
    }

    #[test]
    fn splitting_at_spaces_follows_python() {
        for (text, n, right, pieces) in [
            ("  a  b c ", usize::MAX, false, vec!["a", "b", "c"]),
            ("  a  b c ", 2, false, vec!["a", "b c "]),
            ("  a  b c ", usize::MAX, true, vec!["a", "b", "c"]),
            ("  a  b c ", 2, true, vec!["  a  b", "c"]),
            ("   ", usize::MAX, false, vec![]),
            (" a ", 1, false, vec!["a "]),
        ] {
            assert_eq!(split_at_spaces(text, n, right), pieces, "{text:?} {n} {right}");
        }
    }
}
