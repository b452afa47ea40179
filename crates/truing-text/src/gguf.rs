//! A GGUF file's vocabulary written as the tokenizer files of a model directory.
//!
//! GGUF names its pre-tokenizer by a word (`tokenizer.ggml.pre`); what the words mean is taken from the
//! tokenizers that the models were published with. A word not listed in `PRE_TOKENIZERS` is an error: a
//! wrong split still gives text that looks right, and a model that is a little worse.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use truing_model::GgufFile;
use truing_types::TokenId;

use crate::TextError;

/// How a byte-level vocabulary cuts text before merging.
struct PreTokenizer {
    /// Names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// How it cuts.
    split: Split,
    /// Whether text is brought to Unicode form C first.
    normalizes: bool,
    /// Whether a piece that is an entry of the vocabulary is taken whole.
    ignores_merges: bool,
    /// Whether texts begin with the beginning-of-sequence token when the file does not say.
    adds_bos: bool,
}

enum Split {
    /// GPT-2's own expression, after digits have been cut one by one where `digits` says so.
    Gpt2 { digits: bool },
    /// An expression whose every match is a piece.
    Regex(&'static str),
}

const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+",
);
const QWEN_2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+",
);

const PRE_TOKENIZERS: [PreTokenizer; 4] = [
    PreTokenizer {
        names: &["default", "gpt-2", "gpt2"],
        split: Split::Gpt2 { digits: false },
        normalizes: false,
        ignores_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["smollm"],
        split: Split::Gpt2 { digits: true },
        normalizes: false,
        ignores_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Split::Regex(LLAMA_3),
        normalizes: false,
        ignores_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Split::Regex(QWEN_2),
        normalizes: true,
        ignores_merges: false,
        adds_bos: false,
    },
];

/// `tokenizer.ggml.token_type`, as llama.cpp numbers it.
mod token_type {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
}

/// The `tokenizer.*` metadata of a GGUF file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut before merging; unused by `llama`.
    pub pre: Option<String>,
    /// Entries by token id.
    pub tokens: Vec<String>,
    /// SentencePiece scores by token id; empty for `gpt2`.
    pub scores: Vec<f32>,
    /// Kinds of token by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i64>,
    /// Merges as `left right`, first to be applied first; empty for `llama`.
    pub merges: Vec<String>,
    /// Beginning of sequence.
    pub bos: Option<TokenId>,
    /// End of sequence.
    pub eos: Option<TokenId>,
    /// Unknown token.
    pub unk: Option<TokenId>,
    /// Padding token.
    pub pad: Option<TokenId>,
    /// Whether texts begin with `bos`; `None` leaves it to the kind of vocabulary.
    pub add_bos: Option<bool>,
    /// SentencePiece: whether a space is put before a text.
    pub add_space_prefix: Option<bool>,
    /// Chat templates by name; `default` is the usual one.
    pub chat_templates: Vec<(String, String)>,
    /// Longest context of the model.
    pub context_length: Option<u64>,
}

