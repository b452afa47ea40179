//! Function calls by syntax tree, as the Berkeley Function-Calling Leaderboard has them (Patil et al. 2024):
//! the model is shown functions and writes calls; a call is right if function and arguments are among the
//! accepted ones. Rows have `question` (turns, also in a list), `function` and `ground_truth` (also in a second
//! file, by `id`); an item without ground truth whose name says `irrelevance` is right if nothing is called.
//! Nothing is run.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use truing_data::ObjectRow;
use truing_types::{Conversation, Message, Role, SamplingOptions};

use super::python_calls::{Call, calls};
use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, MetricInfo, Prompt, Recipient, Request, Row,
    Scoring, TaskOptions,
};

const SYSTEM: &str =
    "You can call functions. If functions answer the question, reply with nothing but the calls, as \
a Python list with keyword arguments: [function_name(argument=value), other_function(argument=value)]. If no \
function fits, or a required argument cannot be known, say so in words and call nothing.

The functions, in JSON:
";

const TRUTH: &str = "ground_truth";

pub(super) struct FunctionCalls;

/// The calls in a reply: Python's form, or JSON with `name` and `arguments`, alone, in a fence or between
/// `<tool_call>` marks.
fn calls_in(reply: &str) -> Option<Vec<Call>> {
    let text = unfenced(reply.trim());
    if let Some(found) = calls(text) {
        return Some(found);
    }
    if text.contains("<tool_call>") {
        let mut found = Vec::new();
        for part in text.split("<tool_call>").skip(1) {
            found.extend(of_json(part.split("</tool_call>").next()?.trim())?);
        }
        return Some(found);
    }
    of_json(text)
}

fn unfenced(text: &str) -> &str {
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    let inner = inner.split_once('\n').map_or(inner, |(_, inner)| inner);
    inner.trim()
}

fn of_json(text: &str) -> Option<Vec<Call>> {
    let one = |value: &Value| -> Option<Call> {
        let object = value.as_object()?;
        let object = object.get("function").and_then(Value::as_object).unwrap_or(object);
        if let Some(name) = object.get("name") {
            let arguments = object.get("arguments").or_else(|| object.get("parameters"))?;
            // OpenAI's form has the arguments as a text.
            let arguments: Map<String, Value> = match arguments {
                Value::Object(arguments) => arguments.clone(),
                Value::String(text) => serde_json::from_str(text).ok()?,
                _ => return None,
            };
            return Some(Call { name: name.as_str()?.to_owned(), arguments });
        }
        let (name, arguments) = object.iter().next().filter(|_| object.len() == 1)?;
        Some(Call { name: name.clone(), arguments: arguments.as_object()?.clone() })
    };
    match serde_json::from_str::<Value>(text).ok()? {
        Value::Array(list) => list.iter().map(one).collect(),
        value => one(&value).map(|call| vec![call]),
    }
}

/// A text as it is compared: without case and these marks.
fn plain(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .filter(|c| !matches!(c, ' ' | ',' | '.' | '/' | '-' | '_' | '*' | '^'))
        .collect::<String>()
        .replace('\'', "\"")
}

/// Equality of values: numbers by value, texts in plain form.
fn is_equal(found: &Value, accepted: &Value) -> bool {
    match (found, accepted) {
        (Value::String(found), Value::String(accepted)) => plain(found) == plain(accepted),
        (Value::Number(found), Value::Number(accepted)) => found.as_f64() == accepted.as_f64(),
        (Value::Array(found), Value::Array(accepted)) => {
            found.len() == accepted.len()
                && found.iter().zip(accepted).all(|(one, other)| is_equal(one, other))
        }
        _ => found == accepted,
    }
}

