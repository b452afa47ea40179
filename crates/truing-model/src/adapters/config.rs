//! `adapter_config.json`, read: what is plain LoRA on whole projections, and a refusal of everything else, so that no
//! adapter is computed in another way than PEFT computes it.
//!
//! Which modules are adapted is found by PEFT's rules: lists of names, patterns (`re.fullmatch`), `"all-linear"`,
//! `exclude_modules`, `layers_to_transform` with `layers_pattern`. A model's adapter has one rank and one alpha, on a
//! projection of every layer: where `rank_pattern` and `alpha_pattern` give all adapted modules the same, that is it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::families::ConfigFile;
use crate::{DecoderSpec, HeadKind, LoraSpec, ModelError, ParameterRole};

/// Fields that change the computation or which modules are adapted, and have to be unset.
const UNSUPPORTED: [&str; 12] = [
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
];
/// Ways to initialise an adapter that leave the base's weights as they are. The others (PiSSA, OLoRA) change them again
/// each time that PEFT loads the adapter.
const HARMLESS_INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Fields named `use_...` or `..._config` that are known: read here, or without an effect on a saved adapter. A further one may
/// be of a method that is not known here.
const KNOWN_OPTIONS: [&str; 7] = [
    "use_rslora",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "megatron_config",
];

/// What an adapter's configuration says, before the model is known.
#[derive(Debug)]
pub(super) struct AdapterSettings {
    path: PathBuf,
    rank: usize,
    alpha: f64,
    /// Rank-stabilised LoRA divides by the root of the rank.
    is_stabilised: bool,
    /// Ranks and alphas of modules that differ from the others.
    ranks: Patterns,
    alphas: Patterns,
    targets: Modules,
    /// Modules that `targets` does not mean.
    excluded: Modules,
    /// Layers of the modules that `targets` names by parts of their names.
    layers: Option<Layers>,
    /// The embedding and the head stay one parameter where the base ties them.
    pub(super) ensures_tying: bool,
}

#[derive(Debug)]
enum Modules {
    /// Every projection of the blocks.
    AllLinear,
    /// Last names, ends of names, or whole names of modules.
    Named(Vec<String>),
    /// Whole names, by a pattern.
    Pattern(Regex),
}

impl Modules {
    fn contain(&self, module: &str) -> bool {
        match self {
            Self::AllLinear => true,
            Self::Named(names) => names.iter().any(|name| means(name, module)),
            Self::Pattern(pattern) => pattern.is_match(module),
        }
    }

    /// Whether a module's whole name is given, which is meant on every layer that `layers_to_transform` may name.
    fn name_whole(&self, module: &str) -> bool {
        matches!(self, Self::Named(names) if names.iter().any(|name| name == module))
    }
}

/// `layers_to_transform`.
#[derive(Debug)]
struct Layers {
    indices: Vec<u64>,
    /// A module's name with the index of its layer.
    patterns: Vec<Regex>,
}

impl Layers {
    fn contain(&self, module: &str) -> bool {
        let index = self.patterns.iter().find_map(|pattern| pattern.captures(module)?.get(1));
        index.and_then(|index| index.as_str().parse().ok()).is_some_and(|index| self.indices.contains(&index))
    }
}

/// `rank_pattern` or `alpha_pattern`: a value for each pattern.
#[derive(Debug)]
struct Patterns(Vec<(Regex, f64)>);

