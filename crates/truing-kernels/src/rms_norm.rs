//! Root-mean-square normalisation of rows.
//!
//! Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467). For a row of `width` values,
//! with `r = 1 / sqrt(mean(x²) + eps)`:
//!
//! ```text
//! out      = x r weight
//! d_x      = r (g - x r² mean(g x)),  g = d_out weight
//! d_weight += Σ_rows d_out x r
//! ```
//!
//! `x`, `out`, `d_out`, `d_x: [rows, width]`; `weight`, `d_weight: [width]`. Sums run in f32 over the lanes of a
//! vector, then over the lanes. Heads are normalised by calling it with `width = head_dim`.

use crate::micro_kernel::Write;
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::simd::{Simd, SimdLevel, simd_fn};
use crate::vector::add_assign;

/// `Σ a b`, on four chains so that additions overlap.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut chains = [simd.splat(0.0); 4];
    let mut a_groups = a.chunks_exact(4 * S::LANES);
    let mut b_groups = b.chunks_exact(4 * S::LANES);
    for (a, b) in (&mut a_groups).zip(&mut b_groups) {
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = simd.fma(simd.load(&a[i * S::LANES..]), simd.load(&b[i * S::LANES..]), *chain);
        }
    }
    for (a, b) in a_groups.remainder().chunks(S::LANES).zip(b_groups.remainder().chunks(S::LANES)) {
        chains[0] = simd.fma(simd.load_or(a, 0.0), simd.load_or(b, 0.0), chains[0]);
    }
    simd.sum(simd.add(simd.add(chains[0], chains[1]), simd.add(chains[2], chains[3])))
}

#[inline(always)]
fn inverse_rms<S: Simd>(simd: S, row: &[f32], eps: f32) -> f32 {
    1.0 / (dot(simd, row, row) / row.len() as f32 + eps).sqrt()
}

simd_fn! {
    fn forward_rows<S>(simd, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            let r = simd.splat(inverse_rms(simd, x, eps));
            for ((x, weight), out) in x.chunks(S::LANES).zip(weight.chunks(S::LANES)).zip(out.chunks_mut(S::LANES)) {
                let normal = simd.mul(simd.load_or(x, 0.0), r);
                simd.store_some(out, simd.mul(normal, simd.load_or(weight, 0.0)));
            }
        }
    }
}

simd_fn! {
    fn backward_rows<S>(
        simd, x: &[f32], weight: &[f32], eps: f32, d_out: &[f32], d_x: &mut [f32], write: Write,
        d_weight: &mut [f32],
    ) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(d_out.chunks_exact(width)).zip(d_x.chunks_exact_mut(width));
        for ((x, d_out), d_x) in rows {
            let r = inverse_rms(simd, x, eps);
            let mut along_x = simd.splat(0.0);
            for ((x, weight), d_out) in x.chunks(S::LANES).zip(weight.chunks(S::LANES)).zip(d_out.chunks(S::LANES)) {
                let g = simd.mul(simd.load_or(d_out, 0.0), simd.load_or(weight, 0.0));
                along_x = simd.fma(g, simd.load_or(x, 0.0), along_x);
            }
            let pull = simd.splat(simd.sum(along_x) / width as f32 * r * r);
            let r = simd.splat(r);
            let inputs = x.chunks(S::LANES).zip(weight.chunks(S::LANES)).zip(d_out.chunks(S::LANES));
            let outputs = d_x.chunks_mut(S::LANES).zip(d_weight.chunks_mut(S::LANES));
            for (((x, weight), d_out), (d_x, d_weight)) in inputs.zip(outputs) {
                let x = simd.load_or(x, 0.0);
                let d_out = simd.load_or(d_out, 0.0);
                let g = simd.mul(d_out, simd.load_or(weight, 0.0));
                let gradient = simd.mul(r, simd.sub(g, simd.mul(x, pull)));
                simd.store_some(d_x, match write {
                    Write::Overwrite => gradient,
                    Write::Add => simd.add(simd.load_or(d_x, 0.0), gradient),
                });
                let summed = simd.fma(d_out, simd.mul(x, r), simd.load_or(d_weight, 0.0));
                simd.store_some(d_weight, summed);
            }
        }
    }
}

/// Normalises the rows of `x` into `out`; a row is `weight.len()` long. Panics when a length does not fit.
#[allow(unsafe_code, reason = "rows written by several threads")]
pub fn rms_norm_forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "rms_norm_forward: x is [rows, width]");
    assert_eq!(x.len(), out.len(), "rms_norm_forward: out is as x");
    let level = SimdLevel::current();
    let rows_per_item = (ELEMENTS_PER_ITEM / width).max(1);
    let len = rows_per_item * width;
    let out = Disjoint::new(out);
    for_each_item(x.len().div_ceil(len), |item| {
        let x = &x[item * len..x.len().min((item + 1) * len)];
        // SAFETY: an item writes only its own rows.
        forward_rows(level, x, weight, eps, unsafe { out.part(item * len, x.len()) });
    });
}

/// Gradients of [`rms_norm_forward`]: writes or adds `d_x`, and adds to `d_weight` when there is one.
///
/// Rows are taken in fixed groups whose sums for `d_weight` are added in order. Panics when a length does not fit.
#[allow(unsafe_code, reason = "rows written by several threads")]
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    d_out: &[f32],
    d_x: &mut [f32],
    write: Write,
    d_weight: Option<&mut [f32]>,
) {
    let width = weight.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "rms_norm_backward: x is [rows, width]");
    assert!(d_out.len() == x.len() && d_x.len() == x.len(), "rms_norm_backward: d_out and d_x are as x");
    let level = SimdLevel::current();
    let rows_per_item = (ELEMENTS_PER_ITEM / width).max(1);
    let len = rows_per_item * width;
    let n_items = x.len().div_ceil(len);
    let mut partial = vec![0.0; n_items * width];
    let (d_x, sums) = (Disjoint::new(d_x), Disjoint::new(&mut partial));
    for_each_item(n_items, |item| {
        let rows = item * len..x.len().min((item + 1) * len);
        // SAFETY: an item writes only its own rows and its own sums.
        let (d_x, d_weight) = unsafe { (d_x.part(rows.start, rows.len()), sums.part(item * width, width)) };
        backward_rows(level, &x[rows.clone()], weight, eps, &d_out[rows], d_x, write, d_weight);
    });
    if let Some(d_weight) = d_weight {
        assert_eq!(d_weight.len(), width, "rms_norm_backward: d_weight is as weight");
        partial.chunks_exact(width).for_each(|sums| add_assign(d_weight, sums));
    }
}
