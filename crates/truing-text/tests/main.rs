//! Golden renderings and token ids made with transformers (see `golden/make.py`), loss spans, streaming.

mod gguf;
mod golden;
mod spans;
mod stream;
mod support;
mod templates;
mod tokenizers;
