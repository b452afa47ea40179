//! Replies of a model that is not there, in the form that a request asks for: a rehearsal tests that requests are made,
//! sent, read and counted, and costs nothing.
//!
//! A request states its form in words ("in double brackets", "between <a> and </a>", "one JSON object"), because judges
//! and writers on servers are asked in words. The forms are those of the prompts of this program; a test reads them
//! all. A request without a known form gets plain sentences. A reply depends on the request and its seed alone, and
//! verdicts on two texts do not depend on their order.

use serde_json::{Map, Value, json};

/// How a question that asks again after an unreadable reply begins.
const REMINDERS: [&str; 3] = ["Your reply ", "输出不符合要求", "输出格式不对"];
/// Numbers of questions as prompts write them.
const NUMBER_WORDS: [(&str, usize); 17] = [
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("一", 1),
    ("两", 2),
    ("三", 3),
    ("四", 4),
    ("五", 5),
    ("六", 6),
    ("七", 7),
    ("八", 8),
];
/// What prose consists of: short sentences without numbers, which no filter takes for a refusal.
const SENTENCES: [&str; 6] = [
    "First name the goal and the limits of the task in your own words.",
    "Then take the parts one after another and say why each of them matters.",
    "Give an example for the point that is easiest to misread.",
    "Compare the result with what was asked, and correct what does not fit.",
    "Keep the tone plain, and leave out what the reader knows already.",
    "End with the one thing that should be remembered.",
];

/// What a request asks for: the whole question, and what it says after the last block of data.
struct Asked<'a> {
    text: &'a str,
    tail: &'a str,
    /// A number that stands for the request and its seed.
    draw: u64,
}

impl<'a> Asked<'a> {
    /// Where the form stands: after the data, or before it where nothing follows.
    fn frame(&self) -> &'a str {
        if self.tail.trim().is_empty() { self.text } else { self.tail }
    }
}

/// The reply to the messages of a chat request.
pub(super) fn reply(messages: &[Value], seed: u64) -> String {
    let text = question(messages);
    let asked = Asked { text: &text, tail: tail_of(&text), draw: number_of(&text).wrapping_add(seed) };
    let forms =
        [labels, criteria, checkpoints, filled_object, described_object, bracketed, worked, complement];
    forms.iter().find_map(|form| form(&asked)).unwrap_or_else(|| prose(asked.draw, 3))
}

/// The reply as `response_format` of the request wants it: a reply that is no object becomes one, by the schema where
/// there is one.
pub(super) fn formatted(reply: String, format: &Value) -> String {
    let is_object = || serde_json::from_str::<Value>(&reply).is_ok_and(|value| value.is_object());
    match format["type"].as_str() {
        Some("json_schema") if !is_object() => instance(&format["json_schema"]["schema"]).to_string(),
        Some("json_object") if !is_object() => json!({ "reply": reply }).to_string(),
        _ => reply,
    }
}

/// A value that a JSON schema allows: the first of what it names.
fn instance(schema: &Value) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    if let Some(first) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema[*key].get(0)) {
        return instance(first);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("string") => "text".into(),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 1.into()),
        Some("boolean") => true.into(),
        Some("null") => Value::Null,
        Some("array") => {
            let n_items = schema["minItems"].as_u64().unwrap_or(1);
            (0..n_items).map(|_| instance(&schema["items"])).collect()
        }
        _ => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(name, of)| (name.clone(), instance(of))).collect())
        }
    }
}

/// The last turn of the user; where it only asks again, the first.
fn question(messages: &[Value]) -> String {
    let of_user = messages.iter().filter(|message| message["role"] == "user").map(content);
    let of_user: Vec<String> = of_user.collect();
    let last = of_user.last().cloned().unwrap_or_default();
    match REMINDERS.iter().any(|reminder| last.starts_with(reminder)) {
        true => of_user.into_iter().next().unwrap_or_default(),
        false => last,
    }
}

