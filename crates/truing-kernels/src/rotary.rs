//! Rotary position embedding in the half-split layout of transformers: component `i` of a head turns with
//! component `i + head_dim / 2`.
//!
//! Su et al., "RoFormer" (arXiv 2104.09864). With `a = position · inverse_frequencies[i]`:
//!
//! ```text
//! x'[i]     = x[i] cos a - x[i + d/2] sin a
//! x'[i+d/2] = x[i + d/2] cos a + x[i] sin a
//! ```
//!
//! A table may turn the first components of a head alone; the others stay as they are. The backward pass turns the
//! other way. Angles are computed in f32, as transformers does, so that the two agree at long positions too.

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::{Simd, SimdLevel, simd_fn};
use rayon::prelude::*;

/// Cosines and sines for every position a model may see.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    head_dim: usize,
    half: usize,
    n_positions: usize,
    /// `[n_positions, half]`
    cosines: Vec<f32>,
    /// `[n_positions, half]`
    sines: Vec<f32>,
}

impl RotaryTable {
    /// `inverse_frequencies: [head_dim / 2]`; both cosine and sine are multiplied by `attention_factor` (1 except
    /// for the scalings that ask for it, such as YaRN).
    pub fn new(inverse_frequencies: &[f32], n_positions: usize, attention_factor: f32) -> Self {
        let angles =
            |position: usize| inverse_frequencies.iter().map(move |frequency| position as f32 * frequency);
        let cosines = (0..n_positions).flat_map(|p| angles(p).map(|a| a.cos() * attention_factor)).collect();
        let sines = (0..n_positions).flat_map(|p| angles(p).map(|a| a.sin() * attention_factor)).collect();
        let half = inverse_frequencies.len();
        RotaryTable { head_dim: 2 * half, half, n_positions, cosines, sines }
    }

    /// The same table for larger heads, of which it turns the first components. Panics where heads are smaller.
    #[must_use]
    pub fn for_heads_of(self, head_dim: usize) -> Self {
        assert!(head_dim >= 2 * self.half, "rotary: a head has the components that turn");
        RotaryTable { head_dim, ..self }
    }

    /// Positions the table reaches; a kernel given a later one panics.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Size of the heads it turns.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
}

#[inline(always)]
fn turn<S: Simd>(simd: S, head: &mut [f32], cosines: &[f32], sines: &[f32], direction: f32) {
    let half = cosines.len();
    let (first, second) = head[..2 * half].split_at_mut(half);
    let pairs = first.chunks_mut(S::LANES).zip(second.chunks_mut(S::LANES));
    for ((first, second), (cos, sin)) in pairs.zip(cosines.chunks(S::LANES).zip(sines.chunks(S::LANES))) {
        let (a, b) = (simd.load_or(first, 0.0), simd.load_or(second, 0.0));
        let cos = simd.load_or(cos, 0.0);
        let sin = simd.mul(simd.load_or(sin, 0.0), simd.splat(direction));
        simd.store_some(first, simd.sub(simd.mul(a, cos), simd.mul(b, sin)));
        simd.store_some(second, simd.add(simd.mul(b, cos), simd.mul(a, sin)));
    }
}

simd_fn! {
    fn turn_tokens<S>(
        simd, table: &RotaryTable, positions: &[u32], heads: &mut [f32], n_heads: usize, direction: f32,
    ) {
        let head_dim = table.head_dim();
        for (token, &position) in heads.chunks_exact_mut(n_heads * head_dim).zip(positions) {
            let start = position as usize * table.half;
            let cosines = &table.cosines[start..start + table.half];
            let sines = &table.sines[start..start + table.half];
            for head in token.chunks_exact_mut(head_dim) {
                turn(simd, head, cosines, sines, direction);
            }
        }
    }
}

fn turn_all(table: &RotaryTable, positions: &[u32], heads: &mut [f32], n_heads: usize, direction: f32) {
    let width = n_heads * table.head_dim();
    assert_eq!(heads.len(), positions.len() * width, "rotary: heads is [positions, n_heads, head_dim]");
    if heads.is_empty() {
        return;
    }
    let level = SimdLevel::current();
    let tokens_per_item = (ELEMENTS_PER_ITEM / width).max(1);
    if positions.len() <= tokens_per_item {
        return turn_tokens(level, table, positions, heads, n_heads, direction);
    }
    heads
        .par_chunks_mut(tokens_per_item * width)
        .zip(positions.par_chunks(tokens_per_item))
        .for_each(|(heads, positions)| turn_tokens(level, table, positions, heads, n_heads, direction));
}

/// Turns `heads: [total, n_heads, head_dim]` in place by `positions: [total]`.
///
/// Panics when a length does not fit or a position is past the table.
pub fn rotary_forward(table: &RotaryTable, positions: &[u32], heads: &mut [f32], n_heads: usize) {
    turn_all(table, positions, heads, n_heads, 1.0);
}

/// Turns gradients `heads: [total, n_heads, head_dim]` back in place: the transpose of [`rotary_forward`].
pub fn rotary_backward(table: &RotaryTable, positions: &[u32], heads: &mut [f32], n_heads: usize) {
    turn_all(table, positions, heads, n_heads, -1.0);
}
