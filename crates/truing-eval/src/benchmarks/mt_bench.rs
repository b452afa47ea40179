//! MT-Bench (Zheng et al. 2023, arXiv 2306.05685): two turns, each graded from 1 to 10 by a judge, with a
//! reference answer where the question has one. Columns are those of FastChat's `question.jsonl`; `reference`
//! may hold the answers of both turns. The judge's prompts are ours; grades that were given to FastChat's are
//! read by [`scores_of_judgments`].

use std::collections::BTreeMap;

use truing_data::ObjectRow;
use truing_reward::asking::{fill_in, last_bracketed};
use truing_types::{Conversation, Message, Role, SamplingOptions, Unscored};

use super::measure::Aggregation;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, Measure, MetricInfo, Prompt, Question,
    Recipient, Request, Row, Scoring, TaskOptions,
};

const REPLIES: usize = 3;
const REMINDER: &str = "Your reply has no grade in the required form. Write only the grade, from 1 to 10, in \
                        double brackets, such as [[6]].";

const PROMPT: &str = "Grade the last answer of an assistant in the conversation below from 1 (useless) to 10 (could \
not be better). Weigh whether it is helpful, relevant, correct, thorough and well written, and whether it does \
exactly what the last question asks. Its length alone is no merit.
{reference_part}
{conversation}

First explain in a few sentences what is good and what is wrong. Then end with the grade in double brackets, such as \
[[6]].";

pub(super) struct MtBench;

/// Temperature of a category's answers, as FastChat has it.
fn temperature(category: &str) -> f32 {
    match category {
        "writing" | "roleplay" => 0.7,
        "stem" | "humanities" => 0.1,
        _ => 0.0,
    }
}

/// A grade from 1 to 10 in the last double brackets.
fn read_grade(reply: &str) -> Option<f64> {
    let text = last_bracketed(reply)?;
    let text = text.strip_suffix("/10").unwrap_or(text);
    text.trim().parse().ok().filter(|grade| (1.0..=10.0).contains(grade))
}

fn metrics() -> [MetricInfo; 3] {
    let grade = |name: &'static str| MetricInfo::share(name).range(Some([1.0, 10.0]));
    [grade("score").aggregated(Aggregation::Ratio), grade("turn_1"), grade("turn_2")]
}

/// Sets the metrics of a question from the grades of its turns.
fn set_grades(score: &mut ItemScore, grades: Vec<Result<f64, Unscored>>) {
    let [all, ..] = metrics();
    for (info, grade) in metrics()[1..].iter().zip(&grades) {
        score.set(info, grade.clone());
    }
    let grades: Result<Vec<f64>, Unscored> = grades.into_iter().collect();
    score.set(&all, grades.map(|grades| Measure { value: grades.iter().sum(), weight: grades.len() as f64 }));
}

fn turns(item: &Item) -> Vec<&str> {
    item.row
        .get("turns")
        .and_then(|turns| turns.as_array())
        .into_iter()
        .flatten()
        .filter_map(|turn| turn.as_str())
        .collect()
}

impl MtBench {
    fn question(
        item: &Item,
        answers: &Answers,
        turn: usize,
        options: &TaskOptions,
    ) -> Result<Question, Unscored> {
        let mut conversation = Vec::new();
        for (place, text) in turns(item).iter().enumerate().take(turn) {
            conversation.push(format!("<question>\n{text}\n</question>"));
            conversation
                .push(format!("<answer>\n{}\n</answer>", answers.text(&format!("turn{}", place + 1))?));
        }
        let references = item.row.get("reference").and_then(|value| value.as_array());
        let reference = references.and_then(|list| list.get(turn - 1)?.as_str()).unwrap_or_default();
        let part = match reference.is_empty() {
            true => String::new(),
            false => format!(
                "\nCompare the last answer with this reference answer:\n\n<reference>\n{reference}\n</reference>\n"
            ),
        };
        let text =
            fill_in(PROMPT, &[("reference_part", &part), ("conversation", &conversation.join("\n\n"))]);
        Ok(Question::new(
            format!("turn{turn}"),
            text,
            REMINDER,
            options.max_judge_attempts.unwrap_or(REPLIES),
        ))
    }
}

