//! The merges that are tried: sampled at first, then near the best.

use serde_json::{Map, Value, json};
use truing_model::SaveDtype;
use truing_model::merge::MergeRecipe;
use truing_run::RunError;
use truing_types::Seed;

use crate::StageError;

/// A method as the search knows it.
#[derive(Debug)]
pub(super) struct Searchable {
    pub(super) name: &'static str,
    pub(super) needs_base: bool,
    pub(super) needs_two: bool,
    has_weights: bool,
    has_density: bool,
    has_lambda: bool,
}

const fn of_deltas(name: &'static str, has_density: bool) -> Searchable {
    Searchable { name, needs_base: true, needs_two: false, has_weights: true, has_density, has_lambda: true }
}

/// All methods that can be searched.
pub(super) const SEARCHABLE: &[Searchable] = &[
    Searchable {
        name: "linear",
        needs_base: false,
        needs_two: false,
        has_weights: true,
        has_density: false,
        has_lambda: false,
    },
    Searchable {
        name: "slerp",
        needs_base: false,
        needs_two: true,
        has_weights: true,
        has_density: false,
        has_lambda: false,
    },
    of_deltas("task_arithmetic", false),
    of_deltas("ties", true),
    of_deltas("dare_linear", true),
    of_deltas("dare_ties", true),
    of_deltas("della", true),
    of_deltas("della_linear", true),
    of_deltas("breadcrumbs", true),
    of_deltas("breadcrumbs_ties", true),
    Searchable {
        name: "model_stock",
        needs_base: true,
        needs_two: false,
        has_weights: false,
        has_density: false,
        has_lambda: false,
    },
];

/// Lowest and highest density and factor of the merged delta.
const DENSITY: [f64; 2] = [0.2, 1.0];
const LAMBDA: [f64; 2] = [0.4, 1.6];
/// Entries that DELLA keeps with other probabilities than `density`: it must stay within 0 and 1.
const DELLA_DENSITY: [f64; 2] = [0.2, 0.8];

/// One merge. Weights add up to 1.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Candidate {
    /// The method.
    pub method: String,
    /// Of the models; none where the method has no weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// The share of each delta that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// The factor of the merged delta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
}

fn searchable(method: &str) -> Option<&'static Searchable> {
    SEARCHABLE.iter().find(|known| known.name == method)
}

fn density_range(method: &str) -> [f64; 2] {
    if method.starts_with("della") { DELLA_DENSITY } else { DENSITY }
}

/// To hundredths, so that recipes can be read.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Weights in hundredths that add up to 1.
fn normalised(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let mut found: Vec<f64> = weights.iter().map(|weight| rounded(weight / sum)).collect();
    let rest: f64 = found.iter().skip(1).sum();
    if let Some(first) = found.first_mut() {
        *first = rounded(1.0 - rest);
    }
    found
}

/// One weight moved by `step` within 0 and 1; the others share the rest as before, or equally where they had nothing.
fn moved_weight(weights: &[f64], idx: usize, step: f64) -> Vec<f64> {
    let moved = (weights[idx] + step).clamp(0.0, 1.0);
    let (rest, n_others) = (1.0 - weights[idx], weights.len() - 1);
    let of = |(other, weight): (usize, &f64)| match (other == idx, rest > 0.0) {
        (true, _) => moved,
        (false, true) => weight / rest * (1.0 - moved),
        (false, false) => (1.0 - moved) / n_others as f64,
    };
    normalised(&weights.iter().enumerate().map(of).collect::<Vec<_>>())
}

impl Candidate {
    /// In words.
    pub fn label(&self) -> String {
        let weights: Vec<String> = self.weights.iter().map(|weight| format!("{weight:.2}")).collect();
        let mut label = self.method.clone();
        if !weights.is_empty() {
            label.push_str(&format!(" {}", weights.join("/")));
        }
        for (name, value) in [("density", self.density), ("lambda", self.lambda)] {
            if let Some(value) = value {
                label.push_str(&format!(" {name} {value:.2}"));
            }
        }
        label
    }

