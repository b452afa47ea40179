//! The page of a pipeline's folder and of a single run.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use truing_eval::classifier::{ClassifierEvaluation, DimensionEvaluation, LabelMetrics, ScoreEvaluation};
use truing_eval::reward::{
    CalibrationBin, LengthAndReward, RewardDiagnostics, RewardEvaluation, SourceDiagnostics,
};
use truing_report::{ReportError, RunRecord, StageRecord, render, write_report};
use truing_statistics::ShareInterval;
use truing_store::{InputFile, RunDirectory, RunInputs};
use truing_types::Seed;

/// `inputs.json` of a run without files.
fn inputs_of(stage: &str) -> String {
    json!({"format_version": 1, "stage": stage, "versions": {}, "seeds": {}, "files": []}).to_string()
}

/// A folder as the quickstart leaves it: figures of a made-up run of `n_steps` steps.
fn write_pipeline(folder: &Path, n_steps: u64) {
    let sft = folder.join("sft");
    let data = folder.join("train.jsonl");
    fs::write(&data, "{}\n").unwrap();
    let inputs = RunInputs {
        stage: Some("sft".into()),
        versions: [("truing".into(), "0.1.0".into())].into(),
        seeds: [("run".into(), 17)].into(),
        files: vec![InputFile::of("data", &data).unwrap()],
    };
    let recipe = "[model]\npath = \"models/smol <b>\"\n\n[optimizer]\nlearning_rate = 3e-4\n";
    drop(RunDirectory::create(&sft, recipe, &inputs).unwrap());
    let mut metrics = String::new();
    for step in 1..=n_steps {
        let t = step as f64 / n_steps as f64;
        // A small fixed disturbance stands for noise.
        let noise = ((step * 7919) % 101) as f64 / 101.0 - 0.5;
        let mut row = json!({
            "step": step,
            "loss": 0.6 + 1.9 * (-4.0 * t).exp() + 0.25 * noise,
            "mean_token_accuracy": 0.85 - 0.4 * (-4.0 * t).exp() + 0.04 * noise,
            "grad_norm": 1.2 + 2.0 * (-6.0 * t).exp() + 0.3 * noise + if step == n_steps / 2 { 9.0 } else { 0.0 },
            "learning_rate": 3e-4 * (step as f64 / 10.0).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
            "tokens_per_second": 148.0 + 9.0 * noise,
            "utilisation": 0.991 + 0.008 * noise,
            "peak_memory_gib": 1.91 + 0.03 * t,
            "num_tokens": 1010.0 * step as f64,
        });
        if step % 20 == 0 {
            row["eval_loss"] = (0.72 + 1.7 * (-4.0 * t).exp()).into();
        }
        metrics += &format!("{row}\n");
    }
    fs::write(sft.join("metrics.jsonl"), metrics).unwrap();
    let plan = json!({
        "peak_bytes": 2_010_000_000_u64, "budget_bytes": 16_u64 << 30, "layers_per_segment": 5, "n_steps": n_steps,
        "reason": "k = 5 computes the fewest layers twice within the budget",
        "parts": [
            { "name": "weights", "bytes": 538_000_000 }, { "name": "gradients", "bytes": 538_000_000 },
            { "name": "optimizer", "bytes": 1_076_000_000 }, { "name": "activations", "bytes": 312_000_000 },
            { "name": "head", "bytes": 120_000_000 }, { "name": "engine", "bytes": 60_000_000 },
        ],
    });
    fs::write(sft.join("plan.json"), plan.to_string()).unwrap();
    let answer = |id: &str, about: &str, text: &str, is_right: bool| {
        json!({
            "id": id, "about": about, "prompt": "Extract name, item and quantity as JSON.\n\nZelda needs 4 rods.",
            "expected": "JSON with name Zelda, item rods, quantity 4", "answer": text, "is_right": is_right,
        })
    };
    let evaluation = |label: &str, loss: f64, right: bool| {
        let first = if right {
            "{\"name\": \"Zelda\"}"
        } else {
            "<script>alert('no')</script> Sure! Here is the JSON"
        };
        json!({
            "label": label, "heldout_loss": loss, "heldout_accuracy": 0.7, "n_heldout_tokens": 1873,
            "answers": [
                answer("order", "an order as JSON", first, right),
                answer(
                    "label",
                    "a feeling as one word",
                    if right { "negative" } else { "The feeling is negative." },
                    right
                ),
                answer("lines", "exactly three lines", "- one\n- two\n- three", true),
                answer("number", "a bare number", if right { "" } else { "12" }, !right),
            ],
        })
    };
    fs::write(folder.join("before.json"), evaluation("before", 2.412, false).to_string()).unwrap();
    fs::write(folder.join("after.json"), evaluation("after sft", 0.746, true).to_string()).unwrap();
    let pipeline = json!({
        "title": "Quickstart", "model": "SmolLM2-135M-Instruct",
        "stages": [{ "kind": "sft", "folder": "sft" }, { "kind": "grpo", "folder": "grpo" }],
        "evaluations": ["before.json", "after.json"], "resume_command": "truing quickstart --resume --output",
    });
    fs::write(folder.join("pipeline.json"), pipeline.to_string()).unwrap();
}

