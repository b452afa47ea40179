//! How often three tokens in a row recur beside different fillers.
//!
//! A prompt's filler is named by its rarest token, the one that the fewest prompts hold: a name, a number, a noun. Text
//! that fills many templates brings its rare token along wherever it recurs.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::skeleton::view;
use crate::hashing::{hash_tokens, mix};
use crate::tokens::{END, START, TokenPool};

/// Tokens of an n-gram.
pub(super) const NGRAM: usize = 3;
/// N-grams sorted at a time; what bounds the memory.
const NGRAMS_PER_PASS: usize = 16 << 20;
/// Rows whose n-grams one thread lists at a time.
const ROWS_PER_CHUNK: usize = 4096;

/// Counts of different fillers, and each row's filler.
#[derive(Debug)]
pub(super) struct Support {
    counts: FxHashMap<u64, u32>,
    pub(super) min_count: u32,
    /// The rarest token of each row.
    pub(super) fillers: Vec<u32>,
}

impl Support {
    /// Counts of the whole pool; those below `min_count` are forgotten.
    pub(super) fn count(pool: &TokenPool, min_count: u32) -> Self {
        let fillers = rarest_tokens(pool);
        let rows: Vec<u32> = (0..pool.len() as u32).collect();
        let n_tokens: usize = (0..pool.len()).map(|row| pool.row(row).len()).sum();
        let n_passes = (n_tokens / NGRAMS_PER_PASS + 1) as u64;
        let mut counts = FxHashMap::default();
        for pass in 0..n_passes {
            let mut found: Vec<(u64, u32)> = rows
                .par_chunks(ROWS_PER_CHUNK)
                .flat_map_iter(|rows| {
                    let mut of_chunk = Vec::new();
                    for &row in rows {
                        let hashes = ngram_hashes(&view(pool.row(row as usize)));
                        let of_pass = hashes.into_iter().filter(|hash| mix(*hash) % n_passes == pass);
                        of_chunk.extend(of_pass.map(|hash| (hash, fillers[row as usize])));
                    }
                    of_chunk
                })
                .collect();
            found.par_sort_unstable();
            found.dedup();
            for same in found.chunk_by(|a, b| a.0 == b.0) {
                if same.len() >= min_count as usize {
                    counts.insert(same[0].0, same.len() as u32);
                }
            }
        }
        Support { counts, min_count, fillers }
    }

    /// Different fillers beside an n-gram; 1 when they are fewer than the minimum.
    pub(super) fn of(&self, hash: u64) -> u32 {
        self.counts.get(&hash).copied().unwrap_or(1)
    }
}

/// The hash of every n-gram of a row, a second [`START`] before it and a second [`END`] after it: so two tokens at an
/// end make an n-gram with it.
pub(super) fn ngram_hashes(row: &[u32]) -> Vec<u64> {
    let padded: Vec<u32> = std::iter::once(START).chain(row.iter().copied()).chain([END]).collect();
    padded.windows(NGRAM).map(hash_tokens).collect()
}

fn rarest_tokens(pool: &TokenPool) -> Vec<u32> {
    let mut n_rows = vec![0_u32; pool.vocabulary().len()];
    let mut last_row = vec![u32::MAX; n_rows.len()];
    for row in 0..pool.len() {
        for &token in pool.row(row) {
            if last_row[token as usize] != row as u32 {
                last_row[token as usize] = row as u32;
                n_rows[token as usize] += 1;
            }
        }
    }
    let rarest = |row: usize| {
        // Equally rare tokens: one that does not depend on where they stand.
        pool.row(row)
            .iter()
            .copied()
            .min_by_key(|&token| (n_rows[token as usize], mix(u64::from(token))))
            .unwrap_or(START)
    };
    (0..pool.len()).into_par_iter().map(rarest).collect()
}
