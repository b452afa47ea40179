//! Recipes: one TOML file a run, with the names people know, and `--set a.b=c` on top. Unknown keys are errors
//! that say where they are and which known key is nearest.

mod decisive;
mod kind;
mod overrides;
mod reference;
mod schema;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use truing_model::ComputeDtype;
use truing_store::paths::in_folder;
use truing_types::{STAGES, StageName, nearest_name};

use overrides::{OverrideError, apply_override};
use schema::UnknownKey;

pub use decisive::{InputSetting, Scope};
pub use kind::FileKind;
pub use reference::reference_of;
pub use schema::{has_setting, recipe_schema_of, schema_of};

/// How serde's message for a key that is there under two names begins.
const DUPLICATE: &str = "duplicate field `";
/// What serde says of what it expected, and what that is to a reader of TOML.
const EXPECTED: [(&str, &str); 5] = [
    ("f64", "a number"),
    ("u64", "a whole number of 0 or more"),
    ("u32", "a whole number of 0 or more"),
    ("usize", "a whole number of 0 or more"),
    ("a sequence", "a list"),
];

/// A recipe that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// A key that no setting is called.
    #[error("{place}: unknown key `{key}`{}", key_hint(nearest.as_deref(), counterpart.as_deref()))]
    UnknownKey {
        /// Where it is.
        place: RecipePlace,
        /// The key.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
        /// What it is here, where it is a key of another tool.
        counterpart: Option<Box<truing_import::Counterpart>>,
    },
    /// Several keys that no setting is called, in the order of the file.
    #[error("{} unknown keys:\n{}", errors.len(), lines(errors))]
    UnknownKeys {
        /// An [`RecipeError::UnknownKey`] of each.
        errors: Vec<RecipeError>,
    },
    /// No `stage`.
    #[error("{}: missing key `stage`; add this line at the top: stage = \"{likely}\"", path.display())]
    MissingStage {
        /// The file.
        path: PathBuf,
        /// The stage that its keys are of.
        likely: StageName,
    },
    /// A recipe of another stage.
    #[error("{place}: this is a recipe of stage \"{found}\"; run it with `{}`", found.info().command)]
    OtherStage {
        /// Where it says so.
        place: RecipePlace,
        /// Its stage.
        found: StageName,
    },
    /// A file of another kind than the one that was expected.
    #[error("{}: this is {}; {}", path.display(), kind.name(), kind.advice(path))]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// A value that does not fit its key, or text that is not TOML.
    #[error("{place}: {reason}")]
    Invalid {
        /// Where it is.
        place: RecipePlace,
        /// What is wrong, and what was expected.
        reason: String,
    },
}

/// Where in the recipe something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipePlace {
    /// A line of the file.
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An override as it was typed.
    Override(String),
    /// The file, for what it does not have.
    File(PathBuf),
}

