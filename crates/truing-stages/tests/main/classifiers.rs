//! `truing label train` and `truing quality train` on a tiny encoder and a tiny decoder: what can be learnt is learnt
//! and what cannot is not, interrupted runs end with the same bits, and a saved model says the same.

use crate::embeddings;
use crate::setup::{self, Events, MACHINE, Ticks, is_metrics_of, never};
use crate::setup::{Cpu, SOLO};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;
use truing_data::SourceConfig;
use truing_eval::classifier::{Answer, ClassifierEvaluation, ClassifierSpec, OutputSpec};
use truing_model::{EncoderFiles, HeadKind, ModelFiles};
use truing_predict::{Classifier, PredictionOptions};
use truing_stages::classifier::{self, ClassifierInputs, ClassifierPlan, ClassifierStage};
use truing_stages::training::TrainingConfig;
use truing_stages::{Ended, Recipe, RunContext, Stage, StageError, Start, TrainedModel};
use truing_text::RenderOptions;
use truing_types::{Event, Silent};

pub(crate) const RECIPE: &str = r#"
stage = "classifier"
model_name_or_path = "model"
output_dir = "run"
seed = 3
max_length = 64
num_train_epochs = 6
packs_per_step = 2
learning_rate = 3e-3
weight_decay = 0.0
eval_fraction = 0.25
save_steps = 3
save_dtype = "f32"
threads = 2
[classifier.scores]
worth = "stars"
[[data]]
path = "rows.jsonl"
"#;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Model {
    Encoder,
    Decoder,
}

pub(crate) const BOTH: [Model; 2] = [Model::Encoder, Model::Decoder];

impl Model {
    pub(crate) fn folder(self) -> TempDir {
        match self {
            Self::Encoder => embeddings::folder(),
            Self::Decoder => setup::folder(),
        }
    }

    /// A text of one of two kinds.
    fn text(self, kind: usize, i: usize) -> String {
        match self {
            Self::Encoder => embeddings::sentence((kind, 2), 7 * i, 3 + i % 9),
            Self::Decoder => format!("{} {}", ["yes", "no"][kind], "x".repeat(i % 11)),
        }
    }
}

/// Of each kind.
const TRAITS: [&[&str]; 2] = [&["x"], &["x", "y"]];

/// The kind decides everything that a row says of itself; some say only a part.
pub(crate) fn rows(model: Model) -> Vec<Value> {
    let row = |i: usize| {
        let kind = i % 2;
        let mut row = json!({
            "prompt": model.text(kind, i),
            "labels": {"kind": (["a", "b"][kind]), "traits": (TRAITS[kind])},
            "stars": 2 + 3 * kind,
            "id": i,
        });
        match i % 7 {
            3 => row["labels"]["kind"] = Value::Null,
            4 => drop(row.as_object_mut().unwrap().remove("stars")),
            5 => drop(row["labels"].as_object_mut().unwrap().remove("traits")),
            _ => {}
        }
        row
    };
    (0..120).map(row).collect()
}

pub(crate) fn write(folder: &Path, rows: &[Value]) {
    fs::write(folder.join("rows.jsonl"), rows.iter().map(|row| format!("{row}\n")).collect::<String>())
        .unwrap();
}

pub(crate) const ALL: [&str; 1] = ["classifier.dimensions=[\"kind\", \"traits\"]"];

fn load(folder: &Path, overrides: &[&str]) -> Result<(ClassifierPlan, ClassifierInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = TrainingConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let inputs = setup::load::<ClassifierStage>(&config, &mut Silent)?;
    Ok((ClassifierStage::plan::<Cpu>(config, &inputs, &MACHINE)?, inputs))
}

pub(crate) fn run(
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<(Ended<TrainedModel>, Vec<Event>), StageError> {
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = TrainingConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let inputs = setup::load::<ClassifierStage>(&config, &mut events)?;
    let plan = ClassifierStage::plan::<Cpu>(config, &inputs, &MACHINE)?;
    let outcome = ClassifierStage::run::<Cpu>(
        &plan,
        &inputs,
        RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop),
    )?;
    Ok((outcome, events.seen))
}

