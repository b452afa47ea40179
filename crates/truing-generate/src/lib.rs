//! Samplers and decoding; implements ChatModel.
