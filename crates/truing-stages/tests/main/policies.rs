//! `truing grpo` on a tiny model: it learns what is rewarded, every algorithm runs, and a run that is interrupted
//! anywhere ends with the same tokens and the same bits.

use crate::setup::{self, Events, MACHINE, Ticks, never};
use crate::setup::{Cpu, SOLO};
use crate::tiny_model;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;
use truing_eval::held_out::HeldOutScores;
use truing_run::rollouts;
use truing_stages::grpo::{GrpoConfig, GrpoInputs, GrpoPlan, GrpoStage};
use truing_stages::{Ended, Recipe, RunContext, RunError, Stage, StageError, Start, TrainedModel};
use truing_text::RenderOptions;
use truing_types::{Event, FinishReason, Rollout, Silent};

/// The shorter the better: what a tiny model can learn in a few steps.
pub(crate) const RECIPE: &str = r#"
stage = "grpo"
model_name_or_path = "model"
output_dir = "run"
seed = 11
num_generations = 4
prompts_per_step = 3
max_prompt_length = 64
max_completion_length = 12
max_steps = 4
learning_rate = 2e-3
save_steps = 2
save_dtype = "f32"
max_tokens_per_pack = 128
[[data]]
path = "prompts.jsonl"
[[reward]]
kind = { format = { pattern = "^[ -~]*$" } }
[[reward]]
name = "letters"
weight = 0.5
kind = { format = { pattern = "[a-m]" } }
"#;

type StopWhen = Box<dyn Fn(&Event) -> bool>;

pub(crate) fn folder() -> TempDir {
    let folder = setup::folder();
    let prompts = (0..9).fold(String::new(), |mut rows, i| {
        writeln!(rows, r#"{{"prompt": "Say {i}.", "kind": "{}"}}"#, if i % 2 == 0 { "even" } else { "odd" })
            .unwrap();
        rows
    });
    fs::write(folder.path().join("prompts.jsonl"), prompts).unwrap();
    folder
}

pub(crate) fn run(
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<(Ended<TrainedModel>, Vec<Event>), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = GrpoConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut events)?;
    let plan = GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE)?;
    let outcome = GrpoStage::run::<Cpu>(
        &plan,
        &inputs,
        RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop),
    )?;
    Ok((outcome, events.seen))
}

/// Runs the recipe to its end.
pub(crate) fn finished(folder: &Path, overrides: &[&str]) {
    run(folder, overrides, Start::Fresh, never).unwrap();
}

pub(crate) fn metrics(folder: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let mut records: Vec<BTreeMap<String, f64>> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &mut records {
        record.retain(|name, _| {
            !["tokens_per_second", "step_time", "peak_memory_gib", "judge/"]
                .iter()
                .any(|timed| name.starts_with(timed))
        });
    }
    records
}

pub(crate) fn everything(folder: &Path) -> (Vec<u8>, Vec<BTreeMap<String, f64>>, Vec<String>) {
    let run = folder.join("run");
    let drawn =
        rollouts::steps(&run).unwrap().into_iter().flat_map(|step| rollouts::read(&run, step).unwrap());
    let without_folder = |mut rollout: Rollout| {
        rollout.origin.source = "prompts".into();
        serde_json::to_string(&rollout).unwrap()
    };
    let drawn = drawn.map(without_folder).collect();
    (fs::read(run.join("model/model.safetensors")).unwrap(), metrics(folder), drawn)
}