#[test]
fn a_pipelines_page_is_whole_and_escaped() {
    let folder = tempfile::tempdir().unwrap();
    write_pipeline(folder.path(), 120);
    let page = folder.path().join("report.html");
    write_report(folder.path(), &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    for expected in
        ["Quickstart", "held-out loss", "2.412", "0.746", "correct answers", "Supervised fine-tuning"]
    {
        assert!(html.contains(expected), "{expected}");
    }
    for chart in [
        "loss",
        "token_accuracy",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "memory",
        "memory_parts",
    ] {
        assert!(html.contains(&format!("id=\"chart-0-{chart}\"")), "{chart}");
    }
    assert!(
        html.contains("<small class=\"change\">became correct</small>"),
        "an edge's colour is in words too"
    );
    assert!(!html.contains("<script>alert"), "an answer's markup must be escaped");
    assert!(!html.contains("smol <b>"), "the recipe's markup must be escaped");
    let own = &html[..html.find("<script type=\"application/json\"").unwrap()];
    assert!(!own.contains("http://") && !own.contains("https://"), "the page loads nothing");
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_PAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

#[test]
fn a_stopped_pipelines_page_says_at_its_top_that_it_is_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    write_pipeline(folder.path(), 40);
    let after = fs::read(folder.path().join("after.json")).unwrap();
    fs::remove_file(folder.path().join("after.json")).unwrap();
    let plan = folder.path().join("sft/plan.json");
    fs::write(&plan, json!({ "n_steps": 90 }).to_string()).unwrap();
    let html = || render(&RunRecord::read(folder.path()).unwrap()).unwrap();
    let command =
        format!("<code>truing quickstart --resume --output {}</code> continues it.", folder.path().display());
    let top = |html: &str| html[..html.find("</header>").unwrap()].to_owned();
    let stopped = top(&html());
    for expected in [
        "This run is unfinished: 0 of 2 stages and 1 of 2 evaluations are done.",
        "<code>sft</code> has taken 40 of 90 steps.",
        command.as_str(),
    ] {
        assert!(stopped.contains(expected), "{expected}: {stopped}");
    }
    // A finished stage that is being made longer is not finished.
    let outcome = folder.path().join("sft/outcome.json");
    fs::write(&outcome, r#"{"n_steps": 40, "metrics": {}}"#).unwrap();
    assert!(top(&html()).contains("0 of 2 stages"));
    fs::write(&outcome, r#"{"n_steps": 90, "metrics": {}}"#).unwrap();
    assert!(top(&html()).contains("1 of 2 stages"));
    // All that was planned is done.
    fs::write(folder.path().join("after.json"), after).unwrap();
    let pipeline = json!({
        "title": "Quickstart", "model": "m", "stages": [{ "kind": "sft", "folder": "sft" }],
        "evaluations": ["before.json", "after.json"],
    });
    fs::write(folder.path().join("pipeline.json"), pipeline.to_string()).unwrap();
    assert!(!html().contains("unfinished"));
}

#[test]
fn a_single_runs_page_needs_no_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    write_pipeline(folder.path(), 40);
    let html = render(&RunRecord::read(&folder.path().join("sft")).unwrap()).unwrap();
    assert!(html.contains("Supervised fine-tuning") && !html.contains("Questions, before and after"));
}

#[test]
fn a_run_that_has_only_begun_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    write_pipeline(folder.path(), 40);
    let sft = folder.path().join("sft");
    fs::remove_file(sft.join("plan.json")).unwrap();
    fs::write(sft.join("metrics.jsonl"), "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"lo").unwrap();
    fs::remove_file(folder.path().join("after.json")).unwrap();
    let record = RunRecord::read(folder.path()).unwrap();
    assert_eq!((record.stages[0].last_step(), record.evaluations.len()), (1, 1));
    render(&record).unwrap();
}

#[test]
fn damage_is_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(RunRecord::read(folder.path()).unwrap_err(), ReportError::NoRun { .. }));
    write_pipeline(folder.path(), 3);
    fs::write(folder.path().join("sft/metrics.jsonl"), "{\"step\":1}\n{\"stop\":2}\n").unwrap();
    let text = RunRecord::read(folder.path()).unwrap_err().to_string();
    assert!(text.ends_with("metrics.jsonl:2: no whole number `step`"), "{text}");
}

