//! A config.json with typed getters. `null` counts as left out; every error names file, field and what was
//! expected.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use truing_types::TokenId;

use super::{LARGEST_SIZE, MAX_LAYERS};
use crate::{DecoderSpec, ModelError, RopeScaling};

/// What the fields that families share mean when they are left out.
pub(super) struct Defaults {
    /// `num_key_value_heads` where the field is missing; `None` means as many as query heads. `null` always
    /// means that.
    pub(super) n_kv_heads: Option<usize>,
    /// `head_dim`; `None` means hidden size over heads.
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) bos_token_id: Option<TokenId>,
    pub(super) eos_token_id: Option<TokenId>,
}

/// A configuration as read, and where from.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON object.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let text =
            std::fs::read(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
        Self::parse(&text, path)
    }

    /// The same from bytes; `path` is what messages call them.
    ///
    /// # Errors
    /// When they are no JSON object.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, ModelError> {
        let fields = serde_json::from_slice(text).map_err(|error| ModelError::Malformed {
            path: path.to_path_buf(),
            problem: format!("not a JSON object: {error}"),
        })?;
        Ok(Self::from_fields(fields, path))
    }

    /// A configuration that is in memory already.
    #[must_use]
    pub fn from_fields(fields: Map<String, Value>, path: &Path) -> Self {
        Self { path: path.to_path_buf(), fields }
    }

    /// Where it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// `architectures[0]`.
    ///
    /// # Errors
    /// When it is missing.
    pub fn architecture(&self) -> Result<&str, ModelError> {
        let expected = "a list with the architecture's name";
        match self.value("architectures") {
            None => Err(self.missing("architectures", expected)),
            Some(Value::Array(names)) => {
                names.first().and_then(Value::as_str).ok_or_else(|| self.wrong("architectures", expected))
            }
            Some(_) => Err(self.wrong("architectures", expected)),
        }
    }

    /// The field, with dots before inner names; `None` when left out or `null`.
    fn value(&self, field: &str) -> Option<&Value> {
        let mut parts = field.split('.');
        let mut value = self.fields.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        Some(value).filter(|value| !value.is_null())
    }

    fn missing(&self, field: &str, expected: &'static str) -> ModelError {
        ModelError::MissingField { path: self.path.clone(), field: field.to_owned(), expected }
    }

    pub(crate) fn wrong(&self, field: &str, expected: &str) -> ModelError {
        let mut found = self.value(field).map_or_else(|| "null".to_owned(), Value::to_string);
        if found.chars().count() > 80 {
            found = found.chars().take(77).chain("...".chars()).collect();
        }
        let (path, field, expected) = (self.path.clone(), field.to_owned(), expected.to_owned());
        ModelError::WrongField { path, field, found, expected }
    }

    pub(crate) fn boolean(&self, field: &str) -> Result<Option<bool>, ModelError> {
        self.value(field)
            .map(|value| value.as_bool().ok_or_else(|| self.wrong(field, "true or false")))
            .transpose()
    }

    /// A whole number that may be zero.
    pub(super) fn size_or_zero(&self, field: &str) -> Result<Option<usize>, ModelError> {
        self.value(field)
            .map(|value| {
                let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
                size.ok_or_else(|| self.wrong(field, "a whole number"))
            })
            .transpose()
    }

    /// A whole number above zero.
    pub(crate) fn size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        match self.size_or_zero(field)? {
            Some(0) => Err(self.wrong(field, "a whole number above 0")),
            size => Ok(size),
        }
    }

    pub(crate) fn required_size(&self, field: &str) -> Result<usize, ModelError> {
        self.size(field)?.ok_or_else(|| self.missing(field, "a whole number"))
    }

    /// A size for which `null` says none and a missing field says `default`.
    pub(super) fn size_or_null(
        &self,
        field: &str,
        default: Option<usize>,
    ) -> Result<Option<usize>, ModelError> {
        if self.fields.contains_key(field) { self.size(field) } else { Ok(default) }
    }

    pub(super) fn texts(&self, field: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.value(field)
            .map(|value| {
                let texts = value.as_array().and_then(|v| v.iter().map(Value::as_str).collect());
                texts.ok_or_else(|| self.wrong(field, "a list of texts"))
            })
            .transpose()
    }

    pub(crate) fn positive(&self, field: &str) -> Result<Option<f64>, ModelError> {
        self.value(field)
            .map(|value| {
                let number = value.as_f64().filter(|v| v.is_finite() && *v > 0.0);
                number.ok_or_else(|| self.wrong(field, "a number above 0"))
            })
            .transpose()
    }

    fn required_positive(&self, field: &str) -> Result<f64, ModelError> {
        self.positive(field)?.ok_or_else(|| self.missing(field, "a number"))
    }

    /// One token id, a list of them, or none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn token_ids(&self, field: &str) -> Result<Option<Vec<TokenId>>, ModelError> {
        let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
        let expected = || self.wrong(field, "a token id or a list of them");
        self.value(field)
            .map(|value| match value {
                Value::Array(ids) => ids.iter().map(id).collect::<Option<_>>().ok_or_else(expected),
                one => id(one).map(|id| vec![id]).ok_or_else(expected),
            })
            .transpose()
    }

    /// The token ids that `null` and a missing field stand for differ.
    fn token_ids_or(&self, field: &str, default: Option<TokenId>) -> Result<Vec<TokenId>, ModelError> {
        let ids = self.token_ids(field)?;
        let is_left_out = !self.fields.contains_key(field);
        Ok(ids.unwrap_or_else(|| if is_left_out { default.into_iter().collect() } else { Vec::new() }))
    }

    /// Everything that the families say in the same words. Biases, norms on queries and keys, and sliding
    /// windows are left off.
    pub(super) fn common(&self, defaults: &Defaults) -> Result<DecoderSpec, ModelError> {
        if self.value("hidden_act").is_some_and(|act| act != "silu") {
            return Err(self.wrong("hidden_act", "\"silu\""));
        }
        if self.value("quantization_config").is_some() {
            return Err(self.wrong("quantization_config", "none: weights must be stored as floats"));
        }
        let hidden_size = self.required_size("hidden_size")?;
        let n_layers = self.required_size("num_hidden_layers")?;
        let n_heads = self.required_size("num_attention_heads")?;
        if n_layers > MAX_LAYERS {
            return Err(self.wrong("num_hidden_layers", &format!("at most {MAX_LAYERS}")));
        }
        let head_dim = match self.size("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size % n_heads == 0 => hidden_size / n_heads,
            None => {
                return Err(
                    self.wrong("num_attention_heads", &format!("a divisor of hidden_size {hidden_size}"))
                );
            }
        };
        let max_position_embeddings =
            self.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings);
        let (rope_theta, rope_scaling) = self.rope(max_position_embeddings)?;
        Ok(DecoderSpec {
            architecture: self.architecture()?.to_owned(),
            vocab_size: self.required_size("vocab_size")?,
            hidden_size,
            intermediate_size: self.required_size("intermediate_size")?,
            n_layers,
            n_heads,
            n_kv_heads: self.size_or_null("num_key_value_heads", defaults.n_kv_heads)?.unwrap_or(n_heads),
            head_dim,
            rms_norm_eps: self.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            head: crate::spec::HeadKind::LanguageModel,
            tie_word_embeddings: self.boolean("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_windows: vec![None; n_layers],
            bos_token_id: self.token_ids_or("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_ids: self.token_ids_or("eos_token_id", defaults.eos_token_id)?,
        })
    }

    /// Base and scaling of the rotary frequencies: `rope_scaling` beside `rope_theta`, or transformers 5's
    /// `rope_parameters` that holds both. The former wins where both are given, as there.
    fn rope(&self, max_position_embeddings: usize) -> Result<(f64, Option<RopeScaling>), ModelError> {
        let is_filled = |field: &&str| match self.value(field) {
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
            None => false,
        };
        let outer_theta = self.positive("rope_theta")?.unwrap_or(10_000.0);
        if self.positive("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(self.wrong("partial_rotary_factor", "1"));
        }
        let Some(field) = ["rope_scaling", "rope_parameters"].into_iter().find(is_filled) else {
            return Ok((outer_theta, None));
        };
        if !self.fields[field].is_object() {
            return Err(self.wrong(field, "an object"));
        }
        let inner = |name: &str| format!("{field}.{name}");
        if self.positive(&inner("partial_rotary_factor"))?.is_some_and(|factor| factor != 1.0) {
            return Err(self.wrong(&inner("partial_rotary_factor"), "1"));
        }
        let theta = self.positive(&inner("rope_theta"))?.unwrap_or(outer_theta);
        let type_field = ["rope_type", "type"].map(inner).into_iter().find(|f| self.value(f).is_some());
        let scaling = match type_field.as_deref().and_then(|f| self.value(f)).map(Value::as_str) {
            None if self.fields[field].as_object().is_some_and(|f| f.values().any(Value::is_object)) => {
                return Err(self.wrong(field, "the same rotary embedding in every layer"));
            }
            None | Some(Some("default")) => None,
            Some(Some("linear")) => {
                Some(RopeScaling::Linear { factor: self.required_positive(&inner("factor"))? })
            }
            Some(Some("llama3")) => {
                let low_freq_factor = self.required_positive(&inner("low_freq_factor"))?;
                let high_freq_factor = self.required_positive(&inner("high_freq_factor"))?;
                if high_freq_factor <= low_freq_factor {
                    return Err(self.wrong(&inner("high_freq_factor"), "a number above low_freq_factor"));
                }
                Some(RopeScaling::Llama3 {
                    factor: self.required_positive(&inner("factor"))?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: self
                        .positive(&inner("original_max_position_embeddings"))?
                        .unwrap_or(max_position_embeddings as f64),
                })
            }
            Some(_) => {
                let field = type_field.unwrap_or_else(|| inner("rope_type"));
                return Err(self.wrong(&field, "`default`, `linear` or `llama3`"));
            }
        };
        Ok((theta, scaling))
    }

    /// The sizes fit each other and stay in bounds.
    pub(super) fn check(&self, spec: &DecoderSpec) -> Result<(), ModelError> {
        for (field, size) in [
            ("vocab_size", spec.vocab_size),
            ("hidden_size", spec.hidden_size),
            ("intermediate_size", spec.intermediate_size),
            ("num_attention_heads", spec.n_heads),
            ("num_key_value_heads", spec.n_kv_heads),
            ("head_dim", spec.head_dim),
        ] {
            if size > LARGEST_SIZE {
                return Err(self.wrong(field, &format!("at most {LARGEST_SIZE}")));
            }
        }
        if spec.q_width() > LARGEST_SIZE {
            return Err(self.wrong("head_dim", &format!("at most {LARGEST_SIZE} over all heads")));
        }
        if !spec.n_heads.is_multiple_of(spec.n_kv_heads) {
            let expected = format!("a divisor of num_attention_heads {}", spec.n_heads);
            return Err(self.wrong("num_key_value_heads", &expected));
        }
        if !spec.head_dim.is_multiple_of(2) {
            return Err(self.wrong("head_dim", "an even number (the rotary embedding turns pairs)"));
        }
        if !(spec.rms_norm_eps.is_finite() && spec.rms_norm_eps > 0.0) {
            return Err(self.wrong("rms_norm_eps", "a number above 0 that f32 can hold"));
        }
        Ok(())
    }
}
