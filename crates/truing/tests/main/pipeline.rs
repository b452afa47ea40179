//! `truing pipeline` from the command line: real stages, run once, and again when something changes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
#[cfg(unix)]
use std::{process::Stdio, time::Duration, time::Instant};

use serde_json::Value;

#[cfg(unix)]
use crate::command::truing;
use crate::command::{Finished, run};
use crate::sft::Workshop;

const PIPELINE: &str = r#"
[stages.sft]
uses = "sft"
recipe = "recipe.toml"
with = { max_steps = 3, eval_steps = 3, learning_rate = 1e-3 }

[stages.merge]
uses = "merge"

[stages.merge.with]
method = "linear"
models = [{ model = "model" }, { model = "${stages.sft.model}" }]
parameters = { weight = 0.5 }

[stages.evaluate]
uses = "evaluate"

[stages.evaluate.with]
max_new_tokens = 3
model = { model_name_or_path = "${stages.merge.model}" }

[[stages.evaluate.with.task]]
path = "sums.jsonl"

[stages.evaluate.with.task.custom]
name = "sums"
prompt = "{{ question }}"
scorer = [{ kind = { exact_match = {} } }]
"#;

struct Pipeline(Workshop);

impl Pipeline {
    fn new() -> Self {
        let workshop = Workshop::new();
        let sums: String =
            (0..4).map(|n| format!("{{\"question\": \"{n} + 1 =\", \"answer\": \"{}\"}}\n", n + 1)).collect();
        fs::write(workshop.path("sums.jsonl"), sums).unwrap();
        fs::write(workshop.path("songs.toml"), PIPELINE).unwrap();
        Self(workshop)
    }

    fn run(&self, command: &str, more: &[&str]) -> Finished {
        let recipe = self.0.path("songs.toml").display().to_string();
        run(self.0.home(), [&["pipeline", command, &recipe], more].concat())
    }

    fn json(&self, command: &str, more: &[&str]) -> Value {
        let done = self.run(command, &[more, &["--json"]].concat()).expect_status(0);
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
    }

    fn states(&self) -> Vec<String> {
        let plan = self.json("status", &[]);
        let stages = plan["stages"].as_array().unwrap().iter();
        stages.map(|stage| format!("{} {}", stage["stage"], stage["state"]).replace('"', "")).collect()
    }

    fn edit(&self, old: &str, new: &str) {
        let path = self.0.path("songs.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{text}");
        fs::write(path, text.replace(old, new)).unwrap();
    }
}

#[test]
fn a_pipeline_runs_once_and_again_what_an_edit_affects() {
    let pipeline = Pipeline::new();
    let planned = pipeline.run("plan", &[]).expect_status(0).stdout;
    assert!(planned.contains("3 of 3 stages to run"), "{planned}");
    assert!(!pipeline.0.path("truing.lock").exists());
    let applied = pipeline.json("apply", &["--quiet"]);
    assert_eq!(applied["ran"], serde_json::json!(["sft", "merge", "evaluate"]), "{applied}");
    let lock = fs::read_to_string(pipeline.0.path("truing.lock")).unwrap();
    // Every output that the table of stages names is there.
    for path in [
        "sft/model/config.json",
        "merge/model/config.json",
        "evaluate/results.json",
        "evaluate/answers.jsonl",
    ] {
        assert!(pipeline.0.path("pipeline-out/songs").join(path).is_file(), "{path}");
    }
    let again = pipeline.run("apply", &[]).expect_status(0);
    assert!(again.stdout.starts_with("0 ran, 0 from the store, 3 up to date"), "{}", again.stdout);

    // What decides nothing changes nothing.
    pipeline.edit("max_steps = 3,", "max_steps = 3, memory_gib = 2.0, logging_steps = 2,");
    assert_eq!(pipeline.states(), ["sft up_to_date", "merge up_to_date", "evaluate up_to_date"]);
    pipeline.edit("max_new_tokens = 3", "max_new_tokens = 4");
    let why = pipeline.run("why", &["evaluate"]).expect_status(0).stdout;
    assert!(why.contains("max_new_tokens: 3 -> 4") && why.contains("depends on it: nothing"), "{why}");
    assert_eq!(pipeline.json("apply", &[])["ran"], serde_json::json!(["evaluate"]));
    pipeline.edit("learning_rate = 1e-3", "learning_rate = 2e-3");
    assert_eq!(pipeline.states(), ["sft to_run", "merge to_run", "evaluate to_run"]);
    // With the first settings again nothing runs, and the lock file is as it was then.
    pipeline.edit("learning_rate = 2e-3", "learning_rate = 1e-3");
    pipeline.edit("max_new_tokens = 4", "max_new_tokens = 3");
    assert_eq!(pipeline.json("apply", &[])["reused"], serde_json::json!(["evaluate"]));
    assert_eq!(fs::read_to_string(pipeline.0.path("truing.lock")).unwrap(), lock);
    let removed = pipeline.json("gc", &[]);
    assert_eq!(removed["collected"]["removed"].as_array().unwrap().len(), 1, "{removed}");
    assert_eq!(pipeline.states(), ["sft up_to_date", "merge up_to_date", "evaluate up_to_date"]);
}

