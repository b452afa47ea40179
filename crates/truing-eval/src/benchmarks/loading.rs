//! Reading a benchmark's file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use truing_data::{DataError, ObjectRow, read_objects};
use truing_types::RowOrigin;

use super::{Benchmark, BenchmarkError, Item, ScoringMode, TaskOptions};

/// A published file of a benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFile {
    /// Its name.
    pub name: &'static str,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: &'static str,
}

/// A file that items came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its bytes (of a folder: of its data files in name order), as others publish it.
    pub sha256: String,
    /// The published file that it is, if it is one.
    pub known_as: Option<String>,
}

/// A benchmark's items and where they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The items.
    pub items: Vec<Item>,
    /// The file.
    pub file: DataFile,
    /// Rows of the file.
    pub n_rows: usize,
}

/// Solved examples that the items of a benchmark are shown with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShotCount {
    /// The fewest before an item.
    pub fewest: usize,
    /// The mean over the items.
    pub mean: f64,
}

impl Loaded {
    /// The solved examples that are shown: fewer than asked for where the file of examples has fewer, or fewer of a
    /// question's subject.
    #[must_use]
    pub fn shots(&self) -> ShotCount {
        let shown = self.items.iter().map(Item::n_shots);
        ShotCount {
            fewest: shown.clone().min().unwrap_or(0),
            mean: shown.sum::<usize>() as f64 / self.items.len().max(1) as f64,
        }
    }
}

/// Reads a benchmark's items: JSON Lines, a JSON list, Parquet, CSV or TSV, a file or a folder.
///
/// # Errors
/// When the file cannot be read, a row lacks a column, two items have one name, there is no item, or, in official mode,
/// the file is not the published one.
pub fn load(benchmark: &dyn Benchmark, path: &Path, options: &TaskOptions) -> Result<Loaded, BenchmarkError> {
    let file = data_file(benchmark, path)?;
    if options.mode == ScoringMode::Official && !options.accept_other_version && file.known_as.is_none() {
        let known = benchmark.known_files();
        if !known.is_empty() {
            let mut expected = String::from("official scores are of");
            for (i, one) in known.iter().enumerate() {
                let comma = if i > 0 { "," } else { "" };
                let _ = write!(expected, "{comma} `{}` ({})", one.name, one.sha256);
            }
            return Err(BenchmarkError::OtherVersion {
                path: path.to_path_buf(),
                found: file.sha256,
                expected,
            });
        }
    }
    let rows = read_objects(path)?;
    let n_rows = rows.len();
    let items = items_of(benchmark, &rows, options)?;
    if items.is_empty() {
        return Err(BenchmarkError::NoItems {
            path: path.to_path_buf(),
            benchmark: benchmark.name().to_owned(),
        });
    }
    Ok(Loaded { items, file, n_rows })
}

/// The items of rows, of which no two have one name.
pub(crate) fn items_of(
    benchmark: &dyn Benchmark,
    rows: &[ObjectRow],
    options: &TaskOptions,
) -> Result<Vec<Item>, BenchmarkError> {
    let wanted = options.n_shots.unwrap_or_else(|| benchmark.default_shots());
    // Customary examples may be absent; examples that are asked for may not.
    if options.n_shots.is_some() && wanted > options.shots.len() {
        return Err(BenchmarkError::BadSetting {
            setting: "num_fewshot",
            found: wanted.to_string(),
            expected: format!("at most the {} rows of the file with examples", options.shots.len()),
        });
    }
    let mut items = benchmark.items(rows, options)?;
    if let Some(wanted) = options.n_shots {
        check_shots(benchmark, &items, wanted)?;
    }
    let mut seen: BTreeMap<&str, RowOrigin> = BTreeMap::new();
    for item in &items {
        if let Some(first) = seen.insert(&item.id, item.origin()) {
            let (origin, id) = (item.origin(), item.id.clone());
            return Err(BenchmarkError::DuplicateItem { origin, id, first });
        }
    }
    if let Some(limit) = options.limit {
        items.truncate(limited(items.len(), limit));
    }
    Ok(items)
}

/// How many of `n` items a limit leaves: a number of 1 or more, or below 1 a share of them, rounded up, as
/// lm-evaluation-harness has it.
fn limited(n: usize, limit: f64) -> usize {
    let wanted = if limit < 1.0 { (n as f64 * limit).ceil() } else { limit.floor() };
    n.min(wanted as usize)
}

/// Every item is shown with as many examples as were asked for.
fn check_shots(benchmark: &dyn Benchmark, items: &[Item], wanted: usize) -> Result<(), BenchmarkError> {
    let Some(short) = items.iter().find(|item| item.n_shots() < wanted) else { return Ok(()) };
    let expected = match items.iter().any(|item| item.n_shots() > 0) {
        // An item is never an example of itself.
        true => format!(
            "at most {}: the file with examples has no more for the item at {}",
            short.n_shots(),
            short.origin()
        ),
        false => format!("0: `{}` is shown without solved examples", benchmark.name()),
    };
    Err(BenchmarkError::BadSetting { setting: "num_fewshot", found: wanted.to_string(), expected })
}

fn data_file(benchmark: &dyn Benchmark, path: &Path) -> Result<DataFile, BenchmarkError> {
    let files = if path.is_dir() { truing_data::data_files(path)? } else { vec![path.to_path_buf()] };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    for file in files {
        let failed = |source| DataError::Io { action: "read", path: file.clone(), source };
        let mut bytes = std::fs::File::open(&file).map_err(failed)?;
        loop {
            match bytes.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
    }
    let mut sha256 = String::new();
    for byte in hasher.finalize() {
        let _ = write!(sha256, "{byte:02x}");
    }
    let known = benchmark.known_files().iter().find(|known| known.sha256 == sha256);
    let known_as = known.map(|known| known.name.to_owned());
    Ok(DataFile { path: path.to_path_buf(), sha256, known_as })
}

/// The solved examples of an item: the first rows of the file with examples that fit it and are not its own row.
pub(super) fn shot_rows<'a>(
    benchmark: &dyn Benchmark,
    row: &ObjectRow,
    options: &'a TaskOptions,
    is_fit: impl Fn(&ObjectRow) -> bool,
) -> impl Iterator<Item = &'a ObjectRow> {
    let n = options.n_shots.unwrap_or_else(|| benchmark.default_shots());
    let own = row.object.clone();
    options.shots.iter().filter(move |shot| shot.object != own && is_fit(shot)).take(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_share() {
        // lm_eval.evaluator_utils.get_sample_size, which does not stop at the number of items
        for (n, limit, expected) in
            [(1319, 0.1, 132), (1319, 1.0, 1), (1319, 200.0, 200), (5, 200.0, 5), (5, 0.01, 1), (7, 0.5, 4)]
        {
            assert_eq!(limited(n, limit), expected, "{n} {limit}");
        }
    }
}
