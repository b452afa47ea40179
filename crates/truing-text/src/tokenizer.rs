//! One tokenizer type of our own around the `tokenizers` library, from any file.
//!
//! Everything is built from a set of files as a model directory holds them; a GGUF file is first turned into
//! such a set (see [`crate::gguf`]). So what is used here and what is saved for others is the same thing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as LibraryTokenizer};
use truing_model::{ModelError, TEMPLATE_FOLDER, tokenizer_files};
use truing_types::TokenId;

use crate::TextError;
use crate::gguf::GgufVocabulary;

/// The special tokens that have a name of their own, as templates see them.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What becomes of the text of a special token, such as `<|im_end|>`, inside a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// It becomes that token. Right for rendered conversations.
    Parse,
    /// It is tokenized like any other text. Right for text that nobody has looked at.
    AsText,
}

/// Tokens with the bytes of the text that each covers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSpans {
    /// Token ids `[n_tokens]`.
    pub tokens: Vec<TokenId>,
    /// Byte ranges of the text `[n_tokens]`. Tokens that share a character share its range.
    pub ranges: Vec<Range<usize>>,
}

/// Text to tokens and back. Cheap to clone: clones share everything.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    library: LibraryTokenizer,
    /// The same with special tokens read as text; made when first asked for.
    library_as_text: OnceLock<LibraryTokenizer>,
    files: Vec<(String, Vec<u8>)>,
    named_tokens: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    special_ids: HashMap<TokenId, String>,
    vocab_size: usize,
    /// Ids below `vocab_size` that no token has, ascending.
    holes: Vec<TokenId>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    adds_bos: bool,
    bytes_of_chars: Option<HashMap<char, u8>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads from a model directory or a `.gguf` file.
    ///
    /// # Errors
    /// When there is no tokenizer, or it cannot be used.
    pub fn load(path: &Path) -> Result<Self, TextError> {
        if path.is_dir() {
            return Self::from_dir(path);
        }
        Self::from_gguf(&truing_model::GgufFile::open(path)?)
    }

    /// Loads `tokenizer.json` and what belongs to it from a model directory.
    ///
    /// # Errors
    /// When there is no `tokenizer.json`, or a file cannot be read or used.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let files = tokenizer_files(dir, &["generation_config.json"]).map_err(|error| match error {
            ModelError::Io { path, source } => TextError::Read { path, source },
            other => other.into(),
        })?;
        if !files.iter().any(|(name, _)| name == "tokenizer.json") {
            return Err(TextError::NoTokenizer { path: dir.to_owned() });
        }
        Self::from_files(files)
    }

    /// Builds the tokenizer that a GGUF file describes in its metadata.
    ///
    /// # Errors
    /// When the vocabulary is missing, contradicts itself, or is of a kind not known here.
    pub fn from_gguf(file: &truing_model::GgufFile) -> Result<Self, TextError> {
        Self::from_gguf_vocabulary(&GgufVocabulary::from_file(file)?)
    }

    /// As [`Tokenizer::from_gguf`], from the vocabulary alone.
    ///
    /// # Errors
    /// When the vocabulary contradicts itself or is of a kind not known here.
    pub fn from_gguf_vocabulary(vocabulary: &GgufVocabulary) -> Result<Self, TextError> {
        Self::from_files(vocabulary.tokenizer_files()?)
    }

    /// Builds the tokenizer from the files of a model directory, given as `(name, bytes)`.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn from_files(files: Vec<(String, Vec<u8>)>) -> Result<Self, TextError> {
        let bytes_of = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, bytes)| &bytes[..]);
        let json = |name: &str| -> Result<Value, TextError> {
            bytes_of(name).map_or(Ok(Value::Null), |bytes| {
                serde_json::from_slice(bytes).map_err(|source| TextError::Json { file: name.into(), source })
            })
        };
        let config = json("tokenizer_config.json")?;
        let mut library = LibraryTokenizer::from_bytes(bytes_of("tokenizer.json").unwrap_or_default())
            .map_err(|error| TextError::BadTokenizer { reason: error.to_string() })?;
        library
            .with_truncation(None)
            .map_err(|error| TextError::BadTokenizer { reason: error.to_string() })?
            .with_padding(None);
        add_missing_tokens(&mut library, &config)?;

        let named_tokens = named_tokens(&config, &json("special_tokens_map.json")?);
        let templates = templates(&files, &config, &json("chat_template.json")?)?;
        let special_ids = library
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        let ids: BTreeSet<TokenId> = library.get_vocab(true).into_values().collect();
        let vocab_size = ids.last().map_or(0, |&highest| highest as usize + 1);
        // Of two ids with the same text the vocabulary lists one; the library decodes both.
        let is_hole = |id: &TokenId| !ids.contains(id) && library.id_to_token(*id).is_none();
        let holes = (0..vocab_size as TokenId).filter(is_hole).collect();
        let id_of = |name: &str| named_tokens.get(name).and_then(|text| library.token_to_id(text));
        let (bos, eos) = (id_of("bos_token"), id_of("eos_token"));
        let adds_bos = match library.encode("", true) {
            Ok(encoding) => bos.is_some() && encoding.get_ids().first() == bos.as_ref(),
            Err(error) => return Err(TextError::BadTokenizer { reason: error.to_string() }),
        };
        let is_byte_level = library.get_decoder().is_some_and(|decoder| {
            serde_json::to_string(decoder).is_ok_and(|json| json.contains("\"ByteLevel\""))
        });
        let shared = Shared {
            library,
            library_as_text: OnceLock::new(),
            files,
            named_tokens,
            templates,
            special_ids,
            vocab_size,
            holes,
            bos,
            eos,
            adds_bos,
            bytes_of_chars: is_byte_level.then(bytes_of_byte_level_chars),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same tokenizer with another chat template, which then is the only one.
    #[must_use]
    pub fn with_chat_template(&self, source: &str) -> Self {
        let shared = &self.shared;
        let mut files = shared.files.clone();
        files.retain(|(name, _)| {
            name != "chat_template.jinja"
                && name != "chat_template.json"
                && !name.starts_with(TEMPLATE_FOLDER)
        });
        // The file outranks a template inside `tokenizer_config.json`, which can so stay as it is.
        files.push(("chat_template.jinja".into(), source.as_bytes().to_vec()));
        let shared = Shared {
            library: shared.library.clone(),
            library_as_text: OnceLock::new(),
            files,
            named_tokens: shared.named_tokens.clone(),
            templates: BTreeMap::from([("default".into(), source.into())]),
            special_ids: shared.special_ids.clone(),
            holes: shared.holes.clone(),
            bytes_of_chars: shared.bytes_of_chars.clone(),
            ..*shared.as_ref()
        };
        Self { shared: Arc::new(shared) }
    }

    fn library(&self, special: SpecialTokens) -> &LibraryTokenizer {
        match special {
            SpecialTokens::Parse => &self.shared.library,
            SpecialTokens::AsText => self.shared.library_as_text.get_or_init(|| {
                let mut library = self.shared.library.clone();
                library.set_encode_special_tokens(true);
                library
            }),
        }
    }

    /// The library's tokenizer, to be set up otherwise.
    pub(crate) fn library_clone(&self) -> LibraryTokenizer {
        self.shared.library.clone()
    }

    /// Tokens of a text. Nothing is added before or after.
    ///
    /// # Errors
    /// When the library cannot tokenize it.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<TokenId>, TextError> {
        let encoding = self
            .library(special)
            .encode_fast(text, false)
            .map_err(|error| TextError::Encode { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokens of a text with the bytes that each covers.
    ///
    /// # Errors
    /// When the library cannot tokenize it.
    pub fn encode_with_ranges(&self, text: &str, special: SpecialTokens) -> Result<TokenSpans, TextError> {
        let encoding = self
            .library(special)
            .encode(text, false)
            .map_err(|error| TextError::Encode { reason: error.to_string() })?;
        Ok(TokenSpans {
            tokens: encoding.get_ids().to_vec(),
            ranges: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    /// Tokens of many texts, in their order, on all threads.
    ///
    /// # Errors
    /// The first text's, when one cannot be tokenized.
    pub fn encode_many<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        special: SpecialTokens,
    ) -> Result<Vec<Vec<TokenId>>, TextError> {
        self.library(special);
        texts.par_iter().map(|text| self.encode(text.as_ref(), special)).collect()
    }

    /// Text of tokens. Bytes that are not UTF-8 become U+FFFD. No spaces are "cleaned up".
    ///
    /// # Errors
    /// When a token lies outside the vocabulary.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TextError> {
        // The library leaves unknown ids out without a word.
        if let Some(&token) = ids.iter().find(|&&id| self.shared.library.id_to_token(id).is_none()) {
            return Err(TextError::TokenOutOfRange { token, vocab_size: self.vocab_size() });
        }
        self.shared
            .library
            .decode(ids, skip_special)
            .map_err(|error| TextError::Decode { reason: error.to_string() })
    }

    /// One more than the highest token id. A model's embedding may have more rows than this.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.shared.vocab_size
    }

    /// The ids below `n_rows`, the rows of a model's head, that no token has: those past the vocabulary, and holes in
    /// it. Such ids cannot be decoded.
    #[must_use]
    pub fn ids_without_token(&self, n_rows: usize) -> Vec<TokenId> {
        let holes = self.shared.holes.iter().copied().filter(|&id| (id as usize) < n_rows);
        holes.chain(self.vocab_size() as TokenId..n_rows.max(self.vocab_size()) as TokenId).collect()
    }

    /// The vocabulary's entry of a token, in the vocabulary's own spelling (`Ġhello`, `▁hello`).
    #[must_use]
    pub fn token_text(&self, id: TokenId) -> Option<String> {
        self.shared.library.id_to_token(id)
    }

    /// A token as a person can read it: its text, or its bytes (`<0xE4>`) where it is part of a character.
    #[must_use]
    pub fn token_display(&self, id: TokenId) -> String {
        let Some(entry) = self.token_text(id) else { return format!("<unknown {id}>") };
        if self.shared.special_ids.contains_key(&id) {
            return entry;
        }
        let Some(bytes_of_chars) = &self.shared.bytes_of_chars else { return entry.replace('▁', " ") };
        let Some(bytes) = entry.chars().map(|c| bytes_of_chars.get(&c).copied()).collect::<Option<Vec<u8>>>()
        else {
            return entry;
        };
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => error.as_bytes().iter().map(|byte| format!("<0x{byte:02X}>")).collect(),
        }
    }

    /// The bytes that a token stands for inside a text; `None` where there is no such token. Those of a special token
    /// are its name.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        let entry = self.token_text(id)?;
        if self.shared.special_ids.contains_key(&id) {
            return Some(entry.into_bytes());
        }
        if let Some(bytes_of_chars) = &self.shared.bytes_of_chars {
            let bytes: Option<Vec<u8>> = entry.chars().map(|c| bytes_of_chars.get(&c).copied()).collect();
            return Some(bytes.unwrap_or_else(|| entry.into_bytes()));
        }
        // Byte fallback of SentencePiece: `<0x0A>`.
        let byte = entry.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            return Some(vec![byte]);
        }
        Some(entry.replace('▁', " ").into_bytes())
    }

    /// The token of a vocabulary entry.
    #[must_use]
    pub fn token_id(&self, entry: &str) -> Option<TokenId> {
        self.shared.library.token_to_id(entry)
    }

    /// Beginning-of-sequence token.
    #[must_use]
    pub fn bos(&self) -> Option<TokenId> {
        self.shared.bos
    }

    /// End-of-sequence token.
    #[must_use]
    pub fn eos(&self) -> Option<TokenId> {
        self.shared.eos
    }

    /// Whether raw texts of this tokenizer begin with [`Tokenizer::bos`].
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.shared.adds_bos
    }

    /// Whether a token is a special one, such as an end of turn.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        self.shared.special_ids.contains_key(&id)
    }

    /// Every special token, in no particular order.
    pub fn special_tokens(&self) -> impl Iterator<Item = (TokenId, &str)> {
        self.shared.special_ids.iter().map(|(&id, text)| (id, text.as_str()))
    }

    /// Texts of the special tokens that have a name, such as `bos_token`.
    #[must_use]
    pub fn named_tokens(&self) -> &BTreeMap<String, String> {
        &self.shared.named_tokens
    }

    /// Sources of the chat templates by name; the usual one is `default`.
    #[must_use]
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.shared.templates
    }

    /// What a saved model directory must hold, as `(file name, bytes)`, so that others load this same
    /// tokenizer. Byte-identical copies where it came from a directory.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.shared.files.clone()
    }

    /// Tokens of a raw prompt: the beginning-of-sequence token where this tokenizer wants one and the text
    /// does not already bring it, then the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        let mut tokens = self.encode(text, SpecialTokens::Parse)?;
        if let (true, Some(bos)) = (self.adds_bos(), self.bos())
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }
}

