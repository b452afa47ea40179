//! Numbers that lose digits when they are read. JSON allows any number; here one is an integer of 64 bits or a double,
//! as in most programs. Where a number reaches the text that is trained on, in tools and their calls, it must not
//! change: a model would learn another amount or identifier than the one written down.
//!
//! A column of a row may hold an integer of more than 64 bits or a decimal number of more digits than a double keeps,
//! such as the answer to a calculation. It becomes a text of the same digits, which rewards compare like any other
//! answer, and which scores read as a number.
//!
//! A double may be spelled differently in the text (`1e5` as `100000.0`), as Python, and so transformers, would write
//! it. Its value is the same.

use std::ops::ControlFlow;

use serde_json::Value;

/// Fields whose numbers reach the rendered text.
const RENDERED: [&str; 6] = ["tool_calls", "function_call", "tools", "functions", "arguments", "parameters"];

/// A number that would be rounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rounded {
    /// Its place, as in `messages[2].tool_calls[0].function.arguments.amount`.
    pub(crate) path: String,
    /// As it is written, shortened where it is very long.
    pub(crate) number: String,
}

impl std::fmt::Display for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the number {}, which would be rounded", self.number)
    }
}

/// What a number must be, so that it is kept as it is.
pub(crate) const KEPT_NUMBER: &str = "an integer of 64 bits, a decimal number of at most 15 significant \
                                      digits, one of 16 or 17 as a double is written out, or a string";

