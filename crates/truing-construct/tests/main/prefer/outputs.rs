//! What a run writes, and who can read it.

use std::collections::BTreeMap;

use serde_json::json;
use truing_construct::prefer::{Fate, check_pairs};
use truing_data::{OnBadRow, SourceConfig, read_preferences};
use truing_types::PreferenceRow;

use super::judge::{Judge, quality, ratings};
use super::{RECIPE, folder, lines, run};

fn read(path: &std::path::Path) -> Vec<PreferenceRow> {
    let rows = read_preferences(&SourceConfig::new(path), OnBadRow::Error).unwrap();
    rows.map(|row| row.unwrap().0).collect()
}

#[test]
fn every_prompt_has_a_fate_and_pairs_can_be_trained_on() {
    let folder = folder();
    let judge = Judge::good();
    let outcome = run(folder.path(), RECIPE, &[], vec![judge.open()]).unwrap();
    assert_eq!(judge.asked().len(), 3 + 2 + 2 + 2 + 2, "one call for each response of comparable prompts");
    let fates: Vec<String> =
        lines(&outcome.fates).iter().map(|row| row["fate"].as_str().unwrap().to_owned()).collect();
    assert_eq!(fates, ["paired", "paired", "all_high", "all_low", "near_equal", "too_few"]);
    let expected = [Fate::Paired, Fate::Paired, Fate::AllHigh, Fate::AllLow, Fate::NearEqual, Fate::TooFew];
    let mut counts: BTreeMap<Fate, usize> = BTreeMap::new();
    expected.into_iter().for_each(|fate| *counts.entry(fate).or_default() += 1);
    assert_eq!(outcome.summary.fates, counts);
    assert_eq!(outcome.summary.left_out["duplicate"], 2);
    assert_eq!((outcome.summary.left_out["empty"], outcome.summary.n_pairs), (1, 2));

    let pairs = lines(&outcome.pairs);
    assert_eq!(pairs[0]["chosen"], json!([{"role": "assistant", "content": "quality 5"}]));
    assert_eq!(pairs[0]["rejected"], json!([{"role": "assistant", "content": "quality 2"}]));
    assert_eq!((&pairs[0]["chosen_rating"], &pairs[0]["rejected_rating"]), (&json!(5.0), &json!(2.0)));
    assert_eq!((&pairs[0]["category"], &pairs[0]["answer"]), (&json!("a"), &json!("x")));
    assert_eq!((&pairs[0]["dataset"], &pairs[0]["fate"]), (&json!("rows"), &json!("paired")));
    assert_eq!((&pairs[1]["chosen_model"], &pairs[1]["rejected_model"]), (&json!("m1"), &json!("m2")));
    let verdict = &pairs[1]["verdicts"][0];
    assert_eq!(
        (&verdict["judge"], &verdict["kind"], &verdict["response"]),
        (&json!("one"), &json!("absolute"), &json!(0))
    );
    assert_eq!(verdict["value"]["helpfulness"], 4);
    assert_eq!(verdict["raw_digest"].as_str().map(str::len), Some(64));

    let read_pairs = read(&outcome.pairs);
    assert_eq!(read_pairs[0].prompt.messages[0].content, "First?");
    assert_eq!(read_pairs[0].responses[0].messages[0].content, "quality 5");
    assert_eq!(read_pairs[0].responses[0].score, pairs[0]["chosen_score"].as_f64());
    assert_eq!(
        (read_pairs[0].margin, read_pairs[0].ranks.clone()),
        (pairs[0]["margin"].as_f64(), vec![0, 1])
    );

    let ranked = read(&outcome.ranked);
    let texts: Vec<&str> = ranked[0].responses.iter().map(|one| one.messages[0].content.as_str()).collect();
    assert_eq!(
        (texts, ranked[0].ranks.clone()),
        (vec!["quality 5", "quality 3", "quality 2"], vec![0, 1, 2])
    );
    assert_eq!(ranked[0].responses[1].aspects["honesty"], 3.0);

    let edits = lines(&outcome.edit_queue);
    assert_eq!((edits.len(), &edits[0]["response"]), (1, &json!("quality 2")));
    assert_eq!(edits[0]["critiques"][0]["reason"], "It says so.");
}

#[test]
fn the_common_scale_is_that_of_the_formula() {
    let folder = folder();
    let outcome = run(folder.path(), RECIPE, &[], vec![Judge::good().open()]).unwrap();
    // The ratings of all judged responses.
    let ratings = [2.0, 5.0, 3.0, 4.0, 1.0, 5.0, 5.0, 1.0, 2.0, 3.0, 3.0];
    let (mean, deviation) = truing_statistics::mean_and_deviation(&ratings);
    let scale = &outcome.measured.judges[0].scale;
    assert_eq!((scale.mean, scale.weight), (mean, 1.0));
    assert!((scale.deviation - deviation).abs() < 1e-12);
    let expected = 1.0 + 4.0 * truing_statistics::normal_probability((5.0 - mean) / deviation);
    let found = lines(&outcome.pairs)[0]["chosen_score"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-12, "{found} against {expected}");
}

