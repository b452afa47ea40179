//! Layer normalisation of rows.
//!
//! Ba, Kiros and Hinton, "Layer Normalization" (arXiv 1607.06450). For a row of `width` values, with
//! `r = 1 / sqrt(mean((x - mean x)²) + eps)` and `n = (x - mean x) r`:
//!
//! ```text
//! out      = n weight + bias
//! d_x      = r (g - mean(g) - n mean(g n)),  g = d_out weight
//! d_weight += Σ_rows d_out n
//! d_bias   += Σ_rows d_out
//! ```
//!
//! `x`, `out`, `d_out`, `d_x: [rows, width]`; the others `[width]`. Sums run in f32 over the lanes of a vector, then
//! over the lanes; the variance in a second pass over the row, so that a large mean costs no digits.

use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::simd::{Simd, SimdLevel, simd_fn};
use crate::vector::add_assign;

/// `Σ f(x)` over a row, on four chains so that additions overlap. `f` of the fill must be 0.
#[inline(always)]
fn sum_of<S: Simd>(simd: S, row: &[f32], fill: f32, f: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let mut chains = [simd.splat(0.0); 4];
    let mut groups = row.chunks_exact(4 * S::LANES);
    for group in &mut groups {
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = f(simd.load(&group[i * S::LANES..]), *chain);
        }
    }
    for part in groups.remainder().chunks(S::LANES) {
        chains[0] = f(simd.load_or(part, fill), chains[0]);
    }
    simd.sum(simd.add(simd.add(chains[0], chains[1]), simd.add(chains[2], chains[3])))
}

/// `(mean x, r)`
#[inline(always)]
fn statistics<S: Simd>(simd: S, row: &[f32], eps: f32) -> (f32, f32) {
    let width = row.len() as f32;
    let mean = sum_of(simd, row, 0.0, |x, sum| simd.add(sum, x)) / width;
    let centre = simd.splat(mean);
    let squares = sum_of(simd, row, mean, |x, sum| {
        let deviation = simd.sub(x, centre);
        simd.fma(deviation, deviation, sum)
    });
    (mean, 1.0 / (squares / width + eps).sqrt())
}

simd_fn! {
    fn forward_rows<S>(simd, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            let (mean, r) = statistics(simd, x, eps);
            let (mean, r) = (simd.splat(mean), simd.splat(r));
            let parameters = weight.chunks(S::LANES).zip(bias.chunks(S::LANES));
            for ((x, (weight, bias)), out) in x.chunks(S::LANES).zip(parameters).zip(out.chunks_mut(S::LANES)) {
                let normal = simd.mul(simd.sub(simd.load_or(x, 0.0), mean), r);
                simd.store_some(out, simd.fma(normal, simd.load_or(weight, 0.0), simd.load_or(bias, 0.0)));
            }
        }
    }
}

