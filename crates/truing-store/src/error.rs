//! Everything that can go wrong with a file, with its path.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;

/// A file or directory that could not be written, read or believed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No room: disk, quota or file size limit. Nothing half-written is left behind.
    #[error("no room to {action} `{}`: disk, quota or file size limit reached", path.display())]
    StorageFull {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory without its manifest was never completed.
    #[error("`{}` has no manifest.json: it was never completed", path.display())]
    MissingManifest {
        /// The directory.
        path: PathBuf,
    },
    /// A manifest that cannot be read.
    #[error("`{}` is damaged: {reason}", path.display())]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a newer version.
    #[error("`{}` has format version {found}, expected {supported}", path.display())]
    UnknownFormatVersion {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version read here.
        supported: u32,
    },
    /// A file named by the manifest is gone.
    #[error("`{}` is missing", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A file is shorter or longer than when it was written.
    #[error("`{}` has {found} bytes, expected {expected}", path.display())]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// Bytes when it was written.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// A file's bytes have changed since it was written.
    #[error("`{}` has digest {found}, expected {expected}: its bytes have changed", path.display())]
    DigestMismatch {
        /// The file.
        path: PathBuf,
        /// Digest when it was written.
        expected: Digest,
        /// Digest now.
        found: Digest,
    },
    /// A name that would leave the directory or collide with our own files.
    #[error("`{name}` cannot be the name of a file here: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The directory already holds a run.
    #[error("`{}` already holds a run", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds no run, but something that a run would overwrite.
    #[error("`{}` already holds `{name}`, which a run would overwrite", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        name: String,
    },
    /// The path of a run is a file.
    #[error("`{}` is a file; expected the path of a folder", path.display())]
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// The directory of a new run holds files of something else.
    #[error(
        "`{}` is not empty and holds no run, but for instance `{name}`; expected a new or empty folder",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// The first of them.
        name: String,
    },
    /// The directory holds no run, but files that no run writes before its first step.
    #[error("`{}` holds no run to resume, but other files, such as `{name}`", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first of them.
        name: String,
    },
    /// The directory holds no run, or a part of one.
    #[error("`{}` is not a complete run: `{missing}` is missing", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
        /// The file that a run has.
        missing: &'static str,
    },
    /// Another process is at work in the directory.
    #[error("`{}` is in use by another process{}", path.display(), holder(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other process, where it could be read.
        pid: Option<u32>,
    },
    /// A metrics line inside the part to be kept cannot be read.
    #[error("{}:{line}: {reason}", path.display())]
    BadMetricsLine {
        /// The metrics file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A value that cannot be written as JSON.
    #[error("cannot write `{}` as JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What serde said.
        source: serde_json::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl StoreError {
    /// Adds the action and path to a system error; a full disk becomes [`StoreError::StorageFull`].
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.as_ref().to_path_buf();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Self::StorageFull { action, path, source }
                }
                _ => Self::Io { action, path, source },
            }
        }
    }
}
