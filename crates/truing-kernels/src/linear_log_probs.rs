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

use crate::matmul::{MatrixRef, Write, matmul};

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

const WORKSPACE_FLOATS: usize = 8 << 20;

fn rows_per_chunk(vocab: usize) -> usize {
    (WORKSPACE_FLOATS / vocab.max(1)).max(1)
}

/// Bytes the two functions allocate while they run.
pub fn linear_log_probs_workspace_bytes(vocab: usize, _hidden: usize) -> usize {
    rows_per_chunk(vocab) * vocab * size_of::<f32>()
}

/// Turns a row of logits into `softmax(z)` and returns (log-probability, entropy, is argmax).
fn softmax_row(z: &mut [f32], target: usize) -> (f32, f32, bool) {
    let largest = z.iter().fold(f32::NEG_INFINITY, |best, &z| if z > best || z.is_nan() { z } else { best });
    let argmax = z.iter().position(|&z| z == largest);
    let at_target = z[target] - largest;
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    for z in z.iter_mut() {
        let shifted = *z - largest;
        *z = shifted.exp();
        sum += f64::from(*z);
        weighted += if *z > 0.0 { f64::from(*z) * f64::from(shifted) } else { 0.0 };
    }
    z.iter_mut().for_each(|z| *z = (f64::from(*z) / sum) as f32);
    let log_sum = sum.ln();
    ((f64::from(at_target) - log_sum) as f32, (log_sum - weighted / sum) as f32, argmax == Some(target))
}

fn run(
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    out: LogProbRows,
    mut gradients: Option<(&[f32], &mut [f32], Option<&mut [f32]>)>,
) {
    let n = targets.len();
    assert!(out.log_probs.len() == n && out.entropies.len() == n && out.is_argmax.len() == n);
    if n == 0 {
        return;
    }
    let h = hidden.len() / n;
    assert!(
        hidden.len() == n * h && h > 0 && head.len() % h == 0,
        "linear_log_probs: hidden [n, h], head [vocab, h]"
    );
    let vocab = head.len() / h;
    let mut logits = vec![0.0; rows_per_chunk(vocab).min(n) * vocab];
    for start in (0..n).step_by(rows_per_chunk(vocab)) {
        let end = n.min(start + rows_per_chunk(vocab));
        let rows = end - start;
        let hidden = MatrixRef::new(&hidden[start * h..end * h], rows, h);
        let head = MatrixRef::new(head, vocab, h);
        let logits = &mut logits[..rows * vocab];
        matmul(hidden, head.transposed(), logits, Write::Overwrite);
        for (i, z) in (start..end).zip(logits.chunks_exact_mut(vocab)) {
            let target = targets[i] as usize;
            (out.log_probs[i], out.entropies[i], out.is_argmax[i]) = softmax_row(z, target);
            if let Some((d_log_probs, ..)) = &gradients {
                z.iter_mut().for_each(|p| *p *= -d_log_probs[i]);
                z[target] += d_log_probs[i];
            }
        }
        if let Some((_, d_hidden, d_head)) = &mut gradients {
            let d_logits = MatrixRef::new(logits, rows, vocab);
            matmul(d_logits, head, &mut d_hidden[start * h..end * h], Write::Overwrite);
            if let Some(d_head) = d_head {
                matmul(d_logits.transposed(), hidden, d_head, Write::Add);
            }
        }
    }
}

/// Log-probabilities, entropies and whether each target is the argmax. Panics when a size or a target does not fit.
pub fn linear_log_probs_forward(hidden: &[f32], head: &[f32], targets: &[u32], out: LogProbRows) {
    run(hidden, head, targets, out, None);
}

/// The results of [`linear_log_probs_forward`] and, from the same logits, the gradients of
/// `Σ d_log_probs · log_probs`: overwrites `d_hidden: [n, h]`, adds to `d_head: [vocab, h]`.
///
/// Panics when a size or a target does not fit.
pub fn linear_log_probs_backward(
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    d_log_probs: &[f32],
    out: LogProbRows,
    d_hidden: &mut [f32],
    d_head: Option<&mut [f32]>,
) {
    assert_eq!(d_log_probs.len(), targets.len(), "linear_log_probs_backward: d_log_probs is [n]");
    assert_eq!(d_hidden.len(), hidden.len(), "linear_log_probs_backward: d_hidden is as hidden");
    run(hidden, head, targets, out, Some((d_log_probs, d_hidden, d_head)));
}