#[test]
#[cfg(all(unix, feature = "remote"))]
fn two_machines_share_results_through_a_folder() {
    let shared = tempfile::tempdir().unwrap();
    let remote = format!("[pipeline]\nremote = \"file://{}\"\n\n[stages.sft]", shared.path().display());
    let (first, second) = (Pipeline::new(), Pipeline::new());
    first.edit("[stages.sft]", &remote);
    second.edit("[stages.sft]", &remote);
    let applied = first.json("apply", &["--quiet"]);
    assert_eq!(applied["ran"], serde_json::json!(["sft", "merge", "evaluate"]), "{applied}");
    assert_eq!(second.states(), ["sft in_remote", "merge in_remote", "evaluate in_remote"]);
    let planned = second.run("plan", &[]).expect_status(0).stdout;
    assert!(planned.contains("0 of 3 stages to run, 3 to fetch"), "{planned}");
    assert!(second.run("plan", &["--offline"]).expect_status(0).stdout.contains("3 of 3 stages to run"));
    let pulled = second.run("pull", &["sft"]).expect_status(0).stdout;
    assert!(pulled.contains("fetched, "), "{pulled}");
    let applied = second.json("apply", &["--quiet"]);
    assert_eq!(applied["reused"], serde_json::json!(["sft"]), "{applied}");
    assert_eq!(applied["fetched"], serde_json::json!(["merge", "evaluate"]), "{applied}");
    let lock = |pipeline: &Pipeline| fs::read_to_string(pipeline.0.path("truing.lock")).unwrap();
    assert_eq!(lock(&first), lock(&second));
    assert!(second.0.path("pipeline-out/songs/report.html").is_file());
    let pushed = second.run("push", &[]).expect_status(0).stdout;
    assert_eq!(pushed.matches("there already").count(), 3, "{pushed}");
    // A remote that is gone is an error that says how to continue.
    drop(shared);
    second.run("status", &[]).expect_status(2).expect_stderr(&["create it, or mount it", "--offline"]);
    second.run("status", &["--offline"]).expect_status(0);
    second.run("gc", &["--remote"]).expect_status(2);
}

