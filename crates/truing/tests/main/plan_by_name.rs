//! `truing plan` of a model that is a name on the hub, against a server on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{Finished, truing};
use crate::tiny_model;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the files of a folder as the repository `org/tiny`, always whole; returns its address.
fn hub(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
            let siblings: Vec<Value> =
                names.map(|name| json!({ "rfilename": name.to_string_lossy() })).collect();
            let file = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/"));
            let (status, body) = match (path.as_str(), file) {
                ("/api/models/org/tiny/revision/main?blobs=true", _) => {
                    (200, json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
                }
                (_, Some(file)) => (200, fs::read(folder.join(file)).unwrap_or_default()),
                _ => (404, Vec::new()),
            };
            let head =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    address
}

/// Names of all files below a folder.
fn names_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => names_below(&path),
            false => vec![path.file_name().unwrap().to_string_lossy().into_owned()],
        })
        .collect()
}

#[test]
fn a_plan_by_name_fetches_no_weights_and_a_run_does() {
    let home = tempfile::tempdir().unwrap();
    let served = home.path().join("served");
    tiny_model::write(&served);
    let address = hub(served);
    let row = r#"{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}"#;
    fs::write(home.path().join("rows.jsonl"), format!("{row}\n{row}\n")).unwrap();
    let recipe = "stage = \"sft\"\nmodel_name_or_path = \"org/tiny\"\noutput_dir = \"run\"\nmax_length = 64\n\
                  [[data]]\npath = \"rows.jsonl\"\n";
    fs::write(home.path().join("recipe.toml"), recipe).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = truing(home.path());
        command.env("HF_ENDPOINT", &address).env_remove("HF_HUB_OFFLINE").current_dir(home.path());
        Finished::of(command.args(arguments).output().unwrap())
    };
    let is_weights = |name: &String| name.ends_with(".safetensors");
    let weights = || names_below(&home.path().join(".cache")).into_iter().filter(is_weights).count();

    for arguments in [&["plan", "recipe.toml", "--json"][..], &["sft", "recipe.toml", "--plan", "--json"]] {
        let planned = run(arguments).expect_status(0).expect_stderr(&["org/tiny: without the weights"]);
        let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
        assert_eq!((&plan["content_key"], &plan["warnings"]), (&Value::Null, &json!([])));
        let rows = &plan["rows"];
        assert!(rows["parameters of the model"].as_u64().unwrap() > 1000, "{rows}");
        assert!(rows["disk for checkpoints and model"].as_u64().unwrap() > 1000, "{rows}");
        assert_eq!(weights(), 0);
    }
    run(&["sft", "recipe.toml"]).expect_status(0);
    assert_eq!(weights(), 1);
    let planned = run(&["plan", "recipe.toml", "--json"]).expect_status(0);
    let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert!(plan["content_key"].is_string(), "{plan}");
}
