//! The store: finished runs by key. Several pipelines may share one.
//!
//! | path | contents |
//! |---|---|
//! | `runs/KEY/run/` | the run's folder, made by the stage itself |
//! | `runs/KEY/recipe.toml` | the recipe that the stage runs with |
//! | `runs/KEY/log.txt` | its progress and errors, where they were not shown |
//! | `runs/KEY/stdout.txt` | what it printed on its standard output |
//! | `runs/KEY/done.json` | written last: what the run left, with digests. Without it the run is not finished |
//! | `runs/KEY.discarded` | a run that must not be used: damaged, or its data changed while it ran |
//! | `locks/KEY` | held while the run is made |
//! | `pipelines/ID` | the lock files that name runs here |
//! | `incoming/KEY/` | files of a result that is being fetched from the remote |
//! | `digests` | digests of files that were read |
//! | `digests.lock` | held while `digests` is written |
//! | `lineage/DIGEST.index` | indexes of files of rows, made when rows are followed; they may be removed |
//! | `turns/NAME-ID.jsonl` | the turns of a pipeline |

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use truing_store::{Digest, StoreError, atomic};

use crate::done::{Done, FORMAT_VERSION, Version};
use crate::file_locks::open_lock;
use crate::{Digests, Host, PipelineError, Remote};

pub(crate) const DONE: &str = "done.json";
/// The folder of a run, in that of its key.
pub(crate) const RUN: &str = "run";
/// The suffix of the folder of a run that must not be used.
pub(crate) const DISCARDED: &str = ".discarded";

/// The folder with finished runs.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Where results are shared with other machines.
    remote: Option<Arc<Remote>>,
}

/// What the store has of a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// A finished run whose files are what they were.
    Done(Done),
    /// A run that was started and is not finished.
    Begun,
    /// A finished run with a file that is missing or not what it was.
    Damaged(String),
    /// Nothing.
    Nothing,
}

impl Store {
    /// The store in a folder, which may not exist.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf(), remote: None }
    }

    /// The same store with a remote: results that are not here are looked for there.
    #[must_use]
    pub fn with_remote(self, remote: Arc<Remote>) -> Self {
        Self { remote: Some(remote), ..self }
    }

    /// The remote.
    #[must_use]
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_deref()
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where digests are remembered.
    #[must_use]
    pub fn digests_path(&self) -> PathBuf {
        self.root.join("digests")
    }

    /// Creates the folders of the store.
    pub(crate) fn create(&self) -> Result<(), StoreError> {
        for folder in [self.runs(), self.root.join("locks"), self.registrations()] {
            fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
        }
        let ignored = self.root.join(".gitignore");
        if ignored.exists() { Ok(()) } else { atomic::write(&ignored, b"*\n") }
    }

    /// The folder of all runs.
    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// The folder that says which lock files name runs here.
    pub(crate) fn registrations(&self) -> PathBuf {
        self.root.join("pipelines")
    }

    /// The folder of results that are being fetched.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Everything that belongs to a key.
    pub(crate) fn entry(&self, key: Digest) -> PathBuf {
        self.runs().join(key.to_string())
    }

    /// The folder that a stage makes.
    #[must_use]
    pub fn run_folder(&self, key: Digest) -> PathBuf {
        self.entry(key).join(RUN)
    }

    /// Whether a key has a finished run. Its files are not looked at.
    pub(crate) fn is_done(&self, key: Digest) -> bool {
        self.entry(key).join(DONE).is_file()
    }

    /// Looks a key up. The outputs are compared with their digests.
    pub(crate) fn find(&self, key: Digest, digests: &Digests, host: &dyn Host) -> Result<Found, StoreError> {
        let path = self.entry(key).join(DONE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let is_begun = self.run_folder(key).exists();
                return Ok(if is_begun { Found::Begun } else { Found::Nothing });
            }
            Err(source) => return Err(StoreError::io("read", &path)(source)),
        };
        if let Ok(Version { format_version: found }) = serde_json::from_slice(&bytes)
            && found > FORMAT_VERSION
        {
            return Err(StoreError::UnknownFormatVersion { path, found, supported: FORMAT_VERSION });
        }
        let done: Done = match serde_json::from_slice(&bytes) {
            Ok(done) => done,
            Err(error) => return Ok(Found::Damaged(format!("{DONE}: {error}"))),
        };
        let folder = self.run_folder(key);
        for (name, output) in &done.outputs {
            let path = folder.join(&output.path);
            match digests.of_tree(&path, host.now()) {
                Ok(measured) if measured.blake3 == output.blake3 => {}
                Ok(_) => return Ok(Found::Damaged(format!("`{name}` ({}) has changed", output.path))),
                Err(_) if !path.exists() => {
                    return Ok(Found::Damaged(format!("`{name}` ({}) is missing", output.path)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Found::Done(done))
    }

    /// Records that a run is finished.
    pub(crate) fn finish(&self, key: Digest, done: &Done) -> Result<(), StoreError> {
        atomic::write_json(&self.entry(key).join(DONE), done)
    }

    /// Takes a run out of use. An earlier one that was taken out is removed.
    pub(crate) fn discard(&self, key: Digest) -> Result<PathBuf, StoreError> {
        let (entry, aside) = (self.entry(key), self.runs().join(format!("{key}{DISCARDED}")));
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(StoreError::io("remove", &aside))?;
        }
        fs::rename(&entry, &aside).map_err(StoreError::io("rename", &entry))?;
        Ok(aside)
    }

    /// The lock on a key; `None` where another process has it. The system releases it with the last process that holds
    /// it.
    pub(crate) fn try_lock(&self, key: Digest) -> Result<Option<File>, StoreError> {
        let path = self.root.join("locks").join(key.to_string());
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StoreError::io("lock", &path)(source)),
        }
    }

    /// The lock that pipelines share and that the removal of runs has alone.
    pub(crate) fn lock_whole(&self, alone: bool) -> Result<File, PipelineError> {
        let path = self.root.join("lock");
        let file = open_lock(&path)?;
        let (locked, action) = match alone {
            true => (file.try_lock(), "a pipeline is running; `gc` waits for nobody, run it again later"),
            false => (file.try_lock_shared(), "`truing pipeline gc` is at work; run this again later"),
        };
        match locked {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(PipelineError::Busy { path: self.root.clone(), action }),
            Err(TryLockError::Error(source)) => Err(StoreError::io("lock", &path)(source).into()),
        }
    }

    /// Notes that a lock file names runs of this store.
    pub(crate) fn register(&self, lock_file: &Path) -> Result<(), StoreError> {
        let text = lock_file.to_string_lossy();
        let path = self.registrations().join(Digest::of_bytes(text.as_bytes()).to_string());
        if path.exists() { Ok(()) } else { atomic::write(&path, text.as_bytes()) }
    }

    /// The lock files that name runs of this store, each with where it is noted.
    pub(crate) fn registered(&self) -> Result<Vec<(PathBuf, PathBuf)>, StoreError> {
        let folder = self.registrations();
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
            let path = entry.map_err(StoreError::io("list", &folder))?.path();
            if path.extension().is_none() {
                let text = fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
                found.push((path, PathBuf::from(text)));
            }
        }
        found.sort();
        Ok(found)
    }
}
