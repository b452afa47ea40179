//! Evaluations: models that are asked and a model in this process, interrupted and continued, and what is refused.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use truing_ask::OpenChatModel;
use truing_eval::results::{ItemRecord, TaskRecord, read_items};
use truing_evaluate::evaluate::{EvaluateConfig, EvaluateOutcome, EvaluateStage, rescore};
use truing_predict::{Continuations, LikelihoodOptions, log_likelihoods};
use truing_stages::{Ended, PlanContext, Recipe, Stage, StageError, StagePlan};
use truing_text::RenderOptions;
use truing_train::Amount;
use truing_types::{Event, Silent};

use crate::scripted::Scripted;
use crate::setup::{self, Cpu, Events};

const SERVER: &str = r#"
stage = "evaluate"
output_dir = "run"

[model.server]
base_url = "http://127.0.0.1:9/v1"
model = "m"

[[task]]
path = "sums.jsonl"

[task.custom]
name = "sums"
prompt = "{{ question }}"
category_columns = ["kind"]
scorer = [{ kind = { exact_match = {} } }]
"#;

const LOCAL: &str = r#"
stage = "evaluate"
output_dir = "run"
apply_chat_template = false

[model]
model_name_or_path = "model"

[[task]]
name = "arc"
path = "arc.jsonl"
"#;

fn write_lines(path: &Path, rows: impl IntoIterator<Item = Value>) {
    let lines: String = rows.into_iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, lines).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = setup::folder();
    let sums = (0..12).map(|n| {
        json!({
            "question": format!("{n} + 1 ="), "answer": (n + 1).to_string(),
            "kind": if n < 6 { "small" } else { "large" }
        })
    });
    write_lines(&folder.path().join("sums.jsonl"), sums);
    let arc = (0..5).map(|n| {
        json!({
            "id": n.to_string(), "question": format!("Which of these is {n}?"), "answerKey": "B",
            "choices": {"text": ["one thing", format!("the number {n}"), "another"], "label": ["A", "B", "C"]},
        })
    });
    write_lines(&folder.path().join("arc.jsonl"), arc);
    folder
}

