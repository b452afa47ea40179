//! `ability = "tools"`.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, all_yes, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "tools"
output_dir = "built"
n_rows = 4
"#;
const REPLIES: &str = include_str!("fixtures/tools.json");

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

fn starts_with_one_of(text: &str, beginnings: [&str; 2]) -> bool {
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}

fn tagged(tag: &str, text: &str) -> String {
    format!("<{tag}>\n{text}\n</{tag}>\n")
}

/// The recorded conversation that a text is about: by its pattern, its task or its first tool.
fn recorded(text: &str) -> Value {
    let is_about = |reply: &Value| match starts_with_one_of(text, ["You prepare", "你要准备"]) {
        true => text.contains(reply["pattern"].as_str().unwrap()),
        false => {
            text.contains(reply["task"].as_str().unwrap())
                || text.contains(&format!("\"{}\"", reply["tools"][0]["name"].as_str().unwrap()))
        }
    };
    let replies: Vec<Value> = serde_json::from_str(REPLIES).unwrap();
    replies.into_iter().find(is_about).unwrap()
}

/// The result of a call: that of the same place among all recorded calls.
fn result_of(reply: &Value, call: &Value) -> Value {
    let steps = reply["steps"].as_array().unwrap().iter();
    let mut calls = steps.filter_map(|step| step["call"].as_array()).flatten();
    reply["results"][calls.position(|recorded| recorded == call).unwrap()].clone()
}

/// Plays user, assistant and tools as recorded, by how far the conversation is.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        let reply = recorded(text);
        let turn = |of: &str, mark: &str| {
            let n_before = last(text, "transcript").lines().filter(|line| line.starts_with(mark)).count();
            reply[of].get(n_before).filter(|turn| !turn.is_null()).cloned()
        };
        if starts_with_one_of(text, ["You prepare", "你要准备"]) {
            let atomic: Vec<&str> =
                reply["atomic"].as_array().unwrap().iter().map(|task| task.as_str().unwrap()).collect();
            return Ok(
                tagged("atomic", &atomic.join("\n")) + &tagged("task", reply["task"].as_str().unwrap())
            );
        }
        if starts_with_one_of(text, ["Define the functions", "请定义助手"]) {
            let tools = format!("```json\n{}\n```", reply["tools"]);
            return Ok(tagged("tools", &tools) + &tagged("state", &reply["state"].to_string()));
        }
        if starts_with_one_of(text, ["You play the user", "你扮演助手的用户"]) {
            let message = turn("user", "[user]");
            return Ok(message.map_or("<done/>".into(), |text| tagged("message", text.as_str().unwrap())));
        }
        if starts_with_one_of(text, ["You play the functions", "你扮演助手所调用"]) {
            let call: Value = serde_json::from_str(last(text, "call")).unwrap();
            let result = result_of(&reply, &call).to_string();
            return Ok(tagged("result", &result) + &tagged("state", last(text, "state")));
        }
        let step = turn("steps", "[assistant").unwrap();
        Ok(match step["final"].as_str() {
            Some(answer) => tagged("final", answer),
            None => {
                tagged("why", step["thought"].as_str().unwrap()) + &tagged("call", &step["call"].to_string())
            }
        })
    })
}

/// Finds everything in order.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|_| Ok(all_yes(5)))
}

fn roles(row: &Value) -> Vec<&str> {
    row["messages"].as_array().unwrap().iter().map(|turn| turn["role"].as_str().unwrap()).collect()
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_begun, summary.n_rows, summary.n_prompts), (4, 4, 0), "{:?}", built.fates);
    // Of each conversation a task, tools, a message and an end, three steps; ten results.
    assert_eq!((writer.asked().len(), checker.asked().len()), (4 * 7 + 10, 4));
    assert_eq!(roles(&built.rows[0]), ["user", "assistant", "tool", "assistant", "tool", "assistant"]);
    let parallel = &built.rows[1];
    assert_eq!(roles(parallel), ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]);
    let messages = &parallel["messages"];
    let calls = messages[1]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[1]["function"]["arguments"]["shop"]), (2, &json!("Klangwerk")));
    assert_eq!(
        (&messages[3]["tool_call_id"], &messages[3]["content"]),
        (&calls[1]["id"], &json!("{\"price\":79.0}"))
    );
    let names: Vec<&str> = parallel["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["function"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["get_price", "place_order", "opening_hours"]);
    assert_eq!(
        (&built.rows[3]["language"], &built.rows[3]["pattern"]),
        (&json!("zh"), &json!("parallel_then_sequential"))
    );
    assert!(summary.coverage.kinds.iter().all(|row| (row.target, row.n_kept) == (Some(2), 2)), "{summary:?}");
}

