//! Where a model's own tokens meet the marks of thoughts.

use truing_text::Tokenizer;
use truing_types::{ReasoningMark, ReasoningMarks, TokenId};

/// Tokens at the end of a prompt that a mark may take.
const MAX_TOKENS_OF_A_MARK: usize = 16;

/// Tokens of a template's beginning of a turn, the first words of a thought included.
const MAX_TOKENS_OF_A_TURN: usize = 1024;

/// The opening mark of a thought that a prompt ends in or inside of, as with some chat templates, so that what is
/// sampled begins inside the thought.
#[must_use]
pub fn opened_thought(
    tokenizer: &Tokenizer,
    marks: &ReasoningMarks,
    prompt: &[TokenId],
) -> Option<ReasoningMark> {
    let end = &prompt[prompt.len().saturating_sub(MAX_TOKENS_OF_A_MARK)..];
    let at_end = marks.opened_at_end(&tokenizer.decode(end, false).ok()?);
    at_end.or_else(|| {
        let of_turns: Vec<TokenId> = tokenizer
            .special_tokens()
            .filter(|(_, text)| !marks.contains(text))
            .map(|(token, _)| token)
            .collect();
        let is_of_turns = |token: &TokenId| of_turns.contains(token);
        let start = prompt.iter().rposition(is_of_turns).map_or(0, |at| at + 1);
        let start = start.max(prompt.len().saturating_sub(MAX_TOKENS_OF_A_TURN));
        marks.opened_in_turn(&tokenizer.decode(&prompt[start..], false).ok()?)
    })
}

/// The known marks, and those that the tokenizer's chat templates declare.
#[must_use]
pub fn marks_of(tokenizer: &Tokenizer) -> ReasoningMarks {
    tokenizer
        .chat_templates()
        .values()
        .fold(ReasoningMarks::default(), |marks, template| marks.declared_by(template))
}

/// Special tokens that are marks of thoughts. They stay in the text where other special tokens do not, or a thought
/// would run into its answer.
#[must_use]
pub fn mark_tokens(tokenizer: &Tokenizer, marks: &ReasoningMarks) -> Vec<TokenId> {
    let channels = ReasoningMarks::of_channels();
    let has_channels = channels.iter().take(3).all(|mark| tokenizer.token_id(mark).is_some());
    let is_mark = |text: &str| marks.contains(text) || has_channels && channels.contains(&text);
    tokenizer.special_tokens().filter(|(_, text)| is_mark(text)).map(|(id, _)| id).collect()
}
