//! What a config.json says of the rotary embedding.

use serde_json::{Value, json};

use super::ConfigFile;
use super::config_file::Defaults;
use crate::{ModelError, RopeScaling};

/// The rotary embedding of a configuration.
pub(super) struct Rotary {
    pub(super) theta: f64,
    pub(super) scaling: Option<RopeScaling>,
    /// Components of a head that turn, where not all do.
    pub(super) rotary_dim: Option<usize>,
}

/// The object with the scaling's fields, and the context that the model was made for.
struct ScalingFields<'a> {
    config: &'a ConfigFile,
    /// Its field, with a dot after it.
    prefix: String,
    max_position_embeddings: usize,
    /// What [`RotaryDefaults::original_context`](super::config_file::RotaryDefaults::original_context) says.
    original_context: Option<usize>,
    /// Frequencies.
    n: usize,
}

impl ConfigFile {
    /// Base and scaling of the rotary frequencies: `rope_scaling` beside `rope_theta`, or transformers 5's
    /// `rope_parameters` that holds both. The former wins where both are given, as there.
    pub(super) fn rope(
        &self,
        defaults: &Defaults,
        max_position_embeddings: usize,
        head_dim: usize,
    ) -> Result<Rotary, ModelError> {
        let is_filled = |field: &&str| match self.value(field) {
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
            None => false,
        };
        let outer_theta = self.positive("rope_theta")?.or(defaults.rotary.theta).unwrap_or(10_000.0);
        let outer_part = self.rotary_part("partial_rotary_factor", defaults)?;
        let rotary_dim = |part: Option<f64>| {
            let dim = part.map(|part| (head_dim as f64 * part) as usize);
            dim.filter(|&dim| dim != head_dim)
        };
        let Some(field) = ["rope_scaling", "rope_parameters"].into_iter().find(is_filled) else {
            return Ok(Rotary { theta: outer_theta, scaling: None, rotary_dim: rotary_dim(outer_part) });
        };
        if !self.fields()[field].is_object() {
            return Err(self.wrong(field, "an object"));
        }
        let of_type = defaults.rotary.global_layers.map(|layers| format!("{field}.{layers}"));
        let field = of_type.as_deref().filter(|field| self.value(field).is_some()).unwrap_or(field);
        let inner_part = self.rotary_part(&format!("{field}.partial_rotary_factor"), defaults)?;
        let rotary_dim = rotary_dim(inner_part.or(outer_part));
        let theta = self.positive(&format!("{field}.rope_theta"))?.unwrap_or(outer_theta);
        let n = rotary_dim.unwrap_or(head_dim) / 2;
        let scaling = self.rope_scaling_in(field, defaults, max_position_embeddings, n)?;
        Ok(Rotary { theta, scaling, rotary_dim })
    }

    /// The share of a head's components that turn.
    fn rotary_part(&self, field: &str, defaults: &Defaults) -> Result<Option<f64>, ModelError> {
        let part = self.positive(field)?;
        match part {
            Some(part) if part != 1.0 && !defaults.rotary.may_be_partial => Err(self.wrong(field, "1")),
            Some(part) if part > 1.0 => Err(self.wrong(field, "at most 1")),
            part => Ok(part),
        }
    }

    /// The scaling that the object `field` names, of `n` frequencies.
    pub(super) fn rope_scaling_in(
        &self,
        field: &str,
        defaults: &Defaults,
        max_position_embeddings: usize,
        n: usize,
    ) -> Result<Option<RopeScaling>, ModelError> {
        let original_context = defaults.rotary.original_context;
        let prefix = format!("{field}.");
        let fields = ScalingFields { config: self, prefix, max_position_embeddings, original_context, n };
        let type_field = ["rope_type", "type"].map(|name| fields.name(name));
        let type_field = type_field.into_iter().find(|field| self.value(field).is_some());
        let kind = type_field.as_deref().and_then(|field| self.value(field)).map(Value::as_str);
        match kind {
            None if self
                .value(field)
                .and_then(Value::as_object)
                .is_some_and(|f| f.values().any(Value::is_object)) =>
            {
                Err(self.wrong(field, "the same rotary embedding in every layer"))
            }
            None | Some(Some("default")) => Ok(None),
            Some(Some(name)) if name == "longrope" || defaults.rotary.names_of_longrope.contains(&name) => {
                fields.long_rope().map(Some)
            }
            Some(Some("linear")) => Ok(Some(RopeScaling::Linear { factor: fields.required("factor")? })),
            Some(Some("dynamic")) => Ok(Some(RopeScaling::Dynamic { factor: fields.required("factor")? })),
            Some(Some("llama3")) => fields.llama3().map(Some),
            Some(Some("yarn")) => fields.yarn().map(Some),
            Some(_) => {
                let field = type_field.unwrap_or_else(|| fields.name("rope_type"));
                Err(self.wrong(&field, "`default`, `linear`, `dynamic`, `llama3`, `yarn` or `longrope`"))
            }
        }
    }
}

