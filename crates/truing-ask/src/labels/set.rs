//! The label set as a file.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_prompts::labels::{Dimension, LabelSet};
use truing_run::RunError;
use truing_run::recipe::{FileKind, read_kind};

use crate::AskError;

/// The set that is taken when a recipe names none.
const DEFAULT: &str = include_str!("../../../../recipes/data/labels.toml");
/// How it is called in errors.
const DEFAULT_NAME: &str = "the label set of truing";

/// `[[dimension]]` tables, each with `[[dimension.label]]` tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LabelFile {
    #[serde(rename = "dimension", default)]
    dimensions: Vec<Dimension>,
}

/// Reads a label set out of a TOML file; without a path it is the one that truing brings.
///
/// # Errors
/// When the file cannot be read, is not TOML, has an unknown key, or its labels contradict each other.
pub fn load_label_set(path: Option<&Path>) -> Result<LabelSet, AskError> {
    match path {
        None => parse_label_set(DEFAULT, Path::new(DEFAULT_NAME)),
        Some(path) => {
            let read_error = |source| RunError::Read { path: path.to_path_buf(), source };
            parse_label_set(&std::fs::read_to_string(path).map_err(read_error)?, path)
        }
    }
}

/// Reads a label set out of TOML; `path` is named in errors.
///
/// # Errors
/// As [`load_label_set`].
pub fn parse_label_set(text: &str, path: &Path) -> Result<LabelSet, AskError> {
    let file: LabelFile = read_kind(text, path, FileKind::LabelSet).map_err(RunError::from)?;
    LabelSet::new(file.dimensions)
        .map_err(|source| AskError::LabelSet { path: path.to_path_buf(), source: Box::new(source) })
}

/// The set as TOML that reads as itself.
///
/// # Errors
/// When it cannot be written as TOML.
pub fn label_set_toml(set: &LabelSet) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(&LabelFile { dimensions: set.dimensions().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_has_the_report_s_dimensions_and_reads_as_itself() {
        let set = load_label_set(None).unwrap();
        let names: Vec<&str> = set.dimensions().iter().map(|dimension| dimension.name.as_str()).collect();
        assert_eq!(names, ["ability", "attributes", "domain", "language", "difficulty", "constraints"]);
        let ability = set.dimension_idx("Ability").unwrap();
        let mathematics = set.resolve(ability, "Math").unwrap();
        let kinds: Vec<&str> =
            set.ancestors(ability, mathematics).map(|label| set.name(ability, label)).collect();
        assert_eq!((set.name(ability, mathematics), kinds), ("mathematics", vec!["reasoning"]));
        assert_eq!(parse_label_set(&label_set_toml(&set).unwrap(), Path::new("printed.toml")).unwrap(), set);
    }

    #[test]
    fn mistakes_name_the_file_and_the_place() {
        for (text, expected) in [
            (
                "[[dimension]]\nname = \"a\"\nmultipel = true\n",
                "l.toml:3: unknown key `multipel`; the nearest known key is `multiple`",
            ),
            ("[[dimension]]\ndescription = \"a\"\n", "l.toml:1: missing field `name`"),
            (
                "[[dimension]]\nname = \"a\"\n",
                "l.toml: dimension `a` has no label, expected at least one `[[dimension.label]]`",
            ),
            (
                "",
                "l.toml: no dimension, expected at least one `[[dimension]]` with `[[dimension.label]]` tables",
            ),
        ] {
            assert_eq!(parse_label_set(text, Path::new("l.toml")).unwrap_err().to_string(), expected);
        }
        let missing = load_label_set(Some(Path::new("/nowhere/l.toml"))).unwrap_err();
        assert_eq!(missing.to_string(), "/nowhere/l.toml: cannot be read");
    }
}
