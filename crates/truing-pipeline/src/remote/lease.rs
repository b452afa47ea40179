//! Leases: which machine makes a result. A lease is the object `leases/KEY/NUMBER` with the highest number. A machine
//! takes it by writing the next number where there is none, so that of several one succeeds, and renews it by writing
//! its own number again. Conditional writes of new objects are all that this needs of a storage.
//!
//! A lease is free when its owner has given it back, when it has not been renewed while another machine looked at it
//! for as long as a lease lasts, or when its time was over more than [`CLOCK_TOLERANCE`] ago. The second rule needs no
//! clock that machines share. The third one saves the wait for a machine that died long ago; clocks that differ by
//! more than the tolerance make it take a lease that is in use. Then both machines make the result, and the first one
//! counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use truing_store::Digest;

use super::{Remote, RemoteError, StorageError};

/// Clocks of machines may differ by so much.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(600);

/// A lease that this process has.
#[derive(Debug)]
pub(crate) struct Lease {
    key: Digest,
    number: u64,
    n_renewals: AtomicU64,
}

/// The content of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    /// The process that has it.
    pub(crate) owner: String,
    /// How often it was renewed.
    pub(crate) n_renewals: u64,
    /// When it ends if it is not renewed, by the owner's clock, in seconds since 1970.
    pub(crate) ends_at: u64,
    /// Whether the owner has given it back.
    pub(crate) is_released: bool,
}

/// How an attempt to take a lease ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// This process has it.
    Held(Lease),
    /// Another one has it.
    Other(String),
}

/// What was seen of another machine's lease so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    seen: Option<(u64, u64)>,
    n_unchanged: u32,
}

impl Watch {
    /// Notes a look at a lease, each a `pause` after the last one. Whether it has not changed for as long as it lasts.
    pub(crate) fn is_dead(&mut self, number: u64, n_renewals: u64, pause: Duration, lease: Duration) -> bool {
        let now = Some((number, n_renewals));
        self.n_unchanged = if self.seen == now { self.n_unchanged + 1 } else { 0 };
        self.seen = now;
        // A renewal is under way for some time: one pause more.
        pause * self.n_unchanged > lease
    }
}

impl LeaseRecord {
    /// Whether it ended so long ago that no difference of clocks explains it.
    pub(super) fn is_long_over(&self, now: SystemTime) -> bool {
        seconds(now) > self.ends_at.saturating_add(CLOCK_TOLERANCE.as_secs())
    }
}