/// Whether a value is of the type that the schema names.
fn has_type(value: &Value, kind: &str) -> bool {
    match kind {
        "integer" | "int" => value.is_i64() || value.is_u64(),
        "float" | "number" => value.is_number(),
        "boolean" | "bool" => value.is_boolean(),
        "string" | "str" => value.is_string(),
        "array" | "list" | "tuple" => value.is_array(),
        "dict" | "object" => value.is_object(),
        _ => true,
    }
}

/// Whether one of the accepted values fits. In objects, each key has accepted values of its own, and `""` among
/// them means that it may be left out.
fn is_accepted(value: &Value, accepted: &[Value], kind: &str) -> bool {
    let fits = |accepted: &Value| match (value, accepted) {
        (Value::Object(found), Value::Object(accepted)) => object_fits(found, accepted),
        (Value::Array(found), Value::Array(accepted))
            if found.iter().all(Value::is_object)
                && accepted.iter().all(Value::is_object)
                && !found.is_empty() =>
        {
            let pairs = found
                .iter()
                .zip(accepted)
                .filter_map(|(one, other)| Some((one.as_object()?, other.as_object()?)));
            found.len() == accepted.len() && pairs.into_iter().all(|(one, other)| object_fits(one, other))
        }
        _ => is_equal(value, accepted),
    };
    // A variable's name is accepted where the answers list it, whatever the type.
    (has_type(value, kind) || accepted.iter().any(|one| one == value)) && accepted.iter().any(fits)
}

fn object_fits(found: &Map<String, Value>, accepted: &Map<String, Value>) -> bool {
    let listed = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    found.iter().all(|(key, value)| {
        accepted.get(key).is_some_and(|accepted| is_accepted(value, &listed(accepted), ""))
    }) && accepted
        .iter()
        .all(|(key, accepted)| found.contains_key(key) || listed(accepted).contains(&Value::from("")))
}

/// Why a call is not the accepted one; `None` where it is.
fn problem(call: &Call, accepted: &Map<String, Value>, functions: &[Value]) -> Option<String> {
    let (name, accepted) = accepted.iter().next()?;
    // Some chat formats have no dots in names.
    if call.name != *name && call.name != name.replace('.', "_") {
        return Some(format!("calls `{}` instead of `{name}`", call.name));
    }
    let function = functions.iter().find(|function| function["name"] == name.as_str());
    let parameters = function.map(|function| &function["parameters"]);
    let required = parameters.and_then(|parameters| parameters["required"].as_array()).into_iter().flatten();
    for parameter in required.filter_map(Value::as_str) {
        if !call.arguments.contains_key(parameter) {
            return Some(format!("lacks the required `{parameter}`"));
        }
    }
    let accepted = accepted.as_object()?;
    for (parameter, value) in &call.arguments {
        let Some(values) = accepted.get(parameter).and_then(Value::as_array) else {
            return Some(format!("has an unexpected `{parameter}`"));
        };
        let kind =
            parameters.and_then(|all| all["properties"][parameter]["type"].as_str()).unwrap_or_default();
        if !is_accepted(value, values, kind) {
            return Some(format!("`{parameter}` is {value}"));
        }
    }
    let left_out = accepted.iter().find(|(parameter, values)| {
        let may_be_left_out = values.as_array().is_some_and(|values| values.contains(&Value::from("")));
        !call.arguments.contains_key(*parameter) && !may_be_left_out
    });
    left_out.map(|(parameter, _)| format!("lacks `{parameter}`"))
}

/// Why calls are not the accepted ones, in any order.
fn problem_of_all(found: &[Call], accepted: &[Value], functions: &[Value]) -> Option<String> {
    if found.len() != accepted.len() {
        return Some(format!("{} calls instead of {}", found.len(), accepted.len()));
    }
    let mut free: Vec<&Call> = found.iter().collect();
    for one in accepted {
        let Some(one) = one.as_object() else { return Some("the accepted call is not an object".into()) };
        match free.iter().position(|call| problem(call, one, functions).is_none()) {
            Some(place) => {
                free.remove(place);
            }
            None => {
                let first = free.first().and_then(|call| problem(call, one, functions));
                return Some(first.unwrap_or_else(|| "no call fits".into()));
            }
        }
    }
    None
}

