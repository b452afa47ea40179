//! How prompts and completions given as strings are shown to the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a prompt and a completion given as strings are shown to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Render {
    /// As raw text.
    #[default]
    Raw,
    /// As a user turn and an assistant turn, through the chat template.
    Chat,
}