impl Remote {
    /// Tries to take the lease on a key. `watch` is the caller's, for this key alone.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) fn try_lease(
        &self,
        key: Digest,
        watch: &mut Watch,
        now: SystemTime,
    ) -> Result<Attempt, RemoteError> {
        let newest = self.newest_lease(key)?;
        let number = match newest {
            None => 1,
            Some((number, record)) => {
                let n_renewals = record.as_ref().map_or(0, |record| record.n_renewals);
                let is_dead = watch.is_dead(number, n_renewals, self.pause, self.lease);
                let is_free = record.as_ref().is_some_and(|record| {
                    record.is_released || record.owner == self.owner || record.is_long_over(now)
                });
                if !is_dead && !is_free {
                    let owner = record.map_or_else(|| "another machine".to_owned(), |record| record.owner);
                    return Ok(Attempt::Other(owner));
                }
                number + 1
            }
        };
        let lease = Lease { key, number, n_renewals: AtomicU64::new(0) };
        let name = lease.name();
        match self.storage.write_new(&name, &self.record(&lease, false, now)) {
            Ok(()) => {}
            Err(StorageError::Exists) => return Ok(Attempt::Other("another machine".to_owned())),
            Err(source) => return Err(self.failed("write", &name, source)),
        }
        // A slower machine may have found the number before this one.
        match self.lease_numbers(key)?.last() {
            Some(&last) if last == number => {}
            _ => return Ok(Attempt::Other("another machine".to_owned())),
        }
        self.remove_leases(key, number - 1);
        Ok(Attempt::Held(lease))
    }

    /// Renews a lease. That another machine has taken it meanwhile changes nothing: the first result counts.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) fn renew(&self, lease: &Lease, now: SystemTime) -> Result<(), RemoteError> {
        lease.n_renewals.fetch_add(1, Ordering::SeqCst);
        self.write_lease(lease, false, now)
    }

    /// Gives a lease back: with a result in the remote it is removed, otherwise the next machine may take it.
    pub(crate) fn release(&self, lease: &Lease, has_result: bool, now: SystemTime) {
        // Where this fails the lease ends by itself.
        match has_result {
            true => self.remove_leases(lease.key, lease.number),
            false => drop(self.write_lease(lease, true, now)),
        }
    }

    fn write_lease(&self, lease: &Lease, is_released: bool, now: SystemTime) -> Result<(), RemoteError> {
        let (name, record) = (lease.name(), self.record(lease, is_released, now));
        let written = self.storage.write(&name, &mut record.as_slice(), record.len() as u64);
        written.map_err(|source| self.failed("write", &name, source))
    }

    fn record(&self, lease: &Lease, is_released: bool, now: SystemTime) -> Vec<u8> {
        let record = LeaseRecord {
            owner: self.owner.clone(),
            n_renewals: lease.n_renewals.load(Ordering::SeqCst),
            ends_at: seconds(now) + self.lease.as_secs(),
            is_released,
        };
        serde_json::to_vec(&record).expect("a lease is made of texts and numbers")
    }

    /// The lease that counts; without its record where that cannot be read.
    fn newest_lease(&self, key: Digest) -> Result<Option<(u64, Option<LeaseRecord>)>, RemoteError> {
        let Some(number) = self.lease_numbers(key)?.last().copied() else { return Ok(None) };
        let (name, mut bytes) = (lease_name(key, number), Vec::new());
        match self.storage.read(&name, &mut bytes) {
            Ok(()) => Ok(Some((number, serde_json::from_slice(&bytes).ok()))),
            // Given back this moment.
            Err(StorageError::Missing) => Ok(Some((number, None))),
            Err(source) => Err(self.failed("read", &name, source)),
        }
    }

    /// The numbers of the leases on a key, sorted.
    fn lease_numbers(&self, key: Digest) -> Result<Vec<u64>, RemoteError> {
        let folder = format!("leases/{key}");
        let names = self.storage.list(&folder).map_err(|source| self.failed("list", &folder, source))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes the leases on a key up to a number. They count no more; where this fails they stay.
    fn remove_leases(&self, key: Digest, up_to: u64) {
        for number in self.lease_numbers(key).unwrap_or_default() {
            if number <= up_to {
                let _ = self.storage.remove(&lease_name(key, number));
            }
        }
    }
}

impl Lease {
    fn name(&self) -> String {
        lease_name(self.key, self.number)
    }
}

/// The name of a lease. Ten digits, so that names and numbers have the same order.
pub(crate) fn lease_name(key: Digest, number: u64) -> String {
    format!("leases/{key}/{number:010}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_renewed_is_never_taken_for_dead() {
        let (pause, lease) = (Duration::from_secs(5), Duration::from_secs(60));
        let mut watch = Watch::default();
        for look in 0..100 {
            // Renewed once in twelve looks, which is the whole length of a lease.
            assert!(!watch.is_dead(1, look / 12, pause, lease), "{look}");
        }
        let mut watch = Watch::default();
        let n_looks = (0..).take_while(|_| !watch.is_dead(1, 3, pause, lease)).count();
        assert_eq!(n_looks, 13, "65 seconds after the first look");
        assert!(!watch.is_dead(2, 0, pause, lease), "another machine has it now");
    }

    #[test]
    fn a_lease_is_over_when_no_difference_of_clocks_explains_its_age() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let record = LeaseRecord { owner: "a".into(), n_renewals: 0, ends_at: 1000, is_released: false };
        let tolerance = CLOCK_TOLERANCE.as_secs();
        for (now, expected) in
            [(0, false), (1001, false), (1000 + tolerance, false), (1001 + tolerance, true)]
        {
            assert_eq!(record.is_long_over(at(now)), expected, "{now}");
        }
    }
}
