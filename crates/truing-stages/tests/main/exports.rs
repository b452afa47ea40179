//! What is saved works elsewhere, and here again: score heads beside adapters, padding tokens, adapters that are
//! trained further, values that a dtype cannot hold.

use crate::policies;
use crate::preferences;
use crate::setup::{self, Events, Ticks, is_metrics_of, never};
use crate::setup::{Cpu, SOLO};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;
use truing_data::SourceConfig;
use truing_model::weights::SafetensorsFile;
use truing_model::{HeadKind, ModelFiles, SaveDtype, Tensor, is_adapter};
use truing_predict::{Classifier, RewardScorer};
use truing_stages::classifier::ClassifierStage;
use truing_stages::dpo::DpoStage;
use truing_stages::grpo::GrpoConfig;
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::TrainingConfig;
use truing_stages::{Ended, Recipe, RunContext, RunError, StageError, Start, TrainedModel};
use truing_text::RenderOptions;
use truing_types::{Event, Silent};

const RECIPE: &str = r#"
stage = "sft"
model_name_or_path = "model"
output_dir = "run"
seed = 5
max_length = 256
num_train_epochs = 2
packs_per_step = 2
learning_rate = 1e-2
weight_decay = 0.0
eval_fraction = 0.2
save_steps = 3
save_dtype = "f32"
[lora]
rank = 4
alpha = 8.0
targets = ["q_proj", "v_proj", "down_proj"]
[[data]]
path = "pairs.jsonl"
"#;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Sft,
    Dpo,
    Reward,
    Classifier,
}

/// Pairs of which the better response says yes, and texts with labels and stars.
fn folder() -> TempDir {
    let folder = preferences::folder();
    let texts: String = (0..60)
        .map(|i| {
            let kind = i % 2;
            let prompt = format!("{} {}", ["yes", "no"][kind], "x".repeat(i % 11));
            json!({"prompt": prompt, "labels": {"kind": (["a", "b"][kind])}, "stars": 2 + 3 * kind})
                .to_string()
                + "\n"
        })
        .collect();
    fs::write(folder.path().join("texts.jsonl"), texts).unwrap();
    folder
}

