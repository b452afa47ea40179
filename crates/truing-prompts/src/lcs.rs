//! How much two token lists have in common: the length of their longest common subsequence (LCS), and its share.
//!
//! The kernel compares eight lists with one at a time (`truing_kernels::LcsPatterns`). Before it stand what saves it
//! work, none of which changes a result: tokens that the other list does not hold cannot be in the subsequence and are
//! left out; what is left of either list, each token counted as often as both hold it, bounds the length from above,
//! and a pair whose bound is too low is not compared.

use truing_kernels::{LCS_LANES, LcsPatterns};

/// What a length is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShareOf {
    /// The shorter list: 1 when one list is contained in the other. The default of this crate.
    #[default]
    Shorter,
    /// The longer list: 1 only for equal lists.
    Longer,
}

impl ShareOf {
    /// `length` as a share; 1 when the divisor is an empty list.
    pub fn share(self, length: usize, a: usize, b: usize) -> f64 {
        let whole = self.whole(a, b);
        if whole == 0 { 1.0 } else { length as f64 / whole as f64 }
    }

    /// The least length whose share reaches `share`.
    pub fn min_length(self, share: f64, a: usize, b: usize) -> usize {
        // A share that was computed from a length must give that length again, in spite of rounding.
        (share * self.whole(a, b) as f64 - 1e-9).ceil().max(0.0) as usize
    }

    fn whole(self, a: usize, b: usize) -> usize {
        match self {
            ShareOf::Shorter => a.min(b),
            ShareOf::Longer => a.max(b),
        }
    }
}

/// The length of the LCS of two lists.
pub fn lcs_length(a: &[u32], b: &[u32]) -> usize {
    LcsMatcher::default().one_to_many(a, &[b], |_| 0)[0]
}

/// Compares one list with many; keeps its tables between calls.
///
/// Memory is 4 bytes for each number up to the largest token compared.
#[derive(Debug, Clone, Default)]
pub struct LcsMatcher {
    patterns: LcsPatterns,
    /// From token to symbol of the current text or patterns; 0 for tokens they do not hold.
    symbol_of: Vec<u32>,
    /// The tokens that have a symbol, by symbol; the first is no token.
    tokens: Vec<u32>,
    /// How often the current text holds each symbol, and how much of that the current pattern used up.
    counts: Vec<u32>,
    used: Vec<u32>,
    text: Vec<u32>,
    reduced: Vec<u32>,
}

impl LcsMatcher {
    /// The length of the LCS of `one` with each of `many`; 0 where a bound tells that it is below `least(index)`.
    pub fn one_to_many(
        &mut self,
        one: &[u32],
        many: &[&[u32]],
        least: impl Fn(usize) -> usize,
    ) -> Vec<usize> {
        self.take_text(one);
        let mut lengths = vec![0; many.len()];
        let mut lanes: Vec<(usize, std::ops::Range<usize>)> = Vec::with_capacity(LCS_LANES);
        self.reduced.clear();
        for (index, other) in many.iter().enumerate() {
            let start = self.reduced.len();
            let bound = self.reduce(other);
            if bound == 0 || bound < least(index) {
                self.reduced.truncate(start);
            } else {
                lanes.push((index, start..self.reduced.len()));
            }
            if lanes.len() == LCS_LANES || (index + 1 == many.len() && !lanes.is_empty()) {
                self.run(&lanes, &mut lengths);
                lanes.clear();
                self.reduced.clear();
            }
        }
        self.forget_symbols();
        lengths
    }

    /// Calls `visit(pattern, text, length)` for every pair of one list of each; what the lists of a group of eight
    /// patterns need is prepared once for all texts, so this is the fastest way to compare all with all.
    pub fn all_pairs(
        &mut self,
        patterns: &[&[u32]],
        texts: &[&[u32]],
        mut visit: impl FnMut(usize, usize, usize),
    ) {
        // Patterns of like lengths share a group: the longest decides what all cost.
        let mut order: Vec<usize> = (0..patterns.len()).collect();
        order.sort_by_key(|&index| patterns[index].len());
        for group in order.chunks(LCS_LANES) {
            self.begin_symbols();
            for token in group.iter().flat_map(|&index| patterns[index]) {
                self.give_symbol(*token);
            }
            let longest = group.iter().map(|&index| patterns[index].len()).max().unwrap_or(0);
            self.patterns.reset(self.tokens.len(), longest);
            for (lane, &index) in group.iter().enumerate() {
                for (position, &token) in patterns[index].iter().enumerate() {
                    self.patterns.set(lane, position, self.symbol_of[token as usize] as usize);
                }
            }
            for (text_index, text) in texts.iter().enumerate() {
                self.text.clear();
                let symbols =
                    text.iter().map(|&token| self.symbol_of.get(token as usize).copied().unwrap_or(0));
                self.text.extend(symbols.filter(|&symbol| symbol != 0));
                let lengths = self.patterns.lengths(&self.text);
                group
                    .iter()
                    .zip(lengths)
                    .for_each(|(&index, length)| visit(index, text_index, length as usize));
            }
            self.forget_symbols();
        }
    }