impl std::fmt::Display for RecipePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Override(text) => write!(f, "--set {text}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

fn in_words(message: &str) -> String {
    let plain = EXPECTED.iter().find_map(|(theirs, ours)| {
        let start = message.strip_suffix(theirs)?;
        start.ends_with("expected ").then(|| format!("{start}{ours}"))
    });
    plain.unwrap_or_else(|| message.to_owned())
}

fn key_hint(nearest: Option<&str>, counterpart: Option<&truing_import::Counterpart>) -> String {
    match (counterpart, nearest) {
        (Some(counterpart), _) => format!(": {counterpart}"),
        (None, Some(nearest)) => format!("; the nearest known key is `{nearest}`"),
        (None, None) => String::new(),
    }
}

/// The settings of a stage. Every field has a default, so that a file may leave out what an override gives;
/// what has no sensible default is checked by the plan.
pub trait Recipe: Serialize + DeserializeOwned + JsonSchema + Default {
    /// What recipes of this kind may be for.
    const STAGES: &'static [StageName];
    /// What this recipe is for.
    fn stage(&self) -> StageName;

    /// The run's folder; empty where the recipe names none.
    fn output_dir(&self) -> &Path;

    /// What the models are to compute on and in, where the recipe says so: its keys `device` and `compute_dtype`.
    fn device(&self) -> (Option<String>, Option<ComputeDtype>) {
        let table = to_table(self);
        let dtype = table.get("compute_dtype").and_then(|value| value.clone().try_into().ok());
        (table.get("device").and_then(Value::as_str).map(str::to_owned), dtype)
    }

    /// Makes the file's relative paths relative to the folder that the file is in.
    fn resolve_paths(&mut self, folder: &Path);

    /// Fills in settings whose default follows from other settings.
    fn fill_in(&mut self) {}

    /// Replaces the name of each model in this process, where one is given, by the path that `find` returns.
    ///
    /// # Errors
    /// The first error of `find`.
    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E>;

    /// Replaces each data source that is a data set of the hub by the folder that `find` returns. `find` gets the name
    /// of a source without a file at its path, and returns `None` where that is no name of a data set.
    ///
    /// # Errors
    /// The first error of `find`.
    fn find_data<E>(&mut self, _find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        Ok(())
    }

    /// Reads a recipe and the overrides on top of it; see [`parse`].
    ///
    /// # Errors
    /// When it is not TOML, a key is unknown, or a value does not fit.
    fn from_toml(text: &str, path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let mut recipe: Self = parse(text, path, overrides)?;
        recipe.fill_in();
        Ok(recipe)
    }

    /// The whole recipe, every default filled in, as TOML.
    fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe is made of tables, lists, texts and numbers")
    }

    /// The settings that decide what `scope` is about, as their schemas declare it. They hold no path of a folder.
    fn decisive(&self, scope: Scope) -> Table {
        let mut table = to_table(self);
        decisive::keep_decisive(&[&schema_of::<Self>()], &mut table, scope);
        table
    }

    /// The settings that name files, folders and models whose content decides results. Paths of data are in
    /// `data_dir`; for the others [`resolve_paths`](Self::resolve_paths) comes first.
    fn input_settings(&self) -> Vec<InputSetting> {
        let (table, mut found) = (to_table(self), Vec::new());
        decisive::input_settings(&[&schema_of::<Self>()], &table, "", &mut found);
        if let Some(data_dir) = table.get("data_dir").and_then(Value::as_str) {
            found.iter_mut().for_each(|input| input.path = Path::new(data_dir).join(&input.path));
        }
        found
    }

    /// Settings whose schema declares something unknown of what they decide. Empty, or a mistake in the program.
    fn unknown_declarations() -> Vec<String> {
        let mut found = Vec::new();
        decisive::unknown_declarations(&schema_of::<Self>(), "", &mut found);
        found
    }
}

/// Makes a model's name a path where the recipe's folder has it: a name such as `org/model` looks like a path.
pub fn resolve_model(name: &mut String, folder: &Path) {
    let path = in_folder(folder, name.as_ref());
    if !name.is_empty() && path.exists() {
        *name = path.to_string_lossy().into_owned();
    }
}

/// Replaces a model's name, where one is given, by the path that `find` returns.
pub fn find_model<E>(name: &mut String, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
    if !name.is_empty() {
        *name = find(name)?.to_string_lossy().into_owned();
    }
    Ok(())
}

/// [`Recipe::decisive`] of a recipe as its run's folder holds it.
///
/// # Errors
/// When the text is not a recipe of this type.
pub fn decisive_of<R: Recipe>(text: &str, path: &Path, scope: Scope) -> Result<Table, RecipeError> {
    Ok(R::from_toml(text, path, &[])?.decisive(scope))
}

/// [`Recipe::resolve_paths`] for the folders of a recipe. An output folder that is not given stays empty.
pub fn resolve_run_paths(data_dir: &mut PathBuf, output_dir: &mut PathBuf, folder: &Path) {
    *data_dir = in_folder(folder, data_dir);
    if !output_dir.as_os_str().is_empty() {
        *output_dir = in_folder(folder, output_dir);
    }
}

