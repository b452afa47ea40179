//! Which tokenizer and chat template the merged model gets, and how rows of the embeddings are matched for it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::check::invalid;
use super::vocabulary::{RowMaps, Vocabulary};
use super::{MergeError, MergeRecipe};
use crate::{ModelError, ModelFiles, tokenizer_files};

/// The default chat template's file.
const TEMPLATE: &str = "chat_template.jinja";

/// What was chosen.
pub(super) struct Tokenizers {
    pub(super) rows: RowMaps,
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// The model whose special tokens count.
    pub(super) origin: usize,
}

impl Tokenizers {
    pub(super) fn choose(
        recipe: &MergeRecipe,
        models: &[ModelFiles],
        references: &[(String, Option<String>)],
        base: usize,
        remarks: &mut Vec<String>,
    ) -> Result<Self, MergeError> {
        let n_rows = |model: usize| models[model].spec.vocab_size;
        if recipe.tokenizer.as_deref() == Some("none") {
            if let Some(other) = (0..models.len()).find(|&model| n_rows(model) != n_rows(base)) {
                return Err(MergeError::Unequal {
                    path: models[other].path.clone(),
                    field: "vocab_size",
                    found: n_rows(other).to_string(),
                    other: models[base].path.clone(),
                    expected: n_rows(base).to_string(),
                });
            }
            let rows = RowMaps { n_rows: n_rows(base), of_model: vec![None; models.len()] };
            return Ok(Self { rows, files: Vec::new(), origin: base });
        }
        let vocabularies: Vec<Vocabulary> = models
            .iter()
            .map(|model| Vocabulary::read(&tokenizer_folder(model)))
            .collect::<Result<_, _>>()?;
        for (model, vocabulary) in models.iter().zip(&vocabularies) {
            if vocabulary.n_ids() > model.spec.vocab_size {
                remarks.push(format!(
                    "{}: the tokenizer has ids up to {}, the embedding {} rows; tokens without a row count as missing",
                    model.path.display(),
                    vocabulary.n_ids() - 1,
                    model.spec.vocab_size
                ));
            }
        }
        let with_rows: Vec<(&Vocabulary, usize)> =
            vocabularies.iter().enumerate().map(|(model, vocabulary)| (vocabulary, n_rows(model))).collect();
        let matched = |merged: &Vocabulary, origin: usize| {
            let n_rows = n_rows(origin).max(merged.n_ids());
            RowMaps::new(merged, n_rows, &with_rows, base)
        };
        match recipe.tokenizer.as_deref() {
            None => {
                for (model, vocabulary) in vocabularies.iter().enumerate() {
                    let rows = || format!("{} and {} rows of the embedding", n_rows(base), n_rows(model));
                    let difference = vocabularies[base].difference(vocabulary);
                    if let Some(difference) =
                        difference.or_else(|| (n_rows(model) != n_rows(base)).then(rows))
                    {
                        let [first, second] = [base, model].map(|model| models[model].path.clone());
                        return Err(MergeError::UnequalVocabularies { first, second, difference });
                    }
                }
                let rows = RowMaps { n_rows: n_rows(base), of_model: vec![None; models.len()] };
                Ok(Self { rows, files: tokenizer_files(&vocabularies[base].folder, &[])?, origin: base })
            }
            Some("union") => {
                let others: Vec<&Vocabulary> = vocabularies.iter().collect();
                let union = vocabularies[base].union(&others)?;
                let files = union.files(tokenizer_files(&vocabularies[base].folder, &[])?);
                Ok(Self { rows: matched(&union, base), files, origin: base })
            }
            Some(name) => {
                let origin = if name == "base" {
                    base
                } else {
                    model_of(name, references, "tokenizer", &["base", "union", "none"])?
                };
                let files = tokenizer_files(&vocabularies[origin].folder, &[])?;
                Ok(Self { rows: matched(&vocabularies[origin], origin), files, origin })
            }
        }
    }
}

fn model_of(
    name: &str,
    references: &[(String, Option<String>)],
    key: &str,
    others: &[&str],
) -> Result<usize, MergeError> {
    let known = references.iter().position(|(model, adapter)| adapter.as_deref().unwrap_or(model) == name);
    known.ok_or_else(|| {
        let models = references.iter().map(|(model, adapter)| adapter.as_deref().unwrap_or(model));
        let nearest = truing_types::nearest_name(name, others.iter().copied().chain(models));
        let hint = nearest.map_or_else(String::new, |nearest| format!(" (nearest: `{nearest}`)"));
        let others = others.iter().map(|other| format!("\"{other}\"")).collect::<Vec<_>>().join(", ");
        invalid(format!("`{key}` is `{name}`{hint}, expected {others} or one of the models"))
    })
}

/// The default chat template of a model's folder.
fn template_of(folder: &Path) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(folder.join(TEMPLATE)) {
        return Some(text);
    }
    let config = std::fs::read(folder.join("tokenizer_config.json")).ok()?;
    let config: Map<String, Value> = serde_json::from_slice(&config).ok()?;
    match config.get("chat_template")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            let default =
                named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
            Some(default?.get("template")?.as_str()?.to_owned())
        }
        _ => None,
    }
}

/// The folder whose tokenizer an open model has.
fn tokenizer_folder(model: &ModelFiles) -> PathBuf {
    model.tokenizer_directory().map_or_else(|| model.path.clone(), Path::to_path_buf)
}

/// The chat template that a recipe asks for, as a file of the merged model. It outranks one inside tokenizer_config.json.
pub(super) fn template_file(
    asked: &str,
    models: &[ModelFiles],
    references: &[(String, Option<String>)],
) -> Result<(String, Vec<u8>), MergeError> {
    let of_model = |model: usize| template_of(&tokenizer_folder(&models[model]));
    let text = if asked == "auto" {
        let templates: Vec<String> = (0..models.len()).filter_map(of_model).collect();
        let votes = |template: &String| templates.iter().filter(|other| *other == template).count();
        // Of equally frequent ones the first.
        let most = templates.iter().map(votes).max();
        let chosen = templates.iter().find(|template| Some(votes(template)) == most).cloned();
        chosen.ok_or_else(|| {
            invalid("`chat_template` is \"auto\", and none of the models has a chat template")
        })?
    } else if Path::new(asked).is_file() {
        let path = Path::new(asked);
        std::fs::read_to_string(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?
    } else if asked.contains("{%") || asked.contains("{{") {
        asked.to_owned()
    } else {
        let model = model_of(asked, references, "chat_template", &["auto"])
            .map_err(|error| invalid(format!("{error}, or a file with a template")))?;
        of_model(model).ok_or_else(|| {
            invalid(format!(
                "`chat_template` is {}, which has no chat template",
                models[model].path.display()
            ))
        })?
    };
    Ok((TEMPLATE.to_owned(), text.into_bytes()))
}
