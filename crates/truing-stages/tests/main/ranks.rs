//! Every training stage on several ranks: the weights, the metrics and what evaluations find are those of one rank, and
//! one rank alone writes the run's folder.

use crate::setup::{self, Events, MACHINE, Ticks, is_metrics_of, never};
use crate::setup::{Cpu, SOLO};
use crate::{classifiers, distillations, embeddings, policies, preferences};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;
use truing_model::weights::SafetensorsFile;
use truing_parallel::thread_world;
use truing_run::rollouts;
use truing_stages::classifier::ClassifierStage;
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedStage;
use truing_stages::grpo::{GrpoConfig, GrpoStage};
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::TrainingConfig;
use truing_stages::{Ended, Recipe, RunContext, Stage as _, StageError, Start, TrainedModel};
use truing_types::{Event, Groups, Silent};

/// Adam divides a gradient by its own size: where that is rounding, so would be the step.
pub(crate) const STEADY: &str = "adam_epsilon=1e-3";

static WRITING: Mutex<()> = Mutex::new(());

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    Sft,
    Dpo,
    Reward,
    Classifier,
    Embed,
    Grpo,
    Distill,
}

/// When a rank is stopped: at some event, or never.
pub(crate) type StopWhen = fn(usize) -> Box<dyn Fn(&Event) -> bool>;

pub(crate) fn nobody_stops(_: usize) -> Box<dyn Fn(&Event) -> bool> {
    Box::new(never)
}

/// Runs a stage as one rank does: reads, plans, works. Gives the saved model, or the step where it was stopped.
pub(crate) fn work(
    stage: Stage,
    folder: &Path,
    overrides: &[&str],
    start: Start,
    groups: &Groups,
    stop_when: StopWhen,
) -> Result<Result<PathBuf, u64>, StageError> {
    let stop = AtomicBool::new(false);
    let stop_when = stop_when(groups.data.rank().0);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when };
    let probe = Ticks::default();
    let typed: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let path = folder.join("recipe.toml");
    let training = |text: &str, stage: &str| {
        TrainingConfig::from_toml(text, &path, &[&[format!("stage={stage}")], &typed[..]].concat())
    };
    let context = RunContext::new(start, groups, &probe, &mut events, &stop);
    let ended = match stage {
        Stage::Sft => setup::run_stage::<SftStage>(training(setup::RECIPE, "sft")?, context)?,
        Stage::Dpo => setup::run_stage::<DpoStage>(training(preferences::RECIPE, "dpo")?, context)?,
        Stage::Reward => {
            setup::run_stage::<RewardModelStage>(training(preferences::RECIPE, "reward_model")?, context)?
        }
        Stage::Classifier => {
            setup::run_stage::<ClassifierStage>(training(classifiers::RECIPE, "classifier")?, context)?
        }
        Stage::Embed => {
            // The settings write the data that they name: not while another rank reads them.
            let writing = WRITING.lock().unwrap();
            let config = embeddings::config(folder, overrides);
            let inputs = setup::load::<EmbedStage>(&config, &mut Silent)?;
            drop(writing);
            let plan = EmbedStage::plan::<Cpu>(config, &inputs, &MACHINE)?;
            EmbedStage::run::<Cpu>(&plan, &inputs, context)?
        }
        Stage::Distill => {
            setup::run_stage::<DistillStage>(training(distillations::RECIPE, "distill")?, context)?
        }
        Stage::Grpo => {
            let config = GrpoConfig::from_toml(policies::RECIPE, &path, &typed)?;
            setup::run_stage::<GrpoStage>(config, context)?
        }
    };
    Ok(match ended {
        Ended::Finished(TrainedModel { model, .. }) => Ok(model),
        Ended::Interrupted { step } => Err(step.unwrap_or_default()),
    })
}