/// [`Recipe::find_data`] for the paths of sources, which are relative to `data_dir`.
pub fn find_sources<'a, E>(
    mut paths: impl Iterator<Item = &'a mut PathBuf>,
    data_dir: &Path,
    find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>,
) -> Result<(), E> {
    paths.try_for_each(|path| find_source(path, data_dir, find))
}

/// [`Recipe::find_data`] for the path of a source, which is relative to `data_dir`.
pub fn find_source<E>(
    path: &mut PathBuf,
    data_dir: &Path,
    find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>,
) -> Result<(), E> {
    if !data_dir.join(&*path).exists()
        && let Some(found) = path.to_str().map(find).transpose()?.flatten()
    {
        *path = found;
    }
    Ok(())
}

/// Reads a recipe, then the overrides in their order. Paths in the file are relative to its folder, paths in
/// overrides to where the program runs.
///
/// An override is `key=value` or `table.key=value`, with a number for the place in a list
/// (`data.0.weight=2`). The value is read as TOML where it can be, as text otherwise; `key=` gives the key back
/// its default.
///
/// # Errors
/// When text is not TOML, a key is unknown, or a value does not fit; the error names the line or the override.
pub fn parse<R: Recipe>(text: &str, path: &Path, overrides: &[String]) -> Result<R, RecipeError> {
    // Before anything else: the keys of another stage's recipe would all be unknown.
    let (stage, place) = stage_and_line(text, path, R::STAGES.first().copied())?;
    if !R::STAGES.contains(&stage) {
        return Err(RecipeError::OtherStage { place, found: stage });
    }
    let mut recipe: R = read_recipe(text, path)?;
    recipe.resolve_paths(path.parent().unwrap_or(Path::new("")));
    let schema = recipe_schema_of::<R>();
    for typed in overrides {
        let place = || RecipePlace::Override(typed.clone());
        recipe = apply_override(&recipe, typed, &schema).map_err(|error| match error {
            OverrideError::UnknownKey(unknown) => RecipeError::unknown(place(), unknown),
            OverrideError::Invalid(reason) => RecipeError::invalid(place(), &reason),
        })?;
        if !R::STAGES.contains(&recipe.stage()) {
            let place = RecipePlace::Override(typed.clone());
            return Err(RecipeError::OtherStage { place, found: recipe.stage() });
        }
    }
    Ok(recipe)
}

/// Reads what a recipe is for, and nothing else of it.
///
/// # Errors
/// When the text is not TOML or no recipe of a stage, or its stage is missing or unknown.
pub fn stage_of(text: &str, path: &Path) -> Result<StageName, RecipeError> {
    stage_and_line(text, path, None).map(|(stage, _)| stage)
}

/// The stage of a recipe and where it says so. `expected` is the stage of the command that reads it: what a recipe
/// without a stage and without a key of one alone is taken to be for.
fn stage_and_line(
    text: &str,
    path: &Path,
    expected: Option<StageName>,
) -> Result<(StageName, RecipePlace), RecipeError> {
    #[derive(Deserialize)]
    struct Key {
        stage: Option<toml::Spanned<String>>,
    }
    let Key { stage } = from_text(text, path)?;
    let Some(stage) = stage else {
        let table: Table = from_text(text, path)?;
        if let Some(kind) = FileKind::of(&table) {
            return Err(RecipeError::OtherKind { path: path.to_path_buf(), kind });
        }
        let is_unclear = |stage: &StageName| *stage == StageName::Sft && expected.is_some();
        let likely = StageName::likely(|key| table.contains_key(key)).filter(|stage| !is_unclear(stage));
        let likely = likely.or(expected).unwrap_or(StageName::Sft);
        return Err(RecipeError::MissingStage { path: path.to_path_buf(), likely });
    };
    let place = RecipePlace::Line { path: path.to_path_buf(), line: line_of(text, stage.span().start) };
    match StageName::from_name(stage.get_ref()) {
        Some(found) => Ok((found, place)),
        None => {
            let known = STAGES.map(|info| format!("\"{}\"", info.name)).join(", ");
            let reason = format!("unknown stage \"{}\": expected one of {known}", stage.get_ref());
            Err(RecipeError::Invalid { place, reason })
        }
    }
}

