//! `truing merge` from the command line: a recipe and a file of mergekit, the plan, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::command::{Finished, run_inside};
use crate::tiny_model;

const RECIPE: &str = "method = \"ties\"\nbase_model = \"base\"\noutput_dir = \"merged\"\n\
                      parameters = { density = 0.5 }\n\
                      [[models]]\nmodel = \"a\"\nparameters = { weight = [0.2, 0.8] }\n[[models]]\nmodel = \"b\"\n";
const YAML: &str = "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\
                    \n    parameters: {weight: [0.2, 0.8]}\n  - model: b\n    parameters: {weight: 1}\n\
                    parameters: {density: 0.5, int8_mask: true}\n";

/// `base`, and two models whose weights differ from it.
fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in ["base", "a", "b"].iter().enumerate() {
        let model = folder.path().join(name);
        tiny_model::write(&model);
        let path = model.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (place, value) in bytes[header..].chunks_exact_mut(4).enumerate() {
            let old = f32::from_le_bytes((&*value).try_into().unwrap());
            let delta = ((place * (7 + 2 * i)) % 11) as f32 - 5.0;
            value.copy_from_slice(&(old + 0.01 * i as f32 * delta).to_le_bytes());
        }
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.path().join("merge.toml"), RECIPE).unwrap();
    fs::write(folder.path().join("merge.yaml"), YAML).unwrap();
    folder
}

fn merge(folder: &Path, arguments: &[&str]) -> Finished {
    run_inside(folder, [&["merge"], arguments].concat())
}

#[test]
fn a_recipe_and_a_file_of_mergekit_give_the_same_model() {
    let folder = models();
    let done = merge(folder.path(), &["merge.toml"]).expect_status(0);
    assert!(done.stdout.contains("kept of a: 5"), "{}", done.stdout);
    assert!(done.stdout.contains("sign conflicts: "), "{}", done.stdout);
    assert!(done.stdout.contains("merged model  merged"), "{}", done.stdout);
    let done = merge(folder.path(), &["merge.yaml", "--output", "other", "--json", "--threads", "1"])
        .expect_status(0);
    done.expect_stderr(&["`int8_mask` is left out"]);
    let weights = |name: &str| fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
    assert!(weights("merged") == weights("other"));
    assert!(weights("merged") != weights("base"));
    // It is a model like any other.
    let shown = run_inside(folder.path(), ["inspect", "model", "merged", "--json"]).expect_status(0);
    assert!(serde_json::from_str::<Value>(&shown.stdout).is_ok(), "{}", shown.stdout);
    run_inside(folder.path(), ["generate", "--model", "merged", "--max-new-tokens", "3", "Hi"])
        .expect_status(0);
}

#[test]
fn the_plan_reads_no_tensor_and_writes_nothing() {
    let folder = models();
    let plan = merge(folder.path(), &["merge.toml", "--plan", "--json"]).expect_status(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(
        [&plan["method"], &plan["layers"], &plan["tensors"]],
        [&Value::from("ties"), &2.into(), &20.into()]
    );
    assert_eq!(plan["models"][1]["weights"], serde_json::json!([0.2, 0.8]));
    let plan = merge(folder.path(), &["merge.toml", "--dry-run"]).expect_status(0);
    assert!(plan.stdout.contains("0.2 to 0.8"), "{}", plan.stdout);
    assert!(plan.stdout.contains("ties of 3 models: 20 tensors"), "{}", plan.stdout);
    assert!(!folder.path().join("merged").exists());
}

#[test]
fn mistakes_are_found_before_anything_is_written() {
    let folder = models();
    let check = |text: &str, expected: &[&str]| {
        fs::write(folder.path().join("wrong.toml"), text).unwrap();
        merge(folder.path(), &["wrong.toml"]).expect_status(2).expect_stderr(expected);
        assert!(!folder.path().join("merged").exists());
    };
    check(
        &RECIPE.replace("density", "densty"),
        &["wrong.toml:4: unknown key `densty`; the nearest known key is `density`"],
    );
    check(
        &RECIPE.replace("\"ties\"", "\"dare-ties\""),
        &["unknown merge method `dare-ties` (nearest: `dare_ties`)"],
    );
    check(
        &RECIPE.replace("density = 0.5", "density = 0"),
        &["`density` is 0 for tensor", "expected a number above 0"],
    );
    check(&RECIPE.replace("0.5 }", "nan }"), &["`density` is NaN, expected a finite number"]);
    check(
        &RECIPE.replace("[0.2, 0.8]", "\"half\""),
        &["wrong.toml:7: ", "expected a number, a list of numbers"],
    );
    check(&RECIPE.replace("base_model = \"base\"\n", ""), &["`ties` needs a base model"]);
    check(&RECIPE.replace("model = \"b\"", "model = \"bb\""), &["model `bb` was not found"]);
    check(
        &RECIPE.replace("output_dir = \"merged\"\n", ""),
        &["the recipe has no `output_dir`", "--output FOLDER"],
    );
    check(&RECIPE.replace("\"merged\"", "\"a\""), &["exists already; a merge never replaces a folder"]);
    fs::remove_file(folder.path().join("b/tokenizer.json")).unwrap();
    check(RECIPE, &["there is no tokenizer.json"]);
}
