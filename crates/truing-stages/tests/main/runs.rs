use crate::setup::{self, is_metrics_of, never};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::Cell;
use std::fs;
use std::path::Path;
use truing_eval::held_out::HeldOutScores;
use truing_model::adapters::{merge_lora, open_adapter};
use truing_model::{ModelError, ModelFiles, SaveDtype, SaveOptions, save_pretrained};
use truing_stages::{Ended, RunError, StageError, Start, TrainedModel};
use truing_types::Event;

fn model_bytes(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/model.safetensors")).unwrap()
}

/// Metrics as they would be on any clock.
fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        for timed in ["tokens_per_second", "samples_per_second", "step_time", "peak_memory_gib"] {
            record.as_object_mut().unwrap().remove(timed);
        }
        record
    };
    text.lines().map(line).collect()
}

#[test]
fn a_run_lowers_the_loss_and_leaves_a_complete_folder() {
    let folder = setup::folder();
    let (outcome, events) = setup::run(folder.path(), &[], Start::Fresh, never).unwrap();
    let run = folder.path().join("run");
    assert!(matches!(&outcome, Ended::Finished(TrainedModel { model, .. }) if *model == run.join("model")));
    let losses: Vec<f64> = metrics(&run).iter().filter_map(|record| record["eval_loss"].as_f64()).collect();
    assert!(losses.len() >= 2 && losses.last() < losses.first(), "{losses:?}");
    // The loss of an evaluation is the mean of its samples' losses, weighted by their loss tokens.
    let text = fs::read_to_string(run.join(HeldOutScores::FILE_NAME)).unwrap();
    let held_out: Vec<HeldOutScores> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let evaluations: Vec<Value> =
        metrics(&run).into_iter().filter(|record| record["eval_loss"].is_number()).collect();
    assert_eq!(held_out.len(), evaluations.len());
    for (scores, record) in held_out.iter().zip(&evaluations) {
        assert_eq!(
            (scores.step, scores.measure.as_str()),
            (record["step"].as_u64().unwrap(), HeldOutScores::LOSS)
        );
        assert_eq!(record["eval_samples"].as_f64(), Some(scores.values.len() as f64));
        let weighted = scores.values.iter().zip(&scores.weights);
        let sum: f64 = weighted.map(|(value, weight)| weight * value.unwrap()).sum();
        let mean = sum / scores.weights.iter().sum::<f64>();
        assert!((mean - record["eval_loss"].as_f64().unwrap()).abs() < 1e-5, "{mean}: {record}");
    }
    for file in [
        "recipe.resolved.toml",
        "inputs.json",
        "plan.json",
        "metrics.jsonl",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "checkpoints/checkpoint-3/optimizer.safetensors",
    ] {
        assert!(run.join(file).is_file() || file.contains("checkpoint"), "{file} is missing");
    }
    let checkpoints = fs::read_dir(run.join("checkpoints")).unwrap().count();
    assert!((1..=2).contains(&checkpoints), "save_total_limit keeps 2, found {checkpoints}");
    let named = |name: &str| {
        events.iter().any(|e| matches!(e, Event::Metrics { values, .. } if values.contains_key(name)))
    };
    for name in [
        "loss",
        "mean_token_accuracy",
        "entropy",
        "grad_norm",
        "learning_rate",
        "epoch",
        "num_tokens",
        "tokens_per_second",
        "utilisation",
        "step_time",
        "peak_memory_gib",
        "eval_loss",
    ] {
        assert!(named(name), "no metric is called {name}");
    }
    let again = setup::run(folder.path(), &[], Start::Fresh, never).unwrap_err();
    assert!(
        matches!(again, StageError::Run(RunError::Store(_))),
        "a finished run is not overwritten: {again}"
    );
    let (resumed, _) = setup::run(folder.path(), &[], Start::Resume, never).unwrap();
    assert!(matches!(resumed, Ended::Finished(_)));
}

