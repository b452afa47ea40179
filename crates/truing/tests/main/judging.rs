//! `truing label` and `truing quality` from the outside, with a tiny model as the judge.

use std::fs;

use serde_json::Value;

use crate::command::run;
use crate::tiny_model;

#[test]
fn a_recipe_is_planned_and_run_by_the_command_that_the_readme_names() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    tiny_model::write(&home.path().join("model"));
    let rows: String = (0..3).map(|i| format!("{{\"prompt\": \"hello {i}\", \"n\": {i}}}\n")).collect();
    fs::write(path("prompts.jsonl"), rows).unwrap();
    let recipe = path("recipe.toml");
    let text = "stage = \"STAGE\"\noutput_dir = \"out\"\n[[data]]\npath = \"prompts.jsonl\"\n[[judge]]\n\
                name = \"tiny\"\n[judge.model]\n\
                model_name_or_path = \"model\"\n";
    for command in ["label", "quality"] {
        fs::write(&recipe, text.replace("STAGE", command)).unwrap();
        let planned = run(home.path(), [command, &recipe, "--plan", "--json"]).expect_status(0);
        assert!(serde_json::from_str::<Value>(&planned.stdout).unwrap().is_object(), "{}", planned.stdout);
        let changed = run(home.path(), [command, &recipe, "--set", "n_anhors=3", "--plan"]);
        changed.expect_status(2).expect_stderr(&["n_anhors"]);
        run(home.path(), [command]).expect_status(2).expect_stderr(&["<RECIPE>"]);
        let wrong = path("wrong.toml");
        fs::write(&wrong, "stage = \"classifier\"\ntrain_dta = \"x\"\n").unwrap();
        run(home.path(), [command, "train", &wrong])
            .expect_status(2)
            .expect_stderr(&["unknown key `train_dta`"]);
    }
    fs::write(&recipe, text.replace("STAGE", "label")).unwrap();
    // The tiny model is asked, and its context is too short for the question.
    run(home.path(), ["label", &recipe])
        .expect_status(2)
        .expect_stderr(&["none of 1 judges gave a single verdict", "the model's context holds 2048"]);
}