/// The same on `n_ranks` ranks of one folder; what each rank ends with, errors as their text.
pub(crate) fn on_ranks(
    n_ranks: usize,
    stage: Stage,
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: StopWhen,
) -> Vec<Result<Result<PathBuf, u64>, String>> {
    thread::scope(|scope| {
        let ranks: Vec<_> = thread_world(n_ranks)
            .into_iter()
            .map(|rank| {
                scope.spawn(move || {
                    let groups = Groups::new(Arc::new(rank), 1).unwrap();
                    let found = work(stage, folder, overrides, start, &groups, stop_when);
                    found.map_err(|error| error.to_string())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Where a recipe puts its run.
pub(crate) fn run_folder(stage: Stage, folder: &Path) -> PathBuf {
    match stage {
        Stage::Dpo | Stage::Reward => folder.join("runs/a"),
        _ => folder.join("run"),
    }
}

/// Files below a folder, without the lock.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned()),
            }
        }
    }
    found.retain(|name| name != ".lock");
    found.sort();
    found
}

/// Numbers may differ by rounding; everything else is equal.
pub(crate) fn same(place: &str, expected: &Value, found: &Value) {
    match (expected, found) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 2e-4 * a.abs().max(1e-2), "{place}: {b}, one rank has {a}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| same(&format!("{place}[{i}]"), a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{place}: {b:?}, one rank has {a:?}");
            a.iter().for_each(|(key, a)| same(&format!("{place}.{key}"), a, &b[key]));
        }
        _ => assert_eq!(expected, found, "{place}"),
    }
}

/// Lines of JSON without what a clock decides.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let read = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        if let Some(record) = record.as_object_mut() {
            let is_timed = |name: &str| {
                ["tokens_per_second", "samples_per_second", "step_time", "peak_memory_gib"]
                    .iter()
                    .any(|timed| name.starts_with(timed))
            };
            let names: Vec<String> = record.keys().filter(|name| is_timed(name)).cloned().collect();
            names.iter().for_each(|name| drop(record.remove(name)));
        }
        record
    };
    text.lines().map(read).collect()
}

pub(crate) fn same_weights(expected: &Path, found: &Path) {
    let names = files(expected).into_iter().filter(|name| name.ends_with(".safetensors"));
    let mut n_values = 0;
    for name in names {
        let [a, b] = [expected, found].map(|model| SafetensorsFile::open(model.join(&name)).unwrap());
        for tensor in a.tensors.iter().map(|tensor| &tensor.name) {
            let [a, b] = [&a, &b].map(|file| file.read(tensor).unwrap().values);
            let most = a.iter().zip(&b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(a.len() == b.len() && most < 1e-5, "{name}: {tensor} differs by {most}");
            n_values += a.len();
        }
    }
    assert!(n_values > 0, "{}: no weights", expected.display());
}

/// Runs a stage on one rank and on `n_ranks`, and compares everything that they leave. Gives both folders.
fn check(n_ranks: usize, stage: Stage, folder: impl Fn() -> TempDir, overrides: &[&str]) -> [TempDir; 2] {
    check_in_groups(n_ranks, 1, stage, folder, overrides)
}

/// The same with sequence groups of `size` ranks.
pub(crate) fn check_in_groups(
    n_ranks: usize,
    size: usize,
    stage: Stage,
    folder: impl Fn() -> TempDir,
    overrides: &[&str],
) -> [TempDir; 2] {
    let (alone, together) = (folder(), folder());
    let model = work(stage, alone.path(), overrides, Start::Fresh, &SOLO, nobody_stops).unwrap().unwrap();
    let size = format!("sequence_parallel_size={size}");
    let in_groups = [overrides, &[size.as_str()]].concat();
    let outcomes = on_ranks(n_ranks, stage, together.path(), &in_groups, Start::Fresh, nobody_stops);
    let [expected, found] = [&alone, &together].map(|folder| run_folder(stage, folder.path()));
    let saved = found.join("model");
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Ok(saved.clone()))), "{outcomes:?}");
    assert_eq!(files(&expected), files(&found), "{stage:?} {overrides:?}");
    same_weights(&model, &saved);
    for name in ["metrics.jsonl", "diagnostics.jsonl", "evaluations.jsonl", "evaluation.json"] {
        if !expected.join(name).exists() {
            continue;
        }
        let [a, b] = [&expected, &found].map(|run| match name.ends_with(".json") {
            true => vec![serde_json::from_slice(&fs::read(run.join(name)).unwrap()).unwrap()],
            false => lines(&run.join(name)),
        });
        same(&format!("{stage:?} {overrides:?}: {name}"), &Value::Array(a), &Value::Array(b));
    }
    [alone, together]
}

