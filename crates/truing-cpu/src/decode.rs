//! A block's forward for running sequences: the keys and values of earlier tokens come from a cache, and nothing is
//! kept for a backward.

use rayon::prelude::*;
use truing_kernels::{CachedSequence, RotaryTable, cached_attention, decode_attention, rotary_forward};

use crate::buffers::BufferPool;
use crate::cache::KvCache;
use crate::layer::{Branch, Layer};
use crate::parameters::Parameters;

/// From this many new tokens on, packing the cached keys pays.
const TILED_FROM: usize = 12;

impl Layer {
    /// The block for several new tokens of one sequence, in place; `cache` has room for them.
    pub(crate) fn extend(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        rotary: &RotaryTable,
        positions: &[u32],
        x: &mut [f32],
        cache: &mut KvCache,
        layer: usize,
    ) {
        let (n_new, n_cached) = (positions.len(), cache.n_cached);
        let [mut q, mut k, v] = self.project(parameters, pool, x);
        self.norm_heads(parameters, pool, &mut q, &mut k);
        rotary_forward(rotary, positions, &mut q, self.attention.n_heads);
        rotary_forward(rotary, positions, &mut k, self.attention.n_kv_heads);
        cache.append(layer, &k, &v);
        let mut attention = pool.take(n_new, self.q_width());
        if n_new < TILED_FROM {
            let seen = |i: usize| cache.sequence(layer, n_cached + i + 1);
            let sequences: Vec<CachedSequence<'_>> = (0..n_new).map(seen).collect();
            decode_attention(&self.attention, &sequences, &q, &mut attention);
        } else if n_cached == 0 {
            cached_attention(&self.attention, &q, &k, &v, &mut attention);
        } else {
            // The tiled attention reads keys in one piece.
            let [mut keys, mut values] = [(); 2].map(|()| pool.take(n_cached + n_new, self.kv_width()));
            cache.gather(layer, &mut keys, &mut values);
            keys[n_cached * self.kv_width()..].copy_from_slice(&k);
            values[n_cached * self.kv_width()..].copy_from_slice(&v);
            cached_attention(&self.attention, &q, &keys, &values, &mut attention);
            pool.give(keys);
            pool.give(values);
        }
        let of_attention = self.add_branch(parameters, pool, Branch::Attention, &attention, x);
        let [gate, up] = self.gate_and_up(parameters, pool, x);
        let mut activation = pool.take(n_new, self.inner);
        self.activate(&gate, &up, &mut activation);
        let of_feed_forward = self.add_branch(parameters, pool, Branch::FeedForward, &activation, x);
        let branches = of_attention.into_iter().chain(of_feed_forward);
        for buffer in [q, k, v, attention, gate, up, activation].into_iter().chain(branches) {
            pool.give(buffer);
        }
    }

    /// The block for some new tokens of each of several sequences, in place: `n_new` of each, `x` `[n_tokens, hidden]`.
    /// Each is computed as if it were the only one: products by rows, attention over the cache up to itself.
    pub(crate) fn extend_each_by(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        rotary: &RotaryTable,
        positions: &[u32],
        x: &mut [f32],
        caches: &mut [&mut KvCache],
        n_new: &[usize],
        layer: usize,
    ) {
        let n = positions.len();
        let mut normed = pool.take(n, self.hidden);
        self.input_norm.forward(parameters, x, &mut normed);
        let [mut q, mut k, v] = self.qkv.forward_rows(parameters, pool, &normed, n);
        self.norm_heads(parameters, pool, &mut q, &mut k);
        rotary_forward(rotary, positions, &mut q, self.attention.n_heads);
        rotary_forward(rotary, positions, &mut k, self.attention.n_kv_heads);
        let new = rows_of_each(&k, n_new, self.kv_width()).zip(rows_of_each(&v, n_new, self.kv_width()));
        let new: Vec<_> = new.collect();
        caches.par_iter_mut().zip(new).for_each(|(cache, (k, v))| cache.append(layer, k, v));
        let mut sequences: Vec<CachedSequence<'_>> = Vec::with_capacity(n);
        for (cache, n_new) in caches.iter().zip(n_new) {
            sequences.extend((1..=*n_new).map(|i| cache.sequence(layer, cache.n_cached + i)));
        }
        let mut attention = pool.take(n, self.q_width());
        decode_attention(&self.attention, &sequences, &q, &mut attention);
        self.add_branch_rows(parameters, pool, Branch::Attention, &attention, x);

        self.feed_forward_norm.forward(parameters, x, &mut normed);
        let [gate, up] = self.gate_up.forward_rows(parameters, pool, &normed, n);
        let mut activation = pool.take(n, self.inner);
        self.activate(&gate, &up, &mut activation);
        self.add_branch_rows(parameters, pool, Branch::FeedForward, &activation, x);
        for buffer in [normed, q, k, v, attention, gate, up, activation] {
            pool.give(buffer);
        }
    }
}

/// Divides rows `[n_tokens, width]` between sequences with `n_new` of them each.
fn rows_of_each<'a>(rows: &'a [f32], n_new: &'a [usize], width: usize) -> impl Iterator<Item = &'a [f32]> {
    n_new.iter().scan(rows, move |rest, &n_new| {
        let (of_sequence, others) = rest.split_at(n_new * width);
        *rest = others;
        Some(of_sequence)
    })
}
