//! What can be checked of a recipe before a model is opened or fetched: names, numbers of models, values.

use std::collections::BTreeSet;
use std::path::PathBuf;

use truing_types::{counted, nearest_name};

use super::method::{BaseUse, Method};
use super::setting::FilteredNumber;
use super::{MergeError, MergeRecipe, Parameters, Rescale, Setting};

/// Settings that only make sense for all models together.
const SHARED: [&str; 5] = ["t", "lambda", "normalize", "rescale", "row_wise"];

impl MergeRecipe {
    /// Checks everything that does not depend on the models' files. Returns remarks.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<Vec<String>, MergeError> {
        let method = Method::find(&self.method)?;
        let mut remarks = Vec::new();
        match (self.models.is_empty(), self.slices.is_empty()) {
            (true, true) => return Err(invalid("there is nothing to merge: give `models` or `slices`")),
            (false, false) => {
                return Err(invalid(
                    "both `models` and `slices` are given; `models` is for whole models, so put them into `slices`",
                ));
            }
            _ => {}
        }
        if method.base == BaseUse::Needed
            && self.base_model.is_none()
            && self.slices.iter().any(|s| s.base_model.is_none())
            || method.base == BaseUse::Needed && self.base_model.is_none() && self.slices.is_empty()
        {
            return Err(MergeError::NoBase { method: method.name });
        }
        self.check_counts(method)?;
        for (place, parameters, of_one_model) in self.all_parameters() {
            check_parameters(
                &place,
                parameters,
                of_one_model,
                method,
                self.tolerates_unused_parameters,
                &mut remarks,
            )?;
        }
        if method.name == "slerp"
            && self.all_parameters().iter().all(|(_, parameters, _)| parameters.t.is_none())
        {
            return Err(invalid("`slerp` needs `t`: 0 is the base model, 1 the other, 0.5 the middle"));
        }
        if let Some(output) = &self.output_dir {
            check_output(output)?;
        }
        Ok(remarks)
    }

    /// Every place with settings: what messages call it, the settings, and whether they are of one model.
    pub(super) fn all_parameters(&self) -> Vec<(String, &Parameters, bool)> {
        let mut all = vec![("parameters".to_owned(), &self.parameters, false)];
        let models = self.models.iter().enumerate();
        all.extend(
            models.map(|(i, model)| (format!("models.{i} ({})", model.model), &model.parameters, true)),
        );
        for (i, slice) in self.slices.iter().enumerate() {
            all.push((format!("slices.{i}"), &slice.parameters, false));
            for (j, source) in slice.sources.iter().enumerate() {
                all.push((format!("slices.{i}.sources.{j} ({})", source.model), &source.parameters, true));
            }
        }
        all
    }

    fn check_counts(&self, method: &Method) -> Result<(), MergeError> {
        let uses_base = method.base != BaseUse::ConfigurationOnly;
        let is_base = |model: &str, adapter: Option<&String>, base: Option<&String>| {
            uses_base && adapter.is_none() && base.is_some_and(|base| base == model)
        };
        let mut groups = Vec::new();
        if !self.models.is_empty() {
            let base = self.base_model.as_ref();
            let others = self.models.iter().filter(|m| !is_base(&m.model, m.adapter.as_ref(), base)).count();
            groups.push(("models".to_owned(), others));
        }
        for (i, slice) in self.slices.iter().enumerate() {
            let base = slice.base_model.as_ref().or(self.base_model.as_ref());
            let others =
                slice.sources.iter().filter(|s| !is_base(&s.model, s.adapter.as_ref(), base)).count();
            groups.push((format!("slices.{i}"), others));
            for (j, source) in slice.sources.iter().enumerate() {
                let [first, end] = source.layer_range;
                let [of_first, to] = slice.sources[0].layer_range;
                if first >= end {
                    return Err(invalid(format!(
                        "slices.{i}.sources.{j}: `layer_range` is [{first}, {end}], expected the first layer and a larger number, the one after the last"
                    )));
                }
                if end - first != to - of_first {
                    return Err(invalid(format!(
                        "slices.{i}: sources of {} and {}, expected the same number of layers from each",
                        counted((to - of_first) as u64, "layer", "layers"),
                        counted((end - first) as u64, "layer", "layers"),
                    )));
                }
            }
        }
        let (least, most) = method.n_models;
        for (place, n) in groups {
            if n < least || n > most {
                let expected = match (least, most) {
                    (1, 1) => "one".to_owned(),
                    (least, _) => format!("at least {least}"),
                };
                let found = counted(n as u64, "model", "models");
                return Err(MergeError::NumberOfModels { place, method: method.name, found, expected });
            }
        }
        Ok(())
    }

    /// Replaces the name of each model by the path that `find` returns, also where the tokenizer or template names one.
    ///
    /// # Errors
    /// The first error of `find`.
    pub fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut replace = |name: &mut String| -> Result<(), E> {
            let known = found.iter().find(|(from, _)| from == name).map(|(_, path)| path.clone());
            let path = match known {
                Some(path) => path,
                None => {
                    let path = find(name)?.to_string_lossy().into_owned();
                    found.push((name.clone(), path.clone()));
                    path
                }
            };
            *name = path;
            Ok(())
        };
        for name in
            self.base_model.iter_mut().chain(self.slices.iter_mut().filter_map(|s| s.base_model.as_mut()))
        {
            replace(name)?;
        }
        for model in &mut self.models {
            replace(&mut model.model)?;
            model.adapter.as_mut().map_or(Ok(()), &mut replace)?;
        }
        for source in self.slices.iter_mut().flat_map(|slice| &mut slice.sources) {
            replace(&mut source.model)?;
            source.adapter.as_mut().map_or(Ok(()), &mut replace)?;
        }
        for name in self.tokenizer.iter_mut().chain(&mut self.chat_template) {
            if let Some((_, path)) = found.iter().find(|(from, _)| from == name) {
                name.clone_from(path);
            }
        }
        Ok(())
    }
}

