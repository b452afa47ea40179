//! Token log-probabilities of a linear head, without ever holding `[tokens, vocab]`.
//!
//! With `z = head · hidden[i]` and `y = targets[i]`:
//!
//! ```text
//! log_probs[i] = z_y - log Σ e^z
//! entropies[i] = log Σ e^z - Σ softmax(z) z
//! d_z          = d_log_probs[i] (onehot(y) - softmax(z))
//! d_hidden[i]  = headᵀ · d_z,   d_head += d_z ⊗ hidden[i]
//! ```
//!
//! `hidden: [n, h]`, `head: [vocab, h]`, `targets: [n]`.
//!
//! Tokens are taken in chunks whose logits, at most 32 MiB where the vocabulary allows, are the only large buffer.
//! They lie transposed, `[vocab, tokens]`: the head is then read where it lies, by rows, in two of the three
//! products, and softmax works on whole vectors of tokens. Backward keeps `e^(z - max)` in the buffer, less its sum at
//! the target, which is d_z up to a factor per token; the factor is applied to the `[tokens, h]` sides instead.
//!
//! Where a reference `q` over `k` tokens `S` of the vocabulary is given, and `p` is the softmax over these alone, `kl[i]` is
//! one of three divergences ([`DivergenceKind`]); `KL(a, b) = Σ_{v in S} a_v (log a_v - log b_v)`:
//!
//! ```text
//! reverse          KL(p, q)                              d_z_v += d_kl[i] p_v (log p_v - log q_v - KL(p, q))
//! forward          KL(q, p)                              d_z_v += d_kl[i] (p_v - q_v)
//! Jensen-Shannon   beta KL(q, m) + (1 - beta) KL(p, m)   d_z_v += d_kl[i] (1 - beta) p_v (log p_v - log m_v - KL(p, m))
//!                  m = beta q + (1 - beta) p
//! ```
//!
//! Rows of the head can be excluded: their logits are minus infinity, so that they take no part in any sum, maximum or
//! gradient.
//!
//! Where the head is not plain ([`LinearHead`]), the products become logits before all this, and the gradient at the
//! logits that at the products after it. Backward then keeps the products beside the logits. The head is floats, or a
//! [`Bf16Matrix`](crate::Bf16Matrix): then the factors of all three products are rounded to bf16, d_z before its
//! factor. Everything else is the same.
//!
//! Sums over the vocabulary run in f32 within blocks of [`BLOCK`] words, and in f64 over the blocks, in order.

#![allow(unsafe_code, reason = "blocks written by several threads")]

mod divergence;
mod top;

pub use divergence::{Divergence, DivergenceKind, ReferenceRows};
pub use top::{linear_log_probs_of, linear_top_log_probs};

use crate::linear_head::LinearHead;
use crate::matmul::MatrixRef;
use crate::micro_kernel::Write;
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::scratch::Stock;
use crate::simd::{MAX_LANES, SimdLevel, simd_fn};
use rayon::prelude::*;
use std::ops::Range;

/// Where the results for `n` rows go; every slice is `[n]`.
#[derive(Debug)]
pub struct LogProbRows<'a> {
    /// Log-probability of the target, in nats.
    pub log_probs: &'a mut [f32],
    /// Entropy of the distribution, in nats.
    pub entropies: &'a mut [f32],
    /// Whether the target is the most probable token (the first of equals).
    pub is_argmax: &'a mut [bool],
}

/// Floats of the logits of a chunk.
const LOGITS_FLOATS: usize = 8 << 20;
/// Most tokens in a chunk; past this the products gain nothing.
const MAX_CHUNK: usize = 256;
/// Words of the vocabulary that are summed together, by one thread.
const BLOCK: usize = 512;

static WORKSPACE: Stock = Stock::new();

/// Tokens in a chunk: a multiple of the widest register, at least one register.
fn tokens_per_chunk(vocab: usize) -> usize {
    (LOGITS_FLOATS / vocab.max(1) / MAX_LANES * MAX_LANES).clamp(MAX_LANES, MAX_CHUNK)
}

/// Floats of each part of the workspace, for chunks of `tokens`.
struct Parts {
    logits: usize,
    hidden: usize,
    block_stats: usize,
    kept: usize,
}

