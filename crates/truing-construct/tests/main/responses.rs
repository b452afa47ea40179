//! `truing respond` with models that answer by a script.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_construct::respond::{
    Fate, PromptFate, RespondConfig, RespondInputs, RespondOutcome, RespondPlan, RespondStage,
};
use truing_data::{OnBadRow, SourceConfig, read_preferences, read_prompts, read_rows};
use truing_stages::{Ended, Machine, Recipe, Stage, StageError, StagePlan};
use truing_text::RenderOptions;
use truing_types::{ChatError, Silent};

use crate::replies::{Scripted, cut, says};
use crate::setup::judged;

const MACHINE: Machine = Machine {
    n_threads: 1,
    available_bytes: 1 << 30,
    resident_bytes: 1 << 20,
    gigaflops: None,
    gigabytes_per_second: None,
    n_ranks: 1,
};

pub(crate) const RECIPE: &str = r#"
stage = "respond"
output_dir = "out"
min_score = 1
round_prompts = 1
max_failures_in_a_row = 2
[[decoding]]
n = 3
max_new_tokens = 100
[[data]]
path = "prompts.jsonl"
[[model]]
name = "one"
price_per_million_completion_tokens = 1_000_000
server = { base_url = "http://127.0.0.1:9/v1", model = "m" }
[[reward]]
kind = { exact_match = {} }
"#;

const TWO: &str =
    "[[model]]\nname = \"two\"\nserver = { base_url = \"http://127.0.0.1:9/v1\", model = \"m2\" }\n";

const JUDGE: &str = "[judge.model.server]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"judge\"\n";

pub(crate) const ROWS: &str = r#"{"prompt": "2 + 2?", "answer": "4", "level": "easy"}
{"messages": [{"role": "user", "content": "3 + 3?"}], "answer": "6"}
{"prompt": "A letter?", "answer": "x", "id": "letter"}
"#;

const REFUSES: &str = "I'm sorry, but I can't help with that.";

pub(crate) const SCRIPT: &[(&str, &[&str])] = &[
    ("2 + 2?", &["It is 5.", "4", "4"]),
    ("3 + 3?", &["7", "8", "9"]),
    ("A letter?", &[REFUSES, "x", "a b c"]),
];

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompts.jsonl"), ROWS).unwrap();
    folder
}

pub(crate) fn plan(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
) -> Result<(RespondPlan, RespondInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = RespondConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = RespondInputs::load(&config, RenderOptions::default(), &mut Silent)?;
    Ok((RespondPlan::resolve(config, &inputs, &MACHINE)?, inputs))
}

fn run_until(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
    stop: &AtomicBool,
) -> Result<Ended<RespondOutcome>, StageError> {
    let (plan, inputs) = plan(folder, recipe, overrides)?;
    RespondStage::run::<truing_cpu::CpuEngine>(&plan, &inputs, judged(models, &mut Silent, stop))
}

pub(crate) fn run(
    folder: &Path,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
) -> Result<RespondOutcome, StageError> {
    let recipe = if models.len() == 2 { format!("{RECIPE}{TWO}") } else { RECIPE.to_owned() };
    let ended = run_until(folder, &recipe, overrides, models, &AtomicBool::new(false))?;
    Ok(ended.finished().expect("nobody stopped it"))
}

pub(crate) fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fates of the responses to each prompt.
fn fates(outcome: &RespondOutcome) -> Vec<Vec<Fate>> {
    let fate = |response: &Value| serde_json::from_value(response["fate"].clone()).unwrap();
    let of_row = |row: Value| row["responses"].as_array().unwrap().iter().map(fate).collect();
    lines(&outcome.candidates).into_iter().map(of_row).collect()
}

