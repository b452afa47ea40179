//! A run made visible: TensorBoard events during the run, one self-contained HTML page at its end.
//!
//! Everything is read from the run directory; live processes are not known here.
//!
//! | to do | use |
//! |---|---|
//! | write the page of a run, of an evaluation, of a selection | [`write_report`] |
//! | write the coverage page of a prompt selection | [`write_coverage`] |
//! | write the page of two evaluations on benchmarks | [`write_comparison`] |
//! | write the page of a pipeline of stages | [`write_pipeline`] |
//! | look at a run in a program | [`RunRecord`] |
//! | record scalars for TensorBoard | [`tensorboard::EventFile`] |

mod charts;
mod coverage;
mod error;
mod evaluation;
mod examples;
mod health;
mod html;
pub mod names;
mod outcome;
mod pipeline;
mod run_record;
pub mod tensorboard;

pub use coverage::{CoverageLimits, CoverageRecord, render_coverage, write_coverage};
pub use error::ReportError;
pub use evaluation::write_comparison;
pub use examples::{RolloutExample, RolloutExamples};
pub use html::{render, write_report};
pub use pipeline::{
    PipelineRecord, PipelineStageFate, PipelineStageRecord, PipelineStageState, render_pipeline,
    write_pipeline,
};
pub use run_record::{MetricsRow, PlanPart, PlanRecord, RunRecord, StageRecord, Unfinished};