#[test]
fn interrupted_anywhere_and_resumed_draws_the_same_tokens_and_ends_with_the_same_bits() {
    // Several updates a step, a curriculum, and resampling: all that a resume has to remember.
    let overrides = ["num_iterations=2", "minibatches=2", "curriculum=true", "dynamic_sampling=true"];
    let straight = folder();
    run(straight.path(), &overrides, Start::Fresh, never).unwrap();
    let expected = everything(straight.path());
    assert!(!expected.2.is_empty());
    let phase = |wanted: &'static str| {
        move |event: &Event| {
            matches!(event, Event::PhaseStarted { phase, .. }
            if phase.starts_with(wanted))
        }
    };
    let stops: [StopWhen; 4] = [
        Box::new(phase("step 1 of 4: sampling rollouts")),
        Box::new(phase("step 3 of 4: computing log-probabilities")),
        Box::new(phase("step 3 of 4: updating the policy")),
        Box::new(|event| matches!(event, Event::Metrics { step: 3, .. })),
    ];
    for (i, stop_when) in stops.into_iter().enumerate() {
        let folder = folder();
        let (outcome, _) = run(folder.path(), &overrides, Start::Fresh, stop_when).unwrap();
        assert!(matches!(outcome, Ended::Interrupted { .. }), "stop {i}: {outcome:?}");
        let resumed: Vec<&str> =
            overrides.iter().copied().chain(["threads=1", "generation_batch_size=5"]).collect();
        let (outcome, _) = run(folder.path(), &resumed, Start::Resume, never).unwrap();
        assert!(matches!(outcome, Ended::Finished(_)));
        let found = everything(folder.path());
        assert!(expected.0 == found.0, "stop {i}: the weights differ");
        assert!(expected.2 == found.2, "stop {i}: the completions differ");
        assert_eq!(expected.1, found.1, "stop {i}");
    }
}

/// Drafted tokens are counted, and change neither a completion nor a bit of the weights.
#[test]
fn prompt_lookup_changes_no_rollout_and_no_weight() {
    let overrides = ["temperature=0.1", "max_completion_length=24", "eval_fraction=0.4"];
    let plain = folder();
    run(plain.path(), &overrides, Start::Fresh, never).unwrap();
    let expected = everything(plain.path());
    let drafting = folder();
    let overrides: Vec<&str> = overrides.iter().copied().chain(["prompt_lookup_num_tokens=3"]).collect();
    run(drafting.path(), &overrides, Start::Fresh, never).unwrap();
    let (weights, mut records, completions) = everything(drafting.path());
    assert!(weights == expected.0, "the weights differ");
    assert_eq!(completions, expected.2);
    let mut counted = [0.0; 2];
    for record in &mut records {
        for (sum, name) in counted.iter_mut().zip(["drafted", "accepted"]) {
            *sum += record.remove(&format!("completions/{name}_tokens")).unwrap_or(0.0);
        }
    }
    assert_eq!(records, expected.1);
    assert!(counted[0] > 0.0 && counted[1] <= counted[0], "{counted:?}");
}

/// The copy in 8 bits draws other tokens than the policy, says how far it was off, and is made again after a resume.
#[test]
fn rollouts_of_8_bits_are_weighted_and_resumed_bit_for_bit() {
    let overrides = ["rollout_quantization=int8", "num_iterations=2", "temperature=1.3", "eval_fraction=0.4"];
    let straight = folder();
    run(straight.path(), &overrides, Start::Fresh, never).unwrap();
    let expected = everything(straight.path());
    for record in expected.1.iter().filter(|record| record.contains_key("reward")) {
        let of = |name: &str| record[&format!("sampling/{name}")];
        assert!(of("sampling_logp_difference/mean") > 1e-5, "{record:?}");
        assert!(of("sampling_logp_difference/max") < 0.5, "{record:?}");
        let [least, mean, most] =
            ["min", "mean", "max"].map(|name| of(&format!("importance_sampling_ratio/{name}")));
        assert!(least < 1.0 && most > 1.0 && (mean - 1.0).abs() < 0.05, "{record:?}");
    }
    let halved = folder();
    let with_cap: Vec<&str> = overrides.iter().copied().chain(["importance_sampling_cap=0.5"]).collect();
    run(halved.path(), &with_cap, Start::Fresh, never).unwrap();
    let (first, halved) = (&expected.1[0], &metrics(halved.path())[0]);
    assert_eq!(halved["sampling/importance_sampling_ratio/max"], 0.5);
    assert_eq!(first["reward"], halved["reward"]);
    assert_ne!(first["grad_norm"], halved["grad_norm"]);

    let folder = folder();
    let stop = |event: &Event| {
        matches!(event, Event::PhaseStarted { phase, .. }
            if phase == "step 3 of 4: sampling rollouts")
    };
    let (outcome, _) = run(folder.path(), &overrides, Start::Fresh, stop).unwrap();
    assert!(matches!(outcome, Ended::Interrupted { step: Some(2) }), "{outcome:?}");
    let resumed: Vec<&str> =
        overrides.iter().copied().chain(["threads=1", "generation_batch_size=2"]).collect();
    run(folder.path(), &resumed, Start::Resume, never).unwrap();
    assert!(everything(folder.path()) == expected);
}