/// Where a setting is set: the last override of it, or its line. Of a table's key that is not there, where the table
/// is; the file alone where there is none of it. `key` has dots: `lora.rank`.
#[must_use]
pub fn place_of(key: &str, text: &str, path: &Path, overrides: &[String]) -> RecipePlace {
    let is_of_key = |typed: &&String| {
        let typed = typed.split_once('=').map_or("", |(typed, _)| typed.trim());
        typed == key || key.strip_prefix(typed).is_some_and(|rest| rest.starts_with('.'))
    };
    if let Some(typed) = overrides.iter().rev().find(is_of_key) {
        return RecipePlace::Override(typed.clone());
    }
    let mut keys: Vec<String> = key.split('.').map(str::to_owned).collect();
    let table = toml::from_str::<Table>(text).ok().map(Value::Table);
    let is_list = |keys: &[String]| {
        let found = keys.iter().try_fold(table.as_ref()?, |value, key| value.get(key))?;
        found.is_array().then_some(())
    };
    // Of several tables it is not known which one is meant.
    while !keys.is_empty() && (keys.len() == key.split('.').count() || is_list(&keys).is_none()) {
        if let Some(byte) = schema::position(text, &keys) {
            return RecipePlace::Line { path: path.to_path_buf(), line: line_of(text, byte) };
        }
        keys.pop();
    }
    RecipePlace::File(path.to_path_buf())
}

/// The line of a key of a TOML text, counted from 1. `keys` are the keys and indices from the root to it.
#[must_use]
pub fn line_of_key(text: &str, keys: &[String]) -> Option<usize> {
    schema::position(text, keys).map(|byte| line_of(text, byte))
}

fn line_of(text: &str, byte: usize) -> usize {
    1 + text[..byte].matches('\n').count()
}

/// Reads a TOML file of a kind. Another kind of file is named as what it is, for all of its keys would be unknown.
///
/// # Errors
/// When it is a recipe of a stage or another kind of file; else as [`read_toml`].
pub fn read_kind<T: DeserializeOwned + JsonSchema>(
    text: &str,
    path: &Path,
    kind: FileKind,
) -> Result<T, RecipeError> {
    let table: Table = from_text(text, path)?;
    if !kind.has_key(&table) {
        if let Some(kind) = FileKind::of(&table) {
            return Err(RecipeError::OtherKind { path: path.to_path_buf(), kind });
        }
        let named = table.get("stage").and_then(Value::as_str).and_then(StageName::from_name);
        if let Some(found) = named.or_else(|| StageName::likely(|key| table.contains_key(key))) {
            return Err(RecipeError::OtherStage { place: place_of("stage", text, path, &[]), found });
        }
    }
    read_toml(text, path)
}

/// Reads any TOML file, with errors as [`parse`] has them.
///
/// # Errors
/// When it is not TOML, a key is unknown, or a value does not fit; the error names the line.
pub fn read_toml<T: DeserializeOwned + JsonSchema>(text: &str, path: &Path) -> Result<T, RecipeError> {
    let table: Table = from_text(text, path)?;
    check_keys(text, path, &schema_of::<T>(), &table)?;
    from_text(text, path)
}

