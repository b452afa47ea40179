//! The stand-in against every prompt of this program.

use std::path::{Path, PathBuf};

use super::*;

fn said(text: &str) -> String {
    reply(&[json!({ "role": "user", "content": text })], 1)
}

/// Every prompt file of the program, with its places filled in.
fn prompts() -> Vec<(PathBuf, String)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = [
        "truing-ask/src/pas/prompts",
        "truing-ask/src/preference/prompts",
        "truing-construct/src/build/prompts",
    ];
    let mut found = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(crates.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.replace("{{n_questions}}", "3").replace("{{example}}", "code");
            let form = "{\"reason\": \"one sentence\", \"honesty\": 1 to 5, or \"N/A\"}";
            found.push((path, text.replace("{{form}}", form)));
        }
    }
    assert!(found.len() > 80, "{}", found.len());
    found
}

#[test]
fn every_prompt_gets_what_its_end_asks_for() {
    for (path, text) in prompts() {
        let (reply, tail, name) = (said(&text), tail_of(&text), path.display());
        let stem = path.file_name().unwrap().to_string_lossy().into_owned();
        // Either a call or an answer, a cell or an answer.
        let is_choice = stem.starts_with("simulate_assistant") || stem.starts_with("interpreter_step");
        for tag in tags_of(tail).into_iter().filter(|_| !is_choice) {
            assert!(
                reply.contains(&format!("<{tag}>")) && reply.contains(&format!("</{tag}>")),
                "{name}: {reply}"
            );
        }
        for (asked, given) in
            [("\\boxed{}", "\\boxed{4}"), ("Answer: ...", "Answer: 4"), ("答案：……", "答案：4")]
        {
            assert!(is_choice || !tail.contains(asked) || reply.contains(given), "{name}: {reply}");
        }
        if tail.contains("[[") {
            assert!(reply.contains("[[") && reply.trim_end().ends_with("]]"), "{name}: {reply}");
        }
        if text.contains("JSON object and nothing else") || text.contains("只输出一个JSON对象") {
            let object: Value =
                serde_json::from_str(&reply).unwrap_or_else(|error| panic!("{name}: {error}: {reply}"));
            assert!(object.is_object(), "{name}: {reply}");
        }
        assert!(!reply.contains("..."), "{name}: {reply}");
    }
}

#[test]
fn labels_and_criteria_are_answered_in_the_list_s_own_words() {
    let list = "task: What for. Choose one label.\n- chat: talk\n- code: programs\n\nlanguage: Which. \
                Choose one or more labels.\n- english\n\n<prompt>\n- none of these\n</prompt>\n\n";
    let object = format!(
        "{list}Write only one JSON object of this form:\n{{\"task\": \"...\", \"language\": [\"...\", \"...\"]}}"
    );
    let object: Value = serde_json::from_str(&said(&object)).unwrap();
    assert_eq!(object["language"], json!(["english"]));
    let is_known = |label: &str| ["chat", "code"].contains(&label);
    assert!(is_known(object["task"].as_str().unwrap()), "{object}");
    let labels: Vec<String> = (0..20)
        .map(|n| {
            said(&format!("{}Write only one label from the list.", list.replace("none", &n.to_string())))
        })
        .collect();
    assert!(labels.iter().all(|label| is_known(label)), "{labels:?}");
    assert!(labels.iter().any(|label| *label != labels[0]), "prompts differ in their labels");
    let compared = |first: &str, second: &str| {
        said(&format!(
            "<prompt_a>\n{first}\n</prompt_a>\n\n<prompt_b>\n{second}\n</prompt_b>\n\nEnd with one line per \
             criterion:\nclarity: [[A]], [[B]] or [[C]]\nnovelty: [[A]], [[B]] or [[C]]"
        ))
    };
    assert_eq!(compared("long text", "short"), "clarity: [[A]]\nnovelty: [[A]]");
    assert_eq!(compared("short", "long text"), "clarity: [[B]]\nnovelty: [[B]]", "the order decides nothing");
}

