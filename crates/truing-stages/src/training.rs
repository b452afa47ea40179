//! Training on a fixed set of samples, of decoders and of text encoders: packs, steps, evaluations, checkpoints, the
//! saved model.
//!
//! [`TrainingConfig`] is what was typed, [`TrainingPlan`] every decision that can be made before work starts. A stage
//! brings its [`TrainingInputs`] (what it has read) and its workload (how samples become packs, and what is learnt
//! from them). Deviation from the trainers of transformers and sentence-transformers: no dropout, so that a step is a
//! function of weights and data.

mod config;
mod decoder_inputs;
mod decoder_stage;
pub(crate) mod encoder_plan;
pub(crate) mod held_out;
mod model;
pub(crate) mod plan;
pub(crate) mod ranks;
mod run;
pub(crate) mod setup;
pub(crate) mod steps;
pub(crate) mod time;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use truing_data::{Dataset, ResponseDataset, SourceRange};
use truing_eval::classifier::ClassifierEvaluation;
use truing_eval::held_out::HeldOutScores;
use truing_eval::reward::RewardDiagnostics;
use truing_model::{Engine, HeadOutput};
use truing_run::{Machine, SkippedRow};
use truing_store::{Digest, RunInputs};
use truing_train::{MemoryPart, Objective, StepShape};
use truing_types::{BatchError, EventSink, Groups};

use crate::StageError;

pub use config::{LayersSetting, LoraConfig, PackingMode, TrainingConfig};
pub use decoder_inputs::{DecoderInputs, DivisibleData};
pub use decoder_stage::DecoderStage;
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

/// Memory of a run beside that of training on its packs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BesideTraining {
    /// What stays for the whole run.
    pub lasting: Vec<MemoryPart>,
    /// Bytes while completions are sampled or a teacher computes; activations take their place. 0 where a step does
    /// neither.
    pub sampling_bytes: u64,
}

impl BesideTraining {
    fn lasting_bytes(&self) -> u64 {
        MemoryPart::total(&self.lasting)
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

    /// Seconds that a step of this shape takes beside training on its packs; `None` where a rate is missing, or where a
    /// server does it.
    fn beside_secs<E: Engine>(
        &self,
        _config: &TrainingConfig,
        _step: &StepShape,
        _machine: &Machine,
    ) -> Option<f64> {
        Some(0.0)
    }

    /// What a run of at most `packs_per_step` packs a step holds and does beside training on its packs.
    fn beside_training<E: Engine>(&self, _config: &TrainingConfig, _packs_per_step: usize) -> BesideTraining {
        BesideTraining::default()
    }
}

/// Which of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is evaluated on.
    Evaluation,
}

/// The samples of a workload.
pub(crate) type DataOf<E, W> = <<W as Workload<E>>::Inputs as TrainingInputs>::Data;
/// The packs of a workload.
pub(crate) type PackOf<E, W> = <<W as Workload<E>>::Objective as Objective>::Pack;

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
    pub(crate) held_out: Vec<HeldOutScores>,
}

/// A run before its first step.
pub(crate) struct RunStart<'a> {
    /// The run's folder.
    pub(crate) folder: &'a Path,
    pub(crate) groups: &'a Groups,
    pub(crate) n_threads: usize,
    pub(crate) events: &'a mut dyn EventSink,
    pub(crate) stop: &'a AtomicBool,
}

/// The packs of a step, or of an evaluation, before they are made.
pub(crate) struct ComingPacks<'a> {
    /// The step that they are for; of an evaluation the last one done.
    pub(crate) step: u64,
    pub(crate) split: Split,
    /// Samples of each pack of this rank; those of a sequence group have the same packs.
    pub(crate) packs: &'a [&'a Vec<u32>],
    pub(crate) groups: &'a Groups,
    pub(crate) events: &'a mut dyn EventSink,
    pub(crate) stop: &'a AtomicBool,
}

/// What is computed from the samples, on an engine.
pub(crate) trait Workload<E: Engine> {
    /// What was read.
    type Inputs: TrainingInputs;
    /// The loss.
    type Objective: Objective;

    /// The loss.
    fn objective(&self) -> &Self::Objective;

    /// Samples joined into a pack. Called for the packs of a step, or of an evaluation, in the order in which they were
    /// prepared.
    fn pack(
        &mut self,
        data: &DataOf<E, Self>,
        split: Split,
        samples: &[u32],
    ) -> Result<PackOf<E, Self>, BatchError>;

    /// Before the first step, with the weights as they were loaded; breaks when it was stopped.
    fn begin(
        &mut self,
        _engine: &mut E,
        _inputs: &Self::Inputs,
        _run: RunStart<'_>,
    ) -> Result<ControlFlow<()>, StageError> {
        Ok(ControlFlow::Continue(()))
    }

    /// Before the packs of a step, or of an evaluation, are made; breaks when it was stopped.
    fn prepare(
        &mut self,
        _engine: &mut E,
        _data: &DataOf<E, Self>,
        _coming: ComingPacks<'_>,
    ) -> Result<ControlFlow<()>, StageError> {
        Ok(ControlFlow::Continue(()))
    }

    /// Adds what follows from the metrics, whose names all have the prefix.
    fn derive_metrics(&self, _prefix: &str, _values: &mut BTreeMap<String, f64>) {}

    /// What the findings need of the head's answer to a pack of the evaluation.
    fn kept(&self, _pack: &PackOf<E, Self>, _output: &HeadOutput) -> Vec<f32> {
        Vec::new()
    }

    /// What the evaluation's steps `(samples, what was kept)`, those of all ranks, say beyond the objective's own
    /// metrics.
    fn evaluation_findings(
        &self,
        _data: &DataOf<E, Self>,
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
