//! What a recipe on preferences names on disk: the model's files, and the responses.

use truing_data::{HeldOut, ResponseDataset};
use truing_model::ModelFiles;
use truing_run::samples::ResponseOptions;
use truing_run::{DataReport, SkippedRow};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{EventSink, Seed};

use crate::StageError;
use crate::training::setup::{self, Opened};
use crate::training::{ModelToTrain, TrainingConfig, TrainingInputs};

/// Everything a plan looks at.
#[derive(Debug)]
pub struct ResponseInputs {
    /// The model, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// What is trained on.
    pub train: ResponseDataset,
    /// What is evaluated on, if anything.
    pub eval: Option<ResponseDataset>,
    /// What became of the rows of `train`.
    pub train_report: DataReport,
    /// What became of the rows of `eval`, where they are files of their own.
    pub eval_report: Option<DataReport>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

impl ResponseInputs {
    pub(crate) fn load(
        config: &TrainingConfig,
        wanted: Opened,
        responses: &ResponseOptions,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        let (model, renderer) = setup::open(config, wanted, options)?;
        let reader = setup::row_reader(config, &renderer, model.spec.vocab_size);
        let (mut train, train_report) =
            reader.responses(&config.data, responses, "data", "the training data", events)?;
        let (mut eval, mut eval_report) = (None, None);
        if config.evaluation.eval_fraction > 0.0 {
            let split = train.split(HeldOut::Fraction(config.evaluation.eval_fraction), Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| !held_out.groups().is_empty());
        } else if !config.eval_data.is_empty() {
            let what = "the evaluation data";
            let found = reader.responses(&config.eval_data, responses, "evaluation", what, events)?;
            (eval, eval_report) = (Some(found.0), Some(found.1));
        }
        let eval_files = eval_report.as_ref().map(|report| &report.files);
        let record = setup::record(config, &model, &train_report.files, eval_files)?;
        Ok(Self { model, renderer, train, eval, train_report, eval_report, record })
    }
}

impl TrainingInputs for ResponseInputs {
    type Data = ResponseDataset;

    fn model(&self) -> ModelToTrain<'_> {
        ModelToTrain::Decoder { files: &self.model, renderer: &self.renderer }
    }

    fn train(&self) -> &ResponseDataset {
        &self.train
    }

    fn eval(&self) -> Option<&ResponseDataset> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn skipped(&self) -> Vec<&SkippedRow> {
        let reports = std::iter::once(&self.train_report).chain(&self.eval_report);
        reports.flat_map(|report| &report.skipped).collect()
    }

    fn samples_digest(&self) -> Option<Digest> {
        Some(self.train.digest())
    }
}
