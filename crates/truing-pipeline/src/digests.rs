//! Digests of files and folders, with a memory of unchanged files ([`DigestMemory`]).

use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::SystemTime;

use truing_data::data_files;
use truing_model::{EncoderFiles, ModelFiles};
use truing_store::{Digest, StoreError, atomic};

use crate::digest_memory::{DigestMemory, Stamp};
use crate::file_locks::open_lock;

/// Files that a thread looks at together.
const N_IN_BATCH: usize = 1024;
/// Batches that wait for a thread. Each keeps its folder open.
const N_WAITING: usize = 16;
/// More threads than this do not read a folder faster.
const MAX_THREADS: usize = 8;

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
    memory: RwLock<DigestMemory>,
    n_threads: usize,
}

impl Digests {
    /// The memory in a file that may not exist. A damaged one is forgotten: it saves time and nothing else.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self { path: path.to_path_buf(), memory: RwLock::new(DigestMemory::open(path)), n_threads: 1 }
    }

    /// Reads the files of a folder with so many threads, at least one. Digests do not depend on it.
    #[must_use]
    pub fn with_threads(mut self, n_threads: usize) -> Self {
        self.n_threads = n_threads.clamp(1, MAX_THREADS);
        self
    }

    /// Writes the memory where there is something new. Without its folder nothing is written. Where it cannot be
    /// written nothing is lost but time: the files are read again.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn save(&self) -> Result<(), StoreError> {
        let mut memory = self.memory_mut();
        if !memory.has_news() || !self.path.parent().is_some_and(Path::is_dir) {
            return Ok(());
        }
        let text = memory.to_text();
        // What a killed process left is removed while no other one writes.
        let lock = self.path.with_extension("lock");
        let guard = open_lock(&lock)?;
        guard.lock().map_err(StoreError::io("lock", &lock))?;
        atomic::remove_leftovers_of(&self.path)?;
        atomic::write(&self.path, text.as_bytes())?;
        memory.reread(text);
        Ok(())
    }

    fn memory(&self) -> RwLockReadGuard<'_, DigestMemory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, DigestMemory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn of_file(&self, path: &Path, now: SystemTime) -> Result<Measured, StoreError> {
        let before = Stamp::of(&fs::metadata(path).map_err(StoreError::io("read", path))?);
        let known = self.memory().find(path, before);
        if let Some(blake3) = known {
            return Ok(Measured { blake3, bytes: before.size });
        }
        let blake3 = Digest::of_file(path)?;
        let after = Stamp::of(&fs::metadata(path).map_err(StoreError::io("read", path))?);
        if before == after && after.is_settled(now) {
            self.memory_mut().insert(path, after, blake3);
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
        let real = fs::canonicalize(path).map_err(StoreError::io("read", path))?;
        let (sender, receiver) = mpsc::sync_channel::<Batch>(N_WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let work = &|receiver: &Mutex<Receiver<Batch>>| {
            let mut measured = Vec::new();
            loop {
                let received = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(batch) = received else { return measured };
                measured.push((batch.idx, self.of_batch(&batch, now)));
            }
        };
        let (listed, mut measured) = thread::scope(|scope| {
            let spawn = |_| {
                let receiver = Arc::clone(&receiver);
                scope.spawn(move || work(&receiver))
            };
            let threads: Vec<_> = (0..self.n_threads).map(spawn).collect();
            // Then it ends with the threads, and nothing waits for those that have panicked.
            drop(receiver);
            let mut listing = Listing { batches: sender, n_sent: 0, above: vec![real] };
            let listed = listing.folder(path, "");
            // The threads end when there are no more batches.
            drop(listing);
            let ends =
                threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|end| resume_unwind(end)));
            (listed, ends.collect::<Vec<_>>())
        });
        listed?;
        measured.sort_unstable_by_key(|(idx, _)| *idx);
        let mut sum = Sum::default();
        for (_, part) in measured {
            sum.add_part(&part?);
        }
        Ok(sum.measured())
    }

    /// What is added to the digest of a folder for some of its files.
    fn of_batch(&self, batch: &Batch, now: SystemTime) -> Result<Part, StoreError> {
        let stamps: Vec<Option<Stamp>> =
            batch.files.iter().map(|(_, entry)| stamp_of(entry)).collect::<Result<_, _>>()?;
        let known: Vec<Option<Digest>> = {
            let memory = self.memory();
            let mut finder = memory.finder(&batch.folder);
            let files = batch.files.iter().zip(&stamps);
            files.map(|((name, _), stamp)| finder.find(name, (*stamp)?)).collect()
        };
        let mut part = Part::default();
        for (((name, entry), stamp), known) in batch.files.iter().zip(stamps).zip(known) {
            let measured = match (stamp, known) {
                (Some(stamp), Some(blake3)) => Measured { blake3, bytes: stamp.size },
                (Some(_), None) => self.of_file(&entry.path(), now)?,
                (None, _) => self.of_link(&entry.path(), now)?,
            };
            part.add(&format!("{}{}", batch.prefix, name.to_string_lossy()), measured);
        }
        Ok(part)
    }

    fn of_link(&self, path: &Path, now: SystemTime) -> Result<Measured, StoreError> {
        if path.is_file() {
            return self.of_file(path, now);
        }
        let target = fs::read_link(path).map_err(StoreError::io("read", path))?;
        Ok(Measured { blake3: Digest::of_bytes(target.as_os_str().as_encoded_bytes()), bytes: 0 })
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
        let mut part = Part::default();
        for file in files {
            let measured = self.of_file(&file, now)?;
            part.add(&file.file_name().unwrap_or_default().to_string_lossy(), measured);
        }
        let mut sum = Sum::default();
        sum.add_part(&part);
        Ok(sum.measured())
    }
}

