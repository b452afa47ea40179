//! Between conversations and tokens: the tokenizer, chat templates, and which tokens carry loss.
//!
//! [`ChatRenderer`] is what stages use. It renders a row once, tokenizes the text once, and finds the tokens
//! to train on by the bytes they cover. Nothing here knows a tensor.
//!
//! Loss rests on what the assistant says and on the token that ends its turn, and on nothing else: not on the
//! header before it, nor on the newline after it. Where a template marks the assistant's text with
//! `{% generation %}` the marks are believed; else each turn's place is found by rendering beginnings of the
//! conversation, or with a mark in place of the content, and every step is checked against the text. A turn
//! that cannot be found is an error. A token that covers any byte of a turn belongs to it, as in transformers.
//!
//! What the template does not show of a conversation is a [`RenderNote::NotShown`]; it is found by rendering the
//! conversation with and without it.
//!
//! The text of a special token inside a message becomes that token, as in transformers; a
//! [`RenderNote::SpecialTokenInContent`] says so.

mod error;
pub mod gguf;
mod omissions;
mod padding;
mod renderer;
mod sentence;
mod spans;
mod stream;
mod template;
mod tokenizer;
pub mod tool_calls;

pub use error::TextError;
pub use gguf::GgufVocabulary;
pub use omissions::Omission;
pub use renderer::{ChatRenderer, RenderNote, RenderedSample, TokenPiece, WithoutLoss};
pub use sentence::{SentenceTokenizer, SentenceTokens};
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, RenderOptions, RenderedText};
pub use tokenizer::{SpecialTokens, TokenSpans, Tokenizer};
