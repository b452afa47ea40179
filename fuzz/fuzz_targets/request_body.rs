//! Bodies of requests and rows of data: where the last text of a user ends, and a complement that is written there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use truing_ask::pas::{LastUserText, append};

const COMPLEMENT: &str = "Say \"why\".\n\\ 轮 \u{0}";

fuzz_target!(|bytes: &[u8]| {
    let Ok(body) = std::str::from_utf8(bytes) else { return };
    let Ok(found) = LastUserText::find(body) else { return };
    let edited = found.appended(body, COMPLEMENT);
    let (before, after) = body.split_at(found.end);
    assert!(edited.starts_with(before) && edited.ends_with(after), "every byte is kept");
    let again = LastUserText::find(&edited).expect("the user's text is still there");
    assert_eq!(again.text, append(&found.text, COMPLEMENT));
    assert_eq!(edited.len() - again.end, body.len() - found.end, "it ends where it ended");
    // What a value cannot hold, such as 1e999, is passed on all the same.
    let Ok(original) = serde_json::from_str::<Value>(body) else { return };
    let edited: Value = serde_json::from_str(&edited).expect("valid JSON");
    let mut texts = Vec::new();
    compare(&original, &edited, &mut texts);
    let [(old, new)] = texts[..] else { panic!("one text differs: {texts:?}") };
    assert_eq!(new, append(old, COMPLEMENT));
});

/// The texts that differ. Nothing else may.
fn compare<'a>(original: &'a Value, edited: &'a Value, texts: &mut Vec<(&'a str, &'a str)>) {
    match (original, edited) {
        (Value::String(old), Value::String(new)) if old != new => texts.push((old.as_str(), new.as_str())),
        (Value::Array(old), Value::Array(new)) => {
            assert_eq!(old.len(), new.len());
            old.iter().zip(new).for_each(|(old, new)| compare(old, new, texts));
        }
        (Value::Object(old), Value::Object(new)) => {
            assert!(old.keys().eq(new.keys()));
            old.values().zip(new.values()).for_each(|(old, new)| compare(old, new, texts));
        }
        (old, new) => assert_eq!(old, new),
    }
}
