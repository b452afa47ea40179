//! Where in a recipe an error comes from.

use std::fs;
use std::path::Path;

use toml::Value;
use truing_data::DataError;
use truing_eval::benchmarks::BenchmarkError;
use truing_model::ModelError;
use truing_model::sources::DatasetReference;
use truing_run::AsRunError as _;
use truing_run::recipe::{InputSetting, place_of};
use truing_stages::{RunError, StageError};
use truing_store::StoreError;

use super::recipe_arguments::RecipeArguments;
use crate::printer::one_sentence;

/// Puts before an error of a setting, or of a file or data set that a setting names, where the recipe or an override
/// has it.
pub(super) fn at_its_place(
    error: anyhow::Error,
    inputs: &[InputSetting],
    recipe: &RecipeArguments,
) -> anyhow::Error {
    let Ok(text) = fs::read_to_string(&recipe.recipe) else { return error };
    let place = |key: &str| place_of(key, &text, &recipe.recipe, &recipe.overrides);
    let of_stage = error.downcast_ref::<StageError>().and_then(StageError::as_run_error);
    if let Some(key) = of_stage.and_then(RunError::setting) {
        return anyhow::anyhow!("{}: {error}", place(key));
    }
    if let Some(RunError::Data(of_data)) = of_stage
        && let Some(setting) = setting_of_source(of_data, inputs, &text, &recipe.overrides)
    {
        return anyhow::anyhow!("{}: `{setting}`: {error}", place(&setting));
    }
    let named = match error.downcast_ref::<ModelError>() {
        Some(ModelError::DatasetNotFound { reference, .. }) => {
            inputs.iter().find(|input| names_data_set(&input.path, reference))
        }
        // The settings of files that are no data have the data's folder before theirs.
        _ => unread_path(&error).and_then(|path| inputs.iter().find(|input| input.path.ends_with(path))),
    };
    match named {
        Some(InputSetting { setting, .. }) => {
            anyhow::anyhow!("{}: `{setting}`: {}", place(setting), one_sentence(&error))
        }
        None => error,
    }
}

/// The file or folder that a stage could not read, where the error is about one.
fn unread_path(error: &anyhow::Error) -> Option<&Path> {
    match error.downcast_ref::<StageError>()? {
        StageError::Benchmark(
            BenchmarkError::Data(DataError::Io { path, .. })
            | BenchmarkError::Store(StoreError::Io { path, .. }),
        ) => Some(path),
        error => error.as_run_error()?.unread_path(),
    }
}

/// The setting of a source of rows that an error is about: a format or a column, which it names by its value alone, or
/// another setting of the source at a path.
fn setting_of_source(
    error: &DataError,
    inputs: &[InputSetting],
    text: &str,
    overrides: &[String],
) -> Option<String> {
    let (suffix, value) = match error {
        DataError::UnknownFormat { found, .. } => (".format".to_owned(), Some(found)),
        DataError::UnknownColumn { found, .. } => (format!(".columns.{found}"), None),
        DataError::BadSetting { path, setting, .. } => {
            let mut of_path = inputs.iter().filter(|input| input.path.ends_with(path));
            let source = of_path.find_map(|input| input.setting.strip_suffix(".path"))?;
            return Some(format!("{source}.{setting}"));
        }
        _ => return None,
    };
    let recipe = Value::Table(toml::from_str(text).ok()?);
    let sources = inputs.iter().filter_map(|input| input.setting.strip_suffix(".path"));
    sources.map(|source| format!("{source}{suffix}")).find(|key| {
        let typed =
            overrides.iter().rev().find_map(|typed| typed.strip_prefix(key.as_str())?.strip_prefix('='));
        match (typed, value_at(&recipe, key), value) {
            (typed, found, None) => typed.is_some() || found.is_some(),
            (Some(typed), _, Some(value)) => typed.trim().trim_matches('"') == value,
            (None, Some(found), Some(value)) => found.as_str().is_some_and(|found| found == value),
            (None, None, Some(_)) => false,
        }
    })
}

/// The value of a setting, which has dots between keys and indices.
fn value_at<'a>(recipe: &'a Value, setting: &str) -> Option<&'a Value> {
    setting.split('.').try_fold(recipe, |value, key| match value {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        value => value.get(key),
    })
}

