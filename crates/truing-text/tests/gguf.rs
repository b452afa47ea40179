//! Vocabularies as GGUF files hold them.

use serde_json::Value;
use truing_text::{GgufVocabulary, SpecialTokens, TextError, Tokenizer};

use crate::support::*;

fn tiny_sentence_piece() -> GgufVocabulary {
    let text = std::fs::read_to_string(tests_dir().join("fixtures/tiny_sentence_piece.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    GgufVocabulary {
        model: "llama".into(),
        tokens: serde_json::from_value(json["tokens"].clone()).unwrap(),
        scores: serde_json::from_value(json["scores"].clone()).unwrap(),
        token_types: serde_json::from_value(json["token_types"].clone()).unwrap(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        chat_templates: vec![("default".into(), "{{ messages }}".into())],
        ..GgufVocabulary::default()
    }
}

/// What a converter to GGUF makes of a `tokenizer.json`.
fn as_gguf(tokenizer_json: &[u8], pre: &str) -> GgufVocabulary {
    let json: Value = serde_json::from_slice(tokenizer_json).unwrap();
    let mut entries: Vec<(u64, String, i64)> = Vec::new();
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        entries.push((id.as_u64().unwrap(), token.clone(), 1));
    }
    for added in json["added_tokens"].as_array().unwrap() {
        let (id, token) = (added["id"].as_u64().unwrap(), added["content"].as_str().unwrap());
        let kind = if added["special"].as_bool().unwrap() { 3 } else { 4 };
        entries.retain(|entry| entry.0 != id);
        entries.push((id, token.to_owned(), kind));
    }
    entries.sort();
    for (place, entry) in entries.iter().enumerate() {
        assert_eq!(entry.0, place as u64);
    }
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens: entries.iter().map(|entry| entry.1.clone()).collect(),
        token_types: entries.iter().map(|entry| entry.2).collect(),
        merges: merges.collect(),
        ..GgufVocabulary::default()
    }
}

/// Texts of all kinds: our own, and the shared ones where they are there.
fn texts() -> Vec<String> {
    let mut rows = golden("tiny_tokenize");
    if let Some(shared) = from_environment("TRUING_TEST_SHARED") {
        rows.extend(jsonl(&shared.join("data/reference/smollm2_tokenize.jsonl")));
    }
    rows.iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect()
}

fn check_same(original: &Tokenizer, rebuilt: &Tokenizer) {
    for text in texts() {
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            let expected = original.encode(&text, special).unwrap();
            assert_eq!(rebuilt.encode(&text, special).unwrap(), expected, "{text:?}");
            assert_eq!(rebuilt.decode(&expected, false).unwrap(), original.decode(&expected, false).unwrap());
        }
    }
}

fn check_npm(package: &str, pre: &str) {
    let Some(dir) = npm_package(package) else { return };
    let original = Tokenizer::from_dir(&dir).unwrap();
    let vocabulary = as_gguf(&std::fs::read(dir.join("tokenizer.json")).unwrap(), pre);
    check_same(&original, &Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap());
}

#[test]
fn the_tiny_vocabulary_through_gguf_is_the_same() {
    let original = tiny();
    let mut vocabulary = as_gguf(&original.files()[0].1, "smollm");
    vocabulary.eos = Some(2);
    let rebuilt = Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap();
    check_same(&original, &rebuilt);
    assert_eq!(rebuilt.eos(), Some(2));
    check_same(&rebuilt, &Tokenizer::from_files(rebuilt.files()).unwrap());
}

#[test]
fn llama_3_through_gguf_is_the_same() {
    check_npm("llama3_1", "llama-bpe");
}

#[test]
fn qwen_2_through_gguf_is_the_same() {
    check_npm("qwen2_5", "qwen2");
}

#[test]
fn qwen_3_through_gguf_is_the_same() {
    check_npm("qwen3", "qwen2");
}

