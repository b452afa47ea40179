//! Token ids that are never sampled.

use std::ops::Range;
use std::sync::Arc;

use crate::TokenId;

/// Rows of a model's head that are no token of its tokenizer: they are never sampled, and the sampled
/// distribution is the softmax over all others.
///
/// Heads are often padded to a round number of rows (Qwen2.5 and Qwen3 have 151,936 rows for about 151,670 tokens), and
/// vocabularies can have holes. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExcludedTokens {
    /// Ascending, not empty, not touching.
    ranges: Arc<[Range<TokenId>]>,
}

impl ExcludedTokens {
    /// Excludes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Excludes these ids, given in any order.
    #[must_use]
    pub fn of(ids: impl IntoIterator<Item = TokenId>) -> Self {
        let mut ids: Vec<TokenId> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let ranges = ids.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[run.len() - 1] + 1);
        Self { ranges: ranges.collect() }
    }

    /// The ids as ascending ranges.
    #[must_use]
    pub fn ranges(&self) -> &[Range<TokenId>] {
        &self.ranges
    }

    /// Whether nothing is excluded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of excluded ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether an id is excluded.
    #[must_use]
    pub fn contains(&self, token: TokenId) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= token);
        after > 0 && self.ranges[after - 1].contains(&token)
    }

    /// Sets the logits of excluded ids to minus infinity; `logits` are `[vocab]`.
    pub fn mask(&self, logits: &mut [f32]) {
        for range in &*self.ranges {
            let end = (range.end as usize).min(logits.len());
            let start = (range.start as usize).min(end);
            logits[start..end].fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_ranges_and_are_found_again() {
        let excluded = ExcludedTokens::of([9, 3, 4, 8, 3, 20]);
        assert_eq!(excluded.ranges(), [3..5, 8..10, 20..21]);
        assert_eq!((excluded.len(), excluded.is_empty()), (5, false));
        let found: Vec<TokenId> = (0..30).filter(|&token| excluded.contains(token)).collect();
        assert_eq!(found, [3, 4, 8, 9, 20]);
        assert!(ExcludedTokens::none().is_empty() && !ExcludedTokens::none().contains(0));
    }

    #[test]
    fn masked_logits_are_minus_infinity_and_others_stay() {
        let mut logits = [1.0; 6];
        ExcludedTokens::of([1, 4, 5, 6, 7]).mask(&mut logits);
        let low = f32::NEG_INFINITY;
        assert_eq!(logits, [1.0, low, 1.0, 1.0, low, low]);
    }
}
