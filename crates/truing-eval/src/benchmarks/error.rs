//! What can be wrong with a benchmark's file or settings. All of it is found before anything is asked.

use std::path::PathBuf;

use truing_data::DataError;
use truing_store::StoreError;
use truing_types::RowOrigin;

/// A benchmark that cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// The file cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file cannot be written or digested.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A column that the benchmark needs.
    #[error(
        "{origin}: `{column}` is missing, expected {expected}{}",
        nearest.as_ref().map(|name| format!("; the row has `{name}`")).unwrap_or_default()
    )]
    MissingColumn {
        /// The row.
        origin: RowOrigin,
        /// The column.
        column: String,
        /// What should be there.
        expected: &'static str,
        /// The row's column with the most similar name.
        nearest: Option<String>,
    },
    /// A column with a value that makes no sense.
    #[error("{origin}: `{column}` is {found}, expected {expected}")]
    BadColumn {
        /// The row.
        origin: RowOrigin,
        /// The column.
        column: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A row whose answers no score can be given.
    #[error("{origin}: the scorer `{scorer}` can score no answer of this row: {reason}")]
    UnscorableRow {
        /// The row.
        origin: RowOrigin,
        /// The scorer.
        scorer: String,
        /// What is missing or wrong, with its column.
        reason: String,
    },
    /// Two items of one name: their answers would be mixed up.
    #[error("{origin}: the item `{id}` is already at {first}")]
    DuplicateItem {
        /// The second.
        origin: RowOrigin,
        /// Its name.
        id: String,
        /// The first.
        first: RowOrigin,
    },
    /// A file without an item.
    #[error("`{}` has no item of `{benchmark}`", path.display())]
    NoItems {
        /// The file.
        path: PathBuf,
        /// The benchmark.
        benchmark: String,
    },
    /// Another file than the benchmark was published with.
    #[error("`{}` has the SHA-256 {found}; {expected}", path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: String,
        /// The digests that are known.
        expected: String,
    },
    /// A setting that makes no sense.
    #[error("`{setting}` is {found}, expected {expected}")]
    BadSetting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What is expected.
        expected: String,
    },
    /// A name that no benchmark has.
    #[error(
        "there is no benchmark `{name}`{}",
        nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
    )]
    UnknownBenchmark {
        /// The name.
        name: String,
        /// The most similar one.
        nearest: Option<&'static str>,
    },
    /// A folder without results.
    #[error("`{}` is not the folder of a finished evaluation: it has no `results.json`", path.display())]
    NoResults {
        /// The folder.
        path: PathBuf,
    },
    /// Two evaluations that cannot be compared.
    #[error("the two evaluations cannot be compared: {reason}")]
    NotComparable {
        /// Why.
        reason: String,
    },
    /// A stored record that cannot be read.
    #[error("`{}`{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
}