    fn take_text(&mut self, one: &[u32]) {
        self.begin_symbols();
        self.text.clear();
        self.counts.clear();
        self.counts.push(0);
        for &token in one {
            let symbol = self.give_symbol(token);
            self.text.push(symbol);
            if symbol as usize == self.counts.len() {
                self.counts.push(0);
            }
            self.counts[symbol as usize] += 1;
        }
    }

    /// Appends the symbols of `other` that the text holds to `reduced`; how many could be in a common subsequence.
    fn reduce(&mut self, other: &[u32]) -> usize {
        self.used.clear();
        self.used.extend(&self.counts);
        let mut bound = 0;
        for &token in other {
            let symbol = self.symbol_of.get(token as usize).copied().unwrap_or(0);
            if symbol != 0 {
                self.reduced.push(symbol);
                let left = &mut self.used[symbol as usize];
                bound += usize::from(*left > 0);
                *left = left.saturating_sub(1);
            }
        }
        bound
    }

    fn run(&mut self, lanes: &[(usize, std::ops::Range<usize>)], lengths: &mut [usize]) {
        let longest = lanes.iter().map(|(_, range)| range.len()).max().unwrap_or(0);
        self.patterns.reset(self.tokens.len(), longest);
        for (lane, (_, range)) in lanes.iter().enumerate() {
            for (position, &symbol) in self.reduced[range.clone()].iter().enumerate() {
                self.patterns.set(lane, position, symbol as usize);
            }
        }
        let found = self.patterns.lengths(&self.text);
        lanes.iter().zip(found).for_each(|(&(index, _), length)| lengths[index] = length as usize);
    }

    fn begin_symbols(&mut self) {
        self.tokens.clear();
        self.tokens.push(0);
    }

    #[inline]
    fn give_symbol(&mut self, token: u32) -> u32 {
        if token as usize >= self.symbol_of.len() {
            self.symbol_of.resize((token as usize + 1).next_power_of_two(), 0);
        }
        let symbol = &mut self.symbol_of[token as usize];
        if *symbol == 0 {
            *symbol = self.tokens.len() as u32;
            self.tokens.push(token);
        }
        *symbol
    }

    fn forget_symbols(&mut self) {
        for &token in &self.tokens[1..] {
            self.symbol_of[token as usize] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The quadratic table.
    fn by_table(a: &[u32], b: &[u32]) -> usize {
        let mut above = vec![0; b.len() + 1];
        for &x in a {
            let mut diagonal = 0;
            for (j, &y) in b.iter().enumerate() {
                let up = above[j + 1];
                above[j + 1] = if x == y { diagonal + 1 } else { up.max(above[j]) };
                diagonal = up;
            }
        }
        above[b.len()]
    }

    #[test]
    fn known_lengths_and_shares() {
        assert_eq!(lcs_length(&[], &[]), 0);
        assert_eq!(lcs_length(&[1, 2], &[]), 0);
        assert_eq!(lcs_length(&[1, 2, 3, 4], &[2, 9, 4, 1]), 2);
        assert_eq!(ShareOf::Shorter.share(2, 4, 2), 1.0);
        assert_eq!(ShareOf::Longer.share(2, 4, 2), 0.5);
        assert_eq!(ShareOf::Longer.share(0, 0, 0), 1.0);
        for (length, whole) in (0..50).flat_map(|whole| (0..=whole).map(move |length| (length, whole))) {
            let share = ShareOf::Shorter.share(length, whole, 99);
            assert_eq!(ShareOf::Shorter.min_length(share, whole, 99).min(length), length.min(whole));
        }
    }

    fn lists(alphabet: u32, most: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0..alphabet, 0..most), 1..20)
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_the_quadratic_table(
            lists in prop_oneof![lists(4, 40), lists(30, 150), lists(3, 400)],
        ) {
            let refs: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
            let mut matcher = LcsMatcher::default();
            let expect: Vec<usize> = refs.iter().map(|other| by_table(refs[0], other)).collect();
            prop_assert_eq!(matcher.one_to_many(refs[0], &refs, |_| 0), expect.clone());
            let bounded = matcher.one_to_many(refs[0], &refs, |index| expect[index] / 2 + 3);
            for (index, &length) in bounded.iter().enumerate() {
                prop_assert!(length == expect[index] || (length == 0 && expect[index] < expect[index] / 2 + 3));
            }
            let mut all = vec![vec![usize::MAX; refs.len()]; refs.len()];
            matcher.all_pairs(&refs, &refs, |pattern, text, length| all[pattern][text] = length);
            for (i, row) in all.iter().enumerate() {
                for (j, &length) in row.iter().enumerate() {
                    prop_assert_eq!(length, by_table(refs[i], refs[j]));
                }
            }
        }
    }
}
