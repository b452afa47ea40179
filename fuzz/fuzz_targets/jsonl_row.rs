//! Training rows: a file of arbitrary lines, read as each format and as whichever its first row tells.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use truing_data::{FORMATS, OnBadRow, SourceConfig, read_rows};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    let formats = FORMATS.iter().map(|format| Some(format.name.to_owned()));
    for format in formats.chain([None]) {
        let config = SourceConfig { format, ..SourceConfig::new(file.path()) };
        if let Ok(rows) = read_rows(&config, OnBadRow::Skip) {
            rows.for_each(drop);
        }
    }
});
