//! Every format: its fixture, its detection, its refusals.

use serde_json::json;
use truing_data::{
    FORMATS, Format, OnBadRow, PREFERENCE_FORMATS, PROMPT_FORMATS, Render, SourceConfig, SourceRow,
    UNPAIRED_FORMATS, read_preferences, read_rows, read_rows_as,
};
use truing_types::{Conversation, Message, Role, TrainingRow, UnpairedRow};

use crate::{fixture, read, read_text};

fn turn(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

fn conversation(messages: Vec<Message>) -> TrainingRow {
    TrainingRow::Conversation(Conversation { messages, tools: Vec::new() })
}

#[test]
fn every_file_of_the_folder_is_registered_with_a_fixture_that_detects_it() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/formats");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // Folders hold the formats of other kinds of rows.
        if name == "mod" || path.is_dir() {
            continue;
        }
        let format = FORMATS.iter().find(|f| f.name == name);
        assert!(format.is_some(), "`{name}` is not in FORMATS");
        let config = SourceConfig::new(fixture(&format!("{name}.jsonl")));
        let mut rows = read_rows(&config, OnBadRow::Error).unwrap();
        assert!(rows.by_ref().all(|row| row.is_ok()), "{name}");
        assert_eq!(rows.format().map(|f| f.name), Some(&name[..]));
    }
}

#[test]
fn every_example_is_a_good_row_of_its_own_format() {
    for format in FORMATS {
        let (good, bad) = read_text(format.example.as_bytes(), |c| c.format = Some(format.name.to_owned()));
        assert_eq!((good.len(), bad), (1, vec![]), "{}", format.name);
    }
}

/// The example of every format reads as one row of its kind. HelpSteer2 and MT-Bench are made of several.
#[track_caller]
fn check_examples<Row: SourceRow + std::fmt::Debug>(formats: &'static [Format<Row>]) {
    let folder = tempfile::tempdir().unwrap();
    for format in formats.iter().filter(|format| !["help_steer", "mt_bench"].contains(&format.name)) {
        let path = folder.path().join(format!("{}.jsonl", format.name));
        std::fs::write(&path, format.example).unwrap();
        let config = SourceConfig { format: Some(format.name.into()), ..SourceConfig::new(&path) };
        let found: Vec<_> = read_rows_as::<Row>(&config, OnBadRow::Error).unwrap().collect();
        assert!(matches!(found[..], [Ok(_)]), "{}: {found:?}", format.name);
    }
}

#[test]
fn every_example_of_preferences_verdicts_and_prompts_is_a_good_row() {
    check_examples(PREFERENCE_FORMATS);
    check_examples(UNPAIRED_FORMATS);
    check_examples(PROMPT_FORMATS);
}

#[test]
fn the_responses_of_a_prompt_in_help_steer_become_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("help_steer.jsonl");
    let row = |prompt: &str, response: &str, helpfulness: u32| {
        json!({"prompt": prompt, "response": response, "helpfulness": helpfulness, "verbosity": 1})
            .to_string()
    };
    let rows = [row("a", "x", 1), row("a", "y", 4), row("b", "x", 2), row("b", "y", 2)];
    std::fs::write(&path, rows.join("\n")).unwrap();
    let config = SourceConfig { format: Some("help_steer".into()), ..SourceConfig::new(&path) };
    let rows: Vec<_> =
        read_preferences(&config, OnBadRow::Error).unwrap().map(|row| row.unwrap().0).collect();
    assert_eq!(rows.len(), 2);
    let said: Vec<&str> = rows[0].responses.iter().map(|r| r.messages[0].content.as_str()).collect();
    assert_eq!((said, &rows[0].ranks), (vec!["y", "x"], &vec![0, 1]));
    assert_eq!(rows[0].responses[0].score, Some(4.0));
    assert_eq!(rows[1].ranks, [0, 0], "a tie");
}

/// A preference row alone in a file: its responses from best to worst with ranks and scores, or what is wrong with it.
fn ranked(row: &serde_json::Value) -> Result<Vec<(String, u32, Option<f64>)>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, row.to_string()).unwrap();
    let mut rows = read_preferences(&SourceConfig::new(&path), OnBadRow::Skip).unwrap();
    match rows.next() {
        Some(row) => {
            let row = row.unwrap().0;
            let responses = row.responses.iter().zip(&row.ranks);
            Ok(responses.map(|(r, rank)| (r.messages[0].content.clone(), *rank, r.score)).collect())
        }
        None => Err(rows.skipped().rows[0].problem.to_string()),
    }
}

