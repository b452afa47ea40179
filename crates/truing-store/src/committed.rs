//! Several files saved as one: a directory that is either complete or not there.
//!
//! Files are written into `name.partial`. Committing syncs and digests each, writes `manifest.json` last, and
//! renames the directory to `name`. Its readers check every size and digest, so a directory is believed whole or
//! not at all. Names on disk: `name` is complete; `name.partial` is being written; `name.replaced` is the former
//! `name` while it is exchanged; `name.deleted` is being removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{parent, sync_directory};
use crate::{Digest, StoreError, atomic};

const MANIFEST: &str = "manifest.json";
const FORMAT_VERSION: u32 = 1;
const PARTIAL: &str = ".partial";
const REPLACED: &str = ".replaced";
const DELETED: &str = ".deleted";

/// One file of a committed directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Path inside the directory, with `/` between parts.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub blake3: Digest,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format_version: u32,
    files: Vec<ManifestFile>,
}

/// A directory in the making. Dropped before [`StagedDirectory::commit`], it leaves nothing.
#[derive(Debug)]
pub struct StagedDirectory {
    target: PathBuf,
    partial: PathBuf,
    /// Files written through [`StagedDirectory::file`]; `None` until they are finished.
    digests: BTreeMap<String, Option<(u64, Digest)>>,
    is_committed: bool,
}

/// One file of a [`StagedDirectory`], digested while it is written.
#[derive(Debug)]
pub struct StagedFile<'a> {
    staged: &'a mut StagedDirectory,
    name: String,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    size: u64,
}

/// A complete directory whose files were all verified when it was opened.
#[derive(Debug, Clone)]
pub struct CommittedDirectory {
    path: PathBuf,
    files: Vec<ManifestFile>,
}

/// A directory that must not be used.
#[derive(Debug)]
pub struct DamagedDirectory {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub reason: StoreError,
}

/// What [`latest_valid`] found.
#[derive(Debug, Default)]
pub struct LatestValid {
    /// The newest directory that verifies, with its number.
    pub found: Option<(u64, CommittedDirectory)>,
    /// Newer ones that do not, newest first.
    pub damaged: Vec<DamagedDirectory>,
}

impl StagedDirectory {
    /// Begins `target`. What an earlier, killed attempt left of it is removed; a complete `target` stays until
    /// this one is committed and is replaced then.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn begin(target: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(parent(target)).map_err(StoreError::io("create", parent(target)))?;
        restore_replaced(target)?;
        let partial = with_suffix(target, PARTIAL)?;
        for leftover in [partial.clone(), with_suffix(target, DELETED)?] {
            remove_tree(&leftover)?;
        }
        fs::create_dir(&partial).map_err(StoreError::io("create", &partial))?;
        Ok(Self { target: target.to_path_buf(), partial, digests: BTreeMap::new(), is_committed: false })
    }

    /// Where to write. Files written here by other means are digested at the commit.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Opens a file for writing; `name` may hold `/`.
    ///
    /// # Errors
    /// When the name leaves the directory or the file cannot be created.
    pub fn file(&mut self, name: &str) -> Result<StagedFile<'_>, StoreError> {
        let path = self.partial.join(checked_name(name)?);
        fs::create_dir_all(parent(&path)).map_err(StoreError::io("create", parent(&path)))?;
        let file = File::create(&path).map_err(StoreError::io("create", &path))?;
        self.digests.insert(name.to_owned(), None);
        Ok(StagedFile {
            staged: self,
            name: name.to_owned(),
            file: BufWriter::with_capacity(1 << 18, file),
            hasher: blake3::Hasher::new(),
            size: 0,
        })
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// As [`StagedDirectory::file`], or when the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.partial.join(name);
        let mut file = self.file(name)?;
        file.write_all(bytes).map_err(StoreError::io("write", &path))?;
        file.finish()
    }

    /// Makes the directory durable under its final name.
    ///
    /// # Errors
    /// When it cannot be. A former directory of that name stays and the partial one is removed.
    pub fn commit(mut self) -> Result<CommittedDirectory, StoreError> {
        let mut names = Vec::new();
        let mut directories = vec![self.partial.clone()];
        list_files(&self.partial, "", &mut names, &mut directories)?;
        names.sort();
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let path = self.partial.join(&name);
            let (size, blake3) = match self.digests.get(&name) {
                Some(Some(known)) => *known,
                Some(None) => {
                    return Err(StoreError::InvalidName { name, reason: "its writing was never finished" });
                }
                None => {
                    sync_file(&path)?;
                    (file_size(&path)?, Digest::of_file(&path)?)
                }
            };
            files.push(ManifestFile { name, size, blake3 });
        }
        let path = self.partial.join(MANIFEST);
        let manifest = Manifest { format_version: FORMAT_VERSION, files };
        let json = serde_json::to_vec_pretty(&manifest)
            .map_err(|source| StoreError::Json { path: path.clone(), source })?;
        atomic::write(&path, &json)?;
        for directory in directories.iter().rev() {
            sync_directory(directory)?;
        }
        self.move_into_place()?;
        Ok(CommittedDirectory { path: self.target.clone(), files: manifest.files })
    }

    /// A directory cannot be renamed over a full one, so a former target steps aside first. A crash in between
    /// is undone by [`restore_replaced`].
    fn move_into_place(&mut self) -> Result<(), StoreError> {
        let replaced = with_suffix(&self.target, REPLACED)?;
        let has_former = self.target.exists();
        if has_former {
            fs::rename(&self.target, &replaced).map_err(StoreError::io("replace", &self.target))?;
        }
        if let Err(source) = fs::rename(&self.partial, &self.target) {
            restore_replaced(&self.target)?;
            return Err(StoreError::io("create", &self.target)(source));
        }
        self.is_committed = true;
        sync_directory(parent(&self.target))?;
        if has_former { remove_tree(&replaced) } else { Ok(()) }
    }
}

