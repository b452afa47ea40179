//! JSON as Python writes it, for digests that are compared with those of Python programs.

use std::io::Write;

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// JSON as Python's `json.dumps(value, indent=2, ensure_ascii=False)` writes it; lm-evaluation-harness digests that.
pub(super) fn python_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter(PrettyFormatter::new()));
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// [`PrettyFormatter`] with Python's way to write numbers.
struct PythonFormatter(PrettyFormatter<'static>);

impl Formatter for PythonFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> std::io::Result<()> {
        // Both print the shortest digits, and exponents from 1e16 and below 1e-4; Python's exponents have a sign and
        // two digits.
        let text = format!("{value:?}");
        match text.split_once('e') {
            None => writer.write_all(text.as_bytes()),
            Some((digits, exponent)) => {
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(exponent) => ('-', exponent),
                    None => ('+', exponent),
                };
                write!(writer, "{digits}e{sign}{exponent:0>2}")
            }
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_empty_lists_are_written_as_python_writes_them() {
        let text = concat!(
            "{\n  \"a\": 1.0,\n  \"b\": 1e+16,\n  \"c\": 1e-05,\n  \"d\": [\n    1.5e-07,\n    -0.0,\n    ",
            "123456789.123,\n    3\n  ],\n  \"e\": {},\n  \"f\": [],\n  \"g\": \"中\\n\\\"\\\\\\u0001\",\n  ",
            "\"h\": null,\n  \"i\": true,\n  \"j\": 0.0001,\n  \"k\": 1.2e+22\n}"
        );
        // json.dumps(json.loads(text), indent=2, ensure_ascii=False) is the same text.
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(python_json(&value), text);
    }
}