#[test]
fn every_response_has_a_fate_and_the_best_can_be_trained_on() {
    let folder = folder();
    let model = Scripted::of(SCRIPT);
    let outcome = run(folder.path(), &[], vec![model.open()]).unwrap();
    assert_eq!(
        fates(&outcome),
        [
            vec![Fate::NotSelected, Fate::Accepted, Fate::NearDuplicate],
            vec![Fate::NotSelected; 3],
            vec![Fate::NotSelected, Fate::Accepted, Fate::NotSelected],
        ]
    );
    let rows = lines(&outcome.candidates);
    assert_eq!((&rows[0]["level"], &rows[0]["fate"]), (&"easy".into(), &"accepted".into()));
    assert_eq!((&rows[1]["fate"], &rows[1]["source"]["line"]), (&"none_selected".into(), &2.into()));
    assert_eq!((&rows[2]["id"], &rows[2]["responses"][0]["is_refusal"]), (&"letter".into(), &true.into()));
    let duplicate = &rows[0]["responses"][2];
    assert_eq!((&duplicate["duplicate_of"], &duplicate["rouge_l"]), (&1.into(), &1.0.into()));
    assert!(duplicate.get("score").is_none(), "a near-duplicate is not scored: {duplicate}");
    let seeds: BTreeSet<u64> = model.asked().iter().map(|(_, seed)| *seed).collect();
    assert_eq!((model.asked().len(), seeds.len()), (9, 9), "every sample has a seed of its own");

    let responses = lines(&outcome.responses);
    let said = |row: &Value| row["messages"][1]["content"].as_str().unwrap().to_owned();
    assert_eq!(responses.iter().map(said).collect::<Vec<_>>(), ["4", "x"]);
    assert_eq!((&responses[0]["score"], &responses[0]["model"]), (&1.0.into(), &"one".into()));
    let mut trained = read_rows(&SourceConfig::new(&outcome.responses), OnBadRow::Error).unwrap();
    assert_eq!(trained.by_ref().collect::<Result<Vec<_>, _>>().unwrap().len(), 2);
    assert_eq!(trained.format().unwrap().name, "messages");

    let summary = outcome.summary;
    assert_eq!((summary.n_prompts, summary.n_candidates, summary.n_accepted), (3, 9, 2));
    assert_eq!((summary.prompts[&PromptFate::Accepted], summary.candidates[&Fate::NearDuplicate]), (2, 1));
    let sampler = &summary.samplers[0];
    assert_eq!((sampler.n_replies, sampler.n_tokens, sampler.mean_score), (9, 9, Some(2.0 / 8.0)));
    assert_eq!((sampler.accepted_share, sampler.refusal_share), (Some(2.0 / 9.0), Some(1.0 / 9.0)));
    assert_eq!(summary.cost, Some(9.0));
    assert!(!folder.path().join("out/prompts.jsonl").exists());
}

#[test]
fn prompts_in_the_range_of_pass_rates_are_written_and_candidates_are_rankings() {
    let folder = folder();
    let outcome = run(folder.path(), &["pass_rate=[0.3, 0.9]"], vec![Scripted::of(SCRIPT).open()]).unwrap();
    let prompts = outcome.prompts.unwrap();
    let rows = lines(&prompts);
    let rates: Vec<f64> = rows.iter().map(|row| row["pass_rate"].as_f64().unwrap()).collect();
    assert_eq!(rates, [2.0 / 3.0, 1.0 / 3.0], "the near-duplicate counts in the pass rate");
    assert_eq!(
        (&rows[0]["n_scored"], &rows[0]["answer"], &rows[1]["id"]),
        (&3.into(), &"4".into(), &"letter".into())
    );
    assert_eq!(outcome.summary.n_in_pass_rate, Some(2));
    let read = read_prompts(&SourceConfig::new(&prompts), OnBadRow::Error).unwrap();
    let read: Vec<_> = read.collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(read[0].0.prompt.messages[0].content, "2 + 2?");
    let mut ranked = read_preferences(&SourceConfig::new(&outcome.candidates), OnBadRow::Error).unwrap();
    let all = ranked.by_ref().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!((all.len(), ranked.format().unwrap().name), (3, "ranked"));
}

#[test]
fn other_selections_use_the_replies_that_are_kept() {
    let folder = folder();
    let cache = folder.path().join("replies");
    let model = Scripted::of(SCRIPT);
    run(folder.path(), &["pass_rate=[0, 1]"], vec![model.cached(&cache)]).unwrap();
    assert!(folder.path().join("out/prompts.jsonl").exists());
    let all = ["select=all", "min_score=", "max_refusal_share=0", "max_rouge_l=1"];
    let outcome = run(folder.path(), &all, vec![model.cached(&cache)]).unwrap();
    assert_eq!(outcome.summary.n_accepted, 8);
    assert_eq!(outcome.summary.candidates[&Fate::SurplusRefusal], 1);
    assert!(!folder.path().join("out/prompts.jsonl").exists(), "it is of another recipe");
    let well = ["max_prompt_score=0", "min_score="];
    let error = run(folder.path(), &well, vec![model.cached(&cache)]).unwrap_err().to_string();
    assert!(
        error.contains("no response is accepted") && error.contains("3 are answered well already"),
        "{error}"
    );
    assert_eq!(model.asked().len(), 9, "nothing was asked again");
    let error = run(folder.path(), &["seed=1"], vec![model.cached(&cache)]).unwrap_err().to_string();
    assert!(error.contains("seed changed"), "{error}");
}

