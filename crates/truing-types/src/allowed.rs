//! The tokens that may be sampled next, where a grammar decides.

use crate::TokenId;

/// A set of token ids: the only ones that may be sampled next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedTokens {
    /// Bit `id % 32` of word `id / 32`.
    words: Vec<u32>,
}

impl AllowedTokens {
    /// From a bitmap: bit `id % 32` of word `id / 32` stands for token `id`.
    #[must_use]
    pub fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// These ids.
    #[must_use]
    pub fn of(ids: impl IntoIterator<Item = TokenId>) -> Self {
        let mut words = Vec::new();
        for id in ids {
            let word = id as usize / 32;
            if word >= words.len() {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << (id % 32);
        }
        Self { words }
    }

    /// Whether a token may be sampled.
    #[must_use]
    pub fn contains(&self, token: TokenId) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Whether no token may be sampled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Sets the logits of all other tokens to minus infinity; `logits` are `[vocab]`.
    pub fn mask(&self, logits: &mut [f32]) {
        for (chunk, word) in logits.chunks_mut(32).zip(self.words.iter().chain(std::iter::repeat(&0))) {
            for (_, logit) in chunk.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_tokens_keep_their_logits() {
        let allowed = AllowedTokens::of([0, 33, 40]);
        let mut logits = vec![1.0; 70];
        allowed.mask(&mut logits);
        let kept: Vec<usize> = (0..70).filter(|&token| logits[token] == 1.0).collect();
        assert_eq!(kept, [0, 33, 40]);
        assert!((0..70).all(|token| allowed.contains(token) == kept.contains(&(token as usize))));
        assert!(!allowed.is_empty() && AllowedTokens::of([]).is_empty());
        assert_eq!(AllowedTokens::from_words(vec![1, 0x102]), allowed);
    }
}
