//! `truing dpo` and `truing reward` on a tiny model: every loss runs, interrupted runs end with the same bits, and what
//! can be learnt is learnt.

use crate::setup::{self, Events, Ticks, is_metrics_of, never};
use crate::setup::{Cpu, SOLO};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;
use truing_data::SourceConfig;
use truing_eval::held_out::HeldOutScores;
use truing_eval::reward::{RewardDiagnostics, RewardEvaluation, ScoreNormaliser};
use truing_model::{HeadKind, ModelFiles};
use truing_predict::RewardScorer;
use truing_stages::dpo::DpoStage;
use truing_stages::reward::RewardModelStage;
use truing_stages::training::TrainingConfig;
use truing_stages::{Ended, Recipe, RunContext, Stage as _, StageError, Start, TrainedModel};
use truing_text::RenderOptions;
use truing_types::{Event, Silent};

pub(crate) const RECIPE: &str = r#"
stage = "dpo"
model_name_or_path = "model"
output_dir = "runs/a"
seed = 5
max_length = 256
num_train_epochs = 2
packs_per_step = 2
learning_rate = 3e-3
weight_decay = 0.0
eval_fraction = 0.2
save_steps = 3
save_dtype = "f32"
[[data]]
path = "pairs.jsonl"
"#;

#[test]
fn the_disk_space_of_a_reward_model_does_not_depend_on_what_learns_of_the_model_on_disk() {
    let folder = folder();
    let space = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|&typed| typed.to_owned()).collect();
        let config =
            TrainingConfig::from_toml(RECIPE, &folder.path().join("recipe.toml"), &overrides).unwrap();
        RewardModelStage::disk_space(&config)
    };
    assert!(space(&["stage=reward_model"]).unwrap().unwrap().needed > 0);
    // The head alone learns; of the model as it is on disk there is no such head.
    assert!(space(&["stage=reward_model", "freeze=[\"model\", \"lm_head\"]"]).is_ok());
}

/// A folder with a model, and pairs of which the better response is the one that says yes; scores say the same.
pub(crate) fn folder() -> TempDir {
    let folder = setup::folder();
    let (mut pairs, mut verdicts) = (String::new(), String::new());
    for i in 0..40 {
        let (yes, no) = (format!("yes {}", "x".repeat(i % 5)), format!("no {}", "x".repeat(i % 3)));
        writeln!(
            pairs,
            "{{\"prompt\": \"{i}?\", \"responses\": [{{\"content\": \"{yes}\", \"score\": {}}}, \
             {{\"content\": \"{no}\", \"score\": {}}}]}}",
            7 + i % 3,
            1 + i % 3
        )
        .unwrap();
        let (text, label) = if i % 2 == 0 { (yes, true) } else { (no, false) };
        writeln!(verdicts, r#"{{"prompt": "{i}?", "completion": "{text}", "label": {label}}}"#).unwrap();
    }
    fs::write(folder.path().join("pairs.jsonl"), pairs).unwrap();
    fs::write(folder.path().join("verdicts.jsonl"), verdicts).unwrap();
    folder
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    Dpo,
    Reward,
}

impl Stage {
    /// The override that makes a recipe one of this stage.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Stage::Dpo => "stage=dpo",
            Stage::Reward => "stage=reward_model",
        }
    }
}

