//! The kinds of row that files are read into.

use truing_types::{Conversation, PreferenceRow, PromptRow, TrainingRow, UnpairedRow};

use crate::formats::preference::PREFERENCE_FORMATS;
use crate::formats::prompts::PROMPT_FORMATS;
use crate::formats::unpaired::UNPAIRED_FORMATS;
use crate::formats::{FORMATS, Format};
use crate::turns::{self, TurnProblem, TurnRole};

/// A kind of row that files are read into.
pub trait SourceRow: Sized + sealed::Sealed + 'static {
    /// Whether [`system`](crate::SourceConfig::system) may go before its prompt.
    const TAKES_SYSTEM: bool;

    /// Whether it is trained on as it is, so that a loss mask in it must be followed. Of a prompt, every column is
    /// kept for rewards.
    const IS_LEARNT: bool;

    /// The formats it is read from, in the order in which they are tried on a row.
    fn formats() -> &'static [Format<Self>];

    /// The conversation that a system prompt is put before.
    fn prompt_mut(&mut self) -> Option<&mut Conversation>;

    /// What is unusual about its turns, each kind once, and the message that has it.
    fn turn_problems(&self) -> Vec<(TurnProblem, usize)>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for truing_types::TrainingRow {}
    impl Sealed for truing_types::PreferenceRow {}
    impl Sealed for truing_types::UnpairedRow {}
    impl Sealed for truing_types::PromptRow {}
}

impl SourceRow for TrainingRow {
    const TAKES_SYSTEM: bool = false;
    const IS_LEARNT: bool = true;

    fn formats() -> &'static [Format] {
        FORMATS
    }

    fn prompt_mut(&mut self) -> Option<&mut Conversation> {
        None
    }

    fn turn_problems(&self) -> Vec<(TurnProblem, usize)> {
        match self {
            Self::Conversation(conversation) => turns::problems(&conversation.messages, true),
            Self::PromptCompletion { .. } | Self::Text(_) => Vec::new(),
        }
    }
}

impl SourceRow for PreferenceRow {
    const TAKES_SYSTEM: bool = true;
    const IS_LEARNT: bool = true;

    fn formats() -> &'static [Format<Self>] {
        PREFERENCE_FORMATS
    }

    fn prompt_mut(&mut self) -> Option<&mut Conversation> {
        Some(&mut self.prompt)
    }

    /// The worst response may be blank: that may be what is wrong with it. Better ones that are blank are bad rows.
    fn turn_problems(&self) -> Vec<(TurnProblem, usize)> {
        let mut found: Vec<(TurnProblem, usize)> = Vec::new();
        for (response, &rank) in self.responses.iter().zip(&self.ranks) {
            let messages = self.prompt.messages.iter().chain(&response.messages);
            for (problem, message) in turns::problems(messages, true) {
                let is_worse_one = rank > 0 && message >= self.prompt.messages.len();
                let is_allowed = is_worse_one && problem == TurnProblem::Blank(TurnRole::Assistant);
                if !is_allowed && found.iter().all(|(known, _)| *known != problem) {
                    found.push((problem, message));
                }
            }
        }
        found
    }
}

impl SourceRow for UnpairedRow {
    const TAKES_SYSTEM: bool = true;
    const IS_LEARNT: bool = true;

    fn formats() -> &'static [Format<Self>] {
        UNPAIRED_FORMATS
    }

    fn prompt_mut(&mut self) -> Option<&mut Conversation> {
        Some(&mut self.prompt)
    }

    /// A response that is not wanted may be blank: that is what is wrong with it.
    fn turn_problems(&self) -> Vec<(TurnProblem, usize)> {
        let mut found = turns::problems(self.prompt.messages.iter().chain(&self.completion), true);
        let n_prompt = self.prompt.messages.len();
        found.retain(|&(problem, message)| {
            self.is_desirable || message < n_prompt || problem != TurnProblem::Blank(TurnRole::Assistant)
        });
        found
    }
}

impl SourceRow for PromptRow {
    const TAKES_SYSTEM: bool = true;
    const IS_LEARNT: bool = false;

    fn formats() -> &'static [Format<Self>] {
        PROMPT_FORMATS
    }

    fn prompt_mut(&mut self) -> Option<&mut Conversation> {
        Some(&mut self.prompt)
    }

    fn turn_problems(&self) -> Vec<(TurnProblem, usize)> {
        turns::problems(&self.prompt.messages, false)
    }
}