simd_fn! {
    /// `sums: [2, width]`, for the weight and for the bias.
    fn backward_rows<S>(
        simd, x: &[f32], weight: &[f32], eps: f32, d_out: &[f32], d_x: &mut [f32], sums: &mut [f32],
    ) {
        let width = weight.len();
        let (d_weight, d_bias) = sums.split_at_mut(width);
        let rows = x.chunks_exact(width).zip(d_out.chunks_exact(width)).zip(d_x.chunks_exact_mut(width));
        for ((x, d_out), d_x) in rows {
            let (mean, r) = statistics(simd, x, eps);
            let (mean, r) = (simd.splat(mean), simd.splat(r));
            let (mut sum, mut along_normal) = (simd.splat(0.0), simd.splat(0.0));
            for ((x, weight), d_out) in x.chunks(S::LANES).zip(weight.chunks(S::LANES)).zip(d_out.chunks(S::LANES)) {
                // Past the end d_out is 0, and so is all that is summed.
                let normal = simd.mul(simd.sub(simd.load_or(x, 0.0), mean), r);
                let g = simd.mul(simd.load_or(d_out, 0.0), simd.load_or(weight, 0.0));
                sum = simd.add(sum, g);
                along_normal = simd.fma(g, normal, along_normal);
            }
            let shift = simd.splat(simd.sum(sum) / width as f32);
            let pull = simd.splat(simd.sum(along_normal) / width as f32);
            let inputs = x.chunks(S::LANES).zip(weight.chunks(S::LANES)).zip(d_out.chunks(S::LANES));
            let outputs = d_x
                .chunks_mut(S::LANES)
                .zip(d_weight.chunks_mut(S::LANES).zip(d_bias.chunks_mut(S::LANES)));
            for (((x, weight), d_out), (d_x, (d_weight, d_bias))) in inputs.zip(outputs) {
                let normal = simd.mul(simd.sub(simd.load_or(x, 0.0), mean), r);
                let d_out = simd.load_or(d_out, 0.0);
                let g = simd.mul(d_out, simd.load_or(weight, 0.0));
                let across = simd.sub(simd.sub(g, shift), simd.mul(normal, pull));
                simd.store_some(d_x, simd.mul(r, across));
                let summed = simd.fma(d_out, normal, simd.load_or(d_weight, 0.0));
                simd.store_some(d_weight, summed);
                let summed = simd.add(d_out, simd.load_or(d_bias, 0.0));
                simd.store_some(d_bias, summed);
            }
        }
    }
}

/// Normalises the rows of `x` into `out`; a row is `weight.len()` long. Panics when a length does not fit.
#[allow(unsafe_code, reason = "rows written by several threads")]
pub fn layer_norm_forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "layer_norm_forward: x is [rows, width]");
    assert_eq!(bias.len(), width, "layer_norm_forward: bias is as weight");
    assert_eq!(x.len(), out.len(), "layer_norm_forward: out is as x");
    let level = SimdLevel::current();
    let len = (ELEMENTS_PER_ITEM / width).max(1) * width;
    let out = Disjoint::new(out);
    for_each_item(x.len().div_ceil(len), |item| {
        let x = &x[item * len..x.len().min((item + 1) * len)];
        // SAFETY: an item writes only its own rows.
        forward_rows(level, x, weight, bias, eps, unsafe { out.part(item * len, x.len()) });
    });
}

/// Gradients of [`layer_norm_forward`]: overwrites `d_x`, and adds to those of `[d_weight, d_bias]` that there are.
///
/// Rows are taken in fixed groups whose sums are added in order. Panics when a length does not fit.
#[allow(unsafe_code, reason = "rows written by several threads")]
pub fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    d_out: &[f32],
    d_x: &mut [f32],
    d_parameters: [Option<&mut [f32]>; 2],
) {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "layer_norm_backward: x is [rows, width]");
    assert!(d_out.len() == x.len() && d_x.len() == x.len(), "layer_norm_backward: d_out and d_x are as x");
    let level = SimdLevel::current();
    let len = (ELEMENTS_PER_ITEM / width).max(1) * width;
    let n_items = x.len().div_ceil(len);
    let mut partial = vec![0.0; n_items * 2 * width];
    let (d_x, sums) = (Disjoint::new(d_x), Disjoint::new(&mut partial));
    for_each_item(n_items, |item| {
        let rows = item * len..x.len().min((item + 1) * len);
        // SAFETY: an item writes only its own rows and its own sums.
        let (d_x, sums) =
            unsafe { (d_x.part(rows.start, rows.len()), sums.part(item * 2 * width, 2 * width)) };
        backward_rows(level, &x[rows.clone()], weight, eps, &d_out[rows], d_x, sums);
    });
    for (i, d_parameter) in d_parameters.into_iter().enumerate() {
        let Some(d_parameter) = d_parameter else { continue };
        assert_eq!(d_parameter.len(), width, "layer_norm_backward: d_weight and d_bias are as weight");
        for sums in partial.chunks_exact(2 * width) {
            add_assign(d_parameter, &sums[i * width..][..width]);
        }
    }
}