impl Patterns {
    fn read(field: &Map<String, Value>) -> Option<Self> {
        let one = |(pattern, value): (&String, &Value)| {
            let value = value.as_f64().filter(|value| value.is_finite())?;
            Some((Regex::new(&format!(r"\A(?:.*\.)?(?:{pattern})\z")).ok()?, value))
        };
        field.iter().map(one).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The values that the patterns give a module; several where they do not agree.
    fn values(&self, module: &str) -> Vec<f64> {
        let mut values: Vec<f64> =
            self.0.iter().filter(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value).collect();
        values.dedup();
        values
    }
}

impl AdapterSettings {
    pub(super) fn read(config: &ConfigFile) -> Result<Self, ModelError> {
        let fields = Fields(config);
        fields.check_method()?;
        let rank = fields.value("r").and_then(Value::as_u64).filter(|rank| (1..=1 << 16).contains(rank));
        let rank = rank.ok_or_else(|| fields.unsupported("r", "a whole number from 1 to 65536"))? as usize;
        let alpha = fields.value("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| fields.unsupported("lora_alpha", "a number"))?;
        let is_stabilised = fields.value("use_rslora") == Some(&json!(true));
        let targets = match fields.value("target_modules") {
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => Modules::AllLinear,
            _ => fields.modules("target_modules")?,
        };
        let excluded = match fields.value("exclude_modules") {
            None => Modules::Named(Vec::new()),
            Some(_) => fields.modules("exclude_modules")?,
        };
        let (ranks, alphas) = (fields.patterns("rank_pattern")?, fields.patterns("alpha_pattern")?);
        let layers = fields.layers()?;
        let ensures_tying = fields.value("ensure_weight_tying") == Some(&json!(true));
        let path = config.path().to_path_buf();
        Ok(Self { path, rank, alpha, is_stabilised, ranks, alphas, targets, excluded, layers, ensures_tying })
    }

    /// Whether a module is adapted, by PEFT's rule.
    fn is_target(&self, module: &str) -> bool {
        let is_on_layer = || {
            self.targets.name_whole(module)
                || matches!(self.targets, Modules::AllLinear | Modules::Pattern(_))
                || self.layers.as_ref().is_none_or(|layers| layers.contain(module))
        };
        self.targets.contain(module) && !self.excluded.contain(module) && is_on_layer()
    }

    /// The rank and alpha that all adapted modules have. Alpha is the one of a product that is divided by the rank.
    fn rank_and_alpha(&self, adapted: &[String]) -> Result<(usize, f32), ModelError> {
        let one_of = |field: &'static str, patterns: &Patterns, of_others: f64| {
            let mut found: BTreeMap<String, &str> = BTreeMap::new();
            for module in adapted {
                let values = patterns.values(module);
                let values = if values.is_empty() { vec![of_others] } else { values };
                for value in values {
                    found.entry(value.to_string()).or_insert(module);
                }
            }
            let different: Vec<String> =
                found.iter().map(|(value, module)| format!("{value} for `{module}`")).collect();
            match &different[..] {
                [] => Ok(of_others),
                [_] => Ok(found.keys().next().and_then(|value| value.parse().ok()).unwrap_or(of_others)),
                _ => Err(ModelError::UnsupportedAdapter {
                    path: self.path.clone(),
                    field: field.to_owned(),
                    found: different.join(", "),
                    supported: "only one value for all adapted modules",
                }),
            }
        };
        let rank = one_of("rank_pattern", &self.ranks, self.rank as f64)?;
        let alpha = one_of("alpha_pattern", &self.alphas, self.alpha)?;
        if rank.fract() != 0.0 || !(1.0..=65536.0).contains(&rank) {
            return Err(ModelError::UnsupportedAdapter {
                path: self.path.clone(),
                field: "rank_pattern".to_owned(),
                found: rank.to_string(),
                supported: "a whole number from 1 to 65536",
            });
        }
        Ok((rank as usize, if self.is_stabilised { alpha * rank.sqrt() } else { alpha } as f32))
    }

    /// Rank, alpha and the projections of a model that the configuration means, by PEFT's rule: a name in the list is a
    /// module's whole name or the end of it after a dot.
    pub(super) fn lora(&self, spec: &DecoderSpec) -> Result<LoraSpec, ModelError> {
        let unsupported = |found: String, supported| ModelError::UnsupportedAdapter {
            path: self.path.clone(),
            field: "target_modules".to_owned(),
            found,
            supported,
        };
        let mut n_adapted: BTreeMap<String, usize> = BTreeMap::new();
        let (mut adapted, mut not_adaptable) = (Vec::new(), Vec::new());
        for parameter in spec.parameters() {
            let Some(module) = parameter.name.strip_suffix(".weight") else { continue };
            match parameter.role {
                ParameterRole::Matrix => {
                    let last_name = module.rsplit('.').next().unwrap_or(module);
                    let is_target = self.is_target(module);
                    *n_adapted.entry(last_name.to_owned()).or_default() += usize::from(is_target);
                    adapted.extend(is_target.then(|| module.to_owned()));
                }
                ParameterRole::Embedding | ParameterRole::Score => not_adaptable.push(module.to_owned()),
                _ => {}
            }
        }
        if spec.head == HeadKind::LanguageModel {
            not_adaptable.push("lm_head".to_owned());
        }
        // PEFT leaves the output head out of all linear modules.
        let is_named = !matches!(self.targets, Modules::AllLinear);
        if let Some(module) = not_adaptable.iter().find(|module| is_named && self.is_target(module)) {
            let supported = "only projections of the blocks, such as q_proj";
            return Err(unsupported(format!("`{module}` among others"), supported));
        }
        if let Some((name, n)) = n_adapted.iter().find(|(_, n)| (1..spec.n_layers).contains(*n)) {
            let found = format!("`{name}` on {n} of the {} layers", spec.n_layers);
            return Err(unsupported(found, "only a projection on every layer or on none"));
        }
        let targets: Vec<String> =
            n_adapted.iter().filter(|(_, n)| **n > 0).map(|(name, _)| name.clone()).collect();
        if targets.is_empty() {
            let found = match &self.targets {
                Modules::AllLinear => "\"all-linear\" without what `exclude_modules` names".to_owned(),
                Modules::Named(names) => json!(names).to_string(),
                Modules::Pattern(_) => "a pattern that no module's name matches".to_owned(),
            };
            return Err(unsupported(found, "projections of the model, such as q_proj"));
        }
        let (rank, alpha) = self.rank_and_alpha(&adapted)?;
        Ok(LoraSpec { rank, alpha, targets })
    }
}

/// The fields of the file; one that is null is not there.
struct Fields<'a>(&'a ConfigFile);

