//! Supervised fine-tuning (report 2.1 and 2.2): packing always on, the loss a mean over all loss tokens of the
//! optimiser step, k-layer checkpointing with k from a byte budget.
//!
//! [`TrainingConfig`] is what was typed, [`SftInputs`] what it names on disk, [`TrainingPlan`] every decision that can
//! be made before work starts, and [`run`] the work.

mod inputs;

use std::sync::atomic::AtomicBool;

use truing_data::Dataset;
use truing_train::Sft;
use truing_types::{BatchError, Communicator, EventSink, PackedBatch};

use crate::training::{self, Side, Surroundings, Workload};
use crate::{Probe, StageError};

pub use crate::training::{Layers, LoraConfig, Packed, Start, StepPacks};
pub use crate::training::{TrainingConfig, TrainingOutcome, TrainingPlan};
pub use inputs::{DataReport, SftInputs};

/// Samples are packs as they are.
struct FineTuning;

impl Workload for FineTuning {
    type Inputs = SftInputs;
    type Objective = Sft;

    fn objective(&self) -> &Sft {
        &Sft
    }

    fn pack(&self, data: &Dataset, _side: Side, samples: &[u32]) -> Result<PackedBatch, BatchError> {
        data.batch(samples)
    }
}

/// Runs the plan. `stop` is looked at after every pack: a set flag saves a checkpoint and ends the run.
///
/// # Errors
/// When the folder cannot be used, numbers break (naming step and rows), or the disk fails.
pub fn run(
    plan: &TrainingPlan,
    inputs: &SftInputs,
    start: Start,
    communicator: &dyn Communicator,
    probe: &dyn Probe,
    events: &mut dyn EventSink,
    stop: &AtomicBool,
) -> Result<TrainingOutcome, StageError> {
    training::run(plan, inputs, FineTuning, start, Surroundings { communicator, probe, events, stop })
}
