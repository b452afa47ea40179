//! Results between the store and the remote.
//!
//! Up: the files as objects, then `results/KEY.json`, which makes them a result. Down: each object into
//! `incoming/KEY/objects/DIGEST` of the store, checked while it is read; once all are there, a folder of links to them,
//! with `done.json`, is renamed to `runs/KEY`. What a fetch that was cut short has is used by the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use truing_store::{Digest, StoreError, atomic};

use super::shared_result::SharedFile;
use super::{Remote, RemoteError, SharedResult, StorageError, is_same};
use crate::digests::files_below;
use crate::store::{DONE, RUN};
use crate::{Digests, Done, Store};

/// What is uploaded beside the folder of the run, where it is there.
const BESIDE: [&str; 3] = ["recipe.toml", "log.txt", "stdout.txt"];
/// What a finished run needs no more: states to continue from.
const CHECKPOINTS: &str = "checkpoints";
/// The lock of a run's folder.
const LOCK: &str = ".lock";
/// How often a result is written that another machine writes and gives up.
const N_ATTEMPTS: usize = 3;

/// How an upload ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Pushed {
    /// The result is in the remote now.
    New {
        /// Bytes of the objects that were not there.
        bytes: u64,
    },
    /// It was there.
    Same {
        /// Bytes of objects of it that were missing.
        bytes: u64,
    },
    /// The remote has another result of this key, which counts.
    Differs(Box<SharedResult>),
}

impl Remote {
    /// Uploads a finished run. Objects that are there are not sent again.
    ///
    /// # Errors
    /// When the storage fails, or a file cannot be read, changes meanwhile or cannot be uploaded.
    pub(crate) fn push(
        &self,
        store: &Store,
        key: Digest,
        done: &Done,
        digests: &Digests,
        now: SystemTime,
    ) -> Result<Pushed, RemoteError> {
        let files = files_of(store, key, done, digests, now)?;
        let earlier = self.look_up(key)?;
        if let Some(earlier) = earlier {
            if !is_same(&earlier.done, done) {
                return Ok(Pushed::Differs(Box::new(earlier)));
            }
            // Objects that were removed because they were damaged.
            let named: BTreeSet<Digest> = earlier.files.iter().map(|file| file.blake3).collect();
            let files = files.into_iter().filter(|file| named.contains(&file.blake3)).collect::<Vec<_>>();
            return Ok(Pushed::Same { bytes: self.push_objects(&store.entry(key), &files)? });
        }
        let (entry, result) = (store.entry(key), SharedResult::new(done.clone(), files));
        if result.fault().is_some() {
            let reason =
                "its files are not those of its outputs: it cannot be uploaded; run `truing pipeline apply`";
            return Err(RemoteError::Unfit { path: store.run_folder(key), reason });
        }
        let bytes = self.push_objects(&entry, &result.files)?;
        let text = serde_json::to_vec_pretty(&result).expect("a result is made of texts and numbers");
        let name = SharedResult::name(key);
        for _ in 0..N_ATTEMPTS {
            match self.storage.write_new(&name, &text) {
                Ok(()) => {
                    // Until now no result named its objects: another machine's `gc` may have removed some.
                    let bytes = bytes + self.push_objects(&entry, &result.files)?;
                    return Ok(Pushed::New { bytes });
                }
                Err(StorageError::Exists) => {}
                Err(source) => return Err(self.failed("write", &name, source)),
            }
            match self.look_up(key)? {
                Some(first) if is_same(&first.done, done) => return Ok(Pushed::Same { bytes }),
                Some(first) => return Ok(Pushed::Differs(Box::new(first))),
                None => {}
            }
        }
        Err(self.failed("write", &name, StorageError::Exists))
    }

    /// Uploads the objects that are not there; returns their bytes.
    fn push_objects(&self, entry: &Path, files: &[SharedFile]) -> Result<u64, RemoteError> {
        let (mut seen, mut bytes) = (BTreeSet::new(), 0);
        for file in files {
            let name = SharedResult::object_name(file.blake3);
            if !seen.insert(file.blake3) {
                continue;
            }
            let found = self.storage.size(&name).map_err(|source| self.failed("look for", &name, source))?;
            if found == Some(file.bytes) {
                continue;
            }
            let path = entry.join(&file.path);
            let source = File::open(&path).map_err(StoreError::io("open", &path))?;
            let mut source = Checked { source, hasher: blake3::Hasher::new(), expected: file.blake3 };
            let written = self.storage.write(&name, &mut source, file.bytes);
            written.map_err(|error| match error {
                StorageError::Local(source) => StoreError::io("read", &path)(source).into(),
                source => self.failed("write", &name, source),
            })?;
            bytes += file.bytes;
        }
        Ok(bytes)
    }