pub(crate) fn run(
    stage: Stage,
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<(Ended<TrainedModel>, Vec<Event>), StageError> {
    let overrides: Vec<String> = [stage.setting()].iter().chain(overrides).map(ToString::to_string).collect();
    let config = TrainingConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let probe = Ticks::default();
    let context = RunContext::new(start, &SOLO, &probe, &mut events, &stop);
    let outcome = match stage {
        Stage::Dpo => setup::run_stage::<DpoStage>(config, context)?,
        Stage::Reward => setup::run_stage::<RewardModelStage>(config, context)?,
    };
    Ok((outcome, events.seen))
}

fn metrics(run: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn untimed(run: &Path) -> Vec<BTreeMap<String, f64>> {
    let mut records = metrics(run);
    for record in &mut records {
        record.retain(|name, _| {
            !["tokens_per_second", "samples_per_second", "step_time", "peak_memory_gib"].contains(&&name[..])
        });
    }
    records
}

/// `diagnostics.jsonl`, which only a reward model's run has.
fn evaluations(run: &Path) -> Vec<RewardEvaluation> {
    let text = fs::read_to_string(run.join(RewardDiagnostics::FILE_NAME)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn model_bytes(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/model.safetensors")).unwrap()
}

/// Reward models keep the loss of every prompt, DPO that of every step of the evaluation: their mean is the loss.
#[test]
fn held_out_losses_are_kept_by_item() {
    for (stage, measure) in [(Stage::Reward, HeldOutScores::LOSS), (Stage::Dpo, HeldOutScores::LOSS_OF_STEPS)]
    {
        let folder = folder();
        run(stage, folder.path(), &["eval_on_start=true"], Start::Fresh, never).unwrap();
        let of_run = folder.path().join("runs/a");
        let text = fs::read_to_string(of_run.join(HeldOutScores::FILE_NAME)).unwrap();
        let all: Vec<HeldOutScores> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let losses: Vec<&HeldOutScores> = all.iter().filter(|scores| scores.measure == measure).collect();
        let records = metrics(&of_run);
        let evaluated: Vec<_> = records.iter().filter(|record| record.contains_key("eval_loss")).collect();
        assert!(losses.len() >= 2 && losses.len() == evaluated.len(), "{stage:?}");
        for (scores, record) in losses.iter().zip(&evaluated) {
            let mean = scores.mean().unwrap();
            assert!((mean - record["eval_loss"]).abs() < 1e-6, "{stage:?}: {mean}: {record:?}");
        }
        if stage == Stage::Reward {
            let change = losses[0].change_to(losses[losses.len() - 1]).unwrap();
            assert!(change.value < 0.0, "{change:?}");
        }
        let mut accuracies = all.iter().filter(|scores| scores.measure == HeldOutScores::ACCURACY);
        let last = accuracies.next_back().and_then(HeldOutScores::mean);
        assert_eq!(last.is_some(), stage == Stage::Reward);
        if let (Some(last), Some(expected)) = (last, evaluations(&of_run).last()) {
            assert!((last - expected.diagnostics.all.accuracy.unwrap()).abs() < 1e-12);
        }
    }
}

#[test]
fn dpo_learns_the_preference_and_asks_the_reference_once() {
    let folder = folder();
    let overrides = ["eval_on_start=true", "preference.beta=0.5"];
    let (_, events) = run(Stage::Dpo, folder.path(), &overrides, Start::Fresh, never).unwrap();
    let asked = |events: &[Event]| {
        let is_asking =
            |e: &&Event| matches!(e, Event::PhaseStarted { phase, .. } if phase == "asking the reference");
        events.iter().filter(is_asking).count()
    };
    assert_eq!(asked(&events), 2, "training and evaluation data");
    let records = metrics(&folder.path().join("runs/a"));
    assert!((records[0]["eval_loss"] - 2.0_f64.ln()).abs() < 1e-6, "the policy begins as the reference");
    assert_eq!(records[0]["eval_rewards/margins"], 0.0);
    let last = records.iter().rev().find(|record| record.contains_key("eval_loss")).unwrap();
    assert!(last["eval_loss"] < 0.5 && last["eval_rewards/accuracies"] > 0.9, "{last:?}");
    let margin = last["eval_rewards/chosen"] - last["eval_rewards/rejected"];
    assert!((last["eval_rewards/margins"] - margin).abs() < 1e-12);
    for name in ["logps/chosen", "logps/rejected", "rewards/margins", "nll_loss", "grad_norm"] {
        assert!(records.iter().any(|record| record.contains_key(name)), "no metric is called {name}");
    }
    let again = format!("output_dir={}", folder.path().join("runs/c").display());
    let (_, events) = run(Stage::Dpo, folder.path(), &[&again, "max_steps=1"], Start::Fresh, never).unwrap();
    assert_eq!(asked(&events), 0, "another run of the same folder finds what was kept");
}

#[test]
fn every_loss_runs_and_goes_down() {
    for loss in ["sigmoid", "sigmoid_norm", "robust", "ipo", "hinge", "simpo", "orpo", "kto"] {
        for data in ["pairs.jsonl", "verdicts.jsonl"] {
            if (data == "verdicts.jsonl") != (loss == "kto") {
                continue;
            }
            let folder = folder();
            let (loss_is, path) = (format!("preference.loss={loss}"), format!("data.0.path={data}"));
            let overrides = [&loss_is[..], &path[..], "eval_on_start=true", "preference.label_smoothing=0.1"];
            run(Stage::Dpo, folder.path(), &overrides, Start::Fresh, never).unwrap();
            let losses: Vec<f64> = metrics(&folder.path().join("runs/a"))
                .iter()
                .filter_map(|record| record.get("eval_loss").copied())
                .collect();
            assert!(losses.last() < losses.first(), "{loss}: {losses:?}");
        }
    }
}

#[test]
fn pairs_are_two_verdicts_for_kto() {
    let folder = folder();
    let overrides = ["preference.loss=kto", "data.0.format=ranked", "max_steps=2"];
    run(Stage::Dpo, folder.path(), &overrides, Start::Fresh, never).unwrap();
    let last = metrics(&folder.path().join("runs/a")).into_iter().next_back().unwrap();
    assert!(last.contains_key("eval_rewards/chosen") && last.contains_key("eval_rewards/rejected"));
}

#[test]
fn interrupted_and_resumed_gives_the_same_bits() {
    for (stage, more) in
        [(Stage::Dpo, "preference.loss=sigmoid"), (Stage::Reward, "reward_model.mse_coefficient=0.3")]
    {
        let straight = folder();
        run(stage, straight.path(), &[more], Start::Fresh, never).unwrap();
        let expected = straight.path().join("runs/a");
        for last_step in [1, 3] {
            let folder = folder();
            let (outcome, _) =
                run(stage, folder.path(), &[more], Start::Fresh, is_metrics_of(last_step)).unwrap();
            assert_eq!(outcome, Ended::Interrupted { step: Some(last_step) });
            run(stage, folder.path(), &[more, "threads=1"], Start::Resume, never).unwrap();
            let found = folder.path().join("runs/a");
            assert!(
                model_bytes(&expected) == model_bytes(&found),
                "{stage:?} stopped after step {last_step}"
            );
            assert_eq!(untimed(&expected), untimed(&found));
            assert_eq!(evaluations(&expected), evaluations(&found), "an evaluation is kept once");
        }
    }
}

#[test]
fn a_reward_model_learns_the_order_and_the_scores_and_scores_as_it_was_evaluated() {
    let folder = folder();
    let overrides = ["reward_model.mse_coefficient=0.5", "num_train_epochs=6", "eval_on_start=true"];
    run(Stage::Reward, folder.path(), &overrides, Start::Fresh, never).unwrap();
    let directory = folder.path().join("runs/a");
    let records = metrics(&directory);
    let last = records.iter().rev().find(|record| record.contains_key("eval_accuracy")).unwrap();
    assert!(last["eval_accuracy"] > 0.9, "{last:?}");
    assert!(last["eval_score_correlation"] > 0.8, "{last:?}");
    assert!(last["eval_mse"] < records[0]["eval_mse"]);
    let evaluations = evaluations(&directory);
    let steps: Vec<u64> = evaluations.iter().map(|evaluation| evaluation.step).collect();
    assert!(steps.len() >= 3 && steps[0] == 0 && steps.is_sorted(), "{steps:?}");
    let found = &evaluations[steps.len() - 1].diagnostics;
    assert_eq!(found.all.accuracy, Some(last["eval_accuracy"]));
    assert_eq!(found.n_responses, 2 * found.all.n_prompts);
    assert_eq!(found.length_sample.len() as u64, found.n_responses);

    let model = directory.join("model");
    assert_eq!(ModelFiles::open(&model).unwrap().spec.head, HeadKind::Score { n_outputs: 1 });
    let config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    let normaliser = ScoreNormaliser::open(&model).unwrap();
    assert!((normaliser.all.unwrap().center - 5.0).abs() < 0.5, "scores lie around 5");
    let mut scorer = RewardScorer::<Cpu>::open(&model, RenderOptions::default(), 2, &mut Silent).unwrap();
    let sources = [SourceConfig::new(folder.path().join("pairs.jsonl"))];
    let (scored, diagnostics, report) = scorer.score_files(&sources, 256, &mut Silent).unwrap();
    assert_eq!((scored.len(), report.n_rows), (80, 40));
    assert!(diagnostics.all.accuracy.unwrap() > 0.9);
    assert!(diagnostics.all.score_rmse.unwrap() < 2.0, "rewards come back in the scores' unit");
}

#[test]
fn without_the_squared_error_scores_change_no_bit() {
    let with_scores = folder();
    let without = folder();
    let path = without.path().join("pairs.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let unscored: String = text
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            for (rank, response) in row["responses"].as_array_mut().unwrap().iter_mut().enumerate() {
                let response = response.as_object_mut().unwrap();
                response.remove("score");
                response.insert("rank".into(), rank.into());
            }
            format!("{row}\n")
        })
        .collect();
    fs::write(&path, unscored).unwrap();
    let overrides = ["reward_model.mse_coefficient=0", "eval_fraction=0", "max_steps=3"];
    for folder in [&with_scores, &without] {
        run(Stage::Reward, folder.path(), &overrides, Start::Fresh, never).unwrap();
    }
    let [a, b] = [&with_scores, &without].map(|folder| model_bytes(&folder.path().join("runs/a")));
    assert!(a == b);
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_key() {
    let folder = folder();
    for (stage, overrides, expected) in [
        (Stage::Dpo, vec!["preference.beta=0"], "`preference.beta` is 0: expected a number above 0"),
        (Stage::Dpo, vec!["reward_model.mse_coefficient=1"], "`reward_model` is a table: expected none"),
        (Stage::Reward, vec!["preference.beta=1"], "`preference` is a table: expected none"),
        (Stage::Reward, vec!["reward_model.mse_coefficient=-1"], "`reward_model.mse_coefficient` is -1"),
        (Stage::Reward, vec!["reward_model.max_responses=1"], "`reward_model.max_responses` is 1"),
        (Stage::Reward, vec!["max_length=20"], "longer than"),
    ] {
        let error = run(stage, folder.path(), &overrides, Start::Fresh, never).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
    }
    let model = folder.path().join("model");
    let error = RewardScorer::<Cpu>::open(&model, RenderOptions::default(), 1, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("scalar head"), "{error}");
}
