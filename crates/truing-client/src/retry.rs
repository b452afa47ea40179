//! How long to wait before asking again.

use std::time::Duration;

use jiff::fmt::rfc2822;
use rand_chacha::rand_core::Rng;
use truing_types::Seed;

const FIRST_WAIT_SECS: f64 = 1.0;
const LONGEST_WAIT_SECS: f64 = 60.0;

/// Doubles from one second to a minute, each shortened by a random share of up to a half, so that requests that failed
/// together do not come back together. `request` tells requests apart; the same one waits the same every time.
pub(crate) fn backoff(attempt: u32, request: u64) -> Duration {
    let whole = (FIRST_WAIT_SECS * 2_f64.powi(attempt.min(30) as i32)).min(LONGEST_WAIT_SECS);
    let mut generator = Seed(request).generator("retry", &[u64::from(attempt)]);
    let share = f64::from(generator.next_u32()) / f64::from(u32::MAX);
    Duration::from_secs_f64(whole * (1.0 - share / 2.0))
}

/// The header `Retry-After` (RFC 9110, 10.2.3): seconds, or a date; `None` when it is neither.
pub(crate) fn retry_after(header: &str, unix_secs: f64) -> Option<Duration> {
    let header = header.trim();
    // Some servers send fractions, which the standard does not know.
    if let Ok(secs) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(secs.max(0.0)).ok();
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(header).ok()?;
    Duration::try_from_secs_f64((date.as_second() as f64 - unix_secs).max(0.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_and_differ_between_requests() {
        for attempt in 0..12 {
            let whole = f64::from(1_u32 << attempt).min(60.0);
            let wait = backoff(attempt, 7).as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&wait), "attempt {attempt}: {wait}");
            assert_eq!(backoff(attempt, 7), backoff(attempt, 7));
            assert_ne!(backoff(attempt, 7), backoff(attempt, 8));
        }
        assert!(backoff(u32::MAX, 1) <= Duration::from_secs(60));
    }

    #[test]
    fn the_header_is_seconds_or_a_date() {
        let now = 784_111_777.0; // Sun, 06 Nov 1994 08:49:37 GMT
        for (header, expected) in [
            ("3", Some(3.0)),
            (" 0.5 ", Some(0.5)),
            ("-4", Some(0.0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10.0)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0.0)),
            ("soon", None),
            ("", None),
            ("NaN", Some(0.0)),
            ("inf", None),
            ("1e400", None),
        ] {
            assert_eq!(retry_after(header, now), expected.map(Duration::from_secs_f64), "{header}");
        }
    }
}