fn source(n_pairs: u64, n_ties: u64, accuracy: f64) -> SourceDiagnostics {
    SourceDiagnostics {
        n_prompts: n_pairs,
        n_pairs,
        n_ties,
        accuracy: Some(accuracy),
        accuracy_interval: ShareInterval::wilson(accuracy, n_pairs as f64),
        margin: Some(accuracy - 0.5),
        spread_of_pairs: Some(1.2),
        spread_of_ties: (n_ties > 0).then_some(0.4),
        length_correlation: Some(0.31),
        prefers_longer: Some(0.58),
        score_correlation: Some(accuracy - 0.2),
        score_rank_correlation: Some(accuracy - 0.25),
        score_rmse: Some(1.7),
    }
}

/// A reward model's evaluation that is better the later it is made.
fn evaluation(step: u64) -> RewardEvaluation {
    let progress = step as f64 / 200.0;
    let accuracy = 0.5 + 0.25 * progress;
    let noise = Seed(step).normals("rewards", 400, 1.0);
    let by_source = [
        ("hh_helpful".to_owned(), source(220, 0, accuracy)),
        ("mt_bench <b>".to_owned(), source(160, 45, accuracy + 0.05)),
        ("pandalm".to_owned(), source(90, 20, accuracy - 0.04)),
    ];
    RewardEvaluation {
        step,
        diagnostics: RewardDiagnostics {
            all: source(470, 65, accuracy),
            calibration: (0..8)
                .map(|bin| 0.52 + 0.06 * f64::from(bin))
                .map(|predicted| CalibrationBin { predicted, observed: 0.5 + 0.8 * (predicted - 0.5), n: 58 })
                .collect(),
            calibration_error: Some(0.04),
            score_calibration: (0..10)
                .map(|i| f64::from(i) * 0.8 + 1.0)
                .map(|x| (x, 2.0 + 0.6 * x))
                .collect(),
            mean_reward: 0.6 * progress,
            reward_deviation: 0.4 + 0.6 * progress,
            n_responses: 940,
            length_sample: noise
                .iter()
                .enumerate()
                .map(|(i, noise)| LengthAndReward {
                    source: by_source[i % 3].0.clone(),
                    n_tokens: 20 + (i as u64 * 37) % 300,
                    reward: f64::from(*noise) + 0.004 * ((i as f64 * 37.0) % 300.0),
                })
                .collect(),
            by_source: by_source.into(),
        },
    }
}

const REWARD_CHARTS: [&str; 6] = [
    "accuracy_by_source",
    "order_calibration",
    "score_calibration",
    "reward_by_length",
    "tie_spread",
    "reward_drift",
];

