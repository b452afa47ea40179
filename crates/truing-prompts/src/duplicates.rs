//! Exact and near duplicates of prompts.
//!
//! Exact duplicates are equal but for letter case and white space; they are found one prompt at a time, by digest.
//!
//! Near duplicates share most of their shingles (runs of tokens): Jaccard's coefficient of the two sets of shingles is
//! at least a threshold. Candidates come from MinHash (Broder 1997) with locality-sensitive bands (Leskovec, Rajaraman
//! and Ullman, *Mining of Massive Datasets*, 3.4), each candidate is then compared exactly. Rows are visited best
//! first; a row is dropped when it nearly equals a row that is kept. So no row is dropped for the likeness of a
//! likeness: every representative is itself kept. A pair at the threshold is missed with less than 1 % probability,
//! more alike ones hardly ever.

use rand_chacha::rand_core::Rng;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Seed;

use crate::PromptsError;
use crate::error::{check_length, check_option};
use crate::hashing::{hash_tokens, mix};
use crate::tokens::TokenPool;

/// Finds exact duplicates in a stream: 20 bytes a different prompt.
#[derive(Debug, Clone, Default)]
pub struct ExactDuplicates {
    first_rows: FxHashMap<[u8; 16], u32>,
    n_rows: u32,
}

impl ExactDuplicates {
    /// Takes the next row; the earlier row that it repeats, if any.
    pub fn insert(&mut self, text: &str) -> Option<u32> {
        let row = self.n_rows;
        self.n_rows += 1;
        let first = *self.first_rows.entry(digest(text)).or_insert(row);
        (first != row).then_some(first)
    }
}

/// 128 bits of BLAKE3 of the words in lower case, one space between them.
fn digest(text: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = String::with_capacity(text.len());
    for (i, word) in text.split_whitespace().enumerate() {
        if i > 0 {
            buffer.push(' ');
        }
        buffer.extend(word.chars().flat_map(char::to_lowercase));
    }
    hasher.update(buffer.as_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// Numbers in a signature.
pub const N_PERMUTATIONS: usize = 128;
/// Candidates of a row in one bucket: the best rows of the bucket, or what represents them. A bucket whose rows nearly
/// equal each other needs one.
const CANDIDATES_PER_BUCKET: usize = 8;
/// Probability with which a pair at the threshold must become a candidate.
const MIN_RECALL: f64 = 0.99;

/// The hash functions of a signature: `x -> (a x + b) / 2^32` on 64 bits, `a` odd (multiply-shift, Dietzfelbinger et
/// al. 1997), after a mixing that makes `x` random.
#[derive(Debug, Clone)]
pub struct MinHasher {
    factors: Vec<(u64, u64)>,
}

impl MinHasher {
    /// The functions of a seed.
    pub fn new(seed: Seed) -> Self {
        let mut generator = seed.generator("minhash", &[]);
        MinHasher {
            factors: (0..N_PERMUTATIONS).map(|_| (generator.next_u64() | 1, generator.next_u64())).collect(),
        }
    }

    /// The least value of each function over a set of shingles; `u32::MAX` for the empty set.
    pub fn signature(&self, shingles: &[u64]) -> [u32; N_PERMUTATIONS] {
        let mut least = [u32::MAX; N_PERMUTATIONS];
        for &shingle in shingles {
            for (least, &(a, b)) in least.iter_mut().zip(&self.factors) {
                *least = (*least).min((a.wrapping_mul(shingle).wrapping_add(b) >> 32) as u32);
            }
        }
        least
    }
}

/// The share of equal numbers, which estimates Jaccard's coefficient with a deviation of at most 0.045.
pub fn estimate_jaccard(a: &[u32; N_PERMUTATIONS], b: &[u32; N_PERMUTATIONS]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / N_PERMUTATIONS as f64
}

/// The different shingles of a row, sorted: hashes of every `n_tokens` tokens in a row. A row of fewer tokens is one
/// shingle.
pub fn shingles(row: &[u32], n_tokens: usize) -> Vec<u64> {
    let mut shingles: Vec<u64> =
        row.windows(n_tokens.min(row.len()).max(1)).map(|w| mix(hash_tokens(w))).collect();
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// Jaccard's coefficient of two sorted sets: shared elements by elements of either; 1 for two empty ones.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        shared += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let union = a.len() + b.len() - shared;
    if union == 0 { 1.0 } else { shared as f64 / union as f64 }
}

/// What counts as nearly equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NearDuplicateOptions {
    /// Minimum Jaccard similarity of near duplicates.
    pub threshold: f64,
    /// Tokens per shingle.
    pub shingle_tokens: usize,
    /// Random seed of the hash functions.
    pub seed: Seed,
}

impl Default for NearDuplicateOptions {
    fn default() -> Self {
        NearDuplicateOptions { threshold: 0.8, shingle_tokens: 3, seed: Seed(0) }
    }
}

/// A row that another one represents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicate {
    /// The dropped row.
    pub row: u32,
    /// The kept row that represents it.
    pub representative: u32,
    /// Their Jaccard coefficient.
    pub jaccard: f64,
}

