//! Items: a prompt with its responses or labels, as annotators see it. A row of `[[data]]` is an item.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};
use truing_data::{OnBadRow, SourceConfig, read_prompts};
use truing_store::{Digest, InputFile};
use truing_types::{Conversation, PromptRow, RowOrigin, UNUSABLE_FATES};

use crate::AnnotateError;
use crate::answer::Answer;
use crate::config::{AnnotateConfig, AnnotationType, KnownItems, MAX_RANKED};
use crate::response::Response;

/// Hexadecimal digits of a digest that name an item without an `id`.
const ID_DIGITS: usize = 16;
/// Longest identifier of an item, in bytes.
const MAX_ID: usize = 200;

/// Why an item is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// To be annotated.
    Plain,
    /// Its answers are known; accuracy is measured on it.
    Gold,
    /// Its answers are known and easy.
    Attention,
}

/// What one annotation is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The row's `id`, or the beginning of the digest.
    pub id: String,
    /// Digest of everything shown.
    pub digest: Digest,
    /// The prompt.
    pub prompt: Conversation,
    /// The responses, in the row's order.
    pub responses: Vec<Response>,
    /// The row's fields.
    pub columns: Map<String, Value>,
    /// Items with a larger number are shown first.
    pub priority: f64,
    /// Why it is shown.
    pub kind: ItemKind,
    /// Known answers by question, of gold items and attention checks.
    pub expected: BTreeMap<String, Answer>,
    /// File and line.
    pub origin: RowOrigin,
}

/// All items: those to be annotated in the order of their priority, then gold items, then attention checks.
#[derive(Debug, Clone)]
pub struct Items {
    /// The items.
    pub all: Vec<Item>,
    /// Of these, how many are to be annotated.
    pub n_plain: usize,
    by_id: HashMap<String, usize>,
    sources: BTreeSet<PathBuf>,
}

/// The part of an item that its digest covers.
#[derive(Serialize)]
struct Shown<'a> {
    prompt: &'a Conversation,
    responses: Vec<&'a str>,
    labels: Option<&'a Value>,
}

impl Items {
    /// Reads the items of a recipe.
    ///
    /// # Errors
    /// When a file or row cannot be read, two items have one identifier, or no question fits an item.
    pub fn load(config: &AnnotateConfig) -> Result<Self, AnnotateError> {
        let mut items = Self { all: Vec::new(), n_plain: 0, by_id: HashMap::new(), sources: BTreeSet::new() };
        for source in &config.data {
            items.read(&source.in_folder(&config.data_dir), ItemKind::Plain, config)?;
        }
        // Stable: items of one priority stay in the order of the files.
        items.all.sort_by(|one, other| by_priority(one.priority, other.priority));
        items.n_plain = items.all.len();
        for (known, kind) in [(&config.gold, ItemKind::Gold), (&config.attention, ItemKind::Attention)] {
            if let Some(KnownItems { path, .. }) = known {
                items.read(&SourceConfig::new(path), kind, config)?;
            }
        }
        for (idx, item) in items.all.iter().enumerate() {
            if let Some(first) = items.by_id.insert(item.id.clone(), idx) {
                let expected = format!(
                    "another `id` than that of {}, or only one of both rows",
                    items.all[first].origin
                );
                return Err(bad(&item.origin, "id", format!("`{}`", item.id), expected));
            }
        }
        Ok(items)
    }

    fn read(
        &mut self,
        source: &SourceConfig,
        kind: ItemKind,
        config: &AnnotateConfig,
    ) -> Result<(), AnnotateError> {
        for row in read_prompts(source, OnBadRow::Error)? {
            let (row, origin) = row?;
            self.sources.insert(PathBuf::from(&*origin.source));
            self.all.push(Item::of_row(row, origin, kind, config)?);
        }
        Ok(())
    }

    /// The place of an item in [`Items::all`].
    #[must_use]
    pub fn index_of(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The places of the items of a kind.
    #[must_use]
    pub fn of_kind(&self, kind: ItemKind) -> Vec<usize> {
        (0..self.all.len()).filter(|&idx| self.all[idx].kind == kind).collect()
    }

    /// Digests of the files that the items come from.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn files(&self) -> Result<Vec<InputFile>, AnnotateError> {
        Ok(self.sources.iter().map(|path| InputFile::of("data", path)).collect::<Result<_, _>>()?)
    }
}