    /// The recipe of the merge.
    pub(super) fn recipe(
        &self,
        models: &[&str],
        base: Option<&str>,
        save_dtype: Option<SaveDtype>,
        tokenizer: Option<&str>,
    ) -> Result<MergeRecipe, StageError> {
        let mut recipe = Map::new();
        recipe.insert("method".into(), json!(self.method));
        if self.method == "slerp" {
            // From the first to the second.
            recipe.insert("base_model".into(), json!(models[0]));
            recipe.insert("models".into(), json!([{ "model": models[1] }]));
            recipe.insert("parameters".into(), json!({ "t": self.weights.get(1) }));
        } else {
            let of_model = |(idx, model): (usize, &&str)| {
                let mut parameters = Map::new();
                if let Some(weight) = self.weights.get(idx) {
                    parameters.insert("weight".into(), json!(weight));
                }
                if let Some(density) = self.density {
                    parameters.insert("density".into(), json!(density));
                }
                json!({ "model": model, "parameters": parameters })
            };
            let models: Vec<Value> = models.iter().enumerate().map(of_model).collect();
            recipe.insert("models".into(), json!(models));
            let is_of_deltas = searchable(&self.method).is_some_and(|known| known.needs_base);
            if let Some(base) = base.filter(|_| is_of_deltas) {
                recipe.insert("base_model".into(), json!(base));
            }
            if let Some(lambda) = self.lambda {
                recipe.insert("parameters".into(), json!({ "lambda": lambda }));
            }
        }
        if let Some(dtype) = save_dtype {
            recipe.insert("save_dtype".into(), json!(dtype));
        }
        if let Some(tokenizer) = tokenizer {
            recipe.insert("tokenizer".into(), json!(tokenizer));
        }
        let recipe: MergeRecipe = serde_json::from_value(recipe.into())
            .map_err(|source| RunError::Json { name: "the recipe of a merge", source })?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The same with one setting a step up or down, without those that leave their range.
    pub(super) fn neighbours(&self, step: f64) -> Vec<Self> {
        let mut found = Vec::new();
        let mut add = |candidate: Self| {
            if candidate != *self && !found.contains(&candidate) {
                found.push(candidate);
            }
        };
        // With two models a weight up is the other down.
        let n_weights = if self.weights.len() == 2 { 1 } else { self.weights.len() };
        for idx in 0..n_weights {
            for sign in [1.0, -1.0] {
                add(Self { weights: moved_weight(&self.weights, idx, sign * step), ..self.clone() });
            }
        }
        let moved = |value: f64, sign: f64, [low, high]: [f64; 2]| {
            rounded((value + sign * step * (high - low)).clamp(low, high))
        };
        for sign in [1.0, -1.0] {
            if let Some(density) = self.density {
                let density = Some(moved(density, sign, density_range(&self.method)));
                add(Self { density, ..self.clone() });
            }
            if let Some(lambda) = self.lambda {
                add(Self { lambda: Some(moved(lambda, sign, LAMBDA)), ..self.clone() });
            }
        }
        found
    }
}

/// The candidates of the first round: round-robin over the methods, equal weights first, then sampled ones. A method
/// without settings has one.
pub(super) fn first_candidates(methods: &[String], n_models: usize, n: usize, seed: Seed) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    // A method without settings, or repeated samples, must not make an endless loop.
    for turn in 0..4 * n {
        for (idx, method) in methods.iter().enumerate() {
            let Some(known) = searchable(method) else { continue };
            let candidate = sampled(known, n_models, turn, seed, idx as u64);
            if found.len() < n && !found.contains(&candidate) {
                found.push(candidate);
            }
        }
    }
    found
}

fn sampled(known: &Searchable, n_models: usize, turn: usize, seed: Seed, idx: u64) -> Candidate {
    let mut generator = seed.generator("merge candidates", &[idx, turn as u64]);
    let mut unit = || {
        use rand_chacha::rand_core::Rng as _;
        ((generator.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let is_first = turn == 0;
    let weights: Vec<f64> = match known.has_weights {
        // Exponential parts of a whole are uniform over all divisions of it.
        true => (0..n_models).map(|_| if is_first { 1.0 } else { -unit().ln() }).collect(),
        false => Vec::new(),
    };
    let mut between = |[low, high]: [f64; 2], usual: f64| {
        rounded(if is_first { usual } else { low + (high - low) * unit() })
    };
    Candidate {
        method: known.name.to_owned(),
        weights: if weights.is_empty() { weights } else { normalised(&weights) },
        density: known.has_density.then(|| between(density_range(known.name), 0.5)),
        lambda: known.has_lambda.then(|| between(LAMBDA, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_sampled_in_turn_and_have_recipes() {
        let methods: Vec<String> = SEARCHABLE.iter().map(|known| known.name.to_owned()).collect();
        let candidates = first_candidates(&methods, 2, 40, Seed(1));
        assert_eq!(candidates.len(), 40);
        assert_eq!(candidates, first_candidates(&methods, 2, 40, Seed(1)));
        assert_ne!(candidates, first_candidates(&methods, 2, 40, Seed(2)));
        for candidate in &candidates {
            let recipe = candidate.recipe(&["a", "b"], Some("base"), None, None);
            recipe.unwrap_or_else(|error| panic!("{}: {error}", candidate.label()));
            let sum: f64 = candidate.weights.iter().sum();
            assert!(candidate.weights.is_empty() || (sum - 1.0).abs() < 1e-9, "{candidate:?}");
        }
        assert_eq!(candidates.iter().filter(|one| one.method == "model_stock").count(), 1);
        assert_eq!(candidates[2].label(), "task_arithmetic 0.50/0.50 lambda 1.00");
        // A single method without settings has a single candidate.
        assert_eq!(first_candidates(&["model_stock".into()], 3, 10, Seed(0)).len(), 1);
    }

    #[test]
    fn neighbours_differ_in_one_setting_and_stay_in_range() {
        let candidate = Candidate {
            method: "ties".into(),
            weights: vec![0.95, 0.05],
            density: Some(1.0),
            lambda: Some(1.0),
        };
        let found = candidate.neighbours(0.1);
        // Weight up ends at 1; density cannot go up.
        let expected = ["1.00/0.00", "0.85/0.15", "density 0.92", "lambda 1.12", "lambda 0.88"];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for part in expected {
            assert!(found.iter().any(|one| one.label().contains(part)), "{part}: {found:?}");
        }
    }

    #[test]
    fn a_weight_moves_by_its_step_and_the_others_share_the_rest() {
        for (weights, idx, step, expected) in [
            (vec![0.5, 0.3, 0.2], 0, 0.1, vec![0.6, 0.24, 0.16]),
            (vec![0.5, 0.3, 0.2], 2, -0.5, vec![0.63, 0.37, 0.0]),
            (vec![1.0, 0.0, 0.0], 0, -0.2, vec![0.8, 0.1, 0.1]),
        ] {
            assert_eq!(moved_weight(&weights, idx, step), expected, "{weights:?}");
        }
    }
}
