//! Rows to token sequences with a loss weight for each token.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use truing_types::{Conversation, Message, Role, RowOrigin, TokenId, TokenizedSample, TrainingRow};

use crate::omissions::{Omission, Omissions};
use crate::spans::{SpanFinder, TurnShape};
use crate::{ChatTemplate, RenderOptions, SpecialTokens, TextError, TokenSpans, Tokenizer, tool_calls};

/// What to do with a row in which nothing carries loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WithoutLoss {
    /// It is an error: the row cannot have been meant for training.
    #[default]
    Refuse,
    /// It is rendered all the same, with [`RenderNote::NothingToLearn`]. For looking at data.
    Keep,
}

/// Something about a rendered row that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderNote {
    /// The text began with two beginning-of-sequence tokens; one was taken away.
    DoubleBos,
    /// Texts of this tokenizer begin with a beginning-of-sequence token, but the template writes none.
    NoBos,
    /// The span of a turn has no end-of-turn token, so the model does not learn to stop there.
    EndOfTurnWithoutLoss {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// A message holds the text of a special token, which becomes that token, as in transformers.
    SpecialTokenInContent {
        /// Number of the message, counted from 0.
        message: usize,
        /// The token's text.
        token: String,
    },
    /// A turn begins inside a token, which carries loss although a part of it belongs to the prompt.
    BorderInsideToken {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The template rewrites earlier turns, so this turn was not found as a prefix but by substitution.
    HistoryRewritten {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The template does not show a part of the conversation.
    NotShown(Omission),
    /// No token carries loss.
    NothingToLearn,
}

impl RenderNote {
    /// The same remark about any message, so that remarks of many conversations can be counted together.
    #[must_use]
    pub fn without_message_number(&self) -> String {
        let text = self.to_string();
        match text.split_once(": ") {
            Some((place, remark)) if place.starts_with("message ") => remark.to_owned(),
            _ => text,
        }
    }
}

impl std::fmt::Display for RenderNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DoubleBos => write!(f, "two beginning-of-sequence tokens: one was taken away"),
            Self::NoBos => {
                write!(f, "the template writes no beginning-of-sequence token, but the tokenizer expects one")
            }
            Self::EndOfTurnWithoutLoss { message } => {
                write!(f, "message {message}: its end-of-turn token carries no loss")
            }
            Self::SpecialTokenInContent { message, token } => {
                write!(f, "message {message}: the text `{token}` in it becomes a special token")
            }
            Self::BorderInsideToken { message } => {
                write!(f, "message {message}: it begins inside a token")
            }
            Self::HistoryRewritten { message } => {
                write!(f, "message {message}: the template changes it once other turns follow")
            }
            Self::NotShown(omission) => omission.fmt(f),
            Self::NothingToLearn => write!(f, "no token carries loss"),
        }
    }
}

/// A row as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderedSample {
    /// Tokens and their loss weights.
    pub sample: TokenizedSample,
    /// The text they came from.
    pub text: String,
    /// Bytes of the text that each token covers `[n_tokens]`; empty for tokens that were added to it.
    pub ranges: Vec<Range<usize>>,
    /// What a person should know.
    pub notes: Vec<RenderNote>,
}

/// One token for a person to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenPiece {
    /// Its id.
    pub id: TokenId,
    /// Its text; bytes as `<0xE4>` where it is only a part of a character.
    pub text: String,
    /// Its loss weight as a target.
    pub loss_weight: f32,
    /// Whether it is a special token.
    pub is_special: bool,
}

/// Renders rows for one model: its tokenizer, its template, and the options of the run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatRenderer {
    tokenizer: Tokenizer,
    template: Option<Arc<ChatTemplate>>,
    options: RenderOptions,
    without_loss: WithoutLoss,
    shape: Arc<OnceLock<TurnShape>>,
    omissions: Omissions,
}

/// A byte range whose tokens carry a weight.
struct WeightedSpan {
    bytes: Range<usize>,
    weight: f32,
    message: usize,
}

