//! A merge as a stage of a pipeline. Its settings are a [`MergeRecipe`], which is no recipe of a stage.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use truing_model::merge::{MergeError, MergeRecipe};
use truing_model::{ModelFiles, ModelKind};
use truing_pipeline::{Cause, Host, Settings, SettleError, Settled, StageKind, at_places};
use truing_run::recipe::{FileKind, InputSetting, read_kind, read_toml};
use truing_run::{RecipeError, RecipePlace};

use crate::commands::{merge, stages};

/// The merge, for pipelines.
pub(super) const KIND: StageKind = StageKind { name: "merge", outputs: &[stages::MODEL], settle };

/// Settings that name models or files.
const NAMES: [&str; 5] = ["base_model", "model", "adapter", "tokenizer", "chat_template"];

fn settle(settings: &Settings<'_>, host: &dyn Host) -> Result<Settled, SettleError> {
    let mut table = base(settings)?;
    for typed in settings.overrides {
        let over: Table = toml::from_str(typed).map_err(|error| SettleError::Input(error.into()))?;
        lay_over(&mut table, over);
    }
    let text = toml::to_string(&table).map_err(|error| SettleError::Input(error.into()))?;
    let mut recipe: MergeRecipe =
        read_toml(&text, settings.path).map_err(|error| at_override(error, settings))?;
    merge::resolve_paths(&mut recipe, settings.folder, false);
    recipe.check().map_err(|error| SettleError::Input(error.into()))?;
    // The models of other stages are not there yet.
    let is_of_stage = |name: &str| Path::new(name).is_absolute() && !Path::new(name).exists();
    recipe
        .find_models(&mut |name| match is_of_stage(name) {
            true => Ok(PathBuf::from(name)),
            false => mergeable(host.find_model(name)?),
        })
        .map_err(SettleError::Input)?;
    let recipe = Table::try_from(&recipe).map_err(|error| SettleError::Input(error.into()))?;
    let (mut decisive, mut inputs) = (recipe.clone(), Vec::new());
    decisive.remove("output_dir");
    take_inputs(&mut decisive, "", &mut inputs);
    Ok(Settled { decisive, inputs, recipe })
}

/// Refuses quantised weights before anything runs.
fn mergeable(model: PathBuf) -> Result<PathBuf, Cause> {
    let is_gguf = model.extension().is_some_and(|extension| extension == "gguf")
        || ModelFiles::open(&model).is_ok_and(|files| files.kind == ModelKind::Gguf);
    if is_gguf { Err(MergeError::Gguf { path: model }.into()) } else { Ok(model) }
}

/// The recipe's file, with its own paths resolved; empty where all settings are in the pipeline.
fn base(settings: &Settings<'_>) -> Result<Table, SettleError> {
    let table: Table = toml::from_str(settings.text).map_err(|error| SettleError::Input(error.into()))?;
    // The line that a pipeline writes where a stage has no recipe's file.
    if table.get("stage").and_then(Value::as_str) == Some(KIND.name) {
        return Ok(Table::new());
    }
    let mut recipe: MergeRecipe = read_kind(settings.text, settings.path, FileKind::Merge)?;
    merge::resolve_paths(&mut recipe, settings.path.parent().unwrap_or(Path::new("/")), false);
    Table::try_from(&recipe).map_err(|error| SettleError::Input(error.into()))
}

/// An error of the settings with those on top: what the file says was checked before. It gets the place of the override
/// that has the key, for the lines of the text that was read are those of no file.
fn at_override(error: RecipeError, settings: &Settings<'_>) -> RecipeError {
    at_places(error, &|_, key| {
        let typed = key.and_then(|key| settings.overrides.iter().find(|typed| typed.contains(key)));
        let file = || RecipePlace::File(settings.path.to_path_buf());
        typed.map_or_else(file, |typed| RecipePlace::Override(typed.clone()))
    })
}

/// Sets what `over` sets; other settings of its tables stay.
fn lay_over(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => lay_over(inner, over),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

/// Moves the settings that name models and files out of a table.
fn take_inputs(table: &mut Table, place: &str, inputs: &mut Vec<InputSetting>) {
    let at = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    table.retain(|key, value| match value.as_str() {
        Some(path) if NAMES.contains(&key) && Path::new(path).is_absolute() => {
            inputs.push(InputSetting { setting: at(key), path: path.into(), name_decides: false });
            false
        }
        _ => true,
    });
    for (key, value) in table.iter_mut() {
        let place = at(key);
        match value {
            Value::Table(inner) => take_inputs(inner, &place, inputs),
            Value::Array(list) => {
                for (idx, entry) in list.iter_mut().enumerate() {
                    if let Value::Table(inner) = entry {
                        take_inputs(inner, &format!("{place}.{idx}"), inputs);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_weights_are_refused_before_anything_runs() {
        let refused = mergeable("/models/a.gguf".into()).unwrap_err().to_string();
        assert!(refused.starts_with("/models/a.gguf: a GGUF file cannot be merged"), "{refused}");
        assert_eq!(mergeable("/models/not-there".into()).unwrap(), Path::new("/models/not-there"));
    }

    #[test]
    fn an_unknown_setting_has_the_place_of_its_override() {
        let path = Path::new("/pipe.toml");
        let overrides = ["method=\"linear\"".to_owned(), "wheight=0.5".to_owned()];
        let settings =
            Settings { text: "stage = \"merge\"\n", path, overrides: &overrides, folder: Path::new("/") };
        let text = "method = \"linear\"\nwheight = 0.5\n";
        let error = read_toml::<MergeRecipe>(text, path).unwrap_err();
        let RecipeError::UnknownKey { place, key, .. } = at_override(error, &settings) else { panic!() };
        assert_eq!((place, key.as_str()), (RecipePlace::Override("wheight=0.5".into()), "wheight"));
    }

    #[test]
    fn models_are_inputs_and_words_are_settings() {
        let text = "method = \"ties\"\ntokenizer = \"union\"\nbase_model = \"/a/base\"\n[[models]]\nmodel = \"/a/b\"\n\
                    parameters = { weight = 0.5 }\n";
        let (mut table, mut inputs) = (toml::from_str::<Table>(text).unwrap(), Vec::new());
        lay_over(&mut table, toml::from_str("tokenizer = \"base\"\nparameters.lambda = 0.5").unwrap());
        take_inputs(&mut table, "", &mut inputs);
        let named: Vec<&str> = inputs.iter().map(|input| input.setting.as_str()).collect();
        assert_eq!(named, ["base_model", "models.0.model"]);
        let left = "method = \"ties\"\ntokenizer = \"base\"\nmodels = [{ parameters = { weight = 0.5 } }]\n\
                    parameters = { lambda = 0.5 }\n";
        assert_eq!(table, toml::from_str(left).unwrap());
    }
}