fn run(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
) -> Result<EvaluateOutcome, StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = EvaluateConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (plan, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning)?;
    let stop = AtomicBool::new(false);
    match EvaluateStage::run::<Cpu>(&plan, &inputs, setup::judged(models, &mut Silent, &stop))? {
        Ended::Finished(outcome) => Ok(outcome),
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

/// Adds one to the number, but for what is said to be hard.
fn adder() -> Scripted {
    Scripted::new(|text| {
        let n: u32 = text.split(' ').next().unwrap().parse().unwrap();
        Ok(if n.is_multiple_of(4) { "many".to_owned() } else { (n + 1).to_string() })
    })
}

fn items(folder: &Path, task: &str) -> Vec<ItemRecord> {
    read_items(&folder.join(format!("run/items_{task}.jsonl"))).unwrap()
}

#[test]
fn a_benchmark_of_the_users_own_is_asked_and_scored() {
    let folder = folder();
    let outcome = run(folder.path(), SERVER, &[], vec![adder().open()]).unwrap();
    let [task] = &outcome.tasks[..] else { panic!("{outcome:?}") };
    let metric = &task.summary.metrics[0];
    assert_eq!((metric.value, metric.n, metric.n_unscored()), (Some(0.75), 12, 0));
    let interval = metric.interval.unwrap();
    assert!(interval.low > 0.4 && interval.high < 0.95, "{interval:?}");
    let kinds = &task.summary.by_category["kind"];
    let share = |kind: &str| kinds[kind][0].value.unwrap();
    assert!((share("small") - 4.0 / 6.0).abs() < 1e-12 && (share("large") - 5.0 / 6.0).abs() < 1e-12);
    let stored: Vec<TaskRecord> =
        serde_json::from_slice(&fs::read(folder.path().join("run/results.json")).unwrap()).unwrap();
    assert_eq!(stored, outcome.tasks);
    assert_eq!(items(folder.path(), "sums").len(), 12);
    let known: Value =
        serde_json::from_slice(&fs::read(folder.path().join("run/results_lm_eval.json")).unwrap()).unwrap();
    assert_eq!(known["n-samples"]["sums"], json!({"original": 12, "effective": 12}));
    for file in ["samples_sums.jsonl", "answers.jsonl", "recipe.resolved.toml", "inputs.json"] {
        assert!(folder.path().join("run").join(file).is_file(), "{file}");
    }
}

#[test]
fn a_stopped_evaluation_continues_without_asking_again() {
    let folder = folder();
    let config = EvaluateConfig::from_toml(SERVER, &folder.path().join("recipe.toml"), &[]).unwrap();
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (plan, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning).unwrap();
    let stop = AtomicBool::new(false);
    let is_fifth = |event: &Event| matches!(event, Event::Progress { done: 5, .. });
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(is_fifth) };
    let first = adder();
    let context = setup::judged(vec![first.open()], &mut events, &stop);
    let ended = EvaluateStage::run::<Cpu>(&plan, &inputs, context).unwrap();
    assert!(matches!(ended, Ended::Interrupted { .. }), "{ended:?}");
    assert!(!folder.path().join("run/results.json").exists());
    let second = adder();
    let outcome = run(folder.path(), SERVER, &[], vec![second.open()]).unwrap();
    assert_eq!(outcome.tasks[0].summary.metrics[0].value, Some(0.75));
    assert_eq!((first.asked().len(), second.asked().len()), (5, 7), "nothing is asked twice");
    let third = adder();
    run(folder.path(), SERVER, &[], vec![third.open()]).unwrap();
    assert!(third.asked().is_empty());
    // Another recipe is another run.
    let error = run(folder.path(), SERVER, &["limit=3"], vec![adder().open()]).unwrap_err();
    assert!(error.to_string().contains("limit"), "{error}");
}

#[test]
fn what_fails_is_unscored_and_asked_again_and_a_server_that_is_down_ends_the_run() {
    let folder = folder();
    let flaky = Scripted::new(|text| match text.starts_with('7') {
        true => Err(truing_types::ChatError::Failed("a bad gateway".into())),
        false => Ok("x".into()),
    });
    let outcome = run(folder.path(), SERVER, &[], vec![flaky.open()]).unwrap();
    let metric = &outcome.tasks[0].summary.metrics[0];
    assert_eq!((metric.value, metric.n, metric.unscored["failed"]), (Some(0.0), 11, 1));
    let repaired = adder();
    let outcome = run(folder.path(), SERVER, &[], vec![repaired.open()]).unwrap();
    assert_eq!(repaired.asked(), ["7 + 1 ="]);
    assert_eq!(outcome.tasks[0].summary.metrics[0].n, 12);
    let folder = self::folder();
    let down = Scripted::fails();
    let error = run(folder.path(), SERVER, &["max_failures_in_a_row=3"], vec![down.open()]).unwrap_err();
    assert!(error.to_string().contains("the server is down"), "{error}");
    assert_eq!(down.asked().len(), 3);
}

