//! `truing respond` from the outside, with a tiny model whose replies are all cut.

use std::fs;

use serde_json::Value;

use crate::command::run;
use crate::tiny_model;

#[test]
fn a_recipe_is_planned_and_every_cut_response_is_listed() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    tiny_model::write(&home.path().join("model"));
    fs::write(path("prompts.jsonl"), "{\"prompt\": \"hello\", \"n\": 1}\n{\"prompt\": \"bye\"}\n").unwrap();
    let text = "stage = \"respond\"\noutput_dir = \"out\"\nselect = \"all\"\n[[decoding]]\nn = 1\ntemperature = 0\n\
                max_new_tokens = 4\n[[data]]\npath = \"prompts.jsonl\"\n[[model]]\nname = \"tiny\"\n\
                model_name_or_path = \"model\"\n";
    let recipe = path("recipe.toml");
    fs::write(&recipe, text).unwrap();
    let planned = run(home.path(), ["respond", &recipe, "--plan", "--json"]).expect_status(0);
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned["rows"]["tiny: calls"], 2, "{planned}");
    assert_eq!(planned["rows"]["models in this process, all in memory at the same time"], 1, "{planned}");
    run(home.path(), ["respond", &recipe, "--set", "max_rogue_l=1", "--plan"])
        .expect_status(2)
        .expect_stderr(&["unknown key `max_rogue_l`; the nearest known key is `max_rouge_l`"]);
    run(home.path(), ["respond", &recipe])
        .expect_status(2)
        .expect_stderr(&["no response is accepted: of 2 sampled prompts 2 have none that can be used"]);
    let rows = fs::read_to_string(path("out/candidates.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&rows[0]["responses"][0]["fate"], &rows[0]["n"]), (&"cut".into(), &1.into()), "{rows:?}");
}
