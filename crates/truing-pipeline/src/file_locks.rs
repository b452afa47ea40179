//! Files that processes lock against each other.

use std::fs::{File, OpenOptions};
use std::path::Path;

use truing_store::StoreError;

/// Opens or creates a file that is locked.
pub(crate) fn open_lock(path: &Path) -> Result<File, StoreError> {
    let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    options.map_err(StoreError::io("open", path))
}
