//! Merging of models: several checkpoints of one architecture become one. The report (arXiv 2410.14940, section 2.4) merges
//! the checkpoints of single domains before reinforcement learning.
//!
//! A [`MergeRecipe`] says what is merged, in the names of mergekit. [`MergePlan::new`] opens the models' headers and checks
//! everything: a wrong name, shape, tokenizer or setting is found before any tensor is read. [`MergePlan::run`] then streams
//! one tensor after another, a few rows at a time, into a folder that is there when it is complete.
//!
//! A method is one file here, an implementation of `Rule`, and an entry in `METHODS` (`method.rs`):
//!
//! | file | methods |
//! |---|---|
//! | `linear.rs` | `linear` |
//! | `slerp.rs`, `multi_slerp.rs` | `slerp`, `multislerp` |
//! | `task_arithmetic.rs` | `task_arithmetic`, and the frame of the next four |
//! | `ties.rs` | `ties`, and the election of signs |
//! | `dare.rs` | `dare_linear`, `dare_ties` |
//! | `della.rs` | `della`, `della_linear` |
//! | `breadcrumbs.rs` | `breadcrumbs`, `breadcrumbs_ties` |
//! | `model_stock.rs` | `model_stock` |
//! | `passthrough.rs` | `passthrough` |
//!
//! Results do not depend on the number of threads: blocks are cut by shapes, sums are added in order, and random choices
//! follow from seed, tensor, model and row.

mod adapter;
mod breadcrumbs;
mod check;
mod dare;
mod della;
mod error;
mod gram;
mod input;
mod linear;
mod low_rank;
mod method;
mod model_stock;
mod multi_slerp;
mod open_models;
mod passthrough;
mod plan;
mod ranks;
mod recipe;
mod report;
mod rule;
mod run;
mod setting;
mod settings;
mod slerp;
mod slices;
mod sparsity;
mod stream;
mod task_arithmetic;
mod ties;
mod tokenizer;
mod vocabulary;

pub use error::MergeError;
pub use plan::MergePlan;
pub use recipe::{
    ByteSize, MergeModel, MergeRecipe, MergeSlice, Parameters, Rescale, SaveAdapter, SliceSource,
};
pub use report::{KeptShare, MergeReport, MergeSummary, MergedTensor, REPORT_FILE, Spread};
pub use rule::Figures;
pub use setting::{FilteredNumber, FilteredValue, Setting};

/// The names of all methods.
pub fn method_names() -> impl Iterator<Item = &'static str> {
    method::METHODS.iter().map(|method| method.name)
}