#[test]
fn a_reward_models_page_tells_what_its_scores_are_worth() {
    let folder = tempfile::tempdir().unwrap();
    let mut metrics = String::new();
    for step in 1..=200_u64 {
        let t = step as f64 / 200.0;
        let row = json!({
            "step": step, "loss": 0.7 - 0.2 * t, "accuracy": 0.5 + 0.3 * t, "margin": t, "mean_reward": 0.5 * t
        });
        metrics += &format!("{row}\n");
    }
    fs::write(folder.path().join("recipe.resolved.toml"), "seed = 1\n").unwrap();
    let inputs = folder.path().join("inputs.json");
    fs::write(&inputs, r#"{"format_version":1,"versions":{},"seeds":{},"files":[]}"#).unwrap();
    let text = RunRecord::read(folder.path()).unwrap_err().to_string();
    assert!(text.contains("inputs.json: missing field `stage`"), "{text}");
    fs::write(&inputs, inputs_of("reward_model")).unwrap();
    fs::write(folder.path().join("metrics.jsonl"), metrics).unwrap();
    let line = |step: u64| serde_json::to_string(&evaluation(step)).unwrap();
    let lines: Vec<String> = [0, 50, 100, 150, 200].map(line).into();
    // The last line of a run that goes on may be cut off.
    let half = &lines[0][..lines[0].len() / 2];
    fs::write(folder.path().join("diagnostics.jsonl"), format!("{}\n{half}", lines.join("\n"))).unwrap();
    let record = RunRecord::read(folder.path()).unwrap();
    assert_eq!(record.stages[0].kind, "reward_model");
    assert_eq!(record.stages[0].diagnostics, [0, 50, 100, 150, 200].map(evaluation));
    let html = render(&record).unwrap();
    for chart in REWARD_CHARTS {
        assert!(html.contains(&format!("id=\"chart-0-{chart}\"")), "{chart}");
    }
    for expected in
        ["held-out pair accuracy", "75.0 %", "470 pairs, unpaired", "0.60, deviation 1.00", "hh_helpful"]
    {
        assert!(html.contains(expected), "{expected}");
    }
    let own = &html[..html.find("<script type=\"application/json\"").unwrap()];
    assert!(!own.contains("mt_bench <b>"), "a source's markup must be escaped");
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_REWARD_PAGE") {
        fs::write(keep, &html).unwrap();
    }
    fs::write(folder.path().join("diagnostics.jsonl"), format!("{}\n{{}}\n", lines[0])).unwrap();
    let text = RunRecord::read(folder.path()).unwrap_err().to_string();
    assert!(text.contains("diagnostics.jsonl:2: missing field"), "{text}");
}

#[test]
fn a_single_evaluation_has_a_page_without_a_run() {
    let stage = StageRecord {
        kind: "reward_evaluation".into(),
        diagnostics: vec![RewardEvaluation { step: 0, ..evaluation(200) }],
        ..StageRecord::default()
    };
    let record = RunRecord {
        title: "pairs.jsonl".into(),
        model: "runs/rm/model".into(),
        stages: vec![stage],
        ..RunRecord::default()
    };
    let html = render(&record).unwrap();
    let own = &html[..html.find("<script type=\"application/json\"").unwrap()];
    for absent in ["started from", "optimiser steps", "Recipe with", "chart-0-reward_drift", "chart-0-loss"] {
        assert!(!own.contains(absent), "{absent}");
    }
    for chart in &REWARD_CHARTS[..5] {
        assert!(own.contains(&format!("id=\"chart-0-{chart}\"")), "{chart}");
    }
    let empty = StageRecord { diagnostics: vec![RewardEvaluation::default()], ..record.stages[0].clone() };
    let html = render(&RunRecord { stages: vec![empty], ..record }).unwrap();
    assert!(!html.contains("id=\"chart-0-"), "nothing scored, nothing drawn");
}

fn classifier_evaluation() -> ClassifierEvaluation {
    let label = |name: &str, support| LabelMetrics {
        label: name.into(),
        support,
        n_predicted: support,
        precision: Some(0.8),
        recall: Some(0.75),
        f1: Some(0.774),
    };
    let dimension = |name: &str, confusion: Vec<Vec<u64>>| DimensionEvaluation {
        name: name.into(),
        has_several: confusion.is_empty(),
        n_texts: 20,
        accuracy: Some(0.75),
        accuracy_interval: ShareInterval::wilson(0.75, 20.0),
        baseline_accuracy: (!confusion.is_empty()).then_some(0.5),
        macro_f1: Some(0.77),
        calibration_error: Some(0.05),
        calibration: vec![CalibrationBin { predicted: 0.7, observed: 0.65, n: 20 }],
        labels: vec![label("a <b>", 12), label("c", 8), label("never met", 0)],
        confusion,
    };
    ClassifierEvaluation {
        step: 10,
        loss: 0.4,
        dimensions: vec![
            dimension("ability", vec![vec![9, 3, 0], vec![2, 6, 0], vec![0, 0, 0]]),
            dimension("traits", Vec::new()),
        ],
        scores: vec![ScoreEvaluation {
            name: "quality".into(),
            n_texts: 20,
            spearman: Some(0.61),
            order_accuracy: Some(0.72),
            calibration: vec![(1.0, 1.2), (2.0, 1.9)],
            ..ScoreEvaluation::default()
        }],
    }
}

