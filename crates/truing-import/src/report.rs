//! What became of each key: the lists beside the recipe.

use std::fmt;

use serde_json::{Value, json};

use crate::error::Place;
use crate::keys::Tool;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No tool has such a key: a slip, or a newer version.
    Unknown,
    /// truing has nothing like it, or it is done in another way: the recipe lacks it.
    NoCounterpart,
    /// It is in the recipe, but means something else there.
    Changed,
    /// It is in the recipe.
    Translated,
    /// Nothing has to be set.
    NotNeeded,
}

impl Kind {
    /// All of them, the most important first.
    pub const ALL: [Self; 5] =
        [Self::Unknown, Self::NoCounterpart, Self::Changed, Self::Translated, Self::NotNeeded];

    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NoCounterpart => "no_counterpart",
            Self::Changed => "changed",
            Self::Translated => "translated",
            Self::NotNeeded => "not_needed",
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Unknown => "unknown keys",
            Self::NoCounterpart => "not in the recipe, because truing does it in another way or not at all",
            Self::Changed => "in the recipe with another meaning",
            Self::Translated => "in the recipe",
            Self::NotNeeded => "not needed",
        }
    }
}

/// What became of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What became of it.
    pub kind: Kind,
    /// The key of the other tool.
    pub key: String,
    /// Where it is in the file; none for a default of the tool.
    pub place: Option<Place>,
    /// Its key in truing, what differs, or why there is none.
    pub text: String,
}

/// A recipe and what became of each key. [`Display`](fmt::Display) is the list in lines for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The tool.
    pub tool: Tool,
    /// The stage of truing: `sft`, `dpo`, `reward_model` or `grpo`.
    pub stage: &'static str,
    /// The command that runs the recipe.
    pub command: &'static str,
    /// The number of processes whose rows make a step; none where the file has the rows of all.
    pub processes: Option<u64>,
    /// The recipe: TOML with comments.
    pub recipe: String,
    /// What became of the keys, those that need attention first.
    pub findings: Vec<Finding>,
}

impl Imported {
    /// The findings of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.kind == kind)
    }

    /// Everything as JSON: `tool`, `stage`, `command`, `recipe`, and a list for each kind.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "tool": self.tool.option(), "stage": self.stage, "command": self.command,
            "processes": self.processes, "recipe": self.recipe,
        });
        for kind in Kind::ALL {
            let findings = self.of(kind).map(|finding| {
                json!({
                    "key": finding.key,
                    "line": finding.place.map(|place| place.line),
                    "text": finding.text,
                })
            });
            value[kind.name()] = findings.collect();
        }
        value
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a file of {} for `{}`", self.tool, self.command)?;
        match self.processes {
            None => {}
            Some(1) => write!(f, "; a step is that of 1 process (`--processes`, which no file has)")?,
            Some(processes) => write!(f, "; a step is that of {processes} processes")?,
        }
        for kind in Kind::ALL {
            let findings: Vec<&Finding> = self.of(kind).collect();
            if findings.is_empty() {
                continue;
            }
            write!(f, "\n\n{} ({}):", kind.heading(), findings.len())?;
            if kind == Kind::NotNeeded {
                let names: Vec<&str> = findings.iter().map(|finding| finding.key.as_str()).collect();
                write!(f, "\n  {}", names.join(", "))?;
                continue;
            }
            let is_same = |finding: &&Finding| finding.text == format!("`{}`", finding.key);
            let (same, others): (Vec<&Finding>, Vec<&Finding>) = findings.into_iter().partition(is_same);
            if !same.is_empty() {
                let names: Vec<&str> = same.iter().map(|finding| finding.key.as_str()).collect();
                write!(f, "\n  under the same name: {}", names.join(", "))?;
            }
            for finding in others {
                match finding.place {
                    Some(place) => write!(f, "\n  line {}: `{}`: {}", place.line, finding.key, finding.text)?,
                    None => write!(f, "\n  default of `{}`: {}", finding.key, finding.text)?,
                }
            }
        }
        Ok(())
    }
}
