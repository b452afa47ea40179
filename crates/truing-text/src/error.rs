//! What can go wrong between text and tokens.

use std::path::PathBuf;

use truing_types::{RowOrigin, TokenId};

/// Text that cannot become tokens, or tokens that cannot become text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file that cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A model directory without a tokenizer.
    #[error("{}: no `tokenizer.json` here; expected a model directory or a .gguf file", path.display())]
    NoTokenizer {
        /// The directory.
        path: PathBuf,
    },
    /// A GGUF file that cannot be opened.
    #[error(transparent)]
    Gguf(#[from] truing_model::ModelError),
    /// A tokenizer file that is not JSON.
    #[error("`{file}` is not valid JSON")]
    Json {
        /// Name of the file.
        file: String,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// A `tokenizer.json` that the tokenizer library refuses.
    #[error("`tokenizer.json` cannot be used: {reason}")]
    BadTokenizer {
        /// The library's words.
        reason: String,
    },
    /// A field of a tokenizer file with the wrong content.
    #[error("`{file}`: field `{field}`: {problem}")]
    BadField {
        /// Name of the file.
        file: String,
        /// The field.
        field: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A vocabulary kind that has no counterpart here.
    #[error("GGUF tokenizer model `{found}` is not supported; known: {}", known.join(", "))]
    UnknownGgufModel {
        /// `tokenizer.ggml.model`.
        found: String,
        /// What is known.
        known: Vec<&'static str>,
    },
    /// A pre-tokenizer that has no counterpart here.
    #[error("GGUF pre-tokenizer `{found}` (`tokenizer.ggml.pre`) is not supported; known: {}", known.join(", "))]
    UnknownPreTokenizer {
        /// `tokenizer.ggml.pre`; empty when the file does not say.
        found: String,
        /// What is known.
        known: Vec<&'static str>,
    },
    /// A vocabulary that contradicts itself.
    #[error("GGUF vocabulary: `{field}`: {problem}")]
    BadVocabulary {
        /// The metadata key.
        field: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// The tokenizer library failed on a text.
    #[error("the text cannot be tokenized: {reason}")]
    Encode {
        /// The library's words.
        reason: String,
    },
    /// The tokenizer library failed on tokens.
    #[error("the tokens cannot be turned into text: {reason}")]
    Decode {
        /// The library's words.
        reason: String,
    },
    /// A token that the vocabulary does not hold.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A model without a chat template.
    #[error("the tokenizer has no chat template; give one, or use prompt and completion texts")]
    NoChatTemplate,
    /// Several templates, none of them the default one.
    #[error("the tokenizer has the chat templates {}, but none called `default`", names.join(", "))]
    NoDefaultTemplate {
        /// Their names.
        names: Vec<String>,
    },
    /// A template that does not parse.
    #[error("chat template, line {line}: {reason}")]
    TemplateSyntax {
        /// Line, counted from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// The template called `raise_exception`.
    #[error("the chat template refuses this conversation (line {line}): {message}")]
    TemplateRaised {
        /// Line of the template, counted from 1.
        line: usize,
        /// The template's own words.
        message: String,
    },
    /// The template failed while it ran.
    #[error("chat template, line {line}: {reason}")]
    TemplateFailed {
        /// Line of the template, counted from 1.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The template writes today's date, and nobody said what day it is.
    #[error("chat template, line {line}: it needs the current date, which was not given")]
    NoDate {
        /// Line of the template, counted from 1.
        line: usize,
    },
    /// A conversation without messages.
    #[error("the conversation is empty")]
    EmptyConversation,
    /// A message with an image, audio or the like, which no template shows.
    #[error("this model reads text only: the message has a part of type `{kind}`")]
    PartNotText {
        /// The part's `type`.
        kind: String,
    },
    /// Nothing in the row would be learnt.
    #[error("the conversation has no assistant turn that carries loss")]
    NoAssistantTurn,
    /// Prompt and completion without text, or a text without tokens.
    #[error("field `{field}` is empty")]
    EmptyText {
        /// The field.
        field: &'static str,
    },
    /// Raw text has to end with a token that the tokenizer does not name.
    #[error("the tokenizer names no end-of-sequence token, which raw texts must end with")]
    NoEosToken,
    /// The tokens of a message cannot be distinguished from the others.
    #[error(
        "message {message}: its place in the rendered text cannot be found ({reason}); \
         mark it in the template with {{% generation %}} ... {{% endgeneration %}}"
    )]
    SpanNotFound {
        /// Number of the message, counted from 0.
        message: usize,
        /// What was tried.
        reason: String,
    },
    /// The template's generation blocks cannot be matched with weighted messages.
    #[error(
        "the template marks {spans} generation blocks for {messages} assistant turns; per-message weights need one \
         block per turn"
    )]
    SpansDoNotMatchTurns {
        /// Blocks rendered.
        spans: usize,
        /// Assistant turns.
        messages: usize,
    },
    /// A message weight that is no weight.
    #[error("message {message}: `weight` is {weight}, expected a finite number that is not negative")]
    BadWeight {
        /// Number of the message, counted from 0.
        message: usize,
        /// The weight.
        weight: f32,
    },
    /// Any of the above, with the row it happened in.
    #[error("{origin}: {source}")]
    Row {
        /// The row.
        origin: RowOrigin,
        /// What went wrong.
        #[source]
        source: Box<TextError>,
    },
}