#[test]
fn made_up_arguments_unknown_tools_other_patterns_and_objections_drop_conversations() {
    let folder = folder();
    let rule = writer();
    let careless = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        if !reply.contains("<call>") {
            return Ok(reply);
        }
        let reply = reply.replace("IC-712", "IC-999").replace("find_book", "lose_book");
        // One price is enough for a hasty assistant.
        match reply.contains("get_price") {
            true => {
                let call =
                    json!([{"name": "get_price", "arguments": {"shop": "Klangwerk", "product": "Aria 300"}}]);
                Ok(tagged("call", &call.to_string()))
            }
            false => Ok(reply),
        }
    });
    let strict = Scripted::new(|_| Ok("[[YES, YES, YES, NO, YES]]".to_owned()));
    let error = super::run(folder.path(), &recipe(), vec![careless.open(), strict.open()]).unwrap_err();
    assert!(error.to_string().contains("no rows of 4"), "{error}");
    let fates: Vec<Value> = super::lines(&folder.path().join("built/fates.jsonl"));
    let reasons: Vec<&str> = fates.iter().map(|fate| fate["reason"].as_str().unwrap()).collect();
    let expected = [
        "arguments that come from nowhere",
        "the calls are not of the pattern",
        "a call of a tool that there is not",
        "an answer is not what the results say",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(fates[0]["detail"], "reserve_seat: \"IC-999\"");
    assert_eq!(fates[1]["detail"], "turns with [1, 1] calls");
}

#[test]
fn an_assistant_that_never_answers_is_stopped() {
    let folder = folder();
    let rule = writer();
    let endless =
        Scripted::new(move |text| match starts_with_one_of(text, ["You are an assistant", "你是可以调用"])
        {
            true => {
                let steps = recorded(text)["steps"][0]["call"].to_string();
                Ok(tagged("call", &steps))
            }
            false => rule.answer(text),
        });
    let recipe = format!("{RECIPE}[tools]\nmax_steps = 3\n{MODELS}");
    let error = super::run(folder.path(), &recipe, vec![endless.open(), checker().open()]).unwrap_err();
    assert!(error.to_string().contains("more turns than `tools.max_steps`"), "{error}");
    // The same call is answered once: two conversations have one call in a step, two have two.
    let n_results = endless.asked().iter().filter(|text| text.contains("<call>\n{")).count();
    assert_eq!(n_results, 2 + 2 * 2);
}

#[test]
fn rows_can_have_the_format_of_button() {
    let folder = folder();
    let recipe = format!("{RECIPE}[tools]\nformat = \"button\"\n{MODELS}");
    let built = super::run(folder.path(), &recipe, vec![writer().open(), checker().open()]).unwrap();
    assert_eq!(built.rows.len(), 4);
    let parallel = &built.rows[1];
    assert_eq!(roles(parallel), ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]);
    assert_eq!(parallel["tools"], Value::Null);
    let content = |i: usize| parallel["messages"][i]["content"].as_str().unwrap();
    assert!(content(0).contains("<tool>[{") && content(0).contains("\"opening_hours\""));
    let calls = content(2);
    assert!(calls.starts_with("Both prices are needed") && calls.ends_with("}]</call>"), "{calls}");
    let results: Value = serde_json::from_str(content(3)).unwrap();
    assert_eq!(results[1]["results"], json!({"price": 79.0}));
    assert!(content(6).starts_with("<final>They cost"));
}
