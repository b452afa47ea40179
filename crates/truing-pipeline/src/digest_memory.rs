//! The digests of files that were read before: a file whose size, times and inode are those of its last digest is not
//! read again.
//!
//! The first line of the file is `truing-digests 2 CHECK`; CHECK is the digest of what follows. Then comes for each
//! folder a line `BYTES FOLDER` and a block of so many bytes: a line `DIGEST SIZE MODIFIED CHANGED INODE NAME` for each
//! of its files, in the order of their names. A file is looked up in the text as it lies, by bisection; no table of all
//! files is made. A damaged memory is forgotten as a whole: with a wrong digest a stage would run again for nothing, or
//! a damaged result would be taken for a good one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use truing_store::Digest;

const HEADER: &str = "truing-digests 2 ";
/// A file that was changed less than this before it was read is not remembered: a further change within the resolution
/// of the file system's clock would not be seen.
const SETTLED: Duration = Duration::from_secs(2);

/// The metadata by which an unchanged file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    modified_ns: i64,
    /// When content or metadata last changed. No program can set it.
    changed_ns: i64,
    inode: u64,
}

impl Stamp {
    #[cfg(unix)]
    pub(crate) fn of(metadata: &Metadata) -> Self {
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
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Self { size: metadata.len(), modified_ns, changed_ns: modified_ns, inode: 0 }
    }

    /// Whether the last change is long enough ago. The time of modification does not count: programs set it, also to
    /// the future. A clock that was set back makes it wait, which costs time alone.
    pub(crate) fn is_settled(self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(limit) = now.checked_sub(SETTLED) else { return false };
        let limit = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
        self.changed_ns < limit
    }
}

/// Remembered digests by folder and name.
#[derive(Debug, Default)]
pub(crate) struct DigestMemory {
    text: String,
    /// Where the block of a folder is in the text.
    blocks: HashMap<PathBuf, Range<usize>>,
    /// What came since: it counts before the text.
    fresh: HashMap<PathBuf, BTreeMap<String, (Stamp, Digest)>>,
}

impl DigestMemory {
    /// Reads a file that may not exist.
    pub(crate) fn open(path: &Path) -> Self {
        fs::read_to_string(path).ok().and_then(Self::of_text).unwrap_or_default()
    }

    /// `None` where the text is damaged or of another version.
    fn of_text(text: String) -> Option<Self> {
        let (check, body) = text.strip_prefix(HEADER)?.split_once('\n')?;
        if check.parse::<Digest>() != Ok(Digest::of_bytes(body.as_bytes())) {
            return None;
        }
        let (mut blocks, mut at) = (HashMap::new(), text.len() - body.len());
        while at < text.len() {
            let (head, _) = text.get(at..)?.split_once('\n')?;
            let (n_bytes, folder) = head.split_once(' ')?;
            let begin = at + head.len() + 1;
            at = begin.checked_add(n_bytes.parse().ok()?)?;
            text.get(begin..at)?;
            blocks.insert(PathBuf::from(folder), begin..at);
        }
        Some(Self { text, blocks, fresh: HashMap::new() })
    }

    /// Whether there is something that was not read from the file.
    pub(crate) fn has_news(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// What was written is not new any more.
    pub(crate) fn reread(&mut self, text: String) {
        if let Some(read) = Self::of_text(text) {
            *self = read;
        }
    }

    /// The digest of a file, if it is remembered with this stamp.
    pub(crate) fn find(&self, path: &Path, stamp: Stamp) -> Option<Digest> {
        let (folder, name) = (path.parent()?, path.file_name()?);
        self.finder(folder).find(name, stamp)
    }

    /// Looks up files of one folder.
    pub(crate) fn finder(&self, folder: &Path) -> Finder<'_> {
        let block = self.blocks.get(folder).map_or("", |block| &self.text[block.clone()]);
        Finder { fresh: self.fresh.get(folder), block, at: 0 }
    }

    /// Remembers a file. A path that cannot be a line is left out.
    pub(crate) fn insert(&mut self, path: &Path, stamp: Stamp, digest: Digest) {
        let is_line = |text: &&str| !text.contains(['\n', '\r']);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
        let name = name.to_str().filter(is_line);
        if let (Some(_), Some(name)) = (folder.to_str().filter(is_line), name) {
            let files = self.fresh.entry(folder.to_path_buf()).or_default();
            files.insert(name.to_owned(), (stamp, digest));
        }
    }

