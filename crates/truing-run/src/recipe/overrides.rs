//! Overrides: `--set a.b=c` on top of a recipe.

use toml::{Table, Value};

use super::schema::{self, UnknownKey};
use super::{DUPLICATE, Recipe, from_value, to_table};

/// An override that cannot be applied.
pub(super) enum OverrideError {
    UnknownKey(UnknownKey),
    Invalid(String),
}

impl From<String> for OverrideError {
    fn from(reason: String) -> Self {
        Self::Invalid(reason)
    }
}

/// Why the key of an override cannot be found in a recipe. `parent` is the part of it that was found.
enum NoPlace<'a> {
    /// `parent` is a list without entries.
    EmptyList { parent: &'a str },
    /// Anything else, in a sentence.
    Other(String),
}

impl NoPlace<'_> {
    /// The error of the override `keys=value`.
    fn error(self, keys: &str, value: &Value) -> OverrideError {
        match self {
            Self::EmptyList { parent } => {
                let inside = keys.strip_prefix(parent).unwrap_or(keys).trim_start_matches('.');
                let entry = match inside.split_once('.') {
                    Some((_, key)) => format!("{{ {key} = {value} }}"),
                    None => value.to_string(),
                };
                let whole = format!("--set '{parent}=[{entry}]'");
                OverrideError::Invalid(format!("`{parent}` is an empty list; `{whole}` gives it an entry"))
            }
            Self::Other(reason) => OverrideError::Invalid(reason),
        }
    }
}

/// The recipe with an override on top.
pub(super) fn apply_override<R: Recipe>(
    recipe: &R,
    typed: &str,
    schema: &serde_json::Value,
) -> Result<R, OverrideError> {
    let (keys, text) = typed.split_once('=').ok_or_else(|| "expected `key=value`".to_owned())?;
    let keys = keys.trim();
    let as_toml = toml::from_str::<Table>(&format!("value = {text}")).ok();
    let as_toml = as_toml.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    let value = as_toml.unwrap_or_else(|| Value::String(text.trim().to_owned()));
    let mut root = Value::try_from(recipe).map_err(|error| error.to_string())?;
    let (tables, key) = keys.rsplit_once('.').unwrap_or(("", keys));
    let failed = |no_place: NoPlace<'_>| no_place.error(keys, &value);
    let place = walk(&mut root, tables).map_err(failed)?;
    let is_given_back = text.trim().is_empty() && place.is_table();
    *step_into(place, key, tables).map_err(failed)? = value.clone();
    if let Some(unknown) =
        root.as_table().and_then(|table| schema::unknown_keys(schema, table).into_iter().next())
    {
        return Err(OverrideError::UnknownKey(unknown));
    }
    if is_given_back {
        let default = if tables.is_empty() {
            to_table(&R::default()).remove(schema::own_name(schema, key))
        } else {
            None
        };
        if let Value::Table(table) = walk(&mut root, tables).map_err(failed)? {
            table.remove(key);
            table.extend(default.map(|default| (schema::own_name(schema, key).to_owned(), default)));
        }
    }
    match from_value::<R>(&root) {
        Ok(recipe) => Ok(recipe),
        Err(error) => {
            // An alias was typed: the setting is there under its own name too, which serde's message quotes.
            let own_name = error.message().strip_prefix(DUPLICATE).and_then(|rest| rest.strip_suffix('`'));
            let (Some(own_name), Value::Table(table)) = (own_name, walk(&mut root, tables).map_err(failed)?)
            else {
                return Err(error.message().to_owned().into());
            };
            table.remove(own_name);
            Ok(from_value(&root).map_err(|error| error.message().to_owned())?)
        }
    }
}

fn walk<'a, 'k>(root: &'a mut Value, tables: &'k str) -> Result<&'a mut Value, NoPlace<'k>> {
    let (mut place, mut n_walked) = (root, 0);
    for key in tables.split('.') {
        if !key.is_empty() {
            place = step_into(place, key, tables[..n_walked].trim_end_matches('.'))?;
        }
        n_walked += key.len() + 1;
    }
    Ok(place)
}

/// The place of `key` in `place`, whose own key is `parent`. In a table it is made where it is missing.
fn step_into<'a, 'k>(place: &'a mut Value, key: &str, parent: &'k str) -> Result<&'a mut Value, NoPlace<'k>> {
    match place {
        Value::Table(table) => Ok(table.entry(key).or_insert_with(|| Value::Table(Table::new()))),
        Value::Array(list) => {
            let n_entries = list.len();
            let entry = key.parse::<usize>().ok().and_then(|idx| list.get_mut(idx));
            entry.ok_or_else(|| match n_entries {
                0 => NoPlace::EmptyList { parent },
                n => NoPlace::Other(format!(
                    "`{key}` is not an entry of the list `{parent}`, which has {n}: the last is `{parent}.{}`",
                    n - 1
                )),
            })
        }
        _ => Err(NoPlace::Other(format!("`{key}` cannot be looked up in `{parent}`, which is not a table"))),
    }
}