/// Some files of a folder in the order of their names, links to nothing among them.
struct Batch {
    /// Its place among all batches of the tree.
    idx: usize,
    folder: PathBuf,
    /// The folder's path in the tree, with a slash at its end.
    prefix: String,
    files: Vec<(OsString, DirEntry)>,
}

/// The walk through a tree, in the order of the paths in it.
struct Listing {
    batches: SyncSender<Batch>,
    n_sent: usize,
    /// The folders that hold the one that is listed, without links in their paths.
    above: Vec<PathBuf>,
}

impl Listing {
    fn folder(&mut self, folder: &Path, prefix: &str) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
            let entry = entry.map_err(StoreError::io("list", folder))?;
            entries.push((entry.file_name(), entry));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut files = Vec::new();
        for (name, entry) in entries {
            let Some(real) = self.real_folder(&entry)? else {
                files.push((name, entry));
                if files.len() == N_IN_BATCH {
                    self.send(folder, prefix, &mut files);
                }
                continue;
            };
            self.send(folder, prefix, &mut files);
            self.above.push(real);
            self.folder(&entry.path(), &format!("{prefix}{}/", name.to_string_lossy()))?;
            self.above.pop();
        }
        self.send(folder, prefix, &mut files);
        Ok(())
    }

    /// Where a folder is without links in its path. `None` for a file, and for a link to nothing or to a folder that
    /// holds it.
    fn real_folder(&self, entry: &DirEntry) -> Result<Option<PathBuf>, StoreError> {
        let kind = entry.file_type().map_err(|source| StoreError::io("read", entry.path())(source))?;
        if kind.is_dir() {
            return Ok(self.above.last().map(|above| above.join(entry.file_name())));
        }
        if !kind.is_symlink() || !entry.path().is_dir() {
            return Ok(None);
        }
        let real = fs::canonicalize(entry.path()).map_err(StoreError::io("read", entry.path()))?;
        Ok((!self.above.contains(&real)).then_some(real))
    }

    fn send(&mut self, folder: &Path, prefix: &str, files: &mut Vec<(OsString, DirEntry)>) {
        if files.is_empty() {
            return;
        }
        let files = std::mem::take(files);
        let batch =
            Batch { idx: self.n_sent, folder: folder.to_path_buf(), prefix: prefix.to_owned(), files };
        self.n_sent += 1;
        // Threads that are gone have panicked, which is passed on where they are joined.
        let _ = self.batches.send(batch);
    }
}

/// The stamp of a file; `None` for a link.
fn stamp_of(entry: &DirEntry) -> Result<Option<Stamp>, StoreError> {
    let failed = |source| StoreError::io("read", entry.path())(source);
    if entry.file_type().map_err(failed)?.is_symlink() {
        return Ok(None);
    }
    Ok(Some(Stamp::of(&entry.metadata().map_err(failed)?)))
}

/// Files as they enter a digest: `DIGEST`, a zero byte, the name, a line feed.
#[derive(Default)]
struct Part {
    text: String,
    bytes: u64,
}

