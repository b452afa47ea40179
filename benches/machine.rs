//! What this machine can do at most: float32 multiply-adds a second and bytes a second, for 1 and 2 threads.
//!
//!     rustc -O benches/machine.rs -o machine && ./machine
//!
//! The products run on registers alone (12 independent chains, enough for two units of latency 4), with AVX-512
//! and with AVX2; the streams go over arrays far larger than any cache. Best of several runs.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

const CHAINS: usize = 12;
const ROUNDS: usize = 20_000_000;
/// 256 MiB an array and thread.
const STREAM_LENGTH: usize = 64 << 20;

#[target_feature(enable = "avx512f")]
fn chains_512() -> f32 {
    let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
}

#[target_feature(enable = "avx2,fma")]
fn chains_256() -> f32 {
    let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [_mm256_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    sums.iter().map(|&sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
}

/// Seconds that `n_threads` threads need for `work`, from the first start to the last end; best of `runs`.
/// The workers read the clock themselves: a thread that only watches would wake late.
fn seconds<S>(
    n_threads: usize,
    runs: usize,
    setup: impl Fn() -> S + Sync,
    work: impl Fn(&mut S) + Sync,
) -> f64 {
    let barrier = Barrier::new(n_threads);
    let worker = || {
        let mut state = setup();
        let run = |_| {
            barrier.wait();
            let start = Instant::now();
            work(&mut state);
            (start, Instant::now())
        };
        (0..runs).map(run).collect::<Vec<_>>()
    };
    let times: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let of_run = |run: usize| {
        let start = times.iter().map(|t| t[run].0).min().unwrap();
        let end = times.iter().map(|t| t[run].1).max().unwrap();
        (end - start).as_secs_f64()
    };
    (0..runs).map(of_run).fold(f64::INFINITY, f64::min)
}

fn main() {
    for n_threads in [1, 2] {
        let operations = (2 * CHAINS * ROUNDS * n_threads) as f64;
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was found.
            let time = seconds(
                n_threads,
                5,
                || (),
                |()| {
                    black_box(unsafe { chains_512() });
                },
            );
            println!(
                "{n_threads} threads, AVX-512 multiply-add: {:.1} GFLOP/s",
                16.0 * operations / time / 1e9
            );
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were found.
            let time = seconds(
                n_threads,
                5,
                || (),
                |()| {
                    black_box(unsafe { chains_256() });
                },
            );
            println!("{n_threads} threads, AVX2 multiply-add: {:.1} GFLOP/s", 8.0 * operations / time / 1e9);
        }
        let bytes = (4 * STREAM_LENGTH * n_threads) as f64;
        let array = || vec![1.0f32; STREAM_LENGTH];
        let time = seconds(n_threads, 5, array, |a| {
            let mut sums = [0.0f32; 64];
            for chunk in a.chunks_exact(64) {
                for (sum, x) in sums.iter_mut().zip(chunk) {
                    *sum += x;
                }
            }
            black_box(sums);
        });
        println!("{n_threads} threads, read: {:.1} GB/s", bytes / time / 1e9);
        let time = seconds(
            n_threads,
            5,
            || (array(), array(), array()),
            |(a, b, c)| {
                for ((a, b), c) in a.iter_mut().zip(b.iter()).zip(c.iter()) {
                    *a = *b + 0.5 * *c;
                }
                black_box(a);
            },
        );
        println!(
            "{n_threads} threads, triad a = b + s c: {:.1} GB/s (three streams counted)",
            3.0 * bytes / time / 1e9
        );
    }
}
