//! How much a turn counts in the loss, as other tools write it down.
//!
//! | key | value | from |
//! |---|---|---|
//! | `weight` | a number | OpenAI, Mistral |
//! | `loss_weight` | a number | here |
//! | `loss` | true: learnt | ms-swift, XTuner |
//! | `train`, `training` | true: learnt | Axolotl (`message_field_training`) |
//! | `masked` | true: not learnt | torchtune |
//!
//! Other keys that look like a mask make the row bad: a masked turn must not be trained on, and `mask` or `loss_mask`
//! mean the opposite of each other in different tools.
//!
//! Beside the messages of a row, nothing of this is read: no two tools agree what a mask of the whole row means. There,
//! a key that leaves something out of the loss, or that weighs the row, makes the row bad: a list of flags or of
//! weights such as `loss_mask` or TRL's `completion_mask`, NeMo's `mask: "User"`, `train: false`, `ignore: true`, and a
//! `weight` or `loss_weight` other than 1. What learns the row as it is, such as `train: true` and `weight: 1`, changes
//! nothing. Other numbers (`loss: 1.7`, `train_steps: 400`), texts (`training_source`) and objects are columns like any
//! other.

use serde_json::{Map, Value};

use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::json::type_name;

/// What the value of a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The weight itself, or whether the turn is trained on.
    Weight,
    /// Whether the turn is trained on.
    Learnt,
    /// Whether the turn is left out of the loss.
    Masked,
}

const KEYS: [(&str, Meaning); 6] = [
    ("weight", Meaning::Weight),
    ("loss_weight", Meaning::Weight),
    ("loss", Meaning::Weight),
    ("train", Meaning::Learnt),
    ("training", Meaning::Learnt),
    ("masked", Meaning::Masked),
];

const ONE_KEY: &str = "one of `weight`, `loss_weight`, `loss`, `train`, `training`, `masked`";
const KNOWN_KEY: &str = "`weight` or `loss_weight` (a number), `loss`, `train` or `training` (true to learn the turn), \
                         or `masked` (true leaves it out of the loss)";

/// Words of a key that says what is trained on.
const MASK_WORDS: [&str; 16] = [
    "mask",
    "masks",
    "masked",
    "masking",
    "unmask",
    "unmasked",
    "loss",
    "weight",
    "weights",
    "train",
    "trained",
    "training",
    "trainable",
    "learn",
    "learnt",
    "learnable",
];

/// Words of a key that says what is left out of the loss.
const IGNORE_WORDS: [&str; 3] = ["ignore", "ignored", "masked"];

/// Words that a key of the row may have beside those of a mask.
const ROW_WORDS: [&str; 11] =
    ["is", "in", "for", "use", "used", "row", "sample", "example", "set", "split", "data"];

const IN_MESSAGES: &str = "no mask beside the messages: set in each turn what is trained on, with `weight` \
                           (a number) or `train` (true or false), and remove this column";

/// The loss weight of a turn; `None` where the turn has none of its own.
pub(crate) fn parse_weight(message: &Map<String, Value>, at: &str) -> Result<Option<f32>, RowProblem> {
    let mut weight = None;
    for (key, value) in message.iter().filter(|(_, value)| !value.is_null()) {
        let field = format!("{at}.{key}");
        let Some((_, meaning)) = KEYS.iter().find(|(known, _)| known == key) else {
            if is_like_mask(key, value) {
                let kind = RowErrorKind::BadValue("a loss mask whose meaning is not known".to_owned());
                return Err(RowProblem::new(field, kind, KNOWN_KEY));
            }
            continue;
        };
        if weight.is_some() {
            let kind = RowErrorKind::BadValue("a second loss weight of this message".to_owned());
            return Err(RowProblem::new(field, kind, ONE_KEY));
        }
        weight = Some(match meaning {
            Meaning::Weight => number(value, field)?,
            Meaning::Learnt => flag(value, field)?,
            Meaning::Masked => 1.0 - flag(value, field)?,
        });
    }
    Ok(weight)
}