/// With several sources to evaluate on each has its loss: what it would be alone.
#[test]
fn every_source_of_an_evaluation_has_its_loss() {
    let folder = setup::folder();
    let rows = fs::read_to_string(folder.path().join("rows.jsonl")).unwrap();
    let (short, long): (Vec<&str>, Vec<&str>) =
        rows.lines().take(20).partition(|row| row.matches("very").count() < 3);
    for (name, rows) in [("short", &short), ("long", &long)] {
        fs::write(folder.path().join(format!("{name}.jsonl")), rows.join("\n")).unwrap();
    }
    let losses = |output: &str, sources: &str| {
        let output = format!("output_dir={:?}", folder.path().join(output));
        let sources = format!("eval_data=[{sources}]");
        let overrides =
            ["eval_fraction=0.0", "max_steps=1", "eval_steps=1", "eval_on_start=true", &output, &sources];
        let (_, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
        let found = events.iter().find_map(|event| match event {
            Event::Metrics { step: 0, values } => Some(values.clone()),
            _ => None,
        });
        found.unwrap()
    };
    let alone = |name: &str| losses(name, &format!("{{path=\"{name}.jsonl\"}}"));
    let (short, long) = (alone("short"), alone("long"));
    let both = losses("both", "{path=\"short.jsonl\"}, {path=\"long.jsonl\"}");
    assert!(!short.contains_key("eval_loss/short"), "one source is the whole");
    for (name, expected) in [("eval_loss/short", short["eval_loss"]), ("eval_loss/long", long["eval_loss"])] {
        assert!((both[name] - expected).abs() < 1e-9, "{name}: {} against {expected}", both[name]);
    }
    let mean = (short["eval_loss"] + long["eval_loss"]) / 2.0;
    assert!((both["eval_mean_loss_of_sources"] - mean).abs() < 1e-9);
    assert!((short["eval_loss"] - long["eval_loss"]).abs() > 1e-3, "sources that differ");
}

#[test]
fn interrupted_anywhere_and_resumed_gives_the_same_bits_and_metrics() {
    let straight = setup::folder();
    setup::run(straight.path(), &[], Start::Fresh, never).unwrap();
    let expected = straight.path().join("run");
    for last_step in [1, 4, 5] {
        let folder = setup::folder();
        let (outcome, _) = setup::run(folder.path(), &[], Start::Fresh, is_metrics_of(last_step)).unwrap();
        assert_eq!(outcome, Ended::Interrupted { step: Some(last_step) });
        // Fewer threads and other segments must not matter either.
        let overrides = ["threads=1", "layers_per_segment=1", "memory_gib=1"];
        setup::run(folder.path(), &overrides, Start::Resume, never).unwrap();
        let found = folder.path().join("run");
        assert!(model_bytes(&expected) == model_bytes(&found), "stopped after step {last_step}");
        assert_eq!(metrics(&expected), metrics(&found), "stopped after step {last_step}");
    }
}

#[test]
fn a_step_broken_off_between_packs_is_taken_again() {
    let straight = setup::folder();
    setup::run(straight.path(), &[], Start::Fresh, never).unwrap();
    let folder = setup::folder();
    let stop_inside_step_4 =
        |event: &Event| matches!(event, Event::Progress { note, .. } if note.starts_with("step 4 "));
    let (outcome, _) = setup::run(folder.path(), &[], Start::Fresh, stop_inside_step_4).unwrap();
    assert_eq!(outcome, Ended::Interrupted { step: Some(3) });
    setup::run(folder.path(), &[], Start::Resume, never).unwrap();
    assert!(model_bytes(&straight.path().join("run")) == model_bytes(&folder.path().join("run")));
}

/// An evaluation belongs to the step before it, and is broken off, made and saved apart from that step.
#[test]
fn an_evaluation_is_logged_once_however_often_it_is_interrupted() {
    let overrides = ["eval_on_start=true"];
    let straight = setup::folder();
    setup::run(straight.path(), &overrides, Start::Fresh, never).unwrap();
    let expected = straight.path().join("run");
    let is_evaluation_of = |step: u64| {
        move |event: &Event| {
            matches!(event, Event::Metrics { step: found, values }
            if *found == step && values.contains_key("eval_loss"))
        }
    };
    let is_evaluating =
        |event: &Event| matches!(event, Event::PhaseStarted { phase, .. } if phase == "evaluating");
    let folder = setup::folder();
    let run = folder.path().join("run");
    let run_until = |start, stop_when: Box<dyn Fn(&Event) -> bool>| {
        setup::run(folder.path(), &overrides, start, stop_when).unwrap().0
    };
    // Twice after the evaluation before the first step; then inside and after the evaluation of step 4.
    for start in [Start::Fresh, Start::Resume] {
        let outcome = run_until(start, Box::new(is_evaluation_of(0)));
        assert_eq!(outcome, Ended::Interrupted { step: Some(0) });
    }
    let is_after_step_4 = Cell::new(false);
    let inside = move |event: &Event| {
        is_after_step_4.set(is_after_step_4.get() || is_metrics_of(4)(event));
        is_after_step_4.get() && is_evaluating(event)
    };
    assert_eq!(run_until(Start::Resume, Box::new(inside)), Ended::Interrupted { step: Some(4) });
    for _ in 0..2 {
        let outcome = run_until(Start::Resume, Box::new(is_evaluation_of(4)));
        assert_eq!(outcome, Ended::Interrupted { step: Some(4) });
    }
    run_until(Start::Resume, Box::new(never));
    assert!(model_bytes(&expected) == model_bytes(&run));
    assert_eq!(metrics(&expected), metrics(&run));
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let straight = setup::folder();
    setup::run(straight.path(), &[], Start::Fresh, never).unwrap();
    let folder = setup::folder();
    setup::run(folder.path(), &[], Start::Fresh, is_metrics_of(5)).unwrap();
    let run = folder.path().join("run");
    let newest = run.join("checkpoints/checkpoint-5/optimizer.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    let (_, events) = setup::run(folder.path(), &[], Start::Resume, never).unwrap();
    let warned = |e: &Event| matches!(e, Event::Warning(text) if text.contains("checkpoint-5 is damaged"));
    assert!(events.iter().any(warned), "{events:?}");
    assert!(model_bytes(&straight.path().join("run")) == model_bytes(&run));
    assert_eq!(metrics(&straight.path().join("run")), metrics(&run));
}

#[test]
fn a_resume_with_another_recipe_or_other_data_is_refused() {
    let folder = setup::folder();
    setup::run(folder.path(), &[], Start::Fresh, is_metrics_of(3)).unwrap();
    let error = setup::run(folder.path(), &["learning_rate=1e-4", "seed=4"], Start::Resume, never);
    let Err(StageError::Run(RunError::RecipeChanged { keys })) = error else { panic!("{error:?}") };
    assert_eq!(keys, ["learning_rate", "seed"]);
    let rows = folder.path().join("rows.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replace("very", "quite")).unwrap();
    let error = setup::run(folder.path(), &[], Start::Resume, never);
    let is_of_rows = |error: &StageError| {
        matches!(error, StageError::Run(RunError::FileChanged { role, path })
            if role == "data" && *path == rows)
    };
    assert!(is_of_rows(error.as_ref().unwrap_err()), "{error:?}");
    fs::write(&rows, text).unwrap();
    setup::run(folder.path(), &[], Start::Resume, never).unwrap();
    let error = setup::run(folder.path(), &["learning_rate=1e-4"], Start::Resume, never);
    assert!(
        matches!(error, Err(StageError::Run(RunError::RecipeChanged { .. }))),
        "a finished run: {error:?}"
    );
}

#[test]
fn adapters_are_saved_alone_or_merged() {
    let folder = setup::folder();
    let lora = ["lora.rank=4", "lora.alpha=8"];
    setup::run(folder.path(), &lora, Start::Fresh, never).unwrap();
    let model = folder.path().join("run/model");
    assert!(model.join("adapter_config.json").is_file() && model.join("adapter_model.safetensors").is_file());
    assert!(!model.join("model.safetensors").exists());
    let merged = [&lora[..], &["merge_adapter=true", "output_dir=merged"]].concat();
    let target = folder.path().join("merged");
    let output_dir = format!("output_dir={}", target.display());
    let merged: Vec<&str> =
        merged.into_iter().map(|o| if o.starts_with("output_dir") { &output_dir } else { o }).collect();
    setup::run(folder.path(), &merged, Start::Fresh, never).unwrap();
    assert!(target.join("model/model.safetensors").is_file() && target.join("model/config.json").is_file());

    // The merged model is the base with the adapters of the first run, whose seed was the same, added to it.
    let load = |path: &Path| ModelFiles::open(path).unwrap().load().unwrap();
    let mut base = load(&folder.path().join("model"));
    let (lora, adapter) = open_adapter(&model, &base.spec).unwrap();
    let untouched = base.weights.clone();
    merge_lora(&mut base.weights, &base.spec, &lora, &adapter).unwrap();
    let merged = load(&target.join("model"));
    let mut n_changed = 0;
    for (name, tensor) in &merged.weights.tensors {
        let expected = base.weights.get(name).unwrap();
        for (found, expected) in tensor.values.iter().zip(&expected.values) {
            assert!((found - expected).abs() < 1e-6, "{name}: {found} instead of {expected}");
        }
        n_changed += usize::from(untouched.get(name) != Some(expected));
    }
    assert_eq!(n_changed, 2 * 7, "every projection of both layers is adapted, and nothing else");
}

#[test]
fn the_best_checkpoint_is_kept_and_saved_on_request() {
    let folder = setup::folder();
    // A rate that spoils the model after the first evaluation.
    let overrides = ["keep_best=true", "load_best_model_at_end=true", "save_total_limit=1", "eval_steps=1"];
    let (_, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let best = events.iter().filter_map(|event| match event {
        Event::Metrics { step, values } => Some((*step, *values.get("eval_loss")?)),
        _ => None,
    });
    let (best, _) = best.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let checkpoint = folder.path().join(format!("run/checkpoints/checkpoint-{best}"));
    assert!(checkpoint.is_dir(), "the best step {best} has no checkpoint");
    let best_bytes = fs::read(checkpoint.join("model.safetensors")).unwrap();
    assert!(best_bytes == model_bytes(&folder.path().join("run")));
}

/// There is no checkpoint of the weights before the first step: the run ends with the last ones, and says so.
#[test]
fn a_run_that_only_gets_worse_ends_with_its_last_weights() {
    let folder = setup::folder();
    let overrides = [
        "learning_rate=10.0",
        "eval_on_start=true",
        "load_best_model_at_end=true",
        "max_steps=3",
        "eval_steps=1",
    ];
    let (outcome, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    assert!(matches!(outcome, Ended::Finished(_)));
    let losses: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Metrics { values, .. } => values.get("eval_loss").copied(),
            _ => None,
        })
        .collect();
    assert!(losses.len() == 4 && losses[1..].iter().all(|loss| *loss > losses[0]), "{losses:?}");
    let is_told = |event: &Event| matches!(event, Event::Warning(text) if text.contains("before training"));
    assert!(events.iter().any(is_told));
}

/// One token's embedding is not a number, and only the evaluation holds the token.
#[test]
fn an_evaluation_whose_loss_is_not_finite_is_said_and_the_run_goes_on() {
    let folder = setup::folder();
    let path = folder.path().join("model");
    let files = ModelFiles::open(&path).unwrap();
    let mut model = files.load().unwrap();
    let embedding = model.weights.get("model.embed_tokens.weight").unwrap().clone();
    model.weights.tensors.insert("lm_head.weight".into(), embedding);
    model.spec.tie_word_embeddings = false;
    let poisoned = &mut model.weights.tensors.get_mut("model.embed_tokens.weight").unwrap().values;
    let width = model.spec.hidden_size;
    poisoned[usize::from(b'Z') * width..][..width].fill(f32::NAN);
    let options = SaveOptions {
        dtype: SaveDtype::F32,
        original_config: files.config.as_ref(),
        ..SaveOptions::default()
    };
    save_pretrained(&path, &model.spec, &options, |parameter| {
        Ok::<_, ModelError>(Cow::Borrowed(&model.weights.get(&parameter.name).unwrap().values[..]))
    })
    .unwrap();
    let row = r#"{"messages": [{"role": "user", "content": "Z?"}, {"role": "assistant", "content": "z"}]}"#;
    fs::write(folder.path().join("eval.jsonl"), format!("{row}\n")).unwrap();
    let overrides =
        ["eval_fraction=0.0", "eval_data=[{path=\"eval.jsonl\"}]", "keep_best=true", "max_steps=5"];
    let (outcome, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let warned = |event: &Event| {
        matches!(event, Event::Warning(text)
            if text.contains("eval.jsonl:1") && text.ends_with("this evaluation cannot be the best"))
    };
    assert_eq!(events.iter().filter(|event| warned(event)).count(), 2, "at steps 4 and 5: {events:?}");
    assert!(outcome.finished().unwrap().model.join("config.json").is_file());
    let lines = metrics(&folder.path().join("run"));
    assert_eq!(lines.len(), 5, "every step is logged: {lines:?}");
    assert!(lines.iter().all(|line| !format!("{line:?}").contains("eval_loss")), "{lines:?}");
}
