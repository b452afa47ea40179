//! Embeddings and rewards, with real models where they are found.

use std::path::PathBuf;

use serde_json::{Value, json};
use truing_predict::{EmbedOptions, Embedder};
use truing_serve::{Model, ServeOptions, ServedModel};
use truing_types::Silent;

use crate::setup::{generating, start_with};

fn encoder() -> Option<PathBuf> {
    let found = std::env::var_os("TRUING_TEST_MINILM").map(PathBuf::from);
    if found.is_none() {
        println!("skipped: TRUING_TEST_MINILM names no encoder");
    }
    found
}

#[test]
fn vectors_are_those_of_the_embedder() {
    let Some(path) = encoder() else { return };
    let open = || Embedder::open(&path, EmbedOptions::default(), &mut Silent).unwrap();
    let served =
        ServedModel { name: "minilm".into(), fingerprint: "f".into(), model: Model::Embed(Box::new(open())) };
    let server = start_with(vec![served, generating("tiny", 1)], ServeOptions::default());
    let texts: Vec<String> =
        (0..20).map(|idx| format!("A sentence of {idx} words{}", " more".repeat(idx))).collect();
    let reply = server.post("/v1/embeddings", &json!({"model": "minilm", "input": texts}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = reply.json();
    let data = reply["data"].as_array().unwrap();
    assert_eq!(data.len(), texts.len());
    let mut embedder = open();
    let width = embedder.width();
    for (idx, entry) in data.iter().enumerate() {
        let (expected, _) = embedder.embed(&texts[idx..=idx], &mut |_| {}).unwrap();
        let found: Vec<f64> =
            entry["embedding"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        assert_eq!((entry["index"].as_u64(), found.len()), (Some(idx as u64), width));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - f64::from(*expected)).abs() < 1e-6);
        }
    }
    assert!(reply["usage"]["prompt_tokens"].as_u64().unwrap() > 100);
    for (body, param) in [
        (json!({"model": "minilm", "input": ""}), "input"),
        (json!({"model": "minilm", "input": []}), "input"),
        (json!({"model": "minilm", "input": "x", "dimensions": 3}), "dimensions"),
        (json!({"model": "minilm", "input": "x", "encoding_format": "hex"}), "encoding_format"),
        (json!({"model": "tiny", "input": "x"}), "model"),
    ] {
        assert_eq!(server.post("/v1/embeddings", &body).param(), param);
    }
    let chat: Value = json!({"model": "minilm", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(server.post("/v1/chat/completions", &chat).param(), "model");
}

#[test]
fn only_reward_models_score() {
    let server = start_with(vec![generating("tiny", 1)], ServeOptions::default());
    for (path, body) in [
        ("/v1/score", json!({"text_1": "a", "text_2": "b"})),
        ("/v1/rerank", json!({"query": "a", "documents": ["b"]})),
        ("/rerank", json!({"query": "a", "documents": ["b"]})),
        ("/v1/embeddings", json!({"input": "a"})),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.param(), "model");
        assert!(reply.body.contains("its task is `generate`"), "{}", reply.body);
    }
}
