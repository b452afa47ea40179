//! Whether the arguments of a call come from somewhere: from what the user said, from an earlier result, or from the
//! tool's own schema. An argument that comes from nowhere was made up.

use serde_json::Value;

/// The words of numbers that users write out.
const NUMBER_WORDS: [[&str; 2]; 13] = [
    ["zero", "零"],
    ["one", "一"],
    ["two", "二"],
    ["three", "三"],
    ["four", "四"],
    ["five", "五"],
    ["six", "六"],
    ["seven", "七"],
    ["eight", "八"],
    ["nine", "九"],
    ["ten", "十"],
    ["eleven", "十一"],
    ["twelve", "十二"],
];

/// What was said and found before a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    /// In lower case, everything but letters and digits as single spaces, with spaces around.
    text: String,
    numbers: Vec<f64>,
}

impl Sources {
    /// Adds a turn of the user.
    pub(super) fn add_text(&mut self, text: &str) {
        self.text.push_str(&normal(text));
        self.numbers.extend(numbers(text));
    }

    /// Adds every value of a result.
    pub(super) fn add_result(&mut self, result: &Value) {
        match result {
            Value::String(text) => self.add_text(text),
            Value::Array(items) => items.iter().for_each(|item| self.add_result(item)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.add_text(key);
                    self.add_result(value);
                }
            }
            Value::Number(number) => self.add_text(&number.to_string()),
            Value::Bool(_) | Value::Null => {}
        }
    }

    /// The values of arguments that come from nowhere. Booleans and null say too little to be traced.
    pub(super) fn ungrounded(&self, arguments: &Value, schema: &Value) -> Vec<String> {
        if is_offered(arguments, schema) {
            return Vec::new();
        }
        match arguments {
            Value::Object(fields) => {
                let of = |(key, value): (&String, &Value)| {
                    let property = schema.get("properties").and_then(|properties| properties.get(key));
                    self.ungrounded(value, property.unwrap_or(&Value::Null))
                };
                fields.iter().flat_map(of).collect()
            }
            Value::Array(items) => {
                let schema = schema.get("items").unwrap_or(&Value::Null);
                items.iter().flat_map(|item| self.ungrounded(item, schema)).collect()
            }
            Value::String(text) if self.has_text(text) => Vec::new(),
            Value::Number(number) if number.as_f64().is_some_and(|number| self.has_number(number)) => {
                Vec::new()
            }
            Value::Bool(_) | Value::Null => Vec::new(),
            made_up => vec![made_up.to_string()],
        }
    }

    /// Whether every word of a text was said; a text without spaces between its words, such as Chinese, as a whole.
    fn has_text(&self, text: &str) -> bool {
        let wanted = normal(text);
        wanted.split_whitespace().all(|word| match word.chars().any(is_unspaced) {
            true => self.text.contains(word),
            false => self.text.contains(&format!(" {word} ")) || self.is_number_word(word),
        })
    }

    /// Whether a word is a number that was said in another way, such as `03` for 3.
    fn is_number_word(&self, word: &str) -> bool {
        word.parse::<f64>().is_ok_and(|number| self.has_number(number))
    }

    fn has_number(&self, number: f64) -> bool {
        self.numbers.iter().any(|said| (said - number).abs() <= 1e-9 * number.abs().max(1.0))
    }
}

/// Whether a schema names a value itself: in `enum`, `const` or `default`, also of its alternatives.
fn is_offered(value: &Value, schema: &Value) -> bool {
    let is_listed =
        |key: &str| schema.get(key).and_then(Value::as_array).is_some_and(|listed| listed.contains(value));
    let is_given = |key: &str| schema.get(key) == Some(value);
    let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
    is_listed("enum")
        || is_given("const")
        || is_given("default")
        || alternatives.flatten().any(|alternative| is_offered(value, alternative))
}

