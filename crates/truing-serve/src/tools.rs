//! Tools that a request offers, and the calls that a model writes.
//!
//! Templates show tools in their own form; models answer in one of these: `<tool_call>` with a JSON object or list
//! (Hermes, Qwen, SmolLM), `[TOOL_CALLS]` with a JSON list (Mistral), `<|python_tag|>` or nothing before a JSON object or list
//! (Llama). A call is taken for one only where its name is that of a tool; everything else stays text.

use serde_json::{Map, Value, json};
use truing_generate::GrammarSource;
use truing_types::{Conversation, Message, Role};

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

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON text.
    pub(crate) arguments: String,
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

    /// Where in a text a call may begin: what stands before is certainly content. `None` where nothing looks like one.
    pub(crate) fn may_begin(&self, text: &str) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let marks = ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"];
        let marked = marks.iter().filter_map(|mark| text.find(mark)).min();
        let start = text.len() - text.trim_start().len();
        let found = marked.or_else(|| text[start..].starts_with(['{', '[']).then_some(start));
        // The end of the text may be the beginning of a mark.
        let found = found.or_else(|| {
            (start..text.len())
                .filter(|&at| text.is_char_boundary(at))
                .find(|&at| marks.iter().any(|mark| mark.starts_with(&text[at..])))
        });
        // White space before a call is not content.
        match found {
            None if start == text.len() => Some(0),
            found => found.map(|at| if at <= start { 0 } else { at }),
        }
    }

    /// The calls in an answer and the text before them; `None` where it has no call. Where a call is required, the text is one, also
    /// if it was cut.
    pub(crate) fn calls(&self, text: &str) -> Option<(String, Vec<Call>)> {
        if self.required.is_some() {
            return self.required_call(text).map(|call| (String::new(), vec![call]));
        }
        let at = self.may_begin(text)?;
        let (before, rest) = text.split_at(at);
        let rest = rest.trim_start();
        let mut calls = Vec::new();
        if rest.starts_with("<tool_call>") {
            for part in rest.split("<tool_call>").skip(1) {
                let json = part.split("</tool_call>").next()?;
                calls.extend(self.of_json(json.trim())?);
            }
        } else {
            let json = rest.trim_start_matches("[TOOL_CALLS]").trim_start_matches("<|python_tag|>").trim();
            calls = self.of_json(json)?;
        }
        if !self.is_parallel {
            calls.truncate(1);
        }
        (!calls.is_empty()).then(|| (before.to_owned(), calls))
    }

    /// The call that the grammar has forced: its arguments are the text as far as it goes.
    fn required_call(&self, text: &str) -> Option<Call> {
        if let Some(call) = self.of_json(text).and_then(|mut calls| calls.pop()) {
            return Some(call);
        }
        let name = self.names.iter().find(|name| text.contains(&format!("\"name\": {}", json!(name))))?;
        let arguments = text.split_once("\"arguments\": ").map(|(_, rest)| rest).unwrap_or_default();
        Some(Call { name: name.clone(), arguments: arguments.to_owned() })
    }

    fn of_json(&self, text: &str) -> Option<Vec<Call>> {
        let one = |value: &Value| {
            let object = value.get("function").filter(|inner| inner.is_object()).unwrap_or(value);
            let name = object.get("name")?.as_str().filter(|name| self.names.iter().any(|n| n == name))?;
            let arguments = object.get("arguments").or_else(|| object.get("parameters"));
            let arguments: Map<String, Value> = match arguments {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(arguments)) => arguments.clone(),
                Some(Value::String(text)) => serde_json::from_str(text).ok()?,
                Some(_) => return None,
            };
            let arguments = Value::Object(arguments).to_string();
            Some(Call { name: name.to_owned(), arguments })
        };
        match serde_json::from_str(text).ok()? {
            Value::Array(values) => values.iter().map(one).collect(),
            value => one(&value).map(|call| vec![call]),
        }
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

/// How tools are described to a model whose template does not show them.
const INTRODUCTION: &str = "You can call functions. The functions, one JSON object per line:";
const INSTRUCTION: &str = "To call a function, write a JSON object with its name and its arguments between <tool_call> and \
</tool_call>, for example:\n<tool_call>\n{\"name\": \"function_name\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>\n\
The result is given to you between <tool_response> and </tool_response>. If no function is needed, answer in words.";

