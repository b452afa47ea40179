//! The settings of every stage that trains on a fixed set of samples, under the names people know.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use truing_data::{LongSamplePolicy, OnBadRow, SourceConfig};
use truing_model::{LoraSpec, SaveDtype, TrainableSpec};
use truing_run::{Recipe, RunError, recipe};
use truing_train::{LayersPerSegment, ScheduleKind};
use truing_types::StageName;

use crate::StageError;
use crate::classifier::ClassifierConfig;
use crate::distill::DistillationConfig;
use crate::dpo::PreferenceConfig;
use crate::reward::RewardModelConfig;
use crate::training::{
    CheckpointSettings, EvaluationSettings, OptimizerSettings, ResourceSettings, ScheduleSettings,
};

/// One flat table, then `[[data]]`, `[[eval_data]]` and `[lora]`, and the table of the stage, if it has one:
/// `[preference]` for `truing dpo`, `[reward_model]` for `truing reward train`, `[distillation]` for `truing distill`,
/// `[classifier]` for `truing label train` and `truing quality train`. Where the report states no value, the default is
/// ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainingConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// A model directory, a `.gguf` file, or the name of a model (`org/name`).
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: String,
    /// Output folder of the run: metrics, checkpoints, and the model in `model/`.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of `data` and `eval_data` are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the data order, the held-out split, and the initialisation of adapters and heads.
    pub seed: u64,

    /// Maximum tokens of a sample, and token budget of a pack. A sample of preferences is the prompt with all its
    /// responses.
    pub max_length: u32,
    /// Sequence packing.
    pub packing: PackingMode,
    /// What to do with samples longer than `max_length`.
    pub long_samples: LongSamplePolicy,
    /// What to do with invalid rows: rows that cannot be read or rendered.
    pub on_bad_row: OnBadRow,
    /// Length of the run, and the learning rate by step.
    #[serde(flatten)]
    pub schedule: ScheduleSettings,
    /// AdamW and clipping.
    #[serde(flatten)]
    pub optimizer: OptimizerSettings,
    /// What is evaluated, and when.
    #[serde(flatten)]
    pub evaluation: EvaluationSettings,
    /// What is saved, and when.
    #[serde(flatten)]
    pub checkpoint: CheckpointSettings,
    /// What the run may use of the machine.
    #[serde(flatten)]
    pub resources: ResourceSettings,
    /// A Jinja file that replaces the model's chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub chat_template: Option<PathBuf>,

    /// Packs per optimiser step, over all ranks (gradient accumulation).
    pub packs_per_step: usize,
    /// Tokens per optimiser step, over all ranks. It replaces `packs_per_step`: a step takes
    /// `tokens_per_step / max_length` packs, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_step: Option<u64>,

    /// Steps between lines of `metrics.jsonl`.
    #[schemars(extend("x-decides" = "nothing"))]
    pub logging_steps: u64,
    /// With LoRA: save the whole model with the adapter merged in, not the adapter alone.
    #[schemars(extend("x-decides" = "outcome"))]
    pub merge_adapter: bool,

    /// Layers per activation checkpoint (k of the report), or `"auto"`. It never changes a result.
    #[schemars(extend("x-decides" = "nothing"))]
    pub layers_per_segment: LayersSetting,

    /// Train LoRA adapters instead of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The preference loss; only for `truing dpo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceConfig>,
    /// The reward model; only for `truing reward train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<RewardModelConfig>,
    /// The distillation; only for `truing distill`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// The classifier or scorer; only for `truing label train` and `truing quality train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierConfig>,
    /// Training data.
    pub data: Vec<SourceConfig>,
    /// Evaluation data.
    pub eval_data: Vec<SourceConfig>,
}

/// Sequence packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackingMode {
    /// As many samples per pack as fit ("packing on batch" of the report). Samples do not attend to each other.
    #[default]
    BestFitDecreasing,
    /// One sample per pack. A step of `packs_per_step` packs then has far fewer samples.
    None,
}

/// Low-rank adaptation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the adapters.
    #[serde(alias = "r")]
    #[schemars(extend("x-aliases" = ["r"]))]
    pub rank: usize,
    /// The adapter's output is scaled by `alpha / rank`.
    pub alpha: f32,
    /// Names of the linear layers with adapters. Default: all of a block.
    #[serde(alias = "target_modules")]
    #[schemars(extend("x-aliases" = ["target_modules"]))]
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self { rank: 16, alpha: 32.0, targets: all.map(str::to_owned).to_vec() }
    }
}

/// `"auto"` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayersSetting(pub LayersPerSegment);

impl Serialize for LayersSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            LayersPerSegment::Auto => serializer.serialize_str("auto"),
            LayersPerSegment::Fixed(k) => serializer.serialize_u64(k as u64),
        }
    }
}

