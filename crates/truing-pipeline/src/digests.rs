//! Digests of files and folders, with a memory: a file whose size, times and inode are those of its last digest is not
//! read again. The memory is a file of the store.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use truing_data::data_files;
use truing_model::{EncoderFiles, ModelFiles};
use truing_store::{Digest, StoreError, atomic};

/// A file that was changed less than this before it was read is not remembered: a further change within the resolution
/// of the file system's clock would not be seen.
const SETTLED: Duration = Duration::from_secs(2);

/// The metadata by which an unchanged file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
    inode: u64,
}

/// A digest and the bytes that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) blake3: Digest,
    pub(crate) bytes: u64,
}

/// Digests of files, each read once.
#[derive(Debug)]
pub struct Digests {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    files: HashMap<PathBuf, (Stamp, Digest)>,
    has_changed: bool,
}

impl Digests {
    /// The memory in a file that may not exist. A damaged one is forgotten: it saves time and nothing else.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let files = text.lines().filter_map(read_line).collect();
        Self { path: path.to_path_buf(), known: Mutex::new(Known { files, has_changed: false }) }
    }

    /// Writes the memory where there is something new. Without its folder nothing is written.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn save(&self) -> Result<(), StoreError> {
        let mut known = self.known();
        if !known.has_changed || !self.path.parent().is_some_and(Path::is_dir) {
            return Ok(());
        }
        let mut lines: Vec<String> = known.files.iter().filter_map(line_of).collect();
        lines.sort_unstable();
        lines.push(String::new());
        atomic::write(&self.path, lines.join("\n").as_bytes())?;
        known.has_changed = false;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn of_file(&self, path: &Path, now: SystemTime) -> Result<Measured, StoreError> {
        let before = Stamp::of(&fs::metadata(path).map_err(StoreError::io("read", path))?);
        let known = self.known().files.get(path).copied();
        if let Some((stamp, blake3)) = known
            && stamp == before
        {
            return Ok(Measured { blake3, bytes: before.size });
        }
        let blake3 = Digest::of_file(path)?;
        let after = Stamp::of(&fs::metadata(path).map_err(StoreError::io("read", path))?);
        if before == after && after.is_settled(now) {
            let mut known = self.known();
            known.files.insert(path.to_path_buf(), (after, blake3));
            known.has_changed = true;
        }
        Ok(Measured { blake3, bytes: after.size })
    }

    /// The digest of a file, or of all files below a folder with their paths in it. A link to nothing, or to a folder
    /// that holds it, counts by where it leads.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn of_tree(&self, path: &Path, now: SystemTime) -> Result<Measured, StoreError> {
        if !path.is_dir() {
            return self.of_file(path, now);
        }
        let mut files = Vec::new();
        files_below(path, &mut Vec::new(), &mut files)?;
        files.sort();
        let mut sum = Sum::default();
        for file in files {
            let measured = match fs::read_link(&file) {
                Ok(target) if !file.is_file() => {
                    Measured { blake3: Digest::of_bytes(target.as_os_str().as_encoded_bytes()), bytes: 0 }
                }
                _ => self.of_file(&file, now)?,
            };
            sum.add(&file.strip_prefix(path).unwrap_or(&file).to_string_lossy(), measured);
        }
        Ok(sum.measured())
    }

    /// The digest of what is read at a path. Of a model the files that decide what it computes, of a folder of data its
    /// data files, of other folders all files; where `is_whole`, all files of any folder.
    ///
    /// # Errors
    /// When there is nothing, or a file cannot be read.
    pub(crate) fn of_input(
        &self,
        path: &Path,
        is_whole: bool,
        now: SystemTime,
    ) -> Result<Measured, StoreError> {
        if is_whole || !path.is_dir() {
            return self.of_tree(path, now);
        }
        let Some(files) = deciding_files(path) else { return self.of_tree(path, now) };
        let mut sum = Sum::default();
        for file in files {
            let measured = self.of_file(&file, now)?;
            sum.add(&file.file_name().unwrap_or_default().to_string_lossy(), measured);
        }
        Ok(sum.measured())
    }
}

/// One digest of several files with their names.
#[derive(Default)]
pub(crate) struct Sum {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, name: &str, file: Measured) {
        self.hasher.update(format!("{}\0{name}\n", file.blake3).as_bytes());
        self.bytes += file.bytes;
    }

    pub(crate) fn measured(&self) -> Measured {
        Measured { blake3: Digest::from(&self.hasher), bytes: self.bytes }
    }
}

/// The files of a folder that a stage would read; `None` where they are not known.
fn deciding_files(folder: &Path) -> Option<Vec<PathBuf>> {
    if EncoderFiles::is_encoder(folder) {
        return EncoderFiles::open(folder).ok().map(|model| model.deciding_files());
    }
    if ["config.json", "adapter_config.json"].iter().any(|name| folder.join(name).is_file()) {
        return ModelFiles::open(folder).ok().map(|model| model.deciding_files());
    }
    data_files(folder).ok()
}

