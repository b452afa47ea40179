//! `ability = "code_interpreter"`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::code::has_python;
use super::{MODELS, all_yes, last, lines, starts_with_one_of};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "code_interpreter"
output_dir = "built"
n_rows = 4
[code_interpreter]
kinds = ["data_analysis", "calculation"]
max_user_turns = 2
"#;
const REPLIES: &str = include_str!("fixtures/code_interpreter.json");

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

fn is_step(text: &str) -> bool {
    starts_with_one_of(text, ["You are an assistant with a Python", "你是带有Python笔记本"])
}

/// The recorded question of which a text holds this field.
fn recorded(field: &str, text: &str) -> Option<Value> {
    let replies: Vec<Value> = serde_json::from_str(REPLIES).unwrap();
    replies.into_iter().find(|reply| reply[field].as_str().is_some_and(|part| text.contains(part)))
}

/// The part of a transcript from the last message of the user on.
fn since_question(text: &str) -> &str {
    last(text, "transcript").rsplit("[user] ").next().unwrap()
}

/// Asks, writes cells and answers as recorded, by how far the conversation is; answers say what the last cell printed.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        let question =
            |reply: &Value| format!("<question>\n{}\n</question>", reply["question"].as_str().unwrap());
        if starts_with_one_of(text, ["Write the first message", "请写出一个人"]) {
            return Ok(question(&recorded("match", last(text, "file")).unwrap()));
        }
        if starts_with_one_of(text, ["You play the user", "你扮演一个用户"]) {
            let next = recorded("follows", since_question(text));
            return Ok(next.map_or_else(|| "<done/>".to_owned(), |reply| question(&reply)));
        }
        assert!(is_step(text), "{text}");
        let since = since_question(text);
        let reply = recorded("question", since).unwrap();
        let n_before = since.matches("[output]").count();
        Ok(match reply["cells"][n_before].as_str() {
            Some(code) => format!("Cell {} does the next part.\n```python\n{code}\n```", n_before + 1),
            None => {
                let found = since.lines().next_back().unwrap();
                format!("<final>\nThe last cell shows it.\n\nAnswer: {found}\n</final>")
            }
        })
    })
}

/// Solves questions as recorded, and finds everything in order.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| {
        if !starts_with_one_of(text, ["Write a Python program", "请编写一个Python"]) {
            return Ok(all_yes(4));
        }
        let questions = last(text, "question").rsplit("\n\n").next().unwrap();
        let reply = recorded("question", questions).unwrap();
        Ok(format!("```python\n{}\n```", reply["solution"].as_str().unwrap()))
    })
}

fn roles(row: &Value) -> Vec<&str> {
    row["messages"].as_array().unwrap().iter().map(|turn| turn["role"].as_str().unwrap()).collect()
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    if !has_python() {
        return;
    }
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    assert_eq!((summary.n_begun, summary.n_rows, summary.n_prompts), (4, 4, 0), "{:?}", built.fates);
    assert_eq!((summary.recheck.n_checked, summary.recheck.share), (4, Some(1.0)));
    // Four first questions and requests for further ones; eight cells and five answers.
    assert_eq!((writer.asked().len(), checker.asked().len()), (4 + 4 + 8 + 5, 5 + 4));
    let sales = &built.rows[0];
    let cell = ["assistant", "tool"];
    let expected =
        [&["user"][..], &cell, &cell, &cell, &["assistant", "user"], &cell, &["assistant"]].concat();
    assert_eq!(roles(sales), expected);
    let turns = &sales["messages"];
    let first = turns[0]["content"].as_str().unwrap();
    assert!(first.contains("The file `sales.csv` is in the working folder. It has 60 rows"), "{first}");
    let error = turns[4]["content"].as_str().unwrap();
    assert!(error.ends_with("KeyError: 'unit'"), "{error}");
    assert_eq!((&turns[3]["weight"], turns[5].get("weight")), (&json!(0), None));
    assert_eq!(turns[5]["tool_calls"][0]["function"]["name"], sales["tools"][0]["function"]["name"]);
    let answer = format!("The last cell shows it.\n\nAnswer: {}", sales["answers"][0].as_str().unwrap());
    assert_eq!(turns[7]["content"], answer.as_str());
    assert_eq!(
        (&sales["n_cells"], &sales["n_errors"], &sales["n_abandoned"]),
        (&json!(4), &json!(1), &json!(0))
    );
    let answers: Vec<&Value> = built.rows.iter().map(|row| &row["answers"][0]).collect();
    assert_eq!((answers[1], answers[3]), (&json!("4624.73"), &json!("146")));
    assert!(summary.coverage.kinds.iter().all(|row| (row.target, row.n_kept) == (Some(2), 2)), "{summary:?}");
}

