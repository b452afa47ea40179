//! How fast this machine multiplies and reads memory: what `truing doctor` and `truing bench` show, and the planner's
//! time estimate starts from.
//!
//! The only module of the crate that reads the clock; a rate cannot be measured without it.

use crate::bf16_matrix::Bf16Matrix;
use crate::bf16_products::{Bf16Products, PairDot, Widen};
use crate::blocks::Epilogue;
use crate::matmul::MatrixRef;
use crate::micro_kernel::Write;
use crate::simd::{Simd, SimdLevel, simd_fn};
use crate::weight::Weight;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Fused multiply-adds on each of this many independent chains hide the latency of one on every machine known.
const CHAINS: usize = 12;

simd_fn! {
    /// Operations done.
    fn multiply_add_loop<S>(simd, n_rounds: usize) -> usize {
        let mut chains = [simd.splat(1.0); CHAINS];
        let (factor, term) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
        for _ in 0..n_rounds {
            for chain in &mut chains {
                *chain = simd.fma(*chain, factor, term);
            }
        }
        let total = chains.into_iter().reduce(|a, b| simd.add(a, b));
        black_box(total.map(|total| simd.sum(total)));
        2 * CHAINS * S::LANES * n_rounds
    }
}

/// The most f32 operations a second, in 10^9, that the threads of the current pool reach together: a loop of fused
/// multiply-adds on registers, no memory. Takes about a tenth of a second.
pub fn measure_peak_gflops() -> f64 {
    const ROUNDS: usize = 400_000;
    let level = SimdLevel::current();
    best_gflops(8, || rayon::broadcast(|_| multiply_add_loop(level, ROUNDS)).into_iter().sum())
}

/// Operations done in products of pairs of bf16 numbers.
#[inline(always)]
fn pair_loop<S: Simd, D: PairDot<S>>(simd: S, dot: D, n_rounds: usize) -> usize {
    // Both halves are 0.5: sums stay finite numbers of ordinary size.
    let half = f32::from_bits(0x3f00_3f00);
    let mut chains = [simd.splat(1.0); CHAINS];
    let (a, b) = (simd.splat(black_box(half)), simd.splat(black_box(half)));
    for _ in 0..n_rounds {
        for chain in &mut chains {
            *chain = dot.dot(simd, a, b, *chain);
        }
    }
    let total = chains.into_iter().reduce(|a, b| simd.add(a, b));
    black_box(total.map(|total| simd.sum(total)));
    4 * CHAINS * S::LANES * n_rounds
}

simd_fn! {
    fn widened_pair_loop<S>(simd, n_rounds: usize) -> usize {
        pair_loop(simd, Widen, n_rounds)
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "calls what was compiled for instructions that were detected")]
fn dot_pair_loop(n_rounds: usize) -> usize {
    use crate::bf16_products::Dot;
    use crate::simd::Avx512;

    #[target_feature(enable = "avx2,fma,avx512f,avx512bf16")]
    fn compiled(simd: Avx512, dot: Dot, n_rounds: usize) -> usize {
        pair_loop(simd, dot, n_rounds)
    }
    // SAFETY: the caller has asked `Bf16Products::current`, which hands out only what the machine has.
    unsafe { compiled(Avx512::assume(), Dot::assume(), n_rounds) }
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_pair_loop(n_rounds: usize) -> usize {
    widened_pair_loop(SimdLevel::Portable, n_rounds)
}

/// The most operations a second, in 10^9, of products of bf16 numbers with sums in f32 that the threads of the current
/// pool reach together, as [`measure_peak_gflops`] measures those of f32. Takes about a tenth of a second.
pub fn measure_bf16_peak_gflops() -> f64 {
    const ROUNDS: usize = 400_000;
    let (level, products) = (SimdLevel::current(), Bf16Products::current());
    let work = || match products {
        Bf16Products::DotProducts => dot_pair_loop(ROUNDS),
        Bf16Products::Widened => widened_pair_loop(level, ROUNDS),
    };
    best_gflops(8, || rayon::broadcast(|_| work()).into_iter().sum())
}

/// The rate, in 10^9 operations a second, of the matrix products of a decoder layer on 512 tokens with the threads of
/// the current pool: forward, and backward to the input and to the weight. Takes about a tenth of a second.
pub fn measure_matmul_gflops() -> f64 {
    let weight = vec![0.25_f32; WIDTH * WIDTH];
    matmul_gflops(Weight::from(&weight))
}

/// The rate of [`measure_matmul_gflops`]'s products with factors in bf16. Takes about a tenth of a second.
pub fn measure_bf16_matmul_gflops() -> f64 {
    let mut weight = Bf16Matrix::new(WIDTH, WIDTH);
    weight.round(&vec![0.25; WIDTH * WIDTH]);
    matmul_gflops(Weight::from(&weight))
}

/// Rows and columns of the weight whose products are measured.
const WIDTH: usize = 576;

fn matmul_gflops(weight: Weight<'_>) -> f64 {
    const TOKENS: usize = 512;
    let x = vec![0.5; TOKENS * WIDTH];
    let mut y = vec![0.0; TOKENS * WIDTH];
    let mut d_weight = vec![0.0; WIDTH * WIDTH];
    let x = MatrixRef::new(&x, TOKENS, WIDTH);
    let best = best_gflops(10, || {
        weight.forward(x, &mut y, Write::Overwrite, Epilogue::Nothing);
        weight.backward_input(x, &mut y, Write::Overwrite);
        weight.add_gradient(x, x, &mut d_weight);
        3 * 2 * TOKENS * WIDTH * WIDTH
    });
    black_box((&y, &d_weight));
    best
}

/// The best rate, in 10^9 operations a second, of some passes of `work`, which returns its operations.
fn best_gflops(n_passes: usize, work: impl FnMut() -> usize) -> f64 {
    best_rate(n_passes, clock(), work) / 1e9
}

/// The time since now.
fn clock() -> impl FnMut() -> Duration {
    let start = Instant::now();
    move || start.elapsed()
}

/// The best rate, in units a second by the clock `now`, of some passes of `work`, which returns its units.
fn best_rate(n_passes: usize, mut now: impl FnMut() -> Duration, mut work: impl FnMut() -> usize) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..n_passes {
        let started = now();
        let n_units = work();
        best = best.max(n_units as f64 / (now() - started).as_secs_f64());
    }
    best
}