impl<'a> Fields<'a> {
    fn value(&self, field: &str) -> Option<&'a Value> {
        self.0.fields().get(field).filter(|value| !value.is_null())
    }

    fn unsupported(&self, field: &str, supported: &'static str) -> ModelError {
        ModelError::UnsupportedAdapter {
            path: self.0.path().to_path_buf(),
            field: field.to_owned(),
            found: self.value(field).map_or_else(|| "missing".to_owned(), Value::to_string),
            supported,
        }
    }

    /// Refuses what is not plain LoRA.
    fn check_method(&self) -> Result<(), ModelError> {
        if self.value("peft_type") != Some(&json!("LORA")) {
            return Err(self.unsupported("peft_type", "only LORA"));
        }
        if self.value("bias").is_some_and(|bias| bias != "none") {
            return Err(self.unsupported("bias", "only none"));
        }
        let is_option = |field: &&String| {
            (field.starts_with("use_") || field.ends_with("_config"))
                && !KNOWN_OPTIONS.contains(&field.as_str())
        };
        let unknown = self.0.fields().keys().filter(is_option).map(String::as_str);
        for field in UNSUPPORTED.into_iter().chain(unknown) {
            match self.value(field) {
                Some(value) if value == &json!(true) => return Err(self.unsupported(field, "only false")),
                Some(value) if !is_unset(value) => return Err(self.unsupported(field, "only none")),
                _ => {}
            }
        }
        if let Some(initialisation) = self.value("init_lora_weights")
            && !initialisation.is_boolean()
            && !initialisation.as_str().is_some_and(|name| HARMLESS_INITIALISATIONS.contains(&name))
        {
            let supported = "true, false, gaussian, eva or orthogonal; with others PEFT changes the base's weights when it \
                             loads the adapter, so convert it to plain LoRA on the original base, with \
                             `path_initial_model_for_weight_conversion` of PEFT's save_pretrained";
            return Err(self.unsupported("init_lora_weights", supported));
        }
        Ok(())
    }

    /// A list of texts.
    fn names(&self, field: &str) -> Option<Vec<String>> {
        let items = self.value(field).and_then(Value::as_array)?.iter();
        items.map(|item| item.as_str().map(str::to_owned)).collect()
    }

    fn modules(&self, field: &str) -> Result<Modules, ModelError> {
        match (self.value(field), self.names(field)) {
            (Some(Value::String(pattern)), _) => {
                let pattern = Regex::new(&format!(r"\A(?:{pattern})\z"));
                pattern
                    .map(Modules::Pattern)
                    .map_err(|_| self.unsupported(field, "a pattern without look-around"))
            }
            (_, Some(names)) => Ok(Modules::Named(names)),
            _ => Err(self.unsupported(field, "a list of module names or a pattern")),
        }
    }

    fn patterns(&self, field: &str) -> Result<Patterns, ModelError> {
        match self.value(field) {
            None => Ok(Patterns(Vec::new())),
            Some(found) => found
                .as_object()
                .and_then(Patterns::read)
                .ok_or_else(|| self.unsupported(field, "a number for each pattern of module names")),
        }
    }

    /// `layers_to_transform` with `layers_pattern`; `None` for all layers.
    fn layers(&self) -> Result<Option<Layers>, ModelError> {
        let indices = match self.value("layers_to_transform") {
            None => Some(Vec::new()),
            Some(Value::Array(indices)) => indices.iter().map(Value::as_u64).collect(),
            Some(index) => index.as_u64().map(|index| vec![index]),
        };
        let indices = indices
            .ok_or_else(|| self.unsupported("layers_to_transform", "indices of layers, counted from 0"))?;
        if indices.is_empty() {
            return Ok(None);
        }
        let names = match self.value("layers_pattern") {
            Some(Value::String(one)) => Some(vec![one.clone()]),
            None => Some(Vec::new()),
            Some(_) => self.names("layers_pattern"),
        };
        let unsupported = || self.unsupported("layers_pattern", "a name of the list of layers, or several");
        let names = names.ok_or_else(unsupported)?;
        let mut patterns: Vec<String> = names
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| format!(r"\A.*\.{name}\.(\d+)\."))
            .collect();
        if patterns.is_empty() {
            patterns.push(r"\A.*\.[^.]*\.(\d+)\.".to_owned());
        }
        let patterns = patterns.iter().map(|pattern| Regex::new(pattern)).collect::<Result<_, _>>();
        let patterns = patterns.map_err(|_| unsupported())?;
        Ok(Some(Layers { indices, patterns }))
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// PEFT's rule for names in a list.
fn means(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