/// Adds tokens that only `tokenizer_config.json` knows, as transformers does.
fn add_missing_tokens(library: &mut LibraryTokenizer, config: &Value) -> Result<(), TextError> {
    let Some(entries) = config.get("added_tokens_decoder").and_then(Value::as_object) else { return Ok(()) };
    let bad = |field: &str, problem: String| TextError::BadField {
        file: "tokenizer_config.json".into(),
        field: format!("added_tokens_decoder.{field}"),
        problem,
    };
    let mut missing = Vec::new();
    for (key, entry) in entries {
        let id: TokenId = key.parse().map_err(|_| bad(key, "the key is not a token id".into()))?;
        let Some(content) = entry.get("content").and_then(Value::as_str) else {
            return Err(bad(key, "has no text field `content`".into()));
        };
        if library.token_to_id(content).is_none() {
            let flag = |name: &str| entry.get(name).and_then(Value::as_bool);
            let is_special = flag("special").unwrap_or(false);
            let token = AddedToken::from(content, is_special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!is_special));
            missing.push((id, token));
        }
    }
    missing.sort_by_key(|(id, _)| *id);
    for (id, token) in missing {
        let content = token.content.clone();
        library.add_tokens([token]).map_err(|error| TextError::BadTokenizer { reason: error.to_string() })?;
        let found = library.token_to_id(&content);
        if found != Some(id) {
            let found = found.map_or("none".into(), |found| found.to_string());
            return Err(bad(&id.to_string(), format!("`{content}` would get the id {found}")));
        }
    }
    Ok(())
}

