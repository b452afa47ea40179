//! Teaching an encoder what belongs together: fine-tuning on triplets of an anchor, a text of its kind and one of
//! another.
//!
//! [`EmbedTrainConfig`] is what was typed, [`EmbedTrainPlan`] every decision that can be made before work starts.
//! The run itself is that of every encoder.

mod plan;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::OnBadRow;
use truing_model::{Engine, SaveDtype, TrainableSpec};
use truing_run::{Ended, Machine, Recipe, recipe};
use truing_store::RunInputs;
use truing_train::{Embedding, EmbeddingDistance, EmbeddingLoss, ScheduleKind, SequenceHead, TripletPack};
use truing_types::{BatchError, StageName};

use crate::training::{
    self, CheckpointSettings, EncoderSettings, EvaluationSettings, OptimizerSettings, ResourceSettings,
    ScheduleSettings, Split, StepSize, Workload,
};
use crate::{PlanContext, RunContext, Stage, StageError, TrainedModel};
use plan::TokenizedTriplets;

pub use plan::{EmbedTrainInputs, EmbedTrainPlan, check};

/// The loss, under the names of sentence-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingLossKind {
    /// `max(0, d(a, p) - d(a, n) + triplet_margin)`.
    #[default]
    Triplet,
    /// Every anchor against all positives and negatives of its batch: in-batch negatives (InfoNCE).
    MultipleNegativesRanking,
}

/// One flat table, under the names of sentence-transformers and transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EmbedTrainConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// An encoder's directory, or the name of a model (`org/name`).
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: String,
    /// Output folder of the run: metrics, checkpoints, and the model in `model/`.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of `train_data` and `eval_data` are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Triplets, a file or a folder: rows with `anchor`, `positive` and `negative`. Optional `group` (of anchor and
    /// positive) and `negative_group`: texts of the anchor's own group are not used as its in-batch negatives.
    #[schemars(extend("x-decides" = "content"))]
    pub train_data: PathBuf,
    /// Evaluation triplets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "content"))]
    pub eval_data: Option<PathBuf>,
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
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Random seed of the data order and the held-out split.
    pub seed: u64,
    /// Maximum tokens of a text, special tokens included; longer ones are truncated. Default: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seq_length: Option<usize>,

    /// The loss.
    pub loss: EmbeddingLossKind,
    /// Distance of the triplet loss.
    pub distance_metric: EmbeddingDistance,
    /// Margin of the triplet loss. Default: 0.5 for cosine, 5 for Euclidean distance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triplet_margin: Option<f64>,
    /// Factor on the cosine similarities of in-batch negatives (inverse temperature).
    pub scale: f64,

    /// Triplets per optimiser step.
    #[serde(alias = "per_device_train_batch_size")]
    #[schemars(extend("x-aliases" = ["per_device_train_batch_size"]))]
    pub batch_size: usize,

    /// Steps between lines of metrics.
    #[schemars(extend("x-decides" = "nothing"))]
    pub logging_steps: u64,
}

impl Default for EmbedTrainConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleSettings {
                num_train_epochs: 1.0,
                max_steps: None,
                learning_rate: 2e-5,
                lr_scheduler_type: ScheduleKind::Linear,
                warmup_ratio: 0.1,
                warmup_steps: None,
                min_lr_ratio: 0.0,
                decay_ratio: 0.1,
            },
            optimizer: OptimizerSettings {
                weight_decay: 0.0,
                adam_beta1: 0.9,
                adam_beta2: 0.999,
                adam_epsilon: 1e-8,
                max_grad_norm: 1.0,
                freeze: Vec::new(),
            },
            evaluation: EvaluationSettings { eval_fraction: 0.0, eval_steps: None, eval_on_start: true },
            checkpoint: CheckpointSettings {
                save_steps: None,
                save_total_limit: 2,
                keep_best: false,
                load_best_model_at_end: false,
                save_dtype: SaveDtype::F32,
            },
            resources: ResourceSettings::default(),
            stage: StageName::Embed,
            model_name_or_path: String::new(),
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            train_data: PathBuf::new(),
            eval_data: None,
            on_bad_row: OnBadRow::default(),
            seed: 0,
            max_seq_length: None,
            loss: EmbeddingLossKind::default(),
            distance_metric: EmbeddingDistance::default(),
            triplet_margin: None,
            scale: 20.0,
            batch_size: 16,
            logging_steps: 1,
        }
    }
}

