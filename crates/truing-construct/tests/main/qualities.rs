//! `truing quality` with judges that answer by a rule: good ones, and each kind of bad one.

use crate::scripted::Scripted;
use crate::setup;
use crate::setup::Cpu;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_ask::quality::Summary;
use truing_construct::quality::{QualityConfig, QualityInputs, QualityOutcome, QualityPlan, QualityStage};
use truing_stages::{Ended, Recipe, RunError, Stage, StageError};
use truing_types::Silent;

pub(crate) const RECIPE: &str = r#"
stage = "quality"
output_dir = "scores"
n_anchors = 4
[[data]]
path = "prompts.jsonl"
[[judge]]
name = "one"
model = { server = { base_url = "http://127.0.0.1:9/v1", model = "m" } }
"#;
const SECOND: &str = r#"
[[judge]]
name = "two"
model = { server = { base_url = "http://127.0.0.1:9/v1", model = "n" } }
"#;

/// Two buckets: ten prompts of levels 0 to 9 for anchors, and three that are compared with all.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row =
        |level: usize, bucket: &str| format!("{{\"prompt\": \"level {level}\", \"bucket\": \"{bucket}\"}}\n");
    let rows: String =
        (0..10).map(|level| row(level, "large")).chain((0..3).map(|level| row(level, "small"))).collect();
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    folder
}

fn plan(folder: &Path, recipe: &str, overrides: &[&str]) -> Result<(QualityPlan, QualityInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = QualityConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = QualityInputs::load(&config, &mut Silent)?;
    Ok((QualityPlan::resolve(config, &inputs)?, inputs))
}

