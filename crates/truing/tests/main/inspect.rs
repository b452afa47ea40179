//! `truing inspect` on a small model and rows of our own.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::command::{Finished, run};
use crate::tiny_model;

/// A folder with a model and the rows given.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(rows: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny_model::write(&folder.path().join("model"));
        fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
        Self { folder }
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn inspect(&self, what: &str, more: &[&str]) -> Finished {
        let (model, rows) = (self.model(), self.folder.path().join("rows.jsonl"));
        let mut arguments =
            vec!["inspect", what, "--model", model.to_str().unwrap(), "--data", rows.to_str().unwrap()];
        arguments.extend(more);
        let mut finished = run(self.folder.path(), arguments);
        finished.stdout = finished.stdout.replace(&format!("{}/", self.folder.path().display()), "");
        finished
    }
}

const ROWS: &str = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes"}]}
{"messages":[{"role":"user","content":"No answer"}]}
{"messages":[{"role":"user","content":"é\u001b[2J"},{"role":"assistant","content":"é"}]}
"#;

#[test]
fn a_conversation_shows_what_carries_loss() {
    let bench = Bench::new(ROWS);
    let shown = bench.inspect("conversation", &["--max-length", "20"]).expect_status(0);
    // The tiny tokenizer knows the special tokens whole and all else by the byte.
    let expected = "\
rows.jsonl:1, messages
26 tokens, 4 with loss (15.4 %)

<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant✂
⟦Yes<|im_end|>⟧

⟦carries loss⟧
end of turn: `<|im_end|>` (257), 1 of 2 with loss
cut at 20 tokens: 6 are lost, 4 with loss
";
    assert_eq!(shown.stdout, expected);
}

#[test]
fn bytes_of_one_character_and_control_characters_are_shown_safely() {
    let shown = Bench::new(ROWS).inspect("conversation", &["--row", "3", "--tokens"]).expect_status(0);
    assert!(shown.stdout.contains("é\\u{1b}[2J<|im_end|>"), "{}", shown.stdout);
    assert!(shown.stdout.contains("⟦é<|im_end|>⟧"), "{}", shown.stdout);
    assert!(shown.stdout.contains("\"<0xC3>\""), "{}", shown.stdout);
    assert!(!shown.stdout.contains('\u{1b}'));
}

#[test]
fn a_bad_or_absent_row_is_named() {
    let bench = Bench::new(ROWS);
    bench
        .inspect("conversation", &["--row", "2"])
        .expect_status(2)
        .expect_stderr(&["rows.jsonl:2: `messages` has no assistant turn that carries loss"]);
    bench
        .inspect("conversation", &["--row", "9"])
        .expect_status(2)
        .expect_stderr(&["there is no row 9", "hint: the last row is 3"]);
}

#[test]
fn a_data_set_with_bad_rows_is_a_finding() {
    let bench = Bench::new(ROWS);
    let shown = bench.inspect("data", &["--max-length", "64"]).expect_status(1);
    for text in [
        "messages",
        "1 bad rows",
        "rows.jsonl:2: `messages` has no assistant turn",
        "packed into 64 tokens: 1 packs",
    ] {
        assert!(shown.stdout.contains(text), "no `{text}` in {}", shown.stdout);
    }
    let shown = bench.inspect("data", &["--json"]).expect_status(1);
    let json: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(json["sources"][0]["n_samples"], 2);
    assert_eq!(json["sources"][0]["format"], "messages");
    assert_eq!(json["n_bad_rows"], 1);
    assert_eq!(json["sources"][0]["n_loss_tokens"], 4 + 3);
}

#[test]
fn a_model_shows_its_parts_and_what_is_missing() {
    let bench = Bench::new("");
    let model = bench.model();
    let path = model.to_str().unwrap();
    let shown = run(bench.folder.path(), ["inspect", "model", path]).expect_status(0);
    for text in [
        "LlamaForCausalLM",
        "4 of width 8, 2 for keys and values",
        "head tied",
        "F32",
        "default (",
        "marks what",
    ] {
        assert!(shown.stdout.contains(text), "no `{text}` in {}", shown.stdout);
    }
    let shown = run(bench.folder.path(), ["inspect", "model", path, "--json"]).expect_status(0);
    let json: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(json["spec"]["n_layers"], 2);
    let in_file = json["n_bytes"].as_u64().unwrap();
    assert_eq!(in_file, 4 * json["n_parameters"].as_u64().unwrap());

    fs::remove_file(model.join("tokenizer.json")).unwrap();
    fs::write(model.join("config.json"), "{\"architectures\": [\"BirdForCausalLM\"]}").unwrap();
    let shown = run(bench.folder.path(), ["inspect", "model", path]).expect_status(1);
    assert!(shown.stdout.contains("BirdForCausalLM") && shown.stdout.contains("F32"), "{}", shown.stdout);
    assert_eq!(shown.stdout.matches("problem: ").count(), 2, "{}", shown.stdout);
}

#[test]
fn real_chats_pack_to_98_percent() {
    let (Some(model), Some(shared)) =
        (std::env::var_os("TRUING_TEST_GGUF"), std::env::var_os("TRUING_TEST_SHARED"))
    else {
        println!("skipped: TRUING_TEST_GGUF or TRUING_TEST_SHARED is not set");
        return;
    };
    let rows = PathBuf::from(shared).join("data/math/gsm8k_train.jsonl.gz");
    let home = tempfile::tempdir().unwrap();
    let mut arguments: Vec<std::ffi::OsString> = vec!["inspect".into(), "data".into(), "--json".into()];
    arguments.extend(["--model".into(), model, "--data".into(), rows.into()]);
    arguments
        .extend(["--column", "prompt=question", "--column", "completion=answer", "--chat"].map(Into::into));
    let shown = run(home.path(), arguments).expect_status(0);
    let json: Value = serde_json::from_str(&shown.stdout).unwrap();
    let utilisation = json["packing"]["utilisation"].as_f64().unwrap();
    assert!(utilisation >= 0.98, "{utilisation}");
}