impl ChatRenderer {
    /// A renderer with the tokenizer's own template. A tokenizer without one can still render raw texts.
    ///
    /// # Errors
    /// When the template does not parse.
    pub fn new(tokenizer: Tokenizer, options: RenderOptions) -> Result<Self, TextError> {
        let template = match ChatTemplate::from_tokenizer(&tokenizer) {
            Ok(template) => Some(Arc::new(template)),
            Err(TextError::NoChatTemplate) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            tokenizer,
            template,
            options,
            without_loss: WithoutLoss::Refuse,
            shape: Arc::new(OnceLock::new()),
            omissions: Omissions::default(),
        })
    }

    /// Loads the tokenizer and template of a model directory or `.gguf` file.
    ///
    /// # Errors
    /// When there is no tokenizer, or it or its template cannot be used.
    pub fn load(path: &Path, options: RenderOptions) -> Result<Self, TextError> {
        Self::new(Tokenizer::load(path)?, options)
    }

    /// Replaces the template, for models that come without one or with one that is not wanted.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn with_template(self, source: &str) -> Result<Self, TextError> {
        let tokenizer = self.tokenizer.with_chat_template(source);
        Ok(Self { without_loss: self.without_loss, ..Self::new(tokenizer, self.options)? })
    }

    /// Says what to do with rows in which nothing carries loss.
    #[must_use]
    pub fn with_rows_without_loss(mut self, without_loss: WithoutLoss) -> Self {
        self.without_loss = without_loss;
        self
    }

    /// The tokenizer; its [`Tokenizer::files`] belong into the saved model.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The options of every rendering.
    #[must_use]
    pub fn options(&self) -> &RenderOptions {
        &self.options
    }

    fn template(&self) -> Result<&ChatTemplate, TextError> {
        self.template.as_deref().ok_or(TextError::NoChatTemplate)
    }

    fn shape(&self, template: &ChatTemplate) -> &TurnShape {
        self.shape.get_or_init(|| TurnShape::of(template, &self.tokenizer, &self.options))
    }

    /// The token that ends an assistant turn, where the template has one. Generation stops at it.
    #[must_use]
    pub fn end_of_turn(&self) -> Option<TokenId> {
        let template = self.template.as_deref()?;
        self.tokenizer.token_id(self.shape(template).end_of_turn.as_deref()?)
    }

    /// The text that asks for the next assistant turn.
    ///
    /// # Errors
    /// When the conversation is empty or has parts that are not text, or the template is missing, refuses it or
    /// fails.
    pub fn prompt_text(&self, conversation: &Conversation) -> Result<String, TextError> {
        let options = RenderOptions { add_generation_prompt: true, ..self.options.clone() };
        Ok(self.template()?.render(conversation, &options)?.text)
    }

    /// The tokens that ask for the next assistant turn.
    ///
    /// # Errors
    /// As [`ChatRenderer::prompt_text`].
    pub fn prompt(&self, conversation: &Conversation) -> Result<Vec<TokenId>, TextError> {
        self.tokens_of_prompt(&self.prompt_text(conversation)?)
    }

    /// The tokens of a prompt that is already a text, for instance of [`ChatRenderer::prompt_text`] with the beginning
    /// of a reply after it. Special tokens in it are read as such, and a doubled beginning-of-sequence token is
    /// removed.
    ///
    /// # Errors
    /// When the text cannot be tokenized.
    pub fn tokens_of_prompt(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        let mut spans = self.tokenizer.encode_with_ranges(text, SpecialTokens::Parse)?;
        self.remove_double_bos(&mut spans);
        Ok(spans.tokens)
    }

    /// As [`ChatRenderer::prompt`], with what the template does not show of the conversation.
    ///
    /// # Errors
    /// As [`ChatRenderer::prompt_text`].
    pub fn prompt_with_omissions(
        &self,
        conversation: &Conversation,
    ) -> Result<(Vec<TokenId>, Vec<Omission>), TextError> {
        let options = RenderOptions { add_generation_prompt: true, ..self.options.clone() };
        let template = self.template()?;
        let text = template.render(conversation, &options)?.text;
        let omissions = self.omissions.of(template, &options, conversation, &text);
        Ok((self.tokens_of_prompt(&text)?, omissions))
    }

    /// The conversation as the template shows it whole: tools, calls and results that it would leave out are written in
    /// words ([`tool_calls::in_words`]).
    ///
    /// # Errors
    /// As [`ChatRenderer::prompt_text`].
    pub fn with_tools_shown(&self, conversation: Conversation) -> Result<Conversation, TextError> {
        let has_calls = |message: &Message| message.role == Role::Tool || message.tool_calls.is_some();
        if conversation.tools.is_empty() && !conversation.messages.iter().any(has_calls) {
            return Ok(conversation);
        }
        let (_, omissions) = self.prompt_with_omissions(&conversation)?;
        let is_of_tools = |omission: &Omission| {
            matches!(
                omission,
                Omission::Tools
                    | Omission::SomeTools
                    | Omission::OnlyToolCalls { .. }
                    | Omission::ToolCalls { .. }
                    | Omission::SomeToolCalls { .. }
                    | Omission::CalledNames { .. }
                    | Omission::CallArguments { .. }
                    | Omission::Content { role: Role::Tool, .. }
            )
        };
        Ok(if omissions.iter().any(is_of_tools) { tool_calls::in_words(conversation) } else { conversation })
    }

    /// Renders one training row.
    ///
    /// Loss rests on what the assistant says and the token that ends its turn, times [`Message::weight`]; on
    /// completion and end token; or on a whole text. See [`crate`] for how the tokens are found.
    ///
    /// # Errors
    /// [`TextError::Row`] with the cause.
    ///
    /// [`Message::weight`]: truing_types::Message::weight
    pub fn training(&self, row: &TrainingRow, origin: RowOrigin) -> Result<RenderedSample, TextError> {
        let rendered = match row {
            TrainingRow::Conversation(conversation) => self.conversation(conversation),
            TrainingRow::PromptCompletion { prompt, completion } => {
                self.raw_text(prompt, completion, "completion")
            }
            TrainingRow::Text(text) => self.raw_text("", text, "text"),
        };
        let rendered = rendered.and_then(|mut rendered| {
            // A first token has no predecessor and is never a target, even with a weight.
            if rendered.loss_weights.iter().skip(1).any(|&weight| weight > 0.0) {
                return Ok(rendered);
            }
            match self.without_loss {
                WithoutLoss::Refuse => Err(TextError::NoAssistantTurn),
                WithoutLoss::Keep => {
                    rendered.notes.push(RenderNote::NothingToLearn);
                    Ok(rendered)
                }
            }
        });
        match rendered {
            Ok(Rendered { text, spans, loss_weights, notes }) => Ok(RenderedSample {
                sample: TokenizedSample { tokens: spans.tokens, loss_weights, origin },
                text,
                ranges: spans.ranges,
                notes,
            }),
            Err(source) => Err(TextError::Row { origin, source: Box::new(source) }),
        }
    }

    /// Renders many rows on all threads; results are in the order of the rows.
    #[must_use]
    pub fn training_many(&self, rows: &[(TrainingRow, RowOrigin)]) -> Vec<Result<RenderedSample, TextError>> {
        rows.par_iter().map(|(row, origin)| self.training(row, origin.clone())).collect()
    }

    /// The tokens of a sample for a person to look at.
    #[must_use]
    pub fn pieces(&self, sample: &TokenizedSample) -> Vec<TokenPiece> {
        sample
            .tokens
            .iter()
            .zip(&sample.loss_weights)
            .map(|(&id, &loss_weight)| TokenPiece {
                id,
                text: self.tokenizer.token_display(id),
                loss_weight,
                is_special: self.tokenizer.is_special(id),
            })
            .collect()
    }

    fn conversation(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        let template = self.template()?;
        for (message, turn) in conversation.messages.iter().enumerate() {
            let weight = turn.loss_weight();
            if !weight.is_finite() || weight < 0.0 {
                return Err(TextError::BadWeight { message, weight });
            }
        }
        let options = RenderOptions { add_generation_prompt: false, ..self.options.clone() };
        let rendered = template.render(conversation, &options)?;
        let mut notes = self.special_tokens_in_contents(conversation);
        let omissions = self.omissions.of(template, &options, conversation, &rendered.text);
        notes.extend(omissions.into_iter().map(RenderNote::NotShown));
        let finder = SpanFinder {
            template,
            tokenizer: &self.tokenizer,
            options: &options,
            shape: self.shape(template),
            conversation,
            text: &rendered.text,
        };
        let weighted = if template.marks_generation() {
            self.marked_spans(conversation, &rendered.text, rendered.generation_spans, &finder, &mut notes)?
        } else {
            found_spans(conversation, &finder, &mut notes)?
        };

        let mut spans = self.tokenizer.encode_with_ranges(&rendered.text, SpecialTokens::Parse)?;
        if self.remove_double_bos(&mut spans) {
            notes.push(RenderNote::DoubleBos);
        } else if self.tokenizer.adds_bos() && spans.tokens.first() != self.tokenizer.bos().as_ref() {
            notes.push(RenderNote::NoBos);
        }
        let loss_weights = weights_of_tokens(&spans, &weighted, &mut notes);
        Ok(Rendered { text: rendered.text, spans, loss_weights, notes })
    }

    /// Spans that the template itself marks, one for each turn in the simple case.
    fn marked_spans(
        &self,
        conversation: &Conversation,
        text: &str,
        marked: Vec<Range<usize>>,
        finder: &SpanFinder<'_>,
        notes: &mut Vec<RenderNote>,
    ) -> Result<Vec<WeightedSpan>, TextError> {
        let assistants: Vec<usize> = (0..conversation.messages.len())
            .filter(|&message| conversation.messages[message].role == Role::Assistant)
            .collect();
        let weight_of = |message: usize| conversation.messages[message].loss_weight();
        let first_weight = assistants.first().map_or(0.0, |&message| weight_of(message));
        let is_uniform = assistants.iter().all(|&message| weight_of(message) == first_weight);
        let is_one_to_one = marked.len() == assistants.len();
        if !is_one_to_one && !is_uniform {
            return Err(TextError::SpansDoNotMatchTurns { spans: marked.len(), messages: assistants.len() });
        }
        let mut weighted = Vec::new();
        for (number, span) in marked.into_iter().enumerate() {
            let message = if is_one_to_one { assistants[number] } else { usize::MAX };
            let weight = if is_one_to_one { weight_of(message) } else { first_weight };
            let trimmed = span.start + text[span.clone()].trim_end().len();
            let ends_its_turn =
                self.tokenizer.special_tokens().any(|(_, special)| text[..trimmed].ends_with(special));
            let end = if ends_its_turn { trimmed } else { span.end };
            if !ends_its_turn && is_one_to_one && weight > 0.0 {
                notes.push(RenderNote::EndOfTurnWithoutLoss { message });
            }
            weighted.push(WeightedSpan { bytes: span.start..end, weight, message });
        }
        for (message, turn) in conversation.messages.iter().enumerate() {
            if turn.role != Role::Assistant && turn.loss_weight() > 0.0 {
                weighted.push(WeightedSpan {
                    bytes: finder.message(message)?,
                    weight: turn.loss_weight(),
                    message,
                });
            }
        }
        Ok(weighted)
    }

    /// Prompt, completion and end token as one text; loss on completion and end token.
    fn raw_text(&self, prompt: &str, completion: &str, field: &'static str) -> Result<Rendered, TextError> {
        if completion.is_empty() {
            return Err(TextError::EmptyText { field });
        }
        let eos = self.tokenizer.eos().ok_or(TextError::NoEosToken)?;
        let text = format!("{prompt}{completion}");
        let mut notes = Vec::new();
        for (message, part) in [prompt, completion].into_iter().enumerate() {
            notes.extend(self.special_tokens_in(part, message));
        }
        let mut spans = self.tokenizer.encode_with_ranges(&text, SpecialTokens::Parse)?;
        if spans.tokens.is_empty() {
            return Err(TextError::EmptyText { field });
        }
        let weighted = [WeightedSpan { bytes: prompt.len()..text.len(), weight: 1.0, message: 1 }];
        let mut loss_weights = weights_of_tokens(&spans, &weighted, &mut notes);
        if self.remove_double_bos(&mut spans) {
            loss_weights.remove(0);
            notes.push(RenderNote::DoubleBos);
        }
        if let (true, Some(bos)) = (self.tokenizer.adds_bos(), self.tokenizer.bos())
            && spans.tokens.first() != Some(&bos)
        {
            spans.tokens.insert(0, bos);
            spans.ranges.insert(0, 0..0);
            loss_weights.insert(0, 0.0);
        }
        if spans.tokens.last() != Some(&eos) {
            spans.tokens.push(eos);
            spans.ranges.push(text.len()..text.len());
            loss_weights.push(1.0);
        }
        Ok(Rendered { text, spans, loss_weights, notes })
    }

    fn remove_double_bos(&self, spans: &mut TokenSpans) -> bool {
        let is_double = match (self.tokenizer.bos(), &spans.tokens[..]) {
            (Some(bos), [first, second, ..]) => *first == bos && *second == bos,
            _ => false,
        };
        if is_double {
            spans.tokens.remove(0);
            spans.ranges.remove(0);
        }
        is_double
    }

    fn special_tokens_in_contents(&self, conversation: &Conversation) -> Vec<RenderNote> {
        let contents = conversation.messages.iter().enumerate();
        contents.flat_map(|(message, turn)| self.special_tokens_in(&turn.content, message)).collect()
    }

    fn special_tokens_in(&self, text: &str, message: usize) -> Vec<RenderNote> {
        let mut found: Vec<&str> = self
            .tokenizer
            .special_tokens()
            .map(|(_, special)| special)
            .filter(|special| text.contains(special))
            .collect();
        found.sort_unstable();
        let note = |token: &str| RenderNote::SpecialTokenInContent { message, token: token.to_owned() };
        found.into_iter().map(note).collect()
    }
}