#[test]
fn scores_and_ranks_beside_the_responses_order_them() {
    let row = |column: &str, numbers: serde_json::Value| {
        let mut row = json!({"prompt": "a", "responses": ["x", "y", "z"]});
        row[column] = numbers;
        ranked(&row)
    };
    let expect = |responses: [(&str, u32, Option<f64>); 3]| {
        Ok(responses.map(|(said, rank, score)| (said.to_owned(), rank, score)).to_vec())
    };
    for column in ["scores", "rewards", "ratings", "score", "reward", "rating"] {
        let found = row(column, json!([1, 5, 2.5]));
        let expected = [("y", 0, Some(5.0)), ("z", 1, Some(2.5)), ("x", 2, Some(1.0))];
        assert_eq!(found, expect(expected), "{column}");
    }
    let tied = [("x", 0, Some(3.0)), ("z", 0, Some(3.0)), ("y", 1, Some(-1.0))];
    assert_eq!(row("scores", json!([3, -1, 3])), expect(tied));
    // A number beside the responses is the row's own.
    assert_eq!(row("score", json!(4)), expect([("x", 0, None), ("y", 1, None), ("z", 2, None)]));
    assert_eq!(row("scores", json!(null)), row("score", json!(4)));
    for column in ["ranks", "rank"] {
        let found = row(column, json!([3, 1, 2]));
        assert_eq!(found, expect([("y", 0, None), ("z", 1, None), ("x", 2, None)]), "{column}");
    }
    // By rank and by place the same.
    assert_eq!(row("ranking", json!([2, 1, 3])), expect([("y", 0, None), ("x", 1, None), ("z", 2, None)]));
    assert_eq!(row("ranking", json!([2, 1, 1])), expect([("y", 0, None), ("z", 0, None), ("x", 1, None)]));
    let inside = |key: &str| {
        let response = |said: &str, n: u32| json!({"content": said, key: n});
        ranked(&json!({"prompt": "a", "responses": [response("x", 2), response("y", 1)]})).unwrap()
    };
    assert_eq!(inside("rank")[0].0, "y");
    assert_eq!(inside("reward")[0], ("x".into(), 0, Some(2.0)));
    // Given ranks decide, and the scores are kept.
    let both = json!({"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2], "scores": [1, 5]});
    assert_eq!(ranked(&both).unwrap()[0], ("x".into(), 0, Some(1.0)));
}

#[test]
fn scores_and_ranks_that_do_not_fit_the_responses_are_refused() {
    let scores = "expected one number for each response, the largest for the best";
    for (row, problem) in [
        (
            json!({"responses": ["x", "y"], "scores": [1]}),
            format!("`scores` is a list of 1 for 2 responses; {scores}"),
        ),
        (
            json!({"responses": ["x", "y"], "ratings": [1, 2, 3]}),
            format!("`ratings` is a list of 3 for 2 responses; {scores}"),
        ),
        (
            json!({"responses": ["x", "y"], "rewards": [1, null]}),
            "`rewards[1]` is null; expected a finite number".into(),
        ),
        (
            json!({"responses": ["x", "y"], "scores": ["good", "bad"]}),
            "`scores[0]` is \"good\"; expected a finite number".into(),
        ),
        (
            json!({"responses": ["x", "y"], "scores": [true, false]}),
            "`scores[0]` is a boolean; expected a finite number".into(),
        ),
        (
            json!({"responses": ["x", "y"], "scores": {"x": 1, "y": 2}}),
            format!("`scores` is an object; {scores}"),
        ),
        (
            json!({"responses": ["x", "y"], "scores": [1, 2], "rewards": [2, 1]}),
            "`rewards` is beside `scores`; expected one list of scores, or its name in the source: \
             columns = { scores = \"...\" }"
                .into(),
        ),
        (
            json!({"responses": [{"content": "x", "score": 1}, {"content": "y", "score": 2}], "scores": [1, 2]}),
            "`scores` is beside scores inside the responses; expected scores in one of both".into(),
        ),
        (
            json!({"responses": [{"content": "x", "rank": 1}, {"content": "y"}]}),
            "`responses` is a list with 1 ranks; expected a rank for every response, or none".into(),
        ),
        (
            json!({"responses": [{"content": "x", "score": 1}, {"content": "y"}]}),
            "`responses` is a list with 1 scores; expected a score for every response, none, or `ranks`".into(),
        ),
        (
            json!({"responses": ["x", "y", "z"], "ranking": [2, 0, 1]}),
            "`ranking` is [2,0,1], ranks or the places of the responses in order; expected `ranks`, one number for \
             each response, the smallest for the best"
                .into(),
        ),
    ] {
        let mut row = row;
        row["prompt"] = json!("a");
        assert_eq!(ranked(&row), Err(problem), "{row}");
    }
}

#[test]
fn a_verdict_may_be_a_string() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let verdict = |label: serde_json::Value| {
        let row = json!({"prompt": "a", "completion": "b", "label": label});
        std::fs::write(&path, row.to_string()).unwrap();
        let row = read_rows_as::<UnpairedRow>(&SourceConfig::new(&path), OnBadRow::Skip);
        let mut rows = row.unwrap();
        match rows.next() {
            Some(row) => Ok(row.unwrap().0.is_desirable),
            None => Err(rows.skipped().rows[0].problem.to_string()),
        }
    };
    for label in [json!("true"), json!("True"), json!("TRUE"), json!(true), json!(1)] {
        assert_eq!(verdict(label.clone()), Ok(true), "{label}");
    }
    for label in [json!("false"), json!("False"), json!(false), json!(0.0)] {
        assert_eq!(verdict(label.clone()), Ok(false), "{label}");
    }
    let expected = "expected true or false, as such or as a string, or 1 or 0";
    assert_eq!(verdict(json!("good")), Err(format!("`label` is \"good\"; {expected}")));
    assert_eq!(verdict(json!(2)), Err(format!("`label` is 2; {expected}")));
    assert_eq!(verdict(json!([true])), Err(format!("`label` is a list; {expected}")));
}

#[test]
fn messages_keep_weights_tools_and_reasoning() {
    let rows = read(&SourceConfig::new(fixture("messages.jsonl")));
    let first = vec![
        turn(Role::System, "Answer briefly."),
        turn(Role::User, "Which spoke is loose?"),
        turn(Role::Assistant, "The third one."),
    ];
    assert_eq!(rows[0], conversation(first));
    let mut second = vec![
        turn(Role::User, "One"),
        turn(Role::Assistant, "Not learnt."),
        turn(Role::User, "Two parts"),
        turn(Role::Assistant, "Learnt."),
    ];
    (second[1].weight, second[3].weight) = (Some(0.0), Some(0.5));
    assert_eq!(rows[1], conversation(second));

    let TrainingRow::Conversation(third) = &rows[2] else { panic!("{:?}", rows[2]) };
    let call = json!({"id": "a1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}});
    assert_eq!(third.messages[1].tool_calls, Some(vec![call]));
    assert_eq!(third.messages[2].tool_call_id.as_deref(), Some("a1"));
    assert_eq!(third.messages[3].reasoning_content.as_deref(), Some("The tool says 4."));
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}});
    assert_eq!(third.tools, [tool]);
}

