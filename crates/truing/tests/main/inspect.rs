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
        "1 bad row",
        "rows.jsonl:2: `messages` has no assistant turn",
        "packed into 64 tokens: 1 pack,",
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

/// Tools, a call, its result and reasoning; the question names the function, so that a search for its name finds it.
const TOOL_ROW: &str = concat!(
    r#"{"messages":[{"role":"user","content":"Which tides today at Brest?"},{"role":"assistant","#,
    r#""content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"tides","#,
    r#""arguments":"{\"port\": \"Brest\"}"}}]},{"role":"tool","tool_call_id":"c1","name":"tides","#,
    r#""content":"high 06:12"},{"role":"assistant","content":"High at 06:12.","#,
    r#""reasoning_content":"High."}],"tools":[{"type":"function","function":{"name":"tides","#,
    r#""description":"Tide times","parameters":{"type":"object","#,
    r#""properties":{"port":{"type":"string"}}}}}]}"#,
);

#[test]
fn what_the_template_does_not_show_is_noted_in_a_conversation_and_counted_in_a_data_set() {
    let bench = Bench::new(&format!("{}\n{TOOL_ROW}\n{TOOL_ROW}\n", ROWS.lines().next().unwrap()));
    let shown = bench.inspect("conversation", &["--row", "2"]).expect_status(0);
    for text in [
        "note: the template does not show `tools`\n",
        "note: message 1: the template does not show its `tool_calls`: the turn trains only its end token\n",
        "note: message 3: the template does not show its `reasoning_content`\n",
    ] {
        assert!(shown.stdout.contains(text), "no `{text}` in {}", shown.stdout);
    }
    let plain = bench.inspect("conversation", &["--row", "1"]).expect_status(0);
    assert!(!plain.stdout.contains("note:"), "{}", plain.stdout);
    let shown = bench.inspect("data", &["--max-length", "512"]).expect_status(0);
    let counted = "note: the template does not show `tools` (2 times, first in rows.jsonl:2)";
    assert!(shown.stdout.contains(counted), "{}", shown.stdout);
}

#[test]
fn odd_turns_and_pictures_are_noted_for_the_row_that_has_them() {
    let odd = concat!(
        r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":" "},{"role":"assistant","#,
        r#""content":"c"}],"images":["a.png"]}"#,
    );
    let bench = Bench::new(&format!("{odd}\n{odd}\n{}", ROWS.lines().next().unwrap()));
    for row in ["1", "2"] {
        let shown = bench.inspect("conversation", &["--row", row]).expect_status(0);
        for text in [
            "note: message 1: two `user` turns follow each other",
            "note: message 1: a `user` turn is blank",
            "note: `images` is not read",
        ] {
            assert!(shown.stdout.contains(text), "no `{text}` in {}", shown.stdout);
        }
    }
    assert!(!bench.inspect("conversation", &["--row", "3"]).expect_status(0).stdout.contains("note:"));
    let shown = bench.inspect("data", &["--max-length", "64"]).expect_status(0);
    let counted = "note: two `user` turns follow each other (2 times, first in rows.jsonl:1, message 1)";
    assert!(shown.stdout.contains(counted), "{}", shown.stdout);
}

#[test]
fn a_padded_tool_description_is_shown_without_its_nulls_and_an_older_call_as_a_call() {
    let rows = concat!(
        r#"{"messages":[{"role":"user","content":"Add"},{"role":"assistant","content":"5"}],"tools":["#,
        r#"{"type":"function","function":{"name":"add","description":"adds","parameters":{"type":"object","#,
        r#""properties":{"x":{"type":"integer","enum":null},"port":null}},"strict":null}}]}"#,
        "\n",
        r#"{"messages":[{"role":"user","content":"Tide?"},{"role":"assistant","content":null,"#,
        r#""function_call":{"name":"tides","arguments":"{}"}},"#,
        r#"{"role":"function","name":"tides","content":"high"},{"role":"assistant","content":"High."}],"#,
        r#""functions":[{"name":"tides","parameters":{}}]}"#,
        "\n",
    );
    let bench = Bench::new(rows);
    let path = bench.model().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    let tools = "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% for message in messages %}\
        {% for call in message.tool_calls or [] %}{{ call.function | tojson }}\n{% endfor %}{% endfor %}";
    config["chat_template"] = format!("{tools}{template}").into();
    fs::write(&path, config.to_string()).unwrap();
    let shown = bench.inspect("conversation", &["--row", "1"]).expect_status(0);
    let expected = concat!(
        r#"{"type": "function", "function": {"name": "add", "description": "adds","#,
        r#" "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}"#,
    );
    assert!(shown.stdout.contains(expected) && !shown.stdout.contains("null"), "{}", shown.stdout);
    let shown = bench.inspect("conversation", &["--row", "2"]).expect_status(0);
    for text in [
        r#"{"type": "function", "function": {"name": "tides", "parameters": {}}}"#,
        r#"{"name": "tides", "arguments": {}}"#,
    ] {
        assert!(shown.stdout.contains(text), "no `{text}` in {}", shown.stdout);
    }
}
