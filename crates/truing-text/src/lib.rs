//! Between conversations and tokens: the tokenizer, chat templates, and which tokens carry loss.
//!
//! [`ChatRenderer`] is what stages use. It renders a row once, tokenizes the text once, and finds the tokens
//! that are to be learnt by the bytes they cover. Nothing here knows a tensor.

mod error;
pub mod gguf;
mod renderer;
mod spans;
mod stream;
mod template;
mod tokenizer;

pub use error::TextError;
pub use gguf::GgufVocabulary;
pub use renderer::{ChatRenderer, RenderNote, RenderedSample, TokenPiece, WithoutLoss};
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, RenderOptions, RenderedText};
pub use tokenizer::{SpecialTokens, TokenSpans, Tokenizer};
