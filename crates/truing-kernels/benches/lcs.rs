//! Longest common subsequences of one text and eight patterns: million pairs a second on one thread.
//!
//! `cargo bench -p truing-kernels --bench lcs`

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::time::Instant;
use truing_kernels::*;

fn main() {
    println!("{:<10} {:>10} {:>14}", "symbols", "level", "million pairs/s");
    for length in [20, 44, 60, 120, 235, 1000] {
        for level in SimdLevel::ALL {
            let mut state = 7_u32;
            let mut symbol = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 26
            };
            let mut patterns = LcsPatterns::default();
            patterns.reset(64, length);
            for lane in 0..LCS_LANES {
                (0..length).for_each(|position| patterns.set(lane, position, symbol() as usize));
            }
            let text: Vec<u32> = (0..length).map(|_| symbol()).collect();
            let n_runs = 40_000_000 / length / (length.div_ceil(64));
            let mut sum = 0;
            let started = Instant::now();
            let done = with_simd_level(level, || {
                for _ in 0..n_runs {
                    sum += std::hint::black_box(&mut patterns).lengths(&text)[0];
                }
            });
            let rate = (n_runs * LCS_LANES) as f64 / started.elapsed().as_secs_f64() / 1e6;
            if done.is_some() && sum > 0 {
                println!("{length:<10} {level:>10} {rate:>14.2}");
            }
        }
    }
}