#[test]
fn sharegpt_becomes_the_same_conversation() {
    let rows = read(&SourceConfig::new(fixture("sharegpt.jsonl")));
    let first = vec![
        turn(Role::System, "You mend bicycles."),
        turn(Role::User, "What is a hub?"),
        turn(Role::Assistant, "The middle of a wheel."),
    ];
    assert_eq!(rows[0], conversation(first));
    let TrainingRow::Conversation(second) = &rows[1] else { panic!("{:?}", rows[1]) };
    let call = json!({"type": "function", "function": {"name": "turn", "arguments": {"degrees": 90}}});
    assert_eq!(second.messages[1].tool_calls, Some(vec![call]));
    assert_eq!(second.messages[2], turn(Role::Tool, "done"));
    assert_eq!(second.tools[0]["function"]["description"], "Turns the wheel");
    let TrainingRow::Conversation(third) = &rows[2] else { panic!("{:?}", rows[2]) };
    assert_eq!(third.messages.iter().map(Message::loss_weight).collect::<Vec<_>>(), [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn alpaca_becomes_a_conversation() {
    let rows = read(&SourceConfig::new(fixture("alpaca.jsonl")));
    let first = vec![turn(Role::User, "Name a part of a wheel."), turn(Role::Assistant, "The rim.")];
    assert_eq!(rows[0], conversation(first));
    let second = vec![
        turn(Role::System, "You translate."),
        turn(Role::User, "Hello?"),
        turn(Role::Assistant, "Yes?"),
        turn(Role::User, "Translate into French.\n\nwheel"),
        turn(Role::Assistant, "roue"),
    ];
    assert_eq!(rows[1], conversation(second));
}

#[test]
fn a_prompt_and_its_completion_are_text_or_messages() {
    let rows = read(&SourceConfig::new(fixture("prompt_completion.jsonl")));
    let raw = TrainingRow::PromptCompletion { prompt: "A wheel is".into(), completion: " round.".into() };
    assert_eq!(rows[0], raw);
    let TrainingRow::Conversation(second) = &rows[1] else { panic!("{:?}", rows[1]) };
    assert_eq!(second.messages.iter().map(Message::loss_weight).collect::<Vec<_>>(), [0.0, 0.0, 0.0, 1.0]);

    let chat =
        SourceConfig { render: Some(Render::Chat), ..SourceConfig::new(fixture("prompt_completion.jsonl")) };
    let expected = conversation(vec![turn(Role::User, "A wheel is"), turn(Role::Assistant, " round.")]);
    assert_eq!(read(&chat)[0], expected);
}

#[test]
fn columns_and_templates_reach_rows_of_any_shape() {
    let config: SourceConfig = toml::from_str(&format!(
        "path = {:?}\nrender = \"chat\"\ncolumns = {{ prompt = \"question\", completion = \"answer\" }}",
        fixture("question_answer.parquet")
    ))
    .unwrap();
    let expected = conversation(vec![turn(Role::User, "q1"), turn(Role::Assistant, "a1")]);
    assert_eq!(read(&config)[0], expected);

    let seed_task = br#"{"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}]}
{"instruction": "Greet.", "instances": [{"input": "", "output": "Hi"}]}
{"instruction": "Greet.", "instances": []}"#;
    let (good, bad) = read_text(seed_task, |c| {
        c.prompt_template = Some("{instruction}\n\n{instances.0.input}".into());
        c.columns.insert("completion".into(), "instances.0.output".into());
    });
    let raw = |prompt: &str, completion: &str| TrainingRow::PromptCompletion {
        prompt: prompt.into(),
        completion: completion.into(),
    };
    assert_eq!(good, [raw("Add.\n\n1 2", "3"), raw("Greet.", "Hi")]);
    assert_eq!(bad[0].origin.line, 3);
    assert_eq!(bad[0].problem.field, "instances.0.output");
}

/// The message for the only row of a text.
fn check_refused(row: &str, message: &str) {
    let (good, bad) = read_text(row.as_bytes(), |_| {});
    assert!(good.is_empty(), "{row}");
    assert_eq!(bad[0].problem.to_string(), message, "{row}");
}

#[test]
fn bad_conversations_say_what_is_wrong() {
    check_refused(r#"{"messages": []}"#, "`messages` is empty; expected at least one message");
    check_refused(
        r#"{"messages": [{"role": "user", "content": "Hi"}]}"#,
        "`messages` has no assistant turn that carries loss; expected an assistant turn whose loss weight is not 0",
    );
    check_refused(
        r#"{"messages": [{"role": "robot", "content": "Hi"}]}"#,
        "`messages[0].role` is the unknown role `robot`; expected one of system, developer, user, assistant, \
         tool, function",
    );
    check_refused(
        r#"{"messages": [{"role": "user", "content": 5}]}"#,
        "`messages[0].content` is a number; expected a string, or a list of {\"type\": \"text\", \"text\": ...}",
    );
    check_refused(
        r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}"#,
        "`messages[0].content[0]` is a part of type `image_url`; expected text parts only",
    );
    check_refused(
        r#"{"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}"#,
        "`messages[0].content` is missing; expected a string, or a list of {\"type\": \"text\", \"text\": ...}",
    );
    check_refused(
        r#"{"messages": [{"role": "assistant", "content": ""}]}"#,
        "`messages[0].content` is empty; expected what the assistant says",
    );
    check_refused(
        r#"{"messages": [{"role": "assistant", "content": "x", "weight": -1}]}"#,
        "`messages[0].weight` is -1; expected a finite number, 0 or more",
    );
    check_refused(
        r#"{"messages": [{"role": "assistant", "content": "x", "weight": 1, "loss": true}]}"#,
        "`messages[0].loss` is a second loss weight of this message; expected one of `weight`, \
         `loss_weight`, `loss`, `train`, `training`, `masked`",
    );
    check_refused(
        r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], "train": false}"#,
        "`train` is false, a loss mask of the whole row, which is not read; expected no mask beside the \
         messages: set in each turn what is trained on, with `weight` (a number) or `train` (true or false), \
         and remove this column",
    );
    check_refused(
        r#"{"messages": [{"role": "assistant", "content": "x"}], "tools": "[{"}"#,
        "`tools` is a string that is not JSON (EOF while parsing an object at line 1 column 2); expected a \
         list of tool descriptions, or a string that holds one",
    );
    check_refused(
        r#"{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]}"#,
        "`messages[0].tool_calls[0].function.arguments` is a list; expected a JSON object",
    );
    check_refused(
        r#"{"conversations": [{"from": "bird", "value": "x"}]}"#,
        "`conversations[0].from` is the unknown role `bird`; expected one of human, user, gpt, assistant, \
         system, observation, tool, function_call",
    );
    check_refused(
        r#"{"conversations": [{"from": "gpt"}]}"#,
        "`conversations[0].value` is missing; expected a string",
    );
    check_refused(r#"{"instruction": "x", "output": 5}"#, "`output` is a number; expected a string");
    check_refused(
        r#"{"instruction": "x", "output": "y", "history": [["a"]]}"#,
        "`history[0]` is a list of 1; expected a list of pairs: [[\"question\", \"answer\"], ...]",
    );
    check_refused(r#"{"prompt": "x", "completion": ""}"#, "`completion` is empty; expected training text");
    check_refused(
        r#"{"prompt": [], "completion": "x"}"#,
        "`completion` is a string; expected a list of messages, as the prompt is",
    );
}

#[test]
fn wrong_settings_are_named_before_a_file_is_read() {
    let message = |settings: fn(&mut SourceConfig)| {
        let mut config = SourceConfig::new("rows.jsonl");
        settings(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert_eq!(
        message(|c| c.format = Some("mesages".into())),
        "unknown format `mesages`; did you mean `messages`? expected one of: messages, sharegpt, alpaca, \
         prompt_completion, text"
    );
    let mapped = message(|c| {
        c.format = Some("prompt_completion".into());
        c.columns.insert("compeltion".into(), "answer".into());
    });
    assert_eq!(
        mapped,
        "format `prompt_completion` has no column `compeltion`; did you mean `completion`? expected one of: \
         prompt, completion, system, tools"
    );
    assert_eq!(message(|c| c.weight = 0.0), "source `rows.jsonl`: `weight` is 0; expected a number above 0");
    assert_eq!(
        message(|c| c.weight = f64::NAN),
        "source `rows.jsonl`: `weight` is NaN; expected a number above 0"
    );
    assert_eq!(
        message(|c| c.max_samples = Some(0)),
        "source `rows.jsonl`: `max_samples` is 0; expected at least 1"
    );
    assert_eq!(
        message(|c| c.prompt_template = Some("{a".into())),
        "source `rows.jsonl`: `prompt_template` has a `{` without `}`; expected `{field}`"
    );
    let raw_messages = message(|c| {
        c.format = Some("messages".into());
        c.render = Some(Render::Raw);
    });
    assert_eq!(raw_messages, "source `rows.jsonl`: `render` does not go with format `messages`");
    assert!(
        toml::from_str::<SourceConfig>("path = \"x\"\nwieght = 2")
            .unwrap_err()
            .to_string()
            .contains("wieght")
    );
}