#[test]
fn rollouts_of_8_bits_need_the_probabilities_that_they_were_drawn_with() {
    let folder = folder();
    let overrides = ["rollout_quantization=int8", "temperature=1.3", "top_k=5"];
    let error = run(folder.path(), &overrides, Start::Fresh, never).unwrap_err().to_string();
    assert!(error.contains("`rollout_quantization`"), "{error}");
    let error =
        run(folder.path(), &["importance_sampling_cap=0"], Start::Fresh, never).unwrap_err().to_string();
    assert!(error.contains("`importance_sampling_cap`"), "{error}");
    run(folder.path(), &["rollout_quantization=int8", "top_k=5", "max_steps=1"], Start::Fresh, never)
        .unwrap();
    assert!(!metrics(folder.path()).is_empty());
}

#[test]
fn every_algorithm_runs_and_its_metrics_have_the_names_that_are_known() {
    for algorithm in ["report", "grpo", "rloo", "reinforce_plus_plus", "dr_grpo", "dapo", "gspo"] {
        let folder = folder();
        let algorithm = format!("algorithm={algorithm}");
        run(folder.path(), &[&algorithm, "max_steps=2"], Start::Fresh, never).unwrap();
        let records = metrics(folder.path());
        assert_eq!(records.len(), 2, "{algorithm}");
        for name in [
            "reward",
            "reward_std",
            "rewards/letters/mean",
            "completions/mean_length",
            "completions/clipped_ratio",
            "frac_reward_zero_std",
        ] {
            assert!(records[0].contains_key(name), "{algorithm} has no {name}");
        }
        let has_kl = ["report", "=grpo", "rloo", "reinforce"].iter().any(|name| algorithm.contains(name));
        assert_eq!(records[0].contains_key("kl"), has_kl, "{algorithm}");
        let first = records[0].get("kl").copied().unwrap_or_default();
        assert!(first.abs() < 1e-6, "{algorithm} begins at the reference: {first}");
    }
}

#[test]
fn what_is_rewarded_becomes_more_frequent() {
    let folder = folder();
    let overrides =
        ["max_steps=30", "prompts_per_step=6", "num_generations=8", "beta=0.001", "learning_rate=5e-3"];
    run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let records = metrics(folder.path());
    let mean = |records: &[BTreeMap<String, f64>]| {
        records.iter().map(|record| record["reward"]).sum::<f64>() / records.len() as f64
    };
    let (before, after) = (mean(&records[..5]), mean(&records[25..]));
    assert!(after > before + 0.3, "{before} before, {after} after");
}

#[test]
fn a_prompt_computed_once_changes_nothing_but_rounding() {
    let [shared, written] = ["share_prompts=true", "share_prompts=false"].map(|setting| {
        let folder = folder();
        run(folder.path(), &[setting, "max_steps=1"], Start::Fresh, never).unwrap();
        metrics(folder.path()).remove(0)
    });
    for name in ["reward", "loss", "grad_norm", "entropy"] {
        let (a, b) = (shared[name], written[name]);
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1e-3), "{name}: {a} against {b}");
    }
}

#[test]
fn with_adapters_the_reference_is_the_policy_without_them() {
    let folder = folder();
    let (_, events) = run(folder.path(), &["lora.rank=4", "max_steps=2"], Start::Fresh, never).unwrap();
    let loads_reference =
        |e: &Event| matches!(e, Event::PhaseStarted { phase, .. } if phase == "loading the reference");
    assert!(!events.iter().any(loads_reference));
    let records = metrics(folder.path());
    assert!(records[0]["kl"].abs() < 1e-6 && records[1]["kl"] != 0.0, "{records:?}");
}