pub(crate) fn run(
    folder: &Path,
    recipe: &str,
    judges: Vec<OpenChatModel>,
) -> Result<(Summary, Vec<Value>), StageError> {
    let (plan, inputs) = plan(folder, recipe, &[])?;
    match QualityStage::run::<Cpu>(
        &plan,
        &inputs,
        setup::judged(judges, &mut Silent, &AtomicBool::new(false)),
    )? {
        Ended::Finished(QualityOutcome { scores, summary }) => {
            let text = fs::read_to_string(scores).unwrap();
            Ok((summary, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
        }
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

fn level(text: &str, task: &str) -> u32 {
    let start = format!("<{task}>\nlevel ");
    let digits = text.split(&start).nth(1).unwrap().split('\n').next().unwrap();
    digits.parse().unwrap()
}

fn verdicts(letter: &str) -> String {
    ["clarity", "practicality", "complexity", "novelty"]
        .map(|name| format!("{name}: [[{letter}]]\n"))
        .concat()
}

/// Prefers the higher level; levels next to each other are equal to it.
pub(crate) fn good() -> Scripted {
    Scripted::new(|text| {
        let (first, second) = (level(text, "prompt_a"), level(text, "prompt_b"));
        let letter = if first.abs_diff(second) <= 1 {
            "C"
        } else if first > second {
            "A"
        } else {
            "B"
        };
        Ok(format!("They differ.\n{}", verdicts(letter)))
    })
}

#[test]
fn a_good_judge_s_order_is_found() {
    let folder = folder();
    let (summary, scores) = run(folder.path(), RECIPE, vec![good().open()]).unwrap();
    assert_eq!((summary.n_prompts, summary.n_unscored, scores.len()), (13, 0, 13));
    let strengths: Vec<f64> =
        scores[..10].iter().map(|score| score["quality"]["strength"].as_f64().unwrap()).collect();
    let pairs = (0..10).flat_map(|high| (0..high).map(move |low| (low, high)));
    let n_in_order = pairs.filter(|&(low, high)| strengths[low] <= strengths[high]).count();
    assert!(n_in_order >= 41, "{n_in_order} of 45 in order: {strengths:?}");
    assert_eq!(scores[..10].iter().filter(|score| score["quality"]["is_anchor"] == true).count(), 4);
    assert!(
        scores[9]["quality"]["win_rate"].as_f64() > Some(0.8)
            && scores[0]["quality"]["win_rate"].as_f64() < Some(0.2)
    );
    assert!(scores[9]["quality"]["confidence"].as_f64() > scores[4]["quality"]["confidence"].as_f64());
    assert_eq!(
        scores[4]["quality"]["dimensions"]["clarity"]["standard_error"].as_f64().map(|error| error > 0.0),
        Some(true)
    );
    assert_eq!(
        (scores[12]["quality"]["bucket"].as_str(), scores[12]["quality"]["is_anchor"].as_bool()),
        (Some("small"), Some(false))
    );
    let judge = &summary.judges[0];
    assert_eq!((judge.order_agreement.unwrap().share, judge.first_share), (1.0, Some(0.5)));
    assert_eq!(summary.warnings.len(), 1, "only that one bucket is small: {:?}", summary.warnings);
    assert!(summary.warnings[0].starts_with("1 of 2 buckets"));
}

#[test]
fn with_many_anchors_the_best_and_the_worst_are_told_apart_from_the_middle() {
    let folder = folder();
    let rows: String = (0..60).map(|level| format!("{{\"prompt\": \"level {level}\"}}\n")).collect();
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    let recipe = RECIPE.replace("n_anchors = 4", "n_anchors = 30");
    let (summary, scores) = run(folder.path(), &recipe, vec![good().open()]).unwrap();
    let label = |level: usize| scores[level]["quality"]["label"].as_str().unwrap();
    assert_eq!((label(0), label(30), label(59)), ("worse", "equal", "better"));
    assert_eq!(summary.buckets[0].name, "(no label)");
    assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
}

#[test]
fn the_plan_tells_every_call_before_the_first() {
    let folder = folder();
    let judge = good();
    let (together, _) = plan(folder.path(), RECIPE, &[]).unwrap();
    // 6 samples against 4 anchors, 3 pairs, both orders.
    assert_eq!((together.n_comparisons, together.n_calls), (27, 54));
    assert!(together.prompt_tokens > 54 * 100 && together.completion_tokens == 54 * 400);
    run(folder.path(), RECIPE, vec![judge.open()]).unwrap();
    assert_eq!(judge.asked().len(), 54);
    let bytes: usize = judge.asked().iter().map(String::len).sum();
    assert_eq!(together.prompt_tokens, (bytes as u64).div_ceil(4), "the estimate counts these very bytes");
    fs::remove_dir_all(folder.path().join("scores")).unwrap();
    let (separate, inputs) = plan(folder.path(), RECIPE, &["calls=separate"]).unwrap();
    assert_eq!(separate.n_calls, 4 * 54);
    let judge = Scripted::says("So [[A]]");
    QualityStage::run::<Cpu>(
        &separate,
        &inputs,
        setup::judged(vec![judge.open()], &mut Silent, &AtomicBool::new(false)),
    )
    .unwrap();
    assert_eq!(judge.asked().len(), 4 * 54);
}

#[test]
fn a_run_that_is_broken_off_goes_on_and_asks_nothing_twice() {
    let straight = folder();
    run(straight.path(), RECIPE, vec![good().open()]).unwrap();
    let folder = folder();
    let cache = folder.path().join("c");
    let stop = Arc::new(AtomicBool::new(false));
    let (n, raised) = (Cell::new(0), Arc::clone(&stop));
    let rule = good();
    let judge = Scripted::new(move |text| {
        n.set(n.get() + 1);
        raised.store(n.get() >= 20, Ordering::Relaxed);
        use truing_types::{ChatModel, ChatRequest, Conversation, Message, Role, SamplingOptions};
        let conversation = Conversation { messages: vec![Message::new(Role::User, text)], tools: Vec::new() };
        let request = ChatRequest { conversation, sampling: SamplingOptions::default() };
        let reply = rule.clone().chat(&request, &mut |_| std::ops::ControlFlow::Continue(()));
        reply.map(|reply| reply.text)
    });
    let (plan, inputs) = plan(folder.path(), RECIPE, &[]).unwrap();
    let outcome = QualityStage::run::<Cpu>(
        &plan,
        &inputs,
        setup::judged(vec![judge.cached(&cache)], &mut Silent, &stop),
    )
    .unwrap();
    assert!(matches!(outcome, Ended::Interrupted { .. }), "{outcome:?}");
    assert!(!folder.path().join("scores/scores.jsonl").exists());
    run(folder.path(), RECIPE, vec![judge.cached(&cache)]).unwrap();
    let asked = judge.asked();
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "something was asked twice");
    let read = |folder: &TempDir| {
        let text = fs::read_to_string(folder.path().join("scores/scores.jsonl")).unwrap();
        text.replace(&folder.path().to_string_lossy().into_owned(), "")
    };
    assert_eq!(read(&straight), read(&folder));
}

#[test]
fn judges_that_agree_and_judges_that_do_not() {
    let folder = folder();
    let recipe = format!("{RECIPE}{SECOND}");
    let (summary, _) = run(folder.path(), &recipe, vec![good().open(), good().open()]).unwrap();
    assert_eq!(summary.agreement.len(), 4);
    assert!(
        summary.agreement.iter().all(|pair| pair.agreement.share == 1.0 && pair.agreement.kappa == Some(1.0))
    );
    assert_eq!(summary.agreement[0].agreement.n, 27);
    let (summary, scores) =
        run(folder.path(), &recipe, vec![good().open(), Scripted::says("hm").open()]).unwrap();
    assert!(summary.agreement.is_empty());
    assert_eq!(summary.n_unscored, 0);
    assert!(
        summary.warnings.iter().any(|warning| warning.starts_with("two: no verdict could be parsed")),
        "{:?}",
        summary.warnings
    );
    assert!(scores[9]["quality"]["win_rate"].as_f64() > Some(0.8), "the good one decides alone");
}

#[test]
fn a_judge_that_calls_everything_equal_is_named() {
    let folder = folder();
    let (summary, scores) =
        run(folder.path(), RECIPE, vec![Scripted::new(|_| Ok(verdicts("C"))).open()]).unwrap();
    let n = summary.judges[0].n_verdicts;
    let expected = format!("one does not separate the prompts: {n} of {n} verdicts are ties");
    assert_eq!((n, &summary.warnings[0]), (27 * 4, &expected));
    assert!(
        scores
            .iter()
            .all(|score| score["quality"]["win_rate"] == 0.5 && score["quality"]["label"] == "equal")
    );
}

#[test]
fn refusals_beside_verdicts_are_told_in_the_server_s_words() {
    let folder = folder();
    let (n, rule) = (Cell::new(0), good());
    let judge = Scripted::new(move |text| {
        n.set(n.get() + 1);
        let refused = || Err(truing_types::ChatError::Failed("status 400: no such parameter".into()));
        if n.get() % 4 == 0 { refused() } else { rule.answer(text) }
    });
    let (summary, _) = run(folder.path(), RECIPE, vec![judge.open()]).unwrap();
    let warning = &summary.warnings[0];
    assert!(warning.starts_with("one gave no verdict on "), "{warning}");
    assert!(warning.contains("status 400: no such parameter"), "{warning}");
    assert_eq!(summary.is_half_unanswered(), 2 * summary.judges[0].n_unscored >= 27 * 4);
}

#[test]
fn a_judge_that_likes_what_stands_first_is_named_and_decides_nothing() {
    let folder = folder();
    let (summary, scores) =
        run(folder.path(), RECIPE, vec![Scripted::new(|_| Ok(verdicts("A"))).open()]).unwrap();
    assert!(summary.warnings[0].starts_with("one has a position bias"), "{:?}", summary.warnings);
    let judge = &summary.judges[0];
    assert_eq!((judge.first_share, judge.order_agreement.unwrap().share), (Some(1.0), 0.0));
    assert!(scores.iter().all(|score| score["quality"]["win_rate"] == 0.5));
}

#[test]
fn judges_that_fail_or_talk_nonsense_are_an_error_that_says_so_and_cost_little() {
    for (judge, reason, max_calls) in [
        (Scripted::fails(), "the server is down", 5),
        (Scripted::says("lorem ipsum [[Q]]"), "without a verdict", 2 * 2 * 27),
    ] {
        let folder = folder();
        let (plan, inputs) = plan(folder.path(), RECIPE, &["max_failures_in_a_row=5"]).unwrap();
        let error = QualityStage::run::<Cpu>(
            &plan,
            &inputs,
            setup::judged(vec![judge.open()], &mut Silent, &AtomicBool::new(false)),
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("none of 1 judges gave a single verdict") && text.contains(reason),
            "{text}"
        );
        assert!(judge.asked().len() <= max_calls, "{}", judge.asked().len());
        assert!(!folder.path().join("scores/scores.jsonl").exists());
    }
}

/// The folder says what the scores were made from; another recipe or other data are refused, and nothing is asked.
#[test]
fn a_run_s_folder_is_its_own_and_continues_with_the_same_inputs_alone() {
    let folder = folder();
    let (run_folder, cache) = (folder.path().join("scores"), folder.path().join("c"));
    run(folder.path(), RECIPE, vec![good().cached(&cache)]).unwrap();
    let inputs: Value = serde_json::from_slice(&fs::read(run_folder.join("inputs.json")).unwrap()).unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    let digest = truing_store::Digest::of_file(&prompts).unwrap().to_string();
    assert_eq!(
        (&inputs["files"][0]["role"], &inputs["files"][0]["blake3"]),
        (&"data".into(), &digest.into())
    );
    let judge = good();
    run(folder.path(), RECIPE, vec![judge.cached(&cache)]).unwrap();
    let changed = RECIPE.replace("n_anchors = 4", "n_anchors = 3");
    let error = run(folder.path(), &changed, vec![judge.cached(&cache)]).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::RecipeChanged { keys }) if keys == &["n_anchors"]),
        "{error}"
    );
    let lock = truing_store::RunDirectory::open(&run_folder).unwrap();
    let error = run(folder.path(), RECIPE, vec![judge.cached(&cache)]).unwrap_err().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
    drop(lock);
    let text = fs::read_to_string(&prompts).unwrap();
    fs::write(&prompts, text.replace("level 9", "level 90")).unwrap();
    let error = run(folder.path(), RECIPE, vec![judge.cached(&cache)]).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::FileChanged { path, .. }) if *path == prompts),
        "{error}"
    );
    assert!(judge.asked().is_empty());
}

