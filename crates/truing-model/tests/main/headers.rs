//! Models for plans: the headers of weights, against a server of our own on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use truing_model::sources::{FindOptions, FoundModel, ModelOrigin, find_model, find_model_to_plan};
use truing_model::{ModelError, ModelFiles};

use crate::sources::{COMMIT, Files, MODEL, Reply, Server, assert_is_tiny, find, hub, options, tiny_files};
use crate::tiny_model;

const WEIGHTS: &str = "model.safetensors";
/// What is asked for first.
const FIRST_BYTES: usize = 1 << 16;

fn find_to_plan(cache: &Path, server: &Server) -> Result<FoundModel, ModelError> {
    find_model_to_plan(MODEL, &options(cache, server), &mut |_| {})
}

/// The byte ranges of weights files that were asked for.
fn ranges(server: &Server) -> Vec<(Option<usize>, Option<usize>)> {
    server.requests(".safetensors").iter().map(|request| (request.from, request.to)).collect()
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn assert_is_planned(found: &FoundModel) {
    assert_eq!(found.origin, ModelOrigin::Headers { commit: COMMIT.into() });
    let files = ModelFiles::open(&found.path).unwrap();
    assert_eq!(files.spec, ModelFiles::open(&tiny_model("mistral")).unwrap().spec);
    let error = files.load().unwrap_err();
    let problem = std::error::Error::source(&error).unwrap().to_string();
    assert!(problem.contains("the weights were not fetched"), "{problem}");
}

/// The header of a safetensors file and its data.
fn parts(bytes: &[u8]) -> (Map<String, Value>, &[u8]) {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), &bytes[end..])
}

fn join(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// The tiny model with a header of more than 150,000 bytes.
fn files_with_long_header() -> Files {
    let mut files = tiny_files();
    let (mut header, data) = parts(&files[WEIGHTS]);
    header.insert("__metadata__".into(), json!({ "notes": "n".repeat(150_000) }));
    let bytes = join(&header, data);
    files.insert(WEIGHTS.into(), bytes);
    files
}

/// The tiny model in two shards.
fn files_in_shards() -> Files {
    let mut files = tiny_files();
    let whole = files.remove(WEIGHTS).unwrap();
    let (header, data) = parts(&whole);
    let tensors: Vec<(&String, &Value)> = header.iter().filter(|(name, _)| *name != "__metadata__").collect();
    let mut weight_map = Map::new();
    for (shard, tensors) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let (mut header, mut bytes) = (Map::new(), Vec::new());
        for (tensor, entry) in tensors {
            let offset = |idx: usize| entry["data_offsets"][idx].as_u64().unwrap() as usize;
            let start = bytes.len();
            bytes.extend_from_slice(&data[offset(0)..offset(1)]);
            let mut entry = (*entry).clone();
            entry["data_offsets"] = json!([start, bytes.len()]);
            header.insert((*tensor).clone(), entry);
            weight_map.insert((*tensor).clone(), name.clone().into());
        }
        files.insert(name, join(&header, &bytes));
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    files
}

#[test]
fn a_plan_needs_the_header_of_the_weights_alone() {
    let server = hub(tiny_files(), |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let found = find_to_plan(cache.path(), &server).unwrap();
    assert_is_planned(&found);
    assert_eq!(ranges(&server), [(Some(0), Some(FIRST_BYTES - 1))]);

    // Nothing of it looks like a model.
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    assert!(!files_below(cache.path()).iter().any(is_weights), "{:?}", files_below(cache.path()));
    assert!(!cache.path().join("models").exists());
    let offline = FindOptions { is_offline: true, ..options(cache.path(), &server) };
    assert!(matches!(find_model(MODEL, &offline, &mut |_| {}), Err(ModelError::NotFound { .. })));

    // It is found again without the network.
    let n_requests = server.requests("").len();
    assert_eq!(find_model_to_plan(MODEL, &offline, &mut |_| {}).unwrap(), found);
    assert_eq!(server.requests("").len(), n_requests);

    // The whole model is fetched as if nothing were there, and is what plans see from then on.
    let whole = find(cache.path(), &server).unwrap();
    assert_is_tiny(&whole);
    assert_eq!(
        find_to_plan(cache.path(), &server).unwrap(),
        FoundModel { origin: ModelOrigin::Cache, ..whole }
    );
}

#[test]
fn a_long_header_is_asked_for_in_two_parts() {
    let files = files_with_long_header();
    let length = 8 + u64::from_le_bytes(files[WEIGHTS][..8].try_into().unwrap()) as usize;
    let server = hub(files, |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    assert_is_planned(&find_to_plan(cache.path(), &server).unwrap());
    assert_eq!(ranges(&server), [(Some(0), Some(FIRST_BYTES - 1)), (Some(FIRST_BYTES), Some(length - 1))]);
}

#[test]
fn a_server_without_ranges_is_read_to_the_end_of_the_header() {
    for files in [tiny_files(), files_with_long_header()] {
        let whole = files[WEIGHTS].clone();
        let length = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        // No more arrives: whoever waits for it finds the answer cut off.
        let cut_after = Some(length.max(FIRST_BYTES));
        let server = hub(files, move |_, _, _| Reply { cut_after, ..Reply::part(&whole, None) });
        let cache = tempfile::tempdir().unwrap();
        assert_is_planned(&find_to_plan(cache.path(), &server).unwrap());
        assert_eq!(ranges(&server).len(), 1);
    }
}

#[test]
fn shards_have_a_header_each() {
    let server = hub(files_in_shards(), |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    assert_is_planned(&find_to_plan(cache.path(), &server).unwrap());
    assert_eq!(ranges(&server).iter().filter(|(from, _)| from.is_some()).count(), 2);
    assert_is_tiny(&find(cache.path(), &server).unwrap());
}

#[test]
fn an_interrupted_header_is_asked_for_again_and_a_broken_one_is_refused() {
    let server =
        hub(
            tiny_files(),
            |reply, _, n_before| {
                if n_before == 0 { Reply { cut_after: Some(100), ..reply } } else { reply }
            },
        );
    let cache = tempfile::tempdir().unwrap();
    assert_is_planned(&find_to_plan(cache.path(), &server).unwrap());
    assert_eq!(ranges(&server).len(), 2);

    let mut files = tiny_files();
    files.insert(WEIGHTS.into(), vec![0xff; 1000]);
    let server = hub(files, |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let error = find_to_plan(cache.path(), &server).unwrap_err().to_string();
    assert!(error.contains("not a safetensors file"), "{error}");
    assert!(!cache.path().join("headers/org--tiny/refs").exists());
}

#[test]
fn a_header_that_does_not_open_is_fetched_anew() {
    // As long as it says, and no JSON.
    let broken = [&1000_u64.to_le_bytes()[..], &[b'x'; 2000]].concat();
    let server = hub(
        tiny_files(),
        move |reply, _, n_before| {
            if n_before == 0 { Reply::part(&broken, Some(0)) } else { reply }
        },
    );
    let cache = tempfile::tempdir().unwrap();
    assert!(find_to_plan(cache.path(), &server).is_err());
    assert_is_planned(&find_to_plan(cache.path(), &server).unwrap());
}

#[test]
fn a_path_and_a_gguf_file_are_what_they_are_for_a_run() {
    let server = hub(tiny_files(), |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let path = tiny_model("mistral");
    let found = find_model_to_plan(path.to_str().unwrap(), &options(cache.path(), &server), &mut |_| {});
    assert_eq!(found.unwrap(), FoundModel { path, origin: ModelOrigin::Local });
    assert_eq!(server.requests(""), []);
}
