use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use truing_stages::classifier::ClassifierStage;
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedStage;
use truing_stages::grpo::{GrpoPlan, GrpoStage};
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::RunPlan as _;
use truing_stages::training::TrainingPlan;
use truing_stages::{Machine, Recipe, RunContext, RunError, Stage, StageError, StagePlan, Start};
use truing_train::{Amount, PlanError};
use truing_types::Silent;

use crate::setup::{Cpu, MACHINE, SOLO, Ticks, check_before_data};
use crate::{distillations, embeddings, policies, preferences, setup};

fn error_of(overrides: &[&str]) -> String {
    let folder = setup::folder();
    let overrides: Vec<String> =
        overrides.iter().map(|o| o.replace("FOLDER", &folder.path().to_string_lossy())).collect();
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    let error = setup::plan(setup::config(folder.path(), &overrides)).unwrap_err();
    let mut text = error.to_string();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        text = format!("{text}: {source}");
        cause = source;
    }
    text
}

#[test]
fn a_plan_says_everything_that_is_decided() {
    let folder = setup::folder();
    let (plan, inputs) = setup::plan(setup::config(folder.path(), &[])).unwrap();
    let steps_an_epoch = plan.epochs[0].packs.len().div_ceil(2) as u64;
    assert_eq!(plan.n_steps, plan.epochs.iter().map(|e| e.packs.len().div_ceil(2) as u64).sum::<u64>());
    let visited: usize = plan.epochs[0].packs.iter().map(Vec::len).sum();
    assert_eq!(visited, inputs.train.n_samples());
    assert_eq!(inputs.train.n_samples() + inputs.eval.as_ref().unwrap().n_samples(), 40);
    let last = plan.packs_of(steps_an_epoch);
    assert!(last.ends_epoch && last.epochs_done == 1.0);
    assert!(plan.packs_of(steps_an_epoch + 1).epochs_done > 1.0);
    let names: Vec<String> = plan.table().into_iter().map(|row| row.name).collect();
    for name in
        ["parameters", "gradients", "optimizer", "activations", "head", "peak", "steps", "time of the run"]
    {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
    assert!(plan.summary().contains("no recomputation"));
    assert_eq!(plan.by_layers_per_segment().len(), 2);
}

#[test]
fn epochs_and_steps_bound_each_other() {
    let folder = setup::folder();
    let steps = |overrides: &[&str]| setup::plan(setup::config(folder.path(), overrides)).unwrap().0.n_steps;
    let two_epochs = steps(&[]);
    assert_eq!(steps(&["max_steps=3"]), 3);
    assert_eq!(steps(&["max_steps=100"]), 100);
    let one_and_a_half = steps(&["num_train_epochs=1.5"]);
    assert!(one_and_a_half < two_epochs && one_and_a_half > steps(&["num_train_epochs=1"]));
    assert!(steps(&["packing=none", "packs_per_step=2"]) > two_epochs);
    assert_eq!(steps(&["tokens_per_step=384"]), two_epochs);
}

#[test]
fn what_cannot_work_is_refused_with_the_key_and_what_was_expected() {
    for (overrides, expected) in [
        (&["model_name_or_path="][..], "missing setting `model_name_or_path`: expected"),
        (&["data=[]"], "missing setting `data`: expected at least one [[data]] table"),
        (&["output_dir="], "missing setting `output_dir`"),
        (&["learning_rate=0"], "`learning_rate` is 0: expected a number above 0"),
        (
            &["max_length=100000"],
            "`max_length` is 100000: expected at most the model's context of 2048 tokens",
        ),
        (&["max_length=1"], "`max_length` is 1: expected at least 2 tokens"),
        (&["packs_per_step=0"], "`packs_per_step` is 0: expected at least 1"),
        (&["warmup_ratio=2"], "`warmup_ratio` is 2: expected a share"),
        (&["eval_fraction=0"], "`eval_steps` is 4: expected evaluation data"),
        (
            &["eval_fraction=0", "keep_best=true"],
            "`keep_best` is true: expected evaluations: `eval_fraction` or `eval_data`",
        ),
        (&["merge_adapter=true"], "`merge_adapter` is true: expected a [lora] table"),
        (&["layers_per_segment=3"], "a segment of 3 layers was requested, but the model has 2"),
        (&["max_length=40"], "samples are longer than 40 tokens"),
        (&["memory_gib=0.001"], " MiB are needed for packs of"),
        (&["model_name_or_path=FOLDER/nowhere"], "nowhere"),
        (&["data.0.path=missing.jsonl"], "missing.jsonl"),
        (&["eval_data=[{path=\"rows.jsonl\"}]"], "`eval_fraction` and `eval_data` cannot both be given"),
        (&["lora.targets=[\"q_prj\"]"], "no projection of the model is called `q_prj`"),
        (&["freeze=[\"lm_haed\"]"], "`freeze` is `lm_haed`: expected the beginning of a parameter's name"),
        (&["freeze=[\"model\"]"], "all parameters are frozen"),
        (&["lora.alpha=0"], "`lora.alpha` is 0: expected a number above 0"),
        (&["lora.rank=0"], "`lora.rank` is 0: expected at least 1"),
        (&["eval_fraction=0.9999"], "`eval_fraction` is 0.9999: expected at least one row to train on"),
    ] {
        let found = error_of(overrides);
        assert!(found.contains(expected), "{overrides:?}: `{found}` does not say `{expected}`");
    }
}

#[test]
fn a_run_that_does_not_fit_is_told_what_would() {
    let folder = setup::folder();
    let refusal = |budget_gib: f64| {
        let memory = format!("memory_gib={budget_gib}");
        match setup::plan(setup::config(folder.path(), &[&memory])) {
            Err(StageError::DoesNotFit { source: PlanError::DoesNotFit { needed_bytes, .. }, hints }) => {
                Some((needed_bytes, hints))
            }
            _ => None,
        }
    };
    let (needed_bytes, _) = refusal(1e-4).unwrap();
    // Somewhere below what is needed there is room for shorter packs, and for the adapters without the moments.
    let budgets = (1..120).map(|i| (needed_bytes - i * (16 << 10)) as f64 / f64::from(1 << 30));
    let hints: Vec<String> = budgets.filter_map(refusal).flat_map(|(_, hints)| hints).collect();
    assert!(hints.iter().any(|hint| hint.starts_with("`max_length = ")), "{hints:?}");
    assert!(hints.iter().any(|hint| hint.contains("[lora]")), "{hints:?}");
}

#[test]
fn a_token_without_an_embedding_is_refused_with_its_row() {
    let folder = setup::folder();
    let path = folder.path().join("model/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let mut more = added[0].clone();
    more["id"] = 259.into();
    more["content"] = "<|new|>".into();
    added.push(more);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, fs::read_to_string(&rows).unwrap().replace("7 + 1?", "7 + 1<|new|>?")).unwrap();
    let error = setup::plan(setup::config(folder.path(), &[])).unwrap_err().to_string();
    assert!(error.ends_with("rows.jsonl:8: token 259 is outside the model's vocabulary of 259"), "{error}");
}

#[test]
fn bad_rows_stop_the_plan_or_are_counted() {
    let folder = setup::folder();
    let rows = folder.path().join("rows.jsonl");
    let mut text = fs::read_to_string(&rows).unwrap();
    text.push_str("{\"messages\": [{\"role\": \"user\", \"content\": \"alone\"}]}\nnot json\n");
    fs::write(&rows, text).unwrap();
    let error = setup::plan(setup::config(folder.path(), &[])).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:41"), "{error}");
    let (_, inputs) = setup::plan(setup::config(folder.path(), &["on_bad_row=skip"])).unwrap();
    assert_eq!((inputs.train_report.n_rows, inputs.train_report.skipped.len()), (40, 2));
    assert!(
        inputs.train_report.skipped[1].to_string().contains("rows.jsonl:42"),
        "{:?}",
        inputs.train_report.skipped
    );
}

#[test]
fn settings_out_of_range_are_refused_before_the_data_is_read() {
    let folder = setup::folder();
    let folder = folder.path();
    let common = [
        "learning_rate=0",
        "num_train_epochs=-1",
        "max_steps=0",
        "warmup_ratio=2",
        "weight_decay=-1",
        "adam_beta2=1",
        "max_grad_norm=-1",
        "eval_fraction=1",
        "save_steps=0",
        "save_total_limit=0",
        "keep_best=true",
        "memory_gib=0",
        "threads=0",
        "freeze=[\"no.such\"]",
    ];
    let decoder =
        ["max_length=1", "packs_per_step=0", "logging_steps=0", "lora.alpha=0", "merge_adapter=true"];
    let recipe = |stage: &str| {
        format!(
            "stage = \"{stage}\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n[[data]]\n\
             path = \"missing.jsonl\"\n"
        )
    };
    let trained = [&common[..], &decoder, &["max_length=100000"]].concat();
    check_before_data::<SftStage>(&recipe("sft"), folder, &trained);
    check_before_data::<DpoStage>(&recipe("dpo"), folder, &[&trained[..], &["preference.beta=0"]].concat());
    check_before_data::<RewardModelStage>(
        &recipe("reward_model"),
        folder,
        &[&trained[..], &["reward_model.mse_coefficient=-1"]].concat(),
    );
    check_before_data::<ClassifierStage>(
        &recipe("classifier"),
        folder,
        &[&trained[..], &["classifier.min_count=0"]].concat(),
    );
    let policy = [
        "num_generations=1",
        "temperature=0",
        "top_p=2",
        "beta=-1",
        "minibatches=100",
        "kl_top_k=0",
        "max_completion_length=100000",
        "ptx_coefficient=1",
        "merge_adapter=true",
        "lora.alpha=0",
    ];
    let rewarded = recipe("grpo") + "[[reward]]\nkind = { format = { pattern = \"a\" } }\n";
    check_before_data::<GrpoStage>(&rewarded, folder, &[&common[..], &policy].concat());

    let encoder = embeddings::folder();
    let encoder = encoder.path();
    let embed = "stage = \"embed\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n\
                 train_data = \"missing.jsonl\"\n";
    let own = ["batch_size=0", "scale=0", "triplet_margin=-1", "logging_steps=0"];
    check_before_data::<EmbedStage>(embed, encoder, &[&common[..], &own].concat());
    let own = ["max_length=1", "packs_per_step=0", "classifier.min_confidence=2"];
    check_before_data::<ClassifierStage>(&recipe("classifier"), encoder, &[&common[..], &own].concat());
}

/// The plan of a recipe with some changes.
fn planned<S: Stage>(recipe: &str, folder: &Path, overrides: &[&str], machine: &Machine) -> S::Plan {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = <S::Config as Recipe>::from_toml(recipe, &folder.join("recipe.toml"), &overrides).unwrap();
    let inputs = setup::load::<S>(&config, &mut Silent).unwrap();
    S::plan::<Cpu>(config, &inputs, machine).unwrap()
}

fn seconds(plan: &impl StagePlan, name: &str) -> f64 {
    let row = plan.table().into_iter().find(|row| row.name == name);
    match row.map(|row| row.amount) {
        Some(Amount::Seconds(secs)) => secs,
        other => panic!("{name}: {other:?}"),
    }
}

fn assert_close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn the_time_of_a_policy_step_is_that_of_its_parts() {
    let folder = policies::folder();
    let plan = |overrides: &[&str], machine: &Machine| -> GrpoPlan {
        planned::<GrpoStage>(policies::RECIPE, folder.path(), overrides, machine)
    };
    let secs = |overrides: &[&str]| plan(overrides, &MACHINE).step_secs.unwrap();
    let found = secs(&[]);
    let sampling = found.sampling.unwrap();
    assert!(sampling > 0.0 && found.comparing > 0.0 && found.updating > found.comparing);
    assert_close(found.total().unwrap(), sampling + found.comparing + found.updating);
    assert_close(seconds(&plan(&[], &MACHINE), "time of the run"), 4.0 * found.total().unwrap());
    // The reference is half of the comparison, each iteration repeats the updates, and prompts are counted once.
    assert_close(secs(&["kl=none"]).comparing, found.comparing / 2.0);
    let ptx = ["kl=none", "ptx_coefficient=0.5", "ptx_data=[{path=\"rows.jsonl\"}]"];
    assert_close(secs(&ptx).comparing, found.comparing / 2.0);
    assert_close(secs(&["num_iterations=3"]).updating, 3.0 * found.updating);
    assert!(secs(&["share_prompts=false"]).updating > found.updating);
    assert!(secs(&["max_completion_length=24"]).sampling.unwrap() > 1.9 * sampling);
    // Memory that is read twice as fast, and as much computation.
    let faster = Machine { gigabytes_per_second: Some(0.02), ..MACHINE };
    let with_faster = plan(&[], &faster).step_secs.unwrap();
    assert!(with_faster.sampling.unwrap() < sampling);
    assert_close(with_faster.updating, found.updating);
    let two_ranks = plan(&[], &Machine { n_ranks: 2, ..MACHINE }).step_secs.unwrap();
    assert_close(two_ranks.updating, found.updating / 2.0);
    let unmeasured = Machine { gigabytes_per_second: None, ..MACHINE };
    assert_eq!(plan(&[], &unmeasured).step_secs, None);
}

#[test]
fn the_time_of_sampling_on_servers_is_not_known() {
    let folder = policies::folder();
    let servers = ["rollouts.model=tiny", "rollouts.servers=[\"http://127.0.0.1:9\"]"];
    let plan: GrpoPlan = planned::<GrpoStage>(policies::RECIPE, folder.path(), &servers, &MACHINE);
    let secs = plan.step_secs.unwrap();
    assert_eq!((secs.sampling, secs.total()), (None, None));
    assert!(secs.comparing > 0.0 && secs.updating > 0.0);
    let table = plan.table();
    let unknown: Vec<&str> = table
        .iter()
        .filter(|row| matches!(row.amount, Amount::Unknown(_)))
        .map(|row| row.name.as_str())
        .collect();
    let expected = [
        "time of sampling, completions of full length",
        "time of a step, without rewards",
        "time of the run",
    ];
    assert_eq!(unknown, expected);
}

#[test]
fn distillation_counts_sampling_and_the_teacher() {
    let folder = distillations::folder();
    let plan = |overrides: &[&str], machine: &Machine| -> TrainingPlan {
        planned::<DistillStage>(distillations::RECIPE, folder.path(), overrides, machine)
    };
    let name = "time of a step, completions of full length";
    let found = seconds(&plan(&[], &MACHINE), name);
    let training = plan(&[], &MACHINE).step_flops.total() / 1e9;
    assert!(found > training, "{found} is not more than {training}");
    let of_student = seconds(&plan(&["distillation.kl_tokens=student"], &MACHINE), name);
    let of_teacher = seconds(&plan(&["distillation.kl_tokens=teacher"], &MACHINE), name);
    assert!(of_student > of_teacher);
    let unmeasured = plan(&[], &Machine { gigabytes_per_second: None, ..MACHINE });
    assert_eq!(unmeasured.step_secs, None);
}

#[test]
fn dpo_counts_the_pass_of_its_reference() {
    let folder = preferences::folder();
    let plan = |overrides: &[&str]| -> TrainingPlan {
        planned::<DpoStage>(preferences::RECIPE, folder.path(), overrides, &MACHINE)
    };
    let (dpo, simpo) = (plan(&[]), plan(&["preference.loss=simpo"]));
    let before = seconds(&dpo, "time of the reference pass");
    let steps = seconds(&dpo, "time of a step") * dpo.n_steps as f64;
    assert_close(seconds(&dpo, "time of the run"), before + steps);
    assert_eq!(simpo.before_secs, Some(0.0));
    assert_close(seconds(&simpo, "time of the run"), steps);
}

#[test]
fn ranks_share_the_time_of_a_step() {
    let folder = setup::folder();
    let secs = |n_ranks| {
        let plan: TrainingPlan =
            planned::<SftStage>(setup::RECIPE, folder.path(), &[], &Machine { n_ranks, ..MACHINE });
        plan.step_secs.unwrap()
    };
    assert_close(secs(2), secs(1) / 2.0);
}

#[test]
fn a_full_disk_is_a_warning_of_the_plan_and_an_error_of_the_run() {
    let folder = setup::folder();
    let (mut plan, inputs) = setup::plan(setup::config(folder.path(), &[])).unwrap();
    assert_eq!(plan.warnings(), [""; 0]);
    let bytes = |plan: &TrainingPlan| {
        let row = plan.table().into_iter().find(|row| row.name == "disk for checkpoints and model");
        row.map(|row| row.amount)
    };
    assert_eq!(bytes(&plan), Some(Amount::Bytes(plan.disk.needed)));
    plan.disk.needed = 1 << 60;
    let warnings = plan.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("GiB are free"), "{warnings:?}");
    let stop = AtomicBool::new(false);
    let (probe, mut events) = (Ticks::default(), Silent);
    let context = RunContext::new(Start::Fresh, &SOLO, &probe, &mut events, &stop);
    let error = SftStage::run::<Cpu>(&plan, &inputs, context).err().unwrap();
    assert!(matches!(error, StageError::Run(RunError::NotEnoughSpace { .. })), "{error}");
    assert!(!folder.path().join("run").exists(), "nothing was begun");
}
