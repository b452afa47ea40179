//! Settings of a stage: from a pipeline's table to what decides the stage's results and to the recipe that it runs
//! with.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use truing_run::recipe::{InputSetting, Scope, line_of_key};
use truing_run::{Recipe, RecipeError, RecipePlace};

use crate::references::is_key_path;
use crate::{Cause, Host};

/// A stage as the program offers it to pipelines.
#[derive(Debug, Clone, Copy)]
pub struct StageKind {
    /// What `uses` calls it.
    pub name: &'static str,
    /// What a finished run leaves that other stages may use.
    pub outputs: &'static [NamedOutput],
    /// Reads its settings.
    pub settle: fn(&Settings<'_>, &dyn Host) -> Result<Settled, SettleError>,
}

/// A file or folder of a finished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedOutput {
    /// Its name in references.
    pub name: &'static str,
    /// Its path below the run's folder.
    pub path: &'static str,
}

/// The settings of a stage as they are written.
#[derive(Debug)]
pub struct Settings<'a> {
    /// A recipe; in it references are replaced.
    pub text: &'a str,
    /// Its file, as an absolute path: its relative paths are relative to the folder of it.
    pub path: &'a Path,
    /// What is changed of it, as after `--set`.
    pub overrides: &'a [String],
    /// What relative paths in `overrides` are relative to; absolute.
    pub folder: &'a Path,
}

/// The settings of a stage as they are meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// What of them decides the results. It holds no path of a folder.
    pub decisive: Table,
    /// What is read, by the settings that name it.
    pub inputs: Vec<InputSetting>,
    /// The whole recipe.
    pub recipe: Table,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// A key or a value.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A value that no run of the stage can use.
    #[error("{source}")]
    Value {
        /// The setting, with dots, where the error is about one.
        key: Option<&'static str>,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// A model or data set that cannot be found.
    #[error("{0}")]
    Input(#[source] Cause),
}

/// [`StageKind::settle`] of a stage whose settings are a [`Recipe`]. `check` looks at their values, before any model is
/// looked for.
///
/// # Errors
/// When a key is unknown, a value does not fit or is refused by `check`, or a model or data set cannot be found.
pub fn settle<R: Recipe>(
    settings: &Settings<'_>,
    host: &dyn Host,
    check: impl FnOnce(&R) -> Result<(), SettleError>,
) -> Result<Settled, SettleError> {
    let mut recipe = R::from_toml(settings.text, settings.path, settings.overrides)?;
    // What the file names is absolute by now; what the overrides name is not.
    recipe.resolve_paths(settings.folder);
    check(&recipe)?;
    recipe
        .find_models(&mut |name| match is_key_path(Path::new(name)) {
            true => Ok(PathBuf::from(name)),
            false => host.find_model(name),
        })
        .map_err(SettleError::Input)?;
    recipe
        .find_data(&mut |name| match is_key_path(Path::new(name)) {
            true => Ok(None),
            false => host.find_data(name),
        })
        .map_err(SettleError::Input)?;
    let whole = toml::from_str(&recipe.to_toml()).map_err(|error| SettleError::Input(error.into()))?;
    Ok(Settled { decisive: recipe.decisive(Scope::Content), inputs: recipe.input_settings(), recipe: whole })
}

/// A table of settings as overrides of a recipe.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    /// As after `--set`.
    pub(crate) typed: Vec<String>,
    /// The keys of each.
    keys: Vec<Vec<String>>,
}

impl Overrides {
    /// Overrides of `with`. Of a table that the recipe's `file` has, too, they change single settings. Any other key of
    /// `with` is whole, as in a file, so that all that a new table needs is there at once; so is a table with keys that
    /// an override cannot write.
    pub(crate) fn of(with: &Table, file: Option<&Table>) -> Self {
        let mut overrides = Self::default();
        overrides.add(with, file, &mut Vec::new());
        overrides
    }

    fn add(&mut self, table: &Table, file: Option<&Table>, keys: &mut Vec<String>) {
        for (key, value) in table {
            keys.push(key.clone());
            let in_file = file.and_then(|file| file.get(key)).and_then(Value::as_table);
            match value {
                Value::Table(inner)
                    if in_file.is_some() && !inner.is_empty() && inner.keys().all(|key| is_bare(key)) =>
                {
                    self.add(inner, in_file, keys);
                }
                value => {
                    self.typed.push(format!("{}={value}", keys.join(".")));
                    self.keys.push(keys.clone());
                }
            }
            keys.pop();
        }
    }