/// Far more than the caches of most processors hold.
const READ_BYTES: usize = 512 << 20;

/// Bytes a second that the threads of the current pool read from memory together: the sum of a buffer of 512 MiB, the
/// best of three passes.
pub fn measure_read_bandwidth() -> f64 {
    let buffer = vec![1.0_f32; READ_BYTES / size_of::<f32>()];
    let share = buffer.len().div_ceil(rayon::current_num_threads());
    best_rate(3, clock(), || {
        buffer.par_chunks(share).for_each(|part| {
            black_box(lane_sums(part));
        });
        READ_BYTES
    })
}

/// Sums in 32 independent lanes, so that reads from memory limit the rate, and not the latency of additions.
fn lane_sums(values: &[f32]) -> [f32; 32] {
    let mut sums = [0.0; 32];
    for chunk in values.chunks_exact(32) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::lanes;

    #[test]
    fn the_rate_is_that_of_the_best_pass() {
        // Three passes of 2, 1 and 4 seconds.
        let mut times = [0, 2, 2, 3, 3, 7].map(Duration::from_secs).into_iter();
        let mut units = [10, 20, 40].into_iter();
        let best = best_rate(
            3,
            || times.next().expect("two clock readings per pass"),
            || units.next().expect("one count per pass"),
        );
        assert_eq!(best, 20.0);
    }

    #[test]
    fn every_value_of_memory_is_summed() {
        let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let expected: Vec<f32> = (0..32).map(|i| (2 * i + 32) as f32).collect();
        assert_eq!(lane_sums(&values).to_vec(), expected);
    }

    #[test]
    fn operations_are_counted_by_round_chain_and_lane() {
        for level in [SimdLevel::Portable, SimdLevel::current()] {
            let multiply_adds = 5 * CHAINS * lanes(level);
            assert_eq!(multiply_add_loop(level, 5), 2 * multiply_adds);
            assert_eq!(widened_pair_loop(level, 5), 4 * multiply_adds, "a pair for each number");
        }
        if Bf16Products::current() == Bf16Products::DotProducts {
            assert_eq!(dot_pair_loop(5), widened_pair_loop(SimdLevel::Avx512, 5));
        }
    }

    /// How large they are depends on the machine.
    #[test]
    fn every_rate_is_a_number_above_0() {
        for measure in [
            measure_read_bandwidth,
            measure_peak_gflops,
            measure_matmul_gflops,
            measure_bf16_peak_gflops,
            measure_bf16_matmul_gflops,
        ] {
            let rate = measure();
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