/// The nth scripted reply to a prompt, counted from 0.
fn reply(text: &str, n: usize) -> &'static str {
    SCRIPT.iter().find(|(prompt, _)| *prompt == text).unwrap().1[n]
}

/// Wherever a run ends, the same command continues it: no reply is asked for twice, and the files are those of a run
/// that was not interrupted.
#[test]
fn a_run_that_ends_anywhere_continues_and_pays_for_nothing_twice() {
    let read = |folder: &TempDir| {
        ["candidates.jsonl", "responses.jsonl", "prompts.jsonl", "summary.json"].map(|name| {
            let text = fs::read_to_string(folder.path().join("out").join(name)).unwrap();
            text.replace(&*folder.path().to_string_lossy(), "")
        })
    };
    let overrides = ["pass_rate=[0, 1]"];
    let straight = folder();
    run(straight.path(), &overrides, vec![Scripted::of(SCRIPT).open()]).unwrap();
    for n_paid in 0..9 {
        let folder = folder();
        let cache = folder.path().join("replies");
        // Its account runs dry after so many replies.
        let left = Mutex::new(n_paid);
        let poor = Scripted::new(move |text, n_before| {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                return Err(ChatError::Refused("status 402: nothing left".into()));
            }
            *left -= 1;
            says(reply(text, n_before))
        });
        let error = run(folder.path(), &overrides, vec![poor.cached(&cache)]).unwrap_err().to_string();
        assert!(error.contains("the model `one` refuses every request: status 402"), "{error}");
        let mut paid = poor.asked();
        paid.truncate(n_paid);
        let earlier = paid.clone();
        let rest = Scripted::new(move |text, n_before| {
            let n_earlier = earlier.iter().filter(|(asked, _)| asked == text).count();
            says(reply(text, n_earlier + n_before))
        });
        run(folder.path(), &overrides, vec![rest.cached(&cache)]).unwrap();
        paid.extend(rest.asked());
        let distinct: BTreeSet<&(String, u64)> = paid.iter().collect();
        assert_eq!((paid.len(), distinct.len()), (9, 9), "something was asked twice");
        assert_eq!(read(&folder), read(&straight), "after {n_paid} replies");
    }
}

#[test]
fn a_stopped_run_writes_nothing_and_continues() {
    let folder = folder();
    let cache = folder.path().join("replies");
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let model = Scripted::new(move |text, n_before| {
        raised.store(text == "3 + 3?", Ordering::Relaxed);
        says(reply(text, n_before))
    });
    let ended = run_until(folder.path(), RECIPE, &[], vec![model.cached(&cache)], &stop).unwrap();
    assert!(matches!(ended, Ended::Interrupted { .. }), "{ended:?}");
    assert_eq!(model.asked().len(), 6, "the third round was not begun");
    assert!(!folder.path().join("out/candidates.jsonl").exists());
    let outcome = run(folder.path(), &[], vec![model.cached(&cache)]).unwrap();
    assert_eq!((outcome.summary.n_accepted, model.asked().len()), (2, 9));
}

#[test]
fn rounds_end_with_enough_responses_or_at_the_limit_of_samples() {
    let folder = folder();
    let model = Scripted::of(SCRIPT);
    let outcome = run(folder.path(), &["accept=1"], vec![model.open()]).unwrap();
    assert_eq!((model.asked().len(), outcome.summary.n_accepted, outcome.summary.n_sampled), (3, 1, 1));
    assert_eq!(outcome.summary.prompts[&PromptFate::NotSampled], 2);
    assert_eq!(lines(&outcome.candidates).len(), 3, "every prompt has a row");

    let here = format!("output_dir={}/many", folder.path().display());
    let many = [here.as_str(), "accept=2", "select=all", "min_score="];
    let outcome = run(folder.path(), &many, vec![Scripted::of(SCRIPT).open()]).unwrap();
    assert_eq!(outcome.summary.n_accepted, 2, "exactly as many as asked for");
    let outcome = run(folder.path(), &[&many[..], &["accept=9"]].concat(), vec![Scripted::of(SCRIPT).open()]);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.summary.n_accepted, 7, "all but a near-duplicate and a refusal");
    assert!(outcome.summary.warnings[0].contains("7 responses are accepted; `accept` is 9"));

    let model = Scripted::of(SCRIPT);
    let limit = [&many[..], &["accept=", "max_candidates=8"]].concat();
    let outcome = run(folder.path(), &limit, vec![model.open()]).unwrap();
    assert_eq!((model.asked().len(), outcome.summary.n_sampled), (6, 2), "8 samples are those of 2 prompts");
}