impl Item {
    /// The item of a row.
    ///
    /// # Errors
    /// When a field cannot be used, or no question fits the row.
    pub fn of_row(
        row: PromptRow,
        origin: RowOrigin,
        kind: ItemKind,
        config: &AnnotateConfig,
    ) -> Result<Self, AnnotateError> {
        let PromptRow { prompt, columns } = row;
        let responses = responses(&columns, &origin)?;
        check_labels(&columns, &origin)?;
        let shown = Shown {
            prompt: &prompt,
            responses: responses.iter().map(|response| response.text.as_str()).collect(),
            labels: columns.get("labels"),
        };
        let bytes = serde_json::to_vec(&shown).expect("texts, numbers and maps are JSON");
        let digest = Digest::of_bytes(&bytes);
        let id = identifier(&columns, &origin)?.unwrap_or_else(|| digest.to_string()[..ID_DIGITS].to_owned());
        let priority = priority(&columns, &responses, &origin)?;
        let expected = BTreeMap::new();
        let mut item = Self { id, digest, prompt, responses, columns, priority, kind, expected, origin };
        item.check_questions(config)?;
        if kind != ItemKind::Plain {
            item.expected = item.known_answers(config)?;
        }
        Ok(item)
    }

    fn check_questions(&self, config: &AnnotateConfig) -> Result<(), AnnotateError> {
        let n = self.responses.len();
        if !config.question.iter().any(|question| question.applies(n)) {
            let expected =
                "as many responses as a question needs (ranking: 2 or more; pairwise: 2; others: 1)";
            return Err(bad(&self.origin, "responses", format!("a list of {n}"), expected.into()));
        }
        let is_ranked = |kind: AnnotationType| kind == AnnotationType::Ranking;
        if n > MAX_RANKED && config.question.iter().any(|question| is_ranked(question.annotation_type)) {
            let expected = format!("at most {MAX_RANKED} responses to rank");
            return Err(bad(&self.origin, "responses", format!("a list of {n}"), expected));
        }
        Ok(())
    }

    /// The answers of the column `expected`.
    fn known_answers(&self, config: &AnnotateConfig) -> Result<BTreeMap<String, Answer>, AnnotateError> {
        let expected =
            "an object of known answers by question, such as {\"preference\": {\"ranks\": [1, 2]}}";
        let found = self.columns.get("expected");
        let found =
            found.and_then(Value::as_object).filter(|answers| !answers.is_empty()).ok_or_else(|| {
                let found = self.columns.get("expected").map_or("missing".to_owned(), Value::to_string);
                bad(&self.origin, "expected", found, expected.into())
            })?;
        let answer = |(name, value): (&String, &Value)| {
            let problem = |field: String, found: String, expected: String| {
                bad(&self.origin, &format!("expected.{field}"), found, expected)
            };
            let question =
                config.question.iter().find(|question| question.name == *name).ok_or_else(|| {
                    let names: Vec<&str> =
                        config.question.iter().map(|question| question.name.as_str()).collect();
                    problem(name.clone(), "not a question".into(), format!("one of {}", names.join(", ")))
                })?;
            let n = self.responses.len();
            if !question.applies(n) {
                let asked = config.question.iter().filter(|question| question.applies(n));
                let names: Vec<&str> = asked.map(|question| question.name.as_str()).collect();
                let found = format!("an answer to a question that is not asked about {n} responses");
                return Err(problem(name.clone(), found, format!("one of {}", names.join(", "))));
            }
            let answer = Answer::read(question, &self.responses, value)
                .map_err(|wrong| problem(wrong.field, wrong.found, wrong.expected))?;
            Ok((name.clone(), answer))
        };
        found.iter().map(answer).collect()
    }
}

/// The larger number first.
fn by_priority(one: f64, other: f64) -> Ordering {
    other.total_cmp(&one)
}

fn bad(origin: &RowOrigin, field: &str, found: String, expected: String) -> AnnotateError {
    AnnotateError::BadItem { origin: origin.clone(), field: field.to_owned(), found, expected }
}

