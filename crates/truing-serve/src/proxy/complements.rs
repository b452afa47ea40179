//! Complements while requests wait for them: a cache, few workers, and a bypass whenever anything is slow or fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Writes complements of prompts.
pub trait Complement: Send + Sync {
    /// The complement of a prompt: what is written after it. Empty where it needs none.
    ///
    /// # Errors
    /// Why there is none.
    fn complement(&self, prompt: &str) -> Result<String, String>;
}

/// What became of a request's complement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was written after the prompt.
    Applied(Arc<str>),
    /// It was made, and not used.
    Shadow(Arc<str>),
    /// None was used, for this reason.
    Bypassed(&'static str),
    /// None was asked for.
    Off,
}

impl Fate {
    /// The value of `x-truing-complement`.
    pub(crate) fn header(&self) -> String {
        match self {
            Self::Applied(_) => "applied".into(),
            Self::Shadow(_) => "shadow".into(),
            Self::Bypassed(reason) => format!("bypassed:{reason}"),
            Self::Off => "off".into(),
        }
    }

    /// Its word for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Shadow(_) => "shadow",
            Self::Bypassed(_) => "bypassed",
            Self::Off => "off",
        }
    }
}

/// Prompts with their complements, the least recently used dropped first.
#[derive(Debug, Default)]
struct Cache {
    entries: HashMap<blake3::Hash, (Arc<str>, u64)>,
    n_uses: u64,
    max_entries: usize,
}

impl Cache {
    fn get(&mut self, key: &blake3::Hash) -> Option<Arc<str>> {
        self.n_uses += 1;
        let n_uses = self.n_uses;
        let (complement, last_used) = self.entries.get_mut(key)?;
        *last_used = n_uses;
        Some(Arc::clone(complement))
    }

    fn put(&mut self, key: blake3::Hash, complement: Arc<str>) {
        if self.max_entries == 0 {
            return;
        }
        if self.entries.len() >= self.max_entries && !self.entries.contains_key(&key) {
            // A sixteenth at a time, so that a full cache is not searched for every entry.
            let mut ages: Vec<u64> = self.entries.values().map(|(_, last_used)| *last_used).collect();
            let (_, &mut limit, _) = ages.select_nth_unstable(self.max_entries / 16);
            self.entries.retain(|_, (_, last_used)| *last_used > limit);
        }
        self.n_uses += 1;
        self.entries.insert(key, (complement, self.n_uses));
    }
}

/// Complements of prompts.
pub(crate) struct Complements {
    model: Arc<dyn Complement>,
    cache: Arc<Mutex<Cache>>,
    workers: Arc<Semaphore>,
    timeout: Duration,
}

impl Complements {
    pub(crate) fn new(
        model: Arc<dyn Complement>,
        n_workers: usize,
        max_cached: usize,
        timeout: Duration,
    ) -> Self {
        let cache = Cache { max_entries: max_cached, ..Cache::default() };
        let workers = Arc::new(Semaphore::new(n_workers));
        Self { model, cache: Arc::new(Mutex::new(cache)), workers, timeout }
    }

    /// The complement of a prompt, or why there is none in time. One that comes too late is kept for the next request.
    pub(crate) async fn find(&self, prompt: &str) -> Result<Arc<str>, &'static str> {
        let key = blake3::hash(prompt.as_bytes());
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key);
        if let Some(complement) = cached {
            return usable(complement);
        }
        // Nobody waits for a worker: a request is answered without a complement rather than late.
        let Ok(permit) = Arc::clone(&self.workers).try_acquire_owned() else { return Err("overload") };
        let (model, cache, prompt) = (Arc::clone(&self.model), Arc::clone(&self.cache), prompt.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let result = model.complement(&prompt);
            drop(permit);
            let complement: Arc<str> = result.ok()?.trim().into();
            cache.lock().unwrap_or_else(PoisonError::into_inner).put(key, Arc::clone(&complement));
            Some(complement)
        });
        match tokio::time::timeout(self.timeout, work).await {
            Err(_) => Err("timeout"),
            // A model that panics has failed.
            Ok(Err(_) | Ok(None)) => Err("failed"),
            Ok(Ok(Some(complement))) => usable(complement),
        }
    }
}

fn usable(complement: Arc<str>) -> Result<Arc<str>, &'static str> {
    if complement.is_empty() { Err("empty") } else { Ok(complement) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_drops_what_was_not_used_for_longest() {
        let mut cache = Cache { max_entries: 32, ..Cache::default() };
        let key = |n: u32| blake3::hash(&n.to_le_bytes());
        for n in 0..32 {
            cache.put(key(n), "x".into());
        }
        assert!(cache.get(&key(0)).is_some());
        for n in 32..34 {
            cache.put(key(n), "y".into());
        }
        assert!(cache.entries.len() <= 32);
        assert!(cache.get(&key(0)).is_some() && cache.get(&key(33)).is_some());
        assert!(cache.get(&key(1)).is_none());
        let mut none = Cache::default();
        none.put(key(1), "x".into());
        assert!(none.entries.is_empty());
    }
}