/// The same conversation with tools, calls and results written into its texts, in the form of Hermes: for templates that do not
/// show them.
pub(crate) fn in_words(conversation: Conversation) -> Conversation {
    let Conversation { messages, tools } = conversation;
    let mut shown: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    if !tools.is_empty() {
        let functions: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
        let text = format!("{INTRODUCTION}\n{}\n\n{INSTRUCTION}", functions.join("\n"));
        shown.push(Message::new(Role::System, text));
    }
    for message in messages {
        match message.role {
            Role::System | Role::Developer if shown.len() == 1 && !tools.is_empty() => {
                let text = format!("{}\n\n{}", message.content, shown[0].content);
                shown[0] = Message { content: text, ..message };
            }
            Role::Tool => {
                let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
                match shown.last_mut() {
                    // The results of one turn's calls are one turn.
                    Some(last) if last.role == Role::User && last.content.starts_with("<tool_response>") => {
                        last.content.push('\n');
                        last.content.push_str(&text);
                    }
                    _ => shown.push(Message::new(Role::User, text)),
                }
            }
            _ => {
                let mut message = message;
                for call in message.tool_calls.take().unwrap_or_default() {
                    let function = &call["function"];
                    let call = json!({"name": function["name"], "arguments": function["arguments"]});
                    if !message.content.is_empty() {
                        message.content.push('\n');
                    }
                    message.content.push_str(&format!("<tool_call>\n{call}\n</tool_call>"));
                }
                shown.push(message);
            }
        }
    }
    Conversation { messages: shown, tools: Vec::new() }
}

impl Call {
    /// As OpenAI has it.
    pub(crate) fn json(&self, id: &str) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments});
        json!({"id": id, "type": "function", "function": function})
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
    fn calls_are_found_in_every_form() {
        let tools = tools(json!({}));
        let weather =
            |city: &str| Call { name: "weather".into(), arguments: json!({"city": city}).to_string() };
        let both = [weather("Rome"), weather("Oslo")];
        for (text, before, expected) in [
            (r#"<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>"#, "", &both[..1]),
            (
                "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n\
                 <tool_call>{\"name\":\"weather\",\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\"}</tool_call>",
                "I look.\n",
                &both[..],
            ),
            (r#"[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]"#, "", &both[..1]),
            (r#"<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}"#, "", &both[..1]),
            (r#" {"name": "weather", "parameters": {"city": "Rome"}}"#, "", &both[..1]),
            (r#"[{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]"#, "", &both[..1]),
        ] {
            assert_eq!(tools.calls(text), Some((before.into(), expected.to_vec())), "{text}");
        }
        for text in ["Hello", r#"{"name": "other", "arguments": {}}"#, "[1, 2]", "<tool_call>{", ""] {
            assert_eq!(tools.calls(text), None, "{text}");
        }
        let one = self::tools(json!({"parallel_tool_calls": false}));
        let text = r#"[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "tide"}]"#;
        assert_eq!(one.calls(text).unwrap().1, &both[..1]);
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
    fn tools_can_be_written_in_words() {
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
        let messages = vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, "Go."),
            Message { tool_calls: Some(vec![call.clone(), call]), ..Message::new(Role::Assistant, "") },
            Message::new(Role::Tool, "one"),
            Message::new(Role::Tool, "two"),
        ];
        let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        let shown = in_words(Conversation { messages, tools });
        assert!(shown.tools.is_empty());
        let texts: Vec<&str> = shown.messages.iter().map(|message| message.content.as_str()).collect();
        assert!(
            texts[0].starts_with("Be brief.\n\nYou can call functions.")
                && texts[0].contains("{\"name\":\"f\"}")
        );
        let one = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>";
        assert_eq!(texts[2], format!("{one}\n{one}"));
        assert_eq!(
            texts[3],
            "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
        );
        assert_eq!(shown.messages.len(), 4);
    }

    #[test]
    fn text_is_held_back_only_where_a_call_may_begin() {
        let tools = tools(json!({}));
        for (text, expected) in [
            ("Hello", None),
            ("Hello <tool", Some(6)),
            ("Hello <", Some(6)),
            ("a < b", None),
            (" {", Some(0)),
            (" ", Some(0)),
            ("so {", None),
            ("x [TOOL_CALLS]", Some(2)),
        ] {
            assert_eq!(tools.may_begin(text), expected, "{text}");
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
        assert_eq!(cut.1, [Call { name: "weather".into(), arguments: "{\"ci".into() }]);
        assert_eq!(required.calls("{\"na"), None);
        assert!(tools(json!({})).grammar().is_none());
        let body = json!({"tools": [], "tool_choice": "required"}).to_string();
        assert!(Tools::read(&mut Fields::of_body(body.as_bytes()).unwrap()).is_err());
    }
}
