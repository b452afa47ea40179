//! The methods: what each needs, which settings it has, and how it is made for a tensor. A new one is a file and an entry of
//! [`METHODS`].

use truing_types::{Seed, nearest_name};

use super::breadcrumbs::Breadcrumbs;
use super::dare::{Dare, RowDraws};
use super::della::Della;
use super::linear::Linear;
use super::model_stock::ModelStock;
use super::multi_slerp::MultiSlerp;
use super::passthrough::Passthrough;
use super::rule::Rule;
use super::slerp::Slerp;
use super::sparsity::Sparsity;
use super::task_arithmetic::{Delta, DeltaMerge, DeltaOptions};
use super::ties::Trim;
use super::{MergeError, Rescale};

/// What a method does with a base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BaseUse {
    /// It cannot do without.
    Needed,
    /// It works on deltas where there is one.
    Possible,
    /// It gives the merged model its configuration and tokenizer, and no values.
    ConfigurationOnly,
}

/// A method.
pub(super) struct Method {
    /// Its name in recipes.
    pub(super) name: &'static str,
    pub(super) base: BaseUse,
    /// Models besides the base: at least, at most.
    pub(super) n_models: (usize, usize),
    /// Settings that it has.
    pub(super) parameters: &'static [&'static str],
    /// Whether deltas vote on signs, and sums of weights are of those that agree.
    pub(super) elects_sign: bool,
    /// Whether `normalize` is on where nothing is said.
    pub(super) normalizes: bool,
    /// `rescale` where nothing is said.
    pub(super) rescale: Rescale,
    make: fn(&TensorSettings<'_>) -> Box<dyn Rule>,
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Method").field(&self.name).finish()
    }
}

/// A method's settings for one tensor, with every default filled in.
#[derive(Debug, Clone)]
pub(super) struct TensorSettings<'a> {
    pub(super) tensor: &'a str,
    pub(super) n_values: usize,
    pub(super) seed: Seed,
    pub(super) has_base: bool,
    pub(super) elects_sign: bool,
    pub(super) models: Vec<ModelSettings>,
    pub(super) t: f64,
    pub(super) lambda: f64,
    pub(super) normalize: bool,
    pub(super) rescale: Rescale,
    pub(super) row_wise: bool,
}

/// What is set for each model.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelSettings {
    pub(super) weight: f64,
    pub(super) density: f64,
    pub(super) gamma: f64,
    pub(super) epsilon: f64,
    pub(super) scale: f64,
}

const MANY: usize = usize::MAX;
const DELTAS: Method = Method {
    name: "task_arithmetic",
    base: BaseUse::Needed,
    n_models: (1, MANY),
    parameters: &["weight", "lambda", "normalize"],
    elects_sign: false,
    normalizes: false,
    rescale: Rescale::None,
    make: |settings| deltas(settings, |_, _| None),
};
const SPARSE: &[&str] = &["weight", "density", "lambda", "normalize", "rescale"];
const OUTLIERS: &[&str] = &["weight", "density", "gamma", "lambda", "normalize", "rescale"];
const RANKED: &[&str] = &["weight", "density", "epsilon", "lambda", "normalize", "rescale"];

/// Every method.
pub(super) const METHODS: &[Method] = &[
    Method {
        name: "linear",
        base: BaseUse::ConfigurationOnly,
        n_models: (1, MANY),
        parameters: &["weight", "normalize"],
        normalizes: true,
        make: |settings| Box::new(Linear::new(&weights(settings), settings.normalize)),
        ..DELTAS
    },
    Method {
        name: "slerp",
        n_models: (1, 1),
        parameters: &["t"],
        make: |settings| Box::new(Slerp::new(settings.t)),
        ..DELTAS
    },
    Method {
        name: "multislerp",
        base: BaseUse::Possible,
        parameters: &["weight", "normalize"],
        normalizes: true,
        make: |settings| Box::new(MultiSlerp::new(&weights(settings), settings.normalize, settings.has_base)),
        ..DELTAS
    },
    DELTAS,
    Method {
        name: "ties",
        elects_sign: true,
        parameters: SPARSE,
        normalizes: true,
        make: |settings| deltas(settings, |_, model| Some(Box::new(Trim::new(model.density)))),
        ..DELTAS
    },
    Method {
        name: "dare_linear",
        parameters: SPARSE,
        rescale: Rescale::KeepProbability,
        make: |settings| deltas(settings, dare),
        ..DELTAS
    },
    Method {
        name: "dare_ties",
        elects_sign: true,
        parameters: SPARSE,
        rescale: Rescale::KeepProbability,
        make: |settings| deltas(settings, dare),
        ..DELTAS
    },
    Method {
        name: "della",
        elects_sign: true,
        parameters: RANKED,
        normalizes: true,
        rescale: Rescale::KeepProbability,
        make: |settings| deltas(settings, della),
        ..DELTAS
    },
    Method {
        name: "della_linear",
        parameters: RANKED,
        rescale: Rescale::KeepProbability,
        make: |settings| deltas(settings, della),
        ..DELTAS
    },
    Method {
        name: "breadcrumbs",
        parameters: OUTLIERS,
        make: |settings| deltas(settings, breadcrumbs),
        ..DELTAS
    },
    Method {
        name: "breadcrumbs_ties",
        elects_sign: true,
        parameters: OUTLIERS,
        make: |settings| deltas(settings, breadcrumbs),
        ..DELTAS
    },
    Method {
        name: "model_stock",
        n_models: (2, MANY),
        parameters: &["row_wise"],
        make: |settings| Box::new(ModelStock::new(settings.row_wise)),
        ..DELTAS
    },
    Method {
        name: "passthrough",
        base: BaseUse::ConfigurationOnly,
        n_models: (1, 1),
        parameters: &["scale"],
        make: |settings| Box::new(Passthrough { scale: settings.models[0].scale }),
        ..DELTAS
    },
];