/// Refuses a folder that is there.
pub(super) fn check_output(path: &std::path::Path) -> Result<(), MergeError> {
    if path.exists() { Err(MergeError::OutputExists { path: path.to_path_buf() }) } else { Ok(()) }
}

pub(super) fn invalid(problem: impl Into<String>) -> MergeError {
    MergeError::Recipe(problem.into())
}

fn check_parameters(
    place: &str,
    parameters: &Parameters,
    of_one_model: bool,
    method: &Method,
    is_tolerant: bool,
    remarks: &mut Vec<String>,
) -> Result<(), MergeError> {
    for name in parameters.names() {
        if !method.parameters.contains(&name) {
            let known =
                method.parameters.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            if is_tolerant {
                remarks
                    .push(format!("{place}: unknown setting `{name}` for method `{}`; ignored", method.name));
                continue;
            }
            return Err(MergeError::UnusedParameter {
                place: place.to_owned(),
                parameter: name.to_owned(),
                method: method.name,
                nearest: nearest_name(name, method.parameters.iter().copied()).map(str::to_owned),
                known,
            });
        }
        if of_one_model && SHARED.contains(&name) {
            if is_tolerant {
                remarks.push(format!(
                    "{place}: `{name}` is a setting of all models together and is ignored here"
                ));
                continue;
            }
            return Err(invalid(format!(
                "{place}: `{name}` is a setting of all models together; put it into `[parameters]`"
            )));
        }
    }
    if parameters.rescale == Some(Rescale::KeepProbability) && !method.is_random() {
        return Err(invalid(format!(
            "{place}: `rescale` is \"keep_probability\", and `{}` does not drop entries at random; expected \"none\" or \"l1\"",
            method.name
        )));
    }
    for (name, setting) in parameters.numbers() {
        if let Some(found) = values_of(setting).into_iter().find(|value| !value.is_finite()) {
            return Err(invalid(format!("{place}: `{name}` is {found}, expected a finite number")));
        }
    }
    Ok(())
}

fn values_of(setting: &Setting) -> Vec<f64> {
    match setting {
        Setting::Number(value) => vec![*value],
        Setting::Gradient(values) => values.clone(),
        Setting::Filtered(entries) => entries
            .iter()
            .flat_map(|entry| match &entry.value {
                FilteredNumber::Number(value) => vec![*value],
                FilteredNumber::Gradient(values) => values.clone(),
            })
            .collect(),
    }
}

/// Filters that match no tensor are mistakes.
pub(super) fn check_filters(
    recipe: &MergeRecipe,
    tensors: &[&str],
    remarks: &mut Vec<String>,
) -> Result<(), MergeError> {
    for (place, parameters, _) in recipe.all_parameters() {
        for filter in parameters.numbers().flat_map(|(_, setting)| setting.filters()) {
            if tensors.iter().any(|name| name.contains(filter)) {
                continue;
            }
            let parts: BTreeSet<&str> = tensors.iter().flat_map(|name| name.split('.')).collect();
            let nearest = nearest_name(filter, parts).map(str::to_owned);
            let error = MergeError::UnusedFilter { place: place.clone(), filter: filter.to_owned(), nearest };
            if !recipe.tolerates_unused_parameters {
                return Err(error);
            }
            remarks.push(error.to_string());
        }
    }
    Ok(())
}
