//! A reward, or why there is none. A reward that could not be computed is never 0.

use serde::{Deserialize, Serialize};

/// Why a completion has no reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnscoredReason {
    /// The row lacks what the reward needs: a reference answer, tests, instructions.
    MissingReference,
    /// The row has it, but it makes no sense.
    BadReference,
    /// The completion holds no answer that could be read, where that is not simply a wrong answer.
    Unparsed,
    /// It took too long or too much.
    LimitReached,
    /// The judge failed or answered out of format.
    JudgeFailed,
    /// The judge will answer nothing more: its server refuses the key, the model or the account.
    JudgeRefused,
    /// Nothing to run untrusted code in.
    NoSandbox,
    /// A rollout server gave no completion that can be trained on.
    RolloutFailed,
    /// The reward itself broke.
    Failed,
}

impl UnscoredReason {
    /// The name in metrics, as it is serialised.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingReference => "missing_reference",
            Self::BadReference => "bad_reference",
            Self::Unparsed => "unparsed",
            Self::LimitReached => "limit_reached",
            Self::JudgeFailed => "judge_failed",
            Self::JudgeRefused => "judge_refused",
            Self::NoSandbox => "no_sandbox",
            Self::RolloutFailed => "rollout_failed",
            Self::Failed => "failed",
        }
    }
}

/// A completion without a reward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Unscored {
    /// The kind, for counting.
    pub reason: UnscoredReason,
    /// What happened, for a person.
    pub detail: String,
}

impl Unscored {
    /// Pairs a reason with what happened.
    #[must_use]
    pub fn new(reason: UnscoredReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