#[test]
fn likelihoods_of_options_are_those_of_the_model_whatever_is_beside_them() {
    let folder = folder();
    let outcome = run(folder.path(), LOCAL, &[], Vec::new()).unwrap();
    let keys: Vec<String> =
        outcome.tasks[0].summary.metrics.iter().map(|metric| metric.metric.key()).collect();
    assert_eq!(keys, ["acc,none", "acc_norm,none", "acc_bytes,none"]);
    let all = items(folder.path(), "arc");
    let few = folder.path().join("few.toml");
    let overrides = ["limit=1".to_owned(), format!("output_dir={}", folder.path().join("few").display())];
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    run(few.parent().unwrap(), LOCAL, &overrides, Vec::new()).unwrap();
    let alone = read_items(&folder.path().join("few/items_arc.jsonl")).unwrap();
    assert_eq!(alone[0].answers, all[0].answers, "bit for bit");
    // Each option by itself, on a sequence of its own.
    let files = truing_model::ModelFiles::open(&folder.path().join("model")).unwrap();
    let tokenizer = truing_run::model::tokenizer(&files).unwrap();
    let frozen = truing_model::TrainableSpec::frozen();
    let options = truing_model::EngineOptions::with_threads(1, truing_types::Seed(0));
    let mut engine: Cpu =
        truing_run::model::load_engine(&files, &frozen, &options, &setup::SOLO, &mut |_| ()).unwrap();
    for record in &all {
        let answer = record.answers.0.values().next().unwrap();
        let truing_eval::benchmarks::Answer::LogLikelihoods(found) = answer else { panic!("{answer:?}") };
        assert_eq!(found.len(), 3);
        for (one, option) in found.iter().zip(["one thing", "", "another"]) {
            let text = match option {
                "" => format!("the number {}", record.item.id),
                text => text.to_owned(),
            };
            let context = format!("Question: {}\nAnswer:", record.item.text("question"));
            let alone = Continuations { context, options: vec![format!(" {text}")] };
            let go_on = &mut |_| std::ops::ControlFlow::Continue(());
            let expected =
                log_likelihoods(&mut engine, &tokenizer, &[alone], LikelihoodOptions::default(), go_on)
                    .unwrap()
                    .unwrap()[0][0];
            assert_eq!((one.n_tokens, one.is_greedy), (expected.n_tokens, expected.is_greedy));
            assert!((one.sum - expected.log_prob).abs() < 1e-4, "{one:?} {expected:?}");
        }
    }
}

#[test]
fn stored_answers_are_scored_again_without_a_model() {
    let folder = folder();
    let outcome = run(folder.path(), SERVER, &[], vec![adder().open()]).unwrap();
    let config = EvaluateConfig::from_toml(SERVER, &folder.path().join("recipe.toml"), &[]).unwrap();
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (plan, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning).unwrap();
    assert_eq!(rescore(&plan.config, &inputs, None).unwrap().tasks, outcome.tasks);
}

/// Loads the recipe again and scores the stored answers.
fn rescored(folder: &Path, recipe: &str, overrides: &[&str]) -> Result<EvaluateOutcome, StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = EvaluateConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (plan, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning)?;
    rescore(&plan.config, &inputs, None)
}

#[test]
fn a_rescore_changes_the_scorer_and_nothing_else() {
    let folder = folder();
    let error = rescored(folder.path(), SERVER, &[]).unwrap_err().to_string();
    assert!(error.contains("is not the folder of a finished evaluation"), "{error}");
    run(folder.path(), SERVER, &[], vec![adder().open()]).unwrap();
    let stored = |file: &str| fs::read_to_string(folder.path().join("run").join(file)).unwrap();
    let (items_before, results_before) = (stored("items_sums.jsonl"), stored("results_lm_eval.json"));
    // Other items, another model or another question are another run, and nothing is written.
    for (overrides, expected) in [
        (&["limit=3"][..], "limit"),
        (&["model.server.model=other"], "model"),
        (&["task.0.custom.prompt=Sum: {{ question }}"], "task"),
        (&["temperature=0.5"], "temperature"),
    ] {
        let error = rescored(folder.path(), SERVER, overrides).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("another recipe"), "{overrides:?}: {error}");
        assert_eq!(stored("items_sums.jsonl"), items_before, "{overrides:?}");
    }
    let error = rescored(folder.path(), SERVER, &["seeds=2"]).unwrap_err().to_string();
    assert!(error.contains("no stored answer with seed 2"), "{error}");
    // A laxer scorer finds the sum within other words; model and time stay those of the run.
    let lax = SERVER.replace("exact_match = {}", "exact_match = { contained = true }");
    let outcome = rescored(folder.path(), &lax, &[]).unwrap();
    assert_eq!(outcome.tasks[0].summary.metrics[0].value, Some(0.75));
    assert_eq!(stored("items_sums.jsonl").lines().count(), 12);
    let facts = |text: &str| {
        let facts: Value = serde_json::from_str(text).unwrap();
        (facts["model_name"].clone(), facts["total_evaluation_time_seconds"].clone())
    };
    assert_eq!(facts(&stored("results_lm_eval.json")), facts(&results_before));
    assert_eq!(facts(&results_before).0, "m");
    assert!(stored("recipe.resolved.toml").contains("contained = true"));
    // The file changed: those are other items.
    let path = folder.path().join("sums.jsonl");
    let text = fs::read_to_string(&path).unwrap().replace("0 + 1 =", "0 + 2 =");
    fs::write(&path, text).unwrap();
    let error = rescored(folder.path(), &lax, &[]).unwrap_err().to_string();
    assert!(error.contains("sums.jsonl") && error.contains("has changed"), "{error}");
}

