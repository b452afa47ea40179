//! Evaluation: how right trained models are, in numbers, with the records that runs keep of it for the report.
//!
//! | what | module |
//! |---|---|
//! | classifiers and scorers: what their outputs mean, accuracy, F1, confusion, calibration | [`classifier`] |
//! | reward models: score scales, accuracy by source, calibration, length bias | [`reward`] |
//! | answers that a program grades | [`checks`] |
//! | a model between the stages of a pipeline | [`pipeline`] |
//! | evaluation sets that ship with the program | [`bundled`] |

pub mod bundled;
pub mod checks;
pub mod classifier;
pub mod pipeline;
pub mod reward;

mod interval;
