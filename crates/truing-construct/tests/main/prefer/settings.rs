//! Plans, and recipes and rows that cannot be used: every error comes before the first call.

use std::fs;

use truing_construct::prefer::PreferConfig;
use truing_run::Recipe;
use truing_run::recipe::Scope;
use truing_stages::StagePlan as _;
use truing_types::ChatError;

use super::judge::Judge;
use super::{RECIPE, SECOND, folder, plan, run};

#[test]
fn the_plan_tells_every_call_before_the_first() {
    let folder = folder();
    let recipe =
        format!("{RECIPE}{}", SECOND.replace("name = \"two\"", "name = \"two\"\nkind = \"pairwise\""));
    let (planned, _) = plan(folder.path(), &recipe, &["repeat_share=0.2"]).unwrap();
    assert_eq!((planned.n_prompts, planned.n_comparable, planned.n_responses), (6, 5, 11));
    // 11 responses and 2 repeats; 7 pairs in both orders and 3 repeats.
    let calls: Vec<usize> = planned.judges.iter().map(|judge| judge.calls.len()).collect();
    assert_eq!(calls, [11 + 2, 14 + 3]);
    let (one, two) = (Judge::good(), Judge::good());
    run(folder.path(), &recipe, &["repeat_share=0.2"], vec![one.open(), two.open()]).unwrap();
    for (judge, planned) in [&one, &two].into_iter().zip(&planned.judges) {
        let asked = judge.asked();
        assert_eq!(asked.len(), planned.calls.len());
        let bytes: u64 = asked.iter().map(|text| text.len() as u64).sum();
        assert_eq!(
            (planned.prompt_tokens, planned.completion_tokens),
            (bytes.div_ceil(4), asked.len() as u64 * 2 * 400)
        );
        assert_eq!(planned.max_calls, asked.len() as u64 * 2, "a reply may be asked for twice");
    }
    let names: Vec<String> = planned.table().into_iter().map(|row| row.name).collect();
    assert!(
        names.contains(&"one: calls".to_owned())
            && names.contains(&"two: calls (maximum, with retries)".to_owned())
    );
    assert_eq!(planned.summary(), "11 responses of 5 prompts, 30 calls of 2 judges");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_their_key() {
    let folder = folder();
    for (overrides, expected) in [
        (&["repeat_share=2"][..], "`repeat_share` is 2"),
        (&["max_attempts=0"], "`max_attempts` is 0"),
        (&["prior_deviation=0"], "`prior_deviation` is 0"),
        (&["min_gap=-1"], "`min_gap` is -1"),
        (&["all_low=5"], "`all_low` is 5 beside `all_high` = 4.5"),
        (&["judge=[]"], "missing setting `judge`"),
        (&["judge.0.weight=-1"], "`judge.weight` is -1"),
        (&["judge.0.max_pairs_per_prompt=0"], "`judge.max_pairs_per_prompt` is 0"),
        (&["judge.0.aspects=[]"], "each aspect at most once, and at least one"),
        (&["judge.0.aspects=[\"wit\"]"], "a text for it in `aspect_texts`"),
        (&["judge.0.aspects=[\"reason\"]"], "judges write their reason there"),
        (&["judge.0.aspect_texts={wit = \"it is funny\"}"], "names of `aspects`"),
        (&["judge.0.kind=golden", "judge.0.reference_column=gold"], "`gold`, which no row has"),
        (&["score_rater.name=one"], "`judge.name` is `one` twice"),
    ] {
        let error = plan(folder.path(), RECIPE, overrides).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
    }
    let unscored = "{\"prompt\": \"a\", \"responses\": [\"b\", \"c\"]}\n";
    fs::write(folder.path().join("rows.jsonl"), unscored).unwrap();
    let error = plan(folder.path(), RECIPE, &["score_rater={}"]).unwrap_err().to_string();
    assert!(error.contains("`score_rater` is a table, but no response has a `score`"), "{error}");
}

#[test]
fn rows_that_cannot_be_used_are_named_with_their_field() {
    let folder = folder();
    for (row, expected) in [
        (r#"{"prompt": "a"}"#, "rows.jsonl:1: `responses` is missing; expected a list of responses"),
        (r#"{"prompt": "a", "responses": "b"}"#, "`responses` is a string"),
        (r#"{"prompt": "a", "responses": ["b", 3]}"#, "`responses[1]` is a number"),
        (
            r#"{"prompt": "a", "responses": ["b", {"score": 3}]}"#,
            "`responses[1]` is an object without a text",
        ),
        (
            r#"{"prompt": "a", "responses": [{"content": "b", "score": "x"}, "c"]}"#,
            "`responses[0].score` is a string; expected a finite number",
        ),
        (
            r#"{"prompt": "a", "responses": [{"content": "b", "model": 1}, "c"]}"#,
            "`responses[0].model` is a number",
        ),
        (r#"{"responses": ["b", "c"]}"#, "prompt"),
        (r#"{"prompt": "a", "responses": ["b"]}"#, "1 prompts, none of which has two responses to compare"),
        ("", "holds no rows"),
    ] {
        fs::write(folder.path().join("rows.jsonl"), format!("{row}\n")).unwrap();
        let error = plan(folder.path(), RECIPE, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{row}: {error}");
    }
    let rows = "{\"prompt\": \"a\", \"responses\": [\"b\", \"c\"]}\n{\"prompt\": \"d\"}\n";
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let (planned, inputs) = plan(folder.path(), RECIPE, &["on_bad_row=skip"]).unwrap();
    assert_eq!((planned.n_prompts, inputs.report.skipped.len()), (1, 1));
    assert_eq!(inputs.report.skipped[0].field, "responses");
}

#[test]
fn a_judge_that_refuses_everything_ends_the_run_in_its_words() {
    let folder = folder();
    let refuses = Judge::new(|_, _| Err(ChatError::Refused("status 401: no such key".into())));
    let error = run(folder.path(), RECIPE, &[], vec![refuses.open()]).unwrap_err().to_string();
    assert!(error.contains("the model `one` refuses every request: status 401: no such key"), "{error}");
    assert_eq!(refuses.asked().len(), 1);
}

#[test]
fn what_a_resume_may_change_is_declared() {
    let folder = folder();
    let path = folder.path().join("recipe.toml");
    let decisive = |change: &str| {
        let changes = [change.to_owned()];
        PreferConfig::from_toml(RECIPE, &path, &changes).unwrap().decisive(Scope::Resume)
    };
    assert_eq!(PreferConfig::unknown_declarations(), Vec::<String>::new());
    let before = decisive("seed=0");
    for change in ["min_gap=1", "pairs=all", "judge.0.weight=2", "judge.0.model.cache=c", "output_dir=x"] {
        assert_eq!(decisive(change), before, "{change}");
    }
    for change in ["seed=9", "temperature=1", "repeat_share=0.5", "judge.0.kind=pairwise", "skip_fates=[]"] {
        assert_ne!(decisive(change), before, "{change}");
    }
}