/// The last step of an epoch has fewer packs than there are ranks.
#[test]
fn fine_tuning_on_several_ranks_is_that_of_one() {
    for n_ranks in [2, 3] {
        check(n_ranks, Stage::Sft, setup::folder, &[STEADY, "eval_on_start=true"]);
    }
    check(2, Stage::Sft, setup::folder, &[STEADY, "lora.rank=4", "load_best_model_at_end=true"]);
}

/// The loss of a source is over all of its packs, whichever rank had them.
#[test]
fn losses_by_source_are_those_of_all_ranks() {
    let folder = || {
        let folder = setup::folder();
        let rows = fs::read_to_string(folder.path().join("rows.jsonl")).unwrap();
        let rows: Vec<&str> = rows.lines().collect();
        for (name, rows) in [("one", &rows[..7]), ("two", &rows[7..12]), ("three", &rows[12..25])] {
            fs::write(folder.path().join(format!("{name}.jsonl")), rows.join("\n")).unwrap();
        }
        folder
    };
    let sources = "eval_data=[{path=\"one.jsonl\"}, {path=\"two.jsonl\"}, {path=\"three.jsonl\"}]";
    let overrides = [STEADY, "eval_fraction=0.0", "max_steps=3", "eval_steps=1", "packing=none", sources];
    let [_, together] = check(2, Stage::Sft, folder, &overrides);
    let records = lines(&together.path().join("run/metrics.jsonl"));
    let last = records.iter().rfind(|record| record.get("eval_loss").is_some()).unwrap();
    for name in ["eval_loss/one", "eval_loss/two", "eval_loss/three", "eval_mean_loss_of_sources"] {
        assert!(last[name].is_number(), "no {name}: {last}");
    }
}

#[test]
fn preference_optimisation_on_two_ranks_is_that_of_one() {
    let learning = ["learning_rate=1e-3", STEADY];
    for loss in [&["preference.loss=sigmoid"][..], &["preference.loss=kto", "data.0.path=verdicts.jsonl"]] {
        let [_, together] = check(2, Stage::Dpo, preferences::folder, &[&learning[..], loss].concat());
        let kept = together.path().join("runs/reference_log_probs");
        // The reference was asked once by both ranks together: for KTO the mismatched responses too.
        let n_kept = fs::read_dir(kept).unwrap().count();
        assert_eq!(n_kept, if loss.len() == 1 { 2 } else { 4 });
    }
}

#[test]
fn a_reward_model_on_two_ranks_is_that_of_one_and_so_are_its_diagnostics() {
    let overrides = ["learning_rate=1e-3", STEADY, "reward_model.mse_coefficient=0.3", "eval_on_start=true"];
    let [_, together] = check(2, Stage::Reward, preferences::folder, &overrides);
    let diagnostics = lines(&together.path().join("runs/a/diagnostics.jsonl"));
    assert!(diagnostics.len() >= 2, "an evaluation before the first step, and after each epoch");
}

#[test]
fn classifiers_of_both_kinds_on_two_ranks_are_those_of_one_and_so_are_their_evaluations() {
    for model in classifiers::BOTH {
        let folder = || {
            let folder = model.folder();
            classifiers::write(folder.path(), &classifiers::rows(model));
            folder
        };
        let overrides = ["learning_rate=1e-3", STEADY, "num_train_epochs=2", classifiers::ALL[0]];
        check(2, Stage::Classifier, folder, &overrides);
    }
}

