//! Numbers, comparisons and ways to run one thing many times.

use truing_kernels::{SimdLevel, with_simd_level};

/// `n` numbers in -1..1 from a linear congruential generator.
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

pub(crate) fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Every element within `tolerance · (1 + the largest magnitude wanted)`.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = 1.0 + want.iter().fold(0.0f64, |largest, w| largest.max(w.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs() / scale;
        assert!(error <= tolerance, "{what}[{i}]: {got}, not {want} (error {error:e})");
    }
}

/// The same bits, NaN included.
#[track_caller]
pub(crate) fn assert_same_bits(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}: length");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}[{i}]: {a} and {b}");
    }
}

/// Runs `test` with each level the machine has.
pub(crate) fn at_every_level(mut test: impl FnMut(SimdLevel)) {
    for level in SimdLevel::ALL {
        with_simd_level(level, || test(level));
    }
}

/// Runs `compute` on pools of 1, 2, 3 and 4 threads at each level and holds the outputs to the same bits.
pub(crate) fn assert_threads_do_not_matter(compute: impl Fn() -> Vec<Vec<f32>> + Sync) {
    at_every_level(|level| {
        let on_pool = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("a thread pool");
            pool.install(|| with_simd_level(level, &compute).expect("an available level"))
        };
        let one = on_pool(1);
        for n_threads in 2..=4 {
            for (i, (a, b)) in one.iter().zip(&on_pool(n_threads)).enumerate() {
                assert_same_bits(&format!("{level}, {n_threads} threads, output {i}"), a, b);
            }
        }
    });
}

/// The gradient of `loss` at `x`, by central differences.
pub(crate) fn finite_differences(x: &[f64], mut loss: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut moved = x.to_vec();
    (0..x.len())
        .map(|i| {
            moved[i] = x[i] + STEP;
            let above = loss(&moved);
            moved[i] = x[i] - STEP;
            let below = loss(&moved);
            moved[i] = x[i];
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

pub(crate) fn weighted_sum(values: &[f64], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(v, &w)| v * f64::from(w)).sum()
}
