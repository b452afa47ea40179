//! A token bucket: what may be taken in a minute, taken at any pace, given back evenly.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Fills at a steady rate up to a minute's amount. Taking more than is there is a debt: the taker waits until it is
/// paid, and those after it wait longer, so that nobody is overtaken for ever.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_minute: u32,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// May be below 0.
    amount: f64,
    at: Duration,
}

impl TokenBucket {
    /// A full one.
    pub(crate) fn new(per_minute: u32, now: Duration) -> Self {
        Self { per_minute, level: Mutex::new(Level { amount: f64::from(per_minute), at: now }) }
    }

    pub(crate) fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes an amount, and tells how long to wait before it may be used; `None` when it is more than the bucket ever
    /// holds, and then nothing is taken.
    pub(crate) fn take(&self, amount: u64, now: Duration) -> Option<Duration> {
        if amount > u64::from(self.per_minute) {
            return None;
        }
        let left = self.change(-(amount as f64), now);
        Some(Duration::from_secs_f64((-left).max(0.0) * 60.0 / f64::from(self.per_minute)))
    }

    /// Corrects an amount that was taken by estimate: what was not used comes back, what was used beyond it is owed.
    pub(crate) fn settle(&self, estimated: u64, used: u64, now: Duration) {
        self.change(estimated as f64 - used as f64, now);
    }

    fn change(&self, amount: f64, now: Duration) -> f64 {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let most = f64::from(self.per_minute);
        let refilled = now.saturating_sub(level.at).as_secs_f64() * most / 60.0;
        level.amount = ((level.amount + refilled).min(most) + amount).min(most);
        level.at = level.at.max(now);
        level.amount
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_minute_s_amount_passes_at_once_and_the_rest_in_turn() {
        let bucket = TokenBucket::new(60, secs(5));
        assert_eq!(bucket.take(60, secs(5)), Some(secs(0)));
        assert_eq!(bucket.take(2, secs(5)), Some(secs(2)));
        assert_eq!(bucket.take(1, secs(5)), Some(secs(3)), "after the one that was first");
        assert_eq!(bucket.take(1, secs(9)), Some(secs(0)), "4 came back for 3 owed");
        assert_eq!(bucket.take(60, secs(500)), Some(secs(0)), "a long rest fills it, no further");
        assert_eq!(bucket.take(1, secs(500)), Some(secs(1)));
    }

    #[test]
    fn more_than_it_holds_is_refused_and_takes_nothing() {
        let bucket = TokenBucket::new(10, secs(0));
        assert_eq!(bucket.take(11, secs(0)), None);
        assert_eq!(bucket.take(10, secs(0)), Some(secs(0)));
    }

    #[test]
    fn an_estimate_is_corrected() {
        let bucket = TokenBucket::new(60, secs(0));
        bucket.take(60, secs(0));
        bucket.settle(60, 20, secs(0));
        assert_eq!(bucket.take(40, secs(0)), Some(secs(0)));
        bucket.settle(40, 50, secs(0));
        assert_eq!(bucket.take(1, secs(0)), Some(secs(11)));
        bucket.settle(1, 0, secs(600));
        assert_eq!(bucket.take(60, secs(600)), Some(secs(0)), "never more than full");
    }
}
