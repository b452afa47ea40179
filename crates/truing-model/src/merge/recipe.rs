//! What a merge is asked for: the recipe's settings, which have the names and the shape of mergekit's.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use truing_types::Seed;

use super::Setting;
use crate::SaveDtype;

/// A merge. Either `models` or `slices` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeRecipe {
    /// The method: `linear`, `slerp`, `multislerp`, `task_arithmetic`, `ties`, `dare_linear`, `dare_ties`, `della`,
    /// `della_linear`, `breadcrumbs`, `breadcrumbs_ties`, `model_stock` or `passthrough`.
    pub method: String,
    /// The folder of the merged model. It must not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_dir: Option<PathBuf>,
    /// The model that all others were trained from: a path, or a name on the hub. `slerp` interpolates from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// How values are stored: "f32", "bf16" or "f16". By default as the inputs store them, f32 where they differ.
    /// Computed is in f32 and f64 in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_dtype: Option<SaveDtype>,
    /// Files of weights are at most this large: `"5GB"`, `"500MiB"`, or a number of bytes.
    #[serde(default)]
    pub max_shard_size: ByteSize,
    /// Decides which entries DARE and DELLA drop.
    #[serde(default)]
    pub seed: Seed,
    /// Where the vocabularies differ: "base" keeps that of the base model (of the first model where there is none), "union"
    /// adds the tokens of the others, and one of the models takes its. Rows of the embedding are matched by token.
    /// By default the vocabularies must be the same. "none" merges models without a tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// A model of the recipe or a file whose chat template the merged model gets, or "auto" for the template that most
    /// of the models have. By default the one that comes with the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Settings of the method, for all models and slices that have none of their own.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    /// The models to merge, over all their layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<MergeModel>,
    /// The merged model's layers from the bottom up, each slice made of layers of one or several models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<MergeSlice>,
    /// Save a LoRA adapter of the base model in place of a whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_adapter: Option<SaveAdapter>,
    /// Settings that the method does not have are a remark instead of an error: mergekit ignores them.
    #[serde(skip)]
    pub tolerates_unused_parameters: bool,
}

/// A model to merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeModel {
    /// A directory with config.json and safetensors, a PEFT adapter, or a name on the hub.
    pub model: String,
    /// A PEFT adapter that is added to the model first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Settings for this model.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

/// Consecutive layers of the merged model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeSlice {
    /// What they are merged of.
    pub sources: Vec<SliceSource>,
    /// The base model of this slice, in place of the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Settings for this slice.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

/// Layers of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SliceSource {
    /// As in `models`.
    pub model: String,
    /// As in `models`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The first layer, counted from 0, and the one after the last.
    pub layer_range: [usize; 2],
    /// Settings for this source.
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

/// A LoRA adapter that is as near to the merged model as its rank allows. Tensors that it does not adapt stay the base's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveAdapter {
    /// Inner width. The product of adapters of ranks r and s, merged linearly, needs r + s.
    pub rank: usize,
    /// Projections by their last name, for instance `q_proj`; all of them where none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_modules: Vec<String>,
}

/// What becomes of the size of a delta of which entries were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rescale {
    /// It stays as it is.
    None,
    /// Kept entries are divided by the probability with which they are kept, as in the papers of DARE and DELLA: the
    /// expectation is the whole delta.
    KeepProbability,
    /// Kept entries are scaled until the sum of magnitudes is that of the whole delta, as `rescale: true` of mergekit does.
    L1,
}

/// Settings of methods. Those of single models are in the upper part.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The model's weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Setting>,
    /// The share of the entries of the model's delta that are kept, above 0 and at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<Setting>,
    /// Breadcrumbs: the share of the largest entries that are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<Setting>,
    /// DELLA: entries are kept with probabilities from density - epsilon (smallest of its row) to density + epsilon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<Setting>,
    /// Passthrough: the tensor is multiplied by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Setting>,
    /// SLERP: 0 is the base model, 1 the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<Setting>,
    /// The merged delta is multiplied by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<Setting>,
    /// Divide by the sum of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// What becomes of the size of a delta of which entries were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale: Option<Rescale>,
    /// Model Stock: one ratio for each row instead of one for each tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_wise: Option<bool>,
}

impl Parameters {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The numbers that are set, by name.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        let all = [
            ("weight", &self.weight),
            ("density", &self.density),
            ("gamma", &self.gamma),
            ("epsilon", &self.epsilon),
            ("scale", &self.scale),
            ("t", &self.t),
            ("lambda", &self.lambda),
        ];
        all.into_iter().filter_map(|(name, setting)| Some((name, setting.as_ref()?)))
    }

    /// The names of everything that is set.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let switches = [
            ("normalize", self.normalize.is_some()),
            ("rescale", self.rescale.is_some()),
            ("row_wise", self.row_wise.is_some()),
        ];
        let switches = switches.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name);
        self.numbers().map(|(name, _)| name).chain(switches).collect()
    }

    pub(super) fn number(&self, name: &str) -> Option<&Setting> {
        self.numbers().find(|(known, _)| *known == name).map(|(_, setting)| setting)
    }
}

/// A number of bytes, written as a number or with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl Default for ByteSize {
    fn default() -> Self {
        Self(5_000_000_000)
    }
}

const UNITS: [(&str, u64); 9] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("TIB", 1 << 40),
    ("B", 1),
];

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_uppercase();
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((upper.strip_suffix(unit)?, *bytes)));
        let (number, bytes) = unit.unwrap_or((&upper, 1));
        let value = number.trim().parse::<f64>().ok().map(|value| value * bytes as f64);
        let value = value.filter(|value| (1.0..1e18).contains(value));
        value.map(|value| Self(value as u64)).ok_or_else(|| {
            format!(
                "`{text}` is an invalid size, expected a number of bytes or one such as \"5GB\" or \"500MiB\""
            )
        })
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number of bytes or a size such as \"5GB\"")]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(0) => Err(serde::de::Error::custom("0 bytes, expected a size such as \"5GB\"")),
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("5GB", 5_000_000_000), ("1.5 MiB", 1_572_864), ("300", 300), ("2kb", 2000), ("7B", 7)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GB", "-1GB", "0", "5XB", "nan"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