/// In-batch negatives are those of the whole step, whichever rank has them.
#[test]
fn embeddings_on_several_ranks_are_those_of_one() {
    for n_ranks in [2, 3] {
        for loss in ["loss=triplet", "loss=multiple_negatives_ranking"] {
            // Little memory cuts a step into several packs.
            let overrides = [loss, STEADY, "learning_rate=1e-3", "batch_size=30", "memory_gib=0.0171"];
            check(n_ranks, Stage::Embed, embeddings::folder, &overrides);
        }
    }
}

/// Rollouts as the disk has them, without the folder of their prompts.
pub(crate) fn drawn(run: &Path) -> Vec<Value> {
    let all = rollouts::steps(run).unwrap().into_iter().flat_map(|step| rollouts::read(run, step).unwrap());
    let read = |mut rollout: truing_types::Rollout| {
        rollout.origin.source = "prompts".into();
        serde_json::to_value(rollout).unwrap()
    };
    all.map(read).collect()
}

#[test]
fn a_policy_on_several_ranks_draws_the_tokens_of_one_and_learns_the_same() {
    let evaluated = ["eval_fraction=0.4", "eval_steps=2", "eval_on_start=true", "category_column=kind"];
    let resampled = ["num_iterations=2", "minibatches=2", "curriculum=true", "dynamic_sampling=true"];
    // One deviation for the whole batch, and rewards standardised over it.
    let over_batch =
        ["algorithm=reinforce_plus_plus", "shaping.standardise=batch", "shaping.length_penalty=0.1"];
    let others =
        ["algorithm=grpo", "rollout_quantization=int8", "share_prompts=false", "generation_batch_size=3"];
    for (n_ranks, overrides) in
        [(2, &evaluated[..]), (3, &resampled), (2, &over_batch), (2, &others), (4, &["lora.rank=4"])]
    {
        let overrides = [&[STEADY], overrides].concat();
        let [alone, together] = check(n_ranks, Stage::Grpo, policies::folder, &overrides);
        let [expected, found] = [&alone, &together].map(|folder| drawn(&folder.path().join("run")));
        let tokens = |all: &[Value]| all.iter().map(|one| one["tokens"].clone()).collect::<Vec<_>>();
        assert!(tokens(&expected) == tokens(&found), "{overrides:?}: other tokens");
        same(&format!("{overrides:?}: rollouts"), &Value::Array(expected), &Value::Array(found));
    }
}

/// A completion depends on its prompt and the step alone, and the divergence is a mean over the tokens of all ranks.
#[test]
fn a_distillation_on_several_ranks_samples_the_tokens_of_one_and_learns_the_same() {
    for (n_ranks, overrides) in
        [(2, &["num_generations=1"][..]), (3, &["num_generations=2", "kl_tokens=student"])]
    {
        let overrides: Vec<String> = overrides.iter().map(|one| format!("distillation.{one}")).collect();
        let overrides: Vec<&str> = overrides
            .iter()
            .map(String::as_str)
            .chain([STEADY, "max_length=128", "data.0.weight=2"])
            .collect();
        let [alone, together] = check(n_ranks, Stage::Distill, distillations::folder, &overrides);
        let [expected, found] = [&alone, &together].map(|folder| drawn(&folder.path().join("run")));
        same(&format!("{overrides:?}: rollouts"), &Value::Array(expected), &Value::Array(found));
    }
}

/// The samples of fine-tuning data beside the prompts are dealt too.
#[test]
fn a_policy_with_fine_tuning_data_on_two_ranks_is_that_of_one() {
    let ptx = ["ptx_coefficient=0.5", "ptx_data=[{path=\"rows.jsonl\"}]", "ptx_samples_per_update=3"];
    check(2, Stage::Grpo, policies::folder, &[&[STEADY, "max_steps=2"][..], &ptx].concat());
}

