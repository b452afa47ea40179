//! The journal: every acknowledged answer, one JSON object a line, appended and never changed.
//!
//! An answer is acknowledged only after its line is on the disk (fsync). A process that is killed while it writes
//! leaves a last line without its end; that answer was never acknowledged, its browser sends it again, and the line is
//! cut off when the journal is opened. A last line that lacks only its line feed is an answer, and is kept.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use truing_store::{Digest, StoreError, atomic};

use crate::AnnotateError;

/// What a person did with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Answered it.
    Answer,
    /// Left it to others. This is not a tie.
    Skip,
    /// Decided it as an adjudicator.
    Adjudication,
}

/// A line of the journal, as it was acknowledged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name that the browser gave the submission; a replay has the same one.
    pub submission: String,
    /// Who answered.
    pub annotator: String,
    /// The item.
    pub item: String,
    /// Digest of what was shown.
    pub item_digest: Digest,
    /// 1 for the first answer of this person to this item, then 2 and so on. Adjudicators share one count for each
    /// item.
    pub version: u64,
    /// What was done.
    pub kind: EntryKind,
    /// The answers by question, as the widgets store them. Responses are counted from 0 in the order of the row.
    pub answers: BTreeMap<String, Value>,
    /// The order in which the responses were shown.
    pub order: Vec<usize>,
    /// When the item was shown, in milliseconds since 1970 by the browser's clock.
    pub started_ms: u64,
    /// When it was submitted, by the browser's clock.
    pub finished_ms: u64,
    /// When it was stored, in seconds since 1970 by the server's clock.
    pub stored_unix_secs: f64,
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    n_bytes: u64,
    is_broken: bool,
}

/// A journal with what it held.
#[derive(Debug)]
pub struct OpenedJournal {
    /// For further answers.
    pub journal: Journal,
    /// The answers so far.
    pub entries: Vec<Entry>,
    /// Bytes of an unfinished last line that were cut off.
    pub n_cut_bytes: u64,
}

impl Journal {
    /// Opens a journal for writing, or begins one. An unfinished last line is cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a whole line is no entry.
    pub fn open(path: &Path) -> Result<OpenedJournal, AnnotateError> {
        if !path.exists() {
            // Also makes the name durable.
            atomic::write(path, b"")?;
        }
        let Lines { entries, n_whole, n_torn: n_cut_bytes, is_ended } = read_lines(path)?;
        let file = OpenOptions::new().append(true).open(path).map_err(StoreError::io("open", path))?;
        let mut journal = Self { path: path.to_path_buf(), file, n_bytes: n_whole, is_broken: false };
        journal.mend(n_cut_bytes, is_ended).map_err(StoreError::io("write", path))?;
        Ok(OpenedJournal { journal, entries, n_cut_bytes })
    }