#[test]
fn a_classifiers_page_tells_what_its_labels_are_worth() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("recipe.resolved.toml"), "seed = 1\n[classifier]\n").unwrap();
    fs::write(folder.path().join("inputs.json"), inputs_of("classifier")).unwrap();
    fs::write(folder.path().join("metrics.jsonl"), "{\"step\":1,\"loss\":0.7}\n").unwrap();
    let begun = RunRecord::read(folder.path()).unwrap();
    assert_eq!((begun.stages[0].kind.as_str(), &begun.stages[0].classification), ("classifier", &None));
    assert!(!render(&begun).unwrap().contains("id=\"chart-0-label_f1\""));
    let text = serde_json::to_string(&classifier_evaluation()).unwrap();
    fs::write(folder.path().join(ClassifierEvaluation::FILE_NAME), text).unwrap();
    let record = RunRecord::read(folder.path()).unwrap();
    assert_eq!(record.stages[0].classification, Some(classifier_evaluation()));
    let html = render(&record).unwrap();
    for chart in ["label_f1", "label_confusion", "label_calibration", "predicted_scores"] {
        assert!(html.contains(&format!("id=\"chart-0-{chart}\"")), "{chart}");
    }
    for expected in [
        "held-out accuracy of ability",
        "75.0 %",
        "+25.0 points (+3.1 to +38.8)",
        "20 texts, Wilson",
        "held-out rank correlation of quality",
        "20 texts, Spearman",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    let charts = &html[html.find("<script type=\"application/json\"").unwrap()..];
    assert!(!charts.contains("a <b>"), "a label's markup must be escaped");
    let charts = &charts[charts.find('[').unwrap()..charts.find("</script>").unwrap()];
    let charts: Vec<Value> = serde_json::from_str(charts).unwrap();
    let confusion = charts.iter().find(|chart| chart["id"] == "chart-0-label_confusion").unwrap();
    let heat = &confusion["figure"]["heat"];
    assert_eq!(heat["names"], json!(["ability: a <b>", "ability: c"]), "a label that nobody has is no row");
    assert_eq!(heat["shares"][1], json!([0.25, 0.75]));
    assert_eq!(heat["words"][0][0], "9 of 12 texts");
    assert!(html.contains("100 %") && html.contains("class=\"plot\" id=\"chart-0-label_confusion\""));
}

/// A policy's run of `n_steps` steps; `gain` is what the held-out reward of every prompt gains, more or less.
fn write_policy(folder: &Path, n_steps: u64, gain: f64) {
    let mut metrics = String::new();
    let evaluation = |step: u64, reward: f64| {
        json!({ "step": step, "eval_reward": reward, "eval_pass_rate": reward, "eval_samples": 40 })
            .to_string()
            + "\n"
    };
    metrics += &evaluation(0, 0.4);
    for step in 1..=n_steps {
        let t = step as f64 / n_steps as f64;
        let noise = ((step * 7919) % 101) as f64 / 101.0 - 0.5;
        let row = json!({
            "step": step, "reward": 0.4 + gain * t + 0.3 * noise, "reward_std": 0.2, "frac_reward_zero_std": 0.5,
            "frac_reward_zero_std/high": 0.3, "frac_reward_zero_std/low": 0.2, "kl": 0.01 * t, "entropy": 1.5,
            "completions/mean_length": 80.0, "completions/clipped_ratio": 0.1, "loss": 0.001,
            "rewards/math/mean": 0.3, "rewards/format/mean": 0.5, "peak_memory_gib": 1.3,
        });
        metrics += &format!("{row}\n");
    }
    metrics += &evaluation(n_steps, 0.4 + gain);
    fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
    fs::write(folder.join("recipe.resolved.toml"), "seed = 1\n").unwrap();
    fs::write(folder.join("inputs.json"), inputs_of("grpo")).unwrap();
    let plan = json!({ "peak_bytes": 1_u64 << 30, "n_steps": n_steps });
    fs::write(folder.join("plan.json"), plan.to_string()).unwrap();
    let scores = |step: u64, gain: f64| {
        let value = |i: u64| 0.4 + gain + 0.5 * gain.signum() * gain.abs().min(0.1) * ((i % 5) as f64 - 2.0);
        let values: Vec<f64> = (0..40).map(value).collect();
        let of = |measure: &str| json!({ "step": step, "measure": measure, "values": values });
        format!("{}\n{}", of("reward"), of("pass_rate"))
    };
    fs::write(folder.join("held_out.jsonl"), format!("{}\n{}\n", scores(0, 0.0), scores(n_steps, gain)))
        .unwrap();
}

