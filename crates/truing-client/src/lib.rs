//! Language models behind a server that speaks OpenAI's chat completions, as [`ChatModel`](truing_types::ChatModel)s;
//! and a cache of replies for any model, so that what was paid for once is never asked again.
//!
//! | to do | use |
//! |---|---|
//! | ask a server, one request or many side by side | [`OpenAiClient`] |
//! | send images or audio beside the text | [`Message::parts`](truing_types::Message::parts) |
//! | never ask the same twice, record and replay | `CachedChat` over a `ReplyCache` (feature `cache`, on by default) |
//! | tell what was asked and what it cost | [`Counts`] |
//!
//! Not here: what is asked and what a reply means (the judge of `truing-reward`, the stages), models in this process,
//! other protocols than chat completions. Key, proxy and clock are handed in with [`Access`]; nothing here reads the
//! environment.

#[cfg(feature = "cache")]
mod cache;
#[cfg(feature = "cache")]
mod cached;
mod client;
mod clock;
mod concurrency;
mod counts;
mod error;
mod exchange;
mod failure;
mod rate;
mod refusal;
mod request;
pub mod response;
mod retry;
mod settings;
mod tool_calls;

#[cfg(feature = "cache")]
pub use cache::ReplyCache;
#[cfg(feature = "cache")]
pub use cached::CachedChat;
pub use client::{OnText, OpenAiClient};
pub use clock::Clock;
pub use counts::{Counts, CountsSnapshot};
pub use error::{ClientError, FailureKind, FailureScope};
pub use request::{Fingerprint, canonical_request};
pub use settings::{Access, ApiKey, CacheMode, ClientSettings, ProxyAddress, TokenLimitField};
