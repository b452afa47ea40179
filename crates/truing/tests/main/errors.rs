//! The main errors as a user reads them, word for word: `tests/approved/errors.txt` is what the program prints.
//!
//! `TRUING_WRITE_REFERENCE=1 cargo test -p truing` writes the file anew; a change of it is to be read like one of the
//! code.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::command::run_inside;
use crate::tiny_model;

const HEADER: &str = "stage = \"sft\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n";
const DATA: &str = "[[data]]\npath = \"rows.jsonl\"\n";

/// What is wrong, and the command that meets it.
const CASES: [(&str, &[&str]); 26] = [
    ("an unknown command", &["reprot"]),
    ("a recipe that is not there", &["sft", "missing.toml"]),
    ("a recipe without its stage", &["sft", "no_stage.toml"]),
    ("a recipe of another stage", &["grpo", "recipe.toml"]),
    ("text that is not TOML", &["sft", "not_toml.toml"]),
    ("an unknown key", &["sft", "unknown_key.toml"]),
    ("a value of the wrong type", &["sft", "wrong_type.toml"]),
    ("a value out of its range", &["sft", "recipe.toml", "--set", "adam_beta2=1.5"]),
    ("an override without a value", &["sft", "recipe.toml", "--set", "seed"]),
    ("an override of an unknown key", &["sft", "recipe.toml", "--set", "lora.rnk=8"]),
    ("two settings that exclude each other", &["sft", "recipe.toml", "--set", "keep_best=true"]),
    ("a model that is not found", &["sft", "recipe.toml", "--set", "model_name_or_path=nobody/nothing"]),
    ("a folder without a model", &["inspect", "model", "empty"]),
    ("data that is not there", &["sft", "recipe.toml", "--set", "data.0.path=missing.jsonl"]),
    ("a row that is not JSON", &["sft", "recipe.toml", "--set", "data.0.path=broken.jsonl"]),
    ("a row of no known format", &["sft", "recipe.toml", "--set", "data.0.path=other.jsonl"]),
    ("a format that does not exist", &["sft", "recipe.toml", "--set", "data.0.format=alpaka"]),
    ("data without a token to learn from", &["sft", "recipe.toml", "--set", "data.0.path=silent.jsonl"]),
    ("a budget that is too small", &["sft", "recipe.toml", "--set", "memory_gib=0.001"]),
    (
        "a projection that the model does not have",
        &["sft", "recipe.toml", "--set", "lora.targets=[\"query\"]"],
    ),
    ("a folder that holds something else", &["sft", "recipe.toml", "--set", "output_dir=full"]),
    (
        "a folder in use, before the data are read",
        &["sft", "recipe.toml", "--set", "output_dir=full", "--set", "data.0.path=missing.jsonl"],
    ),
    (
        "a folder that cannot be made, before the data are read",
        &["sft", "recipe.toml", "--set", "output_dir=rows.jsonl/run", "--set", "data.0.path=missing.jsonl"],
    ),
    ("a reward without its setting", &["grpo", "policy.toml"]),
    ("a report of no run", &["report", "empty"]),
    (
        "a language model where a classifier is needed",
        &["label", "predict", "--model", "model", "--data", "rows.jsonl", "--output", "out.jsonl"],
    ),
];

