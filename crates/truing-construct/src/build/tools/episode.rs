//! A conversation of a simulated user, assistant and tools, and the checks of its calls.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::CallPattern;
use super::definitions::{Call, Tool, checked};
use super::grounding::Sources;
use crate::build::Dropped;

/// The step that drops conversations for a call.
const CALLING: &str = "call";

/// Something that was said or done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Turn {
    /// What the user says.
    User(String),
    /// Calls of the assistant, and their results as far as there are any.
    Calls { thought: String, calls: Vec<Call>, results: Vec<Value> },
    /// What the assistant says.
    Answer(String),
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Next {
    #[default]
    User,
    Assistant,
    Tool,
    Nobody,
}

/// A conversation while it is simulated.
#[derive(Debug, Default)]
pub(super) struct Episode {
    pub(super) atomic_tasks: Vec<String>,
    pub(super) task: String,
    pub(super) tools: Vec<Tool>,
    /// The world that the tools read and change.
    pub(super) state: Value,
    pub(super) turns: Vec<Turn>,
    pub(super) next: Next,
    /// What each call gave; the same call gives the same again.
    results: BTreeMap<String, Value>,
}

impl Episode {
    pub(super) fn n_user_turns(&self) -> usize {
        self.turns.iter().filter(|turn| matches!(turn, Turn::User(_))).count()
    }

    pub(super) fn n_steps(&self) -> usize {
        self.turns.len() - self.n_user_turns()
    }

    pub(super) fn say(&mut self, text: String) {
        self.turns.push(Turn::User(text));
        self.next = Next::Assistant;
    }

    /// Ends the part of the assistant; the user may go on, up to so many turns.
    pub(super) fn answer(&mut self, text: String, max_user_turns: usize) {
        self.turns.push(Turn::Answer(text));
        self.next = if self.n_user_turns() < max_user_turns { Next::User } else { Next::Nobody };
    }

    /// Takes over calls that fit the schemas of their tools and whose arguments come from somewhere.
    pub(super) fn call(&mut self, thought: String, calls: Vec<Call>) -> Result<(), Dropped> {
        let sources = self.sources();
        for (i, call) in calls.iter().enumerate() {
            check_call(&self.tools, call, &sources)
                .map_err(|(reason, detail)| Dropped::new(CALLING, reason).with_detail(detail))?;
            if calls[..i].contains(call) {
                return Err(
                    Dropped::new(CALLING, "the same call twice in one turn").with_detail(call.name.clone())
                );
            }
        }
        self.turns.push(Turn::Calls { thought, calls, results: Vec::new() });
        self.settle();
        Ok(())
    }

    /// The call that waits for its result.
    pub(super) fn pending(&self) -> Option<&Call> {
        match self.turns.last()? {
            Turn::Calls { calls, results, .. } => calls.get(results.len()),
            Turn::User(_) | Turn::Answer(_) => None,
        }
    }

    /// Takes over the result of the waiting call, and the state of the world after it.
    pub(super) fn add_result(&mut self, result: Value, state: Option<Value>) {
        if let Some(key) = self.pending().map(Call::key) {
            self.results.insert(key, result);
        }
        if let Some(state) = state {
            self.state = state;
        }
        self.settle();
    }

    /// Gives waiting calls the results that equal ones had.
    fn settle(&mut self) {
        while let Some(result) = self.pending().and_then(|call| self.results.get(&call.key())).cloned() {
            if let Some(Turn::Calls { results, .. }) = self.turns.last_mut() {
                results.push(result);
            }
        }
        self.next = if self.pending().is_some() { Next::Tool } else { Next::Assistant };
    }

    fn sources(&self) -> Sources {
        let mut sources = Sources::default();
        for turn in &self.turns {
            match turn {
                Turn::User(text) => sources.add_text(text),
                Turn::Calls { results, .. } => results.iter().for_each(|result| sources.add_result(result)),
                Turn::Answer(_) => {}
            }
        }
        sources
    }

    /// How many calls each turn of the assistant with calls has.
    pub(super) fn n_calls(&self) -> Vec<usize> {
        let of = |turn: &Turn| match turn {
            Turn::Calls { calls, .. } => Some(calls.len()),
            Turn::User(_) | Turn::Answer(_) => None,
        };
        self.turns.iter().filter_map(of).collect()
    }