    /// The place of an override in the pipeline's recipe.
    pub(crate) fn place(&self, typed: &str, inside: Option<&str>, at: &StageText<'_>) -> RecipePlace {
        let keys = self.typed.iter().position(|one| one == typed).map(|idx| self.keys[idx].clone());
        let mut keys = [vec!["with".to_owned()], keys.unwrap_or_default()].concat();
        keys.extend(inside.map(str::to_owned));
        at.place_of(&keys)
    }
}

/// Whether a key needs no quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// A stage's part of the pipeline's recipe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageText<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
    pub(crate) stage: &'a str,
}

impl StageText<'_> {
    /// The place of a key of the stage's table; where it is missing, that of the table that would hold it.
    pub(crate) fn place_of(&self, keys: &[String]) -> RecipePlace {
        let mut keys = [&["stages".to_owned(), self.stage.to_owned()], keys].concat();
        while !keys.is_empty() {
            if let Some(line) = line_of_key(self.text, &keys) {
                return RecipePlace::Line { path: self.path.to_path_buf(), line };
            }
            keys.pop();
        }
        RecipePlace::File(self.path.to_path_buf())
    }

    /// The place of a setting, whose keys are joined by dots.
    pub(crate) fn place_of_setting(&self, setting: &str) -> RecipePlace {
        let keys: Vec<String> = ["with"].into_iter().chain(setting.split('.')).map(str::to_owned).collect();
        self.place_of(&keys)
    }
}

/// An error of a recipe with other places. `place_of` gets the place in the text that was read, and the key where the
/// error is an unknown key.
pub fn at_places(
    error: RecipeError,
    place_of: &dyn Fn(RecipePlace, Option<&str>) -> RecipePlace,
) -> RecipeError {
    match error {
        RecipeError::UnknownKey { place, key, nearest, counterpart } => {
            RecipeError::UnknownKey { place: place_of(place, Some(&key)), key, nearest, counterpart }
        }
        RecipeError::UnknownKeys { errors } => {
            let errors = errors.into_iter().map(|error| at_places(error, place_of)).collect();
            RecipeError::UnknownKeys { errors }
        }
        RecipeError::OtherStage { place, found } => {
            RecipeError::OtherStage { place: place_of(place, None), found }
        }
        RecipeError::Invalid { place, reason } => {
            RecipeError::Invalid { place: place_of(place, None), reason }
        }
        of_file @ (RecipeError::MissingStage { .. } | RecipeError::OtherKind { .. }) => of_file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_and_values(with: &str, file: &str) -> Vec<(String, String)> {
        let with: Table = toml::from_str(with).unwrap();
        let overrides = Overrides::of(&with, Some(&toml::from_str(file).unwrap()));
        let typed = overrides.typed.iter().map(|typed| typed.split_once('=').unwrap());
        typed.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_table_whose_keys_need_quotes_is_overridden_whole() {
        let typed = keys_and_values("a = { b = 1, c = { \"d.e\" = 2 } }", "a = { c = { f = 3 } }");
        assert_eq!((typed.len(), &*typed[0].0, &*typed[0].1, &*typed[1].0), (2, "a.b", "1", "a.c"));
        let read: Table = toml::from_str(&format!("value = {}", typed[1].1)).unwrap();
        assert_eq!(read["value"]["d.e"].as_integer(), Some(2));
    }

    #[test]
    fn a_table_that_the_file_does_not_have_is_set_at_once() {
        // One by one, `clip` would be read before `model`, which the table needs.
        let typed = keys_and_values("reward = { clip = 1, model = \"m\" }\nseed = 2", "seed = 1");
        assert_eq!((typed.len(), &*typed[0].0, &*typed[1].0), (2, "reward", "seed"));
        let read: Table = toml::from_str(&format!("value = {}", typed[0].1)).unwrap();
        assert_eq!(read["value"]["model"].as_str(), Some("m"));
    }
}
