//! An index of a file of rows (JSON Lines), built once for each content and kept in the store as
//! `lineage/DIGEST.index`. It is a cache: it may be removed at any time.
//!
//! A look-up reads a few pages of it by binary search, and one line of the file itself. All numbers are 64-bit,
//! little-endian. Behind the header (`MAGIC`, the five lengths, and the paths as JSON) there are four arrays:
//!
//! | array | entries | order |
//! |---|---|---|
//! | offsets | where each line begins, and the end of the file | by line |
//! | ids | digest of an `id`, line | by digest |
//! | links | number of a path and a line there, own line | by the first |
//! | kept | lines whose `decision.outcome` is `kept` | by line |

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use truing_store::{Digest, StoreError, atomic};

use super::links::Link;

const MAGIC: &[u8; 8] = b"truingL1";
const BUFFER_BYTES: usize = 1 << 18;
/// Bytes of a number.
const WORD: u64 = 8;
/// Bits of a line's number beside that of its path.
const LINE_BITS: u32 = 44;
/// Bytes of the header before the paths: the magic and five lengths.
const FIXED_BYTES: usize = 48;

/// An index, open beside its file of rows.
#[derive(Debug)]
pub(crate) struct Index {
    rows: File,
    rows_path: PathBuf,
    index: File,
    index_path: PathBuf,
    paths: Vec<String>,
    lengths: Lengths,
    /// Where the arrays begin.
    begin: u64,
}

/// Lengths of the arrays.
#[derive(Debug, Clone, Copy, Default)]
struct Lengths {
    lines: u64,
    ids: u64,
    links: u64,
    kept: u64,
}

impl Lengths {
    /// Bytes of all arrays.
    fn bytes(self) -> u64 {
        WORD * (self.lines + 1 + 2 * self.ids + 2 * self.links + self.kept)
    }
}

impl Index {
    /// Opens the index of a file of rows. One that is missing or damaged is made.
    ///
    /// # Errors
    /// When one of the files cannot be read or written.
    pub(crate) fn open(rows: &Path, index: &Path) -> Result<Self, StoreError> {
        if let Some(opened) = Self::opened(rows, index)? {
            return Ok(opened);
        }
        Parts::read(rows)?.write(index)?;
        let read_back = Self::opened(rows, index)?;
        read_back.ok_or_else(|| {
            let changed = "it does not agree with the rows, which change while they are read";
            StoreError::io("read", index)(io::Error::new(io::ErrorKind::InvalidData, changed))
        })
    }