impl Parts {
    fn new(tokens: usize, vocab: usize, hidden: usize) -> Self {
        let block_stats = tokens * vocab.div_ceil(BLOCK);
        Parts { logits: tokens * vocab, hidden: tokens * hidden, block_stats, kept: 0 }
    }

    /// With room for the products beside the logits.
    fn keeping_products(self) -> Self {
        Parts { kept: self.logits, ..self }
    }

    fn total(&self) -> usize {
        self.logits + 2 * self.hidden + 3 * self.block_stats + self.kept
    }
}

/// Bytes that [`linear_log_probs_forward`] and [`linear_log_probs_backward`] use beside their arguments; they
/// are kept for the next call.
pub fn linear_log_probs_workspace_bytes(vocab: usize, hidden: usize) -> usize {
    Parts::new(tokens_per_chunk(vocab), vocab, hidden).total() * size_of::<f32>()
}

/// What [`linear_log_probs_divergence_backward`] uses besides where the head is not plain.
pub fn kept_logits_workspace_bytes(vocab: usize) -> usize {
    tokens_per_chunk(vocab) * vocab * size_of::<f32>()
}

simd_fn! {
    /// The largest logit of each token in a block; NaN is passed over, and shows in the sums.
    fn block_maxima<S>(simd, logits: &[f32], maxima: &mut [f32]) {
        maxima.fill(f32::NEG_INFINITY);
        for row in logits.chunks_exact(maxima.len()) {
            for (z, largest) in row.chunks_exact(S::LANES).zip(maxima.chunks_exact_mut(S::LANES)) {
                let larger = simd.max(simd.load(z), simd.load(largest));
                simd.store(largest, larger);
            }
        }
    }
}

simd_fn! {
    /// Replaces the logits of a block by e = e^(z - largest); writes Σ e and Σ e (z - largest).
    fn block_sums<S>(simd, logits: &mut [f32], largest: &[f32], sums: &mut [f32], weighted_sums: &mut [f32]) {
        sums.fill(0.0);
        weighted_sums.fill(0.0);
        let width = largest.len();
        for row in logits.chunks_exact_mut(width) {
            let stats = sums.chunks_exact_mut(S::LANES).zip(weighted_sums.chunks_exact_mut(S::LANES));
            for ((z, largest), (sum, weighted)) in
                row.chunks_exact_mut(S::LANES).zip(largest.chunks_exact(S::LANES)).zip(stats)
            {
                let shifted = simd.sub(simd.load(z), simd.load(largest));
                // Below -104 e is 0, and so must its product be where the logit is -infinity.
                let shifted = simd.max(simd.splat(-104.0), shifted);
                let e = simd.exp(shifted);
                simd.store(z, e);
                let total = simd.add(simd.load(sum), e);
                simd.store(sum, total);
                let total = simd.fma(e, shifted, simd.load(weighted));
                simd.store(weighted, total);
            }
        }
    }
}

/// What backward needs and writes.
struct Gradients<'a> {
    d_log_probs: &'a [f32],
    d_hidden: &'a mut [f32],
    d_head: Option<&'a mut [f32]>,
}

/// A chunk of tokens and the buffers it uses; `width` tokens, the last of which may be filling.
struct Chunk<'a> {
    head: LinearHead<'a>,
    h: usize,
    vocab: usize,
    width: usize,
    targets: &'a [u32],
    /// `[vocab, width]`
    logits: &'a mut [f32],
    /// `[width, h]`
    hidden: &'a mut [f32],
    /// The products `[vocab, width]` for backward where the head is not plain, else empty.
    kept: &'a mut [f32],
}

impl<'a> Chunk<'a> {
    /// Fills the logits.
    fn multiply(&mut self, excluded: &[Range<u32>]) {
        let hidden = MatrixRef::new(self.hidden, self.width, self.h);
        self.head.weight.forward_transposed(hidden, self.logits);
        self.head.forward(self.logits, self.width, self.kept);
        for range in excluded {
            self.logits[range.start as usize * self.width..range.end as usize * self.width]
                .fill(f32::NEG_INFINITY);
        }
    }