/// The text of a message, also where it comes in parts.
fn content(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// A number that stands for a text (FNV-1a).
fn number_of(text: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Sentences, begun at one that the number chooses.
fn prose(draw: u64, n_sentences: usize) -> String {
    let begin = (draw % SENTENCES.len() as u64) as usize;
    let chosen: Vec<&str> = SENTENCES.iter().cycle().skip(begin).take(n_sentences).copied().collect();
    chosen.join(" ")
}

/// The text after the last line that is nothing but a closing tag.
fn tail_of(text: &str) -> &str {
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        at += line.len();
        let name = line.trim().strip_prefix("</").and_then(|rest| rest.strip_suffix('>'));
        if name.is_some_and(|name| !name.is_empty() && !name.contains(['<', '>', ' '])) {
            begin = at;
        }
    }
    &text[begin..]
}

/// The content of the last block of a tag.
fn block<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let end = text.rfind(&format!("\n</{tag}>"))?;
    let open = format!("<{tag}>\n");
    let begin = text[..end].rfind(&open)? + open.len();
    Some(text[begin..end].trim())
}

/// Labels of prompts: one of the list, or an object with one for each dimension.
fn labels(asked: &Asked<'_>) -> Option<String> {
    let first_label = |text: &str| -> Option<String> {
        let (_, list) = text.split_once("Choose one")?;
        let line = list.lines().find_map(|line| line.trim_start().strip_prefix("- "))?;
        Some(line.split(": ").next().unwrap_or(line).trim().to_owned())
    };
    let (described, form) = asked.text.split_at(asked.text.rfind("Write only ")?);
    if form.starts_with("Write only one label") || form.starts_with("Write only the labels") {
        return first_label(described);
    }
    let object = form.strip_prefix("Write only one JSON object of this form:")?;
    let Value::Object(form) = serde_json::from_str(object.trim()).ok()? else { return None };
    let mut filled = Map::new();
    let described = format!("\n{described}");
    for (dimension, value) in form {
        let (_, of_dimension) = described.split_once(&format!("\n{dimension}: "))?;
        let label = first_label(of_dimension)?;
        filled.insert(dimension, if value.is_array() { json!([label]) } else { json!(label) });
    }
    Some(Value::Object(filled).to_string())
}