fn prepare(home: &Path) {
    let write = |name: &str, text: &str| fs::write(home.join(name), text).unwrap();
    tiny_model::write(&home.join("model"));
    fs::create_dir(home.join("empty")).unwrap();
    fs::create_dir(home.join("full")).unwrap();
    write("full/metrics.jsonl", "{}\n");
    let row = |answer: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"2 + 3?\"}}, {{\"role\": \"assistant\", \"content\": \
             \"{answer}\"}}]}}\n"
        )
    };
    write("rows.jsonl", &row("5").repeat(6));
    write("broken.jsonl", &format!("{}{{\"messages\": [\n", row("5")));
    write("other.jsonl", "{\"question_text\": \"2 + 3?\", \"solution_text\": \"5\"}\n");
    write("silent.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"2 + 3?\"}]}\n");
    write("recipe.toml", &format!("{HEADER}{DATA}"));
    write("no_stage.toml", "model_name_or_path = \"model\"\n[preference]\nbeta = 0.1\n");
    write("not_toml.toml", "stage = \"sft\"\nlearning_rate = = 1\n");
    write("unknown_key.toml", &format!("{HEADER}learning_rat = 1e-5\n{DATA}"));
    write("wrong_type.toml", &format!("{HEADER}seed = 3\nlearning_rate = \"fast\"\n{DATA}"));
    write(
        "policy.toml",
        "stage = \"grpo\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n[[data]]\npath = \"rows.jsonl\"\n",
    );
}

#[test]
fn a_file_of_another_kind_is_named_with_the_command_that_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let said = |command: &[&str], file: &Path| {
        let file = file.display().to_string();
        run_inside(home.path(), [command, &[&*file]].concat()).expect_status(2).stderr
    };
    for (file, expected) in [
        ("pipeline_tiny.toml", "this is the recipe of a pipeline; run `truing pipeline plan "),
        ("merge.toml", "this is the recipe of a merge; run `truing merge "),
        ("annotate.toml", "this is the recipe of an annotation by people; run `truing annotate serve "),
        ("cluster_h100.toml", "this is the description of a cluster; run `truing plan --cluster "),
        ("data/labels.toml", "this is a label set; a recipe of stage \"label\" names it in `label_set`"),
    ] {
        for command in [&["sft"][..], &["run"], &["plan"], &["evaluate"], &["label"], &["merge", "search"]] {
            let stderr = said(command, &recipes.join(file));
            assert!(stderr.contains(expected), "{command:?} {file}: {stderr}");
        }
    }
    let pipeline = said(&["merge"], &recipes.join("pipeline_tiny.toml"));
    assert!(pipeline.contains("this is the recipe of a pipeline"), "{pipeline}");
    for (file, expected) in [
        ("tiny.toml", "this is a recipe of stage \"sft\"; run it with `truing sft`"),
        ("label.toml", "this is a recipe of stage \"label\"; run it with `truing label`"),
    ] {
        let text = fs::read_to_string(recipes.join(file)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("stage ="));
        let without_stage = home.path().join(file);
        fs::write(&without_stage, lines.collect::<Vec<_>>().join("\n")).unwrap();
        for command in [&["merge"][..], &["annotate", "serve"], &["pipeline", "plan"], &["plan", "--cluster"]]
        {
            for file in [&recipes.join(file), &without_stage] {
                let stderr = said(command, file);
                assert!(stderr.contains(expected), "{command:?} {}: {stderr}", file.display());
            }
        }
    }
    let stderr = said(&["sft"], &home.path().join("label.toml"));
    assert!(stderr.contains("add this line at the top: stage = \"label\""), "{stderr}");
    assert!(stderr.contains("hint: then run it with `truing label "), "{stderr}");
}

#[test]
fn a_yaml_file_is_named_with_the_command_that_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    write("mergekit.yaml", "merge_method: linear\nmodels:\n  - model: a\n");
    write("trainer.yaml", "model_name_or_path: a\ncutoff_len: 1024\n");
    for (command, file, expected) in [
        ("sft", "mergekit.yaml", "hint: `truing merge mergekit.yaml` merges by a file of mergekit"),
        ("import", "mergekit.yaml", "hint: `truing merge mergekit.yaml` merges by a file of mergekit"),
        ("sft", "trainer.yaml", "hint: `truing import trainer.yaml` makes a recipe"),
        ("run", "trainer.yaml", "hint: `truing import trainer.yaml` makes a recipe"),
        ("plan", "trainer.yaml", "hint: `truing import trainer.yaml` makes a recipe"),
        ("merge", "trainer.yaml", "hint: `truing import trainer.yaml` makes a recipe"),
    ] {
        run_inside(home.path(), [command, file]).expect_status(2).expect_stderr(&[expected]);
    }
}