#[test]
fn a_row_is_followed_back_and_forward_and_a_model_has_a_card() {
    let pipeline = Pipeline::new();
    pipeline.run("apply", &["--quiet"]).expect_status(0);
    let shown = pipeline.run("lineage", &["sft", "3", "--tokens=0..4"]).expect_status(0).stdout;
    for expected in ["sft (sft) reads it as data.0.path", " with loss", "songs.jsonl:3"] {
        assert!(shown.contains(expected), "no `{expected}` in {shown}");
    }
    let trace = pipeline.json("lineage", &["sft/songs.jsonl", "3", "--tokens"]);
    assert_eq!((&trace["row"]["line"], &trace["row"]["stage"]), (&3.into(), &Value::Null), "{trace}");
    let tokens = &trace["tokens"];
    let n_tokens = tokens["n_tokens"].as_u64().unwrap();
    assert_eq!(tokens["tokens"].as_array().unwrap().len() as u64, n_tokens);
    assert!((1..n_tokens).contains(&tokens["n_loss_tokens"].as_u64().unwrap()), "{tokens}");
    pipeline.run("lineage", &["sft", "61"]).expect_status(2).expect_stderr(&["expected a line of 1 to 60"]);
    pipeline
        .run("lineage", &["evaluate/sums.jsonl", "1", "--tokens"])
        .expect_status(2)
        .expect_stderr(&["`--tokens` needs a row that a stage of kind `sft` reads"]);

    let impact = &pipeline.json("impact", &["--remove", "source=songs"])["impact"];
    assert_eq!(impact["runs_again"], serde_json::json!(["sft", "merge", "evaluate"]));
    let models = impact["models"].as_array().unwrap();
    let models: Vec<_> =
        models.iter().map(|model| (model["stage"].clone(), model["n_removed"].clone())).collect();
    assert_eq!(models, [("sft".into(), 60.into()), ("merge".into(), 0.into())]);
    pipeline
        .run("impact", &["--remove", "license"])
        .expect_status(2)
        .expect_stderr(&["`license` selects nothing: expected `FIELD=VALUE`"]);

    let card = pipeline.run("card", &["merge", "--license", "mit"]).expect_status(0).stdout;
    for expected in ["license: \"mit\"\n", "| songs.jsonl | 60 | not stated | sft |", "| sums | "] {
        assert!(card.contains(expected), "no `{expected}` in {card}");
    }
}