/// Ranks have different numbers of packs, prompts and tokens; whatever they shard, they end with what one rank does.
#[test]
fn states_may_be_sharded_in_every_stage() {
    let learning = ["learning_rate=1e-3", STEADY];
    let kto = ["preference.loss=kto", "data.0.path=verdicts.jsonl"];
    let sharded = |stage: u8, more: &[&str]| -> Vec<String> {
        let more = learning.iter().chain(more).map(ToString::to_string);
        more.chain([format!("zero_stage={stage}")]).collect()
    };
    for (n_ranks, stage, folder, overrides) in [
        (2, Stage::Sft, setup::folder as fn() -> TempDir, sharded(1, &["eval_on_start=true"])),
        (3, Stage::Sft, setup::folder, sharded(2, &["lora.rank=4", "load_best_model_at_end=true"])),
        (3, Stage::Sft, setup::folder, sharded(3, &["eval_on_start=true"])),
        (2, Stage::Dpo, preferences::folder, sharded(3, &kto)),
        (2, Stage::Reward, preferences::folder, sharded(2, &["eval_on_start=true"])),
        (3, Stage::Embed, embeddings::folder, sharded(3, &["batch_size=30", "memory_gib=0.0171"])),
        (2, Stage::Grpo, policies::folder, sharded(1, &["num_iterations=2", "minibatches=2"])),
        (3, Stage::Grpo, policies::folder, sharded(3, &["eval_fraction=0.4", "eval_steps=2"])),
        (3, Stage::Distill, distillations::folder, sharded(3, &["max_length=128"])),
    ] {
        check(n_ranks, stage, folder, &overrides.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A run that two ranks with sharded gradients have begun ends on three with sharded parameters, on one, or on two
/// with none.
#[test]
fn a_run_resumes_with_other_ranks_and_another_zero_stage() {
    let stop_second: StopWhen = |rank| match rank {
        1 => Box::new(is_metrics_of(2)),
        _ => Box::new(never),
    };
    let overrides = |stage: &'static str| ["learning_rate=1e-3", STEADY, stage];
    let straight = setup::folder();
    work(Stage::Sft, straight.path(), &overrides("zero_stage=0"), Start::Fresh, &SOLO, nobody_stops)
        .unwrap()
        .unwrap();
    for (n_ranks, stage) in [(3, "zero_stage=3"), (1, "zero_stage=2"), (2, "zero_stage=0")] {
        let folder = setup::folder();
        let begun = overrides("zero_stage=2");
        let outcomes = on_ranks(2, Stage::Sft, folder.path(), &begun, Start::Fresh, stop_second);
        assert_eq!(outcomes, [Ok(Err(2)), Ok(Err(2))]);
        let resumed =
            on_ranks(n_ranks, Stage::Sft, folder.path(), &overrides(stage), Start::Resume, nobody_stops);
        assert!(resumed.iter().all(|outcome| matches!(outcome, Ok(Ok(_)))), "{resumed:?}");
        let [expected, found] = [&straight, &folder].map(|folder| folder.path().join("run/model"));
        same_weights(&expected, &found);
    }
}

#[test]
fn a_stop_on_one_rank_ends_all_at_the_same_step_and_any_number_of_ranks_resumes() {
    let stop_second: StopWhen = |rank| match rank {
        1 => Box::new(is_metrics_of(2)),
        _ => Box::new(never),
    };
    let stop_drawing: StopWhen = |rank| match rank {
        1 => Box::new(|event| {
            matches!(event, Event::PhaseStarted { phase, .. }
                if phase.starts_with("step 3 of 4: sampling rollouts"))
        }),
        _ => Box::new(never),
    };
    for (stage, folder, stop_when) in [
        (Stage::Sft, setup::folder as fn() -> TempDir, stop_second),
        (Stage::Reward, preferences::folder as fn() -> TempDir, stop_second),
        (Stage::Grpo, policies::folder as fn() -> TempDir, stop_drawing),
    ] {
        let overrides = ["learning_rate=1e-3", STEADY];
        let straight = folder();
        work(stage, straight.path(), &overrides, Start::Fresh, &SOLO, nobody_stops).unwrap().unwrap();
        for n_ranks in [1, 2, 3] {
            let folder = folder();
            let outcomes = on_ranks(2, stage, folder.path(), &overrides, Start::Fresh, stop_when);
            assert_eq!(outcomes, [Ok(Err(2)), Ok(Err(2))], "{stage:?}");
            let outcomes = on_ranks(n_ranks, stage, folder.path(), &overrides, Start::Resume, nobody_stops);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Ok(_)))), "{outcomes:?}");
            let [expected, found] = [&straight, &folder].map(|folder| run_folder(stage, folder.path()));
            same_weights(&expected.join("model"), &found.join("model"));
            let [a, b] = [&expected, &found].map(|run| Value::Array(lines(&run.join("metrics.jsonl"))));
            same(&format!("{stage:?} resumed on {n_ranks} ranks"), &a, &b);
            // All ranks learn that the run is finished.
            let again = on_ranks(2, stage, folder.path(), &overrides, Start::Resume, nobody_stops);
            assert_eq!(again, [Ok(Ok(found.join("model"))), Ok(Ok(found.join("model")))]);
        }
    }
}