fn evaluation(folder: &Path) -> ClassifierEvaluation {
    let text = fs::read_to_string(folder.join("run").join(ClassifierEvaluation::FILE_NAME)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn metrics(folder: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let untimed = |mut record: BTreeMap<String, f64>| {
        record.retain(|name, _| {
            !["tokens_per_second", "samples_per_second", "step_time", "peak_memory_gib"].contains(&&name[..])
        });
        record
    };
    text.lines().map(|line| untimed(serde_json::from_str(line).unwrap())).collect()
}

/// Every weight of a saved model.
fn weights(model: &Path) -> Vec<Vec<u8>> {
    let files = ["model.safetensors", "2_Dense/model.safetensors"];
    files.iter().filter_map(|name| fs::read(model.join(name)).ok()).collect()
}

#[test]
fn what_texts_say_is_learnt_and_the_saved_model_says_it_again() {
    for model in BOTH {
        let folder = model.folder();
        write(folder.path(), &rows(model));
        let (outcome, _) = run(folder.path(), &[ALL[0], "num_train_epochs=15"], Start::Fresh, never).unwrap();
        let path = outcome.finished().unwrap().model;
        let found = evaluation(folder.path());
        for (dimension, name) in found.dimensions.iter().zip(["kind", "traits"]) {
            assert_eq!((dimension.name.as_str(), dimension.accuracy), (name, Some(1.0)), "{model:?}");
        }
        assert_eq!((found.dimensions[0].has_several, found.dimensions[1].has_several), (false, true));
        let n: u64 = found.dimensions[0].confusion.iter().flatten().sum();
        assert_eq!(n, found.dimensions[0].n_texts);
        let score = &found.scores[0];
        assert!(score.pearson > Some(0.99) && score.order_accuracy > Some(0.99), "{model:?}: {score:?}");
        assert!(score.mean_squared_error.unwrap() < 0.1 * score.baseline_squared_error.unwrap());
        let last = metrics(folder.path()).into_iter().next_back().unwrap();
        assert_eq!((last["eval_kind_accuracy"], last["eval_traits_macro_f1"]), (1.0, 1.0));

        let spec = ClassifierSpec::open(&path).unwrap();
        assert_eq!(spec.output_names(), ["kind=a", "kind=b", "traits=x", "traits=y", "worth"]);
        match model {
            Model::Encoder => {
                let files = EncoderFiles::open(&path).unwrap();
                assert_eq!((files.spec.n_outputs, files.spec.is_normalized), (Some(5), false));
            }
            Model::Decoder => {
                let files = ModelFiles::open(&path).unwrap();
                assert_eq!(files.spec.head, HeadKind::Score { n_outputs: 5 });
                let config: Value =
                    serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
                assert_eq!(
                    (&config["id2label"]["3"], &config["label2id"]["worth"]),
                    (&json!("traits=y"), &json!(4))
                );
            }
        }
        let mut classifier =
            Classifier::<Cpu>::open(&path, RenderOptions::default(), 1, &mut Silent).unwrap();
        let texts: Vec<String> = (0..6).map(|i| model.text(i % 2, 500 + i)).collect();
        for (i, prediction) in classifier.predict(&texts).unwrap().into_iter().enumerate() {
            let [(_, kind), (_, traits), (_, worth)] = &prediction.answers[..] else { panic!("three parts") };
            assert!(
                matches!(kind, Answer::Label { label, confidence } if label == ["a", "b"][i % 2] && *confidence > 0.5)
            );
            let wanted = TRAITS[i % 2];
            assert!(matches!(traits, Answer::Labels { labels, .. } if *labels == wanted), "{traits:?}");
            let Answer::Score(worth) = worth else { panic!("a score") };
            assert!((worth - (2 + 3 * (i % 2)) as f64).abs() < 1.0, "{model:?}: {worth}");
            assert!((prediction.probabilities["kind"].values().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }
}

#[test]
fn a_plan_is_not_run_with_the_inputs_of_another_model() {
    let folders = BOTH.map(|model| {
        let folder = model.folder();
        write(folder.path(), &rows(model));
        folder
    });
    let [(encoder_plan, encoder), (decoder_plan, decoder)] =
        [0, 1].map(|i| load(folders[i].path(), &ALL).unwrap());
    for (plan, inputs) in [(&encoder_plan, &decoder), (&decoder_plan, &encoder)] {
        let stop = AtomicBool::new(false);
        let error = ClassifierStage::run::<Cpu>(
            plan,
            inputs,
            RunContext::new(Start::Fresh, &SOLO, &Ticks::default(), &mut Silent, &stop),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the inputs that the plan was made of"), "{error}");
    }
    assert!(folders.iter().all(|folder| !folder.path().join("run").exists()), "nothing was begun");
}

#[test]
fn labels_that_texts_do_not_tell_are_not_learnt() {
    for model in BOTH {
        let folder = model.folder();
        let mut rows = rows(model);
        for (i, row) in rows.iter_mut().enumerate() {
            // Of no pattern with the kind, which is the number's last bit.
            row["labels"]["kind"] = json!((["a", "b"][(i * i / 7 + i / 3) % 2]));
        }
        write(folder.path(), &rows);
        run(folder.path(), &["classifier.dimensions=[\"kind\"]"], Start::Fresh, never).unwrap();
        let found = evaluation(folder.path()).dimensions.remove(0);
        assert!(found.accuracy < Some(0.8), "{model:?}: {:?} of {} texts", found.accuracy, found.n_texts);
    }
}

#[test]
fn a_run_that_is_stopped_anywhere_goes_on_bit_for_bit() {
    for model in BOTH {
        let whole = model.folder();
        write(whole.path(), &rows(model));
        let settings = [ALL[0], "num_train_epochs=2", "load_best_model_at_end=true", "eval_steps=2"];
        run(whole.path(), &settings, Start::Fresh, never).unwrap();
        let n_steps = metrics(whole.path()).last().unwrap()["step"] as u64;
        assert!(n_steps > 4, "{n_steps}");
        for stop_step in [1, 4] {
            let broken = model.folder();
            write(broken.path(), &rows(model));
            let stops = is_metrics_of(stop_step);
            let (outcome, _) = run(broken.path(), &settings, Start::Fresh, stops).unwrap();
            assert!(matches!(outcome, Ended::Interrupted { .. }), "{outcome:?}");
            assert!(!broken.path().join("run").join(ClassifierEvaluation::FILE_NAME).exists());
            run(broken.path(), &settings, Start::Resume, never).unwrap();
            let [a, b] = [&broken, &whole].map(|folder| weights(&folder.path().join("run/model")));
            assert_eq!(a.len(), if model == Model::Encoder { 2 } else { 1 });
            assert!(a == b, "{model:?} stopped at {stop_step}");
            assert_eq!(metrics(broken.path()), metrics(whole.path()), "{model:?} stopped at {stop_step}");
            let [a, b] = [&broken, &whole]
                .map(|folder| fs::read(folder.path().join("run/evaluations.jsonl")).unwrap());
            assert!(a == b, "an evaluation is kept once");
            assert_eq!(evaluation(broken.path()), evaluation(whole.path()));
        }
        let mut all = fs::read_to_string(whole.path().join("run/evaluations.jsonl")).unwrap();
        all.truncate(all.trim_end().len());
        let all: Vec<ClassifierEvaluation> =
            all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let best = all.iter().map(|evaluation| evaluation.loss).fold(f64::INFINITY, f64::min);
        assert_eq!(evaluation(whole.path()).loss, best, "the evaluation is that of the saved weights");
        let error = run(whole.path(), &[ALL[0], "classifier.min_count=9"], Start::Resume, never);
        assert!(error.unwrap_err().to_string().contains("classifier"));
    }
}

#[test]
fn a_file_is_predicted_row_by_row_and_nothing_of_it_is_lost() {
    let folder = Model::Encoder.folder();
    write(folder.path(), &rows(Model::Encoder));
    let (outcome, _) = run(folder.path(), &[ALL[0], "max_steps=2"], Start::Fresh, never).unwrap();
    let path = outcome.finished().unwrap().model;
    let mut classifier = Classifier::<Cpu>::open(&path, RenderOptions::default(), 2, &mut Silent).unwrap();
    let (data, output) = (folder.path().join("new.jsonl"), folder.path().join("out.jsonl"));
    // More rows than are read at a time.
    let row =
        |i: usize| json!({"prompt": Model::Encoder.text(i % 2, i), "n": i, "labels": {"other": "kept"}});
    let mut rows: Vec<Value> = (0..2100).map(row).collect();
    rows[5]["labels"]["kind"] = json!("given");
    fs::write(&data, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let mut predict = |options: &PredictionOptions, stop: bool| {
        let (source, stop) = (SourceConfig::new(&data), AtomicBool::new(stop));
        classifier.predict_file(&source, &output, options, &mut Silent, &stop)
    };
    let options = PredictionOptions { probabilities: true, ..PredictionOptions::default() };
    assert_eq!(predict(&options, true).unwrap(), None);
    assert!(!output.exists(), "what was stopped leaves nothing");
    let summary = predict(&options, false).unwrap().unwrap();
    assert_eq!((summary.n_rows, summary.n_kept), (2100, 1));
    assert_eq!(summary.labels["kind"].values().sum::<u64>(), 2099);
    let read = || -> Vec<Value> {
        let text = fs::read_to_string(&output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = read();
    for i in [0, 5, 777, 2047, 2048, 2099] {
        assert_eq!((&all[i]["n"], &all[i]["labels"]["other"]), (&json!(i), &json!("kept")));
        assert!(all[i]["scores"]["worth"].is_number() && all[i]["labels"]["traits"].is_array());
        let probabilities = all[i]["probabilities"]["kind"].as_object().unwrap();
        let largest = probabilities.values().map(|p| p.as_f64().unwrap()).fold(0.0, f64::max);
        if i == 5 {
            assert_eq!(
                (&all[i]["labels"]["kind"], &all[i]["confidence"]["kind"]),
                (&json!("given"), &Value::Null)
            );
        } else {
            assert_eq!(all[i]["confidence"]["kind"].as_f64(), Some(largest));
        }
    }
    let overwrite = PredictionOptions { overwrite: true, ..options };
    assert_eq!(predict(&overwrite, false).unwrap().unwrap().n_kept, 0);
    assert_ne!(read()[5]["labels"]["kind"], "given");
    rows[9] = json!({"prompt": 3});
    fs::write(&data, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let before = fs::read(&output).unwrap();
    let error = predict(&overwrite, false).unwrap_err().to_string();
    assert!(error.contains("new.jsonl:10"), "{error}");
    assert_eq!(fs::read(&output).unwrap(), before, "a failed run leaves the old file");
    rows[9] = json!({"prompt": "w1", "labels": 3});
    fs::write(&data, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let error = predict(&overwrite, false).unwrap_err().to_string();
    assert!(error.contains("new.jsonl:10: `labels` is 3; expected an object"), "{error}");
}

/// Labels of the dimension `kind`, and the number of texts to learn from.
fn learnt(folder: &Path, overrides: &[&str]) -> (Vec<String>, u64) {
    let more = ["eval_fraction=0", "classifier.scores={}"];
    let (_, inputs) = load(folder, &[overrides, &more].concat()).unwrap();
    let labels = inputs.spec.parts[0].labels().unwrap().to_vec();
    (labels, truing_stages::training::TrainingData::lengths(&inputs.train).len() as u64)
}

#[test]
fn rare_and_uncertain_labels_are_left_out_or_put_together() {
    let folder = Model::Encoder.folder();
    let row = |i: usize| {
        let label = ["a", "b", "c", "d"][[0, 0, 0, 0, 1, 1, 1, 1, 2, 3][i % 10]];
        json!({"prompt": format!("w{i}"), "labels": {"kind": label}, "confidence": {"kind": i as f64 / 20.0}})
    };
    write(folder.path(), &(0..20).map(row).collect::<Vec<_>>());
    let check = |overrides: &[&str], labels: &[&str], n_texts: u64| {
        assert_eq!(
            learnt(folder.path(), overrides),
            (labels.iter().map(ToString::to_string).collect(), n_texts)
        );
    };
    check(&[], &["a", "b", "c", "d"], 20);
    check(&["classifier.min_count=3"], &["a", "b"], 16);
    check(&["classifier.min_count=3", "classifier.rare_labels=other"], &["a", "b", "other"], 20);
    check(&["classifier.min_count=1", "classifier.min_confidence=0.5"], &["a", "b", "c", "d"], 10);
    check(&["classifier.weight_by_confidence=true"], &["a", "b", "c", "d"], 19);
    check(&["classifier.columns={kind=\"labels.kind\"}"], &["a", "b", "c", "d"], 20);
}

#[test]
fn labels_are_called_what_the_label_set_calls_them() {
    let folder = Model::Encoder.folder();
    let set = r#"
[[dimension]]
name = "Kind"
[[dimension.label]]
name = "first"
synonyms = ["a", "no. 1"]
[[dimension.label]]
name = "second"
[[dimension]]
name = "traits"
multiple = true
[[dimension.label]]
name = "x"
"#;
    fs::write(folder.path().join("labels.toml"), set).unwrap();
    let row = |i: usize| {
        let kind = ["a", "First", "NO 1", "second", "SECOND", "first"][i % 6];
        json!({"prompt": format!("w{i}"), "labels": {"kind": kind, "traits": "X", "mood": "of no set"}})
    };
    let rows: Vec<Value> = (0..24).map(row).collect();
    write(folder.path(), &rows);
    let set = format!("classifier.label_set={}", folder.path().join("labels.toml").display());
    let settings = ["classifier.scores={}", set.as_str(), "eval_fraction=0.0"];
    let (_, inputs) = load(folder.path(), &settings).unwrap();
    let expected = [
        ("kind", OutputSpec::OneLabel { labels: vec!["first".into(), "second".into()], most_frequent: 0 }),
        ("traits", OutputSpec::SeveralLabels { labels: vec!["x".into()] }),
    ];
    let found: Vec<(&str, OutputSpec)> =
        inputs.spec.parts.iter().map(|part| (&*part.name, part.outputs.clone())).collect();
    assert_eq!(found, expected);
    assert!(inputs.record.files.iter().any(|file| file.path.ends_with("labels.toml")));

    let mut strange = rows;
    strange[7]["labels"]["kind"] = json!("secnd");
    write(folder.path(), &strange);
    let error = load(folder.path(), &settings).unwrap_err().to_string();
    let told =
        "rows.jsonl:8: `labels.kind` is `secnd`, which is not a label of `Kind`; the nearest is `second`";
    assert!(error.ends_with(told), "{error}");
    let named = [settings[0], settings[1], "classifier.dimensions=[\"mood\"]"];
    let error = load(folder.path(), &named).unwrap_err().to_string();
    assert!(error.contains("a table that names `mood`, which") && error.contains("Kind, traits"), "{error}");
}

#[test]
fn rows_of_a_group_are_on_one_side() {
    let folder = Model::Encoder.folder();
    let row = |i: usize| {
        let (task, kind) = (i / 10, i / 10 % 2);
        json!({"prompt": format!("w{i}"), "kind": (["a", "b"][kind]), "meta": {"task": task}})
    };
    write(folder.path(), &(0..90).map(row).collect::<Vec<_>>());
    let settings =
        ["classifier.scores={}", "classifier.columns={kind=\"kind\"}", "classifier.group_column=meta.task"];
    let (_, inputs) = load(folder.path(), &settings).unwrap();
    let n = |data: &classifier::LabelledData| truing_stages::training::TrainingData::lengths(data).len();
    let (n_train, n_eval) = (n(&inputs.train), n(inputs.eval.as_ref().unwrap()));
    assert_eq!((n_train + n_eval, n_train % 10, n_eval % 10), (90, 0, 0));
    let error = load(folder.path(), &[settings[0], settings[1], "classifier.group_column=task"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("rows.jsonl:1: `task` is missing"), "{error}");
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    for model in BOTH {
        let folder = model.folder();
        let check = |rows: &[Value], overrides: &[&str], expected: &str| {
            write(folder.path(), rows);
            let error = load(folder.path(), overrides).unwrap_err().to_string();
            assert!(error.contains(expected), "{model:?} {overrides:?}: {error}");
        };
        let all = rows(model);
        let with = |change: fn(&mut Value)| -> Vec<Value> {
            let mut all = all.clone();
            all.iter_mut().for_each(change);
            all
        };
        let labels_alone = ["classifier.scores={}"];
        check(
            &with(|row| row["labels"] = json!({"kind": "a"})),
            &labels_alone,
            "the one label `a` of `kind`",
        );
        check(&with(|row| row["labels"] = Value::Null), &labels_alone, "rows without `labels`");
        check(
            &with(|row| row["labels"] = json!("a")),
            &labels_alone,
            "rows.jsonl:1: `labels` is \"a\"; expected an object",
        );
        check(
            &with(|row| row["labels"]["kind"] = json!({})),
            &labels_alone,
            "`labels.kind` is {}; expected a label",
        );
        check(&with(|row| row["stars"] = json!("many")), &[], "`stars` is \"many\"; expected a number");
        check(&with(|row| row["stars"] = json!(3)), &[], "`worth`, which is 3 in every training row");
        check(
            &all,
            &["classifier.scores={worth=\"nope\"}"],
            "with `worth`, for which no training row has scores",
        );
        check(
            &all,
            &["classifier.dimensions=[\"nope\"]"],
            "with `nope`, for which no training row has labels",
        );
        check(&all, &["classifier.columns={worth=\"id\"}"], "a table with `worth` twice");
        check(&all, &["classifier.min_confidence=2"], "`classifier.min_confidence` is 2: expected 0 to 1");
        check(&all, &["classifier.min_counts=2"], "min_count");
        check(&[], &[], "rows.jsonl");
        let tables = ["reward_model.mse_coefficient=0.5"];
        check(&all, &tables, "`reward_model` is a table: expected none");
    }
    let folder = Model::Encoder.folder();
    write(folder.path(), &rows(Model::Encoder));
    for setting in ["packing=\"none\"", "long_samples=\"drop\"", "layers_per_segment=2"] {
        let error = load(folder.path(), &[setting]).unwrap_err().to_string();
        let key = setting.split('=').next().unwrap();
        assert!(error.contains(key) && error.contains("the model is an encoder"), "{setting}: {error}");
    }
    let error = load(folder.path(), &["lora.rank=4"]).unwrap_err().to_string();
    assert!(
        error.contains("`lora` is a table: expected nothing of the kind: the model is an encoder"),
        "{error}"
    );
    let error =
        Classifier::<Cpu>::open(&folder.path().join("model"), RenderOptions::default(), 1, &mut Silent);
    assert!(error.unwrap_err().to_string().contains("expected a classifier or scorer"));
}

#[test]
fn labels_that_only_the_evaluation_has_are_reported_and_left_out() {
    let folder = Model::Encoder.folder();
    write(folder.path(), &rows(Model::Encoder));
    let mut other = rows(Model::Encoder)[..9].to_vec();
    other[0]["labels"]["kind"] = json!("unheard of");
    fs::write(
        folder.path().join("eval.jsonl"),
        other.iter().map(|row| format!("{row}\n")).collect::<String>(),
    )
    .unwrap();
    let settings = [ALL[0], "eval_fraction=0", "eval_data=[{path=\"eval.jsonl\"}]", "max_steps=1"];
    let (_, events) = run(folder.path(), &settings, Start::Fresh, never).unwrap();
    let overrides = settings.map(str::to_owned);
    let config = TrainingConfig::from_toml(RECIPE, &folder.path().join("recipe.toml"), &overrides).unwrap();
    let stop = AtomicBool::new(false);
    let mut told = Events { seen: events, stop: &stop, stop_when: Box::new(never) };
    setup::load::<ClassifierStage>(&config, &mut told).unwrap();
    let warning =
        "the evaluation data: 1 labels are not among the trained ones and are ignored: kind=unheard of";
    assert!(told.seen.contains(&Event::Warning(warning.into())), "{:?}", told.seen);
    assert_eq!(evaluation(folder.path()).dimensions[0].n_texts, 7);
}

#[test]
fn a_classifier_of_the_same_outputs_is_trained_further_with_its_head() {
    for model in BOTH {
        let folder = model.folder();
        write(folder.path(), &rows(model));
        let (outcome, _) = run(folder.path(), &[ALL[0], "max_steps=2"], Start::Fresh, never).unwrap();
        let begun = outcome.finished().unwrap().model;
        let [from, output] =
            [("model_name_or_path", begun.clone()), ("output_dir", folder.path().join("again"))]
                .map(|(key, path)| format!("{key}={}", path.display()));
        let settings = [ALL[0], &from, &output, "max_steps=1", "learning_rate=1e-60"];
        let again = run(folder.path(), &settings, Start::Fresh, never).unwrap().0.finished().unwrap().model;
        let texts: Vec<String> = (0..20).map(|i| model.text(i % 2, i)).collect();
        let [before, after] = [&begun, &again].map(|path| {
            Classifier::<Cpu>::open(path, RenderOptions::default(), 2, &mut Silent)
                .unwrap()
                .predict(&texts)
                .unwrap()
        });
        assert_eq!(before, after, "{model:?}: nothing learnt, nothing changed");
    }
}
