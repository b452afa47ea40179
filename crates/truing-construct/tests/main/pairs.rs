//! `truing pas build` with a generator and a critic that answer by a rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_ask::pas::{Fault, questions};
use truing_construct::pas::{Fate, FateRow, PasConfig, PasInputs, PasOutcome, PasPlan, PasStage};
use truing_data::{OnBadRow, SourceConfig, read_rows};
use truing_stages::{Ended, Recipe, Stage, StageError};
use truing_types::{ChatError, Silent};

use crate::scripted::Scripted;
use crate::setup::{self, Cpu};

pub(crate) const RECIPE: &str = r#"
stage = "pas"
output_dir = "pairs"
[[data]]
path = "prompts.jsonl"
[generator]
server = { base_url = "http://127.0.0.1:9/v1", model = "teacher" }
"#;

const CRITIC: &str =
    "\n[critic_model]\nserver = { base_url = \"http://127.0.0.1:9/v1\", model = \"critic\" }\n";

const ROWS: &str = concat!(
    r#"{"prompt": "Sort a list.", "category": "code", "score": 0.9, "level": ["easy", "x"]}
{"prompt": "Why do stars twinkle?", "score": 0.2, "level": "easy"}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},"#,
    r#" {"role": "user", "content": "Bye"}], "score": 1}
{"prompt": "把这段话译成英文：你好。", "category": "Translate", "score": 0.8, "level": "hard"}
{"prompt": "Add 2 and 3.", "category": "math", "level": "easy"}
"#
);

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompts.jsonl"), ROWS).unwrap();
    folder
}

fn plan(folder: &Path, recipe: &str, overrides: &[&str]) -> Result<(PasPlan, PasInputs), StageError> {
    // Overrides are relative to the working folder, as those of a command are.
    let here = format!("output_dir={}/", folder.display());
    let mut overrides: Vec<String> =
        overrides.iter().map(|change| change.replace("output_dir=", &here)).collect();
    overrides.push("category_names={Translate = \"translation\"}".into());
    let config = PasConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = PasInputs::load(&config, &mut Silent)?;
    Ok((PasPlan::resolve(config, &inputs)?, inputs))
}