/// A line with a verdict for each criterion.
fn criteria(asked: &Asked<'_>) -> Option<String> {
    let lines = asked.tail.lines().filter_map(|line| line.strip_suffix(": [[A]], [[B]] or [[C]]"));
    let verdict = preferred(asked);
    let lines: Vec<String> = lines.map(|name| format!("{name}: [[{verdict}]]")).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Which of two texts is preferred: the longer one, of equal lengths the first by its bytes.
fn preferred(asked: &Asked<'_>) -> &'static str {
    let both = ["answer", "response", "prompt"].iter().find_map(|name| {
        Some((block(asked.text, &format!("{name}_a"))?, block(asked.text, &format!("{name}_b"))?))
    });
    match both.map(|(first, second)| (first.len(), first).cmp(&(second.len(), second))) {
        Some(std::cmp::Ordering::Greater) => "A",
        Some(std::cmp::Ordering::Less) => "B",
        _ => "C",
    }
}

/// Checkpoints that are copied, each with a tab and a verdict.
fn checkpoints(asked: &Asked<'_>) -> Option<String> {
    let (_, rest) = asked.text.rsplit_once("【检查点】")?;
    let (list, _) = rest.split_once("判断规则：")?;
    let list = list.split_once('\n')?.1.trim();
    let verdict =
        |(idx, text): (usize, &str)| format!("{text}\t{}", u64::from(asked.draw % 4 != idx as u64 % 4));
    Some(list.split("\n\n").enumerate().map(verdict).collect::<Vec<_>>().join("\n\n"))
}

/// An object with reasons and verdicts in Chinese: one that is to be filled in, or one for each number of a list.
fn filled_object(asked: &Asked<'_>) -> Option<String> {
    const REASON: &str = "评判理由";
    const RESULT: &str = "评判结果";
    if !asked.text.contains(RESULT) {
        return None;
    }
    if let Some(list) =
        asked.text.split_once("<检查清单>").and_then(|(_, rest)| rest.split_once("</检查清单>"))
    {
        let numbers =
            list.0.lines().skip(1).filter_map(|line| line.split_once(". ")).map(|(number, _)| number.trim());
        let filled = |value: &str| -> Value {
            numbers
                .clone()
                .map(|number| (number.to_owned(), Value::from(value)))
                .collect::<Map<_, _>>()
                .into()
        };
        let object = json!({ REASON: filled("理由"), RESULT: filled("是") });
        return Some(format!("```json\n{object}\n```"));
    }
    let skeleton = &asked.text[asked.text.rfind("\n{")?..];
    let Value::Object(mut skeleton) = serde_json::from_str(skeleton.trim()).ok()? else { return None };
    for (_, checkpoint) in &mut skeleton {
        checkpoint[REASON] = "理由".into();
        checkpoint[RESULT] = "是".into();
    }
    Some(Value::Object(skeleton).to_string())
}

/// One JSON object that the question describes: `{"reason": "one sentence", "is_correct": true or false}`.
fn described_object(asked: &Asked<'_>) -> Option<String> {
    let (_, after) = ["JSON object", "JSON对象"].iter().find_map(|words| asked.frame().split_once(words))?;
    // Not an object in a list that stands between tags.
    let form = &after[after.find("{\"")?..];
    let fields = described_fields(form)?;
    let mut object = Map::new();
    for (name, described) in fields {
        object.insert(name.to_owned(), described_value(name, described, asked));
    }
    if object.contains_key("same_result") {
        let is_same = asked.draw.is_multiple_of(2);
        object.insert("same_result".into(), is_same.into());
        object.insert("rating".into(), json!(if is_same { 5 } else { 2 }));
    }
    Some(Value::Object(object).to_string())
}

/// The names of a described object with what is said of their values. `None` where it is not of this form.
fn described_fields(form: &str) -> Option<Vec<(&str, &str)>> {
    let inside = &form[1..form.find('}')?];
    let mut fields: Vec<(&str, &str)> = Vec::new();
    let mut rest = inside.trim();
    while let Some(after) = rest.strip_prefix('"') {
        let (name, after) = after.split_once("\":")?;
        // The next name: a quoted word before a colon.
        let next = after.match_indices(", \"").map(|(at, _)| at).find(|at| {
            let quoted = &after[at + 3..];
            quoted.find('"').is_some_and(|end| quoted[end + 1..].starts_with(':'))
        });
        let end = next.unwrap_or(after.len());
        fields.push((name, after[..end].trim()));
        rest = after[end..].trim_start_matches([',', ' ']);
    }
    (!fields.is_empty()).then_some(fields)
}

/// A value as it is described: the first of what is allowed.
fn described_value(name: &str, described: &str, asked: &Asked<'_>) -> Value {
    if described.starts_with("true") {
        return true.into();
    }
    if described.starts_with("null") {
        return Value::Null;
    }
    if name == "final_complement" {
        return block(asked.text, "complement").unwrap_or("Name the points one by one.").into();
    }
    if described.starts_with(|first: char| first.is_ascii_digit()) {
        let of_name = number_of(name);
        return (1 + (asked.draw.wrapping_add(of_name)) % 5).into();
    }
    prose(asked.draw, 1).into()
}

/// Texts between tags, and verdicts in double brackets at the end, as far as the question asks for them.
fn bracketed(asked: &Asked<'_>) -> Option<String> {
    let tail = asked.frame();
    let mut parts: Vec<String> = Vec::new();
    let tags = tags_of(tail);
    let has = |tag: &str| tags.contains(&tag);
    if has("call") && has("final") {
        return Some(step_with_tools(asked));
    }
    if tail.contains("```python") {
        return Some(program(asked, has("final")));
    }
    parts.extend(tags.iter().map(|tag| format!("<{tag}>{}</{tag}>", tagged(tag, asked))));
    parts.extend(verdict_of(tail, asked).map(|verdict| format!("[[{verdict}]]")));
    (!parts.is_empty()).then(|| parts.join("\n"))
}

/// The tags that have an opening and a closing form in a text, in its order.
fn tags_of(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for (at, _) in text.match_indices('<') {
        let name = text[at + 1..].split('>').next().unwrap_or_default();
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if is_name && !found.contains(&name) && text.contains(&format!("</{name}>")) {
            found.push(name);
        }
    }
    found
}

/// What stands between tags of a name.
fn tagged(tag: &str, asked: &Asked<'_>) -> String {
    let repeated = |of: &str| block(asked.text, of).unwrap_or_default().to_owned();
    match tag {
        // Nothing is found wrong.
        "missing" | "critique" => String::new(),
        "difficulty" => "2".into(),
        "answer" if block(asked.text, "task").is_none() && block(asked.text, "lesson").is_none() => {
            "4".into()
        }
        "response" if block(asked.text, "text").is_some() => repeated("text"),
        "rewritten" => format!("{} Or so it seems.", repeated("response")),
        "system" => format!("{}\n{}", repeated("system"), prose(asked.draw, 1)),
        "prompt" if block(asked.text, "constraints").is_some() && block(asked.text, "prompt").is_some() => {
            format!("{}\n{}", repeated("prompt"), repeated("constraints"))
        }
        "rules" => format!("{}\n{}", prose(asked.draw, 1), repeated("constraints")),
        "tools" => TOOLS.into(),
        "state" => block(asked.text, "state").filter(|text| !text.is_empty()).unwrap_or(STATE).into(),
        "result" => r#"{"value": "open"}"#.into(),
        "atomic" => "Find the state of an order.\nFind the state of a parcel.".into(),
        "solution" => "def double(number):\n    return 2 * number".into(),
        "tests" => (1..=6).map(|n| format!("assert double({n}) == {}\n", 2 * n)).collect(),
        // Different names have different texts.
        name => prose(asked.draw.wrapping_add(number_of(name)), 3),
    }
}

const TOOLS: &str = r#"[{"name": "look_up", "description": "Finds the state of a thing by its name.",
"parameters": {"type": "object", "properties": {"name": {"type": "string", "description": "The name."}},
"required": ["name"]}}]"#;
const STATE: &str = r#"{"orders": {"A7": "open"}}"#;