/// The rows to drop, by row. Of two that are nearly equal the one with the higher quality stays, then the lower row.
///
/// # Errors
/// When an option is outside its range, or `qualities` has not one finite number per row.
pub fn near_duplicates(
    pool: &TokenPool,
    qualities: Option<&[f32]>,
    options: &NearDuplicateOptions,
) -> Result<Vec<NearDuplicate>, PromptsError> {
    let threshold = options.threshold;
    check_option(threshold > 0.0 && threshold <= 1.0, "threshold", threshold, "above 0, at most 1")?;
    check_option(options.shingle_tokens > 0, "shingle_tokens", options.shingle_tokens, "at least 1")?;
    let order = best_first(pool.len(), qualities)?;
    let candidates = candidate_pairs(pool, &order, options);
    let mut representatives: Vec<u32> = (0..pool.len() as u32).collect();
    let mut dropped = Vec::new();
    // Pairs are sorted by the later row's place in the order, so every candidate's fate is settled when it is asked
    // for.
    for pairs in candidates.chunk_by(|a, b| a.0 == b.0) {
        let row = order[pairs[0].0 as usize];
        let mut kept: Vec<u32> =
            pairs.iter().map(|pair| representatives[order[pair.1 as usize] as usize]).collect();
        kept.sort_unstable();
        kept.dedup();
        let own = shingles(pool.row(row as usize), options.shingle_tokens);
        let best = kept
            .into_iter()
            .map(|kept| (jaccard(&own, &shingles(pool.row(kept as usize), options.shingle_tokens)), kept))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let Some((jaccard, representative)) = best
            && jaccard >= threshold
        {
            representatives[row as usize] = representative;
            dropped.push(NearDuplicate { row, representative, jaccard });
        }
    }
    dropped.sort_unstable_by_key(|duplicate| duplicate.row);
    Ok(dropped)
}

/// Rows from the highest quality to the lowest, equal ones by number.
pub(crate) fn best_first(n_rows: usize, qualities: Option<&[f32]>) -> Result<Vec<u32>, PromptsError> {
    let mut order: Vec<u32> = (0..n_rows as u32).collect();
    if let Some(qualities) = qualities {
        check_length("qualities", n_rows, qualities.len())?;
        if let Some((row, &value)) = qualities.iter().enumerate().find(|(_, q)| !q.is_finite()) {
            return Err(PromptsError::NotFinite { row, index: 0, value });
        }
        order.sort_by(|&a, &b| qualities[b as usize].total_cmp(&qualities[a as usize]));
    }
    Ok(order)
}

/// Numbers of a signature in one band: the most with which a pair at `threshold` is found often enough.
fn rows_per_band(threshold: f64) -> usize {
    let recall = |rows: usize| 1.0 - (1.0 - threshold.powi(rows as i32)).powi((N_PERMUTATIONS / rows) as i32);
    (1..=32).rev().find(|&rows| recall(rows) >= MIN_RECALL).unwrap_or(1)
}

