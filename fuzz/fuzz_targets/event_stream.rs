//! A streamed reply as server-sent events, cut into pieces and cut off at any places: within a character, a line end, a
//! word. The bytes of the input's first line are the lengths of the pieces, in turn; what follows is the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use truing_client::response::{Answer, StreamParser};

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (lengths, stream) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let lengths: Vec<usize> = lengths.iter().map(|&length| usize::from(length % 32) + 1).collect();
    let whole = read(stream, &[]);
    assert_eq!(read(stream, &lengths), whole, "where it is cut does not matter");
    // Cut off after the first piece, and before the last byte.
    let first = lengths.first().map_or(0, |&length| length.min(stream.len()));
    read(&stream[..first], &lengths);
    read(&stream[..stream.len().saturating_sub(1)], &lengths);
});

/// The answer in a stream that comes in pieces of these lengths, or whole where there are none; none where it is an
/// error.
fn read(mut stream: &[u8], lengths: &[usize]) -> Option<Answer> {
    let mut parser = StreamParser::default();
    let mut shown = String::new();
    let mut lengths = lengths.iter().cycle();
    let mut was_done = false;
    while !stream.is_empty() {
        let length = lengths.next().map_or(stream.len(), |&length| length.min(stream.len()));
        let (piece, rest) = stream.split_at(length);
        shown += &parser.push(piece).ok()?;
        assert!(parser.is_done() || !was_done, "what is over stays over");
        was_done = parser.is_done();
        stream = rest;
    }
    let answer = parser.finish().ok()?;
    assert!(answer.text.starts_with(&shown), "what was shown is what was answered");
    Some(answer)
}
