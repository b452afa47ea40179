//! Tools and tool calls: OpenAI's shape, its older one (`functions`, `function_call`), and the nulls that tables add.
//!
//! Arrow and Parquet keep a list of objects as a table: every object gets every key that any of them has, with null
//! where it had none. Rows that went through such a table, even rows written back to JSON, describe tools with
//! parameters that the tools do not have. No such null may reach a prompt:
//!
//! - A tool description loses every null entry at any depth, and every property of which nothing else is left. Lists
//!   keep their nulls, as in `enum: ["a", null]`.
//! - A tool call loses every null entry outside its arguments.
//! - Arguments written as a string are kept as they are: no table reaches into a string.
//! - Arguments given as an object lose a null entry where the called tool is described and has no such parameter, or
//!   one whose schema does not allow null. Where the tool is not described, they lose it in Parquet only.

use serde_json::{Map, Value, json};

use crate::columns::{Fields, text};
use crate::error::{RowErrorKind, RowProblem};
use crate::json::{entry, list, object, unquoted};

/// The tools of a row, and what is needed to read calls of them.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// In OpenAI's shape, without null entries.
    pub(crate) described: Vec<Value>,
    /// The row comes from a table, whose structs have null for every key that a row lacks.
    pads_nulls: bool,
}

const TOOLS: &str = "a list of tool descriptions, or a string that holds one";
const CALLS: &str = "a list of {\"type\": \"function\", \"function\": {\"name\": ..., \"arguments\": {...}}}";
const CALL: &str = "a call: {\"name\": ..., \"arguments\": {...}}";

impl Tools {
    /// The row's `tools`, or its older `functions`: a list, or a string that holds one. Bare functions are wrapped.
    pub(crate) fn of(fields: Fields<'_>) -> Result<Self, RowProblem> {
        let pads_nulls = fields.pads_nulls;
        let found = fields.get("tools").map(|value| (value, fields.path("tools")));
        let older = || fields.row.get("functions").filter(|v| lists_functions(v)).map(|v| (v, "functions"));
        let Some((value, field)) = found.or_else(older) else {
            return Ok(Self { described: Vec::new(), pads_nulls });
        };
        if value.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Ok(Self { described: Vec::new(), pads_nulls });
        }
        let parsed = unquoted(value, field, TOOLS)?;
        let tools = list(&parsed, field, TOOLS)?.iter().enumerate();
        let described = tools.map(|(i, tool)| described(tool, &format!("{field}[{i}]")));
        Ok(Self { described: described.collect::<Result<_, _>>()?, pads_nulls })
    }

    /// Tool calls in OpenAI's shape, as a list or as a string that holds one.
    pub(crate) fn calls(&self, value: &Value, field: &str) -> Result<Vec<Value>, RowProblem> {
        let parsed = unquoted(value, field, CALLS)?;
        let calls = list(&parsed, field, CALLS)?.iter().enumerate();
        calls
            .map(|(i, call)| {
                let at = format!("{field}[{i}]");
                let call = object(call, &at, CALLS)?;
                // OpenAI wraps the function; bare {name, arguments} is as common.
                let Some(function) = entry(call, "function") else { return self.call(call, &at) };
                let at = format!("{at}.function");
                let function = self.function(object(function, &at, CALLS)?, &at)?;
                let mut call = without_nulls(call, &["function"]);
                call.insert("function".to_owned(), function);
                Ok(Value::Object(call))
            })
            .collect()
    }

    /// The one call of an older `function_call`, an object or a string that holds one.
    pub(crate) fn older_call(&self, value: &Value, field: &str) -> Result<Vec<Value>, RowProblem> {
        let parsed = unquoted(value, field, CALL)?;
        Ok(vec![self.call(object(&parsed, field, CALL)?, field)?])
    }

    fn call(&self, function: &Map<String, Value>, at: &str) -> Result<Value, RowProblem> {
        Ok(json!({"type": "function", "function": self.function(function, at)?}))
    }

    /// Name and arguments. Arguments written as a string are parsed: templates expect an object, and one given a
    /// string would quote it a second time.
    fn function(&self, function: &Map<String, Value>, at: &str) -> Result<Value, RowProblem> {
        let name_field = format!("{at}.name");
        let name = entry(function, "name")
            .ok_or_else(|| RowProblem::new(&name_field, RowErrorKind::Missing, "a string"))?;
        let name = text(name, &name_field)?;
        let field = format!("{at}.arguments");
        let arguments = match entry(function, "arguments") {
            None => Value::Object(Map::new()),
            Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
            Some(Value::Object(given)) => Value::Object(self.arguments(given, self.schema(name))),
            Some(given) => unquoted(given, &field, "a JSON object")?.into_owned(),
        };
        object(&arguments, &field, "a JSON object")?;
        let mut function = without_nulls(function, &["arguments"]);
        function.insert("arguments".to_owned(), arguments);
        Ok(Value::Object(function))
    }

    /// The JSON Schema of a tool's arguments.
    fn schema(&self, name: &str) -> Option<&Value> {
        let functions = self.described.iter().map(|tool| tool.get("function").unwrap_or(tool));
        let mut called =
            functions.filter(|function| function.get("name").and_then(Value::as_str) == Some(name));
        called.next()?.get("parameters")
    }

    fn arguments(&self, given: &Map<String, Value>, schema: Option<&Value>) -> Map<String, Value> {
        let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
        let is_open = schema.and_then(|s| s.get("additionalProperties")).is_some_and(|v| *v != json!(false));
        let is_padding = |key: &String| match properties.map(|known| known.get(key)) {
            Some(Some(parameter)) => !allows_null(parameter),
            Some(None) if !is_open => true,
            _ => self.pads_nulls,
        };
        let mut kept = Map::new();
        for (key, value) in given {
            let inner = properties.and_then(|known| known.get(key));
            let value = match value {
                Value::Null if is_padding(key) => continue,
                Value::Object(object) => Value::Object(self.arguments(object, inner)),
                Value::Array(items) => {
                    let of_items = inner.and_then(|schema| schema.get("items"));
                    let item = |item: &Value| match item {
                        Value::Object(object) => Value::Object(self.arguments(object, of_items)),
                        other => other.clone(),
                    };
                    Value::Array(items.iter().map(item).collect())
                }
                other => other.clone(),
            };
            kept.insert(key.clone(), value);
        }
        kept
    }
}