#[test]
fn verdicts_have_the_number_and_the_scale_that_is_asked_for() {
    let checklist = "<answer>\na\n</answer>\n\nQuestions:\n1. Is it?\n2. Was it?\n\nEnd with one verdict for each \
                     question, in their order, YES or NO, in double brackets. For three: [[YES, NO, YES]]";
    assert_eq!(said(checklist), "[[YES, YES]]");
    let in_order = "Answer them. YES or NO for each of the seven questions, in order: [[YES, NO, YES]]";
    assert_eq!(said(in_order).matches("YES").count(), 7);
    let faults = "<fault>\ntoo long\nwrong\n</fault>\n\nYES or NO for each fault, in order: [[NO, YES, NO]]";
    assert_eq!(said(faults), "[[YES, YES]]");
    let huge = said("A score from 18446744073709551615 to 5: [[score]]");
    assert_eq!(huge, "[[5]]");
    let score = said("<answer>\na\n</answer>\nEnd with a score from 1 (useless) to 5 (perfect): [[score]]");
    assert!(["[[3]]", "[[4]]", "[[5]]"].contains(&score.as_str()), "{score}");
}

#[test]
fn judged_benchmarks_in_chinese_get_their_own_forms() {
    let list = "<检查清单>（编号. 要求 | 类型）\n1. 简短 | 格式约束\n2. 礼貌 | 风格约束\n</检查清单>\n\n{\"评判结果\": {}}";
    let reply = said(list);
    let object = reply.trim_start_matches("```json").trim_end_matches("```");
    let object: Value = serde_json::from_str(object).unwrap();
    assert_eq!(object["评判结果"], json!({ "1": "是", "2": "是" }));
    let skeleton =
        "请填写“评判结果”。\n{\n  \"a\": {\"评判理由\": \"\", \"评判结果\": \"\", \"weight\": 0.5}\n}";
    let filled: Value = serde_json::from_str(&said(skeleton)).unwrap();
    assert_eq!(filled["a"], json!({ "评判理由": "理由", "评判结果": "是", "weight": 0.5 }));
    let other = said("请填写“评判结果”。\n{\"a\": 1}");
    assert!(other.contains(' '), "an object of another form gets sentences: {other}");
    let copied = said("【检查点】（每个检查点之间以空行分隔）\n一\n\n二\n\n判断规则：抄写");
    let lines: Vec<&str> = copied.split("\n\n").collect();
    assert!(lines[0].starts_with("一\t") && lines[1].starts_with("二\t"), "{copied}");
}

#[test]
fn a_format_that_the_request_demands_is_kept() {
    let schema = json!({ "type": "object", "properties": {
        "verdict": { "enum": ["yes", "no"] }, "score": { "type": "integer", "minimum": 2 },
        "points": { "type": "array", "items": { "type": "string" } },
    } });
    let format = json!({ "type": "json_schema", "json_schema": { "schema": schema } });
    let made: Value = serde_json::from_str(&formatted("A text.".into(), &format)).unwrap();
    assert_eq!(made, json!({ "verdict": "yes", "score": 2, "points": ["text"] }));
    assert_eq!(formatted("{\"a\": 1}".into(), &format), "{\"a\": 1}", "an object is one already");
    assert_eq!(formatted("A text.".into(), &json!({ "type": "json_object" })), "{\"reply\":\"A text.\"}");
    assert_eq!(formatted("A text.".into(), &Value::Null), "A text.");
}

#[test]
fn a_reminder_is_answered_as_the_first_question() {
    let user = |text: &str| json!({ "role": "user", "content": text });
    let first = "<answer>\na\n</answer>\nEnd with a score from 1 to 10: [[score]]";
    let again =
        [user(first), json!({ "role": "assistant", "content": "no" }), user("Your reply has no score.")];
    assert_eq!(reply(&again, 1), said(first));
    assert!(said("Sing.").contains(' '), "plain requests get sentences");
}
