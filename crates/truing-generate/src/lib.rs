//! Decoding with a model in this process: sampling, stop texts, and a chat that keeps its cache between turns.
//!
//! [`LocalChat`] is what others use; it is a [`truing_types::ChatModel`]. Underneath, [`Session`] keeps one
//! running sequence in an engine's cache and [`generate`] draws tokens from it. [`sample`] draws many completions side
//! by side, for training. Nothing here knows a device,
//! a reward or a terminal.

mod batch;
mod decoding;
mod error;
mod local_chat;
mod sampling;
mod stop;
mod thoughts;

pub use batch::{SampleRequest, SampledCompletion, SampledIds, end_tokens, excluded_tokens, sample};
pub use decoding::{Generated, Session, generate};
pub use error::GenerateError;
pub use local_chat::{LocalChat, LocalReply};
pub use sampling::{DrawnToken, Sampler};
pub use stop::StopTexts;
pub use thoughts::{mark_tokens, marks_of, opened_thought};
