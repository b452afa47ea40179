//! Weights that are replaced while the server runs: `/update_weights_from_disk`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use truing_model::{
    EngineError, ModelError, ParameterStore as _, ParameterTensor, SaveDtype, SaveOptions, save_pretrained,
};
use truing_serve::{Handling, ServeOptions};

use crate::setup::{TestServer, engine, generating, start, start_with, with};

const PATH: &str = "/update_weights_from_disk";

/// Writes the weights of [`engine`] of a seed.
fn save(folder: &Path, seed: u64) {
    let engine = engine(seed);
    let spec = truing_model::Engine::spec(&engine).decoder().unwrap().clone();
    let options = SaveOptions { dtype: SaveDtype::F32, ..SaveOptions::default() };
    save_pretrained(folder, &spec, &options, |parameter| -> Result<_, ModelError> {
        let idx = engine.parameters().iter().position(|one| one.name == parameter.name).unwrap();
        Ok(engine.read(idx, ParameterTensor::Value).map_err(|error: EngineError| panic!("{error}")).unwrap())
    })
    .unwrap();
}

fn updating() -> TestServer {
    start(ServeOptions { updates_weights: true, ..ServeOptions::default() })
}

/// A prompt that is longer than a piece of the prefix cache.
fn request(n_tokens: usize) -> Value {
    let params = json!({"max_tokens": n_tokens, "seed": 7, "logprobs": 0, "ignore_eos": true});
    json!({"token_ids": vec![5; 130], "sampling_params": params})
}

fn generate(server: &TestServer, n_tokens: usize) -> Value {
    let reply = server.post("/inference/v1/generate", &request(n_tokens));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

#[test]
fn new_weights_answer_as_a_server_that_began_with_them() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 2);
    let server = updating();
    let (before, expected) = (
        generate(&server, 12),
        generate(&start_with(vec![generating("tiny", 2)], ServeOptions::default()), 12),
    );
    assert_eq!(server.metric("truing:prefix_cache_tokens"), 128.0);
    let reply = server.post(PATH, &json!({"model_path": folder.path(), "flush_cache": true}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let (reply, after) = (reply.json(), generate(&server, 12));
    assert_eq!((&reply["success"], &reply["num_paused_requests"]), (&json!(true), &json!(0)));
    // Nothing that was computed with the former weights is left: prompts were cached, and are read again.
    assert_eq!(after["choices"], expected["choices"]);
    assert_ne!(after["choices"], before["choices"]);
    assert_eq!(after["system_fingerprint"], reply["system_fingerprint"]);
    assert_eq!(before["system_fingerprint"], "truing-test-1");
    let chat = server.chat(json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}));
    assert_eq!(chat["system_fingerprint"], reply["system_fingerprint"]);
    assert_eq!(server.get("/v1/models").json()["data"][0]["root"], reply["system_fingerprint"]);
}

#[test]
fn a_request_that_runs_ends_with_the_weights_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 2);
    let server = updating();
    let expected = generate(&server, 400);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| generate(&server, 400));
        // On a quick machine the request may end before this loop sees it.
        while server.metric("vllm:num_requests_running") < 1.0 && !running.is_finished() {
            std::thread::yield_now();
        }
        let reply = server.post(PATH, &json!({"model_path": folder.path()}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let found = running.join().unwrap();
        assert_eq!(found["choices"], expected["choices"]);
        assert_eq!(found["system_fingerprint"], "truing-test-1");
    });
    assert_ne!(generate(&server, 12)["system_fingerprint"], "truing-test-1");
}

#[test]
fn what_cannot_be_used_is_named_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 2);
    let body = json!({"model_path": folder.path()});
    let closed = start(ServeOptions::default()).post(PATH, &body);
    assert_eq!(closed.status, 403);
    assert!(closed.body.contains("--enable-weight-updates"), "{}", closed.body);

    let server = updating();
    let before = generate(&server, 8);
    assert_eq!(server.post(PATH, &json!({})).param(), "model_path");
    assert_eq!(
        server.post(PATH, &json!({"model_path": folder.path().join("missing")})).param(),
        "model_path"
    );
    let endpoint = truing_serve::ENDPOINTS.iter().find(|endpoint| endpoint.path == PATH).unwrap();
    for field in endpoint.fields {
        let reply = server.post(PATH, &with(body.clone(), json!({field.name: [[]]})));
        assert_eq!(reply.param(), field.name, "{}", reply.body);
        if let Handling::Refused(reason) = field.handling {
            assert!(reply.body.contains(reason), "{}", reply.body);
        }
    }
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut other: Value = serde_json::from_str(&config).unwrap();
    other["rope_theta"] = json!(5e5);
    fs::write(folder.path().join("config.json"), other.to_string()).unwrap();
    let reply = server.post(PATH, &body);
    assert!(reply.body.contains("another model: `rope_theta`"), "{}", reply.body);
    fs::write(folder.path().join("config.json"), config).unwrap();
    // A file that was cut is found while it is read, before any parameter is written.
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(server.post(PATH, &body).param(), "model_path");
    let after = generate(&server, 8);
    assert_eq!(after["choices"], before["choices"]);
    assert_eq!(after["system_fingerprint"], before["system_fingerprint"]);
}

/// A trainer keys its random numbers by indices, and asks for one completion of a group at a time.
#[test]
fn a_group_may_be_sampled_in_several_requests() {
    let server = updating();
    let ask = |more: Value| {
        let params = with(json!({"max_tokens": 9, "seed": 3, "logprobs": 0, "temperature": 1.4}), more);
        let reply =
            server.post("/inference/v1/generate", &json!({"token_ids": [5, 6], "sampling_params": params}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["choices"].as_array().unwrap().clone()
    };
    let group = ask(json!({"n": 3, "seed_indices": [1, 2, 0]}));
    let mut singles: Vec<Value> = (0..3).flat_map(|idx| ask(json!({"seed_indices": [1, 2, idx]}))).collect();
    singles.iter_mut().enumerate().for_each(|(idx, choice)| choice["index"] = json!(idx));
    assert_eq!(group, singles);
    assert_ne!(group[0]["token_ids"], group[1]["token_ids"]);
    // The largest index is one as well.
    assert_eq!(ask(json!({"n": 2, "seed_indices": [u64::MAX]})).len(), 2);
    // After the temperature the same tokens have other log-probabilities.
    let processed = ask(json!({"seed_indices": [1, 2, 0], "logprobs_mode": "processed_logprobs"}));
    assert_eq!(processed[0]["token_ids"], group[0]["token_ids"]);
    assert_ne!(processed[0]["logprobs"], group[0]["logprobs"]);
}