#[test]
fn apply_writes_a_page_and_runs_one_stage_where_it_is_told_to() {
    let pipeline = Pipeline::new();
    let page = pipeline.0.path("pipeline-out/songs/report.html");
    pipeline.run("apply", &["--only", "merge"]).expect_status(2).expect_stderr(&[
        "songs.toml:7: stage `merge`: it needs the result of stage `sft`, which is not there: run that stage first",
    ]);
    pipeline.run("apply", &["--only", "sfd"]).expect_status(2).expect_stderr(&["the nearest name is `sft`"]);
    assert_eq!(pipeline.json("apply", &["--only", "sft", "--quiet"])["ran"], serde_json::json!(["sft"]));
    assert_eq!(pipeline.states(), ["sft up_to_date", "merge to_run", "evaluate to_run"]);
    assert!(!page.exists(), "the page is that of the whole pipeline");
    let applied = pipeline.run("apply", &["--quiet"]).expect_status(0);
    assert!(applied.stdout.contains("page     "), "{}", applied.stdout);
    let html = fs::read_to_string(&page).unwrap();
    for expected in [
        "3 of 3 stages have results.",
        "2 ran, 0 from the store, 1 up to date",
        "<a href=\"sft/report.html\">",
        "<a href=\"evaluate/report.html\">",
        "<td class=\"figure\">sums ",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    // Where nothing is to be done the page stays.
    fs::write(&page, "as it was").unwrap();
    let again = pipeline.run("apply", &[]).expect_status(0);
    assert!(!again.stdout.contains("page"), "{}", again.stdout);
    assert_eq!(fs::read_to_string(&page).unwrap(), "as it was");
    pipeline.edit("max_new_tokens = 3", "max_new_tokens = 4");
    let other = pipeline.0.path("elsewhere/page.html");
    let shown = pipeline.json("report", &["--output", other.to_str().unwrap()]);
    assert!(shown["page"].as_str().unwrap().ends_with("elsewhere/page.html"), "{shown}");
    let html = fs::read_to_string(&other).unwrap();
    assert!(html.contains("2 of 3 stages have results; 1 to run."), "the stages as they are now");
    assert!(html.contains("max_new_tokens: 3 -&#62; 4"), "why it is to run");
    assert!(html.contains("<a href=\"../pipeline-out/songs/sft/report.html\">"), "links from there");
}

#[test]
fn a_pipeline_is_exported_with_what_its_stages_need() {
    let pipeline = Pipeline::new();
    let printed =
        pipeline.run("export", &["--format", "snakemake", "--memory-gib", "2"]).expect_status(0).stdout;
    for expected in ["rule stage_sft:", "        \"recipe.toml\",", "        \"sums.jsonl\",", "mem_mb="] {
        assert!(printed.contains(expected), "{expected} in\n{printed}");
    }
    assert!(printed.contains("workdir: os.path.join(workflow.basedir, \".\")"), "{printed}");
    let shown = pipeline.json("export", &["--format", "kubernetes", "--memory-gib", "2"]);
    let stages = shown["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    // The first stage predicts what it needs; the others have no inputs yet.
    assert_ne!(stages[0]["memory_bytes"], 2_u64 << 30, "{shown}");
    assert_eq!(stages[1]["memory_bytes"], 2_u64 << 30, "{shown}");
    assert!(shown["text"].as_str().unwrap().contains("kind: Workflow\n"), "{shown}");
    let file = pipeline.0.path("argo.yaml");
    pipeline.run("export", &["--format", "kubernetes", "--output", file.to_str().unwrap()]).expect_status(0);
    assert!(fs::read_to_string(&file).unwrap().contains("args: [\"--threads\""));
    pipeline.run("export", &["--format", "make"]).expect_status(2);
    pipeline
        .run("export", &["--format", "snakemake", "--memory-gib", "0"])
        .expect_status(2)
        .expect_stderr(&["`--memory-gib` is 0, expected a number above 0"]);
}

/// The program of `TRUING_TEST_SNAKEMAKE`, or the first of the path.
fn snakemake() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TRUING_TEST_SNAKEMAKE") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("snakemake")).find(|program| program.is_file())
}

#[test]
fn snakemake_runs_an_exported_pipeline() {
    let Some(program) = snakemake() else {
        println!("skipped: TRUING_TEST_SNAKEMAKE is not set, and there is no snakemake on the path");
        return;
    };
    let pipeline = Pipeline::new();
    let folder = pipeline.0.path("workflows");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("Snakefile");
    pipeline.run("export", &["--format", "snakemake", "--output", file.to_str().unwrap()]).expect_status(0);
    let run_all = || {
        let output = Command::new(&program)
            .args(["--cores", "2", "--config", concat!("truing=", env!("CARGO_BIN_EXE_truing"))])
            .current_dir(&folder)
            .env("HOME", pipeline.0.home())
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("TRUING_CACHE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
        said
    };
    run_all();
    assert_eq!(pipeline.states(), ["sft up_to_date", "merge up_to_date", "evaluate up_to_date"]);
    let n_runs = || fs::read_dir(pipeline.0.path(".truing/store/runs")).unwrap().count();
    assert_eq!(n_runs(), 3);
    let said = run_all();
    assert!(said.contains("Nothing to be done"), "{said}");
    // Snakemake starts every stage again, for the recipe has changed; one of them has something to do.
    pipeline.edit("max_new_tokens = 3", "max_new_tokens = 4");
    run_all();
    assert_eq!(pipeline.states(), ["sft up_to_date", "merge up_to_date", "evaluate up_to_date"]);
    assert_eq!(n_runs(), 4);
}

#[test]
fn mistakes_and_gates_have_their_exit_statuses() {
    let pipeline = Pipeline::new();
    pipeline.edit("max_steps = 3,", "max_stepz = 3,");
    pipeline.run("plan", &[]).expect_status(2).expect_stderr(&[
        "songs.toml:5: unknown key `max_stepz`; the nearest known key is `max_steps`",
        "stage `sft`",
    ]);
    pipeline.edit("max_stepz = 3,", "max_steps = 3,");
    // A value is refused before any model is looked for, and before the stages before it have run.
    pipeline.edit("{ model = \"model\" }", "{ model = \"nobody/nothing\" }");
    pipeline.edit("max_new_tokens = 3", "max_new_tokens = 0");
    pipeline.edit("learning_rate = 1e-3", "learning_rate = -1.0");
    pipeline
        .run("plan", &[])
        .expect_status(2)
        .expect_stderr(&["songs.toml:5: stage `sft`: `learning_rate` is -1: expected a number above 0"]);
    pipeline.edit("learning_rate = -1.0", "learning_rate = 1e-3");
    pipeline.edit("{ model = \"nobody/nothing\" }", "{ model = \"model\" }");
    pipeline
        .run("plan", &[])
        .expect_status(2)
        .expect_stderr(&["songs.toml:19: stage `evaluate`: `max_new_tokens` is 0: expected at least 1"]);
    pipeline.edit("max_new_tokens = 0", "max_new_tokens = 3");
    pipeline.edit("uses = \"sft\"", "uses = \"dpo\"");
    pipeline.run("plan", &[]).expect_status(2).expect_stderr(&[
        "songs.toml:4: stage `sft`: `uses` says \"dpo\", and this is a recipe of stage \"sft\"",
    ]);
    // The schema may be made by a stage before; other values of the rewards and of the stage are known.
    let policy = |learning_rate: &str, weight: &str| {
        let text = format!(
            "[stages.policy]\nuses = \"grpo\"\n[stages.policy.with]\nmodel_name_or_path = \"nobody/nothing\"\n\
             learning_rate = {learning_rate}\ndata = [{{ path = \"sums.jsonl\" }}]\n\
             reward = [{{ kind = {{ math_answer = {{}} }}, weight = {weight} }}, \
             {{ kind = {{ json_schema = {{ file = \"later.json\" }} }} }}]\n"
        );
        fs::write(pipeline.0.path("songs.toml"), text).unwrap();
        pipeline.run("plan", &[]).expect_status(2)
    };
    policy("-1.0", "1").expect_stderr(&["stage `policy`: `learning_rate` is -1: expected a number above 0"]);
    policy("1e-5", "0").expect_stderr(&["stage `policy`", "`weight` is 0, expected a number other than 0"]);
    let gate =
        "[stages.review]\nuses = \"gate\"\nwith = { file = \"review.jsonl\", message = \"read them\" }\n";
    fs::write(pipeline.0.path("songs.toml"), gate).unwrap();
    let waiting = pipeline.run("apply", &[]).expect_status(75);
    assert!(waiting.stdout.contains("review.jsonl: read them"), "{}", waiting.stdout);
    fs::write(pipeline.0.path("review.jsonl"), "{}\n").unwrap();
    pipeline.run("apply", &[]).expect_status(0);
    assert_eq!(pipeline.states(), ["review up_to_date"]);
}

#[test]
fn a_command_of_the_name_truing_is_the_program_that_runs_the_pipeline() {
    let pipeline = Pipeline::new();
    let gate = "[stages.review]\nuses = \"gate\"\nwith = { file = \"review.jsonl\" }\n";
    fs::write(pipeline.0.path("reviewed.toml"), gate).unwrap();
    let command = "[stages.made]\nuses = \"command\"\n[stages.made.with]\ninputs = [\"reviewed.toml\"]\n\
         outputs = { made = \"Snakefile\" }\ncommand = [\"truing\", \"pipeline\", \"export\", \"reviewed.toml\", \
         \"--format\", \"snakemake\", \"--output\", \"${output}/Snakefile\"]\n";
    fs::write(pipeline.0.path("songs.toml"), command).unwrap();
    assert_eq!(pipeline.json("apply", &[])["ran"], serde_json::json!(["made"]));
    let made = fs::read_to_string(pipeline.0.path("pipeline-out/songs/made/Snakefile")).unwrap();
    assert!(made.contains("review"), "{made}");
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_what_a_command_has_started_so_that_the_next_run_need_not_wait() {
    let pipeline = Pipeline::new();
    let flag = pipeline.0.path("flag");
    // A process that is left running holds the lock on the result until it ends, and then has written `flag.left`.
    let script = concat!(
        r#"echo begun > "$1/begun"; test -e "$2" || (/bin/sleep 60; echo left > "$2.left"); "#,
        r#"echo done > "$1/rows""#
    );
    let recipe = format!(
        "[stages.slow]\nuses = \"command\"\n[stages.slow.with]\noutputs = {{ rows = \"rows\" }}\n\
         command = [\"/bin/sh\", \"-c\", '{script}', \"sh\", \"${{output}}\", \"{}\"]\n",
        flag.display()
    );
    let path = pipeline.0.path("songs.toml");
    fs::write(&path, recipe).unwrap();
    let child = truing(pipeline.0.home())
        .args(["pipeline", "apply", path.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let runs = pipeline.0.path(".truing/store/runs");
    let has_begun = || {
        let runs = fs::read_dir(&runs).into_iter().flatten().flatten();
        runs.map(|run| run.path().join("run/begun")).any(|begun| begun.exists())
    };
    let started = Instant::now();
    while !has_begun() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    crate::sft::signal(&child, "INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    fs::write(&flag, "").unwrap();
    pipeline.run("apply", &[]).expect_status(0);
    assert!(!pipeline.0.path("flag.left").exists(), "it waited for what was left running");
}
