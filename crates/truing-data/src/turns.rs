//! Conversations whose turns come in an order that chat templates and training do not expect, and turns that say
//! nothing. None of it makes a row unreadable: what happens to such rows is a setting of the source.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::{Message, Role};

/// What happens to a row whose turns have a [`TurnProblem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRoleOrder {
    /// Use the row; each kind of problem is counted, and reported with the first row that has it.
    #[default]
    Warn,
    /// Treat the row as invalid: `on_bad_row` decides.
    Error,
    /// Drop the row, independent of `on_bad_row`. It is counted and listed.
    Skip,
}

/// What is unusual about the turns of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum TurnProblem {
    /// Nobody has spoken before the assistant.
    #[error("the assistant speaks first")]
    AssistantFirst,
    /// Two turns of one role are next to each other.
    #[error("two `{0}` turns follow each other")]
    Repeated(TurnRole),
    /// A system turn after other turns; many templates read only a first one.
    #[error("a `system` turn follows other turns")]
    LateSystem,
    /// A tool's result that no call asked for.
    #[error("a `tool` turn follows no tool call")]
    ResultWithoutCall,
    /// The last turn is not the assistant's, so there is nothing to train on.
    #[error("the last turn is not the assistant's")]
    NoReply,
    /// A turn without text, call or reasoning.
    #[error("{article} `{0}` turn is blank", article = .0.article())]
    Blank(TurnRole),
}

/// The roles that a [`TurnProblem`] can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TurnRole {
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl TurnRole {
    fn article(self) -> &'static str {
        match self {
            Self::User => "a",
            Self::Assistant => "an",
        }
    }
}

impl std::fmt::Display for TurnRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        })
    }
}

/// A problem and the message that has it, counted from 0.
pub(crate) type Found = (TurnProblem, usize);

/// Whether a text shows nothing: white space, control characters, and characters that Unicode makes invisible
/// (`Default_Ignorable_Code_Point`: zero-width spaces, byte-order marks, fillers).
pub(crate) fn is_blank_text(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a turn has neither text nor calls nor reasoning.
pub(crate) fn is_blank(message: &Message) -> bool {
    is_blank_text(&message.content)
        && message.tool_calls.is_none()
        && message.reasoning_content.as_deref().is_none_or(is_blank_text)
}

/// Whether a turn is the assistant's, carries loss, and says nothing.
pub(crate) fn is_blank_and_learnt(message: &Message) -> bool {
    message.role == Role::Assistant && is_blank(message) && message.loss_weight() > 0.0
}

/// Every kind of problem of a conversation once, where it is first met. `is_answered`: it should end with the
/// assistant.
pub(crate) fn problems<'a>(messages: impl IntoIterator<Item = &'a Message>, is_answered: bool) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut note = |problem: TurnProblem, message: usize| {
        if found.iter().all(|(known, _)| *known != problem) {
            found.push((problem, message));
        }
    };
    let mut last: Option<&Message> = None;
    let mut has_begun = false;
    // Results may follow a call one after the other.
    let mut is_called = false;
    let mut n_messages = 0;
    for (i, message) in messages.into_iter().enumerate() {
        n_messages = i + 1;
        match message.role {
            Role::System | Role::Developer if has_begun => note(TurnProblem::LateSystem, i),
            Role::Assistant if !has_begun => note(TurnProblem::AssistantFirst, i),
            Role::Tool if !is_called => note(TurnProblem::ResultWithoutCall, i),
            _ => {}
        }
        let role = turn_role(message.role);
        if let (Some(role), Some(last)) = (role, last)
            && last.role == message.role
        {
            note(TurnProblem::Repeated(role), i);
        }
        if let Some(role) = role.filter(|_| is_blank(message)) {
            note(TurnProblem::Blank(role), i);
        }
        is_called = match message.role {
            Role::Assistant => message.tool_calls.is_some(),
            Role::Tool => is_called,
            _ => false,
        };
        has_begun |= !matches!(message.role, Role::System | Role::Developer);
        last = Some(message);
    }
    if is_answered && last.is_some_and(|last| last.role != Role::Assistant) {
        note(TurnProblem::NoReply, n_messages - 1);
    }
    found
}

fn turn_role(role: Role) -> Option<TurnRole> {
    match role {
        Role::User => Some(TurnRole::User),
        Role::Assistant => Some(TurnRole::Assistant),
        Role::System | Role::Developer | Role::Tool => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_invisible_characters_is_blank() {
        for text in
            ["", " \n\t", "\u{200b}", "\u{feff}\u{200d} ", "\u{2060}\u{ad}", "\u{3164}", "\u{a0}", "\0"]
        {
            assert!(is_blank_text(text), "{text:?}");
        }
        // A joiner inside an emoji, and a mark that shows nothing beside a letter, are parts of a text.
        for text in ["a", "\u{200b}.", "\u{1f468}\u{200d}\u{1f469}", "0", "\u{2800}"] {
            assert!(!is_blank_text(text), "{text:?}");
        }
    }

    /// `u` user, `a` assistant, `c` assistant that calls, `s` system, `t` tool; capital letters are blank turns.
    fn check(turns: &str, is_answered: bool, expected: &[(TurnProblem, usize)]) {
        let message = |turn: char| {
            let role = match turn.to_ascii_lowercase() {
                'u' => Role::User,
                's' => Role::System,
                't' => Role::Tool,
                _ => Role::Assistant,
            };
            let content = if turn.is_ascii_uppercase() || turn == 'c' { " \n" } else { "text" };
            let mut message = Message::new(role, content);
            message.tool_calls = (turn == 'c').then(Vec::new);
            message
        };
        let messages: Vec<Message> = turns.chars().map(message).collect();
        assert_eq!(problems(&messages, is_answered), expected, "{turns}");
    }

    #[test]
    fn usual_orders_have_no_problem() {
        for turns in ["ua", "sua", "ssua", "uaua", "ucta", "ucttcta", "ucua", "uc"] {
            check(turns, true, &[]);
        }
        check("u", false, &[]);
        check("uct", false, &[]);
    }

    #[test]
    fn every_kind_of_unusual_order_is_found_where_it_begins() {
        use TurnProblem::*;
        check("aua", true, &[(AssistantFirst, 0)]);
        check("saua", true, &[(AssistantFirst, 1)]);
        check("uua", true, &[(Repeated(TurnRole::User), 1)]);
        check("uaauua", true, &[(Repeated(TurnRole::Assistant), 2), (Repeated(TurnRole::User), 4)]);
        check("usa", true, &[(LateSystem, 1)]);
        check("uta", true, &[(ResultWithoutCall, 1)]);
        check("ucuta", true, &[(ResultWithoutCall, 3)]);
        check("uau", true, &[(NoReply, 2)]);
        check("uct", true, &[(NoReply, 2)]);
        check("Ua", true, &[(Blank(TurnRole::User), 0)]);
        check("uAua", true, &[(Blank(TurnRole::Assistant), 1)]);
    }
}
