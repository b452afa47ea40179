//! The reference of every recipe key as Markdown, made from the schemas.

use std::fmt::Write as _;

use serde_json::Value as Json;
use truing_types::StageName;

use super::Recipe;
use super::decisive::Decides;
use super::schema::{aliases, flatten, free_values, is_object, recipe_schema_of};

/// One section of the reference: the recipes of one type of settings. `title` is its heading.
#[must_use]
pub fn reference_of<R: Recipe>(title: &str) -> String {
    let schema = recipe_schema_of::<R>();
    let own = R::STAGES.iter().map(|stage| {
        let info = stage.info();
        format!("`stage = \"{}\"` (`{}`)", info.name, info.command)
    });
    let mut text = format!("\n## {title}\n\n{}.\n", own.collect::<Vec<_>>().join(", "));
    if let Some(description) = description(&schema) {
        let _ = write!(text, "\n{description}\n");
    }
    let mut writer = Writer { stages: R::STAGES, written: Vec::new(), text };
    writer.table(&[&schema], "");
    writer.text
}

/// A table that is written after its parent.
struct Nested<'a> {
    /// As a recipe writes it: `[lora]`, `[[data]]`, `kind = { format = { ... } }`.
    heading: String,
    /// As `--set` names it, without the indices of lists.
    shown: String,
    schemas: Vec<&'a Json>,
    description: Option<String>,
}

struct Writer {
    stages: &'static [StageName],
    /// Headings of the tables so far, with their settings.
    written: Vec<(String, Vec<Json>)>,
    text: String,
}

impl Writer {
    /// The keys of a table, then those of the tables in it. `shown` is how a recipe names the table.
    fn table(&mut self, schemas: &[&Json], shown: &str) {
        self.text.push_str("\n| key | type | default | meaning | on `--resume` |\n|---|---|---|---|---|\n");
        let mut nested = Vec::new();
        for schema in schemas {
            for (key, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
                self.row(key, property, shown, &mut nested);
            }
        }
        for Nested { heading, shown, schemas, description } in nested {
            let _ = write!(self.text, "\n### {heading}\n");
            if let Some(description) = description {
                let _ = write!(self.text, "\n{description}\n");
            }
            let settings: Vec<Json> = schemas.iter().map(|schema| schema["properties"].clone()).collect();
            if let Some((first, _)) = self.written.iter().find(|(_, earlier)| *earlier == settings) {
                let _ = write!(self.text, "\nThe keys are those of {first}.\n");
                continue;
            }
            self.written.push((heading, settings));
            self.table(&schemas, &shown);
        }
    }

