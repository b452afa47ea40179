//! What judges say, learnt by a small model.

use std::fs;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use truing_data::SourceConfig;
use truing_eval::classifier::{ClassifierEvaluation, ClassifierSpec, OutputSpec};
use truing_predict::{Classifier, PredictionOptions};
use truing_stages::Recipe;
use truing_stages::classifier::ClassifierStage;
use truing_stages::training::TrainingConfig;
use truing_text::RenderOptions;
use truing_types::Silent;

use crate::qualities;
use crate::setup::{self, Cpu, run_stage};

const RECIPE: &str = r#"
stage = "classifier"
model_name_or_path = "model"
output_dir = "run"
seed = 3
max_length = 64
num_train_epochs = 40
packs_per_step = 2
learning_rate = 3e-3
weight_decay = 0.0
eval_fraction = 0.25
save_steps = 3
save_dtype = "f32"
threads = 2
[classifier]
scores = { quality = "quality.strength" }
confidences = { quality = "quality.confidence" }
weight_by_confidence = true
[[data]]
path = "scores/scores.jsonl"
"#;

/// Judges, their scores, a scorer of them, rows scored: each step reads what the one before it wrote.
#[test]
fn what_judges_say_is_distilled_into_a_scorer() {
    let folder = setup::folder();
    let rows: String = (0..60).map(|level| format!("{{\"prompt\": \"level {level}\"}}\n")).collect();
    fs::write(folder.path().join("prompts.jsonl"), &rows).unwrap();
    let recipe = qualities::RECIPE.replace("n_anchors = 4", "n_anchors = 30");
    qualities::run(folder.path(), &recipe, vec![qualities::good().open()]).unwrap();
    let config = TrainingConfig::from_toml(RECIPE, &folder.path().join("recipe.toml"), &[]).unwrap();
    let stop = AtomicBool::new(false);
    let outcome =
        run_stage::<ClassifierStage>(config, setup::judged(Vec::new(), &mut Silent, &stop)).unwrap();
    let path = outcome.finished().unwrap().model;
    let spec = ClassifierSpec::open(&path).unwrap();
    assert!(matches!(spec.parts[0].outputs, OutputSpec::Score { deviation, .. } if deviation > 0.5));
    let text = fs::read_to_string(folder.path().join("run").join(ClassifierEvaluation::FILE_NAME)).unwrap();
    let found = serde_json::from_str::<ClassifierEvaluation>(&text).unwrap().scores.remove(0);
    assert!(
        found.spearman > Some(0.5),
        "what the judges meant is found in prompts they did not see: {found:?}"
    );
    let mut scorer = Classifier::<Cpu>::open(&path, RenderOptions::default(), 1, &mut Silent).unwrap();
    let (source, output) =
        (SourceConfig::new(folder.path().join("prompts.jsonl")), folder.path().join("scored.jsonl"));
    let options = PredictionOptions::default();
    scorer.predict_file(&source, &output, &options, &mut Silent, &stop).unwrap();
    let scored: Vec<Value> = fs::read_to_string(&output)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mean =
        |rows: &[Value]| rows.iter().map(|row| row["scores"]["quality"].as_f64().unwrap()).sum::<f64>();
    assert!(mean(&scored[40..]) > mean(&scored[..20]), "high levels are better");
}