/// Refuses keys that the schema does not have.
fn check_keys(text: &str, path: &Path, schema: &serde_json::Value, table: &Table) -> Result<(), RecipeError> {
    let mut unknown: Vec<(usize, UnknownKey)> = schema::unknown_keys(schema, table)
        .into_iter()
        .map(|unknown| (line_of(text, schema::position(text, &unknown.path).unwrap_or(0)), unknown))
        .collect();
    unknown.sort_by_key(|(line, _)| *line);
    let error =
        |(line, unknown)| RecipeError::unknown(RecipePlace::Line { path: path.to_path_buf(), line }, unknown);
    let mut errors: Vec<RecipeError> = unknown.into_iter().map(error).collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(RecipeError::UnknownKeys { errors }),
    }
}

fn lines(errors: &[RecipeError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads a recipe's text on top of the recipe's own defaults, so that sections which several recipes share have the
/// defaults of each.
fn read_recipe<R: Recipe>(text: &str, path: &Path) -> Result<R, RecipeError> {
    let table: Table = from_text(text, path)?;
    let schema = recipe_schema_of::<R>();
    let invalid = |key: &[String], message: &str| {
        let line = line_of(text, schema::position(text, key).unwrap_or(0));
        RecipeError::invalid(RecipePlace::Line { path: path.to_path_buf(), line }, message)
    };
    check_keys(text, path, &schema, &table)?;
    let mut whole = to_table(&R::default());
    let mut seen = Vec::new();
    // In the order of the text, so that a key that is there twice is named where it is the second time.
    let mut keys: Vec<(&String, &Value)> = table.iter().collect();
    keys.sort_by_key(|(key, _)| schema::position(text, std::slice::from_ref(*key)));
    for (key, value) in keys {
        let name = schema::own_name(&schema, key);
        if seen.contains(&name) {
            return Err(invalid(std::slice::from_ref(key), &format!("{DUPLICATE}{name}`")));
        }
        whole.insert(name.to_owned(), value.clone());
        seen.push(name);
    }
    let error = match from_value::<R>(&Value::Table(whole)) {
        Ok(recipe) => return Ok(recipe),
        Err(error) => error,
    };
    // The text itself names the line, but for the keys of shared sections: of those, the key that alone does not fit.
    if let Err(error) = toml::from_str::<R>(text)
        && let Some(span) = error.span()
        && span.start > 0
    {
        let place = RecipePlace::Line { path: path.to_path_buf(), line: line_of(text, span.start) };
        return Err(RecipeError::invalid(place, error.message()));
    }
    for (key, value) in table {
        let mut alone = to_table(&R::default());
        alone.insert(schema::own_name(&schema, &key).to_owned(), value);
        if let Err(error) = from_value::<R>(&Value::Table(alone)) {
            return Err(invalid(&[key], error.message()));
        }
    }
    Err(invalid(&[], error.message()))
}

fn from_text<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, RecipeError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        RecipeError::invalid(RecipePlace::Line { path: path.to_path_buf(), line }, error.message())
    })
}

/// Reads settings through their text. The deserialiser of a recipe is much code; so it is compiled for TOML text alone,
/// and not for tables as well.
fn from_value<R: DeserializeOwned>(value: &Value) -> Result<R, toml::de::Error> {
    toml::from_str(&toml::to_string(value).map_err(toml::de::Error::custom)?)
}

fn to_table(recipe: &impl Recipe) -> Table {
    Table::try_from(recipe).expect("a recipe is made of tables, lists, texts and numbers")
}

impl RecipeError {
    fn unknown(place: RecipePlace, UnknownKey { mut path, known }: UnknownKey) -> Self {
        let key = path.pop().unwrap_or_default();
        let nearest = nearest_name(&key, known.iter().map(String::as_str)).map(str::to_owned);
        path.push(key.clone());
        let counterpart = truing_import::counterpart(&path.join(".")).map(Box::new);
        Self::UnknownKey { place, key, nearest, counterpart }
    }

    fn invalid(place: RecipePlace, message: &str) -> Self {
        Self::Invalid { place, reason: in_words(message.trim()).replace('\n', "; ") }
    }
}

#[cfg(test)]
mod tests;