    /// Turns the logits into e^(z - largest), and returns Σ e of each token.
    fn forward(&mut self, out: LogProbRows, stats: &mut [f32]) -> Vec<f64> {
        let (vocab, width) = (self.vocab, self.width);
        let level = SimdLevel::current();

        let n_blocks = vocab.div_ceil(BLOCK);
        let (maxima, stats) = stats.split_at_mut(n_blocks * width);
        let (sums, rest) = stats.split_at_mut(n_blocks * width);
        let weighted_sums = &mut rest[..n_blocks * width];
        let rows = |block: usize| (block * BLOCK * width, BLOCK.min(vocab - block * BLOCK) * width);
        {
            let (logits, maxima) = (&*self.logits, Disjoint::new(maxima));
            for_each_item(n_blocks, |block| {
                let (start, len) = rows(block);
                // SAFETY: an item writes only its own block.
                let maxima = unsafe { maxima.part(block * width, width) };
                block_maxima(level, &logits[start..start + len], maxima);
            });
        }
        let mut largest = vec![f32::NEG_INFINITY; width];
        for maxima in maxima.chunks_exact(width) {
            largest.iter_mut().zip(maxima).for_each(|(largest, &z)| *largest = largest.max(z));
        }
        let at_target: Vec<f32> =
            self.targets.iter().enumerate().map(|(i, &y)| self.logits[y as usize * width + i]).collect();
        let is_first_largest = |i: usize| {
            let block = maxima.chunks_exact(width).position(|maxima| maxima[i] == largest[i]).unwrap_or(0);
            let (start, len) = rows(block);
            let row =
                self.logits[start..start + len].chunks_exact(width).position(|row| row[i] == largest[i]);
            row.is_some_and(|row| block * BLOCK + row == self.targets[i] as usize)
        };
        for (i, is_argmax) in out.is_argmax.iter_mut().enumerate() {
            *is_argmax = at_target[i] == largest[i] && is_first_largest(i);
        }
        {
            let (sums, weighted_sums) = (Disjoint::new(sums), Disjoint::new(weighted_sums));
            let logits = Disjoint::new(self.logits);
            for_each_item(n_blocks, |block| {
                let (start, len) = rows(block);
                // SAFETY: an item writes only its own block.
                let (logits, sums, weighted_sums) = unsafe {
                    (
                        logits.part(start, len),
                        sums.part(block * width, width),
                        weighted_sums.part(block * width, width),
                    )
                };
                block_sums(level, logits, &largest, sums, weighted_sums);
            });
        }
        let over_blocks =
            |stats: &[f32], i: usize| stats.iter().skip(i).step_by(width).map(|&s| f64::from(s)).sum::<f64>();
        let totals: Vec<f64> = (0..width).map(|i| over_blocks(sums, i)).collect();
        for i in 0..self.targets.len() {
            let log_sum = totals[i].ln();
            out.log_probs[i] = (f64::from(at_target[i]) - f64::from(largest[i]) - log_sum) as f32;
            out.entropies[i] = (log_sum - over_blocks(weighted_sums, i) / totals[i]) as f32;
            out.is_argmax[i] &= !totals[i].is_nan();
        }
        totals
    }

    /// Writes the divergence of each row of this chunk (rows `start..` of the whole) and returns its gradient with respect
    /// to the logits of the reference's tokens, for a gradient of 1 `[n, k]`. Before [`Chunk::forward`] turns the logits.
    fn divergence(
        &self,
        start: usize,
        reference: ReferenceRows<'_>,
        kind: DivergenceKind,
        kl: &mut [f32],
    ) -> Vec<f32> {
        let k = reference.k;
        let mut gradient = vec![0.0; self.targets.len() * k];
        let rows = gradient.par_chunks_mut(k).zip(kl.par_iter_mut()).enumerate();
        rows.for_each(|(i, (gradient, kl))| {
            let row = (start + i) * k..(start + i + 1) * k;
            let (tokens, log_q) = (&reference.tokens[row.clone()], &reference.log_probs[row]);
            let logits = || tokens.iter().map(|&v| f64::from(self.logits[v as usize * self.width + i]));
            let largest = logits().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = logits().map(|z| (z - largest).exp()).sum::<f64>().ln();
            // Rounded as the reference's are: where both have the same logits, the divergence and its gradient are exactly
            // 0, and no optimizer turns rounding into steps.
            let terms = || {
                let log_p = logits().map(|z| f64::from((z - largest - log_sum) as f32));
                log_p.zip(log_q).map(|(log_p, &log_q)| (log_p, f64::from(log_q)))
            };
            let divergence = kind.of_row(terms, gradient);
            // It is never negative but for rounding; NaN stays.
            *kl = if divergence < 0.0 { 0.0 } else { divergence as f32 };
        });
        gradient
    }

