//! Several judges: what is measured of each, and what bad ones are worth.

use std::sync::atomic::{AtomicUsize, Ordering};

use truing_construct::prefer::PreferOutcome;
use truing_types::ChatError;

use super::judge::{Judge, good_reply, quality, ratings};
use super::{RECIPE, SECOND, folder, lines, run};

/// The good judge beside another one that compares.
fn beside_good(bad: &Judge) -> PreferOutcome {
    let folder = folder();
    let recipe =
        format!("{RECIPE}{}", SECOND.replace("name = \"two\"", "name = \"two\"\nkind = \"pairwise\""));
    run(folder.path(), &recipe, &[], vec![Judge::good().open(), bad.open()]).unwrap()
}

#[test]
fn a_judge_that_says_nothing_has_weight_0_and_is_warned_of() {
    let fails = Judge::new(|_, _| Err(ChatError::Failed("the server is down".into())));
    for (bad, expected) in [
        (fails, "`two` gave no verdict in 14 calls and has weight 0: the model failed: the server is down"),
        (Judge::says("[[C]]"), "`two` always says tie and has weight 0"),
        (Judge::says("[[A]]"), "`two` prefers no response in both orders and has weight 0"),
        (
            Judge::says("I cannot decide."),
            "`two` gave no verdict in 14 calls and has weight 0: replies without a verdict",
        ),
    ] {
        let outcome = beside_good(&bad);
        let weights: Vec<f64> = outcome.measured.judges.iter().map(|judge| judge.scale.weight).collect();
        assert_eq!(weights, [1.0, 0.0], "{expected}");
        let warnings = outcome.summary.warnings.join("\n");
        assert!(warnings.contains(expected), "{warnings}");
        assert_eq!(outcome.summary.n_pairs, 2, "{expected}");
    }
    let always_first = beside_good(&Judge::says("[[A]]"));
    let report = &always_first.measured.judges[1];
    assert_eq!(
        (report.order_consistency, report.first_share, report.tie_share),
        (Some(0.0), Some(1.0), Some(0.0))
    );
}

#[test]
fn a_bad_judge_alone_makes_no_pairs_and_the_run_says_why() {
    let rated_alike = Judge::new(|_, _| Ok(ratings(3)));
    let folder = folder();
    let outcome = run(folder.path(), RECIPE, &[], vec![rated_alike.open()]).unwrap();
    assert_eq!(outcome.summary.n_pairs, 0);
    assert!(lines(&outcome.pairs).is_empty() && lines(&outcome.fates).len() == 6);
    let warnings = outcome.summary.warnings.join("\n");
    assert!(warnings.contains("`one` gives every response the same score and has weight 0"), "{warnings}");
    assert!(warnings.contains("no pairs from 6 prompts: unscored 5, too_few 1"), "{warnings}");
    let nothing_applies = ratings(3).replace(": 3", ": \"N/A\"");
    let scores_nothing = Judge::new(move |_, _| Ok(nothing_applies.clone()));
    let here = format!("output_dir={}/nothing", folder.path().display());
    let outcome = run(folder.path(), RECIPE, &[&here], vec![scores_nothing.open()]).unwrap();
    assert_eq!((outcome.measured.judges[0].n_read, outcome.measured.judges[0].n_scored), (11, 0));
    let warnings = outcome.summary.warnings.join("\n");
    assert!(warnings.contains("`one` scores no response and has weight 0"), "{warnings}");
}

#[test]
fn a_judge_without_a_model_is_an_error_and_not_an_interruption() {
    let folder = folder();
    let error = run(folder.path(), RECIPE, &[], Vec::new()).unwrap_err().to_string();
    assert_eq!(error, "missing setting `judge.model`: expected a model for each [[judge]] table");
}

