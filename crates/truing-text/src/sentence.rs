//! Texts for an encoder: the special tokens that its tokenizer puts around them, and a longest length at which they are
//! cut. Truncation and padding that tokenizer.json may ask for are not heeded: the length is the model's, and nothing
//! here is padded.

use rayon::prelude::*;
use tokenizers::{Tokenizer as LibraryTokenizer, TruncationParams};
use truing_types::TokenId;

use crate::{TextError, Tokenizer};

/// The tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SentenceTokens {
    /// Token ids with the special ones, such as `[CLS]` and `[SEP]` `[n_tokens]`.
    pub tokens: Vec<TokenId>,
    /// Whether the text was longer and lost its end.
    pub is_cut: bool,
}

/// Whole texts to tokens, as sentence-transformers makes them.
#[derive(Debug, Clone)]
pub struct SentenceTokenizer {
    library: LibraryTokenizer,
    is_lower_cased: bool,
}

impl SentenceTokenizer {
    /// Texts of at most `max_tokens` tokens, special ones included. With `is_lower_cased` they are lower-cased before
    /// the tokenizer, which may do so itself, sees them.
    ///
    /// # Errors
    /// When `max_tokens` leaves no room beside the special tokens.
    pub fn new(tokenizer: &Tokenizer, max_tokens: usize, is_lower_cased: bool) -> Result<Self, TextError> {
        let bad = |reason: String| TextError::BadTokenizer { reason };
        let mut library = tokenizer.library_clone();
        let n_special = library.encode_fast("", true).map_err(|error| bad(error.to_string()))?.len();
        if max_tokens <= n_special {
            return Err(bad(format!(
                "at most {max_tokens} tokens per text leave no room beside the {n_special} special tokens"
            )));
        }
        let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        library.with_truncation(Some(truncation)).map_err(|error| bad(error.to_string()))?;
        Ok(Self { library, is_lower_cased })
    }

    /// Tokens of a text.
    ///
    /// # Errors
    /// When the library cannot tokenize it.
    pub fn encode(&self, text: &str) -> Result<SentenceTokens, TextError> {
        let lower_cased = self.is_lower_cased.then(|| text.to_lowercase());
        let text = lower_cased.as_deref().unwrap_or(text);
        let encoding = self
            .library
            .encode_fast(text, true)
            .map_err(|error| TextError::Encode { reason: error.to_string() })?;
        Ok(SentenceTokens {
            tokens: encoding.get_ids().to_vec(),
            is_cut: !encoding.get_overflowing().is_empty(),
        })
    }

    /// Tokens of many texts, in their order, on all threads.
    ///
    /// # Errors
    /// The first text's, when one cannot be tokenized.
    pub fn encode_many<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<SentenceTokens>, TextError> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }
}