#[test]
fn an_error_of_the_first_rank_reaches_all_and_none_waits_for_ever() {
    for stage in [Stage::Sft, Stage::Embed, Stage::Grpo] {
        let folder = match stage {
            Stage::Embed => embeddings::folder(),
            Stage::Grpo => policies::folder(),
            _ => setup::folder(),
        };
        let run = run_folder(stage, folder.path());
        let go = |overrides: &[&str], start| {
            let found = on_ranks(2, stage, folder.path(), overrides, start, nobody_stops);
            found.into_iter().map(Result::unwrap_err).collect::<Vec<String>>()
        };
        fs::create_dir(&run).unwrap();
        fs::write(run.join("notes.txt"), "mine").unwrap();
        let foreign =
            format!("`{}` holds no run to resume, but other files, such as `notes.txt`", run.display());
        assert_eq!(
            go(&["max_steps=1"], Start::Resume),
            [foreign.clone(), format!("rank 0 failed: {foreign}")]
        );
        fs::remove_file(run.join("notes.txt")).unwrap();

        let outcomes = on_ranks(2, stage, folder.path(), &["max_steps=1"], Start::Fresh, nobody_stops);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let taken = format!("`{}` already holds a run", run.display());
        assert_eq!(go(&["max_steps=1"], Start::Fresh), [taken.clone(), format!("rank 0 failed: {taken}")]);
        let changed = "the run was started with another recipe: seed changed".to_owned();
        assert_eq!(
            go(&["max_steps=1", "seed=99"], Start::Resume),
            [changed.clone(), format!("rank 0 failed: {changed}")]
        );
    }
}

#[test]
fn a_rank_that_fails_is_a_lost_peer_and_not_a_hang() {
    let folder = setup::folder();
    let (folder, is_over) = (folder.path(), AtomicBool::new(false));
    thread::scope(|scope| {
        let mut ranks = thread_world(2);
        let second = ranks.pop().unwrap();
        let first = ranks.pop().unwrap();
        let first = scope.spawn(move || {
            let groups = Groups::new(Arc::new(first), 1).unwrap();
            work(Stage::Sft, folder, &[], Start::Fresh, &groups, nobody_stops).unwrap_err().to_string()
        });
        let is_over = &is_over;
        scope.spawn(move || {
            let groups = Groups::new(Arc::new(second), 1).unwrap();
            // Its data cannot be read.
            let overrides = ["data.0.path=missing.jsonl"];
            work(Stage::Sft, folder, &overrides, Start::Fresh, &groups, nobody_stops).unwrap_err();
            drop(groups);
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(first.join().unwrap().contains("a peer left before the operation completed"));
    });
    assert!(is_over.load(Ordering::Relaxed));
}
