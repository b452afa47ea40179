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
    /// A hash of the request: verdicts follow it, so that a judge agrees with itself.
    fixed: u64,
    /// The same with the seed added: texts follow it, so that samples differ.
    draw: u64,
}

impl<'a> Asked<'a> {
    /// The part that states the form: after the data, or before it where nothing follows.
    fn frame(&self) -> &'a str {
        if self.tail.trim().is_empty() { self.text } else { self.tail }
    }
}

/// The reply to the messages of a chat request.
pub(super) fn reply(messages: &[Value], seed: u64) -> String {
    let text = question(messages);
    let fixed = number_of(&text);
    let asked = Asked { text: &text, tail: tail_of(&text), fixed, draw: fixed.wrapping_add(seed) };
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

/// A hash of a text (FNV-1a).
fn number_of(text: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Sentences, starting at one that the number chooses.
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
    // One of the first two, so that a classifier has two labels to learn.
    let label_of = |text: &str| -> Option<String> {
        let (_, list) = text.split_once("Choose one")?;
        let listed = list.lines().skip(1).map_while(|line| line.trim_start().strip_prefix("- "));
        let lines: Vec<&str> = listed.take(2).collect();
        let line = lines.get((asked.fixed % lines.len().max(1) as u64) as usize)?;
        Some(line.split(": ").next().unwrap_or(line).trim().to_owned())
    };
    let (described, form) = asked.text.split_at(asked.text.rfind("Write only ")?);
    if form.starts_with("Write only one label") || form.starts_with("Write only the labels") {
        return label_of(described);
    }
    let object = form.strip_prefix("Write only one JSON object of this form:")?;
    let Value::Object(form) = serde_json::from_str(object.trim()).ok()? else { return None };
    let mut filled = Map::new();
    let described = format!("\n{described}");
    for (dimension, value) in form {
        let (_, of_dimension) = described.split_once(&format!("\n{dimension}: "))?;
        let label = label_of(of_dimension)?;
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
        |(idx, text): (usize, &str)| format!("{text}\t{}", u64::from(asked.fixed % 4 != idx as u64 % 4));
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
        let checkpoint = checkpoint.as_object_mut()?;
        checkpoint.insert(REASON.into(), "理由".into());
        checkpoint.insert(RESULT.into(), "是".into());
    }
    Some(Value::Object(skeleton).to_string())
}

/// One JSON object that the question describes: `{"reason": "one sentence", "is_correct": true or false}`.
fn described_object(asked: &Asked<'_>) -> Option<String> {
    let (_, after) = ["JSON object", "JSON对象"].iter().find_map(|words| asked.frame().split_once(words))?;
    // Not an object in a list between tags.
    let form = &after[after.find("{\"")?..];
    let fields = described_fields(form)?;
    let mut object = Map::new();
    for (name, described) in fields {
        object.insert(name.to_owned(), described_value(name, described, asked));
    }
    if object.contains_key("same_result") {
        let is_same = asked.fixed.is_multiple_of(2);
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
        return (1 + (asked.fixed.wrapping_add(of_name)) % 5).into();
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

/// The content for tags of a name.
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
        return Some(score(tail, asked.fixed).to_string());
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
        [lowest, highest, ..] if highest.saturating_sub(*lowest) > 2 => highest - draw % 3,
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
mod tests;
