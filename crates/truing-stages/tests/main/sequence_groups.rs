//! Training in sequence groups (Ulysses): weights, metrics and evaluations are those of one rank, any number of ranks
//! resumes, and sizes that do not work are refused. The model has 4 attention heads and 2 key heads.

use crate::ranks::{
    STEADY, Stage, check_in_groups, drawn, lines, nobody_stops, on_ranks, run_folder, same, same_weights,
    work,
};
use crate::setup::{self, Cpu, MACHINE, SOLO, is_metrics_of, never};
use crate::{classifiers, distillations, embeddings, policies, preferences};
use serde_json::Value;
use tempfile::TempDir;
use truing_stages::distill::DistillStage;
use truing_stages::sft::SftStage;
use truing_stages::training::TrainingConfig;
use truing_stages::{Machine, Recipe as _, Stage as _, Start};
use truing_types::Silent;

/// Packs are dealt to sequence groups, and key heads are copied where a group has four ranks.
#[test]
fn fine_tuning_in_sequence_groups_is_that_of_one_rank() {
    for (n_ranks, size) in [(2, 2), (4, 2), (4, 4)] {
        check_in_groups(n_ranks, size, Stage::Sft, setup::folder, &[STEADY, "eval_on_start=true"]);
    }
    // Segments that are computed again, and adapters.
    let overrides = [STEADY, "lora.rank=4", "layers_per_segment=1", "max_steps=4"];
    check_in_groups(2, 2, Stage::Sft, setup::folder, &overrides);
}

#[test]
fn preference_optimisation_and_reward_models_in_sequence_groups_are_those_of_one_rank() {
    let learning = ["learning_rate=1e-3", STEADY];
    for loss in [&["preference.loss=sigmoid"][..], &["preference.loss=kto", "data.0.path=verdicts.jsonl"]] {
        check_in_groups(4, 2, Stage::Dpo, preferences::folder, &[&learning[..], loss].concat());
    }
    let scored = [&learning[..], &["reward_model.mse_coefficient=0.3", "eval_on_start=true"]].concat();
    check_in_groups(2, 2, Stage::Reward, preferences::folder, &scored);
}

/// Every rank samples other prompts, and the groups divide the packs of the update.
#[test]
fn a_policy_in_sequence_groups_draws_the_tokens_of_one_rank_and_learns_the_same() {
    let evaluated = ["eval_fraction=0.4", "eval_steps=2", "eval_on_start=true", "category_column=kind"];
    let ptx = ["ptx_coefficient=0.5", "ptx_data=[{path=\"rows.jsonl\"}]", "ptx_samples_per_update=3"];
    for (n_ranks, overrides) in [(2, &evaluated[..]), (4, &ptx), (2, &["lora.rank=4", "share_prompts=false"])]
    {
        let overrides = [&[STEADY, "max_steps=2"], overrides].concat();
        let [alone, together] = check_in_groups(n_ranks, 2, Stage::Grpo, policies::folder, &overrides);
        let [expected, found] = [&alone, &together].map(|folder| drawn(&folder.path().join("run")));
        same(&format!("{overrides:?}: rollouts"), &Value::Array(expected), &Value::Array(found));
    }
}

#[test]
fn a_distillation_in_sequence_groups_is_that_of_one_rank() {
    let overrides = ["distillation.num_generations=2", STEADY, "max_length=128"];
    let [alone, together] = check_in_groups(4, 2, Stage::Distill, distillations::folder, &overrides);
    let [expected, found] = [&alone, &together].map(|folder| drawn(&folder.path().join("run")));
    same("rollouts", &Value::Array(expected), &Value::Array(found));
}

/// A rank asks the teacher about its rows of a pack, and needs memory for those alone.
#[test]
fn the_memory_of_asking_a_teacher_is_that_of_the_rows_of_a_rank() {
    let folder = distillations::folder();
    let bytes = |size: usize| {
        let size = format!("sequence_parallel_size={size}");
        let typed = ["max_length=2000", "distillation.generation_batch_size=1", &size].map(str::to_owned);
        let path = folder.path().join("recipe.toml");
        let config = TrainingConfig::from_toml(distillations::RECIPE, &path, &typed).unwrap();
        let inputs = setup::load::<DistillStage>(&config, &mut Silent).unwrap();
        DistillStage::plan::<Cpu>(config, &inputs, &MACHINE).unwrap().beside.sampling_bytes
    };
    // Half of the rows; the exchange of heads takes a part of what that saves.
    assert!(4 * bytes(2) < 3 * bytes(1), "{} bytes of {}", bytes(2), bytes(1));
}

