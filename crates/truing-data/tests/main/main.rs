//! Data files as users have them: every format and container, every kind of bad row, and real sets where found.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

mod formats;
mod real_data;
mod robustness;
mod rows;
mod tools;
mod turns;

use std::path::PathBuf;

use truing_data::{OnBadRow, RowError, SourceConfig, read_rows};
use truing_types::TrainingRow;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// All rows of a source that has no bad ones.
fn read(config: &SourceConfig) -> Vec<TrainingRow> {
    read_rows(config, OnBadRow::Error).unwrap().map(|row| row.unwrap().0).collect()
}

/// The good rows and the bad ones of a text.
fn read_text(text: &[u8], settings: impl FnOnce(&mut SourceConfig)) -> (Vec<TrainingRow>, Vec<RowError>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    let mut config = SourceConfig::new(path);
    settings(&mut config);
    let mut rows = read_rows(&config, OnBadRow::Skip).unwrap();
    let good = rows.by_ref().map(|row| row.unwrap().0).collect();
    let skipped = rows.skipped().rows.clone();
    assert_eq!(skipped.len() as u64, rows.skipped().n_rows);
    (good, skipped)
}