    /// Fetches a result into the store, in place of what is there of its key. The caller has the lock on the key.
    /// `None` when it was stopped.
    ///
    /// # Errors
    /// When the storage fails, an object is damaged twice, or the store cannot be written.
    pub(crate) fn fetch(
        &self,
        store: &Store,
        key: Digest,
        result: &SharedResult,
        stop: &AtomicBool,
    ) -> Result<Option<Done>, RemoteError> {
        let incoming = store.incoming().join(key.to_string());
        let objects = incoming.join("objects");
        fs::create_dir_all(&objects).map_err(StoreError::io("create", &objects))?;
        atomic::remove_leftovers(&objects)?;
        let mut seen = BTreeSet::new();
        for file in result.files.iter().filter(|file| seen.insert(file.blake3)) {
            if !self.fetch_object(&objects, key, file, stop)? {
                return Ok(None);
            }
        }
        let entry = incoming.join("entry");
        if entry.exists() {
            fs::remove_dir_all(&entry).map_err(StoreError::io("remove", &entry))?;
        }
        lay_out(&objects, &entry, result)?;
        atomic::write_json(&entry.join(DONE), &result.done)?;
        let place = store.entry(key);
        if place.exists() {
            store.discard(key)?;
        }
        fs::rename(&entry, &place).map_err(StoreError::io("rename", &entry))?;
        fs::remove_dir_all(&incoming).map_err(StoreError::io("remove", &incoming))?;
        Ok(Some(result.done.clone()))
    }

    /// Fetches an object, once more where its bytes are not those of its name. `false` when it was stopped.
    fn fetch_object(
        &self,
        objects: &Path,
        key: Digest,
        file: &SharedFile,
        stop: &AtomicBool,
    ) -> Result<bool, RemoteError> {
        let (name, path) = (SharedResult::object_name(file.blake3), objects.join(file.blake3.to_string()));
        // An earlier fetch has checked it. Since then a result made of it may have been changed in place.
        if path.exists() {
            if Digest::of_file(&path)? == file.blake3 {
                return Ok(true);
            }
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        let mut found = None;
        for _ in 0..2 {
            let writer = atomic::Writer::new(&path)?;
            let mut sink = Sink { writer, hasher: blake3::Hasher::new(), stop };
            let read = self.storage.read(&name, &mut sink);
            if stop.load(Ordering::SeqCst) {
                return Ok(false);
            }
            match read {
                Ok(()) => {}
                Err(StorageError::Local(source)) => return Err(StoreError::io("write", &path)(source).into()),
                Err(StorageError::Missing) => {
                    return Err(self.damaged(&name, format!("it is missing; {}", advice(key, file))));
                }
                Err(source) => return Err(self.failed("read", &name, source)),
            }
            let digest = Digest::from(&sink.hasher);
            if digest == file.blake3 {
                sink.writer.commit()?;
                return Ok(true);
            }
            found = Some(digest);
        }
        let found = found.map(|found| found.to_string()).unwrap_or_default();
        let advice = advice(key, file);
        Err(self.damaged(&name, format!("read twice, its digest is {found}; remove it, and {advice}")))
    }
}

/// What helps where an object is not there.
fn advice(key: Digest, file: &SharedFile) -> String {
    let (path, result) = (&file.path, SharedResult::name(key));
    format!(
        "run `truing pipeline push` on a machine that has this result (it is `{path}` of it); where none has it, \
         remove `{result}`, and it is made again"
    )
}

/// The files of a run that are uploaded, with their digests.
fn files_of(
    store: &Store,
    key: Digest,
    done: &Done,
    digests: &Digests,
    now: SystemTime,
) -> Result<Vec<SharedFile>, RemoteError> {
    let (entry, run) = (store.entry(key), store.run_folder(key));
    let mut paths = Vec::new();
    files_below(&run, &mut Vec::new(), &mut paths)?;
    let is_output = |below: &Path| done.outputs.values().any(|output| below.starts_with(&output.path));
    paths.retain(|path| {
        let below = path.strip_prefix(&run).unwrap_or(path);
        let is_left_out = below.starts_with(CHECKPOINTS) || below == Path::new(LOCK);
        !is_left_out || is_output(below)
    });
    paths.extend(BESIDE.map(|name| entry.join(name)).into_iter().filter(|path| path.is_file()));
    let mut files = Vec::new();
    for path in paths {
        let unfit = |reason| RemoteError::Unfit { path: path.clone(), reason };
        if !path.is_file() {
            return Err(unfit("a link that leads to no file: it cannot be uploaded"));
        }
        let below = path.strip_prefix(&entry).unwrap_or(&path);
        let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
        let below = parts.map(|parts| parts.join("/")).filter(|below| !below.contains('\\'));
        let below =
            below.ok_or_else(|| unfit("the name is not UTF-8, or has a `\\`: it cannot be uploaded"))?;
        let measured = digests.of_file(&path, now)?;
        let is_executable = is_executable(&path);
        files.push(SharedFile { path: below, blake3: measured.blake3, bytes: measured.bytes, is_executable });
    }
    Ok(files)
}

/// Makes the folder of a result of the objects.
fn lay_out(objects: &Path, entry: &Path, result: &SharedResult) -> Result<(), StoreError> {
    let mut n_uses: BTreeMap<Digest, usize> = BTreeMap::new();
    for file in &result.files {
        let (from, to) = (objects.join(file.blake3.to_string()), entry.join(&file.path));
        let folder = to.parent().unwrap_or(entry);
        fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        let n_before = n_uses.entry(file.blake3).or_default();
        // Two files of a result never share their bytes: a program may write one of them in place.
        if *n_before > 0 || fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).map_err(StoreError::io("write", &to))?;
        }
        *n_before += 1;
        set_executable(&to, file.is_executable)?;
    }
    // An output may be a folder without files.
    for output in result.done.outputs.values() {
        let path = entry.join(RUN).join(&output.path);
        if !path.exists() {
            fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        }
    }
    fs::create_dir_all(entry).map_err(StoreError::io("create", entry))
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o100 != 0)
}

