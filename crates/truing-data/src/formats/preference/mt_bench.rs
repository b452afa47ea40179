//! MT-Bench's graded answers (Zheng et al. 2023, FastChat's files). `path` is the file of judgments
//! (`question_id`, `model`, `turn`, `score`); `question.jsonl` and the answers `answer_*.jsonl` lie beside it, plain
//! or compressed. Each question and turn is one row of all the models' answers, at the line of its first judgment.
//!
//! Several judgments of an answer are averaged; a score of -1 is a judgment that could not be read and is left out. In
//! the second turn every model continues its own first answer, so its response holds that answer (without loss) and the
//! second question before what is judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use truing_types::PreferenceRow;

use super::ranked;
use crate::DataError;
use crate::columns::{Columns, Fields};
use crate::error::{RowError, RowErrorKind, RowProblem};
use crate::formats::{Format, list, required};
use crate::readers::{self, RawRow, RawRows};
use crate::render::Render;

/// To be named: nothing tells judgments from other rows.
pub(crate) const NAME: &str = "mt_bench";

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: NAME,
    example: r#"{"prompt": "Hi", "responses": [{"content": "Hello.", "score": 9}, {"content": "What?", "score": 2}]}"#,
    columns: &[required("question_id"), required("model"), required("turn"), required("score")],
    takes_prompt_template: false,
    takes_render: false,
    open,
    detect: |_| false,
    parse,
};

/// Columns were mapped when the files were joined.
fn parse(fields: Fields<'_>, render: Render) -> Result<PreferenceRow, RowProblem> {
    ranked::parse(Fields { columns: &Columns::default(), ..fields }, render)
}

/// Questions and answers: the texts of the turns by question, or by model and question.
type Turns<Key> = BTreeMap<Key, Vec<String>>;

/// The judgments of one question and turn.
struct Judged {
    number: u64,
    question: String,
    turn: usize,
    /// Scores by model.
    scores: BTreeMap<String, Vec<f64>>,
}

/// The files of questions and answers beside a file of judgments.
pub(crate) fn files_beside(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut files = readers::files(folder)?;
    files.retain(|file| ["question.", "answer_"].iter().any(|start| name_of(file).starts_with(start)));
    Ok(files)
}

fn name_of(file: &Path) -> std::borrow::Cow<'_, str> {
    file.file_name().unwrap_or_default().to_string_lossy()
}

fn open(path: &Path, columns: &Columns) -> Result<RawRows, DataError> {
    let (mut questions, mut answers) = (Turns::new(), Turns::new());
    for file in files_beside(path)? {
        let name = name_of(&file);
        if name.starts_with("question.") {
            each_row(&file, |row| {
                questions.insert(identifier(row, "question_id")?, texts(row.get("turns"), "turns")?);
                Ok(())
            })?;
        } else if name.starts_with("answer_") {
            each_row(&file, |row| {
                let key = (identifier(row, "model_id")?, identifier(row, "question_id")?);
                let turns = row.get("choices").and_then(|choices| choices.get(0)?.get("turns"));
                answers.insert(key, texts(turns, "choices[0].turns")?);
                Ok(())
            })?;
        }
    }
    let mut judged: Vec<Judged> = Vec::new();
    let mut places = BTreeMap::new();
    let mut bad = Vec::new();
    for row in readers::open(path)? {
        let RawRow { number, object, .. } = row?;
        match object.and_then(|object| judgment(&object, columns)) {
            Err(problem) => bad.push(RawRow::new(number, Err(problem))),
            Ok((question, model, turn, score)) => {
                let at = *places.entry((question.clone(), turn)).or_insert_with(|| {
                    judged.push(Judged { number, question, turn, scores: BTreeMap::new() });
                    judged.len() - 1
                });
                let scores = judged[at].scores.entry(model).or_default();
                if score != -1.0 {
                    scores.push(score);
                }
            }
        }
    }
    let joined = judged.into_iter().map(|judged| {
        let number = judged.number;
        RawRow::new(number, row_of(&judged, &questions, &answers))
    });
    let mut rows: Vec<RawRow> = joined.chain(bad).collect();
    rows.sort_by_key(|row| row.number);
    Ok(Box::new(rows.into_iter().map(Ok)))
}

