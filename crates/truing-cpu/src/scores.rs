//! The product of hidden states with the few rows of a score head or an output layer.

/// `hidden` `[n_rows, width]` times the head's rows `[n_outputs, width]`, summed in double precision:
/// `[n_rows, n_outputs]`.
pub(crate) fn scores(hidden: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
    let dot = |row: &[f32], weight: &[f32]| {
        row.iter().zip(weight).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() as f32
    };
    let rows = hidden.chunks_exact(width);
    rows.flat_map(|row| weight.chunks_exact(width).map(move |weight| dot(row, weight))).collect()
}

/// `d_hidden[i] = sum_k d_scores[i, k] w[k]`, `d_w[k] += sum_i d_scores[i, k] hidden[i]`.
pub(crate) fn scores_backward(
    hidden: &[f32],
    weight: &[f32],
    width: usize,
    d_scores: &[f32],
    d_hidden: &mut [f32],
    d_weight: Option<&mut [f32]>,
) {
    let n_outputs = weight.len() / width;
    for (i, d_row) in d_hidden.chunks_exact_mut(width).enumerate() {
        for (k, weight) in weight.chunks_exact(width).enumerate() {
            let d_score = d_scores.get(i * n_outputs + k).copied().unwrap_or_default();
            let parts = d_row.iter_mut().zip(weight);
            if k == 0 {
                parts.for_each(|(d, w)| *d = d_score * w);
            } else {
                parts.for_each(|(d, w)| *d += d_score * w);
            }
        }
    }
    if let Some(d_weight) = d_weight {
        for (row, d_scores) in hidden.chunks_exact(width).zip(d_scores.chunks_exact(n_outputs)) {
            for (d_weight, &d_score) in d_weight.chunks_exact_mut(width).zip(d_scores) {
                d_weight.iter_mut().zip(row).for_each(|(d, x)| *d += d_score * x);
            }
        }
    }
}