/// A wrong answer, a cell whose output changes from run to run and an error that is not corrected end their branches.
#[test]
fn branches_that_end_are_taken_back_and_what_no_branch_solves_is_dropped() {
    if !has_python() {
        return;
    }
    let folder = folder();
    let (rule, n_asked) = (writer(), Mutex::new(BTreeMap::<String, usize>::new()));
    let careless = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        if !is_step(text) {
            return Ok(reply);
        }
        let mut n_asked = n_asked.lock().unwrap();
        let n_before = n_asked.entry(text.to_owned()).or_default();
        *n_before += 1;
        let (is_first, since) = (*n_before == 1, since_question(text));
        Ok(match reply.contains("<final>") {
            // Of the loan the first answer is wrong, of the dice each.
            true if since.contains("loan") && is_first => "<final>\nAnswer: 1\n</final>".into(),
            true if since.contains("骰子") => "<final>\nAnswer: 140\n</final>".into(),
            false if since.contains("不低于60分") => {
                "```python\nprint({'a', 'b', 'c', 'd', 'e', 'f', 'g'})\n```".into()
            }
            false if since.contains("over all regions") => "```python\n1 / 0\n```".into(),
            _ => reply,
        })
    });
    let built = super::run(folder.path(), &recipe(), vec![careless.open(), checker().open()]).unwrap();
    let reasons: Vec<Option<&str>> = built.fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let expected = [
        None,
        None,
        Some("a cell cannot be kept: the output differs between two runs"),
        Some("no branch arrives at the reference answer"),
    ];
    assert_eq!(reasons, expected);
    assert!(built.fates.iter().flat_map(|fate| &fate.step).all(|step| step == "solution"));
    let (sales, loan) = (&built.rows[0], &built.rows[1]);
    assert_eq!(
        roles(sales).iter().filter(|role| **role == "user").count(),
        1,
        "the further question is left out"
    );
    assert_eq!((&loan["n_abandoned"], roles(loan).len()), (&json!(1), 4));
    // Two cells of the dice, and two answers after each.
    let dice =
        careless.asked().into_iter().filter(|text| is_step(text) && since_question(text).contains("骰子"));
    assert_eq!(dice.count(), 2 + 4);
}

#[test]
fn given_questions_have_their_reference_and_replies_out_of_form_leave_no_row() {
    if !has_python() {
        return;
    }
    let folder = folder();
    let replies: Vec<Value> = serde_json::from_str(REPLIES).unwrap();
    let row =
        |n: usize, answer: Value| json!({"prompt": replies[n]["question"], "answer": answer}).to_string();
    let rows =
        [row(2, json!("4624.73")), row(4, json!("It is a long story.\nAnswer: 146")), row(3, Value::Null)];
    std::fs::write(folder.path().join("given.jsonl"), rows.join("\n")).unwrap();
    let recipe = format!("{}[[data]]\npath = \"given.jsonl\"\n{MODELS}", RECIPE.replace("n_rows = 4\n", ""));
    let checker = checker();
    let built = super::run(folder.path(), &recipe, vec![writer().open(), checker.open()]).unwrap();
    assert_eq!(
        (built.rows.len(), checker.asked().len()),
        (2, 2),
        "only the review is asked for: {:?}",
        built.fates
    );
    assert_eq!(built.fates[2].reason.as_deref(), Some("no short answer in `code_interpreter.answer_column`"));

    let wrong = Scripted::says("I cannot run programs, sorry. ```");
    let other = recipe.replace("\"built\"", "\"wrong\"\nmax_attempts = 1");
    let error =
        super::run(folder.path(), &other, vec![wrong.open(), checker.open()]).unwrap_err().to_string();
    assert!(error.contains("no rows of 2"), "{error}");
    let fates: Vec<Value> = lines(&folder.path().join("wrong/fates.jsonl"));
    assert!(fates.iter().all(|fate| fate["reason"].is_string()), "{fates:?}");
}
