//! Statistics on plain numbers: means and deviations, correlations, confidence intervals, trends, tests of differences,
//! what a number of items can resolve, parts of a variance, agreement and competence of annotators, Bradley-Terry
//! strengths. No model, no file, no text.

pub mod bradley_terry;

mod agreement;
mod bootstrap;
mod correlation;
mod dawid_skene;
mod distributions;
mod estimate;
mod interval;
mod kappa;
mod kendall;
mod krippendorff;
mod logistic;
mod means;
mod moments;
mod normal;
mod paired;
mod pass_at_k;
mod resolution;
mod selection;
mod spans;
mod variance;

pub use agreement::{Agreement, agreement};
pub use bootstrap::{Bootstrap, BootstrapEstimate, BootstrapKind, labels_needed, quantile, sample_of};
pub use correlation::{pearson, ranks, spearman};
pub use dawid_skene::{DawidSkene, dawid_skene};
pub use distributions::{normal_quantile, student_quantile, student_two_sided};
pub use estimate::{Estimate, PairedPasses};
pub use interval::ShareInterval;
pub use kappa::{KappaWeights, cohen_kappa, fleiss_kappa};
pub use kendall::kendall_w;
pub use krippendorff::{Level, krippendorff_alpha};
pub use logistic::{LogisticFit, Observation, fit_logistic};
pub use means::{
    Interval, MeanEstimate, clustered_mean, clustered_ratio, interval_of_equal_values, mean_bounds,
    mean_estimate,
};
pub use moments::{mean_and_deviation, mean_and_sample_deviation};
pub use normal::normal_probability;
pub use paired::{McNemar, PairedDifference, PairedInterval, holm, mcnemar, paired_difference};
pub use pass_at_k::pass_at_k;
pub use resolution::{Power, effective_items};
pub use selection::selection_optimism;
pub use spans::{Span, SpanOverlap, span_f1, span_overlap};
pub use variance::{VarianceComponents, variance_components};
