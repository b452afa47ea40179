use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What may be wrong with a complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It changes, widens or contradicts what the user asks for.
    DepartsFromIntent,
    /// It adds requirements to a prompt that already has many.
    TooComplex,
    /// It answers the prompt or a part of it.
    Answers,
    /// It asks for far more length, depth or effort than the user needs.
    TooDemanding,
    /// It is in another language than the prompt.
    OtherLanguage,
}

/// A critic's verdict on a complement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Why, in a sentence; empty where the critic gave no reason.
    pub reason: String,
    /// The correction of a rejected complement; `None` if the complement is accepted.
    pub correction: Option<String>,
    /// The fault of a rejected complement. The original data of PAS names none.
    pub fault: Option<Fault>,
}

impl Review {
    /// Whether the complement has none of the faults.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.correction.is_none()
    }

    /// Reads the last JSON object of a reply that has a verdict; text and code fences around it do not matter. Beside
    /// `is_correct`, `fault` and `final_complement` the keys of the original data are read (`Is_correct`: "Yes" or
    /// "No", `FinalAPE` or `Final APE`). `None` without such an object, where a rejection has no correction, and where
    /// verdict and fault contradict each other.
    #[must_use]
    pub fn read(reply: &str) -> Option<Self> {
        let is_verdict = |object: &Map<String, Value>| field(object, &["iscorrect"]).is_some();
        let object = last_object(reply, is_verdict)?;
        let text =
            |keys: &[&str]| field(&object, keys).and_then(Value::as_str).map(|text| text.trim().to_owned());
        let is_correct = match field(&object, &["iscorrect"])? {
            Value::Bool(is_correct) => *is_correct,
            Value::String(word) => match word.trim().to_lowercase().as_str() {
                "yes" | "true" => true,
                "no" | "false" => false,
                _ => return None,
            },
            _ => return None,
        };
        let fault = match field(&object, &["fault"]) {
            None | Some(Value::Null) => None,
            Some(name) => Some(serde_json::from_value(name.clone()).ok()?),
        };
        if is_correct && fault.is_some() {
            return None;
        }
        let correction = match is_correct {
            true => None,
            false => Some(text(&["finalcomplement", "finalape"]).filter(|text| !text.is_empty())?),
        };
        Some(Self { reason: text(&["reason"]).unwrap_or_default(), correction, fault })
    }
}

/// A field by its key in lower case, without spaces and underscores.
fn field<'a>(object: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    let plain = |key: &str| key.to_lowercase().replace(['_', ' '], "");
    object.iter().find(|(key, _)| keys.contains(&plain(key).as_str())).map(|(_, value)| value)
}

/// The last JSON object in a text that is one of those wanted; objects inside others do not count.
fn last_object(text: &str, is_wanted: impl Fn(&Map<String, Value>) -> bool) -> Option<Map<String, Value>> {
    let (mut found, mut rest) = (None, text);
    while let Some(start) = rest.find('{') {
        rest = &rest[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Map<String, Value>>();
        let object = values.next();
        let end = values.byte_offset();
        match object {
            Some(Ok(object)) => {
                found = is_wanted(&object).then_some(object).or(found);
                rest = &rest[end..];
            }
            _ => rest = &rest[1..],
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_in_our_form_and_in_that_of_the_original_data() {
        let rejected =
            |fault| Some(Review { reason: "It answers.".into(), correction: Some("Say how.".into()), fault });
        let accepted = Some(Review { reason: "Fine.".into(), correction: None, fault: None });
        for (reply, expected) in [
            (r#"{"reason": "Fine.", "is_correct": true, "fault": null, "final_complement": "x"}"#, &accepted),
            (
                "```json\n{\"Reason\": \"Fine.\", \"Is_correct\": \"Yes\", \"FinalAPE\": \"x\"}\n```",
                &accepted,
            ),
            (
                concat!(
                    r#"So: {"fault": "answers", "is_correct": false, "final_complement": " Say how. ","#,
                    r#" "reason": "It answers."}."#,
                ),
                &rejected(Some(Fault::Answers)),
            ),
            (
                r#"json {"Reason": "It answers.", "Is_correct": "no", "Final APE": "Say how."}"#,
                &rejected(None),
            ),
            // An object that only quotes the form does not count.
            (
                concat!(
                    r#"The form is {"is_correct": true}. {"reason": "It answers.", "is_correct": "No","#,
                    r#" "final_complement": "Say how."}"#,
                ),
                &rejected(None),
            ),
            (r#"{"is_correct": false, "reason": "?"}"#, &None),
            (r#"{"is_correct": false, "final_complement": " "}"#, &None),
            (r#"{"is_correct": true, "fault": "answers"}"#, &None),
            (r#"{"is_correct": false, "fault": "boring", "final_complement": "x"}"#, &None),
            (r#"{"is_correct": "perhaps"}"#, &None),
            (r#"{"is_correct": true"#, &None),
            ("Yes, it is correct.", &None),
            ("", &None),
        ] {
            assert_eq!(&Review::read(reply), expected, "{reply}");
        }
    }
}
