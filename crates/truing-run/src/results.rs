//! What stages find out and leave in a run's folder as JSON, for people and for the report. Plain data.

mod classifier_evaluation;
mod evaluation;
mod interval;
mod reward_diagnostics;
mod selection;

pub use classifier_evaluation::{ClassifierEvaluation, DimensionEvaluation, LabelMetrics, ScoreEvaluation};
pub use evaluation::{Evaluation, GradedAnswer, Pipeline, PipelineStage};
pub use interval::ShareInterval;
pub use reward_diagnostics::{
    CalibrationBin, LengthAndReward, RewardDiagnostics, RewardEvaluation, SourceDiagnostics,
};
pub use selection::{
    Decision, DroppedRow, LayerCount, PromptDecision, SelectionLayer, SelectionSummary, TemplatePiece,
    TemplateRow,
};