impl Part {
    fn add(&mut self, name: &str, file: Measured) {
        let digest = file.blake3.to_string();
        [digest.as_str(), "\0", name, "\n"].iter().for_each(|piece| self.text.push_str(piece));
        self.bytes += file.bytes;
    }
}

/// One digest of several files with their names.
#[derive(Default)]
pub(crate) struct Sum {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Sum {
    fn add_part(&mut self, part: &Part) {
        self.hasher.update(part.text.as_bytes());
        self.bytes += part.bytes;
    }

    pub(crate) fn add(&mut self, name: &str, file: Measured) {
        let mut part = Part::default();
        part.add(name, file);
        self.add_part(&part);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_file_is_read_again_only_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory) = (folder.path().join("a file.jsonl"), folder.path().join("digests"));
        fs::write(&file, "one").unwrap();
        let later = SystemTime::now() + MINUTE;
        let digests = Digests::open(&memory);
        let one = Measured { blake3: Digest::of_bytes(b"one"), bytes: 3 };
        assert_eq!(digests.of_file(&file, SystemTime::now()).unwrap(), one);
        assert!(!digests.memory().has_news(), "a file that was changed just now is not remembered");
        assert_eq!(digests.of_file(&file, later).unwrap(), one);
        // A memory of a wrong digest shows that the file is not read.
        let stamp = Stamp::of(&fs::metadata(&file).unwrap());
        let other = Digest::of_bytes(b"other");
        digests.memory_mut().insert(&file, stamp, other);
        digests.save().unwrap();
        assert!(!digests.memory().has_news());
        for digests in [digests, Digests::open(&memory)] {
            assert_eq!(digests.of_file(&file, later).unwrap().blake3, other);
        }
        // A damaged one is forgotten.
        let text = fs::read_to_string(&memory).unwrap();
        fs::write(&memory, text.replace("jsonl", "jsonk")).unwrap();
        assert_eq!(Digests::open(&memory).of_file(&file, later).unwrap(), one);
        fs::write(&memory, text).unwrap();
        fs::write(&file, "three").unwrap();
        assert_eq!(Digests::open(&memory).of_file(&file, later).unwrap().blake3, Digest::of_bytes(b"three"));
    }

    /// The digest of a tree as it is defined, from all paths in their order.
    fn defined(tree: &Path) -> Measured {
        fn below(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { below(&path, found) } else { found.push(path) }
            }
        }
        let mut files = Vec::new();
        below(tree, &mut files);
        files.sort();
        let (mut text, mut bytes) = (String::new(), 0);
        for file in files {
            let content = fs::read(&file).unwrap();
            let name = file.strip_prefix(tree).unwrap().display().to_string();
            text.push_str(&format!("{}\0{name}\n", Digest::of_bytes(&content)));
            bytes += content.len() as u64;
        }
        Measured { blake3: Digest::of_bytes(text.as_bytes()), bytes }
    }

    #[test]
    fn many_files_have_the_same_digest_with_any_number_of_threads_read_or_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, memory) = (folder.path().join("tree"), folder.path().join("digests"));
        // A folder between files, beside a file with its name's beginning, and one with two batches.
        for (name, n) in [("m/a", 3), ("m/a.b", 2), ("m", N_IN_BATCH + 5), ("z/deep/deeper", 1), ("", 4)] {
            fs::create_dir_all(tree.join(name)).unwrap();
            (0..n).for_each(|idx| {
                fs::write(tree.join(name).join(format!("f {idx}")), format!("{name} {idx}")).unwrap()
            });
        }
        fs::write(tree.join("m/a-"), "beside").unwrap();
        let later = SystemTime::now() + MINUTE;
        for n_threads in [1, 2, 7] {
            let digests = Digests::open(&memory).with_threads(n_threads);
            let expected = defined(&tree);
            assert_eq!(digests.of_tree(&tree, later).unwrap(), expected, "{n_threads} threads, first");
            digests.save().unwrap();
            assert_eq!(digests.of_tree(&tree, later).unwrap(), expected, "{n_threads} threads, remembered");
            let again = Digests::open(&memory).with_threads(n_threads);
            assert_eq!(again.of_tree(&tree, later).unwrap(), expected, "{n_threads} threads, from the file");
            assert!(!again.memory().has_news(), "nothing is read");
            fs::write(tree.join("m/f 7"), format!("changed for {n_threads} threads")).unwrap();
            fs::write(tree.join(format!("m/new {n_threads}")), "new").unwrap();
        }
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
