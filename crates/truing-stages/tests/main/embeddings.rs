//! Embedding and learning to, on a tiny BERT: files in order, runs, interrupts, resumes, what is saved.

use crate::setup::{self, Events, MACHINE, Ticks, is_metrics_of, never};
use crate::setup::{Cpu, SOLO};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;
use truing_model::{EncoderFiles, Pooling};
use truing_predict::{EmbedOptions, EmbedOutcome, Embedder};
use truing_stages::embed::train::{EmbedStage, EmbedTrainConfig, EmbedTrainInputs, EmbedTrainPlan};
use truing_stages::{Ended, Recipe, RunContext, Stage, StageError, Start, TrainedModel};
use truing_types::{Event, Silent};

/// Words of the tiny tokenizer besides its special tokens; the fixture's vocabulary is 96.
const N_WORDS: usize = 92;

/// The fixture's weights with a tokenizer of whole words `w0` to `w91`, in `model/`.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../truing-model/conformance/bert_mean");
    fs::create_dir_all(model.join("1_Pooling")).unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ] {
        fs::copy(fixture.join(name), model.join(name)).unwrap();
    }
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let words = special.iter().map(ToString::to_string).chain((0..N_WORDS).map(|i| format!("w{i}")));
    let vocab: serde_json::Map<String, Value> = words.enumerate().map(|(i, w)| (w, i.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

/// Words of one of `n_kinds` kinds, which share none.
pub(crate) fn sentence((kind, n_kinds): (usize, usize), seed: usize, n_words: usize) -> String {
    let words_of_kind = 80 / n_kinds;
    let word = |i: usize| format!("w{}", words_of_kind * kind + (seed * 31 + i * 17) % words_of_kind);
    (0..n_words).map(word).collect::<Vec<_>>().join(" ")
}

pub(crate) fn write_triplets(path: &Path, n: usize, n_kinds: usize) {
    let row = |i: usize| {
        let text =
            |kind: usize, seed: usize| sentence((kind % n_kinds, n_kinds), 7 * i + seed, 3 + (i + seed) % 9);
        json!({"anchor": text(i, 1), "positive": text(i, 2), "negative": text(i + 1, 3), "task": i})
            .to_string()
            + "\n"
    };
    fs::write(path, (0..n).map(row).collect::<String>()).unwrap();
}

fn vectors_of_npy(path: &Path, width: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values: Vec<f32> =
        bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    values.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_file_becomes_vectors_in_its_order() {
    let folder = folder();
    let data = folder.path().join("texts.jsonl");
    // More than are read at a time, of very different lengths; some longer than the model reads.
    let texts: Vec<String> = (0..2100).map(|i| sentence((i % 2, 2), i, 1 + i * i % 37)).collect();
    fs::write(&data, texts.iter().map(|t| json!({"prompt": t}).to_string() + "\n").collect::<String>())
        .unwrap();
    let options = EmbedOptions { n_threads: 2, ..EmbedOptions::default() };
    let mut embedder = Embedder::<Cpu>::open(&folder.path().join("model"), options, &mut Silent).unwrap();
    let (npy, lines) = (folder.path().join("v.npy"), folder.path().join("v.jsonl"));
    let outcome = embedder.embed_file(&data, None, &npy, &mut Silent).unwrap();
    let n_cut = texts.iter().filter(|text| text.split(' ').count() + 2 > 32).count();
    assert!(n_cut > 50);
    assert_eq!((outcome.n_texts, outcome.width, outcome.n_cut), (2100, 24, n_cut));
    let all = vectors_of_npy(&npy, 24);
    for i in [0, 1, 2, 777, 2047, 2048, 2099] {
        let (alone, _) = embedder.embed(&texts[i..=i], &mut |_| {}).unwrap();
        let difference = alone.iter().zip(&all[i]).fold(0.0_f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(difference < 1e-6, "text {i} is {difference} off");
        assert!((alone.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5, "vectors have norm 1");
    }
    embedder.embed_file(&data, Some("prompt"), &lines, &mut Silent).unwrap();
    let text = fs::read_to_string(&lines).unwrap();
    let line: Value = serde_json::from_str(text.lines().nth(777).unwrap()).unwrap();
    assert_eq!(line["line"], 778);
    assert_eq!(serde_json::from_value::<Vec<f32>>(line["vector"].clone()).unwrap(), all[777]);

    let error = embedder.embed_file(&data, Some("nope"), &npy, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("texts.jsonl:1: `nope` is missing"), "{error}");
    assert_eq!(vectors_of_npy(&npy, 24), all, "a failed run leaves the old file");
    let wrong = EmbedOptions { pooling: Some(Pooling::Cls), ..options };
    let error =
        Embedder::<Cpu>::open(&folder.path().join("model"), wrong, &mut Silent).unwrap_err().to_string();
    assert_eq!(error, "`pooling` is cls: expected mean, which the model was made with");
}

#[test]
fn a_decoder_gives_vectors_too() {
    let folder = setup::folder();
    let model = folder.path().join("model");
    let embed = |pooling, normalize, texts: &[&str]| {
        let options = EmbedOptions { pooling, normalize, n_threads: 1, ..EmbedOptions::default() };
        let mut embedder = Embedder::<Cpu>::open(&model, options, &mut Silent).unwrap();
        embedder.embed(texts, &mut |_| {}).unwrap()
    };
    let (mean, outcome) = embed(Some(Pooling::Mean), false, &["hello", "", "hello world"]);
    assert_eq!(outcome, EmbedOutcome { n_texts: 3, width: 32, n_tokens: 16, n_cut: 0 });
    assert!(mean[32..64].iter().all(|&x| x == 0.0), "a text without a token has no direction");
    let (last, _) = embed(Some(Pooling::LastToken), false, &["hello world"]);
    assert!(mean[64..] != last[..]);
    // A decoder does not look ahead: the first token's state is that of the text of one token.
    let (first, _) = embed(Some(Pooling::Cls), false, &["hello world"]);
    let (alone, _) = embed(Some(Pooling::LastToken), false, &["h"]);
    let difference = first.iter().zip(&alone).fold(0.0_f32, |a, (x, y)| a.max((x - y).abs()));
    assert!(difference < 1e-5, "{difference}");
    let (normal, _) = embed(None, true, &["hello world"]);
    assert!((normal.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
}

pub(crate) fn config(folder: &Path, settings: &[&str]) -> EmbedTrainConfig {
    // In-batch negatives are only negatives where a batch's triplets are of different kinds.
    let n_kinds = if settings.iter().any(|setting| setting.contains("multiple")) { 20 } else { 2 };
    write_triplets(&folder.join("triplets.jsonl"), 60, n_kinds);
    let text = "stage = \"embed\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n\
                train_data = \"triplets.jsonl\"\n\
                eval_fraction = 0.2\nnum_train_epochs = 2\nbatch_size = 8\nlearning_rate = 3e-3\nthreads = 2\n";
    let overrides: Vec<String> = settings.iter().map(ToString::to_string).collect();
    EmbedTrainConfig::from_toml(text, &folder.join("recipe.toml"), &overrides).unwrap()
}

pub(crate) fn run(
    config: EmbedTrainConfig,
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<Ended<TrainedModel>, StageError> {
    let inputs = EmbedTrainInputs::load(&config, &mut Silent)?;
    let plan = EmbedTrainPlan::resolve::<Cpu>(config, &inputs, &MACHINE)?;
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    EmbedStage::run::<Cpu>(
        &plan,
        &inputs,
        RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop),
    )
}

fn metrics(folder: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let untimed = |mut record: BTreeMap<String, f64>| {
        for timed in ["tokens_per_second", "samples_per_second", "step_time"] {
            record.remove(timed);
        }
        record
    };
    text.lines().map(|line| untimed(serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn every_loss_learns_what_belongs_together_and_the_model_is_whole() {
    for settings in [
        &["triplet_margin=0.8"][..],
        &["distance_metric=euclidean", "triplet_margin=1.5"],
        &["loss=multiple_negatives_ranking", "load_best_model_at_end=true", "num_train_epochs=6"],
    ] {
        let folder = folder();
        let outcome = run(config(folder.path(), settings), Start::Fresh, never).unwrap();
        let model = outcome.finished().unwrap().model;
        let evaluations: Vec<BTreeMap<String, f64>> =
            metrics(folder.path()).into_iter().filter(|record| record.contains_key("eval_loss")).collect();
        let (first, last) = (&evaluations[0], evaluations.last().unwrap());
        assert!(last["eval_loss"] < 0.7 * first["eval_loss"], "{settings:?}: {evaluations:?}");
        assert!(
            last["eval_accuracy"] > first["eval_accuracy"].max(0.9) - 1e-9,
            "{settings:?}: {evaluations:?}"
        );

        let (before, after) = (folder.path().join("model"), EncoderFiles::open(&model).unwrap());
        assert_eq!(after.spec, EncoderFiles::open(&before).unwrap().spec);
        for name in ["tokenizer.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"] {
            assert_eq!(fs::read(model.join(name)).unwrap(), fs::read(before.join(name)).unwrap(), "{name}");
        }
        let pooler = |files: &EncoderFiles| files.weights().read("pooler.dense.weight").unwrap();
        assert_eq!(
            pooler(&after),
            pooler(&EncoderFiles::open(&before).unwrap()),
            "others would draw a new one"
        );
        let mut embedder = Embedder::<Cpu>::open(&model, EmbedOptions::default(), &mut Silent).unwrap();
        let n_kinds = if settings.len() == 3 { 20 } else { 2 };
        let texts = [(0, 901), (0, 902), (1, 903)].map(|(kind, seed)| sentence((kind, n_kinds), seed, 6));
        let (v, _) = embedder.embed(&texts, &mut |_| {}).unwrap();
        let cosine = |i: usize, j: usize| -> f32 { (0..24).map(|k| v[24 * i + k] * v[24 * j + k]).sum() };
        assert!(cosine(0, 1) > cosine(0, 2) + 0.3, "{settings:?}: {} and {}", cosine(0, 1), cosine(0, 2));
    }
}

/// Triplets that the model tells apart already give no gradient: the saved model is the one that the run began with.
#[test]
fn a_run_without_a_gradient_has_learnt_nothing_and_says_so() {
    let folder = folder();
    let config = config(folder.path(), &["triplet_margin=1e-6", "eval_fraction=0", "max_steps=3"]);
    let row = "{\"anchor\": \"one two\", \"positive\": \"one two\", \"negative\": \"nine ten nine\"}\n";
    fs::write(folder.path().join(&config.train_data), row.repeat(8)).unwrap();
    for start in [Start::Fresh, Start::Resume] {
        let trained = run(config.clone(), start, never).unwrap().finished().unwrap();
        let reason = trained.nothing_learnt.unwrap();
        assert!(
            reason.starts_with("the model was not trained: the gradient was 0 in every step"),
            "{reason}"
        );
    }
    // Weight decay moves the weights all the same, which is no learning.
    let weights = |run: &str| fs::read(folder.path().join(run).join("model/model.safetensors")).unwrap();
    let output_dir = folder.path().join("decayed");
    let mut decayed = EmbedTrainConfig { output_dir, ..config.clone() };
    decayed.optimizer.weight_decay = 0.5;
    let trained = run(decayed, Start::Fresh, never).unwrap().finished().unwrap();
    assert!(trained.nothing_learnt.unwrap().starts_with("the model was not trained"));
    assert!(weights("decayed") != weights("run"), "the weights did not move, which shows nothing");
}

/// Not every step is in the metrics: a checkpoint says whether any step had a gradient.
#[test]
fn a_checkpoint_says_whether_any_step_had_a_gradient() {
    for (margin, expected) in [("triplet_margin=1e-6", false), ("triplet_margin=2.5", true)] {
        let folder = folder();
        let settings = [margin, "eval_fraction=0", "max_steps=3", "logging_steps=3", "save_steps=2"];
        let config = config(folder.path(), &settings);
        let row = "{\"anchor\": \"one two\", \"positive\": \"one two\", \"negative\": \"nine ten nine\"}\n";
        fs::write(folder.path().join(&config.train_data), row.repeat(8)).unwrap();
        let trained = run(config, Start::Fresh, never).unwrap().finished().unwrap();
        assert_eq!(trained.nothing_learnt.is_none(), expected, "{margin}");
        let state = folder.path().join("run/checkpoints/checkpoint-2/trainer_state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        assert_eq!(state["had_gradient"], expected, "{margin}");
    }
}

#[test]
fn a_run_that_is_stopped_anywhere_goes_on_bit_for_bit() {
    let whole = folder();
    let settings = ["save_steps=2", "eval_steps=3"];
    run(config(whole.path(), &settings), Start::Fresh, never).unwrap();
    let bytes = |folder: &Path| fs::read(folder.join("run/model/model.safetensors")).unwrap();
    for stop_step in [1, 3, 8] {
        let broken = folder();
        let outcome = run(config(broken.path(), &settings), Start::Fresh, is_metrics_of(stop_step)).unwrap();
        assert!(matches!(outcome, Ended::Interrupted { .. }), "{outcome:?}");
        let outcome = run(config(broken.path(), &settings), Start::Resume, never).unwrap();
        assert!(matches!(outcome, Ended::Finished(_)));
        assert_eq!(bytes(broken.path()), bytes(whole.path()), "stopped at {stop_step}");
        assert_eq!(metrics(broken.path()), metrics(whole.path()), "stopped at {stop_step}");
    }
    let other = config(whole.path(), &["learning_rate=1e-3"]);
    let error = run(other, Start::Resume, never).unwrap_err().to_string();
    assert!(error.contains("learning_rate"), "{error}");
}

/// The weights do not depend on how a step is cut into packs, but for rounding.
#[test]
fn packs_and_recomputation_change_nothing() {
    let weights = |loss: &str, memory: &str| -> Vec<f32> {
        let folder = folder();
        let settings =
            [&format!("loss={loss}"), memory, "max_steps=2", "eval_fraction=0", "num_train_epochs=1"];
        let mut config = config(folder.path(), &settings.map(|s: &str| s));
        config.batch_size = 30;
        // Adam divides a gradient by its own size: where that is rounding, so would be the step.
        config.optimizer.adam_epsilon = 1e-3;
        let inputs = EmbedTrainInputs::load(&config, &mut Silent).unwrap();
        let plan = EmbedTrainPlan::resolve::<Cpu>(config.clone(), &inputs, &MACHINE).unwrap();
        assert_eq!(plan.run.tokens_per_pack < 200, !memory.ends_with("=1"), "{}", plan.run.tokens_per_pack);
        let model = run(config, Start::Fresh, never).unwrap().finished().unwrap().model;
        let files = EncoderFiles::open(&model).unwrap();
        let mut all = Vec::new();
        files
            .load_weights(|_, tensor| {
                all.extend(tensor.values);
                Ok::<_, truing_model::ModelError>(())
            })
            .unwrap();
        all
    };
    for loss in ["triplet", "multiple_negatives_ranking"] {
        let (one, several) = (weights(loss, "memory_gib=1"), weights(loss, "memory_gib=0.00195"));
        let difference = one.iter().zip(&several).fold(0.0_f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(difference < 1e-5, "{loss}: {difference}");
    }
}

#[test]
fn invalid_settings_are_refused() {
    let folder = folder();
    let check = |settings: &[&str], expected: &str| {
        let error = run(config(folder.path(), settings), Start::Fresh, never).unwrap_err().to_string();
        assert!(error.contains(expected), "{settings:?}: {error}");
        assert!(!folder.path().join("run").exists(), "nothing is begun");
    };
    check(&["batch_size=0"], "`batch_size` is 0: expected at least 1");
    check(&["triplet_margin=-1"], "`triplet_margin` is -1: expected a number above 0");
    check(&["train_data="], "missing setting `train_data`");
    check(&["memory_gib=0.001"], "; the longest triplet has ");
    check(&["eval_fraction=0", "load_best_model_at_end=true"], "`load_best_model_at_end` is true");
    check(&["eval_data=x.jsonl"], "`eval_fraction` and `eval_data` cannot both be given");
    fs::write(
        folder.path().join("bad.jsonl"),
        "{\"anchor\": \"w1\", \"positive\": 3, \"negative\": \"w2\"}\n",
    )
    .unwrap();
    let bad = format!("train_data={}", folder.path().join("bad.jsonl").display());
    check(&[&bad], "bad.jsonl:1: `positive` is a number; expected a string");
}