    /// The conversation as the models get it.
    pub(super) fn transcript(&self) -> String {
        let line = |turn: &Turn| match turn {
            Turn::User(text) => format!("[user] {text}"),
            Turn::Calls { calls, results, .. } => {
                let calls: Vec<Value> = calls.iter().map(bare_call).collect();
                format!("[assistant calls] {}\n[results] {}", json!(calls), json!(results))
            }
            Turn::Answer(text) => format!("[assistant] {text}"),
        };
        self.turns.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The turns of a row. Calls are numbered throughout.
    pub(super) fn messages(&self) -> Vec<Value> {
        let mut messages = Vec::new();
        let mut n_calls = 0;
        for turn in &self.turns {
            match turn {
                Turn::User(text) => messages.push(json!({"role": "user", "content": text})),
                Turn::Answer(text) => messages.push(json!({"role": "assistant", "content": text})),
                Turn::Calls { thought, calls, results } => {
                    let id = |i: usize| format!("call_{}", n_calls + i + 1);
                    let numbered = calls.iter().enumerate();
                    let written: Vec<Value> = numbered
                        .map(
                            |(i, call)| json!({"id": id(i), "type": "function", "function": bare_call(call)}),
                        )
                        .collect();
                    messages.push(json!({"role": "assistant", "content": thought, "tool_calls": written}));
                    for (i, (call, result)) in calls.iter().zip(results).enumerate() {
                        let content = result.to_string();
                        messages.push(json!({
                            "role": "tool", "name": call.name, "tool_call_id": id(i), "content": content
                        }));
                    }
                    n_calls += calls.len();
                }
            }
        }
        messages
    }
}

fn bare_call(call: &Call) -> Value {
    json!({"name": call.name, "arguments": call.arguments})
}

/// Checks a call against its tool and what was said and found before.
fn check_call(tools: &[Tool], call: &Call, sources: &Sources) -> Result<(), (&'static str, String)> {
    let tool = checked(tools, call)?;
    let made_up = sources.ungrounded(&call.arguments, &tool.parameters);
    match made_up.is_empty() {
        true => Ok(()),
        false => Err(("arguments that come from nowhere", format!("{}: {}", call.name, made_up.join(", ")))),
    }
}

/// Checks the turns of a row, as they are written: every call fits its tool, its arguments come from earlier turns, it
/// has one result, equal calls have equal results, and the calls are of the pattern.
pub(super) fn check_messages(messages: &[Value], tools: &[Tool], pattern: CallPattern) -> Result<(), String> {
    let (mut sources, mut known) = (Sources::default(), BTreeMap::new());
    let (mut waiting, mut n_calls): (Vec<(String, Call)>, Vec<usize>) = (Vec::new(), Vec::new());
    for message in messages {
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        if text("role") != "tool" && !waiting.is_empty() {
            return Err(format!("the call {} has no result", waiting[0].0));
        }
        match (text("role"), message.get("tool_calls").and_then(Value::as_array)) {
            ("user", None) => sources.add_text(text("content")),
            ("assistant", None) if text("content").trim().is_empty() => {
                return Err("an answer is empty".into());
            }
            ("assistant", None) => {}
            ("assistant", Some(written)) => {
                let functions: Value = written.iter().map(|call| call["function"].clone()).collect();
                let calls = Call::list(&functions).ok_or("a call cannot be read")?;
                for call in &calls {
                    check_call(tools, call, &sources)
                        .map_err(|(reason, detail)| format!("{reason}: {detail}"))?;
                }
                n_calls.push(calls.len());
                let ids = written.iter().map(|call| call["id"].as_str().unwrap_or_default().to_owned());
                waiting = ids.zip(calls).collect();
            }
            ("tool", None) => {
                let place = waiting.iter().position(|(id, _)| id == text("tool_call_id"));
                let (_, call) = waiting.remove(place.ok_or("a result has no call")?);
                let result: Value = serde_json::from_str(text("content"))
                    .map_err(|error| format!("a result is no JSON: {error}"))?;
                sources.add_result(&result);
                if known.insert(call.key(), result.clone()).is_some_and(|earlier| earlier != result) {
                    return Err(format!("equal calls of {} have different results", call.name));
                }
            }
            (role, _) => return Err(format!("a turn of `{role}` does not belong here")),
        }
    }
    match pattern.fits(&n_calls) {
        true => Ok(()),
        false => Err(format!("turns with {n_calls:?} calls are not {}", pattern.code())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::definitions::read_tools;
    use super::*;

    fn tools() -> Vec<Tool> {
        let string =
            json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
        let id = json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]});
        read_tools(&json!([
            {"name": "find", "description": "Finds a station.", "parameters": string},
            {"name": "show", "description": "Shows a station.", "parameters": id},
        ]))
        .unwrap()
    }