#[test]
fn a_finished_run_that_is_run_again_keeps_its_time() {
    let folder = folder();
    run(folder.path(), SERVER, &[], vec![adder().open()]).unwrap();
    let path = folder.path().join("run/results_lm_eval.json");
    let mut results: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    results["total_evaluation_time_seconds"] = "12.5".into();
    fs::write(&path, results.to_string()).unwrap();
    run(folder.path(), SERVER, &[], vec![adder().open()]).unwrap();
    let results: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(results["total_evaluation_time_seconds"], "12.5");
}

#[test]
fn the_number_of_examples_that_are_shown_is_recorded_and_a_missing_file_is_said() {
    let folder = folder();
    let problem = |i: usize| json!({"question": format!("{i} + 1 ="), "answer": format!("#### {}", i + 1)});
    write_lines(&folder.path().join("gsm8k.jsonl"), (0..3).map(problem));
    write_lines(&folder.path().join("train.jsonl"), (5..7).map(problem));
    let recipe = SERVER.split("[[task]]").next().unwrap().to_owned()
        + "[[task]]\nname = \"gsm8k\"\npath = \"gsm8k.jsonl\"\n";
    let with_shots = format!("{recipe}shots_path = \"train.jsonl\"\n");
    for (recipe, n_shown, warning) in [
        (&recipe, 0, "customary are 5 solved examples, 0 are shown: they need a file, `shots_path`"),
        (&with_shots, 2, "customary are 5 solved examples, 2 are shown: `"),
    ] {
        let overrides = [format!("output_dir={}", folder.path().join(format!("run{n_shown}")).display())];
        let config =
            EvaluateConfig::from_toml(recipe, &folder.path().join("recipe.toml"), &overrides).unwrap();
        let stop = AtomicBool::new(false);
        let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(setup::never) };
        let machine = || setup::MACHINE;
        let mut planning =
            PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut events };
        let (plan, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning).unwrap();
        let is_said = |event: &Event| matches!(event, Event::Warning(text) if text.contains(warning));
        assert!(events.seen.iter().any(is_said), "{warning}: {:?}", events.seen);
        let row = plan.table().into_iter().find(|row| row.name == "gsm8k: solved examples before each item");
        assert_eq!(row.unwrap().amount, Amount::Count(n_shown));
        let models = vec![Scripted::says("#### 1").open()];
        let ended = EvaluateStage::run::<Cpu>(&plan, &inputs, setup::judged(models, &mut Silent, &stop));
        let Ended::Finished(outcome) = ended.unwrap() else { panic!("nobody stopped it") };
        assert_eq!(outcome.tasks[0].n_shots, n_shown as usize);
    }
}

#[test]
fn a_row_that_no_scorer_can_score_is_refused_before_anything_is_asked() {
    let folder = folder();
    let model = adder();
    let recipe = SERVER.replace("exact_match = {}", "exact_match = { column = \"ans\" }");
    let error = run(folder.path(), &recipe, &[], vec![model.open()]).unwrap_err().to_string();
    assert!(error.contains("sums.jsonl:1: the scorer `exact_match`"), "{error}");
    assert!(error.contains("the row has no `ans`"), "{error}");
    assert!(model.asked().is_empty() && !folder.path().join("run").exists());
}

