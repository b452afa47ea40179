//! Tokens to text as they come, without ever showing half a character.

use truing_types::TokenId;

use crate::{TextError, Tokenizer};

/// Tokens of what was shown before that [`StreamDecoder::continuing`] looks at: more than one character has.
const CONTEXT_TOKENS: usize = 8;

/// Turns tokens into text one by one. The pieces joined are what [`Tokenizer::decode`] gives for all tokens.
///
/// A piece of text is the difference between two decodings that begin at the same, already decoded token, so
/// byte-level pieces of a character, byte fallback and SentencePiece's leading space all come out right.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// Special tokens that are shown all the same.
    kept: Vec<TokenId>,
    /// The tokens still needed.
    ids: Vec<TokenId>,
    /// Of these, how many have been shown.
    n_shown: usize,
}

impl StreamDecoder {
    /// A decoder at the beginning of a text.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer: tokenizer.clone(), skip_special, kept: Vec::new(), ids: Vec::new(), n_shown: 0 }
    }

    /// Shows these tokens, even where they are special ones that would be skipped.
    #[must_use]
    pub fn keeping(mut self, kept: Vec<TokenId>) -> Self {
        self.kept = kept;
        self
    }

    /// A decoder in the middle of a text, after tokens that have been shown. SentencePiece drops the space
    /// before the first word of a text, but not before the next one.
    #[must_use]
    pub fn continuing(tokenizer: &Tokenizer, skip_special: bool, shown: &[TokenId]) -> Self {
        let is_skipped = |id: &TokenId| skip_special && tokenizer.is_special(*id);
        let mut ids: Vec<TokenId> =
            shown.iter().rev().copied().filter(|id| !is_skipped(id)).take(CONTEXT_TOKENS).collect();
        ids.reverse();
        Self { n_shown: ids.len(), ids, ..Self::new(tokenizer, skip_special) }
    }

    /// Takes the next token and returns the text that it completes: nothing while a character is incomplete.
    ///
    /// # Errors
    /// When the token lies outside the vocabulary.
    pub fn push(&mut self, id: TokenId) -> Result<String, TextError> {
        if self.skip_special && self.tokenizer.is_special(id) && !self.kept.contains(&id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let text = match self.new_text() {
            Ok(text) => text,
            Err(error) => {
                self.ids.pop();
                return Err(error);
            }
        };
        // An incomplete character decodes to U+FFFD at the end; the next token may complete it.
        if text.is_empty() || text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        self.ids.drain(..self.n_shown);
        self.n_shown = self.ids.len();
        Ok(text)
    }

    /// Ends the text and returns what was held back: bytes that never became a character, as U+FFFD.
    ///
    /// # Errors
    /// Never in practice; the tokens have been decoded before.
    pub fn finish(mut self) -> Result<String, TextError> {
        let text = self.new_text();
        self.ids.clear();
        text
    }

    fn new_text(&self) -> Result<String, TextError> {
        let (shown, new) = self.ids.split_at(self.n_shown);
        // Special tokens among these are there to be shown.
        let skip_special = self.skip_special && self.kept.is_empty();
        let shown = self.tokenizer.decode(shown, skip_special)?;
        let all = self.tokenizer.decode(&self.ids, skip_special)?;
        match all.strip_prefix(&shown) {
            Some(text) => Ok(text.to_owned()),
            // Byte fallback spoils a whole run of bytes for one that is missing; what was shown stays shown.
            None => self.tokenizer.decode(new, skip_special),
        }
    }
}
