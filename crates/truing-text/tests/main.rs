//! Golden renderings and token ids made with transformers (see `golden/make.py`), loss spans, streaming.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot set up should fail and say why"
)]

mod gguf;
mod golden;
mod omissions;
mod padding;
mod sentence;
mod spans;
mod stream;
mod support;
mod templates;
mod tokenizers;
