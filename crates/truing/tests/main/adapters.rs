//! An adapter is told from a model, is used like one, and a base that is not found is named.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::command::run;
use crate::tiny_model;

const RECIPE: &str = r#"
stage = "reward_model"
model_name_or_path = "model"
output_dir = "run"
max_length = 256
max_steps = 2
packs_per_step = 2
learning_rate = 1e-2
save_dtype = "f32"
[lora]
rank = 4
alpha = 8.0
targets = ["q_proj", "v_proj"]
[[data]]
path = "pairs.jsonl"
"#;

fn workshop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny_model::write(&folder.path().join("model"));
    let (mut pairs, mut songs) = (String::new(), String::new());
    for i in 0..24 {
        let responses = r#"[{"content": "yes"}, {"content": "no no"}]"#;
        pairs += &format!("{{\"prompt\": \"{i}?\", \"responses\": {responses}}}\n");
        songs += &format!("{{\"prompt\": \"Sing {i}.\", \"completion\": \"la la\"}}\n");
    }
    fs::write(
        folder.path().join("pairs.jsonl"),
        pairs.replace("\"no no\"", "\"no no\", \"rank\": 1").replace("\"yes\"", "\"yes\", \"rank\": 0"),
    )
    .unwrap();
    fs::write(folder.path().join("songs.jsonl"), songs).unwrap();
    fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
    folder
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn an_adapter_is_called_one_and_generates_scores_and_is_inspected() {
    let folder = workshop();
    let recipe = path(folder.path(), "recipe.toml");
    let told = run(folder.path(), ["reward", "train", &recipe]).expect_status(0);
    assert!(told.stdout.contains("adapter ") && !told.stdout.contains("model  "), "{}", told.stdout);
    assert!(
        told.stderr.contains("saved adapter: ") && !told.stderr.contains("saved model"),
        "{}",
        told.stderr
    );

    let (adapter, base) = (path(folder.path(), "run/model"), path(folder.path(), "model"));
    let shown = run(folder.path(), ["inspect", "model", &adapter]).expect_status(0).stdout;
    // A long cell continues in the next line.
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in
        ["(adapter)", "LoRA of rank 4", "all of score.weight", &base, "LlamaForSequenceClassification"]
    {
        assert!(shown.contains(text), "no `{text}` in {shown}");
    }
    let json = run(folder.path(), ["inspect", "model", &adapter, "--json"]).expect_status(0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["kind"].as_str(), json["adapter"]["base_path"].as_str()),
        (Some("adapter"), Some(&*base))
    );
    assert_eq!(json["n_tensors"], 9);

    let data = path(folder.path(), "pairs.jsonl");
    let scored = run(folder.path(), ["reward", "score", &adapter, &data]).expect_status(0);
    assert_eq!(scored.stdout.lines().count(), 48);
    scored.expect_stderr(&["is an adapter (rank 4", &base]);

    let [output, data] = [("output_dir", "songs"), ("data.0.path", "songs.jsonl")]
        .map(|(key, name)| format!("{key}={}", path(folder.path(), name)));
    run(folder.path(), ["sft", &recipe, "--set", &output, "--set", &data])
        .expect_status(2)
        .expect_stderr(&["this is a recipe of stage \"reward_model\"; run it with `truing reward train`"]);
    let settings = ["--set", "stage=sft", "--set", &output, "--set", &data];
    run(folder.path(), ["sft", &recipe].into_iter().chain(settings)).expect_status(0);
    let adapter = path(folder.path(), "songs/model");
    let arguments = ["generate", "--model", &adapter, "--max-new-tokens", "4", "Hello"];
    run(folder.path(), arguments).expect_status(0).expect_stderr(&["is an adapter", "merged into the base"]);

    fs::rename(folder.path().join("model"), folder.path().join("moved")).unwrap();
    for arguments in [["inspect", "model", &adapter].as_slice(), &["generate", "--model", &adapter, "Hello"]]
    {
        let told = run(folder.path(), arguments);
        assert_ne!(told.status, Some(0));
        let text = told.stdout + &told.stderr;
        assert!(text.contains(&adapter) && text.contains(&base) && text.contains("not found"), "{text}");
    }
}

#[test]
fn files_that_contradict_each_other_are_said_where_a_model_is_inspected_and_loaded() {
    let folder = workshop();
    let model = folder.path().join("model");
    let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}"#;
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    let told = "`model.safetensors` is loaded";
    let model = model.display().to_string();
    let shown = run(folder.path(), ["inspect", "model", &model]).expect_status(0).stdout;
    assert!(shown.contains(told), "{shown}");
    let arguments = ["generate", "--model", &model, "--max-new-tokens", "4", "Hello"];
    run(folder.path(), arguments).expect_status(0).expect_stderr(&[told]);
}
