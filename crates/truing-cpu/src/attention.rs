//! The attention of a decoder's block over packs, forward and backward: spans, and copies of keys where sequences share
//! a prefix. In a sequence group it runs on all rows and this rank's heads.

use std::ops::Range;

use truing_kernels::{
    AttentionShape, gather_rows, scatter_add_rows, span_attention_backward, span_attention_forward,
};

use crate::batch::{DeviceBatch, KeyRun};
use crate::buffers::BufferPool;
use crate::segment::SavedAttention;
use crate::ulysses::SequenceGroup;

/// Queries `[n_pack, own heads]`, keys and values `[n_pack, own key heads]`, after the rotation.
#[derive(Clone, Copy)]
pub(crate) struct AttentionInputs<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// The attention of this rank's heads.
#[derive(Debug)]
pub(crate) struct OwnAttention {
    shape: AttentionShape,
    group: SequenceGroup,
}

impl OwnAttention {
    /// `shape` has this rank's heads.
    pub(crate) fn new(shape: AttentionShape, group: &SequenceGroup) -> Self {
        Self { shape, group: group.clone() }
    }

    /// Width of the query heads.
    fn q_width(&self) -> usize {
        self.shape.n_heads * self.shape.head_dim
    }

    /// Width of the key heads.
    fn kv_width(&self) -> usize {
        self.shape.n_kv_heads * self.shape.head_dim
    }

    /// The attention's results `[n_pack, own heads]`.
    pub(crate) fn forward(
        &self,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        inputs: AttentionInputs<'_>,
    ) -> SavedAttention {
        let AttentionInputs { q, k, v } = inputs;
        let (group, n_pack) = (&self.group, batch.rows.n_pack);
        let mut attention = group.take(pool, n_pack, self.q_width());
        let mut log_sum_exp = group.take(pool, n_pack, self.shape.n_heads);
        match &batch.key_runs {
            None => {
                span_attention_forward(&self.shape, &batch.spans, q, k, v, &mut attention, &mut log_sum_exp)
            }
            Some(runs) => {
                for run in runs {
                    let [keys, values] = self.copied_keys(pool, run, [k, v]);
                    let (of_queries, of_heads) = self.parts_of(run);
                    span_attention_forward(
                        &self.shape,
                        &run.spans,
                        &q[of_queries.clone()],
                        &keys,
                        &values,
                        &mut attention[of_queries],
                        &mut log_sum_exp[of_heads],
                    );
                    pool.give(keys);
                    pool.give(values);
                }
            }
        }
        SavedAttention { attention, log_sum_exp }
    }

    /// The gradients at queries, keys and values, from that at the results.
    pub(crate) fn backward(
        &self,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        inputs: AttentionInputs<'_>,
        saved: &SavedAttention,
        d_attention: &[f32],
    ) -> [Vec<f32>; 3] {
        let AttentionInputs { q, k, v } = inputs;
        let SavedAttention { attention, log_sum_exp } = saved;
        let (group, n_pack) = (&self.group, batch.rows.n_pack);
        let mut d_q = group.take(pool, n_pack, self.q_width());
        let mut d_k = group.take(pool, n_pack, self.kv_width());
        let mut d_v = group.take(pool, n_pack, self.kv_width());
        match &batch.key_runs {
            None => span_attention_backward(
                &self.shape,
                &batch.spans,
                q,
                k,
                v,
                attention,
                log_sum_exp,
                d_attention,
                &mut d_q,
                &mut d_k,
                &mut d_v,
            ),
            Some(runs) => {
                truing_kernels::fill(&mut d_k, 0.0);
                truing_kernels::fill(&mut d_v, 0.0);
                for run in runs {
                    let [keys, values] = self.copied_keys(pool, run, [k, v]);
                    let [mut d_keys, mut d_values] =
                        [(); 2].map(|()| group.take(pool, run.key_tokens.len(), self.kv_width()));
                    let (of_queries, of_heads) = self.parts_of(run);
                    span_attention_backward(
                        &self.shape,
                        &run.spans,
                        &q[of_queries.clone()],
                        &keys,
                        &values,
                        &attention[of_queries.clone()],
                        &log_sum_exp[of_heads],
                        &d_attention[of_queries.clone()],
                        &mut d_q[of_queries],
                        &mut d_keys,
                        &mut d_values,
                    );
                    // A prefix's gradient is the sum over its copies, in their order.
                    for (d_copies, d_all) in [(&d_keys, &mut d_k), (&d_values, &mut d_v)] {
                        scatter_add_rows(d_copies, self.kv_width(), &run.key_tokens, d_all);
                    }
                    for buffer in [keys, values, d_keys, d_values] {
                        pool.give(buffer);
                    }
                }
            }
        }
        [d_q, d_k, d_v]
    }

    /// Keys and values as a run's spans want them: every prefix before each of its continuations.
    fn copied_keys(
        &self,
        pool: &mut BufferPool,
        run: &KeyRun,
        keys_and_values: [&[f32]; 2],
    ) -> [Vec<f32>; 2] {
        let width = self.kv_width();
        keys_and_values.map(|from| {
            let mut to = self.group.take(pool, run.key_tokens.len(), width);
            gather_rows(from, width, &run.key_tokens, &mut to);
            to
        })
    }

    /// A run's part of what is `[n_pack, own heads]`, and of the row normalisers, which are `[n_heads, n_tokens]` run
    /// by run.
    fn parts_of(&self, run: &KeyRun) -> (Range<usize>, Range<usize>) {
        let (start, end) = (run.queries.start, run.queries.end);
        let (width, n_heads) = (self.q_width(), self.shape.n_heads);
        (start * width..end * width, start * n_heads..end * n_heads)
    }
}
