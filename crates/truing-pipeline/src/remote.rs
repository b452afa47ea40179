//! A remote: results in object storage, so that machines share them.
//!
//! | name in the remote | contents |
//! |---|---|
//! | `objects/DIGEST` | the bytes of a file, named by their BLAKE3 digest |
//! | `results/KEY.json` | a result: what `done.json` says, and the digest of each file. Written last, and once |
//! | `leases/KEY/NUMBER` | the machine that makes a result; the highest number counts |
//!
//! The result that is stored first counts: it is written with a conditional put, so that two machines that made the
//! same key agree. A lease saves double work; no result depends on it.

mod by_hand;
mod garbage;
mod lease;
#[cfg(feature = "remote")]
mod object_storage;
mod shared_result;
mod storage;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use truing_store::{Digest, StoreError};

use crate::Done;

pub use by_hand::{Transfer, Transfers, pull, push};
pub use garbage::RemoteCollected;
pub(crate) use lease::{Attempt, Lease, Watch};
pub(crate) use shared_result::SharedResult;
pub(crate) use storage::Storage;
pub use storage::StorageError;
pub(crate) use transfer::Pushed;

/// A machine that does not renew its lease for so long is taken for dead.
#[cfg(any(feature = "remote", test))]
const LEASE: Duration = Duration::from_secs(60);
/// A lease that another machine has is looked at this often.
#[cfg(any(feature = "remote", test))]
const PAUSE: Duration = Duration::from_secs(5);

/// A remote of a store.
#[derive(Debug)]
pub struct Remote {
    url: String,
    storage: Box<dyn Storage>,
    /// This process, in the leases that it takes.
    owner: String,
    lease: Duration,
    pause: Duration,
}

/// Something of a remote that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address.
    #[error("remote `{url}`: {reason}")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// The storage did not do what it was asked for.
    #[error("cannot {action} `{name}` in {url}")]
    Storage {
        /// The remote.
        url: String,
        /// What was tried, as a verb.
        action: &'static str,
        /// The name of the object.
        name: String,
        /// What the storage said.
        source: StorageError,
    },
    /// An object that is not what it should be.
    #[error("`{name}` in {url} is damaged: {reason}")]
    Damaged {
        /// The remote.
        url: String,
        /// The name of the object.
        name: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A result that a newer version wrote.
    #[error(
        "`{name}` in {url} has format version {found}, expected at most {supported}: a newer truing wrote it"
    )]
    Newer {
        /// The remote.
        url: String,
        /// The name of the object.
        name: String,
        /// Its version.
        found: u32,
        /// The version that is read here.
        supported: u32,
    },
    /// A machine makes a result whose objects are not named by a result yet.
    #[error("{url} is in use: {owner} makes a result; run `gc` again later")]
    InUse {
        /// The remote.
        url: String,
        /// The process that makes it.
        owner: String,
    },
    /// A run that cannot be uploaded.
    #[error("{}: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Remote {
    /// Opens the remote at an address: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`,
    /// `file:///FOLDER`, or, to fetch results only, `http://HOST/FOLDER` and `https://HOST/FOLDER`.
    ///
    /// `variables` are the environment variables with credentials and options (`AWS_*`, `GOOGLE_*`, `AZURE_*`). `owner`
    /// names this process in leases: no other process on any machine may have the same. Nothing is requested yet.
    ///
    /// # Errors
    /// When the address is none of these, or an option has no usable value. Without the feature `remote`: always.
    #[cfg(feature = "remote")]
    pub fn open(url: &str, variables: &[(String, String)], owner: String) -> Result<Arc<Self>, RemoteError> {
        let storage = object_storage::open(url, variables)
            .map_err(|reason| RemoteError::Address { url: url.to_owned(), reason })?;
        Ok(Arc::new(Self::over(url, storage, owner)))
    }

    /// Refuses every address: this program was built without remotes.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "remote"))]
    pub fn open(url: &str, _: &[(String, String)], _: String) -> Result<Arc<Self>, RemoteError> {
        let reason = "this program was built without the feature `remote`".to_owned();
        Err(RemoteError::Address { url: url.to_owned(), reason })
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether results can be fetched and not uploaded.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.storage.is_read_only()
    }

    /// A remote over any storage.
    #[cfg(any(feature = "remote", test))]
    pub(crate) fn over(url: &str, storage: Box<dyn Storage>, owner: String) -> Self {
        Self { url: url.to_owned(), storage, owner, lease: LEASE, pause: PAUSE }
    }

    /// The same with other times: how long a lease lasts, and how often that of another machine is looked at.
    #[cfg(test)]
    pub(crate) fn with_times(self, lease: Duration, pause: Duration) -> Self {
        Self { lease, pause, ..self }
    }

    /// How often a lease of another machine is looked at.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// A lease is renewed this often, so that two renewals in a row may fail.
    pub(crate) fn renewal_pause(&self) -> Duration {
        self.lease / 4
    }

    /// The result of a key; `None` where the remote has none.
    ///
    /// # Errors
    /// When the storage fails, or the result is damaged or of a newer version.
    pub(crate) fn look_up(&self, key: Digest) -> Result<Option<SharedResult>, RemoteError> {
        let (name, mut bytes) = (SharedResult::name(key), Vec::new());
        match self.storage.read(&name, &mut bytes) {
            Ok(()) => SharedResult::parse(self, &name, &bytes).map(Some),
            Err(StorageError::Missing) => Ok(None),
            Err(source) => Err(self.failed("read", &name, source)),
        }
    }

    fn failed(&self, action: &'static str, name: &str, source: StorageError) -> RemoteError {
        RemoteError::Storage { url: self.url.clone(), action, name: name.to_owned(), source }
    }

    fn damaged(&self, name: &str, reason: impl Into<String>) -> RemoteError {
        RemoteError::Damaged { url: self.url.clone(), name: name.to_owned(), reason: reason.into() }
    }
}

/// Whether two records are of the same outputs.
fn is_same(one: &Done, other: &Done) -> bool {
    one.outputs == other.outputs
}
