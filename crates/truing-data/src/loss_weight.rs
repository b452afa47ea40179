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
//! Other keys that look like a mask make the row bad: a turn that somebody masked must not be learnt, and `mask` or
//! `loss_mask` mean the opposite of each other in different tools.

use serde_json::{Map, Value};

use crate::error::{RowErrorKind, RowProblem};
use crate::json::type_name;

/// What the value of a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The weight itself, or whether the turn is learnt.
    Weight,
    /// Whether the turn is learnt.
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
                         or `masked` (true not to learn it)";

/// Words of a key that says what is learnt.
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

/// Whether a key that is not known says which part of the turn is learnt: by its words, and a value that can be a mask.
/// Texts, such as `training_source`, and counts, such as `train_steps`, cannot.
fn is_like_mask(key: &str, value: &Value) -> bool {
    let key = key.to_lowercase();
    let mut words = key.split(|c: char| !c.is_alphanumeric());
    let is_mask_value = |value: &Value| match value {
        Value::Bool(_) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| (0.0..=1.0).contains(&number)),
        _ => false,
    };
    let is_mask_like = match value {
        // Of tokens, or of spans, such as Axolotl's `train_detail`.
        Value::Array(items) => items.iter().any(|item| is_mask_value(item) || item.is_object()),
        value => is_mask_value(value),
    };
    is_mask_like && words.any(|word| MASK_WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
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
            json!({"training_source": "forum"}),
            json!({"train_steps": 400}),
            json!({"id": 1, "is_good": true, "glossary": true, "timestamp": 0.5}),
        ] {
            assert_eq!(parse(message.clone()), Ok(None), "{message}");
        }
    }
}
