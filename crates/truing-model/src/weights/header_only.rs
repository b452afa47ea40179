//! Headers of safetensors files without the data, for plans: `model.safetensors.header` is the beginning of
//! `model.safetensors`, up to the first byte of data. Names, types and shapes can be looked at; no value can be read.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::MAX_HEADER_BYTES;

/// Ends the name of a file that is the header of another one.
const SUFFIX: &str = ".header";
/// The number in front of the header.
pub(crate) const LENGTH_BYTES: usize = 8;

/// The header that stands for a weights file which is not there.
pub(crate) fn header_path(weights: &Path) -> PathBuf {
    let mut name = weights.as_os_str().to_owned();
    name.push(SUFFIX);
    PathBuf::from(name)
}

/// Whether a file is a header alone.
pub(super) fn is_header_path(path: &Path) -> bool {
    path.to_string_lossy().ends_with(SUFFIX)
}

/// Bytes from the start of a weights file to the end of its header, by its first bytes; `None` where these are too few.
///
/// # Errors
/// What is wrong with the length.
pub(crate) fn bytes_with_header(first_bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(length) = first_bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "the header claims {length} bytes, more than {MAX_HEADER_BYTES}: not a safetensors file"
        ));
    }
    Ok(Some(LENGTH_BYTES + length as usize))
}

/// In place of the data.
pub(super) struct NoData;

fn no_data() -> io::Error {
    io::Error::other("the header of the weights is here alone, for a plan; the weights were not fetched")
}

impl Read for NoData {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(no_data())
    }
}

impl Seek for NoData {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(no_data())
    }
}
