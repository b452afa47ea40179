//! Fine-tuning, planning and proving on a tiny model: bad recipes, a killed run and its resume.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{run, truing};
use crate::tiny_model;

/// A folder with a tiny model, a few conversations and a recipe.
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny_model::write(&folder.path().join("model"));
        let rows: String = (0..60)
            .map(|i| {
                let answer = "la ".repeat(1 + i % 7);
                let row = serde_json::json!({ "messages": [
                    { "role": "user", "content": format!("Sing line {i}.") },
                    { "role": "assistant", "content": answer.trim() },
                ] });
                format!("{row}\n")
            })
            .collect();
        fs::write(folder.path().join("songs.jsonl"), rows).unwrap();
        let recipe = "stage = \"sft\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\nseed = 3\n\
                      max_length = 256\n\
                      packs_per_step = 2\nmax_steps = 12\nlearning_rate = 1e-3\neval_fraction = 0.1\neval_steps = 4\n\
                      save_steps = 3\n\n[[data]]\npath = \"songs.jsonl\"\n";
        fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a command on the recipe.
    pub(crate) fn on_recipe(&self, command: &str, more: &[&str]) -> Vec<String> {
        let recipe = self.path("recipe.toml").display().to_string();
        [command, &recipe].into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
    }

    pub(crate) fn home(&self) -> &Path {
        self.folder.path()
    }
}

fn steps_of(metrics: &Path, name: &str) -> Vec<u64> {
    let text = fs::read_to_string(metrics).unwrap_or_default();
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter(|row| row.get(name).is_some()).map(|row| row["step"].as_u64().unwrap()).collect()
}

