//! Every golden row: the text byte for byte, then the token ids.

use serde_json::Value;
use truing_text::{ChatTemplate, SpecialTokens, Tokenizer};
use truing_types::Message;

use crate::support::*;

/// Renders and tokenizes every row; differences are collected so that one run shows them all.
fn check(name: &str, tokenizer: &Tokenizer, template: &ChatTemplate) {
    let mut problems = Vec::new();
    let rows = golden(name);
    for row in &rows {
        let label =
            format!("{name}: {} (prompt {}, {})", row["name"], row["add_generation_prompt"], row["extra"]);
        let result = template.render(&conversation(row), &options(row));
        match (result, row.get("text").and_then(Value::as_str)) {
            (Ok(rendered), Some(expected)) => {
                if rendered.text != expected {
                    problems
                        .push(format!("{label}\n  expected {expected:?}\n     found {:?}", rendered.text));
                    continue;
                }
                let found = tokenizer.encode_with_ranges(&rendered.text, SpecialTokens::Parse).unwrap();
                if row.get("ids").is_some() && found.tokens != ids(&row["ids"]) {
                    problems
                        .push(format!("{label}\n  expected {}\n     found {:?}", row["ids"], found.tokens));
                }
                if let Some(mask) = row.get("assistant_mask") {
                    let expected: Vec<bool> = ids(mask).iter().map(|&bit| bit == 1).collect();
                    let marked: Vec<bool> = found
                        .ranges
                        .iter()
                        .map(|range| {
                            rendered
                                .generation_spans
                                .iter()
                                .any(|s| range.start < s.end && range.end > s.start)
                        })
                        .collect();
                    if marked != expected {
                        problems.push(format!("{label}: generation spans {:?}", rendered.generation_spans));
                    }
                }
            }
            (Err(_), None) => {}
            (Ok(rendered), None) => {
                problems
                    .push(format!("{label}\n  expected {}\n     found {:?}", row["error"], rendered.text));
            }
            (Err(error), Some(expected)) => {
                problems.push(format!("{label}\n  expected {expected:?}\n     found {error}"));
            }
        }
    }
    assert!(problems.is_empty(), "{} of {} rows differ\n{}", problems.len(), rows.len(), problems.join("\n"));
}

fn check_own(name: &str) {
    let tokenizer = tiny();
    let template = ChatTemplate::from_source(&template_source(name))
        .unwrap()
        .with_special_tokens(tokenizer.named_tokens().clone());
    check(&format!("tiny_{name}"), &tokenizer, &template);
}

fn check_npm(name: &str) {
    let Some(dir) = npm_package(name) else { return };
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    check(name, &tokenizer, &ChatTemplate::from_tokenizer(&tokenizer).unwrap());
}

#[test]
fn our_chatml_template() {
    check_own("chatml");
}

#[test]
fn our_template_with_generation_blocks() {
    check_own("generation");
}

#[test]
fn our_template_that_refuses() {
    check_own("strict");
}

#[test]
fn python_corners() {
    check_own("python");
}

#[test]
fn llama_3_1() {
    check_npm("llama3_1");
}

#[test]
fn llama_3_2() {
    check_npm("llama3_2");
}

#[test]
fn qwen_2_5() {
    check_npm("qwen2_5");
}

#[test]
fn qwen_3() {
    check_npm("qwen3");
}

#[test]
fn smollm2() {
    let Some(path) = from_environment("TRUING_TEST_GGUF") else { return };
    let tokenizer = Tokenizer::load(&path).unwrap();
    check("smollm2", &tokenizer, &ChatTemplate::from_tokenizer(&tokenizer).unwrap());
}

#[test]
fn smollm2_against_llama_cpp() {
    let (Some(path), Some(shared)) =
        (from_environment("TRUING_TEST_GGUF"), from_environment("TRUING_TEST_SHARED"))
    else {
        return;
    };
    let tokenizer = Tokenizer::load(&path).unwrap();
    let rows = jsonl(&shared.join("data/reference/smollm2_tokenize.jsonl"));
    assert_eq!(rows.len(), 112);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, SpecialTokens::AsText).unwrap(), ids(&row["ids"]), "{text:?}");
        let parsed = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(parsed, ids(&row["ids_parse_special"]), "{text:?}");
        assert_eq!(tokenizer.decode(&parsed, false).unwrap(), text);
    }
    let renderer = truing_text::ChatRenderer::new(tokenizer, Default::default()).unwrap();
    for row in jsonl(&shared.join("data/reference/smollm2_chat_template.jsonl")) {
        let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
        let conversation = truing_types::Conversation { messages, tools: Vec::new() };
        assert_eq!(renderer.prompt_text(&conversation).unwrap(), row["prompt"].as_str().unwrap());
        assert_eq!(renderer.prompt(&conversation).unwrap(), ids(&row["ids"]));
    }
}
