//! Lengths of longest common subsequences, bit-parallel: eight patterns against one text at a time.
//!
//! The recurrence of Hyyrö, "Bit-Parallel LCS-length Computation Revisited" (2004): with `V` all ones at first, and
//! `M` the bits of the pattern that equal the text's next symbol, `V <- (V + (V & M)) | (V & !M)`; the zeros of `V` at
//! the end are the length. A pattern of more than 64 symbols takes several words, the addition carrying from one to the
//! next. Eight patterns lie side by side, so that one row of the table serves all lanes of a vector.

use crate::simd::{SimdLevel, simd_fn};

/// Patterns compared at once.
pub const LCS_LANES: usize = 8;

/// A word of each pattern.
type Lanes = [u64; LCS_LANES];

/// Up to [`LCS_LANES`] patterns: for every symbol the places where each holds it.
///
/// Symbols are small numbers that the caller gives; 0 is the symbol that no pattern holds.
#[derive(Debug, Clone, Default)]
pub struct LcsPatterns {
    /// `[symbols, words]`, a row of [`Lanes`] for each.
    table: Vec<Lanes>,
    n_words: usize,
    /// Words of `V` where they are too many for registers.
    state: Vec<Lanes>,
}

impl LcsPatterns {
    /// Forgets the patterns and makes room for symbols below `n_symbols` and patterns of `longest` symbols.
    pub fn reset(&mut self, n_symbols: usize, longest: usize) {
        self.n_words = longest.div_ceil(64).max(1);
        self.table.clear();
        self.table.resize(n_symbols * self.n_words, [0; LCS_LANES]);
    }

    /// States that pattern `lane` holds `symbol` at `position`. Symbol 0 is held nowhere, and stating it does nothing.
    /// Panics past what [`LcsPatterns::reset`] made room for.
    #[inline]
    pub fn set(&mut self, lane: usize, position: usize, symbol: usize) {
        debug_assert!(position < 64 * self.n_words);
        if symbol != 0 {
            self.table[symbol * self.n_words + position / 64][lane] |= 1 << (position % 64);
        }
    }

    /// The length of the longest common subsequence of `text` and each pattern; 0 for lanes without one.
    /// Panics when a symbol of the text is past what [`LcsPatterns::reset`] made room for.
    pub fn lengths(&mut self, text: &[u32]) -> [u32; LCS_LANES] {
        let level = SimdLevel::current();
        let n_words = self.n_words;
        if n_words == 0 {
            return [0; LCS_LANES];
        }
        match n_words {
            1 => one_word(level, &self.table, text),
            2 => two_words(level, &self.table, text),
            3 => three_words(level, &self.table, text),
            4 => four_words(level, &self.table, text),
            _ => {
                self.state.clear();
                self.state.resize(n_words, [u64::MAX; LCS_LANES]);
                many_words(level, &self.table, text, &mut self.state);
                count_zeros(&self.state)
            }
        }
    }
}

/// `V` after one more symbol, and the carry, 0 or 1 in each lane.
#[inline(always)]
fn step(v: &Lanes, matches: &Lanes, carry: &mut Lanes) -> Lanes {
    let mut next = [0; LCS_LANES];
    for lane in 0..LCS_LANES {
        let common = v[lane] & matches[lane];
        let sum = v[lane].wrapping_add(common).wrapping_add(carry[lane]);
        // The top bit of the carries out of each place of the addition.
        carry[lane] = ((v[lane] & common) | ((v[lane] | common) & !sum)) >> 63;
        next[lane] = sum | (v[lane] & !matches[lane]);
    }
    next
}

/// The zeros of each lane.
#[inline(always)]
fn count_zeros(words: &[Lanes]) -> [u32; LCS_LANES] {
    let mut zeros = [0; LCS_LANES];
    for word in words {
        for lane in 0..LCS_LANES {
            zeros[lane] += word[lane].count_zeros();
        }
    }
    zeros
}

simd_fn! {
    fn one_word<S>(_simd, table: &[Lanes], text: &[u32]) -> [u32; LCS_LANES] {
        let mut v = [u64::MAX; LCS_LANES];
        for &symbol in text {
            let matches = &table[symbol as usize];
            let mut next = [0; LCS_LANES];
            for lane in 0..LCS_LANES {
                let common = v[lane] & matches[lane];
                next[lane] = v[lane].wrapping_add(common) | (v[lane] & !matches[lane]);
            }
            v = next;
        }
        count_zeros(&[v])
    }
}

macro_rules! words_for {
    ($name:ident, $n:literal) => {
        simd_fn! {
            fn $name<S>(_simd, table: &[Lanes], text: &[u32]) -> [u32; LCS_LANES] {
                let mut v = [[u64::MAX; LCS_LANES]; $n];
                for &symbol in text {
                    let matches = &table[symbol as usize * $n..][..$n];
                    let mut carry = [0; LCS_LANES];
                    for (v, matches) in v.iter_mut().zip(matches) {
                        *v = step(v, matches, &mut carry);
                    }
                }
                count_zeros(&v)
            }
        }
    };
}
words_for!(two_words, 2);
words_for!(three_words, 3);
words_for!(four_words, 4);

simd_fn! {
    fn many_words<S>(_simd, table: &[Lanes], text: &[u32], v: &mut [Lanes]) {
        let n_words = v.len();
        for &symbol in text {
            let matches = &table[symbol as usize * n_words..][..n_words];
            let mut carry = [0; LCS_LANES];
            for (v, matches) in v.iter_mut().zip(matches) {
                *v = step(v, matches, &mut carry);
            }
        }
    }
}
