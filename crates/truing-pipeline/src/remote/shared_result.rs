//! `results/KEY.json`: a result with the digests of its files.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use truing_store::Digest;

use super::{Remote, RemoteError};
use crate::digests::{Measured, Sum};
use crate::store::RUN;
use crate::{Done, StoredOutput};

const FORMAT_VERSION: u32 = 1;

/// A result in a remote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedResult {
    format_version: u32,
    /// What `done.json` says.
    pub(crate) done: Done,
    /// All files, sorted by path.
    pub(crate) files: Vec<SharedFile>,
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedFile {
    /// Its path below the folder of the key, with `/`.
    pub(crate) path: String,
    /// Of its bytes.
    pub(crate) blake3: Digest,
    /// Bytes.
    pub(crate) bytes: u64,
    /// Whether it is a program.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_executable: bool,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl SharedResult {
    pub(crate) fn new(done: Done, mut files: Vec<SharedFile>) -> Self {
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Self { format_version: FORMAT_VERSION, done, files }
    }

    /// The name of the object with the result of a key.
    pub(crate) fn name(key: Digest) -> String {
        format!("results/{key}.json")
    }

    /// The name of the object with the bytes of a file.
    pub(crate) fn object_name(blake3: Digest) -> String {
        format!("objects/{blake3}")
    }

    /// Reads a result, and checks that its parts agree and that no path leads out of its folder.
    pub(super) fn parse(remote: &Remote, name: &str, bytes: &[u8]) -> Result<Self, RemoteError> {
        let damaged = |error: serde_json::Error| remote.damaged(name, error.to_string());
        let Version { format_version: found } = serde_json::from_slice(bytes).map_err(damaged)?;
        if found > FORMAT_VERSION {
            let (url, name) = (remote.url.clone(), name.to_owned());
            return Err(RemoteError::Newer { url, name, found, supported: FORMAT_VERSION });
        }
        let result: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        match result.fault() {
            Some(reason) => Err(remote.damaged(name, reason)),
            None => Ok(result),
        }
    }

    /// What is wrong with it.
    pub(super) fn fault(&self) -> Option<String> {
        let mut sizes = self.files.iter().map(|file| file.bytes);
        if sizes.try_fold(0_u64, u64::checked_add).is_none() {
            return Some("its files together have more bytes than a number can say".to_owned());
        }
        let mut by_path = BTreeMap::new();
        for file in &self.files {
            let path = Path::new(&file.path);
            let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
            if !is_below || path.components().count() == 0 || file.path.contains('\\') {
                return Some(format!("`{}` is no path below the folder of a result", file.path));
            }
            if by_path.insert(path.to_path_buf(), file).is_some() {
                return Some(format!("`{}` is there twice", file.path));
            }
        }
        self.done.outputs.iter().find_map(|(name, output)| {
            let is_there =
                Path::new(&output.path).components().all(|part| matches!(part, Component::Normal(_)))
                    && measured(&by_path, output).blake3 == output.blake3;
            (!is_there).then(|| format!("its files are not those of output `{name}` ({})", output.path))
        })
    }
}

/// The digest of an output by the digests of its files: what [`crate::Digests::of_tree`] finds when they are there.
fn measured(files: &BTreeMap<PathBuf, &SharedFile>, output: &StoredOutput) -> Measured {
    let path = Path::new(RUN).join(&output.path);
    if let Some(file) = files.get(&path) {
        return Measured { blake3: file.blake3, bytes: file.bytes };
    }
    let mut sum = Sum::default();
    for (below, file) in files.iter().filter_map(|(of, file)| Some((of.strip_prefix(&path).ok()?, file))) {
        sum.add(&below.to_string_lossy(), Measured { blake3: file.blake3, bytes: file.bytes });
    }
    sum.measured()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_be_added_are_a_fault() {
        let fault_of = |sizes: [u64; 2]| {
            let file = |(idx, bytes): (usize, u64)| SharedFile {
                path: format!("run/{idx}"),
                blake3: Digest::of_bytes(b""),
                bytes,
                is_executable: false,
            };
            let files = sizes.into_iter().enumerate().map(file).collect();
            SharedResult::new(Done::new(BTreeMap::new(), BTreeMap::new(), 0.0, None), files).fault()
        };
        assert_eq!(fault_of([0, u64::MAX]), None);
        assert!(fault_of([1, u64::MAX]).is_some());
    }
}
