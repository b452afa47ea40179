//! Texts that have to match a grammar: a JSON schema, a regular expression, a choice or a Lark grammar. llguidance
//! (Microsoft) says which tokens may come next; all others are never sampled.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use truing_text::Tokenizer;
use truing_types::{AllowedTokens, TokenId};

use crate::GenerateError;

/// Compiles grammars for the vocabulary of one model.
pub struct Grammars {
    factory: ParserFactory,
}

/// A compiled grammar. Any number of completions can follow it.
pub struct Grammar {
    /// At the beginning of a text.
    start: Mutex<Matcher>,
}

/// What a text has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSource {
    /// A JSON text that a schema accepts. A keyword that cannot be followed is an error.
    JsonSchema(Value),
    /// A JSON object.
    JsonObject,
    /// A text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a Lark grammar in llguidance's dialect.
    Lark(String),
}

/// The place of a completion in its grammar.
pub(crate) struct GrammarState {
    matcher: Matcher,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For the vocabulary of a tokenizer and a head of `vocab_size` rows. A text that is complete ends with one of
    /// `end_tokens`.
    ///
    /// # Errors
    /// When there is no end token, or the vocabulary cannot be used.
    pub fn new(
        tokenizer: &Tokenizer,
        vocab_size: usize,
        end_tokens: &[TokenId],
    ) -> Result<Self, GenerateError> {
        let Some(&eos) = end_tokens.first() else {
            return Err(GenerateError::Grammar("the model has no token that ends a text".into()));
        };
        let words: Vec<Vec<u8>> = (0..vocab_size as TokenId)
            .map(|id| {
                let bytes = tokenizer.token_bytes(id).unwrap_or_default();
                match tokenizer.is_special(id) || end_tokens.contains(&id) {
                    true => [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat(),
                    false => bytes,
                }
            })
            .collect();
        let info = TokRxInfo::new(vocab_size as u32, eos);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(end_tokens);
        let tok_env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&tok_env).map_err(refused)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory })
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// When it is not valid, asks for something that cannot be followed, or is too large. No text is ever generated
    /// without its grammar.
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GenerateError> {
        let grammar = match source {
            GrammarSource::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_options(schema)?),
            GrammarSource::JsonObject => {
                TopLevelGrammar::from_json_schema(with_options(&json!({"type": "object"}))?)
            }
            GrammarSource::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            GrammarSource::Choice(choices) => {
                if choices.is_empty() {
                    return Err(GenerateError::Grammar("there is nothing to choose from".into()));
                }
                let quoted: Vec<String> =
                    choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
                TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))
            }
            GrammarSource::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            // An option of llguidance that would follow another schema than was asked for.
            let reason = match error.contains("coerce_one_of") {
                true => "`oneOf` cannot be followed, use `anyOf`".to_owned(),
                false => first_line(&error),
            };
            return Err(GenerateError::Grammar(reason));
        }
        // The first mask finds grammars that nothing matches.
        let mask = matcher.compute_mask().map_err(refused)?;
        if mask.is_zero() {
            return Err(GenerateError::Grammar("no text matches it".into()));
        }
        Ok(Grammar { start: Mutex::new(matcher) })
    }
}

/// A schema that tells llguidance how JSON is spaced: on one line, a space after each comma and colon. A model that may
/// choose spends its tokens on white space when it is unsure, without end.
fn with_options(schema: &Value) -> Result<Value, GenerateError> {
    let Value::Object(schema) = schema else {
        return Err(GenerateError::Grammar("a schema is an object".into()));
    };
    let mut schema = schema.clone();
    schema.insert(
        "x-guidance".into(),
        json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
    );
    Ok(Value::Object(schema))
}

impl Grammar {
    /// The beginning of a text.
    pub(crate) fn begin(&self) -> Result<GrammarState, GenerateError> {
        let matcher = self.start.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Ok(GrammarState { matcher })
    }
}

impl GrammarState {
    /// The tokens that may come next; end tokens are among them where the text may end.
    pub(crate) fn allowed(&mut self) -> Result<AllowedTokens, GenerateError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(refused)?;
        Ok(AllowedTokens::from_words(mask.as_slice().to_vec()))
    }

    /// Takes a token; whether the text is complete and nothing can follow.
    pub(crate) fn accept(&mut self, token: TokenId) -> Result<bool, GenerateError> {
        self.matcher.consume_token(token).map_err(refused)?;
        Ok(self.matcher.is_stopped())
    }
}

fn refused(error: impl std::fmt::Display) -> GenerateError {
    GenerateError::Grammar(first_line(&error.to_string()))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
