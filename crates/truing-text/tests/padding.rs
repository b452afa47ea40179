//! The token that pads batches of scored conversations, for the special tokens of each family.

use serde_json::{Value, json};
use truing_text::{ChatRenderer, RenderOptions, Tokenizer};

use crate::support::npm_package;

const VOCAB: usize = 1 << 20;

/// A tokenizer of three letters and some special tokens, in order of their ids from 3 on.
fn files(special: &[&str], config: Value, padding: Value) -> Vec<(String, Vec<u8>)> {
    let mut vocab = json!({"a": 0, "b": 1, "Ċ": 2});
    let mut added = Vec::new();
    for (place, content) in special.iter().enumerate() {
        vocab[content] = json!(3 + place);
        added.push(json!({
            "id": 3 + place, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": padding, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    let bytes = |value: Value| value.to_string().into_bytes();
    vec![("tokenizer.json".into(), bytes(tokenizer)), ("tokenizer_config.json".into(), bytes(config))]
}

/// Turns between two marks, as the family's own template has them.
fn template(start: &str, end: &str) -> String {
    format!(
        "{{% for m in messages %}}{{{{ '{start}' + m.content + '{end}' }}}}{{% endfor %}}\
         {{% if add_generation_prompt %}}{{{{ '{start}' }}}}{{% endif %}}"
    )
}

fn chosen(special: &[&str], config: Value, turns: Option<(&str, &str)>) -> Option<String> {
    let tokenizer = Tokenizer::from_files(files(special, config, Value::Null)).unwrap();
    let mut renderer = ChatRenderer::new(tokenizer.clone(), RenderOptions::default()).unwrap();
    if let Some((start, end)) = turns {
        renderer = renderer.with_template(&template(start, end)).unwrap();
    }
    renderer.padding(VOCAB).and_then(|id| tokenizer.token_text(id))
}

#[test]
fn each_family_pads_with_a_token_that_ends_no_conversation() {
    let chat_ml = Some(("<|im_start|>", "<|im_end|>\\n"));
    let qwen = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let llama3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"];
    let llama3_2 = ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>"];
    let llama3_names = json!({"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"});
    let llama3_turns = Some(("<|begin_of_text|>", "<|eot_id|>"));
    let llama2 = ["<unk>", "<s>", "</s>"];
    let llama2_names = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    for (what, special, names, turns, expected) in [
        (
            "SmolLM2: padding and end of turn are the same",
            &qwen[..],
            json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}),
            chat_ml,
            Some("<|endoftext|>"),
        ),
        (
            "Qwen, chat",
            &qwen,
            json!({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
            chat_ml,
            Some("<|endoftext|>"),
        ),
        (
            "Qwen, base with a chat template",
            &qwen,
            json!({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}),
            chat_ml,
            Some("<|endoftext|>"),
        ),
        (
            "without a template that token may end a text",
            &qwen,
            json!({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}),
            None,
            None,
        ),
        ("Llama 3", &llama3, llama3_names.clone(), llama3_turns, Some("<|reserved_special_token_0|>")),
        ("Llama 3.2", &llama3_2, llama3_names, llama3_turns, Some("<|finetune_right_pad_id|>")),
        ("Llama 2", &llama2, llama2_names.clone(), Some(("<s>", "</s>")), Some("<unk>")),
        (
            "a padding token that ends every turn",
            &["<s>", "<pad>"],
            json!({"bos_token": "<s>", "pad_token": "<pad>"}),
            Some(("<s>", "<pad>")),
            None,
        ),
        (
            "the beginning is no padding",
            &["<s>", "</s>"],
            json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<s>"}),
            Some(("<s>", "</s>")),
            None,
        ),
        (
            "its own",
            &["<s>", "</s>", "<mine>"],
            json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<mine>"}),
            Some(("<s>", "</s>")),
            Some("<mine>"),
        ),
    ] {
        assert_eq!(chosen(special, names, turns).as_deref(), expected, "{what}");
    }
    let tokenizer = Tokenizer::from_files(files(&llama2, llama2_names, Value::Null)).unwrap();
    assert_eq!(tokenizer.padding(&[].into(), 4), Some(3));
    assert_eq!(tokenizer.padding(&[].into(), 3), None, "a token without a row in the embedding pads nothing");
}

#[test]
fn the_token_of_a_configuration_is_preferred_where_it_can_pad() {
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"];
    let names = json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"});
    let tokenizer = Tokenizer::from_files(files(&special, names, Value::Null)).unwrap();
    let renderer = ChatRenderer::new(tokenizer.clone(), RenderOptions::default()).unwrap();
    let renderer = renderer.with_template(&template("<|im_start|>", "<|im_end|>\\n")).unwrap();
    for (preferred, expected) in [
        (None, "<|endoftext|>"),
        (Some("<pad>"), "<pad>"),
        (Some("<|endoftext|>"), "<|endoftext|>"),
        // What ends a turn, begins one, is a letter, or is no token at all pads nothing.
        (Some("<|im_end|>"), "<|endoftext|>"),
        (Some("<|im_start|>"), "<|endoftext|>"),
        (Some("a"), "<|endoftext|>"),
        (Some("none"), "<|endoftext|>"),
    ] {
        let id = preferred.map(|token| tokenizer.token_id(token).unwrap_or(99));
        let found = renderer.padding_preferring(id, VOCAB).and_then(|id| tokenizer.token_text(id));
        assert_eq!(found.as_deref(), Some(expected), "{preferred:?}");
    }
}

#[test]
fn every_file_that_names_a_padding_token_names_the_chosen_one() {
    let names =
        json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": {"content": "</s>", "lstrip": false}});
    let padding = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 4,
                         "pad_type_id": 0, "pad_token": "</s>"});
    let mut files = files(&["<s>", "</s>", "<pad>"], names, padding);
    files.push(("special_tokens_map.json".into(), br#"{"pad_token": "</s>", "eos_token": "</s>"}"#.to_vec()));
    files.push(("chat_template.jinja".into(), b"{{ messages[0].content }}".to_vec()));
    let tokenizer = Tokenizer::from_files(files).unwrap();
    let changed = tokenizer.with_pad_token(5).unwrap();
    assert_eq!((tokenizer.pad(), changed.pad()), (Some(4), Some(5)));
    let saved: std::collections::BTreeMap<String, Vec<u8>> = changed.files().into_iter().collect();
    let json = |name: &str| serde_json::from_slice::<Value>(&saved[name]).unwrap();
    assert_eq!(json("tokenizer_config.json")["pad_token"], "<pad>");
    assert_eq!(json("special_tokens_map.json"), json!({"pad_token": "<pad>", "eos_token": "</s>"}));
    assert_eq!(json("tokenizer.json")["padding"]["pad_id"], 5);
    assert_eq!(json("tokenizer.json")["padding"]["pad_token"], "<pad>");
    assert_eq!(saved["chat_template.jinja"], b"{{ messages[0].content }}");
    assert_eq!(
        changed.with_pad_token(5).unwrap().files(),
        changed.files(),
        "nothing to change, nothing changed"
    );
    assert!(tokenizer.with_pad_token(99).is_err());
}

#[test]
fn the_published_tokenizers_get_a_fit_padding_token() {
    for (package, expected) in [
        ("llama2", "<unk>"),
        ("llama3", "<|reserved_special_token_0|>"),
        ("llama3_1", "<|reserved_special_token_0|>"),
        ("llama3_2", "<|finetune_right_pad_id|>"),
        ("qwen2_5", "<|endoftext|>"),
        ("qwen3", "<|endoftext|>"),
    ] {
        let Some(directory) = npm_package(package) else { continue };
        let renderer = ChatRenderer::load(&directory, RenderOptions::default()).unwrap();
        let found = renderer.padding(VOCAB).and_then(|id| renderer.tokenizer().token_text(id));
        assert_eq!(found.as_deref(), Some(expected), "{package}");
    }
}
