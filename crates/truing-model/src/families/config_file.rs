//! A config.json with typed getters. `null` counts as left out; every error names file, field and what was
//! expected.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use truing_types::TokenId;

use super::{LARGEST_SIZE, MAX_LAYERS};
use crate::weights::ScaleBlock;
use crate::{DecoderSpec, DecoderVariant, ModelError, RopeScaling};

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
    pub(super) rotary: RotaryDefaults,
}

/// How a family's configuration describes its rotary embedding.
#[derive(Default)]
pub(super) struct RotaryDefaults {
    /// `rope_theta`; `None` means 10,000.
    pub(super) theta: Option<f64>,
    /// Whether `partial_rotary_factor` may be other than 1.
    pub(super) may_be_partial: bool,
    /// Other names of `longrope`.
    pub(super) names_of_longrope: &'static [&'static str],
    /// `original_max_position_embeddings` beside the scaling, which takes precedence over the one in it. `None` means
    /// that the one in the scaling is used.
    pub(super) original_context: Option<usize>,
    /// Where `rope_parameters` has an object for each type of layers, the type whose embedding this is.
    pub(super) global_layers: Option<&'static str>,
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
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        let mut parts = field.split('.');
        let mut value = self.fields.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        Some(value).filter(|value| !value.is_null())
    }

    pub(super) fn missing(&self, field: &str, expected: &'static str) -> ModelError {
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

    pub(super) fn required_positive(&self, field: &str) -> Result<f64, ModelError> {
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

    /// The fields that the families with SiLU share. Biases, norms on queries and keys, and sliding
    /// windows are left off.
    pub(super) fn common(&self, defaults: &Defaults) -> Result<DecoderSpec, ModelError> {
        if self.value("hidden_act").is_some_and(|act| act != "silu") {
            return Err(self.wrong("hidden_act", "\"silu\""));
        }
        self.common_but_activation(defaults)
    }

    /// The same without the activation.
    pub(super) fn common_but_activation(&self, defaults: &Defaults) -> Result<DecoderSpec, ModelError> {
        self.check_quantization()?;
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
        let rope = self.rope(defaults, max_position_embeddings, head_dim)?;
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
            rope_theta: rope.theta,
            max_position_embeddings: match &rope.scaling {
                // The frequencies of longer sequences are not computed.
                Some(RopeScaling::LongRope { original_max_position_embeddings: original, .. }) => {
                    max_position_embeddings.min(*original)
                }
                _ => max_position_embeddings,
            },
            rope_scaling: rope.scaling,
            head: crate::spec::HeadKind::LanguageModel,
            tie_word_embeddings: self.boolean("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_windows: vec![None; n_layers],
            variant: DecoderVariant { rotary_dim: rope.rotary_dim, ..DecoderVariant::default() },
            bos_token_id: self.token_ids_or("bos_token_id", defaults.bos_token_id)?.first().copied(),
            eos_token_ids: self.token_ids_or("eos_token_id", defaults.eos_token_id)?,
        })
    }

    /// Refuses weights that are not stored as floats of 8 bits or more.
    fn check_quantization(&self) -> Result<(), ModelError> {
        let field = |name: &str| self.value(&format!("quantization_config.{name}")).and_then(Value::as_str);
        let is_e4m3 = match field("quant_method") {
            Some("fp8") => field("fmt").is_none_or(|format| format == "e4m3"),
            Some("compressed-tensors") => field("format") == Some("float-quantized"),
            _ => self.value("quantization_config").is_none(),
        };
        if is_e4m3 {
            return Ok(());
        }
        let expected =
            "none, or `quant_method` `fp8` or `compressed-tensors` with e4m3 weights: others are not read";
        Err(self.wrong("quantization_config", expected))
    }

    /// Rows and columns of 8-bit weights that share a scale, where the configuration says.
    pub(crate) fn scale_block(&self) -> Result<Option<ScaleBlock>, ModelError> {
        // compressed-tensors has it in the group of all projections.
        let fields = ["weight_block_size", "config_groups.group_0.weights.block_structure"]
            .map(|name| format!("quantization_config.{name}"));
        let found = fields.iter().find_map(|field| Some((field, self.value(field)?)));
        let Some((field, value)) = found else { return Ok(None) };
        let size =
            |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|n| *n > 0);
        match value.as_array().map(|sizes| sizes.iter().map(size).collect::<Vec<_>>()).as_deref() {
            Some([Some(rows), Some(columns)]) => Ok(Some([*rows, *columns])),
            _ => Err(self.wrong(field, "two whole numbers above 0")),
        }
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
        if spec.rotary_dim() == 0 || spec.rotary_dim() > spec.head_dim || !spec.rotary_dim().is_multiple_of(2)
        {
            let expected = format!("a part of the head width {} that is an even number", spec.head_dim);
            return Err(self.wrong("partial_rotary_factor", &expected));
        }
        if !(spec.rms_norm_eps.is_finite() && spec.rms_norm_eps > 0.0) {
            return Err(self.wrong("rms_norm_eps", "a number above 0 that f32 can hold"));
        }
        let numbers = [
            ("attn_logit_softcapping", spec.variant.attention_soft_cap),
            ("final_logit_softcapping", spec.variant.logit_soft_cap),
            ("query_pre_attn_scalar", spec.variant.attention_scale),
        ];
        for (field, number) in numbers {
            // Caps are divided by: smaller numbers have no inverse.
            if number.is_some_and(|number| !(number.is_normal() && number > 0.0)) {
                return Err(self.wrong(field, "a number above 0 that f32 can hold"));
            }
        }
        let (frequencies, factor) = spec.rotary_inverse_frequencies();
        let local = spec.local_rotary_inverse_frequencies().unwrap_or_default();
        if !(factor.is_finite() && frequencies.iter().chain(&local).all(|frequency| frequency.is_finite())) {
            let fields = ["rope_scaling", "rope_parameters", "rope_theta"];
            let field = fields.into_iter().find(|field| self.value(field).is_some()).unwrap_or("rope_theta");
            return Err(self.wrong(field, "a rotary embedding whose frequencies and factor f32 can hold"));
        }
        Ok(())
    }
}