/// The position of a walk through a JSON text.
#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The first number of a JSON text that would be rounded, in tools and calls or, with `is_rendered`, anywhere. The text
/// has been parsed before: it is valid.
pub(crate) fn first_rounded(json: &str, is_rendered: bool) -> Option<Rounded> {
    let mut first = None;
    walk(json, |path, number| {
        let is_in_tools = || path.iter().any(|step| matches!(step, Step::Key(key) if RENDERED.contains(key)));
        if (is_rendered || is_in_tools()) && !is_kept(number) {
            first = Some(Rounded { path: written(path), number: shortened(number) });
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    first
}

/// The columns of a row that hold numbers which would be rounded, with their digits. The row has been parsed before.
pub(crate) fn rounded_columns(row: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    walk(row, |path, number| {
        if let &[Step::Key(column)] = path
            && !is_kept(number)
        {
            found.push((column, number));
        }
        ControlFlow::Continue(())
    });
    found
}

/// The number of a column: a JSON number, or the digits of one that was kept as text because it would be rounded.
#[must_use]
pub fn number_of(value: &Value) -> Option<f64> {
    let digits = |text: &str| text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && !is_kept(text);
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if digits(text) => text.parse().ok(),
        _ => None,
    }
}

/// Visits the numbers of a JSON text with their places, in order.
fn walk<'a>(json: &'a str, mut visit: impl FnMut(&[Step<'a>], &'a str) -> ControlFlow<()>) {
    let bytes = json.as_bytes();
    let mut path: Vec<Step<'_>> = Vec::new();
    let mut expects_key = false;
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'{' => {
                path.push(Step::Key(""));
                expects_key = true;
            }
            b'[' => {
                path.push(Step::Index(0));
                expects_key = false;
            }
            b'}' | b']' => {
                path.pop();
                expects_key = false;
            }
            b',' => match path.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                _ => expects_key = true,
            },
            b'"' => {
                at = end_of_string(bytes, at);
                if expects_key && let Some(Step::Key(key)) = path.last_mut() {
                    *key = &json[start + 1..at - 1];
                    expects_key = false;
                }
            }
            b'-' | b'0'..=b'9' => {
                while at < bytes.len() && matches!(bytes[at], b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')
                {
                    at += 1;
                }
                if visit(&path, &json[start..at]).is_break() {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// The place behind the closing quote of a string whose content begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn written(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
        }
    }
    text
}

fn shortened(number: &str) -> String {
    const MOST: usize = 40;
    if number.len() <= MOST { number.to_owned() } else { format!("{}...", &number[..MOST]) }
}

fn is_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

/// Whether a number has the same value after it was read: an integer of 64 bits, or a double that is written in its
/// shortest form (every decimal number of at most 15 significant digits is) or with 17 digits, as C's `%.17g` does.
/// Other numbers of 16 digits and more, such as `48.856613999999997`, would be written back as another decimal number.
fn is_kept(number: &str) -> bool {
    if is_integer(number) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    let Ok(read) = number.parse::<f64>() else { return false };
    let found = digits_and_exponent(number);
    [format!("{read:e}"), format!("{read:.16e}")].iter().any(|form| digits_and_exponent(form) == found)
}

/// The digits without zeros at either end, and the power of ten of the last one; equal for equal numbers of any sign.
fn digits_and_exponent(number: &str) -> (String, i64) {
    let number = number.trim_start_matches('-');
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(i64::from(i32::MIN));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return (String::new(), 0);
    }
    let n_zeros = digits.len() - digits.trim_end_matches('0').len();
    (significant.to_owned(), exponent - fraction.len() as i64 + n_zeros as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_keep_their_value_are_told_from_those_that_do_not() {
        for number in [
            "0",
            "-0",
            "18446744073709551615",
            "-9223372036854775808",
            "1.0",
            "1.50",
            "-0.0",
            "1e5",
            "1E+5",
            "12.5e-3",
            "0.1",
            "0.30000000000000004",
            "0.33333333333333331",
            "0.10000000000000001",
            "100000000000000000000.0",
            "5e-324",
            "48.8566139999999",
            "9007199254740992.0",
        ] {
            assert!(is_kept(number), "{number}");
        }
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "100000000000000000000",
            "0.1000000000000000055",
            "9007199254740993.0",
            "1e-400",
            "123456789.123456789123",
            "48.856613999999997",
            "0.1234567890123456789",
        ] {
            assert!(!is_kept(number), "{number}");
        }
    }

    #[test]
    fn columns_whose_numbers_would_be_rounded_are_found() {
        let row = r#"{"answer": 18446744073709551616, "n": 3, "x": 1e30, "deep": [18446744073709551616], "low":
            -99999999999999999999, "fine": 0.12345678901234567891, "y": 0.1}"#;
        assert_eq!(
            rounded_columns(row),
            [
                ("answer", "18446744073709551616"),
                ("low", "-99999999999999999999"),
                ("fine", "0.12345678901234567891")
            ]
        );
    }

    #[test]
    fn digits_that_were_kept_are_read_as_a_number_and_other_texts_are_not() {
        let text = |text: &str| Value::from(text);
        assert_eq!(number_of(&text("0.12345678901234567891")), Some(0.123_456_789_012_345_68));
        assert_eq!(number_of(&Value::from(0.5)), Some(0.5));
        for other in ["0.5", "3", "", "-", "1e", "many", "inf"] {
            assert_eq!(number_of(&text(other)), None, "{other}");
        }
    }

    #[test]
    fn a_rounded_number_is_found_where_it_reaches_the_text() {
        let big = "18446744073709551616";
        let found = |json: &str| first_rounded(json, false).map(|rounded| rounded.path);
        assert_eq!(found(&format!(r#"{{"id": {big}, "score": [0.1000000000000000055]}}"#)), None);
        let row = format!(
            r#"{{"id": {big}, "messages": [{{"content": "a \"tools\": {big}"}}, {{"tool_calls": [{{"function":
                {{"name": "pay", "arguments": {{"to": "x, {{", "amounts": [1, {{}}, {big}]}}}}}}]}}]}}"#
        );
        assert_eq!(found(&row).as_deref(), Some("messages[1].tool_calls[0].function.arguments.amounts[2]"));
        assert_eq!(
            found(&format!(r#"{{"tools": [{{"maximum": {big}}}]}}"#)).as_deref(),
            Some("tools[0].maximum")
        );
        // What stands behind tools is not in them.
        assert_eq!(found(&format!(r#"{{"tools": [{{"a": {{"b": []}}}}, 1], "id": {big}}}"#)), None);
        assert_eq!(
            first_rounded(&format!("[{big}]"), true),
            Some(Rounded { path: "[0]".into(), number: big.into() })
        );
        let long = first_rounded(&"9".repeat(300), true).unwrap();
        assert_eq!(long.number, format!("{}...", "9".repeat(40)));
    }
}
