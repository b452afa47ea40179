//! Decoding with a model in this process: continuous batching, stop texts, and a chat that keeps its cache between
//! turns.
//!
//! [`LocalChat`] is what others use; it is a [`truing_types::ChatModel`]. Underneath, [`Session`] keeps one
//! running sequence in an engine's cache and [`generate`] samples tokens from it. [`DecodingLoop`] decodes many
//! completions side by side; [`sample`] drives it for training. Nothing here knows a device, a reward or a terminal.

mod batch;
mod decoding;
mod error;
mod grammar;
mod job;
mod local_chat;
mod prefix_cache;
mod prompt_lookup;
mod replay;
mod running;
mod stop;
mod thoughts;

pub use batch::{
    DecodingLoop, DecodingOptions, Finished, PromptReading, SampleRequest, SampledIds, TokenSampled,
    end_tokens, excluded_tokens, sample,
};
pub use decoding::{Generated, Session, StepOptions, generate};
pub use error::GenerateError;
pub use grammar::{Grammar, GrammarSource, Grammars};
pub use job::{Job, SampledCompletion};
pub use local_chat::{LocalChat, LocalReply};
pub use prefix_cache::PROMPT_PIECE;
pub use prompt_lookup::DraftCounts;
pub use replay::{Replayed, replay};
pub use stop::StopTexts;
pub use thoughts::{mark_tokens, marks_of, opened_thought};
