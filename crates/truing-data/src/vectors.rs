//! Files of vectors: written row by row as NumPy's `.npy` (version 1.0 of its format) or JSON Lines, and read from a
//! `.npy`.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use truing_store::{Digest, atomic};

use crate::DataError;

/// NumPy aligns the data to this many bytes.
const NPY_ALIGNMENT: usize = 64;

/// A file of vectors that is being written. Dropped before [`VectorWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct VectorWriter {
    path: PathBuf,
    file: atomic::Writer,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Npy,
    JsonLines,
}

#[derive(Serialize)]
struct Line<'a> {
    /// The row's line in the data, counted from 1.
    line: u64,
    vector: &'a [f32],
}

impl VectorWriter {
    /// Begins a file for `n_rows` vectors of `width`; its extension decides the format.
    ///
    /// # Errors
    /// If the extension is neither `.npy` nor `.jsonl`, or the file cannot be created.
    pub fn create(path: &Path, n_rows: usize, width: usize) -> Result<Self, DataError> {
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Kind::Npy,
            Some("jsonl") => Kind::JsonLines,
            _ => {
                return Err(DataError::UnknownVectorFile { path: path.to_path_buf() });
            }
        };
        let file = atomic::Writer::new(path)?;
        let mut writer = Self { path: path.to_path_buf(), file, kind };
        if let Kind::Npy = kind {
            writer.put(&npy_header(n_rows, width))?;
        }
        Ok(writer)
    }

    /// Writes the next vector `[width]`, of the row at `line` of the data (counted from 1).
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write(&mut self, line: u64, vector: &[f32]) -> Result<(), DataError> {
        let bytes = match self.kind {
            Kind::Npy => vector.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Kind::JsonLines => {
                let mut text = serde_json::to_vec(&Line { line, vector })
                    .map_err(|error| DataError::io("write", &self.path)(error.into()))?;
                text.push(b'\n');
                text
            }
        };
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.file.write_all(bytes).map_err(DataError::io("write", &self.path))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish(self) -> Result<(), DataError> {
        Ok(self.file.commit()?)
    }
}

/// Vectors of a computation that may be interrupted: a digest of its inputs, then rows of f32. Rows are appended and
/// synced in parts; a part that a crash left incomplete is never read.
#[derive(Debug)]
pub struct UnfinishedVectors {
    path: PathBuf,
    file: File,
}

impl UnfinishedVectors {
    /// Continues a file of the same digest, or begins a new one. Also returns the values of the rows that it holds
    /// `[n, width]`; `n_together` rows are kept all or not at all.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(
        path: &Path,
        digest: Digest,
        width: usize,
        n_together: usize,
    ) -> Result<(Self, Vec<f32>), DataError> {
        let (read, write) =
            (|source| DataError::io("read", path)(source), |source| DataError::io("write", path)(source));
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(write)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(read)?;
        let rows = bytes.strip_prefix(digest.as_bytes()).unwrap_or_default();
        let n_bytes = rows.len() / (4 * width * n_together) * (4 * width * n_together);
        let values = values_of(&rows[..n_bytes]).collect();
        let length = (digest.as_bytes().len() + n_bytes) as u64;
        if n_bytes == 0 {
            file.set_len(0).and_then(|()| file.rewind()).map_err(write)?;
            file.write_all(digest.as_bytes()).map_err(write)?;
        } else {
            file.set_len(length).and_then(|()| file.seek(SeekFrom::End(0))).map_err(write)?;
        }
        Ok((Self { path: path.to_path_buf(), file }, values))
    }

    /// Appends rows `[n, width]` and syncs them.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn append(&mut self, values: &[f32]) -> Result<(), DataError> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(DataError::io("write", &self.path))
    }

    /// Removes the file: its vectors are complete and saved elsewhere.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<(), DataError> {
        std::fs::remove_file(&self.path).map_err(DataError::io("remove", &self.path))
    }
}

fn values_of(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// Magic, version, length of the description, description padded so that the data is aligned.
fn npy_header(n_rows: usize, width: usize) -> Vec<u8> {
    const BEFORE: usize = 10;
    let mut description =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_rows}, {width}), }}");
    let padded = (BEFORE + description.len() + 1).next_multiple_of(NPY_ALIGNMENT) - BEFORE;
    description.push_str(&" ".repeat(padded - 1 - description.len()));
    description.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((description.len() as u16).to_le_bytes());
    header.extend(description.into_bytes());
    header
}

/// An open `.npy` of f32 `[n_rows, width]`, its header read.
#[derive(Debug)]
pub struct NpyFile {
    path: PathBuf,
    file: BufReader<File>,
    n_rows: usize,
    width: usize,
}

