//! Training on a fixed set of samples, of decoders and of text encoders: packs, steps, evaluations, checkpoints, the saved
//! model.
//!
//! [`TrainingConfig`] is what was typed, [`TrainingPlan`] every decision that can be made before work starts. A stage
//! brings its [`TrainingInputs`] (what it has read) and its workload (how samples become packs, and what is learnt
//! from them). Deviation from the trainers of transformers and sentence-transformers: no dropout, so that a step is a
//! function of weights and data.

mod config;
pub(crate) mod encoder_plan;
mod model;
pub(crate) mod opening;
pub(crate) mod plan;
mod run;
mod steps;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use truing_data::{Dataset, ResponseDataset, SourceRange};
use truing_eval::classifier::ClassifierEvaluation;
use truing_eval::held_out::HeldOutScores;
use truing_eval::reward::RewardDiagnostics;
use truing_model::{Engine, HeadOutput};
use truing_run::SkippedRow;
use truing_store::{Digest, RunInputs};
use truing_train::{Objective, StepShape};
use truing_types::{BatchError, Communicator, EventSink};

use crate::StageError;

pub use config::{Layers, LoraConfig, Packed, TrainingConfig};
pub use encoder_plan::EncoderPlan;
pub(crate) use encoder_plan::{EncoderSettings, SampleLengths, StepSize};
pub use model::ModelToTrain;
pub use plan::TrainingPlan;
pub(crate) use run::run;
pub use steps::{RunPlan, RunSettings, StepPacks};
pub use truing_run::settings::{
    CheckpointSettings, EvaluationSettings, OptimizerSettings, ResourceSettings, ScheduleSettings,
};

/// Samples as the packer sees them.
pub trait TrainingData {
    /// Tokens of each sample.
    fn lengths(&self) -> Vec<u32>;

    /// The sources, each a range of samples.
    fn sources(&self) -> &[SourceRange];

    /// One sample in numbers.
    fn shape(&self, sample: usize) -> StepShape;
}

impl TrainingData for Dataset {
    fn lengths(&self) -> Vec<u32> {
        Dataset::lengths(self)
    }

    fn sources(&self) -> &[SourceRange] {
        Dataset::sources(self)
    }

    fn shape(&self, sample: usize) -> StepShape {
        let sample = self.sample(sample);
        let length = sample.tokens().len() as f64;
        StepShape {
            tokens: length,
            loss_tokens: sample.n_loss_tokens() as f64,
            attention_pairs: length * (length + 1.0) / 2.0,
        }
    }
}

impl TrainingData for ResponseDataset {
    fn lengths(&self) -> Vec<u32> {
        ResponseDataset::lengths(self)
    }

    fn sources(&self) -> &[SourceRange] {
        ResponseDataset::sources(self)
    }

    fn shape(&self, sample: usize) -> StepShape {
        let group = &self.groups()[sample];
        StepShape {
            tokens: group.n_tokens() as f64,
            loss_tokens: group.n_loss_tokens() as f64,
            attention_pairs: group.n_attention_pairs(),
        }
    }
}

/// What a stage has read.
pub trait TrainingInputs {
    /// Its samples.
    type Data: TrainingData;

    /// The model, not loaded yet.
    fn model(&self) -> ModelToTrain<'_>;

    /// What is trained on.
    fn train(&self) -> &Self::Data;

    /// What is evaluated on, if anything.
    fn eval(&self) -> Option<&Self::Data>;

    /// Versions, seeds and digests of all files.
    fn record(&self) -> &RunInputs;

    /// Rows that were left out, of all data.
    fn skipped(&self) -> Vec<&SkippedRow>;

    /// Digest of the training samples, where the files do not decide them alone.
    fn samples_digest(&self) -> Option<Digest> {
        None
    }
}

/// Which of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is trained on.
    Train,
    /// What is evaluated on.
    Evaluation,
}

/// The samples of a workload.
pub(crate) type DataOf<W> = <<W as Workload>::Inputs as TrainingInputs>::Data;
/// The packs of a workload.
pub(crate) type PackOf<W> = <<W as Workload>::Objective as Objective>::Pack;

/// What an evaluation found out.
#[derive(Debug, Default)]
pub(crate) struct EvaluationFindings {
    /// More metrics, by name.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// For the run's file of diagnostics.
    pub(crate) diagnostics: Option<RewardDiagnostics>,
    /// For the run's file of evaluations.
    pub(crate) evaluation: Option<ClassifierEvaluation>,
    /// For the run's file of held-out items.
    pub(crate) held_out: Option<HeldOutScores>,
}

/// What is learnt from the samples.
pub(crate) trait Workload {
    /// What was read.
    type Inputs: TrainingInputs;
    /// The loss.
    type Objective: Objective;

    /// The loss.
    fn objective(&self) -> &Self::Objective;

    /// Samples joined into a pack.
    fn pack(&self, data: &DataOf<Self>, side: Side, samples: &[u32]) -> Result<PackOf<Self>, BatchError>;

    /// Before the first step, with the weights as they were loaded; breaks when it was stopped.
    fn begin<E: Engine>(
        &mut self,
        _engine: &mut E,
        _inputs: &Self::Inputs,
        _run: &Path,
        _communicator: &dyn Communicator,
        _events: &mut dyn EventSink,
        _stop: &AtomicBool,
    ) -> Result<ControlFlow<()>, StageError> {
        Ok(ControlFlow::Continue(()))
    }

    /// Before the packs of a step, or of an evaluation, are made.
    fn prepare<E: Engine>(
        &mut self,
        _engine: &mut E,
        _data: &DataOf<Self>,
        _side: Side,
        _packs: &[&Vec<u32>],
        _communicator: &dyn Communicator,
    ) -> Result<(), StageError> {
        Ok(())
    }

    /// Adds what follows from the metrics, whose names all have the prefix.
    fn derive_metrics(&self, _prefix: &str, _values: &mut BTreeMap<String, f64>) {}

    /// What the findings need of the head's answer to a pack of the evaluation.
    fn kept(&self, _output: &HeadOutput) -> Vec<f32> {
        Vec::new()
    }

    /// What the evaluation's steps `(samples, what was kept)`, those of all ranks, say beyond the objective's own metrics.
    fn evaluation_findings(
        &self,
        _data: &DataOf<Self>,
        _loss: f64,
        _answered: &[(Vec<u32>, Vec<f32>)],
    ) -> EvaluationFindings {
        EvaluationFindings::default()
    }

    /// Files that the saved model has besides weights, configuration and tokenizer.
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        Ok(Vec::new())
    }

    /// What the outputs of the saved model's head are called, where they have names.
    fn output_names(&self) -> Vec<String> {
        Vec::new()
    }
}