    fn call(name: &str, arguments: Value) -> Call {
        Call { name: name.into(), arguments }
    }

    /// A conversation with two calls, one after the other, and a third that repeats the first.
    fn episode() -> Episode {
        let mut episode = Episode { tools: tools(), ..Episode::default() };
        episode.say("What is at the station of Bern?".into());
        episode.call("First the station.".into(), vec![call("find", json!({"city": "Bern"}))]).unwrap();
        assert_eq!(episode.next, Next::Tool);
        episode.add_result(json!({"id": "S-17"}), Some(json!({"n": 1})));
        episode.call(String::new(), vec![call("show", json!({"id": "S-17"}))]).unwrap();
        episode.add_result(json!({"shops": 4}), None);
        episode.call(String::new(), vec![call("find", json!({"city": "bern"}))]).unwrap();
        episode.add_result(json!({"id": "S-17"}), None);
        episode.call(String::new(), vec![call("find", json!({"city": "Bern"}))]).unwrap();
        assert_eq!(episode.next, Next::Assistant, "the same call gives the same result without being asked");
        episode.answer("Four shops.".into(), 1);
        episode
    }

    #[test]
    fn a_conversation_is_written_and_passes_its_check() {
        let episode = episode();
        assert_eq!(
            (episode.next, episode.n_calls(), &episode.state),
            (Next::Nobody, vec![1; 4], &json!({"n": 1}))
        );
        let messages = episode.messages();
        assert_eq!(messages.len(), 1 + 4 * 2 + 1);
        assert_eq!(messages[3]["tool_calls"][0]["id"], "call_2");
        assert_eq!(messages[4]["tool_call_id"], "call_2");
        assert_eq!(check_messages(&messages, &episode.tools, CallPattern::Sequential), Ok(()));
        let parallel = check_messages(&messages, &episode.tools, CallPattern::ParallelThenSequential);
        assert!(parallel.unwrap_err().contains("are not parallel_then_sequential"));
    }

    #[test]
    fn calls_without_a_tool_a_schema_or_a_source_are_refused() {
        let mut episode = Episode { tools: tools(), ..Episode::default() };
        episode.say("What is at the station of Bern?".into());
        let mut reason = |calls: Vec<Call>| episode.call(String::new(), calls).unwrap_err().reason;
        assert_eq!(reason(vec![call("lose", json!({}))]), "a call of a tool that there is not");
        assert_eq!(reason(vec![call("find", json!({}))]), "arguments that do not fit the tool's schema");
        assert_eq!(reason(vec![call("find", json!({"city": "Basel"}))]), "arguments that come from nowhere");
        let twice = vec![call("find", json!({"city": "Bern"})); 2];
        assert_eq!(reason(twice), "the same call twice in one turn");
        assert!(episode.n_calls().is_empty());
    }

    #[test]
    fn the_check_finds_what_was_changed() {
        let episode = episode();
        let check = |change: &dyn Fn(&mut Vec<Value>)| {
            let mut messages = episode.messages();
            change(&mut messages);
            check_messages(&messages, &episode.tools, CallPattern::Sequential).unwrap_err()
        };
        assert!(
            check(&|turns| turns[0] = json!({"role": "user", "content": "Hello."})).contains("from nowhere")
        );
        assert!(check(&|turns| drop(turns.remove(2))).contains("has no result"));
        assert!(check(&|turns| turns[2]["tool_call_id"] = json!("call_9")).contains("has no call"));
        assert!(check(&|turns| turns[2]["content"] = json!("S-17")).contains("no JSON"));
        assert!(
            check(&|turns| turns[8]["content"] = json!("{\"id\": \"S-18\"}")).contains("different results")
        );
        assert!(check(&|turns| turns[9]["content"] = json!(" ")).contains("empty"));
        assert!(check(&|turns| turns[9]["role"] = json!("system")).contains("does not belong"));
    }
}
