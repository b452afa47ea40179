//! Classifiers and scorers of texts (report 3.1.1 and 3.1.3): labels of prompts learnt by an output layer on an encoder
//! (the report's fine-tuned BERT) or by a head on a decoder (its fine-tuned 13B), and a judge's scores distilled into a
//! small scorer (its Quality-7B). One stage for all: a head's outputs cut into parts, of which each is a dimension of
//! labels or a score. One recipe for both models: what kind `model_name_or_path` names decides the rest.
//!
//! Both run through [`training`]; this module has what is the classifier's own: rows, labels, targets, evaluation,
//! prediction.

mod inputs;
mod label_names;
mod rows;
mod workload;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::SourceConfig;
use truing_eval::classifier::ClassifierEvaluation;
use truing_model::{EncoderFiles, Engine};
use truing_run::checks::DiskSpace;
use truing_run::inputs::resume_key;
use truing_run::ranks::on_first_rank;
use truing_run::{Ended, Machine, Recipe, RunError, recipe};
use truing_store::RunInputs;
use truing_store::atomic;
use truing_train::PlanRow;
use truing_types::{Event, EventSink, PromptRow, StageName};

use crate::training::plan::{disk_space_by_model, packs_per_step};
use crate::training::{
    self, EncoderPlan, EncoderSettings, SampleLengths, StepSize, TrainingConfig, TrainingPlan, setup,
};
use crate::{PlanContext, RunContext, Stage, StageError, StagePlan, TrainedModel};
use workload::ClassifierWorkload;

pub use inputs::{ClassifierInputs, ClassifierModel, LabelledData};

/// The table `[classifier]` of a recipe: what is learned of each row. Rows as `truing label` writes them need
/// nothing of it; other columns are named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Dimensions of the rows' `labels` to learn. Default: all, or none if `columns` or `scores` is set.
    pub dimensions: Vec<String>,
    /// Further dimensions, each with the column of its label: `{ ability = "category" }`. Paths such as `meta.category`
    /// name nested fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Scores to learn (regression), each with the column of its number: `{ quality = "quality.strength" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, String>,
    /// A label set (as in `truing label`) that maps names and synonyms in the data to its labels. A label outside it is
    /// an error. Default: labels are used as they are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub label_set: Option<PathBuf>,
    /// Column of the confidence of a dimension or score. Default: `confidence.<name>`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub confidences: BTreeMap<String, String>,
    /// Dimensions in which a text may have several labels (multi-label). Default: as the label set says; without one,
    /// those in which a row has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiple: Option<Vec<String>>,
    /// Labels and scores with a known confidence below this are not used.
    pub min_confidence: f64,
    /// Use the confidence of a label or score as its loss weight.
    pub weight_by_confidence: bool,
    /// Labels with fewer training rows than this are rare.
    pub min_count: usize,
    /// What to do with rare labels.
    pub rare_labels: RareLabels,
    /// Rows with the same value in this column, for instance a task or a template, are held out by `eval_fraction`
    /// together. Default: rows with the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_column: Option<String>,
}

/// What to do with rare labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RareLabels {
    /// They are dropped.
    #[default]
    Drop,
    /// They are replaced by one label, `other`.
    Other,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            dimensions: Vec::new(),
            columns: BTreeMap::new(),
            scores: BTreeMap::new(),
            label_set: None,
            confidences: BTreeMap::new(),
            multiple: None,
            min_confidence: 0.0,
            weight_by_confidence: false,
            min_count: 2,
            rare_labels: RareLabels::default(),
            group_column: None,
        }
    }
}

impl ClassifierConfig {
    fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        let names = || self.dimensions.iter().chain(self.columns.keys()).chain(self.scores.keys());
        if let Some(twice) = names().find(|name| names().filter(|other| other == name).count() > 1) {
            return bad("classifier", format!("a table with `{twice}` twice"), "each name once");
        }
        if !(0.0..=1.0).contains(&self.min_confidence) {
            return bad("classifier.min_confidence", self.min_confidence.to_string(), "0 to 1");
        }
        if self.min_count == 0 {
            return bad("classifier.min_count", "0".into(), "1 or more");
        }
        Ok(())
    }
}

