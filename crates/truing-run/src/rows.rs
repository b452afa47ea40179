//! Rows that stages read columns of, and rows that they write.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_store::{Digest, atomic};
use truing_types::{Conversation, Role, RowOrigin};

use crate::RunError;

/// Where a prompt came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSource {
    /// The file.
    pub path: String,
    /// Its line, counted from 1.
    pub line: u64,
}

impl PromptSource {
    /// Of a row.
    #[must_use]
    pub fn of(origin: &RowOrigin) -> Self {
        Self { path: origin.source.to_string(), line: origin.line }
    }
}

/// What is asked: every turn but the assistant's, one below the other.
pub fn prompt_text(prompt: &Conversation) -> String {
    let asked = prompt.messages.iter().filter(|message| message.role != Role::Assistant);
    asked.map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n")
}

/// The value of a column; `a.b` reaches inside where no column has the whole name. Null is none.
pub fn value_at<'a>(columns: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
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

/// A number that equal texts share, and others do not.
pub fn text_key(text: &str) -> u64 {
    let digest = Digest::of_bytes(text.as_bytes());
    u64::from_le_bytes(digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default())
}

/// Replaces a file by one JSON object per row.
///
/// # Errors
/// When the disk fails.
pub fn write_lines<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), RunError> {
    let failed = |source| RunError::Write { path: path.to_path_buf(), source };
    let mut writer = atomic::Writer::new(path)?;
    for row in rows {
        serde_json::to_writer(&mut writer, row).map_err(|error| failed(error.into()))?;
        writer.write_all(b"\n").map_err(failed)?;
    }
    writer.commit()?;
    Ok(())
}