#[test]
fn what_cannot_be_evaluated_is_refused_before_anything_is_asked() {
    let folder = folder();
    for (recipe, overrides, expected) in [
        (LOCAL, &["task.0.name=arcc"][..], "there is no benchmark `arcc`; did you mean `arc`?"),
        (LOCAL, &["task.0.path=no_such.jsonl"], "no_such.jsonl"),
        (LOCAL, &["task.0.name=cfbench"], "`cfbench` needs a judge"),
        (LOCAL, &["task.0.name=gsm8k"], "`answer` is missing"),
        (LOCAL, &["task.0.name=reward_model"], ""),
        (LOCAL, &["task.0.num_fewshot=2"], "num_fewshot"),
        (LOCAL, &["limit=0"], "`limit` is 0"),
        (LOCAL, &["model.model_name_or_path="], "missing setting"),
        (SERVER, &["apply_chat_template=false"], "apply_chat_template"),
        (SERVER, &["task.0.name=arc"], "task.custom"),
        (SERVER, &["task.0.custom.prompt={{ question"], "prompt"),
        (SERVER, &["task.0.custom.name=gsm8k"], "`gsm8k`, the name of a benchmark of this program"),
        (SERVER, &["limit=2.5"], "`limit` is 2.5: expected a whole number"),
    ] {
        let error = run(folder.path(), recipe, overrides, Vec::new()).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
        assert!(!folder.path().join("run").exists(), "{overrides:?}");
    }
    let likelihoods =
        SERVER.split("[task.custom]").next().unwrap().replace("sums.jsonl", "arc.jsonl\"\nname = \"arc");
    let error = run(folder.path(), &likelihoods, &[], Vec::new()).unwrap_err().to_string();
    assert!(error.contains("log-likelihoods") && error.contains("_generate"), "{error}");
}

/// What was said to a text before, by how often it was asked.
fn by_turn(rule: impl Fn(&str, usize) -> String + Send + 'static) -> Scripted {
    let seen = std::sync::Mutex::new(std::collections::HashMap::<String, usize>::new());
    Scripted::new(move |text| {
        let mut seen = seen.lock().unwrap();
        let turn = seen.entry(text.to_owned()).or_default();
        *turn += 1;
        Ok(rule(text, *turn - 1))
    })
}

#[test]
fn several_seeds_are_asked_apart_and_their_variance_is_divided() {
    let folder = folder();
    // With the second seed every third sum is wrong.
    let adder = || {
        by_turn(|text, turn| {
            let n: u32 = text.split(' ').next().unwrap().parse().unwrap();
            if n.is_multiple_of(4) || (turn == 1 && n.is_multiple_of(3)) {
                "many".to_owned()
            } else {
                (n + 1).to_string()
            }
        })
    };
    let model = adder();
    let outcome = run(folder.path(), SERVER, &["seeds=2", "temperature=0.7"], vec![model.open()]).unwrap();
    assert_eq!(model.asked().len(), 24);
    let summary = &outcome.tasks[0].summary;
    let metric = &summary.metrics[0];
    // 9 of 12 are right with the first seed, 3, 6 and 9 are wrong besides with the second.
    assert_eq!((metric.value, metric.n, metric.n_clusters), (Some(15.0 / 24.0), 24, 12));
    assert_eq!((summary.n_items, summary.n_seeds), (12, 2));
    let variance = metric.variance.unwrap();
    assert!(variance.item > 0.0 && variance.answer > 0.0, "{variance:?}");
    assert_eq!((variance.n, variance.judge), ([12, 2, 1], None));
    // Two answers to an item are no two items: the interval is that of means over 12.
    let half = (metric.interval.unwrap().high - metric.interval.unwrap().low) / 2.0;
    assert!(half > 0.2, "{half}");
    let records = items(folder.path(), "sums");
    assert_eq!(records.iter().map(|record| record.seed).collect::<Vec<_>>(), [[0; 12], [1; 12]].concat());
    // Nothing is asked again, a third seed asks for itself alone, and stored answers are scored as before.
    let more = adder();
    let again = run(folder.path(), SERVER, &["seeds=2", "temperature=0.7"], vec![more.open()]).unwrap();
    assert_eq!((again.tasks == outcome.tasks, more.asked().len()), (true, 0));
    let third = adder();
    let outcome = run(folder.path(), SERVER, &["seeds=3", "temperature=0.7"], vec![third.open()]).unwrap();
    assert_eq!((third.asked().len(), outcome.tasks[0].summary.metrics[0].n), (12, 36));
    let overrides = ["seeds=3".to_owned(), "temperature=0.7".to_owned()];
    let config = EvaluateConfig::from_toml(SERVER, &folder.path().join("recipe.toml"), &overrides).unwrap();
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (plan, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning).unwrap();
    assert_eq!(rescore(&plan.config, &inputs, None).unwrap().tasks, outcome.tasks);
}

