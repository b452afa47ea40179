//! Answers: what a widget stores, read strictly and held against the item that was shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::answer_problem::AnswerProblem;
use crate::config::{AnnotationType, Question};
use crate::response::Response;

/// The answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Rank of each response, 1 the best; equal ranks are a tie. A pairwise choice is a ranking of two.
    Ranking(Vec<u32>),
    /// Rating of each response, by aspect.
    Scale(BTreeMap<String, Vec<i64>>),
    /// Marked stretches, in the order of responses and starts.
    Spans(Vec<MarkedSpan>),
    /// A corrected response.
    Edit(EditedResponse),
    /// The labels.
    Label(Vec<String>),
}

/// A marked stretch of a response.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkedSpan {
    /// The response, counted from 0 in the order of the row.
    pub response: usize,
    /// First byte of the response's text in UTF-8.
    pub start: usize,
    /// Byte after the last one.
    pub end: usize,
    /// Kind of error.
    pub label: String,
    /// The marked text; it is what lies between the two offsets.
    pub text: String,
}

/// A corrected response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditedResponse {
    /// The response, counted from 0 in the order of the row.
    pub response: usize,
    /// The corrected text.
    pub text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ranks {
    ranks: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratings {
    ratings: BTreeMap<String, Vec<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spans {
    spans: Vec<MarkedSpan>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    labels: Vec<String>,
}

impl Answer {
    /// Reads the answer to a question about an item with these responses.
    ///
    /// # Errors
    /// When it has another shape than the widget's, or does not fit the responses.
    pub fn read(question: &Question, responses: &[Response], value: &Value) -> Result<Self, AnswerProblem> {
        let reading = Reading { question, responses, value };
        match question.annotation_type {
            AnnotationType::Ranking | AnnotationType::Pairwise => reading.ranking(),
            AnnotationType::Scale => reading.scale(),
            AnnotationType::Spans => reading.spans(),
            AnnotationType::Edit => reading.edit(),
            AnnotationType::Label => reading.label(),
        }
    }

    /// The answer as it is stored.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Ranking(ranks) => json!({ "ranks": ranks }),
            Self::Scale(ratings) => json!({ "ratings": ratings }),
            Self::Spans(spans) => json!({ "spans": spans }),
            Self::Edit(edit) => json!(edit),
            Self::Label(labels) => json!({ "labels": labels }),
        }
    }
}

/// One answer being read.
struct Reading<'a> {
    question: &'a Question,
    responses: &'a [Response],
    value: &'a Value,
}