/// Rounding is not a training signal: Adam would turn it into steps as large as any other.
#[test]
fn equal_rewards_leave_the_weights_as_they_are_whatever_the_kl() {
    let variants: [&[&str]; 6] = [
        &[],
        &["kl_gradient=full"],
        &["kl_in_reward=in_outcome"],
        &["kl_placement=loss", "num_iterations=2"],
        &["kl=k3", "kl_placement=loss", "num_iterations=2"],
        &["lora.rank=4", "kl_gradient=full", "share_prompts=false"],
    ];
    for variant in variants {
        let folder = folder();
        let same = "kind.format.pattern=\"(?s)^.*$\"";
        let (first, second) = (format!("reward.0.{same}"), format!("reward.1.{same}"));
        let overrides: Vec<&str> =
            [&first, &second, "beta=0.5"].into_iter().chain(variant.iter().copied()).collect();
        finished(folder.path(), &overrides);
        let records = metrics(folder.path());
        assert_eq!(records.len(), 4);
        for record in records {
            assert_eq!(
                (record["reward_std"], record["kl"], record["grad_norm"]),
                (0.0, 0.0, 0.0),
                "{variant:?}"
            );
        }
    }
}

#[test]
fn evaluation_is_by_category_and_the_best_is_kept() {
    let folder = folder();
    let overrides = [
        "eval_fraction=0.4",
        "eval_steps=2",
        "eval_on_start=true",
        "category_column=kind",
        "load_best_model_at_end=true",
    ];
    run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let evaluations: Vec<_> =
        metrics(folder.path()).into_iter().filter(|record| record.contains_key("eval_reward")).collect();
    assert_eq!(evaluations.iter().map(|record| record["step"]).collect::<Vec<_>>(), [0.0, 2.0, 4.0]);
    let named = |name: &str| evaluations.iter().all(|record| record.contains_key(name));
    assert!(named("eval_reward/even") || named("eval_reward/odd"));
    let text = fs::read_to_string(folder.path().join("run").join(HeldOutScores::FILE_NAME)).unwrap();
    let held_out: Vec<HeldOutScores> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (rewards, passes): (Vec<_>, Vec<_>) =
        held_out.iter().partition(|scores| scores.measure == HeldOutScores::REWARD);
    for scores in [&rewards, &passes] {
        assert_eq!(scores.iter().map(|scores| scores.step).collect::<Vec<_>>(), [0, 2, 4]);
    }
    for (scores, record) in passes.iter().zip(&evaluations) {
        assert_eq!(scores.measure, HeldOutScores::PASS_RATE);
        let mean =
            scores.values.iter().copied().map(Option::unwrap).sum::<f64>() / scores.values.len() as f64;
        assert!((mean - record["eval_pass_rate"]).abs() < 1e-9, "{mean}: {record:?}");
    }
    for (scores, record) in rewards.iter().zip(&evaluations) {
        let rewards: Vec<f64> = scores.values.iter().copied().map(Option::unwrap).collect();
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        assert!((mean - record["eval_reward"]).abs() < 1e-9, "{mean}: {record:?}");
        assert_eq!(record["eval_samples"], rewards.len() as f64);
    }
}

#[test]
fn a_reward_for_a_source_that_the_run_does_not_have_is_refused() {
    let folder = folder();
    fs::copy(folder.path().join("prompts.jsonl"), folder.path().join("other.jsonl")).unwrap();
    let plan = |entry: &str| {
        let reward = format!(r#"reward=[{{sources=["{entry}"], kind={{length={{at_most=9}}}}}}]"#);
        let overrides = [reward, r#"eval_data=[{path="other.jsonl"}]"#.to_owned()];
        let config = GrpoConfig::from_toml(RECIPE, &folder.path().join("recipe.toml"), &overrides)?;
        let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent)?;
        GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE)
    };
    for entry in ["prompts.jsonl", "other.jsonl", "./prompts.jsonl"] {
        assert!(plan(entry).is_ok(), "{entry}");
    }
    for entry in ["s.jsonl", "prompt.jsonl", "data/prompts.jsonl", ""] {
        let error = plan(entry).unwrap_err().to_string();
        assert!(error.contains("reward.sources") && error.contains("prompts.jsonl"), "{entry}: {error}");
    }
}