    /// From what [`Chunk::forward`] left. `d_hidden: [width, h]` is working space. `d_divergence` is the gradient
    /// of each row's KL with its factor: `(reference's tokens [n, k], d_kl [n], gradient [n, k])`.
    fn backward(
        &mut self,
        totals: &[f64],
        d_log_probs: &[f32],
        d_divergence: Option<(&[u32], &[f32], &[f32])>,
        d_hidden: &mut [f32],
        d_head: Option<&mut [f32]>,
    ) {
        let (width, h) = (self.width, self.h);
        for (i, &y) in self.targets.iter().enumerate() {
            let e = &mut self.logits[y as usize * width + i];
            *e = (f64::from(*e) - totals[i]) as f32;
        }
        // d_z = factor · what the buffer holds; 0 for the filling.
        let of_log_prob = |i: usize| d_log_probs.get(i).map_or(0.0, |&d| (-f64::from(d) / totals[i]) as f32);
        if let Some((tokens, d_kl, gradient)) = d_divergence {
            // The buffer takes the factors itself, and the second gradient on top.
            let factors: Vec<f32> = (0..width).map(of_log_prob).collect();
            let rows_per_item = (ELEMENTS_PER_ITEM / width).max(1);
            self.logits.par_chunks_mut(rows_per_item * width).for_each(|rows| {
                for row in rows.chunks_exact_mut(width) {
                    row.iter_mut().zip(&factors).for_each(|(e, factor)| *e *= factor);
                }
            });
            let k = gradient.len() / self.targets.len();
            for (i, &d_kl) in d_kl.iter().enumerate() {
                for (&v, &d) in tokens[i * k..][..k].iter().zip(&gradient[i * k..][..k]) {
                    self.logits[v as usize * width + i] += d_kl * d;
                }
            }
        }
        let is_scaled = d_divergence.is_some();
        let factor = |i: usize| if is_scaled { 1.0 } else { of_log_prob(i) };
        let along = if self.head.is_plain() {
            None
        } else {
            let factors: Vec<f32> = (0..width).map(factor).collect();
            self.head.backward(self.logits, width, self.kept, &factors)
        };
        let d_logits = MatrixRef::new(self.logits, self.vocab, width);
        self.head.weight.backward_input(d_logits.transposed(), d_hidden, Write::Overwrite);
        for (i, d_hidden) in d_hidden.chunks_exact_mut(h).enumerate() {
            d_hidden.iter_mut().for_each(|d| *d *= factor(i));
        }
        if let Some(d_head) = d_head {
            for (i, hidden) in self.hidden.chunks_exact_mut(h).enumerate() {
                hidden.iter_mut().for_each(|x| *x *= factor(i));
            }
            let hidden = MatrixRef::new(self.hidden, width, h);
            self.head.weight.add_gradient(d_logits.transposed(), hidden, d_head);
            if let Some(along) = along {
                self.head.take_along(&along, h, d_head);
            }
        }
    }
}

/// `0..n` in as few chunks of at most `most` as it takes, as equal as whole registers allow.
fn chunks(n: usize, most: usize) -> Vec<Range<usize>> {
    let mut start = 0;
    let n_chunks = n.div_ceil(most);
    let next = |n_left: usize| {
        let len = (n - start).div_ceil(n_left).next_multiple_of(MAX_LANES);
        let chunk = start..n.min(start + len);
        start = chunk.end;
        chunk
    };
    (1..=n_chunks).rev().map(next).collect()
}

