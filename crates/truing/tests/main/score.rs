//! `truing score`, `truing run`, `truing completions` and `truing man`.

use std::fs;

use serde_json::Value;

use crate::command::run_inside;
use crate::tiny_model;

const RECIPE: &str = "\
stage = \"grpo\"
[[reward]]
kind = { math_answer = { column = \"answer\" } }
[[reward]]
weight = 0.5
kind = { format = { pattern = \"^So\" } }
";
const ROWS: &str = r#"{"prompt": "2 + 3?", "answer": "5", "completion": "So it is 5."}
{"prompt": "4 + 3?", "answer": "7", "responses": ["The answer is 7.", "So it is 8.", "<think>7</think>So it is 7."]}
"#;

#[test]
fn responses_are_scored_by_the_rewards_of_a_recipe() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("rewards.toml"), RECIPE).unwrap();
    fs::write(home.path().join("rows.jsonl"), ROWS).unwrap();
    let arguments = ["score", "rewards.toml", "--data", "rows.jsonl", "--set", "pass_reward=1.5"];
    let finished = run_inside(home.path(), arguments).expect_status(0);
    let lines: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> = lines
        .iter()
        .map(|line| {
            (line["line"].as_u64().unwrap(), line["response_idx"].as_u64().unwrap(), line["reward"].as_f64())
        })
        .collect();
    assert_eq!(found, [(1, 0, Some(1.5)), (2, 0, Some(1.0)), (2, 1, Some(0.5)), (2, 2, Some(1.5))]);
    assert_eq!(lines[1]["rewards"], serde_json::json!({ "format": 0.0, "math_answer": 1.0 }));
    // Two rows say nothing: Student's t with one degree of freedom, by row, within 0 and 1.
    finished.expect_stderr(&["2 of 4 pass (reward of at least 1.5): 50.0 %, 95 % interval 0.0 to 100.0 %"]);
    // Wilson's interval of 2 in 4, each a row of its own.
    let one_each: String = [5, 5, 6, 6]
        .map(|said| {
            format!("{{\"prompt\": \"2 + 3?\", \"answer\": \"5\", \"completion\": \"So {said}.\"}}\n")
        })
        .concat();
    fs::write(home.path().join("one_each.jsonl"), one_each).unwrap();
    let of_one_each = ["score", "rewards.toml", "--data", "one_each.jsonl", "--set", "pass_reward=1.5"];
    let told = "2 of 4 pass (reward of at least 1.5): 50.0 %, 95 % interval 15.0 to 85.0 %";
    run_inside(home.path(), of_one_each).expect_status(0).expect_stderr(&[told]);

    let arguments = [&arguments[..], &["--output", "scores.jsonl", "--json"]].concat();
    let finished = run_inside(home.path(), arguments).expect_status(0);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((summary["n_responses"].as_u64(), summary["pass_rate"].as_f64()), (Some(4), Some(0.5)));
    assert_eq!(summary["rewards"]["reward"]["mean"], 1.125);
    assert_eq!(fs::read_to_string(home.path().join("scores.jsonl")).unwrap().lines().count(), 4);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    write("rewards.toml", RECIPE);
    write("rows.jsonl", ROWS);
    write("silent.jsonl", "{\"prompt\": \"2 + 3?\", \"answer\": \"5\"}\n");
    write("number.jsonl", "{\"prompt\": \"2 + 3?\", \"answer\": \"5\", \"completion\": 5}\n");
    write("none.toml", "stage = \"grpo\"\n");
    write(
        "tokens.toml",
        "stage = \"grpo\"\n[[reward]]\nkind = { length = { unit = \"tokens\", at_most = 5 } }\n",
    );
    for (arguments, expected) in [
        (["none.toml", "rows.jsonl"], "none.toml has no reward"),
        (["rewards.toml", "silent.jsonl"], "the row has none of the columns completion, response"),
        (["rewards.toml", "number.jsonl"], "`completion` is 5: expected a text or a list of texts"),
        (["tokens.toml", "rows.jsonl"], "reward `length` counts tokens"),
    ] {
        let [recipe, data] = arguments;
        run_inside(home.path(), ["score", recipe, "--data", data])
            .expect_status(2)
            .expect_stderr(&[expected]);
    }
    let same = ["score", "rewards.toml", "--data", "rows.jsonl", "--output", "rows.jsonl"];
    run_inside(home.path(), same).expect_status(2).expect_stderr(&["would be overwritten"]);
    assert_eq!(fs::read_to_string(home.path().join("rows.jsonl")).unwrap(), ROWS);
    let unknown = ["score", "rewards.toml", "--data", "rows.jsonl", "--column", "reply"];
    run_inside(home.path(), unknown).expect_status(2).expect_stderr(&["rows.jsonl:1", "no column `reply`"]);
}

#[test]
fn a_recipe_is_run_by_its_stage() {
    let home = tempfile::tempdir().unwrap();
    tiny_model::write(&home.path().join("model"));
    let row = r#"{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}"#;
    fs::write(home.path().join("rows.jsonl"), format!("{row}\n")).unwrap();
    let recipe = "stage = \"sft\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\nmax_length = 64\n\
                  [[data]]\npath = \"rows.jsonl\"\n";
    fs::write(home.path().join("recipe.toml"), recipe).unwrap();
    let key = |arguments: &[&str]| {
        let finished = run_inside(home.path(), arguments).expect_status(0);
        let plan: Value = serde_json::from_str(&finished.stdout).unwrap();
        plan["content_key"].as_str().unwrap().to_owned()
    };
    let planned = key(&["plan", "recipe.toml", "--json"]);
    assert_eq!(planned, key(&["run", "recipe.toml", "--plan", "--json", "--set", "output_dir=other"]));
    assert_ne!(planned, key(&["sft", "recipe.toml", "--plan", "--json", "--set", "max_steps=7"]));
    run_inside(home.path(), ["run", "recipe.toml"]).expect_status(0);
    assert!(home.path().join("run/model").is_dir());
}

#[test]
fn shells_and_man_know_the_commands() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let finished = run_inside(home.path(), ["completions", shell]).expect_status(0);
        assert!(finished.stdout.contains("quickstart"), "{shell}");
    }
    run_inside(home.path(), ["man", "pages"]).expect_status(0);
    for page in ["truing.1", "truing-sft.1", "truing-reward-train.1"] {
        let text = fs::read_to_string(home.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".SH"), "{page}");
    }
}
