//! What a server of language models answers: one JSON object, and a stream of events cut into pieces anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use truing_client::response::{StreamParser, error_text, parse_answer};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let _ = parse_answer(bytes);
    assert!(error_text(bytes).chars().count() <= 303, "an error stays short");
    let read = |piece: usize| {
        let mut parser = StreamParser::default();
        let mut text = String::new();
        for part in bytes.chunks(piece) {
            text += &parser.push(part).ok()?;
        }
        let answer = parser.finish().ok()?;
        assert!(answer.text.starts_with(&text), "what was shown is what was answered");
        Some(answer)
    };
    assert_eq!(read(usize::from(piece) + 1), read(bytes.len().max(1)), "where it is cut does not matter");
});