const JUDGED: &str = r#"
stage = "evaluate"
output_dir = "run"

[model.server]
base_url = "http://127.0.0.1:9/v1"
model = "m"

[judge]
repeat_items = 4
llmbar = "llmbar.jsonl"

[judge.model.server]
base_url = "http://127.0.0.1:9/v1"
model = "j"

[[task]]
name = "mt_bench"
path = "questions.jsonl"
"#;

#[test]
fn a_judged_score_says_how_far_its_judge_can_be_trusted() {
    let folder = folder();
    let questions = (0..8).map(|n| {
        json!({"question_id": n, "category": "writing", "turns": [format!("Write about topic {n}."), "Shorter."]})
    });
    write_lines(&folder.path().join("questions.jsonl"), questions);
    let pairs = (0..6).map(|n| {
        json!({"input": format!("Pair {n}."), "output_1": "good answer", "output_2": "bad answer", "label": 1})
    });
    write_lines(&folder.path().join("llmbar.jsonl"), pairs);
    let judge = || {
        by_turn(|text, turn| {
            if text.contains("Pair") {
                // Prefers what is shown first, but for one pair.
                let is_first = text.find("good answer").unwrap() < text.find("bad answer").unwrap();
                return if text.contains("Pair 0") && !is_first { "[[B>A]]" } else { "[[A>B]]" }.to_owned();
            }
            match (text.contains("topic 2"), turn) {
                (true, 1) => "[[3]]".to_owned(),
                _ if text.contains("no grade in the required form") => "[[8]]".to_owned(),
                _ if text.contains("topic 5") => "A fine answer.".to_owned(),
                _ => "[[6]]".to_owned(),
            }
        })
    };
    let (model, judges) = (Scripted::says("A text."), judge());
    let outcome = run(folder.path(), JUDGED, &[], vec![model.open(), judges.open()]).unwrap();
    let names: Vec<&str> = outcome.tasks.iter().map(|task| task.task.as_str()).collect();
    assert_eq!(names, ["mt_bench", "llmbar"]);
    let quality = outcome.tasks[0].summary.judge.clone().unwrap();
    // Topic 5 needs a second request for each of its two turns.
    assert_eq!(
        (quality.n_verdicts, quality.n_asked_again, quality.n_unread, quality.n_calls),
        (16, 2, 0, 18)
    );
    assert_eq!(quality.read_at_once.unwrap().share, 14.0 / 16.0);
    // Of topics 0, 2, 4 and 6 the third question says something else the second time.
    let repeat = quality.repeat.unwrap();
    assert_eq!((repeat.same.n, repeat.same.share), (4, 0.75));
    assert!((repeat.variance - 9.0 / 2.0 / 4.0).abs() < 1e-12, "both turns 3 less: {}", repeat.variance);
    assert_eq!(quality.order, None, "answers are graded alone");
    let accuracy = quality.llmbar.clone().unwrap();
    // Five pairs are right in one order alone, one in both.
    assert_eq!(accuracy.value, Some((5.0 * 0.5 + 1.0) / 6.0));
    let order = outcome.tasks[1].summary.judge.as_ref().unwrap().order.unwrap();
    assert_eq!((order.consistent.n, order.consistent.share), (6, 1.0 / 6.0));
    assert!((order.for_the_first - (5.0 + 0.5) / 6.0).abs() < 1e-12, "{}", order.for_the_first);
    // The second verdicts are kept beside the first, and asked once.
    let record = &items(folder.path(), "mt_bench")[0];
    assert!(record.answers.0.contains_key("repeat/judge/turn1#1"), "{:?}", record.answers.0.keys());
    let silent = judge();
    let again =
        run(folder.path(), JUDGED, &[], vec![Scripted::says("A text.").open(), silent.open()]).unwrap();
    assert_eq!((again.tasks == outcome.tasks, silent.asked().len()), (true, 0));
    // Without repeats there is no agreement.
    let other = self::folder();
    for file in ["questions.jsonl", "llmbar.jsonl"] {
        fs::copy(folder.path().join(file), other.path().join(file)).unwrap();
    }
    let outcome =
        run(other.path(), JUDGED, &["judge.repeat_items=0"], vec![model.open(), judge().open()]).unwrap();
    assert_eq!(outcome.tasks[0].summary.judge.as_ref().unwrap().repeat, None);
}

