//! WordPiece with a length, against ids that the reference implementation made.

use std::path::{Path, PathBuf};

use truing_text::{SentenceTokenizer, Tokenizer};

/// A WordPiece of a few words that pads and truncates to 5, as sentence encoders' files do.
fn tiny() -> Tokenizer {
    let vocab: serde_json::Map<String, serde_json::Value> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "wheel", "##s", "true", "straight"]
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), id.into()))
            .collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let template = |id: &str| serde_json::json!({"SpecialToken": {"id": id, "type_id": 0}});
    let entry = |id: &str, number: u32| serde_json::json!({"id": id, "ids": [number], "tokens": [id]});
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 5}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": null,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [template("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, template("[SEP]")],
            "pair": [template("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, template("[SEP]")],
            "special_tokens": {"[CLS]": entry("[CLS]", 2), "[SEP]": entry("[SEP]", 3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    Tokenizer::from_files(vec![("tokenizer.json".into(), json.to_string().into_bytes())]).unwrap()
}

#[test]
fn texts_stand_between_special_tokens_and_are_cut_before_the_last() {
    let tokenizer = SentenceTokenizer::new(&tiny(), 8, false).unwrap();
    let check = |text: &str, tokens: &[u32], is_cut: bool| {
        let found = tokenizer.encode(text).unwrap();
        assert_eq!((found.tokens.as_slice(), found.is_cut), (tokens, is_cut), "{text}");
    };
    check("", &[2, 3], false);
    check("a wheels", &[2, 4, 5, 6, 3], false);
    check("true a wheels a true", &[2, 7, 4, 5, 6, 4, 7, 3], false);
    check("true a wheels a true straight wheels", &[2, 7, 4, 5, 6, 4, 7, 3], true);
    check("TRUE", &[2, 1, 3], false);
    let lower = SentenceTokenizer::new(&tiny(), 8, true).unwrap();
    assert_eq!(lower.encode("TRUE").unwrap().tokens, [2, 7, 3]);
    let many = tokenizer.encode_many(&["a", "true"]).unwrap();
    assert_eq!(many.iter().map(|text| text.tokens[1]).collect::<Vec<_>>(), [4, 7]);
    let error = SentenceTokenizer::new(&tiny(), 2, false).unwrap_err().to_string();
    assert!(error.contains("no room beside the 2 special tokens"), "{error}");
}

#[test]
fn minilm_tokens_are_the_reference() {
    let (Some(model), Some(shared)) =
        (std::env::var_os("TRUING_TEST_MINILM"), std::env::var_os("TRUING_TEST_SHARED"))
    else {
        println!("skipped: TRUING_TEST_MINILM and TRUING_TEST_SHARED name no tokenizer and no reference");
        return;
    };
    let tokenizer = Tokenizer::from_dir(Path::new(&model)).unwrap();
    let tokenizer = SentenceTokenizer::new(&tokenizer, 256, false).unwrap();
    let text = std::fs::read_to_string(PathBuf::from(shared).join("data/reference/minilm_embeddings.jsonl"));
    let mut n_rows = 0;
    for line in text.unwrap().lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let wanted: Vec<u32> =
            row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let found = tokenizer.encode(row["text"].as_str().unwrap()).unwrap();
        assert_eq!(found.tokens, wanted, "{}", row["text"]);
        assert!(!found.is_cut || wanted.len() == 256);
        n_rows += 1;
    }
    assert_eq!(n_rows, 40);
}