/// A run as it will be.
#[derive(Debug)]
pub enum ClassifierPlan {
    /// Of an encoder.
    Encoder {
        /// The settings.
        config: Box<TrainingConfig>,
        /// Steps, memory, work.
        run: Box<EncoderPlan>,
    },
    /// Of a decoder.
    Decoder(Box<TrainingPlan>),
}

impl ClassifierPlan {
    fn resolve<E: Engine>(
        config: TrainingConfig,
        inputs: &ClassifierInputs,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        let ClassifierModel::Encoder { files, .. } = &inputs.model else {
            return Ok(Self::Decoder(Box::new(TrainingPlan::resolve::<E, _>(config, inputs, machine)?)));
        };
        // Texts are cut to what the model reads, so no length is too long for it.
        training::plan::check(&config, inputs.eval.is_some())?;
        let settings = encoder_settings(&config)?;
        let lengths = SampleLengths {
            unit: "text",
            train: inputs.train.token_counts(),
            eval: inputs.eval.as_ref().map(LabelledData::token_counts).unwrap_or_default(),
            sources: training::TrainingData::sources(&inputs.train).to_vec(),
            n_cut: inputs.n_cut,
        };
        let digest = resume_key::<E>(&config, &inputs.record, None);
        let run = EncoderPlan::resolve::<E>(settings, &files.spec, lengths, false, digest, machine)?;
        Ok(Self::Encoder { config: Box::new(config), run: Box::new(run) })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &TrainingConfig {
        match self {
            Self::Encoder { config, .. } => config,
            Self::Decoder(plan) => &plan.config,
        }
    }
}

impl StagePlan for ClassifierPlan {
    fn table(&self) -> Vec<PlanRow> {
        match self {
            Self::Encoder { run, .. } => run.table(),
            Self::Decoder(plan) => plan.table(),
        }
    }

    fn summary(&self) -> String {
        match self {
            Self::Encoder { run, .. } => run.summary(),
            Self::Decoder(plan) => plan.summary(),
        }
    }
}

/// Training of a classifier or scorer. A finished run has `evaluation.json`, the accuracy of the saved model on the
/// held-out rows. `stop` is looked at after every pack.
#[derive(Debug)]
pub struct ClassifierStage;

impl Stage for ClassifierStage {
    const NAME: StageName = StageName::Classifier;
    type Config = TrainingConfig;
    type Inputs = ClassifierInputs;
    type Plan = ClassifierPlan;
    type Outcome = TrainedModel;

    fn check(config: &TrainingConfig) -> Result<(), StageError> {
        config.check_stage(Self::NAME)?;
        config.classifier.clone().unwrap_or_default().check()?;
        setup::check(config)?;
        setup::check_sources(config, SourceConfig::check_as::<PromptRow>)
    }

    fn disk_space(config: &TrainingConfig) -> Result<Option<DiskSpace>, StageError> {
        // Encoders are small: their space is not checked.
        match EncoderFiles::is_encoder(Path::new(&config.model_name_or_path)) {
            true => Ok(None),
            false => disk_space_by_model(config),
        }
    }

    fn load(config: &TrainingConfig, context: &mut PlanContext<'_>) -> Result<ClassifierInputs, StageError> {
        Self::check(config)?;
        inputs::load(config, context.render.clone(), context.events)
    }

    fn plan<E: Engine>(
        config: TrainingConfig,
        inputs: &ClassifierInputs,
        machine: &Machine,
    ) -> Result<ClassifierPlan, StageError> {
        ClassifierPlan::resolve::<E>(config, inputs, machine)
    }

    fn config(plan: &ClassifierPlan) -> &Self::Config {
        plan.config()
    }

