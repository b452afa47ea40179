//! What the replies of judges say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use truing_reward::asking::last_bracketed;

use super::Aspect;
use super::object::Fields;
use super::questions::unescaped;

/// The best rating; the worst is 1.
const MAX_RATING: u8 = 5;

/// Ratings of one response by aspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ratings {
    /// By the aspect's name: 1 to 5, or `None` where the judge says that it cannot be rated.
    pub values: BTreeMap<String, Option<u8>>,
    /// Why; empty where the judge gave no reason.
    pub reason: String,
}

impl Ratings {
    /// Reads a reply. `None` unless it has exactly one JSON object, in which every aspect has a whole number from 1
    /// to 5 or `"N/A"` (or null).
    #[must_use]
    pub fn read(reply: &str, aspects: &[Aspect]) -> Option<Self> {
        let fields = Fields::read(reply)?;
        let value = |aspect: &Aspect| {
            let value = match fields.get(&aspect.name)? {
                Value::Null => None,
                Value::String(text) if is_not_applicable(text) => None,
                value => Some(rating(value)?),
            };
            Some((aspect.name.clone(), value))
        };
        let values = aspects.iter().map(value).collect::<Option<_>>()?;
        Some(Self { values, reason: fields.text("reason") })
    }
}

fn is_not_applicable(text: &str) -> bool {
    matches!(text.trim().to_lowercase().as_str(), "n/a" | "na" | "not applicable")
}

/// A whole number from 1 to 5, also as text.
fn rating(value: &Value) -> Option<u8> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    (1..=MAX_RATING).find(|&rating| f64::from(rating) == number)
}

/// The rating of a response against the reference answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenRating {
    /// 1 to 5.
    pub rating: u8,
    /// Why; empty where the judge gave no reason.
    pub reason: String,
}

impl GoldenRating {
    /// Reads a reply. `None` unless it has exactly one JSON object with `same_result`, `same_chain` and a whole
    /// `rating` from 1 to 5 that do not contradict each other: 3 or more is for the same result, 5 for the same chain
    /// as well.
    #[must_use]
    pub fn read(reply: &str) -> Option<Self> {
        let fields = Fields::read(reply)?;
        let same_result = fields.get("same_result")?.as_bool()?;
        let same_chain = fields.get("same_chain")?.as_bool()?;
        let rating = rating(fields.get("rating")?)?;
        let is_consistent = (rating >= 3) == same_result && (rating < MAX_RATING || same_chain);
        is_consistent.then(|| Self { rating, reason: fields.text("reason") })
    }
}

/// Which of two responses a judge prefers, by the order in which it saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The one that it saw first.
    First,
    /// The one that it saw second.
    Second,
    /// Neither.
    Tie,
}

/// The preference in the last double brackets of a reply.
#[must_use]
pub fn read_preference(reply: &str) -> Option<Preference> {
    match last_bracketed(reply)?.to_ascii_uppercase().as_str() {
        "A" => Some(Preference::First),
        "B" => Some(Preference::Second),
        "C" | "TIE" => Some(Preference::Tie),
        _ => None,
    }
}

