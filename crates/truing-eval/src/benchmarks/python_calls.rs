//! Calls and literals as Python writes them, read into a syntax tree: `[weather.get(city="Oslo", days=3),
//! f(x=[1, -2.5])]`. Nothing is run.

use serde_json::{Map, Number, Value};

/// A call with its keyword arguments. Arguments without a keyword are read and left out: no schema can place them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// Function, with its dots.
    pub(super) name: String,
    /// By keyword.
    pub(super) arguments: Map<String, Value>,
}

/// Depth of nested lists and objects that is read.
const MAX_DEPTH: usize = 64;

/// Reads a list of calls, with or without its brackets. `None` where the text is anything else.
pub(super) fn calls(text: &str) -> Option<Vec<Call>> {
    let mut reader = Reader { rest: text.trim(), depth: 0 };
    let has_brackets = reader.take('[');
    let mut found = Vec::new();
    loop {
        if has_brackets && reader.take(']') {
            break;
        }
        if !has_brackets && reader.is_at_end() {
            break;
        }
        found.push(reader.call()?);
        if !reader.take(',') {
            if has_brackets {
                reader.take(']').then_some(())?;
            }
            break;
        }
    }
    reader.is_at_end().then_some(found)
}

/// Reads a literal that is a list of texts.
pub(super) fn list_of_texts(text: &str) -> Option<Vec<String>> {
    let mut reader = Reader { rest: text.trim(), depth: 0 };
    let value = reader.value()?;
    reader.is_at_end().then_some(())?;
    value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect()
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    fn take(&mut self, expected: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A name, with dots where it is a function's.
    fn name(&mut self, with_dots: bool) -> Option<String> {
        self.skip_space();
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || (with_dots && c == '.');
        let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
        let name = &self.rest[..end];
        let starts_well = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        (starts_well && !name.ends_with('.')).then_some(())?;
        self.rest = &self.rest[end..];
        Some(name.to_owned())
    }

    fn call(&mut self) -> Option<Call> {
        let name = self.name(true)?;
        self.take('(').then_some(())?;
        let mut arguments = Map::new();
        loop {
            if self.take(')') {
                break;
            }
            let before = self.rest;
            let keyword = self.name(false).filter(|_| {
                self.skip_space();
                self.rest.starts_with('=') && !self.rest.starts_with("==")
            });
            match keyword {
                Some(keyword) => {
                    self.take('=');
                    let value = self.value()?;
                    // Python refuses a keyword that is given twice.
                    arguments.insert(keyword, value).is_none().then_some(())?;
                }
                None => {
                    self.rest = before;
                    self.value()?;
                }
            }
            if !self.take(',') {
                self.take(')').then_some(())?;
                break;
            }
        }
        Some(Call { name, arguments })
    }

    fn value(&mut self) -> Option<Value> {
        self.skip_space();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match self.rest.chars().next()? {
            '[' => self.sequence('[', ']').map(|(values, _)| Value::Array(values)),
            '(' => {
                self.sequence('(', ')').and_then(|(mut values, has_comma)| match (values.len(), has_comma) {
                    // Brackets around one value are no tuple.
                    (1, false) => values.pop(),
                    _ => Some(Value::Array(values)),
                })
            }
            '{' => self.object(),
            '\'' | '"' => self.texts(),
            '-' | '+' => self.signed(),
            c if c.is_ascii_digit() || c == '.' => self.number(false),
            _ => self.word(),
        };
        self.depth -= 1;
        value
    }

    fn sequence(&mut self, open: char, close: char) -> Option<(Vec<Value>, bool)> {
        self.take(open);
        let (mut values, mut has_comma) = (Vec::new(), false);
        while !self.take(close) {
            values.push(self.value()?);
            if self.take(',') {
                has_comma = true;
            } else {
                self.take(close).then_some(())?;
                break;
            }
        }
        Some((values, has_comma))
    }

    fn object(&mut self) -> Option<Value> {
        self.take('{');
        let mut object = Map::new();
        while !self.take('}') {
            let key = match self.value()? {
                Value::String(text) => text,
                other => other.to_string(),
            };
            self.take(':').then_some(())?;
            let value = self.value()?;
            object.insert(key, value);
            if !self.take(',') {
                self.take('}').then_some(())?;
                break;
            }
        }
        Some(Value::Object(object))
    }

    fn signed(&mut self) -> Option<Value> {
        let is_negative = self.rest.starts_with('-');
        self.rest = &self.rest[1..];
        self.skip_space();
        self.number(is_negative)
    }

    fn number(&mut self, is_negative: bool) -> Option<Value> {
        let mut end = 0;
        let bytes = self.rest.as_bytes();
        while end < bytes.len() {
            let is_exponent_sign =
                matches!(bytes[end], b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E');
            match bytes[end] {
                b'0'..=b'9' | b'.' | b'_' | b'e' | b'E' => end += 1,
                _ if is_exponent_sign => end += 1,
                _ => break,
            }
        }
        let digits = self.rest[..end].replace('_', "");
        self.rest = &self.rest[end..];
        let sign = if is_negative { "-" } else { "" };
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return format!("{sign}{digits}").parse::<i64>().ok().map(Value::from);
        }
        let value: f64 = format!("{sign}{digits}").parse().ok()?;
        Number::from_f64(value).map(Value::Number)
    }

    /// True, False, None, or a name, which stands for itself.
    fn word(&mut self) -> Option<Value> {
        let name = self.name(true)?;
        // A call inside a call is no value.
        self.skip_space();
        if self.rest.starts_with('(') {
            return None;
        }
        Some(match name.as_str() {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            _ => Value::String(name),
        })
    }

    /// A text; several in a row are one.
    fn texts(&mut self) -> Option<Value> {
        let mut text = String::new();
        loop {
            text.push_str(&self.text()?);
            self.skip_space();
            if !self.rest.starts_with(['\'', '"']) {
                return Some(Value::String(text));
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let close = if self.rest.starts_with(&triple) { triple } else { quote.to_string() };
        self.rest = &self.rest[close.len()..];
        let mut text = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(close.as_str()) {
                self.rest = rest;
                return Some(text);
            }
            let c = self.rest.chars().next()?;
            self.rest = &self.rest[c.len_utf8()..];
            match c {
                '\\' => text.push_str(&self.escape()?),
                // Only a text in three quotation marks goes over lines.
                '\n' if close.len() == 1 => return None,
                other => text.push(other),
            }
        }
    }

    fn escape(&mut self) -> Option<String> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        let mut coded = |n: usize| {
            let digits = self.rest.get(..n)?;
            self.rest = &self.rest[n..];
            char::from_u32(u32::from_str_radix(digits, 16).ok()?).map(String::from)
        };
        Some(match c {
            'n' => "\n".into(),
            't' => "\t".into(),
            'r' => "\r".into(),
            '\n' => String::new(),
            'x' => coded(2)?,
            'u' => coded(4)?,
            'U' => coded(8)?,
            '\\' | '\'' | '"' => c.into(),
            other => format!("\\{other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_read_with_their_keywords() {
        let found =
            calls(r#"[a.b(x=1, y=-2.5, z='it\'s', w=[True, None, (1, 2)], v={"k": "v"}), c()]"#).unwrap();
        assert_eq!((found[0].name.as_str(), found[1].name.as_str()), ("a.b", "c"));
        let arguments = Value::Object(found[0].arguments.clone());
        assert_eq!(
            arguments,
            json!({"x": 1, "y": -2.5, "z": "it's", "w": [true, null, [1, 2]], "v": {"k": "v"}})
        );
        assert_eq!(calls("f(a=1e-3, b=1_000, c='a' 'b', d=(3))").unwrap()[0].arguments, {
            json!({"a": 0.001, "b": 1000, "c": "ab", "d": 3}).as_object().unwrap().clone()
        });
        assert_eq!(calls("f('x', n=2)").unwrap()[0].arguments.len(), 1, "without a keyword");
        assert_eq!(calls("[]"), Some(Vec::new()));
        assert_eq!(calls("f(x=\"\"\"two\nlines\"\"\")").unwrap()[0].arguments["x"], "two\nlines");
    }

    #[test]
    fn what_is_no_call_is_not_read() {
        for text in [
            "I cannot do that.",
            "f(x=",
            "[f(x=1)",
            "f(x=1) and more",
            "f(x=g(1))",
            "f(x=1, x=2)",
            "f(x='a\nb')",
            "import os",
            "f(x==1)",
            "x",
            "f(x='a)",
        ] {
            assert_eq!(calls(text), None, "{text}");
        }
        let deep = format!("f(x={}{})", "[".repeat(500), "]".repeat(500));
        assert_eq!(calls(&deep), None);
    }

    #[test]
    fn lists_of_texts_are_literals() {
        assert_eq!(list_of_texts("['a', \"b\"]"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(list_of_texts("['a', 3]"), None);
    }
}