impl Drop for StagedDirectory {
    fn drop(&mut self) {
        if !self.is_committed {
            // What cannot be removed now is removed by the next attempt.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

impl StagedFile<'_> {
    /// Makes the file durable and notes its digest.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn finish(self) -> Result<(), StoreError> {
        let path = self.staged.partial.join(&self.name);
        let file = self.file.into_inner().map_err(|e| StoreError::io("write", &path)(e.into_error()))?;
        file.sync_all().map_err(StoreError::io("write", &path))?;
        self.staged.digests.insert(self.name, Some((self.size, Digest::from(&self.hasher))));
        Ok(())
    }
}

impl Write for StagedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n_written]);
        self.size += n_written as u64;
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl CommittedDirectory {
    /// Opens a directory and checks the size and digest of every file that its manifest names.
    ///
    /// # Errors
    /// The first difference found; see [`StoreError`].
    pub fn open_verified(path: &Path) -> Result<Self, StoreError> {
        restore_replaced(path)?;
        let manifest_path = path.join(MANIFEST);
        let json = match fs::read(&manifest_path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_dir() => {
                return Err(StoreError::MissingManifest { path: path.to_path_buf() });
            }
            Err(e) => return Err(StoreError::io("read", &manifest_path)(e)),
        };
        let manifest: Manifest = serde_json::from_slice(&json)
            .map_err(|e| StoreError::BadManifest { path: manifest_path.clone(), reason: e.to_string() })?;
        if manifest.format_version != FORMAT_VERSION {
            return Err(StoreError::UnknownFormatVersion {
                path: manifest_path,
                found: manifest.format_version,
                supported: FORMAT_VERSION,
            });
        }
        for file in &manifest.files {
            let name = checked_name(&file.name).map_err(|e| StoreError::BadManifest {
                path: manifest_path.clone(),
                reason: e.to_string(),
            })?;
            verify(&path.join(name), file)?;
        }
        Ok(Self { path: path.to_path_buf(), files: manifest.files })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files, in name order.
    #[must_use]
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }
}

fn verify(path: &Path, expected: &ManifestFile) -> Result<(), StoreError> {
    if !path.is_file() {
        return Err(StoreError::MissingFile { path: path.to_path_buf() });
    }
    let found = file_size(path)?;
    if found != expected.size {
        return Err(StoreError::SizeMismatch { path: path.to_path_buf(), expected: expected.size, found });
    }
    let found = Digest::of_file(path)?;
    if found != expected.blake3 {
        let path = path.to_path_buf();
        return Err(StoreError::DigestMismatch { path, expected: expected.blake3, found });
    }
    Ok(())
}