impl Reading<'_> {
    fn field(&self, name: &str) -> String {
        format!("{}.{name}", self.question.name)
    }

    fn problem(&self, name: &str, expected: impl Into<String>) -> AnswerProblem {
        AnswerProblem::new(self.field(name), self.value.get(name).unwrap_or(&Value::Null), expected)
    }

    fn shape<T: DeserializeOwned>(&self, expected: &str) -> Result<T, AnswerProblem> {
        T::deserialize(self.value).map_err(|_| AnswerProblem::new(&self.question.name, self.value, expected))
    }

    fn ranking(&self) -> Result<Answer, AnswerProblem> {
        let Ranks { ranks } = self.shape("{\"ranks\": [a rank for each response]}")?;
        let n = self.responses.len();
        let highest = u32::try_from(n).unwrap_or(u32::MAX);
        if ranks.len() != n || ranks.iter().any(|rank| !(1..=highest).contains(rank)) {
            return Err(self.problem("ranks", format!("{n} ranks from 1 to {n}, one for each response")));
        }
        Ok(Answer::Ranking(ranks))
    }

    fn scale(&self) -> Result<Answer, AnswerProblem> {
        let Ratings { ratings } = self.shape("{\"ratings\": {an aspect: [a number for each response]}}")?;
        let Question { min, max, .. } = *self.question;
        let aspects: BTreeSet<String> = self.question.labels().into_iter().collect();
        let n = self.responses.len();
        let is_whole =
            |points: &Vec<i64>| points.len() == n && points.iter().all(|point| (min..=max).contains(point));
        if !ratings.keys().eq(&aspects) || !ratings.values().all(is_whole) {
            let names = aspects.into_iter().collect::<Vec<_>>().join(", ");
            let expected = format!("{n} whole numbers from {min} to {max} for each of {names}");
            return Err(self.problem("ratings", expected));
        }
        Ok(Answer::Scale(ratings))
    }

    fn spans(&self) -> Result<Answer, AnswerProblem> {
        let Spans { mut spans } = self.shape("{\"spans\": [{response, start, end, label, text}]}")?;
        let kinds = self.question.labels();
        for span in &spans {
            if !kinds.contains(&span.label) {
                return Err(self.problem("spans", format!("`label` one of {}", kinds.join(", "))));
            }
            let text = self
                .responses
                .get(span.response)
                .and_then(|response| response.text.get(span.start..span.end));
            if text.is_none_or(|text| text.is_empty() || text != span.text) {
                let expected = "UTF-8 offsets of the response's text that enclose `text`";
                return Err(self.problem("spans", expected));
            }
        }
        spans.sort();
        spans.dedup();
        Ok(Answer::Spans(spans))
    }

    fn edit(&self) -> Result<Answer, AnswerProblem> {
        let edit: EditedResponse =
            self.shape("{\"response\": its number from 0, \"text\": the corrected text}")?;
        if edit.response >= self.responses.len() {
            return Err(self.problem("response", format!("a number below {}", self.responses.len())));
        }
        if edit.text.trim().is_empty() {
            return Err(self.problem("text", "a text that is not empty"));
        }
        Ok(Answer::Edit(edit))
    }

    fn label(&self) -> Result<Answer, AnswerProblem> {
        let Labels { labels } = self.shape("{\"labels\": [names of labels]}")?;
        let known = self.question.labels();
        let chosen: BTreeSet<&String> = labels.iter().collect();
        let is_known = labels.iter().all(|label| known.contains(label));
        let n_fits = if self.question.multiple { !labels.is_empty() } else { labels.len() == 1 };
        if !is_known || !n_fits || chosen.len() < labels.len() {
            let how_many = if self.question.multiple { "one or more" } else { "one" };
            return Err(self.problem("labels", format!("{how_many} of {}", known.join(", "))));
        }
        // In the order of the question, so that equal answers are equal.
        let labels = known.into_iter().filter(|label| labels.contains(label)).collect();
        Ok(Answer::Label(labels))
    }
}

#[cfg(test)]
mod tests {
    use truing_store::Digest;

    use super::*;

    fn responses(texts: &[&str]) -> Vec<Response> {
        let response = |text: &&str| Response {
            text: (*text).to_owned(),
            score: None,
            digest: Digest::of_bytes(text.as_bytes()),
            model: None,
        };
        texts.iter().map(response).collect()
    }

    fn with(mut object: Value, more: Value) -> Value {
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }

    fn question(annotation_type: &str, more: Value) -> Question {
        let question = with(json!({"name": "q", "annotation_type": annotation_type}), more);
        serde_json::from_value(question).unwrap()
    }

    /// Reads an answer about the responses `a` and `你好b`; what is stored is what is read again.
    fn check(annotation_type: &str, more: Value, value: Value) -> Result<Answer, String> {
        let (question, responses) = (question(annotation_type, more), responses(&["a", "你好b"]));
        let answer = Answer::read(&question, &responses, &value).map_err(|problem| problem.to_string())?;
        assert_eq!(Answer::read(&question, &responses, &answer.to_json()), Ok(answer.clone()));
        Ok(answer)
    }

