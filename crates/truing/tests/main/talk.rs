//! Chat, generate and the quickstart on a tiny model.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::command::{run, run_inside, truing};
use crate::tiny_model;

/// A folder with a tiny model in `model`.
fn workshop() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    tiny_model::write(&model);
    let model = model.display().to_string();
    (folder, model)
}

#[test]
fn generate_is_deterministic_and_takes_text_file_and_lines() {
    let (folder, model) = workshop();
    let with = |more: &[&str]| {
        let first = ["generate", "--model", &model, "--max-new-tokens", "8"];
        run(folder.path(), first.iter().copied().chain(more.iter().copied())).expect_status(0).stdout
    };
    let greedy = with(&["Hello"]);
    assert_eq!(greedy, with(&["Hello"]));
    let sampled = ["Hello", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.9", "--seed", "5"];
    assert_eq!(with(&sampled), with(&sampled));
    let as_json: Value = serde_json::from_str(&with(&["Hello", "--json"])).unwrap();
    assert_eq!(format!("{}\n", as_json["text"].as_str().unwrap()), greedy);
    assert_eq!(as_json["n_new_tokens"], 8);
    let raw: Value = serde_json::from_str(&with(&["Hello", "--json", "--raw"])).unwrap();
    assert_eq!(raw["n_prompt_tokens"], 5, "one token a byte, and no template");

    let file = folder.path().join("prompts.jsonl");
    fs::write(
        &file,
        "{\"prompt\": \"Hello\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}\n",
    )
    .unwrap();
    let lines = with(&["--file", file.to_str().unwrap()]);
    let replies: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.len(), 2);
    assert_eq!((&replies[0]["text"], &replies[1]["text"]), (&as_json["text"], &as_json["text"]));
}

#[test]
fn generate_refuses_what_it_cannot_do() {
    let (folder, model) = workshop();
    for (more, expected) in [
        (&["x", "--temperature=-1"][..], "`--temperature` is -1, expected 0 or more"),
        (&["x", "--top-p", "0"], "`--top-p` is 0"),
        (&["--file", "no-such-file"], "cannot read no-such-file"),
        (&["", "--raw"], "the prompt is empty"),
    ] {
        let arguments = ["generate", "--model", &model].into_iter().chain(more.iter().copied());
        run(folder.path(), arguments).expect_status(2).expect_stderr(&["error: ", expected]);
    }
    run(folder.path(), ["generate", "--model", "no-such-model", "x"])
        .expect_status(2)
        .expect_stderr(&["error: ", "no-such-model"]);
    // As the folder of a run is: the model is in it.
    let of_run = folder.path().display().to_string();
    run(folder.path(), ["generate", "--model", &of_run, "x"])
        .expect_status(2)
        .expect_stderr(&[&format!("there is a model in `{model}`")]);
}

#[test]
fn a_chat_follows_lines_and_commands() {
    let (folder, model) = workshop();
    let mut child = truing(folder.path())
        .args(["chat", "--model", &model, "--max-new-tokens", "4", "--system", "Sing."])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Hello\n/nonsense\n/seed 3\n/reset\nHello\n/quit\nnever read\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("`/nonsense` is not a command"), "{stderr}");
    assert_eq!(stderr.matches("cut off at --max-new-tokens").count(), 2, "{stderr}");
    assert!(!output.stdout.is_empty());
}

/// The tiny model's tokens are bytes, so its samples are longer than the recipes' packs.
const LONG_SAMPLES: [&str; 6] =
    ["--set", "max_length=2048", "--set", "reward.max_length=2048", "--set", "grpo.max_prompt_length=1024"];