/// Pairs of places in `order`, the later first, that share a band; sorted, each once.
fn candidate_pairs(pool: &TokenPool, order: &[u32], options: &NearDuplicateOptions) -> Vec<(u32, u32)> {
    let hasher = MinHasher::new(options.seed);
    let rows_per_band = rows_per_band(options.threshold);
    let n_bands = N_PERMUTATIONS / rows_per_band;
    // [place, band]
    let mut keys = vec![0_u64; order.len() * n_bands];
    keys.par_chunks_mut(n_bands).zip(order).for_each(|(keys, &row)| {
        let signature = hasher.signature(&shingles(pool.row(row as usize), options.shingle_tokens));
        for (key, band) in keys.iter_mut().zip(signature.chunks(rows_per_band)) {
            *key = hash_tokens(band);
        }
    });
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    let mut n_sorted = 0;
    for band in 0..n_bands {
        let mut bucket: Vec<(u64, u32)> =
            (0..order.len()).map(|place| (keys[place * n_bands + band], place as u32)).collect();
        bucket.par_sort_unstable();
        for bucket in bucket.chunk_by(|a, b| a.0 == b.0) {
            for (i, &(_, later)) in bucket.iter().enumerate().skip(1) {
                pairs.extend(
                    bucket[..i.min(CANDIDATES_PER_BUCKET)].iter().map(|&(_, earlier)| (later, earlier)),
                );
            }
        }
        if pairs.len() > 2 * n_sorted || band + 1 == n_bands {
            pairs.par_sort_unstable();
            pairs.dedup();
            n_sorted = pairs.len();
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], qualities: Option<&[f32]>, expect: &[(u32, u32)]) {
        let pool = TokenPool::of(texts).unwrap();
        let found = near_duplicates(&pool, qualities, &NearDuplicateOptions::default()).unwrap();
        let pairs: Vec<_> = found.iter().map(|found| (found.row, found.representative)).collect();
        assert_eq!(pairs, expect, "{texts:?}");
    }

    #[test]
    fn exact_duplicates_differ_in_case_and_spaces_at_most() {
        let mut seen = ExactDuplicates::default();
        let rows = ["What  is it?", "what is\nit?", "What is that?", "WHAT IS IT? ", ""]
            .map(|text| seen.insert(text));
        assert_eq!(rows, [None, Some(0), None, Some(0), None]);
        assert_eq!(seen.insert(" "), Some(4));
    }

    #[test]
    fn the_better_row_stands_for_the_other() {
        let a = "Please write a short story about a fox who learns to read the stars above the hill at night";
        let b = "Please write a short story about a fox who learns to read the stars above the hill at noon";
        let c = "How many apples are left when three of the twelve that we bought are eaten by the dog?";
        check(&[a, c, b], None, &[(2, 0)]);
        check(&[a, c, b], Some(&[0.1, 0.2, 0.3]), &[(0, 2)]);
        check(&[a, a, a], None, &[(1, 0), (2, 0)]);
    }

    #[test]
    fn empty_single_and_tiny_pools() {
        check(&[], None, &[]);
        check(&["one"], None, &[]);
        check(&["", "", "x", "x", "y"], None, &[(1, 0), (3, 2)]);
    }

    #[test]
    fn bad_input_is_named() {
        let pool = TokenPool::of(["a", "b"]).unwrap();
        let run = |qualities: Option<&[f32]>, threshold| {
            let options = NearDuplicateOptions { threshold, ..Default::default() };
            near_duplicates(&pool, qualities, &options).unwrap_err().to_string()
        };
        assert_eq!(run(None, 0.0), "`threshold` is 0, expected above 0, at most 1");
        assert_eq!(run(Some(&[1.0]), 0.8), "qualities has 1 entries, expected 2: one for each row");
        assert_eq!(
            run(Some(&[1.0, f32::NAN]), 0.8),
            "the vector of row 1 holds NaN at index 0, expected a finite number"
        );
    }

    #[test]
    fn the_bands_fit_the_threshold() {
        assert_eq!([0.5, 0.8, 0.9, 1.0].map(rows_per_band), [3, 6, 10, 32]);
    }
}
