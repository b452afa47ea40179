//! What a remote asks of a storage of objects.

use std::fmt::Debug;
use std::io::{self, Read, Write};

use crate::Cause;

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is none of this name.
    #[error("there is no such object")]
    Missing,
    /// There is one of this name.
    #[error("there is such an object already")]
    Exists,
    /// The file on this machine.
    #[error(transparent)]
    Local(#[from] io::Error),
    /// The storage failed, or could not be reached.
    #[error(transparent)]
    Failed(Cause),
}

/// Objects by name. A reader finds an object whole or not at all, and a write is seen by all who read after it.
///
/// Names are ASCII letters and digits, `.` and `/`.
pub(crate) trait Storage: Debug + Send + Sync {
    /// Whether objects can be read and nothing else.
    fn is_read_only(&self) -> bool;

    /// Passes the bytes of an object to `sink`.
    ///
    /// # Errors
    /// [`StorageError::Missing`] where there is none; when the storage or the sink fails.
    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), StorageError>;

    /// The size of an object in bytes; `None` where there is none.
    ///
    /// # Errors
    /// When the storage fails.
    fn size(&self, name: &str) -> Result<Option<u64>, StorageError>;

    /// Writes an object of `n_bytes`, in place of one that is there. Where `source` fails nothing is written.
    ///
    /// # Errors
    /// When the storage or the source fails.
    fn write(&self, name: &str, source: &mut dyn Read, n_bytes: u64) -> Result<(), StorageError>;

    /// Writes an object where none of its name is: of several writers at the same time one succeeds.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where there is one; when the storage fails.
    fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// The names of the objects below a folder, without the folder's, sorted.
    ///
    /// # Errors
    /// When the storage fails.
    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError>;

    /// Removes an object. That there is none is no error.
    ///
    /// # Errors
    /// When the storage fails.
    fn remove(&self, name: &str) -> Result<(), StorageError>;
}
