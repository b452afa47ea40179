//! The completions of a run on disk: one compressed file of JSON Lines a step, whole or not there.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use truing_store::atomic;
use truing_types::Rollout;

use crate::RunError;

/// Folder of a run's rollouts.
pub const FOLDER: &str = "rollouts";
const PREFIX: &str = "step-";
const SUFFIX: &str = ".jsonl.zst";
const COMPRESSION_LEVEL: i32 = 3;

/// The file of one step in a run's folder.
#[must_use]
pub fn path_of(run: &Path, step: u64) -> PathBuf {
    run.join(FOLDER).join(format!("{PREFIX}{step:06}{SUFFIX}"))
}

/// Writes the completions of a step; a file that is there already is replaced.
///
/// # Errors
/// When the disk is full or fails.
pub fn write(run: &Path, step: u64, rollouts: &[Rollout]) -> Result<(), RunError> {
    let path = path_of(run, step);
    let failed = |source| RunError::Write { path: path.clone(), source };
    fs::create_dir_all(run.join(FOLDER)).map_err(failed)?;
    let mut encoder = zstd::Encoder::new(Vec::new(), COMPRESSION_LEVEL).map_err(failed)?;
    for rollout in rollouts {
        serde_json::to_writer(&mut encoder, rollout).map_err(|error| failed(error.into()))?;
        encoder.write_all(b"\n").map_err(failed)?;
    }
    Ok(atomic::write(&path, &encoder.finish().map_err(failed)?)?)
}

/// The steps that a run's folder has rollouts of, ascending.
///
/// # Errors
/// When the folder cannot be read.
pub fn steps(run: &Path) -> Result<Vec<u64>, RunError> {
    let folder = run.join(FOLDER);
    let failed = |source| RunError::Read { path: folder.clone(), source };
    let mut steps = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        steps.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Reads the completions of a step.
///
/// # Errors
/// When the file is missing or damaged; the error names file and line.
pub fn read(run: &Path, step: u64) -> Result<Vec<Rollout>, RunError> {
    let path = path_of(run, step);
    let failed = |source| RunError::Read { path: path.clone(), source };
    let decoder = zstd::Decoder::new(File::open(&path).map_err(failed)?).map_err(failed)?;
    let mut rollouts = Vec::new();
    for (line_idx, line) in BufReader::new(decoder).lines().enumerate() {
        let line = line.map_err(failed)?;
        rollouts.push(serde_json::from_str(&line).map_err(|error| {
            failed(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("line {}: {error}", line_idx + 1),
            ))
        })?);
    }
    Ok(rollouts)
}