/// Panics where excluded rows are not ascending ranges below `vocab` that leave at least one row; returns the number of rows
/// left.
fn check_excluded(excluded: &[Range<u32>], vocab: usize) -> usize {
    let mut end = 0;
    for range in excluded {
        assert!(end <= range.start && range.start <= range.end, "linear_log_probs: excluded ranges ascend");
        end = range.end;
    }
    assert!(end as usize <= vocab, "linear_log_probs: excluded rows are below {vocab}");
    let n_left = vocab - excluded.iter().map(ExactSizeIterator::len).sum::<usize>();
    assert!(n_left > 0, "linear_log_probs: not every row is excluded");
    n_left
}

fn run(
    hidden: &[f32],
    head: LinearHead<'_>,
    targets: &[u32],
    excluded: &[Range<u32>],
    out: LogProbRows,
    mut divergence: Option<Divergence>,
    mut gradients: Option<Gradients>,
) {
    let n = targets.len();
    assert!(
        out.log_probs.len() == n && out.entropies.len() == n && out.is_argmax.len() == n,
        "linear_log_probs: outputs are [n]"
    );
    if n == 0 {
        assert!(hidden.is_empty(), "linear_log_probs: hidden is [n, h]");
        return;
    }
    let h = hidden.len() / n;
    assert!(
        h > 0 && hidden.len() == n * h && head.weight.n_elements().is_multiple_of(h),
        "linear_log_probs: hidden [n, h], head [vocab, h]"
    );
    let vocab = head.weight.n_elements() / h;
    head.check(vocab);
    assert!(targets.iter().all(|&y| (y as usize) < vocab), "linear_log_probs: targets are below {vocab}");
    check_excluded(excluded, vocab);
    if let Some(Divergence { reference, kl, d_kl, .. }) = &divergence {
        let size = n * reference.k;
        assert!(
            reference.k > 0 && reference.tokens.len() == size && reference.log_probs.len() == size,
            "linear_log_probs: the reference is [n, k]"
        );
        assert!(kl.len() == n && (d_kl.is_empty() || d_kl.len() == n), "linear_log_probs: kl, d_kl are [n]");
        assert!(
            reference.tokens.iter().all(|&v| (v as usize) < vocab),
            "linear_log_probs: the reference's tokens are below {vocab}"
        );
    }

    let chunks = chunks(n, tokens_per_chunk(vocab));
    let longest = chunks.iter().map(Range::len).max().unwrap_or(0).next_multiple_of(MAX_LANES);
    let parts = Parts::new(longest, vocab, h);
    let keeps_products = gradients.is_some() && !head.is_plain();
    let parts = if keeps_products { parts.keeping_products() } else { parts };
    WORKSPACE.with(|scratch| {
        let (logits, rest) = scratch.floats(parts.total()).split_at_mut(parts.logits);
        let (kept, rest) = rest.split_at_mut(parts.kept);
        let (chunk_hidden, rest) = rest.split_at_mut(parts.hidden);
        let (chunk_d_hidden, stats) = rest.split_at_mut(parts.hidden);
        for Range { start, end } in chunks {
            let width = (end - start).next_multiple_of(MAX_LANES);
            let rows = start * h..end * h;
            let chunk_hidden = &mut chunk_hidden[..width * h];
            let chunk_d_hidden = &mut chunk_d_hidden[..width * h];
            chunk_hidden[..rows.len()].copy_from_slice(&hidden[rows.clone()]);
            chunk_hidden[rows.len()..].fill(0.0);
            let mut chunk = Chunk {
                head,
                h,
                vocab,
                width,
                targets: &targets[start..end],
                logits: &mut logits[..width * vocab],
                hidden: chunk_hidden,
                kept: if keeps_products { &mut kept[..width * vocab] } else { &mut [] },
            };
            let out = LogProbRows {
                log_probs: &mut out.log_probs[start..end],
                entropies: &mut out.entropies[start..end],
                is_argmax: &mut out.is_argmax[start..end],
            };
            chunk.multiply(excluded);
            let d_logits = divergence.as_mut().map(|divergence| {
                let Divergence { reference, kind, kl, .. } = divergence;
                chunk.divergence(start, *reference, *kind, &mut kl[start..end])
            });
            let totals = chunk.forward(out, stats);
            if let Some(gradients) = &mut gradients {
                let d_log_probs = gradients.d_log_probs.get(start..end).unwrap_or_default();
                let d_divergence =
                    divergence.as_ref().zip(d_logits.as_deref()).and_then(|(divergence, d)| {
                        let d_kl = divergence.d_kl.get(start..end)?;
                        let k = divergence.reference.k;
                        Some((&divergence.reference.tokens[start * k..end * k], d_kl, d))
                    });
                let d_head = gradients.d_head.as_deref_mut();
                chunk.backward(&totals, d_log_probs, d_divergence, chunk_d_hidden, d_head);
                let d_hidden = &mut gradients.d_hidden[rows];
                d_hidden.copy_from_slice(&chunk_d_hidden[..d_hidden.len()]);
            }
        }
    });
}

