//! The tokenizer of a directory.

use truing_text::{SpecialTokens, TextError, Tokenizer};

use crate::support::*;

#[test]
fn the_tiny_vocabulary_equals_the_library_in_python() {
    let tokenizer = tiny();
    for row in golden("tiny_tokenize") {
        let text = row["text"].as_str().unwrap();
        let parsed = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(parsed, ids(&row["ids_parse_special"]), "{text:?}");
        assert_eq!(tokenizer.encode(text, SpecialTokens::AsText).unwrap(), ids(&row["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&parsed, false).unwrap(), row["decoded"].as_str().unwrap());
    }
}

#[test]
fn names_and_ids() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.vocab_size(), 400);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(2)));
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(3));
    assert!(!tokenizer.adds_bos());
    let id = tokenizer.token_id("Ġthe").unwrap();
    assert_eq!(tokenizer.token_text(id).as_deref(), Some("Ġthe"));
    assert_eq!(tokenizer.token_display(id), " the");
    assert_eq!(tokenizer.token_display(2), "<|im_end|>");
    let first_byte_of_a_character = tokenizer.token_id("ð").unwrap();
    assert_eq!(tokenizer.token_display(first_byte_of_a_character), "<0xF0>");
    assert_eq!(tokenizer.token_text(400), None);
    assert!(matches!(
        tokenizer.decode(&[400], false),
        Err(TextError::TokenOutOfRange { token: 400, vocab_size: 400 })
    ));
}

#[test]
fn ranges_cover_the_text_in_whole_characters() {
    let text = "naïve 你好\u{2028}🙂<|im_end|>\n";
    let spans = tiny().encode_with_ranges(text, SpecialTokens::Parse).unwrap();
    assert_eq!(spans.ranges.first().map(|range| range.start), Some(0));
    assert_eq!(spans.ranges.last().map(|range| range.end), Some(text.len()));
    for (range, next) in spans.ranges.iter().zip(&spans.ranges[1..]) {
        assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end), "{range:?}");
        assert!(range == next || range.end <= next.start || next.start >= range.start, "{range:?} {next:?}");
    }
    let end = spans.tokens.iter().position(|&id| id == 2).unwrap();
    assert_eq!(&text[spans.ranges[end].clone()], "<|im_end|>");
}

#[test]
fn many_texts_keep_their_order() {
    let tokenizer = tiny();
    let texts: Vec<String> = (0..500).map(|n| format!("wheel {n} 轮")).collect();
    let many = tokenizer.encode_many(&texts, SpecialTokens::Parse).unwrap();
    for (text, ids) in texts.iter().zip(many) {
        assert_eq!(tokenizer.encode(text, SpecialTokens::Parse).unwrap(), ids);
    }
}

#[test]
fn saved_files_are_the_loaded_ones() {
    let dir = tests_dir().join("fixtures/tiny");
    let files = Tokenizer::from_dir(&dir).unwrap().files();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]);
    for (name, bytes) in &files {
        assert_eq!(&std::fs::read(dir.join(name)).unwrap(), bytes);
    }
    let other = tiny().with_chat_template("{{ messages }}");
    assert_eq!(other.chat_templates()["default"], "{{ messages }}");
    let again = Tokenizer::from_files(other.files()).unwrap();
    assert_eq!(again.chat_templates()["default"], "{{ messages }}");
}

#[test]
fn what_is_not_a_tokenizer_is_refused() {
    let missing = Tokenizer::load(&tests_dir().join("fixtures")).unwrap_err();
    assert!(matches!(missing, TextError::NoTokenizer { .. }), "{missing}");
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let good = tiny().files().remove(0);
    let broken = |files: Vec<(String, Vec<u8>)>| Tokenizer::from_files(files).unwrap_err().to_string();
    assert!(broken(vec![file("tokenizer.json", "{")]).contains("`tokenizer.json` cannot be used"));
    assert_eq!(
        broken(vec![good.clone(), file("tokenizer_config.json", "[")]),
        "`tokenizer_config.json` is not valid JSON"
    );
    assert_eq!(
        broken(vec![good.clone(), file("tokenizer_config.json", r#"{"chat_template": 3}"#)]),
        "`tokenizer_config.json`: field `chat_template`: expected a text or a list of {name, template}"
    );
    let gap = r#"{"added_tokens_decoder": {"900": {"content": "<|new|>", "special": true}}}"#;
    assert!(broken(vec![good.clone(), file("tokenizer_config.json", gap)]).contains("would get the id 400"));
    let next = gap.replace("900", "400");
    let tokenizer = Tokenizer::from_files(vec![good, file("tokenizer_config.json", &next)]).unwrap();
    assert_eq!(tokenizer.encode("<|new|>", SpecialTokens::Parse).unwrap(), [400]);
}

#[test]
fn named_templates_of_a_configuration_and_of_a_folder() {
    let config =
        r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    let tokenizer_json = tiny().files().remove(0);
    let mut files = vec![tokenizer_json, ("tokenizer_config.json".to_owned(), config.as_bytes().to_vec())];
    let names = |files: &[(String, Vec<u8>)]| {
        let tokenizer = Tokenizer::from_files(files.to_vec()).unwrap();
        tokenizer.chat_templates().iter().map(|(name, source)| format!("{name}={source}")).collect::<Vec<_>>()
    };
    assert_eq!(names(&files), ["default=d", "tool_use=t"]);
    files.push(("chat_template.jinja".to_owned(), b"D".to_vec()));
    files.push(("additional_chat_templates/rag.jinja".to_owned(), b"R".to_vec()));
    assert_eq!(names(&files), ["default=D", "rag=R"]);
}

/// Rows of a head that stand for no token must never be sampled: holes in the vocabulary, and rows past it.
#[test]
fn ids_without_a_token_are_the_holes_and_the_rows_past_the_vocabulary() {
    let (name, bytes) = tiny().files().remove(0);
    let n = tiny().vocab_size();
    assert_eq!(tiny().ids_without_token(n), [] as [u32; 0]);
    assert_eq!(tiny().ids_without_token(n + 2), [n as u32, n as u32 + 1]);
    // The last entry of the vocabulary that no merge and no added token needs moves past the end, and leaves a hole.
    let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let merges = json["model"]["merges"].to_string();
    let is_added =
        |entry: &str| json["added_tokens"].as_array().unwrap().iter().any(|token| token["content"] == entry);
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let free = vocab
        .iter()
        .filter(|(entry, _)| entry.chars().count() == 1 && !is_added(entry) && !merges.contains(&***entry));
    let (entry, hole) =
        free.map(|(entry, id)| (entry.clone(), id.as_u64().unwrap())).max_by_key(|(_, id)| *id).unwrap();
    json["model"]["vocab"][&entry] = (n + 3).into();
    let moved = Tokenizer::from_files(vec![(name, json.to_string().into_bytes())]).unwrap();
    let hole = hole as u32;
    let n = n as u32;
    assert_eq!(moved.vocab_size(), n as usize + 4);
    assert_eq!(moved.ids_without_token(n as usize + 6), [hole, n, n + 1, n + 2, n + 4, n + 5]);
    // A head with fewer rows than the vocabulary: only its own rows count.
    assert_eq!(moved.ids_without_token(n as usize + 1), [hole, n]);
    assert_eq!(moved.ids_without_token(hole as usize), [] as [u32; 0]);
    assert!(moved.token_text(hole).is_none() && moved.token_text(n + 3).is_some());
}