/// `bos_token` and the like from `tokenizer_config.json`, else `special_tokens_map.json`: a text, or an object
/// with the text in `content`.
fn named_tokens(config: &Value, map: &Value) -> BTreeMap<String, String> {
    let text_of = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        value => value.get("content").and_then(Value::as_str).map(String::from),
    };
    NAMED_TOKENS
        .iter()
        .filter_map(|name| {
            let text = config.get(name).and_then(text_of).or_else(|| map.get(name).and_then(text_of))?;
            Some((name.to_string(), text))
        })
        .collect()
}

/// Templates by name. As in transformers, `chat_template.jinja` outranks `chat_template.json`, and both
/// outrank the configuration, which holds one text or a list of `{name, template}`.
fn templates(
    files: &[(String, Vec<u8>)],
    config: &Value,
    json_file: &Value,
) -> Result<BTreeMap<String, String>, TextError> {
    let bad = |file: &str, problem: &str| TextError::BadField {
        file: file.into(),
        field: "chat_template".into(),
        problem: problem.into(),
    };
    let mut templates = BTreeMap::new();
    for (file, bytes) in files {
        let name = if file == "chat_template.jinja" {
            "default"
        } else if let Some(name) = file.strip_prefix(TEMPLATE_FOLDER) {
            name.trim_start_matches('/').trim_end_matches(".jinja")
        } else {
            continue;
        };
        let source = std::str::from_utf8(bytes).map_err(|_| bad(file, "is not UTF-8"))?;
        templates.insert(name.to_owned(), source.to_owned());
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    let from_file = json_file.get("chat_template");
    match from_file.or_else(|| config.get("chat_template")).unwrap_or(&Value::Null) {
        Value::Null => {}
        Value::String(source) => {
            templates.insert("default".into(), source.clone());
        }
        Value::Array(entries) => {
            for entry in entries {
                let text = |key| entry.get(key).and_then(Value::as_str);
                let (Some(name), Some(source)) = (text("name"), text("template")) else {
                    return Err(bad("tokenizer_config.json", "expected a list of {name, template}"));
                };
                templates.insert(name.into(), source.into());
            }
        }
        _ => return Err(bad("tokenizer_config.json", "expected a text or a list of {name, template}")),
    }
    Ok(templates)
}

/// GPT-2's spelling of bytes as printable characters, reversed: printable Latin-1 stands for itself, the
/// others follow from U+0100 on, in order.
fn bytes_of_byte_level_chars() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| {
            if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
                (char::from(byte), byte)
            } else {
                next += 1;
                (char::from_u32(next - 1).unwrap_or('\u{fffd}'), byte)
            }
        })
        .collect()
}
