//! Algorithms as presets of the settings, and the choices that they make.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_train::{AdvantageEstimator, RatioLevel, Scale};

/// Presets. Each fills in `beta`, `kl`, `kl_placement`, `advantage_estimator`, `scale_rewards`, `epsilon`,
/// `epsilon_high`, `loss_type`, `importance_sampling_level`, `dynamic_sampling` and `mask_truncated_completions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// The Baichuan report's GRPO (arXiv 2410.14940, 2.1): exact KL over the reference's 500 most likely tokens, in the
    /// token-level reward.
    #[default]
    Report,
    /// DeepSeekMath's GRPO (arXiv 2402.03300): k3 estimate of the KL, in the loss.
    Grpo,
    /// RLOO (arXiv 2402.14740): leave-one-out baseline, KL in the reward.
    Rloo,
    /// REINFORCE++ with baseline (arXiv 2501.03262): mean of the group, standard deviation of the batch.
    ReinforcePlusPlus,
    /// Dr. GRPO (arXiv 2503.20783): no division by the standard deviation or the length, no KL.
    DrGrpo,
    /// DAPO (arXiv 2503.14476): clip-higher, mean over tokens, dynamic sampling, no KL.
    Dapo,
    /// GSPO (arXiv 2507.18071): one probability ratio per completion.
    Gspo,
}

/// Estimator of the KL divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlKind {
    /// The exact sum over the reference's `kl_top_k` most likely tokens.
    ExactTopK,
    /// The k3 estimator on the sampled token.
    K3,
    /// No KL. No reference model is loaded.
    None,
}

/// Where the KL enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlPlacement {
    /// In the reward of each token.
    Reward,
    /// In the loss.
    Loss,
}

/// The gradient of an exact KL in the reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlGradient {
    /// The KL counts in the reward and is also differentiated at each token. Together this is the exact gradient of the
    /// objective.
    #[default]
    Full,
    /// The KL counts in the reward only.
    RewardOnly,
}

/// How the losses of the tokens are averaged, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over the tokens of each completion, then over completions.
    Grpo,
    /// Mean over all tokens of the step.
    Dapo,
    /// Sum over the tokens of each completion divided by `max_completion_length`, then the mean over completions.
    DrGrpo,
}

/// What a preset says.
pub(super) struct Preset {
    pub(super) beta: f64,
    pub(super) kl: KlKind,
    pub(super) placement: KlPlacement,
    pub(super) estimator: AdvantageEstimator,
    pub(super) scale: Scale,
    pub(super) clip: (f64, f64),
    pub(super) loss_type: LossType,
    pub(super) level: RatioLevel,
    pub(super) dynamic_sampling: bool,
    pub(super) masks_truncated: bool,
}

impl Algorithm {
    pub(super) fn preset(self) -> Preset {
        let report = Preset {
            beta: 0.04,
            kl: KlKind::ExactTopK,
            placement: KlPlacement::Reward,
            estimator: AdvantageEstimator::GroupNormalised,
            scale: Scale::PopulationDeviation,
            clip: (0.2, 0.2),
            loss_type: LossType::Grpo,
            level: RatioLevel::Token,
            dynamic_sampling: false,
            masks_truncated: false,
        };
        let without_kl = |preset: Preset| Preset { beta: 0.0, kl: KlKind::None, ..preset };
        match self {
            Self::Report => report,
            Self::Grpo => Preset {
                kl: KlKind::K3,
                placement: KlPlacement::Loss,
                scale: Scale::SampleDeviation,
                ..report
            },
            Self::Rloo => Preset { estimator: AdvantageEstimator::LeaveOneOut, scale: Scale::None, ..report },
            Self::ReinforcePlusPlus => {
                Preset { estimator: AdvantageEstimator::NormalisedOverBatch, ..report }
            }
            Self::DrGrpo => without_kl(Preset { scale: Scale::None, loss_type: LossType::DrGrpo, ..report }),
            Self::Dapo => without_kl(Preset {
                clip: (0.2, 0.28),
                loss_type: LossType::Dapo,
                dynamic_sampling: true,
                masks_truncated: true,
                scale: Scale::SampleDeviation,
                ..report
            }),
            Self::Gspo => without_kl(Preset {
                clip: (3e-4, 4e-4),
                level: RatioLevel::Sequence,
                scale: Scale::SampleDeviation,
                ..report
            }),
        }
    }
}
