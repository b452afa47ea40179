//! Reward models: the scales of their scores, and diagnostics on responses whose order, and perhaps scores, are known.

mod diagnostics;
mod normaliser;
mod record;

pub use diagnostics::{diagnose, pair_accuracies};
pub use normaliser::{Normalisation, ScoreNormaliser, SourceScale};
pub use record::{CalibrationBin, LengthAndReward, RewardDiagnostics, RewardEvaluation, SourceDiagnostics};
