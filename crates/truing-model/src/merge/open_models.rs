//! The models of a merge, opened.

use std::path::Path;

use super::MergeError;
use crate::{ModelFiles, ModelKind};

/// Models by their references, each opened once.
#[derive(Default)]
pub(super) struct OpenModels {
    pub(super) references: Vec<(String, Option<String>)>,
    pub(super) models: Vec<ModelFiles>,
}

impl OpenModels {
    /// The number of a model, which is opened where it is not yet.
    pub(super) fn index(&mut self, model: &str, adapter: Option<&str>) -> Result<usize, MergeError> {
        let reference = (model.to_owned(), adapter.map(str::to_owned));
        if let Some(known) = self.references.iter().position(|known| *known == reference) {
            return Ok(known);
        }
        if Path::new(model).extension().is_some_and(|extension| extension == "gguf") {
            return Err(MergeError::Gguf { path: model.into() });
        }
        let files = match adapter {
            None => ModelFiles::open(Path::new(model))?,
            Some(adapter) => ModelFiles::open_adapter_on(Path::new(adapter), Path::new(model))?,
        };
        if files.kind == ModelKind::Gguf {
            return Err(MergeError::Gguf { path: files.base_path().to_path_buf() });
        }
        self.references.push(reference);
        self.models.push(files);
        Ok(self.models.len() - 1)
    }
}
