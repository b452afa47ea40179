//! Stages whose results are shared with other machines: fetched where they are in the remote, made under a lease
//! where they are not, and uploaded.

use std::fs::File;
use std::sync::PoisonError;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use truing_store::Digest;
use truing_types::with_causes;

use super::{Fate, PATIENCE, Running};
use crate::remote::{Attempt, Lease, Pushed, SharedResult, Watch};
use crate::{Done, Notice, PipelineError, PlannedStage, Remote, State};

impl Running<'_> {
    /// Whether a stage is fetched because the only one that may run needs it.
    pub(super) fn is_fetched_for(&self, only: usize, idx: usize) -> bool {
        self.pipeline.stages[only].upstream.contains(&idx) && self.plan.stages[idx].state == State::InRemote
    }

    /// Fetches the result of a stage, or makes it while this machine has the lease on it.
    pub(super) fn shared_result(
        &self,
        remote: &Remote,
        idx: usize,
        planned: &PlannedStage,
        key: Digest,
        lock: &File,
    ) -> Result<Fate, PipelineError> {
        let (mut watch, mut has_said) = (Watch::default(), false);
        loop {
            if let Some(result) = remote.look_up(key)? {
                return self.fetch(remote, planned, key, &result);
            }
            if self.only.is_some_and(|only| only != idx) {
                return Ok(Fate::Failed("its result is not in the remote any more; plan again".to_owned()));
            }
            if remote.is_read_only() {
                return self.make(idx, planned, key, lock);
            }
            match remote.try_lease(key, &mut watch, self.host.now())? {
                Attempt::Held(lease) => return self.make_under(remote, &lease, idx, planned, key, lock),
                Attempt::Other(owner) if !has_said => {
                    self.host.notice(&Notice::WaitsForMachine { stage: &planned.name, owner: &owner });
                    has_said = true;
                }
                Attempt::Other(_) => {}
            }
            if !self.sleep(remote.pause()) {
                return Ok(Fate::Interrupted);
            }
        }
    }

    /// Makes a result while the lease on it is renewed.
    fn make_under(
        &self,
        remote: &Remote,
        lease: &Lease,
        idx: usize,
        planned: &PlannedStage,
        key: Digest,
        lock: &File,
    ) -> Result<Fate, PipelineError> {
        // It may have been stored between the look and the lease.
        let found = remote.look_up(key);
        let fate = match found {
            Ok(Some(result)) => self.fetch(remote, planned, key, &result),
            Ok(None) => self.renewing(remote, lease, || self.make(idx, planned, key, lock)),
            Err(error) => Err(error.into()),
        };
        let has_result = matches!(fate, Ok(Fate::Ran | Fate::Fetched)) && !self.is_not_uploaded(planned);
        remote.release(lease, has_result, self.host.now());
        fate
    }

    /// Does some work while another thread renews a lease.
    fn renewing<T>(&self, remote: &Remote, lease: &Lease, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            let (working, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(remote.renewal_pause()) {
                    // Where this fails another machine may make the result too: the first one counts.
                    let _ = remote.renew(lease, self.host.now());
                }
            });
            let result = work();
            drop(working);
            result
        })
    }

    fn fetch(
        &self,
        remote: &Remote,
        planned: &PlannedStage,
        key: Digest,
        result: &SharedResult,
    ) -> Result<Fate, PipelineError> {
        let bytes = result.files.iter().map(|file| file.bytes).sum();
        self.host.notice(&Notice::Fetching { stage: &planned.name, bytes });
        match remote.fetch(self.store, key, result, self.options.stop)? {
            Some(done) => {
                self.record(planned, key, &done)?;
                Ok(Fate::Fetched)
            }
            None => Ok(Fate::Interrupted),
        }
    }

    /// Uploads a result that was made here; returns the one that counts. That it could not be uploaded is noted: the
    /// result is here all the same.
    pub(super) fn upload(&self, planned: &PlannedStage, key: Digest, done: Done) -> Done {
        let Some(remote) = self.store.remote().filter(|remote| !remote.is_read_only()) else { return done };
        let pushed = remote.push(self.store, key, &done, self.digests, self.host.now());
        let replaced = pushed.map_err(|error| with_causes(&error)).and_then(|pushed| match pushed {
            Pushed::New { .. } | Pushed::Same { .. } => Ok(None),
            Pushed::Differs(first) => match remote.fetch(self.store, key, &first, self.options.stop) {
                Ok(Some(first)) => Ok(Some(first)),
                Ok(None) => Err("the remote has another result, and this process was stopped".to_owned()),
                Err(error) => Err(with_causes(&error)),
            },
        });
        let stage = planned.name.as_str();
        match replaced {
            Ok(None) => done,
            Ok(Some(first)) => {
                self.host.notice(&Notice::Replaced { stage });
                first
            }
            Err(reason) => {
                self.note_not_uploaded(stage, reason);
                done
            }
        }
    }

    /// Uploads a result that the store has already: a process that was killed may have made it. Where the remote has
    /// another one, this one stays, since other pipelines may read it.
    pub(super) fn upload_stored(&self, planned: &PlannedStage, key: Digest, done: &Done) {
        let Some(remote) = self.store.remote().filter(|remote| !remote.is_read_only()) else { return };
        if let Err(error) = remote.push(self.store, key, done, self.digests, self.host.now()) {
            self.note_not_uploaded(&planned.name, with_causes(&error));
        }
    }

    fn note_not_uploaded(&self, stage: &str, reason: String) {
        self.host.notice(&Notice::NotUploaded { stage, reason: &reason });
        let mut not_uploaded = self.not_uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        not_uploaded.insert(stage.to_owned(), reason);
    }

    fn is_not_uploaded(&self, planned: &PlannedStage) -> bool {
        self.not_uploaded.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&planned.name)
    }

    /// Waits; `false` when it was stopped.
    fn sleep(&self, time: Duration) -> bool {
        let mut slept = Duration::ZERO;
        while slept < time && !self.is_stopped() {
            let step = PATIENCE.min(time - slept);
            thread::sleep(step);
            slept += step;
        }
        !self.is_stopped()
    }
}
