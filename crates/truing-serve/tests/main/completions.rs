//! `/v1/completions`, and token ids in and out.

use serde_json::{Value, json};
use truing_serve::ServeOptions;

use crate::setup::{CONTEXT_LENGTH, renderer, start, with};

#[test]
fn several_prompts_are_completed_in_order() {
    let server = start(ServeOptions::default());
    let ask = |prompt: Value, more: Value| {
        let body = with(json!({"prompt": prompt, "max_tokens": 5, "seed": 3}), more);
        let reply = server.post("/v1/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    };
    let texts = ["one two", "three", "four five six"];
    let all = ask(json!(texts), json!({}));
    assert_eq!(all["object"], "text_completion");
    let choices = all["choices"].as_array().unwrap();
    for (idx, text) in texts.iter().enumerate() {
        let alone = ask(json!(text), json!({}));
        assert_eq!(choices[idx]["index"], idx);
        assert_eq!(choices[idx]["text"], alone["choices"][0]["text"]);
        let tokens = renderer().tokenizer().encode_prompt(text).unwrap();
        assert_eq!(ask(json!(tokens), json!({}))["choices"][0]["text"], alone["choices"][0]["text"]);
        assert_eq!(ask(json!([tokens]), json!({}))["choices"][0]["text"], alone["choices"][0]["text"]);
    }
    assert_eq!(all["usage"]["completion_tokens"], 15);
    let groups = ask(json!(texts), json!({"n": 2}));
    let indices: Vec<u64> = groups["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5]);
    assert_ne!(groups["choices"][0]["text"], groups["choices"][1]["text"]);
    let many = ask(json!(vec!["a"; 400]), json!({"max_tokens": 1}));
    assert_eq!(many["choices"].as_array().unwrap().len(), 400, "more prompts than places are one request");
    // Streamed they are the same texts.
    let body = json!({"prompt": texts, "max_tokens": 5, "seed": 3, "n": 2, "stream": true});
    let events = server.stream("/v1/completions", &body);
    for choice in groups["choices"].as_array().unwrap() {
        let pieces =
            events.iter().map(|event| &event["choices"][0]).filter(|one| one["index"] == choice["index"]);
        let text: String = pieces.map(|piece| piece["text"].as_str().unwrap()).collect();
        assert_eq!(choice["text"], text.as_str());
    }
}

/// What lm-evaluation-harness asks for: the log-probabilities of the prompt's own tokens.
#[test]
fn an_echo_scores_the_prompt() {
    let server = start(ServeOptions::default());
    let tokens = renderer().tokenizer().encode_prompt("one two three four").unwrap();
    let body = json!({"prompt": tokens, "echo": true, "logprobs": 1, "temperature": 0});
    let scored = server.post("/v1/completions", &with(body.clone(), json!({"max_tokens": 0}))).json();
    let longer = server.post("/v1/completions", &with(body, json!({"max_tokens": 2}))).json();
    let of = |reply: &Value, name: &str| reply["choices"][0]["logprobs"][name].as_array().unwrap().clone();
    assert_eq!(scored["choices"][0]["text"], "one two three four");
    assert_eq!(of(&scored, "tokens").len(), tokens.len());
    assert_eq!(of(&longer, "tokens").len(), tokens.len() + 2);
    assert_eq!(of(&scored, "token_logprobs")[0], Value::Null);
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(of(&scored, name)[..], of(&longer, name)[..tokens.len()], "{name}");
    }
    let generated = server.post(
        "/inference/v1/generate",
        &json!({
            "token_ids": tokens, "request_id": "mine",
            "sampling_params": {"max_tokens": 2, "temperature": 0, "prompt_logprobs": 0, "logprobs": 1}
        }),
    );
    let generated = generated.json();
    assert_eq!(generated["request_id"], "mine");
    for (idx, token) in tokens.iter().enumerate().skip(1) {
        let entry = &generated["prompt_logprobs"][idx][token.to_string()];
        assert_eq!(entry["logprob"], of(&scored, "token_logprobs")[idx]);
        let top = of(&scored, "top_logprobs")[idx].clone();
        let best = top.as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert_eq!(entry["rank"] == 1, best == entry["logprob"].as_f64().unwrap());
    }
    let last = &generated["choices"][0]["logprobs"]["content"][1];
    assert_eq!(last["logprob"], of(&longer, "token_logprobs")[tokens.len() + 1]);
    let ids = generated["choices"][0]["token_ids"].as_array().unwrap();
    assert_eq!(last["token"], format!("token_id:{}", ids[1]));
    // Scores do not depend on the batch.
    let many = json!({"prompt": vec![tokens.clone(); 5], "max_tokens": 0, "echo": true, "logprobs": 1});
    let many = server.post("/v1/completions", &many).json();
    for choice in many["choices"].as_array().unwrap() {
        assert_eq!(choice["logprobs"], scored["choices"][0]["logprobs"]);
    }
    // Offsets count characters of the whole text.
    let offsets = of(&scored, "text_offset");
    let texts = of(&scored, "tokens");
    let mut at = 0;
    for (offset, text) in offsets.iter().zip(&texts) {
        assert_eq!(offset, at);
        at += text.as_str().unwrap().chars().count();
    }
}

#[test]
fn tokens_and_texts_are_turned_into_each_other() {
    let server = start(ServeOptions::default());
    let reply = server.post("/tokenize", &json!({"prompt": "轮子 wheel", "return_token_strs": true})).json();
    let tokens = renderer().tokenizer().encode_prompt("轮子 wheel").unwrap();
    assert_eq!(reply["tokens"], json!(tokens));
    assert_eq!(reply["token_strs"].as_array().unwrap().len(), tokens.len());
    let text = server.post("/detokenize", &json!({"tokens": tokens})).json();
    assert_eq!(text["prompt"], "轮子 wheel");
    assert_eq!(server.post("/detokenize", &json!({"tokens": [9_999_999]})).param(), "tokens");
    assert_eq!(server.post("/tokenize", &json!({})).param(), "prompt");
}

#[test]
fn prompts_that_cannot_be_read_are_named() {
    let server = start(ServeOptions::default());
    for (body, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [[]]}), "prompt"),
        (json!({"prompt": ["a", 3]}), "prompt"),
        (json!({"prompt": [3, -1]}), "prompt"),
        (json!({"prompt": [4_000_000_000_u32]}), "prompt"),
        (json!({"prompt": vec![5; CONTEXT_LENGTH + 1]}), "prompt"),
        (json!({"prompt": vec![5; CONTEXT_LENGTH]}), "prompt"),
        (json!({"prompt": "x", "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": "x", "echo": true, "stream": true}), "echo"),
        (json!({"prompt": "x", "best_of": 3}), "best_of"),
        (json!({"prompt": "x", "suffix": "y"}), "suffix"),
    ] {
        let reply = server.post("/v1/completions", &body);
        assert_eq!(reply.param(), param, "{} {}", body, reply.body);
    }
    // The longest prompt that can be scored.
    let body = json!({"prompt": vec![5; CONTEXT_LENGTH], "max_tokens": 0, "echo": true, "logprobs": 0});
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    assert_eq!(server.post("/inference/v1/generate", &json!({"token_ids": []})).param(), "token_ids");
    let body = json!({"token_ids": [3], "sampling_params": {"max_tokens": CONTEXT_LENGTH}});
    assert_eq!(server.post("/inference/v1/generate", &body).param(), "sampling_params.max_tokens");
}