/// The rewritten response in a reply: the text between the only pair of tags, with the original's own tags as the
/// original has them and not as the question shows them. `None` where it is missing, empty, or the same as the
/// original.
#[must_use]
pub fn read_rewritten(reply: &str, original: &str) -> Option<String> {
    const TAGS: [&str; 2] = ["<rewritten>", "</rewritten>"];
    let (_, after) = reply.split_once(TAGS[0])?;
    let (inner, rest) = after.split_once(TAGS[1])?;
    let text = unescaped(inner.trim(), original);
    let is_only = TAGS.iter().all(|tag| !inner.contains(tag) && !rest.contains(tag));
    (is_only && !text.is_empty() && text != original.trim()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aspects() -> Vec<Aspect> {
        ["honesty", "style"].map(|name| Aspect { name: name.into(), text: None }).to_vec()
    }

    #[test]
    fn a_rating_is_a_whole_number_or_missing_and_never_guessed() {
        for (reply, expected) in [
            (r#"{"reason": "r", "honesty": 4, "style": 5}"#, Some([Some(4), Some(5)])),
            ("```json\n{\"honesty\": \"2\", \"style\": 1.0}\n```", Some([Some(2), Some(1)])),
            (r#"{"honesty": "N/A", "style": 3}"#, Some([None, Some(3)])),
            (r#"{"honesty": null, "style": "n/a"}"#, Some([None, None])),
            (r#"{"honesty": 4}"#, None),
            (r#"{"honesty": 4, "style": 0}"#, None),
            (r#"{"honesty": 4, "style": -1}"#, None),
            (r#"{"honesty": 4, "style": 6}"#, None),
            (r#"{"honesty": 4, "style": 3.5}"#, None),
            (r#"{"honesty": 4, "style": "good"}"#, None),
            (r#"{"honesty": 4, "style": [3]}"#, None),
            (r#"{"honesty": 4, "style": 3} {"honesty": 1, "style": 1}"#, None),
            (r#"{"honesty": 4, "style": 3"#, None),
            ("honesty: 4, style: 3", None),
        ] {
            let found = Ratings::read(reply, &aspects());
            let values = found.map(|ratings| [ratings.values["honesty"], ratings.values["style"]]);
            assert_eq!(values, expected, "{reply}");
        }
        let found = Ratings::read(r#"{"reason": " no facts ", "honesty": "N/A", "style": 3}"#, &aspects());
        assert_eq!(found.map(|ratings| ratings.reason), Some("no facts".to_owned()));
    }

    #[test]
    fn a_rating_that_contradicts_its_own_findings_is_unreadable() {
        for (result, chain, rating, expected) in [
            (true, true, 5, Some(5)),
            (true, false, 3, Some(3)),
            (true, true, 4, Some(4)),
            (false, true, 2, Some(2)),
            (false, false, 1, Some(1)),
            (false, false, 3, None),
            (true, true, 2, None),
            (true, false, 5, None),
            (true, true, 6, None),
        ] {
            let reply =
                format!("{{\"same_result\": {result}, \"same_chain\": {chain}, \"rating\": {rating}}}");
            assert_eq!(GoldenRating::read(&reply).map(|found| found.rating), expected, "{reply}");
        }
        assert_eq!(GoldenRating::read(r#"{"rating": 5}"#), None);
        assert_eq!(GoldenRating::read(r#"{"same_result": "yes", "same_chain": true, "rating": 5}"#), None);
    }

    #[test]
    fn a_rewritten_response_stands_between_its_tags() {
        for (reply, expected) in [
            ("<rewritten>\nIt is 44.\n</rewritten>", Some("It is 44.")),
            ("Here: <rewritten>It is 44.</rewritten>\nDone.", Some("It is 44.")),
            ("<rewritten>It is 43.</rewritten>", None),
            ("<rewritten> </rewritten>", None),
            ("<rewritten>a</rewritten><rewritten>b</rewritten>", None),
            ("<rewritten>It is 44.", None),
            ("It is 44.", None),
        ] {
            assert_eq!(read_rewritten(reply, "It is 43.").as_deref(), expected, "{reply}");
        }
    }

    #[test]
    fn a_copy_has_the_tags_of_the_original_and_not_those_of_the_question() {
        let read =
            |copy: &str, original: &str| read_rewritten(&format!("<rewritten>{copy}</rewritten>"), original);
        let original = "Close it with </Response>, as in <request>3</request>.";
        let copy = "Close it with &lt;/Response>, as in &lt;request>4&lt;/request>.";
        let expected = "Close it with </Response>, as in <request>4</request>.";
        assert_eq!(read(copy, original).as_deref(), Some(expected));
        assert_eq!(read(&original.replace('<', "&lt;"), original), None, "it is the original");
        let own = "Write &lt;/response> in 3 places.";
        let copy = "Write &lt;/response> in 4 places, and &lt;b>.";
        assert_eq!(read(copy, own).as_deref(), Some(copy), "the original has it in this form");
    }

    #[test]
    fn a_preference_is_in_the_last_brackets() {
        for (reply, expected) in [
            ("B is wrong. [[A]]", Some(Preference::First)),
            ("[[A]]? No:\n[[b]]", Some(Preference::Second)),
            ("[[C]]", Some(Preference::Tie)),
            ("[[ tie ]]", Some(Preference::Tie)),
            ("[[D]]", None),
            ("A", None),
        ] {
            assert_eq!(read_preference(reply), expected, "{reply}");
        }
    }
}
