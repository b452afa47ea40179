//! Scalars as TensorBoard reads them: an event file, appended during a run and truncated when it is resumed.
//!
//! A file is a row of TFRecords (TensorFlow, `lib/io/record_writer.h`): length as little-endian u64, masked
//! CRC-32C of those eight bytes, payload, masked CRC-32C of the payload. A payload is one `Event`
//! (`core/util/event.proto`), of which four fields are used and written by hand:
//!
//! ```text
//! Event   { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//! Summary { repeated Value value = 1; }
//! Value   { string tag = 1; float simple_value = 2; }
//! ```
//!
//! TensorBoard keeps the last value of a step it sees twice, but draws the line back and forth; so a resume
//! rewrites the file up to the checkpoint's step instead of appending to what a killed run left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use truing_store::atomic;

use crate::ReportError;

/// The one file of a run, below the run directory's `events/`. TensorBoard looks for `tfevents` in the name.
pub const EVENT_FILE_NAME: &str = "events.out.tfevents.0.truing";

/// Bytes around a payload: length, its checksum, and the payload's checksum.
const HEADER_BYTES: usize = 12;
const FOOTER_BYTES: usize = 4;

/// An event file open for appending.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a new file in `folder`, replacing one that is there. `wall_time` is in seconds since 1970.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(folder: &Path, wall_time: f64) -> Result<Self, ReportError> {
        fs::create_dir_all(folder).map_err(ReportError::io("create", folder))?;
        let path = folder.join(EVENT_FILE_NAME);
        atomic::write(&path, &record(&version_event(wall_time)))?;
        Self::open(path)
    }

    /// Goes on with the file in `folder`: drops every event after `last_step`, those of `last_step` itself that
    /// hold `tag_made_again`, and a record cut off half-way; or starts a new file where there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn resume(
        folder: &Path,
        last_step: u64,
        tag_made_again: Option<&str>,
        wall_time: f64,
    ) -> Result<Self, ReportError> {
        let path = folder.join(EVENT_FILE_NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::create(folder, wall_time),
            Err(error) => return Err(ReportError::io("read", &path)(error)),
        };
        let mut kept = Vec::with_capacity(bytes.len());
        for (whole, payload) in records(&bytes) {
            let step = step_of(payload);
            let is_made_again =
                step == last_step && tag_made_again.is_some_and(|tag| holds_tag(payload, tag));
            if step <= last_step && !is_made_again {
                kept.extend_from_slice(whole);
            }
        }
        if kept.is_empty() {
            return Self::create(folder, wall_time);
        }
        if kept.len() < bytes.len() {
            atomic::write(&path, &kept)?;
        }
        Self::open(path)
    }

    /// Appends one event in one write. Values that are not finite are written as they are; TensorBoard marks
    /// them with a triangle.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn append<'a>(
        &mut self,
        wall_time: f64,
        step: u64,
        scalars: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), ReportError> {
        let event = scalar_event(wall_time, step, scalars);
        self.file.write_all(&record(&event)).map_err(ReportError::io("write", &self.path))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(path: PathBuf) -> Result<Self, ReportError> {
        let file = OpenOptions::new().append(true).open(&path).map_err(ReportError::io("open", &path))?;
        Ok(Self { path, file })
    }
}

/// TRL's tag for a metric: `eval_loss` is `eval/loss`, a name with a slash stays, all others are `train/…`
/// (transformers, `rewrite_logs` of its TensorBoard callback).
#[must_use]
pub fn tag(metric: &str) -> String {
    match metric.strip_prefix("eval_").or_else(|| metric.strip_prefix("eval/")) {
        Some(rest) => format!("eval/{rest}"),
        None if metric.starts_with("train/") => metric.to_owned(),
        None => format!("train/{metric}"),
    }
}

/// The first event of a file.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_fixed64(&mut event, 1, wall_time.to_bits());
    put_bytes(&mut event, 3, b"brain.Event:2");
    event
}

fn scalar_event<'a>(wall_time: f64, step: u64, scalars: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, tag.as_bytes());
        put_fixed32(&mut entry, 2, (value as f32).to_bits());
        put_bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    put_fixed64(&mut event, 1, wall_time.to_bits());
    put_key(&mut event, 2, WireType::Varint);
    put_varint(&mut event, step);
    put_bytes(&mut event, 5, &summary);
    event
}

/// Protocol buffers' wire types, as far as they occur here.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(out: &mut Vec<u8>, field: u64, wire_type: WireType) {
    put_varint(out, field << 3 | wire_type as u64);
}

fn put_fixed64(out: &mut Vec<u8>, field: u64, bits: u64) {
    put_key(out, field, WireType::Fixed64);
    out.extend_from_slice(&bits.to_le_bytes());
}

