//! `ability = "constraints"`.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{MODELS, all_yes, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "constraints"
output_dir = "built"
keep_columns = ["row.id", "prompt", "language"]
[constraints]
groups = ["position", "structure"]
max_constraints = 3
[[data]]
path = "prompts.jsonl"
"#;
const REPLIES: &str = include_str!("fixtures/constraints.json");

/// Phrases that a response may have to begin with, as the type has them.
const FIRST_PHRASES: [&str; 8] = [
    "Here is what I suggest.",
    "Let us look at this together.",
    "Good question.",
    "In one sentence:",
    "我的看法如下。",
    "我们一起来看。",
    "这是个好问题。",
    "用一句话说：",
];
/// Phrases that a response may have to end with.
const LAST_PHRASES: [&str; 8] = [
    "That is the whole story.",
    "Ask me if anything is unclear.",
    "Now it is your turn.",
    "More on this another day.",
    "以上就是全部内容。",
    "如有疑问请再问我。",
    "接下来就看你的了。",
    "其余的改日再谈。",
];
const POSTSCRIPTS: [&str; 4] = ["P.S.", "P.P.S", "附：", "又及："];

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = |(id, reply): (usize, Value)| json!({"prompt": reply["prompt"], "row": {"id": id}});
    let rows = replies().into_iter().enumerate().map(|reply| row(reply).to_string() + "\n");
    fs::write(folder.path().join("prompts.jsonl"), rows.collect::<String>()).unwrap();
    folder
}

fn replies() -> Vec<Value> {
    serde_json::from_str(REPLIES).unwrap()
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

/// What a strong model replies to a prompt: the recorded response, with what the constraints ask for.
fn respond(prompt: &str) -> String {
    let replies = replies();
    let reply = replies.iter().find(|reply| prompt.contains(reply["prompt"].as_str().unwrap())).unwrap();
    let mut response = reply["response"].as_str().unwrap().to_owned();
    if let Some(phrase) = FIRST_PHRASES.iter().find(|phrase| prompt.contains(**phrase)) {
        response = format!("{phrase} {response}");
    }
    if let Some(phrase) = LAST_PHRASES.iter().find(|phrase| prompt.contains(**phrase)) {
        response = format!("{response} {phrase}");
    }
    if let Some(marker) = POSTSCRIPTS.iter().find(|marker| prompt.contains(**marker)) {
        response = format!("{response}\n{marker} Good luck.");
    }
    if prompt.contains("double quotation mark") || prompt.contains("双引号") {
        response = format!("\"{response}\"");
    }
    response
}

/// Adds the constraints in their order, without numbers, and answers.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        if !text.contains("<constraints>") {
            return Ok(respond(text));
        }
        let sentences = last(text, "constraints").lines().map(|line| line.split_once(". ").unwrap().1);
        let sentences = sentences.collect::<Vec<_>>().join(" ");
        Ok(format!("Here it is:\n<prompt>\n{}\n\n{sentences}\n</prompt>", last(text, "prompt")))
    })
}

/// Finds everything in order.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| Ok(all_yes(n_questions(text))))
}

/// How many verdicts a question asks for.
fn n_questions(text: &str) -> usize {
    match text.split_once("Questions:\n") {
        Some((_, list)) => list.lines().take_while(|line| !line.is_empty()).count(),
        None => last(text, "constraints").lines().count() + 1,
    }
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let built = super::run(folder.path(), &recipe(), vec![writer().open(), checker().open()]).unwrap();
    let summary = &built.outcome.summary;
    let n = replies().len();
    assert_eq!((summary.n_units, summary.n_begun, built.fates.len()), (n, n, n));
    assert!(summary.recheck.share.unwrap() >= 0.95, "{summary:?}");
    assert!(summary.n_kept as f64 >= 0.85 * n as f64, "{:?}", summary.dropped);
    assert_eq!((built.rows.len(), built.prompts.len()), (summary.n_rows, summary.n_prompts));
    assert_eq!(summary.n_rows, summary.n_kept, "every prompt has a response");
    let recheck = summary.recheck;
    assert!(recheck.n_with_response >= summary.n_rows, "{recheck:?}");
    assert!(recheck.share_with_response.unwrap() >= 0.95, "{recheck:?}");
    let row = &built.rows[0];
    assert_eq!((row["ability"].as_str(), row["language"].as_str()), (Some("constraints"), Some("en")));
    assert_eq!(row["messages"][1]["role"], "assistant");
    assert_eq!((&row["row.id"], row.get("prompt")), (&json!(0), None), "kept, but no second prompt");
    let prompt = &built.prompts[0];
    let ids = prompt["instruction_id_list"].as_array().unwrap();
    assert!(!ids.is_empty(), "`with_rule` gives every prompt a rule");
    assert_eq!(ids.len(), prompt["kwargs"].as_array().unwrap().len());
    let n_constraints = prompt["constraints"].as_array().unwrap().len();
    assert_eq!(n_constraints, ids.len() + prompt["checklist"].as_array().unwrap().len());
    let kinds: BTreeSet<&str> = summary.coverage.kinds.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds.len(), 8, "four types of position, four of structure: {kinds:?}");
    assert!(summary.coverage.covered_share.unwrap() >= 0.75, "{:?}", summary.coverage);
}

