//! The soft cap of Gemma's scores and logits: `cap(z) = c tanh(z / c)`, near `z` for small values and never beyond
//! `±c`.
//!
//! Gemma Team, "Gemma 2" (arXiv 2408.00118), section 2. Its slope is `1 - tanh(z / c)²`.
//!
//! The hyperbolic tangent is an odd polynomial of degree 11 below 0.625 and `1 - 2 / (1 + e^2x)` above, within 2e-7 of
//! itself.

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::{Simd, SimdLevel, simd_fn};
use rayon::prelude::*;

/// Where the polynomial ends.
const BORDER: f32 = 0.625;
/// Coefficients of `x^11`, `x^9`, ... `x^3` (Moshier, Cephes).
const POLYNOMIAL: [f32; 5] =
    [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1];

/// The hyperbolic tangent.
#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let magnitude = simd.max(simd.sub(zero, x), x);
    // Bounded, so that nothing overflows where the polynomial is not used.
    let bounded = simd.max(simd.splat(-BORDER), simd.min(simd.splat(BORDER), x));
    let square = simd.mul(bounded, bounded);
    let mut p = simd.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        p = simd.fma(p, square, simd.splat(*coefficient));
    }
    let small = simd.fma(simd.mul(p, square), bounded, bounded);
    let power = simd.exp(simd.add(magnitude, magnitude));
    let large = simd.sub(one, simd.div(simd.splat(2.0), simd.add(one, power)));
    let steep = simd.splat(1e30);
    let sign = simd.max(simd.splat(-1.0), simd.min(one, simd.mul(x, steep)));
    let is_large = simd.max(zero, simd.min(one, simd.mul(simd.sub(magnitude, simd.splat(BORDER)), steep)));
    simd.fma(is_large, simd.mul(sign, large), simd.mul(simd.sub(one, is_large), small))
}

/// `1 - t²`, the slope of the cap at the value whose tangent is `t` ([`capped`]).
#[inline(always)]
pub(crate) fn slope<S: Simd>(simd: S, tangent: S::V) -> S::V {
    let one = simd.splat(1.0);
    simd.mul(simd.sub(one, tangent), simd.add(one, tangent))
}

/// A value after the cap, and its tangent.
#[inline(always)]
pub(crate) fn capped<S: Simd>(simd: S, z: S::V, cap: f32) -> (S::V, S::V) {
    let tangent = tanh(simd, simd.mul(z, simd.splat(1.0 / cap)));
    (simd.mul(simd.splat(cap), tangent), tangent)
}

/// Caps a row in place.
#[inline(always)]
pub(crate) fn cap_row<S: Simd>(simd: S, row: &mut [f32], cap: f32) {
    for z in row.chunks_mut(S::LANES) {
        let (value, _) = capped(simd, simd.load_or(z, 0.0), cap);
        simd.store_some(z, value);
    }
}

simd_fn! {
    fn cap_chunk<S>(simd, values: &mut [f32], cap: f32) {
        cap_row(simd, values, cap);
    }
}

simd_fn! {
    fn slope_chunk<S>(simd, values: &[f32], cap: f32, gradient: &mut [f32]) {
        for (z, d) in values.chunks(S::LANES).zip(gradient.chunks_mut(S::LANES)) {
            let (_, tangent) = capped(simd, simd.load_or(z, 0.0), cap);
            let at_input = simd.mul(simd.load_or(d, 0.0), slope(simd, tangent));
            simd.store_some(d, at_input);
        }
    }
}

/// `z` becomes `cap tanh(z / cap)`.
pub fn soft_cap_forward_in_place(values: &mut [f32], cap: f32) {
    let level = SimdLevel::current();
    if values.len() <= ELEMENTS_PER_ITEM {
        return cap_chunk(level, values, cap);
    }
    values.par_chunks_mut(ELEMENTS_PER_ITEM).for_each(|values| cap_chunk(level, values, cap));
}

/// The gradient at the capped values becomes that at the values `values`, which are those before the cap. Panics when
/// the lengths differ.
pub fn soft_cap_backward_in_place(values: &[f32], cap: f32, gradient: &mut [f32]) {
    assert_eq!(values.len(), gradient.len(), "soft_cap_backward_in_place: both slices have one length");
    let level = SimdLevel::current();
    if values.len() <= ELEMENTS_PER_ITEM {
        return slope_chunk(level, values, cap, gradient);
    }
    gradient
        .par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(values.par_chunks(ELEMENTS_PER_ITEM))
        .for_each(|(gradient, values)| slope_chunk(level, values, cap, gradient));
}