    fn opened(rows: &Path, index_path: &Path) -> Result<Option<Self>, StoreError> {
        let mut index = match File::open(index_path) {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::io("open", index_path)(source)),
        };
        let bytes = index.metadata().map_err(StoreError::io("read", index_path))?.len();
        let Some((lengths, paths, begin)) = read_header(&mut index, bytes) else { return Ok(None) };
        let file = File::open(rows).map_err(StoreError::io("open", rows))?;
        let n_bytes = file.metadata().map_err(StoreError::io("read", rows))?.len();
        let (rows_path, index_path) = (rows.to_path_buf(), index_path.to_path_buf());
        let opened = Self { rows: file, rows_path, index, index_path, paths, lengths, begin };
        // Lines end where the file does, unless it has changed or the index is damaged.
        let is_whole = opened.word(lengths.lines)? == n_bytes;
        Ok(is_whole.then_some(opened))
    }

    /// Lines of the file, empty ones too.
    pub(crate) fn n_lines(&self) -> u64 {
        self.lengths.lines
    }

    /// The paths that links name.
    pub(crate) fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The row at a line, counted from 1; `None` where there is no object.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn row(&self, line: u64) -> Result<Option<Map<String, Value>>, StoreError> {
        if line == 0 || line > self.lengths.lines {
            return Ok(None);
        }
        let (begin, end) = (self.word(line - 1)?, self.word(line)?);
        if begin > end || end > self.word(self.lengths.lines)? {
            let damaged = "it is damaged: remove it, and it is made again";
            let error = io::Error::new(io::ErrorKind::InvalidData, damaged);
            return Err(StoreError::io("read", &self.index_path)(error));
        }
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap_or(0)];
        let mut rows = &self.rows;
        let read = rows.seek(SeekFrom::Start(begin)).and_then(|_| rows.read_exact(&mut bytes));
        read.map_err(StoreError::io("read", &self.rows_path))?;
        Ok(object(&bytes))
    }

    /// The lines of rows with an id.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn with_id(&self, id: &str) -> Result<Vec<u64>, StoreError> {
        let lines = self.pairs_with(self.lengths.lines + 1, self.lengths.ids, id_key(id))?;
        // Two ids may share a key.
        let mut found = Vec::new();
        for line in lines {
            if self.row(line)?.and_then(|row| id_of(&row)).is_some_and(|own| own == id) {
                found.push(line);
            }
        }
        Ok(found)
    }

    /// The lines with a link to a line of one of the index's paths.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn linked_to(&self, path: usize, line: u64) -> Result<Vec<u64>, StoreError> {
        let Some(key) = link_key(path, line) else { return Ok(Vec::new()) };
        let at = self.lengths.lines + 1 + 2 * self.lengths.ids;
        self.pairs_with(at, self.lengths.links, key)
    }

    /// The line of the `nth` row that a selection kept, counted from 1.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn kept(&self, nth: u64) -> Result<Option<u64>, StoreError> {
        if nth == 0 || nth > self.lengths.kept {
            return Ok(None);
        }
        let at = self.lengths.lines + 1 + 2 * (self.lengths.ids + self.lengths.links);
        self.word(at + nth - 1).map(Some)
    }

    /// The second numbers of the sorted pairs whose first number is `key`. The array begins at word `at`.
    fn pairs_with(&self, at: u64, n_pairs: u64, key: u64) -> Result<Vec<u64>, StoreError> {
        let (mut low, mut high) = (0, n_pairs);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.word(at + 2 * middle)? < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut found = Vec::new();
        while low < n_pairs && self.word(at + 2 * low)? == key {
            found.push(self.word(at + 2 * low + 1)?);
            low += 1;
        }
        Ok(found)
    }

    fn word(&self, place: u64) -> Result<u64, StoreError> {
        let mut bytes = [0; WORD as usize];
        let mut index = &self.index;
        let begin = SeekFrom::Start(self.begin + WORD * place);
        let read = index.seek(begin).and_then(|_| index.read_exact(&mut bytes));
        read.map_err(StoreError::io("read", &self.index_path))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The header of an index; `None` where it is none, or is damaged.
fn read_header(index: &mut File, bytes: u64) -> Option<(Lengths, Vec<String>, u64)> {
    let mut fixed = [0; FIXED_BYTES];
    index.read_exact(&mut fixed).ok()?;
    if !fixed.starts_with(MAGIC) {
        return None;
    }
    let mut words = fixed[MAGIC.len()..].chunks_exact(WORD as usize);
    let mut word = || Some(u64::from_le_bytes(words.next()?.try_into().ok()?));
    let (lines, ids, links, kept, n_path_bytes) = (word()?, word()?, word()?, word()?, word()?);
    let n_rest = bytes.checked_sub(FIXED_BYTES as u64)?;
    if [lines, ids, links, kept, n_path_bytes].iter().any(|length| *length > n_rest) {
        return None;
    }
    let lengths = Lengths { lines, ids, links, kept };
    if lengths.bytes() + n_path_bytes != n_rest {
        return None;
    }
    let mut paths = vec![0; usize::try_from(n_path_bytes).ok()?];
    index.read_exact(&mut paths).ok()?;
    let paths = serde_json::from_slice(&paths).ok()?;
    Some((lengths, paths, FIXED_BYTES as u64 + n_path_bytes))
}

/// What the index of a file holds, in memory.
#[derive(Debug, Default)]
struct Parts {
    offsets: Vec<u64>,
    ids: Vec<(u64, u64)>,
    links: Vec<(u64, u64)>,
    kept: Vec<u64>,
    paths: Vec<String>,
    numbers: HashMap<String, usize>,
}

/// The fields of a row that an index looks at.
#[derive(Deserialize)]
struct Seen {
    id: Option<Value>,
    source: Option<Value>,
    origin: Option<Value>,
    path: Option<Value>,
    line: Option<Value>,
    decision: Option<Value>,
}

impl Parts {
    fn read(rows: &Path) -> Result<Self, StoreError> {
        let file = File::open(rows).map_err(StoreError::io("open", rows))?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let (mut parts, mut line, mut offset) = (Self::default(), Vec::new(), 0);
        loop {
            line.clear();
            let n_bytes = reader.read_until(b'\n', &mut line).map_err(StoreError::io("read", rows))?;
            if n_bytes == 0 {
                break;
            }
            parts.offsets.push(offset);
            parts.add(&line);
            offset += n_bytes as u64;
        }
        parts.offsets.push(offset);
        parts.ids.sort_unstable();
        parts.links.sort_unstable();
        parts.links.dedup();
        Ok(parts)
    }

    /// Adds what is found in the last line. A line without an object has nothing.
    fn add(&mut self, line: &[u8]) {
        let own = self.offsets.len() as u64;
        let Ok(seen) = serde_json::from_slice::<Seen>(without_mark(line)) else { return };
        if let Some(id) = seen.id.as_ref().and_then(id_text) {
            self.ids.push((id_key(&id), own));
        }
        let mut links: Vec<Link> =
            [&seen.source, &seen.origin].into_iter().flatten().filter_map(Link::read).collect();
        links.extend(Link::of(seen.path.as_ref(), seen.line.as_ref()));
        for Link { path, line } in links {
            let n_paths = self.paths.len();
            let number = *self.numbers.entry(path).or_insert_with_key(|path| {
                self.paths.push(path.clone());
                n_paths
            });
            self.links.extend(link_key(number, line).map(|key| (key, own)));
        }
        let outcome = seen.decision.as_ref().and_then(|decision| decision.get("outcome"));
        if outcome.and_then(Value::as_str) == Some("kept") {
            self.kept.push(own);
        }
    }

    fn write(&self, index: &Path) -> Result<(), StoreError> {
        if let Some(folder) = index.parent() {
            fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        }
        let paths = serde_json::to_vec(&self.paths)
            .map_err(|source| StoreError::Json { path: index.to_path_buf(), source })?;
        let mut writer = atomic::Writer::new(index)?;
        let n_lines = self.offsets.len() - 1;
        let lengths = [n_lines, self.ids.len(), self.links.len(), self.kept.len(), paths.len()];
        let mut write = || -> io::Result<()> {
            writer.write_all(MAGIC)?;
            for length in lengths {
                writer.write_all(&(length as u64).to_le_bytes())?;
            }
            writer.write_all(&paths)?;
            let pairs = self.ids.iter().chain(&self.links).flat_map(|&(key, line)| [key, line]);
            for word in self.offsets.iter().copied().chain(pairs).chain(self.kept.iter().copied()) {
                writer.write_all(&word.to_le_bytes())?;
            }
            Ok(())
        };
        write().map_err(StoreError::io("write", index))?;
        writer.commit()
    }
}

/// The object of a line.
pub(crate) fn object(line: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(without_mark(line)).ok()
}

/// A line without the mark that some programs begin a file with.
fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

/// The `id` of a row as a text.
pub(crate) fn id_of(row: &Map<String, Value>) -> Option<String> {
    row.get("id").and_then(id_text)
}

fn id_text(id: &Value) -> Option<String> {
    match id {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn id_key(id: &str) -> u64 {
    let digest = Digest::of_bytes(id.as_bytes());
    u64::from_le_bytes(digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default())
}

/// The number of a path and a line in one; `None` where they are too large.
fn link_key(path: usize, line: u64) -> Option<u64> {
    let path = u64::try_from(path).ok()?;
    let fits = line < 1 << LINE_BITS && path < 1 << (u64::BITS - LINE_BITS);
    fits.then_some((path << LINE_BITS) | line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_line_id_and_link() {
        let folder = tempfile::tempdir().unwrap();
        let (rows, index_path) = (folder.path().join("rows.jsonl"), folder.path().join("lineage/a.index"));
        let lines = [
            "\u{feff}{\"id\": \"b\", \"source\": {\"path\": \"x.jsonl\", \"line\": 7}}",
            "",
            "not a row",
            r#"{"id": 3, "origin": {"source": "x.jsonl", "line": 7}, "decision": {"outcome": "kept"}}"#,
            r#"{"id": "b", "source": "web", "path": "y.jsonl", "line": 1}"#,
        ];
        fs::write(&rows, lines.join("\n")).unwrap();
        for _ in 0..2 {
            let index = Index::open(&rows, &index_path).unwrap();
            assert_eq!(index.n_lines(), 5);
            assert_eq!(index.row(4).unwrap().unwrap()["id"], 3);
            assert_eq!(index.row(1).unwrap().unwrap()["id"], "b", "the mark at the beginning is no text");
            for missing in [0, 2, 3, 6] {
                assert_eq!(index.row(missing).unwrap(), None, "line {missing}");
            }
            assert_eq!(index.with_id("b").unwrap(), [1, 5]);
            assert_eq!((index.with_id("3").unwrap(), index.with_id("c").unwrap()), (vec![4], vec![]));
            assert_eq!(index.paths(), ["x.jsonl", "y.jsonl"]);
            assert_eq!(index.linked_to(0, 7).unwrap(), [1, 4]);
            assert_eq!((index.linked_to(1, 1).unwrap(), index.linked_to(1, 7).unwrap()), (vec![5], vec![]));
            assert_eq!((index.kept(1).unwrap(), index.kept(2).unwrap()), (Some(4), None));
        }
    }

    #[test]
    fn a_damaged_index_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (rows, index_path) = (folder.path().join("rows.jsonl"), folder.path().join("a.index"));
        fs::write(&rows, "{\"id\": \"a\"}\n").unwrap();
        drop(Index::open(&rows, &index_path).unwrap());
        let whole = fs::read(&index_path).unwrap();
        let other = [&b"x"[..], &whole[1..]].concat();
        let cases: [&[u8]; 4] = [&whole[..whole.len() - 1], &whole[..20], b"", &other];
        for damaged in cases {
            fs::write(&index_path, damaged).unwrap();
            assert_eq!(Index::open(&rows, &index_path).unwrap().with_id("a").unwrap(), [1]);
            assert_eq!(fs::read(&index_path).unwrap(), whole);
        }
        // Bytes of the offsets: the end of the file, and then the beginning of the line.
        let offsets = FIXED_BYTES + b"[]".len();
        for (place, is_made_again) in [(offsets + 8, true), (offsets + 7, false)] {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x40;
            fs::write(&index_path, &damaged).unwrap();
            let found = Index::open(&rows, &index_path).unwrap().row(1);
            assert_eq!(found.is_ok(), is_made_again, "byte {place}: {found:?}");
            assert_eq!(fs::read(&index_path).unwrap() == whole, is_made_again);
        }
        // An index of other rows under this name.
        fs::write(&rows, "{\"id\": \"a\"}\n{\"id\": \"b\"}\n").unwrap();
        assert_eq!(Index::open(&rows, &index_path).unwrap().with_id("b").unwrap(), [2]);
    }
}
