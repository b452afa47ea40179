//! `truing pipeline push` and `pull`: results to the remote and from it, without running anything.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::{Pushed, Remote};
use crate::{
    Digests, Host, Notice, Pipeline, PipelineError, PipelinePlan, PlannedStage, State, Store, links,
};

/// What became of the result of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Transfer {
    /// It is in the remote now.
    Uploaded {
        /// Bytes that were sent.
        bytes: u64,
    },
    /// It is in the store now.
    Fetched {
        /// Bytes of the result.
        bytes: u64,
    },
    /// It was there already.
    WasThere,
    /// The remote has another result of the same key, which counts for all machines.
    Differs,
    /// There is no result to transfer.
    NoResult,
    /// A gate: its file comes from people.
    Gate,
}

/// What became of the results of a pipeline, by stage, in the order in which they run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Transfers {
    /// Stages and what became of them.
    pub stages: Vec<(String, Transfer)>,
    /// Whether it was stopped from outside.
    pub is_interrupted: bool,
}

/// Uploads the results of a pipeline that are in the store, or of one stage.
///
/// # Errors
/// When the store has no remote or one that is read-only, and when a result cannot be uploaded; those before it are.
pub fn push(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    store: &Store,
    digests: &Digests,
    host: &dyn Host,
    stage: Option<usize>,
    stop: &AtomicBool,
) -> Result<Transfers, PipelineError> {
    let remote = remote_of(pipeline, store)?;
    if remote.is_read_only() {
        let reason = format!("{} is read-only: results are fetched from it", remote.url());
        return Err(PipelineError::NoRemote { path: pipeline.path().to_path_buf(), reason });
    }
    // `gc` waits until what is here is uploaded; without a store there is nothing to upload.
    let _shared = store.runs().is_dir().then(|| store.lock_whole(false)).transpose()?;
    each(pipeline, plan, stage, stop, |planned| {
        let (Some(key), Some(done)) = (planned.key, &planned.done) else { return Ok(Transfer::NoResult) };
        Ok(match remote.push(store, key, done, digests, host.now())? {
            Pushed::New { bytes } => Transfer::Uploaded { bytes },
            Pushed::Same { bytes: 0 } => Transfer::WasThere,
            Pushed::Same { bytes } => Transfer::Uploaded { bytes },
            Pushed::Differs(_) => Transfer::Differs,
        })
    })
}

/// Fetches the results of a pipeline that the remote has and the store has not, or of one stage. The lock file stays as
/// it is.
///
/// # Errors
/// When the store has no remote, another process makes the result, or a result cannot be fetched; those before it are.
pub fn pull(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    store: &Store,
    host: &dyn Host,
    stage: Option<usize>,
    stop: &AtomicBool,
) -> Result<Transfers, PipelineError> {
    let remote = remote_of(pipeline, store)?;
    store.create()?;
    let _shared = store.lock_whole(false)?;
    links::check(pipeline)?;
    store.register(&pipeline.lock_path())?;
    let mut is_stopped = false;
    let mut transfers = each(pipeline, plan, stage, stop, |planned| {
        let Some(key) = planned.key else { return Ok(Transfer::NoResult) };
        if planned.state != State::InRemote {
            let is_here = planned.done.is_some();
            return Ok(if is_here { Transfer::WasThere } else { Transfer::NoResult });
        }
        let Some(_lock) = store.try_lock(key)? else {
            let action = "it makes this result";
            return Err(PipelineError::Busy { path: store.entry(key), action });
        };
        // Another process may have brought it since the plan was made.
        if store.is_done(key) && !planned.has_damage() {
            return Ok(Transfer::WasThere);
        }
        let Some(result) = remote.look_up(key)? else { return Ok(Transfer::NoResult) };
        let bytes = result.files.iter().map(|file| file.bytes).sum();
        host.notice(&Notice::Fetching { stage: &planned.name, bytes });
        if remote.fetch(store, key, &result, stop)?.is_none() {
            is_stopped = true;
            return Ok(Transfer::NoResult);
        }
        links::point(pipeline, &planned.name, &store.run_folder(key))?;
        Ok(Transfer::Fetched { bytes })
    })?;
    transfers.is_interrupted |= is_stopped;
    Ok(transfers)
}

/// Does something with each stage, or with one.
fn each(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    stage: Option<usize>,
    stop: &AtomicBool,
    mut transfer: impl FnMut(&PlannedStage) -> Result<Transfer, PipelineError>,
) -> Result<Transfers, PipelineError> {
    let mut transfers = Transfers::default();
    for &idx in pipeline.order.iter().filter(|idx| stage.is_none_or(|stage| stage == **idx)) {
        if stop.load(Ordering::SeqCst) {
            transfers.is_interrupted = true;
            break;
        }
        let planned = &plan.stages[idx];
        let outcome = if planned.is_gate() { Transfer::Gate } else { transfer(planned)? };
        transfers.stages.push((planned.name.clone(), outcome));
    }
    Ok(transfers)
}

fn remote_of<'a>(pipeline: &Pipeline, store: &'a Store) -> Result<&'a Remote, PipelineError> {
    store.remote().ok_or_else(|| PipelineError::NoRemote {
        path: PathBuf::from(pipeline.path()),
        reason: "it has no remote: expected `remote` in the table `[pipeline]`".to_owned(),
    })
}