/// Whether a line only says how far a phase is: it carries a time.
fn is_progress(line: &str) -> bool {
    line.ends_with(" ...") || line.contains(": done in ")
}

#[test]
fn the_main_errors_are_those_approved() {
    let home = tempfile::tempdir().unwrap();
    prepare(home.path());
    let mut printed = String::new();
    for (what, arguments) in CASES {
        let finished = run_inside(home.path(), arguments);
        let shown =
            arguments.iter().map(|a| if a.contains(['[', ' ']) { format!("'{a}'") } else { (*a).to_owned() });
        let shown: Vec<String> = shown.collect();
        let folder = home.path().to_string_lossy();
        writeln!(printed, "# {what}\n$ truing {}", shown.join(" ")).unwrap();
        for line in finished.stdout.lines().chain(finished.stderr.lines()).filter(|line| !is_progress(line)) {
            let line = line.replace(&*folder, "FOLDER");
            // The bytes that the process itself holds differ by machine.
            let line = match line.split_once(" are needed") {
                Some((_, rest)) => format!("at least N MiB are needed{rest}"),
                None => line,
            };
            writeln!(printed, "{line}").unwrap();
        }
        writeln!(printed, "exit status {}\n", finished.status.unwrap()).unwrap();
    }
    assert!(!home.path().join("run").exists(), "nothing is left behind");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/approved/errors.txt");
    if std::env::var_os("TRUING_WRITE_REFERENCE").is_some() {
        fs::write(&path, &printed).unwrap();
    }
    let approved = fs::read_to_string(&path).unwrap_or_default();
    for (approved, printed) in approved.split("\n\n").zip(printed.split("\n\n")) {
        assert_eq!(approved, printed, "TRUING_WRITE_REFERENCE=1 writes tests/approved/errors.txt anew");
    }
    assert_eq!(approved.len(), printed.len());
}

/// Commands, recipes of models that cannot be had, and a value that is wrong without looking at any model.
const WITHOUT_MODEL: [(&[&str], &str, &str, &str); 14] = [
    (&["sft"], "stage = \"sft\"", "learning_rate=-1", "`learning_rate` is -1"),
    (&["run"], "stage = \"sft\"", "warmup_ratio=2", "`warmup_ratio` is 2"),
    (&["plan"], "stage = \"sft\"", "max_length=1", "`max_length` is 1"),
    (&["sft"], "stage = \"sft\"", "data.0.format=alpaka", "unknown format `alpaka`"),
    (&["sft"], "stage = \"sft\"", "data.0.weight=0", "`weight` is 0"),
    (&["dpo"], "stage = \"dpo\"", "preference.beta=-1", "`preference.beta` is -1"),
    (&["dpo"], "stage = \"dpo\"", "data.0.format=alpaka", "unknown format `alpaka`"),
    (
        &["reward", "train"],
        "stage = \"reward_model\"",
        "reward_model.max_responses=1",
        "`reward_model.max_responses` is 1",
    ),
    (
        &["distill"],
        "stage = \"distill\"\ndistillation = { teacher = { model_name_or_path = \"nobody/teacher\" } }",
        "distillation.temperature=0",
        "`distillation.temperature` is 0",
    ),
    (&["label", "train"], "stage = \"classifier\"", "classifier.min_count=0", "`classifier.min_count` is 0"),
    (
        &["grpo"],
        "stage = \"grpo\"\nreward = [{ kind = { math_answer = {} } }]",
        "num_generations=1",
        "`num_generations` is 1",
    ),
    (
        &["score", "--data", "rows.jsonl"],
        "stage = \"grpo\"\nreward = [{ kind = { length = { at_least = 2 } } }]",
        "reward.0.kind.length.at_most=1",
        "at_most",
    ),
    (
        &["embed", "train"],
        "stage = \"embed\"\ntrain_data = \"rows.jsonl\"",
        "batch_size=0",
        "`batch_size` is 0",
    ),
    (
        &["evaluate"],
        "stage = \"evaluate\"\nmodel = { model_name_or_path = \"nobody/nothing\" }\n\
         task = [{ name = \"ifeval\", path = \"rows.jsonl\" }]",
        "seeds=0",
        "`seeds` is 0",
    ),
];

