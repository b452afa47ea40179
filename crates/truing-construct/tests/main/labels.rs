//! `truing label` with judges that answer by a rule: good ones, and each kind of bad one.

mod of_data;

use crate::scripted::Scripted;
use crate::setup;
use crate::setup::Cpu;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_ask::labels::{Summary, parse_label_set};
use truing_construct::label::{LabelConfig, LabelInputs, LabelOutcome, LabelPlan, LabelStage};
use truing_stages::{Ended, Recipe, RunError, Stage, StageError};
use truing_types::{ChatError, Silent};

pub(crate) const RECIPE: &str = r#"
stage = "label"
output_dir = "labels"
label_set = "set.toml"
n_votes = 1
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
const SET: &str = r#"
[[dimension]]
name = "ability"
label = [
    { name = "reasoning" },
    { name = "mathematics", synonyms = ["math"], parent = "reasoning" },
    { name = "logic", parent = "reasoning" },
    { name = "code" },
]
[[dimension]]
name = "language"
multiple = true
label = [{ name = "English" }, { name = "Python" }]
"#;
const FILES: [&str; 4] = ["labels.jsonl", "review.jsonl", "unlabelled.jsonl", "summary.json"];

/// Six prompts, `1 + n` by turns with `code n`, and what they are in `category`.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = |n: usize| match n % 2 {
        0 => json!({ "prompt": format!("1 + {n}?"), "category": "Math" }),
        _ => {
            json!({ "prompt": format!("code {n}"), "category": "code", "in": { "languages": ["English", "python"] } })
        }
    };
    let rows: String = (0..6).map(|n| format!("{}\n", row(n))).collect();
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    fs::write(folder.path().join("set.toml"), SET).unwrap();
    folder
}

