//! What a run learns from labelled texts, on an encoder or a decoder.

use truing_eval::classifier::{ClassifierSpec, evaluate};
use truing_eval::held_out::HeldOutScores;
use truing_model::{Engine, HeadOutput};
use truing_train::{Classification, ClassificationPack, SequenceHead};
use truing_types::BatchError;

use super::inputs::{ClassifierInputs, LabelledData};
use crate::StageError;
use crate::training::held_out::{losses_of_items, share_of};
use crate::training::{EvaluationFindings, Split, Workload};

pub(super) struct ClassifierWorkload<'a> {
    inputs: &'a ClassifierInputs,
    objective: Classification,
}

impl<'a> ClassifierWorkload<'a> {
    pub(super) fn new(inputs: &'a ClassifierInputs) -> Self {
        Self { objective: inputs.spec.objective(inputs.model.head()), inputs }
    }

    /// The loss of each text.
    fn by_text(
        &self,
        data: &LabelledData,
        answered: &[(Vec<u32>, Vec<f32>)],
    ) -> Result<HeldOutScores, BatchError> {
        let mut shares = vec![None; data.targets.len()];
        for (samples, outputs) in answered {
            for (&sample, outputs) in samples.iter().zip(outputs.chunks_exact(self.objective.n_outputs())) {
                let values = outputs.to_vec();
                let output = match self.inputs.model.head() {
                    SequenceHead::LastTokenScores => HeadOutput { scores: values, ..HeadOutput::default() },
                    SequenceHead::Vectors { .. } => HeadOutput { vectors: values, ..HeadOutput::default() },
                };
                shares[sample as usize] = share_of(&self.objective, &data.pack(&[sample])?, &output);
            }
        }
        Ok(losses_of_items(&self.objective, HeldOutScores::LOSS, &shares))
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
            // The packs were made of the same texts before.
            held_out: self.by_text(data, answered).into_iter().collect(),
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