    #[test]
    fn rankings_have_a_rank_for_each_response() {
        let ranks = |ranks: Value| check("ranking", json!({}), json!({ "ranks": ranks }));
        assert_eq!(ranks(json!([2, 1])), Ok(Answer::Ranking(vec![2, 1])));
        assert_eq!(ranks(json!([1, 1])), Ok(Answer::Ranking(vec![1, 1])));
        for wrong in [json!([1]), json!([0, 1]), json!([1, 3]), json!([])] {
            let error = ranks(wrong.clone()).unwrap_err();
            assert_eq!(
                error,
                format!("`q.ranks` is {wrong}; expected 2 ranks from 1 to 2, one for each response")
            );
        }
        assert!(check("ranking", json!({}), json!({"ranks": [1, 2], "x": 1})).is_err());
        assert!(check("ranking", json!({}), json!(null)).is_err());
    }

    #[test]
    fn scales_have_every_aspect_of_every_response() {
        let rate = |ratings: Value| {
            check("scale", json!({"labels": ["x", "y"], "max": 3}), json!({ "ratings": ratings }))
        };
        assert!(rate(json!({"x": [1, 3], "y": [2, 2]})).is_ok());
        for wrong in [
            json!({"x": [1, 3]}),
            json!({"x": [1, 3], "y": [2, 4]}),
            json!({"x": [1, 3], "y": [0, 2]}),
            json!({"x": [1, 3], "y": [2]}),
            json!({"x": [1, 3], "y": [2, 2], "z": [1, 1]}),
        ] {
            let error = rate(wrong).unwrap_err();
            assert!(error.ends_with("expected 2 whole numbers from 1 to 3 for each of x, y"), "{error}");
        }
    }

    #[test]
    fn spans_enclose_the_text_that_was_marked() {
        let span = |response: usize, start: usize, end: usize, label: &str, text: &str| {
            let place = json!({"response": response, "start": start, "end": end, "label": label});
            with(place, json!({ "text": text }))
        };
        let mark = |spans: Value| check("spans", json!({}), json!({ "spans": spans }));
        assert_eq!(mark(json!([])), Ok(Answer::Spans(Vec::new())));
        // Offsets are bytes: a Chinese character has three.
        let good = span(1, 3, 6, "factual", "好");
        assert!(matches!(mark(json!([good, good])), Ok(Answer::Spans(spans)) if spans.len() == 1));
        for wrong in [
            span(1, 1, 6, "factual", "好"),
            span(1, 3, 6, "factual", "你"),
            span(1, 3, 3, "factual", ""),
            span(1, 6, 3, "factual", "好"),
            span(2, 0, 1, "factual", "a"),
            span(0, 0, 9, "factual", "a"),
            span(1, 3, 6, "spelling", "好"),
        ] {
            assert!(mark(json!([wrong])).is_err(), "{wrong}");
        }
    }

    #[test]
    fn edits_and_labels_are_held_against_what_there_is() {
        assert!(check("edit", json!({}), json!({"response": 1, "text": "b"})).is_ok());
        assert!(check("edit", json!({}), json!({"response": 2, "text": "b"})).is_err());
        assert!(check("edit", json!({}), json!({"response": 1, "text": " \n"})).is_err());
        let label = |multiple: bool, labels: Value| {
            check(
                "label",
                json!({"labels": ["x", "y", "z"], "multiple": multiple}),
                json!({ "labels": labels }),
            )
        };
        assert_eq!(label(true, json!(["z", "x"])), Ok(Answer::Label(vec!["x".into(), "z".into()])));
        assert_eq!(label(false, json!(["z"])), Ok(Answer::Label(vec!["z".into()])));
        assert_eq!(
            label(false, json!(["z", "x"])).unwrap_err(),
            "`q.labels` is [\"z\",\"x\"]; expected one of x, y, z"
        );
        assert!(label(true, json!([])).is_err() && label(true, json!(["w"])).is_err());
        assert!(label(true, json!(["x", "x"])).is_err());
    }
}