/// The directories `<parent>/<prefix><number>`, lowest number first. Partial ones are not among them.
///
/// # Errors
/// When `parent` cannot be listed; a missing one holds nothing.
pub fn numbered(parent: &Path, prefix: &str) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("list", parent)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(StoreError::io("list", parent))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The exchange of two directories may have been cut off: the former one still counts.
        let name = name.strip_suffix(REPLACED).unwrap_or(&name);
        let digits = name.strip_prefix(prefix).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(number) = digits.and_then(|d| d.parse().ok()) {
            found.push((number, parent.join(name)));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Finds the newest directory `<parent>/<prefix><number>` that verifies. Newer ones that do not are returned with
/// their reasons and left where they are.
///
/// # Errors
/// When `parent` cannot be listed; a missing one holds nothing.
pub fn latest_valid(parent: &Path, prefix: &str) -> Result<LatestValid, StoreError> {
    let mut latest = LatestValid::default();
    for (number, path) in numbered(parent, prefix)?.into_iter().rev() {
        match CommittedDirectory::open_verified(&path) {
            Ok(directory) => {
                latest.found = Some((number, directory));
                break;
            }
            Err(reason) => latest.damaged.push(DamagedDirectory { path, reason }),
        }
    }
    Ok(latest)
}

/// Removes all but the `keep_last` highest numbers of `<parent>/<prefix><number>` and the `pinned` ones, and what
/// killed attempts left. Returns what was removed.
///
/// # Errors
/// When a directory cannot be listed or removed.
pub fn prune(
    parent: &Path,
    prefix: &str,
    keep_last: usize,
    pinned: &[u64],
) -> Result<Vec<PathBuf>, StoreError> {
    let all = numbered(parent, prefix)?;
    let n_old = all.len().saturating_sub(keep_last);
    let mut removed = Vec::new();
    for (number, path) in all.into_iter().take(n_old) {
        if pinned.contains(&number) {
            continue;
        }
        restore_replaced(&path)?;
        let deleted = with_suffix(&path, DELETED)?;
        remove_tree(&deleted)?;
        // Renamed first, so that one cut off half-way is not taken for a damaged directory.
        fs::rename(&path, &deleted).map_err(StoreError::io("remove", &path))?;
        remove_tree(&deleted)?;
        removed.push(path);
    }
    remove_leftovers(parent, prefix)?;
    Ok(removed)
}

fn remove_leftovers(parent: &Path, prefix: &str) -> Result<(), StoreError> {
    if !parent.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(parent).map_err(StoreError::io("list", parent))? {
        let path = entry.map_err(StoreError::io("list", parent))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(prefix) && (name.ends_with(DELETED) || name.ends_with(PARTIAL)) {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

/// Brings a former directory back when the exchange with a new one was cut off, or removes it when it was not.
fn restore_replaced(target: &Path) -> Result<(), StoreError> {
    let replaced = with_suffix(target, REPLACED)?;
    if !replaced.exists() {
        return Ok(());
    }
    if target.exists() {
        return remove_tree(&replaced);
    }
    fs::rename(&replaced, target).map_err(StoreError::io("restore", target))
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn with_suffix(target: &Path, suffix: &str) -> Result<PathBuf, StoreError> {
    let name = target.file_name().ok_or_else(|| StoreError::InvalidName {
        name: target.display().to_string(),
        reason: "it has no file name",
    })?;
    let mut name = name.to_os_string();
    name.push(suffix);
    Ok(target.with_file_name(name))
}

/// Accepts relative names that stay inside and are not the manifest's.
fn checked_name(name: &str) -> Result<&Path, StoreError> {
    let refuse = |reason| Err(StoreError::InvalidName { name: name.to_owned(), reason });
    if name == MANIFEST {
        return refuse("the manifest is written by the commit");
    }
    let is_plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    if name.split('/').all(is_plain) { Ok(Path::new(name)) } else { refuse("it leaves the directory") }
}

fn list_files(
    directory: &Path,
    prefix: &str,
    names: &mut Vec<String>,
    directories: &mut Vec<PathBuf>,
) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(StoreError::io("list", directory))? {
        let path = entry.map_err(StoreError::io("list", directory))?.path();
        let part = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| StoreError::InvalidName {
            name: path.display().to_string(),
            reason: "it is not UTF-8",
        })?;
        let name = format!("{prefix}{part}");
        if path.is_dir() {
            directories.push(path.clone());
            list_files(&path, &format!("{name}/"), names, directories)?;
        } else {
            checked_name(&name)?;
            names.push(name);
        }
    }
    Ok(())
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    file.sync_all().map_err(StoreError::io("write", path))
}

fn file_size(path: &Path) -> Result<u64, StoreError> {
    Ok(fs::metadata(path).map_err(StoreError::io("read", path))?.len())
}

#[cfg(test)]
mod tests;