impl GgufVocabulary {
    /// Takes the vocabulary out of a file's metadata.
    ///
    /// # Errors
    /// When a key that is needed is missing or has another type.
    pub fn from_file(file: &GgufFile) -> Result<Self, TextError> {
        let text = |key: &str| file.find::<&str>(key).map(|text| text.map(str::to_owned));
        let id = |name: &str| -> Result<Option<TokenId>, TextError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = file.find::<u64>(&key)? else { return Ok(None) };
            // Some writers store -1 (all bits set) for "none".
            Ok(TokenId::try_from(id).ok().filter(|&id| id != TokenId::MAX))
        };
        let mut chat_templates = Vec::new();
        if let Some(source) = text("tokenizer.chat_template")? {
            chat_templates.push(("default".to_owned(), source));
        }
        for name in file.find::<&[String]>("tokenizer.chat_templates")?.unwrap_or_default() {
            if let Some(source) = text(&format!("tokenizer.chat_template.{name}"))? {
                chat_templates.push((name.clone(), source));
            }
        }
        let architecture = text("general.architecture")?.unwrap_or_default();
        Ok(Self {
            model: file.require::<&str>("tokenizer.ggml.model")?.to_owned(),
            pre: text("tokenizer.ggml.pre")?,
            tokens: file.require::<&[String]>("tokenizer.ggml.tokens")?.to_vec(),
            scores: file.find::<&[f32]>("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            token_types: file.find::<&[i64]>("tokenizer.ggml.token_type")?.unwrap_or_default().to_vec(),
            merges: file.find::<&[String]>("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            bos: id("bos")?,
            eos: id("eos")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            add_bos: file.find::<bool>("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: file.find::<bool>("tokenizer.ggml.add_space_prefix")?,
            chat_templates,
            context_length: file.find::<u64>(&format!("{architecture}.context_length"))?,
        })
    }

    /// The files of a model directory that hold this same tokenizer, as `(name, bytes)`.
    ///
    /// # Errors
    /// When the vocabulary contradicts itself or is of a kind not known here.
    pub fn tokenizer_files(&self) -> Result<Vec<(String, Vec<u8>)>, TextError> {
        self.check()?;
        let (tokenizer, adds_bos) = match self.model.as_str() {
            "gpt2" => self.byte_level_tokenizer()?,
            "llama" => self.sentence_piece_tokenizer()?,
            found => {
                return Err(TextError::UnknownGgufModel {
                    found: found.into(),
                    known: vec!["gpt2", "llama"],
                });
            }
        };
        let mut special = Map::new();
        for (name, id) in [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unk),
            ("pad_token", self.pad),
        ] {
            if let Some(id) = id {
                special.insert(name.into(), json!(self.tokens[id as usize]));
            }
        }
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        config.insert("add_bos_token".into(), json!(adds_bos));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        if let Some(length) = self.context_length {
            config.insert("model_max_length".into(), json!(length));
        }
        config.extend(special.clone());
        let mut files = vec![
            ("tokenizer.json".to_owned(), pretty("tokenizer.json", &tokenizer)?),
            ("tokenizer_config.json".to_owned(), pretty("tokenizer_config.json", &Value::Object(config))?),
            (
                "special_tokens_map.json".to_owned(),
                pretty("special_tokens_map.json", &Value::Object(special))?,
            ),
        ];
        for (name, source) in &self.chat_templates {
            let file = match name.as_str() {
                "default" => "chat_template.jinja".to_owned(),
                name => format!("additional_chat_templates/{name}.jinja"),
            };
            files.push((file, source.as_bytes().to_vec()));
        }
        Ok(files)
    }

    /// Everything that later code indexes by: lengths, ids, doubles.
    fn check(&self) -> Result<(), TextError> {
        let n_tokens = self.tokens.len();
        if n_tokens == 0 {
            return Err(bad("tokenizer.ggml.tokens", "is empty"));
        }
        for (field, length) in [("scores", self.scores.len()), ("token_type", self.token_types.len())] {
            if length != 0 && length != n_tokens {
                let problem = format!("has {length} entries for {n_tokens} tokens");
                return Err(bad(&format!("tokenizer.ggml.{field}"), &problem));
            }
        }
        for (field, id) in
            [("bos", self.bos), ("eos", self.eos), ("unknown", self.unk), ("padding", self.pad)]
        {
            if let Some(id) = id.filter(|&id| id as usize >= n_tokens) {
                let problem = format!("is {id}, but there are {n_tokens} tokens");
                return Err(bad(&format!("tokenizer.ggml.{field}_token_id"), &problem));
            }
        }
        let mut seen = HashMap::with_capacity(n_tokens);
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(first) = seen.insert(token.as_str(), id) {
                let problem = format!("holds `{token}` twice, as {first} and {id}");
                return Err(bad("tokenizer.ggml.tokens", &problem));
            }
        }
        for (name, _) in &self.chat_templates {
            if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
                return Err(bad("tokenizer.chat_templates", &format!("`{name}` is not a template name")));
            }
        }
        Ok(())
    }

    fn token_type(&self, id: usize) -> i64 {
        self.token_types.get(id).copied().unwrap_or(token_type::NORMAL)
    }

    fn vocabulary(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect()
    }

    /// Control tokens are special; user-defined ones are found in texts before anything else, but are not.
    fn added_tokens(&self) -> Vec<Value> {
        let named = [self.bos, self.eos, self.pad];
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let kind = self.token_type(id);
            let is_named = named.iter().flatten().any(|&named| named as usize == id);
            let special = is_named || kind == token_type::CONTROL || kind == token_type::UNKNOWN;
            if (special || kind == token_type::USER_DEFINED) && !token.is_empty() {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                }));
            }
        }
        added
    }

    /// Puts the beginning-of-sequence token before a text.
    fn bos_processor(&self) -> Result<Value, TextError> {
        let Some(bos) = self.bos else {
            return Err(bad(
                "tokenizer.ggml.add_bos_token",
                "is true, but there is no `tokenizer.ggml.bos_token_id`",
            ));
        };
        let text = &self.tokens[bos as usize];
        let special = |type_id: u8| json!({"SpecialToken": {"id": text, "type_id": type_id}});
        let sequence = |name: &str, type_id: u8| json!({"Sequence": {"id": name, "type_id": type_id}});
        let mut special_tokens = Map::new();
        special_tokens.insert(text.clone(), json!({"id": text, "ids": [bos], "tokens": [text]}));
        Ok(json!({
            "type": "TemplateProcessing",
            "single": [special(0), sequence("A", 0)],
            "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
            "special_tokens": special_tokens,
        }))
    }

    fn byte_level_tokenizer(&self) -> Result<(Value, bool), TextError> {
        let name = self.pre.as_deref().unwrap_or_default();
        let Some(pre) = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)) else {
            return Err(TextError::UnknownPreTokenizer {
                found: name.into(),
                known: PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect(),
            });
        };
        let mut merges = Vec::with_capacity(self.merges.len());
        for (number, merge) in self.merges.iter().enumerate() {
            let Some((left, right)) = merge.split_once(' ') else {
                let problem = format!("entry {number} is `{merge}`, expected two tokens and a space between");
                return Err(bad("tokenizer.ggml.merges", &problem));
            };
            merges.push(json!([left, right]));
        }
        let byte_level = |use_regex: bool, trim_offsets: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim_offsets,
                   "use_regex": use_regex})
        };
        let steps = match pre.split {
            Split::Gpt2 { digits: false } => vec![byte_level(true, true)],
            Split::Gpt2 { digits: true } => {
                vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true, true)]
            }
            Split::Regex(pattern) => vec![
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                       "invert": false}),
                byte_level(false, true),
            ],
        };
        let adds_bos = self.add_bos.unwrap_or(pre.adds_bos && self.bos.is_some());
        let processor = if adds_bos { self.bos_processor()? } else { byte_level(true, false) };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": if pre.normalizes { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": processor,
            "decoder": byte_level(true, true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.ignores_merges, "vocab": self.vocabulary(), "merges": merges,
            },
        });
        Ok((tokenizer, adds_bos))
    }

    /// SentencePiece's BPE: of two neighbours, those whose union has the highest score merge first. Written
    /// as merges: every way to cut an entry into two entries, ordered by the score of the whole.
    fn sentence_piece_tokenizer(&self) -> Result<(Value, bool), TextError> {
        if self.scores.is_empty() {
            return Err(bad("tokenizer.ggml.scores", "is missing; a `llama` vocabulary needs scores"));
        }
        if let Some(id) = self.scores.iter().position(|score| score.is_nan()) {
            return Err(bad("tokenizer.ggml.scores", &format!("entry {id} is not a number")));
        }
        let ids: HashMap<&str, usize> = (0..self.tokens.len())
            .filter(|&id| self.token_type(id) == token_type::NORMAL)
            .map(|id| (self.tokens[id].as_str(), id))
            .collect();
        struct Merge<'a> {
            left: &'a str,
            right: &'a str,
            score: f32,
            lengths: (usize, usize),
        }
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.token_type(id) != token_type::NORMAL {
                continue;
            }
            let mut cuts: Vec<(usize, usize, usize)> = token
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| Some((*ids.get(&token[..at])?, *ids.get(&token[at..])?, at)))
                .collect();
            cuts.sort_unstable();
            merges.extend(cuts.into_iter().map(|(_, _, at)| Merge {
                left: &token[..at],
                right: &token[at..],
                score: self.scores[id],
                lengths: (token[..at].chars().count(), token[at..].chars().count()),
            }));
        }
        merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.lengths.cmp(&a.lengths)));
        let merges: Vec<Value> = merges.iter().map(|merge| json!([merge.left, merge.right])).collect();

        let prefix = self.add_space_prefix.unwrap_or(true);
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let normalizer = if prefix {
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]})
        } else {
            spaces
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let adds_bos = self.add_bos.unwrap_or(self.bos.is_some());
        let unknown = self
            .unk
            .map(|id| id as usize)
            .or_else(|| (0..self.tokens.len()).find(|&id| self.token_type(id) == token_type::UNKNOWN))
            .map(|id| self.tokens[id].clone());
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": normalizer,
            "pre_tokenizer": null,
            "post_processor": if adds_bos { self.bos_processor()? } else { Value::Null },
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                "ignore_merges": false, "vocab": self.vocabulary(), "merges": merges,
            },
        });
        Ok((tokenizer, adds_bos))
    }
}

fn bad(field: &str, problem: &str) -> TextError {
    TextError::BadVocabulary { field: field.into(), problem: problem.into() }
}

fn pretty(name: &str, value: &Value) -> Result<Vec<u8>, TextError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| bad(name, &error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}