#[test]
fn an_unknown_key_names_line_and_nearest_key() {
    let workshop = Workshop::new();
    let recipe = workshop.path("recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap().replace("learning_rate", "lerning_rate");
    fs::write(&recipe, text).unwrap();
    run(workshop.home(), workshop.on_recipe("sft", &[])).expect_status(2).expect_stderr(&[
        "recipe.toml:8: unknown key `lerning_rate`; the nearest known key is `learning_rate`",
    ]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn missing_weights_and_missing_models_are_errors_before_any_work() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.path("model/model.safetensors")).unwrap();
    run(workshop.home(), workshop.on_recipe("sft", &[]))
        .expect_status(2)
        .expect_stderr(&["no weights; expected model.safetensors"]);
    run(workshop.home(), workshop.on_recipe("plan", &[])).expect_status(2).expect_stderr(&[
        "no weights",
        "hint: ",
        "--cluster CLUSTER.toml",
        "config.json` plans without weights",
    ]);
    run(workshop.home(), workshop.on_recipe("sft", &["--set", "model_name_or_path=nobody/nothing"]))
        .expect_status(2)
        .expect_stderr(&["error: ", "nobody/nothing"]);
    run(workshop.home(), ["sft", "no-such-recipe.toml"])
        .expect_status(2)
        .expect_stderr(&["error: cannot read no-such-recipe.toml", "hint: a recipe is a TOML file"]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn a_folder_that_cannot_be_used_is_told_with_what_to_do() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("run")).unwrap();
    fs::write(workshop.path("run/thesis.tex"), "").unwrap();
    let elsewhere = "hint: `--set output_dir=...` names another folder";
    run(workshop.home(), workshop.on_recipe("sft", &["--resume"]))
        .expect_status(2)
        .expect_stderr(&["such as `thesis.tex`", elsewhere]);
    run(workshop.home(), workshop.on_recipe("sft", &[]))
        .expect_status(2)
        .expect_stderr(&["is not empty and holds no run, but for instance `thesis.tex`", elsewhere]);
    assert_eq!(fs::read_dir(workshop.path("run")).unwrap().count(), 1, "nothing was written");
    fs::remove_dir_all(workshop.path("run")).unwrap();
    fs::write(workshop.path("run"), "a file").unwrap();
    for resume in [&[][..], &["--resume"]] {
        run(workshop.home(), workshop.on_recipe("sft", resume))
            .expect_status(2)
            .expect_stderr(&["is a file; expected the path of a folder", elsewhere]);
    }
    fs::remove_file(workshop.path("run")).unwrap();
    // What is left of a run: a new one would overwrite it, and a resume has nothing to continue.
    for (left, told) in [
        ("metrics.jsonl", "already holds `metrics.jsonl`, which a run would overwrite"),
        ("recipe.resolved.toml", "is not a complete run: `inputs.json` is missing"),
    ] {
        fs::create_dir(workshop.path("run")).unwrap();
        fs::write(workshop.path("run").join(left), "").unwrap();
        for resume in [&[][..], &["--resume"]] {
            run(workshop.home(), workshop.on_recipe("sft", resume))
                .expect_status(2)
                .expect_stderr(&[told, elsewhere]);
        }
        fs::remove_dir_all(workshop.path("run")).unwrap();
    }
    // Nothing to resume: the run starts, and says so.
    run(workshop.home(), workshop.on_recipe("sft", &["--resume", "--set", "max_steps=1"]))
        .expect_status(0)
        .expect_stderr(&["holds no run yet: it starts from the beginning"]);
    run(workshop.home(), workshop.on_recipe("sft", &[]))
        .expect_status(2)
        .expect_stderr(&["already holds a run", "--resume continues it"]);
    let lock = truing_store::RunDirectory::open(&workshop.path("run")).unwrap();
    run(workshop.home(), workshop.on_recipe("sft", &["--resume"]))
        .expect_status(2)
        .expect_stderr(&["is in use by another process", "hint: wait until that process has ended"]);
    drop(lock);
}

#[test]
fn a_plan_is_printed_and_one_that_cannot_fit_is_a_finding() {
    let workshop = Workshop::new();
    let plan = run(workshop.home(), workshop.on_recipe("plan", &["--json"])).expect_status(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!((&plan["fits"], &plan["n_steps"]), (&Value::Bool(true), &Value::from(12)));
    assert_eq!(plan["by_layers_per_segment"].as_array().unwrap().len(), 2);
    let text = run(workshop.home(), workshop.on_recipe("sft", &["--plan"])).expect_status(0);
    assert!(text.stdout.contains("chosen") && text.stdout.contains("peak"), "{}", text.stdout);
    let refused =
        run(workshop.home(), workshop.on_recipe("plan", &["--set", "memory_gib=1e-4"])).expect_status(1);
    assert!(refused.stdout.contains("does not fit"), "{}", refused.stdout);
    assert!(refused.stdout.contains(" MiB are needed"), "{}", refused.stdout);
    let not_begun =
        run(workshop.home(), workshop.on_recipe("sft", &["--set", "memory_gib=1e-4"])).expect_status(1);
    assert!(not_begun.stdout.contains("does not fit"), "{}", not_begun.stdout);
    assert!(!workshop.path("run").exists());
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    const STEPS: u64 = 300;
    let workshop = Workshop::new();
    let (whole, killed) = (workshop.path("whole"), workshop.path("killed"));
    let settings = |output: &Path| {
        let settings = [format!("output_dir={}", output.display()), format!("max_steps={STEPS}")];
        settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect::<Vec<_>>()
    };
    let arguments = |output: &Path| [workshop.on_recipe("sft", &["--quiet"]), settings(output)].concat();
    run(workshop.home(), arguments(&whole)).expect_status(0);

    // `kill` on Unix is SIGKILL: nothing of ours runs any more. A machine that is quicker than the test finishes the
    // run first; then the kill is tried earlier.
    let mut was_killed = false;
    for after_step in [100, 10, 3] {
        let _ = fs::remove_dir_all(&killed);
        let mut child = truing(workshop.home()).args(arguments(&killed)).spawn().unwrap();
        let started = Instant::now();
        while steps_of(&killed.join("metrics.jsonl"), "loss").last().is_none_or(|&step| step < after_step)
            && started.elapsed() < Duration::from_secs(120)
        {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        was_killed = !child.wait().unwrap().success();
        if was_killed {
            break;
        }
    }
    assert!(was_killed, "the run was always quicker");
    assert!(!killed.join("model").exists());
    run(workshop.home(), [arguments(&killed), vec!["--resume".into()]].concat()).expect_status(0);

    let weights = |run: &Path| fs::read(run.join("model/model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&killed), "the weights differ");
    for name in ["loss", "eval_loss"] {
        let expected = steps_of(&whole.join("metrics.jsonl"), name);
        assert_eq!(steps_of(&killed.join("metrics.jsonl"), name), expected, "{name}: no gap and no repeat");
    }
    assert_eq!(steps_of(&whole.join("metrics.jsonl"), "loss"), (1..=STEPS).collect::<Vec<_>>());
    assert!(fs::read_to_string(killed.join("report.html")).unwrap().contains("Supervised fine-tuning"));

    // A folder that holds a run is not written over; a resume under other settings is refused.
    run(workshop.home(), arguments(&killed))
        .expect_status(2)
        .expect_stderr(&["error: ", "hint: ", "--resume"]);
    let _ = fs::remove_dir_all(killed.join("model"));
    let changed =
        [arguments(&killed), vec!["--set".into(), "learning_rate=5e-4".into(), "--resume".into()]].concat();
    run(workshop.home(), changed).expect_status(2).expect_stderr(&["learning_rate"]);
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_saves_says_so_and_resumes() {
    let workshop = Workshop::new();
    let metrics = workshop.path("run/metrics.jsonl");
    let arguments = workshop.on_recipe("sft", &["--set", "max_steps=400"]);
    let child = truing(workshop.home())
        .args(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while steps_of(&metrics, "loss").len() < 5 && started.elapsed() < Duration::from_secs(120) {
        std::thread::yield_now();
    }
    // The shell's own `kill`: the standard library sends no signal but SIGKILL.
    let interrupt = format!("kill -INT {}", child.id());
    assert!(Command::new("/bin/sh").args(["-c", &interrupt]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("--resume continues from there"), "{text}");
    assert!(!workshop.path("run/model").exists() && workshop.path("run/report.html").exists());
    run(workshop.home(), [arguments, vec!["--resume".into()]].concat()).expect_status(0);
    assert_eq!(steps_of(&metrics, "loss"), (1..=400).collect::<Vec<_>>());
}

/// Sends a signal to a process of its own.
#[cfg(unix)]
pub(crate) fn signal(child: &std::process::Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn a_termination_ends_as_ctrl_c_does_before_and_during_the_work() {
    let workshop = Workshop::new();
    // A recipe that is a pipe: the command waits for it before any work begins.
    let pipe = workshop.path("waiting.toml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["TERM", "INT"] {
        let child = truing(workshop.home())
            .args(["sft", pipe.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Opened for writing as soon as the command reads it: by then it handles signals.
        let _writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        signal(&child, name);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130), "{name}");
    }
    let metrics = workshop.path("run/metrics.jsonl");
    let mut child = truing(workshop.home())
        .args(workshop.on_recipe("sft", &["--set", "max_steps=4000"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while steps_of(&metrics, "loss").is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    signal(&child, "TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

/// Whenever the signal comes: before the folder is made, while the model loads, between steps. What is left can be
/// resumed.
#[test]
#[cfg(unix)]
fn a_termination_at_any_moment_leaves_nothing_or_a_run_that_resumes() {
    for (i, delay_ms) in [0, 15, 40, 80, 200].into_iter().enumerate() {
        let workshop = Workshop::new();
        let arguments = workshop.on_recipe("sft", &["--set", "max_steps=400"]);
        let pipe = workshop.path("waiting.toml");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let from_pipe: Vec<String> = arguments
            .iter()
            .map(|one| if one.ends_with(".toml") { pipe.to_str().unwrap().to_owned() } else { one.clone() })
            .collect();
        let recipe = arguments.iter().find(|one| one.ends_with(".toml")).unwrap();
        let text = fs::read(workshop.home().join(recipe)).unwrap();
        let child = truing(workshop.home())
            .args(&from_pipe)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Opened for writing as soon as the command reads it: by then it handles signals.
        fs::OpenOptions::new().write(true).open(&pipe).unwrap().write_all(&text).unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        signal(&child, if i % 2 == 0 { "TERM" } else { "INT" });
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "after {delay_ms} ms: {stderr}");
        assert!(!workshop.path("run/model").exists());
        let resumed = [arguments, vec!["--resume".into(), "--set".into(), "max_steps=400".into()]].concat();
        run(workshop.home(), resumed).expect_status(0);
        let steps = steps_of(&workshop.path("run/metrics.jsonl"), "loss");
        assert_eq!(steps, (1..=400).collect::<Vec<_>>(), "after {delay_ms} ms");
    }
}

#[test]
fn a_damaged_run_is_not_said_to_continue() {
    let workshop = Workshop::new();
    let arguments = workshop.on_recipe("sft", &["--set", "max_steps=4"]);
    run(workshop.home(), &arguments).expect_status(0);
    for entry in fs::read_dir(workshop.path("run")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            fs::write(path, "{").unwrap();
        }
    }
    let refused = run(workshop.home(), [arguments, vec!["--resume".into()]].concat()).expect_status(2);
    assert!(refused.stderr.contains("is damaged; `--set output_dir"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("--resume continues it"), "{}", refused.stderr);
}

#[test]
fn every_claim_is_proved_on_a_tiny_model() {
    let workshop = Workshop::new();
    let (model, data) = (workshop.path("model"), workshop.path("songs.jsonl"));
    let arguments = ["prove", "--json", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let finished = run(workshop.home(), arguments).expect_status(0);
    let checks: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(checks["all_hold"], true);
    assert!(checks["checks"].as_array().unwrap().len() >= 4);
    let one_row = workshop.path("one.jsonl");
    fs::write(&one_row, fs::read_to_string(&data).unwrap().lines().next().unwrap()).unwrap();
    let arguments = ["prove", "--model", model.to_str().unwrap(), "--data", one_row.to_str().unwrap()];
    run(workshop.home(), arguments).expect_status(2).expect_stderr(&["at least two sequences", "hint: "]);
}

#[test]
fn a_claim_that_fails_is_a_finding() {
    let workshop = Workshop::new();
    let (model, data) = (workshop.path("model"), workshop.path("songs.jsonl"));
    // The last weight is not a number, and so no gradient is one.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let place = bytes.len() - size_of::<f32>();
    bytes[place..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let arguments = ["prove", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let finished = run(workshop.home(), arguments).expect_status(1);
    assert!(finished.stdout.contains("FAILS"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("all checks hold"), "{}", finished.stdout);
}