fn number(value: &Value, field: String) -> Result<f32, RowProblem> {
    let number = match value {
        Value::Bool(carries_loss) => f64::from(u8::from(*carries_loss)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        other => {
            let kind = RowErrorKind::WrongType(type_name(other));
            return Err(RowProblem::new(field, kind, "a number, or true or false"));
        }
    };
    let as_f32 = number as f32;
    if !(number >= 0.0 && as_f32.is_finite()) {
        let kind = RowErrorKind::BadValue(number.to_string());
        return Err(RowProblem::new(field, kind, "a finite number, 0 or more"));
    }
    Ok(as_f32)
}

/// 1 for true, 0 for false. Tables may hold either as a number.
fn flag(value: &Value, field: String) -> Result<f32, RowProblem> {
    match (value, value.as_f64()) {
        (Value::Bool(true), _) | (_, Some(1.0)) => Ok(1.0),
        (Value::Bool(false), _) | (_, Some(0.0)) => Ok(0.0),
        (Value::Number(number), _) => {
            Err(RowProblem::new(field, RowErrorKind::BadValue(number.to_string()), "true or false"))
        }
        (other, _) => Err(RowProblem::new(field, RowErrorKind::WrongType(type_name(other)), "true or false")),
    }
}

/// Whether a key that is not known says which part of the turn has loss: by its words, and a value that can be a mask.
/// Texts, such as `training_source`, and counts, such as `train_steps`, cannot.
fn is_like_mask(key: &str, value: &Value) -> bool {
    let key = key.to_lowercase();
    if matches!(&key[..], "ignore" | "ignored") {
        return is_set(value) == Some(true);
    }
    let mut words = key.split(|c: char| !c.is_alphanumeric());
    let is_mask_like = match value {
        // Of tokens, or of spans, such as Axolotl's `train_detail`.
        Value::Array(items) => items.iter().any(|item| is_mask_value(item) || item.is_object()),
        value => is_mask_value(value),
    };
    is_mask_like && words.any(|word| MASK_WORDS.contains(&word))
}

fn is_mask_value(value: &Value) -> bool {
    match value {
        Value::Bool(_) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| (0.0..=1.0).contains(&number)),
        _ => false,
    }
}

/// What a flag says, also one written as a number or a string.
fn is_set(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(is_set) => Some(*is_set),
        Value::Number(number) => {
            [(0.0, false), (1.0, true)].iter().find(|(n, _)| number.as_f64() == Some(*n)).map(|(_, is)| *is)
        }
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Refuses a row with a mask or a loss weight beside its messages, which would not be followed.
pub(crate) fn check_row(fields: Fields<'_>) -> Result<(), RowProblem> {
    let is_mask = |(key, value): &(&String, &Value)| is_row_mask(key, value) && !fields.is_named(key);
    match fields.row.iter().find(is_mask) {
        None => Ok(()),
        Some((key, value)) => {
            let written = match value {
                Value::Array(items) => format!("a list of {}", items.len()),
                value => value.to_string(),
            };
            let kind =
                RowErrorKind::BadValue(format!("{written}, a loss mask of the whole row, which is not read"));
            Err(RowProblem::new(key, kind, IN_MESSAGES))
        }
    }
}

/// Whether a field of a row leaves something out of the loss or weighs the row.
fn is_row_mask(key: &str, value: &Value) -> bool {
    let key = key.to_lowercase();
    let words: Vec<&str> =
        key.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let has = |known: &[&str]| words.iter().any(|word| known.contains(word));
    // Of these words alone, a key can mean nothing else.
    let is_only = |known: &[&str]| {
        has(known) && words.iter().all(|word| known.contains(word) || ROW_WORDS.contains(word))
    };
    let names_mask = words.iter().any(|word| word.contains("mask"));
    if is_only(&IGNORE_WORDS) {
        return is_set(value) == Some(true) || is_flags(value);
    }
    if !has(&MASK_WORDS) {
        return false;
    }
    let is_weight = has(&["weight", "weights"]) && is_only(&MASK_WORDS);
    match value {
        Value::Array(_) => is_flags(value) || is_weight && is_numbers(value),
        Value::Number(number) if is_weight => number.as_f64() != Some(1.0),
        Value::String(text) => {
            let says_no = is_set(value) == Some(false);
            is_only(&MASK_WORDS) && (says_no || names_mask && !text.is_empty())
        }
        // `train: true` learns the row, which is done anyway; `train_on_inputs: true` says something else.
        Value::Bool(true) => names_mask || !is_only(&MASK_WORDS),
        Value::Bool(false) => true,
        Value::Number(_) => is_only(&MASK_WORDS) && is_set(value).is_some_and(|is_set| names_mask || !is_set),
        Value::Null | Value::Object(_) => false,
    }
}

/// A list of true and false or 1 and 0, also one in lists.
fn is_flags(value: &Value) -> bool {
    let is_flag = |item: &Value| is_flags(item) || !item.is_string() && is_set(item).is_some();
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(is_flag))
}

