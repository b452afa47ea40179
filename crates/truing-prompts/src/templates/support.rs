//! How often three tokens in a row recur beside different fillers.
//!
//! A prompt's filler is named by its rarest token, the one that the fewest prompts hold: a name, a number, a noun. Text
//! that fills many templates brings its rare token along wherever it recurs.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::GAP;
use super::view::view;
use crate::hashing::{hash_tokens, mix};
use crate::tokens::{END, START, TokenPool};

/// Tokens of an n-gram.
pub(super) const NGRAM: usize = 3;
/// N-grams sorted at a time; what bounds the memory.
const NGRAMS_PER_PASS: usize = 16 << 20;
/// Standard deviations (of a Poisson count) by which an n-gram must be more frequent than by chance. With more of them
/// a pool of one short template, whose words are a large share of all, would lose it.
const DEVIATIONS: f64 = 3.0;
/// Where counting of an n-gram ends. Threads that count it at the same moment go beyond by one each, and never to 256.
const ENOUGH: u8 = 100;
/// Fewest places for counts: in a small pool they are exact, as good as always.
const MIN_PLACES: usize = 1 << 16;
/// Most places for occurrences of n-grams: 64 MiB.
const MAX_NGRAM_PLACES: usize = 1 << 26;
/// Most places for counts of pairs: 64 MiB.
const MAX_PAIR_PLACES: usize = 1 << 24;
/// Rows whose n-grams one thread lists at a time.
const ROWS_PER_CHUNK: usize = 4096;

/// Counts of different fillers, and each row's filler.
#[derive(Debug)]
pub(super) struct Support {
    counts: FxHashMap<u64, u32>,
    chance: Chance,
    pub(super) min_count: u32,
    /// The rarest token of each row.
    pub(super) fillers: Vec<u32>,
}

