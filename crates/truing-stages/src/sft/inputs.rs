//! What a recipe names on disk: the model's files, and the data read, rendered and tokenized.

use std::iter;

use truing_data::{Dataset, HeldOut};
use truing_model::ModelFiles;
use truing_run::{DataReport, SkippedRow};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{EventSink, Seed, StageName};

use crate::StageError;
use crate::training::setup::{self, Opened};
use crate::training::{ModelToTrain, TrainingConfig, TrainingInputs};

/// Everything a plan looks at.
#[derive(Debug)]
pub struct SftInputs {
    /// The model, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// What is trained on.
    pub train: Dataset,
    /// What is evaluated on, if anything.
    pub eval: Option<Dataset>,
    /// What became of the rows of `train`.
    pub train_report: DataReport,
    /// What became of the rows of `eval`, where they are files of their own.
    pub eval_report: Option<DataReport>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

impl SftInputs {
    /// Opens the model and reads, renders and tokenizes the data. Problems of single rows are also emitted as
    /// warnings.
    ///
    /// # Errors
    /// When the model is unusable, or a row is and `on_bad_row` is `error`.
    pub fn load(
        config: &TrainingConfig,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        config.check_stage(StageName::Sft)?;
        let (model, renderer) = setup::open(config, Opened::LanguageModel, options)?;
        let reader = setup::row_reader(config, &renderer, model.spec.vocab_size);
        let (mut train, train_report) = reader.samples(&config.data, "data", "the training data", events)?;
        let (mut eval, mut eval_report) = (None, None);
        if config.evaluation.eval_fraction > 0.0 {
            let split = train.split(HeldOut::Fraction(config.evaluation.eval_fraction), Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| held_out.n_samples() > 0);
        } else if !config.eval_data.is_empty() {
            let found = reader.samples(&config.eval_data, "evaluation", "the evaluation data", events)?;
            (eval, eval_report) = (Some(found.0), Some(found.1));
        }
        let eval_files = eval_report.as_ref().map(|report| &report.files);
        let record = setup::record(config, &model, &train_report.files, eval_files)?;
        Ok(Self { model, renderer, train, eval, train_report, eval_report, record })
    }
}

impl TrainingInputs for SftInputs {
    type Data = Dataset;

    fn model(&self) -> ModelToTrain<'_> {
        ModelToTrain::Decoder { files: &self.model, renderer: &self.renderer }
    }

    fn train(&self) -> &Dataset {
        &self.train
    }

    fn eval(&self) -> Option<&Dataset> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn skipped(&self) -> Vec<&SkippedRow> {
        let reports = iter::once(&self.train_report).chain(&self.eval_report);
        reports.flat_map(|report| &report.skipped).collect()
    }

    fn samples_digest(&self) -> Option<Digest> {
        Some(self.train.digest())
    }
}
