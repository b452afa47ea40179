//! What a recipe for a language model names on disk: the model's files, and the data to train and evaluate on.

use std::iter;

use truing_data::{Dataset, HeldOut, ResponseDataset, SourceConfig};
use truing_model::ModelFiles;
use truing_run::samples::RowReader;
use truing_run::{DataReport, RunError, SkippedRow};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::Seed;

use super::setup::{self, Opened};
use super::{ModelToTrain, TrainingConfig, TrainingData, TrainingInputs};
use crate::StageError;

/// Everything a plan looks at.
#[derive(Debug)]
pub struct DecoderInputs<D> {
    /// The model, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// What is trained on.
    pub train: D,
    /// What is evaluated on, if anything.
    pub eval: Option<D>,
    /// What became of the rows of `train`.
    pub train_report: DataReport,
    /// What became of the rows of `eval`, where they are files of their own.
    pub eval_report: Option<DataReport>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

/// Data of which a part can be held out.
pub trait DivisibleData: TrainingData + Sized {
    /// Training part and held-out part.
    #[must_use]
    fn split(&self, held_out: HeldOut, seed: Seed) -> (Self, Self);

    /// Digest of everything that decides what is trained on.
    fn digest(&self) -> Digest;
}

impl DivisibleData for Dataset {
    fn split(&self, held_out: HeldOut, seed: Seed) -> (Self, Self) {
        Dataset::split(self, held_out, seed)
    }

    fn digest(&self) -> Digest {
        Dataset::digest(self)
    }
}

impl DivisibleData for ResponseDataset {
    fn split(&self, held_out: HeldOut, seed: Seed) -> (Self, Self) {
        ResponseDataset::split(self, held_out, seed)
    }

    fn digest(&self) -> Digest {
        ResponseDataset::digest(self)
    }
}

impl<D: DivisibleData> DecoderInputs<D> {
    /// Opens the model, and reads the data with `read`, which is given the sources, their role, and what messages call
    /// them.
    pub(crate) fn open(
        config: &TrainingConfig,
        wanted: Opened,
        options: RenderOptions,
        mut read: impl FnMut(
            &RowReader<'_>,
            &[SourceConfig],
            &'static str,
            &str,
        ) -> Result<(D, DataReport), RunError>,
    ) -> Result<Self, StageError> {
        let (model, renderer) = setup::open(config, wanted, options)?;
        let reader = setup::row_reader(config, &renderer, model.spec.vocab_size);
        let (mut train, train_report) = read(&reader, &config.data, "data", "the training data")?;
        let (mut eval, mut eval_report) = (None, None);
        if config.evaluation.eval_fraction > 0.0 {
            let split = train.split(HeldOut::Fraction(config.evaluation.eval_fraction), Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| !held_out.lengths().is_empty());
        } else if !config.eval_data.is_empty() {
            let found = read(&reader, &config.eval_data, "evaluation", "the evaluation data")?;
            (eval, eval_report) = (Some(found.0), Some(found.1));
        }
        let eval_files = eval_report.as_ref().map(|report| &report.files);
        let record = setup::record(config, &model, &train_report.files, eval_files)?;
        Ok(Self { model, renderer, train, eval, train_report, eval_report, record })
    }
}

impl<D: DivisibleData> TrainingInputs for DecoderInputs<D> {
    type Data = D;

    fn model(&self) -> ModelToTrain<'_> {
        ModelToTrain::Decoder { files: &self.model, renderer: &self.renderer }
    }

    fn train(&self) -> &D {
        &self.train
    }

    fn eval(&self) -> Option<&D> {
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