impl Support {
    /// Counts of the whole pool; those below `min_count` are forgotten.
    pub(super) fn count(pool: &TokenPool, min_count: u32) -> Self {
        let fillers = rarest_tokens(pool);
        let occurrences = Occurrences::count(pool);
        let may_count = |hash: u64| occurrences.are_at_least(hash, min_count);
        let rows: Vec<u32> = (0..pool.len() as u32).collect();
        let n_listed: usize = rows
            .par_iter()
            .map(|&row| {
                let hashes = ngram_hashes(&view(pool.row(row as usize)));
                hashes.into_iter().filter(|&hash| may_count(hash)).count()
            })
            .sum();
        let n_passes = (n_listed / NGRAMS_PER_PASS + 1) as u64;
        let mut counts = FxHashMap::default();
        for pass in 0..n_passes {
            let mut found: Vec<(u64, u32)> = rows
                .par_chunks(ROWS_PER_CHUNK)
                .flat_map_iter(|rows| {
                    let mut of_chunk = Vec::new();
                    for &row in rows {
                        let hashes = ngram_hashes(&view(pool.row(row as usize)));
                        let of_pass =
                            hashes.into_iter().filter(|&h| mix(h) % n_passes == pass && may_count(h));
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
        drop(occurrences);
        Support { counts, chance: Chance::count(pool), min_count, fillers }
    }

    /// Different fillers beside each n-gram of a row, as [`ngram_hashes`] lists them; 1 where they are fewer than the
    /// minimum, or no more than chance brings together.
    pub(super) fn of_row(&self, row: &[u32]) -> Vec<u32> {
        let padded = padded(row);
        let of_ngram = |ngram: &[u32]| match self.of(hash_tokens(ngram)) {
            1 => 1,
            count if self.chance.explains(ngram, count) => 1,
            count => count,
        };
        padded.windows(NGRAM).map(of_ngram).collect()
    }

    /// Different fillers beside an n-gram; 1 when they are fewer than the minimum.
    pub(super) fn of(&self, hash: u64) -> u32 {
        self.counts.get(&hash).copied().unwrap_or(1)
    }
}

/// The hash of every n-gram of a row, a second [`START`] before it and a second [`END`] after it: so two tokens at an
/// end make an n-gram with it.
pub(super) fn ngram_hashes(row: &[u32]) -> Vec<u64> {
    padded(row).windows(NGRAM).map(hash_tokens).collect()
}

fn padded(row: &[u32]) -> Vec<u32> {
    std::iter::once(START).chain(row.iter().copied()).chain([END]).collect()
}

/// How often n-grams occur, at least: counts by hash, which a few n-grams share. What occurs too seldom for a template
/// need not be sorted, and that is most of a pool.
struct Occurrences(Vec<AtomicU8>);

impl Occurrences {
    fn count(pool: &TokenPool) -> Self {
        let n_tokens: usize = (0..pool.len()).map(|row| pool.row(row).len()).sum();
        let n_places = n_tokens.next_power_of_two().clamp(MIN_PLACES, MAX_NGRAM_PLACES);
        let occurrences = Occurrences((0..n_places).map(|_| AtomicU8::new(0)).collect());
        (0..pool.len()).into_par_iter().for_each(|row| {
            for hash in ngram_hashes(&view(pool.row(row))) {
                let place = occurrences.place(hash);
                if place.load(Ordering::Relaxed) < ENOUGH {
                    place.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        occurrences
    }

    fn place(&self, hash: u64) -> &AtomicU8 {
        // The number of places is a power of two.
        &self.0[hash as usize & (self.0.len() - 1)]
    }

    fn are_at_least(&self, hash: u64, least: u32) -> bool {
        u32::from(self.place(hash).load(Ordering::Relaxed)) >= least.min(u32::from(ENOUGH))
    }
}

/// How often three tokens would stand in a row if the one at an end were there by chance. In a large pool runs of
/// frequent words recur often enough for a template, and are none.
#[derive(Debug)]
struct Chance {
    /// Of each token, its share of all tokens.
    shares: Vec<f64>,
    /// How often two tokens stand in a row, by their hash. A place is shared by a few pairs of a large pool: what that
    /// adds to a count is small beside what a chance run needs.
    pairs: Vec<AtomicU32>,
}

impl Chance {
    fn count(pool: &TokenPool) -> Self {
        let mut counts = vec![0_u64; pool.vocabulary().len()];
        for row in 0..pool.len() {
            let view = view(pool.row(row));
            view.iter().filter(|&&token| token != GAP).for_each(|&token| counts[token as usize] += 1);
        }
        let total: u64 = counts.iter().sum();
        let n_places = (total as usize).next_power_of_two().clamp(MIN_PLACES, MAX_PAIR_PLACES);
        let chance = Chance {
            shares: counts.into_iter().map(|count| count as f64 / total.max(1) as f64).collect(),
            pairs: (0..n_places).map(|_| AtomicU32::new(0)).collect(),
        };
        (0..pool.len()).into_par_iter().for_each(|row| {
            for pair in padded(&view(pool.row(row))).windows(2) {
                chance.place(pair).fetch_add(1, Ordering::Relaxed);
            }
        });
        chance
    }

    fn place(&self, pair: &[u32]) -> &AtomicU32 {
        // The number of places is a power of two.
        &self.pairs[hash_tokens(pair) as usize & (self.pairs.len() - 1)]
    }

    /// Whether a count lies within what chance brings together: [`DEVIATIONS`] above the expectation, the greater of
    /// the two that one gets by taking either end for random.
    fn explains(&self, ngram: &[u32], count: u32) -> bool {
        let share = |token: Option<&u32>| token.and_then(|&token| self.shares.get(token as usize)).copied();
        let n = |pair: &[u32]| f64::from(self.place(pair).load(Ordering::Relaxed));
        let without_last = n(&ngram[..NGRAM - 1]) * share(ngram.last()).unwrap_or(0.0);
        let expected = without_last.max(n(&ngram[1..]) * share(ngram.first()).unwrap_or(0.0));
        f64::from(count) < expected + DEVIATIONS * expected.sqrt()
    }
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
        // Equally rare tokens: one that does not depend on where they are.
        pool.row(row)
            .iter()
            .copied()
            .min_by_key(|&token| (n_rows[token as usize], mix(u64::from(token))))
            .unwrap_or(START)
    };
    (0..pool.len()).into_par_iter().map(rarest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4000 prompts of twelve words out of ten, drawn evenly; every tenth begins with the same three of them.
    fn pool() -> TokenPool {
        use rand_chacha::rand_core::Rng;
        let mut draw = truing_types::Seed(3).generator("words", &[]);
        let words = ["ash", "bay", "cod", "dew", "elk", "fig", "gum", "hay", "ivy", "jam"];
        let texts = (0..4000).map(|row| {
            let drawn = (0..12).map(|_| words[(draw.next_u64() % 10) as usize]).collect::<Vec<_>>().join(" ");
            let begin = if row % 10 == 0 { "ash bay cod " } else { "" };
            format!("{begin}{drawn} {row}")
        });
        TokenPool::of(texts.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_chance_brings_together_is_no_fixed_text() {
        let pool = pool();
        let support = Support::count(&pool, 8);
        let with = support.of_row(pool.row(10));
        // The first n-grams hold the beginning twice over: (start, start, ash), (start, ash, bay), (ash, bay, cod).
        assert!(with[..3].iter().all(|&count| count >= 400), "{with:?}");
        let by_chance = (0..pool.len()).filter(|row| row % 10 != 0).flat_map(|row| {
            let counts = support.of_row(pool.row(row));
            counts[3..counts.len() - 3].to_vec()
        });
        let by_chance: Vec<u32> = by_chance.collect();
        let n_fixed = by_chance.iter().filter(|&&count| count > 1).count();
        assert!(n_fixed * 50 < by_chance.len(), "{n_fixed} of {}", by_chance.len());
        // All of them recur often enough.
        let padded = padded(pool.row(1));
        assert!(padded[4..10].windows(NGRAM).all(|ngram| support.of(hash_tokens(ngram)) >= 20));
    }

    #[test]
    fn what_is_too_rare_to_count_is_not_counted() {
        let pool =
            TokenPool::of((0..7).map(|row| format!("tell me more {row}")).collect::<Vec<_>>()).unwrap();
        assert!(Support::count(&pool, 8).of_row(pool.row(0)).iter().all(|&count| count == 1));
        let support = Support::count(&pool, 7);
        assert_eq!(support.of_row(pool.row(0))[..4], [7, 7, 7, 1]);
    }
}
