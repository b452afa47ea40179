//! The chance that one of k programs is right (Chen et al. 2021, arXiv 2107.03374, equation 1).

/// The unbiased estimate of pass@k from `n` samples of which `n_right` are right: 1 - C(n - c, k) / C(n, k).
/// `None` where k is 0, or more than the samples.
#[must_use]
pub fn pass_at_k(n: usize, n_right: usize, k: usize) -> Option<f64> {
    if k == 0 || k > n || n_right > n {
        return None;
    }
    // With fewer wrong ones than k the product meets a factor of 0.
    let wrong = n - n_right;
    if wrong < k {
        return Some(1.0);
    }
    let none_right: f64 = (wrong + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - none_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(n: usize, k: usize) -> f64 {
        (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
    }

    #[test]
    fn it_is_the_share_of_the_subsets_of_k_that_hold_a_right_one() {
        for n in 1..14 {
            for n_right in 0..=n {
                for k in 1..=n {
                    let none = if n - n_right >= k { choose(n - n_right, k) / choose(n, k) } else { 0.0 };
                    let found = pass_at_k(n, n_right, k).unwrap();
                    assert!((found - (1.0 - none)).abs() < 1e-12, "{n} {n_right} {k}");
                }
            }
        }
        assert_eq!((pass_at_k(5, 2, 6), pass_at_k(5, 2, 0), pass_at_k(2, 3, 1)), (None, None, None));
        assert!((pass_at_k(200, 10, 100).unwrap() - 0.999_228_973_937_282_2).abs() < 1e-12);
    }
}