    fn record<'a>(
        _: &ClassifierPlan,
        inputs: &'a ClassifierInputs,
    ) -> Result<Cow<'a, RunInputs>, StageError> {
        Ok(Cow::Borrowed(&inputs.record))
    }

    fn run<E: Engine + 'static>(
        plan: &ClassifierPlan,
        inputs: &ClassifierInputs,
        mut context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        let workload = ClassifierWorkload::new(inputs);
        let ended = match (plan, &inputs.model) {
            (ClassifierPlan::Encoder { run, .. }, ClassifierModel::Encoder { .. }) => {
                training::run::<E, _, _>(&**run, inputs, workload, &mut context)?
            }
            (ClassifierPlan::Decoder(plan), ClassifierModel::Decoder { .. }) => {
                training::run::<E, _, _>(&**plan, inputs, workload, &mut context)?
            }
            (_, model) => {
                let found = match model {
                    ClassifierModel::Encoder { .. } => "an encoder, and a decoder's plan",
                    ClassifierModel::Decoder { .. } => "a decoder, and an encoder's plan",
                };
                let expected = "the inputs that the plan was made of".to_owned();
                return Err(RunError::BadSetting { key: "model", found: found.into(), expected }.into());
            }
        };
        if matches!(ended, Ended::Finished(_)) {
            let config = plan.config();
            on_first_rank(&*context.groups.world, || {
                keep_evaluation(&config.output_dir, config.checkpoint.load_best_model_at_end, context.events)
            })?;
        }
        Ok(ended)
    }
}

/// Writes the evaluation of the saved model beside those of all steps.
fn keep_evaluation(folder: &Path, of_best: bool, events: &mut dyn EventSink) -> Result<(), StageError> {
    let log = folder.join(ClassifierEvaluation::LOG_NAME);
    let text = match std::fs::read_to_string(&log) {
        Ok(text) => text,
        // There was nothing to evaluate on.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(RunError::Read { path: log, source }.into()),
    };
    let mut all = Vec::new();
    for (line, text) in text.lines().enumerate() {
        all.push(serde_json::from_str::<ClassifierEvaluation>(text).map_err(|error| {
            let reason = format!("line {}: {error}", line + 1);
            let source = io::Error::new(ErrorKind::InvalidData, reason);
            RunError::Read { path: log.clone(), source }
        })?);
    }
    let mut all = all.into_iter();
    // Weights before the first step are never saved; of equal losses the first is the best, as in a run.
    let chosen = if of_best {
        all.filter(|evaluation| evaluation.step > 0).reduce(|a, b| if b.loss < a.loss { b } else { a })
    } else {
        all.next_back()
    };
    let Some(chosen) = chosen else { return Ok(()) };
    let path = folder.join(ClassifierEvaluation::FILE_NAME);
    atomic::write_json(&path, &chosen)?;
    events.emit(Event::Saved { what: "evaluation".into(), path });
    Ok(())
}

fn encoder_settings(config: &TrainingConfig) -> Result<EncoderSettings, StageError> {
    let none = |key, found: &str| RunError::BadSetting {
        key,
        found: found.to_owned(),
        expected: "nothing of the kind: the model is an encoder".into(),
    };
    let default = TrainingConfig::default();
    for (key, found, is_set) in [
        ("lora", "a table", config.lora.is_some()),
        ("chat_template", "a file", config.chat_template.is_some()),
        // Texts are cut to what the model reads, packs are cut from a step, and whole layers are computed again.
        ("long_samples", "a policy", config.long_samples != default.long_samples),
        ("packing", "a way of packing", config.packing != default.packing),
        ("layers_per_segment", "a number", config.layers_per_segment != default.layers_per_segment),
    ] {
        if is_set {
            return Err(none(key, found).into());
        }
    }
    Ok(EncoderSettings {
        output_dir: config.output_dir.clone(),
        model_name: config.model_name_or_path.clone(),
        recipe: config.to_toml(),
        decisive_of: recipe::decisive_of::<TrainingConfig>,
        seed: config.seed,
        step_size: StepSize::Tokens(packs_per_step(config)? as u64 * u64::from(config.max_length)),
        schedule: config.schedule.clone(),
        optimizer: config.optimizer.clone(),
        evaluation: config.evaluation.clone(),
        checkpoint: config.checkpoint.clone(),
        resources: config.resources.clone(),
        logging_steps: config.logging_steps,
        trainable: config.trainable(),
    })
}
