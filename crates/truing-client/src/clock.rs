//! Time as the client needs it, and the wish to stop, handed in: the program gives the machine's, tests one that does
//! not wait.

use std::ops::ControlFlow;
use std::time::Duration;

/// Looks at the clock, and waits.
pub trait Clock: Send + Sync {
    /// Seconds since 1970 (UTC), for dates of servers and of the cache.
    fn unix_secs(&self) -> f64;

    /// Time since some fixed moment; it never goes back.
    fn elapsed(&self) -> Duration;

    /// Waits. Breaks if the wait was interrupted: the caller must not continue.
    fn sleep(&self, duration: Duration) -> ControlFlow<()>;

    /// Whether the process is asked to stop. Nothing new is then asked, and answers that are under way have a few
    /// seconds left.
    fn is_stopped(&self) -> bool {
        false
    }
}