#[test]
fn a_judge_that_refuses_everything_ends_the_run_and_what_it_answered_is_paid_for_once() {
    let folder = folder();
    let cache = folder.path().join("c");
    let (n, rule) = (Cell::new(0), good());
    // The account runs dry after 20 replies.
    let judge = Scripted::new(move |text| {
        n.set(n.get() + 1);
        let refused = || Err(truing_types::ChatError::Refused("status 402: nothing left".into()));
        if n.get() == 21 { refused() } else { rule.answer(text) }
    });
    let (plan, inputs) = plan(folder.path(), RECIPE, &[]).unwrap();
    let stop = AtomicBool::new(false);
    let error = QualityStage::run::<Cpu>(
        &plan,
        &inputs,
        setup::judged(vec![judge.cached(&cache)], &mut Silent, &stop),
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the model `one` refuses every request: status 402: nothing left"), "{text}");
    assert_eq!(judge.asked().len(), 21);
    run(folder.path(), RECIPE, vec![judge.cached(&cache)]).unwrap();
    let asked = judge.asked();
    assert_eq!(asked.len(), 54 + 1, "only what was refused is asked again");
}

#[test]
fn a_reply_that_was_cut_is_no_verdict() {
    let folder = folder();
    let all = "clarity: [[A]]\npracticality: [[A]]\ncomplexity: [[A]]\nnovelty: [[A]]\n";
    let error = run(folder.path(), RECIPE, vec![Scripted::cut(all).open()]).unwrap_err().to_string();
    assert!(error.contains("cut at max_tokens"), "{error}");
    let thought = "<think>clarity: [[A]]\npracticality: [[A]]\ncomplexity: [[A]]\nnovelty: [[A]]</think>";
    let error = run(folder.path(), RECIPE, vec![Scripted::says(thought).open()]).unwrap_err().to_string();
    assert!(error.contains("reasoning but no answer"), "{error}");
}

#[test]
fn recipes_that_make_no_sense_are_refused() {
    let folder = folder();
    let refused = |overrides: &[&str]| plan(folder.path(), RECIPE, overrides).unwrap_err().to_string();
    assert!(refused(&["n_anchors=0"]).starts_with("`n_anchors` is 0"));
    assert!(refused(&["dimensions=[\"clarity\", \"clarity\"]"]).contains("at most once"));
    assert!(refused(&["prompt=Compare {first} and {second}"]).contains("`{dimensions}`"));
    assert!(refused(&["judge=[]"]).contains("`judge`"));
    assert!(refused(&["prior_deviation=0"]).starts_with("`prior_deviation` is 0"));
    assert!(refused(&["data.0.max_samples=1"]).contains("two prompts in one bucket"));
    let twice = format!("{RECIPE}{}", SECOND.replace("two", "one"));
    assert!(plan(folder.path(), &twice, &[]).unwrap_err().to_string().contains("a name of its own"));
}
