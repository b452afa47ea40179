//! Tests of `outcome.rs`.

use super::*;
use crate::run_record::MetricsRow;
use truing_eval::pipeline::GradedAnswer;
use truing_eval::reward::{RewardDiagnostics, RewardEvaluation, SourceDiagnostics};

fn stage(kind: &str, rows: &[(u64, &[(&str, f64)])]) -> StageRecord {
    let row = |&(step, values): &(u64, &[(&str, f64)])| MetricsRow {
        step,
        values: values.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
    };
    StageRecord { kind: kind.into(), metrics: rows.iter().map(row).collect(), ..StageRecord::default() }
}

fn check(outcomes: &[Outcome], expected: &[(&str, Verdict)]) {
    let found: Vec<(&str, Verdict)> =
        outcomes.iter().map(|one| (one.measure.as_str(), one.verdict())).collect();
    assert_eq!(found, expected);
}

#[test]
fn fine_tuning_is_judged_by_the_same_samples() {
    let scores = |step, shift: f64| HeldOutScores {
        step,
        measure: HeldOutScores::LOSS.into(),
        values: (0..30)
            .map(|i| Some(2.0 + 0.1 * f64::from(i) + shift * (1.0 + 0.02 * f64::from(i))))
            .collect(),
        weights: (0..30).map(|i| 10.0 + f64::from(i)).collect(),
    };
    let with = |shift| StageRecord { held_out: vec![scores(0, 0.0), scores(40, shift)], ..stage("sft", &[]) };
    check(&of_stage(&with(-0.5)), &[("held-out loss", Verdict::Better)]);
    check(&of_stage(&with(0.5)), &[("held-out loss", Verdict::Worse)]);
    check(&of_stage(&with(0.0)), &[("held-out loss", Verdict::NoSpread)]);
    assert_eq!(of_stage(&with(0.0))[0].words(), "no interval: all differences are equal");
    let bare = stage("sft", &[(0, &[("eval_loss", 2.0)]), (40, &[("eval_loss", 1.0)])]);
    check(&of_stage(&bare), &[("held-out loss", Verdict::NoInterval)]);
    assert_eq!((of_stage(&bare)[0].class(), of_stage(&bare)[0].change_text().as_str()), ("", "−1.000"));
}

#[test]
fn twelve_noisy_steps_show_nothing() {
    let rewards = [0.2, 0.5, 0.3, 0.6, 0.2, 0.4, 0.6, 0.3, 0.5, 0.2, 0.6, 0.45];
    let rows: Vec<(u64, Vec<(&str, f64)>)> =
        rewards.iter().enumerate().map(|(i, &value)| (i as u64 + 1, vec![("reward", value)])).collect();
    let rows: Vec<(u64, &[(&str, f64)])> = rows.iter().map(|(step, values)| (*step, &values[..])).collect();
    // Its last step has more than twice the reward of its first.
    let found = of_stage(&stage("grpo", &rows));
    check(&found, &[("training reward", Verdict::NotShown)]);
    assert_eq!(found[0].class(), "");
    check(&of_stage(&stage("grpo", &rows[..4])), &[]);
}

#[test]
fn every_kind_of_stage_has_an_answer() {
    let n = ("eval_samples", 200.0);
    let dpo = stage(
        "dpo",
        &[(0, &[("eval_rewards/accuracies", 0.0), n]), (9, &[("eval_rewards/accuracies", 0.7), n])],
    );
    check(&of_stage(&dpo), &[("held-out preference accuracy", Verdict::Better)]);
    assert_eq!(of_stage(&dpo)[0].before_text(), "50.0 % (chance)");
    let embed = stage("embed", &[(0, &[("eval_accuracy", 0.70), n]), (9, &[("eval_accuracy", 0.72), n])]);
    check(&of_stage(&embed), &[("held-out triplet accuracy", Verdict::NotShown)]);
    let policy = stage(
        "grpo",
        &[
            (0, &[("eval_reward", 0.3), ("eval_pass_rate", 0.3), n]),
            (9, &[("eval_reward", 0.6), ("eval_pass_rate", 0.6), n]),
        ],
    );
    check(
        &of_stage(&policy),
        &[("held-out reward", Verdict::NoInterval), ("held-out pass rate", Verdict::Better)],
    );
    let evaluated = |step, accuracy| {
        let interval = ShareInterval::wilson(accuracy, 100.0);
        let all = SourceDiagnostics {
            n_pairs: 100,
            accuracy: Some(accuracy),
            accuracy_interval: interval,
            ..SourceDiagnostics::default()
        };
        RewardEvaluation { step, diagnostics: RewardDiagnostics { all, ..RewardDiagnostics::default() } }
    };
    let with = |diagnostics| StageRecord { diagnostics, ..stage("reward_model", &[]) };
    check(
        &of_stage(&with(vec![evaluated(0, 0.5), evaluated(9, 0.8)])),
        &[("held-out pair accuracy", Verdict::Better)],
    );
    check(&of_stage(&with(vec![evaluated(9, 0.55)])), &[("held-out pair accuracy", Verdict::NotShown)]);
    check(&of_stage(&with(vec![evaluated(9, 0.3)])), &[("held-out pair accuracy", Verdict::Worse)]);
}