#[test]
fn a_run_is_resumed_in_groups_of_another_size() {
    let overrides = ["learning_rate=1e-3", STEADY];
    for (stage, folder) in
        [(Stage::Sft, setup::folder as fn() -> TempDir), (Stage::Grpo, policies::folder as fn() -> TempDir)]
    {
        let straight = folder();
        work(stage, straight.path(), &overrides, Start::Fresh, &SOLO, nobody_stops).unwrap().unwrap();
        for (before, after) in [(1, 2), (2, 1)] {
            let folder = folder();
            let [before, after] = [before, after].map(|size| format!("sequence_parallel_size={size}"));
            let stop_second: crate::ranks::StopWhen = |rank| match rank {
                1 => Box::new(is_metrics_of(2)),
                _ => Box::new(never),
            };
            let in_groups = [&overrides[..], &[before.as_str()]].concat();
            let stopped = on_ranks(2, stage, folder.path(), &in_groups, Start::Fresh, stop_second);
            assert_eq!(stopped, [Ok(Err(2)), Ok(Err(2))], "{stage:?} {before}");
            let in_groups = [&overrides[..], &[after.as_str()]].concat();
            let ended = on_ranks(2, stage, folder.path(), &in_groups, Start::Resume, nobody_stops);
            assert!(ended.iter().all(|outcome| matches!(outcome, Ok(Ok(_)))), "{ended:?}");
            let [expected, found] = [&straight, &folder].map(|folder| run_folder(stage, folder.path()));
            same_weights(&expected.join("model"), &found.join("model"));
            let [a, b] = [&expected, &found].map(|run| Value::Array(lines(&run.join("metrics.jsonl"))));
            same(&format!("{stage:?} resumed with {after}"), &a, &b);
        }
    }
}

/// States are sharded over all ranks while sequence groups divide the packs of each step. Groups without a pack and
/// ranks without a prompt take part in what the others gather and reduce.
#[test]
fn states_may_be_sharded_in_sequence_groups() {
    let kto = ["preference.loss=kto", "data.0.path=verdicts.jsonl"];
    let recomputed = ["lora.rank=4", "layers_per_segment=1", "load_best_model_at_end=true"];
    for zero_stage in ["zero_stage=2", "zero_stage=3"] {
        for (stage, folder, more) in [
            (Stage::Sft, setup::folder as fn() -> TempDir, &["eval_on_start=true"][..]),
            (Stage::Sft, setup::folder, &recomputed),
            (Stage::Dpo, preferences::folder, &kto),
            (Stage::Reward, preferences::folder, &["eval_on_start=true"]),
        ] {
            let overrides = [&["learning_rate=1e-3", STEADY, zero_stage][..], more].concat();
            check_in_groups(4, 2, stage, folder, &overrides);
        }
    }
    check_in_groups(2, 2, Stage::Sft, setup::folder, &[STEADY, "zero_stage=1", "max_steps=4"]);
}

/// Three prompts a step for four ranks: one decodes nothing while the others gather whole parameters. The reference
/// is a model of its own, or the policy without its adapters.
#[test]
fn a_policy_with_sharded_states_in_sequence_groups_is_that_of_one_rank() {
    let evaluated = ["eval_fraction=0.4", "eval_steps=2", "eval_on_start=true"];
    let ptx = ["ptx_coefficient=0.5", "ptx_data=[{path=\"rows.jsonl\"}]", "ptx_samples_per_update=3"];
    let adapters = ["lora.rank=4", "num_iterations=2", "minibatches=2"];
    for (zero_stage, more) in [
        ("zero_stage=2", &evaluated[..]),
        ("zero_stage=3", &evaluated),
        ("zero_stage=3", &ptx),
        ("zero_stage=3", &adapters),
    ] {
        let overrides = [&["learning_rate=1e-3", STEADY, "max_steps=2", zero_stage][..], more].concat();
        let [alone, together] = check_in_groups(4, 2, Stage::Grpo, policies::folder, &overrides);
        let [expected, found] = [&alone, &together].map(|folder| drawn(&folder.path().join("run")));
        same(&format!("{overrides:?}: rollouts"), &Value::Array(expected), &Value::Array(found));
    }
    let overrides = ["learning_rate=1e-3", STEADY, "max_length=128", "zero_stage=3"];
    check_in_groups(4, 2, Stage::Distill, distillations::folder, &overrides);
}

