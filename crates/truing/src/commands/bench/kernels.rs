//! The machine's peaks, and the matrix products of a training step.

use std::convert::Infallible;

use serde::Serialize;
use truing_kernels::{
    Bf16Matrix, Epilogue, MatrixRef, Weight, Write, measure_bf16_peak_gflops, measure_peak_gflops,
    measure_read_bandwidth, zeroed,
};
use truing_model::{DecoderSpec, ParameterRole};

use super::timing::{Spread, seconds_of};
use super::{Extent, Peak, Row};

/// What some threads reach together.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct PeakOfThreads {
    pub(super) n_threads: usize,
    pub(super) multiply_add_gflops: f64,
    pub(super) bf16_gflops: f64,
    pub(super) memory_read_gb_per_second: f64,
}

/// The best of several measurements: other programs make single ones too low, never too high.
#[derive(Debug, Serialize)]
pub(super) struct Peaks {
    /// One thread, then all.
    pub(super) by_threads: Vec<PeakOfThreads>,
}

impl Peaks {
    /// Measures with one thread and with all, each in a pool of its own.
    pub(super) fn measure(n_threads: usize) -> anyhow::Result<Self> {
        let mut by_threads = Vec::new();
        for n_threads in if n_threads > 1 { vec![1, n_threads] } else { vec![1] } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build()?;
            let best = |measure: fn() -> f64| (0..3).map(|_| measure()).fold(0.0, f64::max);
            by_threads.push(pool.install(|| PeakOfThreads {
                n_threads,
                multiply_add_gflops: best(measure_peak_gflops),
                bf16_gflops: best(measure_bf16_peak_gflops),
                memory_read_gb_per_second: measure_read_bandwidth() / 1e9,
            }));
        }
        Ok(Self { by_threads })
    }

    /// The share of the peak of all threads: of `gflops`, or of gigabytes a second.
    pub(super) fn share(&self, peak: Peak, rate: f64) -> Option<f64> {
        let all = self.by_threads.last()?;
        Some(match peak {
            Peak::MultiplyAdd => rate / all.multiply_add_gflops,
            Peak::Bf16 => rate / all.bf16_gflops,
            Peak::MemoryRead => rate / all.memory_read_gb_per_second,
        })
    }
}

/// The shapes `[out, in]` of a model's projections, each once, in the order of the forward pass.
fn projections(spec: &DecoderSpec) -> Vec<(usize, usize)> {
    let mut shapes = Vec::new();
    for parameter in spec.parameters().iter().filter(|p| p.role == ParameterRole::Matrix) {
        let shape = (parameter.shape[0], parameter.shape[1]);
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// The three products of each projection, in f32 and in bf16: forward, and backward to the input and to the weight.
pub(super) fn products(spec: &DecoderSpec, extent: &Extent, peaks: &Peaks) -> Vec<Row> {
    let mut rows = Vec::new();
    for (n_out, n_in) in projections(spec) {
        let n_tokens = extent.n_tokens;
        let [x, d_y, weight] = [n_tokens * n_in, n_tokens * n_out, n_out * n_in].map(numbers);
        let (mut y, mut d_x, mut d_weight) = (d_y.clone(), x.clone(), weight.clone());
        let x = MatrixRef::new(&x, n_tokens, n_in);
        let d_y = MatrixRef::new(&d_y, n_tokens, n_out);
        let mut rounded = Bf16Matrix::new(n_out, n_in);
        rounded.round(&weight);
        let mut row = |name: &str, peak: Peak, work: &mut dyn FnMut()| {
            let Ok(seconds) = seconds_of(extent.n_products, || {
                work();
                Ok::<(), Infallible>(())
            });
            let gflops = 2.0 * (n_tokens * n_out * n_in) as f64 / 1e9;
            let rate = Spread::of_rates(gflops, &seconds);
            rows.push(Row {
                name: format!(
                    "product{} [{n_out}, {n_in}], {name}",
                    if peak == Peak::Bf16 { " bf16" } else { "" }
                ),
                unit: "GFLOP/s",
                rate,
                share_of_peak: peaks.share(peak, rate.median),
                peak: Some(peak),
            });
        };
        let formats = [(Weight::from(&weight), Peak::MultiplyAdd), (Weight::from(&rounded), Peak::Bf16)];
        for (weight, peak) in formats {
            let (nothing, overwrite) = (Epilogue::Nothing, Write::Overwrite);
            row("forward", peak, &mut || weight.forward(x, &mut y, overwrite, nothing));
            row("d input", peak, &mut || weight.backward_input(d_y, &mut d_x, overwrite));
            row("d weight", peak, &mut || weight.add_gradient(d_y, x, &mut d_weight));
        }
    }
    rows
}

/// Numbers between -0.1 and 0.1, none of which is small enough to be slow.
fn numbers(n: usize) -> Vec<f32> {
    let mut numbers = zeroed(n);
    for (i, x) in numbers.iter_mut().enumerate() {
        *x = ((i * 7919 % 2003) as f32 / 1001.5 - 1.0) * 0.1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::super::models;
    use super::*;

    #[test]
    fn each_shape_of_a_projection_is_measured_once() {
        let expected = [(576, 576), (192, 576), (1536, 576), (576, 1536)];
        assert_eq!(projections(&models::smollm2_135m()), expected);
    }

    #[test]
    fn shares_are_those_of_all_threads() {
        let of = |n_threads, multiply_add_gflops, memory_read_gb_per_second| PeakOfThreads {
            n_threads,
            multiply_add_gflops,
            bf16_gflops: 2.0 * multiply_add_gflops,
            memory_read_gb_per_second,
        };
        let peaks = Peaks { by_threads: vec![of(1, 100.0, 10.0), of(4, 400.0, 20.0)] };
        assert_eq!(peaks.share(Peak::MultiplyAdd, 200.0), Some(0.5));
        assert_eq!(peaks.share(Peak::Bf16, 200.0), Some(0.25));
        assert_eq!(peaks.share(Peak::MemoryRead, 15.0), Some(0.75));
    }
}
