//! From hidden states to one vector a sequence, and back. Sums run in f64: there are few, and a long text's mean keeps
//! its digits.

use truing_kernels::AttentionSpan;
use truing_model::Pooling;

/// Vectors shorter than this are divided by it instead of by their norm, as in PyTorch.
const SHORTEST: f64 = 1e-12;

/// The rows of each sequence of `hidden` `[n_tokens, width]` as one: `[n_sequences, width]`.
pub(crate) fn pool(hidden: &[f32], spans: &[AttentionSpan], width: usize, pooling: Pooling) -> Vec<f32> {
    let mut vectors = Vec::with_capacity(spans.len() * width);
    let mut sums = vec![0.0_f64; width];
    for span in spans {
        let rows = &hidden[span.queries.start * width..span.queries.end * width];
        match pooling {
            Pooling::Cls => vectors.extend_from_slice(&rows[..width]),
            Pooling::LastToken => vectors.extend_from_slice(&rows[rows.len() - width..]),
            Pooling::Mean => {
                sums.fill(0.0);
                for row in rows.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
                }
                let n_tokens = span.queries.len() as f64;
                vectors.extend(sums.iter().map(|sum| (sum / n_tokens) as f32));
            }
        }
    }
    vectors
}

/// Overwrites `d_hidden` `[n_tokens, width]` from `d_vectors` `[n_sequences, width]`.
pub(crate) fn pool_backward(
    d_vectors: &[f32],
    spans: &[AttentionSpan],
    width: usize,
    pooling: Pooling,
    d_hidden: &mut [f32],
) {
    truing_kernels::fill(d_hidden, 0.0);
    for (span, d_vector) in spans.iter().zip(d_vectors.chunks_exact(width)) {
        let d_rows = &mut d_hidden[span.queries.start * width..span.queries.end * width];
        match pooling {
            Pooling::Cls => d_rows[..width].copy_from_slice(d_vector),
            Pooling::LastToken => {
                let last = d_rows.len() - width;
                d_rows[last..].copy_from_slice(d_vector);
            }
            Pooling::Mean => {
                let share = 1.0 / span.queries.len() as f32;
                for d_row in d_rows.chunks_exact_mut(width) {
                    d_row.iter_mut().zip(d_vector).for_each(|(d, &x)| *d = share * x);
                }
            }
        }
    }
}

fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Divides every vector by its Euclidean norm.
pub(crate) fn normalize(vectors: &mut [f32], width: usize) {
    for vector in vectors.chunks_exact_mut(width) {
        let inverse = 1.0 / norm(vector).max(SHORTEST);
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) * inverse) as f32);
    }
}

/// With `e = v / |v|` and `d` the gradient at e: `d` becomes `(d - e (e · d)) / |v|`, the gradient at v `[_, width]`.
pub(crate) fn normalize_backward(vectors: &[f32], width: usize, d: &mut [f32]) {
    for (vector, d) in vectors.chunks_exact(width).zip(d.chunks_exact_mut(width)) {
        let norm = norm(vector);
        let inverse = 1.0 / norm.max(SHORTEST);
        // A vector that is divided by a constant has no pull towards its own direction.
        let pull = if norm > SHORTEST {
            let along: f64 = vector.iter().zip(&*d).map(|(&v, &d)| f64::from(v) * f64::from(d)).sum();
            along * inverse * inverse
        } else {
            0.0
        };
        for (d, &v) in d.iter_mut().zip(vector) {
            *d = ((f64::from(*d) - f64::from(v) * pull) * inverse) as f32;
        }
    }
}
