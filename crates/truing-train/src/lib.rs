//! Training, independent of algorithm and device: objectives, segments, the planner, schedules, the trainer and its
//! checkpoints. Nothing here knows users' files, terminals or devices.

pub mod advantages;
pub mod checkpoint;
pub mod cluster;
pub mod completion_columns;
pub mod completion_packs;
pub mod decoding_time;
pub mod gradients;
pub mod objectives;
pub mod planner;
pub mod schedule;
pub mod segments;
pub mod trainer;
pub mod verify;

mod error;

pub use advantages::{AdvantageEstimator, AdvantageOptions, KlInReward, Scale, ScoredRollout};
pub use checkpoint::{BestEvaluation, CheckpointError, ModelSaveOptions, TrainerState};
pub use decoding_time::Decoding;
pub use error::{Quantity, TrainError};
pub use gradients::{Measures, NonFinitePack, accumulate_gradients};
pub use objectives::{
    Aggregation, Classification, ClassificationPack, Distillation, DistillationPack, Embedding,
    EmbeddingDistance, EmbeddingLoss, KlInLoss, MseDenominator, Objective, OutputPart, PartKind, PartTarget,
    Policy, PolicyPack, PolicyPackKind, Preference, PreferenceLoss, PreferencePack, RatioLevel,
    ResponseLogProbs, ResponsePair, Reward, RewardPack, RewardPair, SequenceHead, Sft, Target, TrainingPack,
    TripletGroups, TripletPack, TripletVectors, WeightedSum, response_log_probs,
};
pub use planner::{
    Amount, LayersPerSegment, MemoryPart, MemoryPlan, PlanError, PlanRow, SegmentChoice, StepFlops,
    StepShape, plan_segments,
};
pub use schedule::{Schedule, ScheduleKind};
pub use segments::SegmentPlan;
pub use trainer::{OptimizerConfig, StepOutcome, Trainer};
