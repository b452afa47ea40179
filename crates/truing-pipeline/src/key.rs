//! The key of a stage: a digest of everything that decides its results, known without running it.
//!
//! Made of the program's version and engine, the kind of stage, its decisive settings, the digests of what it reads,
//! and the keys of the stages whose outputs it reads. Never of formatting, comments, paths of folders, log settings or
//! memory budgets.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use truing_store::Digest;

/// Counts changes of what keys are made of.
const KEY_VERSION: u32 = 1;
/// Digits of a digest that are shown.
const N_DIGITS: usize = 8;

/// What a key is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyParts {
    /// The kind of stage.
    pub uses: String,
    /// The program.
    pub program: String,
    /// Settings that decide the results, with dots between keys and indices, as TOML.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// What is read, by the setting that names it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, KeyInput>,
    /// Keys of the stages that `needs` names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<String, Digest>,
}

/// Something that a stage reads: the digest of its content, and what it is called. Written as `DIGEST NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyInput {
    /// Of a file its content; of another stage's output that stage's key and the output's path.
    pub blake3: Digest,
    /// The name without the folder, or the reference.
    pub name: String,
}

impl TryFrom<String> for KeyInput {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (digest, name) =
            text.split_once(' ').ok_or_else(|| format!("`{text}`: expected `DIGEST NAME`"))?;
        Ok(Self { blake3: digest.parse().map_err(|error| format!("{error}"))?, name: name.to_owned() })
    }
}

impl From<KeyInput> for String {
    fn from(input: KeyInput) -> Self {
        format!("{} {}", input.blake3, input.name)
    }
}

/// One reason why a stage's result is not the one that the lock file names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// The lock file has no such stage.
    New,
    /// Another kind of stage.
    Uses {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// A setting. `None` where it is not set.
    Setting {
        /// Its keys with dots.
        setting: String,
        /// Before.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// What a setting names.
    Input {
        /// The setting.
        setting: String,
        /// Before; digest and name.
        old: Option<KeyInput>,
        /// Now.
        new: Option<KeyInput>,
    },
    /// A stage that `needs` names has another key, or was added to `needs` or removed from it.
    Needs {
        /// The stage.
        stage: String,
    },
    /// Another version of the program, or another engine.
    Program {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// The store does not have the result.
    NotStored,
    /// A file of the result is not what it was.
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        match self {
            Self::New => f.write_str("new"),
            Self::Uses { old, new } => write!(f, "uses: {old} -> {new}"),
            Self::Setting { setting, old, new } => write!(f, "{setting}: {} -> {}", shown(old), shown(new)),
            Self::Input { setting, old: Some(old), new: Some(new) } if old.name == new.name => {
                let digits = |input: &KeyInput| input.blake3.to_string()[..N_DIGITS].to_owned();
                write!(f, "{setting}: {} has changed ({} -> {})", new.name, digits(old), digits(new))
            }
            Self::Input { setting, old, new } => {
                let name = |input: &Option<KeyInput>| shown(&input.as_ref().map(|input| input.name.clone()));
                write!(f, "{setting}: {} -> {}", name(old), name(new))
            }
            Self::Needs { stage } => write!(f, "needs: {stage} has changed"),
            Self::Program { old, new } => write!(f, "program: {old} -> {new}"),
            Self::NotStored => f.write_str("its result is not in the store"),
            Self::Damaged { reason } => write!(f, "its result in the store is damaged: {reason}"),
        }
    }
}

impl KeyParts {
    /// The key.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut lines =
            vec![format!("truing-pipeline {KEY_VERSION}"), self.program.clone(), self.uses.clone()];
        lines.extend(self.settings.iter().map(|(setting, value)| format!("setting {setting} = {value}")));
        lines
            .extend(self.inputs.iter().map(|(setting, input)| format!("input {setting} = {}", input.blake3)));
        // What the stages are called decides nothing.
        let mut needs: Vec<String> = self.needs.values().map(|key| format!("needs {key}")).collect();
        needs.sort();
        lines.extend(needs);
        // Lengths keep a text with line ends apart from several lines.
        let lines: Vec<String> = lines.iter().map(|line| format!("{} {line}", line.len())).collect();
        Digest::of_bytes(lines.join("\n").as_bytes())
    }

    /// What differs from the parts of an earlier key: own settings first, then inputs, then the program.
    #[must_use]
    pub fn changes(&self, old: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.uses != old.uses {
            changes.push(Change::Uses { old: old.uses.clone(), new: self.uses.clone() });
        }
        changes.extend(differences(&old.settings, &self.settings).map(|(setting, old, new)| {
            Change::Setting { setting: setting.clone(), old: old.cloned(), new: new.cloned() }
        }));
        let is_of_stage = |change: &Change| match change {
            Change::Input { new: Some(new), .. } => new.name.starts_with("stages."),
            _ => false,
        };
        let mut inputs: Vec<Change> = differences(&old.inputs, &self.inputs)
            .filter(|(_, old, new)| old.map(|old| old.blake3) != new.map(|new| new.blake3))
            .map(|(setting, old, new)| Change::Input {
                setting: setting.clone(),
                old: old.cloned(),
                new: new.cloned(),
            })
            .collect();
        inputs.sort_by_key(is_of_stage);
        changes.extend(inputs);
        let needs = differences(&old.needs, &self.needs);
        changes.extend(needs.map(|(stage, _, _)| Change::Needs { stage: stage.clone() }));
        if self.program != old.program {
            changes.push(Change::Program { old: old.program.clone(), new: self.program.clone() });
        }
        changes
    }
}

