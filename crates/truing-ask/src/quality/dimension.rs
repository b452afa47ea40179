//! What prompts are compared on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a prompt is judged by (report 3.1.3; the definitions are ours).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Whether the request is clear.
    Clarity,
    /// Whether the request serves a real need.
    Practicality,
    /// How demanding it is to answer.
    Complexity,
    /// How unusual it is.
    Novelty,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Clarity, Self::Practicality, Self::Complexity, Self::Novelty];

    /// The name in replies and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clarity => "clarity",
            Self::Practicality => "practicality",
            Self::Complexity => "complexity",
            Self::Novelty => "novelty",
        }
    }

    /// The definition that the judge's prompt gives.
    #[must_use]
    pub fn definition(self) -> &'static str {
        match self {
            Self::Clarity => {
                "which prompt states more clearly what is wanted (content, audience, format) and includes \
                 all the material that the task needs"
            }
            Self::Practicality => "which prompt is closer to a real need at work, in study or in daily life",
            Self::Complexity => {
                "which prompt needs more to be answered well: knowledge, reasoning in several steps, \
                 constraints to satisfy"
            }
            Self::Novelty => {
                "which prompt is less common in its subject, its perspective or its requirements"
            }
        }
    }
}

/// How dimensions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// One call for all dimensions.
    #[default]
    Together,
    /// One call per dimension: more calls, but one dimension does not influence the judgement of another.
    Separate,
}
