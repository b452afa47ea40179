//! `truing evaluate` and `truing merge search` from the command line: the same command continues a run, with and
//! without `--resume`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::command::run_inside;
use crate::tiny_model;

const EVALUATE: &str = r#"
stage = "evaluate"
output_dir = "run"
max_new_tokens = 3

[model]
model_name_or_path = "model"

[[task]]
path = "sums.jsonl"

[task.custom]
name = "sums"
prompt = "{{ question }}"
scorer = [{ kind = { exact_match = {} } }]
"#;

const MERGE_SEARCH: &str = r#"
stage = "merge_search"
output_dir = "search"
methods = ["linear"]
n_candidates = 2
n_rounds = 1
n_refined = 0

[[models]]
model = "model"
ability = "arc"

[[models]]
model = "other"

[[task]]
name = "arc"
path = "arc.jsonl"
"#;

fn write_lines(path: &Path, rows: impl IntoIterator<Item = Value>) {
    fs::write(path, rows.into_iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    tiny_model::write(&path("model"));
    write_lines(
        &path("sums.jsonl"),
        (0..6).map(|n| json!({"question": format!("{n} + 1 ="), "answer": (n + 1).to_string()})),
    );
    write_lines(
        &path("arc.jsonl"),
        (0..8).map(|n| {
            json!({"id": n.to_string(), "question": format!("Which is {n}?"), "answerKey": "B",
                "choices": {"text": ["one thing", format!("the number {n}")], "label": ["A", "B"]}})
        }),
    );
    fs::write(path("evaluate.toml"), EVALUATE).unwrap();
    fs::write(path("search.toml"), MERGE_SEARCH).unwrap();
    folder
}

/// The lines of a file, as answers arrive in any order.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_same_command_continues_an_evaluation() {
    let folder = folder();
    let evaluate = |more: &[&str]| run_inside(folder.path(), [&["evaluate", "evaluate.toml"], more].concat());
    let plan = evaluate(&["--plan"]).expect_status(0).stdout;
    assert!(plan.contains("smallest difference") && plan.contains("none, too few items (6)"), "{plan}");
    evaluate(&[]).expect_status(0).expect_stderr(&["can be shown: none, too few items (6)"]);
    let answers = folder.path().join("run/answers.jsonl");
    let whole = fs::read_to_string(&answers).unwrap();
    assert_eq!(whole.lines().count(), 6);
    for more in [&[][..], &["--resume"]] {
        // As it is left by a run that was killed: two answers, and no results.
        let two: String = whole.lines().take(2).map(|line| format!("{line}\n")).collect();
        fs::write(&answers, two).unwrap();
        fs::remove_file(folder.path().join("run/results.json")).unwrap();
        evaluate(more).expect_status(0).expect_stderr(&["holds this run already"]);
        assert_eq!(sorted(&fs::read_to_string(&answers).unwrap()), sorted(&whole), "{more:?}");
        assert!(folder.path().join("run/results.json").is_file(), "{more:?}");
    }
    // One file of each kind, named after the beginning as lm-evaluation-harness names them.
    let names = fs::read_dir(folder.path().join("run")).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("results_") || name.starts_with("samples_"));
    names.sort_unstable();
    let [results, samples] = &names[..] else { panic!("{names:?}") };
    let date = results.strip_prefix("results_").unwrap().strip_suffix(".json").unwrap();
    assert!(date.len() == 26 && date.as_bytes()[10] == b'T', "{date}");
    assert_eq!(*samples, format!("samples_sums_{date}.jsonl"));
    evaluate(&["--set", "limit=2"])
        .expect_status(2)
        .expect_stderr(&["another recipe: limit changed", "`--set output_dir=...` starts another run"]);
}

#[test]
fn the_same_command_continues_a_search_and_says_what_its_items_cannot_show() {
    let folder = folder();
    tiny_model::write(&folder.path().join("other"));
    let search =
        |more: &[&str]| run_inside(folder.path(), [&["merge", "search", "search.toml"], more].concat());
    let first = search(&[]).expect_status(0);
    // Four held-out items: no test can find anything on them.
    assert!(first.stdout.contains("no difference can be resolved with 4 items"), "{}", first.stdout);
    let record = fs::read_to_string(folder.path().join("search/search.json")).unwrap();
    assert!(record.contains("no difference can be resolved with 4 items"), "{record}");
    let plan = search(&["--plan"]).expect_status(0);
    assert!(plan.stdout.contains("none, too few items (4)"), "{}", plan.stdout);
    for more in [&[][..], &["--resume"]] {
        fs::remove_file(folder.path().join("search/search.json")).unwrap();
        fs::remove_dir_all(folder.path().join("search/model")).unwrap();
        search(more).expect_status(0).expect_stderr(&["holds this run already"]);
        assert_eq!(fs::read_to_string(folder.path().join("search/search.json")).unwrap(), record);
    }
}

#[test]
fn options_of_lm_evaluation_harness_are_taken_or_explained() {
    let folder = folder();
    let evaluate = |arguments: &[&str]| run_inside(folder.path(), [&["evaluate"], arguments].concat());
    let harness = ["--model", "hf", "--model_args", "pretrained=model", "--tasks", "arc=arc.jsonl"];
    let more = ["--limit", "0.5", "--log_samples", "--batch_size", "8", "--output_path", "quick"];
    evaluate(&[&harness[..], &more].concat())
        .expect_status(0)
        .expect_stderr(&["only 4 of 8 rows are used", "`--batch-size 8` is left out"]);
    let items = fs::read_to_string(folder.path().join("quick/items_arc.jsonl")).unwrap();
    assert_eq!(items.lines().count(), 4);
    for (arguments, expected) in [
        (&["--model", "model", "--tasks", "arc"][..], "`arc`: expected NAME=PATH"),
        (&["--model", "hf", "--tasks", "arc=arc.jsonl"], "`--model hf` names no model"),
        (
            &["--model", "hf", "--model_args", "pretrained=model,dtype=float16", "--tasks", "arc=arc.jsonl"],
            "expected `--model PATH`, or `--model hf --model_args pretrained=PATH`",
        ),
        (&["--model", "model", "--tasks", "arc=arc.jsonl", "--limit", "1.5"], "`limit` is 1.5"),
    ] {
        evaluate(arguments).expect_status(2).expect_stderr(&[expected]);
    }
}

#[test]
fn differences_from_published_programs_are_listed() {
    let folder = folder();
    let list = |more: &[&str]| run_inside(folder.path(), [&["evaluate", "list"], more].concat());
    let one = list(&["cfbench"]).expect_status(0).stdout;
    assert!(one.contains("cfbench: differences from the published program"), "{one}");
    assert!(one.contains("- a record without any readable verdict is unscored"), "{one}");
    assert!(!one.contains("alpaca_eval"), "{one}");
    assert!(!list(&[]).expect_status(0).stdout.contains("differences from"));
    let all = list(&["--differences"]).expect_status(0).stdout;
    assert!(all.contains("cfbench: differences") && all.contains("arena_hard_v2: differences"), "{all}");
    list(&["cfbnch"]).expect_status(2).expect_stderr(&["did you mean `cfbench`?"]);
}