fn is_numbers(value: &Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Columns;
    use serde_json::json;

    fn parse(message: Value) -> Result<Option<f32>, String> {
        parse_weight(message.as_object().unwrap(), "messages[1]").map_err(|problem| problem.to_string())
    }

    #[test]
    fn keys_of_other_tools_are_read() {
        for (message, expected) in [
            (json!({"content": "a"}), None),
            (json!({"weight": 0}), Some(0.0)),
            (json!({"loss_weight": 0.5}), Some(0.5)),
            (json!({"loss": false}), Some(0.0)),
            (json!({"train": false}), Some(0.0)),
            (json!({"train": true}), Some(1.0)),
            (json!({"training": false, "weight": null}), Some(0.0)),
            (json!({"training": 0}), Some(0.0)),
            (json!({"masked": true}), Some(0.0)),
            (json!({"masked": false}), Some(1.0)),
            (json!({"masked": 1}), Some(0.0)),
        ] {
            assert_eq!(parse(message.clone()), Ok(expected), "{message}");
        }
        let second = parse(json!({"weight": 1, "train": false})).unwrap_err();
        assert!(second.starts_with("`messages[1].train` is a second loss weight"), "{second}");
        assert_eq!(
            parse(json!({"masked": "yes"})),
            Err("`messages[1].masked` is a string; expected true or false".into())
        );
        assert_eq!(
            parse(json!({"train": 2})),
            Err("`messages[1].train` is 2; expected true or false".into())
        );
    }

    #[test]
    fn other_masks_are_refused_and_other_keys_are_not_read() {
        for message in [
            json!({"mask": true}),
            json!({"mask": 0}),
            json!({"loss_mask": [0, 1, 1]}),
            json!({"train_on_turn": false}),
            json!({"step_loss_mask": 0}),
            json!({"is_masked": false}),
            json!({"loss-scale": 0.5}),
            json!({"Trainable": false}),
            json!({"ignore": true}),
            json!({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": false}]}),
        ] {
            let problem = parse(message.clone()).unwrap_err();
            assert!(
                problem.contains("is a loss mask whose meaning is not known; expected `weight`"),
                "{message}"
            );
        }
        for message in [
            json!({"mask": null}),
            json!({"ignore": false, "ignore_case": true}),
            json!({"training_source": "forum"}),
            json!({"train_steps": 400}),
            json!({"id": 1, "is_good": true, "glossary": true, "timestamp": 0.5}),
        ] {
            assert_eq!(parse(message.clone()), Ok(None), "{message}");
        }
    }

    #[test]
    fn a_mask_of_the_whole_row_is_refused() {
        let columns = Columns::default();
        let check = |row: &Value| {
            let row = row.as_object().unwrap();
            let fields = Fields { row, columns: &columns, pads_nulls: false };
            check_row(fields).map_err(|problem| problem.to_string())
        };
        for row in [
            json!({"loss_mask": [0, 0, 0, 1]}),
            json!({"loss_weights": [0.0, 0.5]}),
            json!({"completion_mask": [false, true]}),
            json!({"assistant_masks": [[0, 1], [1]]}),
            json!({"mask": "User"}),
            json!({"mask": 0}),
            json!({"train": false}),
            json!({"train": "false"}),
            json!({"is_train": 0}),
            json!({"train_on_inputs": true}),
            json!({"loss": false}),
            json!({"masked": true}),
            json!({"ignore": true}),
            json!({"ignored": 1}),
            json!({"weight": 0}),
            json!({"weight": 0.5}),
            json!({"weight": 2}),
            json!({"sample_weight": 3}),
        ] {
            let problem = check(&row).unwrap_err();
            assert!(
                problem.contains("a loss mask of the whole row, which is not read; expected no mask"),
                "{row}"
            );
        }
        assert_eq!(
            check(&json!({"messages": [], "loss_mask": [0, 1]})).unwrap_err(),
            "`loss_mask` is a list of 2, a loss mask of the whole row, which is not read; expected no mask \
             beside the messages: set in each turn what is trained on, with `weight` (a number) or `train` \
             (true or false), and remove this column"
        );
        for row in [
            json!({"mask": null, "loss_mask": [], "train": true, "is_train": 1, "weight": 1, "loss_weight": 1.0}),
            json!({"masked": false, "ignore": false, "ignore_case": true, "ignore_index": 0}),
            json!({"train_steps": 400, "loss": 1.7, "train_loss": 0.3, "train_losses": [0.3, 0.2]}),
            json!({"training_source": "forum", "loss_type": "ce", "train": [{"input": 1, "output": 2}]}),
            json!({"id": 1, "is_good": true, "weight_kg": 70, "weights": {"a": 0.5}, "masked_text": "A [MASK]."}),
        ] {
            assert_eq!(check(&row), Ok(()), "{row}");
        }
        let mapping = [("messages".to_owned(), "train.turns".to_owned())].into();
        let columns = Columns { mapping, ..Columns::default() };
        let row = json!({"train": false});
        let fields = Fields { row: row.as_object().unwrap(), columns: &columns, pads_nulls: false };
        assert_eq!(check_row(fields), Ok(()), "a column of the source");
    }
}