const IFEVAL: &str = "reward=[{kind={ifeval={}}}]";

/// Rows of instructions: ids and kwargs.
fn write_instructions(folder: &Path, rows: &[(&str, &str)]) {
    let row = |(i, (ids, kwargs)): (usize, &(&str, &str))| {
        format!("{{\"prompt\": \"Say {i}.\", \"instruction_id_list\": {ids}, \"kwargs\": {kwargs}}}\n")
    };
    fs::write(folder.join("prompts.jsonl"), rows.iter().enumerate().map(row).collect::<String>()).unwrap();
}

#[test]
fn an_instruction_that_is_not_known_is_refused_by_the_plan_with_its_row_and_the_nearest() {
    let folder = folder();
    let plan = |reward: &str| {
        let config = GrpoConfig::from_toml(RECIPE, &folder.path().join("recipe.toml"), &[reward.to_owned()])?;
        let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent)?;
        GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE)
    };
    let good = (r#"["punctuation:no_comma"]"#, "[{}]");
    write_instructions(folder.path(), &[good, (r#"["ES:punctuation:no_comma"]"#, "[{}]")]);
    assert!(plan(IFEVAL).is_ok());
    for (ids, expected) in [
        (r#"["keywords:letter_freqency"]"#, "the nearest known ids are `keywords:letter_frequency`"),
        (r#"["de:punctuation:no_comma"]"#, "no rules are known for `de`"),
    ] {
        write_instructions(folder.path(), &[good, (ids, "[{}]")]);
        let error = plan(IFEVAL).unwrap_err().to_string();
        assert!(error.contains("prompts.jsonl:2: reward `ifeval`: `") && error.contains(expected), "{error}");
        assert!(plan("reward=[{kind={ifeval={}}, optional=true}]").is_ok());
    }
}

#[test]
fn a_row_that_cannot_be_scored_is_named_at_once_and_counted_at_the_end() {
    let folder = folder();
    let good = (r#"["punctuation:no_comma"]"#, "[{}]");
    write_instructions(folder.path(), &[good, (good.0, "null"), good]);
    let overrides = [IFEVAL, "max_steps=2"];
    let (_, seen) = run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let warnings: Vec<String> = seen
        .into_iter()
        .filter_map(|event| match event {
            Event::Warning(text) => Some(text),
            _ => None,
        })
        .collect();
    assert!(warnings[0].starts_with("step 1: 4 of 12 completions have no reward"), "{warnings:?}");
    assert!(warnings[0].contains("prompts.jsonl:2: the row has no list `kwargs`"), "{warnings:?}");
    let last = warnings.last().unwrap();
    assert!(last.contains("8 of 24 completions have no reward: missing_reference (8): "), "{last}");
    assert!(last.contains("prompts.jsonl:2: the row has no list `kwargs`"), "{last}");
}

#[test]
fn a_schema_file_that_changed_is_another_run() {
    let folder = folder();
    let schema = folder.path().join("schema.json");
    fs::write(&schema, "{\"type\": \"object\"}").unwrap();
    let reward = format!(
        "reward=[{{kind={{format={{pattern=\"[a-m]\"}}}}}}, {{kind={{json_schema={{file=\"{}\"}}}}}}]",
        schema.display()
    );
    let first = |event: &Event| matches!(event, Event::Metrics { step: 1, .. });
    run(folder.path(), &[&reward], Start::Fresh, first).unwrap();
    let inputs = fs::read_to_string(folder.path().join("run/inputs.json")).unwrap();
    assert!(inputs.contains("schema.json"), "{inputs}");
    fs::write(&schema, "{\"type\": \"array\"}").unwrap();
    let error = run(folder.path(), &[&reward], Start::Resume, never).unwrap_err();
    assert!(matches!(error, StageError::Run(RunError::FileChanged { .. })), "{error}");
    fs::write(&schema, "{\"type\": \"object\"}").unwrap();
    run(folder.path(), &[&reward], Start::Resume, never).unwrap();
}

/// A head of 300 rows over a tokenizer of 259 tokens, as Qwen's is padded: the rows past the tokens are never sampled,
/// and what the trainer computes is over the same tokens. So the run is that of a head without these rows.
#[test]
fn a_head_with_more_rows_than_tokens_learns_as_one_without() {
    let overrides = ["max_steps=3", "temperature=1.2", "beta=0.1"];
    let plain = folder();
    run(plain.path(), &overrides, Start::Fresh, never).unwrap();
    let padded = folder();
    tiny_model::write_with(
        &padded.path().join("model"),
        tiny_model::Sizes { n_rows: 300, ..tiny_model::TINY },
    );
    run(padded.path(), &overrides, Start::Fresh, never).unwrap();
    let (expected, found) = (everything(plain.path()), everything(padded.path()));
    let tokens = |drawn: &[String]| -> Vec<Rollout> {
        drawn.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (expected_rollouts, found_rollouts) = (tokens(&expected.2), tokens(&found.2));
    assert_eq!(expected_rollouts.len(), 36);
    for (expected, found) in expected_rollouts.iter().zip(&found_rollouts) {
        assert!(found.tokens.iter().all(|&token| token < 259));
        if expected.step == 1 {
            assert_eq!(expected.tokens, found.tokens);
        }
    }
    for (expected, found) in expected.1.iter().zip(&found.1) {
        let largest = found["sampling/sampling_logp_difference/max"];
        assert!(largest < 1e-4, "sampler and trainer differ by {largest}");
        for name in ["reward", "entropy", "kl", "policy_loss", "grad_norm"] {
            let (a, b) = (expected[name], found[name]);
            assert!((a - b).abs() <= 2e-3 * a.abs().max(1e-3), "{name}: {a} without, {b} with more rows");
        }
    }
}

/// Nothing of an evaluation without a score goes into a checkpoint, and the run can be resumed.
#[test]
fn an_evaluation_without_a_score_is_reported_and_never_the_best() {
    let folder = folder();
    fs::write(folder.path().join("eval.jsonl"), "{\"prompt\": \"Say 1.\"}\n").unwrap();
    // The reward wants a column that only the training rows have.
    let overrides = [
        "eval_data=[{path=\"eval.jsonl\"}]",
        "reward=[{kind={exact_match={column=\"kind\"}}}]",
        "eval_steps=1",
        "save_steps=1",
        "keep_best=true",
    ];
    let stop = |event: &Event| matches!(event, Event::Metrics { step: 3, .. });
    let (outcome, events) = run(folder.path(), &overrides, Start::Fresh, stop).unwrap();
    assert!(matches!(outcome, Ended::Interrupted { .. }), "{outcome:?}");
    let warned = |event: &Event| {
        matches!(event, Event::Warning(text)
            if text.contains("none of 1 completions could be scored"))
    };
    assert!(events.iter().any(warned), "{events:?}");
    for entry in fs::read_dir(folder.path().join("run/checkpoints")).unwrap() {
        let state = fs::read_to_string(entry.unwrap().path().join("trainer_state.json")).unwrap();
        assert!(state.contains("\"best\": null") && !state.contains("\"loss\""), "{state}");
    }
    // The setting decides no result, so a resume may add it: no step is the best, and that is said.
    let best = [&overrides[..], &["load_best_model_at_end=true"]].concat();
    let (outcome, events) = run(folder.path(), &best, Start::Resume, never).unwrap();
    assert!(matches!(outcome, Ended::Finished(_)));
    let warned = |event: &Event| {
        matches!(event, Event::Warning(text)
            if text.contains("no step is the best") && text.contains("the last weights are saved"))
    };
    assert_eq!(events.iter().filter(|event| warned(event)).count(), 1, "{events:?}");
    let straight = self::folder();
    fs::write(straight.path().join("eval.jsonl"), "{\"prompt\": \"Say 1.\"}\n").unwrap();
    finished(straight.path(), &overrides);
    assert!(everything(straight.path()).0 == everything(folder.path()).0, "the last weights");
}

/// The `wsd` schedule decays in the share of the updates that the recipe says.
#[test]
fn decay_ratio_is_a_share_of_a_policy_s_updates() {
    let folder = folder();
    let schedule = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let config = GrpoConfig::from_toml(RECIPE, &folder.path().join("recipe.toml"), &overrides).unwrap();
        let inputs = GrpoInputs::load(&config, RenderOptions::default(), &mut Silent).unwrap();
        GrpoPlan::resolve::<Cpu>(config, &inputs, &MACHINE).unwrap().schedule
    };
    let wsd = "lr_scheduler_type=wsd";
    for (overrides, n_updates, decay) in [
        (&[wsd, "max_steps=8", "decay_ratio=0.25"][..], 8, 2),
        (&[wsd, "max_steps=8", "decay_ratio=0.25", "num_iterations=2", "minibatches=2"], 32, 8),
        (&[wsd, "max_steps=8"], 8, 1),
        (&[wsd, "max_steps=8", "decay_ratio=1"], 8, 8),
        (&["max_steps=8", "decay_ratio=0.25"], 8, 0),
    ] {
        let found = schedule(overrides);
        assert_eq!((found.total_steps, found.decay_steps), (n_updates, decay), "{overrides:?}");
    }
    let decayed = schedule(&[wsd, "max_steps=8", "decay_ratio=0.5", "learning_rate=1.0"]);
    let rates: Vec<f64> = (1..=8).map(|step| decayed.learning_rate(step)).collect();
    assert!(rates[..4].iter().all(|&rate| rate == 1.0), "{rates:?}");
    assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]) && rates[4] <= 1.0, "{rates:?}");
}

/// With the KL in the outcome a completion that is cut off and carries no loss has no part in its group's mean.
#[test]
fn completions_without_loss_do_not_enter_a_mean_that_the_kl_is_part_of() {
    let folder = folder();
    let overrides = ["kl_in_reward=in_outcome", "mask_truncated_completions=true", "max_completion_length=6"];
    run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let mut n_cut = 0;
    for step in 1..=4 {
        let rollouts = rollouts::read(&folder.path().join("run"), step).unwrap();
        for group in rollouts.chunk_by(|a, b| a.prompt_idx == b.prompt_idx) {
            let advantages: Vec<f64> = group.iter().filter_map(|rollout| rollout.advantage).collect();
            let n_whole = group.iter().filter(|one| one.finish_reason != FinishReason::Length).count();
            n_cut += group.len() - n_whole;
            // The others' outcomes are centred among themselves, or there are too few of them.
            assert_eq!(advantages.len(), if n_whole < 2 { 0 } else { n_whole });
            assert!(advantages.iter().sum::<f64>().abs() < 1e-4, "{advantages:?}");
        }
    }
    assert!(n_cut > 0, "some completion was cut off");
}

#[test]
fn the_share_of_updates_that_decay_is_a_setting() {
    let folder = folder();
    let overrides = [
        "lr_scheduler_type=wsd",
        "decay_ratio=0.75",
        "warmup_ratio=0",
        "min_lr_ratio=0",
        "learning_rate=3e-3",
    ];
    finished(folder.path(), &overrides);
    let rates: Vec<f64> =
        metrics(folder.path()).iter().filter_map(|record| record.get("learning_rate").copied()).collect();
    // The decay takes the last three of four updates, and begins at the peak.
    let expected = [3e-3, 3e-3, 2e-3, 1e-3];
    assert!(
        rates.len() == 4
            && rates.iter().zip(expected).all(|(rate, expected)| (rate - expected).abs() < 1e-12),
        "{rates:?}"
    );
}