/// A call of a tool, and once it has a result, the answer.
fn step_with_tools(asked: &Asked<'_>) -> String {
    match block(asked.text, "transcript").is_some_and(|so_far| so_far.contains("look_up")) {
        true => format!("<final>{}</final>", prose(asked.draw, 1)),
        false => {
            let call = r#"<call>[{"name": "look_up", "arguments": {"name": "A7"}}]</call>"#;
            format!("<why>The state of A7 is not known yet.</why>\n{call}")
        }
    }
}

/// A program, and once one has run, the answer where one is asked for.
fn program(asked: &Asked<'_>, has_answer: bool) -> String {
    let has_run = block(asked.text, "transcript").is_some_and(|so_far| so_far.contains("```"));
    if has_answer && has_run {
        let mark = if asked.tail.contains("答案：") { "答案：" } else { "Answer: " };
        return format!("<final>The program printed the sum.\n{mark}4</final>");
    }
    "The sum is computed first.\n```python\nprint(2 + 2)\n```".into()
}

/// The verdict that a text asks for in double brackets.
fn verdict_of(tail: &str, asked: &Asked<'_>) -> Option<String> {
    if tail.contains("[[A>>B]]") {
        return Some(match preferred(asked) {
            "A" => "A>B".into(),
            "B" => "B>A".into(),
            _ => "A=B".into(),
        });
    }
    if tail.contains("YES") && tail.contains("NO") {
        return Some(vec!["YES"; n_questions(tail, asked.text)].join(", "));
    }
    if tail.contains("[[A]]") {
        return Some(preferred(asked).into());
    }
    if ["[[score]]", "[[分数]]", "such as [["].iter().any(|mark| tail.contains(mark)) {
        return Some(score(tail, asked.draw).to_string());
    }
    // An example of an identifier.
    let (_, example) = tail.rsplit_once("[[")?;
    Some(example.split("]]").next()?.trim().to_owned())
}