/// A vocabulary of Llama 2's kind (32,000 entries, written by transformers' converter). The converter orders
/// merges by the score of what they make, so the rank of an entry's first merge stands for its score.
#[test]
fn a_published_sentence_piece_vocabulary_through_gguf_is_the_same() {
    let Some(dir) = npm_package("llama2") else { return };
    let original = Tokenizer::from_dir(&dir).unwrap();
    let mut vocabulary = as_gguf(&std::fs::read(dir.join("tokenizer.json")).unwrap(), "");
    vocabulary.model = "llama".into();
    let mut ranks = std::collections::HashMap::new();
    for (rank, merge) in std::mem::take(&mut vocabulary.merges).into_iter().enumerate() {
        ranks.entry(merge.replace(' ', "")).or_insert(rank);
    }
    let rank_of = |token: &String| ranks.get(token).map_or(-1e9, |&rank| -(rank as f32));
    vocabulary.scores = vocabulary.tokens.iter().map(rank_of).collect();
    vocabulary.token_types = (0..vocabulary.tokens.len())
        .map(|id| match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        })
        .collect();
    (vocabulary.bos, vocabulary.eos, vocabulary.unk) = (Some(1), Some(2), Some(0));
    let rebuilt = Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap();
    check_same(&original, &rebuilt);
    assert!(rebuilt.adds_bos() && original.adds_bos());
}

#[test]
fn sentence_piece_follows_its_scores() {
    let tokenizer = Tokenizer::from_gguf_vocabulary(&tiny_sentence_piece()).unwrap();
    for row in golden("tiny_sentence_piece") {
        let text = row["text"].as_str().unwrap();
        let found = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(found, ids(&row["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&found, false).unwrap(), text.replace('▁', " "));
    }
    assert_eq!(tokenizer.encode_prompt("a").unwrap()[0], 1);
    assert_eq!(
        tokenizer.encode_prompt("<s>a").unwrap(),
        tokenizer.encode("<s>a", SpecialTokens::Parse).unwrap()
    );
}

#[test]
fn files_for_others_are_complete() {
    let tokenizer = Tokenizer::from_gguf_vocabulary(&tiny_sentence_piece()).unwrap();
    let files = tokenizer.files();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
    );
    check_same(&tokenizer, &Tokenizer::from_files(files).unwrap());
}

#[test]
fn bad_vocabularies_name_the_field() {
    fn check(change: impl Fn(&mut GgufVocabulary), expected: &str) {
        let mut vocabulary = tiny_sentence_piece();
        change(&mut vocabulary);
        let error = Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    check(|v| v.tokens.clear(), "GGUF vocabulary: `tokenizer.ggml.tokens`: is empty");
    check(|v| v.scores.truncate(5), "GGUF vocabulary: `tokenizer.ggml.scores`: has 5 entries for 589 tokens");
    check(
        |v| v.scores.clear(),
        "GGUF vocabulary: `tokenizer.ggml.scores`: is missing; a `llama` vocabulary needs scores",
    );
    check(
        |v| v.eos = Some(70_000),
        "GGUF vocabulary: `tokenizer.ggml.eos_token_id`: is 70000, but there are 589 tokens",
    );
    check(
        |v| v.tokens[3] = "</s>".into(),
        "GGUF vocabulary: `tokenizer.ggml.tokens`: holds `</s>` twice, as 2 and 3",
    );
    check(
        |v| v.chat_templates[0].0 = "../x".into(),
        "GGUF vocabulary: `tokenizer.chat_templates`: `../x` is not a template name",
    );
    check(|v| v.model = "bert".into(), "GGUF tokenizer model `bert` is not supported; known: gpt2, llama");
    let mut vocabulary = as_gguf(&tiny().files()[0].1, "chameleon");
    let error = Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap_err();
    assert!(matches!(&error, TextError::UnknownPreTokenizer { found, .. } if found == "chameleon"));
    assert!(error.to_string().contains("known: default, gpt-2"), "{error}");
    vocabulary.pre = Some("smollm".into());
    vocabulary.merges[1] = "nospace".into();
    let error = Tokenizer::from_gguf_vocabulary(&vocabulary).unwrap_err();
    assert!(error.to_string().contains("entry 1 is `nospace`"), "{error}");
}