/// Whether a path ends with the name of a data set.
fn names_data_set(path: &Path, reference: &str) -> bool {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let names = (2..=parts.len()).map(|n| parts[parts.len() - n..].join("/"));
    names.filter_map(|name| DatasetReference::parse(&name)).any(|found| found.to_string() == reference)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn files_and_data_sets_are_named_with_their_setting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        let text = "stage = \"sft\"\nchat_template = \"none.jinja\"\n\n[[data]]\npath = \"org/chat:dev\"\n";
        fs::write(&path, text).unwrap();
        let recipe = RecipeArguments { recipe: path.clone(), overrides: Vec::new() };
        let input = |setting: &str, path: &str| InputSetting {
            setting: setting.into(),
            path: path.into(),
            name_decides: true,
        };
        let inputs = [input("chat_template", "data/none.jinja"), input("data.0.path", "data/org/chat:dev")];
        let placed = |error: anyhow::Error| at_its_place(error, &inputs, &recipe).to_string();
        let missing = |path: &str| {
            let source = Error::from(ErrorKind::NotFound);
            anyhow::Error::from(StageError::from(RunError::Read { path: path.into(), source }))
        };
        let found = placed(missing("none.jinja"));
        let start = format!("{}:2: `chat_template`: none.jinja: cannot be read", path.display());
        assert!(found.starts_with(&start), "{found}");
        let reference = DatasetReference::parse("org/chat:dev").unwrap().to_string();
        let found = placed(ModelError::DatasetNotFound { reference, looked_at: Vec::new() }.into());
        let start =
            format!("{}:5: `data.0.path`: data set `org/chat:dev@main` was not found", path.display());
        assert!(found.starts_with(&start), "{found}");
        assert_eq!(placed(missing("other.jinja")), "other.jinja: cannot be read");
    }

    #[test]
    fn formats_and_columns_of_sources_are_named_with_their_setting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        let text = "stage = \"sft\"\n[[data]]\npath = \"a\"\nformat = \"text\"\nweight = 0.0\n[[data]]\npath = \"b\"\n\
                    format = \"alpaka\"\ncolumns = { promt = \"question\" }\n";
        fs::write(&path, text).unwrap();
        let input = |setting: &str| InputSetting {
            setting: setting.into(),
            path: "data/a".into(),
            name_decides: true,
        };
        let inputs = [input("model_name_or_path"), input("data.0.path"), input("data.1.path")];
        let placed = |error: DataError, typed: &[&str]| {
            let overrides = typed.iter().map(ToString::to_string).collect();
            let recipe = RecipeArguments { recipe: path.clone(), overrides };
            at_its_place(StageError::from(RunError::Data(error)).into(), &inputs, &recipe).to_string()
        };
        let format = |found: &str| {
            let (found, known) = (found.to_owned(), "text, alpaca".to_owned());
            DataError::UnknownFormat { found, nearest: Some("alpaca"), known }
        };
        let start = format!("{}:8: `data.1.format`: unknown format `alpaka`; ", path.display());
        let found = placed(format("alpaka"), &[]);
        assert!(found.starts_with(&start), "{found}");
        let found = placed(format("txt"), &["data.0.format=txt"]);
        assert!(
            found.starts_with("--set data.0.format=txt: `data.0.format`: unknown format `txt`; "),
            "{found}"
        );
        let column = DataError::UnknownColumn {
            format: "prompt_completion",
            found: "promt".into(),
            nearest: Some("prompt"),
            known: "prompt, completion".into(),
        };
        let start =
            format!("{}:9: `data.1.columns.promt`: format `prompt_completion` has no ", path.display());
        let found = placed(column, &[]);
        assert!(found.starts_with(&start), "{found}");
        let reason = "is 0; expected a number above 0".to_owned();
        let found = placed(DataError::BadSetting { path: "a".into(), setting: "weight", reason }, &[]);
        let start = format!("{}:5: `data.0.weight`: source `a`: `weight` is 0; ", path.display());
        assert!(found.starts_with(&start), "{found}");
        let found = placed(format("other"), &[]);
        assert!(found.starts_with("unknown format `other`; "), "a format from elsewhere: {found}");
    }
}