#[test]
fn the_same_held_out_items_have_paired_differences_in_every_measure() {
    let scores = |step, measure: &str, weights: Vec<f64>, value: fn(u32) -> f64| HeldOutScores {
        step,
        measure: measure.to_owned(),
        values: (0..40).map(|i| Some(value(i))).collect(),
        weights,
    };
    // Of 40 prompts 8 more pass than before, and none less: unpaired, that is not shown.
    let pass = |step, value| scores(step, HeldOutScores::PASS_RATE, Vec::new(), value);
    let reward = |step, value| scores(step, HeldOutScores::REWARD, Vec::new(), value);
    let held_out = vec![
        reward(0, |i| f64::from(i % 3)),
        pass(0, |i| f64::from(u8::from(i < 16))),
        reward(9, |i| f64::from(i % 3) + f64::from(i % 2)),
        pass(9, |i| f64::from(u8::from(i < 24))),
    ];
    let found = of_stage(&StageRecord { held_out, ..stage("grpo", &[]) });
    check(&found, &[("held-out reward", Verdict::Better), ("held-out pass rate", Verdict::Better)]);
    assert!(found.iter().all(|one| one.basis == "40 items, paired; measured in training"), "{found:?}");
    assert!(found[1].change_text().starts_with("+20.0 points (+"), "{}", found[1].change_text());
    let unpaired = Estimate::difference_of_shares((0.4, 40), (0.6, 40)).unwrap();
    assert!(!unpaired.is_shown());
    // Shares of several completions.
    let held_out = vec![pass(0, |i| f64::from(i % 5) / 8.0), pass(9, |i| f64::from(i % 5 + i % 2) / 8.0)];
    let found = of_stage(&StageRecord { held_out, ..stage("grpo", &[]) });
    check(&found, &[("held-out pass rate", Verdict::Better)]);
    // Pairs of a reward model, two of each prompt.
    let pairs = |step, value| scores(step, HeldOutScores::ACCURACY, vec![2.0; 40], value);
    let held_out = vec![pairs(0, |_| 0.5), pairs(9, |i| f64::from(i % 4 + 1) / 4.0)];
    let found = of_stage(&StageRecord { held_out, ..stage("reward_model", &[]) });
    check(&found, &[("held-out pair accuracy", Verdict::Better)]);
    assert_eq!(found[0].basis, "80 pairs of 40 prompts, paired; measured in training");
    assert_eq!((found[0].before_text(), found[0].after_text()), ("50.0 %".into(), "62.5 %".into()));
}

#[test]
fn answers_are_paired_by_question() {
    let evaluation = |label: &str, passed: fn(u32) -> bool| Evaluation {
        label: label.into(),
        answers: (0..40)
            .map(|i| GradedAnswer {
                id: format!("q{i}"),
                set: String::new(),
                about: String::new(),
                prompt: String::new(),
                expected: String::new(),
                answer: String::new(),
                is_right: passed(i),
            })
            .collect(),
        ..Evaluation::default()
    };
    let record = RunRecord {
        evaluations: vec![
            evaluation("before", |i| i < 10),
            evaluation("after sft", |i| i < 24),
            evaluation("after grpo", |i| i < 25),
        ],
        ..RunRecord::default()
    };
    let rows = of_pipeline(&record);
    let found: Vec<(&str, Verdict)> =
        rows.iter().map(|(name, one)| (name.as_str(), one[0].verdict())).collect();
    assert_eq!(
        found,
        [
            ("before → after sft", Verdict::Better),
            ("after sft → after grpo", Verdict::NotShown),
            ("before → after grpo", Verdict::Better)
        ]
    );
    assert_eq!(rows[0].1[0].basis, "40 items, paired: 14 gained, 0 lost");
    assert!(rows[0].1[0].change_text().starts_with("+35.0 points (+"));
}

/// Sums of 0.1 are rounded in different ways: the differences are equal all the same.
#[test]
fn equal_differences_are_told_in_spite_of_rounding() {
    let scores = |step, shift: f64| HeldOutScores {
        step,
        measure: HeldOutScores::REWARD.into(),
        values: (0..10).map(|i| Some(f64::from(i) * 0.3 + shift)).collect(),
        weights: Vec::new(),
    };
    let with = |held_out| StageRecord { held_out, ..stage("grpo", &[]) };
    let (before, after) = (scores(0, 0.0), scores(9, 0.1));
    let exact = before.change_to(&after).unwrap();
    assert!(exact.low < exact.high, "{exact:?}");
    check(&of_stage(&with(vec![before, after])), &[("held-out reward", Verdict::NoSpread)]);
    let few = |step, value| HeldOutScores { values: vec![Some(value)], ..scores(step, 0.0) };
    let found = of_stage(&with(vec![few(0, 0.3), few(9, 0.6)]));
    check(&found, &[("held-out reward", Verdict::TooFew)]);
    assert_eq!(found[0].words(), "no interval: it is a single item");
}