#[test]
fn a_judge_that_does_not_answer_is_found_before_all_answers_are_paid_for() {
    let folder = folder();
    let questions = (0..8).map(|n| {
        json!({"question_id": n, "category": "writing", "turns": [format!("Write about topic {n}."), "Shorter."]})
    });
    write_lines(&folder.path().join("questions.jsonl"), questions);
    let recipe = JUDGED.replace("llmbar = \"llmbar.jsonl\"\n", "");
    let model = Scripted::says("A text.");
    let models = vec![model.open(), Scripted::fails().open()];
    let error = run(folder.path(), &recipe, &[], models).unwrap_err().to_string();
    assert!(error.contains("`judge.model` is j: ") && error.contains("the server is down"), "{error}");
    assert!(error.contains("the same command continues"), "{error}");
    // Two turns of each of the first three questions, of sixteen in all.
    assert_eq!(model.asked().len(), 6);
    // With a judge the run continues, and names it.
    let outcome =
        run(folder.path(), &recipe, &[], vec![model.open(), Scripted::says("[[7]]").open()]).unwrap();
    assert_eq!((model.asked().len(), outcome.tasks[0].judge()), (16, Some("j")));
}

#[test]
fn the_plan_counts_every_turn_and_every_repeated_verdict() {
    let folder = folder();
    let questions = (0..8).map(|n| {
        json!({"question_id": n, "category": "writing", "turns": [format!("Write about topic {n}."), "Shorter."]})
    });
    write_lines(&folder.path().join("questions.jsonl"), questions);
    let overrides = ["seeds=3".to_owned()];
    let recipe = JUDGED.replace("llmbar = \"llmbar.jsonl\"\n", "");
    let config = EvaluateConfig::from_toml(&recipe, &folder.path().join("recipe.toml"), &overrides).unwrap();
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (_, inputs) = EvaluateStage::prepare::<Cpu>(config, &mut planning).unwrap();
    let task = &inputs.tasks[0];
    assert_eq!((task.n_model_calls, task.n_judge_calls), (48, 48));
    // Each unreadable verdict is asked for three times.
    assert_eq!((task.max_judge_calls, task.n_repeated_calls), (3 * 48, 3 * 4 * 2 * 3));
    assert_eq!(task.max_answer_tokens, 48 * 1024);
    assert!(task.max_verdict_tokens > 0 && task.max_verdict_tokens % (3 * 48 + 3 * 24) == 0);
}