/// Names of methods in papers and other programs, and what they are here.
const OTHER_NAMES: [(&str, &str); 6] = [
    ("average", "linear"),
    ("model_soup", "linear"),
    ("frankenmerge", "passthrough"),
    ("dare", "dare_linear"),
    ("della_ties", "della"),
    ("multi_slerp", "multislerp"),
];

impl Method {
    /// The method of a name.
    pub(super) fn find(name: &str) -> Result<&'static Self, MergeError> {
        if let Some(found) = METHODS.iter().find(|method| method.name == name) {
            return Ok(found);
        }
        let plain = name.trim().to_lowercase().replace(['-', ' '], "_");
        let names = || METHODS.iter().map(|method| method.name);
        let alias = OTHER_NAMES.iter().find(|(other, _)| *other == plain).map(|(_, ours)| *ours);
        let nearest = alias.or_else(|| nearest_name(&plain, names()));
        Err(MergeError::UnknownMethod {
            name: name.to_owned(),
            nearest: nearest.map(str::to_owned),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }

    /// The method for a tensor, with its settings.
    pub(super) fn rule(&self, settings: &TensorSettings<'_>) -> Box<dyn Rule> {
        (self.make)(settings)
    }

    /// Whether entries of deltas are kept with a probability.
    pub(super) fn is_random(&self) -> bool {
        self.rescale == Rescale::KeepProbability
    }
}

fn weights(settings: &TensorSettings<'_>) -> Vec<f64> {
    settings.models.iter().map(|model| model.weight).collect()
}

type MakeSparsity = fn(&TensorSettings<'_>, &ModelSettings) -> Option<Box<dyn Sparsity>>;

fn deltas(settings: &TensorSettings<'_>, sparsity: MakeSparsity) -> Box<dyn Rule> {
    let delta = |model: &ModelSettings| {
        let sparsity = if model.density < 1.0 { sparsity(settings, model) } else { None };
        Delta { weight: model.weight, sparsity }
    };
    let options = DeltaOptions {
        lambda: settings.lambda,
        normalize: settings.normalize,
        rescale: settings.rescale,
        elects_sign: settings.elects_sign,
        n_values: settings.n_values,
    };
    Box::new(DeltaMerge::new(settings.models.iter().map(delta).collect(), options))
}

fn dare(settings: &TensorSettings<'_>, model: &ModelSettings) -> Option<Box<dyn Sparsity>> {
    let draws = RowDraws::new(settings.seed, settings.tensor);
    let rescales = settings.rescale == Rescale::KeepProbability;
    Some(Box::new(Dare { density: model.density, rescales, draws }))
}

fn della(settings: &TensorSettings<'_>, model: &ModelSettings) -> Option<Box<dyn Sparsity>> {
    let draws = RowDraws::new(settings.seed, settings.tensor);
    let rescales = settings.rescale == Rescale::KeepProbability;
    Some(Box::new(Della { density: model.density, epsilon: model.epsilon, rescales, draws }))
}

fn breadcrumbs(_: &TensorSettings<'_>, model: &ModelSettings) -> Option<Box<dyn Sparsity>> {
    Some(Box::new(Breadcrumbs::new(model.density, model.gamma)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_near_ones_are_found() {
        for (i, method) in METHODS.iter().enumerate() {
            assert!(METHODS[i + 1..].iter().all(|other| other.name != method.name), "{}", method.name);
            assert_eq!(Method::find(method.name).unwrap().name, method.name);
        }
        for (name, nearest) in [
            ("dare-ties", "dare_ties"),
            ("Linear", "linear"),
            ("frankenmerge", "passthrough"),
            ("modelstock", "model_stock"),
            ("ties_", "ties"),
        ] {
            let error = Method::find(name).unwrap_err().to_string();
            assert!(error.contains(&format!("(nearest: `{nearest}`)")), "{error}");
        }
        let error = Method::find("zzz").unwrap_err().to_string();
        assert!(error.starts_with("unknown merge method `zzz`; known are linear, slerp"), "{error}");
    }
}
