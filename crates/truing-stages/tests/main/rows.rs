//! What becomes of rows, in every stage that reads any: rows left out are all listed in the run's folder, odd rows and
//! what a template does not show are counted with the first place, and changed files are another run.

use crate::classifiers::{self, Model};
use crate::preferences::{self, Stage};
use crate::setup::{self, is_metrics_of, never};
use crate::setup::{append_bad_rows, check_list, skipped};
use crate::{embeddings, policies};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use truing_stages::embed::train::EmbedTrainConfig;
use truing_stages::{Recipe, RunError, SkippedRow, StageError, Start};
use truing_types::Event;

fn warnings(events: &[Event]) -> Vec<&str> {
    let texts = events.iter().filter_map(|event| match event {
        Event::Warning(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[track_caller]
fn check_warned(events: &[Event], expected: &[&str]) {
    let warnings = warnings(events);
    for text in expected {
        assert!(warnings.iter().any(|warning| warning.contains(text)), "no `{text}` in {warnings:#?}");
    }
}

const SKIP: &str = "on_bad_row=skip";

#[test]
fn fine_tuning_lists_every_row_that_it_leaves_out_and_lists_none_where_none_is() {
    let folder = setup::folder();
    append_bad_rows(&folder.path().join("rows.jsonl"));
    let (_, events) = setup::run(folder.path(), &[SKIP, "max_steps=1"], Start::Fresh, never).unwrap();
    check_list(&folder.path().join("run"), "rows.jsonl", 40);
    check_warned(&events, &["the training data: 1101 rows are left out, the first because: "]);
    let clean = setup::folder();
    setup::run(clean.path(), &["max_steps=1"], Start::Fresh, never).unwrap();
    assert!(!clean.path().join("run").join(SkippedRow::FILE_NAME).exists());
}

#[test]
fn rows_of_evaluation_data_are_listed_as_such() {
    let folder = setup::folder();
    let rows = fs::read_to_string(folder.path().join("rows.jsonl")).unwrap();
    fs::write(folder.path().join("eval.jsonl"), format!("{}\nnot json\n", rows.lines().next().unwrap()))
        .unwrap();
    let overrides = [SKIP, "max_steps=1", "eval_fraction=0.0", "eval_data=[{path=\"eval.jsonl\"}]"];
    setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let rows = skipped(&folder.path().join("run"));
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].role.as_str(), rows[0].line), ("evaluation", 2));
}

#[test]
fn preferences_and_reward_models_list_every_row_that_they_leave_out() {
    for stage in [Stage::Dpo, Stage::Reward] {
        let folder = preferences::folder();
        append_bad_rows(&folder.path().join("pairs.jsonl"));
        let overrides = [SKIP, "max_steps=1"];
        let (_, events) = preferences::run(stage, folder.path(), &overrides, Start::Fresh, never).unwrap();
        check_list(&folder.path().join("runs/a"), "pairs.jsonl", 40);
        check_warned(&events, &["1101 rows are left out"]);
    }
}

#[test]
fn a_policy_s_run_lists_rows_of_prompts_evaluation_and_fine_tuning_data() {
    let folder = policies::folder();
    append_bad_rows(&folder.path().join("prompts.jsonl"));
    let overrides = [SKIP, "max_steps=1"];
    let (_, events) = policies::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    check_list(&folder.path().join("run"), "prompts.jsonl", 9);
    check_warned(&events, &["the prompts: 1101 rows are left out"]);

    let folder = policies::folder();
    fs::write(folder.path().join("eval.jsonl"), "{\"prompt\": \"Say 1.\"}\nnot json\n").unwrap();
    let ptx = fs::read_to_string(folder.path().join("rows.jsonl")).unwrap();
    fs::write(folder.path().join("ptx.jsonl"), format!("not json\n{ptx}")).unwrap();
    let sources =
        ["eval_data=[{path=\"eval.jsonl\"}]", "ptx_data=[{path=\"ptx.jsonl\"}]", "ptx_coefficient=0.1"];
    let overrides: Vec<&str> = overrides.into_iter().chain(sources).collect();
    policies::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let rows = skipped(&folder.path().join("run"));
    let found: Vec<(&str, u64)> = rows.iter().map(|row| (row.role.as_str(), row.line)).collect();
    assert_eq!(found, [("evaluation", 2), ("ptx", 1)]);
}

/// A template that refuses some rows, which are good rows in every other way.
#[test]
fn a_prompt_that_cannot_be_rendered_is_left_out_like_one_that_cannot_be_read() {
    let folder = policies::folder();
    let path = folder.path().join("model/tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    let refusal = "{% if 'Say 4.' in messages[-1]['content'] %}{{ raise_exception('no fours') }}{% endif %}";
    config["chat_template"] = format!("{refusal}{template}").into();
    fs::write(&path, config.to_string()).unwrap();
    let error = policies::run(folder.path(), &["max_steps=1"], Start::Fresh, never).unwrap_err().to_string();
    assert!(error.contains("prompts.jsonl:5: ") && error.contains("no fours"), "{error}");
    policies::run(folder.path(), &["max_steps=1", SKIP], Start::Fresh, never).unwrap();
    let rows = skipped(&folder.path().join("run"));
    assert_eq!(rows.len(), 1);
    assert!(rows[0].line == 5 && rows[0].reason.contains("no fours"), "{}", rows[0]);
}

#[test]
fn a_classifier_lists_rows_that_cannot_be_read_and_rows_whose_columns_cannot_be_used() {
    for model in [Model::Encoder, Model::Decoder] {
        let folder = model.folder();
        let mut rows = classifiers::rows(model);
        rows[2]["stars"] = "five".into();
        classifiers::write(folder.path(), &rows);
        let error = classifiers::run(folder.path(), &["max_steps=1"], Start::Fresh, never).unwrap_err();
        assert!(matches!(error, StageError::Run(RunError::BadColumn { .. })), "{error}");
        append_bad_rows(&folder.path().join("rows.jsonl"));
        let overrides = [SKIP, "max_steps=1"];
        let (_, events) = classifiers::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
        check_warned(&events, &["the training data: 1102 rows are left out"]);
        let rows = skipped(&folder.path().join("run"));
        assert_eq!(rows.len(), 1_102);
        let column = rows.iter().find(|row| row.line == 3).unwrap();
        assert_eq!((&*column.field, &*column.reason), ("stars", "is \"five\"; expected a number"));
    }
}

fn embed_config(folder: &Path, train_data: &str, overrides: &[&str]) -> EmbedTrainConfig {
    let text = format!(
        "stage = \"embed\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n\
         train_data = \"{train_data}\"\nsave_steps = 1\n\
         batch_size = 8\nthreads = 2\n"
    );
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    EmbedTrainConfig::from_toml(&text, &folder.join("recipe.toml"), &overrides).unwrap()
}

#[test]
fn an_encoder_s_run_lists_rows_that_cannot_be_read_and_reads_folders() {
    let folder = embeddings::folder();
    embeddings::write_triplets(&folder.path().join("triplets.jsonl"), 20, 2);
    append_bad_rows(&folder.path().join("triplets.jsonl"));
    let config = |overrides: &[&str]| embed_config(folder.path(), "triplets.jsonl", overrides);
    let error = embeddings::run(config(&["max_steps=1"]), Start::Fresh, never).unwrap_err().to_string();
    assert!(error.contains("triplets.jsonl:21: "), "{error}");
    embeddings::run(config(&["max_steps=1", SKIP]), Start::Fresh, never).unwrap();
    check_list(&folder.path().join("run"), "triplets.jsonl", 20);

    let folder = embeddings::folder();
    fs::create_dir(folder.path().join("triplets")).unwrap();
    for name in ["b.jsonl", "a.jsonl"] {
        embeddings::write_triplets(&folder.path().join("triplets").join(name), 20, 2);
    }
    let config = |overrides: &[&str]| embed_config(folder.path(), "triplets", overrides);
    embeddings::run(config(&[]), Start::Fresh, is_metrics_of(2)).unwrap();
    let inputs: Value =
        serde_json::from_slice(&fs::read(folder.path().join("run/inputs.json")).unwrap()).unwrap();
    let files = inputs["files"].as_array().unwrap().iter().filter(|file| file["role"] == "data");
    let names: Vec<&str> =
        files.map(|file| file["path"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a.jsonl", "b.jsonl"]);
    // What memory there is changes no result.
    let changed = folder.path().join("triplets/b.jsonl");
    let before = fs::read_to_string(&changed).unwrap();
    fs::write(&changed, before.replacen("w1", "w2", 1)).unwrap();
    let error = embeddings::run(config(&["memory_gib=1"]), Start::Resume, never).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::FileChanged { path, .. }) if *path == changed),
        "{error}"
    );
    fs::write(&changed, before).unwrap();
    embeddings::run(config(&["memory_gib=1"]), Start::Resume, never).unwrap();
}

/// A file that only gains bad rows is another file, although the same is learnt from it.
#[test]
fn a_file_that_gains_bad_rows_alone_is_refused_by_a_resume() {
    let folder = setup::folder();
    let rows = folder.path().join("rows.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, format!("{text}not json\n")).unwrap();
    setup::run(folder.path(), &[SKIP], Start::Fresh, is_metrics_of(4)).unwrap();
    let inputs = fs::read(folder.path().join("run/inputs.json")).unwrap();
    fs::write(&rows, format!("{text}not json\n{{\"messages\": 7}}\n")).unwrap();
    let error = setup::run(folder.path(), &[SKIP], Start::Resume, never).unwrap_err();
    assert!(
        error.to_string().ends_with("rows.jsonl` (data) has changed since the run was started"),
        "{error}"
    );
    assert!(fs::read(folder.path().join("run/inputs.json")).unwrap() == inputs);
    // Without a checkpoint all of the run is made anew, and the record with it.
    fs::remove_dir_all(folder.path().join("run/checkpoints")).unwrap();
    setup::run(folder.path(), &[SKIP], Start::Resume, never).unwrap();
    assert!(fs::read(folder.path().join("run/inputs.json")).unwrap() != inputs);
    assert_eq!(skipped(&folder.path().join("run")).len(), 2);
}

/// What a reader has remarked about a row counts only where the template lets the row pass.
#[test]
fn rows_that_the_template_refuses_are_in_no_remark() {
    let folder = setup::folder();
    let row = |question: &str| {
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        json!({"messages": [turn("user", question), turn("user", "again"), turn("assistant", "yes")]})
    };
    let rows: String =
        ["bad", "good", "bad", "good"].iter().map(|question| format!("{}\n", row(question))).collect();
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let refusing = "{%- for m in messages %}{%- if m.content == 'bad' %}{{ raise_exception('no') \
                    }}{%- endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n\
                    ' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n\
                    ' }}{%- endif %}";
    fs::write(folder.path().join("template.jinja"), refusing).unwrap();
    let template = format!("chat_template={}", folder.path().join("template.jinja").display());
    let overrides = [SKIP, "max_steps=1", "eval_fraction=0.0", "eval_steps=", &template];
    let (_, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    check_warned(&events, &["2 rows are left out", "two `user` turns follow each other (2 times, first in "]);
    let first =
        warnings(&events).into_iter().find(|text| text.contains("two `user` turns")).unwrap().to_owned();
    assert!(first.contains("rows.jsonl:2, message 1"), "{first}");
}

#[test]
fn files_of_a_folder_that_are_not_read_are_named() {
    let folder = setup::folder();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::rename(folder.path().join("rows.jsonl"), folder.path().join("data/rows.jsonl")).unwrap();
    fs::create_dir(folder.path().join("data/test")).unwrap();
    for name in ["._rows.jsonl", "rows.csv", "test/rows.jsonl"] {
        fs::write(folder.path().join("data").join(name), "not json").unwrap();
    }
    let overrides = ["max_steps=1", "data=[{path=\"data\"}]"];
    let (_, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    let start = "the training data: 3 files are not read (csv, hidden, in a subfolder): ";
    let is_said = |event: &Event| {
        matches!(event, Event::Note(text)
            if text.starts_with(start) && text.ends_with("test/rows.jsonl"))
    };
    assert!(events.iter().any(is_said), "{events:?}");
    let inputs = fs::read_to_string(folder.path().join("run/inputs.json")).unwrap();
    assert_eq!(inputs.matches("rows.").count(), 1, "{inputs}");
}

#[test]
fn a_changed_file_of_a_folder_is_other_data_for_a_policy() {
    let folder = policies::folder();
    let (data, eval) = (folder.path().join("prompts"), folder.path().join("evaluation"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&eval).unwrap();
    for (name, from) in [("b.jsonl", 0), ("a.jsonl", 5)] {
        let rows: String = (from..from + 5)
            .map(|i| format!("{{\"prompt\": \"Say {i}.\", \"answer\": \"{i}\"}}\n"))
            .collect();
        fs::write(data.join(name), rows).unwrap();
    }
    fs::write(eval.join("c.jsonl"), "{\"prompt\": \"Say 77.\"}\n").unwrap();
    let overrides = ["data=[{path=\"prompts\"}]", "eval_data=[{path=\"evaluation\"}]"];
    policies::run(folder.path(), &overrides, Start::Fresh, is_metrics_of_step(2)).unwrap();
    let inputs: Value =
        serde_json::from_slice(&fs::read(folder.path().join("run/inputs.json")).unwrap()).unwrap();
    let files = inputs["files"].as_array().unwrap();
    let found: Vec<(&str, &str)> = files
        .iter()
        .filter(|file| file["role"] != "model")
        .map(|file| {
            (file["role"].as_str().unwrap(), file["path"].as_str().unwrap().rsplit('/').next().unwrap())
        })
        .collect();
    assert_eq!(found, [("data", "a.jsonl"), ("data", "b.jsonl"), ("evaluation", "c.jsonl")]);
    // The answer is in no token of the prompt, but rewards read it.
    let text = fs::read_to_string(data.join("b.jsonl")).unwrap();
    fs::write(data.join("b.jsonl"), text.replacen("\"answer\": \"3\"", "\"answer\": \"4\"", 1)).unwrap();
    let error = policies::run(folder.path(), &overrides, Start::Resume, never).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::FileChanged { role, path })
            if role == "data" && path.ends_with("b.jsonl")),
        "{error}"
    );
    fs::write(data.join("b.jsonl"), text).unwrap();
    // Evaluations that a run is judged by are its files as well.
    let text = fs::read_to_string(eval.join("c.jsonl")).unwrap();
    fs::write(eval.join("c.jsonl"), text.replacen("77", "78", 1)).unwrap();
    let error = policies::run(folder.path(), &overrides, Start::Resume, never).unwrap_err();
    assert!(
        matches!(&error, StageError::Run(RunError::FileChanged { role, .. }) if role == "evaluation"),
        "{error}"
    );
    fs::write(eval.join("c.jsonl"), text).unwrap();
    policies::run(folder.path(), &overrides, Start::Resume, never).unwrap();
}

fn is_metrics_of_step(step: u64) -> impl Fn(&Event) -> bool + 'static {
    move |event| matches!(event, Event::Metrics { step: found, .. } if *found == step)
}

/// A tool's name, and a word of the reasoning, are in the question: a search for them finds them.
fn with_tools(n: usize) -> String {
    let row = json!({
        "messages": [
            {"role": "user", "content": "Call tides for Brest."},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
                "function": {"name": "tides", "arguments": "{\"port\": \"Brest\"}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "high"},
            {"role": "assistant", "content": "High.", "reasoning_content": "Brest"},
        ],
        "tools": [{"name": "tides", "parameters": {"type": "object", "properties": {}}}],
    });
    format!("{row}\n").repeat(n)
}

const NOT_SHOWN: [&str; 3] = [
    "the template does not show `tools` (12 times, first in ",
    "the template does not show its `tool_calls`: the turn trains only its end token (12 times, first in ",
    "the template does not show its `reasoning_content` (12 times, first in ",
];

#[test]
fn fine_tuning_warns_of_what_the_template_does_not_show() {
    let folder = setup::folder();
    let path = folder.path().join("rows.jsonl");
    let plain = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{plain}{}", with_tools(12))).unwrap();
    let overrides = ["max_steps=1", "max_length=512"];
    let (_, events) = setup::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    check_warned(&events, &NOT_SHOWN);
    check_warned(&events, &["rows.jsonl:41)"]);
    let plain = setup::folder();
    let (_, events) = setup::run(plain.path(), &overrides, Start::Fresh, never).unwrap();
    assert!(!warnings(&events).iter().any(|warning| warning.contains("does not show")), "{events:?}");
}

#[test]
fn preferences_reward_models_and_policies_warn_of_what_the_template_does_not_show() {
    let folder = preferences::folder();
    let row: Value = serde_json::from_str(&with_tools(1)).unwrap();
    let messages = row["messages"].as_array().unwrap();
    let pair = json!({"prompt": messages[..3], "chosen": [messages[3]],
        "rejected": [{"role": "assistant", "content": "Low."}], "tools": row["tools"]});
    fs::write(folder.path().join("pairs.jsonl"), format!("{pair}\n").repeat(12)).unwrap();
    let prompt = json!({"prompt": messages[..3], "tools": row["tools"]});
    for stage in [Stage::Dpo, Stage::Reward] {
        let output = format!("output_dir={:?}", folder.path().join(format!("{stage:?}")));
        let overrides = ["max_steps=1", "max_length=512", "eval_fraction=0.0", &output];
        let (_, events) = preferences::run(stage, folder.path(), &overrides, Start::Fresh, never).unwrap();
        // Both responses share the prompt, whose remark is one remark.
        check_warned(&events, &NOT_SHOWN);
    }
    let folder = policies::folder();
    fs::write(folder.path().join("prompts.jsonl"), format!("{prompt}\n").repeat(12)).unwrap();
    let overrides = ["max_steps=1", "max_prompt_length=200", "max_tokens_per_pack=512"];
    let (_, events) = policies::run(folder.path(), &overrides, Start::Fresh, never).unwrap();
    check_warned(&events, &NOT_SHOWN[..2]);
}

#[test]
fn a_classifier_warns_of_parts_of_a_prompt_that_it_does_not_read() {
    let folder = Model::Decoder.folder();
    let mut rows = classifiers::rows(Model::Decoder);
    for row in &mut rows[..3] {
        row["tools"] = json!([{"name": "tides"}]);
        row["prompt"] = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": row["prompt"]}]);
    }
    classifiers::write(folder.path(), &rows);
    let (_, events) = classifiers::run(folder.path(), &["max_steps=1"], Start::Fresh, never).unwrap();
    check_warned(
        &events,
        &["`tools` are not read", "the assistant's turns are not read", "(3 times, first in "],
    );
}

#[test]
fn odd_turns_are_counted_refused_or_left_out() {
    let odd = concat!(
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"},"#,
        r#" {"role": "assistant", "content": "c"}]}"#,
    );
    let pictured = concat!(
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}],"#,
        r#" "images": ["a.png"]}"#,
    );
    let folder = setup::folder();
    let path = folder.path().join("rows.jsonl");
    let rows = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{rows}{odd}\n{odd}\n{pictured}\n")).unwrap();
    let run = |policy: &str| {
        let output = format!("output_dir={:?}", folder.path().join(policy));
        let policy = format!("data.0.on_role_order={policy}");
        setup::run(folder.path(), &["max_steps=1", &policy, &output], Start::Fresh, never)
    };
    let (_, events) = run("warn").unwrap();
    check_warned(
        &events,
        &["two `user` turns follow each other (2 times, first in ", "rows.jsonl:41, message 1)"],
    );
    check_warned(&events, &["`images` is not read: models here read text only (once, in "]);
    assert!(!folder.path().join("warn").join(SkippedRow::FILE_NAME).exists());
    let (_, events) = run("skip").unwrap();
    check_warned(&events, &["2 rows are left out"]);
    let lines: Vec<u64> = skipped(&folder.path().join("skip")).iter().map(|row| row.line).collect();
    assert_eq!(lines, [41, 42]);
    let error = run("error").unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:41: two `user` turns follow each other (message 1)"), "{error}");
}
