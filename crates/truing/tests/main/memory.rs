//! The memory planner's prediction against what a run's process really held at most.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::command::run;
use crate::tiny_model::{Sizes, TINY, write_with};

/// Most that the predicted peak may differ from the measured one, as a share of the measured one (ARCHITECTURE.md,
/// invariant 4).
const TOLERANCE: f64 = 0.1;
/// Large enough that what is planned is most of what the process holds.
const SIZES: Sizes =
    Sizes { hidden: 256, intermediate: 688, n_layers: 4, n_heads: 8, n_key_value_heads: 8, ..TINY };

/// Letters that look random and are the same every time, one token each.
fn letters(seed: usize, len: usize) -> String {
    let mut state = seed as u64 + 1;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    (0..len).map(letter).collect()
}

fn write_rows(path: &Path, rows: impl Iterator<Item = Value>) {
    let lines = rows.fold(String::new(), |mut lines, row| {
        writeln!(lines, "{row}").unwrap();
        lines
    });
    fs::write(path, lines).unwrap();
}

/// Runs a recipe in `folder` and compares the plan's peak with the process's.
#[track_caller]
fn check_peak(folder: &Path, stage: &str, recipe: &str) {
    let path = folder.join("recipe.toml");
    fs::write(
        &path,
        format!("stage = \"{stage}\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n{recipe}"),
    )
    .unwrap();
    run(folder, ["--threads", "2", stage, path.to_str().unwrap()]).expect_status(0);
    let plan: Value = serde_json::from_slice(&fs::read(folder.join("run/plan.json")).unwrap()).unwrap();
    let predicted = plan["peak_bytes"].as_f64().unwrap();
    let metrics = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let peak = |line| serde_json::from_str::<Value>(line).unwrap()["peak_memory_gib"].as_f64();
    let measured = metrics.lines().filter_map(peak).fold(0.0, f64::max) * (1_u64 << 30) as f64;
    assert!(
        (predicted / measured - 1.0).abs() <= TOLERANCE,
        "predicted {:.0} MiB, measured {:.0} MiB",
        predicted / 1_048_576.0,
        measured / 1_048_576.0
    );
}

/// Runs GRPO on prompts of these lengths; `settings` are lines of the recipe.
#[track_caller]
fn check_grpo(prompts: &[usize], settings: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_with(&folder.path().join("model"), SIZES);
    let row = |(i, &len)| json!({ "prompt": letters(i, len) });
    write_rows(&folder.path().join("prompts.jsonl"), prompts.iter().enumerate().map(row));
    check_peak(
        folder.path(),
        "grpo",
        &format!(
            "{settings}\nmax_prompt_length = 1100\nmax_tokens_per_pack = 2048\ngeneration_batch_size = 32\n\
             learning_rate = 1e-4\n[[data]]\npath = \"prompts.jsonl\"\n\
             [[reward]]\nkind = {{ format = {{ pattern = \"[a-m]\" }} }}\n"
        ),
    );
}

#[track_caller]
fn check_group_size(n_generations: usize, prompts_per_step: usize) {
    check_grpo(
        &[960; 4],
        &format!(
            "num_generations = {n_generations}\nprompts_per_step = {prompts_per_step}\n\
             max_completion_length = 8\nmax_steps = 3"
        ),
    );
}

#[test]
fn the_predicted_peak_of_grpo_holds_for_8_completions_of_a_prompt() {
    check_group_size(8, 1);
}

#[test]
fn the_predicted_peak_of_grpo_holds_for_64_completions_of_a_prompt() {
    check_group_size(64, 1);
}

/// A pack holds one group: the next prompt finds no room in it.
#[test]
fn the_predicted_peak_of_grpo_holds_for_64_completions_of_4_prompts() {
    check_group_size(64, 4);
}

/// Two groups would find room in one pack, but each belongs to an update of its own.
#[test]
fn the_predicted_peak_of_grpo_holds_for_minibatches() {
    check_grpo(
        &[960; 4],
        "num_generations = 4\nprompts_per_step = 2\nmax_completion_length = 8\nmax_steps = 2\n\
         num_iterations = 2\nminibatches = 2",
    );
}

/// Nothing but the adapters has gradients: what decoding works in is a large part.
#[test]
fn the_predicted_peak_of_grpo_holds_for_adapters() {
    check_grpo(
        &[960; 4],
        "num_generations = 8\nprompts_per_step = 1\nmax_completion_length = 8\nmax_steps = 2\n\
         lora = { r = 8 }",
    );
}

#[test]
fn the_predicted_peak_of_fine_tuning_holds() {
    let folder = tempfile::tempdir().unwrap();
    write_with(&folder.path().join("model"), SIZES);
    let row = |i| {
        json!({ "messages": [{ "role": "user", "content": letters(i, 100 + 7 * i) },
                             { "role": "assistant", "content": letters(100 + i, 1600 + 11 * i) }] })
    };
    write_rows(&folder.path().join("rows.jsonl"), (0..16).map(row));
    check_peak(
        folder.path(),
        "sft",
        "max_length = 2048\npacks_per_step = 2\nmax_steps = 3\nlearning_rate = 1e-4\n[[data]]\npath = \"rows.jsonl\"\n",
    );
}
