//! The tables and the pages of the documentation say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use truing_import::{Tool, counterpart};

use crate::cases;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(path).expect("the files of the tests are there").replace("\r\n", "\n")
}

/// The cells of a row of a table.
fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// The texts between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The keys that a cell of `docs/coming-from-other-tools.md` names for a tool.
fn keys(tool: Tool, cell: &str) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let mut table = String::new();
    for text in quoted(cell).into_iter().flat_map(|text| text.split(" / ")) {
        // A value, or a file.
        if text.starts_with(['"', '[']) || text.ends_with(".json") {
            continue;
        }
        let name = text.split([' ', ':', '=', '[']).next().unwrap_or_default();
        let mut name = name.to_owned();
        if tool == Tool::Verl {
            // Of several keys of a table the page writes the table once.
            if let Some(rest) = name.strip_prefix('.') {
                name = format!("{table}.{rest}");
            }
            table = name.rsplit_once('.').map(|(table, _)| table.to_owned()).unwrap_or_default();
            for (short, long) in
                [("actor.", "actor_rollout_ref.actor."), ("rollout.", "actor_rollout_ref.rollout.")]
            {
                if let Some(rest) = name.strip_prefix(short) {
                    name = format!("{long}{rest}");
                }
            }
        }
        keys.push(name);
    }
    keys
}

/// The tools of a table's columns.
fn column_tools(heading: &str) -> Vec<Option<Tool>> {
    cells(heading)
        .iter()
        .map(|cell| {
            let name = cell.split([' ', '(']).next().unwrap_or_default();
            Tool::ALL.into_iter().find(|tool| tool.name() == name)
        })
        .collect()
}

#[test]
fn every_key_of_the_page_is_in_the_tables() {
    let page = page("coming-from-other-tools.md");
    let lines: Vec<&str> = page.lines().collect();
    let mut tools = Vec::new();
    let (mut n_keys, mut missing) = (0, Vec::new());
    // `fp32` and the like are values, and these are words of the page.
    let values = ["grpo", "rloo", "reinforce_plus_plus_baseline", "token-mean", "k3"];
    // The first table has the values of keys.
    let start = lines.iter().position(|line| line.starts_with("## Supervised")).unwrap();
    for (i, line) in lines.iter().enumerate().skip(start) {
        if !line.starts_with('|') || line.starts_with("|---") {
            continue;
        }
        if lines.get(i + 1).is_some_and(|next| next.starts_with("|---")) {
            tools = column_tools(line);
            continue;
        }
        for (tool, cell) in tools.iter().zip(cells(line)) {
            let Some(tool) = tool else { continue };
            for key in keys(*tool, &cell).into_iter().filter(|key| !values.contains(&key.as_str())) {
                n_keys += 1;
                if !truing_import::is_known(*tool, &key) {
                    missing.push(format!("{tool}: {key} (line {})", i + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(n_keys > 150, "the tables of the page were not found: {n_keys} keys");
}

/// The keys of the recipes of a section of `docs/recipes.md`, those of tables with dots.
fn recipe_keys(title: &str) -> BTreeSet<String> {
    let page = page("recipes.md");
    let start = page.find(&format!("\n## {title}")).expect("the files of the tests are there");
    let section = &page[start + 1..];
    let section = section.find("\n## ").map_or(section, |end| &section[..end]);
    let mut keys = BTreeSet::new();
    let mut table = String::new();
    for line in section.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let name = heading.trim_matches(|c| "`[]".contains(c));
            table =
                if heading.starts_with("`reward.kind") { "reward.kind".to_owned() } else { name.to_owned() };
        } else if line.starts_with("| `") {
            let key = quoted(&cells(line)[0])[0].to_owned();
            keys.insert(if table.is_empty() { key } else { format!("{table}.{key}") });
        } else if line.starts_with("The keys are those of `[[data]]`") {
            let own: Vec<String> = keys
                .iter()
                .filter_map(|key| key.strip_prefix("data."))
                .map(|key| format!("{table}.{key}"))
                .collect();
            keys.extend(own);
        }
    }
    assert!(keys.len() > 40, "{title}: {keys:?}");
    keys
}

/// The key of a recipe that truing does not have, if there is one.
pub(crate) fn unknown_key(stage: &str, recipe: &toml::Table) -> Option<String> {
    static TRAINING: LazyLock<BTreeSet<String>> = LazyLock::new(|| recipe_keys("Training"));
    static GRPO: LazyLock<BTreeSet<String>> = LazyLock::new(|| recipe_keys("Reinforcement learning"));
    let known = if stage == "grpo" { &GRPO } else { &TRAINING };
    for (key, value) in recipe {
        let tables = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(items) => items.iter().filter_map(|item| item.as_table()).collect(),
            _ => Vec::new(),
        };
        let own = tables.into_iter().flat_map(|table| table.keys()).map(|own| format!("{key}.{own}"));
        if let Some(unknown) = std::iter::once(key.clone()).chain(own).find(|key| !known.contains(key)) {
            return Some(unknown);
        }
    }
    None
}

#[test]
fn recipes_have_only_keys_that_truing_knows() {
    for (name, imported) in cases::all() {
        let recipe: toml::Table = imported.recipe.parse().unwrap();
        assert_eq!(recipe["stage"].as_str(), Some(imported.stage), "{name}");
        assert_eq!(unknown_key(imported.stage, &recipe), None, "{name}");
    }
}

#[test]
fn counterparts_name_keys_that_truing_knows() {
    let known: BTreeSet<String> =
        recipe_keys("Training").into_iter().chain(recipe_keys("Reinforcement learning")).collect();
    for tool in Tool::ALL {
        for name in truing_import::keys_of(tool) {
            if let Some(key) = counterpart(name).and_then(|found| found.key()) {
                assert!(known.contains(key), "{tool}: `{name}` is `{key}`, which is not a key of a recipe");
            }
        }
    }
}