fn run_until(
    folder: &Path,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
    stop: &AtomicBool,
) -> Result<Ended<PasOutcome>, StageError> {
    let recipe = if models.len() == 2 { format!("{RECIPE}{CRITIC}") } else { RECIPE.to_owned() };
    let (plan, inputs) = plan(folder, &recipe, overrides)?;
    PasStage::run::<Cpu>(&plan, &inputs, setup::judged(models, &mut Silent, stop))
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(
    folder: &Path,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
) -> Result<(PasOutcome, Vec<FateRow>, Vec<Value>), StageError> {
    match run_until(folder, overrides, models, &AtomicBool::new(false))? {
        Ended::Finished(outcome) => {
            let (fates, pairs) = (lines(&outcome.fates), lines(&outcome.pairs));
            Ok((outcome, fates, pairs))
        }
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

/// The text of the last of some tags.
fn last<'a>(text: &'a str, tag: &str) -> &'a str {
    let after = text.rsplit(&format!("<{tag}>\n")).next().unwrap();
    after.split(&format!("\n</{tag}>")).next().unwrap()
}

fn is_review(text: &str) -> bool {
    text.starts_with("You review complements") || text.contains("审核提示词的补充说明")
}

fn accepts() -> String {
    r#"{"reason": "Fine.", "is_correct": true, "fault": null, "final_complement": ""}"#.into()
}

fn rejects() -> String {
    r#"```json
{"reason": "It answers.", "is_correct": false, "fault": "answers", "final_complement": "Say how."}
```"#
        .into()
}

/// Names categories, numbers its complements, and accepts the numbers from `first_accepted` on.
fn model(first_accepted: usize) -> Scripted {
    let n_written: std::sync::Mutex<BTreeMap<String, usize>> = std::sync::Mutex::default();
    Scripted::new(move |text| {
        if text.starts_with("Assign the prompt") {
            return Ok("It is [[knowledge_qa]]".into());
        }
        if is_review(text) {
            let number: usize = last(text, "complement").rsplit(' ').next().unwrap().parse().unwrap();
            return Ok(if number >= first_accepted { accepts() } else { rejects() });
        }
        let mut n_written = n_written.lock().unwrap();
        let number = n_written.entry(last(text, "prompt").to_owned()).or_default();
        *number += 1;
        Ok(format!("\"Version {number}\""))
    })
}

#[test]
fn every_prompt_has_a_fate_and_pairs_can_be_trained_on() {
    let folder = folder();
    let model = model(1);
    let (outcome, fates, pairs) = run(folder.path(), &[], vec![model.open()]).unwrap();
    let seen: Vec<(Fate, Option<&str>)> =
        fates.iter().map(|row| (row.fate, row.category.as_deref())).collect();
    assert_eq!(
        seen,
        [
            (Fate::Accepted, Some("code")),
            (Fate::Accepted, Some("knowledge_qa")),
            (Fate::Dropped, None),
            (Fate::Accepted, Some("translation")),
            (Fate::Accepted, Some("math")),
        ]
    );
    assert_eq!(
        (fates[2].prompt.as_str(), fates[2].reason.as_deref()),
        ("Bye", Some("not a single turn of a user"))
    );
    assert_eq!((fates[4].source.line, fates[4].complement.as_deref()), (5, Some("Version 1")));
    assert_eq!(model.asked().len(), 1 + 4 + 4, "one category, four complements, four reviews");
    let summary = outcome.summary;
    assert_eq!((summary.n_prompts, summary.n_chosen, summary.n_pairs), (5, 4, 4));
    assert_eq!(summary.fates.values().sum::<usize>(), 5);

    assert_eq!(pairs.len(), 4);
    assert_eq!(pairs[2]["messages"][0]["content"], questions::complement("把这段话译成英文：你好。"));
    assert_eq!(pairs[2]["messages"][1]["content"], "Version 1");
    assert_eq!((&pairs[2]["language"], &pairs[2]["category"]), (&"zh".into(), &"translation".into()));
    let mut rows = read_rows(&SourceConfig::new(&outcome.pairs), OnBadRow::Error).unwrap();
    assert_eq!(rows.by_ref().collect::<Result<Vec<_>, _>>().unwrap().len(), 4);
    assert_eq!(rows.format().unwrap().name, "messages");
}

#[test]
fn rejected_complements_are_written_again_then_corrected_or_given_up() {
    let folder = folder();
    let (outcome, fates, _) = run(folder.path(), &[], vec![model(3).open()]).unwrap();
    assert!(fates.iter().filter(|row| row.fate == Fate::Accepted).all(|row| {
        row.n_regenerations == 2
            && row.complement.as_deref() == Some("Version 3")
            && row.faults == [Fault::Answers, Fault::Answers]
    }));
    assert_eq!((outcome.summary.n_regenerations, outcome.summary.faults[&Fault::Answers]), (8, 8));

    let corrected = ["output_dir=b", "max_regenerations=1"];
    let (outcome, fates, pairs) = run(folder.path(), &corrected, vec![model(3).open()]).unwrap();
    assert_eq!(outcome.summary.fates[&Fate::Corrected], 4);
    assert!(fates.iter().all(|row| row.complement.as_deref().is_none_or(|text| text == "Say how.")));
    assert_eq!(pairs.len(), 4);

    let given_up = ["output_dir=c", "max_regenerations=1", "use_corrections=false"];
    let error = run(folder.path(), &given_up, vec![model(3).open()]).unwrap_err().to_string();
    assert!(error.contains("no pairs from 4 prompts: every complement was rejected"), "{error}");
    let fates: Vec<FateRow> = lines(&folder.path().join("c/fates.jsonl"));
    assert_eq!(fates.iter().filter(|row| row.fate == Fate::Capped && row.complement.is_none()).count(), 4);
    assert!(!folder.path().join("c/pairs.jsonl").exists());
}

#[test]
fn complements_without_a_verdict_are_counted_and_kept_or_not() {
    let folder = folder();
    let critic = || Scripted::says("I like it.");
    let (outcome, fates, pairs) = run(folder.path(), &[], vec![model(1).open(), critic().open()]).unwrap();
    assert_eq!((outcome.summary.fates[&Fate::NoCriticVerdict], pairs.len()), (4, 4));
    assert!(outcome.summary.warnings[0].contains("4 complements have no verdict"), "{:?}", outcome.summary);
    assert_eq!(fates[0].reason.as_deref(), Some("replies without a verdict in the requested form"));
    let dropped = ["output_dir=b", "keep_unreviewed=false"];
    let error = run(folder.path(), &dropped, vec![model(1).open(), critic().open()]).unwrap_err();
    assert!(error.to_string().contains("no pairs"), "{error}");

    // Without a critic nobody is asked for a verdict.
    let model = model(9);
    let (outcome, _, pairs) =
        run(folder.path(), &["output_dir=c", "critic=false"], vec![model.open()]).unwrap();
    assert_eq!((outcome.summary.fates[&Fate::NotReviewed], pairs.len()), (4, 4));
    assert_eq!(model.asked().len(), 5);
}

#[test]
fn columns_select_and_without_selection_as_many_are_drawn() {
    let folder = folder();
    let rules = ["score_column=score", "min_score=0.15"];
    let (plan_of_scores, _) = plan(folder.path(), RECIPE, &rules).unwrap();
    assert_eq!(plan_of_scores.chosen, [0, 1, 3]);
    assert_eq!(plan_of_scores.dropped[4].as_deref(), Some("no score in `score`"));
    let keep = "keep={level = [\"easy\"]}";
    let (kept, _) = plan(folder.path(), RECIPE, &[keep]).unwrap();
    assert_eq!(kept.chosen, [0, 1, 4]);
    assert_eq!(kept.dropped[3].as_deref(), Some("not kept by `level`"));
    let both = [rules[0], "min_score=0.5", keep];
    assert_eq!(plan(folder.path(), RECIPE, &both).unwrap().0.chosen, [0]);

    let drawn: Vec<Vec<usize>> = (0..20)
        .map(|seed| {
            let seed = format!("seed={seed}");
            let overrides = [rules[0], rules[1], "selection=false", &seed];
            let (plan, _) = plan(folder.path(), RECIPE, &overrides).unwrap();
            assert_eq!(plan.chosen.len(), 3);
            assert!(!plan.chosen.contains(&2), "a conversation cannot have a complement");
            plan.chosen
        })
        .collect();
    assert!(drawn.iter().any(|places| places.contains(&4)), "prompts without a score are drawn too");
    assert!(drawn.iter().any(|places| *places != drawn[0]));
    let error = plan(folder.path(), RECIPE, &[rules[0], "min_score=2"]).unwrap_err().to_string();
    assert!(error.contains("5 prompts, none of which is left"), "{error}");
}

#[test]
fn the_plan_tells_every_call_before_the_first() {
    let folder = folder();
    let (planned, _) = plan(folder.path(), RECIPE, &["max_regenerations=1"]).unwrap();
    assert_eq!((planned.n_category_calls, planned.n_calls, planned.max_calls), (1, 9, 17));
    let model = model(9);
    run(folder.path(), &["max_regenerations=1"], vec![model.open()]).unwrap();
    assert_eq!(model.asked().len() as u64, planned.max_calls);
    let bytes = model.asked().iter().map(|text| text.len() as u64).sum::<u64>().div_ceil(4);
    let ratio = planned.prompt_tokens as f64 / bytes as f64;
    assert!((0.8..1.25).contains(&ratio), "{} planned, {bytes} asked", planned.prompt_tokens);
}

#[test]
fn a_stopped_run_continues_and_pays_for_nothing_twice() {
    let folder = folder();
    let cache = folder.path().join("replies.sqlite");
    let (stop, n_asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (rule, flag, counter) = (model(2), Arc::clone(&stop), Arc::clone(&n_asked));
    let model = Scripted::new(move |text| {
        if counter.fetch_add(1, Ordering::SeqCst) == 7 {
            flag.store(true, Ordering::SeqCst);
        }
        rule.answer(text)
    });
    let ended = run_until(folder.path(), &[], vec![model.cached(&cache)], &stop).unwrap();
    assert!(matches!(ended, Ended::Interrupted { .. }));
    assert!(!folder.path().join("pairs/pairs.jsonl").exists());
    let n_first = n_asked.load(Ordering::SeqCst);
    stop.store(false, Ordering::SeqCst);
    let (_, fates, pairs) = run(folder.path(), &[], vec![model.cached(&cache)]).unwrap();
    // One category, and two complements and reviews for each of four prompts.
    assert!(n_first < 17);
    assert_eq!((n_asked.load(Ordering::SeqCst), pairs.len()), (17, 4));
    let (_, again, _) = run(folder.path(), &[], vec![model.cached(&cache)]).unwrap();
    assert_eq!((n_asked.load(Ordering::SeqCst), again), (17, fates));
    let error = run(folder.path(), &["temperature=0.9"], vec![model.cached(&cache)]).unwrap_err();
    assert!(error.to_string().contains("temperature"), "{error}");
}

#[test]
fn models_that_fail_and_bad_recipes_are_told() {
    let folder = folder();
    let error = run(folder.path(), &[], vec![Scripted::fails().open()]).unwrap_err().to_string();
    assert!(error.contains("no pairs") && error.contains("the server is down"), "{error}");
    let refused = Scripted::refuses("status 401: no such key");
    let error = run(folder.path(), &["output_dir=b"], vec![refused.open()]).unwrap_err().to_string();
    assert!(error.contains("the model `teacher` refuses every request: status 401: no such key"), "{error}");
    // One prompt fails, the others have pairs.
    let rule = model(1);
    let flaky = Scripted::new(move |text| match last(text, "prompt") {
        "Sort a list." => Err(ChatError::BadRequest("too long".into())),
        _ => rule.answer(text),
    });
    let (outcome, fates, _) = run(folder.path(), &["output_dir=c"], vec![flaky.open()]).unwrap();
    assert_eq!((fates[0].fate, outcome.summary.n_pairs), (Fate::Dropped, 3));
    assert!(fates[0].reason.as_ref().unwrap().contains("too long"));

    for (overrides, expected) in [
        (&["n_examples=0"][..], "`n_examples` is 0"),
        (&["temperature=0"], "a rejected complement is written again as it was"),
        (&["min_score=1"], "missing setting `score_column`"),
        (&["score_column=score"], "missing setting `min_score`"),
        (&["keep={level = []}"], "an empty list for `level`"),
        (&["golden_pairs=nowhere.jsonl"], "nowhere.jsonl"),
    ] {
        let error = plan(folder.path(), RECIPE, overrides).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
    }
    let overrides = vec!["category_names={x = \"chemistry\"}".to_owned()];
    let config = PasConfig::from_toml(RECIPE, &folder.path().join("r.toml"), &overrides).unwrap();
    let error = PasInputs::load(&config, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("`category_names` is `chemistry`"), "{error}");
}
