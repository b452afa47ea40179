//! Why rewards cannot be used.

use std::path::PathBuf;

use truing_types::RowOrigin;

/// A reward that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewardError {
    /// A setting that makes no sense.
    #[error("reward `{reward}`: `{key}` {reason}")]
    BadSetting {
        /// The kind.
        reward: &'static str,
        /// The setting.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A file of a setting that cannot be read.
    #[error("reward `{reward}`: `{key}` is {}: {reason}", .path.display())]
    UnreadFile {
        /// The kind.
        reward: &'static str,
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Code that a model wrote runs in a sandbox, which needs a binary of ours.
    #[error("reward `code`: no program was given that can start the sandbox")]
    NoSandboxProgram,
    /// Two rewards of one name would be one line of metrics.
    #[error("two rewards are called `{name}`; set `name` in one of them")]
    SameName {
        /// The name.
        name: String,
    },
    /// A row that a reward will not be able to score.
    #[error("{origin}: reward `{reward}`: {reason}")]
    BadRow {
        /// The row.
        origin: RowOrigin,
        /// The reward's name.
        reward: String,
        /// What is wrong.
        reason: String,
    },
    /// A weight that is 0 or not a finite number.
    #[error("reward `{name}`: `weight` is {weight}, expected a number other than 0")]
    BadWeight {
        /// The reward.
        name: String,
        /// Its weight.
        weight: String,
    },
}