impl ScalingFields<'_> {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.config.positive(&self.name(name))
    }

    fn required(&self, name: &str) -> Result<f64, ModelError> {
        self.config.required_positive(&self.name(name))
    }

    /// The context of pre-training. Beside the object it takes precedence over the one in it, as in
    /// transformers.
    fn original(&self) -> Result<usize, ModelError> {
        let name = "original_max_position_embeddings";
        let outer = self.config.size(name)?.or(self.original_context);
        Ok(outer.or(self.config.size(&self.name(name))?).unwrap_or(self.max_position_embeddings))
    }

    /// How many times the original context is extended.
    fn factor(&self, original: usize) -> Result<f64, ModelError> {
        Ok(self.number("factor")?.unwrap_or(self.max_position_embeddings as f64 / original as f64))
    }

    fn llama3(&self) -> Result<RopeScaling, ModelError> {
        let low_freq_factor = self.required("low_freq_factor")?;
        let high_freq_factor = self.required("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            return Err(self.config.wrong(&self.name("high_freq_factor"), "a number above low_freq_factor"));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.required("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: self.original()? as f64,
        })
    }

    fn yarn(&self) -> Result<RopeScaling, ModelError> {
        let original = self.original()?;
        let factor = self.factor(original)?;
        let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let attention_factor = match self.number("attention_factor")? {
            Some(given) => given,
            None => match (self.number("mscale")?, self.number("mscale_all_dim")?) {
                (Some(one), Some(all)) => scale(one) / scale(all),
                _ => scale(1.0),
            },
        };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
            truncate: self.config.boolean(&self.name("truncate"))?.unwrap_or(true),
            original_max_position_embeddings: original as f64,
        })
    }

    fn long_rope(&self) -> Result<RopeScaling, ModelError> {
        let original = self.original()?;
        if original < 2 {
            return Err(self.config.wrong(&self.name("original_max_position_embeddings"), "at least 2"));
        }
        let factor = self.factor(original)?;
        let attention_factor = match self.number("attention_factor")? {
            Some(given) => given,
            None => long_rope_attention_factor(factor, original),
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.divisors("short_factor")?,
            long_factor: self.divisors("long_factor")?,
            attention_factor,
            original_max_position_embeddings: original,
            extended_max_position_embeddings: self.max_position_embeddings,
        })
    }

    /// A number above 0 for each frequency.
    fn divisors(&self, name: &str) -> Result<Vec<f64>, ModelError> {
        let field = self.name(name);
        let expected = format!("a list of {} numbers above 0", self.n);
        let Some(value) = self.config.value(&field) else {
            return Err(self.config.missing(&field, "a list of numbers"));
        };
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(number).collect());
        let numbers = numbers.filter(|numbers| numbers.len() == self.n);
        numbers.ok_or_else(|| self.config.wrong(&field, &expected))
    }
}

/// LongRoPE's factor on cosines and sines, where the files do not say, for a context `original` that is extended
/// `factor` times.
pub(super) fn long_rope_attention_factor(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
}

/// A scaling as [`ConfigFile`] reads it back.
pub(super) fn rope_scaling_to_json(scaling: Option<&RopeScaling>) -> Value {
    match scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": *original_max_position_embeddings as u64,
        }),
        Some(RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings,
        }) => json!({
            "rope_type": "yarn",
            "factor": factor,
            "attention_factor": attention_factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "truncate": truncate,
            "original_max_position_embeddings": *original_max_position_embeddings as u64,
        }),
        Some(RopeScaling::Dynamic { factor }) => json!({"rope_type": "dynamic", "factor": factor}),
        Some(RopeScaling::LongRope {
            short_factor,
            long_factor,
            attention_factor,
            original_max_position_embeddings,
            ..
        }) => json!({
            "rope_type": "longrope",
            "short_factor": short_factor,
            "long_factor": long_factor,
            "attention_factor": attention_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    }
}
