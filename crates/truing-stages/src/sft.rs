//! Supervised fine-tuning (report 2.1 and 2.2): packing always on, the loss a mean over all loss tokens of the
//! optimiser step, k-layer checkpointing with k from a byte budget.
//!
//! [`TrainingConfig`] is what was typed, [`SftInputs`] what it names on disk, [`TrainingPlan`] every decision that can
//! be made before work starts, and [`SftStage`] the work.

mod inputs;

use std::collections::BTreeMap;

use truing_data::{Dataset, SourceConfig};
use truing_eval::held_out::{HeldOutScores, sums_of_samples};
use truing_model::{Engine, HeadOutput};
use truing_run::Ended;
use truing_run::source_names::metric_names;
use truing_train::Sft;
use truing_types::{BatchError, PackedBatch, StageName};

use crate::training::{self, DecoderStage, EvaluationFindings, Split, Workload, setup};
use crate::{PlanContext, RunContext, StageError, TrainedModel};

pub use crate::training::{LayersSetting, LoraConfig, PackingMode, RunPlan, StepPacks};
pub use crate::training::{TrainingConfig, TrainingPlan};
pub use inputs::SftInputs;
pub use truing_run::DataReport;

/// Samples are packs as they are.
struct FineTuning;

impl<E: Engine> Workload<E> for FineTuning {
    type Inputs = SftInputs;
    type Objective = Sft;

    fn objective(&self) -> &Sft {
        &Sft
    }

    fn pack(&mut self, data: &Dataset, _side: Split, samples: &[u32]) -> Result<PackedBatch, BatchError> {
        data.batch(samples)
    }

    fn kept(&self, _pack: &PackedBatch, output: &HeadOutput) -> Vec<f32> {
        output.tokens.log_probs.clone()
    }

    fn evaluation_findings(
        &self,
        data: &Dataset,
        _loss: f64,
        answered: &[(Vec<u32>, Vec<f32>)],
    ) -> EvaluationFindings {
        let losses = losses_by_sample(data, answered);
        let held_out = HeldOutScores {
            measure: HeldOutScores::LOSS.to_owned(),
            values: losses.iter().map(|&(loss, weight)| (weight > 0.0).then(|| loss / weight)).collect(),
            weights: losses.iter().map(|&(_, weight)| weight).collect(),
            ..HeldOutScores::default()
        };
        EvaluationFindings {
            metrics: losses_by_source(data, &losses),
            held_out: vec![held_out],
            ..EvaluationFindings::default()
        }
    }
}

/// Loss and weight of each sample, each summed over its loss tokens.
fn losses_by_sample(data: &Dataset, answered: &[(Vec<u32>, Vec<f32>)]) -> Vec<(f64, f64)> {
    let n_samples = data.sources().iter().map(|source| source.samples.end).max().unwrap_or(0);
    let mut sums = vec![(0.0, 0.0); n_samples];
    for (samples, log_probs) in answered {
        let weights: Vec<Vec<f32>> =
            samples.iter().map(|&sample_idx| data.sample(sample_idx as usize).loss_weights()).collect();
        let of_samples = sums_of_samples(weights.iter().map(Vec::as_slice), log_probs);
        for (&sample_idx, of_sample) in samples.iter().zip(of_samples) {
            if let Some(sum) = sums.get_mut(sample_idx as usize) {
                *sum = of_sample;
            }
        }
    }
    sums
}

/// Where there are several sources: the loss of each, and their mean, in which a small source counts as much as a large
/// one.
fn losses_by_source(data: &Dataset, losses: &[(f64, f64)]) -> BTreeMap<String, f64> {
    let names = metric_names(data.sources().iter().map(|source| &*source.name));
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for source in data.sources() {
        let name = names.get(&*source.name).map_or("", String::as_str);
        let of_source = losses.get(source.samples.clone()).unwrap_or_default();
        let sum = sums.entry(name).or_default();
        for (loss, weight) in of_source {
            *sum = (sum.0 + loss, sum.1 + weight);
        }
    }
    sums.retain(|_, (_, weight)| *weight > 0.0);
    if sums.len() < 2 {
        return BTreeMap::new();
    }
    let losses = sums.into_iter().map(|(source, (loss, weight))| (format!("loss/{source}"), loss / weight));
    let mut losses: BTreeMap<String, f64> = losses.collect();
    let mean = losses.values().sum::<f64>() / losses.len() as f64;
    losses.insert("mean_loss_of_sources".into(), mean);
    losses
}

/// Supervised fine-tuning. `stop` is looked at after every pack.
#[derive(Debug)]
pub struct SftStage;

impl DecoderStage for SftStage {
    const NAME: StageName = StageName::Sft;
    type Inputs = SftInputs;

    fn check(config: &TrainingConfig) -> Result<(), StageError> {
        config.check_stage(StageName::Sft)?;
        setup::check(config)?;
        setup::check_sources(config, SourceConfig::check)
    }

    fn load(config: &TrainingConfig, context: &mut PlanContext<'_>) -> Result<SftInputs, StageError> {
        SftInputs::load(config, context.render.clone(), context.events)
    }

    fn run<E: Engine + 'static>(
        plan: &TrainingPlan,
        inputs: &SftInputs,
        mut context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        training::run::<E, _, _>(plan, inputs, FineTuning, &mut context)
    }
}
