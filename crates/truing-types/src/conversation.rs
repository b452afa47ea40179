//! What people train on: conversations, and the two plainer forms that are not one.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// OpenAI's name for the system role of newer models.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name that chat templates compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Empty where an assistant turn holds tool calls only.
    pub content: String,
    /// Content parts that are not text, such as images and audio, as OpenAI's API takes them: objects with a `type`.
    /// They follow the text. Only models on servers read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Value>,
    /// Loss weight of the turn; `None` means 1 for the assistant and 0 for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
    /// Reasoning kept apart from the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Tool calls as the template expects them (OpenAI's shape).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Name of the speaker or of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The call that a tool turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A plain turn.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            parts: Vec::new(),
            weight: None,
            reasoning_content: None,
            tool_calls: None,
            name: None,
            tool_call_id: None,
        }
    }

    /// The weight that the turn's tokens carry in the loss.
    #[must_use]
    pub fn loss_weight(&self) -> f32 {
        self.weight.unwrap_or(if self.role == Role::Assistant { 1.0 } else { 0.0 })
    }
}

/// Turns, and the tools that the model may call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// The turns in order.
    pub messages: Vec<Message>,
    /// Tool descriptions (JSON Schema, OpenAI's shape); empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
}

/// One row of training data of any file format.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingRow {
    /// Rendered through the model's chat template. A prompt and completion given as messages are one too:
    /// the prompt's turns carry weight 0.
    Conversation(Conversation),
    /// Two raw texts; only the completion and the end token carry loss.
    PromptCompletion {
        /// Text before.
        prompt: String,
        /// Training text.
        completion: String,
    },
    /// Raw text; every token carries loss.
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_are_written_only_where_there_are_some() {
        let plain = r#"{"role":"user","content":"Hi"}"#;
        let read: Message = serde_json::from_str(plain).unwrap();
        assert_eq!(read, Message::new(Role::User, "Hi"));
        assert_eq!(serde_json::to_string(&read).unwrap(), plain);
        let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        let with_image = Message { parts: vec![image], ..read };
        let written = serde_json::to_string(&with_image).unwrap();
        let expected =
            r#"{"role":"user","content":"Hi","parts":[{"type":"image_url","image_url":{"url":"data:,"}}]}"#;
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_str::<Message>(&written).unwrap(), with_image);
    }
}
