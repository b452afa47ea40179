//! One file replaced whole: a temporary file beside it, fsync, rename, fsync of the directory. At any moment a
//! reader finds the old bytes or the new ones.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::StoreError;

const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces the content of `path`.
///
/// # Errors
/// When the directory does not exist, cannot be written or is full. The old content stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut writer = Writer::new(path)?;
    writer.write_all(bytes).map_err(StoreError::io("write", path))?;
    writer.commit()
}

/// A file in the making. Dropped before [`Writer::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl Writer {
    /// Opens a temporary file beside `path`.
    ///
    /// # Errors
    /// When `path` names no file or its directory cannot be written.
    pub fn new(path: &Path) -> Result<Self, StoreError> {
        let name = path.file_name().ok_or_else(|| StoreError::InvalidName {
            name: path.display().to_string(),
            reason: "it has no file name",
        })?;
        let prefix = prefix_of(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(TEMPORARY_SUFFIX);
        // A temporary file is private by default; what is renamed into place should be readable as usual.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(parent(path)).map_err(StoreError::io("create", path))?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::with_capacity(1 << 18, file) })
    }

    /// Makes the bytes durable under the final name.
    ///
    /// # Errors
    /// When they cannot be. The old content stays and the temporary file is removed.
    pub fn commit(self) -> Result<(), StoreError> {
        let path = self.path;
        let file = self.file.into_inner().map_err(|e| StoreError::io("write", &path)(e.into_error()))?;
        file.as_file().sync_all().map_err(StoreError::io("write", &path))?;
        file.persist(&path).map_err(|e| StoreError::io("replace", &path)(e.error))?;
        sync_directory(parent(&path))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Removes temporary files that killed writers left in `directory`. Call it only while no other process writes
/// there.
///
/// # Errors
/// When the directory cannot be read or a file not removed.
pub fn remove_leftovers(directory: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(StoreError::io("list", directory))? {
        let path = entry.map_err(StoreError::io("list", directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_leftover(&name) && path.is_file() {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes temporary files that killed writers of one file left beside it. Call it only while no other process writes
/// that file.
///
/// # Errors
/// When the directory cannot be read or a file not removed.
pub fn remove_leftovers_of(path: &Path) -> Result<(), StoreError> {
    let (directory, prefix) = (parent(path), prefix_of(path.file_name().unwrap_or_default()));
    for entry in fs::read_dir(directory).map_err(StoreError::io("list", directory))? {
        let path = entry.map_err(StoreError::io("list", directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&*prefix.to_string_lossy()) && is_leftover(&name) && path.is_file() {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// What the names of the temporary files for a file begin with.
fn prefix_of(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Whether a file's name is that of a temporary file.
pub(crate) fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX)
}

/// Replaces the content of `path` by a value as JSON, indented.
///
/// # Errors
/// As [`write()`], or when the value cannot be written as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|source| StoreError::Json { path: path.to_path_buf(), source })?;
    write(path, &json)
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes renames inside a directory durable. Directories cannot be opened for that on Windows.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        let handle = File::open(directory).map_err(StoreError::io("open", directory))?;
        handle.sync_all().map_err(StoreError::io("sync", directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_whole_and_leaves_nothing_when_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write(&path, b"old").unwrap();
        let mut writer = Writer::new(&path).unwrap();
        writer.write_all(b"half").unwrap();
        writer.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(writer);
        assert_eq!(names(directory.path()), ["a.json"]);
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_value_that_is_no_json_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        write_json(&path, &[1, 2]).unwrap();
        // Keys of JSON are texts.
        let no_json = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = write_json(&path, &no_json).unwrap_err();
        assert!(matches!(error, StoreError::Json { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"[\n  1,\n  2\n]");
        assert_eq!(names(directory.path()), ["a.json"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = write(&directory.path().join("no/such/file"), b"").unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
    }

    #[test]
    fn leftovers_of_killed_writers_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".a.json.x1.tmp", "a.json", "b.tmp", ".hidden"] {
            fs::write(directory.path().join(name), b"").unwrap();
        }
        remove_leftovers(directory.path()).unwrap();
        let mut left = names(directory.path());
        left.sort();
        assert_eq!(left, [".hidden", "a.json", "b.tmp"]);
    }

    #[test]
    fn leftovers_of_one_file_are_removed_and_those_of_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".a.json.x1.tmp", ".a.json.x2.tmp", ".b.json.x1.tmp", ".a.json.old", "a.json"] {
            fs::write(directory.path().join(name), b"").unwrap();
        }
        remove_leftovers_of(&directory.path().join("a.json")).unwrap();
        let mut left = names(directory.path());
        left.sort();
        assert_eq!(left, [".a.json.old", ".b.json.x1.tmp", "a.json"]);
        // What the writer itself leaves when it is killed is among them.
        let writer = Writer::new(&directory.path().join("a.json")).unwrap();
        std::mem::forget(writer);
        assert_eq!(names(directory.path()).len(), 4);
        remove_leftovers_of(&directory.path().join("a.json")).unwrap();
        assert_eq!(names(directory.path()).len(), 3);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_was_written() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (ours, plain) = (directory.path().join("ours"), directory.path().join("plain"));
        write(&ours, b"").unwrap();
        fs::write(&plain, b"").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(ours), mode(plain));
    }
}