/// A stop on one rank, another number of ranks, another size of groups, another ZeRO stage: nothing of it is in a
/// checkpoint.
#[test]
fn a_sharded_run_in_sequence_groups_is_resumed_by_other_ranks() {
    let stop_last: crate::ranks::StopWhen = |rank| match rank {
        3 => Box::new(is_metrics_of(2)),
        _ => Box::new(never),
    };
    for (stage, folder) in
        [(Stage::Sft, setup::folder as fn() -> TempDir), (Stage::Grpo, policies::folder as fn() -> TempDir)]
    {
        let overrides = |zero_stage, size| ["learning_rate=1e-3", STEADY, zero_stage, size];
        let of_one = overrides("zero_stage=0", "sequence_parallel_size=1");
        let straight = folder();
        work(stage, straight.path(), &of_one, Start::Fresh, &SOLO, nobody_stops).unwrap().unwrap();
        for (n_ranks, resumed) in [
            (2, overrides("zero_stage=2", "sequence_parallel_size=2")),
            (4, overrides("zero_stage=3", "sequence_parallel_size=4")),
            (1, of_one),
        ] {
            let folder = folder();
            let begun = overrides("zero_stage=3", "sequence_parallel_size=2");
            let stopped = on_ranks(4, stage, folder.path(), &begun, Start::Fresh, stop_last);
            assert!(stopped.iter().all(|outcome| *outcome == Ok(Err(2))), "{stage:?}: {stopped:?}");
            let ended = on_ranks(n_ranks, stage, folder.path(), &resumed, Start::Resume, nobody_stops);
            assert!(ended.iter().all(|outcome| matches!(outcome, Ok(Ok(_)))), "{stage:?}: {ended:?}");
            let [expected, found] = [&straight, &folder].map(|folder| run_folder(stage, folder.path()));
            same_weights(&expected.join("model"), &found.join("model"));
            let [a, b] = [&expected, &found].map(|run| Value::Array(lines(&run.join("metrics.jsonl"))));
            same(&format!("{stage:?} resumed with {resumed:?}"), &a, &b);
        }
    }
}

#[test]
fn sizes_that_do_not_work_are_refused_before_the_first_step() {
    let refused = |n_ranks, stage, folder: &TempDir, overrides: &[&str]| {
        let found = on_ranks(n_ranks, stage, folder.path(), overrides, Start::Fresh, nobody_stops);
        assert!(!run_folder(stage, folder.path()).exists(), "{stage:?} {overrides:?} began a run");
        let mut found: Vec<String> = found.into_iter().map(Result::unwrap_err).collect();
        found.dedup();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    let folder = setup::folder();
    assert_eq!(
        refused(2, Stage::Sft, &folder, &["sequence_parallel_size=3"]),
        "`sequence_parallel_size` is 3: expected 1, 2 or 4 for the model's 4 attention heads and 2 key heads"
    );
    assert_eq!(
        refused(2, Stage::Sft, &folder, &["sequence_parallel_size=4"]),
        "`sequence_parallel_size` is 4: expected a divisor of the number of ranks, which is 2 \
         (`truing launch -n`, `truing plan --ranks`)"
    );
    let config = setup::config(folder.path(), &["sequence_parallel_size=2"]);
    let inputs = setup::load::<SftStage>(&config, &mut Silent).unwrap();
    let planned = |n_ranks| SftStage::plan::<Cpu>(config.clone(), &inputs, &Machine { n_ranks, ..MACHINE });
    assert!(planned(1).is_ok() && planned(4).is_ok());
    let refused_plan = planned(3).unwrap_err().to_string();
    assert!(refused_plan.contains("the number of ranks, which is 3"), "{refused_plan}");
    assert_eq!(
        refused(2, Stage::Sft, &folder, &["sequence_parallel_size=0"]),
        "`sequence_parallel_size` is 0: expected at least 1; 1 is data parallelism alone"
    );
    let of_encoders =
        "`sequence_parallel_size` is 2: expected 1, since the packs of an encoder are not divided over ranks";
    assert_eq!(refused(2, Stage::Embed, &embeddings::folder(), &["sequence_parallel_size=2"]), of_encoders);
    let policy = refused(2, Stage::Grpo, &policies::folder(), &["sequence_parallel_size=3"]);
    assert!(policy.starts_with("`sequence_parallel_size` is 3: expected 1, 2 or 4"), "{policy}");
}

/// Decoders may be divided, encoders not.
#[test]
fn classifiers_on_decoders_train_in_sequence_groups() {
    for model in classifiers::BOTH {
        let folder = || {
            let folder = model.folder();
            classifiers::write(folder.path(), &classifiers::rows(model));
            folder
        };
        let overrides = ["learning_rate=1e-3", STEADY, "num_train_epochs=2", classifiers::ALL[0]];
        if matches!(model, classifiers::Model::Encoder) {
            let in_groups = [&overrides[..], &["sequence_parallel_size=2"]].concat();
            let found =
                on_ranks(2, Stage::Classifier, folder().path(), &in_groups, Start::Fresh, nobody_stops);
            assert!(found.iter().all(Result::is_err), "{found:?}");
        } else {
            check_in_groups(2, 2, Stage::Classifier, folder, &overrides);
        }
    }
}