/// The responses of a row, without those of [`UNUSABLE_FATES`].
fn responses(columns: &Map<String, Value>, origin: &RowOrigin) -> Result<Vec<Response>, AnnotateError> {
    const EXPECTED: &str = "a list of texts, or of objects with `content`";
    let Some(value) = columns.get("responses").filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let list =
        value.as_array().ok_or_else(|| bad(origin, "responses", value.to_string(), EXPECTED.into()))?;
    let mut found = Vec::new();
    for (idx, entry) in list.iter().enumerate() {
        let wrong = |field: &str, value: &Value| {
            bad(origin, &format!("responses[{idx}]{field}"), value.to_string(), EXPECTED.into())
        };
        let columns = match entry {
            Value::String(text) => Map::from_iter([("content".to_owned(), text.as_str().into())]),
            Value::Object(columns) => columns.clone(),
            other => return Err(wrong("", other)),
        };
        let is_left_out = |fate: &str| UNUSABLE_FATES.contains(&fate);
        if columns.get("fate").and_then(Value::as_str).is_some_and(is_left_out) {
            continue;
        }
        let text = ["content", "text", "response"].iter().find_map(|key| columns.get(*key)?.as_str());
        let text = text.ok_or_else(|| wrong(".content", entry))?.to_owned();
        let score = number(&columns, "score", |value| wrong(".score", value))?;
        let model = columns.get("model").cloned();
        found.push(Response { digest: Digest::of_bytes(text.as_bytes()), text, score, model });
    }
    Ok(found)
}

/// Labels are by dimension, as `truing label` writes them: a text, or a list of texts.
fn check_labels(columns: &Map<String, Value>, origin: &RowOrigin) -> Result<(), AnnotateError> {
    let Some(labels) = columns.get("labels").filter(|value| !value.is_null()) else { return Ok(()) };
    let is_label = |value: &Value| match value {
        Value::Array(all) => all.iter().all(Value::is_string),
        other => other.is_string() || other.is_null(),
    };
    if labels.as_object().is_some_and(|labels| labels.values().all(is_label)) {
        return Ok(());
    }
    let expected =
        "an object of labels by question, texts or lists of texts, such as {\"ability\": \"math\"}";
    Err(bad(origin, "labels", labels.to_string(), expected.into()))
}

/// A finite number of a field that may be missing.
fn number(
    columns: &Map<String, Value>,
    key: &str,
    problem: impl Fn(&Value) -> AnnotateError,
) -> Result<Option<f64>, AnnotateError> {
    match columns.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(problem(value)),
        },
    }
}

fn identifier(columns: &Map<String, Value>, origin: &RowOrigin) -> Result<Option<String>, AnnotateError> {
    let id = match columns.get("id") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_ID => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(other) => {
            let expected = format!("a number, or a text of 1 to {MAX_ID} bytes");
            return Err(bad(origin, "id", other.to_string(), expected));
        }
    };
    Ok(Some(id))
}

