//! SwiGLU's gate: `out = silu(gate) · up`, `silu(x) = x · σ(x)`, `σ(x) = 1 / (1 + e^-x)`.
//!
//! Shazeer, "GLU Variants Improve Transformer" (arXiv 2002.05202). Backward, with s = σ(gate):
//!
//! ```text
//! d_up   = d_out · gate · s
//! d_gate = d_out · up · s (1 + gate (1 - s))
//! ```
//!
//! All slices have one length, `[tokens · intermediate]`.

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::{Simd, SimdLevel, simd_fn};
use rayon::prelude::*;

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, simd.exp(simd.sub(simd.splat(0.0), x))))
}

/// `(silu(gate) · up, d_gate, d_up)`
#[inline(always)]
fn gradients<S: Simd>(simd: S, gate: S::V, up: S::V, d_out: S::V) -> (S::V, S::V, S::V) {
    let s = sigmoid(simd, gate);
    let silu = simd.mul(gate, s);
    // s (1 + gate (1 - s)) = s + silu - silu s
    let slope = simd.sub(simd.add(s, silu), simd.mul(silu, s));
    (simd.mul(silu, up), simd.mul(simd.mul(d_out, up), slope), simd.mul(d_out, silu))
}

simd_fn! {
    fn forward_chunk<S>(simd, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((gate, up), out) in gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(out.chunks_mut(S::LANES)) {
            let gate = simd.load_or(gate, 0.0);
            let silu = simd.mul(gate, sigmoid(simd, gate));
            simd.store_some(out, simd.mul(silu, simd.load_or(up, 0.0)));
        }
    }
}

simd_fn! {
    fn backward_chunk<S>(
        simd, gate: &[f32], up: &[f32], d_out: &[f32], d_gate: &mut [f32], d_up: &mut [f32],
    ) {
        let inputs = gate.chunks(S::LANES).zip(up.chunks(S::LANES)).zip(d_out.chunks(S::LANES));
        let outputs = d_gate.chunks_mut(S::LANES).zip(d_up.chunks_mut(S::LANES));
        for (((gate, up), d_out), (d_gate, d_up)) in inputs.zip(outputs) {
            let (gate, up) = (simd.load_or(gate, 0.0), simd.load_or(up, 0.0));
            let (_, to_gate, to_up) = gradients(simd, gate, up, simd.load_or(d_out, 0.0));
            simd.store_some(d_gate, to_gate);
            simd.store_some(d_up, to_up);
        }
    }
}

simd_fn! {
    fn backward_in_place_chunk<S>(simd, gate: &mut [f32], up: &mut [f32], d_out: &mut [f32]) {
        let chunks = gate.chunks_mut(S::LANES).zip(up.chunks_mut(S::LANES)).zip(d_out.chunks_mut(S::LANES));
        for ((gate, up), d_out) in chunks {
            let (g, u) = (simd.load_or(gate, 0.0), simd.load_or(up, 0.0));
            let (out, to_gate, to_up) = gradients(simd, g, u, simd.load_or(d_out, 0.0));
            simd.store_some(gate, to_gate);
            simd.store_some(up, to_up);
            simd.store_some(d_out, out);
        }
    }
}

/// `out = silu(gate) · up`. Panics when the lengths differ.
pub fn swiglu_forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "swiglu_forward: all slices have one length");
    let level = SimdLevel::current();
    if out.len() <= ELEMENTS_PER_ITEM {
        return forward_chunk(level, gate, up, out);
    }
    out.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(gate.par_chunks(ELEMENTS_PER_ITEM).zip(up.par_chunks(ELEMENTS_PER_ITEM)))
        .for_each(|(out, (gate, up))| forward_chunk(level, gate, up, out));
}

/// Overwrites `d_gate` and `d_up` with the gradients. Panics when the lengths differ.
pub fn swiglu_backward(gate: &[f32], up: &[f32], d_out: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    let n = gate.len();
    assert!(
        up.len() == n && d_out.len() == n && d_gate.len() == n && d_up.len() == n,
        "swiglu_backward: all slices have one length"
    );
    let level = SimdLevel::current();
    if n <= ELEMENTS_PER_ITEM {
        return backward_chunk(level, gate, up, d_out, d_gate, d_up);
    }
    d_gate
        .par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(d_up.par_chunks_mut(ELEMENTS_PER_ITEM))
        .zip(gate.par_chunks(ELEMENTS_PER_ITEM).zip(up.par_chunks(ELEMENTS_PER_ITEM)))
        .zip(d_out.par_chunks(ELEMENTS_PER_ITEM))
        .for_each(|(((d_gate, d_up), (gate, up)), d_out)| {
            backward_chunk(level, gate, up, d_out, d_gate, d_up)
        });
}

/// The backward pass without a buffer of its own, for the pass that recomputes a layer: `gate` becomes `d_gate`,
/// `up` becomes `d_up`, and `d_out` becomes the recomputed `silu(gate) · up`, which the weight gradient of the
/// down projection needs. Panics when the lengths differ.
pub fn swiglu_backward_in_place(gate: &mut [f32], up: &mut [f32], d_out: &mut [f32]) {
    let n = gate.len();
    assert!(up.len() == n && d_out.len() == n, "swiglu_backward_in_place: all slices have one length");
    let level = SimdLevel::current();
    if n <= ELEMENTS_PER_ITEM {
        return backward_in_place_chunk(level, gate, up, d_out);
    }
    gate.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(up.par_chunks_mut(ELEMENTS_PER_ITEM).zip(d_out.par_chunks_mut(ELEMENTS_PER_ITEM)))
        .for_each(|(gate, (up, d_out))| backward_in_place_chunk(level, gate, up, d_out));
}
