//! One JSON object per line, appended during a run and truncated when it is resumed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{StoreError, atomic};

/// An append-only file of JSON lines, each with a number `step`.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

/// What [`MetricsLog::truncate_after`] kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsCut {
    /// Lines kept.
    pub n_kept: usize,
    /// Lines dropped, a half-written last one included.
    pub n_dropped: usize,
}

#[derive(Deserialize)]
struct Record {
    step: u64,
    #[serde(flatten)]
    values: Map<String, Value>,
}

impl MetricsLog {
    /// Opens the file for appending, or creates it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file =
            OpenOptions::new().create(true).append(true).open(path).map_err(StoreError::io("open", path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends one record, which must serialise to an object with a number `step`, in one write.
    ///
    /// # Errors
    /// When it cannot be serialised or the disk is full.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), StoreError> {
        let mut line = serde_json::to_vec(record)
            .map_err(|source| StoreError::Json { path: self.path.clone(), source })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(StoreError::io("write", &self.path))
    }

    /// Makes all lines durable. Call it before a checkpoint is committed: then a resume finds every line up to
    /// the checkpoint's step.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("write", &self.path))
    }

    /// Drops every line of a later step, and a last line cut off half-way, atomically; then opens the file for
    /// appending. `step` 0 keeps only what was written before the first step. A missing file is an empty one.
    /// Of `step` itself those lines go whose values `is_made_again`, such as an evaluation that is still due.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a line that belongs to the part kept cannot be understood.
    pub fn truncate_after(
        path: &Path,
        step: u64,
        is_made_again: impl Fn(&Map<String, Value>) -> bool,
    ) -> Result<(Self, MetricsCut), StoreError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        let mut kept = Vec::with_capacity(bytes.len());
        let mut cut = MetricsCut { n_kept: 0, n_dropped: 0 };
        let mut unreadable: Option<StoreError> = None;
        for (i, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
            let record = match line.last() {
                Some(b'\n') => serde_json::from_slice::<Record>(line).map_err(|e| e.to_string()),
                _ => Err("the line is cut off".to_owned()),
            };
            match record {
                Ok(record) if record.step < step || record.step == step && !is_made_again(&record.values) => {
                    // Damage behind the checkpoint's step is dropped with it; damage before it is a loss.
                    if let Some(error) = unreadable {
                        return Err(error);
                    }
                    kept.extend_from_slice(line);
                    cut.n_kept += 1;
                }
                Ok(_) => cut.n_dropped += 1,
                Err(reason) => {
                    cut.n_dropped += 1;
                    let reason = format!("{reason}; expected a JSON object with a number `step`");
                    unreadable.get_or_insert(StoreError::BadMetricsLine {
                        path: path.to_path_buf(),
                        line: i as u64 + 1,
                        reason,
                    });
                }
            }
        }
        if cut.n_dropped > 0 {
            atomic::write(path, &kept)?;
        }
        Ok((Self::open(path)?, cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_cut(content: &str, step: u64, kept: &str) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        fs::write(&path, content).unwrap();
        let (mut log, cut) =
            MetricsLog::truncate_after(&path, step, |values| values.contains_key("again")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        assert_eq!(cut.n_kept, kept.lines().count());
        log.append(&json!({"step": step + 1})).unwrap();
        let expected = format!("{kept}{{\"step\":{}}}\n", step + 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn a_resume_finds_neither_gap_nor_repeat() {
        let three = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
        check_cut(three, 2, "{\"step\":1}\n{\"step\":2}\n");
        check_cut(three, 3, three);
        check_cut(three, 0, "");
        check_cut("", 5, "");
    }

    #[test]
    fn what_is_made_again_goes_at_the_last_step_only() {
        let early = "{\"step\":1,\"again\":0}\n{\"step\":2}\n";
        check_cut(&format!("{early}{{\"step\":2,\"again\":0}}\n{{\"step\":3}}\n"), 2, early);
        check_cut("{\"step\":0,\"again\":0}\n", 0, "");
    }

    #[test]
    fn half_written_lines_go() {
        check_cut("{\"step\":1}\n{\"step\":2,\"lo", 2, "{\"step\":1}\n");
        check_cut("{\"step\":1}\n{\"step\":2}", 2, "{\"step\":1}\n");
        check_cut("{\"step\":1}\n\0\0\0\0", 2, "{\"step\":1}\n");
        check_cut("{\"step\":1}\n{\"step\":2}\ngarbage\n{\"step\":4}\n", 2, "{\"step\":1}\n{\"step\":2}\n");
    }

    #[test]
    fn damage_inside_the_kept_part_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let content = "{\"step\":1}\n{\"stop\":2}\n{\"step\":3}\n";
        fs::write(&path, content).unwrap();
        let error = MetricsLog::truncate_after(&path, 3, |_| false).unwrap_err();
        assert!(matches!(error, StoreError::BadMetricsLine { line: 2, .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}
