//! Whole completions against rewards as a recipe lists them, from tables that were written before the rewards were.

use serde_json::{Map, Value, json};
use truing_reward::{Completion, RewardConfig, Rewards};
use truing_types::{Conversation, FinishReason, RowOrigin};

fn score(kind: &Value, columns: &Map<String, Value>, text: &str) -> Result<f64, String> {
    let config: RewardConfig = serde_json::from_value(json!({"kind": kind})).unwrap();
    let (prompt, origin) = (Conversation::default(), RowOrigin { source: "rows".into(), line: 1 });
    let completion = Completion {
        prompt: &prompt,
        text,
        n_tokens: text.len(),
        finish_reason: FinishReason::EndOfTurn,
        columns,
        origin: &origin,
    };
    let mut rewards = Rewards::new(&[config], None).unwrap();
    rewards.score(&[completion]).remove(0).total.map_err(|unscored| unscored.to_string())
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows of `{reference, completion, want}`. No wrong answer may pass, and every right one must.
#[test]
fn mathematical_answers_are_graded_as_a_person_would() {
    let rows = rows(include_str!("../fixtures/math_completions.jsonl"));
    assert!(rows.len() >= 200);
    let mut wrong = Vec::new();
    for row in &rows {
        let columns = json!({"answer": row["reference"]}).as_object().cloned().unwrap();
        let found = score(&json!({"math_answer": {}}), &columns, row["completion"].as_str().unwrap());
        if found != Ok(row["want"].as_f64().unwrap()) {
            wrong.push(format!("{row}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Rows of verdict, completion and reference: what is around a number, in the languages that are read.
#[test]
fn words_beside_a_number_are_not_overlooked() {
    let (mut n, mut false_positives, mut false_negatives) = (0, Vec::new(), Vec::new());
    for line in
        include_str!("../fixtures/math_adversarial.tsv").lines().filter(|line| !line.starts_with("# "))
    {
        let fields: Vec<&str> = line.split('\t').collect();
        assert!(fields.len() == 3 && ["=", "!"].contains(&fields[0]), "{line}");
        let columns = json!({"answer": fields[2]}).as_object().cloned().unwrap();
        let found = score(&json!({"math_answer": {}}), &columns, &fields[1].replace('⏎', "\n"));
        n += 1;
        match (fields[0], found) {
            ("!", Ok(0.0)) | ("=", Ok(1.0)) => {}
            ("!", found) => false_positives.push(format!("{line}: {found:?}")),
            (_, found) => false_negatives.push(format!("{line}: {found:?}")),
        }
    }
    assert!(n >= 600, "{n} rows");
    assert!(false_positives.is_empty(), "{}", false_positives.join("\n"));
    assert!(false_negatives.is_empty(), "{}", false_negatives.join("\n"));
}

/// Rows of `{kind, columns, completion, want}`, with thoughts before, instead of and without an answer.
#[test]
fn rewards_read_the_answer_after_the_thought() {
    let rows = rows(include_str!("../fixtures/reasoning_completions.jsonl"));
    assert!(rows.len() >= 40);
    check(&rows);
}

/// Inputs that went wrong in public reports on other programs, and more of their kinds: expressions against the bare
/// number in them, another notation of the same value, thoughts in the marks of many families.
#[test]
fn what_went_wrong_in_public_reports_is_scored_right() {
    let rows = rows(include_str!("../fixtures/reported_completions.jsonl"));
    assert!(rows.len() >= 40);
    check(&rows);
}

fn check(rows: &[Value]) {
    let mut wrong = Vec::new();
    for row in rows {
        let found =
            score(&row["kind"], row["columns"].as_object().unwrap(), row["completion"].as_str().unwrap());
        if found != Ok(row["want"].as_f64().unwrap()) {
            wrong.push(format!("{row}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
