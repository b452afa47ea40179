//! Means, correlations and intervals that evaluations share.

/// Mean and deviation (of the whole, not of a sample).
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// Pearson's correlation; `None` where one of them is constant.
pub(crate) fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let ((mean_a, deviation_a), (mean_b, deviation_b)) = (mean_and_deviation(a), mean_and_deviation(b));
    let product: f64 = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let scale = deviation_a * deviation_b * a.len() as f64;
    (scale > 0.0).then(|| product / scale)
}

/// Spearman's correlation; `None` where one of them is constant.
pub(crate) fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Ranks with ties at their middle.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let middle = start as f64 + (run.len() as f64 - 1.0) / 2.0;
        run.iter().for_each(|&i| ranks[i] = middle);
        start += run.len();
    }
    ranks
}
