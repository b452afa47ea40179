//! Seconds of repeated work, and the rates computed from them.

use std::time::Instant;

use serde::Serialize;

/// Rates of several repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
}

impl Spread {
    /// `amount` units of work in each of these times, in seconds. Panics where there is none.
    pub(super) fn of_rates(amount: f64, seconds: &[f64]) -> Self {
        let mut rates: Vec<f64> = seconds.iter().map(|seconds| amount / seconds).collect();
        rates.sort_by(f64::total_cmp);
        let (middle, is_even) = (rates.len() / 2, rates.len().is_multiple_of(2));
        let median = if is_even { (rates[middle - 1] + rates[middle]) / 2.0 } else { rates[middle] };
        Self { median, lowest: rates[0], highest: rates[rates.len() - 1] }
    }
}

/// Seconds of each of `n` runs, after one that does not count: it fills buffers and copies weights.
pub(super) fn seconds_of<E>(n: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<Vec<f64>, E> {
    work()?;
    (0..n)
        .map(|_| {
            let started = Instant::now();
            work()?;
            Ok(started.elapsed().as_secs_f64())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_rates() {
        let odd = Spread::of_rates(10.0, &[2.0, 1.0, 10.0]);
        assert_eq!(odd, Spread { median: 5.0, lowest: 1.0, highest: 10.0 });
        assert_eq!(Spread::of_rates(10.0, &[2.0, 1.0]).median, 7.5);
        assert_eq!(Spread::of_rates(3.0, &[1.5]), Spread { median: 2.0, lowest: 2.0, highest: 2.0 });
    }

    #[test]
    fn the_first_run_does_not_count_and_a_failure_ends_it() {
        let mut n_runs = 0;
        let seconds = seconds_of(3, || {
            n_runs += 1;
            Ok::<(), ()>(())
        });
        assert_eq!((seconds.map(|seconds| seconds.len()), n_runs), (Ok(3), 4));
        let mut n_runs = 0;
        let failed = seconds_of(3, || {
            n_runs += 1;
            if n_runs == 2 { Err("the device is gone") } else { Ok(()) }
        });
        assert_eq!((failed, n_runs), (Err("the device is gone"), 2));
    }
}