#[test]
fn the_plan_counts_every_call_and_without_rephrasing_sentences_are_appended() {
    let folder = folder();
    let (plan, _) = super::plan(folder.path(), &recipe(), &["constraints.responses=1"]).unwrap();
    let n = replies().len() as u64;
    let of = |step: &str| plan.calls.iter().find(|one| one.step == step).map_or(0, |one| one.max_calls);
    assert_eq!((of("adding constraints"), of("validating prompts"), of("answering")), (n, n, n));
    let (n_calls, max_calls) = plan.n_calls();
    assert!(n_calls == max_calls && max_calls == 3 * n + of("checking responses"));
    assert!(plan.prompt_tokens > 0 && plan.completion_tokens == max_calls * 2048);

    let recipe =
        recipe().replace("max_constraints = 3", "max_constraints = 3\nrephrase = false\nvalidate = false");
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe, vec![writer.open(), checker.open()]).unwrap();
    assert!(writer.asked().iter().all(|text| !text.contains("<constraints>")));
    for row in &built.prompts {
        let prompt = row["prompt"].as_str().unwrap();
        let seed = row["seed_prompt"].as_str().unwrap();
        assert!(prompt.starts_with(seed), "{prompt}");
        for constraint in row["constraints"].as_array().unwrap() {
            assert!(prompt.contains(constraint["text"].as_str().unwrap()), "{prompt}");
        }
    }
}

#[test]
fn prompts_that_the_checker_rejects_are_dropped_and_responses_that_break_a_rule_are_not_used() {
    let folder = folder();
    // Of the first question about each prompt the last verdict is no: the constraints do not suit the task.
    let strict = Scripted::new(|text| {
        let yes = all_yes(n_questions(text));
        let is_validation = !text.contains("Questions:\n") && text.contains("Why do cats purr?");
        Ok(if is_validation { yes.replace("YES]]", "NO]]") } else { yes })
    });
    let rule = writer();
    let stubborn = Scripted::new(move |text| match text.contains("<constraints>") {
        true => rule.answer(text),
        false => Ok("No.".into()),
    });
    let built = super::run(folder.path(), &recipe(), vec![stubborn.open(), strict.open()]).unwrap();
    let fate = &built.fates[0];
    assert_eq!((fate.fate.as_str(), fate.step.as_deref()), ("dropped", Some("validation")));
    assert_eq!(fate.reason.as_deref(), Some("the checker finds that the constraints do not suit the task"));
    let summary = &built.outcome.summary;
    assert_eq!((summary.n_rows, built.outcome.rows.as_ref()), (0, None), "no response follows its rule");
    let recheck = summary.recheck;
    assert!(recheck.n_passed > 0, "their prompts pass: {recheck:?}");
    assert_eq!((recheck.n_with_response, recheck.share_with_response), (0, None));
    let reasons: Vec<(&str, usize)> =
        summary.without_response.iter().map(|(reason, n)| (reason.as_str(), *n)).collect();
    assert_eq!(reasons, [("no response follows every rule", summary.n_prompts)]);
    assert_eq!(built.fates[1].detail.as_deref(), Some("no response follows every rule"));
}

#[test]
fn seeds_that_cannot_be_used_and_bad_settings_are_told() {
    let folder = folder();
    let rows = [
        json!({"prompt": "Name three trees."}),
        json!({"prompt": "name  three trees."}),
        json!({"messages": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"},
        ]}),
    ];
    let rows = rows.map(|row| row.to_string() + "\n").concat();
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    let (plan, _) = super::plan(folder.path(), &recipe(), &[]).unwrap();
    let reasons: Vec<Option<&str>> =
        plan.job.units().iter().map(|unit| unit.dropped.as_ref().map(|one| one.reason.as_str())).collect();
    let expected = [None, Some("repeats an earlier seed row"), Some("not a single turn of a user")];
    assert_eq!(reasons, expected);
    for (overrides, expected) in [
        (&["ability=constraint"][..], "`ability` is `constraint`: expected one of `constraints`"),
        (&["n_rows=0"], "`n_rows` is 0"),
        (&["max_template_share=2"], "`max_template_share` is 2"),
        (&["near_duplicate_threshold=0"], "`near_duplicate_threshold` is 0"),
        (&["reversal.max_rounds=2"], "`reversal` is given: expected no such table"),
        (&["constraints.exclude=[\"x\"]"], "`constraints.exclude` is `x`"),
        (&["max_prompt_characters=5"], "none of which can be used"),
    ] {
        let error = super::plan(folder.path(), &recipe(), overrides).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
    }
    let record: Map<String, Value> = Map::from_iter([("constraints".to_owned(), json!("all"))]);
    assert!(plan.job.recheck(&record).unwrap_err().contains("`constraints` cannot be read"));
}
