//! Which settings decide what. Each setting declares it in its schema, with
//! `#[schemars(extend("x-decides" = "..."))]`; one without a declaration decides the weights, and so everything.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::{Table, Value};

use super::schema::{flatten, free_values, property};

const DECIDES: &str = "x-decides";

/// What two runs are compared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Whether one can continue the other: equal steps, from equal weights.
    Resume,
    /// Whether the finished runs leave the same behind: also their number of steps, the evaluations and the saved
    /// model.
    Content,
    /// How many steps they take: the length alone.
    Length,
}

/// What a setting decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decides {
    /// The weights of every step, or the data that a stage writes. The default.
    Results,
    /// `length`: how many steps a run takes. A resume may change it, but not below the steps taken.
    Length,
    /// `outcome`: what a finished run writes, but no step. It may change between a run and its resume.
    Outcome,
    /// `name_and_content`: a file, by its name without the folder and its content. The content is compared by digest.
    NameAndContent,
    /// `content`: a file or a model, by its content alone. The content is compared by digest.
    Content,
    /// `name`: a program, by its name without the folder, such as `python3.12`. A key is known without running it, so
    /// a version that the name does not say decides nothing.
    Name,
    /// `nothing`: where files are written, what is logged, what is computed with.
    Nothing,
}

impl Decides {
    /// What a setting's schema declares.
    pub(super) fn of(property: &Json) -> Option<Self> {
        Some(match property.get(DECIDES).map(|name| name.as_str().unwrap_or_default()) {
            None => Self::Results,
            Some("length") => Self::Length,
            Some("outcome") => Self::Outcome,
            Some("name_and_content") => Self::NameAndContent,
            Some("content") => Self::Content,
            Some("name") => Self::Name,
            Some("nothing") => Self::Nothing,
            Some(_) => return None,
        })
    }

    /// What a resume may change of it, for the reference.
    pub(super) fn on_resume(self) -> &'static str {
        match self {
            Self::Results => "",
            Self::Length => "may change, not below the steps taken",
            Self::Outcome | Self::Nothing => "may change",
            Self::NameAndContent => "may move, same name and content",
            Self::Content => "may move, same content",
            Self::Name => "may move, same name",
        }
    }
}

/// Removes from a table all settings that do not decide what `scope` is about. `schemas` are the alternatives for the
/// table.
pub(super) fn keep_decisive(schemas: &[&Json], table: &mut Table, scope: Scope) {
    let alternatives: Vec<&Json> = schemas.iter().flat_map(|schema| flatten(schema)).collect();
    let free: Vec<&Json> = alternatives.iter().filter_map(|schema| free_values(schema)).collect();
    table.retain(|key, value| {
        let settings: Vec<&Json> = alternatives.iter().filter_map(|schema| property(schema, key)).collect();
        // Different alternatives never disagree on a setting; a key of a free table has no declaration.
        match settings.first().and_then(|setting| Decides::of(setting)).unwrap_or(Decides::Results) {
            Decides::Nothing | Decides::Content => return false,
            Decides::Length => return scope != Scope::Resume,
            _ if scope == Scope::Length => return false,
            Decides::Outcome => return scope == Scope::Content,
            Decides::NameAndContent | Decides::Name => keep_name(value),
            Decides::Results => {}
        }
        keep_decisive_in(if settings.is_empty() { &free } else { &settings }, value, scope);
        true
    });
}

fn keep_decisive_in(schemas: &[&Json], value: &mut Value, scope: Scope) {
    match value {
        Value::Table(table) => keep_decisive(schemas, table, scope),
        Value::Array(list) => {
            let items: Vec<&Json> = schemas
                .iter()
                .flat_map(|schema| flatten(schema))
                .filter_map(|schema| schema.get("items"))
                .collect();
            list.iter_mut().for_each(|entry| keep_decisive_in(&items, entry, scope));
        }
        _ => {}
    }
}

fn keep_name(value: &mut Value) {
    if let Value::String(path) = value
        && let Some(name) = Path::new(path).file_name()
    {
        *path = name.to_string_lossy().into_owned();
    }
}

/// A setting that names a file, a folder or a model whose content decides results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSetting {
    /// The setting, with dots between keys and indices: `data.0.path`.
    pub setting: String,
    /// What it names.
    pub path: PathBuf,
    /// Whether its name decides something too.
    pub name_decides: bool,
}

/// Adds the settings of a table that name inputs. `schemas` are the alternatives for the table, `place` is its path.
pub(super) fn input_settings(schemas: &[&Json], table: &Table, place: &str, found: &mut Vec<InputSetting>) {
    let alternatives: Vec<&Json> = schemas.iter().flat_map(|schema| flatten(schema)).collect();
    let free: Vec<&Json> = alternatives.iter().filter_map(|schema| free_values(schema)).collect();
    for (key, value) in table {
        let settings: Vec<&Json> = alternatives.iter().filter_map(|schema| property(schema, key)).collect();
        let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
        match settings.first().and_then(|setting| Decides::of(setting)).unwrap_or(Decides::Results) {
            Decides::Nothing => {}
            Decides::Content => named_inputs(value, place, false, found),
            Decides::NameAndContent => named_inputs(value, place, true, found),
            _ => input_settings_in(if settings.is_empty() { &free } else { &settings }, value, &place, found),
        }
    }
}

fn input_settings_in(schemas: &[&Json], value: &Value, place: &str, found: &mut Vec<InputSetting>) {
    match value {
        Value::Table(table) => input_settings(schemas, table, place, found),
        Value::Array(list) => {
            let alternatives = schemas.iter().flat_map(|schema| flatten(schema));
            let items: Vec<&Json> = alternatives.filter_map(|schema| schema.get("items")).collect();
            for (idx, entry) in list.iter().enumerate() {
                input_settings_in(&items, entry, &format!("{place}.{idx}"), found);
            }
        }
        _ => {}
    }
}

/// Adds the paths of a setting that names one input, or a list of them.
fn named_inputs(value: &Value, setting: String, name_decides: bool, found: &mut Vec<InputSetting>) {
    match value {
        Value::String(path) if !path.is_empty() => {
            found.push(InputSetting { setting, path: path.into(), name_decides });
        }
        Value::Array(list) => {
            for (idx, entry) in list.iter().enumerate() {
                named_inputs(entry, format!("{setting}.{idx}"), name_decides, found);
            }
        }
        _ => {}
    }
}

/// The paths of all settings whose declaration is unknown, for a test of each recipe.
pub(super) fn unknown_declarations(schema: &Json, path: &str, found: &mut Vec<String>) {
    for alternative in flatten(schema) {
        let settings = alternative.get("properties").and_then(Json::as_object).into_iter().flatten();
        for (key, property) in settings {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if Decides::of(property).is_none() {
                found.push(path.clone());
            }
            unknown_declarations(property, &path, found);
        }
        for inner in alternative.get("items").into_iter().chain(free_values(alternative)) {
            unknown_declarations(inner, path, found);
        }
    }
}