fn put_fixed32(out: &mut Vec<u8>, field: u64, bits: u32) {
    put_key(out, field, WireType::Fixed32);
    out.extend_from_slice(&bits.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, WireType::Bytes);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// An event's step; 0 where the field is absent, as protocol buffers define it.
fn step_of(mut event: &[u8]) -> u64 {
    while let Some(key) = take_varint(&mut event) {
        let skipped = match (key >> 3, key & 7) {
            (2, 0) => return take_varint(&mut event).unwrap_or(0),
            (_, 0) => {
                let _ = take_varint(&mut event);
                0
            }
            (_, 1) => 8,
            (_, 2) => take_varint(&mut event).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
            (_, 5) => 4,
            _ => return 0,
        };
        match event.get(skipped..) {
            Some(rest) => event = rest,
            None => return 0,
        }
    }
    0
}

/// Whether an event holds a scalar of that tag.
fn holds_tag(event: &[u8], tag: &str) -> bool {
    let mut field = Vec::new();
    put_bytes(&mut field, 1, tag.as_bytes());
    event.windows(field.len()).any(|bytes| bytes == field)
}

/// TensorFlow's mask over CRC-32C: checksums of data that holds checksums are weak without it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Frames a payload.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(HEADER_BYTES + payload.len() + FOOTER_BYTES);
    framed.extend_from_slice(&length);
    framed.extend_from_slice(&masked_crc(&length).to_le_bytes());
    framed.extend_from_slice(payload);
    framed.extend_from_slice(&masked_crc(payload).to_le_bytes());
    framed
}

/// Each whole record and its payload, up to the first that is damaged or cut off.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (length_crc, rest) = rest.split_first_chunk::<4>()?;
        if masked_crc(length) != u32::from_le_bytes(*length_crc) {
            return None;
        }
        let (payload, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let (payload_crc, rest) = rest.split_first_chunk::<4>()?;
        if masked_crc(payload) != u32::from_le_bytes(*payload_crc) {
            return None;
        }
        let whole = &bytes[..bytes.len() - rest.len()];
        bytes = rest;
        Some((whole, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(path: &Path) -> Vec<u64> {
        records(&fs::read(path).unwrap()).map(|(_, payload)| step_of(payload)).collect()
    }

    #[test]
    fn the_checksum_is_the_masked_castagnoli_one() {
        // RFC 3720, B.4: thirty-two zero bytes.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_record_has_the_bytes_of_the_format() {
        let event = scalar_event(1.0, 300, [("a", 1.0)]);
        let expected: Vec<u8> = [
            &[0x09][..],
            &1.0_f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
            &[0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0x3f],
        ]
        .concat();
        assert_eq!(event, expected);
        assert_eq!(step_of(&event), 300);
    }

    #[test]
    fn a_resume_drops_later_events_and_a_torn_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 10.0).unwrap();
        for step in 1..=5 {
            file.append(10.0 + step as f64, step, [("train/loss", 1.0)]).unwrap();
        }
        let path = file.path().to_owned();
        let mut torn = fs::read(&path).unwrap();
        torn.extend_from_slice(&record(&scalar_event(1.0, 3, [("train/loss", 1.0)]))[..20]);
        fs::write(&path, torn).unwrap();
        let mut file = EventFile::resume(folder.path(), 3, None, 20.0).unwrap();
        assert_eq!(steps(&path), [0, 1, 2, 3]);
        file.append(21.0, 4, [("train/loss", 0.5)]).unwrap();
        assert_eq!(steps(&path), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_evaluation_made_again_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 10.0).unwrap();
        for (step, tag) in [(2, "eval/loss"), (3, "train/loss"), (3, "eval/loss"), (4, "train/loss")] {
            file.append(11.0, step, [("other", 0.0), (tag, 1.0)]).unwrap();
        }
        let file = EventFile::resume(folder.path(), 3, Some("eval/loss"), 20.0).unwrap();
        assert_eq!(steps(file.path()), [0, 2, 3]);
        assert!(!holds_tag(&fs::read(file.path()).unwrap(), "loss"));
    }

    #[test]
    fn a_resume_without_a_file_starts_one() {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("events");
        let file = EventFile::resume(&events, 7, None, 1.0).unwrap();
        assert_eq!(steps(file.path()), [0]);
    }

    #[test]
    fn tags_are_those_of_the_python_trainers() {
        assert_eq!(tag("loss"), "train/loss");
        assert_eq!(tag("eval_loss"), "eval/loss");
        assert_eq!(tag("eval/loss"), "eval/loss");
        assert_eq!(tag("mean_token_accuracy"), "train/mean_token_accuracy");
        assert_eq!(tag("rewards/accuracies"), "train/rewards/accuracies");
    }
}
