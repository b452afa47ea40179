//! Evaluation: how right trained models are, in numbers, with the records that runs keep of it for the report.
//!
//! | what | module |
//! |---|---|
//! | classifiers and scorers: what their outputs mean, accuracy, F1, confusion, calibration | [`classifier`] |
//! | reward models: score scales, accuracy by source, calibration, length bias | [`reward`] |
//! | answers that a program grades | [`checks`] |
//! | the same held-out items in several evaluations of a run | [`held_out`] |
//! | a model between the stages of a pipeline | [`pipeline`] |
//! | evaluation sets that ship with the program | [`bundled`] |
//! | benchmarks: items, requests, scores, metrics | [`benchmarks`] |
//! | records of benchmarks, own and lm-evaluation-harness's | [`results`] |
//! | two runs compared | [`comparison`] |
//! | items that training data holds | [`contamination`] |

pub mod benchmarks;
pub mod bundled;
pub mod checks;
pub mod classifier;
pub mod comparison;
pub mod contamination;
pub mod held_out;
pub mod pipeline;
pub mod results;
pub mod reward;

mod interval;
