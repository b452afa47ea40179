//! What a run learns from labelled texts, on either kind of model.

use truing_eval::classifier::{ClassifierSpec, evaluate};
use truing_model::HeadOutput;
use truing_train::{Classification, ClassificationPack};
use truing_types::BatchError;

use super::inputs::{ClassifierInputs, DecoderInputs, LabelledData};
use crate::StageError;
use crate::encoder_training::{EncoderFindings, EncoderWorkload};
use crate::training::{EvaluationFindings, Side, Workload};

pub(super) struct ClassifierWorkload<'a> {
    inputs: &'a ClassifierInputs,
    objective: Classification,
}

impl<'a> ClassifierWorkload<'a> {
    pub(super) fn new(inputs: &'a ClassifierInputs) -> Self {
        Self { objective: inputs.spec.objective(), inputs }
    }

    fn own_files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        Ok(vec![(ClassifierSpec::FILE_NAME.to_owned(), self.inputs.spec.to_json()?)])
    }
}

impl<'a> Workload for ClassifierWorkload<'a> {
    type Inputs = DecoderInputs<'a>;
    type Objective = Classification;

    fn objective(&self) -> &Classification {
        &self.objective
    }

    fn pack(
        &self,
        data: &LabelledData,
        _side: Side,
        samples: &[u32],
    ) -> Result<ClassificationPack, BatchError> {
        data.pack(samples)
    }

    fn kept(&self, output: &HeadOutput) -> Vec<f32> {
        output.scores.clone()
    }

    fn evaluation_findings(
        &self,
        data: &LabelledData,
        loss: f64,
        answered: &[(&[u32], Vec<f32>)],
    ) -> EvaluationFindings {
        let evaluation = evaluate(&self.inputs.spec, &data.targets, answered, loss);
        EvaluationFindings {
            metrics: evaluation.metrics(),
            evaluation: Some(evaluation),
            ..EvaluationFindings::default()
        }
    }

    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        self.own_files()
    }

    fn output_names(&self) -> Vec<String> {
        self.inputs.spec.output_names()
    }
}

impl EncoderWorkload for ClassifierWorkload<'_> {
    type Data = LabelledData;
    type Objective = Classification;

    fn objective(&self) -> &Classification {
        &self.objective
    }

    fn train(&self) -> &LabelledData {
        &self.inputs.train
    }

    fn eval(&self) -> Option<&LabelledData> {
        self.inputs.eval.as_ref()
    }

    fn pack(&self, data: &LabelledData, samples: &[u32]) -> Result<ClassificationPack, StageError> {
        Ok(data.pack(samples)?)
    }

    fn kept(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn evaluation_findings(&self, loss: f64, outputs: &[(Vec<u32>, Vec<f32>)]) -> EncoderFindings {
        let Some(eval) = &self.inputs.eval else { return EncoderFindings::default() };
        let evaluation = evaluate(&self.inputs.spec, &eval.targets, outputs, loss);
        EncoderFindings { metrics: evaluation.metrics(), evaluation: Some(evaluation) }
    }

    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        self.own_files()
    }
}