#[test]
fn values_are_checked_before_a_model_is_looked_for() {
    let home = tempfile::tempdir().unwrap();
    prepare(home.path());
    for (command, head, change, expected) in WITHOUT_MODEL {
        let of_stage = match command {
            ["evaluate"] => "",
            ["embed", _] => "model_name_or_path = \"nobody/nothing\"\n",
            _ => "model_name_or_path = \"nobody/nothing\"\n[[data]]\npath = \"rows.jsonl\"\n",
        };
        let recipe = format!("{head}\noutput_dir = \"run\"\n{of_stage}");
        fs::write(home.path().join("unreachable.toml"), recipe).unwrap();
        let (first, rest) = command.split_at(command.len().min(2 - usize::from(command[0] == "score")));
        let on_recipe = |more: &[&'static str]| [first, &["unreachable.toml"], rest, more].concat();
        // Without the change the model is what is missing.
        let untouched = run_inside(home.path(), on_recipe(&[])).expect_status(2);
        assert!(
            untouched.stderr.contains("`nobody/nothing` was not found"),
            "{command:?}: {}",
            untouched.stderr
        );
        let changed = run_inside(home.path(), on_recipe(&["--set", change])).expect_status(2);
        assert!(changed.stderr.contains(expected), "{change}: {}", changed.stderr);
        assert!(!changed.stderr.contains("was not found"), "{change}: {}", changed.stderr);
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_setting() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    let annotation = "output_dir = \"run\"\noverlap = 1\n[gold]\npath = \"gold.jsonl\"\nshare = 0.1\n\
                      [[data]]\npath = \"items.jsonl\"\n[[annotator]]\nname = \"one\"\n[[question]]\nname = \"best\"\n\
                      annotation_type = \"ranking\"\n";
    write("annotation.toml", annotation);
    write(
        "evaluation.toml",
        "stage = \"evaluate\"\noutput_dir = \"run\"\n[model]\n\
         server = { base_url = \"http://127.0.0.1:1/v1\", model = \"m\" }\n[[task]]\nname = \"ifeval\"\n\
         path = \"missing.jsonl\"\n",
    );
    let said = |arguments: &[&str]| run_inside(home.path(), arguments).expect_status(2);
    said(&["evaluate", "evaluation.toml"])
        .expect_stderr(&["error: evaluation.toml:7: `task.0.path`: cannot "]);
    said(&["annotate", "serve", "annotation.toml", "--port", "0"])
        .expect_stderr(&["annotation.toml:7: `data.0.path`: cannot open `"]);
    write("items.jsonl", "{\"prompt\": \"Sing.\", \"responses\": [\"la\", \"lo\"]}\n");
    said(&["annotate", "serve", "annotation.toml", "--port", "0"])
        .expect_stderr(&["annotation.toml:4: `gold.path`: cannot open `"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_in_which_none_can_be_made_is_named_with_its_setting() {
    let home = tempfile::tempdir().unwrap();
    prepare(home.path());
    let finished = run_inside(home.path(), ["sft", "recipe.toml", "--set", "output_dir=/proc/run"]);
    finished.expect_status(2).expect_stderr(&[
        "error: --set output_dir=/proc/run: `output_dir` is /proc/run: expected another folder: /proc cannot be \
         written to (no folder can be made there)",
    ]);
}