/// Lower case, with everything but letters and digits as single spaces, and spaces around. Scripts that are written
/// without spaces are kept apart from others, as in `3号`.
fn normal(text: &str) -> String {
    let mut normal = String::from(" ");
    let mut previous = None;
    for c in text.chars().flat_map(char::to_lowercase) {
        let class = c.is_alphanumeric().then(|| is_unspaced(c));
        if class != previous && !normal.ends_with(' ') {
            normal.push(' ');
        }
        normal.extend(class.map(|_| c));
        previous = class;
    }
    if !normal.ends_with(' ') {
        normal.push(' ');
    }
    normal
}

/// Whether a letter is of a script that is written without spaces: Chinese, Japanese.
fn is_unspaced(c: char) -> bool {
    c >= '\u{2e80}'
}

/// Numbers in digits, with or without separators of thousands, and in words.
fn numbers(text: &str) -> Vec<f64> {
    let mut found = Vec::new();
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    for run in text.split(|c: char| !is_part(c)) {
        let run = run.trim_matches(['.', ',']);
        found.extend(run.replace(',', "").parse::<f64>().ok());
        found.extend(run.split(['.', ',']).filter_map(|part| part.parse::<f64>().ok()));
    }
    let normal = normal(text);
    for (number, [english, chinese]) in NUMBER_WORDS.iter().enumerate() {
        if normal.contains(&format!(" {english} "))
            || text.contains(*chinese)
            || (number == 2 && text.contains('两'))
        {
            found.push(number as f64);
        }
    }
    // A sign in the text is a hyphen as often as a minus, and so counts as both.
    let negative: Vec<f64> =
        found.iter().filter(|number| text.contains(&format!("-{number}"))).map(|n| -n).collect();
    found.extend(negative);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sources() -> Sources {
        let mut sources = Sources::default();
        sources.add_text(
            "Book two seats to Zürich for Anna Lind on 2024-03-05, at most 1,250.50 francs, -3 degrees.",
        );
        sources.add_text("请帮我查3号线到人民广场的票价");
        sources.add_result(&json!({"trains": [{"id": "IC-881", "departs": "09:05", "seats": 14}]}));
        sources
    }

    #[test]
    fn values_that_were_said_or_found_are_grounded() {
        let sources = sources();
        for value in [
            json!("Zürich"),
            json!("anna lind"),
            json!("Lind, Anna"),
            json!("2024-03-05"),
            json!("IC-881"),
            json!("人民广场"),
            json!("09:05"),
            json!(2),
            json!(1250.5),
            json!(14),
            json!(-3),
            json!(true),
            json!(null),
            json!(["Zürich", {"n": 14}]),
        ] {
            assert_eq!(sources.ungrounded(&json!({"x": value}), &json!({})), [""; 0], "{value}");
        }
    }

    #[test]
    fn values_from_nowhere_are_named() {
        let sources = sources();
        for value in
            [json!("Basel"), json!("IC-882"), json!("上海"), json!(7), json!("annalind"), json!("Zür")]
        {
            assert_eq!(sources.ungrounded(&json!({"x": value}), &json!({})), [value.to_string()]);
        }
        let two = json!({"a": "Basel", "b": ["Anna", 99]});
        assert_eq!(sources.ungrounded(&two, &json!({})), ["\"Basel\"", "99"]);
    }

    #[test]
    fn what_the_schema_offers_is_grounded() {
        let schema = json!({"properties": {
            "class": {"enum": ["first", "second"]},
            "limit": {"type": "integer", "default": 7},
            "unit": {"anyOf": [{"const": "km"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"enum": ["quiet"]}},
        }});
        let sources = Sources::default();
        let offered = json!({"class": "first", "limit": 7, "unit": "km", "tags": ["quiet"]});
        assert_eq!(sources.ungrounded(&offered, &schema), [""; 0]);
        let other = json!({"class": "third", "limit": 8, "unit": "mi", "tags": ["loud"]});
        let mut found = sources.ungrounded(&other, &schema);
        found.sort_unstable();
        assert_eq!(found, ["\"loud\"", "\"mi\"", "\"third\"", "8"]);
    }
}