impl Benchmark for MtBench {
    fn name(&self) -> &str {
        "mt_bench"
    }

    fn about(&self) -> &str {
        "MT-Bench: two turns graded from 1 to 10 by a judge (arXiv 2306.05685)"
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics().into()
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let turns = row.texts("turns")?;
            let item = Item::new(row.name("question_id")?, row, Prompt::user(turns[0]), String::new());
            Ok(item.with_category("category", row.text("category")?))
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        let mut conversation = Conversation::default();
        let mut requests = Vec::new();
        let temperature = temperature(item.text("category"));
        for (place, text) in turns(item).into_iter().enumerate() {
            let turn = place + 1;
            conversation.messages.push(Message::new(Role::User, text));
            let sampling =
                SamplingOptions { max_new_tokens: 1024, temperature, ..SamplingOptions::default() };
            let ask = Ask::Generate { prompt: Prompt::Chat(conversation.clone()), sampling };
            requests.push(Request { id: format!("turn{turn}"), to: Recipient::Model, ask });
            let Ok(answer) = answers.text(&format!("turn{turn}")) else { break };
            conversation.messages.push(Message::new(Role::Assistant, answer));
            if let Ok(question) = Self::question(item, answers, turn, options) {
                requests.extend(question.verdict(answers, read_grade).request());
            }
        }
        requests
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let grade = |turn| {
                Self::question(item, answers, turn, options)
                    .and_then(|question| question.verdict(answers, read_grade).result())
            };
            let mut score = ItemScore::default();
            set_grades(&mut score, (1..=turns(item).len()).map(grade).collect());
            score
        };
        scored.iter().map(score).collect()
    }
}

/// Scores of one model from FastChat's stored judgments (`question_id`, `model`, `turn`, `judgment`, `score`), read
/// from the judgment's text. A question that was judged several times has the mean of its grades. FastChat writes -1
/// where it could not read a grade; that is unscored here.
///
/// # Errors
/// When a row lacks a column, or a stored score is another one than the text says.
pub fn scores_of_judgments(
    rows: &[ObjectRow],
    model: &str,
) -> Result<Vec<(Item, ItemScore)>, BenchmarkError> {
    let mut found: BTreeMap<String, (Row<'_>, BTreeMap<usize, Vec<f64>>)> = BTreeMap::new();
    for row in rows {
        let row = Row(row);
        if row.text("model")? != model {
            continue;
        }
        let grade = read_grade(row.text("judgment")?);
        let stored = row.value("score", "a number")?;
        if grade != stored.as_f64().filter(|stored| *stored >= 0.0) {
            return Err(row.bad("score", stored, format!("{grade:?}, as the judgment says")));
        }
        let entry = found.entry(row.name("question_id")?).or_insert((row, BTreeMap::new()));
        entry.1.entry(row.count("turn")?).or_default().extend(grade);
    }
    let scored = found.into_iter().map(|(id, (row, turns))| {
        let item = Item::new(
            id,
            row,
            Prompt::user(row.optional_text("user_prompt")?.unwrap_or_default()),
            String::new(),
        );
        let grades = turns.into_values().map(|grades| match grades.is_empty() {
            true => Err(Unscored::new(truing_types::UnscoredReason::JudgeFailed, "no grade could be read")),
            false => Ok(grades.iter().sum::<f64>() / grades.len() as f64),
        });
        let mut score = ItemScore::default();
        set_grades(&mut score, grades.collect());
        Ok((item, score))
    });
    scored.collect()
}

#[cfg(test)]
mod tests {
    use super::read_grade;

    #[test]
    fn grades_are_in_the_last_brackets_and_in_range() {
        for (reply, expected) in [
            ("Rating: [[8]]", Some(8.0)),
            ("[[5]] at first, but [[8.5]].", Some(8.5)),
            ("[[7/10]]", Some(7.0)),
            ("[[0]]", None),
            ("[[11]]", None),
            ("8", None),
        ] {
            assert_eq!(read_grade(reply), expected, "{reply}");
        }
    }
}
