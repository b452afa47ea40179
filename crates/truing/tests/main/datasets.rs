//! A recipe that names a data set of the hub, against a server on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::command::truing;
use crate::tiny_model;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILE: &str = "data/train_sft-00000-of-00001.jsonl";

/// Serves the repository `org/chat` with one file; returns its address, and counts the requests.
fn hub(rows: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let n_requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_requests);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let siblings = serde_json::json!([{ "rfilename": FILE, "size": rows.len() }]);
            let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
            let (status, body) = match path.as_str() {
                "/api/datasets/org/chat/revision/main?blobs=true" => (200, listing.as_str()),
                other if other == format!("/datasets/org/chat/resolve/{COMMIT}/{FILE}") => {
                    (200, rows.as_str())
                }
                _ => (404, ""),
            };
            let head =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    (address, n_requests)
}

#[test]
fn a_data_set_of_the_hub_is_named_in_a_recipe_fetched_once_and_used_offline() {
    let home = tempfile::tempdir().unwrap();
    tiny_model::write(&home.path().join("model"));
    let row = r#"{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}"#;
    let (address, n_requests) = hub(format!("{row}\n{row}\n"));
    let recipe = "stage = \"sft\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\nmax_length = 64\n\
                  [[data]]\npath = \"org/chat:train_sft\"\n";
    fs::write(home.path().join("recipe.toml"), recipe).unwrap();
    let run = |arguments: &[&str], is_offline: bool| {
        let mut command = truing(home.path());
        command.env("HF_ENDPOINT", &address).env_remove("HF_HUB_OFFLINE").current_dir(home.path());
        if is_offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, stderr) = run(&["sft", "recipe.toml"], false);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(n_requests.load(Ordering::SeqCst), 2);
    let inputs = fs::read_to_string(home.path().join("run/inputs.json")).unwrap();
    assert!(inputs.contains("train_sft-00000-of-00001.jsonl"), "{inputs}");
    let (status, stderr) = run(&["sft", "recipe.toml", "--set", "output_dir=again"], true);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(n_requests.load(Ordering::SeqCst), 2, "nothing is asked again");
    let (status, stderr) = run(&["plan", "recipe.toml", "--set", "data.0.path=org/chat:dev"], false);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("it has no split `dev`; it has `org/chat:train_sft`"), "{stderr}");
    assert!(
        stderr.contains("copy its files to this machine") && stderr.contains("HF_HUB_OFFLINE=1"),
        "{stderr}"
    );
}
