//! What stages read of a prompt's row.

use serde_json::{Map, Value};
use truing_types::{Conversation, Role};

/// What is asked: every turn but the assistant's, one below the other.
pub(crate) fn prompt_text(prompt: &Conversation) -> String {
    let asked = prompt.messages.iter().filter(|message| message.role != Role::Assistant);
    asked.map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n")
}

/// A row's value at a path such as `labels.ability`, unless it is null. A column of the whole path's name comes first.
pub(crate) fn column<'a>(columns: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let (mut parts, first) = (path.split('.'), columns.get(path));
    let inner = || {
        let mut value = columns.get(parts.next()?)?;
        for part in parts {
            value = match part.parse::<usize>() {
                Ok(place) if value.is_array() => value.get(place)?,
                _ => value.get(part)?,
            };
        }
        Some(value)
    };
    first.or_else(inner).filter(|value| !value.is_null())
}