fn run(
    stage: Stage,
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<(Ended<TrainedModel>, Vec<Event>), StageError> {
    let mut all: Vec<String> = match stage {
        Stage::Sft => vec!["data=[{path=\"rows.jsonl\"}]".into()],
        Stage::Classifier => vec![
            "data=[{path=\"texts.jsonl\"}]".into(),
            "classifier.scores={worth=\"stars\"}".into(),
            "classifier.dimensions=[\"kind\"]".into(),
        ],
        Stage::Dpo | Stage::Reward => Vec::new(),
    };
    all.push(
        match stage {
            Stage::Sft => "stage=sft",
            Stage::Classifier => "stage=classifier",
            Stage::Dpo => "stage=dpo",
            Stage::Reward => "stage=reward_model",
        }
        .into(),
    );
    // What is given beside a recipe counts from the working directory.
    all.extend(overrides.iter().map(|setting| match setting.strip_prefix("output_dir=") {
        Some(name) => format!("output_dir={}", folder.join(name).display()),
        None => (*setting).to_owned(),
    }));
    let without_lora =
        all.iter().position(|setting| setting == "no lora").map(|idx| all.remove(idx)).is_some();
    let recipe = match without_lora {
        true => RECIPE.split("[lora]").next().unwrap().to_owned() + "[[data]]\npath = \"pairs.jsonl\"\n",
        false => RECIPE.to_owned(),
    };
    let config = TrainingConfig::from_toml(&recipe, &folder.join("recipe.toml"), &all)?;
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let probe = Ticks::default();
    let context = RunContext::new(start, &SOLO, &probe, &mut events, &stop);
    let outcome = match stage {
        Stage::Sft => setup::run_stage::<SftStage>(config, context)?,
        Stage::Dpo => setup::run_stage::<DpoStage>(config, context)?,
        Stage::Reward => setup::run_stage::<RewardModelStage>(config, context)?,
        Stage::Classifier => setup::run_stage::<ClassifierStage>(config, context)?,
    };
    Ok((outcome, events.seen))
}

fn finished(stage: Stage, folder: &Path, overrides: &[&str]) -> (PathBuf, Vec<Event>) {
    let (outcome, events) = run(stage, folder, overrides, Start::Fresh, never).unwrap();
    (outcome.finished().unwrap().model, events)
}

fn metrics(run: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn json_file(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn adapter_bytes(directory: &Path) -> Vec<u8> {
    fs::read(directory.join("adapter_model.safetensors")).unwrap()
}

fn score_weight(directory: &Path) -> Tensor {
    let file = SafetensorsFile::open(directory.join("adapter_model.safetensors")).unwrap();
    file.read("base_model.model.score.weight").unwrap()
}

/// Every response's reward under a saved model.
fn rewards(model: &Path, folder: &Path) -> Vec<f64> {
    let mut scorer = RewardScorer::<Cpu>::open(model, RenderOptions::default(), 2, &mut Silent).unwrap();
    let sources = [SourceConfig::new(folder.join("pairs.jsonl"))];
    let (scored, _, _) = scorer.score_files(&sources, 256, &mut Silent).unwrap();
    scored.into_iter().map(|one| one.reward).collect()
}

/// What a saved classifier says of every text.
fn predictions(model: &Path) -> Vec<truing_eval::classifier::Prediction> {
    let texts: Vec<String> =
        (0..40).map(|i| format!("{} {}", ["yes", "no"][i % 2], "x".repeat(i % 11))).collect();
    let mut classifier = Classifier::<Cpu>::open(model, RenderOptions::default(), 2, &mut Silent).unwrap();
    classifier.predict(&texts).unwrap()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn an_adapter_of_a_reward_model_has_its_head_and_scores_as_the_merged_model() {
    let folder = folder();
    let (adapter, events) = finished(Stage::Reward, folder.path(), &[]);
    assert!(is_adapter(&adapter));
    assert!(
        events.contains(&Event::Saved { what: "adapter".into(), path: adapter.clone() }),
        "not called a model"
    );
    let (merged, events) =
        finished(Stage::Reward, folder.path(), &["merge_adapter=true", "output_dir=merged"]);
    assert!(
        !is_adapter(&merged) && events.contains(&Event::Saved { what: "model".into(), path: merged.clone() })
    );
    let [of_adapter, of_merged] = [&adapter, &merged].map(|model| rewards(model, folder.path()));
    assert!(largest_difference(&of_adapter, &of_merged) < 1e-5);
    let (better, worse): (Vec<_>, Vec<_>) = of_adapter.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    let n_right = better.iter().zip(&worse).filter(|(better, worse)| better > worse).count();
    assert!(n_right > 36, "{n_right} of {} pairs in order", better.len());

    let config = json_file(adapter.join("adapter_config.json"));
    assert_eq!((&config["task_type"], &config["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["score"])));
    assert_eq!(score_weight(&adapter).shape, [1, 32]);
    assert!(adapter.join("reward_model.json").is_file() && adapter.join("tokenizer.json").is_file());
    let files = ModelFiles::open(&adapter).unwrap();
    assert_eq!(files.spec.head, HeadKind::Score { n_outputs: 1 });
    // Checkpoints are adapters of the same kind, and score too.
    let checkpoint = folder.path().join("run/checkpoints/checkpoint-3");
    assert_eq!(rewards(&checkpoint, folder.path()).len(), of_adapter.len());
}

#[test]
fn an_adapter_of_a_classifier_predicts_as_the_merged_model() {
    let folder = folder();
    let (adapter, _) = finished(Stage::Classifier, folder.path(), &["num_train_epochs=6"]);
    let merge = ["num_train_epochs=6", "merge_adapter=true", "output_dir=merged"];
    let (merged, _) = finished(Stage::Classifier, folder.path(), &merge);
    assert_eq!(score_weight(&adapter).shape, [3, 32]);
    let [of_adapter, of_merged] = [&adapter, &merged].map(|model| predictions(model));
    for (i, (a, b)) in of_adapter.iter().zip(&of_merged).enumerate() {
        let label = ["a", "b"][i % 2];
        assert!(a.probabilities["kind"][label] > 0.5, "text {i} is {label}: {a:?}");
        let difference = (a.probabilities["kind"][label] - b.probabilities["kind"][label]).abs();
        assert!(difference < 1e-4, "{difference}");
    }
    let config = json_file(merged.join("config.json"));
    assert_eq!(config["id2label"], json!({"0": "kind=a", "1": "kind=b", "2": "worth"}));
}

#[test]
fn an_interrupted_run_with_adapters_and_a_head_ends_with_the_same_bits() {
    for stage in [Stage::Reward, Stage::Classifier] {
        let straight = folder();
        let (expected, _) = finished(stage, straight.path(), &[]);
        let first = score_weight(&straight.path().join("run/checkpoints/checkpoint-3"));
        assert!(first != score_weight(&expected), "the head learns after step 3");
        for last_step in [1, 3] {
            let folder = folder();
            let (outcome, _) =
                run(stage, folder.path(), &[], Start::Fresh, is_metrics_of(last_step)).unwrap();
            assert_eq!(outcome, Ended::Interrupted { step: Some(last_step) });
            let (outcome, _) = run(stage, folder.path(), &["threads=1"], Start::Resume, never).unwrap();
            let found = outcome.finished().unwrap().model;
            assert!(
                adapter_bytes(&expected) == adapter_bytes(&found),
                "{stage:?} stopped after step {last_step}"
            );
        }
    }
}

#[test]
fn the_best_adapter_with_its_head_is_saved_where_it_is_not_the_last() {
    for stage in [Stage::Reward, Stage::Classifier] {
        // So large that a later step spoils what an earlier one learnt.
        let shows_something = ["0.1", "0.3", "1.0", "3.0"].into_iter().any(|rate| {
            let folder = folder();
            let rate = format!("learning_rate={rate}");
            let constant = "lr_scheduler_type=constant";
            let overrides =
                [&rate[..], constant, "load_best_model_at_end=true", "eval_steps=1", "max_steps=5"];
            let (model, _) = finished(stage, folder.path(), &overrides);
            let losses: Vec<(u64, f64)> = metrics(&folder.path().join("run"))
                .iter()
                .filter_map(|record| Some((record["step"] as u64, *record.get("eval_loss")?)))
                .collect();
            let best = losses.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap().0;
            let checkpoint = folder.path().join(format!("run/checkpoints/checkpoint-{best}"));
            let is_last = best == losses.last().unwrap().0;
            if !is_last {
                assert!(
                    adapter_bytes(&checkpoint) == adapter_bytes(&model),
                    "{stage:?}: step {best} is the best"
                );
            }
            !is_last
        });
        assert!(shows_something, "{stage:?}: the best was always the last");
    }
}

#[test]
fn saved_scorers_name_a_padding_token_that_ends_no_conversation_in_every_file() {
    let folder = folder();
    for (stage, overrides, output) in [
        (Stage::Reward, &["no lora", "max_steps=1"][..], "whole"),
        (Stage::Classifier, &["merge_adapter=true", "max_steps=1"], "merged"),
        (Stage::Reward, &["max_steps=1"], "adapter"),
    ] {
        // The model's own padding token is the end of a turn, as SmolLM2's is.
        let config = folder.path().join("model/tokenizer_config.json");
        let mut fields = json_file(config.clone());
        fields["pad_token"] = json!("<|im_end|>");
        fs::write(&config, fields.to_string()).unwrap();
        let output = format!("output_dir={output}");
        let (model, _) = finished(stage, folder.path(), &[overrides, &[&output[..]]].concat());
        assert_eq!(json_file(model.join("tokenizer_config.json"))["pad_token"], "<|endoftext|>");
        if !is_adapter(&model) {
            let config = json_file(model.join("config.json"));
            assert_eq!((&config["pad_token_id"], &config["bos_token_id"]), (&json!(258), &json!(256)));
        }
    }
    // An adapter is loaded with its base's configuration: a token that it names is taken where it can pad, else it is
    // said which one to give.
    let config = folder.path().join("model/config.json");
    let before = fs::read_to_string(&config).unwrap();
    for (of_base, token, id) in [
        (json!(257), "<|endoftext|>", 258),
        (json!(258), "<|endoftext|>", 258),
        (Value::Null, "<|endoftext|>", 258),
    ] {
        let mut fields = json_file(config.clone());
        fields["pad_token_id"] = of_base.clone();
        fs::write(&config, fields.to_string()).unwrap();
        let output = format!("output_dir=adapter-{of_base}");
        let (model, events) = finished(Stage::Reward, folder.path(), &["max_steps=1", &output]);
        assert_eq!(json_file(model.join("tokenizer_config.json"))["pad_token"], token, "{of_base}");
        let is_told = |e: &Event| {
            matches!(e, Event::Note(text)
                if text.contains(&format!("load it with `pad_token_id={id}`")))
        };
        assert_eq!(events.iter().any(is_told), of_base != json!(id), "{of_base}: {events:?}");
    }
    fs::write(&config, before).unwrap();
    // Where no token is fit, that is said, and transformers refuses batches for itself.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let path = folder.path().join("model").join(file);
        let text = fs::read_to_string(&path).unwrap().replace("<|endoftext|>", "<|tool|>");
        fs::write(&path, text).unwrap();
    }
    let settings = ["no lora", "max_steps=1", "output_dir=without"];
    let (model, events) = finished(Stage::Reward, folder.path(), &settings);
    assert_eq!(json_file(model.join("config.json"))["pad_token_id"], Value::Null);
    let is_told =
        |e: &Event| matches!(e, Event::Warning(text) if text.contains("no token that can pad batches"));
    assert!(events.iter().any(is_told), "{events:?}");
}

#[test]
fn training_continues_on_an_adapters_own_weights() {
    let goes_on = "; training continues on its low-rank weights";
    let with_head = "; training continues on its low-rank weights and its output head";
    let new_head =
        "; training continues on its low-rank weights, and the output head (1 output) is newly initialised";
    for (first, second, fate) in [
        (Stage::Sft, Stage::Sft, goes_on),
        (Stage::Sft, Stage::Dpo, goes_on),
        (Stage::Reward, Stage::Reward, with_head),
        (Stage::Classifier, Stage::Classifier, with_head),
        (Stage::Sft, Stage::Reward, new_head),
    ] {
        let folder = folder();
        let (begun, _) = finished(first, folder.path(), &["output_dir=first", "max_steps=2"]);
        let from = format!("model_name_or_path={}", begun.display());
        let still = [&from[..], "output_dir=still", "max_steps=1", "learning_rate=1e-60"];
        let (same, events) = finished(second, folder.path(), &still);
        let is_told = |e: &Event| {
            matches!(e, Event::Note(text)
                if text.contains("is an adapter") && text.ends_with(fate))
        };
        assert!(events.iter().any(is_told), "{events:?}");
        let base = json_file(same.join("adapter_config.json"))["base_model_name_or_path"].clone();
        assert_eq!(
            Path::new(base.as_str().unwrap()),
            folder.path().join("model").canonicalize().unwrap(),
            "the base, not the adapter"
        );
        if first == second {
            assert!(
                adapter_bytes(&begun) == adapter_bytes(&same),
                "{first:?}: nothing learnt, nothing changed"
            );
        }
        let more = [&from[..], "output_dir=second", "max_steps=3"];
        let (further, _) = finished(second, folder.path(), &more);
        assert!(adapter_bytes(&further) != adapter_bytes(&same));
        // A resumed continuation gives the same bits.
        let more = [&from[..], "output_dir=again", "max_steps=3"];
        run(second, folder.path(), &more, Start::Fresh, is_metrics_of(2)).unwrap();
        let (outcome, _) = run(second, folder.path(), &more, Start::Resume, never).unwrap();
        assert!(adapter_bytes(&further) == adapter_bytes(&outcome.finished().unwrap().model), "{second:?}");
    }
}

#[test]
fn the_reference_of_a_continued_adapter_is_where_it_began() {
    let folder = folder();
    let (begun, _) = finished(Stage::Sft, folder.path(), &["output_dir=first", "num_train_epochs=4"]);
    let from = format!("model_name_or_path={}", begun.display());
    let settings = [&from[..], "output_dir=second", "eval_on_start=true", "max_steps=2"];
    finished(Stage::Dpo, folder.path(), &settings);
    let first = &metrics(&folder.path().join("second"))[0];
    assert!((first["eval_loss"] - 2.0_f64.ln()).abs() < 1e-5, "{first:?}");

    // GRPO's reference too: no divergence before the first update, though the adapter is far from its base.
    fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"Say 1.\"}\n{\"prompt\": \"Say 2.\"}\n")
        .unwrap();
    let lora = "lora={rank=4, alpha=8.0, targets=[\"q_proj\", \"v_proj\", \"down_proj\"]}";
    let settings = [&from[..], lora, "max_steps=1", "beta=0.1", "prompts_per_step=2"];
    policies::finished(folder.path(), &settings);
    let records = metrics(&folder.path().join("run"));
    let kl = records.iter().find_map(|record| record.get("kl")).copied().unwrap();
    assert!(kl.abs() < 1e-6, "{kl}");
}

#[test]
fn without_lora_an_adapter_is_merged_and_another_shape_is_refused() {
    let folder = folder();
    let (begun, _) = finished(Stage::Reward, folder.path(), &["output_dir=first"]);
    let from = format!("model_name_or_path={}", begun.display());
    let settings = [&from[..], "no lora", "output_dir=whole", "max_steps=1", "learning_rate=1e-60"];
    let (whole, events) = finished(Stage::Reward, folder.path(), &settings);
    let is_told =
        |e: &Event| matches!(e, Event::Note(text) if text.contains("weights are merged into the base"));
    assert!(events.iter().any(is_told), "{events:?}");
    assert!(!is_adapter(&whole));
    assert!(largest_difference(&rewards(&begun, folder.path()), &rewards(&whole, folder.path())) < 1e-5);

    for other in ["lora.rank=8", "lora.alpha=16.0", "lora.targets=[\"q_proj\"]"] {
        let settings = [&from[..], other, "output_dir=other"];
        let error =
            run(Stage::Reward, folder.path(), &settings, Start::Fresh, never).unwrap_err().to_string();
        assert!(error.contains("`lora` is rank") && error.contains("as in the adapter"), "{error}");
        assert!(error.contains(&*begun.to_string_lossy()), "{error}");
        assert!(!folder.path().join("other").exists());
    }
    let config = begun.join("adapter_config.json");
    let mut fields = json_file(config.clone());
    fields["base_model_name_or_path"] = json!("gone/away");
    fs::write(&config, fields.to_string()).unwrap();
    let error = run(Stage::Reward, folder.path(), &[&from], Start::Fresh, never).unwrap_err().to_string();
    assert!(error.contains("gone/away") && error.contains(&*begun.to_string_lossy()), "{error}");
}

#[test]
fn a_head_of_other_labels_is_a_new_one() {
    let folder = folder();
    let (begun, _) = finished(Stage::Classifier, folder.path(), &["output_dir=first", "max_steps=2"]);
    let from = format!("model_name_or_path={}", begun.display());
    let still = [&from[..], "output_dir=other", "max_steps=1", "learning_rate=1e-60", "classifier.scores={}"];
    let (other, _) = finished(Stage::Classifier, folder.path(), &still);
    assert_eq!(score_weight(&other).shape, [2, 32]);
}

#[test]
fn a_value_that_f16_cannot_hold_stops_the_save_and_loses_no_step() {
    let folder = folder();
    let path = folder.path().join("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let n = bytes.len();
    bytes[n - 4..].copy_from_slice(&70_000.0_f32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let settings = ["no lora", "max_steps=2", "learning_rate=1e-60", "save_dtype=f16"];
    let error = run(Stage::Sft, folder.path(), &settings, Start::Fresh, never).unwrap_err().to_string();
    assert!(
        error.contains("tensor `model.layers.1.mlp.down_proj.weight`") && error.contains("float16"),
        "{error}"
    );
    assert!(!folder.path().join("run/model").exists());
    let settings = ["no lora", "max_steps=2", "learning_rate=1e-60", "save_dtype=bf16"];
    let (outcome, events) = run(Stage::Sft, folder.path(), &settings, Start::Resume, never).unwrap();
    assert!(outcome.finished().unwrap().model.join("config.json").is_file());
    let steps =
        events.iter().filter(|e| matches!(e, Event::Metrics { values, .. } if values.contains_key("loss")));
    assert_eq!(steps.count(), 0, "no step is made again");
}

/// bf16 keeps 8 significant bits, so most of what a small learning rate changes is rounded away in it.
#[test]
fn the_saved_model_has_small_updates_unless_bf16_is_asked_for() {
    let folder = folder();
    let weight = |path: &Path| {
        let mut tensors = ModelFiles::open(path).unwrap().load().unwrap().weights.tensors;
        tensors.remove("model.layers.1.mlp.down_proj.weight").unwrap().values
    };
    let saved = |settings: &[&str]| {
        let all = [&["no lora", "max_steps=2"][..], settings].concat();
        weight(&finished(Stage::Sft, folder.path(), &all).0)
    };
    let share_moved = |before: &[f32], after: &[f32]| {
        assert_eq!(before.len(), after.len());
        let n_moved =
            before.iter().zip(after).filter(|(before, after)| before.to_bits() != after.to_bits()).count();
        n_moved as f64 / before.len() as f64
    };
    let start = weight(&folder.path().join("model"));
    let by_default = saved(&["learning_rate=1e-7", "save_dtype=", "output_dir=by_default"]);
    assert!(share_moved(&start, &by_default) > 0.9, "{}", share_moved(&start, &by_default));
    let start = saved(&["learning_rate=1e-60", "save_dtype=bf16", "output_dir=start"]);
    let rounded = saved(&["learning_rate=1e-7", "save_dtype=bf16", "output_dir=rounded"]);
    assert!(share_moved(&start, &rounded) < 0.1, "{}", share_moved(&start, &rounded));
    assert_eq!(GrpoConfig::default().checkpoint.save_dtype, SaveDtype::F32);
}

/// A reward model or a classifier cannot write; every stage that needs a model that can says so before it makes a
/// folder.
#[test]
fn a_model_without_a_language_model_head_is_refused_at_opening() {
    let folder = folder();
    let (reward, _) =
        finished(Stage::Reward, folder.path(), &["output_dir=reward", "max_steps=1", "merge_adapter=true"]);
    let (classifier, _) = finished(Stage::Classifier, folder.path(), &["output_dir=classes", "max_steps=1"]);
    for (model, what, instead) in [
        (
            &reward,
            "a reward model or scorer (LlamaForSequenceClassification, 1 output)",
            "`truing reward score`",
        ),
        (&classifier, "a classifier (LlamaForSequenceClassification, 3 outputs)", "`truing label predict`"),
    ] {
        let from = format!("model_name_or_path={}", model.display());
        for stage in [Stage::Sft, Stage::Dpo] {
            let error =
                run(stage, folder.path(), &[&from, "output_dir=none"], Start::Fresh, never).unwrap_err();
            assert!(matches!(error, StageError::Run(RunError::NotALanguageModel { .. })), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(what) && text.contains("no language-model head") && text.contains(instead),
                "{text}"
            );
            assert!(!folder.path().join("none").exists());
        }
        let files = ModelFiles::open(model).unwrap();
        assert!(truing_stages::model::renderer(&files, RenderOptions::default()).is_err());
        truing_stages::model::renderer_of_any_head(&files, RenderOptions::default()).unwrap();
        // Another reward model may begin with either.
        finished(Stage::Reward, folder.path(), &[&from, "output_dir=again", "max_steps=1"]);
        fs::remove_dir_all(folder.path().join("again")).unwrap();
    }
}
