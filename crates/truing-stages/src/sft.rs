//! Supervised fine-tuning (report 2.1 and 2.2): packing always on, the loss a mean over all loss tokens of the
//! optimiser step, k-layer checkpointing with k from a byte budget.
//!
//! [`SftConfig`] is what was typed, [`SftInputs`] what it names on disk, [`SftPlan`] every decision that can be
//! made before work starts, and [`run`] the work.

mod config;
mod inputs;
mod plan;
mod run;

pub use config::{Layers, LoraConfig, Packed, SftConfig};
pub use inputs::{DataReport, SftInputs};
pub use plan::{SftPlan, StepPacks};
pub use run::{SftOutcome, Start, run};
