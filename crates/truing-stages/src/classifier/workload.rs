//! What a run learns from labelled texts, on an encoder or a decoder.

use truing_eval::classifier::{ClassifierSpec, evaluate};
use truing_model::{Engine, HeadOutput};
use truing_train::{Classification, ClassificationPack};
use truing_types::BatchError;

use super::inputs::{ClassifierInputs, LabelledData};
use crate::StageError;
use crate::training::{EvaluationFindings, Split, Workload};

pub(super) struct ClassifierWorkload<'a> {
    inputs: &'a ClassifierInputs,
    objective: Classification,
}

impl<'a> ClassifierWorkload<'a> {
    pub(super) fn new(inputs: &'a ClassifierInputs) -> Self {
        Self { objective: inputs.spec.objective(inputs.model.head()), inputs }
    }
}

impl<E: Engine> Workload<E> for ClassifierWorkload<'_> {
    type Inputs = ClassifierInputs;
    type Objective = Classification;

    fn objective(&self) -> &Classification {
        &self.objective
    }

    fn pack(
        &mut self,
        data: &LabelledData,
        _split: Split,
        samples: &[u32],
    ) -> Result<ClassificationPack, BatchError> {
        data.pack(samples)
    }

    fn kept(&self, _pack: &ClassificationPack, output: &HeadOutput) -> Vec<f32> {
        self.inputs.model.head().values(output).to_vec()
    }

    fn evaluation_findings(
        &self,
        data: &LabelledData,
        loss: f64,
        answered: &[(Vec<u32>, Vec<f32>)],
    ) -> EvaluationFindings {
        let evaluation = evaluate(&self.inputs.spec, &data.targets, answered, loss);
        EvaluationFindings {
            metrics: evaluation.metrics(),
            evaluation: Some(evaluation),
            ..EvaluationFindings::default()
        }
    }

    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        Ok(vec![(ClassifierSpec::FILE_NAME.to_owned(), self.inputs.spec.to_json()?)])
    }

    fn output_names(&self) -> Vec<String> {
        self.inputs.spec.output_names()
    }
}