#[test]
fn both_orders_are_asked_and_both_replies_are_kept() {
    let folder = folder();
    let recipe = RECIPE.replace("name = \"one\"", "name = \"one\"\nkind = \"pairwise\"");
    let judge = Judge::good();
    let outcome = run(folder.path(), &recipe, &["all_low=0"], vec![judge.open()]).unwrap();
    assert_eq!(judge.asked().len(), 2 * (3 + 1 + 1 + 1 + 1));
    let verdicts = lines(&folder.path().join("run/verdicts.jsonl"));
    let of_first: Vec<_> = verdicts.iter().filter(|row| row["source"]["line"] == 1).collect();
    let orders: Vec<_> = of_first.iter().map(|row| row["order"].clone()).collect();
    assert_eq!(
        orders,
        [json!([0, 1]), json!([1, 0]), json!([0, 2]), json!([2, 0]), json!([1, 2]), json!([2, 1])]
    );
    assert_eq!((&of_first[0]["value"], &of_first[0]["raw"]), (&json!("second"), &json!("[[B]]")));
    assert_eq!((&of_first[1]["value"], &of_first[1]["raw"]), (&json!("first"), &json!("[[A]]")));
    let report = &outcome.measured.judges[0];
    assert_eq!(
        (report.order_consistency, report.parse_rate, report.first_share),
        (Some(1.0), Some(1.0), Some(0.5))
    );
    // Without ratings nothing is all high or all low: prompts 1, 2 and 4 have pairs.
    let pairs = lines(&outcome.pairs);
    let prompts: Vec<&str> = pairs.iter().map(|row| row["prompt"][0]["content"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["First?", "Second?", "Low?"]);
    assert!(pairs[0].get("chosen_rating").is_none());
    assert_eq!(
        (&pairs[0]["chosen"][0]["content"], &pairs[0]["rejected"][0]["content"]),
        (&json!("quality 5"), &json!("quality 2"))
    );
}

#[test]
fn a_golden_judge_is_asked_where_there_is_a_reference() {
    let folder = folder();
    let recipe = RECIPE.replace("name = \"one\"", "name = \"one\"\nkind = \"golden\"");
    let judge = Judge::good();
    let outcome = run(folder.path(), &recipe, &[], vec![judge.open()]).unwrap();
    let asked = judge.asked();
    assert!(asked.len() == 3 && asked.iter().all(|text| text.contains("<reference>\nx\n</reference>")));
    assert_eq!(outcome.summary.n_pairs, 1);
    assert_eq!(lines(&outcome.pairs)[0]["verdicts"][1]["value"], 5.0);
    assert_eq!(outcome.summary.fates[&Fate::Unscored], 4);
}

#[test]
fn an_aspect_that_cannot_be_rated_is_in_no_mean() {
    let folder = folder();
    let judge = Judge::new(|question, _| {
        let reply = ratings(quality(question, "response"));
        let rating = quality(question, "response");
        Ok(reply.replace(&format!("\"truthfulness\": {rating}"), "\"truthfulness\": \"N/A\""))
    });
    let outcome = run(folder.path(), RECIPE, &[], vec![judge.open()]).unwrap();
    let report = &outcome.measured.judges[0];
    assert_eq!((report.n_not_applicable, report.n_scored, report.parse_rate), (11, 11, Some(1.0)));
    let pair = &lines(&outcome.pairs)[0];
    assert_eq!((&pair["chosen_rating"], &pair["rejected_rating"]), (&json!(5.0), &json!(2.0)));
    assert!(pair["verdicts"][0]["value"]["truthfulness"].is_null());
}

#[test]
fn a_response_without_a_verdict_is_in_no_pair() {
    let folder = folder();
    // The worst response of the first prompt and the best one of the second are never rated.
    let judge = Judge::new(|question, _| match quality(question, "response") {
        2 if question.contains("First?") => Ok("It is fine.".into()),
        4 => Ok("{\"helpfulness\": 4".into()),
        rating => Ok(ratings(rating)),
    });
    let outcome = run(folder.path(), RECIPE, &[], vec![judge.open()]).unwrap();
    let fates = lines(&outcome.fates);
    assert_eq!((&fates[0]["fate"], &fates[1]["fate"]), (&json!("paired"), &json!("unscored")));
    assert_eq!(fates[0]["scores"][0], json!(null));
    assert_eq!(lines(&outcome.pairs)[0]["rejected"][0]["content"], "quality 3");
    assert_eq!(outcome.measured.judges[0].n_scored, 9);
    let warnings = outcome.summary.warnings.join("\n");
    assert!(warnings.contains("82 % of the replies of `one` can be read"), "{warnings}");
    let verdicts = lines(&folder.path().join("run/verdicts.jsonl"));
    let problem = "replies without a verdict in the requested form";
    assert_eq!(verdicts.iter().filter(|row| row["problem"] == problem).count(), 2);
}

#[test]
fn a_pair_that_was_changed_is_found_by_the_check() {
    let folder = folder();
    let outcome = run(folder.path(), RECIPE, &[], vec![Judge::good().open()]).unwrap();
    let scales = outcome.measured.scales();
    assert_eq!(check_pairs(&outcome.pairs, &scales, 2.0).unwrap(), 2);
    let text = std::fs::read_to_string(&outcome.pairs).unwrap();
    let changed = text.replacen("\"helpfulness\":5", "\"helpfulness\":1", 1);
    assert_ne!(changed, text);
    std::fs::write(&outcome.pairs, changed).unwrap();
    let error = check_pairs(&outcome.pairs, &scales, 2.0).unwrap_err().to_string();
    assert!(error.contains("pairs.jsonl:1: the pair does not follow from its verdicts"), "{error}");
}
