//! Tokenizer, chat templates, loss spans.
