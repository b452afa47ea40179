//! Statistics on plain numbers: means and deviations, correlations, confidence intervals of shares, inter-annotator
//! agreement, Bradley-Terry strengths. No model, no file, no text.

pub mod bradley_terry;

mod agreement;
mod correlation;
mod interval;
mod moments;
mod normal;

pub use agreement::{Agreement, agreement};
pub use correlation::{pearson, ranks, spearman};
pub use interval::ShareInterval;
pub use moments::{mean_and_deviation, mean_and_sample_deviation};
pub use normal::normal_probability;
