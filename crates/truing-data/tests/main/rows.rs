//! Containers, and rows that go wrong.

use std::io::Write;

use truing_data::{DataError, OnBadRow, SourceConfig, read_prompts, read_rows};
use truing_types::TrainingRow;

use crate::{fixture, read, read_text};

fn texts(rows: &[TrainingRow]) -> Vec<&str> {
    rows.iter()
        .map(|row| match row {
            TrainingRow::Text(text) => &text[..],
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Opening or reading a file of these bytes fails; the message with the path cut out.
fn check_broken(name: &str, bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let rows = read_rows(&SourceConfig::new(&path), OnBadRow::Skip);
    let error = match rows {
        Ok(rows) => rows.filter_map(Result::err).next().expect("an error"),
        Err(error) => error,
    };
    error.to_string().replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn a_line_of_a_text_file_is_a_row_and_a_prompt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prompts.txt");
    std::fs::write(&path, "[1] Name a colour.\r\n\n  {\"not\": \"JSON\"}\n").unwrap();
    assert_eq!(texts(&read(&SourceConfig::new(&path))), ["[1] Name a colour.", "  {\"not\": \"JSON\"}"]);
    let prompts: Vec<_> = read_prompts(&SourceConfig::new(&path), OnBadRow::Error).unwrap().collect();
    let (prompt, origin) = prompts[1].as_ref().unwrap();
    assert_eq!((&*prompt.prompt.messages[0].content, origin.line), ("  {\"not\": \"JSON\"}", 3));
}

#[test]
fn every_container_gives_the_same_rows() {
    let plain = read(&SourceConfig::new(fixture("text.jsonl")));
    assert_eq!(plain.len(), 2);
    assert!(texts(&plain)[1].contains('\u{2028}'));
    assert_eq!(read(&SourceConfig::new(fixture("text.jsonl.gz"))), plain, "two gzip members");
    assert_eq!(read(&SourceConfig::new(fixture("text.jsonl.zst"))), plain);
    let list = read(&SourceConfig::new(fixture("list.json")));
    assert_eq!(texts(&list), ["first, [with] \"brackets\" {and braces}", "second"]);
    assert_eq!(
        read(&SourceConfig::new(fixture("messages.parquet"))),
        read(&SourceConfig { max_samples: Some(2), ..SourceConfig::new(fixture("messages.jsonl")) }),
        "nulls of Parquet are fields left out"
    );
}

#[test]
fn a_folder_is_read_in_name_order_and_each_row_knows_its_file() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in
        [("b.jsonl", "{\"text\":\"2\"}"), ("a.json", "[{\"text\":\"1\"}]"), ("README.md", "no")]
    {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let rows = read_rows(&SourceConfig::new(directory.path()), OnBadRow::Error).unwrap();
    let origins: Vec<String> = rows.map(|row| row.unwrap().1.to_string()).collect();
    assert!(origins[0].ends_with("a.json:1") && origins[1].ends_with("b.jsonl:1"), "{origins:?}");
    let empty = tempfile::tempdir().unwrap();
    let error = read_rows(&SourceConfig::new(empty.path()), OnBadRow::Error).unwrap_err();
    assert!(matches!(error, DataError::NoDataFiles { .. }));
}

#[test]
fn line_ends_marks_and_empty_lines() {
    let text = "\u{feff}{\"text\":\"1\"}\r\n\r\n\n  \n{\"text\":\"2\\r\u{85}\"}";
    let (good, bad) = read_text(text.as_bytes(), |_| {});
    assert_eq!(texts(&good), ["1", "2\r\u{85}"]);
    assert!(bad.is_empty());
}

#[test]
fn skipped_rows_are_counted_and_listed_with_line_field_and_reason() {
    let text = b"{\"text\":\"1\"}\nnonsense\n{\"text\":5}\n{\"txet\":\"4\"}\n{\"text\":\"5\"}\n{\"text\":\"\xff\"}\n";
    let (good, bad) = read_text(text, |_| {});
    assert_eq!(texts(&good), ["1", "5"]);
    let messages: Vec<_> = bad.iter().map(|row| format!("{}: {}", row.origin.line, row.problem)).collect();
    assert_eq!(
        messages,
        [
            "2: not JSON at byte 2 of the row: expected ident; expected one JSON object per row",
            "3: `text` is a number; expected a string",
            "4: `text` is missing; expected a string",
            "6: not UTF-8 at byte 10 of the row; expected one JSON object per row",
        ]
    );
}

#[test]
fn an_error_shows_up_to_twenty_bad_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    let message = |text: String| {
        std::fs::write(&path, text).unwrap();
        let mut rows = read_rows(&SourceConfig::new(&path), OnBadRow::Error).unwrap();
        assert!(rows.next().unwrap().is_ok());
        let error = rows.next().unwrap().unwrap_err();
        assert!(rows.next().is_none(), "nothing follows an error");
        error.to_string()
    };
    let good = "{\"text\":\"1\"}\n";
    let one = message(format!("{good}{{}}\n{good}"));
    assert_eq!(one, format!("{}:2: `text` is missing; expected a string", path.display()));
    let two = message(format!("{good}{{}}\n{good}{{}}"));
    assert!(two.starts_with("2 invalid rows:\n  ") && two.contains("rows.jsonl:4: "), "{two}");
    let many = message(format!("{good}{}", "{}\n".repeat(50)));
    assert!(many.starts_with("20 invalid rows and perhaps more:\n"), "{many}");
    assert_eq!(many.lines().count(), 21);
}

#[test]
fn max_samples_counts_good_rows() {
    let (good, bad) =
        read_text(b"{\"text\":\"1\"}\n{}\n{\"text\":\"3\"}\nbad\n", |c| c.max_samples = Some(2));
    assert_eq!(texts(&good), ["1", "3"]);
    assert_eq!(bad.len(), 1, "what follows is not read");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    assert_eq!(check_broken("a.jsonl", b""), "`a.jsonl` holds no rows",);
    assert_eq!(
        check_broken("a.jsonl", b"\xff\xfe{\0"),
        "`a.jsonl`: it is UTF-16; expected JSON Lines, a JSON list of objects, Parquet or plain text (.txt)"
    );
    assert_eq!(
        check_broken("a.jsonl", b"{\"id\": 1, \"score\": 2}"),
        "`a.jsonl`: no known format has the fields `id`, `score`; expected one of: messages (messages), sharegpt \
         (conversations), alpaca (instruction, output), prompt_completion (prompt, completion), text (text); or \
         name `format` and `columns`"
    );
    assert_eq!(check_broken("a.json", b"[{\"text\":\"1\"},"), "cannot read `a.json` after row 1");
    assert_eq!(
        check_broken("a.parquet", b"PAR1 and then nothing of use"),
        "cannot read `a.parquet` after row 0"
    );
    let whole = std::fs::read(fixture("messages.parquet")).unwrap();
    for cut in [whole.len() / 2, whole.len() - 9] {
        assert_eq!(check_broken("a.parquet", &whole[..cut]), "cannot read `a.parquet` after row 0");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for i in 0..50_000 {
        writeln!(gzip, "{{\"text\":\"{}\"}}", i * 7_919 % 10_007).unwrap();
    }
    let gzip = gzip.finish().unwrap();
    let cut = check_broken("a.jsonl.gz", &gzip[..gzip.len() / 2]);
    assert!(cut.starts_with("cannot read `a.jsonl.gz` after row ") && !cut.ends_with("row 0"), "{cut}");
    let missing = read_rows(&SourceConfig::new("no/such.jsonl"), OnBadRow::Skip).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open `no/such.jsonl`");
}

#[test]
fn a_damaged_parquet_file_never_panics() {
    let whole = std::fs::read(fixture("messages.parquet")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.parquet");
    for i in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[i] ^= 0x41;
        std::fs::write(&path, &damaged).unwrap();
        if let Ok(rows) = read_rows(&SourceConfig::new(&path), OnBadRow::Skip) {
            rows.take(10).for_each(drop);
        }
    }
}

/// The first row may be the bad one, also one that another format fits.
#[test]
fn the_format_is_that_of_most_of_the_first_rows() {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    for bad in [
        r#"{"note": "made on Monday"}"#,
        r#"{"text": "made on Monday"}"#,
        r#"{"messages": null, "prompt": "a", "completion": "b"}"#,
        r#"{"messages": [{"from": "human"}]}"#,
        r#"{"conversations": []}"#,
    ] {
        let text = format!("{bad}\n{good}\n{good}\n");
        let (rows, skipped) = read_text(text.as_bytes(), |_| {});
        let lines: Vec<u64> = skipped.iter().map(|row| row.origin.line).collect();
        assert_eq!((rows.len(), lines), (2, vec![1]), "{bad}");
    }
    // Of two formats that fit equally many rows, the first counts.
    let (rows, skipped) = read_text(format!("{{\"text\": \"x\"}}\n{good}\n").as_bytes(), |_| {});
    assert_eq!((rows.len(), skipped[0].origin.line), (1, 2));
    // A file that breaks while the format is detected still gives the rows before.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    std::fs::write(&path, format!("[{good}, {good}, {{")).unwrap();
    let found: Vec<bool> =
        read_rows(&SourceConfig::new(&path), OnBadRow::Skip).unwrap().map(|row| row.is_ok()).collect();
    assert_eq!(found, [true, true, false]);
}
