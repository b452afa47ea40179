//! Tools that a request offers, and the calls that a model writes.
//!
//! How calls are written, and found in a text, is in [`tool_calls`].

use serde_json::{Value, json};
use truing_generate::GrammarSource;
use truing_text::tool_calls::{self, ToolCall};

use crate::error::ApiError;
use crate::fields::Fields;

/// Tools that a model may call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tools {
    /// As the template is shown them; empty where there are none, or none may be called.
    pub(crate) described: Vec<Value>,
    names: Vec<String>,
    /// Has to call one of these.
    required: Option<Vec<String>>,
    /// More than one call at a time.
    is_parallel: bool,
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let listed = fields.list("tools")?.unwrap_or_default();
        let mut tools = Self { is_parallel: true, ..Self::default() };
        for (idx, value) in listed.into_iter().enumerate() {
            let mut tool = Fields::of_value(&format!("tools[{idx}]"), value.clone())?;
            let kind = tool.text("type")?;
            if tool.required("type", kind, "`function`")? != "function" {
                return Err(ApiError::value(tool.path("type"), &value["type"], "`function`"));
            }
            let function = tool.take("function");
            let function = tool.required("function", function, "an object with `name`")?;
            let mut function = Fields::of_value(&tool.path("function"), function)?;
            let name = function.text("name")?;
            let name = function.required("name", name, "a text")?;
            function.text("description")?;
            function.object("parameters")?;
            function.boolean("strict")?;
            function.finish(&[])?;
            tool.finish(&[])?;
            if tools.names.contains(&name) {
                let message = format!("`tools[{idx}].function.name`: `{name}` is already a tool");
                return Err(ApiError::field(format!("tools[{idx}].function.name"), message));
            }
            tools.names.push(name);
            tools.described.push(value);
        }
        tools.is_parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        tools.choose(fields)?;
        Ok(tools)
    }

    fn choose(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        const EXPECTED: &str =
            "`none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": ...}}";
        let Some(choice) = fields.take("tool_choice") else { return Ok(()) };
        let named = match &choice {
            Value::String(word) if word == "auto" => return Ok(()),
            Value::String(word) if word == "none" => {
                *self = Self::default();
                return Ok(());
            }
            Value::String(word) if word == "required" => self.names.clone(),
            Value::Object(choice) if choice.get("type") == Some(&json!("function")) => {
                let name = choice.get("function").and_then(|function| function.get("name"));
                name.and_then(Value::as_str).map(|name| vec![name.to_owned()]).unwrap_or_default()
            }
            _ => return Err(ApiError::value("tool_choice", &choice, EXPECTED)),
        };
        if named.is_empty() || named.iter().any(|name| !self.names.contains(name)) {
            return Err(ApiError::field("tool_choice", "`tool_choice` names no tool of `tools`"));
        }
        self.required = Some(named);
        Ok(())
    }

    /// Whether a call may come.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The grammar that forces a call, where one is required: a JSON object with the tool's name and arguments.
    pub(crate) fn grammar(&self) -> Option<(GrammarSource, String)> {
        let required = self.required.as_ref()?;
        let one = |(idx, name): (usize, &String)| {
            let described = self.described.iter().find(|tool| tool["function"]["name"] == name.as_str());
            let parameters = described.and_then(|tool| tool["function"].get("parameters")).cloned();
            let mut parameters = parameters.unwrap_or_else(|| json!({"type": "object"}));
            let root = match required.len() {
                1 => "#/properties/arguments".to_owned(),
                _ => format!("#/anyOf/{idx}/properties/arguments"),
            };
            move_references(&mut parameters, &root);
            json!({
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        };
        let choices: Vec<Value> = required.iter().enumerate().map(one).collect();
        let schema = match &choices[..] {
            [only] => only.clone(),
            _ => json!({"anyOf": choices}),
        };
        Some((GrammarSource::JsonSchema(schema), "tools".into()))
    }

    /// Where in a text a call may begin: what is before is certainly content. `None` where nothing looks like one.
    pub(crate) fn may_begin(&self, text: &str) -> Option<usize> {
        if self.is_empty() { None } else { tool_calls::may_begin(text) }
    }

    /// The calls in an answer and the text before them; `None` where it has no call. Where a call is required, the text
    /// is one, also if it was cut.
    pub(crate) fn calls(&self, text: &str) -> Option<(String, Vec<ToolCall>)> {
        if self.required.is_some() {
            return self.required_call(text).map(|call| (String::new(), vec![call]));
        }
        let (before, mut calls) = tool_calls::split(text, &self.names)?;
        if !self.is_parallel {
            calls.truncate(1);
        }
        Some((before.to_owned(), calls))
    }

    /// The call that the grammar has forced: its arguments are the text as far as it goes.
    fn required_call(&self, text: &str) -> Option<ToolCall> {
        if let Some(call) = tool_calls::of_json(text, &self.names).and_then(|mut calls| calls.pop()) {
            return Some(call);
        }
        let name = self.names.iter().find(|name| text.contains(&format!("\"name\": {}", json!(name))))?;
        let arguments = text.split_once("\"arguments\": ").map(|(_, rest)| rest).unwrap_or_default();
        Some(ToolCall { name: name.clone(), arguments: arguments.to_owned() })
    }
}

/// Lets references inside a schema (`#/$defs/x`) point to where the schema now is.
fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries.iter_mut() {
                match value {
                    Value::String(reference) if key == "$ref" => {
                        if let Some(path) = reference.strip_prefix('#') {
                            *reference = format!("{root}{path}");
                        }
                    }
                    value => move_references(value, root),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| move_references(value, root)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(extra: Value) -> Tools {
        let mut body = json!({"tools": [
            {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "tide"}},
        ]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Tools::read(&mut Fields::of_body(body.to_string().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_request_decides_which_calls_are_taken() {
        let tools = tools(json!({}));
        let one = self::tools(json!({"parallel_tool_calls": false}));
        let text = r#"[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "tide"}]"#;
        let rome = ToolCall { name: "weather".into(), arguments: json!({"city": "Rome"}).to_string() };
        assert_eq!(one.calls(text), Some((String::new(), vec![rome])));
        assert_eq!(tools.calls(text).unwrap().1.len(), 2);
        assert_eq!(self::tools(json!({"tool_choice": "none"})).calls(text), None);
    }

    #[test]
    fn references_of_parameters_are_moved() {
        let parameters = json!({
            "type": "object",
            "properties": {"p": {"$ref": "#/$defs/P"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "$defs": {"P": {"type": "object", "properties": {"x": {"type": "number"}}}},
        });
        for (n_tools, root) in [(1, "#/properties/arguments"), (2, "#/anyOf/0/properties/arguments")] {
            let tools: Vec<Value> = ["draw", "other"][..n_tools]
                .iter()
                .map(|name| json!({"type": "function", "function": {"name": name, "parameters": parameters}}))
                .collect();
            let body = json!({"tools": tools, "tool_choice": "required"}).to_string();
            let tools = Tools::read(&mut Fields::of_body(body.as_bytes()).unwrap()).unwrap();
            let Some((GrammarSource::JsonSchema(schema), _)) = tools.grammar() else { panic!("no schema") };
            for (path, expected) in [("properties/p", "/$defs/P"), ("properties/next/anyOf/0", "")] {
                let place = format!("{}/{path}/$ref", &root[1..]);
                assert_eq!(schema.pointer(&place).unwrap(), &json!(format!("{root}{expected}")));
            }
        }
    }

    #[test]
    fn a_required_call_has_a_grammar() {
        let named = tools(json!({"tool_choice": {"type": "function", "function": {"name": "tide"}}}));
        let Some((GrammarSource::JsonSchema(schema), _)) = named.grammar() else { panic!("no schema") };
        assert_eq!(schema["properties"]["name"], json!({"const": "tide"}));
        let Some((GrammarSource::JsonSchema(schema), _)) =
            tools(json!({"tool_choice": "required"})).grammar()
        else {
            panic!("no schema")
        };
        assert_eq!(schema["anyOf"].as_array().unwrap().len(), 2);
        let required = tools(json!({"tool_choice": "required"}));
        let cut = required.calls("{\"name\": \"weather\", \"arguments\": {\"ci").unwrap();
        assert_eq!(cut.1, [ToolCall { name: "weather".into(), arguments: "{\"ci".into() }]);
        assert_eq!(required.calls("{\"na"), None);
        assert!(tools(json!({})).grammar().is_none());
        let body = json!({"tools": [], "tool_choice": "required"}).to_string();
        assert!(Tools::read(&mut Fields::of_body(body.as_bytes()).unwrap()).is_err());
    }
}
