//! Tools with the JSON schemas of their arguments, and calls of them.

use serde_json::{Map, Value, json};
use truing_reward::verifiers::json_schema::CompiledSchema;

/// Most tools of a conversation.
const MAX_TOOLS: usize = 12;
/// Most bytes of all their descriptions.
const MAX_BYTES: usize = 16 << 10;

/// A tool.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: String,
    description: String,
    /// The JSON schema of its arguments.
    pub(super) parameters: Value,
    schema: CompiledSchema,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Value,
}

impl Call {
    /// Equal for equal calls. Keys of JSON objects are kept in order.
    pub(super) fn key(&self) -> String {
        json!([self.name, sorted(&self.arguments)]).to_string()
    }

    /// The calls of a list of `{"name", "arguments"}`; `None` for anything else, and for an empty list.
    pub(super) fn list(value: &Value) -> Option<Vec<Self>> {
        let call = |value: &Value| {
            let name = value.get("name")?.as_str()?.to_owned();
            let arguments = value.get("arguments").cloned().unwrap_or_else(|| json!({}));
            arguments.is_object().then_some(Self { name, arguments })
        };
        let calls: Vec<Self> = value.as_array()?.iter().map(call).collect::<Option<_>>()?;
        (!calls.is_empty()).then_some(calls)
    }
}

/// The same value with the keys of all objects in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            fields.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// The tools of a JSON list, bare or in OpenAI's `{"type": "function", "function": ...}`.
///
/// # Errors
/// What is wrong with them, in words that many lists share.
pub(super) fn read_tools(list: &Value) -> Result<Vec<Tool>, String> {
    let list = list.as_array().filter(|list| !list.is_empty()).ok_or("there is no list of tools")?;
    if list.len() > MAX_TOOLS || json!(list).to_string().len() > MAX_BYTES {
        return Err("there are too many tools, or their descriptions are too long".into());
    }
    let mut tools: Vec<Tool> = Vec::new();
    for value in list {
        let value = value.get("function").unwrap_or(value);
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, description) = (text("name"), text("description"));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
            return Err("the name of a tool is no name".into());
        }
        if tools.iter().any(|tool| tool.name == name) {
            return Err("two tools have the same name".into());
        }
        if description.is_empty() {
            return Err("a tool has no description".into());
        }
        let parameters = value.get("parameters").cloned().unwrap_or_else(|| json!({"type": "object"}));
        if parameters.get("type").and_then(Value::as_str) != Some("object") {
            return Err("the parameters of a tool are no schema of an object".into());
        }
        let schema = CompiledSchema::new(parameters.clone())
            .map_err(|_| "the parameters of a tool are not a valid JSON schema".to_owned())?;
        tools.push(Tool { name, description, parameters, schema });
    }
    Ok(tools)
}

impl Tool {
    /// Name, description and parameters.
    pub(super) fn bare(&self) -> Value {
        json!({"name": self.name, "description": self.description, "parameters": self.parameters})
    }

    /// In OpenAI's shape.
    pub(super) fn described(&self) -> Value {
        json!({"type": "function", "function": self.bare()})
    }
}

/// The tool of a call, whose arguments fit its schema.
///
/// # Errors
/// The reason, and what is special to this call.
pub(super) fn checked<'a>(tools: &'a [Tool], call: &Call) -> Result<&'a Tool, (&'static str, String)> {
    let tool = tools.iter().find(|tool| tool.name == call.name);
    let tool = tool.ok_or_else(|| ("a call of a tool that there is not", call.name.clone()))?;
    tool.schema.check(&call.arguments).map_err(|error| {
        ("arguments that do not fit the tool's schema", format!("{}: {error}", call.name))
    })?;
    Ok(tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(parameters: &Value) -> Value {
        json!([{"name": "find", "description": "Finds.", "parameters": parameters}])
    }

    #[test]
    fn hostile_lists_of_tools_are_refused() {
        let city =
            json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
        assert_eq!(read_tools(&tool(&city)).unwrap()[0].name, "find");
        let wrapped = json!([{"type": "function", "function": tool(&city)[0]}]);
        assert_eq!(read_tools(&wrapped).unwrap()[0].described(), wrapped[0]);
        let reason = |list: &Value| read_tools(list).unwrap_err();
        assert_eq!(reason(&json!([])), "there is no list of tools");
        assert_eq!(reason(&json!({"name": "find"})), "there is no list of tools");
        let twice = json!([tool(&city)[0], tool(&city)[0]]);
        assert_eq!(reason(&twice), "two tools have the same name");
        assert_eq!(reason(&json!([{"name": "a b", "description": "x"}])), "the name of a tool is no name");
        assert_eq!(reason(&json!([{"name": "a"}])), "a tool has no description");
        assert_eq!(
            reason(&tool(&json!({"type": "string"}))),
            "the parameters of a tool are no schema of an object"
        );
        let invalid = "the parameters of a tool are not a valid JSON schema";
        assert_eq!(reason(&tool(&json!({"type": "object", "properties": 3}))), invalid);
        assert_eq!(reason(&tool(&json!({"type": "object", "$ref": "http://127.0.0.1:9/x.json"}))), invalid);
        let long = json!({"type": "object", "description": "x".repeat(MAX_BYTES)});
        assert!(reason(&tool(&long)).starts_with("there are too many tools"));
    }

    #[test]
    fn calls_are_equal_in_any_order_of_their_keys_and_fit_their_schema() {
        let call = |arguments: Value| Call { name: "find".into(), arguments };
        assert_eq!(
            call(json!({"a": 1, "b": {"c": 2, "d": 3}})).key(),
            call(json!({"b": {"d": 3, "c": 2}, "a": 1})).key()
        );
        assert_ne!(call(json!({"a": 1})).key(), call(json!({"a": 2})).key());
        let tools = read_tools(&tool(&json!({"type": "object", "properties": {"n": {"type": "integer"}},
            "additionalProperties": false})))
        .unwrap();
        assert!(checked(&tools, &call(json!({"n": 3}))).is_ok());
        for arguments in [json!({"n": "3"}), json!({"m": 3})] {
            let (reason, detail) = checked(&tools, &call(arguments)).unwrap_err();
            assert_eq!(reason, "arguments that do not fit the tool's schema");
            assert!(detail.starts_with("find: "), "{detail}");
        }
        let unknown = Call { name: "lose".into(), arguments: json!({}) };
        assert_eq!(checked(&tools, &unknown).unwrap_err().0, "a call of a tool that there is not");
        assert_eq!(Call::list(&json!([])), None);
        assert_eq!(Call::list(&json!([{"name": "find", "arguments": "{}"}])), None);
        assert_eq!(Call::list(&json!([{"name": "find"}])), Some(vec![call(json!({}))]));
    }
}