#[test]
fn a_model_that_keeps_failing_is_left_out_and_named() {
    let folder = folder();
    let down = Scripted::new(|_, _| Err(ChatError::Failed("the server is down".into())));
    let outcome = run(folder.path(), &[], vec![Scripted::of(SCRIPT).open(), down.open()]).unwrap();
    assert_eq!(down.asked().len(), 2, "after two failures in a row it is asked no more, in no round");
    let summary = outcome.summary;
    assert_eq!((summary.n_candidates, summary.candidates[&Fate::Failed], summary.n_accepted), (18, 9, 2));
    assert_eq!((summary.samplers[1].n_replies, summary.samplers[1].accepted_share), (0, None));
    assert!(summary.warnings[0].contains("the server is down (2)"), "{:?}", summary.warnings);
    assert_eq!((summary.n_not_asked, summary.failures.values().sum::<usize>()), (7, 2));
    assert_eq!(
        summary.warnings[1],
        "of 18 responses 7 were never requested, because their model kept failing"
    );
    let rows = lines(&outcome.candidates);
    assert_eq!(rows[0]["responses"][3]["reason"], "the model failed: the server is down");

    let here = format!("output_dir={}/none", folder.path().display());
    let error = run(folder.path(), &[&here], vec![down.open()]).unwrap_err().to_string();
    assert!(error.contains("no response is accepted: of 3 sampled prompts 3 have none"), "{error}");
    let failures = "failures: the model failed: the server is down; of 9 responses 7 were never requested";
    assert!(error.contains(failures), "{error}");
    assert_eq!(lines(&folder.path().join("none/candidates.jsonl")).len(), 3);
}

#[test]
fn what_was_cut_is_not_accepted_and_two_models_have_seeds_of_their_own() {
    let folder = folder();
    let (whole, short) = (Scripted::of(SCRIPT), Scripted::new(|_, _| cut("4")));
    let outcome = run(folder.path(), &[], vec![whole.open(), short.open()]).unwrap();
    assert_eq!(fates(&outcome)[0][3..], [Fate::Cut; 3]);
    assert_eq!(outcome.summary.candidates[&Fate::Cut], 9);
    assert!(outcome.summary.warnings.iter().any(|warning| warning.contains("9 of 18 responses were cut")));
    let all: BTreeSet<u64> = whole.asked().into_iter().chain(short.asked()).map(|(_, seed)| seed).collect();
    assert_eq!(all.len(), 18);
    let again = Scripted::of(SCRIPT);
    let here = format!("output_dir={}/again", folder.path().display());
    run(folder.path(), &[&here], vec![again.open()]).unwrap();
    assert_eq!(again.asked(), whole.asked(), "seeds follow from the recipe's seed and the prompt");
}

#[test]
fn a_judge_scores_and_one_that_refuses_ends_the_run() {
    let judged = RECIPE.replace("min_score = 1", "select = \"best\"");
    let judged = judged.split("[[reward]]").next().unwrap().to_owned() + JUDGE;
    let judge =
        Scripted::new(|text, _| says(if text.contains("It is 5.") { "Fine: [[10]]" } else { "[[4]]" }));
    let folder = folder();
    let no_stop = AtomicBool::new(false);
    let models = vec![Scripted::of(SCRIPT).open(), judge.open()];
    let outcome = run_until(folder.path(), &judged, &[], models, &no_stop).unwrap().finished().unwrap();
    let responses = lines(&outcome.responses);
    assert_eq!(
        (&responses[0]["messages"][1]["content"], &responses[0]["score"]),
        (&"It is 5.".into(), &1.0.into())
    );
    assert_eq!(judge.asked().len(), 8, "all but the near-duplicate");

    let here = format!("output_dir={}/refused", folder.path().display());
    let refuses = Scripted::new(|_, _| Err(ChatError::Refused("status 401: no such key".into())));
    let models = vec![Scripted::of(SCRIPT).open(), refuses.open()];
    let error = run_until(folder.path(), &judged, &[&here], models, &no_stop).unwrap_err().to_string();
    assert!(
        error.contains("status 401: no such key") && error.contains("the replies so far are kept"),
        "{error}"
    );
    assert_eq!(refuses.asked().len(), 1);
}

