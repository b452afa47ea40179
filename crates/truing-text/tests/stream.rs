//! Streaming gives the same text, never half a character.

use proptest::prelude::*;
use truing_text::{GgufVocabulary, SpecialTokens, StreamDecoder, Tokenizer};

use crate::support::*;

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = StreamDecoder::new(tokenizer, skip_special);
    let mut text: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    text.push_str(&decoder.finish().unwrap());
    text
}

fn sentence_piece() -> Tokenizer {
    let text = std::fs::read_to_string(tests_dir().join("fixtures/tiny_sentence_piece.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocabulary = GgufVocabulary {
        model: "llama".into(),
        tokens: serde_json::from_value(json["tokens"].clone()).unwrap(),
        scores: serde_json::from_value(json["scores"].clone()).unwrap(),
        token_types: serde_json::from_value(json["token_types"].clone()).unwrap(),
        bos: Some(1),
        eos: Some(2),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap()
}

#[test]
fn a_character_appears_when_it_is_complete() {
    let tokenizer = tiny();
    let ids = tokenizer.encode("a🙂b", SpecialTokens::Parse).unwrap();
    let mut decoder = StreamDecoder::new(&tokenizer, true);
    let pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
    assert!(pieces.contains(&"🙂".to_owned()), "{pieces:?}");
    assert_eq!(pieces.concat(), "a🙂b");
}

#[test]
fn an_incomplete_end_is_shown_when_the_text_ends() {
    let tokenizer = tiny();
    let ids = tokenizer.encode("a🙂", SpecialTokens::Parse).unwrap();
    assert_eq!(stream(&tokenizer, &ids[..ids.len() - 1], true), "a\u{fffd}");
}

#[test]
fn sentence_piece_keeps_spaces_inside_and_drops_the_first() {
    let tokenizer = sentence_piece();
    for text in ["a wheel", " a  wheel ", "你好，世界 🙂 x", "the <s> wheel"] {
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(stream(&tokenizer, &ids, true), text);
    }
    let ids = tokenizer.encode("a🙂", SpecialTokens::Parse).unwrap();
    let mut broken = ids[..ids.len() - 1].to_vec();
    broken.extend(tokenizer.encode("wheel", SpecialTokens::Parse).unwrap());
    let text = stream(&tokenizer, &broken, true);
    assert!(text.starts_with('a') && text.ends_with("wheel"), "{text:?}");
}

#[test]
fn a_continued_text_keeps_the_space_before_its_next_word() {
    let tokenizer = sentence_piece();
    let shown = tokenizer.encode("<s>the", SpecialTokens::Parse).unwrap();
    let next = tokenizer.encode("wheel", SpecialTokens::Parse).unwrap();
    let text_after =
        |mut decoder: StreamDecoder| -> String { next.iter().map(|&id| decoder.push(id).unwrap()).collect() };
    assert_eq!(text_after(StreamDecoder::continuing(&tokenizer, true, &shown)), " wheel");
    assert_eq!(text_after(StreamDecoder::continuing(&tokenizer, true, &[1])), "wheel");
    assert_eq!(text_after(StreamDecoder::new(&tokenizer, true)), "wheel");
}

#[test]
fn special_tokens_are_skipped_when_asked() {
    let tokenizer = tiny();
    let ids = tokenizer.encode("a<|im_end|>b", SpecialTokens::Parse).unwrap();
    assert_eq!(stream(&tokenizer, &ids, true), "ab");
    assert_eq!(stream(&tokenizer, &ids, false), "a<|im_end|>b");
    let unknown = StreamDecoder::new(&tokenizer, true).push(9999).unwrap_err();
    assert_eq!(unknown.to_string(), "token 9999 is outside the vocabulary of 400");
}

proptest! {
    #[test]
    fn streaming_equals_decoding_for_any_tokens(ids in prop::collection::vec(0u32..400, 0..40), skip: bool) {
        let tokenizer = tiny();
        prop_assert_eq!(stream(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn texts_survive(text in "\\PC{0,40}") {
        let tokenizer = tiny();
        let ids = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
        prop_assert_eq!(stream(&tokenizer, &ids, false), text);
    }
}