/// Accuracies of embedding models are kept by step of the evaluation; few steps have no interval of their own.
#[test]
fn steps_of_the_evaluation_are_compared_from_five_on() {
    let with = |kind: &str, measure: &str, n: u32| {
        let scores = |step, gain: f64| HeldOutScores {
            step,
            measure: measure.into(),
            values: (0..n).map(|i| Some(0.5 + gain * (1.0 + 0.1 * f64::from(i)))).collect(),
            weights: vec![8.0; n as usize],
        };
        let row = |accuracy| [("eval_accuracy", accuracy), ("eval_samples", f64::from(8 * n))];
        let rows: [(u64, &[(&str, f64)]); 2] = [(0, &row(0.5)), (9, &row(0.625))];
        of_stage(&StageRecord { held_out: vec![scores(0, 0.0), scores(9, 0.1)], ..stage(kind, &rows) })
    };
    let embed = |n| with("embed", HeldOutScores::ACCURACY_OF_STEPS, n);
    let found = embed(5);
    check(&found, &[("held-out triplet accuracy", Verdict::Better)]);
    assert_eq!(found[0].basis, "5 steps of the evaluation, paired; measured in training");
    for (n, n_items) in [(1, 8), (4, 32)] {
        let found = embed(n);
        check(&found, &[("held-out triplet accuracy", Verdict::NotShown)]);
        assert_eq!(found[0].basis, format!("{n_items} items, unpaired"));
        let found = with("dpo", HeldOutScores::LOSS_OF_STEPS, n);
        let losses: Vec<&Outcome> = found.iter().filter(|one| one.measure == "held-out loss").collect();
        assert_eq!(losses[0].verdict(), Verdict::TooFew);
        assert_eq!(losses[0].words(), "no interval: the evaluation has too few steps");
        assert!(!losses[0].basis.contains("paired"), "{}", losses[0].basis);
    }
}

#[test]
fn losses_of_all_stages_have_intervals() {
    let scores = |step, measure: &str, shift: f64| HeldOutScores {
        step,
        measure: measure.into(),
        values: (0..12)
            .map(|i| Some(1.0 + 0.1 * f64::from(i) + shift * (1.0 + 0.1 * f64::from(i))))
            .collect(),
        weights: Vec::new(),
    };
    for (kind, measure) in [
        ("reward_model", HeldOutScores::LOSS),
        ("classifier", HeldOutScores::LOSS),
        ("dpo", HeldOutScores::LOSS_OF_STEPS),
        ("embed", HeldOutScores::LOSS_OF_STEPS),
    ] {
        let held_out = vec![scores(0, measure, 0.0), scores(9, measure, -0.2)];
        let found = of_stage(&StageRecord { held_out, ..stage(kind, &[]) });
        check(&found, &[("held-out loss", Verdict::Better)]);
    }
}

#[test]
fn the_loss_of_a_saved_model_is_told_from_that_in_training() {
    let evaluation = |label: &str, loss| Evaluation {
        label: label.into(),
        heldout_loss: Some(loss),
        n_heldout_tokens: 1252,
        ..Evaluation::default()
    };
    let record = RunRecord {
        evaluations: vec![evaluation("before", 3.0), evaluation("sft", 2.25)],
        ..RunRecord::default()
    };
    let rows = of_pipeline(&record);
    let saved = &rows[0].1[0];
    assert_eq!(saved.measure, "held-out loss of the saved model");
    assert_eq!(saved.basis, "1252 tokens; weights as saved (save_dtype)");
    assert_eq!(saved.verdict(), Verdict::NoInterval);
    // An evaluation of an earlier version has no items to pair those of the later one with.
    let later = Evaluation { heldout_items: vec![(10.0, 2.0), (10.0, 2.5)], ..evaluation("sft", 2.25) };
    let record = RunRecord { evaluations: vec![evaluation("before", 3.0), later], ..RunRecord::default() };
    assert_eq!(of_pipeline(&record)[0].1[0].basis, "1252 tokens; weights as saved (save_dtype)");
    let with_items = |label: &str, losses: [f64; 3]| Evaluation {
        heldout_items: losses.map(|loss| (10.0, loss)).to_vec(),
        ..evaluation(label, losses.iter().sum::<f64>() / 3.0)
    };
    let record = RunRecord {
        evaluations: vec![with_items("before", [3.0, 2.0, 4.0]), with_items("sft", [2.0, 1.1, 2.9])],
        ..RunRecord::default()
    };
    let rows = of_pipeline(&record);
    assert_eq!(rows[0].1[0].verdict(), Verdict::Better);
    assert!(rows[0].1[0].basis.starts_with("3 items of 1252 tokens, paired"));
    let record = RunRecord {
        evaluations: vec![with_items("before", [3.0, 2.0, 4.0]), with_items("sft", [2.9, 1.9, 3.9])],
        ..RunRecord::default()
    };
    assert_eq!(of_pipeline(&record)[0].1[0].verdict(), Verdict::NoSpread);
}

#[test]
fn differences_have_signs() {
    assert_eq!([signed(0.1234, 3), signed(-2.0, 1), signed(-0.0001, 3)], ["+0.123", "−2.0", "0.000"]);
}
