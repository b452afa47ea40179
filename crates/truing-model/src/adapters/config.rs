//! `adapter_config.json`, read: what is plain LoRA on whole projections, and a refusal of everything else, so that no
//! adapter is computed in another way than PEFT computes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::families::ConfigFile;
use crate::{DecoderSpec, HeadKind, LoraSpec, ModelError, ParameterRole};

/// Fields that change the computation or which modules are adapted, and have to be unset.
const UNSUPPORTED: [&str; 15] = [
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
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

/// What an adapter's configuration says, before the model is known.
#[derive(Debug)]
pub(super) struct AdapterSettings {
    path: PathBuf,
    rank: usize,
    alpha: f32,
    targets: Targets,
    /// Module names that `targets` does not mean.
    excluded: Vec<String>,
    /// The embedding and the head stay one parameter where the base ties them.
    pub(super) ensures_tying: bool,
}

#[derive(Debug)]
enum Targets {
    /// Every projection of the blocks.
    AllLinear,
    /// Last names, ends of names, or whole names of modules.
    Named(Vec<String>),
}

impl AdapterSettings {
    pub(super) fn read(config: &ConfigFile) -> Result<Self, ModelError> {
        let fields = config.fields();
        let value = |field: &str| fields.get(field).filter(|value| !value.is_null());
        let unsupported = |field: &str, supported| ModelError::UnsupportedAdapter {
            path: config.path().to_path_buf(),
            field: field.to_owned(),
            found: value(field).map_or_else(|| "missing".to_owned(), Value::to_string),
            supported,
        };
        let names = |field: &str| {
            let items = value(field).and_then(Value::as_array)?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        if value("peft_type") != Some(&json!("LORA")) {
            return Err(unsupported("peft_type", "only LORA"));
        }
        if value("bias").is_some_and(|bias| bias != "none") {
            return Err(unsupported("bias", "only none"));
        }
        for field in UNSUPPORTED {
            match value(field) {
                Some(value) if value == &json!(true) => return Err(unsupported(field, "only false")),
                Some(value) if !is_unset(value) => return Err(unsupported(field, "only none")),
                _ => {}
            }
        }
        if let Some(initialisation) = value("init_lora_weights")
            && !initialisation.is_boolean()
            && !initialisation.as_str().is_some_and(|name| HARMLESS_INITIALISATIONS.contains(&name))
        {
            let supported = "true, false, gaussian, eva or orthogonal; with others PEFT changes the base's weights when it \
                             loads the adapter, so convert it to plain LoRA on the original base, with \
                             `path_initial_model_for_weight_conversion` of PEFT's save_pretrained";
            return Err(unsupported("init_lora_weights", supported));
        }
        let rank = value("r").and_then(Value::as_u64).filter(|rank| (1..=1 << 16).contains(rank));
        let rank = rank.ok_or_else(|| unsupported("r", "a whole number from 1 to 65536"))? as usize;
        let alpha = value("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| unsupported("lora_alpha", "a number"))?;
        // Rank-stabilised LoRA divides by the root of the rank: the same product under another alpha.
        let is_stabilised = value("use_rslora") == Some(&json!(true));
        let alpha = if is_stabilised { alpha * (rank as f64).sqrt() } else { alpha } as f32;
        let targets = match (value("target_modules"), names("target_modules")) {
            (Some(Value::String(all)), _) if all.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
            (_, Some(names)) => Targets::Named(names),
            _ => {
                let supported = "a list of module names, or \"all-linear\"; a pattern is not";
                return Err(unsupported("target_modules", supported));
            }
        };
        let excluded = match value("exclude_modules") {
            None => Vec::new(),
            Some(_) => names("exclude_modules")
                .ok_or_else(|| unsupported("exclude_modules", "a list of module names; a pattern is not"))?,
        };
        let ensures_tying = value("ensure_weight_tying") == Some(&json!(true));
        let path = config.path().to_path_buf();
        Ok(Self { path, rank, alpha, targets, excluded, ensures_tying })
    }

    /// Rank, alpha and the projections of a model that the configuration means, by PEFT's rule: a name in the list is a
    /// module's whole name or the end of it after a dot.
    pub(super) fn lora(&self, spec: &DecoderSpec) -> Result<LoraSpec, ModelError> {
        let is_excluded = |module: &str| self.excluded.iter().any(|name| means(name, module));
        let is_target = |module: &str| {
            let is_named = match &self.targets {
                Targets::AllLinear => true,
                Targets::Named(names) => names.iter().any(|name| means(name, module)),
            };
            is_named && !is_excluded(module)
        };
        let unsupported = |found: String, supported| ModelError::UnsupportedAdapter {
            path: self.path.clone(),
            field: "target_modules".to_owned(),
            found,
            supported,
        };
        let mut n_adapted: BTreeMap<String, usize> = BTreeMap::new();
        let mut not_adaptable = Vec::new();
        for parameter in spec.parameters() {
            let Some(module) = parameter.name.strip_suffix(".weight") else { continue };
            match parameter.role {
                ParameterRole::Matrix => {
                    let last_name = module.rsplit('.').next().unwrap_or(module);
                    *n_adapted.entry(last_name.to_owned()).or_default() += usize::from(is_target(module));
                }
                ParameterRole::Embedding | ParameterRole::Score => not_adaptable.push(module.to_owned()),
                _ => {}
            }
        }
        if spec.head == HeadKind::LanguageModel {
            not_adaptable.push("lm_head".to_owned());
        }
        let is_named = matches!(self.targets, Targets::Named(_));
        if let Some(module) = not_adaptable.iter().find(|module| is_named && is_target(module)) {
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
                Targets::AllLinear => "\"all-linear\" without what `exclude_modules` names".to_owned(),
                Targets::Named(names) => json!(names).to_string(),
            };
            return Err(unsupported(found, "projections of the model, such as q_proj"));
        }
        Ok(LoraSpec { rank: self.rank, alpha: self.alpha, targets })
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
