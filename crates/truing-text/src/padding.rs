//! Which token pads batches of a reward model or a classifier.
//!
//! transformers reads the score of a padded row at the last token that is not `config.pad_token_id`. So the padding
//! must be a token that never ends a conversation: neither what ends a turn, nor the end or the beginning of a
//! sequence. And model and tokenizer must name the same one.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use truing_types::{Conversation, Message, Role, RowOrigin, TokenId, TrainingRow};

use crate::{ChatRenderer, TextError, Tokenizer};

/// Special tokens that exist to pad.
const MADE_TO_PAD: [&str; 6] =
    ["<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|PAD|>"];
/// Ends a document; chat models end a turn with another token.
const END_OF_TEXT: &str = "<|endoftext|>";
/// Parts of the names of special tokens that no text has.
const NEVER_IN_TEXT: [&str; 5] = ["reserved", "unused", "extra_id", "extra_token", "control"];

impl Tokenizer {
    /// The token that `pad_token` names.
    #[must_use]
    pub fn pad(&self) -> Option<TokenId> {
        self.token_id(self.named_tokens().get("pad_token")?)
    }

    /// The token to pad with where none of `ends` may be it; `None` where there is none. In this order: the tokenizer's
    /// own `pad_token`, a special token that is made to pad, `<|endoftext|>`, the first special token that is reserved
    /// or unused, the unknown token. The end and the beginning of a sequence are no padding, with one exception:
    /// `<|endoftext|>` is where turns end with another token.
    #[must_use]
    pub fn padding(&self, ends: &BTreeSet<TokenId>, vocab_size: usize) -> Option<TokenId> {
        let fits =
            |id: &TokenId| (*id as usize) < vocab_size && !ends.contains(id) && self.bos() != Some(*id);
        let is_free = |id: &TokenId| fits(id) && self.eos() != Some(*id);
        let special = |text: &str| self.token_id(text).filter(|id| self.is_special(*id));
        let reserved = || {
            let is_reserved =
                |text: &str| NEVER_IN_TEXT.iter().any(|part| text.to_lowercase().contains(part));
            self.special_tokens()
                .filter(|(id, text)| is_free(id) && is_reserved(text))
                .map(|(id, _)| id)
                .min()
        };
        let unknown = || self.token_id(self.named_tokens().get("unk_token")?);
        self.pad()
            .filter(is_free)
            .or_else(|| MADE_TO_PAD.iter().find_map(|text| special(text).filter(is_free)))
            .or_else(|| special(END_OF_TEXT).filter(fits))
            .or_else(reserved)
            .or_else(|| unknown().filter(is_free))
    }

    /// The same tokenizer whose files name `id` as `pad_token`. Files that do so already stay as they are.
    ///
    /// # Errors
    /// When the tokenizer has no such token, or a file cannot be understood.
    pub fn with_pad_token(&self, id: TokenId) -> Result<Self, TextError> {
        let text = self
            .token_text(id)
            .ok_or_else(|| TextError::TokenOutOfRange { token: id, vocab_size: self.vocab_size() })?;
        let mut files = self.files();
        if !files.iter().any(|(name, _)| name == "tokenizer_config.json") {
            files.push(("tokenizer_config.json".to_owned(), b"{}".to_vec()));
        }
        for (name, bytes) in &mut files {
            let is_named_in = matches!(&name[..], "tokenizer_config.json" | "special_tokens_map.json");
            if !is_named_in && name != "tokenizer.json" {
                continue;
            }
            let mut json: Value = serde_json::from_slice(bytes)
                .map_err(|source| TextError::Json { file: name.clone(), source })?;
            let is_changed = match is_named_in {
                true => put(&mut json, "pad_token", json!(text)),
                false => match json.get_mut("padding").filter(|padding| padding.is_object()) {
                    Some(padding) => {
                        put(padding, "pad_id", json!(id)) | put(padding, "pad_token", json!(text))
                    }
                    None => false,
                },
            };
            if is_changed {
                *bytes = format!("{json:#}\n").into_bytes();
            }
        }
        Self::from_files(files)
    }
}

/// Sets a field; `false` where it says the same already, as a text or as an object with the text in `content`.
fn put(object: &mut Value, field: &str, value: Value) -> bool {
    let found = object.get(field).map(|found| found.get("content").unwrap_or(found));
    if found == Some(&value) {
        return false;
    }
    match object.as_object_mut() {
        Some(fields) => {
            fields.insert(field.to_owned(), value);
            true
        }
        None => false,
    }
}

impl ChatRenderer {
    /// The token to pad batches of scored conversations with; see [`Tokenizer::padding`]. What ends a conversation is
    /// found by rendering one.
    #[must_use]
    pub fn padding(&self, vocab_size: usize) -> Option<TokenId> {
        self.tokenizer().padding(&self.ends(), vocab_size)
    }

    /// The same, but `preferred` where it can pad: an adapter is loaded with its base's configuration, whose token
    /// counts.
    #[must_use]
    pub fn padding_preferring(&self, preferred: Option<TokenId>, vocab_size: usize) -> Option<TokenId> {
        let ends = self.ends();
        let tokenizer = self.tokenizer();
        let fits = |id: &TokenId| {
            (*id as usize) < vocab_size
                && !ends.contains(id)
                && tokenizer.is_special(*id)
                && tokenizer.bos() != Some(*id)
                && (tokenizer.eos() != Some(*id) || tokenizer.token_id(END_OF_TEXT) == Some(*id))
        };
        preferred.filter(fits).or_else(|| tokenizer.padding(&ends, vocab_size))
    }

    /// Tokens that may end a conversation.
    fn ends(&self) -> BTreeSet<TokenId> {
        let turn = |role, text: &str| Message::new(role, text.to_owned());
        let question = vec![turn(Role::User, "a")];
        let answered = vec![turn(Role::User, "a"), turn(Role::Assistant, "b")];
        let asked = self.prompt(&Conversation { messages: question, tools: Vec::new() });
        let row = TrainingRow::Conversation(Conversation { messages: answered, tools: Vec::new() });
        let rendered = self.training(&row, RowOrigin { source: "a probe".into(), line: 0 });
        let rendered = rendered.map(|rendered| rendered.sample.tokens);
        let mut ends: BTreeSet<TokenId> = self.end_of_turn().into_iter().collect();
        let last = |tokens: Result<Vec<TokenId>, TextError>| tokens.ok()?.last().copied();
        ends.extend([last(asked), last(rendered)].into_iter().flatten());
        if ends.is_empty() {
            // A text without a template may be ended by it.
            ends.extend(self.tokenizer().eos());
        }
        ends
    }
}
