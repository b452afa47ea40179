//! A response that is compared, rated, marked or edited.

use serde_json::Value;
use truing_store::Digest;

/// A response of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The text, shown and stored as it is.
    pub text: String,
    /// Score of a judge or reward model, where the row has one.
    pub score: Option<f64>,
    /// Digest of the text.
    pub digest: Digest,
    /// Which model wrote it, where the row says so.
    pub model: Option<Value>,
}