#[test]
fn the_quickstart_runs_to_its_report_and_resumes() {
    let (folder, model) = workshop();
    let output = folder.path().join("quickstart");
    let arguments = |more: &[&str]| -> Vec<String> {
        let first = ["quickstart", "--quiet", "--json", "--model", &model, "--output", "quickstart"];
        first.iter().chain(more).map(|&argument| argument.to_owned()).collect()
    };
    let settings = [&["--max-steps", "3"], &LONG_SAMPLES[..]].concat();
    // A setting of the last stage is checked before the first one begins.
    run_inside(folder.path(), arguments(&["--set", "grpo.max_stepz=3"]))
        .expect_status(2)
        .expect_stderr(&["max_stepz", "the nearest known key is `max_steps`"]);
    assert!(!output.join("evaluations").exists());
    let finished = run_inside(folder.path(), arguments(&settings)).expect_status(0);
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(result["status"], "finished");
    let evaluations = result["evaluations"].as_array().unwrap();
    assert_eq!((&evaluations[0]["label"], &evaluations[1]["label"]), (&"before".into(), &"after sft".into()));
    let loss = |idx: usize| evaluations[idx]["heldout_loss"].as_f64().unwrap();
    assert!(loss(1) < loss(0), "{} is not below {}", loss(1), loss(0));
    assert_eq!((evaluations.len(), &evaluations[2]["label"]), (3, &"after grpo".into()));
    assert_eq!(
        evaluations[0]["heldout_items"].as_array().unwrap().len(),
        59,
        "the loss of each conversation"
    );
    let n_of = |set: &str| {
        let answers = evaluations[1]["answers"].as_array().unwrap();
        answers.iter().filter(|answer| answer["set"] == set).count()
    };
    let sets = ["graded questions", "instructions followed", "general knowledge"];
    assert_eq!(sets.map(n_of), [96, 100, 120]);
    assert_eq!(evaluations[1]["open_answers"].as_array().unwrap().len(), 6);
    for stage in ["sft", "reward", "grpo"] {
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            assert!(output.join(stage).join("model").join(name).is_file(), "{stage}: {name}");
        }
    }
    let page = fs::read_to_string(output.join("report.html")).unwrap();
    for part in [
        "Questions, before and after",
        "chart-0-loss",
        "chart-1-preference_accuracy",
        "chart-1-accuracy_by_source",
        "chart-2-reward",
        "2. Reward model",
    ] {
        assert!(page.contains(part), "the page has no {part}");
    }

    run_inside(folder.path(), arguments(&settings))
        .expect_status(2)
        .expect_stderr(&["holds a quickstart already", "--resume"]);
    // The evaluation after the stage is lost; a resume makes it again, to the same figures, and trains nothing.
    fs::remove_file(output.join("evaluations/1-sft.json")).unwrap();
    let metrics = fs::read(output.join("sft/metrics.jsonl")).unwrap();
    // Neither the model nor a setting has to be repeated; another one is refused, and changes nothing.
    let resumed = ["quickstart", "--quiet", "--json", "--resume", "--output", "quickstart"];
    run_inside(folder.path(), [&resumed[..], &["--seed", "3"]].concat())
        .expect_status(2)
        .expect_stderr(&["seed"]);
    let begun = fs::read(output.join("settings.json")).unwrap();
    fs::write(output.join("settings.json"), &begun[..begun.len() / 2]).unwrap();
    run_inside(folder.path(), resumed)
        .expect_status(2)
        .expect_stderr(&["settings.json; delete it and give the settings"]);
    fs::write(output.join("settings.json"), &begun).unwrap();
    let again = run_inside(folder.path(), resumed).expect_status(0);
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["evaluations"], result["evaluations"]);
    assert_eq!(fs::read(output.join("sft/metrics.jsonl")).unwrap(), metrics);
    let recipe = fs::read_to_string(output.join("reward.toml")).unwrap();
    assert!(
        recipe.contains("truing run reward.toml --set 'max_length=2048' --set 'max_steps=3'"),
        "{recipe}"
    );
    // As if the policy's last step had been its kill, and the whole folder been moved: only contents are compared.
    fs::remove_dir_all(output.join("grpo/model")).unwrap();
    fs::remove_file(output.join("evaluations/2-grpo.json")).unwrap();
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    fs::rename(&output, folder.path().join("elsewhere/moved")).unwrap();
    let mut moved = arguments(&[&settings[..], &["--resume"]].concat());
    let place = moved.iter().rposition(|argument| argument == "quickstart").unwrap();
    moved[place] = "elsewhere/moved".into();
    let again = run_inside(folder.path(), moved).expect_status(0);
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["evaluations"], result["evaluations"]);
}

#[test]
fn a_quickstart_with_adapters_continues_with_the_merged_model() {
    let (folder, model) = workshop();
    let output = folder.path().join("quickstart");
    let output = output.to_str().unwrap();
    let finished = run(
        folder.path(),
        ["quickstart", "--quiet", "--json", "--model", &model, "--output", output, "--max-steps", "1"]
            .into_iter()
            .chain(LONG_SAMPLES)
            .chain(["--set", "lora.rank=4", "--set", "grpo.lora.rank=2"]),
    )
    .expect_status(0);
    let result: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(result["evaluations"].as_array().unwrap().len(), 3);
}