    /// The file's text with what is new in it.
    pub(crate) fn to_text(&self) -> String {
        let mut folders: Vec<&Path> =
            self.blocks.keys().chain(self.fresh.keys()).map(PathBuf::as_path).collect();
        folders.sort_unstable();
        folders.dedup();
        let mut body = String::with_capacity(self.text.len());
        for folder in folders {
            let block = self.block_of(folder);
            // Written to a text: it cannot fail.
            let _ = write!(body, "{} {}\n{block}", block.len(), folder.display());
        }
        format!("{HEADER}{}\n{body}", Digest::of_bytes(body.as_bytes()))
    }

    fn block_of(&self, folder: &Path) -> String {
        let old = self.blocks.get(folder).map_or("", |block| &self.text[block.clone()]);
        let Some(fresh) = self.fresh.get(folder) else { return old.to_owned() };
        let old = old.lines().filter_map(|line| Some((name_of(line)?, line)));
        let mut lines: BTreeMap<&str, String> = old.map(|(name, line)| (name, line.to_owned())).collect();
        for (name, (stamp, digest)) in fresh {
            let Stamp { size, modified_ns, changed_ns, inode } = stamp;
            lines.insert(name, format!("{digest} {size} {modified_ns} {changed_ns} {inode} {name}"));
        }
        lines.into_values().map(|line| line + "\n").collect()
    }
}

/// Looks up files of one folder, fastest in the order of their names.
#[derive(Debug)]
pub(crate) struct Finder<'a> {
    fresh: Option<&'a BTreeMap<String, (Stamp, Digest)>>,
    block: &'a str,
    /// Where the line of the next file is expected.
    at: usize,
}

impl Finder<'_> {
    /// The digest of a file, if it is remembered with this stamp.
    pub(crate) fn find(&mut self, name: &OsStr, stamp: Stamp) -> Option<Digest> {
        let name = name.to_str()?;
        let (known, digest) = match self.fresh.and_then(|fresh| fresh.get(name)) {
            Some(found) => *found,
            None => read_line(self.line(name)?)?,
        };
        (known == stamp).then_some(digest)
    }

    /// The line of a name in the block.
    fn line(&mut self, name: &str) -> Option<&str> {
        if name_of(line_at(self.block, self.at)) != Some(name) {
            self.at = self.bisect(name);
        }
        let line = line_at(self.block, self.at);
        if name_of(line) != Some(name) {
            return None;
        }
        self.at += line.len() + 1;
        Some(line)
    }

    /// The beginning of the first line whose name does not come before this one.
    fn bisect(&self, name: &str) -> usize {
        let (mut low, mut high) = (0, self.block.len());
        while low < high {
            // A line of the block begins here; one that is not complete ends the search without a find.
            let middle = self.block.as_bytes()[low..low + (high - low) / 2].iter().rposition(|&b| b == b'\n');
            let middle = middle.map_or(low, |before| low + before + 1);
            let line = line_at(self.block, middle);
            match name_of(line) {
                Some(found) if found < name => low = (middle + line.len() + 1).min(high),
                _ => high = middle,
            }
        }
        low
    }
}

/// The line that begins at a byte of a block; empty at its end.
fn line_at(block: &str, at: usize) -> &str {
    let rest = block.get(at..).unwrap_or_default();
    rest.split_once('\n').map_or(rest, |(line, _)| line)
}

fn name_of(line: &str) -> Option<&str> {
    line.splitn(6, ' ').nth(5)
}

