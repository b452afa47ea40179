//! How many requests may be under way at once: additive increase, multiplicative decrease (AIMD, as congestion control
//! does; Chiu and Jain 1989). A status 429 halves the limit; as many successes as the limit is large raise it by one,
//! up to `max_concurrency`. Each client has its own, so it is by server and model.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The limit, and who waits for it.
#[derive(Debug)]
pub(crate) struct Concurrency {
    max: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    limit: usize,
    n_running: usize,
    /// Successes since the limit last changed.
    n_successes: usize,
    /// How often the limit was halved. What began before the last time says nothing about the limit after it.
    n_halvings: u64,
}

/// The right to send one request; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    concurrency: &'a Concurrency,
    n_halvings: u64,
}

impl Concurrency {
    /// At most `max` at once, and that many from the beginning.
    pub(crate) fn new(max: usize) -> Self {
        let state = State { limit: max.max(1), n_running: 0, n_successes: 0, n_halvings: 0 };
        Self { max: max.max(1), state: Mutex::new(state), freed: Condvar::new() }
    }

    /// Requests that may be under way at once now.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Waits until another request may be sent. Permits are held for one attempt, which has a timeout, so this ends.
    pub(crate) fn acquire(&self) -> Permit<'_> {
        let is_full = |state: &mut State| state.n_running >= state.limit;
        let mut state = self.freed.wait_while(self.lock(), is_full).unwrap_or_else(PoisonError::into_inner);
        state.n_running += 1;
        Permit { concurrency: self, n_halvings: state.n_halvings }
    }

    /// The numbers stay consistent if a thread panics between two of them.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The request was answered.
    pub(crate) fn succeeded(&self) {
        let mut state = self.concurrency.lock();
        if state.limit >= self.concurrency.max || self.n_halvings != state.n_halvings {
            return;
        }
        state.n_successes += 1;
        if state.n_successes >= state.limit {
            state.limit += 1;
            state.n_successes = 0;
        }
    }

    /// The server has too many requests. Of several that began under the same limit the first counts.
    pub(crate) fn was_too_many(&self) {
        let mut state = self.concurrency.lock();
        if self.n_halvings == state.n_halvings {
            state.limit = (state.limit / 2).max(1);
            state.n_successes = 0;
            state.n_halvings += 1;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.concurrency.lock().n_running -= 1;
        // All: one that waits may still find the limit reached, and then another would not be woken.
        self.concurrency.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn succeed(concurrency: &Concurrency, n: usize) {
        (0..n).for_each(|_| concurrency.acquire().succeeded());
    }

    #[test]
    fn too_many_requests_halve_the_limit_and_successes_raise_it_step_by_step() {
        let concurrency = Concurrency::new(8);
        succeed(&concurrency, 100);
        assert_eq!(concurrency.limit(), 8, "never above the maximum");
        for expected in [4, 2, 1, 1] {
            concurrency.acquire().was_too_many();
            assert_eq!(concurrency.limit(), expected);
        }
        for (n_successes, expected) in
            [(1, 2), (1, 2), (1, 3), (3, 4), (3, 4), (1, 5), (5 + 6 + 7, 8), (50, 8)]
        {
            succeed(&concurrency, n_successes);
            assert_eq!(concurrency.limit(), expected);
        }
    }

    #[test]
    fn a_burst_of_429_halves_once_and_late_answers_do_not_count() {
        let concurrency = Concurrency::new(8);
        let burst: Vec<Permit<'_>> = (0..8).map(|_| concurrency.acquire()).collect();
        burst[..6].iter().for_each(Permit::was_too_many);
        burst[6..].iter().for_each(Permit::succeeded);
        drop(burst);
        assert_eq!(concurrency.limit(), 4);
        succeed(&concurrency, 3);
        assert_eq!(concurrency.limit(), 4, "the two late answers are not among the four");
        succeed(&concurrency, 1);
        assert_eq!(concurrency.limit(), 5);
    }

    #[test]
    fn nobody_is_sent_above_the_limit_and_everybody_is_sent() {
        let concurrency = Concurrency::new(6);
        concurrency.acquire().was_too_many();
        let (running, most) = (Mutex::new(0_usize), Mutex::new(0_usize));
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let permit = concurrency.acquire();
                        let now = {
                            let mut running = running.lock().unwrap();
                            *running += 1;
                            *running
                        };
                        let mut most = most.lock().unwrap();
                        *most = now.max(*most);
                        drop(most);
                        std::thread::yield_now();
                        *running.lock().unwrap() -= 1;
                        drop(permit);
                    }
                });
            }
        });
        assert!((1..=3).contains(&*most.lock().unwrap()), "{most:?}");
        assert_eq!((*running.lock().unwrap(), concurrency.lock().n_running), (0, 0));
    }
}
