//! Classifiers and scorers of texts: what their outputs mean, the answers in them, and how right these are.

mod answer;
mod evaluation;
mod record;
mod spec;

pub use answer::{Answer, Prediction};
pub use evaluation::evaluate;
pub use record::{ClassifierEvaluation, DimensionEvaluation, LabelMetrics, ScoreEvaluation};
pub use spec::{ClassifierSpec, OutputSpec, PartSpec};
