//! Correlation coefficients.

use crate::mean_and_deviation;

/// Pearson's correlation of two lists of the same length; `None` if one of them is constant.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let ((mean_a, deviation_a), (mean_b, deviation_b)) = (mean_and_deviation(a), mean_and_deviation(b));
    let product: f64 = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let scale = deviation_a * deviation_b * a.len() as f64;
    (scale > 0.0).then(|| product / scale)
}

/// Spearman's rank correlation of two lists of the same length; `None` if one of them is constant.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Ranks from 0, in the order of `values`; equal values share their mean rank.
#[must_use]
pub fn ranks(values: &[f64]) -> Vec<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_correlation_1_and_a_monotone_curve_rank_correlation_1() {
        let x = [1.0, 2.0, 3.0, 4.0];
        assert!((pearson(&x, &[3.0, 5.0, 7.0, 9.0]).unwrap() - 1.0).abs() < 1e-12);
        let curve = [1.0, 10.0, 100.0, 1000.0];
        assert!(pearson(&x, &curve).unwrap() < 0.9);
        assert!((spearman(&x, &curve).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!((pearson(&x, &[2.0; 4]), spearman(&[2.0; 4], &x)), (None, None));
        // scipy.stats.pearsonr([1, 2, 3, 4], [2, 1, 4, 3])
        assert!((pearson(&x, &[2.0, 1.0, 4.0, 3.0]).unwrap() - 0.6).abs() < 1e-12);
    }

    #[test]
    fn equal_values_share_their_mean_rank() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 7.0]), [1.5, 0.0, 1.5, 3.0]);
        assert!(ranks(&[]).is_empty());
    }
}
