//! The Gaussian error linear unit in its exact form: `out = x · Φ(x)`, Φ the normal distribution function.
//!
//! Hendrycks and Gimpel, "Gaussian Error Linear Units" (arXiv 1606.08415). Backward, with φ the normal density:
//!
//! ```text
//! d_x = d_out · (Φ(x) + x φ(x))
//! ```
//!
//! Both need the upper tail `Q(z) = 1 - Φ(z)` for `z = |x|` and no more: `x Φ(x) = max(x, 0) - z Q(z)`. With
//! `t = 1 / (1 + 0.36 z)` it is `e^(-z² / 2) t P(t)`, P of degree 8 through the Chebyshev points of `z` in 0..14,
//! within 3e-7 of the tail itself. All slices have one length, `[tokens · intermediate]`.

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::{Simd, SimdLevel, simd_fn};
use rayon::prelude::*;

/// P, lowest power first.
const TAIL: [f32; 9] = [
    0.143_622_58,
    0.143_590_51,
    0.124_706_19,
    0.093_182_19,
    0.006_533_956,
    0.097_164_69,
    -0.214_618_35,
    0.135_176_42,
    -0.029_358_212,
];
const TAIL_SLOPE: f32 = 0.36;
/// From here on the tail is 0 in single precision, and a product with it is 0 even where x is infinite.
const LARGEST: f32 = 20.0;

/// `(z, e^(-z² / 2), Q(z))` for `z = min(|x|, 20)`.
#[inline(always)]
fn tail<S: Simd>(simd: S, x: S::V) -> (S::V, S::V, S::V) {
    let z = simd.min(simd.splat(LARGEST), simd.max(simd.sub(simd.splat(0.0), x), x));
    let bell = simd.exp(simd.mul(simd.mul(z, simd.splat(-0.5)), z));
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.fma(simd.splat(TAIL_SLOPE), z, one));
    let mut p = simd.splat(TAIL[8]);
    for coefficient in TAIL[..8].iter().rev() {
        p = simd.fma(p, t, simd.splat(*coefficient));
    }
    (z, bell, simd.mul(bell, simd.mul(t, p)))
}

#[inline(always)]
fn value<S: Simd>(simd: S, x: S::V, z: S::V, tail: S::V) -> S::V {
    simd.sub(simd.max(x, simd.splat(0.0)), simd.mul(z, tail))
}

/// `Φ(x) + x φ(x)`
#[inline(always)]
fn slope<S: Simd>(simd: S, x: S::V, bell: S::V, tail: S::V) -> S::V {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    // 1 where x is positive, 0 where it is negative; between them the tail is one half and it does not matter.
    let sign = simd.min(one, simd.max(zero, simd.mul(x, simd.splat(1e30))));
    let distribution = simd.fma(sign, simd.sub(one, simd.add(tail, tail)), tail);
    let bounded = simd.max(simd.splat(-LARGEST), simd.min(simd.splat(LARGEST), x));
    simd.fma(bounded, simd.mul(bell, simd.splat(0.398_942_3)), distribution)
}

/// `x Φ(x)`
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    let (z, _, tail) = tail(simd, x);
    value(simd, x, z, tail)
}

simd_fn! {
    fn forward_chunk<S>(simd, x: &[f32], out: &mut [f32]) {
        for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            let value = gelu(simd, simd.load_or(x, 0.0));
            simd.store_some(out, value);
        }
    }
}

simd_fn! {
    fn forward_in_place_chunk<S>(simd, x: &mut [f32]) {
        for x in x.chunks_mut(S::LANES) {
            let value = gelu(simd, simd.load_or(x, 0.0));
            simd.store_some(x, value);
        }
    }
}

simd_fn! {
    fn backward_in_place_chunk<S>(simd, x: &mut [f32], d_out: &mut [f32]) {
        for (x, d_out) in x.chunks_mut(S::LANES).zip(d_out.chunks_mut(S::LANES)) {
            let (at, d) = (simd.load_or(x, 0.0), simd.load_or(d_out, 0.0));
            let (z, bell, tail) = tail(simd, at);
            simd.store_some(x, value(simd, at, z, tail));
            simd.store_some(d_out, simd.mul(d, slope(simd, at, bell, tail)));
        }
    }
}

/// `out = x Φ(x)`. Panics when the lengths differ.
pub fn gelu_forward(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "gelu_forward: both slices have one length");
    let level = SimdLevel::current();
    if x.len() <= ELEMENTS_PER_ITEM {
        return forward_chunk(level, x, out);
    }
    out.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(x.par_chunks(ELEMENTS_PER_ITEM))
        .for_each(|(out, x)| forward_chunk(level, x, out));
}

/// `x` becomes `x Φ(x)`.
pub fn gelu_forward_in_place(x: &mut [f32]) {
    let level = SimdLevel::current();
    if x.len() <= ELEMENTS_PER_ITEM {
        return forward_in_place_chunk(level, x);
    }
    x.par_chunks_mut(ELEMENTS_PER_ITEM).for_each(|x| forward_in_place_chunk(level, x));
}

/// The backward pass without a buffer of its own: `d_out` becomes `d_x`, and `x` becomes the recomputed `x Φ(x)`, which
/// the weight gradient of the next projection needs. Panics when the lengths differ.
pub fn gelu_backward_in_place(x: &mut [f32], d_out: &mut [f32]) {
    assert_eq!(x.len(), d_out.len(), "gelu_backward_in_place: both slices have one length");
    let level = SimdLevel::current();
    if x.len() <= ELEMENTS_PER_ITEM {
        return backward_in_place_chunk(level, x, d_out);
    }
    x.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(d_out.par_chunks_mut(ELEMENTS_PER_ITEM))
        .for_each(|(x, d_out)| backward_in_place_chunk(level, x, d_out));
}