#[test]
fn a_policys_page_answers_with_intervals_and_plots_every_part() {
    let folder = tempfile::tempdir().unwrap();
    write_policy(folder.path(), 60, 0.2);
    let record = RunRecord::read(folder.path()).unwrap();
    let html = render(&record).unwrap();
    for chart in [
        "reward",
        "reward_parts",
        "reward_std",
        "zero_std_groups",
        "kl",
        "entropy",
        "completion_length",
        "clipped_completions",
    ] {
        assert!(html.contains(&format!("id=\"chart-0-{chart}\"")), "{chart}");
    }
    for expected in [
        "Reinforcement learning (GRPO)",
        "held-out reward",
        "40 items, paired",
        "held-out pass rate",
        "trend over 60 steps",
        "finding good",
        "outside 10 %",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    assert!(!html.contains("first and last tenth"));
    // Reward and pass rate are of the same prompts.
    assert_eq!((html.matches("40 items, paired").count(), html.contains("unpaired")), (2, false));
    // Without a change nothing is coloured.
    write_policy(folder.path(), 60, 0.0);
    let html = render(&RunRecord::read(folder.path()).unwrap()).unwrap();
    assert!(html.contains("not shown: the interval contains 0"));
    for coloured in ["finding good", "finding bad", "card good", "card bad"] {
        assert!(!html.contains(coloured), "{coloured}");
    }
}

#[test]
fn a_chart_whose_values_are_all_equal_says_the_value() {
    let folder = tempfile::tempdir().unwrap();
    write_policy(folder.path(), 6, 0.2);
    let varied = render(&RunRecord::read(folder.path()).unwrap()).unwrap();
    // The share of completions that are cut off is 0.1 at every step.
    let of_clipped = |html: &str| {
        let chart = &html[html.find("id=\"chart-0-clipped_completions\"").unwrap()..];
        chart[..chart.find("</figcaption>").unwrap()].ends_with("Every value is 10 %.")
    };
    assert!(of_clipped(&varied) && !varied.contains("Every value is 0.</figcaption>"));
    let path = folder.path().join("metrics.jsonl");
    let rows = fs::read_to_string(&path).unwrap().lines().fold(String::new(), |rows, line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        if let Some(kl) = row.get_mut("kl") {
            *kl = json!(0.0);
        }
        format!("{rows}{row}\n")
    });
    fs::write(&path, rows).unwrap();
    let html = render(&RunRecord::read(folder.path()).unwrap()).unwrap();
    assert!(html.contains("is a sign of reward hacking. Every value is 0.</figcaption>"));
}

#[test]
fn a_page_is_small_however_long_the_run() {
    let folder = tempfile::tempdir().unwrap();
    write_policy(folder.path(), 20_000, 0.2);
    let html = render(&RunRecord::read(folder.path()).unwrap()).unwrap();
    assert!(html.len() < 400_000, "{}", html.len());
    assert!(
        !html.contains("http://")
            || html.matches("http://").count() == html.matches("http://www.w3.org/2000/svg").count()
    );
    assert!(!html.contains("https://"));
}

#[test]
fn a_stopped_runs_page_only_promises_what_a_resume_finds() {
    let folder = tempfile::tempdir().unwrap();
    write_policy(folder.path(), 30, 0.2);
    let plan = json!({ "peak_bytes": 1_u64 << 30, "n_steps": 90 });
    fs::write(folder.path().join("plan.json"), plan.to_string()).unwrap();
    let page = || render(&RunRecord::read(folder.path()).unwrap()).unwrap();
    assert!(page().contains("30 of 90 steps. There is no checkpoint"));
    let checkpoint = folder.path().join("checkpoints/checkpoint-20");
    fs::create_dir_all(&checkpoint).unwrap();
    assert!(page().contains("There is no checkpoint"), "it was never completed");
    fs::write(checkpoint.join("manifest.json"), "{}").unwrap();
    assert!(page().contains("continues from the checkpoint of step 20"));
    fs::write(folder.path().join("outcome.json"), "{}").unwrap();
    assert!(!page().contains("30 of 90 steps"));
}
