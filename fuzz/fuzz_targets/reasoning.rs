//! A model's text with marks of reasoning anywhere, split into thought and answer for every start of the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use truing_types::{ReasoningMarks, TextStart, split_reasoning};

/// The first bytes stand for what the splitter looks for, the others for characters of one or two bytes.
const WORDS: &str = "<think> </think> <THINK> [think] [/think] ◁think▷ ◁/think▷ <thinking> </thinking> \
                     assistant ` ``` \" ' “ ” <|im_start|> <|start|> <|channel|> <|message|> <|end|> \
                     <|return|> analysis final <|constrain|>json \u{feff} \u{200b} 🦀";

fuzz_target!(|bytes: &[u8]| {
    let pieces: Vec<&str> = WORDS.split(' ').chain([" ", "\n"]).collect();
    let piece = |&byte: &u8| match pieces.get(usize::from(byte)) {
        Some(piece) => (*piece).to_owned(),
        None => char::from(byte).to_string(),
    };
    let text: String = bytes.iter().map(piece).collect();
    let marks = ReasoningMarks::default().declared_by(&text);
    let opened = marks.opened_at_end(&text);
    let of_default = ReasoningMarks::default().opened_at_end("<think>");
    let starts = [&opened, &of_default].map(|mark| TextStart::after(mark.as_ref()));
    for start in [TextStart::Unknown, TextStart::Outside].into_iter().chain(starts) {
        let split = split_reasoning(&text, &marks, start);
        let parts: usize = split.thoughts.iter().chain(&split.answer).map(|part| part.len()).sum();
        assert!(parts <= text.len(), "no part of the text is used twice");
        assert!(split.thoughts.iter().chain(&split.answer).all(|part| text.contains(part)));
        // The header of a channel that was cut has no content.
        let has_content = split.answer.is_some() || !split.thoughts.is_empty();
        assert!(has_content || text.contains("<|channel|>"), "a text is thought or answer");
    }
});