impl NpyFile {
    /// Reads the header.
    ///
    /// # Errors
    /// If the file cannot be read or is not such a `.npy`.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::io("read", path)(source);
        let unusable = |found: &str| DataError::BadNpy { path: path.to_path_buf(), found: found.to_owned() };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut fixed = [0; 8];
        file.read_exact(&mut fixed).map_err(failed)?;
        if !fixed.starts_with(b"\x93NUMPY") {
            return Err(unusable("not a .npy file"));
        }
        // Version 1 has a length of two bytes, later ones of four.
        let mut length = [0; 4];
        let n_length = if fixed[6] == 1 { 2 } else { 4 };
        file.read_exact(&mut length[..n_length]).map_err(failed)?;
        let mut header = Vec::new();
        let n_header = u64::from(u32::from_le_bytes(length));
        file.by_ref().take(n_header).read_to_end(&mut header).map_err(failed)?;
        let header = String::from_utf8_lossy(&header);
        if !header.contains("'<f4'") || !header.contains("'fortran_order': False") {
            return Err(unusable(header.trim()));
        }
        let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
        let sizes: Option<Vec<usize>> = shape
            .map(|(sizes, _)| sizes.split(',').map(|size| size.trim().parse().ok()).collect())
            .unwrap_or(None);
        let Some([n_rows, width]) = sizes.as_deref() else { return Err(unusable(header.trim())) };
        Ok(Self { path: path.to_path_buf(), n_rows: *n_rows, width: *width, file })
    }

    /// All vectors `[n_rows, width]`, and their width.
    ///
    /// # Errors
    /// If the file cannot be read or ends early.
    pub fn read_all(mut self) -> Result<(Vec<f32>, usize), DataError> {
        let failed = |source| DataError::io("read", &self.path)(source);
        let mut values = Vec::with_capacity(self.n_rows.saturating_mul(self.width).min(1 << 28));
        let mut row = vec![0; self.width * 4];
        for _ in 0..self.n_rows {
            self.file.read_exact(&mut row).map_err(failed)?;
            values.extend(values_of(&row));
        }
        Ok((values, self.width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_aligned_and_say_the_shape() {
        for (n_rows, width) in [(0, 1), (2048, 384), (1_000_000_000, 4096)] {
            let header = npy_header(n_rows, width);
            assert_eq!(header.len() % NPY_ALIGNMENT, 0);
            let length = usize::from(u16::from_le_bytes([header[8], header[9]]));
            assert_eq!(length + 10, header.len());
            let text = std::str::from_utf8(&header[10..]).unwrap();
            assert!(text.contains(&format!("'shape': ({n_rows}, {width})")) && text.ends_with('\n'));
        }
    }

    #[test]
    fn an_interrupted_file_continues_after_its_last_whole_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.unfinished");
        let open = |of: &[u8]| UnfinishedVectors::open(&path, Digest::of_bytes(of), 2, 2).unwrap();
        let (mut file, rows) = open(b"these");
        assert!(rows.is_empty());
        file.append(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        file.append(&[5.0, 6.0, 7.0, 8.0]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for n_lost in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..bytes.len() - n_lost]).unwrap();
            let (mut file, rows) = open(b"these");
            let n_kept = [8, 4, 0][n_lost.div_ceil(16).min(2)];
            assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0][..n_kept], "{n_lost} bytes lost");
            file.append(&[9.0; 4]).unwrap();
            assert_eq!(open(b"these").1[n_kept..], [9.0; 4]);
        }
        assert!(open(b"others").1.is_empty());
        let (file, rows) = open(b"these");
        assert!(rows.is_empty(), "those of others took their place");
        file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn rows_are_written_and_nothing_is_left_of_what_is_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let npy = folder.path().join("v.npy");
        let mut writer = VectorWriter::create(&npy, 2, 2).unwrap();
        writer.write(1, &[1.0, 2.0]).unwrap();
        writer.write(2, &[3.0, -0.5]).unwrap();
        assert!(!npy.exists());
        writer.finish().unwrap();
        let bytes = std::fs::read(&npy).unwrap();
        let values: Vec<f32> = values_of(&bytes[bytes.len() - 16..]).collect();
        assert_eq!(values, [1.0, 2.0, 3.0, -0.5]);
        assert_eq!(NpyFile::open(&npy).unwrap().read_all().unwrap(), (values, 2));
        std::fs::write(&npy, &bytes[..bytes.len() - 1]).unwrap();
        assert!(NpyFile::open(&npy).unwrap().read_all().is_err(), "a file that was cut");
        std::fs::write(&npy, b"\x93NUMPY\x01\x00\x02\x00{}").unwrap();
        assert!(NpyFile::open(&npy).is_err());

        let lines = folder.path().join("v.jsonl");
        let mut writer = VectorWriter::create(&lines, 1, 2).unwrap();
        writer.write(7, &[0.25, 1.0]).unwrap();
        writer.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&lines).unwrap(), "{\"line\":7,\"vector\":[0.25,1.0]}\n");
        drop(VectorWriter::create(&folder.path().join("w.npy"), 1, 1).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(VectorWriter::create(&folder.path().join("v.bin"), 1, 1).is_err());
    }
}
