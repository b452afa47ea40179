//! Tokens, drafts and times of a request.

use serde_json::{Value, json};
use truing_generate::DraftCounts;

/// Tokens, drafts and times of a request, for the reply, the access log and the metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) cached_tokens: usize,
    pub(crate) drafts: DraftCounts,
    pub(crate) first_token_s: Option<f64>,
    pub(crate) finish_reasons: Vec<&'static str>,
}

impl Usage {
    /// OpenAI's object.
    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        })
    }
}
