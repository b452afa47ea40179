//! `truing annotate` as a user meets it: links, a killed server, status and export.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::command::{run_inside, truing};

const RECIPE: &str = r#"
output_dir = "project"
data = [{ path = "items.jsonl" }]
annotator = [{ name = "ana" }]
overlap = 1

[[question]]
name = "preference"
annotation_type = "ranking"
"#;

/// A server with what it printed before it listened.
struct Server {
    child: Child,
    printed: Vec<String>,
    port: u16,
}

impl Server {
    fn start(home: &Path) -> Self {
        let mut command = truing(home);
        let command = command.current_dir(home).args(["annotate", "serve", "recipe.toml", "--port", "0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut server = Self { child, printed: Vec::new(), port: 0 };
        for line in lines {
            if let Some(rest) = line.strip_prefix("listening on http://127.0.0.1:") {
                server.port = rest.split(' ').next().unwrap().parse().unwrap();
                return server;
            }
            server.printed.push(line);
        }
        let printed = server.printed.clone();
        server.kill();
        panic!("the server did not start: {printed:?}");
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// SIGKILL: nothing of it runs any more.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn an_acknowledged_answer_survives_a_kill_and_becomes_training_data() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("recipe.toml"), RECIPE).unwrap();
    let item = json!({"id": "one", "prompt": "Say good.", "responses": ["good", "bad"]});
    fs::write(home.path().join("items.jsonl"), format!("{item}\n")).unwrap();
    let server = Server::start(home.path());
    let [ana, owner] = &server.printed[..] else { panic!("{:?}", server.printed) };
    assert!(
        ana.starts_with("ana (annotator): http://127.0.0.1:") && owner.starts_with("owner (status page): ")
    );
    let (page, token) = ana.split_once("/?token=").unwrap();
    assert!(page.ends_with(&server.port.to_string()) && token.len() == 32, "{ana}");
    let token = &token.to_owned();
    let shown = server.post("/api/next", token, &json!({}))["item"].clone();
    let submission = json!({
        "submission": "s",
        "item": "one",
        "item_digest": shown["item_digest"],
        "version": 0,
        "answers": {"preference": {"ranks": [1, 2]}},
        "order": [0, 1],
        "started_ms": 0,
        "finished_ms": 0,
    });
    let stored = server.post("/api/submit", token, &submission)["stored"].clone();
    server.kill();
    // Links are shown once; the token stays.
    let server = Server::start(home.path());
    assert!(server.printed.is_empty(), "{:?}", server.printed);
    assert_eq!(server.post("/api/submit", token, &submission)["stored"], stored);
    assert_eq!(server.post("/api/next", token, &json!({}))["item"], Value::Null);
    server.kill();

    let status = run_inside(home.path(), ["annotate", "status", "project", "--json"]).expect_status(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&status["progress"]["n_answers"], &status["progress"]["n_complete"]), (&json!(1), &json!(1)));
    run_inside(home.path(), ["annotate", "status", "project"]).expect_status(0);
    let exported = run_inside(home.path(), ["annotate", "export", "project", "-o", "out"]).expect_status(0);
    assert_eq!(
        exported.stdout,
        "out: 1 pair, 1 ranked group, 0 edited responses, 0 rows with labels of 1 complete item\n"
    );
    let pair: Value =
        serde_json::from_str(&fs::read_to_string(home.path().join("out/preferences.jsonl")).unwrap())
            .unwrap();
    assert_eq!(
        (&pair["chosen"][0]["content"], &pair["rejected"][0]["content"]),
        (&json!("good"), &json!("bad"))
    );

    // An answer whose item is gone is reported by every command that leaves it out.
    let other = json!({"id": "two", "prompt": "Say good.", "responses": ["good", "bad"]});
    fs::write(home.path().join("items.jsonl"), format!("{other}\n")).unwrap();
    for command in ["status", "export"] {
        let told = run_inside(home.path(), ["annotate", command, "project", "--json"]).expect_status(0);
        let told = told.expect_stderr(&["1 entry is about items that the data does not have"]);
        let found: Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(found["n_stray"], 1, "{found}");
    }
}

#[test]
fn a_wrong_recipe_is_refused_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("recipe.toml"), RECIPE.replace("overlap = 1", "overlap = 2")).unwrap();
    let refused =
        run_inside(home.path(), ["annotate", "serve", "recipe.toml", "--port", "0"]).expect_status(2);
    refused.expect_stderr(&[
        "recipe.toml:5: `overlap` is 2: expected at most the number of [[annotator]] tables",
    ]);
    let no_project = run_inside(home.path(), ["annotate", "status", "project"]).expect_status(2);
    no_project.expect_stderr(&["`recipe.resolved.toml` is missing"]);
}