impl JsonSchema for LayersSetting {
    fn schema_name() -> Cow<'static, str> {
        "LayersSetting".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }] })
    }
}

impl<'de> Deserialize<'de> for LayersSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrNumber;
        impl serde::de::Visitor<'_> for AutoOrNumber {
            type Value = LayersSetting;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number of layers")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<LayersSetting, E> {
                match text {
                    "auto" => Ok(LayersSetting(LayersPerSegment::Auto)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: serde::de::Error>(self, k: i64) -> Result<LayersSetting, E> {
                let fixed = usize::try_from(k).map(LayersPerSegment::Fixed);
                fixed
                    .map(LayersSetting)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(k), &self))
            }
        }
        deserializer.deserialize_any(AutoOrNumber)
    }
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleSettings {
                num_train_epochs: 2.0,
                max_steps: None,
                learning_rate: 1e-5,
                lr_scheduler_type: ScheduleKind::Cosine,
                warmup_ratio: 0.03,
                warmup_steps: None,
                min_lr_ratio: 0.0,
                decay_ratio: 0.1,
            },
            optimizer: OptimizerSettings {
                weight_decay: 0.1,
                adam_beta1: 0.9,
                adam_beta2: 0.999,
                adam_epsilon: 1e-8,
                max_grad_norm: 1.0,
                freeze: Vec::new(),
            },
            evaluation: EvaluationSettings { eval_fraction: 0.0, eval_steps: None, eval_on_start: false },
            checkpoint: CheckpointSettings {
                save_steps: None,
                save_total_limit: 2,
                keep_best: false,
                load_best_model_at_end: false,
                save_dtype: SaveDtype::F32,
            },
            resources: ResourceSettings::default(),
            stage: StageName::Sft,
            model_name_or_path: String::new(),
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            max_length: 2048,
            packing: PackingMode::default(),
            long_samples: LongSamplePolicy::default(),
            on_bad_row: OnBadRow::default(),
            chat_template: None,
            packs_per_step: 8,
            tokens_per_step: None,
            logging_steps: 1,
            merge_adapter: false,
            layers_per_segment: LayersSetting::default(),
            lora: None,
            preference: None,
            reward_model: None,
            distillation: None,
            classifier: None,
            data: Vec::new(),
            eval_data: Vec::new(),
        }
    }
}

impl Recipe for TrainingConfig {
    const STAGES: &'static [StageName] =
        &[StageName::Sft, StageName::Dpo, StageName::RewardModel, StageName::Classifier, StageName::Distill];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        if let Some(template) = &mut self.chat_template {
            *template = folder.join(&template);
        }
        if let Some(set) = self.classifier.as_mut().and_then(|classifier| classifier.label_set.as_mut()) {
            *set = folder.join(&*set);
        }
        if let Some(distillation) = &mut self.distillation {
            distillation.teacher.resolve_paths(folder);
        }
        recipe::resolve_model(&mut self.model_name_or_path, folder);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut().chain(&mut self.eval_data);
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        recipe::find_model(&mut self.model_name_or_path, find)?;
        self.distillation.iter_mut().try_for_each(|distillation| distillation.teacher.find_models(find))
    }
}

impl TrainingConfig {
    /// Checks that the recipe is for `expected`, and that it holds no table of another stage.
    ///
    /// # Errors
    /// [`RunError::OtherStage`]; [`RunError::BadSetting`] naming the table.
    pub(crate) fn check_stage(&self, expected: StageName) -> Result<(), StageError> {
        if self.stage != expected {
            return Err(RunError::OtherStage { found: self.stage }.into());
        }
        let tables = [
            ("preference", StageName::Dpo, self.preference.is_some()),
            ("reward_model", StageName::RewardModel, self.reward_model.is_some()),
            ("classifier", StageName::Classifier, self.classifier.is_some()),
            ("distillation", StageName::Distill, self.distillation.is_some()),
        ];
        match tables.into_iter().find(|&(_, stage, is_there)| is_there && stage != expected) {
            Some((key, stage, _)) => Err(RunError::BadSetting {
                key,
                found: "a table".into(),
                expected: format!(
                    "none in a recipe with stage = \"{expected}\"; it belongs to stage = \"{stage}\""
                ),
            }
            .into()),
            None => Ok(()),
        }
    }

    /// Whether the trained model is saved as an adapter.
    pub(crate) fn saves_adapter(&self) -> bool {
        self.lora.is_some() && !self.merge_adapter
    }

    /// What learns.
    #[must_use]
    pub fn trainable(&self) -> TrainableSpec {
        let lora = self.lora.as_ref().map(|lora| LoraSpec {
            rank: lora.rank,
            alpha: lora.alpha,
            targets: lora.targets.clone(),
        });
        TrainableSpec { lora, frozen: self.optimizer.freeze.clone() }
    }
}
