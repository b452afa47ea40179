//! `truing embed` from the outside, with a tiny decoder; encoders have their tests beside the stage.

use std::fs;

use serde_json::Value;

use crate::command::run;
use crate::tiny_model;

#[test]
fn texts_become_a_file_of_vectors() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    tiny_model::write(&home.path().join("model"));
    fs::write(path("texts.jsonl"), "{\"prompt\": \"hello\"}\n{\"prompt\": \"hello world\"}\n").unwrap();
    let (model, data, output) = (path("model"), path("texts.jsonl"), path("vectors.npy"));
    let embed = ["embed", "--model", &model, "--data", &data, "--output", &output];
    let finished =
        run(home.path(), embed.into_iter().chain(["--json", "--max-tokens", "6"])).expect_status(0);
    let found: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&found["n_texts"], &found["width"], &found["n_cut"]), (&2.into(), &32.into(), &1.into()));
    let finished = finished.expect_stderr(&["1 of 2 texts are longer than the model reads and were cut"]);
    assert!(finished.stdout.contains("vectors.npy"));
    assert_eq!(fs::metadata(&output).unwrap().len() % 64, 0);

    run(home.path(), embed).expect_status(0);
    run(home.path(), ["embed", "--model", &model])
        .expect_status(2)
        .expect_stderr(&["`--data` and `--output`"]);
    let wrong = ["embed", "--model", &model, "--data", &data, "--output", "vectors.bin"];
    run(home.path(), wrong).expect_status(2).expect_stderr(&[".npy or .jsonl"]);
    let recipe = path("recipe.toml");
    fs::write(&recipe, "stage = \"embed\"\ntrain_dta = \"x\"\n").unwrap();
    run(home.path(), ["embed", "train", &recipe])
        .expect_status(2)
        .expect_stderr(&["unknown key `train_dta`; the nearest known key is `train_data`"]);
}