/// Whether a column called `functions` holds tools: a list of objects with names, or a string that may hold one.
fn lists_functions(value: &Value) -> bool {
    match value {
        Value::Array(functions) => functions.iter().all(|function| function.get("name").is_some()),
        Value::String(text) => text.trim_start().starts_with('['),
        _ => false,
    }
}

fn described(tool: &Value, at: &str) -> Result<Value, RowProblem> {
    let parsed = unquoted(tool, at, "a tool description")?;
    let tool = without_nulls(object(&parsed, at, "a tool description")?, &[]);
    if tool.contains_key("function") || !tool.contains_key("name") {
        Ok(Value::Object(tool))
    } else {
        Ok(json!({"type": "function", "function": tool}))
    }
}

/// An object without null entries at any depth, but for the entries named.
fn without_nulls(object: &Map<String, Value>, but: &[&str]) -> Map<String, Value> {
    let mut kept = Map::new();
    for (key, value) in object {
        let value = match value {
            _ if but.contains(&key.as_str()) => value.clone(),
            Value::Null => continue,
            Value::Object(inner) => {
                let inner_kept = without_nulls(inner, &[]);
                // Templates walk over `properties`, which therefore stays even where nothing is left in it.
                let is_needed = ["properties", "parameters"].contains(&key.as_str());
                if inner_kept.is_empty() && !inner.is_empty() && !is_needed {
                    continue;
                }
                Value::Object(inner_kept)
            }
            Value::Array(items) => Value::Array(items.iter().map(item_without_nulls).collect()),
            other => other.clone(),
        };
        kept.insert(key.clone(), value);
    }
    kept
}

fn item_without_nulls(item: &Value) -> Value {
    match item {
        Value::Object(object) => Value::Object(without_nulls(object, &[])),
        Value::Array(items) => Value::Array(items.iter().map(item_without_nulls).collect()),
        other => other.clone(),
    }
}

