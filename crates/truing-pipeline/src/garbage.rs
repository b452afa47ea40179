//! Removal of runs that no lock file names.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use truing_store::{Digest, StoreError, atomic, paths};

use crate::lineage::files::INDEXES;
use crate::store::DISCARDED;
use crate::{LockFile, PipelineError, Remote, RemoteCollected, RemoteError, Store};

/// What is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct GarbageOptions {
    /// Only say what would be removed.
    pub is_dry_run: bool,
    /// Also runs that were started and not finished, and results that were fetched in part.
    pub removes_unfinished: bool,
    /// Also results in the remote of the store. The lock files that this store does not know are not considered.
    pub in_remote: bool,
}

/// What was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Runs that no lock file names.
    pub removed: Vec<Removed>,
    /// Runs that stay.
    pub n_kept: usize,
    /// The lock files that were read.
    pub lock_files: Vec<PathBuf>,
    /// Lock files that named runs here and are gone.
    pub gone: Vec<PathBuf>,
    /// What was removed from the remote, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_remote: Option<RemoteCollected>,
}

/// A run that is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Removes the runs that no lock file known to the store names. A lock file is known once a pipeline was applied there.
/// A run that a process works on stays. `now` is the time: a lease in the remote that ended long ago does not count.
///
/// # Errors
/// When a pipeline uses the store, or a machine the remote, a lock file cannot be read, or a folder cannot be removed.
pub fn collect_garbage(
    store: &Store,
    options: GarbageOptions,
    now: SystemTime,
) -> Result<Collected, PipelineError> {
    let mut collected = Collected {
        removed: Vec::new(),
        n_kept: 0,
        lock_files: Vec::new(),
        gone: Vec::new(),
        from_remote: None,
    };
    let remote = store.remote().filter(|_| options.in_remote);
    if !store.runs().is_dir() {
        return match remote {
            Some(remote) => Err(no_lock_file(remote)),
            None => Ok(collected),
        };
    }
    let _alone = store.lock_whole(true)?;
    if !options.is_dry_run {
        atomic::remove_leftovers(&store.registrations())?;
    }
    let mut named = BTreeSet::new();
    for (registration, lock_file) in store.registered()? {
        if lock_file.is_file() {
            named.extend(LockFile::read(&lock_file)?.keys());
            collected.lock_files.push(lock_file);
        } else {
            if !options.is_dry_run {
                fs::remove_file(&registration).map_err(StoreError::io("remove", &registration))?;
            }
            collected.gone.push(lock_file);
        }
    }
    // The remote first: where it refuses, nothing is removed here.
    if let Some(remote) = remote {
        if collected.lock_files.is_empty() {
            return Err(no_lock_file(remote));
        }
        collected.from_remote = Some(remote.collect(&named, options.is_dry_run, now)?);
    }
    let runs = store.runs();
    let entries = fs::read_dir(&runs).map_err(StoreError::io("list", &runs))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>, _>>().map_err(StoreError::io("list", &runs))?;
    names.sort();
    for name in names {
        if !is_garbage(store, &name, &named, options)? {
            collected.n_kept += 1;
            continue;
        }
        let folder = runs.join(&name);
        let bytes = paths::bytes_below(&folder);
        if !options.is_dry_run {
            remove(store, &name)?;
        }
        collected.removed.push(Removed { folder, bytes });
    }
    let incoming = store.incoming();
    if options.removes_unfinished && !options.is_dry_run && incoming.is_dir() {
        fs::remove_dir_all(&incoming).map_err(StoreError::io("remove", &incoming))?;
    }
    let indexes = store.root().join(INDEXES);
    if !options.is_dry_run && !collected.removed.is_empty() && indexes.is_dir() {
        // They are made again when they are needed.
        fs::remove_dir_all(&indexes).map_err(StoreError::io("remove", &indexes))?;
    }
    Ok(collected)
}

fn no_lock_file(remote: &Remote) -> PipelineError {
    let reason = "this store knows no lock file, so all its results would be removed: apply a pipeline first";
    RemoteError::Address { url: remote.url().to_owned(), reason: reason.to_owned() }.into()
}

fn is_garbage(
    store: &Store,
    name: &str,
    named: &BTreeSet<Digest>,
    options: GarbageOptions,
) -> Result<bool, PipelineError> {
    if name.ends_with(DISCARDED) {
        return Ok(true);
    }
    // Not of the store: it stays.
    let Ok(key) = name.parse::<Digest>() else { return Ok(false) };
    let is_wanted = named.contains(&key) || (!store.is_done(key) && !options.removes_unfinished);
    // A stage whose pipeline was killed may still be at work.
    Ok(!is_wanted && store.try_lock(key)?.is_some())
}

/// Out of use first, so that a removal that is cut short leaves nothing that looks finished.
fn remove(store: &Store, name: &str) -> Result<(), PipelineError> {
    let folder = match name.parse::<Digest>() {
        Ok(key) => {
            let lock = store.root().join("locks").join(name);
            fs::remove_file(&lock).map_err(StoreError::io("remove", &lock))?;
            store.discard(key)?
        }
        Err(_) => store.runs().join(name),
    };
    Ok(fs::remove_dir_all(&folder).map_err(StoreError::io("remove", &folder))?)
}
