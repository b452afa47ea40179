//! Training of a text encoder on a fixed set of samples, whatever is learnt from them: steps, evaluations, checkpoints,
//! the saved model. A stage brings its settings, the lengths of its samples and a workload: how samples become packs of
//! texts, and what is learnt from them. It is to encoders what [`training`](crate::training) is to decoders; deviation
//! from sentence-transformers' trainer: no dropout, so that a step is a function of weights and data.

mod plan;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;

use truing_data::SourceRange;
use truing_eval::classifier::ClassifierEvaluation;
use truing_model::{EncoderFiles, SaveDtype, TrainableSpec};
use truing_run::SkippedRow;
use truing_run::folder::DecisiveOf;
use truing_store::RunInputs;
use truing_text::Tokenizer;
use truing_train::{EncoderObjective, OptimizerConfig, ScheduleKind};

use crate::StageError;

pub use plan::EncoderPlan;
pub(crate) use run::run;

/// What every run of an encoder is told, whatever recipe it stands in.
#[derive(Debug, Clone)]
pub(crate) struct EncoderSettings {
    pub(crate) output_dir: PathBuf,
    /// The whole recipe as TOML.
    pub(crate) recipe: String,
    /// The settings of a recipe's text that decide the weights.
    pub(crate) decisive_of: DecisiveOf,
    pub(crate) seed: u64,
    pub(crate) num_train_epochs: f64,
    pub(crate) max_steps: Option<u64>,
    pub(crate) step_size: StepSize,
    pub(crate) learning_rate: f64,
    pub(crate) lr_scheduler_type: ScheduleKind,
    pub(crate) warmup_ratio: f64,
    pub(crate) warmup_steps: Option<u64>,
    pub(crate) min_lr_ratio: f64,
    pub(crate) decay_ratio: f64,
    pub(crate) optimizer: OptimizerConfig,
    pub(crate) trainable: TrainableSpec,
    pub(crate) eval_steps: Option<u64>,
    pub(crate) eval_on_start: bool,
    pub(crate) save_steps: Option<u64>,
    pub(crate) save_total_limit: usize,
    pub(crate) keep_best: bool,
    pub(crate) load_best_model_at_end: bool,
    pub(crate) logging_steps: u64,
    pub(crate) save_dtype: SaveDtype,
    pub(crate) threads: Option<usize>,
    pub(crate) memory_gib: Option<f64>,
}

/// How many samples an optimiser step has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepSize {
    /// This many.
    Samples(usize),
    /// As many as hold this many tokens.
    Tokens(u64),
}

/// Samples as the planner sees them.
#[derive(Debug)]
pub(crate) struct SampleLengths {
    /// What one is called: `triplet`, `text`.
    pub(crate) unit: &'static str,
    /// Tokens of each sample that is learnt from, over all its texts.
    pub(crate) train: Vec<u64>,
    /// Of each that is evaluated on; empty for none.
    pub(crate) eval: Vec<u64>,
    /// The sources of the first, each a range of samples.
    pub(crate) sources: Vec<SourceRange>,
    /// Texts that lost their end.
    pub(crate) n_cut: usize,
}

/// What is loaded and written besides the samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderParts<'a> {
    pub(crate) model: &'a EncoderFiles,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) record: &'a RunInputs,
    /// Rows that were left out, of all data.
    pub(crate) skipped: &'a [SkippedRow],
}

/// What an evaluation found out.
#[derive(Debug, Default)]
pub(crate) struct EncoderFindings {
    /// More metrics, by name.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// For the run's file of evaluations.
    pub(crate) evaluation: Option<ClassifierEvaluation>,
}

/// The packs of a workload.
pub(crate) type PackOf<W> = <<W as EncoderWorkload>::Objective as EncoderObjective>::Pack;

/// What is learnt from the samples.
pub(crate) trait EncoderWorkload {
    /// Samples.
    type Data;
    /// The loss.
    type Objective: EncoderObjective;

    /// The loss.
    fn objective(&self) -> &Self::Objective;

    /// What is learnt from.
    fn train(&self) -> &Self::Data;

    /// What is evaluated on, if anything.
    fn eval(&self) -> Option<&Self::Data>;

    /// Samples joined into a pack.
    fn pack(&self, data: &Self::Data, samples: &[u32]) -> Result<PackOf<Self>, StageError>;

    /// What the findings need of the values of a step of the evaluation.
    fn kept(&self, _values: Vec<f32>) -> Vec<f32> {
        Vec::new()
    }

    /// What the evaluation's steps `(samples, what was kept)`, those of all ranks, say beyond the objective's own metrics.
    fn evaluation_findings(&self, _loss: f64, _outputs: &[(Vec<u32>, Vec<f32>)]) -> EncoderFindings {
        EncoderFindings::default()
    }

    /// Files that the saved model has besides weights, configuration and tokenizer.
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        Ok(Vec::new())
    }
}