    /// Cuts an unfinished line off, and ends one that lacks only its line feed.
    fn mend(&mut self, n_cut_bytes: u64, is_ended: bool) -> std::io::Result<()> {
        if n_cut_bytes > 0 {
            self.file.set_len(self.n_bytes)?;
        }
        if !is_ended {
            self.file.write_all(b"\n")?;
            self.n_bytes += 1;
        }
        if n_cut_bytes > 0 || !is_ended {
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// The entries of a journal that another process may be writing.
    ///
    /// # Errors
    /// When the file cannot be read, or a whole line is no entry.
    pub fn read(path: &Path) -> Result<Vec<Entry>, AnnotateError> {
        Ok(read_lines(path)?.entries)
    }

    /// Appends an entry and waits until it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written: the journal is then as before. After a write that cannot be taken back, or a failed
    /// fsync, nothing more is taken.
    pub fn append(&mut self, entry: &Entry) -> Result<(), AnnotateError> {
        if self.is_broken {
            return Err(AnnotateError::JournalBroken { path: self.path.clone() });
        }
        let json = |source| StoreError::Json { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(entry).map_err(json)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            self.is_broken = self.file.set_len(self.n_bytes).is_err();
            return Err(StoreError::io("write", &self.path)(error).into());
        }
        if let Err(error) = self.file.sync_data() {
            // What a failed fsync has left on the disk is not known.
            self.is_broken = true;
            return Err(StoreError::io("write", &self.path)(error).into());
        }
        self.n_bytes += line.len() as u64;
        Ok(())
    }
}

/// What a journal holds.
#[derive(Default)]
struct Lines {
    entries: Vec<Entry>,
    /// Bytes of the entries.
    n_whole: u64,
    /// Bytes after them, of an unfinished line.
    n_torn: u64,
    /// Whether the last entry has its line feed.
    is_ended: bool,
}

/// Reads a journal line by line. A missing file has none.
fn read_lines(path: &Path) -> Result<Lines, AnnotateError> {
    let mut lines = Lines { is_ended: true, ..Lines::default() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(lines),
        Err(error) => return Err(StoreError::io("read", path)(error).into()),
    };
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).map_err(StoreError::io("read", path))? > 0 {
        let line = bytes.strip_suffix(b"\n");
        match serde_json::from_slice(line.unwrap_or(&bytes)) {
            Ok(entry) => {
                lines.entries.push(entry);
                lines.n_whole += bytes.len() as u64;
                lines.is_ended = line.is_some();
            }
            Err(_) if line.is_none() => lines.n_torn = bytes.len() as u64,
            Err(error) => return Err(damaged(path, lines.entries.len() + 1, &error)),
        }
        bytes.clear();
    }
    Ok(lines)
}

/// The error of a line that is no entry, with the column in that line.
fn damaged(path: &Path, line: usize, error: &serde_json::Error) -> AnnotateError {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let reason = format!(
        "is damaged ({what}, column {}); expected an answer as JSON, as it was acknowledged",
        error.column()
    );
    AnnotateError::BadJournal { path: path.to_path_buf(), line, reason }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn entry(n: u64) -> Entry {
        Entry {
            submission: format!("s{n}"),
            annotator: "ana".into(),
            item: "1".into(),
            item_digest: Digest::of_bytes(b"shown"),
            version: n,
            kind: EntryKind::Answer,
            answers: [("q".to_owned(), json!({"ranks": [1, 2], "note": "线\n"}))].into(),
            order: vec![1, 0],
            started_ms: 1,
            finished_ms: 2,
            stored_unix_secs: 1.5,
        }
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations.jsonl");
        let opened = Journal::open(&path).unwrap();
        assert!(opened.entries.is_empty());
        let mut journal = opened.journal;
        (1..=3).for_each(|n| journal.append(&entry(n)).unwrap());
        assert_eq!(Journal::read(&path).unwrap(), [entry(1), entry(2), entry(3)]);
        drop(journal);
        let mut opened = Journal::open(&path).unwrap();
        assert_eq!((opened.entries.len(), opened.n_cut_bytes), (3, 0));
        opened.journal.append(&entry(4)).unwrap();
        assert_eq!(Journal::read(&path).unwrap().len(), 4);
    }

    /// A process that is killed while it writes the second line has left any number of its bytes.
    #[test]
    fn a_torn_last_line_is_cut_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations.jsonl");
        let line = |n| serde_json::to_string(&entry(n)).unwrap() + "\n";
        let (first, second) = (line(1), line(2));
        for n_left in 0..second.len() - 1 {
            fs::write(&path, format!("{first}{}", String::from_utf8_lossy(&second.as_bytes()[..n_left])))
                .unwrap();
            let n_torn = fs::metadata(&path).unwrap().len() - first.len() as u64;
            assert_eq!(Journal::read(&path).unwrap(), [entry(1)]);
            let mut opened = Journal::open(&path).unwrap();
            assert_eq!((&opened.entries[..], opened.n_cut_bytes), (&[entry(1)][..], n_torn));
            opened.journal.append(&entry(3)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}{}", line(3)));
        }
    }

    #[test]
    fn a_last_line_that_lacks_only_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations.jsonl");
        let line = |n| serde_json::to_string(&entry(n)).unwrap();
        fs::write(&path, format!("{}\n{}", line(1), line(2))).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), [entry(1), entry(2)]);
        let mut opened = Journal::open(&path).unwrap();
        assert_eq!((opened.entries.len(), opened.n_cut_bytes), (2, 0));
        opened.journal.append(&entry(3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n{}\n{}\n", line(1), line(2), line(3)));
    }

    #[test]
    fn a_damaged_line_is_an_error_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("annotations.jsonl");
        let good = serde_json::to_string(&entry(1)).unwrap();
        for damaged in ["{}", "", &good[..good.len() - 1], "\u{0}\u{0}"] {
            let text = format!("{good}\n{damaged}\n{good}\n");
            fs::write(&path, &text).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            assert!(error.contains("annotations.jsonl:2: is damaged"), "{error}");
            assert!(error.contains(", column ") && !error.contains("at line"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing is changed");
        }
    }
}