/// Reads a file that must hold good rows only.
fn each_row(
    path: &Path,
    mut take: impl FnMut(&Map<String, Value>) -> Result<(), RowProblem>,
) -> Result<(), DataError> {
    for row in readers::open(path)? {
        let RawRow { number, object, .. } = row?;
        if let Err(problem) = object.and_then(|object| take(&object)) {
            let origin = truing_types::RowOrigin { source: path.to_string_lossy().into(), line: number };
            return Err(DataError::BadRows { rows: vec![RowError { origin, problem }], has_more: false });
        }
    }
    Ok(())
}

/// An identifier: a text or a number.
fn identifier(row: &Map<String, Value>, key: &str) -> Result<String, RowProblem> {
    match row.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(RowProblem::new(key, RowErrorKind::Missing, "a string or a number")),
    }
}

fn texts(value: Option<&Value>, field: &str) -> Result<Vec<String>, RowProblem> {
    const EXPECTED: &str = "a list of strings, one per turn";
    let value = value.ok_or_else(|| RowProblem::new(field, RowErrorKind::Missing, EXPECTED))?;
    let turns = list(value, field, EXPECTED)?;
    turns.iter().map(|turn| Ok(crate::columns::text(turn, field)?.to_owned())).collect()
}

/// Question, model, turn (from 0) and score.
fn judgment(row: &Map<String, Value>, columns: &Columns) -> Result<(String, String, usize, f64), RowProblem> {
    let fields = Fields { row, columns, pads_nulls: false };
    let turn = fields.get("turn").ok_or_else(|| fields.missing("turn", "1 or 2"))?;
    let turn = match turn.as_u64() {
        Some(turn @ 1..=2) => turn as usize - 1,
        _ => {
            let kind = RowErrorKind::BadValue(turn.to_string());
            return Err(RowProblem::new(fields.path("turn"), kind, "1 or 2"));
        }
    };
    let score = fields.get("score").ok_or_else(|| fields.missing("score", "a number"))?;
    let score = super::number(score, fields.path("score"))?;
    Ok((identifier(row, fields.path("question_id"))?, identifier(row, fields.path("model"))?, turn, score))
}

/// A ranked list of the judged answers.
fn row_of(
    judged: &Judged,
    questions: &Turns<String>,
    answers: &Turns<(String, String)>,
) -> Result<Map<String, Value>, RowProblem> {
    let missing = |what: String, expected| Err(RowProblem::new(what, RowErrorKind::Missing, expected));
    let Some(asked) = questions.get(&judged.question).filter(|turns| turns.len() > judged.turn) else {
        return missing(
            format!("question {}", judged.question),
            "it in `question.jsonl` beside the judgments",
        );
    };
    let mut responses = Vec::new();
    for (model, scores) in judged.scores.iter().filter(|(_, scores)| !scores.is_empty()) {
        let answer = answers.get(&(model.clone(), judged.question.clone()));
        let Some(said) = answer.filter(|turns| turns.len() > judged.turn) else {
            let what = format!("answer of {model} to question {}", judged.question);
            return missing(what, "it in an `answer_*.jsonl` beside the judgments");
        };
        let mut messages = Vec::new();
        for turn in 0..=judged.turn {
            if turn > 0 {
                messages.push(json!({"role": "user", "content": asked[turn]}));
            }
            let weight = f64::from(u8::from(turn == judged.turn));
            messages.push(json!({"role": "assistant", "content": said[turn], "weight": weight}));
        }
        let score = scores.iter().sum::<f64>() / scores.len() as f64;
        responses.push(json!({"messages": messages, "score": score}));
    }
    let mut row = Map::new();
    row.insert("prompt".to_owned(), Value::String(asked[0].clone()));
    row.insert("responses".to_owned(), Value::Array(responses));
    Ok(row)
}
