//! Where in a recipe an error comes from.

use std::fs;
use std::path::Path;

use truing_model::ModelError;
use truing_model::sources::DatasetReference;
use truing_run::AsRunError as _;
use truing_run::recipe::{InputSetting, place_of};
use truing_stages::{RunError, StageError};

use super::stage::RecipeArguments;
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
    let named = match (of_stage, error.downcast_ref::<ModelError>()) {
        (_, Some(ModelError::DatasetNotFound { reference, .. })) => {
            inputs.iter().find(|input| names_data_set(&input.path, reference))
        }
        (Some(of_run), _) => of_run
            .unread_path()
            // The settings of files that are no data have the data's folder before theirs.
            .and_then(|path| inputs.iter().find(|input| input.path.ends_with(path))),
        (None, _) => None,
    };
    match named {
        Some(InputSetting { setting, .. }) => {
            anyhow::anyhow!("{}: `{setting}`: {}", place(setting), one_sentence(&error))
        }
        None => error,
    }
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
}
