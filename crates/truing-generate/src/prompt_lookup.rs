//! Prompt-lookup decoding: the tokens that are drafted for speculative decoding are found in the prompt and in what was
//! written so far (Saxena 2023, "Prompt Lookup Decoding"; `prompt_lookup_num_tokens` of transformers, the method
//! `ngram` of vLLM). No second model is needed. It helps where a reply repeats its prompt or itself: code, quotations,
//! corrections.

use serde::{Deserialize, Serialize};
use truing_types::TokenId;

/// The last tokens are looked for, as many as this, then one fewer, down to two: one token alone is no sign of a
/// repetition.
const NGRAM: std::ops::RangeInclusive<usize> = 2..=4;

/// At most `n` tokens that followed where the last tokens occurred before: the longest run of last tokens first, and of
/// its places the last one that `n` tokens follow, or else the one that the most follow. Empty where there is none.
pub(crate) fn look_up(tokens: &[TokenId], n: usize) -> &[TokenId] {
    if n == 0 {
        return &[];
    }
    for n_last in NGRAM.rev() {
        let Some(n_before) = tokens.len().checked_sub(n_last) else { continue };
        let last = &tokens[n_before..];
        let places = (0..n_before).rev().filter(|&at| tokens[at..].starts_with(last));
        // Fewer tokens follow a later place.
        let mut found = None;
        for at in places {
            found = Some(at + n_last);
            if tokens.len() - (at + n_last) >= n {
                break;
            }
        }
        if let Some(start) = found {
            return &tokens[start..tokens.len().min(start + n)];
        }
    }
    &[]
}

/// Tokens that were drafted, and how many of them were sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DraftCounts {
    /// Tokens drafted.
    pub n_drafted: u64,
    /// Of these, those that were sampled: each saves a step of its completion.
    pub n_accepted: u64,
}

impl DraftCounts {
    /// Adds those of other work.
    pub fn add(&mut self, other: Self) {
        self.n_drafted += other.n_drafted;
        self.n_accepted += other.n_accepted;
    }
}

/// What a completion's cache is extended by in a step: its last token, and what is drafted to follow.
pub(crate) struct Fed {
    pub(crate) tokens: Vec<TokenId>,
    /// Length of prompt and completion before the step.
    n_before: usize,
}

impl Fed {
    /// `history` is prompt and completion before the step.
    pub(crate) fn new(history: &[TokenId], draft: &[TokenId]) -> Self {
        Self { tokens: history.last().into_iter().chain(draft).copied().collect(), n_before: history.len() }
    }

    /// The tokens after the first.
    pub(crate) fn draft(&self) -> &[TokenId] {
        self.tokens.get(1..).unwrap_or_default()
    }

    /// Whether exactly the first `n_accepted` drafted tokens were sampled so far.
    pub(crate) fn is_followed(&self, history: &[TokenId], n_accepted: usize) -> bool {
        self.draft().get(..n_accepted) == Some(&history[self.n_before..])
    }

    /// How many tokens were drafted, and how many of them sampled.
    pub(crate) fn counts(&self, history: &[TokenId]) -> DraftCounts {
        let both = self.draft().iter().zip(&history[self.n_before..]);
        let n_accepted = both.take_while(|(drafted, sampled)| drafted == sampled).count() as u64;
        DraftCounts { n_drafted: self.draft().len() as u64, n_accepted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_last_time_is_drafted() {
        let tokens = [7, 1, 2, 3, 9, 1, 2, 4, 5, 6, 1, 2];
        assert_eq!(look_up(&tokens, 3), [4, 5, 6]);
        assert_eq!(look_up(&tokens, 1), [4]);
        assert!(look_up(&tokens, 0).is_empty());
        // As many as there are.
        assert_eq!(look_up(&[5, 6, 8, 5, 6], 9), [8, 5, 6]);
    }

    #[test]
    fn the_longest_run_of_last_tokens_decides() {
        // After `1 2` came 4 last, but after `0 1 2` it was 3.
        assert_eq!(look_up(&[0, 1, 2, 3, 9, 1, 2, 4, 4, 0, 1, 2], 1), [3]);
        // One token alone is not looked for.
        assert!(look_up(&[1, 2, 3, 1], 2).is_empty());
        for few in [&[][..], &[1], &[1, 2], &[1, 1]] {
            assert!(look_up(few, 4).is_empty());
        }
    }

    #[test]
    fn a_repetition_is_drafted_in_full() {
        assert_eq!(look_up(&[8, 8, 8], 4), [8]);
        assert_eq!(look_up(&[8; 10], 4), [8; 4]);
        assert_eq!(look_up(&[1, 2, 1, 2, 1, 2, 1, 2, 1, 2], 3), [1, 2, 1]);
    }
}
