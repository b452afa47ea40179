//! The JSON schema of a recipe, and the keys of a recipe that are not in it.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::Recipe;

/// Names of a setting that are read beside its own, in its schema.
const ALIASES: &str = "x-aliases";

/// The JSON schema of a recipe (draft 2020-12), without references.
#[must_use]
pub fn schema_of<R: JsonSchema>() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<R>().to_value()
}

/// Whether recipes have a setting of this name outside all tables.
#[must_use]
pub fn has_setting<R: JsonSchema>(name: &str) -> bool {
    schema_of::<R>().get("properties").is_some_and(|properties| properties.get(name).is_some())
}

/// The JSON schema of a recipe's settings with the defaults of this recipe. Sections that several recipes share have
/// none of their own.
#[must_use]
pub fn recipe_schema_of<R: Recipe>() -> Json {
    let mut schema = schema_of::<R>();
    let defaults = serde_json::to_value(R::default()).unwrap_or_default();
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        for (key, property) in properties {
            if let (Some(property), Some(default)) = (property.as_object_mut(), defaults.get(key)) {
                property.entry("default").or_insert_with(|| default.clone());
            }
        }
    }
    schema
}

/// A key that the schema does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnknownKey {
    /// Keys and indices from the root to the key.
    pub(super) path: Vec<String>,
    /// All keys that the schema has in its place.
    pub(super) known: Vec<String>,
}

/// The keys of a recipe that its schema does not have, by table.
pub(super) fn unknown_keys(schema: &Json, recipe: &Table) -> Vec<UnknownKey> {
    let mut found = Vec::new();
    in_table(&[schema], recipe, &mut Vec::new(), &mut found);
    found
}

/// Adds the unknown keys of the table at `path`.
fn in_table(alternatives: &[&Json], table: &Table, path: &mut Vec<String>, found: &mut Vec<UnknownKey>) {
    let objects: Vec<&Json> =
        alternatives.iter().flat_map(|schema| flatten(schema)).filter(|schema| is_object(schema)).collect();
    // A table whose keys are free, such as one of columns.
    let free: Vec<&Json> = objects.iter().filter_map(|schema| free_values(schema)).collect();
    let is_free = objects.is_empty() || objects.iter().any(|schema| schema.get("properties").is_none());
    for (key, value) in table {
        let of_key: Vec<&Json> = match is_free {
            true => free.clone(),
            false => objects.iter().filter_map(|schema| property(schema, key)).collect(),
        };
        path.push(key.clone());
        if is_free || !of_key.is_empty() {
            in_value(&of_key, value, path, found);
        } else {
            let mut known: Vec<String> = Vec::new();
            for name in objects.iter().flat_map(|schema| names(schema)) {
                if !known.contains(&name) {
                    known.push(name);
                }
            }
            found.push(UnknownKey { path: path.clone(), known });
        }
        path.pop();
    }
}

/// Adds the unknown keys of the value at `path`.
fn in_value(alternatives: &[&Json], value: &Value, path: &mut Vec<String>, found: &mut Vec<UnknownKey>) {
    match value {
        Value::Table(table) => in_table(alternatives, table, path, found),
        Value::Array(list) => {
            let items: Vec<&Json> = alternatives
                .iter()
                .flat_map(|schema| flatten(schema))
                .filter_map(|schema| schema.get("items"))
                .collect();
            for (idx, entry) in list.iter().enumerate() {
                path.push(idx.to_string());
                in_value(&items, entry, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// A schema's alternatives: itself where it has none.
pub(super) fn flatten(schema: &Json) -> Vec<&Json> {
    match ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array()) {
        Some(alternatives) => alternatives.iter().flat_map(flatten).collect(),
        None => vec![schema],
    }
}

/// Whether a schema is of tables.
pub(super) fn is_object(schema: &Json) -> bool {
    match schema.get("type") {
        Some(Json::String(name)) => name == "object",
        Some(Json::Array(names)) => names.iter().any(|name| name == "object"),
        _ => schema.get("properties").is_some(),
    }
}

/// The schema of the values of a table whose keys are free.
pub(super) fn free_values(schema: &Json) -> Option<&Json> {
    schema.get("additionalProperties").filter(|values| values.is_object())
}

/// The schema of a table's setting, also under an alias.
pub(super) fn property<'a>(schema: &'a Json, key: &str) -> Option<&'a Json> {
    let properties = schema.get("properties")?.as_object()?;
    properties.get(key).or_else(|| properties.values().find(|found| aliases(found).any(|alias| alias == key)))
}

/// The name that a key of the recipe's root has in its settings: the key itself unless it is an alias.
pub(super) fn own_name<'a>(schema: &'a Json, key: &'a str) -> &'a str {
    let roots = flatten(schema).into_iter().filter_map(|schema| schema.get("properties")?.as_object());
    for properties in roots {
        if properties.contains_key(key) {
            return key;
        }
        let named = properties.iter().find(|(_, property)| aliases(property).any(|alias| alias == key));
        if let Some((name, _)) = named {
            return name;
        }
    }
    key
}

/// The names that a setting is read under beside its own.
pub(super) fn aliases(property: &Json) -> impl Iterator<Item = &str> {
    property.get(ALIASES).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn names(schema: &Json) -> Vec<String> {
    let properties = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
    properties
        .flat_map(|(key, property)| std::iter::once(key.as_str()).chain(aliases(property)))
        .map(str::to_owned)
        .collect()
}

/// The byte offset of a key in a recipe's text.
pub(super) fn position(text: &str, path: &[String]) -> Option<usize> {
    let (last, parents) = path.split_last()?;
    let document = DeTable::parse(text).ok()?;
    let mut at = document.get_ref();
    let mut parents = parents.iter();
    while let Some(key) = parents.next() {
        let mut value = at.get(key.as_str())?.get_ref();
        while let DeValue::Array(list) = value {
            value = list.get(parents.next()?.parse::<usize>().ok()?)?.get_ref();
        }
        let DeValue::Table(table) = value else { return None };
        at = table;
    }
    at.get_key_value(last.as_str()).map(|(key, _)| key.span().start)
}
