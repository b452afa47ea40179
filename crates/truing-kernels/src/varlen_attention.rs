//! Attention over packed sequences, grouped heads, no mask tensor: inside each sequence
//!
//! ```text
//! s = scale · q kᵀ,  p = softmax(s) over the visible keys,  out = p v,  log_sum_exp = log Σ e^s
//! d_v = pᵀ d_out,  d_p = d_out vᵀ,  d_s = p (d_p - Σ d_out · out),  d_q = scale · d_s k,  d_k = scale · d_sᵀ q
//! ```
//!
//! With a soft cap c the scores are `c tanh(s / c)` (Gemma 2), and d_s is multiplied by the cap's slope.
//!
//! Forward is the tiled online softmax of Dao et al., "FlashAttention" (arXiv 2205.14135) and "FlashAttention-2"
//! (2307.08691); backward recomputes p of a tile from `log_sum_exp`. Scores exist for six queries and [`KEYS`] keys at
//! a time (a block of queries, backward). Tiles that no query may see are skipped, and on the diagonal so are the
//! vectors. A tile never holds two sequences.
//!
//! Keys and values are packed once for all heads and queries that read them (the scale goes into the keys). The items
//! of the threads are blocks of queries of one head forward; backward, ranges of queries of one group of heads. A
//! range sums its part of d_k and d_v over its heads and queries in order, and the parts of a sequence's ranges, whose
//! borders depend on its length alone, are added in order: no bit depends on the number of threads.
//!
//! Sums run in f32.

mod backward;
mod forward;
mod key_blocks;

pub use backward::{span_attention_backward, varlen_attention_backward};
pub(crate) use forward::Forward;
pub use forward::{span_attention_forward, varlen_attention_forward};

use crate::micro_kernel::TILE_ROWS;
use crate::scratch::{Scratch, Stock};
use crate::simd::MAX_LANES;
use std::cell::Cell;
use std::ops::Range;

/// Which tokens of its sequence a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    /// Itself and what came before.
    Causal,
    /// All.
    Full,
}

/// What attention needs to know besides the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head `i` reads head `i / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which tokens of its sequence a token sees.
    pub causality: Causality,
    /// With `Some(w)` a token sees the `w` tokens ending with itself (and, with [`Causality::Full`], the `w`
    /// beginning with itself); `w` is at least 1.
    pub sliding_window: Option<usize>,
    /// With `Some(c)` scores become `c tanh(score / c)`.
    pub soft_cap: Option<f32>,
}

impl AttentionShape {
    /// The positions that position `i` of a sequence of `len` sees. Both ends grow with `i`.
    #[inline(always)]
    pub(crate) fn visible(&self, i: usize, len: usize) -> Range<usize> {
        let window = self.sliding_window.unwrap_or(len).min(len);
        let start = (i + 1).saturating_sub(window);
        match self.causality {
            Causality::Causal => start..i + 1,
            Causality::Full => start..(i + window).min(len),
        }
    }

    #[inline(always)]
    pub(crate) fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    pub(crate) fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Panics where the heads cannot be grouped or the window is empty.
    pub(crate) fn check(&self) {
        assert!(self.head_dim > 0 && self.n_kv_heads > 0, "attention: heads are not empty");
        assert!(self.n_heads.is_multiple_of(self.n_kv_heads), "attention: n_kv_heads divides n_heads");
        assert!(self.sliding_window != Some(0), "attention: a token sees itself");
    }
}

/// Keys in a block.
const KEYS: usize = 64;
/// Queries in an item, forward, and in a block of scores, backward; whole tiles.
const QUERIES: usize = 16 * TILE_ROWS;
/// Fewest queries in a backward range, and the most ranges a sequence is cut into.
const RANGE_QUERIES: usize = 2 * QUERIES;
const MAX_RANGES: usize = 8;

static PACKED: Stock = Stock::new();

thread_local! {
    static WORK: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// Where a sequence lies: its queries are the last of its keys' positions.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
    /// Number of key blocks before it.
    pub(crate) first_block: usize,
}

impl Sequence {
    /// What query `i` sees of the sequence's keys.
    #[inline(always)]
    fn visible(&self, shape: &AttentionShape, i: usize) -> Range<usize> {
        shape.visible(self.keys.len() - self.queries.len() + i, self.keys.len())
    }

    fn n_blocks(&self) -> usize {
        self.keys.len().div_ceil(KEYS)
    }
}

/// Where a sequence's queries lie among the queries, and its keys among the keys. The queries stand at the last of the
/// keys' positions: where there are more keys than queries, the first keys are those of a prefix, which other spans may
/// hold copies of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionSpan {
    /// Rows of `q`.
    pub queries: Range<usize>,
    /// Rows of `k` and `v`.
    pub keys: Range<usize>,
}

/// Spans of packed sequences that see themselves alone. Panics when the lengths fall.
pub fn spans_of(cumulative_lengths: &[u32]) -> Vec<AttentionSpan> {
    let spans = cumulative_lengths.windows(2).map(|span| {
        assert!(span[0] <= span[1], "attention: cumulative lengths do not fall");
        let tokens = span[0] as usize..span[1] as usize;
        AttentionSpan { queries: tokens.clone(), keys: tokens }
    });
    spans.collect()
}

fn sequences(spans: &[AttentionSpan], n_queries: usize, n_keys: usize) -> Vec<Sequence> {
    let (mut next_query, mut next_key, mut first_block) = (0, 0, 0);
    let sequences = spans.iter().map(|AttentionSpan { queries, keys }| {
        assert!(queries.start == next_query && keys.start == next_key, "attention: spans follow one another");
        assert!(
            queries.start <= queries.end && queries.len() <= keys.len() && keys.start <= keys.end,
            "attention: a span has a key for every query"
        );
        (next_query, next_key) = (queries.end, keys.end);
        let sequence = Sequence { queries: queries.clone(), keys: keys.clone(), first_block };
        first_block += sequence.n_blocks();
        sequence
    });
    let sequences = sequences.collect();
    assert!(
        next_query == n_queries && next_key == n_keys,
        "attention: cumulative lengths end at {next_query} of {n_queries} tokens and {next_key} of {n_keys} keys"
    );
    sequences
}

/// Frees what attention keeps for the next call. It is as large as the largest batch so far, and made anew when needed.
pub fn release_attention_workspace() {
    PACKED.clear();
}

/// Most bytes that [`span_attention_forward`] and [`span_attention_backward`] use beside their arguments, for each key of
/// sequences whose lengths are whole blocks of keys; they are kept for the next call. Backward needs more: keys (twice) and
/// values packed, and the parts of their gradients that each range of queries makes. Of the ranges of a causal sequence,
/// `MAX_RANGES` at most, a key is seen by half on the average.
pub fn attention_workspace_bytes_per_key(n_kv_heads: usize, head_dim: usize) -> usize {
    let key_bytes = n_kv_heads * head_dim.next_multiple_of(MAX_LANES) * size_of::<f32>();
    // 3 packed; parts of d_k and d_v, (ranges + 1) / 2 each.
    3 * key_bytes + (MAX_RANGES + 1) * key_bytes
}

/// Numbers of queries and keys.
fn check_sizes(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> (usize, usize) {
    shape.check();
    let (n_queries, n_keys) = (q.len() / shape.q_width(), k.len() / shape.kv_width());
    assert!(q.len() == n_queries * shape.q_width(), "attention: q is [total, n_heads, head_dim]");
    assert!(k.len() == n_keys * shape.kv_width(), "attention: k is [total, n_kv_heads, head_dim]");
    assert!(v.len() == k.len(), "attention: v is as k");
    (n_queries, n_keys)
}
