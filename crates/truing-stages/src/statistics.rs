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

/// Wilson's 95 % interval (1927) of a share `p` seen in `n` draws, `[low, high]`. Its centre is not `p` but
/// `(p + z^2 / 2n) / (1 + z^2 / n)`, so that it never leaves 0 to 1 and is never empty; of no draws it is all of 0 to 1.
pub(crate) fn wilson_interval(p: f64, n: f64) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    if n <= 0.0 {
        return [0.0, 1.0];
    }
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    [(centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(p: f64, n: f64, expected: [f64; 2]) {
        let found = wilson_interval(p, n);
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 5e-5, "{p} of {n}: {found}, not {expected}");
        }
    }

    #[test]
    fn intervals_are_wilsons() {
        // Newcombe 1998, table I, method 3.
        check(81.0 / 263.0, 263.0, [0.2553, 0.3662]);
        check(15.0 / 148.0, 148.0, [0.0624, 0.1605]);
        check(0.0, 20.0, [0.0, 0.1611]);
        check(1.0 / 29.0, 29.0, [0.0061, 0.1718]);
        // All right: the interval ends at 1 and is not centred at it.
        check(1.0, 20.0, [0.8389, 1.0]);
        check(1.0, 3.0, [0.4385, 1.0]);
        check(0.5, 0.0, [0.0, 1.0]);
    }

    #[test]
    fn an_interval_holds_its_share_and_stays_between_0_and_1() {
        for n in 1..200 {
            for n_right in 0..=2 * n {
                let p = f64::from(n_right) / f64::from(2 * n);
                let [low, high] = wilson_interval(p, f64::from(n));
                assert!(0.0 <= low && low <= p && p <= high && high <= 1.0, "{p} of {n}: {low} {high}");
                assert!(high - low > 0.0);
            }
        }
    }
}