fn functions(row: &Map<String, Value>) -> Vec<Value> {
    match row.get("function") {
        Some(Value::Array(list)) => list.clone(),
        Some(one @ Value::Object(_)) => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// The kind of an item by its name, such as `simple_python` of `simple_python_0`.
fn kind_of(id: &str) -> &str {
    id.rsplit_once('_')
        .filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
        .map_or(id, |(kind, _)| kind)
}

impl FunctionCalls {
    fn turns(row: Row<'_>) -> Result<Vec<Message>, BenchmarkError> {
        let value = row.value("question", "turns")?;
        let first = value.get(0).filter(|first| first.is_array()).unwrap_or(value);
        if let Some(text) = first.as_str() {
            return Ok(vec![Message::new(Role::User, text)]);
        }
        let turns: Result<Vec<Message>, _> = serde_json::from_value(first.clone());
        match turns {
            Ok(turns) if !turns.is_empty() => Ok(turns),
            _ => Err(row.bad("question", value, "turns with `role` and `content`")),
        }
    }
}

impl Benchmark for FunctionCalls {
    fn name(&self) -> &str {
        "function_calls"
    }

    fn about(&self) -> &str {
        "Function calls compared by syntax tree, with the data of the Berkeley Function-Calling Leaderboard"
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        vec![MetricInfo::share("acc")]
    }

    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let mut truths: BTreeMap<String, &Value> = BTreeMap::new();
        for row in options.references.iter().chain(rows) {
            if let Some(truth) = Row(row).get(TRUTH) {
                truths.insert(Row(row).name("id")?, truth);
            }
        }
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let id = row.name("id")?;
            let is_irrelevant = id.contains("irrelevance");
            let mut turns = Self::turns(row)?;
            let shown = functions(row.object());
            if shown.is_empty() || shown.iter().any(|function| !function["name"].is_string()) {
                let value = row.value("function", "functions with `name` and `parameters`")?;
                return Err(row.bad("function", value, "functions with `name` and `parameters`"));
            }
            let system = format!("{SYSTEM}{}", serde_json::to_string_pretty(&shown).unwrap_or_default());
            match turns.first_mut().filter(|turn| turn.role == Role::System) {
                Some(first) => first.content = format!("{}\n\n{system}", first.content),
                None => turns.insert(0, Message::new(Role::System, system)),
            }
            let truth = match truths.get(&id) {
                Some(truth) if truth.is_array() => (*truth).clone(),
                Some(truth) => return Err(row.bad(TRUTH, truth, "a list of accepted calls")),
                None if is_irrelevant => Value::Array(Vec::new()),
                None => {
                    return Err(row
                        .value(TRUTH, "accepted calls, here or in a second file by `id`")
                        .err()
                        .unwrap_or_else(|| row.bad(TRUTH, &Value::Null, "accepted calls")));
                }
            };
            let prompt = Prompt::Chat(Conversation { messages: turns, tools: Vec::new() });
            let kind = kind_of(&id).to_owned();
            let mut item = Item::new(id, row, prompt, truth.to_string()).with_category("kind", kind);
            item.add(TRUTH, truth);
            Ok(item)
        };
        // A folder may hold the second file too: its rows have no question.
        rows.iter().filter(|row| Row(row).get("question").is_some()).map(item).collect()
    }

    fn requests(&self, item: &Item, _: &Answers, _: &TaskOptions) -> Vec<Request> {
        let sampling = SamplingOptions { max_new_tokens: 1024, ..SamplingOptions::default() };
        let ask = Ask::Generate { prompt: item.prompt.clone(), sampling };
        vec![Request { id: "answer".into(), to: Recipient::Model, ask }]
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let infos = self.metrics(options);
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let accepted = item.row.get(TRUTH).and_then(Value::as_array).cloned().unwrap_or_default();
            let is_right = answers.text("answer").map(|text| {
                let found = calls_in(text);
                if !accepted.is_empty() {
                    let names = found.as_ref().map(|calls| {
                        calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>().join(", ")
                    });
                    score.extracted.insert("calls".into(), names);
                }
                let problem = match (&found, accepted.is_empty()) {
                    (None, true) => None,
                    (Some(calls), true) => (!calls.is_empty()).then(|| "calls a function".to_owned()),
                    (None, false) => Some("no calls could be read".to_owned()),
                    (Some(calls), false) => problem_of_all(calls, &accepted, &functions(&item.row)),
                };
                let is_right = problem.is_none();
                if let Some(problem) = problem {
                    score.details.insert("problem".into(), problem.into());
                }
                is_right
            });
            score.set(&infos[0], is_right);
            score
        };
        scored.iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_compared_by_syntax_tree() {
        let functions = [json!({"name": "geo.area", "parameters": {"type": "dict", "properties": {
            "base": {"type": "integer"}, "height": {"type": "float"}, "unit": {"type": "string"},
            "to": {"type": "dict"}, "tags": {"type": "array"}}, "required": ["base", "height"]}})];
        let accepted = [json!({
            "geo.area": {
                "base": [10], "height": [5, 5.5], "unit": ["sq. metres", ""],
                "to": [{"city": ["Oslo", "oslo, NO"], "zip": ["", "0150"]}, ""], "tags": [["a", "b"], ""]
            }
        })];
        for (reply, expected) in [
            ("[geo.area(base=10, height=5)]", None),
            ("geo_area(height=5.0, base=10, unit='Sq Metres')", None),
            ("```python\n[geo.area(base=10, height=5)]\n```", None),
            (r#"{"name": "geo.area", "arguments": {"base": 10, "height": 5, "to": {"city": "Oslo"}}}"#, None),
            (
                r#"<tool_call>{"name": "geo.area", "arguments": "{\"base\": 10, \"height\": 5}"}</tool_call>"#,
                None,
            ),
            (r#"[{"geo.area": {"base": 10, "height": 5, "tags": ["A", "b"]}}]"#, None),
            ("[geo.area(base=10.5, height=5)]", Some("`base` is 10.5")),
            ("[geo.area(base='10', height=5)]", Some("`base` is \"10\"")),
            ("[geo.area(base=10)]", Some("lacks the required `height`")),
            ("[geo.area(base=10, height=5, colour='red')]", Some("has an unexpected `colour`")),
            ("[geo.size(base=10, height=5)]", Some("calls `geo.size` instead of `geo.area`")),
            ("[geo.area(base=10, height=5, to={'zip': '0150'})]", Some("`to` is {\"zip\":\"0150\"}")),
            ("[geo.area(base=10, height=5), geo.area(base=10, height=5)]", Some("2 calls instead of 1")),
        ] {
            let found = calls_in(reply).unwrap();
            assert_eq!(problem_of_all(&found, &accepted, &functions).as_deref(), expected, "{reply}");
        }
        assert_eq!(calls_in("None of the functions fits."), None);
    }

    #[test]
    fn parallel_calls_may_come_in_any_order() {
        let accepted = [json!({"play": {"artist": ["A"]}}), json!({"play": {"artist": ["B"]}})];
        assert_eq!(
            problem_of_all(&calls("[play(artist='B'), play(artist='A')]").unwrap(), &accepted, &[]),
            None
        );
        assert!(
            problem_of_all(&calls("[play(artist='B'), play(artist='B')]").unwrap(), &accepted, &[]).is_some()
        );
        assert_eq!(
            (kind_of("simple_python_0"), kind_of("irrelevance_12"), kind_of("x")),
            ("simple_python", "irrelevance", "x")
        );
    }
}