/// Log-probabilities, entropies and whether each target is the argmax. Panics when a size or a target does not fit.
pub fn linear_log_probs_forward<'a>(
    hidden: &[f32],
    head: impl Into<LinearHead<'a>>,
    targets: &[u32],
    out: LogProbRows,
) {
    run(hidden, head.into(), targets, &[], out, None, None);
}

/// The results of [`linear_log_probs_forward`] over all rows of the head but the `excluded` (ascending ranges), and the KL
/// divergence of each row from a reference where one is given.
///
/// Panics when a size, a target, an excluded row or a token of the reference does not fit.
pub fn linear_log_probs_divergence_forward<'a>(
    hidden: &[f32],
    head: impl Into<LinearHead<'a>>,
    targets: &[u32],
    excluded: &[Range<u32>],
    out: LogProbRows,
    divergence: Option<Divergence>,
) {
    run(hidden, head.into(), targets, excluded, out, divergence, None);
}

/// The results of [`linear_log_probs_forward`] and, from the same logits, the gradients of
/// `Σ d_log_probs · log_probs`: overwrites `d_hidden: [n, h]`, adds to `d_head: [vocab, h]`.
///
/// Panics when a size or a target does not fit.
pub fn linear_log_probs_backward<'a>(
    hidden: &[f32],
    head: impl Into<LinearHead<'a>>,
    targets: &[u32],
    d_log_probs: &[f32],
    out: LogProbRows,
    d_hidden: &mut [f32],
    d_head: Option<&mut [f32]>,
) {
    linear_log_probs_divergence_backward(
        hidden,
        head,
        targets,
        &[],
        d_log_probs,
        out,
        None,
        d_hidden,
        d_head,
    );
}

/// [`linear_log_probs_backward`] of `Σ d_log_probs · log_probs + Σ d_kl · kl` over all rows of the head but the `excluded`
/// (ascending ranges); an empty `d_log_probs` is zero.
///
/// Panics when a size, a target, an excluded row or a token of the reference does not fit.
pub fn linear_log_probs_divergence_backward<'a>(
    hidden: &[f32],
    head: impl Into<LinearHead<'a>>,
    targets: &[u32],
    excluded: &[Range<u32>],
    d_log_probs: &[f32],
    out: LogProbRows,
    divergence: Option<Divergence>,
    d_hidden: &mut [f32],
    d_head: Option<&mut [f32]>,
) {
    let head = head.into();
    assert!(
        d_log_probs.is_empty() || d_log_probs.len() == targets.len(),
        "linear_log_probs_backward: d_log_probs is [n]"
    );
    assert_eq!(d_hidden.len(), hidden.len(), "linear_log_probs_backward: d_hidden is as hidden");
    assert!(
        d_head.as_ref().is_none_or(|d| d.len() == head.weight.n_elements()),
        "linear_log_probs_backward: d_head is as head"
    );
    let gradients = Gradients { d_log_probs, d_hidden, d_head };
    run(hidden, head, targets, excluded, out, divergence, Some(gradients));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_even_and_whole() {
        assert_eq!(chunks(0, 160), []);
        assert_eq!(chunks(5, 160).as_slice(), std::slice::from_ref(&(0..5)));
        assert_eq!(chunks(512, 160).iter().map(Range::len).collect::<Vec<_>>(), [128; 4]);
        for n in 1..700 {
            let chunks = chunks(n, 48);
            assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= 48), "{n}: {chunks:?}");
            assert_eq!(chunks.iter().map(Range::len).sum::<usize>(), n);
            assert_eq!(chunks.len(), n.div_ceil(48));
        }
    }
}