fn plan(folder: &Path, recipe: &str, overrides: &[&str]) -> Result<(LabelPlan, LabelInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = LabelConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = LabelInputs::load(&config, &mut Silent)?;
    Ok((LabelPlan::resolve(config, &inputs)?, inputs))
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn run(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    judges: Vec<OpenChatModel>,
) -> Result<(Summary, Vec<Value>), StageError> {
    let (plan, inputs) = plan(folder, recipe, overrides)?;
    match LabelStage::run::<Cpu>(&plan, &inputs, setup::judged(judges, &mut Silent, &AtomicBool::new(false)))?
    {
        Ended::Finished(LabelOutcome { labels, summary }) => Ok((*summary, lines(&labels))),
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

/// The prompt that a judge is asked about.
fn asked(text: &str) -> &str {
    text.split("<prompt>\n").nth(1).unwrap().split("\n</prompt>").next().unwrap()
}

fn answer(text: &str) -> String {
    match asked(text).starts_with("code") {
        true => "```json\n{\"ability\": \"Code\", \"language\": [\"English\", \"Python\"]}\n```".into(),
        false => "I say: {\"ability\": \"math\", \"language\": \"English\"}".into(),
    }
}

pub(crate) fn good() -> Scripted {
    Scripted::new(|text| Ok(answer(text)))
}

#[test]
fn a_judge_s_labels_are_written_with_votes_and_sources() {
    let folder = folder();
    let (summary, rows) = run(folder.path(), RECIPE, &["n_votes=3"], vec![good().open()]).unwrap();
    let path = folder.path().join("prompts.jsonl");
    let expected = json!({
        "prompt": "code 1", "category": "code", "in": { "languages": ["English", "python"] },
        "labels": { "ability": "code", "language": ["English", "Python"] },
        "confidence": { "ability": 1.0, "language": 1.0 },
        "votes": { "ability": { "code": 3 }, "language": { "English": 3, "Python": 3 } },
        "labelled_by": { "ability": "judges", "language": "judges" },
        "origin": { "path": path, "line": 2 },
    });
    assert_eq!(rows[1], expected);
    assert_eq!((rows.len(), summary.n_prompts, summary.n_in_review, summary.n_unlabelled), (6, 6, 0, 0));
    assert_eq!((summary.n_combinations, summary.combinations[0].n), (2, 3));
    let counts: Vec<usize> = summary.dimensions[0].labels.iter().map(|label| label.n).collect();
    assert_eq!(counts, [0, 3, 0, 3]);
    let rare: Vec<(&str, Option<&str>)> =
        summary.dimensions[0].rare.iter().map(|rare| (rare.label.as_str(), rare.parent.as_deref())).collect();
    assert_eq!(rare, [("mathematics", Some("reasoning")), ("code", None)]);
    assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
    for file in FILES {
        assert!(folder.path().join("labels").join(file).is_file(), "{file}");
    }
    let set = fs::read_to_string(folder.path().join("labels/label_set.toml")).unwrap();
    let known = parse_label_set(SET, Path::new("set.toml")).unwrap();
    assert_eq!(parse_label_set(&set, Path::new("written.toml")).unwrap(), known);
}

#[test]
fn a_judge_that_refuses_everything_ends_the_run_with_its_words() {
    let folder = folder();
    let judge = Scripted::refuses("status 401: no such key");
    let recipe = format!("{RECIPE}{SECOND}");
    let error = run(folder.path(), &recipe, &["n_votes=3"], vec![judge.open(), good().open()]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the model `one` refuses every request: status 401: no such key"), "{text}");
    assert_eq!(judge.asked().len(), 1);
    assert!(!folder.path().join("labels/labels.jsonl").exists());
}

#[test]
fn neither_a_cut_reply_nor_a_thought_is_a_vote() {
    let folder = folder();
    let thought = Scripted::says("<think>{\"ability\": \"code\", \"language\": \"English\"}");
    let cut = Scripted::cut("{\"ability\": \"code\", \"language\": \"English\"}");
    for (judge, reason) in [(thought, "reasoning but no answer"), (cut, "cut at max_tokens")] {
        let recipe = format!("{RECIPE}{SECOND}");
        let (summary, rows) = run(folder.path(), &recipe, &[], vec![judge.open(), good().open()]).unwrap();
        // The other judge's vote is the only one.
        assert_eq!(rows[0]["labels"]["ability"], "mathematics", "{reason}");
        assert_eq!(rows[0]["confidence"]["ability"], 1.0, "{reason}");
        assert!(summary.warnings.iter().any(|warning| warning.contains(reason)), "{:?}", summary.warnings);
        fs::remove_dir_all(folder.path().join("labels")).unwrap();
    }
    let aloud =
        Scripted::new(|text| Ok(format!("<think>{{\"ability\": \"logic\"}}</think>{}", answer(text))));
    let (_, rows) = run(folder.path(), RECIPE, &[], vec![aloud.open()]).unwrap();
    assert_eq!(rows[1]["labels"]["ability"], "code");
}

#[test]
fn the_plan_tells_every_call_before_the_first() {
    let folder = folder();
    let judge = good();
    let (together, _) = plan(folder.path(), RECIPE, &["n_votes=2"]).unwrap();
    assert_eq!((together.n_calls, together.completion_tokens), (12, 12 * 300));
    run(folder.path(), RECIPE, &["n_votes=2"], vec![judge.open()]).unwrap();
    let bytes: usize = judge.asked().iter().map(String::len).sum();
    assert_eq!(together.prompt_tokens, (bytes as u64).div_ceil(4), "the estimate counts these very bytes");
    assert_eq!(judge.asked().len(), 12);
    fs::remove_dir_all(folder.path().join("labels")).unwrap();
    let judge = Scripted::new(|text| {
        let is_ability = text.contains("ability:");
        assert!(is_ability != text.contains("language:"), "one dimension at a time");
        Ok(if is_ability { "This is code.".into() } else { "language: Python".into() })
    });
    let (_, rows) = run(folder.path(), RECIPE, &["per_dimension=true"], vec![judge.open()]).unwrap();
    assert_eq!(judge.asked().len(), 12);
    assert!(rows.iter().all(|row| row["labels"] == json!({ "ability": "code", "language": ["Python"] })));
    let (one, _) = plan(folder.path(), RECIPE, &["dimensions=[\"Ability\"]", "per_dimension=true"]).unwrap();
    assert_eq!(one.n_calls, 6);
}

#[test]
fn a_run_that_is_broken_off_goes_on_and_asks_nothing_twice() {
    let overrides = ["n_votes=2"];
    let straight = folder();
    run(straight.path(), RECIPE, &overrides, vec![good().open()]).unwrap();
    let folder = folder();
    let cache = folder.path().join("c");
    let stop = Arc::new(AtomicBool::new(false));
    let (plan, inputs) = plan(folder.path(), RECIPE, &overrides).unwrap();
    // What is asked after the wish to stop is broken off, as every model that a stage asks does it.
    let interrupting = Scripted::new({
        let (stop, n) = (Arc::clone(&stop), Cell::new(0));
        move |text| {
            n.set(n.get() + 1);
            stop.store(n.get() >= 5, Ordering::Relaxed);
            if n.get() > 5 { Err(ChatError::BrokenOff) } else { Ok(answer(text)) }
        }
    });
    let outcome = LabelStage::run::<Cpu>(
        &plan,
        &inputs,
        setup::judged(vec![interrupting.cached(&cache)], &mut Silent, &stop),
    )
    .unwrap();
    assert!(matches!(outcome, Ended::Interrupted { .. }), "{outcome:?}");
    assert!(FILES.iter().all(|file| !folder.path().join("labels").join(file).exists()));
    let resumed = good();
    run(folder.path(), RECIPE, &overrides, vec![resumed.cached(&cache)]).unwrap();
    assert_eq!(resumed.asked().len(), 12 - 5, "five replies were known");
    let read = |folder: &TempDir, file: &str| {
        let text = fs::read_to_string(folder.path().join("labels").join(file)).unwrap();
        text.replace(&folder.path().to_string_lossy().into_owned(), "")
    };
    assert!(FILES.iter().all(|file| read(&straight, file) == read(&folder, file)));
}

/// The folder says what the labels were made from; another recipe or other data are refused, and nothing is asked.
#[test]
fn a_run_s_folder_is_its_own_and_continues_with_the_same_inputs_alone() {
    let folder = folder();
    let (run_folder, cache) = (folder.path().join("labels"), folder.path().join("c"));
    run(folder.path(), RECIPE, &[], vec![good().cached(&cache)]).unwrap();
    let inputs: Value = serde_json::from_slice(&fs::read(run_folder.join("inputs.json")).unwrap()).unwrap();
    let recorded = |role: &str| {
        let files = inputs["files"].as_array().unwrap();
        let file = files.iter().find(|file| file["role"] == role).unwrap();
        (file["path"].as_str().unwrap().to_owned(), file["blake3"].as_str().unwrap().to_owned())
    };
    for (role, name) in [("data", "prompts.jsonl"), ("label_set", "set.toml")] {
        let path = folder.path().join(name);
        let digest = truing_store::Digest::of_file(&path).unwrap().to_string();
        assert_eq!(recorded(role), (path.to_string_lossy().into_owned(), digest));
    }

    // What is made of the replies may change, and costs nothing.
    let asked = good();
    run(folder.path(), RECIPE, &["min_confidence=0.9", "min_count=2"], vec![asked.cached(&cache)]).unwrap();
    assert!(asked.asked().is_empty());
    let recipe = fs::read_to_string(run_folder.join("recipe.resolved.toml")).unwrap();
    assert!(recipe.contains("min_confidence = 0.9"), "{recipe}");
    let labels = fs::read(run_folder.join("labels.jsonl")).unwrap();

    let error = run(folder.path(), RECIPE, &["n_votes=3"], vec![asked.cached(&cache)]).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::RecipeChanged { keys }) if keys == &["n_votes"]),
        "{error}"
    );
    let prompts = folder.path().join("prompts.jsonl");
    let text = fs::read_to_string(&prompts).unwrap();
    fs::write(&prompts, text.replace("code 1", "code 7")).unwrap();
    let error = run(folder.path(), RECIPE, &[], vec![asked.cached(&cache)]).unwrap_err();
    let is_of = |role: &str, changed: &Path| {
        matches!(&error, StageError::Run(RunError::FileChanged { role: found, path })
            if found == role && path == changed)
    };
    assert!(is_of("data", &prompts), "{error}");
    fs::write(&prompts, text).unwrap();
    fs::write(folder.path().join("set.toml"), SET.replace("\"logic\"", "\"checks\"")).unwrap();
    let error = run(folder.path(), RECIPE, &[], vec![asked.cached(&cache)]).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::FileChanged { role, .. }) if role == "label_set"),
        "{error}"
    );
    fs::write(folder.path().join("set.toml"), SET).unwrap();

    let lock = truing_store::RunDirectory::open(&run_folder).unwrap();
    let error = run(folder.path(), RECIPE, &[], vec![asked.cached(&cache)]).unwrap_err().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
    drop(lock);
    assert!(asked.asked().is_empty(), "nobody was asked for a run that is refused");
    assert_eq!(fs::read(run_folder.join("labels.jsonl")).unwrap(), labels);

    // Killed before its first file, after its inputs, or while it wrote its recipe.
    for left in [&[][..], &["inputs.json"], &["inputs.json", ".recipe.resolved.toml.x.tmp"]] {
        let folder = self::folder();
        let killed = folder.path().join("labels");
        fs::create_dir(&killed).unwrap();
        for name in left.iter().chain(&[".lock"]) {
            fs::write(killed.join(name), "half").unwrap();
        }
        run(folder.path(), RECIPE, &[], vec![good().open()]).unwrap();
    }
}

