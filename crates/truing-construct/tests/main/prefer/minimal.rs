//! Pairs that differ in one defect only.

use serde_json::json;
use truing_construct::prefer::check_minimal_pairs;
use truing_data::{OnBadRow, SourceConfig, read_preferences};
use truing_stages::StagePlan as _;

use super::judge::{Judge, quality};
use super::{RECIPE, folder, lines, plan, run};

const REWRITING: &str = r#"
[minimal_difference]
model = { server = { base_url = "http://127.0.0.1:9/v1", model = "rewriter" } }
"#;

fn recipe() -> String {
    format!("{}{REWRITING}", RECIPE.replace("name = \"one\"", "name = \"one\"\nkind = \"pairwise\""))
}

#[test]
fn a_copy_with_a_defect_is_kept_where_it_changed_little_and_is_worse() {
    let folder = folder();
    let judge = Judge::good();
    let rewriter = Judge::new(|question, _| {
        let copy = match quality(question, "response") {
            5 => "quality 1",
            4 => "quality 2 and a new ending that nobody asked for",
            _ => "quality 3",
        };
        Ok(format!("<rewritten>\n{copy}\n</rewritten>"))
    });
    let outcome = run(folder.path(), &recipe(), &[], vec![judge.open(), rewriter.open()]).unwrap();
    // Three prompts have pairs. Of the three copies one changed too much, and one is better than the original.
    assert_eq!(rewriter.asked().len(), 3);
    assert_eq!(judge.asked().len(), 14 + 2 * 2);
    let summary = outcome.summary.minimal_difference.unwrap();
    assert_eq!((summary.n_prompts, summary.n_pairs), (3, 1));
    assert_eq!(summary.dropped["edited more than `max_edit_share`"], 1);
    assert_eq!(summary.dropped["the judges do not prefer the original"], 1);
    assert!((summary.mean_edit_share.unwrap() - 1.0 / 9.0).abs() < 1e-12);

    let path = outcome.minimal_pairs.unwrap();
    let pair = &lines(&path)[0];
    assert_eq!(pair["chosen"], json!([{"role": "assistant", "content": "quality 5"}]));
    assert_eq!(pair["rejected"], json!([{"role": "assistant", "content": "quality 1"}]));
    assert_eq!((&pair["category"], pair["verdicts"].as_array().map(Vec::len)), (&json!("a"), Some(2)));
    assert_eq!(
        (&pair["verdicts"][0]["value"], &pair["verdicts"][1]["value"]),
        (&json!("first"), &json!("second"))
    );
    let mut rows = read_preferences(&SourceConfig::new(&path), OnBadRow::Error).unwrap();
    assert_eq!(rows.next().unwrap().unwrap().0.ranks, [0, 1]);

    let scales = outcome.measured.scales();
    assert_eq!(check_minimal_pairs(&path, &scales).unwrap(), 1);
    let text = std::fs::read_to_string(&path).unwrap().replace("\"value\":\"first\"", "\"value\":\"tie\"");
    std::fs::write(&path, text).unwrap();
    let error = check_minimal_pairs(&path, &scales).unwrap_err().to_string();
    assert!(error.contains("the judges do not prefer the original"), "{error}");
}

#[test]
fn a_model_that_cannot_rewrite_costs_no_judge_a_call_and_is_told() {
    let folder = folder();
    let (judge, stubborn) = (Judge::good(), Judge::says("I would rather not."));
    let outcome = run(folder.path(), &recipe(), &[], vec![judge.open(), stubborn.open()]).unwrap();
    assert_eq!((judge.asked().len(), stubborn.asked().len()), (14, 3 * 2));
    let expected =
        "no pair differs in one defect only: replies without a rewritten response in the requested form (3)";
    assert!(
        outcome.summary.warnings.iter().any(|warning| warning == expected),
        "{:?}",
        outcome.summary.warnings
    );
    assert_eq!(outcome.summary.n_pairs, 3, "the other pairs are there");
}

#[test]
fn a_missing_model_that_rewrites_is_an_error_and_not_an_interruption() {
    let folder = folder();
    let error = run(folder.path(), &recipe(), &[], vec![Judge::good().open()]).unwrap_err().to_string();
    assert!(error.starts_with("missing setting `minimal_difference.model`"), "{error}");
}

#[test]
fn the_plan_tells_the_most_calls_and_a_pairwise_judge_is_needed() {
    let folder = folder();
    let (planned, _) = plan(folder.path(), &recipe(), &[]).unwrap();
    assert!(
        planned.summary().ends_with("14 calls of 1 judges, and at most 30 calls for minimal differences")
    );
    let (once, _) = plan(folder.path(), &recipe(), &["max_attempts=1"]).unwrap();
    assert_eq!((once.minimal.n_calls, planned.minimal.n_calls), (15, 30));
    assert_eq!(2 * once.minimal.completion_tokens, planned.minimal.completion_tokens);
    assert_eq!(once.minimal.prompt_tokens, planned.minimal.prompt_tokens);
    for (overrides, expected) in [
        (&["judge.0.kind=absolute"][..], "a judge of the kind `pairwise` beside it"),
        (&["minimal_difference.defects=[]"], "missing setting `minimal_difference.defects`"),
        (&["minimal_difference.max_edit_share=2"], "`minimal_difference.max_edit_share` is 2"),
    ] {
        let error = plan(folder.path(), &recipe(), overrides).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
    }
}