#[cfg(not(unix))]
fn is_executable(_: &Path) -> bool {
    false
}

#[cfg(unix)]
fn set_executable(path: &Path, is_executable: bool) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map_err(StoreError::io("read", path))?.permissions().mode();
    // Whoever may read it may run it. A copy has the mode of the object, which may be a program elsewhere.
    let wanted = if is_executable { mode | ((mode & 0o444) >> 2) } else { mode & !0o111 };
    if wanted == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(wanted)).map_err(StoreError::io("change", path))
}

#[cfg(not(unix))]
fn set_executable(_: &Path, _: bool) -> Result<(), StoreError> {
    Ok(())
}

/// A file that is read once; it fails at its end where its digest is not the expected one.
struct Checked {
    source: File,
    hasher: blake3::Hasher,
    expected: Digest,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.source.read(buffer)?;
        self.hasher.update(&buffer[..n_bytes]);
        if n_bytes == 0 && !buffer.is_empty() && Digest::from(&self.hasher) != self.expected {
            return Err(io::Error::other("it changed while it was uploaded"));
        }
        Ok(n_bytes)
    }
}

/// Takes an object, unless it is stopped.
struct Sink<'a> {
    writer: atomic::Writer,
    hasher: blake3::Hasher,
    stop: &'a AtomicBool,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(io::Error::other("stopped"));
        }
        let n_bytes = self.writer.write(bytes)?;
        self.hasher.update(&bytes[..n_bytes]);
        Ok(n_bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn files_with_the_same_bytes_have_modes_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (objects, entry) = (folder.path().join("objects"), folder.path().join("entry"));
        let blake3 = Digest::of_bytes(b"same");
        fs::create_dir(&objects).unwrap();
        fs::write(objects.join(blake3.to_string()), "same").unwrap();
        let file =
            |path: &str, is_executable| SharedFile { path: path.to_owned(), blake3, bytes: 4, is_executable };
        let files = vec![file("run/a", true), file("run/b", false), file("run/c", true)];
        let done = Done::new(BTreeMap::new(), BTreeMap::new(), 0.0, None);
        lay_out(&objects, &entry, &SharedResult::new(done, files)).unwrap();
        let modes = ["run/a", "run/b", "run/c"].map(|path| is_executable(&entry.join(path)));
        assert_eq!(modes, [true, false, true]);
    }
}
