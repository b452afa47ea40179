//! Knowledge points: what problems are about, at four levels.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;
use truing_run::{RecipeError, RunError, recipe};

const POINTS: &str = include_str!("../../../../../recipes/data/knowledge_points.toml");

/// A level of mathematics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Elementary school.
    Elementary,
    /// Middle school.
    Middle,
    /// High school.
    High,
    /// College.
    College,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 4] = [Self::Elementary, Self::Middle, Self::High, Self::College];

    pub(super) fn code(self) -> &'static str {
        ["elementary", "middle", "high", "college"][self as usize]
    }

    pub(super) fn name(self, language: Language) -> &'static str {
        let names = match language {
            Language::En => ["elementary school", "middle school", "high school", "college"],
            Language::Zh => ["小学", "初中", "高中", "大学"],
        };
        names[self as usize]
    }
}

/// Something that a problem may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnowledgePoint {
    /// Its identifier, `level.name`.
    pub id: String,
    /// Its level.
    pub level: Level,
    /// Its English and its Chinese name.
    pub names: [String; 2],
}

/// A file of knowledge points: one table for each level.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct PointsFile {
    elementary: BTreeMap<String, Names>,
    middle: BTreeMap<String, Names>,
    high: BTreeMap<String, Names>,
    college: BTreeMap<String, Names>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Names {
    en: String,
    zh: String,
}

/// The knowledge points of a file, or the bundled ones, sorted by level and name.
///
/// # Errors
/// When the file cannot be read or is no such list.
pub fn load_knowledge_points(path: Option<&Path>) -> Result<Vec<KnowledgePoint>, RunError> {
    let bundled = Path::new("knowledge_points.toml");
    let text = match path {
        Some(path) => {
            fs::read_to_string(path).map_err(|source| RunError::Read { path: path.to_path_buf(), source })?
        }
        None => POINTS.to_owned(),
    };
    let file = parse_points(&text, path.unwrap_or(bundled))?;
    let of_level = [file.elementary, file.middle, file.high, file.college];
    let points = Level::ALL.into_iter().zip(of_level).flat_map(|(level, points)| {
        points.into_iter().map(move |(name, names)| KnowledgePoint {
            id: format!("{}.{name}", level.code()),
            level,
            names: [names.en, names.zh],
        })
    });
    Ok(points.collect())
}

fn parse_points(text: &str, path: &Path) -> Result<PointsFile, RecipeError> {
    recipe::read_toml(text, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_bundled_points_cover_four_levels_and_have_names_of_their_own() {
        let points = load_knowledge_points(None).unwrap();
        assert!(points.len() >= 120, "{}", points.len());
        for level in Level::ALL {
            assert!(points.iter().filter(|point| point.level == level).count() >= 30, "{level:?}");
            assert_eq!(serde_json::to_value(level).unwrap(), level.code());
        }
        for language in [0, 1] {
            let names: BTreeSet<&str> = points.iter().map(|point| point.names[language].as_str()).collect();
            assert_eq!(names.len(), points.len(), "names are different");
        }
        let error = parse_points("[midle]\n", Path::new("points.toml")).unwrap_err().to_string();
        assert!(error.contains("points.toml:1") && error.contains("`middle`"), "{error}");
    }
}
