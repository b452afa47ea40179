//! The settings of one tensor: the nearest level that has a value counts, and every value is checked.

use super::check::invalid;
use super::method::{Method, ModelSettings};
use super::slices::{Layers, Slice};
use super::{MergeError, MergeRecipe, Parameters, Rescale};

/// The settings of one tensor, with every default filled in.
#[derive(Debug, Clone)]
pub(super) struct PlannedSettings {
    pub(super) models: Vec<ModelSettings>,
    pub(super) t: f64,
    pub(super) lambda: f64,
    pub(super) normalize: bool,
    pub(super) rescale: Rescale,
    pub(super) row_wise: bool,
}

/// Finds and checks the settings of the merged model's `merged`, at `position` in its slice. `name_in` is what the tensor is
/// called in a source.
pub(super) fn settings_of(
    merged: &str,
    slice: &Slice<'_>,
    recipe: &MergeRecipe,
    method: &Method,
    position: f64,
    name_in: &dyn Fn(Layers) -> String,
) -> Result<PlannedSettings, MergeError> {
    let shared: Vec<&Parameters> = slice.parameters.into_iter().chain([&recipe.parameters]).collect();
    let number = |name: &str, tensor: &str, own: Option<&Parameters>| {
        let levels = own.into_iter().chain(shared.iter().copied());
        levels.filter_map(|level| level.number(name)).find_map(|setting| setting.value(tensor, position))
    };
    let mut of_models = Vec::new();
    for (layers, own, place) in &slice.sources {
        let tensor = name_in(*layers);
        let value = |name: &'static str, default: f64| number(name, &tensor, Some(own)).unwrap_or(default);
        let settings = ModelSettings {
            weight: value("weight", 1.0),
            density: value("density", 1.0),
            gamma: value("gamma", 0.01),
            epsilon: value("epsilon", 0.15),
            scale: value("scale", 1.0),
        };
        check_model(&settings, method, place, &tensor)?;
        of_models.push(settings);
    }
    let t = number("t", merged, None);
    if method.name == "slerp" {
        let place = &slice.place;
        let t = t.ok_or_else(|| invalid(format!("{place}: `slerp` has no `t` for tensor `{merged}`")))?;
        check_value(place, "t", merged, t, (0.0..=1.0).contains(&t), "a number from 0 to 1")?;
    }
    let switch = |get: fn(&Parameters) -> Option<bool>| shared.iter().find_map(|level| get(level));
    let settings = PlannedSettings {
        t: t.unwrap_or(0.5),
        lambda: number("lambda", merged, None).unwrap_or(1.0),
        normalize: switch(|level| level.normalize).unwrap_or(method.normalizes),
        rescale: shared.iter().find_map(|level| level.rescale).unwrap_or(method.rescale),
        row_wise: switch(|level| level.row_wise).unwrap_or(false),
        models: of_models,
    };
    check_sum(&settings, method, &slice.place, merged)?;
    Ok(settings)
}

fn check_value(
    place: &str,
    parameter: &'static str,
    tensor: &str,
    found: f64,
    is_right: bool,
    expected: &'static str,
) -> Result<(), MergeError> {
    if is_right {
        return Ok(());
    }
    let (place, tensor) = (place.to_owned(), tensor.to_owned());
    Err(MergeError::ParameterValue { place, parameter, tensor, found, expected })
}

fn check_model(
    settings: &ModelSettings,
    method: &Method,
    place: &str,
    tensor: &str,
) -> Result<(), MergeError> {
    let has = |name: &str| method.parameters.contains(&name);
    let ModelSettings { density, gamma, epsilon, .. } = *settings;
    if has("density") {
        let is_right = density > 0.0 && density <= 1.0;
        check_value(
            place,
            "density",
            tensor,
            density,
            is_right,
            "a number above 0 and at most 1: the share that is kept",
        )?;
    }
    if has("gamma") {
        check_value(
            place,
            "gamma",
            tensor,
            gamma,
            (0.0..1.0).contains(&gamma),
            "a number from 0 to below 1",
        )?;
    }
    if has("epsilon") && density < 1.0 {
        let is_right = epsilon >= 0.0 && density - epsilon > 0.0 && density + epsilon < 1.0;
        let expected = "a number such that density - epsilon and density + epsilon are between 0 and 1";
        check_value(place, "epsilon", tensor, epsilon, is_right, expected)?;
    }
    Ok(())
}

/// Weights that are divided by their sum need one.
fn check_sum(
    settings: &PlannedSettings,
    method: &Method,
    place: &str,
    tensor: &str,
) -> Result<(), MergeError> {
    let divides = settings.normalize && method.parameters.contains(&"normalize") && !method.elects_sign;
    let sum: f64 = settings.models.iter().map(|model| model.weight).sum();
    let expected = "weights whose sum is not 0, or `normalize = false`";
    check_value(place, "sum of the weights", tensor, sum, !divides || sum.abs() > 1e-8, expected)
}