#[test]
fn weights_are_measured_or_given_and_sum_to_1() {
    // Both orders of the third prompt's pair contradict each other: 6 of 7 comparisons are consistent.
    let sometimes = Judge::new(|question, _| match question.contains("High?") {
        true => Ok("[[A]]".into()),
        false => Ok(good_reply(question)),
    });
    let outcome = beside_good(&sometimes);
    let [good, other] = &outcome.measured.judges[..] else { panic!("two judges") };
    assert!((other.order_consistency.unwrap() - 6.0 / 7.0).abs() < 1e-12);
    assert!((good.scale.weight - 7.0 / 13.0).abs() < 1e-12, "{}", good.scale.weight);
    assert!((other.scale.weight - 6.0 / 13.0).abs() < 1e-12);
    // Of 3 + 1 + 1 + 1 + 1 pairs both order all in the same way: the tie of the third is one for either.
    let agreement = &outcome.measured.agreement[0].agreement;
    assert_eq!((agreement.n, agreement.share, agreement.kappa), (7, 1.0, Some(1.0)));

    let folder = folder();
    let recipe = format!("{RECIPE}weight = 3{SECOND}");
    let models = vec![Judge::good().open(), Judge::good().open()];
    let outcome = run(folder.path(), &recipe, &[], models).unwrap();
    let weights: Vec<f64> = outcome.measured.judges.iter().map(|judge| judge.scale.weight).collect();
    assert_eq!(weights, [0.75, 0.25]);
}

#[test]
fn a_judge_that_disagrees_with_itself_is_measured_on_repeated_questions() {
    let folder = folder();
    // With another seed it gives other ratings to the first prompt.
    let fickle = Judge::new(|question, seed| {
        let rating = quality(question, "response");
        Ok(ratings(if seed > 0 && question.contains("First?") { 6 - rating } else { rating }))
    });
    let outcome = run(folder.path(), RECIPE, &["repeat_share=1"], vec![fickle.open()]).unwrap();
    let report = &outcome.measured.judges[0];
    assert_eq!((report.n_calls, report.n_repeated), (11, 11));
    // Of the first prompt's three ratings 2 and 5 change, 3 does not.
    assert!((report.self_agreement.unwrap() - 9.0 / 11.0).abs() < 1e-12, "{report:?}");
    assert_eq!(lines(&outcome.pairs)[0]["verdicts"].as_array().unwrap().len(), 3, "repeats are in no score");
}

#[test]
fn a_judge_that_loves_length_has_a_slope() {
    let folder = folder();
    let rows = "{\"prompt\": \"a?\", \"responses\": [\"quality 1\", \"quality 3 and a few more words\"]}\n\
                {\"prompt\": \"b?\", \"responses\": [\"quality 2 and a few more words\", \"quality 1\"]}\n";
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let outcome = run(folder.path(), RECIPE, &["all_low=0"], vec![Judge::good().open()]).unwrap();
    // Ratings 1, 3, 2, 1: mean 1.75, deviation 0.829. The mean difference of 1.5 over ln(30 / 9).
    let deviation = truing_statistics::mean_and_deviation(&[1.0, 3.0, 2.0, 1.0]).1;
    let expected = 1.5 / deviation / (30.0_f64 / 9.0).ln();
    let found = outcome.measured.judges[0].length_slope.unwrap();
    assert!((found - expected).abs() < 1e-9, "{found} against {expected}");
}

#[test]
fn the_scores_of_the_data_are_a_rater_without_calls() {
    let folder = folder();
    let recipe = "stage = \"prefer\"\noutput_dir = \"run\"\n[score_rater]\n[[data]]\npath = \"rows.jsonl\"\n";
    let outcome = run(folder.path(), recipe, &[], Vec::new()).unwrap();
    let pairs = lines(&outcome.pairs);
    assert_eq!((pairs.len(), &pairs[0]["chosen"][0]["content"]), (1, &"quality 4".into()));
    assert_eq!(
        pairs[0]["verdicts"],
        serde_json::json!([
            {"judge": "score", "kind": "score", "response": 0, "value": 0.5},
            {"judge": "score", "kind": "score", "response": 1, "value": 0.25},
        ])
    );
    // Scores 0.5 and 0.25 stand one deviation from their mean.
    let expected = 1.0 + 4.0 * truing_statistics::normal_probability(1.0);
    assert!((pairs[0]["chosen_score"].as_f64().unwrap() - expected).abs() < 1e-9);
}

#[test]
fn a_judge_that_keeps_failing_is_asked_no_more() {
    let folder = folder();
    let rows: String = (0..200)
        .map(|i| format!("{{\"prompt\": \"p{i}\", \"responses\": [\"quality 1\", \"quality 2\"]}}\n"))
        .collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let n_asked = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&n_asked);
    let fails = Judge::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        Err(ChatError::Failed("down".into()))
    });
    let outcome = run(folder.path(), RECIPE, &["max_failures_in_a_row=5"], vec![fails.open()]).unwrap();
    assert_eq!(n_asked.load(Ordering::SeqCst), 5);
    assert_eq!(outcome.measured.judges[0].unread["skipped after too many consecutive failures"], 395);
}