fn read_line(line: &str) -> Option<(Stamp, Digest)> {
    let mut fields = line.splitn(6, ' ');
    let digest = fields.next()?.parse().ok()?;
    let stamp = Stamp {
        size: fields.next()?.parse().ok()?,
        modified_ns: fields.next()?.parse().ok()?,
        changed_ns: fields.next()?.parse().ok()?,
        inode: fields.next()?.parse().ok()?,
    };
    Some((stamp, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(size: u64) -> Stamp {
        Stamp { size, modified_ns: -1, changed_ns: 1_700_000_000_000_000_000, inode: 7 }
    }

    fn digest(of: usize) -> Digest {
        Digest::of_bytes(of.to_string().as_bytes())
    }

    fn path(idx: usize) -> PathBuf {
        PathBuf::from(format!("/data of {}/a file {idx}.txt", idx % 3))
    }

    /// A memory of files 0, 2, 4 and so on, as it is read again.
    fn written(n: usize) -> DigestMemory {
        let mut memory = DigestMemory::default();
        (0..n).map(|idx| 2 * idx).for_each(|idx| memory.insert(&path(idx), stamp(idx as u64), digest(idx)));
        DigestMemory::of_text(memory.to_text()).unwrap()
    }

    #[test]
    fn every_file_is_found_in_any_order_and_no_other_one() {
        for n in [0, 1, 2, 3, 7, 100] {
            let memory = written(n);
            assert!(!memory.has_news());
            for idx in (0..2 * n).chain((0..2 * n).rev()) {
                let expected = idx.is_multiple_of(2).then(|| digest(idx));
                assert_eq!(memory.find(&path(idx), stamp(idx as u64)), expected, "{idx} of {n}");
                assert_eq!(memory.find(&path(idx), stamp(9999)), None, "another stamp");
            }
            assert_eq!(memory.find(Path::new("/elsewhere/a file 0.txt"), stamp(0)), None);
        }
        let memory = written(100);
        let mut names: Vec<usize> = (0..200).filter(|idx| idx % 3 == 0).collect();
        names.sort_by_key(|idx| path(*idx));
        let mut finder = memory.finder(Path::new("/data of 0"));
        for idx in names {
            let found = finder.find(path(idx).file_name().unwrap(), stamp(idx as u64));
            assert_eq!(found.is_some(), idx % 2 == 0, "{idx}, in the order of names");
        }
    }

    #[test]
    fn what_is_new_counts_before_what_was_written_and_is_written_with_it() {
        let mut memory = written(10);
        memory.insert(&path(4), stamp(44), digest(44));
        memory.insert(&path(5), stamp(5), digest(5));
        memory.insert(Path::new("/new/b"), stamp(1), digest(1));
        memory.insert(Path::new("/new/two\nlines"), stamp(1), digest(1));
        let text = memory.to_text();
        for memory in [memory, DigestMemory::of_text(text.clone()).unwrap()] {
            assert_eq!(memory.find(&path(4), stamp(4)), None);
            assert_eq!(memory.find(&path(4), stamp(44)), Some(digest(44)));
            assert_eq!(memory.find(&path(5), stamp(5)), Some(digest(5)));
            assert_eq!(memory.find(&path(6), stamp(6)), Some(digest(6)));
            assert_eq!(memory.find(Path::new("/new/b"), stamp(1)), Some(digest(1)));
        }
        assert_eq!(DigestMemory::of_text(text.clone()).unwrap().to_text(), text);
        assert_eq!(text.matches("two").count(), 0);
    }

    #[test]
    fn a_memory_with_any_byte_changed_is_forgotten() {
        let text = written(5).to_text();
        for idx in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[idx] ^= 1;
            assert!(String::from_utf8(bytes).ok().and_then(DigestMemory::of_text).is_none(), "byte {idx}");
        }
        assert!(DigestMemory::of_text(text[..text.len() - 1].to_owned()).is_none());
        assert!(DigestMemory::of_text(String::new()).is_none());
    }

    #[test]
    fn a_time_of_modification_in_the_future_does_not_matter_a_recent_change_does() {
        let at = |nanoseconds: i64| UNIX_EPOCH + Duration::from_nanos(nanoseconds.cast_unsigned());
        let changed_ns = stamp(0).changed_ns;
        let future = Stamp { modified_ns: i64::MAX, ..stamp(0) };
        assert!(future.is_settled(at(changed_ns + 2_000_000_001)));
        assert!(!stamp(0).is_settled(at(changed_ns + 1_000_000_000)));
        assert!(!stamp(0).is_settled(at(changed_ns - 1_000_000_000)), "the clock was set back");
    }
}