/// The entries of two maps that are not the same, in the order of their keys.
fn differences<'a, V: PartialEq>(
    old: &'a BTreeMap<String, V>,
    new: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = (&'a String, Option<&'a V>, Option<&'a V>)> {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().map(move |key| (key, old.get(key), new.get(key))).filter(|(_, old, new)| old != new)
}

/// Each value of a table with its keys and indices, joined by dots.
pub(crate) fn flat_settings(table: &Table) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        add_flat(key, value, &mut settings);
    }
    settings
}

fn add_flat(place: &str, value: &Value, settings: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                add_flat(&format!("{place}.{key}"), value, settings);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (idx, value) in list.iter().enumerate() {
                add_flat(&format!("{place}.{idx}"), value, settings);
            }
        }
        value => {
            settings.insert(place.to_owned(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(settings: &str) -> KeyParts {
        let input = KeyInput { blake3: Digest::of_bytes(b"rows"), name: "a.jsonl".into() };
        KeyParts {
            uses: "sft".into(),
            program: "1".into(),
            settings: flat_settings(&toml::from_str(settings).unwrap()),
            inputs: [("data.0.path".to_owned(), input)].into(),
            needs: [("before".to_owned(), Digest::of_bytes(b"x"))].into(),
        }
    }

    #[test]
    fn the_key_changes_with_every_part_and_with_nothing_else() {
        let base = parts("rate = 1e-3\ndata = [{ weight = 1.0 }]\nlist = [1, 2]\n");
        assert_eq!(base.settings.keys().collect::<Vec<_>>(), ["data.0.weight", "list", "rate"]);
        let same = parts("# A comment.\nlist=[1,2]\nrate = 0.001\n\n[[data]]\nweight = 1.0\n");
        assert_eq!((same.key(), same.changes(&base)), (base.key(), Vec::new()), "formatting");
        let mut renamed = base.clone();
        let needs = std::mem::take(&mut renamed.needs);
        renamed.needs = needs.into_values().map(|key| ("other".to_owned(), key)).collect();
        renamed.inputs.get_mut("data.0.path").unwrap().name = "b.jsonl".into();
        assert_eq!(renamed.key(), base.key(), "names of stages and files");
        let other = Digest::of_bytes(b"other");
        type Edit = fn(&mut KeyParts, Digest);
        let edits: [(&str, Edit); 5] = [
            ("uses: sft -> dpo", |parts, _| parts.uses = "dpo".into()),
            ("program: 1 -> 2", |parts, _| parts.program = "2".into()),
            ("rate: 0.001 -> not set", |parts, _| drop(parts.settings.remove("rate"))),
            ("needs: before has changed", |parts, other| {
                parts.needs.insert("before".into(), other);
            }),
            ("data.0.path: a.jsonl has changed (", |parts, other| {
                parts.inputs.get_mut("data.0.path").unwrap().blake3 = other;
            }),
        ];
        for (expected, edit) in edits {
            let mut edited = base.clone();
            edit(&mut edited, other);
            let changes = edited.changes(&base);
            assert_ne!(edited.key(), base.key(), "{expected}");
            assert_eq!(changes.len(), 1, "{expected}");
            assert!(changes[0].to_string().starts_with(expected), "{}", changes[0]);
        }
    }

    #[test]
    fn parts_are_written_and_read_back() {
        let parts = parts("rate = 1e-3\nname = \"two\\nlines\"\n");
        let text = toml::to_string_pretty(&parts).unwrap();
        assert_eq!(toml::from_str::<KeyParts>(&text).unwrap(), parts, "{text}");
        assert!(text.contains(" a.jsonl\"\n"), "{text}");
    }
}