#[test]
fn the_plan_has_calls_tokens_and_the_cost_before_the_first_call() {
    let folder = folder();
    let recipe = format!("{RECIPE}{TWO}{JUDGE}");
    let (plan, _) = plan(folder.path(), &recipe, &["max_candidates=13"]).unwrap();
    assert_eq!((plan.n_prompts, plan.n_all_prompts, plan.config.candidates_per_prompt()), (2, 3, 6));
    let [one, two] = &plan.models[..] else { panic!("{:?}", plan.models) };
    // Two prompts of 6 bytes and 16 for the turn, three samples of each.
    assert_eq!((one.n_calls, one.prompt_tokens, one.completion_tokens), (6, 3 * 2 * 6, 6 * 100));
    assert_eq!((one.cost, two.cost, plan.cost()), (Some(600.0), None, Some(600.0)));
    assert_eq!(plan.judge_calls, 2 * 6 * 2);
    let rows: Vec<String> = plan.table().into_iter().map(|row| row.name).collect();
    assert!(rows.contains(&"cost of the samples (estimate)".to_owned()), "{rows:?}");
}

/// Rows without what the judge needs would be sampled, paid for, and never scored.
#[test]
fn a_row_without_a_column_that_the_judge_needs_is_refused_before_any_call() {
    let folder = folder();
    let recipe = format!("{RECIPE}{JUDGE}");
    let refused = |overrides: &[&str]| plan(folder.path(), &recipe, overrides).unwrap_err().to_string();
    let place = "prompts.jsonl:1: reward `judge`: the row has no ";
    for (protocol, column) in [
        ("judge.verdict.protocol=checklist", "`checklist`"),
        ("judge.verdict.protocol=pairwise", "`reference`"),
        ("judge.verdict.reference_column=gold", "`gold`"),
    ] {
        let error = refused(&["on_bad_row=error", protocol]);
        assert!(error.ends_with(&format!("{place}{column}")), "{error}");
        plan(folder.path(), &recipe, &[protocol, "judge.optional=true"]).unwrap();
    }
    plan(folder.path(), &recipe, &["judge.verdict.reference_column=answer"]).unwrap();

    let lists = "{\"prompt\": \"a\", \"answer\": \"4\", \"checklist\": [\"Short?\"]}\n\
                 {\"prompt\": \"b\", \"answer\": \"4\", \"checklist\": \"Short?\"}\n";
    fs::write(folder.path().join("lists.jsonl"), lists).unwrap();
    let both =
        ["judge.verdict.protocol=checklist", "data=[{path = \"prompts.jsonl\"}, {path = \"lists.jsonl\"}]"];
    let meant = [&both[..], &["on_bad_row=skip", "judge.sources=[\"lists.jsonl\"]"]].concat();
    let (_, inputs) = plan(folder.path(), &recipe, &meant).unwrap();
    assert_eq!((inputs.prompts.len(), inputs.report.skipped.len()), (4, 1));
    let error = refused(&[&both[..], &["on_bad_row=error", "judge.sources=[\"lists.jsonl\"]"]].concat());
    assert!(
        error.contains("lists.jsonl:2: reward `judge`: `checklist` is \"Short?\", expected a list"),
        "{error}"
    );
}

#[test]
fn bad_rows_and_rewards_that_fit_no_row_are_refused_before_any_call() {
    let folder = folder();
    let refused = |overrides: &[&str]| plan(folder.path(), RECIPE, overrides).unwrap_err().to_string();
    let sources = "reward=[{kind = {exact_match = {}}, sources = [\"other.jsonl\"]}]";
    let error = refused(&[sources]);
    assert!(
        error.starts_with("`reward.sources` is other.jsonl: expected the name of a file of `data`"),
        "{error}"
    );
    let prompts = folder.path().join("prompts.jsonl");
    fs::write(&prompts, "{\"prompt\": \"a\", \"instruction_id_list\": [\"no:such\"], \"kwargs\": [{}]}\n")
        .unwrap();
    let error = refused(&["reward=[{kind = {ifeval = {}}}]"]);
    assert!(error.contains("prompts.jsonl:1: reward `ifeval`: "), "{error}");
    fs::write(&prompts, "{\"prompt\": \"a\", \"answer\": \"4\"}\n{\"x\": 1}\n").unwrap();
    assert!(refused(&["on_bad_row=error"]).contains("prompts.jsonl:2"));
    let model = Scripted::new(|_, n_before| says(["4", "5", "6"][n_before]));
    let outcome = run(folder.path(), &["on_bad_row=skip"], vec![model.open()]).unwrap();
    assert_eq!(outcome.summary.n_prompts, 1);
    assert_eq!(lines(&folder.path().join("out/skipped.jsonl"))[0]["line"], 2);
    fs::write(&prompts, "\n").unwrap();
    assert!(refused(&[]).contains("holds no rows"));
}