    fn row<'a>(&mut self, key: &str, property: &'a Json, shown: &str, nested: &mut Vec<Nested<'a>>) {
        let own_shown = join(shown, key);
        let kinds: Vec<&Json> = flatten(property).into_iter().filter(|schema| !is_null(schema)).collect();
        let items: Vec<&Json> =
            kinds.iter().filter_map(|schema| schema.get("items")).flat_map(flatten).collect();
        let tables = |schemas: &[&'a Json]| -> Vec<&'a Json> {
            schemas.iter().copied().filter(|schema| schema.get("properties").is_some()).collect()
        };
        let own_tables = tables(&kinds);
        let is_variant = own_tables.len() > 1 || (own_tables.len() == 1 && kinds.len() > 1);
        if is_variant {
            for schema in &own_tables {
                for (variant, settings) in
                    schema.get("properties").and_then(Json::as_object).into_iter().flatten()
                {
                    let schemas = tables(&flatten(settings));
                    if schemas
                        .iter()
                        .any(|schema| schema["properties"].as_object().is_some_and(|keys| !keys.is_empty()))
                    {
                        nested.push(Nested {
                            heading: format!("`{own_shown} = {{ {variant} = {{ ... }} }}`"),
                            shown: join(&own_shown, variant),
                            schemas,
                            description: description(schema),
                        });
                    }
                }
            }
        } else if !own_tables.is_empty() {
            nested.push(Nested {
                heading: format!("`[{own_shown}]`"),
                shown: own_shown.clone(),
                schemas: own_tables.clone(),
                description: description(property),
            });
        } else if !tables(&items).is_empty() {
            nested.push(Nested {
                heading: format!("`[[{own_shown}]]`"),
                shown: own_shown.clone(),
                schemas: tables(&items),
                description: description(property),
            });
        }
        let names: Vec<String> =
            std::iter::once(key).chain(aliases(property)).map(|name| format!("`{name}`")).collect();
        let cells = [
            names.join(" or "),
            self.type_name(key, &kinds, is_variant),
            default_of(property),
            self.meaning(key, property, &kinds),
            Decides::of(property).map_or("", Decides::on_resume).to_owned(),
        ];
        let _ = writeln!(self.text, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }

    fn type_name(&self, key: &str, kinds: &[&Json], is_variant: bool) -> String {
        if is_variant || kinds.iter().any(|schema| schema.get("const").is_some()) {
            let names: Vec<String> =
                kinds.iter().flat_map(|schema| self.variant_names(key, schema)).collect();
            return names.join(", ");
        }
        let names: Vec<String> = kinds.iter().map(|schema| type_of(schema)).collect();
        names.join(" or ")
    }

    fn variant_names(&self, key: &str, schema: &Json) -> Vec<String> {
        if let Some(value) = schema.get("const") {
            let is_other = key == "stage"
                && value
                    .as_str()
                    .and_then(StageName::from_name)
                    .is_some_and(|stage| !self.stages.contains(&stage));
            return if is_other { Vec::new() } else { vec![format!("`{value}`")] };
        }
        match schema.get("properties").and_then(Json::as_object) {
            Some(variants) => variants.keys().map(|variant| format!("`{variant}`")).collect(),
            None => vec![type_of(schema)],
        }
    }

    /// The description, then that of each value.
    fn meaning(&self, key: &str, property: &Json, kinds: &[&Json]) -> String {
        let mut text = description(property).unwrap_or_default();
        for schema in kinds.iter().filter(|schema| schema.get("const").is_some()) {
            if let (Some(name), Some(of_value)) =
                (self.variant_names(key, schema).first(), description(schema))
            {
                let _ = write!(text, " {name}: {of_value}");
            }
        }
        text
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn is_null(schema: &Json) -> bool {
    schema.get("type").is_some_and(|name| name == "null")
}

/// A type in words.
fn type_of(schema: &Json) -> String {
    let names: Vec<&str> = match schema.get("type") {
        Some(Json::String(name)) => vec![name],
        Some(Json::Array(names)) => {
            names.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect()
        }
        _ => Vec::new(),
    };
    match names[..] {
        ["string"] => "string".to_owned(),
        ["integer"] => "integer".to_owned(),
        ["number"] => "number".to_owned(),
        ["boolean"] => "boolean".to_owned(),
        ["array"] => match schema.get("items") {
            Some(items) => {
                let kinds: Vec<&Json> =
                    flatten(items).into_iter().filter(|schema| !is_null(schema)).collect();
                let of: Vec<String> = kinds
                    .iter()
                    .map(|schema| match schema.get("const") {
                        Some(value) => format!("`{value}`"),
                        None => type_of(schema),
                    })
                    .collect();
                format!("list of {}", of.join(", "))
            }
            None => "list".to_owned(),
        },
        ["object"] => match free_values(schema) {
            Some(values) => format!("table of {}", type_of(values)),
            None => "table".to_owned(),
        },
        _ if is_object(schema) => "table".to_owned(),
        _ => "any".to_owned(),
    }
}

/// The default as it is typed; `x-default` says it in words where it is no value, or is empty where there is none.
fn default_of(property: &Json) -> String {
    if let Some(words) = property.get("x-default").and_then(Json::as_str) {
        return words.to_owned();
    }
    match property.get("default") {
        None | Some(Json::Null) => String::new(),
        Some(Json::Object(_)) => String::new(),
        Some(Json::Array(list)) if list.iter().any(Json::is_object) => String::new(),
        Some(Json::String(text)) if text.is_empty() => String::new(),
        Some(Json::Number(number)) => format!("`{}`", number_text(number)),
        Some(value) => format!("`{value}`"),
    }
}

/// A number as it is typed: one in single precision without the digits that double precision adds.
fn number_text(number: &serde_json::Number) -> String {
    let single = number.as_f64().filter(|_| number.is_f64()).map(|value| (value, value as f32));
    match single {
        Some((value, single)) if f64::from(single) == value => format!("{single:?}"),
        _ => number.to_string(),
    }
}

/// A doc comment as one line of Markdown, its links to code as names.
fn description(schema: &Json) -> Option<String> {
    let text = schema.get("description")?.as_str()?.replace('\n', " ");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("[`") {
        let Some(length) = rest[start..].find("`]") else { break };
        plain.push_str(&rest[..start]);
        plain.push_str(&rest[start + 1..start + length + 1]);
        rest = &rest[start + length + 2..];
        if rest.starts_with('(')
            && let Some(end) = rest.find(')')
        {
            rest = &rest[end + 1..];
        }
    }
    plain.push_str(rest);
    Some(plain)
}