impl Recipe for EmbedTrainConfig {
    const STAGES: &'static [StageName] = &[StageName::Embed];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        recipe::resolve_model(&mut self.model_name_or_path, folder);
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        recipe::find_model(&mut self.model_name_or_path, find)
    }
}

impl EmbedTrainConfig {
    /// What learns.
    #[must_use]
    pub fn trainable(&self) -> TrainableSpec {
        TrainableSpec { lora: None, frozen: self.optimizer.freeze.clone() }
    }

    /// Settings of the run.
    fn run_settings(&self) -> EncoderSettings {
        EncoderSettings {
            output_dir: self.output_dir.clone(),
            model_name: self.model_name_or_path.clone(),
            recipe: self.to_toml(),
            decisive_of: recipe::decisive_of::<Self>,
            seed: self.seed,
            step_size: StepSize::Samples(self.batch_size),
            schedule: self.schedule.clone(),
            optimizer: self.optimizer.clone(),
            evaluation: self.evaluation.clone(),
            checkpoint: self.checkpoint.clone(),
            resources: self.resources.clone(),
            logging_steps: self.logging_steps,
            trainable: self.trainable(),
        }
    }

    /// The loss with its numbers.
    #[must_use]
    pub fn embedding_loss(&self) -> EmbeddingLoss {
        match self.loss {
            EmbeddingLossKind::Triplet => EmbeddingLoss::Triplet {
                distance: self.distance_metric,
                margin: self.triplet_margin.unwrap_or(match self.distance_metric {
                    EmbeddingDistance::Cosine => 0.5,
                    EmbeddingDistance::Euclidean => 5.0,
                }),
            },
            EmbeddingLossKind::MultipleNegativesRanking => {
                EmbeddingLoss::MultipleNegativesRanking { scale: self.scale }
            }
        }
    }
}

/// Training of an embedding model. `stop` is looked at after every pack.
#[derive(Debug)]
pub struct EmbedStage;

impl Stage for EmbedStage {
    const NAME: StageName = StageName::Embed;
    type Config = EmbedTrainConfig;
    type Inputs = EmbedTrainInputs;
    type Plan = EmbedTrainPlan;
    type Outcome = TrainedModel;

    fn check(config: &EmbedTrainConfig) -> Result<(), StageError> {
        plan::check_recipe(config)
    }

    fn load(
        config: &EmbedTrainConfig,
        context: &mut PlanContext<'_>,
    ) -> Result<EmbedTrainInputs, StageError> {
        EmbedTrainInputs::load(config, context.events)
    }

    fn plan<E: Engine>(
        config: EmbedTrainConfig,
        inputs: &EmbedTrainInputs,
        machine: &Machine,
    ) -> Result<EmbedTrainPlan, StageError> {
        EmbedTrainPlan::resolve::<E>(config, inputs, machine)
    }

    fn config(plan: &EmbedTrainPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(
        _: &EmbedTrainPlan,
        inputs: &'a EmbedTrainInputs,
    ) -> Result<Cow<'a, RunInputs>, StageError> {
        Ok(Cow::Borrowed(&inputs.record))
    }

    fn run<E: Engine + 'static>(
        plan: &EmbedTrainPlan,
        inputs: &EmbedTrainInputs,
        mut context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        let head = SequenceHead::of_encoder(&inputs.model.spec);
        let workload = Triplets { objective: Embedding { loss: plan.loss, head } };
        training::run::<E, _, _>(&plan.run, inputs, workload, &mut context)
    }
}

struct Triplets {
    objective: Embedding,
}

impl<E: Engine> Workload<E> for Triplets {
    type Inputs = EmbedTrainInputs;
    type Objective = Embedding;

    fn objective(&self) -> &Embedding {
        &self.objective
    }

    fn pack(
        &mut self,
        data: &TokenizedTriplets,
        _side: Split,
        triplets: &[u32],
    ) -> Result<TripletPack, BatchError> {
        data.pack(triplets)
    }
}
