//! Damaged rows: whatever the bytes are, the answer is a row or an error. A fuzz target does the same for longer.

use proptest::prelude::*;
use truing_data::{FORMATS, OnBadRow, Render, SourceConfig, parse_row, read_rows};
use truing_types::RowOrigin;

use crate::fixture;

/// Every row of every fixture.
fn rows() -> Vec<Vec<u8>> {
    let rows = FORMATS.iter().flat_map(|format| {
        let text = std::fs::read(fixture(&format!("{}.jsonl", format.name))).unwrap();
        text.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
    });
    rows.filter(|row| !row.is_empty()).collect()
}

/// Parses with every format and with settings that rows were not made for.
fn parse_in_every_way(row: &[u8]) {
    let origin = RowOrigin { source: "rows.jsonl".into(), line: 1 };
    let with = |settings: &dyn Fn(&mut SourceConfig)| {
        let mut config = SourceConfig::new("rows.jsonl");
        settings(&mut config);
        if let Err(error) = parse_row(row, &config, origin.clone()) {
            assert!(!error.to_string().is_empty());
        }
    };
    with(&|_| {});
    with(&|config| config.render = Some(Render::Chat));
    with(&|config| config.prompt_template = Some("{prompt} {messages.0.content}".into()));
    for format in FORMATS {
        with(&|config| config.format = Some(format.name.to_owned()));
    }
}

/// A row with some bytes replaced by bytes that mean something to JSON or UTF-8, and perhaps cut off.
fn damaged_row() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::sample::select(&b"{}[]\",:\\u0019eE-+.ntf \x00\xff\xc3\xa9\n"[..]);
    let edits = prop::collection::vec((any::<prop::sample::Index>(), bytes), 0..6);
    (prop::sample::select(rows()), edits, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut row, edits, end, is_cut)| {
            for (at, byte) in edits {
                let at = at.index(row.len());
                row[at] = byte;
            }
            if is_cut {
                row.truncate(end.index(row.len()));
            }
            row
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn damaged_rows_are_rows_or_errors(row in damaged_row()) {
        parse_in_every_way(&row);
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(row in prop::collection::vec(any::<u8>(), 0..200)) {
        parse_in_every_way(&row);
    }
}

#[test]
fn a_value_of_any_type_in_any_field_is_a_row_or_an_error() {
    let values =
        ["null", "true", "-1.5e3", "\"\"", "\"[\"", "[]", "[[]]", "[null]", "{}", "{\"role\": []}", "[{}]"];
    for format in FORMATS {
        for column in format.columns {
            for value in values {
                parse_in_every_way(format!("{{\"{}\": {value}}}", column.name).as_bytes());
            }
        }
    }
    for key in ["role", "content", "weight", "loss", "tool_calls", "reasoning_content", "from", "value"] {
        for value in values {
            for list in ["messages", "conversations", "prompt"] {
                // A role and content that are good, unless they are what is tried.
                let good =
                    [("role", "\"assistant\""), ("content", "\"x\"")].into_iter().filter(|(k, _)| *k != key);
                let entries = good.chain([(key, value)]).map(|(k, v)| format!("\"{k}\": {v}"));
                let turn = format!("{{{}}}", entries.collect::<Vec<_>>().join(", "));
                parse_in_every_way(format!("{{\"{list}\": [{turn}], \"completion\": [{turn}]}}").as_bytes());
            }
        }
    }
}

/// A pipe gives its bytes once: what is looked at to recognise the file must not be lost.
#[cfg(unix)]
#[test]
fn a_named_pipe_is_read_like_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n".repeat(1000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    for (name, bytes) in [("plain", text.clone().into_bytes()), ("packed", gzip.finish().unwrap())] {
        let path = folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let writing = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, bytes).unwrap()
        });
        let rows = read_rows(&SourceConfig::new(&path), OnBadRow::Error).unwrap();
        assert_eq!(rows.collect::<Result<Vec<_>, _>>().unwrap().len(), 2000, "{name}");
        writing.join().unwrap();
    }
}