/// The column `priority`; else how little the judges tell the responses apart, or how unsure the labels are.
fn priority(
    columns: &Map<String, Value>,
    responses: &[Response],
    origin: &RowOrigin,
) -> Result<f64, AnnotateError> {
    let wrong =
        |value: &Value| bad(origin, "priority", value.to_string(), "a number, larger ones first".into());
    if let Some(given) = number(columns, "priority", wrong)? {
        return Ok(given);
    }
    let mut scores: Vec<f64> = responses.iter().filter_map(|response| response.score).collect();
    scores.sort_by(|one, other| other.total_cmp(one));
    if let [best, second, ..] = scores[..] {
        return Ok(second - best);
    }
    let confidences = columns.get("confidence").and_then(Value::as_object);
    let lowest =
        confidences.into_iter().flat_map(Map::values).filter_map(Value::as_f64).min_by(f64::total_cmp);
    Ok(lowest.map_or(0.0, |lowest| -lowest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Question;

    fn config(annotation_type: &str) -> AnnotateConfig {
        let question: Question =
            serde_json::from_value(json!({"name": "q", "annotation_type": annotation_type})).unwrap();
        AnnotateConfig { question: vec![question], ..AnnotateConfig::default() }
    }

    fn item(row: Value, kind: ItemKind, annotation_type: &str) -> Result<Item, String> {
        let columns = row.as_object().unwrap().clone();
        let message = truing_types::Message::new(truing_types::Role::User, "Say it.");
        let prompt = Conversation { messages: vec![message], tools: Vec::new() };
        let origin = RowOrigin { source: "items.jsonl".into(), line: 7 };
        Item::of_row(PromptRow { prompt, columns }, origin, kind, &config(annotation_type))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn close_scores_and_unsure_labels_come_first() {
        let priority = |row| item(row, ItemKind::Plain, "scale").unwrap().priority;
        assert_eq!(priority(json!({"responses": ["a"], "priority": 3})), 3.0);
        let scored = |a: f64, b: f64, c: f64| {
            let (one, two) = (json!({"content": "a", "score": a}), json!({"text": "b", "score": b}));
            json!({"responses": [one, two, {"response": "c", "score": c}]})
        };
        assert_eq!(priority(scored(1.0, 4.0, 3.5)), -0.5);
        assert_eq!(priority(json!({"responses": ["a"], "confidence": {"x": 0.75, "y": 0.25}})), -0.25);
        assert_eq!(priority(json!({"responses": ["a", "b"]})), 0.0);
        let mut order = [1.0, -0.5, 0.0];
        order.sort_by(|one, other| by_priority(*one, *other));
        assert_eq!(order, [1.0, 0.0, -0.5]);
    }

    #[test]
    fn responses_that_failed_are_left_out_and_bad_rows_are_named() {
        let mut responses =
            vec![json!("a"), json!({"content": "c", "fate": "accepted"}), json!({"fate": "not_sampled"})];
        responses.extend(UNUSABLE_FATES.map(|fate| json!({"content": "b", "fate": fate})));
        let row = json!({ "responses": responses });
        let found = item(row, ItemKind::Plain, "ranking").unwrap();
        let texts: Vec<&str> = found.responses.iter().map(|response| response.text.as_str()).collect();
        assert_eq!(texts, ["a", "c"]);
        for (row, expected) in [
            (json!({"responses": "a"}), "items.jsonl:7: `responses` is \"a\"; expected a list"),
            (json!({"responses": ["a", 3]}), "items.jsonl:7: `responses[1]` is 3; expected a list"),
            (json!({"responses": ["a"]}), "items.jsonl:7: `responses` is a list of 1; expected as many"),
            (
                json!({"responses": vec!["a"; 10]}),
                "`responses` is a list of 10; expected at most 9 responses",
            ),
            (json!({"responses": ["a", "b"], "id": []}), "items.jsonl:7: `id` is []; expected a number"),
            (
                json!({"responses": ["a", "b"], "priority": "x"}),
                "items.jsonl:7: `priority` is \"x\"; expected",
            ),
        ] {
            let error = item(row, ItemKind::Plain, "ranking").unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn gold_items_need_answers_that_fit_the_questions() {
        let with = |expected: Value| {
            item(json!({"responses": ["a", "b"], "expected": expected}), ItemKind::Gold, "ranking")
        };
        assert_eq!(with(json!({"q": {"ranks": [2, 1]}})).unwrap().expected["q"], Answer::Ranking(vec![2, 1]));
        assert!(with(json!({})).unwrap_err().contains("`expected` is {}"));
        assert!(
            with(json!({"x": {"ranks": [2, 1]}})).unwrap_err().contains("`expected.x` is not a question")
        );
        let error = with(json!({"q": {"ranks": [2]}})).unwrap_err();
        assert!(error.contains("`expected.q.ranks` is [2]; expected"), "{error}");
    }

    #[test]
    fn labels_are_by_dimension() {
        let labelled =
            |labels: Value| item(json!({"responses": ["a"], "labels": labels}), ItemKind::Plain, "scale");
        assert!(labelled(json!({"x": "y", "z": ["u", "v"]})).is_ok() && labelled(Value::Null).is_ok());
        for wrong in [json!("math"), json!(["math"]), json!({"x": 3}), json!({"x": [3]})] {
            let error = labelled(wrong).unwrap_err();
            assert!(error.starts_with("items.jsonl:7: `labels` is "), "{error}");
        }
    }

    #[test]
    fn the_digest_covers_what_is_shown() {
        let digest = |row| item(row, ItemKind::Plain, "scale").unwrap().digest;
        let base = digest(json!({"responses": ["a"]}));
        assert_eq!(digest(json!({"responses": [{"content": "a", "score": 1.0}]})), base);
        assert_ne!(digest(json!({"responses": ["b"]})), base);
        assert_ne!(digest(json!({"responses": ["a"], "labels": {"x": "y"}})), base);
    }
}
