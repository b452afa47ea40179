use crate::support::*;
use truing_kernels::*;

fn by_table(a: &[u32], b: &[u32]) -> u32 {
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

fn symbols(key: u64, n: usize, n_symbols: u32) -> Vec<u32> {
    numbers(key, n).iter().map(|x| ((x * 0.5 + 0.5) * n_symbols as f32) as u32 % n_symbols).collect()
}

fn check(length: usize, n_symbols: u32, n_patterns: usize) {
    let texts: Vec<Vec<u32>> = (0..n_patterns as u64)
        .map(|k| symbols(k + 2, length.saturating_sub(3 * k as usize), n_symbols))
        .collect();
    let text = symbols(1, length + 5, n_symbols);
    // A pattern never holds symbol 0.
    let without = |list: &[u32]| list.iter().copied().filter(|&s| s != 0).collect::<Vec<_>>();
    let expect: Vec<u32> = texts.iter().map(|pattern| by_table(&without(pattern), &text)).collect();
    let mut patterns = LcsPatterns::default();
    patterns.reset(n_symbols as usize, length);
    for (lane, pattern) in texts.iter().enumerate() {
        pattern.iter().enumerate().for_each(|(at, &symbol)| patterns.set(lane, at, symbol as usize));
    }
    for level in SimdLevel::ALL {
        let found = with_simd_level(level, || patterns.clone().lengths(&text));
        if let Some(found) = found {
            assert_eq!(found[..n_patterns], expect, "length {length}, {n_symbols} symbols, {level}");
            assert!(found[n_patterns..].iter().all(|&length| length == 0));
        }
    }
}

#[test]
fn small_lcs_lengths_at_every_level() {
    for length in [0, 1, 63, 64, 65, 128, 129, 192, 193, 256, 257, 400] {
        [2, 5, 60].into_iter().for_each(|n_symbols| check(length, n_symbols, LCS_LANES));
    }
    check(100, 7, 3);
}

#[test]
fn a_carry_runs_through_every_word() {
    // All symbols equal: each step adds one at the lowest place that is still set.
    let mut patterns = LcsPatterns::default();
    patterns.reset(2, 320);
    (0..320).for_each(|at| patterns.set(5, at, 1));
    for n in [0, 1, 64, 319, 320, 400] {
        let lengths = patterns.lengths(&vec![1; n]);
        assert_eq!(lengths[5], n.min(320) as u32);
    }
}
