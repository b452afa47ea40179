//! GEGLU's gate with the Gaussian error linear unit by its hyperbolic tangent: `out = gelu(gate) · up`.
//!
//! Shazeer, "GLU Variants Improve Transformer" (arXiv 2002.05202); Hendrycks and Gimpel (arXiv 1606.08415), whose
//! approximation `gelu(x) = x (1 + tanh u) / 2`, `u = sqrt(2 / π) (x + 0.044715 x³)`, is the same as `x σ(2u)` with
//! `σ(x) = 1 / (1 + e^-x)`. Backward, with s = σ(2u):
//!
//! ```text
//! d_up   = d_out · gate · s
//! d_gate = d_out · up · (s + gate · s (1 - s) · 2u'),  2u' = 2 sqrt(2 / π) (1 + 3 · 0.044715 gate²)
//! ```
//!
//! All slices have one length, `[tokens · intermediate]`.

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::{Simd, SimdLevel, simd_fn};
use rayon::prelude::*;

/// `2 sqrt(2 / π)`
const SCALE: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;
/// From here on the sigmoid is 0 or 1 in single precision.
const LARGEST: f32 = 12.0;

/// `(x σ(2u), its slope)`
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::V) -> (S::V, S::V) {
    let one = simd.splat(1.0);
    let bounded = simd.max(simd.splat(-LARGEST), simd.min(simd.splat(LARGEST), x));
    let square = simd.mul(bounded, bounded);
    let u = simd.mul(simd.mul(bounded, simd.splat(SCALE)), simd.fma(simd.splat(CUBIC), square, one));
    // Bounded so that the power stays finite: its product with s is 1 - s without cancellation.
    let power = simd.exp(simd.min(simd.splat(80.0), simd.sub(simd.splat(0.0), u)));
    let s = simd.div(one, simd.add(one, power));
    let rest = simd.mul(power, s);
    let d_u = simd.mul(simd.splat(SCALE), simd.fma(simd.splat(3.0 * CUBIC), square, one));
    let slope = simd.fma(simd.mul(bounded, s), simd.mul(rest, d_u), s);
    // Far below 0 the result is 0: the bound keeps x from undoing that.
    (simd.mul(simd.max(simd.splat(-LARGEST), x), s), slope)
}

simd_fn! {
    fn forward_chunk<S>(simd, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((gate, up), out) in gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(out.chunks_mut(S::LANES)) {
            let (value, _) = gelu(simd, simd.load_or(gate, 0.0));
            simd.store_some(out, simd.mul(value, simd.load_or(up, 0.0)));
        }
    }
}

simd_fn! {
    fn backward_in_place_chunk<S>(simd, gate: &mut [f32], up: &mut [f32], d_out: &mut [f32]) {
        let chunks = gate.chunks_mut(S::LANES).zip(up.chunks_mut(S::LANES)).zip(d_out.chunks_mut(S::LANES));
        for ((gate, up), d_out) in chunks {
            let (u, d) = (simd.load_or(up, 0.0), simd.load_or(d_out, 0.0));
            let (value, slope) = gelu(simd, simd.load_or(gate, 0.0));
            simd.store_some(gate, simd.mul(simd.mul(d, u), slope));
            simd.store_some(up, simd.mul(d, value));
            simd.store_some(d_out, simd.mul(value, u));
        }
    }
}

/// `out = gelu(gate) · up`. Panics when the lengths differ.
pub fn geglu_forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "geglu_forward: all slices have one length");
    let level = SimdLevel::current();
    if out.len() <= ELEMENTS_PER_ITEM {
        return forward_chunk(level, gate, up, out);
    }
    out.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(gate.par_chunks(ELEMENTS_PER_ITEM).zip(up.par_chunks(ELEMENTS_PER_ITEM)))
        .for_each(|(out, (gate, up))| forward_chunk(level, gate, up, out));
}

/// The backward pass without a buffer of its own: `gate` becomes `d_gate`, `up` becomes `d_up`, and `d_out` becomes the
/// recomputed `gelu(gate) · up`, which the weight gradient of the down projection needs. Panics when the lengths
/// differ.
pub fn geglu_backward_in_place(gate: &mut [f32], up: &mut [f32], d_out: &mut [f32]) {
    let n = gate.len();
    assert!(up.len() == n && d_out.len() == n, "geglu_backward_in_place: all slices have one length");
    let level = SimdLevel::current();
    if n <= ELEMENTS_PER_ITEM {
        return backward_in_place_chunk(level, gate, up, d_out);
    }
    gate.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(up.par_chunks_mut(ELEMENTS_PER_ITEM).zip(d_out.par_chunks_mut(ELEMENTS_PER_ITEM)))
        .for_each(|(gate, (up, d_out))| backward_in_place_chunk(level, gate, up, d_out));
}
