use std::fs;

use truing_stages::classifier::ClassifierStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedStage;
use truing_stages::grpo::GrpoStage;
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::RunPlan as _;
use truing_stages::{StageError, StagePlan as _};
use truing_train::PlanError;

use crate::setup::check_before_data;
use crate::{embeddings, setup};

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
