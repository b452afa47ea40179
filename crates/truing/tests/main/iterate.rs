//! `truing pipeline iterate` and `history` from the command line.

use std::fs;

use serde_json::{Value, json};

use crate::command::{Finished, run};
use crate::sft::Workshop;

const ANIMALS: [&str; 12] = [
    "otter", "heron", "badger", "lynx", "viper", "falcon", "beetle", "salmon", "weasel", "raven", "marten",
    "bison",
];
const PLACES: [&str; 12] = [
    "Oslo", "Quito", "Hanoi", "Turin", "Perth", "Kyoto", "Dakar", "Lima", "Accra", "Sofia", "Minsk", "Cairo",
];

const PIPELINE: &str = r#"
[stages.select]
uses = "select"

[stages.select.with]
label_columns = ["task"]
data = [{ path = "pool.jsonl" }]
embedding = { model_name_or_path = "model" }

[stages.select.with.selection]
quota_column = "task"
quotas = { story = 6, city = 4 } # the mix

[stages.sft]
uses = "sft"
recipe = "recipe.toml"
needs = ["select"]
with = { max_steps = 3, eval_steps = 3, learning_rate = 1e-3 }

[stages.evaluate]
uses = "evaluate"

[stages.evaluate.with]
max_new_tokens = 3
model = { model_name_or_path = "${stages.sft.model}" }

[[stages.evaluate.with.task]]
path = "questions.jsonl"

[stages.evaluate.with.task.custom]
name = "questions"
prompt = "{{ question }}"
category_columns = ["task"]
scorer = [{ kind = { exact_match = {} } }]
"#;

struct Turning(Workshop);

impl Turning {
    fn new() -> Self {
        let workshop = Workshop::new();
        let story =
            |animal: &str| format!("Write a short story about the following animal: {animal}\nStory:");
        let city = |place: &str| format!("In which country lies the city of {place}? Answer in one word.");
        let rows = ANIMALS.iter().map(|animal| (story(animal), "story"));
        let rows: Vec<(String, &str)> =
            rows.chain(PLACES.iter().map(|place| (city(place), "city"))).collect();
        let write = |name: &str, row: &dyn Fn(&(String, &str)) -> Value| {
            let text: String = rows.iter().map(|text| format!("{}\n", row(text))).collect();
            fs::write(workshop.path(name), text).unwrap();
        };
        write("pool.jsonl", &|(text, task)| json!({ "prompt": text, "task": task }));
        // No model answers this: all scores are 0, and no difference is shown.
        write(
            "questions.jsonl",
            &|(text, task)| json!({ "question": text, "task": task, "answer": "zq7 zq8 zq9" }),
        );
        fs::write(workshop.path("songs.toml"), PIPELINE).unwrap();
        Self(workshop)
    }

    fn run(&self, command: &str, more: &[&str]) -> Finished {
        let recipe = self.0.path("songs.toml").display().to_string();
        run(self.0.home(), [&["pipeline", command, &recipe], more].concat())
    }
}

#[test]
fn turns_are_recorded_and_end_where_nothing_is_shown() {
    let turning = Turning::new();
    turning.run("history", &[]).expect_status(0);
    turning
        .run("iterate", &[])
        .expect_status(2)
        .expect_stderr(&["the evaluation `evaluate` is not up to date", "hint: `truing pipeline apply"]);
    turning.run("apply", &[]).expect_status(0);
    let first = turning.run("iterate", &[]).expect_status(1).stdout;
    assert!(first.contains("turn 1: questions"), "{first}");
    assert!(first.contains("the first turn") && first.contains("no share changes"), "{first}");
    assert!(first.contains("not resolved"), "{first}");

    let path = turning.0.path("songs.toml");
    let text = fs::read_to_string(&path).unwrap().replace("learning_rate = 1e-3", "learning_rate = 2e-3");
    fs::write(&path, &text).unwrap();
    turning.run("apply", &[]).expect_status(0);
    let second = turning.run("iterate", &["--json"]).expect_status(1).stdout;
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!((&second["turn"], &second["decision"]), (&json!(2), &json!("not_resolved")), "{second}");
    assert_eq!((&second["step"]["difference"], &second["step"]["n_items"]), (&json!(0.0), &json!(24)));
    let shares: Vec<f64> = second["categories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["proposed"].as_f64().unwrap())
        .collect();
    assert_eq!(shares, [0.4, 0.6], "city and story: where the turns end, the mix stays");
    let again = turning.run("iterate", &[]).expect_status(1).stdout;
    assert!(again.contains("turn 2") && again.contains("stop: a difference"), "{again}");
    assert!(again.contains("against turn 1: +0.000"), "{again}");

    let history = turning.run("history", &["--json"]).expect_status(0).stdout;
    let history: Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history["turns"].as_array().unwrap().len(), 2, "an evaluation is one turn: {history}");
    let shown = turning.run("history", &[]).expect_status(0).stdout;
    assert!(shown.contains("songs.toml") && shown.contains("not shown"), "{shown}");
    // The recipe is the user's.
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert!(!turning.0.path("songs.turn-2.toml").exists() && !turning.0.path("songs.turn-3.toml").exists());

    // What another evaluation measures is not compared. The key is the same, so that nothing runs.
    fs::write(&path, text.replace("stages.evaluate", "stages.measure")).unwrap();
    turning.run("apply", &[]).expect_status(0);
    let other = turning.run("iterate", &[]).expect_status(1).stdout;
    assert!(other.contains("not compared: the turn before measured something else"), "{other}");
}

#[test]
fn a_recipe_without_a_mix_or_with_other_categories_is_told_what_is_missing() {
    let turning = Turning::new();
    let path = turning.0.path("songs.toml");
    let edit = |old: &str, new: &str| {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{text}");
        fs::write(&path, text.replace(old, new)).unwrap();
    };
    turning
        .run("iterate", &["--max-change", "1.5"])
        .expect_status(2)
        .expect_stderr(&["`--max-change` is 1.5"]);
    edit("quotas = { story = 6, city = 4 } # the mix", "");
    edit("quota_column = \"task\"", "target_size = 10");
    turning.run("iterate", &[]).expect_status(2).expect_stderr(&["has `selection.quotas`", "hint: "]);
}
