//! Means and deviations.

/// Mean and population deviation (divisor n); zeros for no values.
#[must_use]
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let (mean, squares) = mean_and_squares(values);
    (mean, (squares / values.len().max(1) as f64).sqrt())
}

/// Mean and sample deviation (divisor n - 1, as TRL's metrics have it; 0 for a single value). `None` for no values.
#[must_use]
pub fn mean_and_sample_deviation(values: &[f64]) -> Option<(f64, f64)> {
    let (mean, squares) = mean_and_squares(values);
    let divisor = values.len().checked_sub(1)?.max(1) as f64;
    Some((mean, (squares / divisor).sqrt()))
}

/// Mean, and the sum of squared distances from it.
fn mean_and_squares(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_have_their_divisors() {
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(mean_and_deviation(&values), (5.0, 2.0));
        assert_eq!(mean_and_sample_deviation(&values), Some((5.0, (32.0_f64 / 7.0).sqrt())));
        assert_eq!(
            (mean_and_deviation(&[3.0]), mean_and_sample_deviation(&[3.0])),
            ((3.0, 0.0), Some((3.0, 0.0)))
        );
        assert_eq!((mean_and_deviation(&[]), mean_and_sample_deviation(&[])), ((0.0, 0.0), None));
    }
}
