//! OpenAI's messages: `{"messages": [{"role": "user", "content": "..."}, ...], "tools": [...]}`.
//!
//! A message may say how much it counts in the loss; see [`loss_weight`](crate::loss_weight).
//! Other keys that a template knows are `tool_calls`, `name`, `tool_call_id` and `reasoning_content` (or `reasoning`,
//! or `thinking`); unknown keys such as ids and time stamps are not read. OpenAI's older names are read too:
//! `functions` as `tools`, `function_call` as the one of `tool_calls`, and the role `function` as `tool`.

use truing_types::TrainingRow;

use super::{Format, conversation, open_lines, optional, parse_messages, required};
use crate::columns::Fields;
use crate::error::RowProblem;
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format = Format {
    name: "messages",
    example: r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}"#,
    columns: &[required("messages"), optional("tools")],
    takes_prompt_template: false,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

fn detect(fields: Fields<'_>) -> bool {
    let first = fields.get("messages").and_then(|m| m.as_array()).map(|m| m.first());
    first.is_some_and(|message| message.is_none_or(|m| m.get("from").is_none()))
}

fn parse(fields: Fields<'_>, _: Render) -> Result<TrainingRow, RowProblem> {
    let expected = "a list of messages: [{\"role\": ..., \"content\": ...}, ...]";
    let messages = fields.get("messages").ok_or_else(|| fields.missing("messages", expected))?;
    let field = fields.path("messages");
    let tools = Tools::of(fields)?;
    conversation(parse_messages(messages, field, &tools)?, tools.described, field)
}
