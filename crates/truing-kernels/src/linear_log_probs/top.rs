//! The largest logits of each row, and the log-probabilities of given tokens, renormalised over these.

use std::ops::Range;

use rayon::prelude::*;

use super::{Chunk, Parts, WORKSPACE, check_excluded, chunks, tokens_per_chunk};
use crate::linear_head::LinearHead;
use crate::simd::MAX_LANES;

/// The `k` largest logits of each row, the `excluded` ones left out (ascending ranges): tokens by falling logit, the
/// lower first among equals, and log-probabilities renormalised over them, `[n, k]` each; `hidden: [n, h]`,
/// `head: [vocab, h]`. The logits are those of
/// [`linear_log_probs_divergence_forward`](crate::linear_log_probs_divergence_forward) to the bit.
///
/// Panics when a size does not fit or `k` is not between 1 and the number of rows that are not excluded.
pub fn linear_top_log_probs<'a>(
    hidden: &[f32],
    head: impl Into<LinearHead<'a>>,
    h: usize,
    excluded: &[Range<u32>],
    k: usize,
) -> (Vec<u32>, Vec<f32>) {
    let head = head.into();
    assert!(
        h > 0 && hidden.len().is_multiple_of(h) && head.weight.n_elements().is_multiple_of(h),
        "linear_top_log_probs: hidden [n, h], head [vocab, h]"
    );
    let (n, vocab) = (hidden.len() / h, head.weight.n_elements() / h);
    let n_left = check_excluded(excluded, vocab);
    assert!((1..=n_left).contains(&k), "linear_top_log_probs: k is from 1 to {n_left}");
    let mut tokens = vec![0_u32; n * k];
    let mut log_probs = vec![0.0_f32; n * k];
    let mut results = tokens.chunks_mut(k).zip(log_probs.chunks_mut(k));
    for_each_chunk_of_logits(hidden, head, h, excluded, |rows, logits, width| {
        let mut of_chunk: Vec<(&mut [u32], &mut [f32])> = results.by_ref().take(rows.len()).collect();
        let new_rows = || (vec![0.0; MAX_LANES * vocab], Vec::with_capacity(vocab));
        of_chunk.par_chunks_mut(MAX_LANES).enumerate().for_each_init(new_rows, |space, (block, results)| {
            let (rows, order) = space;
            let columns = block * MAX_LANES..block * MAX_LANES + results.len();
            for (v, row) in logits.chunks_exact(width).enumerate() {
                row[columns.clone()].iter().enumerate().for_each(|(i, &z)| rows[i * vocab + v] = z);
            }
            for (logits, (tokens, log_probs)) in rows.chunks_exact(vocab).zip(results) {
                choose_top(logits, order, tokens, log_probs);
            }
        });
    });
    (tokens, log_probs)
}

/// The log-probabilities of given tokens `[n, k]`, renormalised over the tokens of each row; `hidden: [n, h]`,
/// `head: [vocab, h]`. The logits are those of
/// [`linear_log_probs_divergence_forward`](crate::linear_log_probs_divergence_forward) to the bit.
///
/// Panics when a size or a token does not fit.
pub fn linear_log_probs_of<'a>(
    hidden: &[f32],
    head: impl Into<LinearHead<'a>>,
    h: usize,
    tokens: &[u32],
    k: usize,
) -> Vec<f32> {
    let head = head.into();
    assert!(
        h > 0 && hidden.len().is_multiple_of(h) && head.weight.n_elements().is_multiple_of(h),
        "linear_log_probs_of: hidden [n, h], head [vocab, h]"
    );
    let vocab = head.weight.n_elements() / h;
    assert!(k > 0 && tokens.len() == hidden.len() / h * k, "linear_log_probs_of: tokens are [n, k]");
    assert!(tokens.iter().all(|&v| (v as usize) < vocab), "linear_log_probs_of: tokens are below {vocab}");
    let mut log_probs = vec![0.0_f32; tokens.len()];
    let mut results = tokens.chunks(k).zip(log_probs.chunks_mut(k));
    for_each_chunk_of_logits(hidden, head, h, &[], |rows, logits, width| {
        let of_chunk: Vec<(&[u32], &mut [f32])> = results.by_ref().take(rows.len()).collect();
        of_chunk.into_par_iter().enumerate().for_each(|(i, (tokens, log_probs))| {
            renormalise(tokens, |v| logits[v as usize * width + i], log_probs);
        });
    });
    log_probs
}

/// Calls `look` with the logits of each chunk of rows: the rows, `[vocab, width]`, and the width.
fn for_each_chunk_of_logits(
    hidden: &[f32],
    head: LinearHead<'_>,
    h: usize,
    excluded: &[Range<u32>],
    mut look: impl FnMut(Range<usize>, &[f32], usize),
) {
    let (n, vocab) = (hidden.len() / h, head.weight.n_elements() / h);
    head.check(vocab);
    let most = tokens_per_chunk(vocab);
    WORKSPACE.with(|scratch| {
        for chunk_rows in chunks(n, most) {
            let width = chunk_rows.len().next_multiple_of(MAX_LANES);
            let parts = Parts::new(most, vocab, h);
            let (logits, rest) = scratch.floats(parts.total()).split_at_mut(parts.logits);
            let chunk_hidden = &mut rest[..width * h];
            let rows = chunk_rows.start * h..chunk_rows.end * h;
            chunk_hidden[..rows.len()].copy_from_slice(&hidden[rows.clone()]);
            chunk_hidden[rows.len()..].fill(0.0);
            let mut chunk = Chunk {
                head,
                h,
                vocab,
                width,
                targets: &[],
                logits: &mut logits[..width * vocab],
                hidden: chunk_hidden,
                kept: &mut [],
            };
            chunk.multiply(excluded);
            look(chunk_rows, &*chunk.logits, width);
        }
    });
}

/// Log-probabilities over some tokens of a row alone, in their order.
fn renormalise(tokens: &[u32], logit: impl Fn(u32) -> f32, log_probs: &mut [f32]) {
    let logits = || tokens.iter().map(|&v| f64::from(logit(v)));
    let largest = logits().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits().map(|z| (z - largest).exp()).sum();
    for (log_prob, z) in log_probs.iter_mut().zip(logits()) {
        *log_prob = (z - largest - sum.ln()) as f32;
    }
}

/// One row of [`linear_top_log_probs`]; `order` is working space.
fn choose_top(logits: &[f32], order: &mut Vec<u32>, tokens: &mut [u32], log_probs: &mut [f32]) {
    let k = tokens.len();
    order.clear();
    order.extend(0..logits.len() as u32);
    // NaN sorts above everything and so shows in the result.
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, by_logit);
        order.truncate(k);
    }
    order.sort_unstable_by(by_logit);
    tokens.copy_from_slice(order);
    renormalise(tokens, |v| logits[v as usize], log_probs);
}