/// How many verdicts a question asks for.
fn n_questions(tail: &str, text: &str) -> usize {
    if tail.contains("each fault") || tail.contains("每个缺陷") {
        return block(text, "fault").map_or(1, |faults| faults.lines().count().max(1));
    }
    let before = |words: &str| tail.split_once(words).map(|(before, _)| before.trim_end());
    let english = before(" questions, in order").and_then(|before| before.rsplit(' ').next());
    let chinese = before("个问题各写").map(|before| before.rsplit('对').next().unwrap_or_default());
    let number = english.or(chinese).and_then(|word| {
        let word = word.trim();
        let named = NUMBER_WORDS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
        word.parse().ok().or(named)
    });
    // A checklist: numbered lines.
    let is_numbered =
        |line: &&str| line.split_once(". ").is_some_and(|(number, _)| number.trim().parse::<usize>().is_ok());
    number.unwrap_or_else(|| match text.rsplit_once("\nQuestions:\n") {
        Some((_, list)) => list.lines().filter(is_numbered).count().max(1),
        None => 1,
    })
}

/// A score near the upper end of the scale that the question names: a filter keeps it, and not all are equal.
fn score(tail: &str, draw: u64) -> u64 {
    let numbers: Vec<u64> =
        tail.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    match numbers.as_slice() {
        [lowest, highest, ..] if highest > &(lowest + 2) => highest - draw % 3,
        [_, highest, ..] => *highest,
        _ => 8 + draw % 3,
    }
}

/// Work that ends with an answer in a place of its own.
fn worked(asked: &Asked<'_>) -> Option<String> {
    if asked.tail.contains("\\boxed{}") {
        return Some(format!("{} The result is \\boxed{{4}}.", prose(asked.draw, 2)));
    }
    let mark = ["Answer: ...", "答案：……"].iter().find(|mark| asked.tail.contains(**mark))?;
    Some(format!("{}\n{}4", prose(asked.draw, 2), mark.trim_end_matches(['.', '…'])))
}

/// A complement of a prompt.
fn complement(asked: &Asked<'_>) -> Option<String> {
    let end = asked.tail.trim_end();
    (end.ends_with("Complement:") || end.ends_with("补充说明：")).then(|| prose(asked.draw, 2))
}

#[cfg(test)]
mod tests {
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
        assert_eq!(object, json!({ "task": "chat", "language": ["english"] }));
        assert_eq!(said(&format!("{list}Write only one label from the list.")), "chat");
        let compared = |first: &str, second: &str| {
            said(&format!(
                "<prompt_a>\n{first}\n</prompt_a>\n\n<prompt_b>\n{second}\n</prompt_b>\n\nEnd with one line per \
                 criterion:\nclarity: [[A]], [[B]] or [[C]]\nnovelty: [[A]], [[B]] or [[C]]"
            ))
        };
        assert_eq!(compared("long text", "short"), "clarity: [[A]]\nnovelty: [[A]]");
        assert_eq!(
            compared("short", "long text"),
            "clarity: [[B]]\nnovelty: [[B]]",
            "the order decides nothing"
        );
    }

    #[test]
    fn verdicts_have_the_number_and_the_scale_that_is_asked_for() {
        let checklist = "<answer>\na\n</answer>\n\nQuestions:\n1. Is it?\n2. Was it?\n\nEnd with one verdict for each \
                         question, in their order, YES or NO, in double brackets. For three: [[YES, NO, YES]]";
        assert_eq!(said(checklist), "[[YES, YES]]");
        let in_order = "Answer them. YES or NO for each of the seven questions, in order: [[YES, NO, YES]]";
        assert_eq!(said(in_order).matches("YES").count(), 7);
        let faults =
            "<fault>\ntoo long\nwrong\n</fault>\n\nYES or NO for each fault, in order: [[NO, YES, NO]]";
        assert_eq!(said(faults), "[[YES, YES]]");
        let score =
            said("<answer>\na\n</answer>\nEnd with a score from 1 (useless) to 5 (perfect): [[score]]");
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
}
