//! `truing pipeline rehearse` from the command line: real stages on small models, and nothing left behind.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::command::{Finished, run};
use crate::sft::Workshop;

const PIPELINE: &str = r#"
[stages.sft]
uses = "sft"
recipe = "recipe.toml"

[stages.label]
uses = "label"

[stages.label.with]
data = [{ path = "prompts.jsonl" }]
judge = [{ model = { server = { base_url = "https://judge.invalid/v1", model = "judge" } } }]

[stages.respond]
uses = "respond"

[stages.respond.with]
decoding = [{ n = 2, max_new_tokens = 64 }]
data = [{ path = "${stages.label.labels}" }]
model = [{ model_name_or_path = "${stages.sft.model}" }]
judge = { model = { server = { base_url = "https://judge.invalid/v1", model = "judge" } } }

[stages.again]
uses = "sft"

[stages.again.with]
model_name_or_path = "${stages.sft.model}"
data = [{ path = "${stages.respond.responses}" }]

[stages.merge]
uses = "merge"

[stages.merge.with]
method = "linear"
models = [{ model = "model" }, { model = "${stages.again.model}" }]
parameters = { weight = 0.5 }

[stages.evaluate]
uses = "evaluate"

[stages.evaluate.with]
model = { model_name_or_path = "${stages.merge.model}" }

[[stages.evaluate.with.task]]
path = "sums.jsonl"

[stages.evaluate.with.task.custom]
name = "sums"
prompt = "{{ question }}"
scorer = [{ kind = { exact_match = {} } }]

[stages.publish]
uses = "command"
with = { command = ["/bin/sh", "-c", "exit 1"], outputs = { page = "page.html" } }
"#;

struct Rehearsal(Workshop);

impl Rehearsal {
    fn of(recipe: &str) -> Self {
        let workshop = Workshop::new();
        let write = |name: &str, rows: Vec<Value>| {
            let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
            fs::write(workshop.path(name), text).unwrap();
        };
        write("prompts.jsonl", (0..20).map(|n| json!({ "prompt": format!("Sing line {n}.") })).collect());
        write(
            "sums.jsonl",
            (0..9)
                .map(|n| json!({ "question": format!("{n} + 1 ="), "answer": (n + 1).to_string() }))
                .collect(),
        );
        write("numbers.jsonl", (0..9).map(|n| json!({ "x": n })).collect());
        fs::write(workshop.path("songs.toml"), recipe).unwrap();
        Self(workshop)
    }

    fn run(&self, more: &[&str]) -> Finished {
        let recipe = self.0.path("songs.toml").display().to_string();
        run(self.0.home(), [&["pipeline", "rehearse", &recipe], more].concat())
    }

    /// Names in the recipe's folder, beside the user's caches.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.home())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name != ".cache");
        names.sort();
        names
    }
}

fn stage<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let stages = shown["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["stage"] == name).unwrap_or_else(|| panic!("no stage {name}: {shown}"))
}

#[test]
fn a_whole_pipeline_is_tried_on_small_models_and_leaves_nothing() {
    let rehearsal = Rehearsal::of(PIPELINE);
    let before = rehearsal.names();
    let done = rehearsal.run(&["--json", "--quiet"]).expect_status(0);
    let shown: Value = serde_json::from_str(&done.stdout).unwrap();
    for name in ["sft", "label", "respond", "again", "merge", "evaluate"] {
        assert_eq!(stage(&shown, name)["state"], "ok", "{name}: {shown}");
    }
    // A command may do anything: it is not run unasked.
    let publish = stage(&shown, "publish");
    assert_eq!(publish["state"], "not_tried", "{shown}");
    assert!(publish["reason"].as_str().unwrap().contains("--with-commands"), "{publish}");
    assert!(shown["stand_in_requests"].as_u64().unwrap() > 0, "the judges were asked: {shown}");
    // What the real run would need: its model and all its rows.
    assert_eq!(stage(&shown, "sft")["predicted"]["fits"], true, "{shown}");
    assert_eq!(stage(&shown, "sft")["predicted"]["n_steps"], 12, "as the recipe says, not as was tried");
    assert!(stage(&shown, "respond")["predicted"]["inputs_of_rehearsal"].is_string(), "{shown}");
    // The weights that a merge reads are those of the rehearsal, not the ones that the stages before it begin with.
    assert_eq!(stage(&shown, "merge")["predicted"]["inputs_of_rehearsal"], "again", "{shown}");
    let remarks = stage(&shown, "respond")["remarks"].to_string();
    assert!(remarks.contains("the stand-in answers"), "{remarks}");
    assert_eq!(rehearsal.names(), before, "neither a lock file nor a store nor links");
}

#[test]
fn all_mistakes_are_found_at_once_with_their_places() {
    let recipe = r#"[stages.sft]
uses = "sft"
recipe = "recipe.toml"
with = { max_stepz = 3 }

[stages.label]
uses = "label"

[stages.label.with]
data = [{ path = "prompts.jsonl" }]

[[stages.label.with.judge]]
model = { server = { base_url = "https://judge.invalid/v1", model = "judge", api_key_env = "REHEARSAL_KEY" } }

[stages.evaluate]
uses = "evaluate"

[stages.evaluate.with]
model = { model_name_or_path = "${stages.sft.model}" }
task = [{ name = "ifeval", path = "prompts.jsonl" }]

[stages.other]
uses = "sft"
with = { model_name_or_path = "model", data = [{ path = "songz.jsonl" }] }

[stages.columns]
uses = "sft"
with = { model_name_or_path = "model", data = [{ path = "numbers.jsonl" }] }

[stages.convert]
uses = "command"
with = { command = ["no-such-program"], outputs = { rows = "rows.jsonl" } }

[stages.large]
uses = "sft"
recipe = "recipe.toml"
with = { memory_gib = 0.001 }
"#;
    let rehearsal = Rehearsal::of(recipe);
    let done = rehearsal.run(&["--without-plans"]).expect_status(1);
    let at = |line: usize, rest: &str| {
        let path = rehearsal.0.path("songs.toml").display().to_string();
        let place = format!("{path}:{line}: ");
        let found = done.stdout.lines().find(|text| text.contains(&place) && text.contains(rest));
        assert!(found.is_some(), "no `{place}...{rest}` in {}", done.stdout);
    };
    at(4, "unknown key `max_stepz`; the nearest known key is `max_steps`");
    at(13, "the environment has no `REHEARSAL_KEY`");
    at(24, "songz.jsonl");
    at(28, "numbers.jsonl");
    at(32, "there is no program `no-such-program`");
    at(37, "this run does not fit: at least");
    assert!(done.stdout.contains("not tried: it needs sft"), "{}", done.stdout);
    assert!(done.stdout.contains("0 ok, 6 failed, 1 not tried"), "{}", done.stdout);
}

#[test]
fn the_folder_of_a_rehearsal_can_be_kept() {
    let rehearsal = Rehearsal::of("[stages.sft]\nuses = \"sft\"\nrecipe = \"recipe.toml\"\n");
    let done = rehearsal.run(&["--keep", "--without-plans"]).expect_status(0);
    let line = done.stderr.lines().find(|line| line.starts_with("the rehearsal is in ")).unwrap();
    let folder = Path::new(line.trim_start_matches("the rehearsal is in "));
    assert!(folder.join("truing.lock").is_file(), "{}", folder.display());
    let small = fs::read_dir(folder.join("models/0")).unwrap().next().unwrap().unwrap().path();
    assert!(small.join("model.safetensors").is_file());
    fs::remove_dir_all(folder).unwrap();
}