#[test]
fn judges_that_disagree_are_in_doubt_and_in_review() {
    let folder = folder();
    let recipe = format!("{RECIPE}{SECOND}");
    let (summary, _) = run(folder.path(), &recipe, &[], vec![good().open(), good().open()]).unwrap();
    assert!(
        summary.agreement.iter().all(|pair| pair.agreement.share == 1.0 && pair.agreement.kappa == Some(1.0))
    );
    assert_eq!(summary.agreement.len(), 2);

    // The second calls everything logic, in Python: `mathematics` and `logic` are both `reasoning`, `code` and `logic`
    // nothing.
    let other = Scripted::says(r#"{"ability": "logic", "language": ["Python"]}"#);
    let (summary, rows) = run(folder.path(), &recipe, &[], vec![good().open(), other.open()]).unwrap();
    assert_eq!(
        (&rows[0]["labels"]["ability"], &rows[0]["confidence"]["ability"]),
        (&json!("reasoning"), &json!(1.0))
    );
    assert_eq!(
        (&rows[1]["labels"]["ability"], &rows[1]["confidence"]["ability"]),
        (&json!("logic"), &json!(0.5))
    );
    assert_eq!(rows[1]["labels"]["language"], json!(["English", "Python"]));
    assert_eq!(rows[1]["votes"]["ability"], json!({ "code": 1, "logic": 1 }));
    let ability = &summary.agreement[0].agreement;
    assert_eq!((ability.n, ability.share, ability.kappa), (6, 0.0, Some(0.0)));
    let review = lines(&folder.path().join("labels/review.jsonl"));
    assert_eq!(review.len(), summary.n_in_review);
    assert_eq!(review[0]["review"]["language"], "confidence 0.50 is below 0.6");
    assert_eq!(review[1]["review"]["ability"], "confidence 0.50 is below 0.6");

    // With more weight the first one wins.
    let overrides = ["judge.0.weight=3"];
    let (_, rows) = run(folder.path(), &recipe, &overrides, vec![good().open(), other.open()]).unwrap();
    assert_eq!(
        (&rows[1]["labels"]["ability"], &rows[1]["confidence"]["ability"]),
        (&json!("code"), &json!(0.75))
    );
}

#[test]
fn what_a_row_says_of_other_dimensions_stays() {
    let folder = folder();
    let row = json!({
        "prompt": "code 1", "completion": "x", "origin": { "a": 1 },
        "labels": { "mood": "calm", "ability": "dance" }, "confidence": { "mood": 0.5 },
    });
    fs::write(folder.path().join("prompts.jsonl"), format!("{row}\n")).unwrap();
    let (_, rows) = run(folder.path(), RECIPE, &[], vec![good().open()]).unwrap();
    let expected = json!({ "mood": "calm", "ability": "code", "language": ["English", "Python"] });
    assert_eq!((&rows[0]["labels"], &rows[0]["completion"]), (&expected, &json!("x")));
    assert_eq!(rows[0]["confidence"], json!({ "mood": 0.5, "ability": 1.0, "language": 1.0 }));
    assert_eq!(rows[0]["origin"]["line"], 1);
    assert_eq!(rows[0]["origin"].as_object().unwrap().len(), 2, "where the row came from, and nothing else");
    // Such a row can be given back as a correction, though the label set does not know all of it.
    let corrected = folder.path().join("corrected.jsonl");
    fs::write(&corrected, format!("{}\n", rows[0])).unwrap();
    let path = format!("corrections={}", corrected.display());
    let (_, again) = run(folder.path(), RECIPE, &[&path], vec![good().open()]).unwrap();
    assert_eq!((&again[0]["labels"], &again[0]["labelled_by"]["ability"]), (&expected, &json!("correction")));
}

#[test]
fn the_least_certain_row_is_reviewed_first() {
    let folder = folder();
    // Of four votes on `code 3` two are for code, on `code 5` three; everything else is certain.
    let n = Cell::new(0);
    let judge = Scripted::new(move |text| {
        n.set(n.get() + 1);
        let prompt = asked(text);
        let is_odd = prompt == "code 3" && n.get() % 4 < 2 || prompt == "code 5" && n.get() % 4 == 0;
        Ok(if is_odd { r#"{"ability": "dance", "language": "English"}"#.into() } else { answer(text) })
    });
    let overrides = ["n_votes=4", "min_confidence=0.8"];
    let (summary, _) = run(folder.path(), RECIPE, &overrides, vec![judge.open()]).unwrap();
    let review = lines(&folder.path().join("labels/review.jsonl"));
    let prompts: Vec<&str> = review.iter().map(|row| row["prompt"].as_str().unwrap()).collect();
    assert_eq!((prompts, summary.n_in_review), (vec!["code 3", "code 5"], 2));
    let unknown = &summary.dimensions[0].unknown_labels;
    assert_eq!((unknown.len(), unknown[0].text.as_str(), unknown[0].n), (1, "dance", 3));
    assert_eq!(summary.judges[0].n_unknown_labels, 3);
}

#[test]
fn judges_that_fail_or_answer_outside_the_set_leave_prompts_without_a_label_that_say_why() {
    let recipe = format!("{RECIPE}{SECOND}");
    let folder = folder();
    let (summary, rows) =
        run(folder.path(), &recipe, &[], vec![good().open(), Scripted::fails().open()]).unwrap();
    assert!(rows.iter().all(|row| row["confidence"]["ability"] == 1.0), "who failed has no vote");
    assert!(summary.warnings[0].starts_with("two: no reply could be parsed"), "{:?}", summary.warnings);

    let outside = Scripted::says(r#"{"ability": "dance", "language": ["English", "Elvish"]}"#);
    let overrides = ["max_failures_in_a_row=4"];
    let (summary, rows) =
        run(folder.path(), &recipe, &overrides, vec![outside.open(), Scripted::fails().open()]).unwrap();
    assert_eq!(rows[0]["labels"], json!({ "language": ["English"] }));
    assert_eq!(
        rows[0]["unlabelled"]["ability"],
        "one: `dance` is not a label; two: the model failed: the server is down"
    );
    let unlabelled = lines(&folder.path().join("labels/unlabelled.jsonl"));
    assert_eq!((unlabelled.len(), summary.n_unlabelled, summary.dimensions[0].n_unlabelled), (6, 6, 6));
    assert_eq!(unlabelled, rows);
    assert_eq!(summary.dimensions[1].unknown_labels[0].text, "elvish");

    for (judge, reason, max_calls) in
        [(Scripted::fails(), "the server is down", 4), (Scripted::says("lorem ipsum"), "without labels", 12)]
    {
        let folder = self::folder();
        let error = run(folder.path(), RECIPE, &overrides, vec![judge.open()]).unwrap_err().to_string();
        assert!(
            error.starts_with("none of 1 judges gave a single verdict") && error.contains(reason),
            "{error}"
        );
        assert!(judge.asked().len() <= max_calls, "{}", judge.asked().len());
        assert!(FILES.iter().all(|file| !folder.path().join("labels").join(file).exists()));
    }
}

#[test]
fn refusals_beside_answers_are_told_in_the_server_s_words_and_are_no_success() {
    let refuses_code = |n_of: usize| {
        let n = Cell::new(0);
        Scripted::new(move |text| {
            n.set(n.get() + 1);
            match n.get() % n_of {
                0 => Ok(answer(text)),
                _ => Err(ChatError::Failed("status 400: no such parameter".into())),
            }
        })
    };
    for (n_of, n_failed) in [(2, 3), (1, 0), (3, 4)] {
        let folder = folder();
        let (summary, _) = run(folder.path(), RECIPE, &[], vec![refuses_code(n_of).open()]).unwrap();
        assert_eq!(summary.judges[0].n_failed, n_failed);
        assert_eq!(summary.is_half_unanswered(), n_failed >= 3);
        let expected = format!(
            "one: the replies to {n_failed} of 6 requests could not be parsed: the model failed: status 400: \
             no such parameter ({n_failed})"
        );
        assert_eq!(summary.warnings.contains(&expected), n_failed > 0, "{:?}", summary.warnings);
    }
}

#[test]
fn replies_that_name_no_label_are_quoted_where_there_is_no_other_reason() {
    let folder = folder();
    let judge = Scripted::says("I cannot tell");
    let error = run(folder.path(), RECIPE, &["dimensions=[\"ability\"]"], vec![judge.open()]).unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("gave a single verdict: one: `I cannot tell` is not a label"), "{text}");
}

#[test]
fn an_unreadable_reply_is_a_ballot_without_a_label() {
    let folder = folder();
    let recipe = format!("{RECIPE}{SECOND}");
    let judges = vec![good().open(), Scripted::says("lorem ipsum").open()];
    let (summary, rows) = run(folder.path(), &recipe, &[], judges).unwrap();
    assert!(rows.iter().all(|row| row["confidence"]["ability"] == 0.5));
    assert_eq!((summary.judges[1].n_replies, summary.judges[1].n_failed, summary.n_in_review), (0, 6, 6));
}

#[test]
fn no_prompt_is_an_error_and_one_is_enough() {
    let folder = folder();
    for (text, expected) in [
        ("", "prompts.jsonl` holds no rows"),
        ("{\"prompt\": 3}\n", "`data` is without a prompt: expected at least one prompt"),
    ] {
        fs::write(folder.path().join("prompts.jsonl"), text).unwrap();
        let error = plan(folder.path(), RECIPE, &["on_bad_row=skip", "data.0.format=prompt"]).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"code 1\"}\n").unwrap();
    let (summary, rows) = run(folder.path(), RECIPE, &[], vec![good().open()]).unwrap();
    assert_eq!((rows.len(), summary.n_combinations), (1, 1));
    assert!(summary.warnings[0].starts_with("one judge with one vote"), "{:?}", summary.warnings);
}

#[test]
fn long_prompts_are_cut_and_counted() {
    let folder = folder();
    let judge = good();
    let (summary, rows) =
        run(folder.path(), RECIPE, &["max_prompt_characters=5"], vec![judge.open()]).unwrap();
    assert_eq!(
        (summary.n_cut, rows[1]["prompt"].as_str()),
        (6, Some("code 1")),
        "the row keeps the whole text"
    );
    let texts: BTreeSet<String> = judge.asked().iter().map(|text| asked(text).to_owned()).collect();
    assert!(texts.contains("code\n[1 characters are left out here]\n1"), "{texts:?}");
    assert!(
        summary.warnings.iter().any(|warning| warning.starts_with("6 prompts of more than 5 characters"))
    );
}

#[test]
fn recipes_that_make_no_sense_are_refused() {
    let folder = folder();
    let refused = |overrides: &[&str]| plan(folder.path(), RECIPE, overrides).unwrap_err().to_string();
    for (overrides, expected) in [
        (&["n_votes=0"][..], "`n_votes` is 0: expected at least 1"),
        (
            &["n_votes=2", "temperature=0"],
            "`temperature` is 0: expected above 0: several votes of a judge are sampled",
        ),
        (&["min_confidence=1.5"], "`min_confidence` is 1.5: expected a number from 0 to 1"),
        (&["judge.0.weight=0"], "`judge.weight` is 0: expected a number above 0"),
        (
            &["compare=true"],
            "missing setting `columns`: expected the columns with labels that `compare` compares with",
        ),
        (
            &["columns.mood=x"],
            "`columns` is `mood`: expected a dimension of the label set: ability, language",
        ),
        (
            &["dimensions=[\"mood\"]"],
            "`dimensions` is `mood`: expected a dimension of the label set: ability, language",
        ),
        (
            &["prompt=Sort {prompt}"],
            "`prompt` is missing the placeholder `{dimensions}`: expected `{prompt}`, `{dimensions}` and `{form}`",
        ),
        (
            &["columns.ability=in"],
            "prompts.jsonl:2: `in` is {\"languages\":[\"English\",\"python\"]}; expected one label",
        ),
    ] {
        let found = refused(overrides);
        assert!(found.ends_with(expected), "{overrides:?}: {found}");
    }
    assert!(refused(&["judge=[]"]).contains("`judge`"));
    let twice = format!("{RECIPE}{}", SECOND.replace("two", "one"));
    assert!(plan(folder.path(), &twice, &[]).unwrap_err().to_string().contains("a name of its own"));
}