struct Rendered {
    text: String,
    spans: TokenSpans,
    loss_weights: Vec<f32>,
    notes: Vec<RenderNote>,
}

/// Spans of a template that does not mark them.
fn found_spans(
    conversation: &Conversation,
    finder: &SpanFinder<'_>,
    notes: &mut Vec<RenderNote>,
) -> Result<Vec<WeightedSpan>, TextError> {
    let mut weighted = Vec::new();
    for (message, turn) in conversation.messages.iter().enumerate() {
        let weight = turn.loss_weight();
        if weight == 0.0 {
            continue;
        }
        if turn.role != Role::Assistant {
            weighted.push(WeightedSpan { bytes: finder.message(message)?, weight, message });
            continue;
        }
        let span = finder.assistant_turn(message)?;
        if !span.ends_its_turn {
            notes.push(RenderNote::EndOfTurnWithoutLoss { message });
        }
        if !span.is_prefix_preserved {
            notes.push(RenderNote::HistoryRewritten { message });
        }
        weighted.push(WeightedSpan { bytes: span.bytes, weight, message });
    }
    Ok(weighted)
}

/// A token carries a span's weight when it covers a byte of it.
fn weights_of_tokens(spans: &TokenSpans, weighted: &[WeightedSpan], notes: &mut Vec<RenderNote>) -> Vec<f32> {
    let mut weights = vec![0.0; spans.tokens.len()];
    for span in weighted {
        let first = spans.ranges.partition_point(|range| range.end <= span.bytes.start);
        for (range, weight) in spans.ranges.iter().zip(&mut weights).skip(first) {
            if range.start >= span.bytes.end {
                break;
            }
            if range.start < span.bytes.start && !range.is_empty() {
                notes.push(RenderNote::BorderInsideToken { message: span.message });
            }
            *weight = span.weight;
        }
    }
    weights
}
