//! `truing prefer` from the outside: the self-test, a plan, and scores of the data as the only judge.

use std::fs;

use serde_json::Value;

use crate::command::run;

#[test]
fn the_self_test_sees_through_every_planted_judge() {
    let home = tempfile::tempdir().unwrap();
    let printed = run(home.path(), ["prefer", "--self-test"]).expect_status(0);
    assert!(printed.stdout.contains("12 planted judges, each as expected"), "{}", printed.stdout);
    let printed = run(home.path(), ["prefer", "--self-test", "--json"]).expect_status(0);
    let found: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(
        (&found["n_failed"], found["rows"].as_array().map(Vec::len)),
        (&0.into(), Some(12)),
        "{found}"
    );
    run(home.path(), ["prefer"]).expect_status(2).expect_stderr(&["RECIPE"]);
    run(home.path(), ["prefer", "recipe.toml", "--self-test"])
        .expect_status(2)
        .expect_stderr(&["--self-test"]);
}

#[test]
fn a_recipe_is_planned_and_run() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    let row = |i: u32, good: u32| {
        format!(
            "{{\"prompt\": \"p{i}\", \"responses\": [{{\"content\": \"good {i}\", \"score\": {good}}}, \
             {{\"content\": \"bad {i}\", \"score\": 0}}]}}\n"
        )
    };
    fs::write(path("rows.jsonl"), row(0, 1) + &row(1, 0)).unwrap();
    let recipe = "stage = \"prefer\"\noutput_dir = \"out\"\n[score_rater]\n[[data]]\npath = \"rows.jsonl\"\n";
    fs::write(path("recipe.toml"), recipe).unwrap();
    let planned = run(home.path(), ["prefer", &path("recipe.toml"), "--plan", "--json"]).expect_status(0);
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned["rows"]["prompts with two responses or more"], 2, "{planned}");
    let finished = run(home.path(), ["prefer", &path("recipe.toml"), "--json"]).expect_status(0);
    let finished: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(
        (&finished["summary"]["n_pairs"], &finished["summary"]["fates"]["near_equal"]),
        (&1.into(), &1.into())
    );
    let pairs = fs::read_to_string(home.path().join("out/pairs.jsonl")).unwrap();
    let pair: Value = serde_json::from_str(pairs.trim_end()).unwrap();
    assert_eq!(pair["chosen"][0]["content"], "good 0");
    // Without a single pair there is nothing to train on.
    fs::write(path("rows.jsonl"), row(1, 0)).unwrap();
    let output = format!("output_dir={}", path("none"));
    run(home.path(), ["prefer", &path("recipe.toml"), "--set", &output])
        .expect_status(1)
        .expect_stderr(&["no pairs from 1 prompts"]);
}