/// Whether a value described by a JSON Schema may be null. A schema that does not restrict the type allows it.
fn allows_null(schema: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return schema != &Value::Bool(false) };
    let is_null_type = |kind: &Value| kind == "null";
    let of_type = schema.get("type").map(|kind| match kind {
        Value::Array(kinds) => kinds.iter().any(is_null_type),
        kind => is_null_type(kind),
    });
    let any_of = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array());
    let of_enum = schema.get("enum").and_then(Value::as_array).map(|values| values.contains(&Value::Null));
    if schema.get("nullable") == Some(&Value::Bool(true)) {
        return true;
    }
    match (of_type, any_of, of_enum) {
        (None, None, None) => true,
        (of_type, any_of, of_enum) => {
            of_type.unwrap_or(true)
                && any_of.is_none_or(|schemas| schemas.iter().any(allows_null))
                && of_enum.unwrap_or(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Columns;

    fn tools(row: &Value, pads_nulls: bool) -> Result<Tools, RowProblem> {
        let columns = Columns::default();
        Tools::of(Fields { row: row.as_object().unwrap(), columns: &columns, pads_nulls })
    }

    fn check_tool(tool: Value, expected: Value) {
        assert_eq!(tools(&json!({"tools": [tool]}), false).unwrap().described, [expected]);
    }

    #[test]
    fn a_tool_description_loses_what_a_table_padded_it_with() {
        check_tool(
            json!({"type": "function", "strict": null, "function": {"name": "tides", "description": null,
                "parameters": {"type": "object", "required": null, "properties": {
                    "x": null,
                    "y": {"type": null, "enum": null, "items": {"type": null}},
                    "port": {"type": "string", "enum": null, "description": "a port"},
                    "days": {"anyOf": [{"type": "integer", "enum": null}, {"type": "null"}], "default": null},
                    "unit": {"enum": ["m", null]}}}}}),
            json!({"type": "function", "function": {"name": "tides",
                "parameters": {"type": "object", "properties": {
                    "port": {"type": "string", "description": "a port"},
                    "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "unit": {"enum": ["m", null]}}}}}),
        );
        // What was empty before any null was removed is meant; `properties` stays because templates walk over it.
        check_tool(
            json!({"name": "now", "parameters": {"type": "object", "properties": {"x": null}}, "returns": {}}),
            json!({"type": "function", "function": {"name": "now",
                "parameters": {"type": "object", "properties": {}}, "returns": {}}}),
        );
        check_tool(
            json!({"name": "now", "parameters": null}),
            json!({"type": "function", "function": {"name": "now"}}),
        );
    }

    #[test]
    fn the_older_functions_are_tools_and_other_columns_of_that_name_are_not() {
        let of = |row: Value| tools(&row, false).unwrap().described;
        let expected = [json!({"type": "function", "function": {"name": "tides", "parameters": {}}})];
        assert_eq!(of(json!({"functions": [{"name": "tides", "parameters": {}}]})), expected);
        assert_eq!(of(json!({"functions": "[{\"name\": \"tides\", \"parameters\": {}}]"})), expected);
        assert!(of(json!({"functions": "sine and cosine"})).is_empty());
        assert!(of(json!({"functions": ["sine"]})).is_empty());
        assert!(of(json!({"functions": null, "tools": null})).is_empty());
    }

    fn check_arguments(arguments: Value, pads_nulls: bool, expected: Value) {
        let row = json!({"tools": [{"name": "tides", "parameters": {"type": "object", "properties": {
            "port": {"type": "string"},
            "days": {"type": ["integer", "null"]},
            "unit": {"enum": ["m", "ft"]},
            "note": {"description": "anything"},
            "place": {
                "type": "object",
                "properties": {"lat": {"type": "number"}, "name": {"nullable": true, "type": "string"}}
            },
            "stops": {"type": "array", "items": {"type": "object", "properties": {"at": {"type": "string"}}}}}}}]});
        let tools = tools(&row, pads_nulls).unwrap();
        let calls = tools.calls(&json!([{"name": "tides", "arguments": arguments}]), "tool_calls").unwrap();
        assert_eq!(calls[0]["function"]["arguments"], expected);
    }

    #[test]
    fn arguments_lose_a_null_that_the_schema_does_not_allow_and_keep_one_that_it_does() {
        let given = json!({"port": "Brest", "days": null, "unit": null, "note": null, "unknown": null,
            "place": {"lat": null, "name": null, "far": null}, "stops": [{"at": null, "x": null}, null]});
        let expected = json!({
            "port": "Brest", "days": null, "note": null, "place": {"name": null}, "stops": [{}, null]
        });
        check_arguments(given.clone(), false, expected.clone());
        check_arguments(given.clone(), true, expected);
        // No table reaches into a string.
        check_arguments(Value::String(given.to_string()), true, given);
    }

    #[test]
    fn arguments_of_an_undescribed_tool_lose_nulls_in_parquet_only() {
        let calls = json!([{"id": "c1", "index": null, "type": "function",
            "function": {"name": "other", "arguments": {"x": null, "y": 1}, "parsed": null}}]);
        let check = |pads_nulls, expected: Value| {
            let read = tools(&json!({}), pads_nulls).unwrap().calls(&calls, "tool_calls").unwrap();
            let function = json!({"name": "other", "arguments": expected});
            assert_eq!(read, [json!({"id": "c1", "type": "function", "function": function})]);
        };
        check(false, json!({"x": null, "y": 1}));
        check(true, json!({"y": 1}));
    }

    #[test]
    fn an_older_call_is_one_tool_call_whatever_form_its_arguments_have() {
        let tools = Tools::default();
        let expected =
            [json!({"type": "function", "function": {"name": "tides", "arguments": {"port": "Brest"}}})];
        for call in [
            json!({"name": "tides", "arguments": "{\"port\": \"Brest\"}"}),
            json!({"name": "tides", "arguments": {"port": "Brest"}}),
            json!("{\"name\": \"tides\", \"arguments\": {\"port\": \"Brest\"}}"),
        ] {
            assert_eq!(tools.older_call(&call, "function_call").unwrap(), expected, "{call}");
        }
        let problem =
            tools.older_call(&json!({"name": "tides", "arguments": "{"}), "messages[1].function_call");
        assert!(
            problem.unwrap_err().to_string().starts_with("`messages[1].function_call.arguments` is a string")
        );
        let problem = tools.older_call(&json!({"arguments": "{}"}), "messages[1].function_call").unwrap_err();
        assert_eq!(problem.to_string(), "`messages[1].function_call.name` is missing; expected a string");
    }
}