/// Adds the files below a folder, and links that lead to no file. `above` are the folders that hold this one, without
/// links in their paths.
pub(crate) fn files_below(
    folder: &Path,
    above: &mut Vec<PathBuf>,
    found: &mut Vec<PathBuf>,
) -> Result<(), StoreError> {
    let real = fs::canonicalize(folder).map_err(StoreError::io("read", folder))?;
    if above.contains(&real) {
        found.push(folder.to_path_buf());
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        if path.is_dir() {
            files_below(&path, above, found)?;
        } else {
            found.push(path);
        }
    }
    above.pop();
    Ok(())
}

impl Stamp {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let nanoseconds = |seconds: i64, part: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(part);
        Self {
            size: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Self { size: metadata.len(), modified_ns, changed_ns: modified_ns, inode: 0 }
    }

    /// Whether the last change is long enough ago. A clock that was set back makes it wait, which costs time alone.
    fn is_settled(self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(limit) = now.checked_sub(SETTLED) else { return false };
        let limit = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
        self.modified_ns.max(self.changed_ns) < limit
    }
}

/// `DIGEST SIZE MODIFIED CHANGED INODE PATH`. Paths that cannot be a line are left out.
fn line_of((path, (stamp, digest)): (&PathBuf, &(Stamp, Digest))) -> Option<String> {
    let path = path.to_str().filter(|path| !path.contains(['\n', '\r']))?;
    let Stamp { size, modified_ns, changed_ns, inode } = stamp;
    Some(format!("{digest} {size} {modified_ns} {changed_ns} {inode} {path}"))
}

fn read_line(line: &str) -> Option<(PathBuf, (Stamp, Digest))> {
    let mut fields = line.splitn(6, ' ');
    let digest = fields.next()?.parse().ok()?;
    let stamp = Stamp {
        size: fields.next()?.parse().ok()?,
        modified_ns: fields.next()?.parse().ok()?,
        changed_ns: fields.next()?.parse().ok()?,
        inode: fields.next()?.parse().ok()?,
    };
    Some((fields.next()?.into(), (stamp, digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_only_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory) = (folder.path().join("a file.jsonl"), folder.path().join("digests"));
        fs::write(&file, "one").unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        let digests = Digests::open(&memory);
        let one = Measured { blake3: Digest::of_bytes(b"one"), bytes: 3 };
        assert_eq!(digests.of_file(&file, SystemTime::now()).unwrap(), one);
        assert!(digests.known().files.is_empty(), "a file that was changed just now is not remembered");
        assert_eq!(digests.of_file(&file, later).unwrap(), one);
        digests.save().unwrap();
        // A memory of a wrong digest shows that the file is not read.
        let text = fs::read_to_string(&memory).unwrap();
        let other = Digest::of_bytes(b"other");
        fs::write(&memory, format!("damaged\n{}", text.replace(&one.blake3.to_string(), &other.to_string())))
            .unwrap();
        let digests = Digests::open(&memory);
        assert_eq!(digests.of_file(&file, later).unwrap().blake3, other);
        fs::write(&file, "three").unwrap();
        assert_eq!(digests.of_file(&file, later).unwrap().blake3, Digest::of_bytes(b"three"));
    }

    #[test]
    fn a_folder_s_digest_holds_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::open(&folder.path().join("digests"));
        let tree = folder.path().join("tree");
        let measure = || digests.of_tree(&tree, SystemTime::now()).unwrap();
        fs::create_dir_all(tree.join("deep")).unwrap();
        fs::write(tree.join("deep/a"), "1").unwrap();
        fs::write(tree.join("b"), "23").unwrap();
        let first = measure();
        assert_eq!(first.bytes, 3);
        fs::rename(tree.join("b"), tree.join("c")).unwrap();
        assert_ne!(measure(), first, "a name");
        fs::rename(tree.join("c"), tree.join("b")).unwrap();
        assert_eq!(measure(), first);
        fs::write(tree.join("deep/a"), "2").unwrap();
        assert_ne!(measure(), first, "a content");
    }

    #[test]
    #[cfg(unix)]
    fn links_to_nothing_and_in_circles_are_measured() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::open(&folder.path().join("digests"));
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("deep")).unwrap();
        fs::write(tree.join("deep/a"), "1").unwrap();
        let measure = || digests.of_tree(&tree, SystemTime::now()).unwrap();
        let plain = measure();
        symlink("..", tree.join("deep/up")).unwrap();
        symlink("nowhere", tree.join("lost")).unwrap();
        let linked = measure();
        assert_eq!(linked.bytes, 1, "what a circle leads to counts once");
        assert_ne!(linked, plain);
        fs::remove_file(tree.join("lost")).unwrap();
        symlink("elsewhere", tree.join("lost")).unwrap();
        assert_ne!(measure(), linked, "where a link leads");
    }

    #[test]
    fn a_folder_of_data_counts_by_its_data_and_as_a_whole_by_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::open(&folder.path().join("digests"));
        let read = folder.path().join("read");
        fs::create_dir(&read).unwrap();
        fs::write(read.join("rules.jsonl"), "{}").unwrap();
        fs::write(read.join("convert.py"), "1").unwrap();
        let measure = |is_whole| digests.of_input(&read, is_whole, SystemTime::now()).unwrap().blake3;
        let (data, whole) = (measure(false), measure(true));
        fs::write(read.join("convert.py"), "2").unwrap();
        assert_eq!(measure(false), data);
        assert_ne!(measure(true), whole);
    }
}
